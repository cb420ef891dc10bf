"""docs/gradients.md"""

from figures.figure import Figure, Stated
from figures.results import column, results

compiled = results("compiled")
own, gradient = compiled["own_time"], compiled["gradient"]
eager, graph = column(own, "eager_us_a_call"), column(own, "graph_us_a_call")
direct, checkpoint = gradient["Direct, width 64"], gradient["Checkpoint, width 64"]
wide, wide_checkpoint = gradient["Direct, width 1024"], gradient["Checkpoint, width 1024"]

FIGURES = [
    Figure(
        "own time fell from {24}-{80} to {4}-{16} us a call", min(eager), max(eager), min(graph), max(graph)
    ),
    Figure(
        "width <64> from {5.5} to {2.7} ms under `Direct()` and from {16.5} to {3.3} ms under `Checkpoint()`",
        direct["plain, ms"],
        direct["one graph, ms"],
        checkpoint["plain, ms"],
        checkpoint["one graph, ms"],
    ),
]
STATED = [Stated("the k - <2> calls between", "algebra")]
