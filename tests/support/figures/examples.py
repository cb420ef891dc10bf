"""docs/examples.md"""

from figures.figure import Figure, Stated
from figures.results import results

twenty = results("face_morph_table")
all_three = twenty["settings"]["dlib and two of ours"]
reflow = results("reflow")
masked = {
    name: row["median"]
    for name, row in results("learned_guidance")["of the oracle"]["digits, 16 of 64 pixels"].items()
}

FIGURES = [
    Figure(
        "nearer than to that pixel mean on {15} of {20}",
        all_three["Checkpoint"]["beats_best_pixel_mean"]["embedder 2"],
        twenty["pairs"],
    ),
    Figure(
        "one call of the student is at a Fréchet distance of {0.16} from real ones, the teacher's at {2.0}, its four at "
        "{0.26}, its twenty at {0.10}",
        reflow["student"]["frechet"]["1"],
        *(reflow["teacher"]["frechet"][n] for n in ("1", "4", "20")),
    ),
    Figure(
        "masked digits, median of three seeds: {1.95} of the oracle's, the best constants {2.15} and {3.28}",
        *(
            masked[name] / masked["oracle"]
            for name in ("learned schedule", "Bayes' weight, best constant", "published, best constant")
        ),
    ),
]
STATED = [Stated("a threshold that <1> % of strangers pass", "the rate that defines the threshold")]
