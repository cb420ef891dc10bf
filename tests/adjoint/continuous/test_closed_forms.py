"""T1 to T4 and T10 of the reference: Gaussian data N(m, s^2), where every sensitivity is known."""

import math

import pytest
import torch
from problems import PROCESS

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Direct, PerStep, Reversible, States, sample
from pullback.solvers import (
    BDIA,
    DDPM,
    NOISE,
    OBELM,
    Combine,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    ReversibleHeun,
    UniformLambda,
    encode,
    run,
)

M, S = 0.7, 0.6
ENDS = {"start": 0.95, "end": 0.02}
ODE = [
    (Checkpoint(), DPMSolverPP(3, exact=True, starter=True), 1e-5),
    (Reversible(), ReversibleHeun(), 1e-3),
    (Continuous(), DPMSolverPP(2), 1e-3),
    (Continuous(states=States.RESOLVED), DPMSolverPP(2), 2e-3),
    (AdjointDEIS(2), DPMSolverPP(2), 1e-2),
]


def gaussian(m, s):
    """eps(x, t) = sigma (x - alpha m) / v, m through the conditioning."""

    def eps(x, t, cond):
        a, sd = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        return sd * (x - a * cond["m"]) / (a * a * cond["s"] ** 2 + sd * sd)

    return Denoiser(eps, PROCESS, NOISE), {"m": m, "s": s}


def at(t, s: float | torch.Tensor = S):
    t = torch.as_tensor(t)
    a, sd = PROCESS.alpha(t), PROCESS.sigma(t)
    return a, a * a * s * s + sd * sd


@pytest.mark.parametrize("strategy, method, tolerance", ODE, ids=lambda v: str(v)[:22])
def test_flow_and_its_parameters(strategy, method, tolerance):
    """T1: x_0 and dx_0/dx_T = sqrt(v_0/v_T); T2: derivatives for the mean and the standard deviation of the data."""
    plan = method.plan(PROCESS, UniformLambda(200, **ENDS))
    (a_0, v_0), (a_t, v_t) = at(ENDS["end"]), at(ENDS["start"])
    m, s, x = (torch.tensor(v, requires_grad=True) for v in (M, S, [[1.3]]))
    model, cond = gaussian(m, s)
    out = sample(model, plan, x, cond=cond, gradient=strategy)
    root = (v_0 / v_t).sqrt()
    assert float(out) == pytest.approx(float(a_0 * M + root * (1.3 - a_t * M)), rel=1e-3)
    got = [float(g) for g in torch.autograd.grad(out.sum(), [x, m, s])]
    width = torch.tensor(S, requires_grad=True)
    (slope,) = torch.autograd.grad((at(ENDS["end"], width)[1] / at(ENDS["start"], width)[1]).sqrt(), width)
    want = [float(root), float(a_0 - a_t * root), float((1.3 - a_t * M) * slope)]
    assert got == pytest.approx(want, rel=tolerance)


@pytest.mark.parametrize("strategy, method, tolerance", ODE, ids=lambda v: str(v)[:22])
def test_scheduled_mean_of_the_flow(strategy, method, tolerance):
    """T3: moving m on [t1, t2] moves x_0 by sqrt(v_0) (alpha_1/sqrt(v_1) - alpha_2/sqrt(v_2))."""
    plan = method.plan(PROCESS, UniformLambda(200, **ENDS))
    rows = torch.full((200, 1, 1), M, requires_grad=True)
    model, _ = gaussian(None, None)
    out = sample(
        model, plan, torch.tensor([[1.3]]), cond={"m": PerStep(rows), "s": torch.tensor(S)}, gradient=strategy
    )
    (grad,) = torch.autograd.grad(out.sum(), rows)
    _, v_0 = at(ENDS["end"])
    (a_1, v_1), (a_2, v_2) = at(plan.times[120]), at(plan.times[60])
    want = v_0.sqrt() * (a_1 / v_1.sqrt() - a_2 / v_2.sqrt())
    # multistep rows reach one step over the edges of the interval
    assert float(grad[60:120].sum()) == pytest.approx(float(want), rel=max(0.02, tolerance))


@pytest.mark.parametrize("states", [States.RECORDED, States.INTEGRATED], ids=lambda s: s.name)
@pytest.mark.parametrize("method", [ReversibleHeun(), BDIA(), OBELM()], ids=lambda m: type(m).__name__)
def test_staggered_runs_keep_the_second_order(method, states):
    """T2's derivative for the standard deviation, which hangs on the states: x half a step on would make it order 1."""
    width = torch.tensor(S, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((at(ENDS["end"], width)[1] / at(ENDS["start"], width)[1]).sqrt(), width)
    want, errors = float((1.3 - PROCESS.alpha(ENDS["start"]) * M) * slope), []
    for n in (40, 80):
        m, s, x = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (M, S, [[1.3]]))
        plan = method.plan(PROCESS, UniformLambda(n, **ENDS))
        model, cond = gaussian(m, s)
        out = sample(model, plan, x, cond=cond, gradient=Continuous(method=DPMSolverPP(2), states=states))
        errors.append(abs(float(torch.autograd.grad(out.sum(), s)[0]) - want))
    assert math.log2(errors[0] / errors[1]) > 1.7


@pytest.mark.slow
def test_stochastic_runs():
    """T3 and T4 for the reverse SDE, on every path: dx_0/dx_T, dx_0/dxi_t and the effect of a scheduled mean."""
    n = 2000
    plan = DDPM().plan(PROCESS, UniformLambda(n, **ENDS))
    x, rows = torch.tensor([[1.3], [-0.4]], requires_grad=True), torch.full((n, 1, 1), M, requires_grad=True)
    noise = torch.randn(n, 2, 1).requires_grad_()
    model, _ = gaussian(None, None)
    (a_0, v_0), (a_t, v_t) = at(ENDS["end"]), at(ENDS["start"])
    for strategy, tolerance in (
        (Checkpoint(), 0.01),
        (AdjointDEIS(), 0.06),
    ):  # first order, at different constants
        out = sample(
            model, plan, x, cond={"m": PerStep(rows), "s": torch.tensor(S)}, noise=noise, gradient=strategy
        )
        to_x, to_rows, to_noise = torch.autograd.grad(out.sum(), [x, rows, noise])
        assert to_x.flatten().tolist() == pytest.approx([float(v_0 / v_t * a_t / a_0)] * 2, rel=tolerance)
        (a_1, v_1), (a_2, v_2) = at(plan.times[1200]), at(plan.times[600])
        want = v_0 / a_0 * (a_1**2 / v_1 - a_2**2 / v_2)
        assert float(to_rows[600:1200].sum()) / 2 == pytest.approx(float(want), rel=tolerance)
        for k in (200, 1000, 1900):
            a, v = at(plan.times[k + 1])
            scale = next(
                op.noise[0][0]
                for op in plan.instructions[plan.starts[k] :]
                if isinstance(op, Combine) and op.noise
            )
            assert isinstance(scale, float)
            assert to_noise[k].flatten().tolist() == pytest.approx(
                [float(scale * v_0 / v * a / a_0)] * 2, rel=tolerance
            )


def test_likelihood_by_change_of_variables():
    """T10: log p_0(x_0) = log p_T(x_T) - log |det dx_0/dx_T|, against the Gaussian's own density."""
    torch.manual_seed(0)
    root = torch.randn(3, 3)
    mean, covariance = torch.randn(3), root @ root.T / 3 + 0.1 * torch.eye(3)
    data = Gaussian(mean, covariance)
    model, plan = (
        data.denoiser(PROCESS),
        DPMSolverPP(3, exact=True, starter=True).plan(PROCESS, UniformLambda(300, **ENDS)),
    )
    x = torch.randn(1, 3)
    (jacobian,) = torch.autograd.functional.jacobian(
        lambda v: (sample(model, plan, v, gradient=Direct())[0],), x
    )
    jacobian = torch.as_tensor(jacobian)[:, 0]
    ends = []
    for t, point in ((ENDS["start"], x), (ENDS["end"], run(model, plan, x))):
        a, sd = PROCESS.alpha(torch.tensor(t)), PROCESS.sigma(torch.tensor(t))
        law = torch.distributions.MultivariateNormal(a * mean, a * a * covariance + sd * sd * torch.eye(3))
        ends.append(float(law.log_prob(point)))
    assert ends[1] == pytest.approx(ends[0] - float(torch.linalg.slogdet(jacobian)[1]), abs=1e-4)


def test_determinant_of_a_reversible_map():
    """T10: on the pair of states the determinant is the product of the linear factors, whatever the network."""
    plan = ReversibleHeun().plan(PROCESS, UniformLambda(9, **ENDS))
    model = Denoiser(lambda x, t: torch.tanh(2 * x) + x.flip(1), PROCESS, NOISE)
    back, there = plan.inverse(), encode(model, plan, torch.randn(1, 2))

    def undone(pair):
        from pullback.solvers.loop import execute, predict
        from pullback.solvers.program import Program, prepare

        program = prepare(back, model, pair[:1])
        program = Program(back, tuple(item._replace(dead=()) for item in program.ops))
        out = execute(
            program,
            {"x": pair[:1], "y": pair[1:]},
            lambda call, state: predict(model, call, state, None),
            None,
        )
        return torch.cat([out["x"], out["y"]])

    jacobian = torch.autograd.functional.jacobian(undone, torch.cat([there["x"], there["y"]])).reshape(4, 4)
    sigma = PROCESS.sigma(torch.tensor([ENDS["start"], ENDS["end"]]))
    want = 2 * 2 * math.log(float(sigma[0] / sigma[1]))
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(want, rel=1e-7)
