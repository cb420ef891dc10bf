"""docs/pipelines.md"""

from types import SimpleNamespace

from figures.figure import Generated, Stated
from figures.results import results, script

_rows = [
    SimpleNamespace(case=SimpleNamespace(name=name), found=found)
    for name, found in results("pipelines_parity")["rows"].items()
]

FIGURES = [Generated(script("pipelines_parity").table(_rows))]
STATED = [Stated("networks of Wan <2.2>", "a version"), Stated("Cosmos <2.5> transfer", "a version")]
