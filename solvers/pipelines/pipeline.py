"""from_diffusers: a diffusers pipeline as a model and a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checked import checked
from ..grid import GivenTimes
from ..instructions import Combine, Evaluate
from ..kinds import described
from ..model import Denoiser
from ..notebook import form, one_line, table
from ..plan import Plan
from ..process import Process, as_time
from ..schedulers import SchedulerPlan, plan_from_scheduler
from ..schedulers.copying import copied
from ..schedulers.learned import HalfCall, widened
from ..wanted import Count
from .after import with_rest
from .compiled import PipelineCode, code_of
from .decoding import decoded
from .encoding import latents_of
from .network import OneForAll, PipelineTurn, TurnCall
from .opened import OpenedLoop, copies_of, encoded, fixed, known
from .prompts import is_negative, is_text
from .variables import LoopVariables

CALLBACKS = ("callback", "callback_on_step_end")


@dataclass(frozen=True, eq=False, repr=False)
class DiffusersPipeline:
    """A pipeline's sampler, and the ways into its latents and out of them.

    Attributes:
        model: one turn of the pipeline's own loop as a network. Conditioning is a dict of arguments of its call, which
            take the place of those that `from_diffusers` was given; None: those. One that no turn computes with raises
            ValueError, by name: an image that only starts the loop.
        plan: its scheduler's steps. Any other plan of `process` does in its place.
        scheduler: what was found of the scheduler.
        cond: what the pipeline makes of its prompts, by the names of its call's arguments.
        call: the arguments that `from_diffusers` was given.
        loops: the openings of the loop.
    """

    model: Denoiser
    plan: Plan
    scheduler: SchedulerPlan
    cond: dict[str, Tensor]
    call: dict[str, Any]
    loops: LoopVariables

    def __repr__(self) -> str:
        """One line; `_repr_html_` has what is in `cond`."""
        kind, scheduler, plan = (said for _, said in self._said()[:3])
        kind, scheduler = kind.removesuffix("Pipeline"), scheduler.removesuffix("Scheduler")
        return one_line(f"<{type(self).__name__}: {plan}, {kind}, {scheduler}>")

    def _repr_html_(self) -> str:
        return table((type(self).__name__, ""), self._said())

    def _said(self) -> list[tuple[str, str]]:
        told = [(f"cond[{name!r}]", form(value)) for name, value in self.cond.items()]
        steps = f"{self.plan.steps} steps, {self.plan.nfe} network calls"
        scheduler = type(self.loops.pipe.scheduler).__name__
        return [
            ("pipeline", type(self.loops.pipe).__name__),
            ("scheduler", scheduler),
            ("plan", steps),
            *told,
        ]

    @property
    def process(self) -> Process:
        """alpha and sigma of the latents."""
        return self.plan.process

    @property
    def grid(self) -> GivenTimes:
        """The scheduler's times, each once: for a plan of another method, `method.plan(found.process, found.grid)`."""
        levels = self.scheduler.label.both(as_time(self.plan.times))[1].tolist()
        if levels[-1] > levels[0]:
            return GivenTimes([t for k, t in enumerate(levels) if not k or t > max(levels[:k]) * (1 + 1e-5)])
        return GivenTimes([t for k, t in enumerate(levels) if not k or t < min(levels[:k]) * (1 - 1e-5)])

    @property
    def unit_plan(self) -> Plan:
        """The plan from unit noise, `found.draw() / found.scheduler.scale`: it begins with the scheduler's scale, 14.6
        for Stable Diffusion's Euler. For whoever optimises noise: step sizes and priors suppose N(0, I).
        """
        scale, plan = self.scheduler.scale, self.plan
        if scale == 1:
            return plan
        return replace(
            plan,
            instructions=(Combine("x", ((scale, "x"),)), *plan.instructions),
            starts=(0, *[k + 1 for k in plan.starts[1:]]),
        )

    def draw(self, generator: torch.Generator | None = None, batch: int | None = None) -> Tensor:
        """The pipeline's own starting latents (B, ...), noise or a noised image, as its plan takes them.

        Args:
            generator: as of the pipeline's call; None: the one that `from_diffusers` was given, or one of seed 0. What
                else the pipeline draws before its loop, the code of an image, is the latter's all the same.
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
            prompts: `prompt=`, `negative_prompt=` and what else its call takes, in place of what `from_diffusers` was
                given.
        """
        given = {name: value for name, value in self.call.items() if name not in self.cond}
        return encoded(self.loops.code, self.loops.pipe, {**given, **prompts})

    def decode(self, x: Tensor, cond: Any = None, *, checkpoint: bool = False) -> Tensor:
        """Pictures of latents x (B, ...), in the VAE's range, [-1, 1] but for overshoot; x itself where the pipeline
        samples pictures.

        Args:
            cond: as of the model, where the pictures depend on it: a first frame that is put back.
            checkpoint: the VAE is evaluated again in the backward pass, and its activations are not kept.
        """
        return decoded(*self.loops.of(cond, len(x)), self.end(x), checkpoint)

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, ...) of pictures in [-1, 1], as `decode` gives them and as the plan takes them: the mean of the
        VAE's code, or a draw by `generator`.

        Args:
            image: (B, C, H, W), (B, C, F, H, W) of videos; what the pipeline samples where it has no VAE.

        Raises:
            ValueError: another size, or a pipeline that puts other latents in the place of some of its own.
        """
        x = latents_of(self.loops.opened(None, len(image)), image, generator)
        return widened(x) if self._learned else x


@checked
def from_diffusers(pipe: Any, steps: Count | None = None, **call: Any) -> DiffusersPipeline:
    """What `pipe(**call, num_inference_steps=steps)` does, as a model and a plan that can be differentiated.

        found = from_diffusers(pipe, 20, prompt="a cat", guidance_scale=5.0)
        x = sample(found.model, found.plan, found.draw(generator), cond=found.cond)
        loss(found.decode(x)).backward()

    The source of the pipeline's `__call__` is split where its loop calls `scheduler.step`. What stands before the loop
    is run once for each conditioning, one turn of the loop is the network (guidance, rescaling, added conditions,
    ControlNets, IP-adapters and signs are the pipeline's own code), and what stands after it decodes. No family is
    known by name here. The user's pipeline is not changed: all is done on shallow copies of it, and a scheduler put in
    or an adapter set later is seen only where it is the networks' own.

    Args:
        pipe: a pipeline of diffusers 0.42, or of a later version.
        steps: `num_inference_steps`.
        call: further arguments of the pipeline's call: prompts or their embeddings, sizes, images, guidance_scale. A
            `generator` says which noise is drawn, before the loop too, and is not advanced.

    Returns:
        the model, the plan and the rest, see `DiffusersPipeline`.

    Raises:
        ValueError: a pipeline without such a loop, one that steps something else than its latents, or a scheduler that
            is no plan; the message names it. TypeError: no pipeline, or an argument that its call does not take.

    Gradients reach whatever tensors are in cond, and the parameters of the networks that the loop calls; of what stands
    before the loop (text encoders, a VAE that encodes an image, a T2I-Adapter) only cond is differentiated, and a later
    change of their weights is not seen. Cost: that part once, with
    the text encoders; a network call costs what the pipeline's costs.
    """
    code = _code(pipe)
    arguments = _arguments(code, steps, call)
    pipe = fixed(code, pipe)
    with torch.no_grad():
        cond = _conditioning(code, pipe, arguments)
    # a negative prompt stays text where guidance is off, and the pipeline does not encode it: it may be turned on
    spoken = {
        name for name in arguments if is_text(name) and any(is_negative(name) == is_negative(c) for c in cond)
    }
    told = {name: None if name in spoken else value for name, value in arguments.items()} | cond
    copies = copies_of(code)
    if (
        cond and copies is not None and copies in arguments
    ):  # some pipelines repeat no embeddings: `told` has as many
        each = int(arguments[copies])
        told |= {name: value.repeat_interleave(each, 0) for name, value in cond.items()} | {copies: 1}
    loops = LoopVariables(code, pipe, told, _rows(cond), cond)
    loop = loops.opened(None)
    found = _scheduler_plan(pipe, loop)
    if found.scales is not None and code.source.writes_state:
        raise ValueError(
            f"{code.source.name}: got {type(loop.scheduler).__name__}, expected a scheduler that does not scale the "
            "network's input: the pipeline hands the scaled one to its step, and ends elsewhere; take DDIMScheduler"
        )
    times = as_time([op.t for op in found.plan.instructions if isinstance(op, Evaluate)]).tolist()
    turn = TurnCall(found, times, code.source)
    model = Denoiser(
        PipelineTurn(loops),
        found.process,
        found.prediction,
        call=turn if found.calling is None else found.calling(turn),
        label=OneForAll(),
    )
    return DiffusersPipeline(model, with_rest(found.plan, loops), found, cond, arguments, loops)


def _arguments(code: PipelineCode, steps: int | None, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the pipeline's call, the number of steps among them."""
    if steps is not None and call.get("num_inference_steps", steps) != steps:
        raise ValueError(
            f"steps: got {steps} and num_inference_steps={call['num_inference_steps']}, expected one number"
        )
    called = sorted(name for name, value in call.items() if name in CALLBACKS and value is not None)
    if called:
        raise ValueError(
            f"{code.source.name}: got {called}, expected none: its own loop does not run; pass callback= to sample"
        )
    return known(code, call) | ({} if steps is None else {"num_inference_steps": steps})


def _conditioning(code: PipelineCode, pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """What stands for the prompts: the embeddings that were given, or those of the text; nothing where the pipeline
    would not take them back.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    texts = [
        value for name, value in given.items() if is_text(name) and "negative" not in name
    ]  # "" is one too
    if not texts:
        told = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        return {name: value for name, value in told.items() if "prompt" in name or "embeds" in name}
    found = encoded(code, pipe, arguments)
    prompts = len(texts[0]) if isinstance(texts[0], list) else 1
    taken_back = all(len(value) == prompts for name, value in found.items() if "embeds" in name)
    return found if taken_back else {}


def _rows(cond: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Those that have a row for each prompt, or one for all: some embeddings have layers in front."""
    first = cond.get("prompt_embeds")
    prompts = min((len(each) for each in cond.values()), default=1) if first is None else len(first)
    return tuple(name for name, value in cond.items() if len(value) in (1, prompts))


def _code(pipe: Any) -> PipelineCode:
    if isinstance(pipe, type) or not hasattr(pipe, "scheduler"):
        raise TypeError(
            f"pipe: got {described(pipe)}, expected a diffusers pipeline with a scheduler; load one"
        )
    return code_of(type(pipe))


def _scheduler_plan(pipe: Any, loop: OpenedLoop) -> SchedulerPlan:
    source = loop.code.source
    scheduler = getattr(pipe, source.scheduler.removeprefix("self."))
    if loop.timesteps is None:
        raise ValueError(f"{source.name}: got a loop without scheduler.set_timesteps, expected its timesteps")
    given = {name: value for name, value in loop.timesteps.items() if value is not None}
    fresh = copied(scheduler)
    fresh.set_timesteps(**given)
    own, changed = (getattr(each, "sigmas", None) for each in (fresh, loop.scheduler))
    if isinstance(own, Tensor) and isinstance(changed, Tensor) and not torch.equal(own, changed):
        raise ValueError(
            f"{source.name}: got noise levels that it changes after set_timesteps, expected its scheduler's own; set "
            'what it asks for there (final_sigmas_type="zero")'
        )
    every, labels = torch.as_tensor(loop.scheduler.timesteps), loop.labels
    begins = [k for k in range(len(every)) if torch.equal(every[k : k + len(labels)].to(labels), labels)]
    if not begins:
        raise ValueError(
            f"{source.name}: got a loop over {len(labels)} timesteps that are none of its scheduler's {len(every)}, "
            "expected some of those"
        )
    return plan_from_scheduler(scheduler, begin=begins[-1], turns=len(labels), **given, **loop.options())
