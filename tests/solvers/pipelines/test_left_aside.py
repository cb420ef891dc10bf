"""What the turns of a pipeline's loop leave aside is refused by name, and never silently without effect."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from pipelines.build import BETAS, scheduler
from pipelines.case import built, single
from pipelines.parity import CASES, FIXED, REFUSED, found_of
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import DiffusersPipeline, from_diffusers
from pullback.solvers.pipelines.variables import LoopVariables
from pullback.solvers.process import as_time

ALL = {case.name: case for case in CASES}
QUICK = ("sd_img2img", "controlnet")
STARTS = ("sd_img2img", "sdxl_img2img", "sd3_img2img", "flux_img2img")


@pytest.fixture
def img2img() -> Iterator[DiffusersPipeline]:
    with single():
        yield found_of(ALL["sd_img2img"], built(ALL["sd_img2img"]))


@pytest.fixture
def uncalled() -> Iterator[None]:
    """The network of a turn is not called."""

    def called(*args: Any) -> None:
        raise AssertionError("the network was called")

    hook = built(ALL["sd_img2img"]).unet.register_forward_pre_hook(called)
    yield
    hook.remove()


def other(value: Any) -> Any:
    """The argument with other numbers; None where there are none in it."""
    if isinstance(value, list):
        found = [other(each) for each in value]
        return None if any(each is None for each in found) else found
    return 1 - value if isinstance(value, Tensor) and value.is_floating_point() else None


def turns(found: DiffusersPipeline, x: Tensor, cond: Any = None) -> Tensor:
    """What the turns hand on, at every time of the plan."""
    times = dict.fromkeys(as_time(found.plan.times)[:-1].tolist())
    return torch.stack([found.model(x, torch.full((len(x),), t), cond) for t in times])


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow)
    for case in CASES if (case.name, "") not in REFUSED
], ids=str)  # fmt: skip
def test_refused_are_those_that_change_nothing(case: Any):
    """Of all tensors of all families' calls; that nothing is changed is asked of the turns themselves."""
    with single(), torch.no_grad():
        pipe = built(case)
        found = found_of(case, pipe)
        x = found.draw()
        before = turns(found, x)
        for name, value in case.call(pipe).items():
            changed = other(value)
            if changed is None or name in found.cond or name in (FIXED.get(case.name), "mask_image"):
                continue
            with mock.patch.object(LoopVariables, "_aside", lambda *given: ""):
                same = torch.equal(turns(found, x, {name: changed}), before)
            found = found_of(case, pipe)  # nothing kept
            try:
                assert not torch.equal(turns(found, x, {name: changed}), before) and not same
            except ValueError as refused:
                assert same and f"cond: got {name}=" in str(refused), refused
                assert f"from_diffusers(pipe, {name}=...)" in str(refused)


@pytest.mark.usefixtures("uncalled")
@pytest.mark.parametrize("asking", [False, True])
def test_an_image_that_only_starts_the_loop(img2img: DiffusersPipeline, asking: bool):
    image = torch.rand(2, 3, 16, 16).requires_grad_(asking)
    for _ in range(2):  # what is kept of the first time refuses too
        with pytest.raises(
            ValueError, match=r"got image=a tensor .*enters only the start.*found.encode\(image\)"
        ):
            sample(img2img.model, img2img.plan, img2img.draw(), cond={**img2img.cond, "image": image})


@pytest.mark.usefixtures("uncalled")
def test_an_image_that_only_starts_the_loop_in_transforms(img2img: DiffusersPipeline):
    x, t = img2img.draw(), torch.full((2,), as_time(img2img.plan.times)[0].item())
    with pytest.raises(ValueError, match="got image=.*enters only the start"):
        torch.func.grad(lambda image: img2img.model(x, t, {"image": image}).sum())(torch.rand(2, 3, 16, 16))


@pytest.mark.usefixtures("uncalled")
def test_an_image_that_was_given_and_requires_grad():
    case = ALL["sd_img2img"]
    with single():
        image = torch.rand(2, 3, 16, 16, requires_grad=True)
        found = from_diffusers(built(case), 4, **{**case.call(built(case)), "image": image})
        match = "^from_diffusers: got image=.*requires grad, which enters only the start.*detached, and take found.enc"
        with pytest.raises(ValueError, match=match):
            sample(found.model, found.plan, found.draw())


@pytest.mark.usefixtures("uncalled")
def test_a_generator(img2img: DiffusersPipeline):
    with pytest.raises(ValueError, match=r"got generator=a Generator.*found.draw\(generator\)"):
        sample(
            img2img.model, img2img.plan, img2img.draw(), cond={"generator": torch.Generator().manual_seed(5)}
        )


@pytest.mark.usefixtures("uncalled")
def test_a_prompt_in_words(img2img: DiffusersPipeline):
    match = r"got prompt='a dog', expected embeddings.*cond=found.encode_prompt\(prompt='a dog'\)"
    with pytest.raises(ValueError, match=match):
        sample(img2img.model, img2img.plan, img2img.draw(), cond={"prompt": "a dog"})


def test_what_was_given_before_is_no_fault(img2img: DiffusersPipeline):
    case = ALL["sd_img2img"]
    image = case.call(built(case))["image"]
    with torch.no_grad():
        x = img2img.draw()
        again = sample(img2img.model, img2img.plan, x, cond={"image": image.clone()})
        assert torch.equal(again, sample(img2img.model, img2img.plan, x))


def test_a_number_that_does_as_another_within_a_step():
    """The window of a ControlNet opens with a step: two numbers between steps are one."""
    case = ALL["sdxl_controlnet"]
    with single(), torch.no_grad():
        found = found_of(case, built(case))
        x, t = found.draw(), torch.full((2,), as_time(found.plan.times)[0].item())
        told = case.call(built(case))["control_guidance_start"]
        within = found.model(x, t, {"control_guidance_start": 0.9 * told})
        assert torch.equal(within, found.model(x, t))


def test_a_number_that_no_turn_computes_with():
    """The guidance scale of a Flux that is not told one."""
    case = ALL["flux_true_cfg"]
    with single(), torch.no_grad():
        found = found_of(case, built(case))
        with pytest.raises(
            ValueError, match="got guidance_scale=2.5, which no turn computes with in FluxPipeline"
        ):
            found.model(found.draw(), torch.full((2,), 0.5), {"guidance_scale": 2.5})


def started(found: DiffusersPipeline, picture: Tensor, seed: int) -> Tensor:
    """The recipe of the page: the latents' code and the noise, one after the other from a generator."""
    generator = torch.Generator().manual_seed(seed)
    z = found.encode(picture, generator)
    pipe = found.loops.pipe
    if hasattr(pipe, "_pack_latents"):  # draws before it packs
        whole = (len(z), pipe.vae.config.latent_channels, 8, 8)
        noise = pipe._pack_latents(torch.randn(whole, generator=generator, dtype=z.dtype), *whole)
    else:
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
    t = as_time(found.plan.times)[0]
    return found.process.alpha(t).to(z) * z + found.process.sigma(t).to(z) * noise


@pytest.mark.parametrize("name", [pytest.param(each, marks=() if each == "sd_img2img" else pytest.mark.slow)
                                  for each in STARTS])  # fmt: skip
def test_the_recipe_is_the_pipelines_own_start(name: str):
    case = ALL[name]
    with single(), torch.no_grad():
        found = found_of(case, built(case))
        image = case.call(built(case))["image"]
        own = found.draw(torch.Generator().manual_seed(7))
        assert (started(found, 2 * image - 1, 7) - own).abs().max() < 1e-5 * own.abs().max()


def test_the_image_s_gradient_by_the_recipe():
    """Of the pipeline's own latents, by finite differences in float64, with a scheduler that keeps to it."""
    case = ALL["sd_img2img"]
    with single():
        pipe = case.build().to(torch.float64)
        pipe.scheduler = scheduler("DDIM", **BETAS, clip_sample=False, steps_offset=1)
        call = {k: v.double() if isinstance(v, Tensor) else v for k, v in case.call(pipe).items()}
        found = from_diffusers(pipe, 4, **call)
        image, along = call["image"].clone().requires_grad_(), torch.randn(2, 3, 16, 16, dtype=torch.float64)

        def theirs(step: float) -> float:
            told = {**call, "image": image.detach() + step * along, "num_inference_steps": 4}
            latents = pipe(**told, generator=torch.Generator().manual_seed(7), output_type="latent").images
            return float(latents.square().mean())

        end = sample(found.model, found.plan, started(found, 2 * image - 1, 7)).square().mean()
        assert abs(end.item() - theirs(0.0)) < 1e-9 * abs(end.item())
        (gradient,) = torch.autograd.grad(end, image)
        wiggled = (theirs(1e-4) - theirs(-1e-4)) / 2e-4
        assert abs(float((gradient * along).sum()) - wiggled) < 1e-5 * abs(wiggled)


def test_the_pipeline_shows_itself_in_a_line(img2img: DiffusersPipeline):
    """Its kind, scheduler and steps; in a cell what stands for its prompts too; of tensors no numbers."""
    line = repr(img2img)
    assert line == str(img2img) and len(line) < 130 and "\n" not in line
    for word in (
        "DiffusersPipeline",
        "StableDiffusionImg2Img",
        "PNDM",
        "4 steps",
        f"{img2img.plan.nfe} network calls",
    ):
        assert word in line
    cells = img2img._repr_html_()
    assert "prompt_embeds" in cells and "(2, 5, 8) float32 cpu" in cells and "tensor(" not in cells
