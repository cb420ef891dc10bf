"""The part of docs/morphs.md on people that nothing has seen."""

from collections.abc import Iterator

from figures.figure import Figure, Row, Stated
from figures.results import card, results

found, models = results("held_out_morphs"), card("procedural")
rows = found["rows"]
own = [models[f"recogniser{k}"] for k in range(3)]
SHARE = "mmpmr_prod_avg_at_0.01"
SHOWN = (
    "the renderer's own half", "pixel mean", "pixel mean, best of 9", "slerp and mean code", "slerp and code, best of 9",
    "greedy search", "greedy", "noise, Checkpoint", "noise, AdjointDEIS", "code, Checkpoint", "code, AdjointDEIS",
    "noise and code, Checkpoint", "noise and code, Reversible", "noise and code, Continuous", "noise and code, AdjointDEIS",
    "noise and code, leashed to the inverted mean", "noise and code, 0 and 1 attacked",
)  # fmt: skip


def table() -> Iterator[Row]:
    for name in SHOWN:
        row = rows[name]
        shares = (
            100 * v
            for share, ends in zip(row[SHARE], row[f"{SHARE}_interval"], strict=True)
            for v in (share, *ends)
        )
        rest = (*row["nearer_than_best_pixel_mean"], row["sharpness"], row["denoiser_error"])
        yield Row(f"| {name} |", *row["worse_distance"], *shares, *rest, under="## Held-out identities")


def share(name: str, judge: int = 0) -> float:
    return 100 * rows[name][SHARE][judge]


def nearer(name: str, judge: int) -> int:
    return rows[name]["nearer_than_best_pixel_mean"][judge]


EXACT = [
    f"{moved}, {g}"
    for moved in ("noise", "noise and code")
    for g in ("Checkpoint", "Reversible", "Continuous")
]
both, noise = EXACT[3:], EXACT[:3]
other = [share(name, 2) for name in SHOWN if name.startswith(("noise", "code"))]
by_the_other = [nearer(name, 1) for name in (*EXACT, "noise and code, leashed to the inverted mean")]
sharp = [rows[name]["sharpness"] for name in EXACT]
calls = [
    row["nfe"] for name, row in rows.items() if name.startswith(("noise", "code")) and "leashed" not in name
]

FIGURES = [
    *table(),
    Figure("makes morphs of {24} pairs", found["pairs"]),
    Figure("equal error rates of {0.7}, {0.4} and {6.2} %", *(100 * model["eer"] for model in own)),
    Figure("they miss {0.3}, {0.1} and {23} % of", *(100 * model["at_0.01"]["fnmr"] for model in own)),
    Figure(
        "have {468} to {488} calls (leashed: {444}) and {200} VJPs",
        min(calls),
        max(calls),
        rows["noise and code, leashed to the inverted mean"]["nfe"],
        rows["noise and code, Checkpoint"]["vjps"],
    ),
    Figure(
        "more often ({58} %) than what the renderer draws of half of two people ({42} %), and pass another seed of it nearly as "
        "often ({49} %)",
        share("noise, Checkpoint"),
        share("the renderer's own half"),
        share("noise, Checkpoint", 1),
    ),
    Figure("on all {24} pairs to the one", min(nearer(name, 0) for name in EXACT)),
    Figure("and on {19} to {22} to the other", min(by_the_other), max(by_the_other)),
    Figure("by AdjointDEIS on {19} and {15})", *(nearer("noise, AdjointDEIS", k) for k in (0, 1))),
    Figure("not deceived**: {7} to {11} %,", min(other), max(other)),
    Figure(
        "sharpness {0.91}, unreality {0.85}",
        *(rows["greedy"][what] for what in ("sharpness", "denoiser_error")),
    ),
    Figure("past the photographs ({1.3} to {1.5})", min(sharp), max(sharp)),
    Figure(
        "AdjointDEIS reaches {31} % where the exact ones reach {55} to {58} %, over both {41} % where they reach {57} to {59} %",
        share("noise, AdjointDEIS"),
        min(map(share, noise)),
        max(map(share, noise)),
        share("noise and code, AdjointDEIS"),
        min(map(share, both)),
        max(map(share, both)),
    ),
]
STATED = [
    Stated("threshold that lets <1> % of strangers", "the rate"),
    Stated("in per cent at <1> % FMR with <95> % over pairs", "rate and level"),
]
