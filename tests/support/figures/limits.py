"""docs/limits.md"""

from figures import sampling
from figures.figure import AtLeast, Figure, Stated
from figures.results import results

flow = results("audits")["tables"][0]["rows"]["Checkpoint()"]["from the flow's"]
far = [
    row["errors"]["Continuous(EDMPEC, INTEGRATED)"][0] / row["errors"]["Checkpoint"][0]
    for row in results("continuous")
    if "perceptron as DATA" in row["network"]
]
auto, overhead = results("auto"), results("overhead")
small = {name: row["1x4x64x64"]["ratio"] for name, row in overhead["over_diffusers"].items()}

FIGURES = [
    Figure("it is {0.12} from it on a mixture", flow),
    Figure("up to {7} times on random networks taken for data", max(far)),
    Figure(
        "in {6} of {50} cases, by up to {45} %",
        auto["above_the_limit"],
        auto["cases"],
        100 * (max(row["peak_bytes"] / row["limit_bytes"] for row in auto["rows"]) - 1),
    ),
    Figure("is within {10} % of the best everywhere", AtLeast(100 * (sampling.LEAST_WORST - 1))),
    Figure("noise costs {2.1} `torch.randn`", overhead["noise_over_randn"]),
    Figure(
        "takes up to {1.16} of diffusers'",
        max(small[name] for name in ("DDPM", "Euler ancestral", "DDIM, eta 1")),
    ),
    Figure("on a small state {1.31}", small["flow Euler"]),
]
STATED: list[Stated] = []
