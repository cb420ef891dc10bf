"""docs/orders.md, which benchmarks/orders.py writes."""

from figures.figure import Generated
from figures.results import results, script

FIGURES = [Generated(script("orders").page(results("orders"), results("error_nfe")))]
STATED = []
