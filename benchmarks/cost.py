"""What the checks cost: the library's own time and memory, of one tree or of several side by side.

    python benchmarks/cost.py                             this tree
    python benchmarks/cost.py before=PATH after=.         two trees, their processes interleaved

Writes benchmarks/results/cost.json: medians over the processes of each tree. Times are the process's own (one thread),
so that what else the machine does is no part of them.

    own_us_a_call        of sampling, the network returning a stored tensor: (run - its network calls) / calls
    gradient_own_us      the same for a value and gradient through a network of two operations
    over_its_calls       value and gradient over the network calls and VJPs it makes, at about 8 ms a call; median of
                         interleaved repeats (at most 1.05)
    x_only_over_frozen   the backward pass to x alone, parameters requiring grad over parameters frozen (at most 1.1)
    peak_KiB_a_step      growth of the resident set's high-water mark from 10 to 1010 steps; a state has 16 KiB
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import peak_bytes
from torch import Tensor, nn

HERE = pathlib.Path(__file__).parent
ROUNDS, REPEATS = 3, 5
Timed = Callable[[], object]


def use(tree: str) -> None:
    """Import the library from `tree`, installed or not."""
    root = pathlib.Path(tree).resolve()
    sys.path.insert(0, str(root))
    import pullback

    pullback.__path__.append(str(root))
    import pullback.solvers

    if not str(pullback.solvers.__file__).startswith(str(root)):
        raise SystemExit(f"got {pullback.solvers.__file__}, expected a file of {root}")


def seconds(fn: Timed) -> float:
    began = time.process_time()
    fn()
    return time.process_time() - began


def interleaved(repeats: int, **fns: Timed) -> dict[str, list[float]]:
    """Seconds of each of `fns`, in turn, `repeats` times after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in fns}
    for k in range(repeats + 1):
        for name, fn in fns.items():
            took = seconds(fn)
            if k:
                found[name].append(took)
    return found


def difference_us(repeats: int, calls: int, run: Timed, own: Timed) -> float:
    took = interleaved(repeats, run=run, own=own)
    return 1e6 * statistics.median(a - b for a, b in zip(took["run"], took["own"], strict=True)) / calls


class Convolutions(nn.Module):
    """About 8 ms a call on one thread: eight 3 x 3 convolutions of 64 channels on 32 x 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4, *[64] * 8]
        layers = [
            part
            for a, b in zip(widths, widths[1:], strict=False)
            for part in (nn.Conv2d(a, b, 3, padding=1), nn.SiLU())
        ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


class Scale(nn.Module):
    """Two operations."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) * self.gain


def measured() -> dict[str, Any]:
    """All figures of the tree in use."""
    from pullback.adjoint import Checkpoint, Direct, Mechanism, Reversible, sample
    from pullback.solvers import (
        DDIM,
        NOISE,
        VP,
        Denoiser,
        DPMSolverPP,
        ReversibleHeun,
        UniformLambda,
        UniPC,
        V,
    )

    torch.set_num_threads(1)
    torch.manual_seed(0)
    process, fixed = VP(), torch.randn(1, 4, 32, 32)

    def plan_of(method: Any, steps: int) -> Any:
        return method.plan(process, UniformLambda(steps, start=0.98, end=0.03))

    def gradient(model: Any, plan: Any, strategy: Any, *wanted: Tensor) -> None:
        x = fixed.clone().requires_grad_()
        out = sample(model, plan, x, gradient=strategy)
        torch.autograd.grad(out.square().sum(), [x, *wanted])

    def own(method: Any, prediction: Any) -> float:
        model, plan = Denoiser(lambda x, t: fixed, process, prediction), plan_of(method, 50)
        run, calls = (
            lambda: sample(model, plan, fixed, gradient=None),
            lambda: [model(fixed, fixed) for _ in range(plan.nfe)],
        )
        return difference_us(25, plan.nfe, run, calls)

    strategies: dict[str, tuple[Any, Any]] = {
        "Direct": (Direct(), DPMSolverPP(2)),
        "Checkpoint": (Checkpoint(), DPMSolverPP(2)),
        "Checkpoint, regions": (Checkpoint(mechanism=Mechanism.REGION), DPMSolverPP(2)),
        "Reversible": (Reversible(tolerance=1.0), ReversibleHeun()),
    }

    def by_hand(model: Any, plan: Any, strategy: Any) -> None:
        """The network calls and VJPs of a strategy, and nothing else."""
        t, parameters = fixed.new_full((1,), 0.5), list(model.parameters())
        calls, vjps = strategy.cost(plan)
        with torch.no_grad():
            for _ in range(calls - vjps):
                model(fixed, t)
        for _ in range(vjps):
            x = fixed.clone().requires_grad_()
            out = model(x, t)
            torch.autograd.grad(out, [x, *parameters], torch.ones_like(out))

    small, large = (Denoiser(net(), process, V) for net in (Scale, Convolutions))
    bookkeeping, over, peaks = {}, {}, {}
    for name, (strategy, method) in strategies.items():
        plan = plan_of(method, 50)
        bookkeeping[name] = difference_us(
            7,
            plan.nfe,
            lambda p=plan, s=strategy: gradient(small, p, s, *small.parameters()),
            lambda p=plan, s=strategy: by_hand(small, p, s),
        )
        plan = plan_of(method, 16)
        took = interleaved(
            REPEATS,
            run=lambda p=plan, s=strategy: gradient(large, p, s, *large.parameters()),
            calls=lambda p=plan, s=strategy: by_hand(large, p, s),
        )
        over[name] = statistics.median(a / b for a, b in zip(took["run"], took["calls"], strict=True))
        if name != "Direct":
            plans = [plan_of(method, n) for n in (10, 1010)]
            gradient(small, plans[0], strategy)
            low, high = (
                peak_bytes(lambda p=p, s=strategy: gradient(small, p, s, *small.parameters())) for p in plans
            )
            peaks[name] = (high - low) / 1000 / 1024
    return {
        "call_ms": 1e3
        * statistics.median(seconds(lambda: large(fixed, fixed[:, 0, 0, 0])) for _ in range(9)),
        "own_us_a_call": {
            "DDIM": own(DDIM(), NOISE),
            "DPMSolverPP(2)": own(DPMSolverPP(2), V),
            "UniPC": own(UniPC(), V),
        },
        "gradient_own_us": bookkeeping,
        "over_its_calls": over,
        "x_only_over_frozen": {
            name: x_only(
                lambda s=strategy, p=plan_of(method, 10): (  # noqa: B008
                    x := fixed.clone().requires_grad_(),
                    sample(large, p, x, gradient=s).square().sum(),
                ),
                list(large.parameters()),
            )
            for name, (strategy, method) in strategies.items()
        },
        "peak_KiB_a_step": peaks,
    }


def x_only(run: Callable[[], tuple[Tensor, Tensor]], parameters: list[Tensor]) -> float:
    """Time of the backward pass to x alone, with `parameters` that require grad over frozen ones."""

    def backward(requires: bool) -> float:
        for parameter in parameters:
            parameter.requires_grad_(requires)
        x, loss = run()
        return seconds(lambda: torch.autograd.grad(loss, x))

    backward(True)
    backward(False)
    return statistics.median(backward(True) / backward(False) for _ in range(REPEATS))


def medians(rows: list[Any]) -> Any:
    """Number by number, of nested dicts of one shape."""
    if isinstance(rows[0], dict):
        return {name: medians([row[name] for row in rows]) for name in rows[0]}
    return round(statistics.median(rows), 4)


def main(trees: dict[str, str]) -> None:
    rows: dict[str, list[Any]] = {name: [] for name in trees}
    for k in range(ROUNDS):
        for name, tree in trees.items():
            out = subprocess.run(
                [sys.executable, __file__, "--measure", tree], capture_output=True, text=True, check=True
            )
            rows[name].append(json.loads(out.stdout.splitlines()[-1]))
            print(f"round {k + 1} of {ROUNDS}, {name}: {rows[name][-1]}", flush=True)
    facts = {name: medians(found) for name, found in rows.items()}
    facts["torch"] = torch.__version__
    (HERE / "results" / "cost.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        use(sys.argv[2])
        print(json.dumps(measured()))
    else:
        main(dict(pair.split("=", 1) for pair in sys.argv[1:]) or {"this": str(HERE.parent)})
