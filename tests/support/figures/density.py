"""docs/density.md"""

from collections.abc import Iterator

from figures.figure import Figure, Row, Stated
from figures.results import results

found = results("likelihood")
COUNTS = {"mixture": ("12", "24", "48", "96", "192"), "digits": ("12", "24")}
LABELS = {
    "`DPMSolverPP(2)`": ("DPMSolverPP(2)",),
    "`DPMSolverPP(2)` with `variance=`": ("DPMSolverPP(2), variances",),
    "`DPMSolverPP(3)`": ("DPMSolverPP(3)",),
    "`UniPC()`": ("UniPC(3)",),
    "torchdiffeq midpoint, best of two grids": (
        "torchdiffeq midpoint, t grid",
        "torchdiffeq midpoint, lambda grid",
    ),
    "torchdiffeq rk4, best of two grids": ("torchdiffeq rk4, t grid", "torchdiffeq rk4, lambda grid"),
    "det": ("jacrev DDIM",),
}
HEADS = {"mixture": "| mixture in the plane, calls", "digits": "| digits, 64 dimensions, calls"}


def errors() -> Iterator[Row]:
    for problem, counts in COUNTS.items():
        rms = found[problem]["rms"]
        for label, names in LABELS.items():
            if all(name in rms for name in names):
                cells = (min(rms[name][n] for name in names) for n in counts)
                yield Row(f"| {label} |", *cells, under=HEADS[problem])
    dopri = found["mixture"]["rms"]["torchdiffeq dopri5"]
    yield Row("| torchdiffeq dopri5 (20, 44, 68 calls) |", *(dopri[n] for n in ("20", "44", "68")))


coverage = {
    kind: {int(d): {int(n): 100 * v for n, v in row.items()} for d, row in rows.items()}
    for kind, rows in found["coverage"].items()
}
signs, normal = coverage["SIGNS"], coverage["NORMAL"]
many = [signs[d][n] for d in (8, 16, 32) for n in (8, 16, 32)]
few = [signs[d][n] for d in (8, 16, 32) for n in (2, 4)]
probes, memory, bits = found["probes"], found["memory"], list(found["bits"].values())


def kib(name: str) -> list[float]:
    return [row["KiB"] for row in memory[name].values()]


FIGURES = [
    *errors(),
    Figure(
        "with signs {94.6} to {95.4} % from 8 probes on in 8 to 32 dimensions, {94.2} to {95.4} % with 2 and 4",
        min(many),
        max(many),
        min(few),
        max(few),
    ),
    Figure(
        "{93.0} % at 8 probes and {93.6} % at 32 in 8 dimensions, {94.5} and {94.3} % in 32",
        *(normal[d][n] for d in (8, 32) for n in (8, 32)),
    ),
    Figure(
        "for <12>, <24> and <48> VJPs a call, nats: signs {2.6}, {1.6}, {1.0}; normal {7.8}, {5.6}, {3.9}; Hutch++ in equal "
        "thirds with signs {7.2}, {4.1}, {3.1}",
        *(
            value
            for name in ("Hutchinson, signs", "Hutchinson, normal", "Hutch++, signs")
            for value in probes[name].values()
        ),
    ),
    Figure("on the digits ({1.11} of them)", found["digits"]["seconds_ours_over_torchdiffeq"]),
    Figure("and {1.7} times as many", found["mixture"]["seconds_ours_over_torchdiffeq"]),
    Figure(
        "<24> calls: {2.22} +- {0.03} bits per dimension with `UniformDequantisation(1/8)` from t = 0.001, {2.03} +- {0.03} "
        "with",
        *(value for row in bits for value in (row["bits"], row["error"])),
    ),
    Figure(
        "`Direct` {0.7} and {7} MiB, `Checkpoint` {20} and {144} KiB (a state a call), `Reversible` {9} and {10} KiB, {15} "
        "tensors",
        *(size / 1024 for size in kib("Direct")),
        *kib("Checkpoint"),
        *kib("Reversible"),
        memory["Reversible"]["100"]["tensors"],
    ),
]
STATED = [Stated("Coverage of <95> % intervals", "their level")]
