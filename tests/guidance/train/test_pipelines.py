"""Reward fine-tuning of diffusers pipelines: gradients, training, and adapters that a fresh pipeline takes."""

import inspect
import pathlib
from typing import Any

import peft
import pytest
import torch
from pipelines import dit, prompted, stable_diffusion
from pipelines.build import BETAS, scheduler
from pipelines.case import reference, single, start
from pipelines.stable_diffusion import SD
from safetensors.torch import load_file
from torch import Tensor, nn
from tuning import config, logged

from pullback.guidance import (
    DDPO,
    AdjointMatching,
    DecodedReward,
    DRaFT,
    FlowGRPO,
    JPEGSize,
    Objective,
    Policy,
    Prompts,
    RewardTrainer,
    TextPrompts,
    load_adapter,
    load_weights,
    lora,
    reference_of,
    save_adapter,
    save_weights,
)
from pullback.guidance.objectives.peers import World
from pullback.solvers import Denoiser, FlowSDE, GivenTimes, Keywords, Plan
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers
from pullback.solvers.schedulers import plan_from_scheduler

TEXTS = ["a red cat", "an owl at night", "a dog"]
TINY = {"prompt": "a picture", "height": 16, "width": 16, "guidance_scale": 3.0}


def picture(pipe: Any) -> Tensor:
    """As its user samples it."""
    drawn = {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    return pipe(**TINY, **drawn, num_inference_steps=3).images


KNOWN: dict[str, dict[str, Any]] = {
    "DDIM": {**SD, "clip_sample": False},
    "PNDM": {**SD, "skip_prk_steps": True},
    "EulerDiscrete": BETAS,
}


def sd15(sampler: str = "DDIM") -> Any:
    """Always of the same weights."""
    with single():
        pipe = prompted.sd15_with_text()
    pipe.scheduler = scheduler(sampler, **KNOWN[sampler])
    return pipe


def sd3() -> Any:
    with single():
        return prompted.sd3_with_text()


def opened(pipe: Any, steps: int = 4, **call: Any) -> DiffusersPipeline:
    return from_diffusers(pipe, steps, **{**TINY, **call})


def tuned(found: DiffusersPipeline, seed: int = 0, **how: Any) -> Denoiser:
    """Adapters with something in them: both factors have a gradient."""
    model = lora(found.model, 2, seed=seed, **how)
    generator = torch.Generator().manual_seed(seed)
    for value in trained(model):
        value.data = value.data + 0.05 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return model


def trained(model: Denoiser) -> list[Tensor]:
    return [value for value in model.parameters() if value.requires_grad]


def redness(pictures: Tensor, context: Any = None) -> Tensor:
    """By how much red lies above green and blue."""
    return (pictures[:, 0] - pictures[:, 1:].mean(1)).flatten(1).mean(1)


def gradients(
    objective: Objective, model: Denoiser, plan: Plan, reward: Any, source: Prompts
) -> list[Tensor]:
    """Of the first optimiser step."""
    policy, size = Policy(model, plan, reference_of(model)), 4
    objective.check(policy)
    like = trained(model)[0].new_empty(0)
    batch = source.batch(range(size), plan, 0, like)
    experience = objective.rollout(policy, batch, reward, World())
    steps = objective.updates(policy, batch, experience, reward, World(), torch.Generator().manual_seed(0))
    for value in trained(model):
        value.grad = None
    for term in next(iter(steps)):
        term.value.backward()
    return [value.grad for value in trained(model) if value.grad is not None]


def apart(found: list[Tensor], want: list[Tensor]) -> float:
    """|found - want| by |want|, of all gradients together."""
    a, b = (torch.cat([each.reshape(-1).double() for each in given]) for given in (found, want))
    assert len(found) == len(want) and float(b.norm()) > 0
    return float((a - b).norm() / b.norm())


# gradients


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_drafts_gradient_is_autograds_through_the_pipelines_own_loop_and_its_vae(dtype, near):
    pipe = sd15("PNDM")
    with single():
        pipe.to(dtype)
        found = opened(pipe)
        model, source = tuned(found), TextPrompts(found, TEXTS, negative="blurry", repeats=2, shuffle=False)
        reward = DecodedReward(found.decode, redness)
        got = gradients(DRaFT(), model, found.plan, reward, source)
        latents = source.batch(range(4), found.plan, 0, torch.empty(0, dtype=dtype)).x
        loop = inspect.unwrap(type(pipe).__call__)
        end = loop(
            pipe,
            **{**TINY, "prompt": [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1]], "negative_prompt": ["blurry"] * 4},
            latents=latents,
            num_inference_steps=4,
            output_type="latent",
        ).images
        pictures = pipe.vae.decode(end / pipe.vae.config.scaling_factor).sample
        want = torch.autograd.grad(-redness(pictures).mean(), trained(model))
    assert apart(got, list(want)) < near


class HandWritten(nn.Module):
    """Classifier-free guidance of a UNet, as one would write it."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, prompt_embeds: Tensor, negative_prompt_embeds: Tensor) -> Tensor:
        text = torch.cat([negative_prompt_embeds, prompt_embeds])
        without, given = self.unet(torch.cat([x, x]), t[0], encoder_hidden_states=text).sample.chunk(2)
        return without + 3.0 * (given - without)


@pytest.mark.filterwarnings("ignore:.*remember their starting noise")
@pytest.mark.parametrize(
    "objective",
    [
        DDPO(),
        DDPO(kl=0.1, minibatches=2),
        AdjointMatching(kl=1.0, sampled=None),
        AdjointMatching(kl=1.0, sampled=2),
    ],
    ids=["ddpo", "ddpo with a kl", "adjoint matching", "adjoint matching, two steps"],
)
def test_objectives_have_the_gradients_of_a_hand_written_denoiser(objective):
    pipe = sd15()
    with single():
        pipe.to(torch.float64)
        found = opened(pipe, eta=1.0)
        model, source = tuned(found), TextPrompts(found, TEXTS, negative="blurry", repeats=2)
        by_hand = plan_from_scheduler(pipe.scheduler, 4, eta=1.0)
        written = by_hand.denoiser(HandWritten(pipe.unet), call=Keywords())
        reward = DecodedReward(found.decode, redness)
        scored = DecodedReward(lambda x: pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample, redness)
        got = gradients(objective, model, found.plan, reward, source)
        want = gradients(objective, written, by_hand.plan, scored, source)
    assert apart(got, want) < 1e-6


# training


def fit(out: pathlib.Path, found: DiffusersPipeline, objective: Objective, **given: Any) -> RewardTrainer:
    """A trainer of fresh adapters towards red pictures."""
    seed, repeats = given.get("seed", 0), given.pop("repeats", 1)
    texts, plan = TEXTS[:2] if repeats > 1 else TEXTS, given.pop("plan", found.plan)
    usual: dict[str, Any] = {
        "evaluate_every": None,
        "evaluation_samples": 16,
        "ema": None,
        "checkpoint_every": 100,
    }
    return RewardTrainer(
        lora(found.model, 4, 8.0, seed=seed),
        plan,
        objective,
        DecodedReward(found.decode, redness),
        TextPrompts(found, texts, negative="blurry", repeats=repeats),
        config(out, **usual | given),
    )


def gained(trainer: RewardTrainer) -> tuple[float, float]:
    """What training adds to the reward, a mean over pairs of samples from one noise that training never saw, and its
    standard error.
    """
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    with torch.no_grad():
        gain = trainer.reward(after.x) - trainer.reward(before.x)
    return float(gain.mean()), float(gain.std() / len(gain) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_draft_reddens_stable_diffusion_and_a_fresh_pipeline_with_its_adapters(tmp_path, seed):
    with single():
        pipe, base = sd15(), picture(sd15())
        trainer = fit(tmp_path, opened(pipe), DRaFT(), seed=seed, iterations=4, samples=4, lr=1e-2)
        gain, error = gained(trainer)
        assert gain > 0.1 and gain > 8 * error
        trainer.export(tmp_path / "adapter")
    with single():
        fresh = sd15()
        fresh.load_lora_weights(tmp_path / "adapter")
        assert (picture(fresh) - picture(pipe)).abs().max() < 1e-5
        assert redness(picture(fresh)) > redness(base) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_flow_grpo_reddens_sd3(tmp_path, seed):
    with single():
        found = opened(sd3(), 3)
        plan = FlowSDE(0.7).plan(
            found.process, GivenTimes(torch.tensor(found.plan.times, dtype=torch.float64))
        )
        numbers = {"seed": seed, "iterations": 4, "samples": 8, "repeats": 8, "lr": 1e-2}
        gain, error = gained(fit(tmp_path, found, FlowGRPO(), plan=plan, **numbers))
    assert gain > 0.03 and gain > 6 * error


@pytest.mark.slow
def test_the_base_is_the_pipeline_with_its_adapters_off_and_a_run_in_halves_is_the_run_in_one(tmp_path):
    with single():
        numbers = {"samples": 2, "evaluation_samples": 2, "checkpoint_every": 1, "lr": 1e-2, "ema": 0.5}
        trainers = [fit(tmp_path / name, opened(sd15(), 2, eta=1.0), DDPO(), iterations=n, **numbers)
                    for name, n in (("whole", 2), ("halves", 1), ("halves", 2))]  # fmt: skip
        found = trainers[0].check()
        assert found.kl == 0.0 and found.trained < found.total / 2
        for trainer, resume in zip(trainers, (False, False, True), strict=True):
            trainer.train(resume=resume)
    whole, _, resumed = trainers
    assert all(
        torch.equal(a, b) for a, b in zip(whole.weights.values(), resumed.weights.values(), strict=True)
    )
    assert [row["reward"] for row in logged(tmp_path / "whole")] == [
        row["reward"] for row in logged(tmp_path / "halves")
    ]


# adapters in files


BUILDS = {
    "sd15": prompted.sd15_with_text,
    "sdxl": prompted.sdxl_with_text,
    "sd3": prompted.sd3_with_text,
    "flux": prompted.flux_with_text,
}


@pytest.mark.slow
@pytest.mark.parametrize("family", BUILDS)
@pytest.mark.parametrize(
    "targets", ["all-linear", ["to_q", "to_k", "to_v", "to_out.0"]], ids=["all", "attention"]
)
def test_a_fresh_pipeline_takes_the_adapters(tmp_path, family, targets):
    with single():
        pipe = BUILDS[family]()
        base = picture(pipe)
        model = tuned(opened(pipe), alpha=5.0, targets=targets)
        save_adapter(model, tmp_path)
    with single():
        fresh = BUILDS[family]()
        assert torch.equal(picture(fresh), base)
        fresh.load_lora_weights(tmp_path)
        want = picture(pipe)
        assert (picture(fresh) - want).abs().max() < 1e-5 and (want - base).abs().max() > 1e-3
    with single():
        other = lora(opened(BUILDS[family]()).model, 2, alpha=5.0, targets=targets, seed=1)
        load_adapter(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(trained(other), trained(model), strict=True))


# prompts and rewards


def test_texts_are_encoded_once_by_the_pipeline_and_start_as_it_does():
    with single():
        pipe = prompted.flux_with_text()
        found = opened(pipe, 3)
        prompts = TextPrompts(found, TEXTS, shuffle=False, at_once=2)
        want = found.encode_prompt(prompt=TEXTS)
        pipe.text_encoder = pipe.text_encoder_2 = None  # not called again
        whole = prompts.batch(range(3), found.plan, 0, torch.empty(0))
        parts = [prompts.batch(ids, found.plan, 0, torch.empty(0)) for ids in ([0], [1, 2])]
        assert whole.context == TEXTS and whole.cond.keys() == want.keys()
        assert all(torch.allclose(whole.cond[name], want[name], atol=1e-6) for name in want)
        assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
        assert whole.x.shape == found.draw(batch=3).shape


def test_noise_starts_at_the_size_of_the_scheduler():
    with single():
        pipe = sd15("EulerDiscrete")
        found = opened(pipe)
        x = TextPrompts(found, TEXTS).batch(range(8), found.plan, 0, torch.empty(0)).x
        assert (
            0.8 < float(x.std() / pipe.scheduler.init_noise_sigma) < 1.2
            and pipe.scheduler.init_noise_sigma > 1.5
        )


def test_one_negative_prompt_for_all_or_one_for_each():
    with single():
        found = opened(sd15())
        one, each = (
            TextPrompts(found, TEXTS[:2], negative=given, shuffle=False, at_once=1).batch(
                range(2), found.plan, 0, torch.empty(0)
            )
            for given in ("blurry", ["blurry", "a dog"])
        )
        a, b = (batch.cond["negative_prompt_embeds"] for batch in (one, each))
        assert torch.equal(a[0], a[1]) and torch.equal(a[0], b[0]) and not torch.allclose(b[0], b[1])


def test_a_pipeline_that_starts_from_a_picture_has_no_text_prompts_alone():
    with single():
        pipe = stable_diffusion.stable_diffusion("StableDiffusionImg2Img", **parts_of_text())
        found = from_diffusers(pipe, 4, prompt="a picture", image=torch.rand(1, 3, 16, 16), strength=0.5)
        with pytest.raises(ValueError, match="starts from a picture"):
            TextPrompts(found, TEXTS)


def parts_of_text() -> dict[str, Any]:
    pipe = prompted.sd15_with_text()
    return {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}


def test_a_decoded_reward_is_the_rewards_own_gradient_or_lack_of_one():
    decode, x = torch.nn.Conv2d(4, 3, 1), torch.randn(2, 4, 8, 8, requires_grad=True)
    reward = 2 * DecodedReward(decode, redness)
    assert torch.equal(reward(x), 2 * redness(decode(x))) and reward(x).requires_grad
    plain = DecodedReward(decode, -JPEGSize())
    with torch.no_grad():
        assert not plain.differentiable and plain(x.detach()).shape == (2,)
    with pytest.raises(ValueError, match="no gradient"):
        plain(x)


# kinds of pipelines and weights


def test_half_precision_pipelines_are_trained_in_float32(tmp_path):
    with single():
        pipe = sd15().to(torch.bfloat16)
        trainer = fit(tmp_path, opened(pipe, 2), DRaFT(), iterations=1, samples=2, evaluation_samples=2)
        trainer.train()
        assert trainer.run.batches()[0][0].x.dtype == trainer.evaluate().x.dtype == torch.float32
        assert {value.dtype for value in trainer.weights.values()} == {torch.float32}
        assert pipe.unet.conv_in.base_layer.weight.dtype == torch.bfloat16
        assert any(bool(value.any()) for name, value in trainer.weights.items() if "lora_B" in name)


def test_all_weights_of_a_pipeline_are_trained_against_a_copy(tmp_path):
    with single():
        pipe = sd15()
        for part in (pipe.vae, pipe.text_encoder):
            part.requires_grad_(False)
        pipe.unet.requires_grad_(True)
        found = opened(pipe, 2, eta=1.0)
        numbers = config(
            tmp_path, iterations=1, samples=2, evaluate_every=None, evaluation_samples=2, ema=None
        )
        source = TextPrompts(found, TEXTS)
        trainer = RewardTrainer(
            found.model, found.plan, DDPO(), DecodedReward(found.decode, redness), source, numbers
        )
        assert trainer.check().kl == 0.0
        trainer.train()
        assert float(trainer.evaluate().figures["kl"]) > 0
        trainer.export(tmp_path / "unet.safetensors")
        fresh = sd15()
        load_weights(opened(fresh).model, tmp_path / "unet.safetensors")
        assert torch.equal(picture(fresh), picture(pipe))


def with_controlnet() -> Any:
    """As loaded: everything requires grad."""
    pipe = stable_diffusion.stable_diffusion(
        "StableDiffusionControlNet", controlnet=stable_diffusion.controlnet(), **parts_of_text()
    )
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(True)
    return pipe


def test_adapters_of_a_controlnet_pipeline_are_in_its_unet_and_all_else_is_frozen(tmp_path):
    with single():
        pipe, fresh = with_controlnet(), with_controlnet()
        model = lora(opened(pipe, image=torch.rand(1, 3, 16, 16)).model, 2)
        assert len(list(model.networks())) == 2
        parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        wanting = {name for part in parts for name, value in part.named_parameters() if value.requires_grad}
        assert len(parts) == 4 and wanting and all("lora_" in name for name in wanting)
        assert not any("lora_" in name for name, _ in pipe.controlnet.named_parameters())
        save_adapter(model, tmp_path)
        fresh.load_lora_weights(tmp_path)
        assert fresh.get_list_adapters().keys() == {"unet"}


def test_the_weights_of_the_network_that_is_trained_are_saved(tmp_path):
    with single():
        pipe = with_controlnet()
        pipe.unet.requires_grad_(False)
        save_weights(opened(pipe, image=torch.rand(1, 3, 16, 16)).model, tmp_path / "weights.safetensors")
        assert load_file(tmp_path / "weights.safetensors").keys() == pipe.controlnet.state_dict().keys()


def test_adapters_of_a_pipeline_that_loads_none_are_pefts(tmp_path):
    """PixArt has no `save_lora_weights`, and its transformer no `add_adapter`."""
    (case,) = [case for case in dit.CASES if case.name == "pixart_sigma"]
    pipes = []
    for _ in range(3):
        with single():
            pipes.append(case.build())
    pipe, fresh, other = pipes
    with single():
        model = tuned(from_diffusers(pipe, 3, **case.call(pipe)))
        save_adapter(model, tmp_path)
        again = lora(from_diffusers(other, 3, **case.call(other)).model, 2, seed=1)
        load_adapter(again, tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(trained(again), trained(model), strict=True))
        latents, base = start(pipe, case), reference(fresh, case, start(pipe, case))
        fresh.transformer = peft.PeftModel.from_pretrained(fresh.transformer, str(tmp_path))
        found, want = reference(fresh, case, latents), reference(pipe, case, latents)
    assert (found - want).abs().max() < 1e-5 and (want - base).abs().max() > 1e-3


def test_a_loop_without_a_network_for_adapters_is_refused():
    with single():
        pipe = stable_diffusion.stable_diffusion(**parts_of_text())
        found = from_diffusers(pipe, 2, prompt="a picture")
        vars(found.loops.pipe)["unet"] = pipe.unet.forward
        with pytest.raises(ValueError, match="whose loop calls .*expected one of unet"):
            lora(found.model)
