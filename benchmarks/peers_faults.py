"""What was found wrong in other libraries, measured again with the versions installed, and what stands here instead.

    python benchmarks/peers_faults.py      a minute; writes benchmarks/results/peers_faults.json, and the table of
                                           docs/peers.md from it

Each fault is a function that returns (theirs, ours), numbers of one meaning. A library that is not installed keeps the
numbers, and the version, of the run that had it: k-diffusion and TRL 0.23 want environments of their own.
"""

import inspect
import json
import pathlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import version

import peers_equations  # noqa: F401, they enrol what they measure
import peers_samplers  # noqa: F401
import torch
from peers_said import FAULTS, table

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from torchvision_stand_in import WANT_IT, torchvision_stand_in  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "peers_faults.json", ROOT / "docs" / "peers.md"
MARK = "<!-- written by benchmarks/peers_faults.py -->"


@contextmanager
def needed(name: str) -> Iterator[bool]:
    """Whether `name` can be imported, with what it asks for beside it."""
    with torchvision_stand_in() if name in WANT_IT else nullcontext():
        try:
            import_module(name)
        except ImportError:
            yield False
        else:
            yield True


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = {}
    for name, (where, fault) in FAULTS.items():
        library, needs = where.split(":")
        with needed(needs) as there:
            if there:
                theirs, ours = fault()
                found[name] = {
                    "library": library,
                    "version": version(library),
                    "torch": version("torch"),
                    "measures": inspect.getdoc(fault),
                    "theirs": theirs,
                    "ours": ours,
                }
                print(name, theirs, ours, flush=True)
            elif name in before:
                found[name] = before[name]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if PAGE.exists() and len(found) == len(FAULTS):
        start, _, end = PAGE.read_text().split(MARK)
        PAGE.write_text(f"{start}{MARK}\n{table(found)}\n{MARK}{end}")


if __name__ == "__main__":
    main()
