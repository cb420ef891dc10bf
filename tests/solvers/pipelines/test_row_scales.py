"""A guidance scale for each sample: every row is the pipeline run alone with its scale, or the call is refused."""

import inspect
from typing import Any

import pytest
import torch
from pipelines.case import PipelineCase, built, single
from pipelines.parity import CASES, REFUSED, far
from torch import Tensor

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import Addressed, DiffusersPipeline, from_diffusers

ALL = {case.name: case for case in CASES}
NAMES = ("guidance_scale", "true_cfg_scale", "pag_scale", "image_guidance_scale")
EMBEDDED = {"lcm", "sd_guidance_embedding", "hunyuan_video", "z_image", "flux_controlnet", "flux_control"}
EMBEDDED |= {"flux", "flux_img2img", "flux_fill", "flux_kontext", "flux_inpaint", "flux2", "flux_text"}
FAILS = ("prx",)  # guides one sample at a time by itself, whatever it is told
SCALES = (2.5, 6.0)


def opened(case: PipelineCase, pipe: Any = None, **changed: Any) -> DiffusersPipeline:
    pipe = built(case) if pipe is None else pipe
    call = {**case.call(pipe), **changed}
    return from_diffusers(pipe, case.steps, **call, generator=torch.Generator().manual_seed(0))


def end(found: DiffusersPipeline, x: Tensor | None = None, cond: Any = None, gradient: Any = None) -> Tensor:
    noise = Addressed(0) if found.plan.slots else None
    x = found.draw() if x is None else x
    return sample(found.model, found.plan, x, cond=cond, noise=noise, gradient=gradient)


def guided(case: PipelineCase) -> list[str]:
    takes = inspect.signature(inspect.unwrap(type(built(case)).__call__)).parameters
    return [name for name in NAMES if name in takes]


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case.name == "sd15" else pytest.mark.slow)
                                  for case in CASES if (case.name, "") not in REFUSED], ids=str)  # fmt: skip
def test_every_row_is_the_pipeline_with_its_scale(case: PipelineCase):
    with single(), torch.no_grad():
        for name in guided(case) if case.name not in FAILS else ():
            if name == "guidance_scale" and case.name in EMBEDDED:
                with pytest.raises(
                    ValueError, match="guidance_scale: got one for each of 2 samples, expected one for"
                ):
                    end(opened(case, guidance_scale=torch.tensor(SCALES)))
                continue
            rows = end(opened(case, **{name: torch.tensor(SCALES)}))
            for k, scale in enumerate(SCALES):
                assert far(rows[k], end(opened(case, **{name: scale}))[k]) < 1e-5, name


@pytest.mark.parametrize("strategy", ["checkpoint", pytest.param("direct", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["sd15", pytest.param("sd3", marks=pytest.mark.slow),
                                  pytest.param("pag", marks=pytest.mark.slow)])  # fmt: skip
def test_the_gradient_at_the_scales(name: str, strategy: str):
    """By finite differences in float64, and beside it that of one scale for all: their sum. As conditioning, and as an
    argument of `from_diffusers`.
    """
    case, by = ALL[name], {"checkpoint": Checkpoint(), "direct": Direct()}[strategy]
    with single():
        pipe = case.build().to(torch.float64)
    found = opened(case, pipe)
    x, scales, h = found.draw(), torch.tensor(SCALES, requires_grad=True), 1e-5 if name != "sd3" else 1e-2

    def loss(scale: Tensor) -> Tensor:
        strategy = by if torch.is_grad_enabled() else None
        return end(found, x, {"guidance_scale": scale}, strategy).square().sum()

    (gradient,) = torch.autograd.grad(loss(scales), scales)
    with torch.no_grad():
        for k in range(2):
            step = h * torch.eye(2)[k]
            difference = (loss(scales + step) - loss(scales - step)) / (2 * h)
            assert float(gradient[k]) == pytest.approx(float(difference), rel=1e-3 if name == "sd3" else 1e-6)
    one = torch.tensor(4.0, requires_grad=True)
    each = torch.full((2,), 4.0, requires_grad=True)
    summed = torch.autograd.grad(loss(one), one)[0], torch.autograd.grad(loss(each), each)[0].sum()
    assert far(*summed) < (1e-5 if name == "sd3" else 1e-12)
    given = opened(case, pipe, guidance_scale=scales)
    (again,) = torch.autograd.grad(end(given, x, gradient=by).square().sum(), scales)
    assert far(again, gradient) < 1e-9


@pytest.mark.slow
def test_several_samples_of_each_prompt_and_other_precisions():
    case = ALL["sd15"]
    with single(), torch.no_grad():
        found = opened(case, guidance_scale=torch.tensor(SCALES))
        x = found.draw(batch=4)  # two of each prompt: two of each scale
        rows = end(found, x)
        for k, scale in enumerate(SCALES):
            alone = end(opened(case), x, {"guidance_scale": scale})
            assert far(rows[2 * k : 2 * k + 2], alone[2 * k : 2 * k + 2]) < 1e-5
        four = end(found, x, {"guidance_scale": torch.tensor((1.5, 3.0, 4.5, 6.0))})
        for k, scale in enumerate((1.5, 3.0, 4.5, 6.0)):
            assert far(four[k], end(opened(case), x, {"guidance_scale": scale})[k]) < 1e-5
        half = case.build().to(torch.bfloat16)
        t, y = torch.full((2,), 501.0), opened(case, half).draw()
        rows = opened(case, half, guidance_scale=torch.tensor(SCALES)).model(y, t)
        for k, scale in enumerate(SCALES):
            assert torch.equal(rows[k], opened(case, half, guidance_scale=scale).model(y, t)[k])


def test_one_sample_guided_after_the_other_is_refused_at_any_number_of_channels():
    """Z-Image's products are of one sample, (C, 1, H, W): with as many samples as channels they would fit."""
    case = ALL["z_image"]
    with single(), torch.no_grad():
        call = {k: [*v, *v] if isinstance(v, list) else v for k, v in case.call(built(case)).items()}
        found = opened(case, **call | {"guidance_scale": torch.tensor((2.0, 3.0, 4.0, 5.0))})
        assert found.draw().shape[:2] == (4, 4)
        with pytest.raises(ValueError, match=r"tensor \(4, 1, 8, 8\), which is no product by sample"):
            end(found)


WRONG: dict[str, tuple[Any, str]] = {
    "guidance on for some": (
        (0.5, 3.0),
        "asks whether it is > 1, which some are and others are not; pass one number",
    ),
    "too many": (
        (2.0, 3.0, 4.0),
        r"guidance_scale: got \(3,\), expected one number, or one for each of 2 samples",
    ),
    "a matrix": (((2.0, 3.0), (4.0, 5.0)), r"guidance_scale: got \(2, 2\), expected one number"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused(wrong: str):
    scales, message = WRONG[wrong]
    with single(), torch.no_grad():
        found = opened(ALL["sd15"])
        with pytest.raises(ValueError, match=message):
            end(found, cond={"guidance_scale": torch.tensor(scales)})


def test_guidance_off_for_all():
    with single(), torch.no_grad():
        found = opened(ALL["sd15"])
        off = end(found, cond={"guidance_scale": torch.tensor((0.5, 1.0))})
        assert torch.equal(off, end(found, cond={"guidance_scale": 1.0}))
