"""docs/diffusers.md"""

from collections.abc import Iterator

from figures.figure import Figure, Generated, Row, Stated
from figures.results import results, script

rows = results("diffusers_parity")["configurations"]
shipped = results("small_studies")["shipped"]
laws = shipped["laws"]


def laws_of() -> Iterator[Row]:
    for label, name in (
        ("FlowMatchEuler, `stochastic_sampling`", "FlowMatchEuler, stochastic_sampling"),
        ("FlowMatchHeun, `s_churn=10`", "FlowMatchHeun"), ("EDMEuler, `s_churn=10`", "EDMEuler"),
    ):  # fmt: skip
        words = 2 if name == "FlowMatchHeun" else 0  # x0 + sigma eps, 1 - sigma
        yield Row(f"| {label} |", *(v for law in laws[name] for v in law), *[...] * (words // 2))
    both = (law[1] for name in ("EulerDiscrete, eps", "EulerDiscrete, v") for law in laws[name])
    yield Row("| EulerDiscrete, karras, `s_churn=10`: eps and v |", *both)


def orders() -> Iterator[Row]:
    for name, ways in shipped["errors"].items():
        yield Row(f"| {name} |", *ways["ships"], *ways["corrected"])


def of(kind: str, *words: str) -> dict:
    """The one configuration of a class that has these words."""
    (row,) = (row for row in rows if row["kind"] == kind and all(word in row["case"] for word in words))
    return row


euler, ancestral = (
    of(kind, "rescale_betas_zero_snr") for kind in ("EulerDiscrete", "EulerAncestralDiscrete")
)
ipndm, flow = of("IPNDM"), of("DEISMultistep", "use_flow_sigmas")

FIGURES = [
    Generated(script("diffusers_parity").table(rows)),
    Generated(script("as_scheduler_time").table(results("as_scheduler_time"))),
    *laws_of(),
    *orders(),
    Figure(
        "the gradient in float64 is {1e-5} and {4e-4} off, in float32 {3e-5} and {4e-4} (here {4e-7})",
        *(row[side][1] for side in ("shipped", "theirs") for row in (euler, ancestral)),
        max(row["ours"][1] for row in (euler, ancestral)),
    ),
    Figure("(error {1}; here {2e-7})", ipndm["theirs"][1], ipndm["ours"][1]),
    Figure("float32 error {1e-5} where {2e-7} can be had", flow["theirs"][1], max(flow["ours"])),
]
STATED = [
    Stated("in <20> steps without the network", "the script's STEPS"),
    Stated("the middle <80> %", "the script's low and high"),
    Stated("a ratio of <3.8> that was noted once", "a note of before the script"),
    Stated("Where the plan is <1e-8> away", "the size of a float32 rounding"),
    Stated("max(alpha, <1e-8>)", "the scheduler's own"),
]
