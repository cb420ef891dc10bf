"""docs/choosing.md"""

import statistics

from figures import inverse, sampling
from figures.figure import Figure, Row, Stated
from figures.guidance import EIGHT, PROBLEMS, defaults, looked
from figures.results import results

memory = {
    name: {int(n): row["peak_MiB"] for n, row in rows.items()} for name, rows in results("memory").items()
}
parameters = results("memory")["Checkpoint"]["10"]["parameters"] / 1e6
audits = [table["rows"] for table in results("audits")["tables"]]  # mixture, noise, data, digits
auto = results("auto")
slower = [row["slower_than_best"] for row in auto["rows"]]
gains = [row["targets"] for name, row in results("multilevel")["problems"].items() if ", DPM" in name]
swept = [
    (row["by tol"][tol], row["calls"])
    for row in results("parallel")["sweeps"]
    if row["steps"] == 100
    for tol in ("0.001", "0.0001")
    if tol in row["by tol"]
]


def to_flow(strategy: str, table: int) -> float:
    return audits[table][strategy]["from the flow's"]


def from_run(strategy: str) -> float:
    """On digits, in per cent."""
    return 100 * audits[3][strategy]["from the run's"]


def ends(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


GRADIENTS = [
    Row(
        "| no wish to choose |",
        ...,
        ...,
        *ends([memory["Checkpoint"][10], memory["Checkpoint"][1000]]),
        parameters,
    ),
    Row(
        "| few steps, or memory to spare |",
        *(audits[0][name][what] for name in ("Direct()", "Checkpoint()") for what in ("calls", "vjps")),
        memory["Direct"][50],
        ...,
        memory["Checkpoint"][50],
    ),
    Row("| a limit in bytes or seconds |", *ends(slower), auto["cases"], auto["above_the_limit"]),
    Figure("does not grow: {0.6} MiB at 200 steps and at 1000", memory["Reversible"][200]),
    Figure("{0.6} MiB at 200 steps and at 1000", memory["Reversible"][1000]),
    Figure(
        "for a state of {4} KiB recursion saves nothing: {10.0} MiB at 1000 steps, plain {9.5}",
        results("memory")["Checkpoint"]["10"]["state_bytes"] / 1024,
        memory["Checkpoint, recursive"][1000],
        memory["Checkpoint"][1000],
    ),
    Figure(
        "at 20 steps {0.021} from it on a mixture where the exact one of the run is at {0.12}; on digits {0.012} beside "
        "{0.013}; on random perceptrons {0.34} beside {0.26}",
        *(to_flow(name, table) for table in (0, 3, 1) for name in ("Continuous()", "Direct()")),
    ),
    Figure(
        "{25} calls and {5} VJPs at K = 5 of 20; {78} % off on digits",
        audits[3]["Truncated(5)"]["calls"],
        audits[3]["Truncated(5)"]["vjps"],
        from_run("Truncated(5)"),
    ),
    Figure(
        "{57} to {86} times less work at 1000 steps, {1.5} to {2.1} at 20",
        *ends([row["1000"]["gain"] for row in gains]),
        *ends([row["20"]["gain"] for row in gains]),
    ),
    Figure(
        "{9} to {16} batched calls forward and {6} to {13} back for 100 steps, of {5} to {7} and {6} to {13} times the work",
        *ends([row[0] for row, _ in swept]),
        *ends([row[1] for row, _ in swept]),
        *ends([row[2] / calls for row, calls in swept]),
        *ends([row[3] / calls for row, calls in swept]),
    ),
    Figure(
        "{49} % off at order <1>, {110} % at order 2", from_run("AdjointDEIS(1)"), from_run("AdjointDEIS(2)")
    ),
]


def best(method: str, n: int) -> list[float]:
    """The least error of any spacing, of the mixture and of the digits."""
    return [sampling.judged.best(each["ours"][method], n) for each in sampling.table().values()]


trips = results("round_trip")
deis = sampling.factors("DEIS 4", "power 2 of t", [12, 24, 48])
six = [best(name, 6) for name in ("iPNDM 4", "DEIS 4", "UniPC 2")]
SOLVERS = [
    Figure("mixture and {10} of 8x8 digits", results("error_nfe")["draws"]["8x8 digits"]),
    Figure(
        "{1.33}, {1.17} and {1.00} times the least error from <12> to <48> calls on the mixture, {1.26}, {1.00} and {1.30}",
        *deis,
    ),
    Figure(
        "nearest ({0.016} beside {0.035} and {0.054}), on the digits `UniPC` ({0.033} beside {0.050} and {0.037})",
        *(mixture for mixture, _ in six),
        *(six[k][1] for k in (2, 0, 1)),
    ),
    Figure(
        "{9.0e-5} and {7.3e-5} at <48> calls on the mixture, `DPMSolverPP(2)` {1.2e-3}; on the digits {7.0e-4} and {4.8e-4}",
        *(best(name, 48)[0] for name in ("UniPC 3", "DEIS 4", "DPM-Solver++ 2M")),
        *(best(name, 48)[1] for name in ("UniPC 3", "DEIS 4")),
    ),
    Figure(
        "{4e-16} and {5e-16} off, DDIM's inversion {0.05}",
        *(
            trips[f"{name} 50"]["float64"]
            for name in ("OBELM()", "ReversibleHeun(noise_side=False)", "DDIM(eta=0.0)")
        ),
    ),
]


def factors(method: str, where: slice) -> list[float]:
    """By the oracle's: far modes at m = 1, 2 and 4, then digits."""
    rows = [inverse.PROBLEMS[name] for name in (*PROBLEMS[:3], *PROBLEMS[6:])]
    return [row[method]["mean"] / row[inverse.ORACLE]["mean"] for row in rows][where]


FAR, DIGITS, ALL = slice(3), slice(3, 5), slice(5)
TMPD, MORE = "SMC, TMPD's p(y given x_t), K = n", "SMC, TMPD's p(y given x_t), K = 8 n"
smc = [inverse.PROBLEMS[PROBLEMS[0]][name] for name in (MORE, TMPD)]
worst = {
    name: max(defaults["after"][problem][name] for problem in EIGHT)
    for name in ("DPS(m)", "DataGuidance(m.nats)")
}
told = results("tutorials")["conditioning"]
GUIDES = [
    Figure(
        "{0.9}, {0.9} and {1.0} on far modes, {1.0} and {1.2} on digits; {400} calls a sample",
        *factors(MORE, ALL),
        smc[0]["nfe"],
    ),
    Figure("{1.3}, {1.1}, {1.4}; {1.1} and {1.8} on digits; {50} calls", *factors(TMPD, ALL), smc[1]["nfe"]),
    Figure(
        "{0.8}, {2.1} and {3.2}, with travel {0.8}, {1.2} and {1.0};",
        *factors("TMPD", FAR),
        *factors("TMPD + Travel(16)", FAR),
    ),
    Figure("1 VJP; {1.7}, {12} and {5.8}; {1.4} and {1.7} on digits", *factors("PiGDM", ALL)),
    Figure("best of four scales {2.1}, {22} and {13}", *factors("DPS", FAR)),
    Figure("those eight problems ({1.4}), `DataGuidance` not ({0.79})", *worst.values()),
    Figure(
        "{0.43} at k = 1, {0.60} at k = 2 and 4", *(looked["steered"][f"k = {k}"]["judge"] for k in (1, 2))
    ),
    Stated("<16> calls and <8> VJPs a step", "the plan"),
    Figure(
        "read as asked for {0.89}, by optimised noise {0.21}", told["vector, 16 new"], told["noise, 16 new"]
    ),
]

runs = results("reward")["runs"]
mixture = results("tilted_mixture")["sliced_w1"]


def of(name: str, what: str) -> float:
    """At the end of training, mean over seeds; base_mean and the middle are of the run."""
    own = [run for run in runs if run["name"] == name]
    if what == "middle":
        return statistics.mean((run["base_mean"] + run["best_of_64"]) / 2 for run in own)
    return statistics.mean(run[what] if what in run else run["curve"][-1][what] for run in own)


OBJECTIVES = [
    Figure(
        "begins at {-4.05} and the middle to the best of 64 is {-2.05};",
        of("draft", "base_mean"),
        of("draft", "middle"),
    ),
    Figure(
        "ends at {-0.49} and {3.6} nats, judge {0.83}",
        *(of("draft", what) for what in ("reward", "kl", "judge")),
    ),
    Figure(
        "| {-0.54} and {-0.65}, judge {0.81} and {0.78} |",
        *(of(name, what) for what in ("reward", "judge") for name in ("draft-k", "alignprop")),
    ),
    Figure(
        "distance to it {0.16} from {0.73} on a plane, `DRaFT` with a KL {0.15}; the best of 16 Gaussian steps has {0.10}",
        *(
            mixture[name]
            for name in ("Adjoint Matching", "base", "DRaFT + KL", "the best of 16 Gaussian steps")
        ),
    ),
    Figure(
        "| {-0.39} at {5.3} nats, judge {0.85},", *(of("ddpo-is", what) for what in ("reward", "kl", "judge"))
    ),
    Figure(
        "| {-0.53} from {-4.35}, judge {0.82}; `DanceGRPO()` {-3.38};",
        *(of("flow-grpo", what) for what in ("reward", "base_mean", "judge")),
        of("dance-grpo", "reward"),
    ),
    Figure("{-4.04} and {-3.34} |", of("draft-lv", "reward"), of("refl", "reward")),
    Figure(
        "digits has {0.94}, tuned {0.95}",
        results("digits/finetune")["asked_by_label"],
        results("digits/finetune")["after"]["judge"],
    ),
]

FIGURES = [*GRADIENTS, *SOLVERS, *GUIDES, *OBJECTIVES]
STATED = [
    Stated("at <6>, <12>, <24> and <48> calls (`error_nfe.json`)", "the columns"),
    Stated("a diffusion, <12> calls or more", "advice"),
    Stated("| <6> calls or so", "advice"),
    Stated("high accuracy, <50> calls or more", "advice"),
    Stated("| <5> calls, always", "advice"),
    Stated("level with <10> calls", "the page it links"),
    Stated("| <1> VJP;", "by construction"),
    Stated("its <8> calls beat <12> steps", "settings"),
]
