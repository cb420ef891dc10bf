"""README.md"""

import math

from figures.figure import Figure, Stated
from figures.results import leaves, results

pipes = results("pipelines")
multilevel = {name: row["targets"]["1000"]["gain"] for name, row in results("multilevel")["problems"].items()}


def at_noise(name: str, cost: float) -> float:
    """Error of the gradient at the starting noise after `cost` calls: geometric mean over the two mixtures."""
    found = [
        row["x_error"]
        for row in results("gradients")["rows"]
        if row["name"] == name and abs(row["cost_F"] - cost) <= 0.05 * cost
    ]
    assert len(found) == 2, (name, cost, found)
    return math.sqrt(found[0] * found[1])


FIGURES = [
    Figure(
        "At <80> calls `Continuous` is {0.011} off at the noise and `Checkpoint` {0.031}, torchdiffeq's RK4 {0.055} re-solved "
        "and {0.10} with states kept, Euler {0.24}. From about <200> calls on RK4 is nearer, as a mixture is smooth: {0.0002} "
        "re-solved at <320>, `Continuous` {0.0008} at <400>",
        at_noise("Continuous, M = N", 80),
        at_noise("Checkpoint, 2M", 80),
        at_noise("torchdiffeq rk4, ends only", 80),
        at_noise("torchdiffeq rk4, lambda grid", 80),
        at_noise("torchdiffeq euler, lambda grid", 80),
        at_noise("torchdiffeq rk4, ends only", 320),
        at_noise("Continuous, M = N", 400),
    ),
    Figure(
        "at {45} ms a call: value and gradient at latents, embeddings and LoRA take {41} MiB at <8> and {43} MiB at <50> steps",
        pipes["time"]["call_ms"],
        *pipes["memory_MiB"]["Checkpoint"].values(),
    ),
    Figure(
        "loop takes {290} and {1773} MiB, with gradient checkpointing {159} and {1004} MiB",
        *leaves(pipes["memory_MiB"]["pipeline's loop"]),
        *leaves(pipes["memory_MiB"]["pipeline's loop, gradient checkpointing"]),
    ),
    Figure(
        "{57} to {86} times less work than the exact gradient's, at equal variance, with DPM-Solver++(2M); {20} and {13} with DDIM",
        min(v for name, v in multilevel.items() if ", DPM" in name),
        max(v for name, v in multilevel.items() if ", DPM" in name),
        *(v for name, v in multilevel.items() if ", DDIM" in name),
    ),
]
STATED = [Stated("Python 3.11 to <3.13> and", "a version")]
