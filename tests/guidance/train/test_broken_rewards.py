"""Rewards that break or arrive in odd clothes: NaN in an evaluation, half precision, lists and arrays."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from tuning import Pathwise, ScoreFunction, logged, reward, trainer

from pullback.guidance import (
    DDPO,
    Brightness,
    ClassifierReward,
    EmbeddingSimilarity,
    FunctionReward,
    JPEGSize,
    LinearReward,
    OverBatch,
    OverGroup,
    PerPrompt,
    QuadraticReward,
    Reward,
    Saturation,
    Scale,
)
from pullback.guidance.objectives.advantages import batch_advantages, group_advantages
from pullback.guidance.rewards.asked import MeteredReward, evaluate_reward
from pullback.guidance.rewards.base import Affine, as_reward

HALVES = (torch.float16, torch.bfloat16)


# NaN and infinity in evaluations


def spoilt(value: float, at: int = 5) -> Any:
    """The usual reward, but for one sample of a batch."""
    return lambda x, context: torch.where(torch.arange(len(x)) == at, value, reward(x))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("limit", [None, 2])
def test_an_evaluation_names_the_reward_and_the_sample_that_broke(tmp_path, value, limit):
    scored = spoilt(value, 1 if limit else 5)
    watched = trainer(tmp_path / "held", given={"heldout": {"judge": scored}}, limit=limit)
    with pytest.raises(
        FloatingPointError, match=rf"judge: {value} for sample \d of \d.*evaluation samples 0 to"
    ):
        watched.evaluate()
    with pytest.raises(FloatingPointError, match=f"reward: {value}"):
        trainer(tmp_path / "own", scored=scored, limit=limit).evaluate()


def test_a_reward_that_looks_for_itself_is_named_too(tmp_path):
    looks = FunctionReward(spoilt(torch.nan))
    with pytest.raises(FloatingPointError, match=r"judge: .*samples \[5\]"):
        trainer(tmp_path, given={"heldout": {"judge": looks}}).evaluate()


def test_a_broken_evaluation_enters_neither_the_log_nor_early_stopping(tmp_path):
    """Nor do the statistics of an objective take in the 0 that stood for a broken reward of a rollout."""
    calls = iter(range(99))

    def breaks(x: Tensor, context: Any) -> Tensor:
        return spoilt(torch.nan)(x, context) if next(calls) == 1 else reward(x)

    got = trainer(tmp_path, iterations=6, patience=2, given={"heldout": {"judge": breaks}})
    with pytest.raises(FloatingPointError, match=r"iteration 2: .*judge: nan for sample 5"):
        got.train()
    rows = [row for row in logged(tmp_path) if row["kind"] == "evaluation"]
    assert [row["iteration"] for row in rows] == [0] and got.decline.best == {"judge": rows[0]["judge"]}
    assert got.decline.count == {"judge": 0}

    calls, objective = iter(range(99)), ScoreFunction()
    got = trainer(tmp_path / "rollout", objective, scored=breaks, evaluate_every=None)
    with pytest.raises(FloatingPointError, match="iteration 1: .*reward: nan for sample 5"):
        got.train()
    assert objective.seen == 8


@pytest.mark.parametrize("name", ["reward", "kl", "diversity", "saturated", "kl_note", "kl_se", "judge_se"])
def test_a_heldout_reward_may_not_take_the_name_of_a_figure(tmp_path, name):
    with pytest.raises(ValueError, match=f"heldout: got '{name}'.*rename"):
        trainer(tmp_path, given={"heldout": {name: reward}})


# half precision


@pytest.mark.parametrize("dtype", HALVES)
def test_advantages_of_half_rewards_are_those_of_float32(dtype):
    """512 rewards near 20: in bfloat16 alone their mean is off by more than their spread."""
    rewards = (20 + 0.3 * torch.randn(512, dtype=torch.float32)).to(dtype)
    groups = torch.arange(512) // 8
    for made in (OverBatch(), OverGroup(), OverBatch(Scale.NONE), OverGroup(Scale.BATCH), PerPrompt(16, 4)):
        got = made(rewards, groups)
        again = type(made)(16, 4) if isinstance(made, PerPrompt) else made
        want = again(rewards.double(), groups)
        assert got.dtype is torch.float32
        assert torch.allclose(got.double(), want, rtol=1e-4, atol=1e-4), made
        assert float(got.mean().abs()) < 1e-5


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 20.1, -1e4 / 3])
def test_equal_rewards_have_no_advantage(dtype, value):
    """Not even the rounding of their mean, which an eps of 1e-8 would blow up to 1."""
    rewards, groups = torch.full((7,), value, dtype=dtype), torch.zeros(7, dtype=torch.long)
    for made in (OverBatch(), OverGroup(), PerPrompt(8, 2), OverGroup(Scale.NONE)):
        assert float(made(rewards, groups).abs().max()) < 1e-3, made


def test_float64_rewards_keep_what_they_have():
    rewards, groups = (
        torch.tensor([1.0, 1.0 + 1e-12, 1.0 - 1e-12], dtype=torch.float64),
        torch.zeros(3).long(),
    )
    assert batch_advantages(rewards, Scale.NONE).dtype is torch.float64
    assert float(group_advantages(rewards, groups, Scale.NONE)[1]) == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_reward_in_half_precision_leaves_in_float32(dtype):
    x = torch.randn(6, 2, dtype=torch.float32)

    def half(x: Tensor, context: Any) -> Tensor:
        return (20 + x.sum(1)).to(dtype)

    for asked in (MeteredReward(half), as_reward(half), lambda x, c: evaluate_reward(half, x, c)):
        assert asked(x, None).dtype is torch.float32
    leaf = x.clone().requires_grad_()
    evaluate_reward(half, leaf, None, differentiable=True).sum().backward()
    assert leaf.grad is not None and bool((leaf.grad == 1).all())
    # a composition must not round in between: (r - 20) / 0.01 in half has steps of 1.6 (float16) and 12 (bfloat16)
    composed = as_reward(half).normalise(20.0, 0.01)
    assert isinstance(composed, Affine)
    assert torch.equal(composed(x), 100 * half(x, None).float() - 2000)


class Halved(torch.nn.Module):
    """A classifier in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "scored",
    [
        Brightness(),
        Saturation(),
        JPEGSize(),
        LinearReward(torch.ones(64)),
        QuadraticReward(torch.ones(64)),
        ClassifierReward(Halved(), 0),
        EmbeddingSimilarity(Halved(), torch.tensor([1.0, 0.5])),
    ],
    ids=lambda reward: type(reward).__name__,
)
def test_rewards_of_half_samples_are_no_coarser_than_float32(dtype, scored: Reward):
    """The reward of the samples as they are, not rounded to their few digits once more."""
    x = torch.randn(5, 1, 8, 8, dtype=torch.float32).clamp(-1, 1).to(dtype)
    got = scored(x)
    assert got.dtype is torch.float32
    if not isinstance(scored, (ClassifierReward, EmbeddingSimilarity)):  # their networks compute in half
        assert torch.allclose(got, scored(x.float()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("value", [20.0, 0.1])
def test_constant_half_rewards_give_a_finite_loss(tmp_path, dtype, value):
    def constant(x: Tensor, context: Any) -> Tensor:
        return torch.full((len(x),), value, dtype=dtype)

    got = trainer(tmp_path, DDPO(), scored=constant, iterations=2, clip=None, dtype=torch.float32)
    got.train()
    for row in logged(tmp_path):
        assert row["reward"] == pytest.approx(float(torch.tensor(value, dtype=dtype)))
        assert abs(row.get("loss", 0.0)) < 1e-3 and row.get("reward_std", 0.0) < 1e-5


def test_figures_of_float64_rewards_are_float64(tmp_path):
    def near(x: Tensor, context: Any) -> Tensor:
        return 1e6 + 1e-4 * reward(x.double())

    given: dict[str, Any] = dict(scored=near, dtype=torch.float32, iterations=1)
    assert trainer(tmp_path / "usual", ScoreFunction(), **given).config.value_range == (-1.0, 1.0)
    found = trainer(tmp_path, ScoreFunction(), value_range=(0.0, 0.3), **given).evaluate()
    want = near(found.x, None)
    assert found.figures["reward"] == pytest.approx(float(want.mean()), rel=1e-14)
    assert found.figures["reward_se"] == pytest.approx(float(want.std() / 8**0.5), rel=1e-4)
    outside = (found.x <= 0) | (found.x >= 0.3)
    assert (
        found.figures["saturated"] == float(outside.double().mean()) and 0 < outside.sum() < outside.numel()
    )


# other kinds of numbers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda v: v.tolist(),
        lambda v: tuple(v.tolist()),
        lambda v: v.numpy(),
        lambda v: v.double().numpy(),
        lambda v: list(v.numpy()),
        lambda v: list(v),
        lambda v: [t.requires_grad_() for t in v.clone().unbind()],
    ],
    ids=[
        "list",
        "tuple",
        "float32 array",
        "float64 array",
        "numpy scalars",
        "tensors",
        "tensors with a graph",
    ],
)
def test_one_number_a_sample_is_enough_where_no_gradient_is_needed(tmp_path, wrap):
    x = torch.randn(4, 2, dtype=torch.float32)

    def scored(x: Tensor, context: Any) -> Any:
        return wrap(reward(x.detach().float()))

    for asked in (MeteredReward(scored), as_reward(scored), lambda x, c: evaluate_reward(scored, x, c)):
        got = asked(x, None)
        assert isinstance(got, Tensor) and got.shape == (4,) and not got.requires_grad
        assert torch.allclose(got.float(), reward(x)) and got.dtype in (torch.float32, torch.float64)
    trainer(tmp_path, ScoreFunction(), scored=scored, iterations=1).train()
    with pytest.raises(ValueError, match=r"reward: got .*gradient.*differentiable.*DDPO"):
        trainer(tmp_path / "pathwise", Pathwise(), scored=scored, iterations=1, evaluate_every=None).train()


def test_integers_count():
    x = torch.zeros(3, 2, dtype=torch.float16)
    kinds: list[Any] = [[1, 2, 3], np.array([1, 2, 3]), torch.tensor([1, 2, 3]), [True, False, True]]
    for values in kinds:
        got = evaluate_reward(lambda x, c, values=values: values, x)
        assert got.dtype in (torch.float32, torch.float64) and got.tolist() == [float(v) for v in values]


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [[1.0], [2.0], [3.0]], ["a", "b", "c"], 1.0, None, {1.0, 2.0, 3.0}]
)
def test_what_is_not_one_number_a_sample_is_refused(values):
    x = torch.zeros(3, 2)
    for ask in (lambda r: evaluate_reward(r, x), lambda r: MeteredReward(r)(x), lambda r: as_reward(r)(x)):
        with pytest.raises(ValueError, match=r"got .*expected .*\(3,\)"):
            ask(lambda x, context: values)
