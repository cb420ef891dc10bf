"""Input: what enters a run, by kind."""

from enum import Enum


class Input(Enum):
    """What may ask for a gradient."""

    X = "x"
    NOISE = "noise"
    COND = "cond"
    CONTROLS = "controls"
    PARAMETERS = "parameters"
