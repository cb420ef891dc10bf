"""Peak memory of a value and its gradient against the number of steps, one fresh process per point.

    python benchmarks/memory.py      writes benchmarks/results/memory.json and memory.png

Each process compiles its plan (0.8 KiB a step, the user's own), warms up at N = 2 twenty times, then runs N
steps on a UNet of about 1 M parameters: the resident set's high-water mark over the warm-up's, and the bytes
of distinct live tensors between forward and backward over those before.
"""

import gc
import json
import pathlib
import resource
import subprocess
import sys

import torch

from pullback.adjoint import (
    AdjointDEIS,
    Checkpoint,
    Continuous,
    Direct,
    Gradient,
    Mechanism,
    Reversible,
    States,
    sample,
)
from pullback.solvers import (
    DDPM,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Method,
    Plan,
    ReversibleHeun,
    UniformLambda,
    V,
)

STRATEGIES: dict[str, tuple[Gradient, Method]] = {
    "Direct": (Direct(), DPMSolverPP(2)),
    "Checkpoint": (Checkpoint(), DPMSolverPP(2)),
    "Checkpoint by regions": (Checkpoint(mechanism=Mechanism.REGION), DPMSolverPP(2)),
    "Checkpoint, offload": (Checkpoint(offload=True), DPMSolverPP(2)),
    "Checkpoint, recursive": (Checkpoint(recursive=True), DPMSolverPP(2)),
    "Reversible": (Reversible(), ReversibleHeun()),
    "Continuous, re-solved": (Continuous(states=States.RESOLVED), DPMSolverPP(2)),
    "Continuous, re-solved, SDE": (Continuous(None, DDPM(), States.RESOLVED), DDPM()),
    "AdjointDEIS, re-solved": (AdjointDEIS(states=States.RESOLVED), DPMSolverPP(2)),
    "AdjointDEIS, re-solved, SDE": (AdjointDEIS(states=States.RESOLVED), DDPM()),
}
STEPS = (10, 50, 200, 1000)
HERE = pathlib.Path(__file__).parent


def tensor_bytes() -> int:
    """Bytes of all distinct storages that Python can see."""
    seen = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def point(name: str, steps: int) -> None:
    from pullback.zoo import UNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Denoiser(UNet(32, 40, (1, 2, 3)), VP(), V)
    x = torch.randn(1, 1, 32, 32, requires_grad=True)

    strategy, method = STRATEGIES[name]

    def run(plan: Plan) -> int:
        before = tensor_bytes()
        out = sample(model, plan, x, noise=Addressed(0), gradient=strategy)
        live = tensor_bytes() - before
        out.square().sum().backward()
        return live

    short, long = (method.plan(model.process, UniformLambda(n, start=1.0, end=0.03)) for n in (2, steps))
    for _ in range(20):  # until the allocators have settled, else their growth is taken for the strategy's
        run(short)
    base = peak_kib()
    live = run(long)
    print(
        json.dumps(
            {
                "peak_MiB": (peak_kib() - base) / 1024,
                "live_bytes": live,
                "state_bytes": x.nbytes,
                "parameters": sum(p.numel() for p in model.parameters()),
            }
        )
    )


def main() -> None:
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for name in STRATEGIES:
        for n in STEPS if name != "Direct" else (10, 50):
            out = subprocess.run(
                [sys.executable, __file__, name, str(n)], capture_output=True, text=True, check=True
            )
            rows.setdefault(name, {})[n] = json.loads(out.stdout)
            print(name, n, rows[name][n], flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "memory.json").write_text(json.dumps(rows, indent=1) + "\n")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 4))
    for name, points in rows.items():
        style = "--" if "SDE" in name else "-"
        axis.loglog(
            list(points), [max(p["peak_MiB"], 0.1) for p in points.values()], style, marker="o", label=name
        )
    axis.set(xlabel="steps N", ylabel="peak memory over the warm-up, MiB")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(HERE / "results" / "memory.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        point(sys.argv[1], int(sys.argv[2]))
    else:
        main()
