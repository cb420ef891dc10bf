"""Two processes: averaged gradients are those of one process with the whole batch, or a refusal.

On the CPU over gloo. On CUDA over NCCL where there are two devices; two ranks on one device share it over gloo, which
cannot shard there.
"""

import contextlib
import copy
import json
import pathlib
import types
from typing import Any

import torch
from problems import PROCESS
from strategies import EXACT, STRATEGIES, network, plain, plan_for
from torch import nn
from two_ranks import two_ranks

from pullback.adjoint import AdjointDEIS, Continuous, Gradient, Reversible, sample
from pullback.solvers import DATA, Denoiser, Plan

SWEPT = [s for s in STRATEGIES if "offload=True" not in str(s)]  # where states lie is no matter to ranks
HERE = pathlib.Path(__file__).parents[1]
DDP = {
    "ddp": {},
    "static graph": {"static_graph": True},
    "unused": {"find_unused_parameters": True},
    "accumulated": {},
    "static graph behind a dict": {"static_graph": True},
}
FSDP = ("fsdp", "fsdp behind a lambda", "fsdp behind a namespace", "fsdp behind a dict", "fsdp gathered")
WRAPS = (*DDP, *FSDP)
SINK = "DistributedDataParallel with static_graph or find_unused_parameters"
UPDATES = 3  # DDP learns a static graph, and its buckets, in the first; what it then does shows later


def swept(wrap: str) -> list[Gradient]:
    """Every strategy; behind an object only what the finding decides."""
    return SWEPT[1:4] if "behind" in wrap else SWEPT


def whole(strategy: Gradient) -> bool:
    """Whether a strategy hands parameter gradients over at once, which sharded parameters never see."""
    return isinstance(getattr(strategy, "inner", strategy), (Reversible, Continuous, AdjointDEIS))


def test_two_ranks_average_to_the_whole_batch_or_refuse(tmp_path, device):
    """Against one process with the whole batch, over three updates. What would hand gradients over where a wrapper
    waits for autograd's own walk must say so. One test: one pair of ranks.
    """
    refusals = {
        **dict.fromkeys(FSDP, "sharded parameters (FSDP)"),
        **{wrap: SINK for wrap, options in DDP.items() if options},
    }
    for rank in _results(tmp_path, device.type):
        for wrap in wraps(device.type):
            for strategy in swept(wrap):
                got, inner = rank[wrap][str(strategy)], getattr(strategy, "inner", strategy)
                if wrap in refusals and whole(strategy):
                    assert got == f"ValueError {inner}: got {refusals[wrap]}, expected none; use Checkpoint()"
                else:
                    assert isinstance(got, float) and got < 1e-12, (wrap, strategy, got)


def alone(kind: str) -> bool:
    """Whether the two ranks share the one CUDA device."""
    return kind == "cuda" and torch.cuda.device_count() < 2


def wraps(kind: str) -> tuple[str, ...]:
    return tuple(DDP) if alone(kind) else WRAPS


def _results(folder: pathlib.Path, kind: str) -> list[dict[str, dict[str, Any]]]:
    """{wrap: {strategy: relative error of the gradients, or what was raised}} of two ranks."""
    code = "import conftest, sys, test_distributed as d; d.work(*map(int, sys.argv[1:3]), *sys.argv[3:])"
    two_ranks(code, folder, kind, at=[HERE / "adjoint"], seconds=60)
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
        wrap: {str(strategy): _compared(wrap, strategy, rank, device) for strategy in swept(wrap)}
        for wrap in wraps(kind)
    }
    (pathlib.Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def _compared(wrap: str, strategy: Gradient, rank: int, device: torch.device) -> float | str:
    """The largest relative error of any gradient in some updates, or what the first raised."""
    torch.manual_seed(0)
    net, x = _network(wrap).to(device), torch.randn(UPDATES if wrap in DDP else 1, 4, 3).to(device)
    wrapped = _wrapped(wrap, copy.deepcopy(net))
    plan, worst = plan_for(strategy), 0.0
    for batch in x:
        try:
            mine = batch[2 * rank : 2 * rank + 2].split(1 if wrap == "accumulated" else 2)
            got = _gradients(_hidden(wrap, wrapped), wrapped, strategy, plan, *mine)
        except (ValueError, RuntimeError) as error:
            return f"{type(error).__name__} {error}"
        want = _gradients(net, net, plain(strategy) if strategy in EXACT else strategy, plan, batch)
        for a, b in zip(got, want, strict=True):
            none = a is None or not a.any() if b is None else a is None
            if b is None or a is None:
                worst = max(worst, 0.0 if b is None and none else float("inf"))
            else:
                worst = max(worst, float((a - b).norm() / b.norm()))
        for each in (net, wrapped):
            with torch.no_grad():
                for value in each.parameters():
                    if value.grad is not None:
                        value -= 0.1 * value.grad
    return worst


class Experts(nn.Module):
    """One layer is never used, one by the first call only and one by the last calls only."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.early, self.late = network(), network(), network()
        self.never = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        expert = self.early if t[0] > 0.85 else self.late if t[0] < 0.5 else None
        return self.always(x, t) + (0.0 if expert is None else 0.5 * expert(x, t))


def _network(wrap: str) -> nn.Module:
    return Experts() if wrap == "unused" else network()


def _gradients(
    called: Any, net: nn.Module, strategy: Gradient, plan: Plan, *batches: torch.Tensor
) -> list[torch.Tensor | None]:
    """Of the mean over batches, of which all but the last are accumulated without averaging over processes."""
    net.zero_grad()
    for k, x in enumerate(batches):
        with net.no_sync() if k < len(batches) - 1 else contextlib.nullcontext():  # type: ignore[operator]
            model = Denoiser(called, PROCESS, DATA)
            out = sample(model, plan, x.clone().requires_grad_(), gradient=strategy)
            (out.square().sum(1).mean() / len(batches)).backward()
    grads: list[Any] = [p.grad for p in net.parameters()]
    return [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]


def _hidden(wrap: str, net: nn.Module) -> Any:
    """The network as it is given to the denoiser."""
    held, space = {"unet": [net]}, types.SimpleNamespace(unet=net)
    if wrap.endswith("lambda"):
        return lambda x, t: net(x, t)
    if wrap.endswith("namespace"):
        return lambda x, t: space.unet(x, t)
    return (lambda x, t: held["unet"][0](x, t)) if wrap.endswith("dict") else net


def _wrapped(wrap: str, net: nn.Module) -> nn.Module:
    if wrap in DDP:
        return nn.parallel.DistributedDataParallel(net, **DDP[wrap])
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(net.parameters()).device.type, (2,))
    for module in net.modules():
        if isinstance(module, nn.Linear) and wrap != "fsdp gathered":
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    if wrap == "fsdp gathered":  # the outermost module's parameters stay whole after a call without backward
        with torch.no_grad():
            net(*(torch.zeros(shape, device=mesh.device_type) for shape in ((1, 3), (1,))))
    return net
