"""Value and gradient of pipelines of the size of SDXL and Flux: memory and time on a GPU.

    python benchmarks/pipelines_gpu.py                 both, 28 and 50 steps, bf16
    python benchmarks/pipelines_gpu.py --steps 28 --network Flux     part of it: rows are added to the same file
    python benchmarks/pipelines_gpu.py --tiny          the same code on networks of no size, on whatever is there

Writes benchmarks/results/pipelines-<device>.json. Random weights from the configurations below; nothing is downloaded.
Gradients go to latents and text embeddings, weights are frozen, the state is float32. The pipeline's own loop, without
its no_grad and with the networks' gradient checkpointing, is measured beside. Of Flux as many layers are taken as the
device holds. Peak memory is that of a value and gradient over the weights'. Without CUDA the large networks are left
out, and the script says so.
"""

import argparse
import inspect
import json
import pathlib
import platform
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))

import torch
from gpu import CUDA, DEVICE, RESULTS, peak_bytes, seconds
from pipelines.flow import flux
from pipelines.sdxl import sdxl
from torch import Tensor

from pullback.adjoint import Checkpoint, Gradient, sample
from pullback.solvers.pipelines import from_diffusers

SDXL: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
LESS_SDXL: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (8, 8, 16), "transformer_layers_per_block": 1, "attention_head_dim": 4,
    "cross_attention_dim": 8, "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32,
    "norm_num_groups": 4,
}  # fmt: skip
LESS_FLUX: dict[str, Any] = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 4, "num_attention_heads": 2, "attention_head_dim": 8,
    "axes_dims_rope": (2, 2, 4), "joint_attention_dim": 8, "pooled_projection_dim": 6,
}  # fmt: skip
FRACTIONS = (1.0, 0.75, 0.5, 0.35, 0.2, 0.1)  # of the layers


def network(kind: str, config: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """On the device and in its type from the start: the weights need not fit anywhere else."""
    import diffusers

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            return getattr(diffusers, kind)(**config).to(DEVICE, dtype).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


class Setting:
    """A pipeline on the device, its conditioning and its start.

    Args:
        fraction: of Flux's layers.
    """

    def __init__(self, name: str, tiny: bool, fraction: float = 1.0) -> None:
        torch.manual_seed(0)
        if name == "SDXL":
            config = SDXL | (LESS_SDXL if tiny else {})
            self.network = network("UNet2DConditionModel", config, torch.bfloat16)
            self.pipe, width, guidance = sdxl(net=self.network), config["cross_attention_dim"], 5.0
            pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            side, tokens, texts = 2 * config["sample_size"], 77, ("", "negative_")
        else:
            config = FLUX | (LESS_FLUX if tiny else {})
            layers = {
                each: max(1, round(fraction * config[each])) for each in ("num_layers", "num_single_layers")
            }
            config |= layers
            self.network = network("FluxTransformer2DModel", config, torch.bfloat16)
            self.pipe, width, guidance = flux(net=self.network), config["joint_attention_dim"], 3.5
            pooled, side, tokens, texts = config["pooled_projection_dim"], 32 if tiny else 256, 512, ("",)
        self.pipe.vae.to(
            DEVICE, torch.bfloat16
        )  # decides nothing but the size of the latents, half the picture's
        self.pipe.set_progress_bar_config(disable=True)
        self.config, self.parameters = config, sum(each.numel() for each in self.network.parameters())
        shapes = {"prompt_embeds": (1, 8 if tiny else tokens, width), "pooled_prompt_embeds": (1, pooled)}
        self.cond = {
            f"{text}{each}": torch.randn(shape).to(DEVICE, torch.bfloat16)
            for text in texts
            for each, shape in shapes.items()
        }
        self.call = {"height": side, "width": side, "guidance_scale": guidance}

    def latents(self, steps: int) -> Tensor:
        drawn = from_diffusers(self.pipe, steps, **self.call, **self.cond).draw()
        return drawn.float() / float(getattr(self.pipe.scheduler, "init_noise_sigma", 1.0))

    def own(self, steps: int) -> Callable[[], list[Tensor]]:
        """By the pipeline's loop, with gradient checkpointing in the network."""
        loop, noise = inspect.unwrap(type(self.pipe).__call__), self.latents(steps)

        def run() -> list[Tensor]:
            self.network.enable_gradient_checkpointing()  # type: ignore[operator]
            self.network.train()  # diffusers checkpoints in training alone; there is no dropout
            try:
                x, asked = (
                    _leaf(noise.to(torch.bfloat16)),
                    {name: _leaf(each) for name, each in self.cond.items()},
                )
                how = {"num_inference_steps": steps, "output_type": "latent", "latents": x}
                end = loop(self.pipe, **self.call, **asked, **how).images
                return [end, *torch.autograd.grad(end.float().square().mean(), [x, *asked.values()])]
            finally:
                self.network.disable_gradient_checkpointing()  # type: ignore[operator]
                self.network.eval()

        return run

    def ours(self, steps: int, strategy: Gradient) -> Callable[[], list[Tensor]]:
        found = from_diffusers(self.pipe, steps, **self.call, **self.cond)
        noise = self.latents(steps)

        def run() -> list[Tensor]:
            x, asked = _leaf(noise), {name: _leaf(each) for name, each in self.cond.items()}
            end = sample(found.model, found.plan, found.start(x), cond=asked, gradient=strategy)
            return [end, *torch.autograd.grad(end.square().mean(), [x, *asked.values()])]

        return run


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def ways(setting: Setting, steps: int) -> Iterator[tuple[str, Callable[[], Callable[[], list[Tensor]]]]]:
    """The name of each way, and what makes it."""
    budget = (torch.cuda.mem_get_info()[0] if CUDA else 2**28) // 2  # half of what the weights leave
    strategies: dict[str, Gradient] = {
        "Checkpoint": Checkpoint(),
        "Checkpoint, offload": Checkpoint(offload=True),
        f"Checkpoint, {budget // 2**20} MiB": Checkpoint(memory_budget=budget),
    }
    yield "pipeline's loop, gradient checkpointing", lambda: setting.own(steps)
    for name, strategy in strategies.items():
        yield name, lambda strategy=strategy: setting.ours(steps, strategy)


def row(make: Callable[[], Callable[[], list[Tensor]]]) -> dict[str, Any]:
    """One value and gradient; out of memory is a result."""
    try:
        run, found = make(), list[Tensor]()
        peak = peak_bytes(lambda: found.extend(run()))
        finite = all(bool(each.isfinite().all()) for each in found)
        found.clear()
        return {"seconds": seconds(run), "peak_MiB": peak / 2**20, "finite": finite}
    except torch.OutOfMemoryError:
        if CUDA:
            torch.cuda.empty_cache()
        return {"out_of_memory": True}


def largest(name: str, tiny: bool) -> Setting:
    """The pipeline with as many layers as the device holds in two steps with Checkpoint."""
    for fraction in FRACTIONS if name == "Flux" else FRACTIONS[:1]:
        try:
            setting = Setting(name, tiny, fraction)
            setting.ours(2, Checkpoint())()
            return setting
        except torch.OutOfMemoryError:
            setting = None  # else it would be held while the next is made
            torch.cuda.empty_cache()
            print(f"{name}: {fraction:g} of its layers do not fit", flush=True)
    raise MemoryError(f"{name}: got a device that holds no part of it; take a larger one")


def measured(names: list[str], lengths: list[int], tiny: bool, path: pathlib.Path) -> None:
    """Row by row; rows that are there stay."""
    device = torch.cuda.get_device_name() if CUDA else f"CPU {platform.machine()}"
    facts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"networks": {}}
    facts |= {"device": device, "torch": torch.__version__, "tiny": tiny}
    for name in names:
        setting = largest(name, tiny)
        own = facts["networks"].setdefault(name, {"rows": {}})
        own |= {"parameters": setting.parameters, "config": setting.config}
        for steps in lengths:
            for way, make in ways(setting, steps):
                found = row(make)
                own["rows"].setdefault(way, {})[str(steps)] = found
                path.write_text(json.dumps(facts, indent=1) + "\n")
                print(f"{name}, {setting.parameters / 1e6:.4g} M, {steps} steps, {way}: {found}", flush=True)
        del setting
        if CUDA:
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="networks of no size, 3 steps")
    parser.add_argument("--network", action="append", choices=["SDXL", "Flux"])
    parser.add_argument("--steps", action="append", type=int)
    parser.add_argument("--out", type=pathlib.Path)
    asked = parser.parse_args()
    names = asked.network or ["SDXL", "Flux"]
    if not CUDA and not asked.tiny:
        print(
            f"skipped: {', '.join(names)} in bf16: got no CUDA device; --tiny runs the same code on the CPU"
        )
        return
    device = torch.cuda.get_device_name() if CUDA else f"cpu-{platform.machine()}"
    named = f"pipelines-{'tiny-' if asked.tiny else ''}{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    measured(
        names, asked.steps or ([3] if asked.tiny else [28, 50]), asked.tiny, asked.out or RESULTS / named
    )


if __name__ == "__main__":
    main()
