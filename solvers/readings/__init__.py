"""What can be read off a plan beside its run: noise, transitions, moments. Knows no gradient; changes no plan."""

from .expansion import expand
from .gaussian_moments import moments, response
from .recover import Encoding, recover_noise
from .transition import Transitions

__all__ = [
    "Encoding", "Transitions", "expand", "moments", "recover_noise", "response",
]  # fmt: skip
