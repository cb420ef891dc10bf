"""Who is in an image: recognisers with their thresholds, and how often a morph passes for both of its faces.

Knows images and their distances, not how they were made.
"""

from .calibration import Calibration
from .chip import Chip, EightBits, Levels, RealLevels
from .comparisons import Comparisons
from .distances import COSINE, EUCLIDEAN, Cosine, Distance, Euclidean
from .faces import dlib_black_box, dlib_face
from .intervals import Interval, bootstrap, bootstrap_rate
from .morph_metrics import mmpmr_min_max, mmpmr_prod_avg, morphing_attack_potential, rmmr
from .morph_scores import MorphScores
from .own import BlackBoxRecogniser, Embedding
from .rates import false_match_rate, false_non_match_rate, threshold_at
from .recogniser import Recogniser

__all__ = [
    "BlackBoxRecogniser", "COSINE", "Calibration", "Chip", "Comparisons", "Cosine", "Distance", "EUCLIDEAN",
    "EightBits", "Embedding", "Euclidean", "Interval", "Levels", "MorphScores", "RealLevels", "Recogniser",
    "bootstrap", "bootstrap_rate", "dlib_black_box", "dlib_face", "false_match_rate", "false_non_match_rate",
    "mmpmr_min_max", "mmpmr_prod_avg", "morphing_attack_potential", "rmmr", "threshold_at",
]  # fmt: skip
