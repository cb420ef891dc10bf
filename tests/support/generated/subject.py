"""One generated run, ready to be made: by the library, or by a plain loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pullback.adjoint import Gradient, PerStep, sample
from pullback.solvers import (
    VP,
    ClassifierFree,
    Denoiser,
    GivenTimes,
    Method,
    Model,
    Plan,
    Prediction,
    Process,
    RectifiedFlow,
    coefficients,
)

from .inputs import Making, Materials
from .layouts import Layout
from .networks import Body
from .reference import Ancestral, Formula, Loop, by_numbers

Callback = Callable[[int, Any, Tensor], None]


@dataclass
class Subject:
    """What one run is made of, built anew for the library and for the plain loop from the same seed."""

    net: Body
    model: Model
    plan: Plan
    x: Tensor
    cond: Any
    controls: Tensor | None
    noise: Tensor | None
    scale: Tensor | float | None
    roots: dict[str, Tensor]
    loop: Loop
    history: dict[str, Tensor]
    layout: Layout
    numbers: Tensor | None = None
    callback: Callback | None = None

    def by_the_library(self, strategy: Gradient | None, x: Tensor | None = None) -> Tensor:
        more = {} if self.numbers is None else {"coefficients": self.numbers}
        x = self.x if x is None else x
        pack = self.layout.pack
        out = sample(
            self.model,
            self.plan,
            {name: pack(v) for name, v in {"x": x, **self.history}.items()} if self.history else pack(x),
            cond=self.cond,
            noise=None if self.noise is None else pack(self.noise),
            controls=None if self.controls is None else pack(self.controls),
            gradient=strategy,
            callback=self.callback,
            **more,  # type: ignore[arg-type]
        )
        return self.layout.unpack(out)


class Sampler(ABC):
    """A plan, and a plain loop that does the same. Attributes: end: the time that it ends at."""

    process: Process
    end: float = 0.1

    @abstractmethod
    def plan(self, times: Tensor) -> Plan:
        """The library's plan."""

    @abstractmethod
    def run(self, subject: Subject, x: Tensor, cut: int) -> Tensor:
        """The plain loop; what comes before step `cut` has no graph."""

    def stacked(self) -> bool:
        """Whether every sample has a grid of its own."""
        return False


@dataclass(frozen=True)
class ByFormula(Sampler):
    formula: Formula = Ancestral()
    process: Process = VP()
    per_sample: bool = False

    def plan(self, times: Tensor) -> Plan:
        return self.formula.method.plan(self.process, GivenTimes(times))

    def run(self, subject: Subject, x: Tensor, cut: int) -> Tensor:
        return self.formula.run(subject.loop, x, cut)

    def stacked(self) -> bool:
        return self.per_sample


@dataclass(frozen=True)
class ByNumbers(Sampler):
    """Any method; `learned`: its numbers are an input with a gradient."""

    method: Method
    process: Process = VP()
    learned: bool = False
    end: float = 0.1

    def plan(self, times: Tensor) -> Plan:
        return self.method.plan(self.process, GivenTimes(times))

    def run(self, subject: Subject, x: Tensor, cut: int) -> Tensor:
        numbers = None if subject.numbers is None else list(subject.numbers.unbind())
        return by_numbers(subject.plan, subject.loop, {"x": x, **subject.history}, cut, numbers)


@dataclass(frozen=True)
class Rest(ByNumbers):
    """A plan without its first step: it starts from what a multistep method remembers."""

    def plan(self, times: Tensor) -> Plan:
        return super().plan(times).split(1)[1]


@dataclass(frozen=True)
class Undone(ByNumbers):
    """The inverse of a reversible plan, from data to noise."""

    def plan(self, times: Tensor) -> Plan:
        return super().plan(times).inverse()


@dataclass(frozen=True)
class Recipe:
    """What `build` follows; `Case` is made of it."""

    ingredients: tuple[Any, ...]
    container: Callable[[Body], Any]
    prediction: Prediction
    sampler: Sampler
    steps: int
    batch: int
    dtype: torch.dtype
    guidance: Making
    state: Making
    cond: Making
    controls: Making
    layout: Layout
    noisy_leaf: bool
    seed: int

    @property
    def carried(self) -> torch.dtype:
        """The dtype of the state: float32 at least."""
        return torch.float32 if self.dtype == torch.bfloat16 else self.dtype


def build(recipe: Recipe, plainly: bool) -> Subject:
    """The run, for the plain loop or for the library."""
    torch.manual_seed(recipe.seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(recipe.dtype)
    try:
        net = Body(recipe.ingredients, recipe.dtype, plainly)
    finally:
        torch.set_default_dtype(before)
    plan, process = _plan(recipe), recipe.sampler.process
    m = Materials(net, recipe.batch, plan.steps, recipe.carried, {})
    m.x = recipe.state(m)
    assert m.x is not None
    cond, controls, scale = recipe.cond(m), recipe.controls(m), recipe.guidance(m)
    history = {name: m.leaf(name, *m.x.shape) for name in plan.entry if name != "x"}
    noise = torch.randn(plan.slots, *m.x.shape, dtype=recipe.carried) if plan.slots else None
    if noise is not None and recipe.noisy_leaf:
        m.roots["noise"] = noise.requires_grad_()
    low = recipe.dtype if recipe.dtype == torch.bfloat16 else None
    model: Model = Denoiser(
        recipe.layout.network(recipe.container(net)), process, recipe.prediction, dtype=low
    )
    if scale is not None:
        model = ClassifierFree(model, scale)
    roots = m.roots | {f"parameter {k}": p for k, p in net.named_parameters()} | net.captured
    roots = {name: root for name, root in roots.items() if root.requires_grad}
    subject = Subject(
        net,
        model,
        plan,
        m.x,
        cond,
        controls,
        noise,
        scale,
        roots,
        _loop(recipe, plan),
        history,
        recipe.layout,
    )
    if isinstance(recipe.sampler, ByNumbers) and recipe.sampler.learned:
        subject.numbers = coefficients(plan, model).requires_grad_()
        roots["coefficients"] = subject.numbers
    _bind(subject, recipe)
    return subject


def _plan(recipe: Recipe) -> Plan:
    times = torch.linspace(0.9, recipe.sampler.end, recipe.steps + 1, dtype=torch.float64)
    if recipe.sampler.stacked():
        times = times[:, None] * torch.linspace(1.0, 0.95, max(recipe.batch, 1), dtype=torch.float64)
    return recipe.sampler.plan(times)


def _loop(recipe: Recipe, plan: Plan) -> Loop:
    times = torch.tensor(plan.times, dtype=torch.float64)

    def unbound(*args: Any) -> Tensor:
        raise AssertionError("the loop is not bound to a run")

    return Loop(recipe.sampler.process, recipe.prediction, times, unbound, unbound, unbound)


def _bind(subject: Subject, recipe: Recipe) -> None:
    """Give the loop this run's network, guidance, conditioning, controls and noise."""
    low = recipe.dtype if recipe.dtype == torch.bfloat16 else None

    whole, layout = recipe.layout.network(subject.net), recipe.layout

    def network(x: Tensor, t: Tensor, *cond: Any) -> Tensor:
        seen = layout.pack(x if low is None else x.to(low))
        return layout.unpack(whole(seen, t, *cond)).to(x.dtype)

    def predict(x: Tensor, t: Tensor, step: int) -> Tensor:
        seen = tree_map_only(PerStep, lambda leaf: leaf.values[step], subject.cond)
        args = () if seen is None else (seen,)
        if subject.scale is None:
            return network(x, t, *args)
        null, scale = network(x, t), torch.as_tensor(subject.scale)
        scale = scale.to(x).reshape(-1, *(1,) * (x.ndim - 1)) if scale.ndim else scale.to(x)
        return null + scale * (network(x, t, *args) - null)

    def opens(step: int, x: Tensor) -> Tensor:
        return x if subject.controls is None else x + subject.controls[step]

    def noise(slot: int) -> Tensor:
        assert subject.noise is not None
        return subject.noise[slot]

    subject.loop.predict, subject.loop.opens, subject.loop.noise = predict, opens, noise


# guidance: the scale of classifier-free guidance, or None


def unguided(m: Materials) -> Any:
    return None


def fixed_scale(m: Materials) -> Any:
    return 1.7


def leaf_scale(m: Materials) -> Any:
    m.roots["scale"] = torch.tensor(1.5, dtype=m.dtype).requires_grad_()
    return m.roots["scale"]


def scale_per_sample(m: Materials) -> Any:
    m.roots["scale"] = torch.linspace(0.5, 2.0, m.batch, dtype=m.dtype).requires_grad_()
    return m.roots["scale"]


def scale_of_the_network(m: Materials) -> Any:
    """Computed from a parameter of the network, which therefore enters twice."""
    raw = nn.Parameter(torch.tensor(0.3, dtype=m.dtype))
    m.net.register_parameter("raw", raw)
    m.net.enter.register_forward_hook(lambda module, args, out: out + raw.to(out))
    return 1 + raw


GUIDANCE: tuple[Making, ...] = (
    unguided, unguided, unguided, unguided, fixed_scale, leaf_scale, scale_per_sample, scale_of_the_network,
)  # fmt: skip
PROCESSES: tuple[Process, ...] = (VP(), RectifiedFlow())
