"""RewardTrainer against a plain loop, its checks before training and its guards while training."""

import json
import math
import os
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from problems import PROCESS
from safetensors.torch import load_file
from torch import Tensor, nn
from tuning import Net, Pathwise, ScoreFunction, config, logged, noise_of, plan, prompts, reward, trainer

from pullback.adjoint import Checkpoint, CoupledSum, Direct, GridLevels, IndependentDraws, sample
from pullback.guidance import (
    DRaFT,
    End,
    FunctionReward,
    Prompt,
    Prompts,
    RewardTrainer,
    batch_arithmetic,
    lora,
)
from pullback.guidance.train.arithmetic import Arithmetic
from pullback.guidance.train.divergence import diverge
from pullback.solvers import DATA, DDIM, Denoiser, SDEDPMSolverPP, Transitions, UniformT, run
from pullback.solvers.loop import predict
from pullback.solvers.program import prepare
from pullback.zoo import denoiser as bundled


def model(seed: int = 0) -> Denoiser:
    return Denoiser(Net(seed=seed), PROCESS, DATA)


# batch arithmetic and prompts


@pytest.mark.parametrize("numbers, want", [
    ((8, 1, None, 2, 1), Arithmetic(1, 2, 1, 1, 8)),
    ((8, 3, 2, 2, 1), Arithmetic(1, 2, 3, 4, 2)),
    ((24, 1, 5, 4, 2), Arithmetic(2, 4, 1, 3, 8)),
    ((24, 1, 6, 3, 2), Arithmetic(2, 3, 1, 2, 12)),
])  # fmt: skip
def test_three_numbers_settle_the_batch(numbers, want):
    assert batch_arithmetic(*numbers) == want
    assert want.drawn == numbers[0] * numbers[1] and want.share * want.processes == want.piece


@pytest.mark.parametrize(
    "numbers, what",
    [
        ((9, 1, None, 2, 1), "multiple of 2"),
        ((6, 1, None, 2, 4), "multiple of 4"),
        ((16, 1, 3, 8, 2), "at least 4"),
    ],
)
def test_arithmetic_without_a_solution_says_what_to_change(numbers, what):
    with pytest.raises(ValueError, match=what):
        batch_arithmetic(*numbers)


def test_prompts_and_noise_depend_on_the_position_alone():
    source, like, run_plan = prompts(), torch.empty(0), plan()
    whole = source.batch(range(4, 14), run_plan, 3, like)
    parts = [source.batch(ids, run_plan, 3, like) for ids in (range(4, 7), range(7, 14))]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.cond, torch.cat([part.cond for part in parts]))
    assert torch.equal(whole.context["angle"], torch.cat([part.context["angle"] for part in parts]))
    assert torch.equal(noise_of(whole)(2, whole.x), torch.cat([noise_of(part)(2, part.x) for part in parts]))
    assert not torch.equal(whole.x, source.batch(range(4, 14), run_plan, 4, like).x)


def test_every_pass_takes_every_prompt_in_a_new_order_with_repeats_in_a_row():
    groups = prompts(repeats=3).batch(range(60), plan(), 0, torch.empty(0)).groups.reshape(4, 5, 3)
    assert bool((groups == groups[:, :, :1]).all())
    orders = groups[:, :, 0].tolist()
    assert (
        all(sorted(order) == list(range(5)) for order in orders)
        and len({tuple(order) for order in orders}) > 1
    )


def test_prompts_take_any_iterable_and_refuse_what_is_none():
    found = Prompts((Prompt(context="a cat") for _ in range(2)), (2,)).batch(
        [0, 1], plan(0.0), 0, torch.empty(0)
    )
    assert found.context == ["a cat"] * 2 and found.cond is None and found.noise is None
    with pytest.raises(ValueError, match="at least 1"):
        Prompts([], (2,))
    with pytest.raises(TypeError, match="Prompt"):
        Prompts(["a cat"], (2,))


# the loop


def by_hand(iterations: int, clip: float, lr: float, eta: float) -> nn.Module:
    """Pathwise training written out: plain autograd, one loss, one AdamW."""
    net, source, chain = Net(), prompts(), plan(eta)
    maker = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.0)
    for iteration in range(iterations):
        batch = source.batch(range(8 * iteration, 8 * iteration + 8), chain, 0, torch.empty(0))
        x = run(Denoiser(net, PROCESS, DATA), chain, batch.x, batch.cond, batch.noise)
        maker.zero_grad()
        (-reward(x).mean() + 0.01 * x.square().mean()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), clip)
        maker.step()
    return net


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_training_is_the_plain_loop(tmp_path, limit, eta):
    """Whatever the pieces: losses one by one, pieces of 2 samples, and one sum over all samples give the same
    weights.
    """
    got = trainer(tmp_path, eta=eta, limit=limit, clip=0.3, iterations=3)
    assert got.train() is End.ITERATIONS
    want = by_hand(3, 0.3, 1e-2, eta)
    for a, b in zip(got.weights.values(), want.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_levels_are_drawn_by_the_samples_own_positions(tmp_path):
    """With all samples on the fine grid training is that of the fine plan; with fewer it is another run, the same in
    pieces, after a restart, and at fewer calls.
    """

    def trained(name, objective, limit=None, iterations=2, **given):
        made = trainer(tmp_path / name, objective, eta=0.0, iterations=iterations, limit=limit)
        made.train(**given)
        return torch.cat([value.detach().flatten() for value in made.weights.values()])

    def across(*shares):
        allocation, draws = CoupledSum(shares), IndependentDraws()
        return DRaFT(levels=GridLevels(DDIM(), PROCESS, UniformT(4), (2, 4), allocation, draws))

    fine = trained("fine", DRaFT())
    assert torch.allclose(trained("all", across(1.0, 1.0)), fine, rtol=1e-9)
    some = trained("some", across(1.0, 0.5))
    assert not torch.allclose(some, fine, rtol=1e-3)
    assert torch.allclose(trained("pieces", across(1.0, 0.5), limit=2), some, rtol=1e-9)
    trained("again", across(1.0, 0.5), iterations=1)
    with warnings.catch_warnings(record=True):
        assert torch.equal(trained("again", across(1.0, 0.5), resume=True), some)


def test_training_earns_reward_at_a_price_in_nats(tmp_path):
    got = trainer(
        tmp_path, iterations=20, lr=5e-2, samples=16, evaluate_every=20, evaluation_samples=64, ema=None
    )
    got.train()
    before, after = (row for row in logged(tmp_path) if row["kind"] == "evaluation")
    assert after["reward"] > before["reward"] + 2 * math.hypot(before["reward_se"], after["reward_se"])
    assert before["kl"] == 0 and after["kl"] > 0.05 and after["diversity"] > 0


def test_the_average_is_folded_after_every_step(tmp_path):
    got = trainer(tmp_path, ema=0.8, iterations=1)
    before = {name: value.detach().clone() for name, value in got.weights.items()}
    got.train()
    assert got.average is not None
    for name, value in got.average.values.items():
        assert torch.allclose(value, 0.8 * before[name] + 0.2 * got.weights[name], atol=1e-15)


def test_the_trained_weights_return_although_the_evaluation_fails(tmp_path):
    def broken(x: Tensor, context: Any) -> Tensor:
        raise RuntimeError("scorer died")

    got = trainer(tmp_path, given={"heldout": {"broken": broken}}, evaluate_every=None, iterations=2)
    got.train()
    before = {name: value.detach().clone() for name, value in got.weights.items()}
    with pytest.raises(RuntimeError, match="scorer died"):
        got.evaluate()
    assert all(torch.equal(before[name], value) for name, value in got.weights.items())
    assert got.average is not None and any(
        not torch.equal(before[k], v) for k, v in got.average.values.items()
    )


def test_evaluations_see_fixed_noise_and_the_average(tmp_path):
    got = trainer(tmp_path, iterations=3, evaluate_every=None)
    first = got.evaluate()
    assert torch.equal(first.x, got.evaluate().x)
    got.train()
    plain = Net()
    plain.load_state_dict(got.average.values)  # type: ignore[union-attr]
    batch = prompts().batch(range(8), plan(), 0, torch.empty(0), 2**63)
    with torch.no_grad():
        want = run(Denoiser(plain, PROCESS, DATA), plan(), batch.x, batch.cond, batch.noise)
    found = got.evaluate()
    assert torch.allclose(found.x, want, atol=1e-12)
    assert found.figures["reward"] == pytest.approx(float(reward(want).mean()))
    assert found.figures["reward_se"] == pytest.approx(float(reward(want).std() / 8**0.5))
    distances = [float((want[i] - want[j]).norm()) for i in range(8) for j in range(i)]
    assert found.figures["diversity"] == pytest.approx(sum(distances) / len(distances))


def test_declining_heldout_reward_ends_training(tmp_path):
    got = trainer(
        tmp_path,
        iterations=60,
        lr=5e-2,
        evaluate_every=2,
        evaluation_samples=64,
        patience=2,
        ema=None,
        given={"heldout": {"opposite": lambda x, context: -reward(x)}},
    )
    assert got.train() is End.DECLINE and 4 <= got.done < 60
    assert got.checkpoints.latest() == tmp_path / "checkpoints" / f"iteration-{got.done:08d}"
    assert (
        trainer(tmp_path / "deaf", iterations=4, given={"heldout": {"same": reward}}, patience=1).train()
        is End.ITERATIONS
    )


def test_max_kl_ends_training(tmp_path):
    got = trainer(tmp_path, iterations=60, lr=5e-2, ema=None, max_kl=0.05)
    assert got.train() is End.MAX_KL
    kls = [row["kl"] for row in logged(tmp_path) if row["kind"] == "evaluation"]
    assert kls[-1] > 0.05 and all(kl <= 0.05 for kl in kls[:-1])


# guards


def test_a_reward_that_breaks_is_named_and_destroys_nothing(tmp_path):
    def breaks(x: Tensor, context: Any) -> Tensor:
        breaks.calls += 1  # type: ignore[attr-defined]
        value = reward(x)
        broken = breaks.calls == 4  # type: ignore[attr-defined]
        return torch.where(torch.arange(len(x)) == 5, torch.nan, value) if broken else value

    breaks.calls = 0  # type: ignore[attr-defined]
    got = trainer(tmp_path, scored=breaks, evaluate_every=None, iterations=9, checkpoint_every=1)
    with pytest.raises(
        FloatingPointError,
        match=r"iteration 3: not finite: reward: nan for sample 5 of 8.*iteration-00000003",
    ):
        got.train()
    whole = load_file(got.checkpoints.latest() / "weights.safetensors")  # type: ignore[operator]
    assert all(torch.equal(whole[name], value) for name, value in got.weights.items())


def test_a_gradient_that_breaks_is_named(tmp_path):
    got = trainer(tmp_path, evaluate_every=None)
    got.weights["leave.bias"].register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(FloatingPointError, match="iteration 0: not finite: gradient of leave.bias"):
        got.train()
    assert all(torch.equal(a, b) for a, b in zip(got.weights.values(), Net().parameters(), strict=True))


def test_a_sample_that_breaks_is_named(tmp_path):
    got = trainer(tmp_path, evaluate_every=None, checkpoint_every=1)

    def breaks(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return out * torch.nan if got.done == 2 else out

    next(got.denoiser.networks()).register_forward_hook(breaks)
    with pytest.raises(FloatingPointError, match=r"iteration 2: .*step 0.*iteration-00000002"):
        got.train()


def test_ends_that_cannot_come_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_kl.*no path KL"):
        trainer(tmp_path, eta=0.0, max_kl=1.0)
    with pytest.raises(ValueError, match="patience.*0 held-out"):
        trainer(tmp_path, patience=1)


def test_weights_that_do_not_move_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="did not change in the first step"):
        trainer(tmp_path, Pathwise(0.0), scored=lambda x, context: 0 * x.sum(1), iterations=1).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path / "moves", iterations=1).train()


# check


def test_check_leaves_everything_as_it_was(tmp_path, capsys):
    plain, checked = (trainer(tmp_path / name, ScoreFunction(), iterations=2) for name in "ab")
    found = checked.check()
    assert found.log_ratio == 0 and found.kl == 0 and found.gradient_norm > 0
    assert found.trained == found.total == 66 and found.weight_bytes == 66 * 8 * 5
    assert found.state_bytes == 8 * 2 * 8 * (4 + plan().held)
    assert (
        "8 samples a rollout = 1 updates x 1 accumulated pieces x 1 processes x 8" in capsys.readouterr().out
    )
    assert checked.objective.state() == {"baseline": 0.0, "seen": 0} and checked.reward.queries == 0
    plain.train()
    checked.train()
    assert all(
        torch.equal(a, b) for a, b in zip(plain.weights.values(), checked.weights.values(), strict=True)
    )


@pytest.mark.parametrize("objective, said", [
    (ScoreFunction(), "the objective differentiates no run"),
    (DRaFT(), "Auto keeps the activations of one call"),
    (DRaFT(gradient=Direct()), "Direct keeps the activations of every call"),
    (DRaFT(gradient=Checkpoint(memory_budget=10**9)), "what Checkpoint keeps of states"),
], ids=["none", "by default", "direct", "budget"])  # fmt: skip
def test_check_names_the_strategy_that_was_chosen(tmp_path, objective, said):
    assert said in str(trainer(tmp_path, objective).check())


class Dropped(Net):
    """With dropout on its output."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(x, t, cond), 0.1, self.training)


def test_check_finds_a_ratio_that_is_not_one(tmp_path):
    net = Dropped()
    checked = RewardTrainer(
        Denoiser(net, PROCESS, DATA), plan(), ScoreFunction(), reward, prompts(), config(tmp_path)
    )
    with pytest.raises(ValueError, match="dropout"):
        checked.check()
    net.eval()
    assert checked.check().log_ratio == checked.check().kl == 0


@pytest.mark.parametrize("scored, error, what", [
    (lambda x, context: x, ValueError, r"reward: got \(8, 2\), expected a tensor \(8,\)"),
    (lambda x, context: reward(x) * torch.nan, FloatingPointError, "reward: nan for sample 0"),
    # one that looks for itself must not raise on one process and leave the others waiting
    (FunctionReward(lambda x, context: reward(x) * torch.nan), FloatingPointError, "^not finite: reward: .*"),
    (lambda x, context: reward(x.detach()), ValueError, "differentiable"),
])  # fmt: skip
def test_check_refuses_a_reward_that_cannot_serve(tmp_path, scored, error, what):
    checked = trainer(tmp_path, scored=scored)
    with pytest.raises(error, match=what):
        checked.check()
    if "differentiable" in what:
        trainer(tmp_path, ScoreFunction(), scored=scored).check()


def test_nothing_to_train_is_refused(tmp_path):
    frozen = model()
    next(frozen.networks()).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        RewardTrainer(frozen, plan(), Pathwise(), reward, prompts(), config(tmp_path))


def test_a_reference_that_is_not_the_start_is_warned_of(tmp_path):
    checked = trainer(tmp_path, given={"reference": model(seed=1)})
    with pytest.warns(UserWarning, match="path KL"):
        assert checked.check().kl > 1e-3  # type: ignore[operator]


@pytest.mark.parametrize("method", [DDIM(1.0), DDIM(0.3), SDEDPMSolverPP(2)], ids=str)
def test_path_kl_is_that_of_the_gaussian_steps(method):
    """From means and standard deviations at the visited states, the multistep history included."""
    ours, base, chain = model(), model(seed=1), method.plan(PROCESS, UniformT(5))
    batch = prompts().batch(range(6), chain, 0, torch.empty(0))
    found = diverge(ours, base, chain, batch)
    states: list[Tensor] = []
    sample(
        ours,
        chain,
        batch.x,
        cond=batch.cond,
        noise=batch.noise,
        gradient=None,
        callback=lambda k, t, x: states.append(x),
    )
    steps, kl, ratio = Transitions(chain), torch.zeros(6), torch.zeros(6)
    with torch.no_grad():
        for k in steps.stochastic:
            m, m0 = (
                steps.mean(
                    prepare(chain, d, batch.x),
                    lambda call, x, d=d: predict(d, call, x, batch.cond),
                    states,
                    k,
                )
                for d in (ours, base)
            )
            s = steps.stds[k]
            assert isinstance(s, float)
            laws = [torch.distributions.Normal(mean, s) for mean in (m, m0)]
            kl += torch.distributions.kl_divergence(*laws).sum(1)
            ratio += (laws[1].log_prob(states[k + 1]) - laws[0].log_prob(states[k + 1])).sum(1)
    assert (
        torch.allclose(found.x, states[-1])
        and torch.allclose(found.kl, kl)
        and torch.allclose(found.log_ratio, ratio)
    )
    with pytest.raises(ValueError, match="no path KL"):
        diverge(ours, base, plan(0.0), batch)


# logs


def test_digits_with_adapters_and_pictures(tmp_path):
    """A real network, images in TensorBoard, and the plain statement that a deterministic plan has no path KL."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tuned = lora(bundled("digits"), 2, targets=r".*conv[12]")
    source = Prompts([Prompt(torch.tensor(k)) for k in range(3)], (1, 8, 8))
    chain = DDIM().plan(tuned.process, UniformT(3))
    got = RewardTrainer(
        tuned,
        chain,
        Pathwise(),
        lambda x, context: x.flatten(1).mean(1),
        source,
        config(tmp_path, iterations=1, samples=2, evaluate_every=1, evaluation_samples=4, tensorboard=True),
    )
    assert got.check().kl is None
    got.train()
    rows = logged(tmp_path)
    assert [row["kind"] for row in rows] == ["evaluation", "train", "evaluation"]
    assert rows[0]["kl"] is None and "no path KL" in rows[0]["kl_note"] and 0 < rows[0]["saturated"] < 1
    assert rows[1]["samples"] == 2 and rows[1]["reward_queries"] == 6
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"evaluation/reward", "train/loss", "evaluation/diversity"} <= set(events.Tags()["scalars"])
    assert len(events.Images(events.Tags()["images"][0])) == 4 or len(events.Tags()["images"]) >= 1


# without the extra

BARE = """
import builtins, sys
asked, real = set(), builtins.__import__
builtins.__import__ = lambda name, *rest, **given: asked.add(name.split(".")[0]) or real(name, *rest, **given)
for name in ("accelerate", "peft", "tensorboard", "transformers"):
    sys.modules[name] = None
import conftest, json, torch
torch.set_default_dtype(torch.float64)
import pullback.guidance as guidance
package = sorted(asked)
from tuning import Net, trainer
from pullback.solvers import DATA, VP, Denoiser
said = []
adapted = lambda: guidance.lora(Denoiser(Net(), VP(), DATA))
logged = lambda: trainer(sys.argv[1], tensorboard=True).train()
for attempt in (adapted, logged):
    try:
        attempt()
    except ImportError as error:
        said.append(str(error))
print(json.dumps([str(trainer(sys.argv[1]).train()), *said, package]))
"""


def python(code: str, *arguments: str) -> Any:
    """What `code` prints, as JSON."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parents[2]), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_one_process_trains_without_the_extra_and_what_needs_it_says_so(tmp_path):
    end, adapters, events, asked = python(BARE, str(tmp_path))
    assert end == "End.ITERATIONS" and "pullback[train]" in adapters and "pullback[train]" in events
    assert "solvers" in asked and not {"accelerate", "peft", "transformers", "tensorboard"} & set(asked), (
        asked
    )
