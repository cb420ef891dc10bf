"""examples/weights/README.md"""

from figures.figure import Figure
from figures.results import card

faces_by_formula = card("procedural")
recognisers = [faces_by_formula[f"recogniser{k}"]["seconds"] / 60 for k in range(3)]

FIGURES = [
    Figure(
        "`train_procedural.py --model autoencoder`, {3} minutes",
        faces_by_formula["autoencoder"]["seconds"] / 60,
    ),
    Figure(
        "`train_procedural.py --model recogniser0`, {1} to {2} minutes each",
        min(recognisers),
        max(recognisers),
    ),
]
STATED = []
