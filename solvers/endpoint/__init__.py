"""Processes that lead from data to a second image that is known: mean reversion and diffusion bridges, and the model
that lets every plan run on them. Knows processes and models, no method and no gradient.
"""

from .bridge import DiffusionBridge
from .mean_reverting import MeanReverting
from .model import Endpoint, WithEndpoint
from .process import EndpointProcess

__all__ = [
    "DiffusionBridge", "Endpoint", "EndpointProcess", "MeanReverting", "WithEndpoint",
]  # fmt: skip
