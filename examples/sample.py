"""Error against network calls of every method, on a mixture whose exact flow is known."""

# %%
import torch
from common import options, write

from pullback.adjoint import sample
from pullback.solvers import (
    DDIM,
    DEIS,
    EDMPEC,
    FLOW,
    VP,
    Denoiser,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    FlowAdams,
    FlowHeun,
    FlowMidpoint,
    Mixture,
    UniformLambda,
    convert,
)

METHODS = [
    DDIM(),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPPSingle(2),
    DPMSolverPPSingle(3),
    DEIS(2),
    DEIS(3),
    DEIS(4),
    EDMHeun(),
    EDMPEC(),
    FlowMidpoint(),
    FlowHeun(),
    FlowAdams(2),
]


def main() -> None:
    run = options(__doc__, draws=256)
    torch.set_default_dtype(torch.float64)
    mixture = Mixture.isotropic(
        torch.tensor([0.3, 0.45, 0.25]),
        torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]]),
        torch.tensor([0.35, 0.45, 0.3]),
    )
    process = VP()
    data = mixture.denoiser(process)
    flow = Denoiser(lambda x, t: convert(data(x, t), x, data.prediction, FLOW, process, t), process, FLOW)
    x = torch.randn(run.draws, 2, generator=torch.Generator().manual_seed(run.seed))
    ends = {"start": 1.0, "end": 1e-3}
    truth = sample(data, DEIS(4, starter=True).plan(process, UniformLambda(1500, **ends)), x, gradient=None)
    table: dict[str, list[tuple[int, float]]] = {}
    for method in METHODS:
        name = str(method).split(", exact")[0].replace(", starter=False", "").rstrip(")") + ")"
        for n in (6, 12, 24, 48, 96, 192):
            plan = method.plan(
                process,
                UniformLambda(max(1, n // (method.plan(process, UniformLambda(1, **ends)).nfe)), **ends),
            )
            model = flow if name.startswith("Flow") else data
            out = sample(model, plan, x, gradient=None)
            table.setdefault(name, []).append((plan.nfe, float((out - truth).square().mean().sqrt())))
    best = min(table, key=lambda name: table[name][2][1])
    print(f"lowest RMS error at 24 network calls: {best}, {table[best][2][1]:.2e}")
    write(run.out, "sample", draw(table), {"best_at_24": best, "rms": table})


def draw(table):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 5))
    for k, (name, points) in enumerate(table.items()):
        colour = plt.get_cmap("tab10")(k % 10)
        axis.loglog(
            *zip(*points, strict=True), marker="os^D"[k // 10], color=colour, label=name, lw=1.4, ms=4
        )
    axis.set(
        xlabel="network calls",
        ylabel="RMS error of the sample",
        title="Every method on one mixture, uniform in lambda",
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


if __name__ == "__main__":
    main()
