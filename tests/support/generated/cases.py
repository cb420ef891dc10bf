"""A generated case: a run, the strategy it is made with, and what is done with it. Hypothesis draws them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from hypothesis import strategies as st
from problems import every_method
from strategies import ESTIMATES, STRATEGIES

from pullback.adjoint import Checkpoint, Gradient, Mechanism, Reversible, Truncated
from pullback.solvers import (
    BDIA,
    DATA,
    FLOW,
    NOISE,
    OBELM,
    SCORE,
    VP,
    DPMSolverPP,
    Prediction,
    RectifiedFlow,
    ReversibleHeun,
    SASolver,
    UniPC,
    V,
)

from . import habits, ingredients, inputs
from .asks import ASKS, CHANGED, UNRECORDED, Ask, Backward, Functional, GradOfGrad, Value, nothing
from .containers import CONTAINERS, Container, module
from .layouts import PARTS, WHOLE, Layout
from .networks import Ingredient
from .reference import FORMULAS, FlowTwice, TwoM
from .subject import GUIDANCE, ByFormula, ByNumbers, Recipe, Rest, Sampler, Undone, unguided


@dataclass(frozen=True)
class Case(Recipe):
    """The defaults are the plainest run there is: what a failing case is reduced towards."""

    ingredients: tuple[Ingredient, ...] = ()
    container: Container = module
    prediction: Prediction = DATA
    sampler: Sampler = ByFormula()
    steps: int = 3
    batch: int = 2
    dtype: torch.dtype = torch.float64
    guidance: inputs.Making = unguided
    state: inputs.Making = inputs.leaf_state
    cond: inputs.Making = inputs.no_cond
    controls: inputs.Making = inputs.no_controls
    layout: Layout = WHOLE
    noisy_leaf: bool = False
    seed: int = 0
    strategy: Gradient | None = Checkpoint()
    ask: Ask = Backward()

    def __str__(self) -> str:
        """What differs from the plainest run."""
        own = [(f.name, getattr(self, f.name), f.default) for f in fields(self)]
        told = [f"{name}={_named(value)}" for name, value, usual in own if value != usual]
        return f"Case({', '.join(told)})"

    @property
    def features(self) -> frozenset[object]:
        """What is out of the ordinary, without the numbers and the plan."""
        own = (
            self.layout,
            self.guidance,
            self.state,
            self.cond,
            self.controls,
            type(self.ask),
            self.ask.change,
        )
        usual = {WHOLE, unguided, inputs.leaf_state, inputs.no_cond, inputs.no_controls, Backward, nothing}
        cut = (
            {Truncated} if isinstance(self.strategy, Truncated) and self.strategy.last < self.steps else set()
        )
        return frozenset({*own, *self.ingredients} - usual) | cut | ({"empty"} if not self.batch else set())

    def simpler(self) -> Iterator["Case"]:
        """The same with one thing less."""
        for k in range(len(self.ingredients)):
            yield replace(self, ingredients=self.ingredients[:k] + self.ingredients[k + 1 :])
        for f in fields(self):
            if f.name != "ingredients" and getattr(self, f.name) != f.default:
                yield replace(self, **{f.name: f.default})


def _named(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_named, value))}{',' * (len(value) == 1)})"
    return value.__name__ if callable(value) and hasattr(value, "__name__") else str(value)


def kinds(module: object) -> tuple[Ingredient, ...]:
    """One of each kind of ingredient that a module defines."""
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Ingredient)]
    return tuple(kind() for kind in found if kind is not Ingredient)


INGREDIENTS = kinds(ingredients) + kinds(habits)
MORE: list[Gradient] = [
    Checkpoint(recursive=True), Checkpoint(memory_budget=2000), Checkpoint(mechanism=Mechanism.TRAJECTORY),
    Truncated(1), Reversible(anchor=2),
]  # fmt: skip
LAYOUTS: tuple[Layout, ...] = (WHOLE, WHOLE, PARTS)
LIBRARY: list[Gradient | None] = [*STRATEGIES, *MORE, None]
REVERSIBLE = (ReversibleHeun(), BDIA(), OBELM())
PREDICTIONS = {VP(): (NOISE, DATA, V, SCORE), RectifiedFlow(): (DATA, NOISE, FLOW)}


@st.composite
def samplers(draw: st.DrawFn, strategy: Gradient | None) -> Sampler:
    """A plan that the strategy can differentiate."""
    if "Reversible" in str(strategy):
        kind = draw(st.sampled_from((ByNumbers, ByNumbers, Undone)))
        return kind(draw(st.sampled_from(REVERSIBLE)))
    if strategy in ESTIMATES:
        return ByFormula(TwoM())
    kind = draw(st.sampled_from(range(10)))
    if kind < 6:
        formula = draw(st.sampled_from(FORMULAS))
        flow = isinstance(formula, FlowTwice) or draw(st.booleans())
        return ByFormula(formula, RectifiedFlow() if flow else VP(), per_sample=kind == 0)
    if kind == 7:
        return draw(st.sampled_from(SPECIAL))
    if kind < 9:
        method = draw(st.sampled_from(_METHODS))
        return ByNumbers(method, RectifiedFlow() if type(method).__name__.startswith("Flow") else VP())
    return ByNumbers(DPMSolverPP(2), learned=True)


# the rest of a split plan, an inverse, and plans that end at sigma = 0
SPECIAL = (
    Rest(DPMSolverPP(2)), Rest(DPMSolverPP(3)), Undone(BDIA()), Undone(OBELM()), ByNumbers(UniPC(), end=0.0),
    ByNumbers(SASolver(2, 2, tau=0.0), end=0.0), ByNumbers(DPMSolverPP(2), RectifiedFlow(), end=0.0),
)  # fmt: skip
_METHODS = [m for m in every_method() if not m.stochastic]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any case: about a third of the networks are plain, a third of the asks are interrupted."""
    strategy = draw(st.sampled_from(LIBRARY))
    sampler = draw(samplers(strategy))
    some = draw(st.lists(st.sampled_from(INGREDIENTS), max_size=2, unique=True))
    case = Case(
        ingredients=tuple(some),
        container=draw(st.sampled_from(CONTAINERS)),
        prediction=draw(st.sampled_from(PREDICTIONS[sampler.process])),
        sampler=sampler,
        steps=draw(st.sampled_from((3, 4, 1, 2))),
        batch=draw(st.sampled_from((3, 2, 1, 3, 2, 3, 2, 3, 2, 0))),
        dtype=draw(st.sampled_from((torch.float64, torch.float64, torch.float32, torch.bfloat16))),
        guidance=draw(st.sampled_from(GUIDANCE)),
        state=draw(st.sampled_from(inputs.STATES)),
        cond=draw(st.sampled_from(inputs.CONDS)),
        controls=draw(st.sampled_from(inputs.CONTROLS)),
        layout=draw(st.sampled_from(LAYOUTS)),
        noisy_leaf=draw(st.booleans()),
        seed=draw(st.sampled_from(range(4))),
        strategy=strategy,
        ask=draw(st.sampled_from(ASKS * 4 + CHANGED)),
    )
    return _possible(case)


def _possible(case: Case) -> Case:
    """The nearest case that means something."""
    if case.strategy is None:
        case = replace(case, ask=Value())
    if isinstance(case.ask, Functional):
        case = replace(case, strategy=STRATEGIES[0], state=inputs.leaf_state)
    if case.dtype == torch.bfloat16 and isinstance(case.ask, GradOfGrad):  # nothing is left of its digits
        case = replace(case, dtype=torch.float32)
    if (
        case.dtype == torch.bfloat16 and case.ask.change in UNRECORDED
    ):  # seen by outputs alone, that differ by > 2 %
        case = replace(case, dtype=torch.float32)
    if case.sampler.stacked() and not case.batch:  # a grid has at least one column
        case = replace(case, batch=1)
    if case.state is inputs.half_state and case.dtype == torch.float64:
        case = replace(case, dtype=torch.float32)
    return case
