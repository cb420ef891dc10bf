"""Ordinary diffusers pipelines on random weights with one of our samplers for a scheduler: their latents are those of
`sample` around the same network, with guidance written by hand.
"""

import importlib
from typing import Any

import pytest
import torch
from scheduler_cases import SD, Case, slots_drawn
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import (
    DDIM,
    DEIS,
    EDICT,
    ERSDE,
    GHVB,
    SEEDS,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    FlowEuler,
    FlowHeun,
    FlowSDE,
    Method,
    SASolver,
    UniPC,
)
from pullback.solvers.schedulers import as_scheduler

FLOAT64 = torch.float64
pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.slow]
METHODS: list[Method] = [
    DDIM(), DDIM(0.7), DEIS(4), UniPC(3), DPMSolverPP(3), DPMSolverPPSingle(3), EDMHeun(), GHVB(1.8), ERSDE(3),
    SEEDS(2), SASolver(2, 3, tau=0.5), EDICT(),
]  # fmt: skip
FEW: list[Method] = [DEIS(4), EDMHeun(), SEEDS(2)]
FLOWS: list[Method] = [FlowEuler(), FlowHeun(), UniPC(3), FlowSDE(0.5)]
GUIDED = 3.0


@pytest.fixture(autouse=True)
def single():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def unet(**config: Any) -> Any:
    diffusers: Any = importlib.import_module("diffusers")

    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        **config,
    )


def vae() -> Any:
    diffusers: Any = importlib.import_module("diffusers")

    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=[8], latent_channels=4, norm_num_groups=4, sample_size=8
    )


def quiet(pipe: Any, dtype: torch.dtype) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def stable_diffusion(scheduler: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any], Any]:
    """The pipeline, what it is called with, and the network with guidance by hand."""
    diffusers: Any = importlib.import_module("diffusers")

    net, parts = unet(), dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(), unet=net, scheduler=scheduler, **parts, requires_safety_checker=False
    )
    text, empty = drawn(1, 5, 16, seed=1).to(dtype), drawn(1, 5, 16, seed=2).to(dtype)

    def network(x: Tensor, t: Tensor) -> Tensor:
        both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([empty, text])).sample
        return both[:1] + GUIDED * (both[1:] - both[:1])

    given = {"prompt_embeds": text, "negative_prompt_embeds": empty, "height": 8, "width": 8}
    return quiet(pipe, dtype), {**given, "guidance_scale": GUIDED, "latents": drawn(1, 4, 8, 8)}, network


def sdxl(scheduler: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any], Any]:
    diffusers: Any = importlib.import_module("diffusers")

    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    net = unet(**added, projection_class_embeddings_input_dim=6 * 4 + 8)
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(), unet=net, scheduler=scheduler, **parts, add_watermarker=False
    )
    text, empty = drawn(1, 5, 16, seed=1).to(dtype), drawn(1, 5, 16, seed=2).to(dtype)
    pooled, none = drawn(1, 8, seed=3).to(dtype), drawn(1, 8, seed=4).to(dtype)

    def network(x: Tensor, t: Tensor) -> Tensor:
        ids = torch.tensor([[8, 8, 0, 0, 8, 8]] * 2, dtype=x.dtype)
        both = net(
            torch.cat([x, x]),
            torch.cat([t, t]),
            torch.cat([empty, text]),
            added_cond_kwargs={"text_embeds": torch.cat([none, pooled]), "time_ids": ids},
        ).sample
        return both[:1] + GUIDED * (both[1:] - both[:1])

    given = {"prompt_embeds": text, "negative_prompt_embeds": empty, "height": 8, "width": 8}
    given |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": none}
    return quiet(pipe, dtype), {**given, "guidance_scale": GUIDED, "latents": drawn(1, 4, 8, 8)}, network


def sd3(scheduler: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any], Any]:
    diffusers: Any = importlib.import_module("diffusers")

    torch.manual_seed(0)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        caption_projection_dim=16, joint_attention_dim=16, pooled_projection_dim=8, out_channels=4,
    )  # fmt: skip
    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    pipe = diffusers.StableDiffusion3Pipeline(
        vae=vae(), transformer=net, scheduler=scheduler, **dict.fromkeys(names)
    )
    text, empty = drawn(1, 5, 16, seed=1).to(dtype), drawn(1, 5, 16, seed=2).to(dtype)
    pooled, none = drawn(1, 8, seed=3).to(dtype), drawn(1, 8, seed=4).to(dtype)

    def network(x: Tensor, t: Tensor) -> Tensor:
        told = torch.cat([t, t]).float()
        both = net(torch.cat([x, x]), torch.cat([empty, text]), torch.cat([none, pooled]), told).sample
        return both[:1] + GUIDED * (both[1:] - both[:1])

    given = {"prompt_embeds": text, "negative_prompt_embeds": empty, "height": 8, "width": 8}
    given |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": none}
    return quiet(pipe, dtype), {**given, "guidance_scale": GUIDED, "latents": drawn(1, 4, 8, 8)}, network


def flux(scheduler: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any], Any]:
    diffusers: Any = importlib.import_module("diffusers")

    torch.manual_seed(0)
    net = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(vae=vae(), transformer=net, scheduler=scheduler, **parts)
    text, pooled = drawn(1, 5, 16, seed=1).to(dtype), drawn(1, 8, seed=3).to(dtype)

    def network(x: Tensor, t: Tensor) -> Tensor:
        ids = torch.zeros(16, 3, dtype=x.dtype)
        ids[:, 1], ids[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
        where = {"txt_ids": torch.zeros(5, 3, dtype=x.dtype), "img_ids": ids}
        return net(x, text, pooled, t.float().to(x) / 1000, **where).sample

    given = {"prompt_embeds": text, "pooled_prompt_embeds": pooled, "height": 8, "width": 8}
    return quiet(pipe, dtype), {**given, "latents": drawn(1, 16, 16)}, network


PIPELINES = [
    (stable_diffusion, Case("DDIM", {**SD, "clip_sample": False, "steps_offset": 1}), METHODS),
    (stable_diffusion, Case("DPMSolverMultistep", {**SD, "use_karras_sigmas": True}), FEW),
    (sdxl, Case("EulerDiscrete", {**SD, "timestep_spacing": "leading", "steps_offset": 1}), FEW),
    (sd3, Case("FlowMatchEulerDiscrete", {"shift": 3.0}), FLOWS),
    (flux, Case("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}), FLOWS),
]


@pytest.mark.parametrize("family, case, methods", PIPELINES, ids=lambda each: getattr(each, "__name__", None))
def test_a_pipeline_gives_what_sample_gives(family, case, methods):
    for dtype, near in ((FLOAT64, 1e-10), (torch.float32, 1e-5)):
        pipe, given, network = family(case.scheduler(), dtype)
        given["latents"] = given["latents"].to(dtype)
        for method in methods if dtype == FLOAT64 else methods[-2:]:
            # Flux and SD3 hand no generator on
            own = drawn(4, *given["latents"].shape) if family in (sd3, flux) else None
            pipe.scheduler = as_scheduler(method, case.scheduler(), noise=own)
            draws = torch.Generator().manual_seed(3)
            ours = pipe(**given, num_inference_steps=4, generator=draws, output_type="latent").images
            found = pipe.scheduler.found()
            x = given["latents"] * found.scale
            if own is None and found.plan.slots:
                own = slots_drawn(found.plan, x, 3)
            true = sample(
                found.denoiser(network), found.plan, x, noise=own if found.plan.slots else None, gradient=None
            )
            assert float((ours - true).abs().max() / true.abs().max()) < near, (method, dtype)
            assert found.plan.nfe == len(pipe.scheduler.timesteps) == pipe.scheduler.step_index
