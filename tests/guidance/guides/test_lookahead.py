"""Lookahead: between a guide that ignores the Jacobian and the gradient of the whole rollout."""

import pytest
import torch
from guides import ENDS, MATRIX, MODEL, PRIOR, PROCESS, SEEN, Spy
from torch.nn.functional import cosine_similarity

from pullback.adjoint import JacobianFree, sample
from pullback.guidance import Lookahead, Raw, Through, steer
from pullback.solvers import DATA, DDIM, Denoiser, FlowEuler, Mixture, RectifiedFlow, UniformLambda, UniformT

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2, 0.8], dtype=torch.float64)
HALF = torch.tensor(
    [[1.0, 0.2, 0.0, 0.3], [0.0, 0.7, 0.4, 0.0], [0.1, 0.0, 0.9, 0.2], [0.0, 0.3, 0.0, 0.5]],
    dtype=torch.float64,
)
COV = HALF @ HALF.T
ODE = DDIM().plan(PROCESS, UniformLambda(6, **ENDS))


# lookahead
# ---------------------------------------------------------------------------------------------------------------


def lookaheads(x, plan, model, loss, ks, step=0):
    """Gradients of `loss` at step `step` by each k."""
    found = {}

    def look(ctx):
        if ctx.step == step:
            for k in ks:
                ahead, pull = ctx.lookahead(k)
                found[k] = (ahead, pull(ctx.gradient(loss, ahead)[1]))

    steer(model, plan, x, Spy(look))
    return found


def test_the_longest_lookahead_is_the_gradient_of_the_rollout():
    plan = DDIM().plan(PROCESS, UniformT(7, start=0.9, end=0.0))
    found = lookaheads(X, plan, MODEL, SEEN, (0, 1, 2, 7, 30))
    x = X.clone().requires_grad_()
    out = sample(MODEL, plan, x)
    (want,) = torch.autograd.grad(SEEN(out).sum(), x)
    for k in (7, 30):
        assert torch.allclose(found[k][0], out, atol=1e-12) and torch.allclose(found[k][1], want, atol=1e-11)
    x = X.clone().requires_grad_()
    data = PRIOR.denoise(x, float(PROCESS.alpha(0.9)), float(PROCESS.sigma(0.9)))
    (one,) = torch.autograd.grad(SEEN(data).sum(), x)
    assert torch.allclose(found[1][1], one, atol=1e-12) and torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], -2 * SEEN.residual(data.detach()) @ MATRIX, atol=1e-12)


def test_lookahead_approaches_the_flows_gradient():
    """Cosine to the gradient of the whole flow on a mixture in 16 dimensions rises with k, as guidance.md 2.6 measured.

    There at t = 0.95: 0.33, 0.65, 0.97, 0.99 for k = 1, 2, 4, 8, and 0.70 without the Jacobian. On this
    mixture: 0.46, 0.59, 0.77, 0.88 and 0.48; at t = 0.6: 0.66, 0.91, 0.95, 0.96 and 0.86. One step's Jacobian
    is worse than none.
    """
    g = torch.Generator().manual_seed(0)
    flow, d = RectifiedFlow(), 16
    prior = Mixture.isotropic(
        torch.ones(25, dtype=torch.float64) / 25, torch.randn(25, d, generator=g, dtype=torch.float64), 0.2
    )
    target = prior.sample(64, g)
    x = torch.randn(64, d, generator=g, dtype=torch.float64)

    def loss(sample):
        return (sample - target).square().sum(1)

    for t, least in ((0.95, 0.85), (0.6, 0.95)):
        plan = FlowEuler().plan(flow, UniformT(64, start=t, end=0.0))
        found = lookaheads(x, plan, prior.denoiser(flow), loss, (0, 1, 2, 4, 8, 64))
        cosine = {k: float(cosine_similarity(found[k][1], found[64][1]).mean()) for k in found}
        assert cosine[1] < cosine[2] < cosine[4] < cosine[8] and cosine[8] > least, cosine
        assert cosine[1] < cosine[0], cosine


def test_automatic_lookahead_stops_where_gradients_agree():
    """Late in the run one step agrees with two; early it does not, and k grows. Each sample decides by itself."""
    plan = DDIM().plan(PROCESS, UniformT(12, start=0.98, end=0.0))
    fixed, auto = (steer(MODEL, plan, X, Lookahead(SEEN, 1, Raw(0.02), agree)) for agree in (None, 0.999))
    loose = steer(MODEL, plan, X, Lookahead(SEEN, 1, Raw(0.02), -1.0))
    assert fixed.nfe == 12 and loose.vjps == 12 + 11 * 2 and auto.vjps > loose.vjps
    with_one = steer(MODEL, plan, X[:1], Lookahead(SEEN, 1, Raw(0.02), 0.999))
    assert torch.allclose(with_one.sample[0], auto.sample[0], atol=1e-12)


def test_lookahead_memory_does_not_grow_with_k():
    """Activations saved by autograd while the gradient of k steps is taken: one call's for the first and the
    last, whatever k.
    """

    def peak(k):
        live, most = [0], [0]

        class Heavy(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.held = Token()
                return x.clone()

            @staticmethod
            def backward(ctx, *grad_outputs):
                ctx.held = None
                return grad_outputs[0]

        class Token:
            def __init__(self):
                live[0] += 1
                most[0] = max(most[0], live[0])

            def __del__(self):
                live[0] -= 1

        model = Denoiser(lambda x, t: Heavy.apply(MODEL(x, t)), PROCESS, DATA)
        plan = DDIM().plan(PROCESS, UniformT(40, start=0.9, end=0.0))
        lookaheads(X, plan, model, SEEN, (k,))
        return most[0]

    assert peak(40) <= peak(4) <= 4


def test_held_predictions_are_no_guide_for_a_run_that_is_differentiated():
    plan = DDIM().plan(PROCESS, UniformT(6, start=0.9, end=0.0))
    guide = Lookahead(SEEN, 4, Raw(0.02), gradient=JacobianFree())
    steer(MODEL, plan, X, guide)
    with pytest.raises(ValueError, match="under Through.FULL"):
        steer(MODEL, plan, X.clone().requires_grad_(), guide, through=Through.FULL)
