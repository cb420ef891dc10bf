"""Every public strategy stands under a law: in the exactness sweeps, or under one of its own that is named."""

import ast
import inspect
import pathlib
import typing

import pytest
import torch
from everything import GRID, assert_same, everything
from problems import MIXTURE, PROCESS
from strategies import ESTIMATES, EXACT, OWN_LAWS, STRATEGIES

from pullback import adjoint
from pullback.adjoint import Auto, Checkpoint, Direct, Gradient, Rollout
from pullback.adjoint.bridges.base import Inner
from pullback.solvers import DPMSolverPP, Plan

TESTS = pathlib.Path(__file__).parents[1]


def unenrolled(public: dict[str, object]) -> set[type]:
    """Strategies among `public` that no law holds: concrete classes, and what stands behind a bridge in their place."""
    found = {c for c in public.values() if inspect.isclass(c) and issubclass(c, Gradient)}
    found = {c for c in found if not inspect.isabstract(c)} | set(typing.get_args(Inner)) - {type(None)}
    return found - {type(strategy) for strategy in EXACT} - OWN_LAWS.keys()


def test_every_public_strategy_is_enrolled():
    assert not unenrolled({name: getattr(adjoint, name) for name in adjoint.__all__})


def test_a_strategy_that_nobody_enrolled_is_missed():
    class Forgotten(Direct):
        """As Direct."""

    public = {name: getattr(adjoint, name) for name in adjoint.__all__}
    assert unenrolled({**public, "Forgotten": Forgotten}) == {Forgotten}
    assert not unenrolled({**public, "Gradient": Gradient})  # abstract


def test_what_is_swept_as_exact_is_all_but_the_declared_estimates():
    """An approximation in the sweeps has a law of its own too; whatever else is swept must equal plain autograd."""
    assert {type(s) for s in ESTIMATES} <= OWN_LAWS.keys()
    assert {type(s) for s in EXACT}.isdisjoint(OWN_LAWS) and set(EXACT) | set(ESTIMATES) == set(STRATEGIES)


@pytest.mark.parametrize("strategy, law", OWN_LAWS.items(), ids=lambda v: getattr(v, "__name__", v))
def test_the_law_that_is_named_is_there_and_names_the_strategy(strategy, law):
    path, name = law.split("::")
    source = (TESTS / path).read_text()
    assert name in {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert strategy.__name__ in source


def test_auto_is_checkpoint():
    assert_same(everything(DPMSolverPP(2), Auto()), everything(DPMSolverPP(2), Checkpoint()), 0.0)
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    assert Auto().cost(plan) == Checkpoint().cost(plan)


def test_a_strategy_written_from_the_docstring_of_gradient():
    """The example there, pasted: the Jacobian of the last call, and the way around the others."""
    example = inspect.cleandoc(inspect.getdoc(Gradient).partition("at the others:")[2])  # type: ignore[union-attr]
    names: dict[str, typing.Any] = {"Gradient": Gradient}
    exec(f"from dataclasses import dataclass\n{example}", names)  # noqa: S102
    strategy: Gradient = names["LastCall"]()

    class ByHand(Direct):
        def run(self, rollout: Rollout, registers: adjoint.Registers) -> adjoint.Registers:
            def evaluate(call, state):
                with torch.set_grad_enabled(call.step == rollout.program.plan.steps - 1):
                    return rollout.evaluate(call, state)

            return rollout.execute(registers, evaluate)

        def cost(self, plan: Plan) -> tuple[int, int]:
            return plan.nfe, 1

    def grads(gradient):
        x = torch.ones(2, 2, requires_grad=True)
        plan = DPMSolverPP(2).plan(PROCESS, GRID)
        model = MIXTURE.denoiser(PROCESS)
        out = adjoint.sample(model, plan, x, gradient=gradient)
        return [out, *torch.autograd.grad(out.square().sum(), x)]

    assert_same(grads(strategy), grads(ByHand()))
    assert strategy.cost(DPMSolverPP(2).plan(PROCESS, GRID)) == (6, 1)
