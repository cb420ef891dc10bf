"""Networks of which other parts work at other times: every exact strategy has the gradient of the plain loop."""

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, equal, network, plan_for
from torch import nn

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import DATA, Denoiser

WHOLE = [s for s in EXACT if "Truncated" not in str(s)]
STRATEGIES = [*WHOLE, *(Checkpoint(memory_budget=n) for n in (1500, 2500, 10**6)), Checkpoint(recursive=True)]


class ByT(nn.Module):
    """One part for much noise, another for little; of the second a part may be missing, frozen or no network at all."""

    def __init__(self, late, both):
        super().__init__()
        self.early, self.late, self.both = network(), late, both

    def forward(self, x, t):
        noisy = float(t.max()) > 0.5
        if self.both:
            return self.late(x, t) + (self.early(x, t) if noisy else 0)
        return self.early(x, t) if noisy else self.late(x, t)


class Constant(nn.Module):
    def forward(self, x, t):
        return 0.3 * torch.ones_like(x)


NETWORKS = {
    "two experts": lambda: ByT(network(), False),
    "a block for much noise": lambda: ByT(network(), True),
    "a frozen expert": lambda: ByT(network().requires_grad_(False), False),
    "a constant": lambda: ByT(Constant(), False),
}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_goes_by_t_is_differentiated(name, strategy):
    net = NETWORKS[name]()

    def gradients(by):
        x = torch.ones(2, 3).requires_grad_()
        out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=by)
        wanted = [x, *(p for p in net.parameters() if p.requires_grad)]
        return torch.autograd.grad(out.square().sum(), wanted, materialize_grads=True)

    equal(gradients(strategy), gradients(Direct()), 1e-9)
