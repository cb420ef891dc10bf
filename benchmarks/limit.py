"""Value and exact gradient against the time of the network calls they cannot do without.

    python benchmarks/limit.py      writes benchmarks/results/limit.json

The limit is measured in the same run: the calls a strategy makes forwards without a graph, the replays with
one, and their VJPs, made one after another on states of the same shape with nothing around them but the sum
of the weights' gradients. Medians over repeats, alternating; with the weights frozen (a gradient at x) and
not.
"""

import json
import pathlib
import platform
import statistics
import time

import torch

from pullback.adjoint import Checkpoint, Direct, Reversible, sample
from pullback.solvers import VP, Denoiser, DPMSolverPP, ReversibleHeun, UniformLambda, V

HERE = pathlib.Path(__file__).parent
STEPS, REPEATS = 20, 9


def main() -> None:
    from pullback.zoo import UNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UNet(32, 40, (1, 2, 3))
    model, x = Denoiser(network, VP(), V), torch.randn(1, 1, 32, 32, requires_grad=True)
    weights, label = list(network.parameters()), torch.full((1,), 0.5)

    def gradient(strategy, method, steps):
        plan = method.plan(model.process, UniformLambda(steps, start=1.0, end=0.03))
        out = sample(model, plan, x, gradient=strategy)
        torch.autograd.grad(out.square().sum(), [x, *(w for w in weights if w.requires_grad)])

    def graph_calls(n):
        """n calls with a graph and their VJPs, one activation alive, gradients of weights summed."""
        inputs, sums = [x, *(w for w in weights if w.requires_grad)], None
        for _ in range(n):
            out = network(x, label)
            grads = torch.autograd.grad(out, inputs, out.detach())[1:]
            if sums is None:
                sums = [g.clone() for g in grads]
            elif grads:
                torch._foreach_add_(sums, grads)  # pyright: ignore[reportPrivateImportUsage]

    def bare(n):
        with torch.no_grad():
            for _ in range(n):
                network(x, label)

    cases = {
        "Direct": (lambda: gradient(Direct(), DPMSolverPP(2), STEPS), lambda: graph_calls(STEPS)),
        "Checkpoint": (
            lambda: gradient(Checkpoint(), DPMSolverPP(2), STEPS),
            lambda: (bare(STEPS), graph_calls(STEPS)),
        ),
        "Reversible": (
            lambda: gradient(Reversible(), ReversibleHeun(), STEPS - 1),
            lambda: (bare(STEPS), graph_calls(STEPS)),
        ),
    }
    rows = {}
    for frozen in (True, False):
        network.requires_grad_(not frozen)
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
        for k in range(REPEATS + 1):
            for name, pair in cases.items():
                for kept, fn in zip(times[name], pair, strict=True):
                    began = time.perf_counter()
                    fn()
                    if k:
                        kept.append(time.perf_counter() - began)
        for name, (ours, limit) in times.items():
            rows[f"{name}, {'x' if frozen else 'x and weights'}"] = {
                "seconds": statistics.median(ours),
                "limit_seconds": statistics.median(limit),
                "ratio": statistics.median(a / b for a, b in zip(ours, limit, strict=True)),
            }
    call = []
    for _ in range(20):
        began = time.perf_counter()
        bare(1)
        call.append(time.perf_counter() - began)
    for name, row in rows.items():
        print(
            f"{name:26s} {row['seconds']:.3f} s, limit {row['limit_seconds']:.3f} s, ratio {row['ratio']:.3f}"
        )
    facts = {
        "network_call_ms": 1e3 * statistics.median(call),
        "steps": STEPS,
        "rows": rows,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "parameters": sum(p.numel() for p in weights),
    }
    print(f"network call {facts['network_call_ms']:.1f} ms")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "limit.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
