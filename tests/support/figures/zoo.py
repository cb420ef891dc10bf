"""docs/zoo.md"""

from figures.figure import Figure, Row
from figures.results import card, results

samples = results("digit_samples")
diffusion, flow = card("mnist")["mnist"], card("mnist_flow")["mnist_flow"]
faces, faces_flow = card("faces")["faces"], card("faces_flow")["faces_flow"]
digits, digits_flow = card("digits")["digits"], card("digits_flow")["digits_flow"]
ROWS = {
    "real, held out": "real, held out", "diffusion": "diffusion", "rectified flow": "rectified flow",
    "the same, guidance 2": "the same, guidance 2",
}  # fmt: skip

FIGURES = [
    Figure("`--model faces`, {4500} steps, {16} minutes", faces["steps"], faces["seconds"] / 60),
    Figure("`--model digits --updates 4000`, {2} minutes", digits["seconds"] / 60),
    Figure(
        "`--model faces_flow`, {4500} steps, {20} minutes", faces_flow["steps"], faces_flow["seconds"] / 60
    ),
    Figure("`--model digits_flow`, {2} minutes", digits_flow["seconds"] / 60),
    Figure("`train_mnist.py --model mnist --updates 6000`, {15} minutes", diffusion["seconds"] / 60),
    Figure("`train_mnist.py --model mnist_flow --updates 6000`, {14} minutes", flow["seconds"] / 60),
    Figure(
        "Held-out loss {0.1435} (training {0.1421}) of `mnist`, {0.1661} ({0.1644}) of `mnist_flow`",
        *(model[name] for model in (diffusion, flow) for name in ("held_out_loss", "train_loss")),
    ),
    Figure("{500} samples of {20} network evaluations", samples["count"], samples["nfe"]),
    *(
        Row(f"| {label} |", 100 * row["read_as_meant"], row["frechet"], row["nearest_training_digit"])
        for label, row in ((label, samples[name]) for label, name in ROWS.items())
    ),
    Figure("one sample in {eighteen} is", 1 / (1 - samples["diffusion"]["read_as_meant"])),
]
STATED = []
