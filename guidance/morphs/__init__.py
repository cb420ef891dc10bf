"""Morphs: one image that recognisers take for two subjects: encoders, blends, searches, losses. Knows recognisers,
what optimises and steers a sampler, and no recogniser's insides.
"""

from .averaging import Averaging, EqualContrast, PlainAverage
from .blends import BestMorph, InvertedBlend, LatentBlend, PixelBlend
from .encoders import Encoder, FixedPointEncoder, FlowEncoder, ReversibleEncoder, StochasticEncoder
from .end_to_end import EndToEnd
from .evolution import Evolution
from .greedy_search import GreedySearch
from .identity_loss import IdentityLoss, SumAndDifference, WorseDistance
from .interpolation import Interpolation, Lerp, Slerp
from .latent import Latents
from .morphing import Morph, morph
from .pair import Pair
from .pair_loss import MorphLoss, PairLoss, distances
from .particle_search import ParticleSearch
from .realism import Anchor, DenoiserError, Realism
from .stepwise import GreedyMorph, LookaheadMorph
from .strategy import Found, MorphStrategy
from .views import Views

__all__ = [
    "Anchor", "Averaging", "BestMorph", "DenoiserError", "Encoder", "EndToEnd", "EqualContrast", "Evolution",
    "FixedPointEncoder", "FlowEncoder", "Found", "GreedyMorph", "GreedySearch", "IdentityLoss", "Interpolation",
    "InvertedBlend", "LatentBlend", "Latents", "Lerp", "LookaheadMorph", "Morph", "MorphLoss", "MorphStrategy",
    "Pair", "PairLoss", "ParticleSearch", "PixelBlend", "PlainAverage", "Realism", "ReversibleEncoder", "Slerp",
    "StochasticEncoder", "SumAndDifference", "Views", "WorseDistance", "distances", "morph",
]  # fmt: skip
