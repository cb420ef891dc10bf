"""Every gradient strategy through a sampler of faces: its error at the noise and at the weights, its memory, its time.

Each is held to two gradients of L = |x_0|^2/2: the exact one of the very steps it ran (`Direct` on the same plan), and
the flow's, which the steps only approach (`Direct` on many steps). The exact strategies and the cheap approximations
aim at the first, `Continuous` and `AdjointDEIS` at the second. An error of 1 is that of no gradient at all.
"""

# %%
import time
import weakref
from typing import Any

import torch
from common import COLOURS, GREY, PALE, options, pyplot, write
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.adjoint import (
    AdjointDEIS,
    Checkpoint,
    Continuous,
    Direct,
    Gradient,
    JacobianFree,
    Parallel,
    Reversible,
    SkipStraight,
    Truncated,
    sample,
)
from pullback.solvers import (
    DEIS,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    FlowHeun,
    Plan,
    ReversibleHeun,
    UniformLambda,
    UniformT,
)
from pullback.zoo import denoiser

# By the sampler they run on: most on any, one on reversible methods, one on Euler steps of a velocity.
STRATEGIES: dict[str, list[Gradient]] = {
    "DPM-Solver++(2M)": [
        Direct(), Checkpoint(), Checkpoint(offload=True), Checkpoint(recursive=True), Parallel(), Truncated(5),
        JacobianFree(), Continuous(), AdjointDEIS(),
    ],
    "ReversibleHeun": [Reversible()],
    "FlowEuler": [SkipStraight(0.05)],
}  # fmt: skip
SHORT = {"offload=True": "offload", "recursive=True": "recursive"}


def label(strategy: Gradient) -> str:
    for text, short in SHORT.items():
        if text in str(strategy):
            return f"{type(strategy).__name__}, {short}"
    return {Truncated: "Truncated, last 5 steps", SkipStraight: "SkipStraight, on FlowEuler",
            Reversible: "Reversible, on ReversibleHeun"}.get(type(strategy), type(strategy).__name__)  # fmt: skip


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is open: `now` alive, and at most `peak` at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.now, self.peak = dict[int, int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.gone, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    def gone(self, storage: int) -> None:
        self.now -= self.alive.pop(storage)


# %%
def gradients(model: Denoiser, plan: Plan, x: Tensor, strategy: Gradient) -> list[Tensor]:
    """Of |x_0|^2/2 at the noise and at the weights, each as one vector; zeros where nothing arrives."""
    weights = list(model.network.parameters())  # type: ignore[attr-defined]
    inputs = [x.clone().requires_grad_(), *weights]
    loss = sample(model, plan, inputs[0], gradient=strategy).square().sum() / 2
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    flat = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
    return [flat[0].flatten(), torch.cat([g.flatten() for g in flat[1:]])]


def plans(name: str, model: Denoiser, steps: int) -> tuple[Plan, Plan]:
    """A sampler's run of `steps` steps, and one that is close to the flow."""
    if name == "FlowEuler":
        even = lambda n: UniformT(n, end=0.03)  # noqa: E731
        return FlowEuler().plan(model.process, even(steps)), FlowHeun().plan(
            model.process, even(15 * steps // 2)
        )
    method = ReversibleHeun() if name == "ReversibleHeun" else DPMSolverPP(2)
    grid = lambda n: UniformLambda(n, start=1.0, end=0.03)  # noqa: E731
    return method.plan(model.process, grid(steps)), DEIS(4).plan(model.process, grid(10 * steps))


def main() -> None:
    run = options(__doc__, sampler_steps=20)
    x = torch.randn(1, 1, 25, 25, generator=torch.Generator().manual_seed(run.seed)).to(run.device)
    rows: dict[str, dict[str, Any]] = {}
    for name, strategies in STRATEGIES.items():
        model = denoiser("faces_flow" if name == "FlowEuler" else "faces")
        model.network.to(run.device).requires_grad_(True)  # type: ignore[attr-defined]
        plan, fine = plans(name, model, run.sampler_steps)
        exact, flow = gradients(model, plan, x, Direct()), gradients(model, fine, x, Checkpoint())
        for strategy in strategies:
            began = time.perf_counter()
            found = gradients(model, plan, x, strategy)
            seconds = time.perf_counter() - began
            with Live() as live:
                gradients(model, plan, x, strategy)
            rows[label(strategy)] = row = {
                "aims_at": "flow" if isinstance(strategy, (Continuous, AdjointDEIS)) else "run",
                "seconds": seconds,
                "peak_MiB": live.peak / 2**20,
            }
            for where, mine, *others in zip(("noise", "weights"), found, exact, flow, strict=True):
                for kind, right in zip(("run", "flow"), others, strict=True):
                    row[f"{where}_{kind}"] = float((mine - right).norm() / right.norm())
            print(f"{label(strategy):30s} at the noise {row['noise_run']:.1e} from the run's gradient, "
                  f"{row['noise_flow']:.1e} from the flow's;  peak {row['peak_MiB']:6.1f} MiB  "
                  f"{seconds:.2f} s")  # fmt: skip
    write(run.out, "gradients", draw(rows), rows)


def draw(rows: dict[str, dict[str, Any]]) -> Any:
    plt = pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.8), sharey=True, width_ratios=(1.3, 1.3, 1, 1))
    places = range(len(rows))
    # what a strategy aims at is filled, what it is beside that is hollow
    marks = (("run", "o", COLOURS[0], "from the exact gradient of its own steps"),
             ("flow", "D", COLOURS[1], "from the flow's gradient"))  # fmt: skip
    for axis, where in zip(axes, ("noise", "weights"), strict=False):
        for kind, marker, colour, text in marks:
            for y, row in zip(places, rows.values(), strict=True):
                aimed = row["aims_at"] == kind
                axis.plot(
                    max(row[f"{where}_{kind}"], 1e-8),
                    y,
                    marker,
                    ms=8 if aimed else 11,
                    color=colour,
                    mfc=colour if aimed else "none",
                )
            axis.plot([], [], marker, color=colour, label=text)
        axis.axvline(1, color=GREY, ls=":")
        axis.set_xscale("log")
        axis.set(xlim=(4e-9, 3e2), xlabel="relative error (1e-8: none)", title=f"gradient at the {where}")
        axis.grid(axis="y", color=PALE, lw=0.6)
    for axis, key, unit in ((axes[2], "peak_MiB", "MiB"), (axes[3], "seconds", "s")):
        bars = axis.barh(places, [row[key] for row in rows.values()], 0.6, color=PALE)
        axis.bar_label(bars, fmt="%.1f" if unit == "MiB" else "%.2f", padding=3)
        axis.set(xlabel=unit, title="peak of live tensors" if unit == "MiB" else "time of value and gradient")
    axes[0].set_yticks(places, rows)
    axes[0].invert_yaxis()
    axes[0].legend(*axes[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(-0.02, -0.16), ncols=2,
                   title="relative error; filled: what the strategy aims at", alignment="left")  # fmt: skip
    return figure


if __name__ == "__main__":
    main()
