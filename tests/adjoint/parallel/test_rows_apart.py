"""Parallel: rows of a batched call that depend on one another are refused, at whichever step."""

import pytest
import torch
from problems import PROCESS
from strategies import close, network
from torch import nn

from pullback.adjoint import Checkpoint, Parallel, sample
from pullback.solvers import DATA, ClassifierFree, Denoiser, DPMSolverPP, Guided, UniformT

EXACT = Parallel(tol=0.0)  # until nothing changes
STRATEGIES = [EXACT, Parallel(tol=0.0, window=2), Parallel()]
GRID = UniformT(4, start=0.9, end=0.05)


def refused(called, match, strategy=EXACT):
    x, model = torch.randn(2, 3, requires_grad=True), Denoiser(called, PROCESS, DATA)
    with pytest.raises(ValueError, match=match):
        sample(model, DPMSolverPP(2).plan(PROCESS, GRID), x, gradient=strategy)


class _Memo(nn.Module):
    """Keeps what it made of the first t it saw."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = network().requires_grad_(False), None

    def forward(self, x, t):
        if self.kept is None:
            self.kept = 1 + t[:1, None]
        return self.net(x, t) * self.kept


@pytest.mark.parametrize(
    "strategy", [EXACT, Parallel(tol=0.0, window=2), Parallel()], ids=["exact", "window", "default"]
)
def test_rows_that_depend_on_others_at_some_steps_only_are_refused(strategy):
    """Which step, and which number of rows, is not known: the first, the middle and the last are made alone."""
    net, several = network(), "another output .* several steps"
    refused(lambda x, t: net(x, t.min().expand(len(x))), several, strategy=strategy)
    refused(lambda x, t: net(x, t[-1:].expand(len(x))), several, strategy=strategy)
    refused(
        lambda x, t: net(x, t) + torch.where(t[:, None] > 0.5, x.mean(0, keepdim=True), 0.0),
        several,
        strategy=strategy,
    )
    refused(lambda x, t: net(x, t) * (2.0 if x.shape[0] > 3 else 1.0), several, strategy=strategy)
    for same in (torch.equal, torch.allclose):
        refused(
            lambda x, t, same=same: net(x, t) * (2.0 if same(t.floor(), torch.ones_like(t)) else 1.0),
            "reads numbers",
            strategy=strategy,
        )


def test_what_is_kept_of_the_first_call_is_what_the_plain_loop_keeps():
    plan, x = DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(2, 3, requires_grad=True)
    memo = _Memo()
    got = sample(Denoiser(memo, PROCESS, DATA), plan, x, gradient=EXACT)
    memo.kept = None
    close([got], [sample(Denoiser(memo, PROCESS, DATA), plan, x, gradient=Checkpoint())], 1e-10)


def test_a_scale_for_each_sample_is_refused_in_words():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, t, cond=None):
            return self.net(x if cond is None else x + cond, t)

    plan, x, cond = DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(3, 3), torch.randn(3, 3)
    denoiser, scale = Denoiser(Labelled(), PROCESS, DATA), torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(
        ValueError, match=r"Parallel.* got ClassifierFree with scale \(3,\).* pass cond=Guided"
    ):
        sample(ClassifierFree(denoiser, scale), plan, x.requires_grad_(), cond=cond, gradient=EXACT)
    with pytest.raises(ValueError, match=r"Parallel.* got ClassifierFree with a null \(3, 3\).*length 1"):
        sample(ClassifierFree(denoiser, 2.0, torch.zeros(3, 3)), plan, x, cond=cond, gradient=EXACT)
    with pytest.raises(
        ValueError, match=r"Parallel.* got ClassifierFree with a null \(3,\) for each of 3 samples"
    ):
        sample(ClassifierFree(denoiser, 2.0, torch.zeros(3)), plan, x, cond=cond[:, 0], gradient=EXACT)
    shared = torch.randn(3, generator=torch.Generator().manual_seed(1))  # (d,), and d happens to be B
    close(
        [sample(ClassifierFree(denoiser, 2.0, shared), plan, x, cond=cond, gradient=EXACT)],
        [sample(ClassifierFree(denoiser, 2.0, shared), plan, x, cond=cond, gradient=Checkpoint())],
        1e-10,
    )
    one = ClassifierFree(denoiser, 2.0, torch.zeros(1, 3))
    got, wanted = (sample(one, plan, x, cond=cond, gradient=gradient) for gradient in (EXACT, Checkpoint()))
    close([got], [wanted], 1e-10)
    guided = Guided(cond, scale[:, None])
    got = sample(ClassifierFree(denoiser, 1.0), plan, x, cond=guided, gradient=EXACT)
    wanted = sample(ClassifierFree(denoiser, scale), plan, x, cond=cond, gradient=Checkpoint())
    close([got], [wanted], 1e-10)
