"""One core everywhere: what differentiates a run takes `gradient=`, and every exact strategy gives the same there."""

import inspect
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import consumers
import pytest
import torch
from consumers import (
    CALLS,
    EXACT,
    PLAIN,
    SERVES,
    WITHOUT,
    forgotten,
    method_for,
    public,
    refuses,
    takes_gradient,
)

from pullback.adjoint import Auto, Direct, Gradient, JacobianFree, Reversible, Truncated
from pullback.guidance import (
    DRaFT,
    Lookahead,
    Objective,
    Over,
    Prompt,
    Prompts,
    RewardTrainer,
    TrainConfig,
    optimise,
    steer,
)
from pullback.solvers import DDIM, EDMHeun

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(remember their starting noise|draw no noise and have no KL|draws none)"
)


@pytest.mark.parametrize("gradient", EXACT, ids=lambda each: str(each).partition(", memory")[0])
@pytest.mark.parametrize("name", SERVES)
def test_every_exact_strategy_serves_every_consumer_alike_or_is_refused_before_any_call(name, gradient):
    method = method_for(name, gradient)
    if refuses(name, gradient):
        CALLS[0] = 0
        with pytest.raises(ValueError):
            SERVES[name](gradient, method)
        assert CALLS[0] == 0
        return
    found, plain = (SERVES[name](each, method) for each in (gradient, PLAIN))
    assert len(found) == len(plain)
    for ours, theirs in zip(found, plain, strict=True):
        off = float((ours.detach() - theirs.detach()).abs().max())
        assert off <= EXACT[gradient] * max(1.0, float(theirs.detach().abs().max())), (name, off)


@dataclass(frozen=True)
class Seen(Direct):
    """As Direct, and remembers the steps of the runs it made."""

    runs: list[int] = field(default_factory=list, compare=False)

    def run(self, rollout, registers):
        self.runs.append(rollout.program.plan.steps)
        return super().run(rollout, registers)


@pytest.mark.parametrize("name", sorted(SERVES.keys() - {"DRaFTLV", "smc", "steer"}))
def test_the_strategy_that_is_given_is_the_one_that_runs(name):
    seen = Seen()
    SERVES[name](seen, method_for(name, seen))
    assert max(seen.runs, default=0) > 1


def test_draft_lv_has_nothing_to_choose_but_where_its_last_step_makes_two_calls():
    for method, runs in ((DDIM(), []), (EDMHeun(), [1, 1])):
        seen = Seen()
        SERVES["DRaFTLV"](seen, method)
        assert seen.runs == runs


def test_the_trainer_runs_its_objectives_strategy(tmp_path):
    seen = Seen()
    prompts = Prompts([Prompt(cond=torch.tensor(0.2))], shape=(4,), repeats=4)
    config = TrainConfig(
        tmp_path, iterations=1, samples=4, evaluate_every=None, tensorboard=False, progress=False
    )
    plan = consumers.plan_of(DDIM())
    found = RewardTrainer(
        consumers.model(), plan, DRaFT(gradient=seen), lambda x, _: -consumers.loss(x), prompts, config
    )
    found.check()
    assert seen.runs == [plan.steps]


def test_no_consumer_forgets_its_gradient():
    assert not list(forgotten(public()))
    assert WITHOUT.keys() <= public().keys() and not any(takes_gradient(public()[name]) for name in WITHOUT)


def test_one_that_forgets_it_is_missed():
    @dataclass(frozen=True)
    class Forgotten(Objective):
        def rollout(self, policy, batch, reward, world) -> Any: ...
        def updates(self, policy, batch, experience, reward, world, generator) -> Any: ...

    def forgets(denoiser, plan, x): ...

    def unswept(denoiser, plan, x, gradient=Auto()): ...

    new = {"Forgotten": Forgotten, "forgets": forgets, "unswept": unswept}
    assert list(forgotten({**public(), **new})) == list(new)


PUBLISHED = {
    "doodl": Reversible(),
    "advdiff": None,
    "regeneration_distance": None,
}  # defaults that a method's own text asks for


@pytest.mark.parametrize("name", sorted({name.partition(" with ")[0] for name in SERVES}))
def test_one_default_and_one_sentence(name):
    thing = public()[name]
    parameter = inspect.signature(thing).parameters["gradient"]
    assert parameter.default == PUBLISHED.get(name, Auto())
    said = " ".join(
        each.__doc__ or "" for each in (inspect.getmro(thing) if inspect.isclass(thing) else [thing])
    )
    by_another = ("`ode_inversion`", "`rf_inversion`", "`cycle_diffusion`")
    assert "gradient: the strategy that differentiates the run" in said or any(
        word in said for word in by_another
    )
    if is_dataclass(thing):
        assert "gradient" in {each.name for each in fields(thing)}


# what a strategy leaves out is refused where that is what is asked for
# ---------------------------------------------------------------------------------------------------------------

CUT = Truncated(2)
AT_X = ["optimise", "doodl", "reno", "Lookahead", "Purified", "advdiff", "EndToEnd", "LookaheadMorph"]


@pytest.mark.parametrize("name", AT_X)
def test_truncation_is_refused_where_x_is_what_moves(name):
    CALLS[0] = 0
    with pytest.raises(ValueError, match="truncation cuts x off"):
        SERVES[name](CUT, method_for(name, CUT))
    assert CALLS[0] == 0


@pytest.mark.parametrize("name", ["DRaFT", "AlignProp", "ReFL", "learn_schedule"])
def test_held_predictions_are_refused_where_weights_or_conditioning_move(name):
    CALLS[0] = 0
    with pytest.raises(ValueError, match="got (parameters|cond) to differentiate"):
        SERVES[name](JacobianFree(), method_for(name, JacobianFree()))
    assert CALLS[0] == 0


def test_truncation_serves_what_enters_late():
    given = {"steps": 2, "gradient": CUT, "progress": False}
    denoiser = consumers.model()
    plan = consumers.plan_of(method_for("optimise", CUT))
    found = optimise(
        denoiser,
        plan,
        consumers.loss,
        consumers.X,
        cond=torch.tensor(0.3),
        over=Over(x=False, cond=True),
        **given,
    )
    assert found.losses[1].sum() < found.losses[0].sum()


def test_lookahead_counts_what_its_strategy_costs():
    """At the first of 6 steps k = 5 leaves 3 calls in between: made once under Direct, twice under Checkpoint."""

    def calls(gradient: Gradient) -> tuple[int, int]:
        CALLS[0] = 0
        guide = Lookahead(consumers.loss, 5, gradient=gradient)
        run = steer(
            consumers.model(), consumers.plan_of(method_for("Lookahead", gradient), 6), consumers.X, guide
        )
        assert run.nfe == CALLS[0]
        return run.nfe, run.vjps

    direct, checkpoint = calls(PLAIN), calls(Auto())
    assert checkpoint == (direct[0] + 3 + 3 + 2 + 1, direct[1])
