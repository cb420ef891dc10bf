"""A loss on a pipeline's picture: its gradient at all that enters, and what is optimised by it.

Tiny random networks make no pictures of anything. What is asked of them has a meaning all the same: the low-pass of
another sample's picture, its brightness, the mean of a colour.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pipelines.case import PipelineCase, asking, leaves, reference, single, start
from pipelines.pictures import FAMILIES, tiny
from torch import Tensor

from pullback.adjoint import Checkpoint, Continuous, Direct, Gradient, Mechanism, Reversible, sample
from pullback.guidance import Brightness, Downsample, Over, Preprocess, adam, best_of, dno, optimise, reno
from pullback.solvers import BDIA, DDIM, Addressed
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

EXACT = {
    "direct": Direct(),
    "checkpoint": Checkpoint(mechanism=Mechanism.TRAJECTORY),
    "regions": Checkpoint(mechanism=Mechanism.REGION),
    "budget": Checkpoint(memory_budget=9_000_000),
}


def adapted(case: PipelineCase, dtype: torch.dtype) -> tuple[Any, list[Tensor]]:
    """A pipeline of its own with a LoRA on its network, none of whose matrices is zero; the adapter's weights."""
    from peft import LoraConfig

    with single():
        pipe = case.build()
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
        found = [weight for name, weight in pipe.unet.named_parameters() if "lora" in name]
        for k, weight in enumerate(found):
            drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(k))
            weight.data = 0.3 * drawn / weight.shape[1] ** 0.5
    pipe.to(dtype)
    for name, weight in pipe.unet.named_parameters():
        weight.requires_grad_("lora" in name)
    return pipe, found


def loss(picture: Tensor) -> Tensor:
    """How far its low-pass is from a ramp, (B,)."""
    seen = Downsample(4).A(picture)
    ramp = torch.linspace(-1, 1, seen[0].numel()).to(seen).reshape(seen.shape[1:])
    return (seen - ramp).square().flatten(1).sum(1)


@functools.cache
def by_its_own_loop(name: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any], list[Tensor], list[Tensor]]:
    """The pipeline, its call, what is differentiated, and its gradient by autograd through its own loop and VAE."""
    case = FAMILIES[name]
    pipe, weights = adapted(case, dtype)
    call = asking(case, pipe)
    call["guidance_scale"] = torch.tensor(3.0, dtype=dtype, requires_grad=True)
    noise = start(pipe, case).requires_grad_()
    asked = [noise, *leaves(case, call), call["guidance_scale"], *weights]
    given = {key: call[key] for key in (*case.cond, "guidance_scale")}
    latents = reference(pipe, case, noise, grad=True, **given)
    picture = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return pipe, given, asked, list(torch.autograd.grad(loss(picture).sum(), asked))


def error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize(
    "name, dtype, within",
    [("sd15", torch.float64, 1e-9), ("controlnet", torch.float64, 1e-9), ("sdxl", torch.float32, 1e-4)],
)
def test_the_gradient_is_that_of_the_pipelines_own_loop(name, dtype, within, strategy):
    pipe, given, asked, wanted = by_its_own_loop(name, dtype)
    case = FAMILIES[name]
    with single():
        found = from_diffusers(pipe, case.steps, **case.call(pipe))
    x = found.start(asked[0])
    latents = sample(found.model, found.plan, x, cond=given, gradient=EXACT[strategy])
    picture = found.decode(latents, checkpoint=strategy != "direct")
    assert error(torch.autograd.grad(loss(picture).sum(), asked), wanted) < within


def gradients(found: DiffusersPipeline, plan: Any, strategy: Gradient) -> list[Tensor]:
    x = found.draw(torch.Generator().manual_seed(3)).requires_grad_()
    cond = {name: value.detach().clone().requires_grad_() for name, value in found.cond.items()}
    latents = sample(found.model, plan, x, cond=cond, gradient=strategy)
    return list(torch.autograd.grad(loss(found.decode(latents)).sum(), [x, *cond.values()]))


def test_a_reversible_plan_on_a_pipeline_keeps_two_states_and_the_gradient():
    found = tiny("sd15", 6)
    plan = BDIA().plan(found.process, torch.tensor(found.plan.times))
    wanted = gradients(found, plan, Direct())
    assert error(gradients(found, plan, Reversible()), wanted) < 1e-9


@pytest.mark.slow
def test_the_continuous_gradient_is_close_to_the_loops():
    """Closer with more steps, as both approach the gradient of the flow."""
    far = []
    for steps in (8, 32):
        found = tiny("sd15", steps)
        plan = DDIM().plan(found.process, torch.tensor(found.plan.times))
        far.append(error(gradients(found, plan, Continuous()), gradients(found, plan, Direct())))
    assert far[0] < 0.3 and far[1] < far[0] / 2


def test_a_plan_from_unit_noise_is_the_plan():
    found = tiny("sdxl", 3, scheduler="EulerDiscrete")
    z = (found.draw() / found.scheduler.scale).requires_grad_()
    assert found.scheduler.scale > 2 and float(z.detach().std()) == pytest.approx(1, abs=0.1)
    ours, given = found.unit_plan, found.start(z)
    for strategy in EXACT.values():
        a = sample(found.model, ours, z, gradient=strategy)
        b = sample(found.model, found.plan, given, gradient=strategy)
        slopes = [
            torch.autograd.grad(loss(found.decode(each)).sum(), z, retain_graph=True)[0] for each in (a, b)
        ]
        assert torch.allclose(a, b, rtol=1e-12) and torch.allclose(*slopes, rtol=1e-9)
    assert [len(ours.step(k)) - len(found.plan.step(k)) for k in range(3)] == [1, 0, 0]
    assert tiny("sd15", 8).unit_plan is tiny("sd15", 8).plan


# what is optimised
# ----------------------------------------------------------------------------------------------------------

BRIGHT = Brightness()


def darkness(found: DiffusersPipeline, weight: float = 100.0) -> Callable[[Tensor], Tensor]:
    """-weight times the brightness of the picture."""
    return lambda x: -weight * BRIGHT(found.decode(x))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_reno_raises_a_reward_of_the_picture(steps):
    """Beyond the best of as many samples as it cost calls and VJPs."""
    found = tiny("sdxl", steps, scheduler="EulerDiscrete", guidance_scale=1.0)
    scale = found.scheduler.scale
    z = found.draw(torch.Generator().manual_seed(0)) / scale
    result = reno(found.model, found.unit_plan, darkness(found, 2.0), z, steps=20, progress=False)
    tried = scale * torch.randn(2, 60, *z.shape[1:], generator=torch.Generator().manual_seed(9))
    assert result.nfe + result.vjps <= 61 * steps
    rival = best_of(found.model, found.plan, tried, lambda x, context: BRIGHT(found.decode(x)))
    assert (BRIGHT(found.decode(result.sample)) > BRIGHT(found.decode(rival))).all()
    assert ((result.x.flatten(1).norm(dim=1) / 16 - 1).abs() < 0.15).all()  # still noise by its norm


@pytest.mark.slow
def test_dno_raises_a_reward_of_the_picture():
    """Of a sampler that draws at each step."""
    found = tiny("sdxl", 4, scheduler="EulerAncestralDiscrete", guidance_scale=1.0)
    z = found.draw(torch.Generator().manual_seed(0)) / found.scheduler.scale
    noise = Addressed(1)
    before = BRIGHT(found.decode(sample(found.model, found.unit_plan, z, noise=noise, gradient=None)))
    result = dno(found.model, found.unit_plan, darkness(found), z, noise, steps=15, progress=False)
    after = BRIGHT(found.decode(result.sample))
    assert result.noise.shape == (found.plan.slots, *z.shape)
    assert (after > before + 0.05).all()


MOVED = [
    ("sdxl", "prompt_embeds"),
    ("sdxl", "pooled_prompt_embeds"),
    ("sdxl", "guidance_scale"),
    ("controlnet", "image"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, moved", MOVED, ids=lambda part: part)
def test_conditioning_is_optimised_for_the_picture(name, moved):
    """Further than by three in four random moves of that length, where there are ways to choose from."""
    found = tiny(name, 3)
    x = found.draw(torch.Generator().manual_seed(0))
    given = torch.as_tensor(found.loops.arguments[moved], dtype=torch.float64)
    dark = darkness(found)
    over = Over(x=False, cond=True, cond_rows=given.ndim > 0)
    how = {"over": over, "optimiser": adam(0.1), "steps": 10, "progress": False}
    result = optimise(found.model, found.plan, dark, x, cond={moved: given}, **how)

    def reached(value: Tensor) -> Tensor:
        return dark(sample(found.model, found.plan, x, cond={moved: value}, gradient=None))

    assert torch.allclose(reached(result.cond[moved]), result.loss, rtol=1e-9) and torch.equal(result.x, x)
    assert (result.loss < result.losses[0]).all()
    if given.ndim:  # a number can move two ways only
        other = torch.randn(8, *given.shape, generator=torch.Generator().manual_seed(1))
        length = (result.cond[moved] - given).flatten(1).norm(dim=1) / other.flatten(2).norm(dim=2)
        moves = other * length.reshape(*length.shape, *(1,) * (given.ndim - 1))
        rivals = torch.stack([reached(given + move) for move in moves])
        assert ((result.loss < rivals).sum(0) >= 6).all()


@pytest.mark.slow
def test_lora_weights_are_optimised_for_the_picture():
    pipe, weights = adapted(FAMILIES["sdxl"], torch.float64)
    found = from_diffusers(pipe, 3, **FAMILIES["sdxl"].call(pipe))
    x = found.draw(torch.Generator().manual_seed(0))
    frozen = pipe.unet.conv_in.weight.clone()
    result = optimise(
        found.model,
        found.plan,
        darkness(found),
        x,
        over=Over(x=False, parameters=True),
        steps=8,
        progress=False,
    )
    assert result.losses[0].sum() - result.loss.sum() > 1 and torch.equal(pipe.unet.conv_in.weight, frozen)
    assert torch.allclose(
        darkness(found)(sample(found.model, found.plan, x, gradient=None)), result.loss, rtol=1e-9
    )


def test_half_precision_networks_take_a_wider_state():
    """bfloat16 networks and VAE, float32 state and gradient: picture and slope are near those of float32."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        with single():
            pipe = FAMILIES["sd15"].build().to(dtype)
        one = from_diffusers(pipe, 3, **FAMILIES["sd15"].call(pipe))
        x = start(pipe, FAMILIES["sd15"]).float().requires_grad_()
        picture = one.decode(sample(one.model, one.plan, x)).float()
        slope = torch.autograd.grad(loss(picture).sum(), x)[0]
        assert slope.dtype == torch.float32
        found[dtype] = (picture.detach(), slope)
    for wide, half in zip(*found.values(), strict=True):
        assert (wide - half).norm() < 0.1 * wide.norm()


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_rewards_are_shown_the_pictures_in_the_range_they_take(name):
    """What the pipeline hands out lies in [0, 1], and is clamped; `decode` is in [-1, 1], as rewards suppose."""
    found, case = tiny(name, 3, None), FAMILIES[name]
    pipe = found.loops.pipe
    x = found.draw(torch.Generator().manual_seed(0))
    noise = x / found.scheduler.scale
    made = pipe(**case.call(pipe), latents=noise, num_inference_steps=3, output_type="pt").images
    picture = found.decode(sample(found.model, found.plan, x, gradient=None)).clamp(-1, 1)
    assert torch.allclose(Brightness()(picture), Brightness(low=0.0)(made.to(picture)), atol=1e-5)
    shown, wanted = Preprocess(size=8)(picture), Preprocess(size=8, low=0.0, high=1.0)(made.to(picture))
    assert torch.allclose(shown, wanted, atol=1e-5)
