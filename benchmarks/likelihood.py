"""Log densities: error against network calls, coverage of the intervals, bits per dimension, memory of a gradient.

    python benchmarks/likelihood.py      writes benchmarks/results/likelihood.json (about 10 minutes on one core)
    python benchmarks/likelihood.py digits bits     these parts anew

mixture    three Gaussians in the plane, VP, t from 1e-3 to 1, exact score and exact law at both ends: rms error of
           log p over 64 samples against the mixture's own, by network calls. "torchdiffeq": (x, log p) as one ODE in t,
           steps at equal t or at equal lambda, or dopri5 (whatever calls its tolerances of 1e-1 to 1e-6 come to).
           "jacrev": the change of variables by hand, log |det| of every DDIM step by torch.func.jacrev. "best": the
           smallest errors of both sides within a budget of calls.
digits     the same for the bundled 8 x 8 digits, 64 dimensions, exact divergence by all, 4 held-out images in float64;
           error in nats against DPMSolverPP(3) of 96 steps; "variances": with those of the pixels.
           "seconds": of this process, ours over torchdiffeq's, both midpoint.
probes     standard error on the digits for as many VJPs, Hutchinson and Hutch++.
coverage   of 95 % intervals over 4 mixtures with 2,000 samples each, against the exact divergence on the same plan.
bits       of 64 held-out digits (17 levels), an upper bound of the negative log-likelihood, with its standard error.
memory     tensors and KiB that live between the two passes.
"""

import gc
import json
import math
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pullback.adjoint import (
    Checkpoint,
    Direct,
    ExactDivergence,
    FlowDivergence,
    Gradient,
    Hutchinson,
    HutchPP,
    LogProb,
    NormalDequantisation,
    Probe,
    Reversible,
    UniformDequantisation,
    log_prob,
)
from pullback.solvers import (
    DDIM,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    DPMSolverPPSingle,
    FlowMidpoint,
    Method,
    Mixture,
    ReversibleHeun,
    Rising,
    UniformLambda,
    UniPC,
)

Prior = Callable[..., Tensor]
HERE = pathlib.Path(__file__).parent
START, END, PROCESS = 1e-3, 1.0, VP()
OURS: dict[str, tuple[Method, int]] = {  # and its network calls a step
    "DPMSolverPP(2)": (DPMSolverPP(2), 1),
    "DPMSolverPP(3)": (DPMSolverPP(3), 1),
    "UniPC(3)": (UniPC(), 1),
    "DPMSolverPPSingle(3)": (DPMSolverPPSingle(3), 3),
    "FlowMidpoint": (FlowMidpoint(), 2),
}
THEIRS = {"euler": 1, "midpoint": 2, "rk4": 4}


def rising(method: Method, steps: int, start: float = START) -> Any:
    return method.plan(PROCESS, Rising(UniformLambda(steps, start=END, end=start)))


# the baselines
# ---------------------------------------------------------------------------------------------


def velocity(denoiser: Denoiser, t: float, x: Tensor, cond: Any) -> Tensor:
    """dx/dt, from a prediction of data or of v."""
    time_, like = torch.tensor(t, dtype=torch.float64), torch.full((len(x),), t, dtype=x.dtype)
    alpha, sigma = float(PROCESS.alpha(time_)), float(PROCESS.sigma(time_))
    out = denoiser(x, like, cond)
    data = out if denoiser.prediction.name == "DATA" else alpha * x - sigma * out
    return float(PROCESS.d_alpha(time_)) * data + float(PROCESS.d_sigma(time_)) * (x - alpha * data) / sigma


def by_torchdiffeq(
    denoiser: Denoiser, x: Tensor, prior: Prior, method: str, grid: Tensor, cond: Any = None, **more: Any
) -> tuple[Tensor, int]:
    """log p as one of two states; a VJP for each dimension."""
    import torchdiffeq

    calls = 0

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            u = velocity(denoiser, min(max(float(t), START), END), at, cond)
            entries = u.flatten(1).unbind(1)
            grads = (torch.autograd.grad(e.sum(), at, retain_graph=True)[0].flatten(1) for e in entries)
            rows = [grad[:, k] for k, grad in enumerate(grads)]
        return u.detach(), torch.stack(rows).sum(0)

    end, change = (
        v[-1] for v in torchdiffeq.odeint(field, (x, x.new_zeros(len(x))), grid, method=method, **more)
    )
    return prior(end, PROCESS.alpha(END), PROCESS.sigma(END)) + change, calls


def by_jacrev(denoiser: Denoiser, x: Tensor, prior: Prior, steps: int, cond: Any = None) -> Tensor:
    """log |det| of each DDIM step, x <- r x + g D(x)."""
    times = rising(DDIM(), steps).times
    total, d = x.new_zeros(len(x)), x[0].numel()
    for s, t in zip(times, times[1:], strict=False):
        (a, b), (a_next, b_next) = ((float(PROCESS.alpha(v)), float(PROCESS.sigma(v))) for v in (s, t))
        ratio = b_next / b
        gain = a_next - a * ratio

        def data(row: Tensor, label: Any, s: float = s, a: float = a, b: float = b) -> Tensor:
            at = row[None]
            out = denoiser(at, torch.full((1,), s, dtype=row.dtype), label)
            return (out if denoiser.prediction.name == "DATA" else a * at - b * out)[0]

        labels = None if cond is None else cond[:, None]
        jacobian = torch.func.vmap(torch.func.jacrev(data), (0, None if cond is None else 0))(x, labels)
        step = ratio * torch.eye(d, dtype=x.dtype) + gain * jacobian.reshape(len(x), d, d)
        total = total + torch.linalg.slogdet(step).logabsdet
        x = ratio * x + gain * torch.func.vmap(data, (0, None if cond is None else 0))(x, labels)
    return prior(x, PROCESS.alpha(END), PROCESS.sigma(END)) + total


def lambda_nodes(steps: int) -> Tensor:
    return UniformLambda(steps, start=END, end=START).times(PROCESS).flip(0)


def all_errors(
    denoiser: Denoiser,
    x: Tensor,
    prior: Any,
    exact: Tensor,
    budgets: tuple[int, ...],
    cond: Any = None,
    variance: Tensor | None = None,
    dopri5: bool = False,
) -> dict[str, Any]:
    """rms errors {who: {calls: error}}; seconds of the second-order methods."""
    found: dict[str, dict[int, float]] = {}

    def note(name: str, calls: int, value: Tensor) -> None:
        error = (value - exact).square().mean().sqrt()
        found.setdefault(name, {})[calls] = float(error) if bool(error.isfinite()) else math.inf

    seconds = {"ours": 0.0, "torchdiffeq": 0.0}
    for calls in budgets:
        for name, (method, each) in OURS.items():
            began = time.process_time()
            plan = rising(method, calls // each)
            with torch.no_grad():
                value = log_prob(
                    denoiser, plan, x, cond=cond, prior=prior, divergence=ExactDivergence(1)
                ).value
            if name == "FlowMidpoint":
                seconds["ours"] += time.process_time() - began
            note(name, calls, value)
        if variance is not None:
            for name in ("DPMSolverPP(2)", "DPMSolverPP(3)"):
                plan = rising(OURS[name][0], calls)
                with torch.no_grad():
                    value = log_prob(denoiser, plan, x, cond=cond, prior=prior, variance=variance).value
                note(f"{name}, variances", calls, value)
        for name, each in THEIRS.items():
            steps = calls // each
            for kind, grid in (("t", torch.linspace(START, END, steps + 1)), ("lambda", lambda_nodes(steps))):
                began = time.process_time()
                value, _ = by_torchdiffeq(denoiser, x, prior, name, grid, cond)
                if (name, kind) == ("midpoint", "lambda"):
                    seconds["torchdiffeq"] += time.process_time() - began
                note(f"torchdiffeq {name}, {kind} grid", calls, value)
        with torch.no_grad():
            note("jacrev DDIM", calls, by_jacrev(denoiser, x, prior, calls, cond))
    for power in range(1, 7) if dopri5 else ():
        tolerance = 10.0**-power
        ends = torch.tensor([START, END])
        value, calls = by_torchdiffeq(
            denoiser, x, prior, "dopri5", ends, cond, rtol=tolerance, atol=tolerance
        )
        note("torchdiffeq dopri5", calls, value)
    best = {}
    for calls in budgets:
        within = [(e, n) for n, errors in found.items() for k, e in errors.items() if k <= calls]
        ours = min((e, n) for e, n in within if n.partition(",")[0] in OURS)
        others = min((e, n) for e, n in within if n.partition(",")[0] not in OURS)
        best[calls] = {"ours": ours[1], "other": others[1], "other_over_ours": others[0] / ours[0]}
    return {
        "rms": found,
        "best": best,
        "seconds_ours_over_torchdiffeq": seconds["ours"] / seconds["torchdiffeq"],
    }


# what is measured
# ---------------------------------------------------------------------------------------------


def mixture() -> dict[str, Any]:
    law = Mixture.isotropic(
        torch.tensor([0.3, 0.45, 0.25]), torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]]),
        torch.tensor([0.35, 0.45, 0.3]),
    )  # fmt: skip
    alpha, sigma = float(PROCESS.alpha(START)), float(PROCESS.sigma(START))
    x = law.marginal(alpha, sigma).sample(64, torch.Generator().manual_seed(0))
    exact = law.log_prob(x, alpha, sigma)
    return all_errors(law.denoiser(PROCESS), x, law.log_prob, exact, (12, 24, 48, 96, 192), dopri5=True)


def digits() -> tuple[Denoiser, Tensor, Tensor]:
    """The denoiser in float64, held-out images and their class vectors."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    from train import held_out

    from pullback.zoo import denoiser, digit_images

    images, labels = digit_images()
    rows = held_out(len(images), 0.1)[1]
    found = denoiser("digits")
    found.network.double()  # type: ignore[attr-defined]
    return found, images[rows].double(), torch.nn.functional.one_hot(labels[rows], 11).double()


def normal(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, float(sigma)).log_prob(x).flatten(1).sum(1)


def on_digits() -> dict[str, Any]:
    denoiser, images, labels = digits()
    x = UniformDequantisation(1 / 8)(images[:4], rising(DDIM(), 2), Addressed(0))
    with torch.no_grad():
        exact = log_prob(denoiser, rising(DPMSolverPP(3), 96), x, cond=labels[:4], prior=normal).value
    variance = images.var(0) + (1 / 8) ** 2 / 12
    return all_errors(denoiser, x, normal, exact, (12, 24), labels[:4], variance)


def probes() -> dict[str, Any]:
    """Mean standard error over 4 digits, nats, by VJPs a network call."""
    denoiser, images, labels = digits()
    plan = rising(DPMSolverPP(2), 16)
    x = UniformDequantisation(1 / 8)(images[:4], plan, Addressed(0))
    found: dict[str, dict[int, float]] = {}
    for vjps in (12, 24, 48):
        third = vjps // 3
        kinds: dict[str, FlowDivergence] = {
            "Hutchinson, signs": Hutchinson(vjps),
            "Hutchinson, normal": Hutchinson(vjps, Probe.NORMAL),
            "Hutch++, signs": HutchPP(third, third),
            "Hutch++, normal": HutchPP(third, third, Probe.NORMAL),
        }
        for name, kind in kinds.items():
            with torch.no_grad():
                error = log_prob(denoiser, plan, x, cond=labels[:4], divergence=kind).error
            found.setdefault(name, {})[vjps] = float(error.mean())
    return found


def coverage() -> dict[str, Any]:
    """Share of 8,000 cases."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    plan = rising(DPMSolverPP(2), 3, 0.02)
    for d in (2, 8, 16, 32):
        hit: dict[tuple[str, int], list[float]] = {}
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            factors = torch.randn(3, d, d, generator=generator) / d**0.5
            covariances = 0.05 * torch.eye(d) + 0.6 * factors @ factors.mT
            law = Mixture(torch.tensor([0.3, 0.4, 0.3]), torch.randn(3, d, generator=generator), covariances)
            x, denoiser = law.sample(2000, generator), law.denoiser(PROCESS)
            with torch.no_grad():
                exact = log_prob(denoiser, plan, x).value
                for probe in Probe:
                    lanes = log_prob(
                        denoiser, plan, x, divergence=Hutchinson(32, probe, Addressed(seed))
                    ).lanes
                    for count in (2, 4, 8, 16, 32):
                        low, high = LogProb(lanes[:, :count], False, None, 0, 0).interval()
                        inside = (low <= exact) & (exact <= high)
                        hit.setdefault((probe.name, count), []).append(float(inside.double().mean()))
        for (name, count), shares in hit.items():
            found.setdefault(name, {}).setdefault(str(d), {})[count] = sum(shares) / len(shares)
    return found


def bits() -> dict[str, Any]:
    denoiser, images, labels = digits()
    images, labels, found = images[:64], labels[:64], {}
    for law, start in ((UniformDequantisation(1 / 8), 1e-3), (NormalDequantisation(1 / 8), 0.02)):
        plan = rising(DPMSolverPP(2), 24, start)
        x = law(images, plan, Addressed(0))
        with torch.no_grad():
            value = log_prob(denoiser, plan, x, cond=labels, divergence=Hutchinson(4)).value
        each = law.bits_per_dim(value, plan, 64)
        found[f"{law}, t from {start}"] = {"bits": float(each.mean()), "error": float(each.std() / 64**0.5)}
    return found


def memory() -> dict[str, Any]:
    def kept(gradient: Gradient, method: Method, steps: int) -> tuple[int, float]:
        network = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.SiLU(), torch.nn.Linear(64, 16))
        from pullback.solvers import V

        x = torch.randn(8, 16, requires_grad=True, generator=torch.Generator().manual_seed(0))
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        plan = rising(method, steps, 0.02)
        denoiser = Denoiser(lambda x, t: network(x), PROCESS, V, modules=[network])
        gc.collect()
        gc.freeze()  # `get_objects` passes over what is there by now
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with (
            hooks if isinstance(gradient, Direct) else nullcontext()
        ):  # what else keeps is no part of a graph
            value = log_prob(denoiser, plan, x, divergence=Hutchinson(4), gradient=gradient).value
        gc.collect()
        live = [found for found in gc.get_objects() if issubclass(type(found), Tensor)]
        gc.unfreeze()
        size = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in live} | saved
        value.sum().backward()
        return max(len(live), len(saved)), sum(size.values()) / 1024

    found: dict[str, Any] = {}
    kinds: tuple[tuple[Gradient, Method], ...] = (
        (Direct(), DPMSolverPP(2)), (Checkpoint(), DPMSolverPP(2)), (Reversible(), ReversibleHeun()),
    )  # fmt: skip
    for gradient, method in kinds:
        found[type(gradient).__name__] = {
            n: {"tensors": tensors, "KiB": round(size, 1)}
            for n in (10, 100)
            for tensors, size in [kept(gradient, method, n)]
        }
    return found


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    parts = {"mixture": mixture, "digits": on_digits, "probes": probes, "coverage": coverage, "bits": bits,
             "memory": memory}  # fmt: skip
    path = HERE / "results" / "likelihood.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() and len(sys.argv) > 1 else {}
    for name in sys.argv[1:] or parts:
        results[name] = parts[name]()
        print(name, json.dumps(results[name], indent=1), flush=True)
        results["machine"] = {
            "processor": platform.machine(), "threads": 1, "torch": torch.__version__,
            "torchdiffeq": version("torchdiffeq"),
        }  # fmt: skip
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
