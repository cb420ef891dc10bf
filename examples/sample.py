"""Error against network calls of every method, on a mixture of three Gaussians.

Methods without noise are held to the probability flow, solved by 1500 steps: the root mean square of the difference.
Methods with noise end at other points; their law is held to the data's, by the sliced Wasserstein distance between as
many draws of either. Of two sets of exact draws it is not 0: the grey band, below which nothing can be told.
Methods for other equations, of one's own or with a momentum, are on docs/equations.md.
"""

# %%
import dataclasses
import math

import torch
from common import GREY, PALE, look, options, pyplot, write
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    DEIS,
    EDICT,
    EDMPEC,
    ERSDE,
    FLOW,
    GHVB,
    IPNDM,
    KDPM2,
    LCM,
    LMS,
    MRS,
    OBELM,
    PLMS,
    PNDM,
    RK4,
    SEEDS,
    TCD,
    VP,
    Addressed,
    Ancestral,
    Clamp,
    ConstantFlowSDE,
    Coupled,
    Denoiser,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPFast,
    DPMSolverPPSingle,
    DPMSolverSingle,
    DPMSolverV3,
    EDMHeun,
    Ends,
    EulerMaruyama,
    FlowAdams,
    FlowEuler,
    FlowHeun,
    FlowMidpoint,
    FlowSDE,
    HybridHeun,
    LangevinCorrected,
    Method,
    Mixture,
    Model,
    OnData,
    OnDataOnly,
    Plan,
    Restart,
    ReversibleHeun,
    Rex,
    RhoRK,
    SASolver,
    SDEDPMSolver,
    SDEDPMSolverPP,
    StochasticFlow,
    StochasticImprovedEuler,
    UniformLambda,
    UniPC,
    convert,
)  # fmt: skip

# %%
# By what they do; a title, then the methods. DDIM is the grey line of each panel without noise.
FLOWS: dict[str, list[Method]] = {
    "one call a step": [
        DDIM(), DPMSolver(2), DPMSolverPP(2), DPMSolverPP(3), DEIS(4), UniPC(3), DPMSolverV3(),
    ],
    "one call a step, more of them": [
        LMS(4), IPNDM(), PLMS(), PNDM(), GHVB(1.8), MRS(), SASolver(3, 3, tau=0.0),
    ],
    "several calls a step": [
        DPMSolverSingle(3), DPMSolverPPSingle(2), DPMSolverPPSingle(3), EDMHeun(), EDMPEC(), KDPM2(), RhoRK(RK4),
    ],
    "steps of several kinds, or a method around another": [
        DPMSolverFast(), DPMSolverPPFast(), Ends(DPMSolverPP(3), tail=(DDIM(),)),
        OnData(DPMSolverPP(2), Clamp(-2.0, 2.0)), OnDataOnly(DDIM(), Clamp(-2.0, 2.0)),
    ],
    "of a velocity": [FlowEuler(), FlowMidpoint(), FlowHeun(), FlowAdams(2), FlowAdams(4)],
    "reversible": [ReversibleHeun(), OBELM(), BDIA(), EDICT(), Coupled(), Rex()],
}  # fmt: skip
NOISY: dict[str, list[Method]] = {
    "with noise": [
        DDIM(1.0), DDPM(), EulerMaruyama(), SDEDPMSolverPP(2), SDEDPMSolver(), SEEDS(3), ERSDE(3),
    ],
    "with noise of a velocity, or of two stages": [
        FlowSDE(), ConstantFlowSDE(), StochasticFlow(0.1), StochasticImprovedEuler(), HybridHeun(),
    ],
    "with noise around another method; LCM and TCD are made for distilled networks": [
        Ancestral(DPMSolverPPSingle(2)), Restart(EDMHeun()), LangevinCorrected(DPMSolverPP(2)), LCM(), TCD(),
    ],
}  # fmt: skip
CALLS = (6, 12, 24, 48, 96, 192)
DIMMED = "DDIM()"


def name_of(method: Method) -> str:
    """Its class, its order, the method inside, and numbers that are not the default."""
    parts = []
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        value = getattr(method, field.name)
        if isinstance(value, Method):
            parts.append(name_of(value).removesuffix("()"))
        elif field.name == "order" and type(value) is int:
            parts.append(str(value))
        elif type(value) in (int, float) and value != field.default:
            parts.append(f"{field.name}={value}")
    return f"{type(method).__name__}({', '.join(parts)})"


def plan_within(method: Method, process: VP, calls: int) -> Plan:
    """The longest plan of at most `calls` network calls."""
    ends = {"start": 1.0, "end": 1e-3}
    for steps in (calls, calls - 1, calls // 2, calls // 3 + 1, calls // 3, calls // 4, calls // 8, 1):
        plan = method.plan(process, UniformLambda(max(1, steps), **ends))
        if plan.nfe <= calls:
            return plan
    return plan  # one step, dearer than that


def sliced(a: Tensor, b: Tensor, directions: int = 32) -> float:
    """Sliced W1 of two sets of as many points in the plane: the distance of their sorted shadows, on average."""
    angle = torch.arange(directions, dtype=a.dtype) * math.pi / directions
    along = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ along).sort(0).values - (b @ along).sort(0).values).abs().mean())


# %%
def main() -> None:
    run = options(__doc__, count=2000)
    torch.set_default_dtype(torch.float64)
    mixture = Mixture.isotropic(
        torch.tensor([0.3, 0.45, 0.25]),
        torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]]),
        torch.tensor([0.35, 0.45, 0.3]),
    )
    process, generator = VP(), torch.Generator().manual_seed(run.seed)
    data = mixture.denoiser(process)
    flow = Denoiser(lambda x, t: convert(data(x, t), x, data.prediction, FLOW, process, t), process, FLOW)
    x = torch.randn(run.count, 2, generator=generator)
    few = x[:256]  # a difference of points needs fewer draws than a distance of laws
    truth = sample(data, DEIS(4, starter=True).plan(process, UniformLambda(1500, start=1.0, end=1e-3)), few,
                   gradient=None)  # fmt: skip
    drawn = [mixture.sample(run.count, generator) for _ in range(5)]
    exact, floor = drawn[0], max(sliced(drawn[0], other) for other in drawn[1:])
    table: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for panel, methods in (FLOWS | NOISY).items():
        for method in methods:
            model: Model = flow if "Flow" in type(method).__name__ else data
            points = table.setdefault(panel, {}).setdefault(name_of(method), [])
            for calls in CALLS:
                plan = plan_within(method, process, calls)
                if panel in FLOWS:
                    error = (sample(model, plan, few, gradient=None) - truth).square().mean().sqrt()
                else:
                    out = sample(model, plan, x, noise=Addressed(run.seed, stream=1), gradient=None)
                    error = sliced(out, exact)
                points.append((plan.nfe, float(error)))
    at = CALLS.index(24)
    best = {
        kind: min((points[at][1], name) for panel in kinds for name, points in table[panel].items())
        for kind, kinds in (("rms", FLOWS), ("sliced_w1", NOISY))
    }
    print(f"{sum(map(len, (FLOWS | NOISY).values()))} methods; at 24 network calls the least RMS error is "
          f"{best['rms'][0]:.1e}, {best['rms'][1]}; the least distance of laws {best['sliced_w1'][0]:.3f}, "
          f"{best['sliced_w1'][1]}, of two sets of exact draws up to {floor:.3f}")  # fmt: skip
    facts = {"best_at_24": {kind: name for kind, (_, name) in best.items()}, "floor": floor, "error": table}
    write(run.out, "sample", draw(table, floor), facts)


def draw(table, floor):
    plt = pyplot()
    figure, axes = plt.subplots(3, 3, figsize=(15, 12.5), sharex=True)
    common = table["one call a step"][DIMMED]
    for row, panels in enumerate((list(table)[:3], list(table)[3:6], list(table)[6:])):
        for axis, panel in zip(axes[row], panels, strict=True):
            if panel in FLOWS:
                axis.loglog(
                    *zip(*common, strict=True), color=GREY, lw=5, alpha=0.4, label=f"{DIMMED}, in every panel"
                )
                axis.set_ylim(1e-6, 3)
            else:
                axis.axhspan(0, floor, color=PALE, label="two sets of exact draws")
                axis.set_ylim(1e-2, 3)
            others = {name: points for name, points in table[panel].items() if name != DIMMED}
            for k, (name, points) in enumerate(others.items()):
                axis.loglog(*zip(*points, strict=True), **look(k), label=name)
            axis.set_title(panel.replace("; ", "\n"), fontsize=11)
            axis.legend(fontsize=8.5, loc="lower left" if panel in FLOWS else "upper right")
            axis.set_xticks(CALLS, map(str, CALLS))
            axis.minorticks_off()
        axes[row, 0].set_ylabel(
            "RMS distance to the exact flow" if row < 2 else "sliced Wasserstein distance to the data"
        )
    for axis in axes[2]:
        axis.set_xlabel("network calls")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
