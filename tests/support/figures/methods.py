"""docs/methods.md"""

from figures.figure import Figure, Row, Stated
from figures.results import results

errors = results("small_studies")["dpm v3"]
slopes = {row["method"]: row["state"] for row in results("orders") if not row["noise"]}

FIGURES = [
    *(Row(f"| `{name}` |", *by_calls.values(), under="times quadratic") for name, by_calls in errors.items()),
    Figure(
        "(measured {2.00}, {2.00}, {2.01}) where `LMS(4)` reaches {3.86}",
        *(slopes[name] for name in ("IPNDM(nodes=4)", "PLMS(nodes=4)", "PNDM()", "LMS(order=4)")),
    ),
]
STATED = [Stated("RMS error at <5>, <8>, <12> and <24> calls", "the columns")]
