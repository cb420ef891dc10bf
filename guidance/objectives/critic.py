"""Critic: a learned value V(x_k), what reward to expect of a sample seen at step k; DPOK's baseline."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .peers import World


class StateValue(nn.Module):
    """V(x_k, k/N): a small network on the flattened state, initialised from `seed`."""

    def __init__(self, features: int, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        sizes = (features + 1, width, width, 1)
        # made on "meta", where nn.Linear draws nothing: its own start would come from the global generator
        layers = [nn.Linear(a, b, device="meta").to_empty(device="cpu") for a, b in pairwise(sizes)]
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
            step = world.own(torch.randint(n, (world.size * size,), generator=generator)).to(states.device)
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
