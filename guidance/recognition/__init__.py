"""Who is in an image: recognisers with their thresholds, and how often a morph passes for both of its faces.

Knows images and their distances, not how they were made.
"""

from .distances import COSINE, EUCLIDEAN, Cosine, Distance, Euclidean
from .own import BlackBoxRecogniser, Embedding
from .recogniser import Recogniser

__all__ = [
    "BlackBoxRecogniser", "COSINE", "Cosine", "Distance", "EUCLIDEAN", "Embedding", "Euclidean", "Recogniser",
]  # fmt: skip
