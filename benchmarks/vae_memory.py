"""Peak memory of the gradient of a loss on a pipeline's pictures, by how its VAE is called.

    python benchmarks/vae_memory.py      writes benchmarks/results/vae_memory.json

Value and gradient at the latents of 4 pictures of 192 x 192 through a VAE of 32, 32 and 64 channels, a fresh process
each: the resident set's high-water mark over that after four decodings of a small picture.
"""

import json
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pullback.guidance import Decoded, Downsample
from pullback.solvers import from_diffusers

HERE = pathlib.Path(__file__).parent
WAYS = ("as it is", "one checkpoint", "its own checkpointing", "at once 1")


def pipeline(size: int) -> Any:
    import diffusers

    of: Any = diffusers  # whose annotations know neither of these arguments

    torch.manual_seed(0)
    unet = of.UNet2DConditionModel(
        sample_size=size // 4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = of.AutoencoderKL(
        block_out_channels=(32, 32, 64), latent_channels=4, norm_num_groups=4, sample_size=size,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    pipe = of.StableDiffusionPipeline(
        vae, None, None, unet, of.DDIMScheduler(clip_sample=False), None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for part in (unet, vae):
        part.requires_grad_(False).eval()
    return pipe


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def point(way: str) -> None:
    torch.set_num_threads(1)
    pipe = pipeline(192)
    if way == "its own checkpointing":
        pipe.vae.train().enable_gradient_checkpointing()
    prompt = {"prompt_embeds": torch.randn(1, 7, 16), "negative_prompt_embeds": torch.randn(1, 7, 16)}
    found = from_diffusers(pipe, 2, **prompt, height=192, width=192, guidance_scale=1.0)
    decode: Callable[[Tensor], Tensor] = found.decode
    if way == "one checkpoint":
        decode = partial(found.decode, checkpoint=True)
    if way == "at once 1":
        decode = Decoded(found.decode, Downsample(4), at_once=1).A

    def run(batch: int, side: int) -> None:
        x = torch.randn(batch, 4, side, side, requires_grad=True)
        decode(x).square().sum().backward()
        assert x.grad is not None

    for _ in range(4):
        run(1, 8)
    base = peak_kib()
    run(4, 48)
    print(json.dumps((peak_kib() - base) / 1024))


def main() -> None:
    rows = {}
    for way in WAYS:
        out = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True)
        rows[way] = json.loads(out.stdout.splitlines()[-1])
        print(way, rows[way], flush=True)
    facts = {"torch": torch.__version__, "peak_MiB": rows}
    (HERE / "results" / "vae_memory.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        point(sys.argv[1])
    else:
        main()
