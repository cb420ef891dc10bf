"""docs/overview.md"""

from figures import inverse
from figures.figure import AtMost, Figure
from figures.results import column, leaves, results

parallel = [row for row in results("parallel")["sweeps"] if row["steps"] == 100]
swept = [
    (row["by tol"][tol], row["calls"])
    for row in parallel
    for tol in ("0.001", "0.0001")
    if tol in row["by tol"]
]
flow = {table["network"]: column(table["rows"], "from the flow's") for table in results("audits")["tables"]}
multilevel = {name: row["targets"]["1000"]["gain"] for name, row in results("multilevel")["problems"].items()}

memory = {name: column(rows, "peak_MiB") for name, rows in results("memory").items()}
limit = column(results("limit")["rows"], "ratio")  # Direct, Checkpoint, Reversible; x, then x and weights
own = results("overhead")["us_per_call"]
small = {name: row["1x4x64x64"]["ratio"] for name, row in results("overhead")["over_diffusers"].items()}
large = {name: row["1x16x128x128"]["ratio"] for name, row in results("overhead")["over_diffusers"].items()}
ahead = [[ratio for ratio in ratios.values() if ratio < 1] for ratios in (small, large)]
pipes = results("pipelines")

FIGURES = [
    # strategies
    Figure(
        "at 20 steps {6} times closer to it than the exact discrete one on a mixture",
        flow["mixture 0 as DATA"][0] / flow["mixture 0 as DATA"][3],
    ),
    Figure(
        "between level and {7} times further on random networks taken for noise or data",
        max(
            row["errors"]["Continuous(EDMPEC, INTEGRATED)"][0] / row["errors"]["Checkpoint"][0]
            for row in results("continuous")
            if "perceptron" in row["network"]
        ),
    ),
    Figure(
        "{9} to {16} batched calls forward and {6} to {13} back at N = 100, of {5} to {7} and {6} to {13} times the work",
        *(
            pick(value)
            for value in (
                [row[0] for row, _ in swept],
                [row[1] for row, _ in swept],
                [row[2] / calls for row, calls in swept],
                [row[3] / calls for row, calls in swept],
            )
            for pick in (min, max)
        ),
    ),
    Figure(
        "{57} to {86} times less at equal variance on two mixtures and digits; {20} and {13} with DDIM, {12} and {5} with",
        min(v for name, v in multilevel.items() if ", DPM" in name),
        max(v for name, v in multilevel.items() if ", DPM" in name),
        *(v for kind in (", DDIM", ", SDE") for name, v in multilevel.items() if kind in name),
    ),
    # memory and time
    Figure(
        "UNet of {1.1} M parameters with a {4} KiB state",
        results("memory")["Direct"]["10"]["parameters"] / 1e6,
        results("memory")["Direct"]["10"]["state_bytes"] / 1024,
    ),
    Figure(
        "`Direct` {229} MiB at 50 steps; from 10 to 1000 steps `Checkpoint` {0.2} to {9.5} MiB ({9.6} KiB a step)",
        memory["Direct"][1],
        min(memory["Checkpoint"]),
        max(memory["Checkpoint"]),
        (memory["Checkpoint"][-1] - memory["Checkpoint"][0]) * 1024 / 990,
    ),
    Figure(
        "`Reversible` {0.0} to {0.6}, re-solved `Continuous` {0.0} to {0.7}, re-solved `AdjointDEIS` {0.1} to {0.5}",
        *(
            pick(memory[name])
            for name in ("Reversible", "Continuous, re-solved", "AdjointDEIS, re-solved")
            for pick in (min, max)
        ),
    ),
    Figure(
        "at {6} ms a call (`benchmarks/limit.py`): `Direct` {1.07} for the gradient at x and {0.96} for x and weights "
        "together, `Checkpoint` {1.06} and {1.04}, `Reversible` {1.05} and {1.04}",
        results("limit")["network_call_ms"],
        *(limit[k] for k in (0, 3, 1, 4, 2, 5)),
    ),
    Figure(
        "{13}-{28} us, {23}-{40} us with a change of prediction",
        *(pick(column(own, name)) for name in ("native", "converted") for pick in (min, max)),
    ),
    Figure(
        "takes {0.02} to {0.98} of theirs for {13} of {14} methods; behind is Euler ancestral ({1.03})",
        min(ahead[0]),
        max(ahead[0]),
        len(ahead[0]),
        len(small),
        small["Euler ancestral"],
    ),
    Figure("it takes {0.07} to {0.94} for all {14}", min(ahead[1]), max(ahead[1]), len(ahead[1])),
    Figure("addressed noise costs {1.9} `torch.randn`", results("overhead")["noise_over_randn"]),
    # pipelines
    Figure(
        "{0.5} to {1.0} ms a network call above the bare network",
        min(column(pipes["call"], "own_ms")),
        AtMost(max(column(pipes["call"], "own_ms"))),
    ),
    Figure(
        "({45} ms a call): `Checkpoint` takes {41} MiB at <8> and {43} MiB at 50 steps, {1.25} of the plain loop's time",
        pipes["time"]["call_ms"],
        *pipes["memory_MiB"]["Checkpoint"].values(),
        pipes["time"]["rows"]["Checkpoint"]["over_the_loop"],
    ),
    Figure(
        "loop {290} and {1773} MiB, with gradient checkpointing {159} and {1004} MiB at {1.35} of its time",
        *leaves(pipes["memory_MiB"]["pipeline's loop"]),
        *leaves(pipes["memory_MiB"]["pipeline's loop, gradient checkpointing"]),
        pipes["time"]["rows"]["pipeline's loop, gradient checkpointing"]["over_the_loop"],
    ),
    # particles
    Figure(
        "within {1.3} times the oracle's distance on the {eight} problems of [inverse](inverse.md); with K = n it does on "
        "half of them (up to {1.8})",
        AtMost(max(inverse.by_oracle("SMC, TMPD's p(y given x_t), K = 8 n"))),
        len(inverse.PROBLEMS),
        max(inverse.by_oracle("SMC, TMPD's p(y given x_t), K = n")),
    ),
    Figure(
        "without particles is {4} times as far on {one} of the {eight}, `PiGDM` {12} and `DPS` {22}",
        max(inverse.best_guide()),
        sum(round(ratio) >= 4 for ratio in inverse.best_guide()),
        len(inverse.PROBLEMS),
        max(inverse.by_oracle("PiGDM")),
        max(inverse.by_oracle("DPS")),
    ),
]
STATED = []
