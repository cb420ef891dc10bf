"""docs/pipelines-in-use.md"""

from figures.figure import Figure, Stated
from figures.results import results

FIGURES = [
    Figure(
        "MiB: {538} as it is, {619} as one checkpoint, {465} with the VAE's own `enable_gradient_checkpointing()`, {205} with",
        *results("vae_memory")["peak_MiB"].values(),
    )
]
STATED = [
    Stated("(<14.6> for Stable Diffusion's Euler", "its scheduler's own"),
    Stated(
        "of a <95> % interval over 8 seeds, below <0.61> of",
        "what the test asserts: the mean log ratio under -0.5",
    ),
    Stated("around SD <1.5>'s", "a name"),
    Stated("of SD <1.5> under guidance", "a name"),
    Stated("of Wan <2.2>'s two", "a name"),
]
