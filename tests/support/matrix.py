"""`make matrix`: the wheel in fresh environments, of each Python and torch given, and tests against what is installed.

    python tests/support/matrix.py --pythons python3.11 python3.13 --torches 2.8.0 2.13.0

Puts a row for each pair into benchmarks/results/matrix.json, beside those of earlier runs (`merged`). A torch wheel
that is larger than --limit is not fetched, and its row says so: on Linux the index has torch with CUDA, of gigabytes
with what it brings. --whole takes every fast test of the three rooms in place of a few files.
"""

import argparse
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from installed import ALONE, BESIDE, EXTRAS
from packed import build, copied

ROOT = pathlib.Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "matrix.json"
LIMIT = 400  # MB of one torch wheel
TORCHES = ("2.8.0", "2.9.1", "2.13.0")  # the oldest allowed, up to that of constraints.txt


def say(command: list[str], **arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, check=False, **arguments)


def megabytes(python: pathlib.Path, torch: str, out: pathlib.Path) -> float | None:
    """The size of the torch wheel that pip would take, from its first line; None where there is none to fetch."""
    command = [
        str(python),
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--progress-bar",
        "off",
        "-d",
    ]
    with subprocess.Popen(
        [*command, str(out), f"torch=={torch}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            found = re.search(r"torch-\S+\.whl \(([\d.]+) (kB|MB|GB)\)", line)
            if found:
                process.kill()
                return float(found[1]) * {"kB": 1e-3, "MB": 1, "GB": 1e3}[found[2]]
    return 0.0 if process.returncode == 0 else None


def version(python: str) -> str | None:
    """That of the interpreter; None where there is none of this name."""
    if shutil.which(python) is None:
        return None
    said = say([python, "-c", "import platform; print(platform.python_version())"])
    return said.stdout.strip() if said.returncode == 0 else None


def complaint(stderr: str) -> str:
    """What pip or venv said last, without the places of this machine: rows are committed."""
    last = (stderr.strip().splitlines() or [""])[-1]
    return re.sub(r"\w+://\S+|(?<![\w.])/[^\s'\"]+", "...", last)[-400:]


def row(python: str, torch: str, wheel: pathlib.Path, limit: float, whole: bool) -> dict[str, object]:
    """One pair; the environment is removed again."""
    found = version(python)
    pair: dict[str, object] = {
        "python": found or pathlib.Path(python).name.removeprefix("python"),
        "torch": torch,
    }
    if found is None:
        return pair | {"not tried": "no such interpreter here"}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        made = say([python, "-m", "venv", str(place / "env")])
        inside = place / "env" / "bin" / "python"
        if made.returncode:
            return pair | {"not tried": complaint(made.stderr)}
        size = megabytes(inside, torch, place)
        if size is None or size > limit:
            said = "no wheel of it" if size is None else f"its wheel is {size:.0f} MB, over {limit:.0f}"
            return pair | {"not tried": said}
        pip = [str(inside), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        extras = EXTRAS + (",examples,diffusers" if whole else "")
        pinned = f"torch=={torch}"
        for what in ([pinned], [f"{wheel}[{extras}]", pinned, *BESIDE], ["--no-deps", *ALONE]):
            done = say([*pip, *what])
            if done.returncode:
                return pair | {"failed to install": complaint(done.stderr)}
        out = place / "row.json"
        script = str(ROOT / "tests" / "support" / "installed.py")
        command = [str(inside), "-P", script, "--out", str(out), *(["--whole"] if whole else [])]
        done = subprocess.run(command, cwd=place, check=False)
        return json.loads(out.read_text()) if out.exists() else pair | {"failed": done.returncode}


Rows = list[dict[str, Any]]


def same_pair(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """3.13 is 3.13.0, and a build of torch, 2.13.0+cpu, is its version."""
    short, long = sorted((f"{each['python']}." for each in (one, other)), key=len)
    return (
        long.startswith(short) and len({str(each["torch"]).partition("+")[0] for each in (one, other)}) == 1
    )


def superseded(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """By a row of the same pair that knows as much: what was counted goes only for the same tests counted anew, and
    never where somebody wrote a note to it.
    """
    if not same_pair(old, new) or ("not tried" in new and "not tried" not in old):
        return False
    if "passed" not in old:
        return True
    alike = all(old.get(name) == new.get(name) for name in ("python", "torch", "machine", "tests"))
    return alike and "passed" in new and "note" not in old


def merged(before: Rows, rows: Rows) -> Rows:
    """What is known after both; a pair that was not tried now is no news where it was tried before."""
    news = [
        new
        for new in rows
        if "not tried" not in new or not any("not tried" not in old and same_pair(old, new) for old in before)
    ]
    return [old for old in before if not any(superseded(old, new) for new in news)] + news


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=["python3.11", "python3.12", "python3.13"])
    parser.add_argument("--torches", nargs="+", default=list(TORCHES))
    parser.add_argument("--limit", type=float, default=LIMIT, help="MB of one torch wheel")
    parser.add_argument("--whole", action="store_true", help="every fast test of the three rooms")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        wheel = build(copied(out / "tree"), "wheel", out)
        rows: Rows = []
        for python, torch in itertools.product(given.pythons, given.torches):
            rows.append(row(python, torch, wheel, given.limit, given.whole))
            print(json.dumps(rows[-1]), flush=True)
            before = json.loads(given.out.read_text()) if given.out.exists() else []
            given.out.write_text(json.dumps(merged(before, rows[-1:]), indent=1) + "\n")
    return int(any(each.get("failed") or each.get("error") or "failed to install" in each for each in rows))


if __name__ == "__main__":
    sys.exit(main())
