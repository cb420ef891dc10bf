"""DRaFT's gradient against the network calls it needs, DRaFT-K against a loop written by hand, and memory
against steps.

    python benchmarks/draft.py [--repeats 5]      writes benchmarks/results/draft.json

Seconds are the process's own CPU time on one thread, medians over repeats, alternating. Limit of the full
chain: 50 calls without a graph, 50 with one and their VJPs. The loops by hand keep what ours keep:
activations (plain) or states (checkpointed). Memory is the largest sum of live allocations within one value
and gradient, from torch's profiler.
"""

import argparse
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from pullback.adjoint import Checkpoint, Direct, Gradient, Reversible, Truncated, sample
from pullback.guidance import Batch, DRaFT, LinearReward, Policy
from pullback.guidance.objectives.peers import World
from pullback.solvers import DDIM, VP, Denoiser, Method, ReversibleHeun, UniformLambda, V

HERE = pathlib.Path(__file__).parent
STEPS, LAST = 50, 5


def setting(size: int, width: int, count: int):
    from pullback.zoo import UNet

    torch.manual_seed(0)
    network = UNet(size, width, (1, 2))
    return (
        network,
        Denoiser(network, VP(), V),
        torch.randn(count, 1, size, size),
        LinearReward(torch.randn(size * size)),
    )


def by_hand(network, x, reward, last: int, checkpointed: bool):
    """DDIM in v-prediction: D = alpha x - sigma v, x <- (sigma_t/sigma_s) x + (alpha_t - alpha_s sigma_t/sigma_s) D."""
    process = VP()
    times = UniformLambda(STEPS, start=1.0, end=0.03).times(process)
    alpha, sigma = process.alpha(times).tolist(), process.sigma(times).tolist()

    def step(x: torch.Tensor, i: int) -> torch.Tensor:
        ratio = sigma[i + 1] / sigma[i]
        data = alpha[i] * x - sigma[i] * network(x, torch.full((len(x),), float(times[i])))
        return ratio * x + (alpha[i + 1] - alpha[i] * ratio) * data

    def run() -> list[torch.Tensor]:
        state = x
        with torch.no_grad():
            for i in range(STEPS - last):
                state = step(state, i)
        for i in range(STEPS - last, STEPS):
            state = checkpoint(step, state, i, use_reentrant=False) if checkpointed else step(state, i)
        assert isinstance(state, torch.Tensor)
        return list(torch.autograd.grad(-reward(state).mean(), list(network.parameters())))

    return run


def calls_only(network, x) -> Callable[[], None]:
    label, weights = torch.full((len(x),), 0.5), list(network.parameters())
    leaf = x.clone().requires_grad_()

    def run() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                network(x, label)
        sums = None
        for _ in range(STEPS):
            out = network(leaf, label)
            grads = torch.autograd.grad(out, [leaf, *weights], out.detach())[1:]
            if sums is None:
                sums = [g.clone() for g in grads]
            else:
                torch._foreach_add_(sums, grads)  # pyright: ignore[reportPrivateImportUsage]

    return run


def ours(model, x, reward, gradient: Gradient):
    plan = DDIM().plan(model.process, UniformLambda(STEPS, start=1.0, end=0.03))
    weights = list(model.network.parameters())
    return lambda: list(
        torch.autograd.grad(-reward(sample(model, plan, x, gradient=gradient)).mean(), weights)
    )


def objective(model, x, reward, last: int | None):
    """The gradient as the trainer takes it."""
    policy = Policy(model, DDIM().plan(model.process, UniformLambda(STEPS, start=1.0, end=0.03)))
    batch, weights = Batch(x, None, torch.zeros(len(x), dtype=torch.long)), list(model.network.parameters())

    def run() -> list[torch.Tensor]:
        update = next(DRaFT(last=last).updates(policy, batch, None, reward, World(), torch.Generator()))
        return list(torch.autograd.grad(next(update).value, weights))

    return run


def peak(strategy: Gradient, method: Method, steps: int) -> float:
    _, model, x, reward = setting(8, 24, 4)
    plan = method.plan(model.process, UniformLambda(steps, start=1.0, end=0.03))
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as found:
        (-reward(sample(model, plan, x, gradient=strategy)).mean()).backward()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        most = max(most, live)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    strategies = {
        "Direct": (Direct(), DDIM()),
        "Checkpoint": (Checkpoint(), DDIM()),
        "Reversible": (Reversible(), ReversibleHeun()),
        f"DRaFT-{LAST}, Direct": (Truncated(LAST, Direct()), DDIM()),
        f"DRaFT-{LAST}": (Truncated(LAST), DDIM()),
    }
    memory = {
        name: {n: peak(how, method, n) for n in (10, 20, 50, 100)}
        for name, (how, method) in strategies.items()
    }
    for name, row in memory.items():
        print(
            f"peak MiB at 10, 20, 50, 100 steps: {name:16s} "
            + ", ".join(f"{value:.2f}" for value in row.values()),
            flush=True,
        )
    network, model, x, reward = setting(32, 48, 1)
    pairs = {
        "full chain / its calls": (objective(model, x, reward, None), calls_only(network, x)),
        f"DRaFT-{LAST} / by hand, checkpointed": (
            objective(model, x, reward, LAST),
            by_hand(network, x, reward, LAST, True),
        ),
        f"DRaFT-{LAST} / by hand, plain": (
            ours(model, x, reward, Truncated(LAST, Direct())),
            by_hand(network, x, reward, LAST, False),
        ),
    }
    rows = {}
    for name, (a, b) in pairs.items():
        left, right = a(), b()
        if right is not None:  # the loop by hand is the same gradient
            gap = max(float((u - v).abs().max() / v.abs().max()) for u, v in zip(left, right, strict=True))
            assert gap < 1e-4, f"{name}: gradients differ by {gap}"
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for kept, run in zip(times, (a, b), strict=True):
                began = time.process_time()
                run()
                kept.append(time.process_time() - began)
        ratios = [u / v for u, v in zip(*times, strict=True)]
        rows[name] = {
            "seconds": statistics.median(times[0]),
            "against": statistics.median(times[1]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
        print(
            f"{name:36s} {rows[name]['seconds']:.3f} s against {rows[name]['against']:.3f} s, ratio "
            f"{rows[name]['ratio']:.3f}",
            flush=True,
        )
    call = []
    for _ in range(20):
        began = time.process_time()
        with torch.no_grad():
            network(x, torch.full((1,), 0.5))
        call.append(time.process_time() - began)
    facts = {
        "network_call_ms": 1e3 * statistics.median(call),
        "steps": STEPS,
        "repeats": repeats,
        "rows": rows,
        "peak_MiB": memory,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    print(f"network call {facts['network_call_ms']:.1f} ms")
    (HERE / "results" / "draft.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
