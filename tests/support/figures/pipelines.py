"""docs/pipelines.md"""

from types import SimpleNamespace

from figures.figure import Generated
from figures.results import results, script

_rows = [
    SimpleNamespace(case=SimpleNamespace(name=name), found=found)
    for name, found in results("pipelines_parity")["rows"].items()
]

FIGURES = [Generated(script("pipelines_parity").table(_rows))]
STATED = []
