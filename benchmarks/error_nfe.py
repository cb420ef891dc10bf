"""Error against network calls of our methods and of diffusers' schedulers, on a mixture and on the bundled digits.

    python benchmarks/error_nfe.py      10 minutes of one core that others use too

writes benchmarks/results/error_nfe.json and .png; `benchmarks/orders.py` makes a section of docs/orders.md from it.
Both sides solve the probability flow of one model on one table of 1000 noise levels, from the same draws at its last
level to clean data; what differs is the method and where it calls the network. The error is the RMS distance to a run
of fourth order with 1000 steps; half as many show how far that has converged. The mixture's denoiser is exact; the
digits are the 8x8 model, a trained network in float32. Every method is run on every spacing that its side offers, so
that neither is judged by an unlucky default.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from judged import NFE, behind, best, defaults
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import (
    DDIM,
    DEIS,
    GHVB,
    IPNDM,
    KDPM2,
    LMS,
    NOISE,
    PLMS,
    PNDM,
    RK4,
    VP,
    Denoiser,
    DiscreteVP,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPFast,
    DPMSolverPPSingle,
    EDMHeun,
    GivenTimes,
    Method,
    Mixture,
    Plan,
    RhoRK,
    UniPC,
    V,
    convert,
)
from pullback.solvers.methods.unipc import BVariant
from pullback.zoo import load

HERE = pathlib.Path(__file__).parent

DRAWS = {"mixture": 256, "8x8 digits": 10}
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TABLE = DiscreteVP((1 - BETAS).cumprod(0))
OURS: dict[str, Method | None] = {
    "DDIM": DDIM(),
    "DPM-Solver++ 2M": DPMSolverPP(2),
    "DPM-Solver++ 3M": DPMSolverPP(3),
    "DPM-Solver++ 2S": DPMSolverPPSingle(2),
    "DPM-Solver++ 3S": DPMSolverPPSingle(3),
    "DPM-Solver++ fast": None,  # another object for each number of calls
    "DPM-Solver 2M": DPMSolver(2),
    "DPM-Solver 3M": DPMSolver(3),
    "KDPM2": KDPM2(),
    "Heun": EDMHeun(),
    "rhoRK 4": RhoRK(RK4),
    "UniPC 2": UniPC(2),
    "UniPC 2 exact": UniPC(2, BVariant.EXACT),
    "UniPC 3": UniPC(3),
    "DEIS 2": DEIS(2),
    "DEIS 3": DEIS(3),
    "DEIS 4": DEIS(4),
    "LMS 4": LMS(4),
    "iPNDM 4": IPNDM(),
    "PLMS 4": PLMS(),
    "PNDM": PNDM(),
    "GHVB 1.8": GHVB(1.8),
    "GHVB 3.8": GHVB(3.8),
}


@functools.cache
def spacings(n: int) -> dict[str, Tensor]:
    """n + 1 times from the table's last level to clean data, -1, by name."""
    left = 1 - torch.linspace(0, 1, n + 1, dtype=torch.float64)[:-1]
    last, first = TABLE.t_max, 0.0
    inner = torch.linspace(0, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
    lam = TABLE.lam(torch.tensor([last, first], dtype=torch.float64))
    rho = 7.0
    sigmas = (-lam / rho).exp()
    found = {
        **{f"power {p:g} of t": (last + 1) * left**p - 1 for p in (1, 1.5, 2, 2.5, 3)},
        "uniform in lambda": TABLE.time(lam[0] + inner * (lam[1] - lam[0])),
        "Karras": TABLE.time(-rho * (sigmas[0] + inner * (sigmas[1] - sigmas[0])).log()),
    }
    end = torch.tensor([-1.0], dtype=torch.float64)
    return {name: torch.cat([times.clamp(max=last), end]) for name, times in found.items()}


@functools.cache
def planned(name: str, n: int) -> dict[str, Plan]:
    """Plans of our method of that name by spacing, n steps; n calls of the fast method."""
    method, steps = OURS[name], n
    if method is None:
        method, steps = DPMSolverPPFast(n % 3), n // 3 + 1
    return {spacing: method.plan(TABLE, GivenTimes(times)) for spacing, times in spacings(steps).items()}


@functools.cache
def steps_for(name: str, calls: int) -> int:
    """The most steps that take at most so many calls; 0 where one takes more."""

    def nfe(n: int) -> int:
        return planned(name, n)["uniform in lambda"].nfe

    each = (nfe(20) - nfe(10)) / 10
    return next((n for n in range(math.ceil(calls / each) + 2, 0, -1) if nfe(n) <= calls), 0)


def ours(model: Denoiser, x: Tensor) -> Iterator[tuple[str, str, int, Tensor]]:
    """(method, spacing, calls, sample) of every run."""
    for name in OURS:
        for steps in sorted({steps_for(name, n) for n in NFE} - {0}):
            for spacing, plan in planned(name, steps).items():
                yield name, spacing, plan.nfe, sample(model, plan, x, gradient=None)


def theirs() -> dict[str, dict[str, Callable[[], Any]]]:
    """Schedulers by the shared method's name, then by their own and their spacing."""
    import diffusers

    d: Any = diffusers

    d.utils.logging.set_verbosity_error()
    base = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    spaced = {"default": {}, "trailing": {"timestep_spacing": "trailing"}}
    ways = {**spaced, "Karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
    lu = {**spaced, "Karras": ways["Karras"], "lu": {"use_lu_lambdas": True}}
    single = {way: ways[way] for way in ("default", "Karras", "exponential")}
    whole = {"set_alpha_to_one": True}  # else the last state is the table's first level, not clean data
    kinds: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("DDIM", "DDIM", {"clip_sample": False}, spaced),
        ("DDIM", "EulerDiscrete", {}, ways),
        ("DPM-Solver++ 2M", "DPMSolverMultistep", {"solver_order": 2}, lu),
        ("DPM-Solver++ 3M", "DPMSolverMultistep", {"solver_order": 3}, lu),
        ("DPM-Solver++ 2S", "DPMSolverSinglestep", {"solver_order": 2}, single),
        ("DPM-Solver++ fast", "DPMSolverSinglestep", {"solver_order": 3}, single),
        ("UniPC 2", "UniPCMultistep", {"solver_order": 2}, ways),
        ("UniPC 3", "UniPCMultistep", {"solver_order": 3}, ways),
        ("DEIS 2", "DEISMultistep", {"solver_order": 2}, ways),
        ("DEIS 3", "DEISMultistep", {"solver_order": 3}, ways),
        ("Heun", "HeunDiscrete", {}, ways),
        ("KDPM2", "KDPM2Discrete", {}, ways),
        ("LMS 4", "LMSDiscrete", {}, ways),
        ("PNDM", "PNDM", whole, spaced),
        ("PLMS 4", "PNDM", {**whole, "skip_prk_steps": True}, spaced),
    ]
    found: dict[str, dict[str, Callable[[], Any]]] = {"iPNDM 4": {"IPNDM, default": d.IPNDMScheduler}}
    for name, kind, own, possible in kinds:
        for way, given in possible.items():
            make = functools.partial(getattr(d, f"{kind}Scheduler"), **{**base, **own, **given})
            found.setdefault(name, {})[f"{kind}, {way}"] = make
    return found


def v_at_angle(eps: Callable[[Tensor, Tensor], Tensor], x: Tensor, angle: Tensor) -> Tensor:
    """What iPNDM's network predicts at alpha = cos, sigma = sin of its label; it starts at pure noise, eps = x."""
    if float(angle.cos()) < float(TABLE.alpha(TABLE.t_max)):
        return torch.zeros_like(x)
    return (eps(x, TABLE.time(-angle.tan().log())) - angle.sin() * x) / angle.cos()


def by_scheduler(make: Callable[[], Any], calls: int, eps: Callable[[Tensor, Tensor], Tensor], x: Tensor):
    """(sample, calls) of the scheduler's own loop with at most `calls` network calls."""
    scheduler: Any = None
    for steps in range(calls, 0, -1):
        scheduler = make()
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) <= calls:
            break
    # a state on a scale of its own, sigma/alpha at its first step, is the same draw there
    state = x * float(scheduler.init_noise_sigma)
    torch.set_default_dtype(torch.float32)  # some schedulers mix the default with the state's
    try:
        for t in scheduler.timesteps:
            if type(scheduler).__name__ == "IPNDMScheduler":
                answer = v_at_angle(eps, state, t.double() * math.pi / 2)
            else:
                answer = eps(scheduler.scale_model_input(state, t), t.double())
            state = scheduler.step(answer, t, state).prev_sample
    finally:
        torch.set_default_dtype(torch.float64)
    return state, len(scheduler.timesteps)


def problems() -> dict[str, tuple[Denoiser, Tensor]]:
    """A denoiser of eps on the table, and draws at its last level, by name."""
    mixture = Mixture.isotropic(
        torch.tensor([0.3, 0.45, 0.25]),
        torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]]),
        torch.tensor([0.35, 0.45, 0.3]),
    )
    exact = mixture.denoiser(TABLE)
    network, vp = load("digits"), VP()
    label = torch.arange(DRAWS["8x8 digits"]) % 10

    def mixture_eps(x: Tensor, t: Tensor) -> Tensor:
        return convert(exact(x, t.expand(len(x))), x, exact.prediction, NOISE, TABLE, t)

    def digits_eps(x: Tensor, t: Tensor) -> Tensor:
        own = vp.time(TABLE.lam(t))  # one noise level goes by two names
        with torch.no_grad():
            out = network(x.float(), own.float().expand(len(x)), label).double()
        return convert(out, x, V, NOISE, vp, own)

    generator = torch.Generator().manual_seed(0)
    shapes = (DRAWS["mixture"], 2), (DRAWS["8x8 digits"], 1, 8, 8)
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    models = (Denoiser(eps, TABLE, NOISE) for eps in (mixture_eps, digits_eps))
    return dict(zip(DRAWS, zip(models, starts, strict=True), strict=True))


def measured(model: Denoiser, x: Tensor) -> dict[str, Any]:
    """RMS errors: {"truth": by which it moves when its steps are doubled, "ours": "diffusers": Errors}."""

    def fine(steps: int) -> Tensor:
        return sample(
            model,
            DEIS(4, starter=True).plan(TABLE, GivenTimes(spacings(steps)["power 2 of t"])),
            x,
            gradient=None,
        )

    truth = fine(1000)

    def error(out: Tensor) -> float:
        return float((out - truth).square().mean().sqrt())

    found: dict[str, Any] = {"truth": error(fine(500)), "ours": {}, "diffusers": {}}
    for name, spacing, calls, out in ours(model, x):
        found["ours"].setdefault(name, {}).setdefault(spacing, {})[calls] = error(out)
    for name, ways in theirs().items():
        for way, make in ways.items():
            row = found["diffusers"].setdefault(name, {}).setdefault(way, {})
            for n in NFE:
                try:
                    out, calls = by_scheduler(make, n, model.network, x)
                except (IndexError, ValueError, ZeroDivisionError) as refused:
                    print(f"{name}, {way}, {n} calls: {type(refused).__name__}: {refused}")
                    continue
                if calls <= n and math.isfinite(value := error(out)):
                    row[calls] = value
    return found


def draw(path: pathlib.Path, table: dict[str, Any], coloured: int = 5) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def height(name: str) -> float:
        rows = [found["ours"][name] for found in table.values()]
        return sum(math.log(best(row, n)) for row in rows for n in NFE if best(row, n) == best(row, n))

    whole = [name for name in OURS if all(best(f["ours"][name], 5) > 0 for f in table.values())]
    shared = [name for name in whole if name in table["mixture"]["diffusers"]]
    leading = sorted(whole, key=height)[:coloured]
    leading += sorted(set(shared) - set(leading), key=height)[: max(0, 3 - len(set(leading) & set(shared)))]
    figure, axes = plt.subplots(1, len(table), figsize=(13, 5.6))
    for axis, (problem, found) in zip(axes, table.items(), strict=True):
        for name in sorted(OURS, key=lambda name: name in leading):
            colour = plt.get_cmap("tab10")(leading.index(name)) if name in leading else "0.8"
            width, above = (1.9, 3) if name in leading else (0.8, 1)
            for side, style in (("ours", "-"), ("diffusers", ":")):
                rows = found[side].get(name, {})
                errors = [best(rows, n) for n in NFE]
                label = name if side == "ours" and name in leading else None
                axis.loglog(NFE, errors, style, color=colour, linewidth=width, zorder=above, label=label)
        axis.set(title=problem, xlabel="network calls", ylabel="RMS error, best spacing of each")
        axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(
        frameon=False,
        fontsize=9,
        title="solid: ours, dotted: diffusers;\ngrey: the other methods",
        loc="lower left",
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110, facecolor="white")


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    table = {name: measured(*problem) for name, problem in problems().items()}
    for problem, found in table.items():
        print(
            f"\n{problem}: truth to {found['truth']:.0e}; least error of any spacing, ours then diffusers', at {NFE}"
        )
        for name, rows in found["ours"].items():
            print(f"{name:16}", *(f"{best(rows, n):8.1e}" for n in NFE))
            if name in found["diffusers"]:
                print(f"{'':16}", *(f"{best(found['diffusers'][name], n):8.1e}" for n in NFE))
        print(
            "behind diffusers':",
            *(f"{name} {n}: {ratio:.2f}" for name, n, ratio in behind(found)),
            sep="\n  ",
        )
    for name, spacing, factors in defaults(table)[:12]:
        print(f"{name:16} {spacing:18}", *(f"{v:5.2f}" for each in factors.values() for v in each))
    out = HERE / "results" / "error_nfe"
    out.with_suffix(".json").write_text(json.dumps({"draws": DRAWS, "rms": table}, indent=1) + "\n")
    draw(out.with_suffix(".png"), table)


if __name__ == "__main__":
    main()
