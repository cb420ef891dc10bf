"""docs/gallery.md"""

from collections.abc import Iterator

from figures.figure import Figure, Stated, Value
from figures.results import results, wilson

samples = results("digit_samples")
drawn, edited, restored, looked, attacked, tuned = (
    results(f"digits/{name}")
    for name in ("digit_guidance", "edit_digits", "restore_digits", "lookahead", "robustness", "finetune")
)
KINDS = ("real, held out", "diffusion", "rectified flow", "the same, guidance 2")
hidden, coarse = restored["results"]["the middle hidden"], restored["results"]["7x7 pixels seen"]
cosines = looked["cosine"]["digits, a classifier's loss"][looked["times"].index(0.8)]


def judged(row: dict[str, float]) -> Iterator[Value]:
    """Per cent that are read by the judge, and the distance."""
    yield from (100 * row["judge"], row["distance"])


def both(*rows: dict[str, float]) -> Iterator[Value]:
    """dB and per cent that are read, of each."""
    for row in rows:
        yield from (row["psnr"], 100 * row["read"])


def misread(name: str, reader: int) -> float:
    """Per cent, at the end of the attack, by the attacked classifier (1) or the other (2)."""
    return 100 * attacked["success"][name][-1][reader]


steered = {name: row["judge"] for name, row in looked["steered"].items()}
ATTACKS = ("exact gradient", "last 4 steps only", "Jacobian left out", "defence unknown")

FIGURES = [
    Figure(
        "{20} network evaluations a sample. Read as meant: real {98} %, diffusion {94} %, flow {94} %, flow at guidance scale "
        "2 {100} %. Fréchet distance to real digits {0.80}, {0.84} and {0.74}, where other real digits have {0.38}",
        samples["nfe"],
        *(100 * samples[kind]["read_as_meant"] for kind in KINDS),
        *(samples[kind]["frechet"] for kind in (*KINDS[1:], KINDS[0])),
    ),
    Figure(
        "{87} % read as asked for, at a distance of {0.58} from",
        100 * drawn["optimised"]["read_by_held_out"],
        drawn["optimised"]["distance"],
    ),
    Figure(
        "{100} % at {0.71}. A digit is easily found",
        100 * drawn["best of as many draws"]["read_by_held_out"],
        drawn["best of as many draws"]["distance"],
    ),
    Figure(
        "the row shown: read {94} % at distance {0.41} from the source; FlowEdit {97} % at {0.54}; the baseline, the nearest "
        "real digit of the target class, {94} % at {0.57}",
        *judged(edited["RF-Inversion, learned gamma(t), eta(t)"][0]),
        *judged(edited["FlowEdit"][3]),
        *judged(edited["nearest real digit"][0]),
    ),
    Figure(
        "on the distance {100} % at {0.48}, FlowEdit {100} % at {0.64}",
        *judged(edited["RF-Inversion, learned gamma(t), eta(t)"][1]),
        *judged(edited["FlowEdit"][4]),
    ),
    Figure(
        "{30} digits. With the middle hidden PiGDM and DPS reach {16.8} dB, read {83} and {80} %; the nearest training digit "
        "{14.1} dB and {87} %, the posterior mean under a fitted mixture {18.0} dB and {80} %, the input as it is {14.3} dB "
        "and {83} %",
        restored["count"],
        hidden["PiGDM"]["psnr"],
        *(100 * hidden[name]["read"] for name in ("PiGDM", "DPS")),
        *both(*(hidden[name] for name in ("nearest training digit", "mixture's mean", "measured"))),
    ),
    Figure("PiGDM and DPS reach {16.8} dB", hidden["DPS"]["psnr"]),
    Figure(
        "MCG reaches {15.5} dB, read {93} %; the baselines {14.5} dB and {87} %, {16.8} dB and {90} %, the input {13.5} dB "
        "and {77} %. There DPS, {14.3} dB and {73} %",
        *both(
            *(coarse[name] for name in ("MCG", "nearest training digit", "mixture's mean", "measured", "DPS"))
        ),
    ),
    Figure(
        "gradient at t = 0.8: {0.06} without a Jacobian, {0.00} for one step (DPS), {0.50}, {0.75} and {0.90} for 2, 4 and 8 "
        "(means over {12})",
        *cosines,
        looked["count"],
    ),
    Figure(
        "{60} % [{42}, {75}] of 30 samples are the digit asked for with k = 2 or 4, {43} % [{27}, {61}] with k = 1, in 20 steps "
        "or in 90, which cost as much as k = 4 does, {20} % with k = 0, {10} % unguided",
        *(100 * v for name in ("k = 2", "k = 1") for v in (steered[name], *wilson(steered[name], 30))),
        *(100 * steered[name] for name in ("k = 0", "unguided")),
    ),
    Figure("{60} % [42, 75] of 30 samples", 100 * steered["k = 4"]),
    Figure("{43} % [27, 61] with k = 1", 100 * steered["k = 1, 90 steps"]),
    Figure(
        "{40} steps of purification, {10} digits with two draws each: of what the attacked classifier reads the exact "
        "gradient makes {55} % misread [{27}, {80}], the last four steps alone {35} %, no Jacobian {40} %, not knowing of the "
        "defence {25} %, random signs {5} %; of what a classifier reads that no attack saw {25}, {20}, {25}, {20} and {10} %",
        attacked["purification_steps"],
        attacked["count"],
        misread(ATTACKS[0], 1),
        *(100 * end for end in wilson(attacked["success"][ATTACKS[0]][-1][1], attacked["count"])),
        *(misread(name, 1) for name in ATTACKS[1:]),
        100 * attacked["random_signs"][0],
        *(misread(name, 2) for name in ATTACKS),
        100 * attacked["random_signs"][1],
    ),
    Figure("does not know of it fools {100} %", 100 * attacked["without_defence"]),
    Figure(
        "with probability {0.95}, where the base has {0.10}, and {0.94} when asked by its label",
        tuned["after"]["judge"],
        tuned["before"]["judge"],
        tuned["asked_by_label"],
    ),
]
STATED: list[Stated] = []
