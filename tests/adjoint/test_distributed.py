"""Two processes: averaged gradients are those of one process with the whole batch, or a refusal.

On the CPU over gloo. On CUDA over NCCL where there are two devices; two ranks on one device share it over gloo, which
cannot shard there.
"""

import copy
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import torch
from problems import PROCESS
from strategies import STRATEGIES, network, plan_for
from torch import nn

from pullback.adjoint import AdjointDEIS, Continuous, Gradient, Reversible, sample
from pullback.solvers import DATA, Denoiser

SWEPT = [s for s in STRATEGIES if "offload=True" not in str(s)]  # where states lie is no matter to ranks
HERE = pathlib.Path(__file__).parents[1]
WRAPS = ("ddp", "fsdp", "hidden fsdp")  # the last one behind a bare callable, which is no module


def whole(strategy: Gradient) -> bool:
    """Whether a strategy hands parameter gradients over at once, which sharded parameters never see."""
    return isinstance(getattr(strategy, "inner", strategy), (Reversible, Continuous, AdjointDEIS))


def test_two_ranks_average_to_the_whole_batch_or_refuse(tmp_path, device):
    """Gradients returned for sharded parameters vanish: what would return them must say so. One test: one
    pair of ranks.
    """
    for rank in _results(tmp_path, device.type):
        for strategy in map(str, SWEPT):
            assert rank["ddp"][strategy] < 1e-12, strategy
        for wrap in wraps(device.type)[1:]:
            for strategy in SWEPT:
                got, inner = rank[wrap][str(strategy)], getattr(strategy, "inner", strategy)
                refused = (
                    f"ValueError {inner}: got sharded parameters (FSDP), expected none; use Checkpoint()"
                )
                assert got == refused if whole(strategy) else got < 1e-12, (wrap, strategy, got)


def alone(kind: str) -> bool:
    """Whether the two ranks share the one CUDA device."""
    return kind == "cuda" and torch.cuda.device_count() < 2


def wraps(kind: str) -> tuple[str, ...]:
    return WRAPS[:1] if alone(kind) else WRAPS


def _results(folder: pathlib.Path, kind: str) -> list[dict[str, dict[str, Any]]]:
    """{wrap: {strategy: relative error of the gradients, or what was raised}} of two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # tests' conftest makes the package importable from a bare checkout
    code = "import conftest, sys, test_distributed as d; d.work(*map(int, sys.argv[1:3]), *sys.argv[3:])"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "adjoint"), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(rank), str(port), str(folder), kind],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def work(rank: int, port: int, folder: str, kind: str) -> None:
    """One rank."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    backend = "nccl" if kind == "cuda" and not alone(kind) else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    found = {
        wrap: {str(strategy): _compared(wrap, strategy, rank, device) for strategy in SWEPT}
        for wrap in wraps(kind)
    }
    (pathlib.Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def _compared(wrap: str, strategy: Gradient, rank: int, device: torch.device) -> float | str:
    torch.manual_seed(0)
    net, x = network().to(device), torch.randn(4, 3).to(device)
    want = _gradients(net, strategy, x, False)
    wrapped = _wrapped(wrap, copy.deepcopy(net))
    try:
        got = _gradients(wrapped, strategy, x[2 * rank : 2 * rank + 2], wrap == "hidden fsdp")
    except ValueError as error:
        return f"ValueError {error}"
    if any(g is None for g in got):
        return float("inf")
    return max(float((a - b).norm() / b.norm()) for a, b in zip(got, want, strict=True))


def _gradients(net: nn.Module, strategy: Gradient, x: torch.Tensor, hidden: bool) -> list[torch.Tensor]:
    net.zero_grad()
    model = Denoiser((lambda x, t: net(x, t)) if hidden else net, PROCESS, DATA)
    out = sample(model, plan_for(strategy), x.clone().requires_grad_(), gradient=strategy)
    out.square().sum(1).mean().backward()
    return [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in net.parameters()]  # type: ignore


def _wrapped(wrap: str, net: nn.Module) -> nn.Module:
    if wrap == "ddp":
        return nn.parallel.DistributedDataParallel(net)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(net.parameters()).device.type, (2,))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net
