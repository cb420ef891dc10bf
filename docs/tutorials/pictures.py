"""Runs the tutorials as pasted, keeps the picture each draws, and writes what each prints as `numbers`.

    python docs/tutorials/pictures.py [NAME ...]

writes docs/tutorials/NAME.png and the row NAME of benchmarks/results/tutorials.json; all pages by default.
"""

import contextlib
import json
import pathlib
import re
import shutil
import sys
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "tutorials.json"
PAGES = sorted(path.stem for path in HERE.glob("*.md"))


def numbers(name: str) -> dict[str, float]:
    """Run the page's blocks in order, in one namespace and an empty folder; copy its picture here."""
    page = (HERE / f"{name}.md").read_text()
    names: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for found in re.finditer(r"^```python\n(.*?)^```$", page, re.S | re.M):
            line = page[: found.start(1)].count("\n")
            exec(compile("\n" * line + found[1], f"{name}.md", "exec"), names)
        shutil.copy(f"{name}.png", HERE)
    return {key: float(f"{float(value):.8g}") for key, value in names["numbers"].items()}


def main() -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[1:] or PAGES:
        rows[name] = numbers(name)
        RESULTS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
