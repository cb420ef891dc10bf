"""Measured order of every public method beside diffusers' scheduler of the same method, as it ships.

    python benchmarks/orders.py             3 minutes on one core
    python benchmarks/orders.py --page      the page alone, from what was measured before

writes benchmarks/results/orders.json and docs/orders.md, whose second section is made from what benchmarks/error_nfe.py
left in benchmarks/results/error_nfe.json. Methods without noise: slopes of the error on the tests' mixture, lambda -2
to 2.5 on a warped grid. Methods with noise: slopes of the errors of exact moments on Gaussian data. Schedulers are
played by `plan_from_scheduler` on a table of 1201 levels over the same lambdas, so that their nodes are the same curve;
their last step, to sigma = 0, is left out.
"""

import json
import math
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from enum import Enum
from typing import Any

import torch
from judged import JUDGED, NFE, behind, best, defaults
from order_rows import ODE, SDE, schedulers
from torch import Tensor

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from gaussian_orders import MEAN, VARIANCE, strong_error, weak_error  # noqa: E402
from problems import MIXTURE, PROCESS, warped  # noqa: E402

from pullback import solvers as s  # noqa: E402
from pullback.solvers.process import as_time  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "orders.md"

WORDS = """# Orders and errors

[Index](index.md) · before: [methods](methods.md), [diffusers](diffusers.md) · after:
[choosing a solver](choosing.md#which-solver-and-grid)

<!-- written by benchmarks/orders.py from benchmarks/results/orders.json and error_nfe.json -->
How accurate each method is: first how fast its error falls with the steps, then what error it has at 6 to 48 network
calls. This page is written by `benchmarks/orders.py`; the second section from what `benchmarks/error_nfe.py` measured.

## Orders

Slopes of the error in log2 when steps are doubled. *state*, *gradient*: begun with a start of the method's own order
(`starter=True`), 128 to 256 steps, from order 4 on 96 to 192. *begun as by default*: one step of order 1 costs h^2
once, 256 to 512 steps. diffusers' schedulers as they ship, 30 to 60 steps and 150 to 300; a history there begins at
order 1, so that 2 is what is left in the limit whatever the name says. A slope far below what it was at fewer steps is
rounding: weights made in float32.

{}

With noise: *measured* is of the variance, 256 to 512 steps, *strong* of the distance to the solution on the same
Brownian path, 128 to 256, where tau is a number. diffusers' as above.

{}

## Error against network calls

RMS distance to the exact flow, from the last of 1000 noise levels to clean data, of {} draws of a mixture (exact
denoiser) and {} of the bundled 8x8 digits (a trained network), each side on the best of its spacings: ours (1 - i/n) to
a power of 1 (trailing) to 3 in t, uniform in lambda, Karras; diffusers' own. Methods that cannot spend just so many
calls take up to three fewer.

![error against network calls](../benchmarks/results/error_nfe.png)

{}

Shared methods where the best of diffusers' spacings is ahead of the best of ours, at any of {} calls:

{}

Which one to take: error by that of the best of all, ours and diffusers', on every spacing. The ten whose largest factor
is least:

{}
"""


def solved(plan: s.Plan, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sample over alpha, and the gradient of its sum of squares; the plan's own process and levels."""
    x = x.clone().requires_grad_()
    out = s.run(MIXTURE.denoiser(plan.process), plan, x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    return out.detach() / plan.process.alpha(as_time(plan.times)[-1]), gradient


def truth(first: float, last: float, y: Tensor) -> Tensor:
    """The exact flow of y = x/alpha from lambda `first` to `last`."""
    times = PROCESS.time(first + (last - first) * torch.linspace(0, 1, 129, dtype=torch.float64))
    return solved(s.RhoRK(s.DOPRI5).plan(PROCESS, times), y * PROCESS.alpha(times[0]))[0]


def slope(errors: Sequence[float]) -> float:
    """Between one step count and twice that."""
    return math.log2(errors[0] / errors[1])


def our_slopes(method: s.Method, draws: Tensor) -> dict[str, float]:
    """Of state and gradient with a start of the method's own order; of the state as it is begun by default."""
    kind: Any = method
    own: s.Method = replace(kind, starter=True) if hasattr(method, "starter") else method
    n = 128 if method.order < 4 else 96
    exact = solved(s.RhoRK(s.DOPRI5).plan(PROCESS, PROCESS.time(warped(384))), draws)

    def errors(each: s.Method, steps: int) -> list[float]:
        found = solved(each.plan(PROCESS, PROCESS.time(warped(steps))), draws)
        return [float((a - b).norm()) for a, b in zip(found, exact, strict=True)]

    state, gradient = map(slope, zip(errors(own, n), errors(own, 2 * n), strict=True))
    default = state if own == method else slope([errors(method, steps)[0] for steps in (256, 512)])
    return {"state": state, "gradient": gradient, "default": default}


def law(process: s.Process, t: Any) -> tuple[float, float]:
    """(mean, variance) of the state at t."""
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    return alpha * MEAN, alpha**2 * VARIANCE + sigma**2


def their_error(plan: s.Plan, scale: float, draws: Tensor, noisy: bool) -> float:
    """Of the state, or of the variance where there is noise."""
    process, times = plan.process, as_time(plan.times)  # type: ignore[arg-type]
    first, last = times[0], times[-1]
    if noisy:
        found = s.moments(plan, MEAN, VARIANCE, *law(process, first))
        return abs(found[1] - law(process, last)[1])
    silent = s.GivenNoise(torch.zeros(max(plan.slots, 1), *draws.shape, dtype=torch.float64))
    x = draws * scale
    with torch.no_grad():
        out = s.run(MIXTURE.denoiser(process), plan, x, noise=silent) / process.alpha(last)
    exact = truth(float(process.lam(first)), float(process.lam(last)), x / process.alpha(first))
    return float((out - exact).norm())


def short(value: Any) -> str:
    """A method as one writes it: what differs from its defaults."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, s.Method):
        own = [(f, getattr(value, f.name)) for f in fields(value)]  # type: ignore[arg-type]
        given = [
            f"{f.name}={short(v)}"
            for k, (f, v) in enumerate(own)
            if f.name != "statistics" and (v != f.default or (not k and type(v) is int))
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    return (
        value.name if hasattr(value, "name") else f"{value:.3g}" if isinstance(value, float) else str(value)
    )


def measured() -> list[dict[str, Any]]:
    """A row of numbers for every Row."""
    draws = torch.randn(64, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    makers, theirs, found = schedulers(), dict[str, list[float]](), []
    for row in (*ODE, *SDE):
        noisy, label = row in SDE, row.theirs
        if label and label not in theirs:
            errors = [their_error(*makers[label](n), draws, noisy) for n in (30, 60, 150, 300)]
            theirs[label] = [slope(errors[:2]), slope(errors[2:])]
        if noisy:
            weak = slope([weak_error(row.method, n) for n in (256, 512)])
            strong = row.tau and slope([strong_error(row.method, n, row.tau, row.ends) for n in (128, 256)])
            ours: dict[str, Any] = {"weak": weak, "strong": strong}
        else:
            ours = our_slopes(row.method, draws)
        name = short(row.method)
        found.append(
            {"method": name, "claimed": row.method.order, "noise": noisy, **ours}
            | {"scheduler": label, "theirs": theirs.get(label), "remark": row.remark}
        )
        print(name, *(f"{v:.2f}" for v in ours.values() if v), label, theirs.get(label, ""), flush=True)
    return found


def table(heads: str, rows: list[list[str]]) -> str:
    names = heads.split("; ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def order_tables(rows: list[dict[str, Any]]) -> list[str]:
    """Without noise, and with it."""
    written: tuple[list[list[str]], list[list[str]]] = [], []
    for row in rows:
        names = ("weak", "strong") if row["noise"] else ("state", "gradient", "default")
        numbers = [f"{row[name]:.2f}" if row[name] else "" for name in names]
        theirs = ", ".join(f"{v:.1f}" for v in row["theirs"] or [])
        line = [f"`{row['method']}`", str(row["claimed"]), *numbers, row["scheduler"], theirs, row["remark"]]
        written[row["noise"]].append(line)
    return [
        table(
            "method; order; state; gradient; begun as by default; diffusers; its state; remark", written[0]
        ),
        table("method; weak order; measured; strong; diffusers; its weak order; remark", written[1]),
    ]


def error_tables(found: dict[str, Any]) -> list[str]:
    """Least error of any spacing; where we are behind; methods on one spacing by their worst factor."""
    errors = []
    for name in found["mixture"]["ours"]:
        for side, tag in (("ours", ""), ("diffusers", ", diffusers")):
            cells = [f"{best(f[side].get(name, {}), n):.1e}" for f in found.values() for n in JUDGED]
            if name in found["mixture"][side]:
                errors.append([name + tag, *(cell.replace("nan", "") for cell in cells)])
    late = [
        [problem, name, str(n), f"{ratio:.2f}"]
        for problem, each in found.items()
        for name, n, ratio in behind(each)
    ]
    factors = [
        [name, spacing, *(f"{v:.2f}" for row in each.values() for v in row)]
        for name, spacing, each in defaults(found)[:10]
    ]
    calls = "; ".join(f"{problem} {n}" for problem in found for n in JUDGED)
    return [
        table(f"best spacing; {calls}", errors),
        ", ".join(map(str, NFE)),
        table("problem; method; calls; ours by diffusers'", late) if late else "none.",
        table(f"method; spacing; {calls}", factors),
    ]


def page(rows: list[dict[str, Any]], read: dict[str, Any]) -> str:
    """docs/orders.md, of orders.json and error_nfe.json."""
    found = {
        problem: {
            side: {
                name: {way: {int(n): v for n, v in row.items()} for way, row in ways.items()}
                for name, ways in each[side].items()
            }
            for side in ("ours", "diffusers")
        }
        for problem, each in read["rms"].items()
    }
    return WORDS.format(*order_tables(rows), *read["draws"].values(), *error_tables(found))


def main() -> None:
    torch.set_num_threads(1)
    if "--page" not in sys.argv:
        (RESULTS / "orders.json").write_text(json.dumps(measured(), indent=1) + "\n")
    orders, errors = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("orders", "error_nfe"))
    PAGE.write_text(page(orders, errors))


if __name__ == "__main__":
    main()
