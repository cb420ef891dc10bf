"""docs/laws.md"""

from figures.figure import Stated

FIGURES = []
STATED = [Stated("are predicted to <10> %", "what the test asserts"), Stated("tiny SD <1.5>, SD3", "a name")]
