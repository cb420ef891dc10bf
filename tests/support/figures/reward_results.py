"""docs/reward-results.md, which benchmarks/reward.py writes."""

from figures.figure import Generated
from figures.results import results, script

FIGURES = [Generated(script("reward").page(results("reward")))]
STATED = []
