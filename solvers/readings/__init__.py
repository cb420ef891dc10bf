"""What can be read off a plan beside its run: noise, transitions, moments. Knows no gradient; changes no plan."""

from .expansion import expand
from .gaussian_moments import moments, response
from .recover import Encoding, recover_noise
from .round_trip import decode, encode, inversion
from .transition import Transitions

__all__ = [
    "Encoding", "Transitions", "decode", "encode", "expand", "inversion", "moments", "recover_noise",
    "response",
]  # fmt: skip
