"""One trajectory on two processes: the values and gradients of one, each with half of the rows, or a refusal."""

import json
import pathlib

import pytest
import torch
from problems import PROCESS
from strategies import network
from torch import distributed
from two_ranks import two_ranks

from pullback.adjoint import Parallel, PerStep, Swept, sample
from pullback.solvers import DATA, DDPM, Denoiser, UniformT

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    code = "import conftest, sys, test_ranks as d; d.work(*map(int, sys.argv[1:3]), sys.argv[3])"
    two_ranks(code, tmp_path, at=[HERE], seconds=240)
    for rank in range(2):
        said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert said["error"] < 1e-10
        # a call of one step alone first, then half of every sweep; as many rows again with their graph
        assert abs(said["called"] - said["whole"] / 2) <= said["sweeps"] + 3
        assert "different x" in said["refused"]


class Counting(torch.nn.Module):
    """A network that counts the rows it is called on, behind the module's back."""

    def __init__(self):
        super().__init__()
        self.net, self.rows = network(), []

    def forward(self, x, t, cond):
        return self.net(x, t) * cond["scale"] + cond["shift"]


def gradients(strategy: Parallel, seed: int = 0) -> tuple[list[torch.Tensor], list[int]]:
    """The sample and its gradients at everything, and the rows of each network call."""
    torch.manual_seed(0)
    net, rows = Counting(), list[int]()
    net.net.inner[0].register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))  # type: ignore
    model, plan = Denoiser(net, PROCESS, DATA), DDPM().plan(PROCESS, UniformT(7, start=0.9, end=0.05))
    cond = {"scale": PerStep(torch.randn(7, 3, 1)), "shift": torch.randn(1, 3)}
    noise, controls = torch.randn(7, 3, 3), 0.1 * torch.randn(7, 3, 3)
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))
    inputs = [x, cond["scale"].values, cond["shift"], noise, controls]  # type: ignore
    inputs = [value.requires_grad_() for value in inputs] + list(net.parameters())
    out = sample(model, plan, x, cond=cond, noise=noise, controls=controls, gradient=strategy)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)], rows


def work(rank: int, port: int, folder: str) -> None:
    """One rank."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    group, worst, refused, counted = distributed.group.WORLD, 0.0, "", dict[str, int]()
    said = list[Swept]()
    for window in (None, 2, 1):
        said.clear()
        alone, whole = gradients(Parallel(window, observe=said.append))
        shared, called = gradients(Parallel(window, group=group))
        worst = max(worst, *(float((a - b).norm() / b.norm()) for a, b in zip(shared, alone, strict=True)))
        if window is None:
            counted = {
                "whole": sum(whole),
                "called": sum(called),
                "sweeps": sum(each.sweeps for each in said),
            }
    try:
        gradients(Parallel(group=group), seed=rank)
    except ValueError as error:
        refused = str(error)
    (pathlib.Path(folder) / f"{rank}.json").write_text(
        json.dumps({"error": worst, "refused": refused, **counted})
    )
    distributed.destroy_process_group()
