"""docs/learning.md"""

from collections.abc import Iterator

from figures.figure import About, Figure, Row, Stated
from figures.results import column, results

rows, implicit = results("learned")["rows"], results("implicit")["rows"]
strengths = results("learned_eta")["rows"]
PROBLEMS = ("mixture", "digits", "digits_flow", "faces")


def cell(name: str, problem: str, what: str = "median") -> list[float]:
    """None where it was not measured."""
    found = rows.get(f"{problem}/0/{name}", {})
    return [found[what]] if what in found else []


def table() -> Iterator[Row]:
    for label, name in (
        ("2M, 5 calls (flow: Adams-Bashforth 2)", "2M, 5 calls"),
        ("the same, 10 calls", "2M, 10 calls"),
    ):
        both = {each: name.replace("2M", "Adams 2") if each == "digits_flow" else name for each in PROBLEMS}
        yield Row(f"| {label} |", *(value for each, own in both.items() for value in cell(own, each)))
    for label, n in (("the best of 2M, DEIS 3, UniPC 2, at 5", 5), ("the best of them, at 10", 10)):
        names = [f"{name}, {n} calls" for name in ("2M", "DEIS 3", "UniPC 2", "Adams 2")]
        yield Row(f"| {label} |", *(min(v for name in names for v in cell(name, each)) for each in PROBLEMS))
    for label, name in (
        ("learned: times, 5 calls", "times"), ("learned: coefficients and labels", "coefficients, labels"),
        ("**learned: times, coefficients, labels**", "times, coefficients, labels"), ("`bespoke`, Euler", "bespoke, Euler"),
        ("`bespoke`, midpoint, 6 calls", "bespoke, midpoint, 6 calls"), ("`s4s`", "s4s"), ("`s4s`, radius 0.01", "s4s, radius 0.01"),
        ("`d_ode`", "d_ode"), ("`ays` with 2M", "ays"),
    ):  # fmt: skip
        yield Row(f"| {label} |", *(value for each in PROBLEMS for value in cell(name, each)))
    times = [v for each in PROBLEMS for v in cell("times, coefficients, labels", each, "seconds of one core")]
    yield Row("| seconds of one core, all three parts |", *times)


ours, theirs = rows["digits/0/times, coefficients, labels"], rows["digits/0/2M, 10 calls"]
queue, unrolled, chain = (
    implicit[name] for name in ("denoising/one loop", "denoising/unrolled", "Langevin/one loop")
)

ALL, ETAS = "times, coefficients, labels", ("0", "0.25", "0.5", "0.75", "1")
each_step, at_once = (strengths[f"mixture/5 calls/{name}"] for name in ("learned, each step", "eta 0"))


def noise(name: str, what: str, eta: str) -> float:
    """Of DDIM with noise of this strength."""
    return strengths[f"{name} calls/eta {eta}"][what]


FIGURES = [
    *table(),
    Figure(
        "(sliced Wasserstein {0.0143} against {0.0131}, a classifier's features {0.0219} against {0.0197})",
        *(each[name] for name in ("sliced", "features") for each in (ours, theirs)),
    ),
    Figure(
        "({0.0212} against {0.0183}; 2M at 5: {0.064}); noise <1.1> times too strong",
        *column([ours, theirs, rows["digits/0/2M, 5 calls"]], "guidance 2"),
    ),
    Figure(
        "sliced Wasserstein {0.008}, {0.035} and {0.088} on three seeds, with medians of {0.0008}, {0.0025} and {0.0010}",
        *(rows[f"mixture/{seed}/{ALL}"][what] for what in ("sliced", "median") for seed in range(3)),
    ),
    Figure(
        "on 18 draws and 5 steps it came to {0.0144} in {41} s",
        *(
            rows[f"faces/0/{ALL}, more draws and fewer steps"][what]
            for what in ("median", "seconds of one core")
        ),
    ),
    Figure(
        "(mixture at <10> calls: {0.052} at eta = 0, {0.16} at <0.25>, {1.07} at <0.5>; digits {0.061}, {0.205} and {0.353})",
        *(noise(name, "to the teacher", e) for name in ("mixture/10", "digits/10") for e in ETAS[:3]),
    ),
    Figure(
        "digits at <10> calls {0.010}, {0.009} and {0.010} at eta <0>, <0.25> and <0.5>, then {0.014} and {0.024}, errors {0.002} "
        "to {0.004}",
        *(noise("digits/10", "energy distance", e) for e in ETAS),
        *(pick(noise("digits/10", "standard error", e) for e in ETAS) for pick in (min, max)),
    ),
    Figure(
        "the most was on the mixture at <5> calls, one for each step: {0.045} in place of {0.056}, errors {0.005} and {0.007}",
        *(row[what] for what in ("energy distance", "standard error") for row in (each_step, at_once)),
    ),
    Row("| Langevin, one loop |", About(chain["rows"], 500), chain["calls in sequence"]),
    Row(
        "| Langevin, unrolled 30 steps |",
        *(
            About(row, 500) if row > 1e4 else row
            for row in implicit["Langevin/unrolled 30"]["seeds"]["0.1"][1]
        ),
    ),
    Row("| DDIM of 10 steps, queue |", About(queue["rows"], 50), queue["calls in sequence"]),
    Row(
        "| DDIM of 10 steps, unrolled (value, replay and VJP) |",
        unrolled["rows"],
        unrolled["calls in sequence"],
    ),
    Figure("{2.6} times its calls in all", queue["rows"] / unrolled["rows"]),
]
STATED = [
    Stated("Calls until <95> % of the way", "the goal"),
    Stated("a teacher of <60> calls", "the teacher"),
    Stated("with <10> of 2M on digits", "a row of the table"),
    Stated("DEIS's <10> calls are ahead", "a row of the table"),
    Stated("<10> calls of 2M (sliced", "a row of the table"),
    Stated("When not: at <20> calls and more", "advice"),
    Stated("at <5> calls of 2M that is far worse", "a row of the table"),
    Stated("the same for every eta up to <0.5>", "a row of the table above"),
]
