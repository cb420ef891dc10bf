"""Editing with diffusers pipelines: against plain loops around their networks, their own image-to-image calls, and
round trips.
"""

import copy
from typing import Any

import pytest
import torch
from pipelines.case import BATCH, built, reference, single
from pipelines.image import CASES
from torch import Tensor

from pullback.adjoint import Checkpoint, Direct
from pullback.guidance import edit
from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    EDICT,
    OBELM,
    Addressed,
    OnProcess,
    RectifiedFlow,
    ReversibleHeun,
    Rising,
)
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

KNOWN = {case.name: case for case in CASES}
OLD, NEW = ["a red cat", "an owl at night"], ["a blue dog", "a duck by day"]
STEPS = 6
DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def of_text(
    name: str, dtype: torch.dtype = torch.float32, steps: int = STEPS, **call: Any
) -> DiffusersPipeline:
    """A pipeline told `OLD`, with a guidance scale of 3."""
    pipe = built(KNOWN[name])
    if dtype != torch.float32:
        pipe = copy.deepcopy(pipe).to(dtype)
    if name in ("sd3_text", "flux_text"):
        call["max_sequence_length"] = 20
    with single():
        return from_diffusers(pipe, steps, prompt=OLD, height=16, width=16, guidance_scale=3.0, **call)


def told(found: DiffusersPipeline, prompt: list[str], scale: float) -> dict[str, Tensor]:
    with single():
        return {**found.encode_prompt(prompt=prompt), "guidance_scale": torch.tensor(scale)}


def pictures(size: int = 16) -> Tensor:
    return (
        torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float32) * 2
        - 1
    )


def latents(found: DiffusersPipeline) -> Tensor:
    return found.encode(pictures())


def normal(like: Tensor, *slots: int) -> Tensor:
    return torch.randn(*slots, *like.shape, generator=torch.Generator().manual_seed(4), dtype=like.dtype)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# FlowEdit
# ------------------------------------------------------------------------------------------------------------------


def velocity_of_sd3(pipe: Any, x: Tensor, label: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """The network with classifier-free guidance, by hand."""
    out = pipe.transformer(
        hidden_states=torch.cat([x, x]),
        timestep=label.expand(2 * len(x)),
        encoder_hidden_states=torch.cat([cond["negative_prompt_embeds"], cond["prompt_embeds"]]),
        pooled_projections=torch.cat([cond["negative_pooled_prompt_embeds"], cond["pooled_prompt_embeds"]]),
    ).sample
    without, given = out.chunk(2)
    return without + cond["guidance_scale"] * (given - without)


def velocity_of_flux(pipe: Any, x: Tensor, label: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """The network with its scale embedded, by hand."""
    place = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)).to(x)
    return pipe.transformer(
        hidden_states=x,
        timestep=label.expand(len(x)) / 1000,
        guidance=cond["guidance_scale"].expand(len(x)),
        encoder_hidden_states=cond["prompt_embeds"],
        pooled_projections=cond["pooled_prompt_embeds"],
        img_ids=place,
        txt_ids=torch.zeros(20, 3).to(x),
    ).sample


VELOCITIES = {"sd3_text": velocity_of_sd3, "flux_text": velocity_of_flux}


def plain_flow_edit(
    name: str, found: DiffusersPipeline, image: Tensor, source: Any, target: Any, noise: Tensor, n_max: int
) -> Tensor:
    """Algorithm 1 of arXiv 2412.08629, on the scheduler's own sigmas and timesteps."""
    pipe, velocity = found.loops.pipe, VELOCITIES[name]
    scheduler = found.loops.opened(None).scheduler
    n_avg = len(noise) // n_max
    z = image
    for k, i in enumerate(range(n_max, 0, -1)):  # t_i falls with i
        t, label = scheduler.sigmas[-1 - i].to(image), scheduler.timesteps[-i]
        difference = torch.zeros_like(z)
        for n in noise[k * n_avg : (k + 1) * n_avg]:
            z_source = (1 - t) * image + t * n
            z_target = z + z_source - image
            difference = difference + velocity(pipe, z_target, label, target) / n_avg
            difference = difference - velocity(pipe, z_source, label, source) / n_avg
        z = z + (scheduler.sigmas[-i].to(image) - t) * difference
    return z


@pytest.mark.parametrize(("dtype", "most"), DTYPES, ids=str)
@pytest.mark.parametrize("name", VELOCITIES)
@pytest.mark.parametrize("n_avg", [1, 2])
def test_flow_edit_is_the_papers_loop(name, dtype, most, n_avg):
    """Two prompts and two guidance scales."""
    found = of_text(name, dtype)
    image, source, target = latents(found), told(found, OLD, 1.5), told(found, NEW, 5.5)
    noise = normal(image, 5 * n_avg)
    ours = edit.flow_edit(
        found.model, image, source=source, target=target, grid=found.grid, n_max=5, n_avg=n_avg, noise=noise
    )
    theirs = plain_flow_edit(name, found, image, source, target, noise, 5)
    assert ours.sample.dtype == dtype and ours.nfe == 10 * n_avg
    assert far(ours.sample, theirs) < most and far(ours.sample, image) > 0.1
    same = edit.flow_edit(
        found.model, image, source=source, target=source, grid=found.grid, n_max=5, noise=noise[:5]
    )
    assert torch.equal(same.sample, image)


def test_flow_edit_with_a_diffusion_by_its_flow():
    """Stable Diffusion by `OnProcess`: x/(alpha + sigma) = (1 - t) x0 + t eps at t = sigma/(alpha + sigma)."""
    found = of_text("sd15_text", torch.float64)
    pipe, image, source, target = (
        found.loops.pipe,
        latents(found),
        told(found, OLD, 1.5),
        told(found, NEW, 5.5),
    )
    alpha, sigma = (of(found.grid.values)[2:].tolist() for of in (found.process.alpha, found.process.sigma))
    t = [s / (a + s) for a, s in zip(alpha, sigma, strict=True)]
    labels, noise = found.scheduler.label(found.grid.values, found.process)[2:], normal(image, len(t) - 1)

    def velocity(k: int, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
        seen = (alpha[k] + sigma[k]) * x
        both = torch.cat([cond["negative_prompt_embeds"], cond["prompt_embeds"]])
        without, given = pipe.unet(torch.cat([seen, seen]), labels[k], both).sample.chunk(2)
        eps = without + cond["guidance_scale"] * (given - without)
        return eps - (seen - sigma[k] * eps) / alpha[k]

    z = image
    for k, n in enumerate(noise):
        noisy = (1 - t[k]) * image + t[k] * n
        change = velocity(k, z + noisy - image, target) - velocity(k, noisy, source)
        z = z + (t[k + 1] - t[k]) * change
    flow = OnProcess(found.model, RectifiedFlow())
    ours = edit.flow_edit(flow, image, source=source, target=target, grid=t, n_max=len(noise), noise=noise)
    assert far(ours.sample, z) < 1e-10 and far(z, image) > 0.1


@pytest.mark.parametrize("gradient", [Direct(), Checkpoint()], ids=str)
@pytest.mark.parametrize("name", VELOCITIES)
def test_gradients_of_an_edit_in_its_target(name, gradient):
    """In embeddings and, where it is no embedding itself, in the scale; against autograd through the plain loop."""
    found = of_text(name, torch.float64)
    image, source, target = latents(found), told(found, OLD, 1.5), told(found, NEW, 5.5)
    wanted = {k: v.requires_grad_() for k, v in target.items() if name == "sd3_text" or k != "guidance_scale"}
    noise = normal(image, 4)
    ours = edit.flow_edit(
        found.model,
        image,
        source=source,
        target=target,
        grid=found.grid,
        n_max=4,
        noise=noise,
        gradient=gradient,
    ).sample
    theirs = plain_flow_edit(name, found, image, source, target, noise, 4)
    both = [torch.autograd.grad(out.sin().sum(), list(wanted.values())) for out in (ours, theirs)]
    assert all(far(a, b) < 1e-10 and float(b.abs().max()) > 1e-3 for a, b in zip(*both, strict=True))


# RF-Inversion
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VELOCITIES)
def test_full_control_gives_the_image_back(name):
    """1e-7 of the latents, and the picture that they decode to, under another prompt."""
    found = of_text(name)
    image, source, target = latents(found), told(found, [""] * 2, 1.0), told(found, NEW, 5.5)
    back = edit.rf_inversion(found.model, image, source=source, target=target, eta=1.0, grid=found.grid)
    assert far(back.sample, image) < 1e-6
    assert far(found.decode(back.sample), found.decode(image)) < 1e-5
    half = edit.Schedule(0.9, stop=0.5)
    free = edit.rf_inversion(found.model, image, source=source, target=target, eta=half, grid=found.grid)
    assert far(free.sample, image) > 0.1


@pytest.mark.parametrize("name", VELOCITIES)
def test_without_control_the_way_back_is_the_pipeline(name):
    """eta = 0 and the source's prompt: the pipeline's own call from the latent."""
    found = of_text(name)
    image = latents(found)
    cond = dict(found.cond)
    out = edit.rf_inversion(found.model, image, source=cond, target=cond, gamma=0.0, eta=0.0, grid=found.grid)
    given = {"prompt": OLD, "guidance_scale": 3.0}
    theirs = reference(found.loops.pipe, KNOWN[name], out.latent, steps=STEPS, **given)
    assert far(out.sample, theirs) < 1e-5


def test_the_round_trip_without_control_is_of_first_order():
    errors = []
    for steps in (40, 160):
        found = of_text("flux_text", torch.float64, steps)
        image = latents(found)
        with torch.no_grad():
            out = edit.rf_inversion(
                found.model, image, source=None, target=None, gamma=0.0, eta=0.0, grid=found.grid
            )
        errors.append(float((out.sample - image).square().mean().sqrt()))
    assert 3 < errors[0] / errors[1] < 6, errors


@pytest.mark.parametrize("name", VELOCITIES)
def test_the_labels_on_the_way_up_are_the_schedulers(name):
    """Shifted, by mu for Flux: of each node where the step begins, 0 at the image."""
    found, seen = of_text(name), []
    factor = 1000 if name == "flux_text" else 1  # what Flux's loop divides by

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        seen.append(float(given["timestep"][0]) * factor)

    hook = found.loops.pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        edit.rf_inversion(found.model, latents(found), source=None, target=None, grid=found.grid)
    finally:
        hook.remove()
    labels = found.loops.opened(None).labels.tolist()
    assert seen[:STEPS] == pytest.approx([0.0, *labels[:0:-1]], rel=1e-6)
    assert seen[STEPS:] == pytest.approx(labels, rel=1e-6)
    even = torch.linspace(1000, 0, STEPS + 1)[1:-1]
    assert all(abs(a - float(b)) > 20 for a, b in zip(labels[1:], even, strict=True))


# SDEdit
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.4, 0.75])
@pytest.mark.parametrize("name", ["sd_img2img", "sd3_img2img", "flux_img2img", "sd_inpaint_4"])
def test_sdedit_is_the_pipelines_own_image_to_image(name, strength):
    """With its draws: of the VAE's code, then of the noise; inpainting of four channels puts the known part back."""
    case = KNOWN[name]
    pipe = built(case)
    call = {**case.call(pipe), "strength": strength}
    with single():
        call["generator"] = torch.Generator().manual_seed(7)
        found = from_diffusers(pipe, 8, **call)
        theirs = pipe(**call, num_inference_steps=8, output_type="latent").images
        generator = torch.Generator().manual_seed(7)
        image = found.encode(call["image"] * 2 - 1, generator)
        noise = drawn_by(pipe, image, generator)
        ours = edit.sdedit(found.model, found.plan, image, target=dict(found.cond), noise=noise)
    assert far(ours.sample, theirs) < 1e-5 and ours.nfe < 10


def drawn_by(pipe: Any, image: Tensor, generator: torch.Generator) -> Tensor:
    """Unit noise as the pipeline draws it: Flux before it packs it."""
    if image.ndim == 4:
        return torch.randn(image.shape, generator=generator)
    channels, side = image.shape[-1] // 4, 2 * int(image.shape[1] ** 0.5)
    noise = torch.randn(len(image), channels, side, side, generator=generator)
    return pipe._pack_latents(noise, len(image), channels, side, side)


def test_sdedit_of_given_noise():
    """n itself is the addressed one; a plan that draws more wants a source."""
    found = of_text("sd15_text")
    image, cond = latents(found), told(found, NEW, 5.0)
    nodes = found.grid.values[2:]
    sure, drawn = (method.plan(found.process, nodes) for method in (DDIM(), DDPM()))
    by_seed, by_itself = (
        edit.sdedit(found.model, sure, image, target=cond, noise=noise).sample
        for noise in (Addressed(3), Addressed(3).initial(image))
    )
    assert torch.equal(by_seed, by_itself)
    for plan, noise, message in (
        (sure, torch.zeros(1, 4, 8, 8), "noise: got n of shape"),
        (drawn, image, "noise: got n alone for DDPM"),
    ):
        with pytest.raises(ValueError, match=message):
            edit.sdedit(found.model, plan, image, target=cond, noise=noise)


# exact inversion, and what else goes both ways
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "method"),
    [("sd3_text", OBELM()), *(("sd15_text", each) for each in (BDIA(), EDICT(), OBELM(), ReversibleHeun()))],
    ids=str,
)
def test_exact_inversion_of_a_pipeline(name, dtype, method):
    """To round-off, guided as it is; under another prompt somewhere else."""
    found = of_text(name, dtype)
    image, source = latents(found), told(found, OLD, 3.0)
    plan = method.plan(found.process, Rising(found.grid))
    back, away = (
        edit.exact_inversion(found.model, plan, image, source=source, target=target).sample
        for target in (source, told(found, NEW, 3.0))
    )
    assert far(back, image) < (1e-6 if dtype == torch.float32 else 1e-10) and far(away, image) > 0.1


def test_recovered_noise_gives_the_image_back():
    found = of_text("sd15_text")
    image, source = latents(found), told(found, OLD, 3.0)
    plan = DDPM().plan(found.process, found.grid)
    for call in (edit.cycle_diffusion, edit.edit_friendly):
        back, away = (
            call(found.model, plan, image, source=source, target=target).sample
            for target in (source, told(found, NEW, 3.0))
        )
        assert far(back, image) < 1e-6 and far(away, image) > 0.1


@pytest.mark.parametrize("name", ["controlnet", "sd_inpaint", "flux_controlnet", "flux_fill"])
def test_controls_and_masks_stand_on_both_ways(name):
    """ControlNets in windows of the steps, masks as channels: the same turn of the loop up and down."""
    case = KNOWN[name]
    pipe = built(case)
    with single():
        found = from_diffusers(pipe, STEPS, **case.call(pipe))
    image = found.encode(pictures())
    cond = {k: v for k, v in case.call(pipe).items() if isinstance(v, Tensor)}
    plan = OBELM().plan(found.process, Rising(found.grid))
    other = {k: v.roll(3, -1) if "image" in k else v for k, v in cond.items()}
    back, away = (
        edit.exact_inversion(found.model, plan, image, source=cond, target=target).sample
        for target in (cond, other)
    )
    assert far(back, image) < 1e-5 and far(away, image) > 1e-3
    if name.startswith("flux"):
        moved = edit.flow_edit(found.model, image, source=cond, target=other, grid=found.grid, n_max=4)
        assert far(moved.sample, image) > 1e-3
