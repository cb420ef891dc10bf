"""Small things to fine-tune, shared by the trainer's tests: a network on 2-D data, a pathwise and a
score-function objective.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import torch
from problems import MIXTURE, PROCESS
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import (
    Batch,
    Experience,
    LossTerm,
    Objective,
    Policy,
    Prompt,
    Prompts,
    RewardFunction,
    RewardTrainer,
    TrainConfig,
    lora,
)
from pullback.guidance.objectives.peers import World
from pullback.solvers import DATA, DDIM, Addressed, Denoiser, Plan, Transitions, UniformT
from pullback.solvers.loop import predict
from pullback.solvers.program import prepare


class Net(nn.Module):
    """The mixture's exact data prediction and a small correction, shifted by a conditioning vector."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enter, self.leave = nn.Linear(5, 8, dtype=dtype), nn.Linear(8, 2, dtype=dtype)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        cond = torch.zeros_like(x) if cond is None else cond.to(x)
        exact = MIXTURE.denoise(x, PROCESS.alpha(t), PROCESS.sigma(t))
        return exact + 0.1 * self.leave(
            torch.tanh(self.enter(torch.cat([x, cond, t[:, None]], 1).to(self.enter.weight.dtype)))
        )


def plan(eta: float = 1.0, steps: int = 4) -> Plan:
    """A short DDIM run."""
    return DDIM(eta).plan(PROCESS, UniformT(steps))


def reward(x: Tensor, context: Any = None) -> Tensor:
    """Nearness to (1, 1)."""
    return -(x - 1).square().sum(1)


@dataclasses.dataclass
class Pathwise(Objective):
    """The gradient of the sample's reward, through the run, in two losses of which the second is a small pull to 0."""

    pull: float = 0.01

    def rollout(
        self, policy: Policy, batch: Batch, reward: RewardFunction, world: World
    ) -> Experience | None:
        return None

    def updates(
        self,
        policy: Policy,
        batch: Batch,
        experience: Experience | None,
        reward: RewardFunction,
        world: World,
        generator: torch.Generator,
    ) -> Iterator[Iterator[LossTerm]]:
        def losses() -> Iterator[LossTerm]:
            for weight in (None, self.pull):
                x = sample(
                    policy.denoiser,
                    policy.plan,
                    batch.x,
                    cond=batch.cond,
                    noise=batch.noise,
                    gradient=Checkpoint(),
                )
                if weight is None:
                    value = reward(x, batch.context)
                    yield LossTerm(-value.mean(), {}, value)
                else:
                    yield LossTerm(weight * x.square().mean(), {"norm": float(x.detach().square().mean())})

        yield losses()


@dataclasses.dataclass
class ScoreFunction(Objective):
    """REINFORCE with a running mean as the baseline, one random step (shared by all) of the chain in each of
    two updates.
    """

    baseline: float = 0.0
    seen: int = 0

    def rollout(
        self, policy: Policy, batch: Batch, reward: RewardFunction, world: World
    ) -> Experience | None:
        states: list[Tensor] = []
        x = sample(
            policy.denoiser,
            policy.plan,
            batch.x,
            cond=batch.cond,
            noise=batch.noise,
            gradient=None,
            callback=lambda k, t, x: states.append(x),
        )
        value = reward(x, batch.context)
        everyone = world.gather(value)
        self.seen += len(everyone)
        self.baseline += float((everyone - self.baseline).sum()) / self.seen
        return Experience(batch, value, torch.stack(states), value - self.baseline)

    def updates(
        self,
        policy: Policy,
        batch: Batch,
        experience: Experience | None,
        reward: RewardFunction,
        world: World,
        generator: torch.Generator,
    ) -> Iterator[Iterator[LossTerm]]:
        assert experience is not None and experience.states is not None
        chain, states = Transitions(policy.plan), experience.states
        program = prepare(policy.plan, policy.denoiser, batch.x)

        def losses(step: int) -> Iterator[LossTerm]:
            mean = chain.mean(
                program, lambda call, x: predict(policy.denoiser, call, x, batch.cond), list(states), step
            )
            std = float(chain.stds[step])  # type: ignore[arg-type]
            log_p = -((states[step + 1] - mean).square().sum(1)) / (2 * std**2)
            yield LossTerm(-(experience.extra * log_p).mean(), {"step": float(step)})

        for _ in range(2):
            yield losses(chain.stochastic[int(torch.randint(len(chain.stochastic), (), generator=generator))])

    def state(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "seen": self.seen}

    def load(self, state: dict[str, Any]) -> None:
        self.baseline, self.seen = state["baseline"], state["seen"]


def prompts(repeats: int = 2) -> Prompts:
    """Five directions."""
    turns = torch.linspace(0, 6, 5, dtype=torch.float64)
    return Prompts(
        [Prompt(torch.stack([t.cos(), t.sin()]), {"angle": t}) for t in turns], (2,), repeats=repeats
    )


def config(out: pathlib.Path | str, **changed: Any) -> TrainConfig:
    """Settings of a quick run."""
    usual: dict[str, Any] = dict(
        iterations=4,
        lr=1e-2,
        samples=8,
        evaluate_every=2,
        evaluation_samples=8,
        checkpoint_every=2,
        tensorboard=False,
        progress=False,
        ema=0.9,
    )
    return TrainConfig(out, **usual | changed)


def trainer(
    out: pathlib.Path | str,
    objective: Objective | None = None,
    *,
    full: bool = True,
    dtype: torch.dtype = torch.float64,
    eta: float = 1.0,
    scored: RewardFunction = reward,
    given: dict[str, Any] | None = None,
    **changed: Any,
) -> RewardTrainer:
    """A trainer of a fresh network: all of it, or adapters."""
    model = Denoiser(Net(dtype), PROCESS, DATA)
    model = model if full else lora(model, 2)
    return RewardTrainer(
        model, plan(eta), objective or Pathwise(), scored, prompts(), config(out, **changed), **given or {}
    )


def logged(folder: pathlib.Path | str) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (pathlib.Path(folder) / "log.jsonl").read_text().splitlines()]


def noise_of(batch: Batch) -> Addressed:
    """The batch's noise."""
    assert isinstance(batch.noise, Addressed)
    return batch.noise
