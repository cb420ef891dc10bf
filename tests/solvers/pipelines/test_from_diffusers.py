"""from_diffusers: what goes into a pipeline's latents and what comes out, prompts, guidance, other plans, refusals."""

import pytest
import torch
from pipelines.case import SEED, PipelineCase, built, reference, single, start
from pipelines.parity import CASES, differences, far, found_of, with_scheduler
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback.adjoint import Checkpoint, Direct, Gradient, Reversible, sample
from pullback.solvers import DiffusersPipeline, as_scheduler, from_diffusers
from pullback.solvers.grid import GivenTimes
from pullback.solvers.methods import DDIM, OBELM, DPMSolverPP
from pullback.solvers.pipelines.compiled import code_of

ALL = {case.name: case for case in CASES}
PICTURES = ("sd15", "sdxl", "sd3", "flux", "chroma", "sana", "pixart_sigma", "lumina2", "qwen_image")
STEEP = {"sana_video": 1e-3}  # its latents are scaled up before its VAE
MOVING = ("sana_video", "wan", "ltx", "hunyuan_video", "cogvideox", "mochi", "animatediff")


@pytest.mark.parametrize("name", (*PICTURES, *MOVING))
def test_decode_is_what_the_pipeline_shows(name: str):
    case, pipe = ALL[name], built(ALL[name])
    x = start(pipe, case)
    with single(), torch.no_grad():
        found = found_of(case, pipe)
        call = case.call(pipe) | {"generator": torch.Generator().manual_seed(SEED)}
        shown = pipe(**call, latents=x, num_inference_steps=case.steps, output_type="pt", return_dict=False)[
            0
        ]
        made = found.decode(sample(found.model, found.plan, found.start(x)))
    made = made.movedim(1, 2) if made.ndim == 5 else made
    assert far((made.float() / 2 + 0.5).clamp(0, 1), shown) < STEEP.get(name, 5e-5)


@pytest.mark.parametrize("name", (*PICTURES[:6], "wan", "ltx", "sana_video"))
def test_encode_inverts_what_comes_before_the_decoder(name: str):
    """decode(encode(picture)) is what the VAE makes of the picture's code by itself."""
    case, pipe = ALL[name], built(ALL[name])
    with single(), torch.no_grad():
        found = found_of(case, pipe)
        picture = found.decode(found.draw()).clamp(-1, 1)
        out = pipe.vae.encode(picture)
        code = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent
        by_itself = pipe.vae.decode(code, return_dict=False, **({"temb": None} if name == "ltx" else {}))[0]
        assert far(found.decode(found.encode(picture)), by_itself) < 1e-3


@pytest.mark.parametrize("name", ["sd15_text", "sdxl_text", "sd3_text", "flux_text"])
def test_prompts_as_text(name: str):
    """The pipeline's own embeddings, which stand for the words from then on."""
    case, pipe = ALL[name], built(ALL[name])
    words = {"prompt": "a red cat", "negative_prompt": "a blue dog"}
    call = {k: v for k, v in case.call(pipe).items() if "embeds" not in k and "prompt" not in k}
    with single(), torch.no_grad():
        found = from_diffusers(pipe, 3, **words, **call)
        x = found.draw(torch.Generator().manual_seed(5), batch=2)
        ours = sample(found.model, found.plan, x)
        theirs = pipe(
            **words, **call, num_images_per_prompt=2, num_inference_steps=3, output_type="latent",
            generator=torch.Generator().manual_seed(5),
        ).images  # fmt: skip
        assert found.cond and far(ours, theirs) < 1e-5
        other = found.encode_prompt(prompt="a green bird")
        assert (
            other.keys() >= {"prompt_embeds"}
            and far(other["prompt_embeds"], found.cond["prompt_embeds"]) > 1e-2
        )
        moved = sample(found.model, found.plan, x[:1], cond=other)
        again = pipe(
            prompt="a green bird", negative_prompt="a blue dog", **call, num_inference_steps=3, output_type="latent",
            latents=None, generator=torch.Generator().manual_seed(5), num_images_per_prompt=2,
        ).images[:1]  # fmt: skip
        assert far(moved, again) < 1e-5


def test_prompts_are_differentiable_in_the_text_encoder():
    case = ALL["sd15_text"]
    pipe = case.build()
    with single():
        found = from_diffusers(pipe, 2, prompt="a red cat", height=8, width=8)
        pipe.text_encoder.requires_grad_(True)
        cond = found.encode_prompt(prompt="a red cat")
        sample(found.model, found.plan, found.draw(), cond=cond).square().sum().backward()
        assert all(p.grad is not None for name, p in pipe.text_encoder.named_parameters() if "final" in name)


@pytest.mark.parametrize("name", ["sd15", "sd2_v", "ddim", "latte", "kandinsky3", "ip_adapter", "pag", "lcm"])
def test_in_float64_to_round_off(name: str):
    case = ALL[name]
    with single():
        pipe = case.build().to(torch.float64)
    found = differences(case, pipe)
    assert found.value < 1e-9 and found.gradient < 1e-9, found


@pytest.fixture
def sd15() -> tuple[PipelineCase, DiffusersPipeline]:
    case = ALL["sd15"]
    with single():
        pipe = case.build().to(torch.float64)
    return case, found_of(case, pipe)


def test_the_guidance_scale_has_a_gradient(sd15: tuple[PipelineCase, DiffusersPipeline]):
    case, found = sd15
    x, scale = found.draw(), torch.tensor(4.0, requires_grad=True)

    def loss(scale: Tensor | float) -> Tensor:
        return sample(found.model, found.plan, x, cond={"guidance_scale": scale}).square().sum()

    (gradient,) = torch.autograd.grad(loss(scale), scale)
    with torch.no_grad():
        assert float(gradient) == pytest.approx(float(loss(4.0 + 1e-5) - loss(4.0 - 1e-5)) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("strategy", [Checkpoint(), Checkpoint(recursive=True)], ids=("states", "recursive"))
def test_strategies_and_plans_of_ours(sd15: tuple[PipelineCase, DiffusersPipeline], strategy: Gradient):
    """A plan of ours on the scheduler's times: exact strategies agree with plain autograd."""
    _, found = sd15
    plan = DPMSolverPP(2).plan(found.process, found.grid)
    x, e = found.draw().requires_grad_(), found.cond["prompt_embeds"].clone().requires_grad_()
    got, want = (
        torch.autograd.grad(
            sample(found.model, plan, x, cond={"prompt_embeds": e}, gradient=by).square().sum(), [x, e]
        )
        for by in (strategy, Direct())
    )
    assert all(far(a, b) < 1e-12 for a, b in zip(got, want, strict=True))


def test_a_reversible_plan_and_a_hessian(sd15: tuple[PipelineCase, DiffusersPipeline]):
    _, found = sd15
    e = found.cond["prompt_embeds"].clone().requires_grad_()
    plan = OBELM().plan(found.process, GivenTimes((800.0, 600.0, 400.0, 200.0)))
    got, want = (
        torch.autograd.grad(
            sample(found.model, plan, found.draw(), cond={"prompt_embeds": e}, gradient=by).sum(), e
        )
        for by in (Reversible(), Direct())
    )
    assert far(got[0], want[0]) < 1e-9
    short, v = DDIM().plan(found.process, GivenTimes((800.0, 400.0))), e.detach()
    seconds = []
    for by in (Checkpoint(), Direct()):
        with sdpa_kernel(SDPBackend.MATH):  # the fused one has no second derivative
            (g,) = torch.autograd.grad(
            sample(found.model, short, found.draw(), cond={"prompt_embeds": e}, gradient=by).square().sum(), e,
            create_graph=True,
        )  # fmt: skip
            seconds.append(torch.autograd.grad((g * v).sum(), e)[0])
    assert far(*seconds) < 1e-9


def test_batches(sd15: tuple[PipelineCase, DiffusersPipeline]):
    """A multiple of the prompts, each sample on its own; one prompt for all in cond too."""
    _, found = sd15
    x = found.draw(batch=4)
    assert x.shape[0] == 4
    whole = sample(found.model, found.plan, x)
    first = {name: value[:1] for name, value in found.cond.items()}
    apart = sample(found.model, found.plan, x[:2], cond=first)
    assert far(whole[:2], apart) < 1e-12
    with pytest.raises(ValueError, match="got 3 samples where its arguments say 2"):
        sample(found.model, found.plan, x[:3])


MASKED = ("pixart_sigma", "lumina2", "chroma", "ltx", "mochi", "hunyuan_dit", "prx", "z_image")


@pytest.mark.parametrize("name", (*MASKED, "sdxl", "sd3", "flux"))
def test_several_samples_of_each_prompt(name: str):
    """Embeddings and their masks have a row for each; the first of each prompt is as it was alone."""
    found = found_of(ALL[name], built(ALL[name]))
    with single(), torch.no_grad():
        x = found.draw(batch=4)
        t = torch.tensor(found.plan.times[:1], dtype=torch.float32).expand(4)
        assert far(found.model(x, t)[::2], found.model(x[::2], t[:2])) < 1e-4


def test_conditioning_changed_in_place_is_seen(sd15: tuple[PipelineCase, DiffusersPipeline]):
    _, found = sd15
    x, cond = found.draw(), {name: value.clone() for name, value in found.cond.items()}
    t = torch.tensor(found.plan.times[:1] * 2)
    before = found.model(x, t, cond)
    cond["prompt_embeds"].mul_(1.5)
    assert far(found.model(x, t, cond), before) > 1e-4


def test_refusals(sd15: tuple[PipelineCase, DiffusersPipeline]):
    case, found = sd15
    pipe, t = found.loops.pipe, torch.tensor(found.plan.times[:1] * 2)
    with pytest.raises(TypeError, match=r"got \['prompt_embed'\], expected arguments of its call"):
        from_diffusers(pipe, 4, prompt_embed=0)
    with pytest.raises(TypeError, match="expected a diffusers pipeline"):
        from_diffusers(pipe.unet, 4)
    with pytest.raises(TypeError, match="expected a dict of arguments"):
        found.model(found.draw(), t, found.cond["prompt_embeds"])
    with pytest.raises(ValueError, match="the latents of StableDiffusionPipeline"):
        found.model(torch.zeros(2, 4, 4, 4), t)
    with pytest.raises(ValueError, match="one time a turn"):
        sample(
            found.model,
            DDIM().plan(found.process, GivenTimes(torch.tensor([[800.0, 700.0], [400.0, 300.0]]))),
            found.draw(),
        )
    with pytest.raises(ValueError, match=r"\['negative_prompt_embeds'\] that require grad"):
        unused = found.cond["negative_prompt_embeds"].clone().requires_grad_()
        found.model(found.draw(), t, {"guidance_scale": 1.0, "negative_prompt_embeds": unused})
    with pytest.raises(ValueError, match=r"\['eta'\], expected conditioning: these make the plan"):
        found.model(found.draw(), t, {"eta": 0.5})
    refused = ALL["dit"]
    with (
        with_scheduler(built(refused), refused.schedulers[1]),
        pytest.raises(ValueError, match="take DDIMScheduler"),
    ):
        found_of(refused, built(refused))


@pytest.mark.parametrize("name", ["dit", "lcm"])
def test_decoding_is_the_vae_s(name: str):
    """DiT carries both branches of guidance in its state, LCM shows the x0 of its last step: at the end the state."""
    found = found_of(ALL[name], built(ALL[name]))
    with single(), torch.no_grad():
        x = found.draw()
        vae = found.loops.pipe.vae
        assert far(found.decode(x), vae.decode(x / vae.config.scaling_factor, return_dict=False)[0]) < 1e-6
        assert len(found.decode(x)) == len(x)


def test_what_a_fused_optimiser_writes_is_seen(sd15: tuple[PipelineCase, DiffusersPipeline]):
    """It does not raise a tensor's count of writes."""
    _, found = sd15
    e, t = found.cond["prompt_embeds"].clone().requires_grad_(), torch.tensor(found.plan.times[:1] * 2)
    adam = torch.optim.Adam([e], lr=0.5, fused=True)
    losses = []
    for _ in range(2):
        loss = found.model(found.draw(), t, {"prompt_embeds": e}).square().sum()
        losses.append(float(loss.detach()))
        loss.backward()
        adam.step()
        adam.zero_grad()
    assert losses[1] < losses[0]
    e.data.add_(1.0)
    fresh = e.detach().clone()
    assert torch.equal(
        *(found.model(found.draw(), t, {"prompt_embeds": each.detach()}) for each in (e, fresh))
    )


def test_guidance_turned_on_later_has_its_negative_prompt():
    case, pipe = ALL["sd15_text"], built(ALL["sd15_text"])
    told = {"prompt": "a red cat", "negative_prompt": "a blue dog", "height": 8, "width": 8}
    with single(), torch.no_grad():
        found = from_diffusers(pipe, 2, guidance_scale=1.0, **told)
        ours = sample(found.model, found.plan, found.draw(), cond={"guidance_scale": 3.0})
        whole = from_diffusers(pipe, 2, guidance_scale=3.0, **told)
        assert case and far(ours, sample(whole.model, whole.plan, whole.draw())) < 1e-5


def test_a_pipeline_with_our_sampler_in_it():
    case = ALL["sd15"]
    pipe = case.build()
    with single(), torch.no_grad():
        pipe.scheduler = as_scheduler(DPMSolverPP(2), pipe.scheduler)
        found, x = found_of(case, pipe), start(pipe, case)
        theirs = reference(pipe, case, x)
        assert far(sample(found.model, found.plan, found.start(x)), theirs) < 1e-5


def test_levels_looked_up_by_number_are_those_of_the_nodes():
    """Between them the pipeline would tell its network another level than the plan's."""
    reading = [each for each in CASES if code_of(type(built(each))).source.reads_levels]
    assert reading
    for case in reading:
        with single(), torch.no_grad():
            found = found_of(case, built(case))
            between = torch.tensor(found.plan.times[:2]).mean()
            with pytest.raises(ValueError, match="looks noise levels up by the number of a turn"):
                found.model(found.draw(), between.expand(len(found.draw())))
