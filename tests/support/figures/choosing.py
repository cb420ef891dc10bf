"""docs/choosing.md: a table for each decision, each number from the page that it links."""

from collections.abc import Iterator

from figures import guidance, inverse, overview, sampling
from figures.figure import AtMost, Figure, Row, Stated
from figures.gradients import auto, slower
from figures.results import results
from figures.reward_results import RUNS, asked, base, end, half

memory = {name: {n: row["peak_MiB"] for n, row in rows.items()} for name, rows in results("memory").items()}
audited = {table["network"].split(",")[0]: table["rows"] for table in results("audits")["tables"]}
orders = {row["method"]: row for row in results("orders")}
trips = results("round_trip")
tutorials, distance = results("tutorials"), results("tilted_mixture")["sliced_w1"]
looked, tuned = results("digits/lookahead")["steered"], results("digits/finetune")
FAR, DIGITS = [f"G1 d=8 m={m}" for m in (1, 2, 4)], guidance.PROBLEMS[-2:]


# which gradient
# -----------------------------------------------------------------------------------------------------------------


def off(strategy: str, network: str, whose: str = "flow") -> float:
    return audited[network][strategy][f"from the {whose}'s"]


def cost(strategy: str) -> tuple[float, float]:
    """Calls and VJPs of 20 steps."""
    row = audited["digits"][strategy]
    return row["calls"], row["vjps"]


def gains(steps: int) -> tuple[float, float]:
    """Of DPM-Solver++(2M) on several levels, least and most."""
    rows = results("multilevel")["problems"]
    found = [row["targets"][str(steps)]["gain"] for name, row in rows.items() if ", DPM" in name]
    return min(found), max(found)


def sweeps() -> Iterator[float]:
    """Batched calls forward and back, then the work."""
    for k in (0, 1):
        values = [row[k] for row, _ in overview.swept]
        yield from (min(values), max(values))
    for k in (2, 3):
        work = [row[k] / calls for row, calls in overview.swept]
        yield from (min(work), max(work))


EXACT, OURS = "Checkpoint()", "Continuous()"
GRADIENTS = [
    Row(
        "| no wish to choose |",
        ...,
        ...,
        *(memory["Checkpoint"][n] for n in ("10", "1000")),
        results("memory")["Direct"]["10"]["parameters"] / 1e6,
    ),
    Row(
        "| few steps, or memory to spare |",
        *cost("Direct()"),
        *cost(EXACT),
        memory["Direct"]["50"],
        ...,
        memory["Checkpoint"]["50"],
    ),
    Row("| a limit in bytes or seconds |", min(slower), max(slower), auto["cases"]),
    Figure("in 50 cases; {none} of them went above its limit", auto["above_the_limit"]),
    Row("| states that do not fit, thousands of steps |", memory["Reversible"]["200"], ..., ...),
    Figure("{0.6} MiB at 200 steps and at 1000", memory["Reversible"]["1000"]),
    Row(
        "| the same, and a plan that has to stay |",
        results("memory")["Checkpoint"]["1000"]["state_bytes"] / 1024,
        memory["Checkpoint, recursive"]["1000"],
        ...,
        memory["Checkpoint"]["1000"],
    ),
    Row(
        "| few steps, and the *flow's* gradient in mind |",
        ...,
        *(
            off(each, network)
            for network in ("mixture 0 as DATA", "digits", "perceptron 1 as NOISE")
            for each in (OURS, EXACT)
        ),
    ),
    Row(
        "| weights or late conditioning only |",
        *cost("Truncated(5)"),
        ...,
        ...,
        100 * off("Truncated(5)", "digits", "run"),
    ),
    Row("| a mean gradient over many samples of a fine sampler |", *gains(1000), ..., *gains(20), ...),
    Row(
        "| one trajectory on a device that it does not fill |", *list(sweeps())[:4], ..., *list(sweeps())[4:]
    ),
    Row(
        "| figures of the published adjoint |",
        *(
            100 * off("AdjointDEIS(1)", "digits", "run"),
            ...,
            100 * off("AdjointDEIS(2)", "digits", "run"),
            ...,
        ),
    ),
]

# which solver and grid
# -----------------------------------------------------------------------------------------------------------------


def least(method: str, calls: int, problem: str) -> float:
    """Of all spacings."""
    rows = sampling.table()[problem]["ours"][method].values()
    return min(row[calls] for row in rows if calls in row)


def at(calls: int, methods: tuple[str, ...], problem: str) -> list[float]:
    return [least(method, calls, problem) for method in methods]


def weak(method: str) -> float:
    return orders[method]["weak"]


SOLVERS = [
    Figure(
        "on {256} draws of a mixture and {10} of 8x8 digits, at {6}, {12}, {24} and {48} calls",
        *results("error_nfe")["draws"].values(),
        *sampling.JUDGED,
    ),
    Row(
        "| a diffusion, 12 calls or more |",
        *sampling.rows["DEIS 4", "power 2 of t"]["mixture"][1:],
        sampling.JUDGED[1],
        sampling.JUDGED[-1],
        *sampling.rows["DEIS 4", "power 2 of t"]["8x8 digits"][1:],
    ),
    Row(
        "| 6 calls or so |",
        *at(6, ("iPNDM 4", "DEIS 4", "UniPC 2"), "mixture"),
        *at(6, ("UniPC 2", "iPNDM 4", "DEIS 4"), "8x8 digits"),
    ),
    Figure(
        "these are of order {2}, `FlowEuler()` of {1}",
        orders["FlowAdams(order=2)"]["state"],
        orders["FlowEuler()"]["state"],
    ),
    Figure("these are of order {2}", orders["FlowMidpoint()"]["state"]),
    Row(
        "| high accuracy, 50 calls or more |",
        *at(48, ("UniPC 3", "DEIS 4"), "mixture"),
        ...,
        *at(48, ("DPM-Solver++ 2M",), "mixture"),
        *at(48, ("UniPC 3", "DEIS 4"), "8x8 digits"),
    ),
    Row(
        "| to invert exactly |",
        ...,
        *(
            trips[f"{name} 50"]["float64"]
            for name in ("OBELM()", "ReversibleHeun(noise_side=False)", "DDIM(eta=0.0)")
        ),
    ),
    Figure(
        "weak orders {1}, {2} and {2}",
        *map(weak, ("DDIM(eta=1)", "SDEDPMSolverPP(nodes=2)", "SEEDS(stages=2)")),
    ),
    Row("| 5 calls, always the same network |", ...),
]

# which guide
# -----------------------------------------------------------------------------------------------------------------


def by_oracle(method: str, problems: list[str]) -> list[float]:
    """Distance by the oracle's."""
    rows = (inverse.PROBLEMS[problem] for problem in problems)
    return [row[method]["mean"] / row[inverse.ORACLE]["mean"] for row in rows]


def calls(method: str) -> int:
    """Of a sample."""
    (nfe,) = {inverse.PROBLEMS[problem][method]["nfe"] for problem in FAR + DIGITS}
    return nfe


def worst(name: str) -> float:
    """By the distance of no guidance, on the worst of the eight problems."""
    return max(guidance.defaults["after"][each][name] for each in guidance.EIGHT)


SMC = "SMC, TMPD's p(y given x_t), K = "
GUIDES = [
    Row(
        "| posterior draws wanted, few numbers measured |",
        ...,
        *by_oracle(SMC + "8 n", FAR + DIGITS),
        calls(SMC + "8 n"),
    ),
    Row("| the same, at the price of one run |", *by_oracle(SMC + "n", FAR + DIGITS), calls(SMC + "n")),
    Row(
        "| single samples, few numbers measured |",
        *by_oracle("TMPD", FAR),
        *by_oracle("TMPD + Travel(16)", FAR),
    ),
    Row("| many numbers measured, a linear operator |", ..., *by_oracle("PiGDM", FAR + DIGITS)),
    Row(
        "| an operator that is not linear, a loss |",
        *by_oracle("DPS", FAR),
        worst("DPS(m)"),
        worst("DataGuidance(m.nats)"),
    ),
    Row(
        "| a classifier's or a network's opinion |",
        looked["k = 1"]["judge"],
        ...,
        looked["k = 2"]["judge"],
        ...,
        ...,
    ),
    Figure("{0.60} at k = 2 and 4", looked["k = 4"]["judge"]),
    Figure(
        "on new noise read as asked for {0.89}, by optimised noise {0.21}",
        *(tutorials["conditioning"][f"{name}, 16 new"] for name in ("vector", "noise")),
    ),
]

# which objective
# -----------------------------------------------------------------------------------------------------------------

OBJECTIVES = [
    Figure("begins at {-4.05} and the middle to the best of 64 is {-2.05}", base("draft"), half("draft")),
    Row(
        "| a reward with a gradient |",
        end("draft"),
        end("draft", "kl"),
        end("draft", "judge"),
        AtMost(min(map(asked, RUNS))),
    ),
    Figure("after {384} asked rewards, the fewest of all", asked("draft")),
    Row(
        "| the same, memory or time short |",
        *(end(name, what) for what in ("reward", "judge") for name in ("draft-k", "alignprop")),
    ),
    Row(
        "| the *tilted law* wanted, not the highest reward |",
        *(distance[name] for name in ("Adjoint Matching", "base", "DRaFT + KL")),
        ...,
        distance["the best of 16 Gaussian steps"],
    ),
    Row(
        "| a reward without a gradient (JPEG size, a person) |",
        *(end("ddpo-is", what) for what in ("reward", "kl", "judge")),
        asked("ddpo-is"),
    ),
    Row(
        "| a flow, a reward without a gradient |",
        end("flow-grpo"),
        base("flow-grpo"),
        end("flow-grpo", "judge"),
        end("dance-grpo"),
    ),
    Row("| a sample that only needs polish |", end("draft-lv"), end("refl")),
    Row("| no wish to train |", ..., tuned["asked_by_label"], tuned["after"]["judge"]),
]

FIGURES = [*GRADIENTS, *SOLVERS, *GUIDES, *OBJECTIVES]
STATED = [
    Stated("on a toy its <8> calls beat 12 steps", "the steps of the plan"),
    Stated("<16> calls and <8> VJPs a step for 8 steps", "the cost of the default gradient"),
]
