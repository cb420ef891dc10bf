"""The strategy that an objective is given is the one that differentiates its run, or it is refused."""

import pytest
from objectives import PROCESS, gradients, policy_on
from oracles import batch_of

from pullback.adjoint import Checkpoint, Continuous, CoupledSum, Direct, GridLevels, JacobianFree, Truncated
from pullback.guidance import AlignProp, DRaFT, DRaFTLV, ReFL
from pullback.solvers import DDIM, UniformLambda


class Counted(Direct):
    """`Direct`, which says that it ran."""

    ran = 0

    def run(self, rollout, registers):
        Counted.ran += 1
        return super().run(rollout, registers)


@pytest.mark.parametrize("kind", [DRaFT, AlignProp])
def test_levels_take_the_strategy(kind):
    plan = DDIM().plan(PROCESS, UniformLambda(4, start=1.0, end=0.02))
    levels = GridLevels(
        DDIM(), PROCESS, UniformLambda(2, start=1.0, end=0.02), (2, 4), CoupledSum((1.0, 0.5))
    )
    policy, batch = policy_on(plan), batch_of(plan, 2, 2, d=2)
    Counted.ran = 0
    gradients(kind(levels=levels, gradient=Counted()), policy, batch)
    assert Counted.ran


@pytest.mark.parametrize(
    "gradient", [Continuous(), JacobianFree(), Truncated(1)], ids=lambda g: type(g).__name__
)
@pytest.mark.parametrize("kind", [ReFL, DRaFTLV])
def test_one_call_has_nothing_to_choose(kind, gradient):
    policy = policy_on()
    with pytest.raises(ValueError):
        kind(gradient=gradient).check(policy)
    kind(gradient=Checkpoint()).check(policy)
    with pytest.raises(ValueError, match="one network call"):
        kind(gradient=gradient).check_one_call("the prediction", alone=True)
