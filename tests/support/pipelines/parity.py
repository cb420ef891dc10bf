"""One pipeline through `from_diffusers` and through its own loop: how far apart they end, and their gradients."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import DiffusersPipeline, from_diffusers

from . import audio, cascades, video, video_unet
from .case import SEED, PipelineCase, as_noised, asking, reference, single, start
from .image import CASES as IMAGE

CASES = (*IMAGE, *video.CASES, *video_unet.CASES, *audio.CASES, *cascades.CASES)
# what a gradient is not asked for: the loop works on its latents after each step, with these
FIXED = {"sd_inpaint_4": "image", "sdxl_inpaint_4": "image", "flux_inpaint": "image"}
# pipelines that draw more than their start from one generator, and that go on from images
OWN_START = ("inpaint", "fill", "deepfloyd_up")
# what the pipeline does to its latents after the loop, although asked for latents
CLOSES = ("wan_first_frame", "wuerstchen_prior", "kandinsky22_prior")
REFUSED = {
    ("ltx_image", ""): "it steps its later frames alone, in a variable that it makes in each turn",
    ("dit", "EulerDiscreteScheduler"): "it hands the scaled input of its network to the scheduler's step",
}
NOT_COMPARED = {
    ("flux_fill", "UniPCMultistepScheduler"): "the pipeline itself asks its scheduler for `scale_noise`",
    (
        "stable_audio",
        "CosineDPMSolverMultistepScheduler",
    ): "its noise is a Brownian path of its own (torchsde)",
}


@dataclass(frozen=True)
class Differences:
    """Largest difference, relative to the largest number: of the latents, and of gradients by name."""

    value: float
    gradients: dict[str, float]

    @property
    def gradient(self) -> float:
        """The largest."""
        return max(self.gradients.values())


@contextmanager
def with_scheduler(pipe: Any, make: Callable[[Any], Any] | None) -> Iterator[str]:
    """Another scheduler in the pipeline, and its name."""
    own = pipe.scheduler
    try:
        if make is not None:
            pipe.scheduler = make(pipe)
        yield type(pipe.scheduler).__name__
    finally:
        pipe.scheduler = own


@contextmanager
def noted_draws(like: Tensor) -> Iterator[list[Tensor]]:
    """What schedulers draw meanwhile, in the latents' shape."""
    draws: list[Tensor] = []

    def noting(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*args: Any, **kwargs: Any) -> Tensor:
            found = draw(*args, **kwargs)
            draws.append(found.reshape(like.shape) if found.numel() == like.numel() else found)
            return found

        return drawn

    modules = [m for name, m in list(sys.modules.items()) if name.startswith("diffusers.schedulers.")]
    with ExitStack() as stack:
        for each in modules:
            if hasattr(each, "randn_tensor"):
                stack.enter_context(mock.patch.object(each, "randn_tensor", noting(each.randn_tensor)))
        yield draws


def differences(case: PipelineCase, pipe: Any) -> Differences:
    """Of the pipeline as it stands."""
    own = case.enter is as_noised or any(word in case.name for word in OWN_START)
    call, x = asking(case, pipe), start(pipe, case).requires_grad_()
    wanted = [name for name in case.cond if name != FIXED.get(case.name)]
    cond = {name: call[name] for name in wanted}
    entering = replace(case, enter=_by_itself) if own else case
    with noted_draws(x) as draws:
        theirs = reference(pipe, entering, x, grad=True, **cond)
    with single():
        found = found_of(case, pipe)
        ours = _sampled(found, found.draw() if own else found.start(x), cond, draws)
        if case.name in CLOSES:
            ours = _closed(found, ours, cond)
    leaves = {} if own else {"latents": x}
    for name in wanted:
        given = call[name] if isinstance(call[name], list) else [call[name]]
        leaves |= {f"{name} {k}" if k else name: each for k, each in enumerate(given)}
    with single():  # replays too see the default dtype that their first calls saw
        pairs = [
            torch.autograd.grad(each.square().sum(), list(leaves.values()), allow_unused=True)
            for each in (ours, theirs)
        ]
    both = [(name, a, b) for name, a, b in zip(leaves, *pairs, strict=True) if b is not None]
    return Differences(far(ours, theirs), {name: far(a, b) for name, a, b in both})


def found_of(case: PipelineCase, pipe: Any) -> DiffusersPipeline:
    """The case through from_diffusers."""
    call = {name: _detached(value) for name, value in case.call(pipe).items()}
    return from_diffusers(pipe, case.steps, **call, generator=torch.Generator().manual_seed(SEED))


def far(a: Tensor | None, b: Tensor) -> float:
    """The largest difference by the largest number."""
    if a is None:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=torch.finfo(b.dtype).tiny))


def _sampled(found: DiffusersPipeline, x: Tensor, cond: Any, draws: list[Tensor]) -> Tensor:
    noise = None
    if found.plan.stochastic:
        wide = [torch.cat([d, d], 1) if d.shape != x.shape else d for d in draws[: found.plan.slots]]
        noise = torch.stack(wide).to(x)
    return found.end(sample(found.model, found.plan, x, cond=cond, noise=noise))


def _closed(found: DiffusersPipeline, x: Tensor, cond: Any) -> Tensor:
    loop, variables = found.loops.of(cond, len(x))
    given = {loop.code.source.state: x, "return_dict": False}
    return loop.code.played(loop.code.closing, variables, **given)[0]


@contextmanager
def _by_itself(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The pipeline draws its own start."""
    yield {}


def _detached(value: Any) -> Any:
    return [_detached(each) for each in value] if isinstance(value, list) else (
        value.detach() if isinstance(value, Tensor) else value
    )  # fmt: skip
