"""docs/limits.md: figures of the pages that it links."""

from figures import sampling
from figures.continuous import ratios, right
from figures.figure import Figure
from figures.overview import flow, small
from figures.results import results
from figures.reward_results import RUNS, closes
from figures.tutorials_inverse import found as particles

noisy = [small[name] for name in ("DDPM", "Euler ancestral", "DDIM, eta 1")]
objectives = [name for name in RUNS if "jpeg" not in name]

FIGURES = [
    Figure("of 20 steps of DPM-Solver++(2M) it is {0.12} from it on a mixture", flow["mixture 0 as DATA"][0]),
    Figure(
        "up to {7} times on random networks taken for data predictions",
        max(ratios("perceptron as DATA", "EDMPEC")),
    ),
    Figure("nearer is right in {three} of four", 4 * right["all"][0]),
    Figure(
        "least has {2.9} times the least error at {6} calls on a mixture",
        next(iter(sampling.rows.values()))["mixture"][0],
        sampling.JUDGED[0],
    ),
    Figure("least has {2.9} times", sampling.LEAST_WORST),
    Figure(
        "Addressed noise costs {1.9} `torch.randn`: a step of DDPM, Euler ancestral or DDIM at eta 1 takes up to {1.03} of "
        "diffusers' time",
        results("overhead")["noise_over_randn"],
        max(noisy),
    ),
    Figure(
        "on a plane its log evidence was {0.3} to {0.5} below the data's at 50",
        *(particles[f"log Z below, {end}"] for end in ("least", "most")),
    ),
    Figure(
        "{three} of {eleven} objectives do not close half the gap",
        sum(not closes(name) for name in objectives),
        len(objectives),
    ),
]
STATED = []
