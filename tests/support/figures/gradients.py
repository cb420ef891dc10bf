"""docs/gradients.md"""

from figures.figure import Figure, Stated
from figures.results import column, results

compiled = results("compiled")
own, gradient = compiled["own_time"], compiled["gradient"]
eager, graph = column(own, "eager_us_a_call"), column(own, "graph_us_a_call")
direct, checkpoint = gradient["Direct, width 64"], gradient["Checkpoint, width 64"]
wide = [gradient["Direct, width 1024"], gradient["Checkpoint, width 1024"]]

memory = results("memory")
regions = memory["Checkpoint by regions"]
auto = results("auto")
slower = column(auto["rows"], "slower_than_best")

FIGURES = [
    Figure(
        "with one of {4} KiB it kept no less than plain `Checkpoint()` up to {1000} steps",
        memory["Checkpoint"]["10"]["state_bytes"] / 1024,
        max(
            int(n)
            for n in memory["Checkpoint"]
            if memory["Checkpoint, recursive"][n]["peak_MiB"] >= memory["Checkpoint"][n]["peak_MiB"]
        ),
    ),
    Figure(
        "({0.7} MiB a step on a {1.1} M parameter UNet)",
        (regions["1000"]["peak_MiB"] - regions["10"]["peak_MiB"]) / 990,
        regions["10"]["parameters"] / 1e6,
    ),
    Figure(
        "On {50} random networks, plans and limits (`benchmarks/auto.py`, one thread) what it chose took {0.95} to "
        "{1.06} of the time of the best by hand, and of {191} predicted peaks {190} were within <10> %",
        auto["cases"],
        min(slower),
        max(slower),
        auto["predictions"],
        auto["predictions"] * auto["peaks_within_10_percent"],
    ),
    Figure("{None} of the {50} went above its limit", auto["above_the_limit"], auto["cases"]),
    Figure(
        "Over {13} methods (inductor, one thread of a CPU) the loop's own time fell from {24}-{80} to {4}-{16} us a call",
        len(own),
        *(pick(values) for values in (eager, graph) for pick in (min, max)),
    ),
    Figure(
        "width <64> from {5.5} to {2.7} ms under `Direct()` and from {16.5} to {3.3} ms under `Checkpoint()`",
        *(each[name] for each in (direct, checkpoint) for name in ("plain, ms", "one graph, ms")),
    ),
    Figure(
        "took {12} to {37} s to compile those ten calls",
        *(pick(column(gradient, "compile_s")) for pick in (min, max)),
    ),
    Figure(
        "{106} beside {72} ms and {130} beside {114} ms",
        *(each[name] for each in wide for name in ("one graph, ms", "plain, ms")),
    ),
    Figure("there ({128} and {168} ms)", *column(wide, "compiled network, ms")),
]
STATED = [
    Stated(
        "<5> to <17> forward passes without a graph, <7> to <19> with one, and <7> to <19> VJPs, with",
        "the bounds that measuring a call sets itself",
    ),
    Stated("the k - <2> calls between", "algebra"),
    Stated(
        "is an error past <1e-9> of the output in float64, <1e-4> in float32, <5e-3> in float16 and <2e-2> in",
        "the tolerances that the library compares with",
    ),
    Stated(
        "It is within <10> % where the activations of a call", "the line that the benchmark draws, see below"
    ),
]
