"""Every strategy with a plan it runs on, and a small problem with every kind of input, shared by the sweeps.

A strategy is enrolled here: an exact one by a line in STRATEGIES, an approximation by a line in OWN_LAWS;
test_enrolment.py misses it otherwise.
"""

import torch
from problems import PROCESS
from torch import nn

from pullback.adjoint import (
    AdjointDEIS,
    Auto,
    Backsolve,
    Checkpoint,
    Continuous,
    Direct,
    Gradient,
    JacobianFree,
    Mechanism,
    Parallel,
    Reversible,
    SkipStraight,
    TorchDiffEq,
    TorchSDE,
    Truncated,
    sample,
)
from pullback.solvers import DATA, Denoiser, DPMSolverPP, Method, Plan, ReversibleHeun, UniformT

# swept over everything that can enter a run or come between its two passes
STRATEGIES: list[Gradient] = [
    Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Checkpoint(offload=True),
    Checkpoint(offload=True, mechanism=Mechanism.REGION), Truncated(3), Truncated(9, inner=Direct()),
    Truncated(3, inner=Reversible()), Reversible(), Continuous(), AdjointDEIS(),
]  # fmt: skip
REPLAYING = [s for s in STRATEGIES if "Direct" not in str(s)]
ESTIMATES = [s for s in STRATEGIES if isinstance(s, (Continuous, AdjointDEIS))]
EXACT = [s for s in STRATEGIES if s not in ESTIMATES]

# not swept: what is another gradient than the run's, or none of its own, or refuses much of what the sweeps bring; each
# with the law that holds it, as "file under tests::function"
OWN_LAWS: dict[type, str] = {
    AdjointDEIS: "adjoint/continuous/test_continuous.py::test_adjoint_deis_is_its_formula",
    Auto: "adjoint/test_enrolment.py::test_auto_is_checkpoint",
    Backsolve: "adjoint/bridges/test_bridges.py::test_gradient_against_the_closed_form",
    Continuous: "adjoint/continuous/test_closed_forms.py::test_flow_and_its_parameters",
    Parallel: "adjoint/parallel/test_parallel.py::test_everything_is_checkpoints",
    JacobianFree: "adjoint/test_jacobian_free.py::test_the_held_noise_gives_the_ratio_of_alphas",
    SkipStraight: "guidance/latents/test_endtoend.py::test_straight_stretches",
    TorchDiffEq: "adjoint/bridges/test_bridges.py::test_gradient_against_the_closed_form",
    TorchSDE: "adjoint/bridges/test_bridges.py::test_gradients_behind_torchsde",
}


def plan_for(strategy: Gradient, steps: int = 4) -> Plan:
    """A plan that `strategy` can differentiate; grids that end above t = 0."""
    method: Method = ReversibleHeun() if "Reversible" in str(strategy) else DPMSolverPP(2)
    return method.plan(PROCESS, UniformT(steps, start=0.9, end=0.05))


def plain(strategy: Gradient) -> Gradient:
    """What an exact strategy must equal."""
    return (
        Truncated(3, inner=Direct()) if isinstance(strategy, Truncated) and strategy.last == 3 else Direct()
    )


class Timed(nn.Module):
    """A network of x and t around any module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cat([x, t[:, None]], 1))


def network(*middle: nn.Module) -> Timed:
    """Three features in and out, with `middle` between its layers."""
    return Timed(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), *middle, nn.Linear(8, 3)))


def close(left, right, tolerance=1e-11):
    for a, b in zip(left, right, strict=True):
        assert a is b is None or torch.allclose(
            a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max())
        )


def equal(left, right, tolerance):
    """Autograd says None or zeros of a gradient that is zero, by the path that it takes."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None or b is not None]
    close(
        [torch.zeros_like(b) if a is None else a for a, b in pairs],  # type: ignore
        [torch.zeros_like(a) if b is None else b for a, b in pairs],  # type: ignore
        tolerance,
    )


class Inviting(nn.Module):
    """A network whose parameters are good for states and conditioning too."""

    def __init__(self):
        super().__init__()
        self.body, self.raw = network(), nn.Parameter(torch.tensor(0.3))
        self.start, self.style = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.full((3,), 0.7))

    def forward(self, x, t, cond=None):
        out = self.body(x, t) + self.style.sin() + 0.1 * self.start.mean()
        return out if cond is None else out * (1 + cond.tanh())


class Lora(nn.Module):
    """A linear layer with an adapter, its flags named as peft names them."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = (
            nn.Linear(8, 8).requires_grad_(False),
            nn.Linear(8, 2),
            nn.Linear(2, 8),
        )
        self._active_adapter, self._disable_adapters, self.merged_adapters, self.scaling = (
            ["style"],
            False,
            [],
            {"style": 0.5},
        )
        self.register_buffer("shift", torch.randn(8))

    def forward(self, x):
        out = self.base(x) + self.shift
        return (
            out
            if self._disable_adapters
            else out + self.scaling[self._active_adapter[0]] * self.up(self.down(x))
        )


class Conditioned(nn.Module):
    """Any conditioning: a tensor by name, class labels, an attribute that no record can know of."""

    def __init__(self):
        super().__init__()
        self.net, self.table, self.gain = network(Lora(), nn.Dropout(0.0)), nn.Embedding(5, 3), 1.0

    def forward(self, x, t, cond):
        return self.gain * self.net(x, t) * cond["scale"] + self.table(cond["label"])


def start(strategy, net=None, hidden=False, plan=None, **cond):
    """A run on a network with conditioning: (sample, network, what wants a gradient, conditioning, the rest)."""
    torch.manual_seed(0)
    net = net or Conditioned()
    x, controls = torch.randn(2, 3).requires_grad_(), torch.randn(4, 2, 3).requires_grad_()
    cond = cond or {"scale": torch.randn(3, requires_grad=True), "label": torch.tensor([1, 4])}
    called = (lambda x, t, cond: net(x, t, cond)) if hidden else net
    out = sample(
        Denoiser(called, PROCESS, DATA),
        plan or plan_for(strategy),
        x,
        cond=cond,
        controls=controls,
        gradient=strategy,
    )
    return (
        out,
        net,
        [cond["scale"], controls, *(p for p in net.parameters() if p.requires_grad)],
        cond,
        (x, controls),
    )
