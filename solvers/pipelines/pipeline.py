"""from_diffusers: a diffusers pipeline as a model and a plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checked import checked
from ..grid import GivenTimes
from ..instructions import Evaluate
from ..kinds import described
from ..model import Denoiser
from ..plan import Plan
from ..process import Process
from ..schedulers import SchedulerPlan, plan_from_scheduler
from ..schedulers.learned import HalfCall, widened
from ..wanted import Count
from .after import with_rest
from .compiled import PipelineCode, code_of
from .decoding import decoded, latents_of
from .network import OneForAll, PipelineTurn, TurnCall
from .opened import COPIES, OpenedLoop, encoded
from .variables import LoopVariables


@dataclass(frozen=True, eq=False)
class DiffusersPipeline:
    """A pipeline's sampler, and the ways in and out of its latents.

    Attributes:
        model: one turn of the pipeline's own loop as a network: conditioning is a dict of arguments of its call, which
            take the place of those that `from_diffusers` was given.
        plan: the scheduler's steps.
        cond: what the pipeline makes of its prompts, by the names of its call's arguments.
        texts: the prompts that `cond` stands for, as `from_diffusers` was given them.
    """

    model: Denoiser
    plan: Plan
    scheduler: SchedulerPlan
    cond: dict[str, Tensor]
    loops: LoopVariables
    texts: dict[str, Any]

    @property
    def process(self) -> Process:
        """alpha and sigma of the latents."""
        return self.plan.process

    @property
    def grid(self) -> GivenTimes:
        """The scheduler's noise levels, for another method: `method.plan(found.process, found.grid)`."""
        return self.scheduler.grid

    def draw(self, generator: torch.Generator | None = None, batch: int | None = None) -> Tensor:
        """The pipeline's own starting latents (B, ...), noise or a noised image, as its plan takes them.

        Args:
            generator: as of the pipeline's call; None: the one that `from_diffusers` was given, or one of seed 0.
            batch: samples; None: as many as there are prompts.
        """
        given = None if generator is None else {"generator": generator}
        x = self.loops.opened(given, batch).state
        return widened(x) if self._learned else x

    def start(self, latents: Tensor) -> Tensor:
        """Where the plan starts of `latents` (B, ...) as the pipeline's call takes them: what it makes of them before
        its loop, scaling and packing for one, differentiably; themselves where it takes none.
        """
        x = self.loops.started(latents)
        return widened(x) if self._learned else x

    def end(self, x: Tensor) -> Tensor:
        """The pipeline's latents of the state that the plan ends with: x itself, but where variances are learned."""
        return self.scheduler.end(x)

    @property
    def _learned(self) -> bool:
        return self.scheduler.calling is HalfCall

    def encode_prompt(self, **prompts: Any) -> dict[str, Tensor]:
        """Conditioning of prompts, as the pipeline encodes them; differentiable in the text encoders' weights.

        Args:
            prompts: `prompt=`, `negative_prompt=` and what else its call takes, in the place of those that
                `from_diffusers` was given.
        """
        given = {name: value for name, value in self.loops.arguments.items() if name not in self.cond}
        return encoded(self.loops.code, self.loops.pipe, {**given, **self.texts, **prompts})

    def decode(self, x: Tensor, cond: Any = None, *, checkpoint: bool = False) -> Tensor:
        """Pictures of latents x (B, ...), in the VAE's range, [-1, 1] but for overshoot; x itself where the pipeline
        samples pictures.

        Args:
            cond: as of the model, where the pictures depend on it: a first frame that is put back.
            checkpoint: the VAE is evaluated again in the backward pass, and its activations are not kept.
        """
        return decoded(*self.loops.of(cond, len(x)), self.end(x), checkpoint)

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, ...) of pictures in [-1, 1]: the mean of the VAE's code, or a draw by `generator`."""
        return latents_of(self.loops.opened(None, len(image)), image, generator)


@checked
def from_diffusers(pipe: Any, steps: Count | None = None, **call: Any) -> DiffusersPipeline:
    """`pipe(**call, num_inference_steps=steps)` as a model and a plan."""
    code = _code(pipe)
    arguments = dict(call)
    if steps is not None:
        arguments["num_inference_steps"] = steps
    with torch.no_grad():
        cond = _encoded(code, pipe, arguments)
    texts = {name: value for name, value in arguments.items() if _prompt(name, cond)}
    arguments = arguments | dict.fromkeys(texts) | cond
    loops = LoopVariables(code, pipe, arguments, tuple(cond))
    loop = loops.opened(None)
    found = _scheduler_plan(pipe, loop)
    times = [float(op.t) for op in found.plan.instructions if isinstance(op, Evaluate)]
    if found.scales is not None and code.source.writes_state:
        raise ValueError(
            f"{code.source.name}: got {type(loop.scheduler).__name__}, expected a scheduler that does not scale the "
            "network's input: the pipeline hands the scaled one to its step, and ends elsewhere; take DDIMScheduler"
        )
    call_ = TurnCall(found, times, code.source.counts)
    kind = found.calling
    model = Denoiser(
        PipelineTurn(loops),
        found.process,
        found.prediction,
        call=call_ if kind is None else kind(call_),
        label=OneForAll(),
    )
    return DiffusersPipeline(model, with_rest(found.plan, loops), found, cond, loops, texts)


def _encoded(code: PipelineCode, pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """What stands for prompts given as text; nothing where the pipeline would not take it back."""
    texts = [value for name, value in arguments.items() if name.rstrip("_0123456789") == "prompt" and value]
    if not texts:
        return {
            name: arguments[name]
            for name in arguments
            if isinstance(arguments[name], Tensor) and "embeds" in name
        }
    found = encoded(code, pipe, arguments)
    prompts = len(texts[0]) if isinstance(texts[0], list) else 1
    rows = {len(value) for name, value in found.items() if "embeds" in name}
    return (
        found
        if rows <= {prompts, prompts * next((arguments[c] for c in COPIES if c in arguments), 1)}
        else {}
    )


def _code(pipe: Any) -> PipelineCode:
    if isinstance(pipe, type) or not hasattr(pipe, "scheduler"):
        raise TypeError(
            f"pipe: got {described(pipe)}, expected a diffusers pipeline with a scheduler; load one"
        )
    return code_of(type(pipe))


def _prompt(name: str, cond: Mapping[str, Any]) -> bool:
    """Whether an argument is text that `cond` stands for."""
    return bool(cond) and name.rstrip("_0123456789") in ("prompt", "negative_prompt")


def _scheduler_plan(pipe: Any, loop: OpenedLoop) -> SchedulerPlan:
    source = loop.code.source
    scheduler = getattr(pipe, source.scheduler.removeprefix("self."))
    if loop.timesteps is None:
        raise ValueError(f"{source.name}: got a loop without scheduler.set_timesteps, expected its timesteps")
    given = {name: value for name, value in loop.timesteps.items() if value is not None}
    every, labels = torch.as_tensor(loop.scheduler.timesteps), loop.labels
    begins = [k for k in range(len(every)) if torch.equal(every[k : k + len(labels)].to(labels), labels)]
    if not begins:
        raise ValueError(
            f"{source.name}: got a loop over {len(labels)} timesteps that are none of its scheduler's {len(every)}, "
            "expected some of those"
        )
    return plan_from_scheduler(scheduler, begin=begins[-1], turns=len(labels), **given, **loop.options())
