"""audit: gradient strategies side by side on the user's own model."""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..solvers import Model, Noise, Plan
from ..solvers.checked import checked
from ..solvers.kinds import check_kind, described
from ..solvers.notebook import one_line, table
from ..solvers.optional import library
from ..solvers.packing import State
from ..solvers.wanted import Count, Wanted
from .arguments import check_arguments, check_plan
from .choosing.peak import Peak
from .replay.cond import leaves
from .replay.model_around import ModelAround
from .sampling import sample
from .strategies.direct import Direct
from .strategies.gradient import Gradient
from .strategies.reversible import Reversible


@dataclass(frozen=True)
class Row:
    """One strategy against the reference, over x and every tensor of conditioning, controls, noise and parameters.

    Attributes:
        error, cosine, ratio: |g - g*| / |g*|, <g, g*> / |g||g*|, |g| / |g*| of all gradients concatenated.
        reconstruction: relative error of the state that Reversible recovers; None elsewhere.
        seconds: median of a value and a gradient. memory: bytes, the highest above the start (live tensors
            on the CPU, the allocator's on a GPU).
        calls, vjps: network calls forward (counted) and VJPs (as the strategy says).
        flow: an estimate of the relative error against the gradient of the flow itself rather than of the run; None
            where no `Continuous` was asked for, of another plan, and of one whose calls are not one a step.
    """

    name: str
    error: float
    cosine: float
    ratio: float
    reconstruction: float | None
    seconds: float
    memory: int
    calls: int
    vjps: int
    flow: float | None = None


def _if_any(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


@dataclass(frozen=True)
class Audit:
    """Rows that print as a table and draw themselves."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [
            f"{'strategy':36s} {'error':>9s} {'cosine':>9s} {'ratio':>8s} {'rebuilt':>9s} {'s':>8s} "
            f"{'MiB':>8s} {'calls':>6s} {'VJPs':>5s}{'to flow':>9s}"
        ]
        for row in self.rows:
            rebuilt = f"{row.reconstruction:9.1e}" if row.reconstruction is not None else " " * 9
            lines.append(
                f"{row.name[:36]:36s} {row.error:9.1e} {row.cosine:9.6f} {row.ratio:8.4f} {rebuilt} "
                f"{row.seconds:8.3f} {row.memory / 2**20:8.2f} {row.calls:6d} {row.vjps:5d}"
                + (f"{row.flow:9.1e}" if row.flow is not None else "")
            )
        if self.nearest is not None:
            lines.append(f"nearest to the flow's own gradient, by an estimate: {self.nearest.name}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        worst = max((row.error for row in self.rows), default=0.0)
        return one_line(
            f"<Audit: {len(self.rows)} strategies, errors up to {worst:.1e}; print it for the table>"
        )

    def _repr_html_(self) -> str:
        head = ("strategy", "error", "cosine", "ratio", "rebuilt", "s", "MiB", "calls", "VJPs", "to flow")
        rows = [
            (row.name, f"{row.error:.1e}", f"{row.cosine:.6f}", f"{row.ratio:.4f}", _if_any(row.reconstruction),
             f"{row.seconds:.3f}", f"{row.memory / 2**20:.2f}", str(row.calls), str(row.vjps), _if_any(row.flow))
            for row in self.rows
        ]  # fmt: skip
        nearest = self.nearest
        return table(head, rows, f"nearest to the flow's own gradient: {nearest.name}" if nearest else "")

    @property
    def nearest(self) -> Row | None:
        """The row nearest to the gradient of the flow itself, by the estimate; None where there is none."""
        known = [row for row in self.rows if row.flow is not None]
        return min(known, key=lambda row: row.flow or 0.0, default=None)

    def figure(self) -> Any:
        """A matplotlib figure: error against memory, one dot a strategy."""
        figure = library("matplotlib.figure", "Audit.figure", "examples").Figure(figsize=(7.5, 4.2))
        axis = figure.add_subplot()
        for row in self.rows:
            axis.scatter(row.memory / 2**20, max(row.error, 1e-17), s=60, label=row.name[:36])
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="peak memory of value and gradient, MiB",
            ylabel="relative gradient error",
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        figure.tight_layout()
        return figure


@checked
def audit(
    denoiser: Model,
    plan: Plan,
    x: State | dict[str, State],
    loss: Annotated[
        Callable[[State], Tensor], Wanted("a function of the sample to (B,) or a number; pass lambda x: ...")
    ],
    strategies: Mapping[str, Gradient | tuple[Gradient, Plan]],
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    reference: Gradient | None = None,
    repeats: Count = 3,
) -> Audit:
    """Compare gradients of `loss(sample)` under several strategies with the exact one of `plan`.

    The exact gradient of a run is not that of the flow it approximates. Where `strategies` hold a `Continuous`, each
    row says how far from the latter it is, by an estimate: c with M and c' with M/2 steps of an adjoint of order p, at
    the same states of the run, extrapolate to c + (c - c')/(2^p - 1), which stands for the flow's own; of several the
    one whose c and c' differ least. It is a hint: how often it is right stands in `benchmarks/results/audits.json`.
    None is made of a run whose calls are not one a step (`EDMHeun`): there it named the wrong one in 5 of 5.

    Args:
        loss: (B, ...) -> (B,) or a scalar.
        strategies: name to strategy, or to (strategy, plan) where it wants another plan than the reference's.
        reference: what counts as exact, by default `Direct()`; `Checkpoint()` where that does not fit.

    Returns:
        one Row per strategy, the reference first; print it, or `.figure()`.

    Raises:
        ValueError: where nothing requires grad.
    Cost: `repeats` + 2 values and gradients of each, and one of half the VJPs of each `Continuous`.
    """
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls, gradient=reference)
    _check_strategies(strategies)
    exact = reference or Direct()
    inputs = [
        value
        for value in (*tree_leaves((x, controls, noise)), *leaves(cond), *denoiser.parameters())
        if isinstance(value, Tensor) and value.requires_grad
    ]
    if not inputs:
        raise ValueError(
            "audit: got no input and no parameter that requires grad, expected at least one; call "
            "requires_grad_()"
        )
    truth, rows, found, flows = None, [], [], []
    stepwise = any(isinstance(v, Tensor) and v.requires_grad for v in tree_leaves((controls, noise)))
    single = plan.nfe == plan.steps
    for name, entry in {f"{type(exact).__name__} (reference)": exact, **strategies}.items():
        strategy, own = entry if isinstance(entry, tuple) else (entry, plan)
        errors: list[float] = []
        if isinstance(strategy, Reversible):
            strategy = replace(strategy, observe=errors.append)
        counted = _Counted(denoiser)

        def once(
            strategy: Gradient = strategy,
            own: Plan = own,
            model: Model = counted,  # type: ignore[assignment]
        ) -> Tensor:
            out = sample(model, own, x, cond=cond, noise=noise, controls=controls, gradient=strategy)
            value = loss(out)
            check_kind("loss", value, Tensor, "a tensor, (B,) or a number; return one computed from x")
            grads = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
            return torch.cat(
                [
                    (torch.zeros_like(v) if g is None else g).flatten().double().cpu()
                    for v, g in zip(inputs, grads, strict=True)
                ]
            )

        gradient = once()
        calls = len(counted.calls)
        found.append(gradient if own is plan else None)
        half = strategy.halved(plan) if own is plan and single and not stepwise else None
        if half is not None:
            change = (gradient - once(half[0])) / (2 ** half[1] - 1)
            flows.append((float(change.norm()), gradient + change))
        truth = gradient if truth is None else truth
        seconds = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first run has said it
            for _ in range(repeats):
                began = time.perf_counter()
                once()
                seconds.append(time.perf_counter() - began)
            with Peak(inputs[0].device) as memory:
                once()
        size, norm = float(truth.norm()), float(gradient.norm())
        rows.append(
            Row(
                name,
                float((gradient - truth).norm()) / size,
                float(gradient @ truth) / (size * norm or 1.0),
                norm / size,
                max(errors) if errors else None,
                statistics.median(seconds),
                memory.bytes,
                calls,
                strategy.cost(own)[1],
            )
        )
    if flows:
        _, flow = min(flows, key=lambda pair: pair[0])
        rows = [
            row if g is None else replace(row, flow=float((g - flow).norm() / flow.norm()))
            for row, g in zip(rows, found, strict=True)
        ]
    return Audit(tuple(rows))


def _check_strategies(strategies: object) -> None:
    wanted = '{"checkpoint": Checkpoint(), ...}'
    if not isinstance(strategies, Mapping):
        raise TypeError(
            f"strategies: got {described(strategies)}, expected a dict from names to strategies; write {wanted}"
        )
    for entry in strategies.values():
        for strategy, plan in [entry] if isinstance(entry, tuple) else [(entry, None)]:
            check_kind("strategies", strategy, Gradient, f"strategies, or (strategy, plan); write {wanted}")
            if plan is not None:
                check_plan(plan)


class _Counted(ModelAround):
    """A model that counts its calls."""

    def __init__(self, inner: Model) -> None:
        super().__init__(inner)
        self.calls: list[int] = []  # grows by one each: copies of this model count here too
        self.network = getattr(inner, "network", None)

    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.calls.append(1)
        return model(x, t, cond)
