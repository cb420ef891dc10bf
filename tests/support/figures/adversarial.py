"""docs/adversarial.md"""

import statistics

from figures.figure import Figure, Stated
from figures.results import column, results

found = results("robustness_digits")
misread = {name: [100 * own for own, _ in rows] for name, rows in results("robustness")["rows"].items()}
exact, last, without = misread.values()  # the last four steps; without the Jacobian

smoothed = {name: row["0.75"]["value"] for name, row in found["certificates"]["sigma 0.5"].items()}
wrong = column(found["certificates"]["coverage of a half space"], "wrong")
setting = found["settings"]["protections"]
moved = {name: statistics.mean(row["before"]["moved"]) for name, row in found["protections"].items()}
guarded = found["protections"]["PhotoGuard, whole edit"]
purified = found["purification"]
memory = {name: [size / 1e6 for size in rows.values()] for name, rows in found["memory"].items()}


def ahead(other: list[float]) -> tuple[float, float]:
    """By how many points the exact gradient is, over seeds, and its standard error."""
    by = [a - b for a, b in zip(exact, other, strict=True)]
    assert min(by) > 0, "on every seed"
    return statistics.mean(by), statistics.stdev(by) / len(by) ** 0.5


FIGURES = [
    Figure(
        "a half space, {0}, {4} and {18} of {1000} certificates were wrong",
        *(setting["trials"] * row["value"] for row in wrong),
        setting["trials"],
    ),
    Figure(
        "On {30} digits of 8x8 at sigma = 0.5 and {300} draws, {77} % are certified at radius <0.75> with the denoiser and "
        "{57} % without",
        setting["certified"],
        setting["smoothing"],
        100 * smoothed["denoised"],
        100 * smoothed["classifier alone"],
    ),
    Figure("{12} images, |change| up to {0.3},", setting["protected"], found["radius"]),
    Figure(
        "a random change moves the edit by {0.052} (rms), PhotoGuard through the whole edit by {0.060}, score distillation "
        "with scale <-1> by {0.066}, AdvDM by {0.045} and one early step by {0.036}",
        *(
            moved[name]
            for name in (
                "random change",
                "PhotoGuard, whole edit",
                "score distillation, -",
                "AdvDM",
                "early step",
            )
        ),
    ),
    Figure(
        "the edit from {0.962} to {0.934} of its target, and to {0.944} once",
        statistics.mean(found["protections"]["no protection"]["before"]["to_target"]),
        *(statistics.mean(guarded[when]["to_target"]) for when in ("before", "after_purification")),
    ),
    Figure(
        "an area under the curve of {0.82}, and a random change of the same size with {0.90}",
        *(found["detection"][name]["auc_against_clean"] for name in ("attacked", "random change")),
    ),
    Figure(
        "{36} % are misread with the exact gradient, {32} % with the last 4 steps or without the Jacobian",
        statistics.mean(exact),
        statistics.mean(last),
    ),
    Figure("{32} % with the last 4 steps or without the Jacobian", statistics.mean(without)),
    Figure("{4.2} +- {0.8} and {4.4} +- {0.5} points", *ahead(last), *ahead(without)),
    Figure(
        "robust accuracy is {65} % [{43}, {82}] under the exact gradient, {70} % [{48}, {85}] under each of the cheaper ones, "
        "of {90} % clean, at {2.5} times the time, and the mean share of draws read right {63} % against {70} %",
        *(
            100 * value
            for name in ("exact", "last 4 steps")
            for value in (purified[name]["robust"]["value"], *purified[name]["robust"]["wilson"])
        ),
        100 * purified["exact"]["clean"]["value"],
        purified["exact"]["cpu_seconds"] / purified["last 4 steps"]["cpu_seconds"],
        *(100 * purified[name]["share_of_draws_read_right"] for name in ("exact", "last 4 steps")),
    ),
    Figure(
        "{1.9} and {17} MB by plain autograd, {0.162} and {0.186} MB under `Checkpoint`, {0.160} and {0.161} MB under "
        "`Reversible`",
        *(size for name in ("Direct", "Checkpoint", "Reversible") for size in memory[name]),
    ),
]
STATED = [
    Stated("<2.5> radii in all if none is given", "the default"),
    Stated("radius <0.3>) were fixed", "a setting, the benchmark's `radius`"),
]
