"""docs/releasing.md"""

from figures.figure import Row, Stated

FIGURES = []
STATED = [
    Stated("Until <1.0> a minor version", "a version"),
    Stated("deprecated in <0.3>, it is gone in <0.5>", "an example of versions"),
    *(
        Row(f"| {name} |", *[...] * count) for name, count in (("Python", 1), ("torch", 5), ("numpy", 1))
    ),  # versions
    Stated("| tqdm, safetensors | <4.60>", "a version"),
    Stated("A torch wheel of over <400> MB", "a limit of the script"),
]
