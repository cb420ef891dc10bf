"""Generated runs on two gloo processes: the averaged gradients of plain loops without a wrapper, or a clear error."""

import itertools
import json
import pathlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from pullback.adjoint import Checkpoint, Direct, Gradient, Mechanism, Reversible, Truncated
from pullback.solvers import Denoiser, ReversibleHeun

from .cases import Case
from .containers import (
    behind_a_lambda,
    by_a_method,
    in_a_dict,
    in_a_list,
    in_a_namespace,
    in_a_partial,
    module,
)
from .ingredients import CapturedLeaf, LateExpert, PlainCheckpoint, Tied, Unused, WeightNorm
from .inputs import labels
from .judge import Verdict, unclear
from .subject import ByNumbers, Subject, build

Wrap = Callable[[nn.Module], nn.Module]


def ddp(net: nn.Module) -> nn.Module:
    return DDP(net)


def ddp_static(net: nn.Module) -> nn.Module:
    return DDP(net, static_graph=True)


def ddp_unused(net: nn.Module) -> nn.Module:
    return DDP(net, find_unused_parameters=True)


def fsdp(net: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for part in list(net.modules()):
        if type(part) is nn.Linear:
            fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def fsdp_as_one(net: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(net, mesh=init_device_mesh("cpu", (2,)))  # type: ignore[return-value]


WRAPS: tuple[Wrap, ...] = (ddp, ddp_static, ddp_unused, fsdp, fsdp_as_one)
CONTAINERS = (module, behind_a_lambda, in_a_dict, in_a_namespace, in_a_partial, in_a_list, by_a_method)
STRATEGIES: tuple[Gradient, ...] = (
    Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Checkpoint(recursive=True), Truncated(2),
    Reversible(),
)  # fmt: skip
NETWORKS = (
    (),
    (Unused(),),
    (LateExpert(),),
    (Tied(),),
    (WeightNorm(),),
    (PlainCheckpoint(),),
    (CapturedLeaf(),),
)


@dataclass(frozen=True)
class Shared:
    """A case on two processes."""

    case: Case
    wrap: Wrap

    def __str__(self) -> str:
        return f"{self.wrap.__name__} {self.case}"


def cases(count: int) -> list[Shared]:
    """A sample of all combinations, always the same one."""
    every = list(itertools.product(WRAPS, CONTAINERS, STRATEGIES, NETWORKS))
    random.Random(0).shuffle(every)
    # what an attack from outside found, first
    every[:0] = [(wrap, in_a_dict, Checkpoint(), (Unused(),)) for wrap in WRAPS]
    every[:0] = [(ddp_unused, module, strategy, (Unused(),)) for strategy in STRATEGIES]
    every[:0] = [(ddp, in_a_partial, strategy, (LateExpert(),)) for strategy in STRATEGIES]
    found = []
    for wrap, container, strategy, ingredients in every:
        case = Case(ingredients=ingredients, container=container, strategy=strategy, cond=labels)
        if isinstance(strategy, Reversible):
            case = replace(case, sampler=ByNumbers(ReversibleHeun()))
        if not (wrap in (fsdp, fsdp_as_one) and {WeightNorm(), Tied()} & set(ingredients)):
            found.append(Shared(case, wrap))
    return found[:count]


def grads(net: nn.Module) -> list[Tensor]:
    """Whole gradients, zeros for none."""
    sharded: list[Any] = [p for p in net.parameters() if hasattr(p, "full_tensor")]
    whole = [(p.full_tensor(), p.grad) for p in sharded]
    if whole:
        return [torch.zeros_like(p) if g is None else g.full_tensor() for p, g in whole]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]


def judged(shared: Shared, rank: int) -> tuple[Verdict, str]:
    """Two updates' worth of passes: a static graph shows itself in the second."""
    want = _averaged(shared, rank) * 2
    by_hand, why = _tried(shared, rank, plainly=True)
    right = why == "" and _close(by_hand, want)
    got, why = _tried(shared, rank, plainly=False)
    if why:
        if not right:
            return Verdict.UNJUDGED, why
        return (Verdict.REFUSED if why.startswith("clear ") else Verdict.UNCLEAR), why
    if _close(got, want):
        return Verdict.RIGHT, ""
    worst = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    told = f"off by {worst:.2g}, without the wrapper at most {max(float(b.abs().max()) for b in want):.2g}"
    return (Verdict.SILENT if right else Verdict.UNJUDGED), told


def _subject(shared: Shared, rank: int) -> Subject:
    """The rank's own part of the batch on the same network."""
    subject = build(shared.case, plainly=True)
    subject.x = torch.randn(2, *subject.x.shape, generator=torch.Generator().manual_seed(7))[rank].to(
        subject.x
    )
    subject.x.requires_grad_()
    return subject


def _averaged(shared: Shared, rank: int) -> list[Tensor]:
    subject = _subject(shared, rank)
    _by_hand(shared, subject).square().sum().backward()
    found = grads(subject.net)
    for grad in found:
        dist.all_reduce(grad)
        grad /= 2
    return found


def _by_hand(shared: Shared, subject: Subject) -> Tensor:
    strategy = shared.case.strategy
    cut = max(0, shared.case.steps - strategy.last) if isinstance(strategy, Truncated) else 0
    return shared.case.sampler.run(subject, subject.x, cut)


def _tried(shared: Shared, rank: int, plainly: bool) -> tuple[list[Tensor], str]:
    """(gradients, what was raised or "") of the wrapped network."""
    subject, found = _subject(shared, rank), list[Tensor]()
    net = subject.net
    try:
        wrapped = shared.wrap(net)
        held: Any = shared.case.container(wrapped)  # type: ignore[arg-type]
        subject.net = held
        subject.model = Denoiser(held, shared.case.sampler.process, shared.case.prediction)
        for _ in range(2):
            net.zero_grad()
            out = _by_hand(shared, subject) if plainly else subject.by_the_library(shared.case.strategy)
            out.square().sum().backward()
            found += [grad.clone() for grad in grads(net)]
    except Exception as error:
        complaint = unclear(error)
        return [], f"{complaint or 'clear '}{type(error).__name__}: {error}"[:250]
    return found, ""


def _close(got: list[Tensor], want: list[Tensor]) -> bool:
    scale = max(float(b.abs().max()) for b in want)
    return len(got) == len(want) and all(
        float((a - b).abs().max()) <= 1e-9 * scale for a, b in zip(got, want, strict=True)
    )


def work(rank: int, port: int, folder: str, count: int) -> None:
    """One rank: every case in turn, written down as it is done."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = []
    for shared in cases(count):
        verdict, told = judged(shared, rank)
        found.append([shared.wrap.__name__, shared.case.container.__name__, str(shared), verdict.name, told])
        (pathlib.Path(folder) / f"{rank}.json").write_text(json.dumps(found))
        dist.barrier()
    dist.destroy_process_group()
