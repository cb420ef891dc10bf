"""DPOK: policy gradients with a clamped ratio and a learned value."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..rewards.base import RewardFunction
from .advantages import Advantages, OverBatch, Scale
from .objective import Batch, Experience, LossTerm, Policy
from .peers import World
from .policy_gradient import PolicyGradient
from .surrogate import clamped_loss


class StateValue(nn.Module):
    """V(x_k, k/N): a small network on the flattened state, initialised from `seed`."""

    def __init__(self, features: int, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        sizes = (features + 1, width, width, 1)
        layers = [
            nn.Linear(a, b, device="meta").to_empty(device="cpu")
            for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.net = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B,) from states (B, ...) and t = k/N (B,)."""
        own = next(self.parameters()).dtype
        return self.net(torch.cat([x.flatten(1), t[:, None]], 1).to(own))[:, 0].to(x.dtype)


class Critic:
    """A value network (x_k, k/N) -> (B,) with its optimiser, fitted to rewards by least squares.

    Every fit is one Adam step on one random step of every sample. Gradients are averaged over processes.
    """

    def __init__(self, net: nn.Module, lr: float = 1e-4, fits: int = 5) -> None:
        self.net, self.fits, self.optimiser = net, fits, torch.optim.Adam(net.parameters(), lr=lr)

    def value(self, states: Tensor, step: int) -> Tensor:
        """V at the opening of `step`, (B,), without a graph."""
        with torch.no_grad():
            return self.net(states[step], states.new_full((states.shape[1],), step / (len(states) - 1)))

    def fit(self, states: Tensor, reward: Tensor, world: World, generator: torch.Generator) -> float:
        """`fits` steps towards E[r | x_k]; returns the last mean squared error on this process."""
        n, size = len(states) - 1, states.shape[1]
        error = 0.0
        for _ in range(self.fits):
            drawn = torch.randint(n, (world.size * size,), generator=generator)[
                world.rank * size : (world.rank + 1) * size
            ]
            step = drawn.to(states.device)
            x = states[step, torch.arange(size, device=states.device)]
            with torch.enable_grad():
                loss = (self.net(x, (step / n).to(x.dtype)) - reward.detach()).square().mean()
                grads = torch.autograd.grad(loss, list(self.net.parameters()))
            flat = torch.cat([g.flatten() for g in grads])
            mean = world.gather(flat[None]).mean(0) if world.size > 1 else flat
            for p, g in zip(self.net.parameters(), mean.split([g.numel() for g in grads]), strict=True):
                p.grad = g.view_as(p)
            self.optimiser.step()
            error = float(loss.detach())
        return error


@dataclass(frozen=True, eq=False)
class DPOK(PolicyGradient):
    """-clip(rho, 1 - c, 1 + c) A_k with A_k = r - V(x_k, k): a clamped ratio, not PPO's minimum (`clamped_loss`).

    Without a critic A = r minus the batch's mean. The paper's KL is a mean squared difference of noise
    predictions, per step and unweighted; here it is in nats, KL.PATH by default, KL.PER_STEP nearer to the
    paper. Its defaults: 5 passes over each rollout (of 10 samples, reward weight 100, KL weight 0.01), clip
    1e-4 of the mean over D, critic of lr 1e-4 with 5 fits.

    Source: Fan et al. 2023, arXiv 2305.16381, algorithm 1 and released code. Arguments, cost:
    `PolicyGradient`.
    """

    advantages: Advantages = field(default_factory=lambda: OverBatch(Scale.NONE))
    passes: int = 5
    advantage_clip: float | None = None
    critic: Critic | None = None

    def surrogate(self, logprob: Tensor, old: Tensor | None, weight: Tensor) -> Tensor:
        assert old is not None
        return clamped_loss(logprob, old, weight, self.clip)

    def weights(self, experience: Experience, step: int) -> Tensor:
        if self.critic is None:
            return super().weights(experience, step)
        return experience.extra["values"][step]

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
        if self.critic is not None:
            found = torch.stack(
                [
                    experience.reward - self.critic.value(experience.states, k)
                    for k in range(policy.plan.steps)
                ]
            )
            if self.advantage_clip is not None:
                found = found.clamp(-self.advantage_clip, self.advantage_clip)
            experience.extra["values"] = found
            self.critic.fit(experience.states, experience.reward, world, generator)
        yield from super().updates(policy, batch, experience, reward, world, generator)

    def state(self) -> dict[str, Any]:
        if self.critic is None:
            return super().state()
        return super().state() | copy.deepcopy(
            {"critic": self.critic.net.state_dict(), "critic_optimiser": self.critic.optimiser.state_dict()}
        )

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        if self.critic is not None:
            self.critic.net.load_state_dict(state["critic"])
            self.critic.optimiser.load_state_dict(state["critic_optimiser"])
