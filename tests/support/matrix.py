"""`make matrix`: the wheel in fresh environments, of each Python and torch given, and tests against what is installed.

    python tests/support/matrix.py --pythons python3.11 python3.13 --torches 2.8.0 2.13.0

Writes a row for each pair to benchmarks/results/matrix.json. A torch wheel that is larger than LIMIT is not fetched,
and its row says so: on Linux the index has torch with CUDA, of gigabytes with what it brings.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from packed import build, copied

ROOT = pathlib.Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "matrix.json"
LIMIT = 400  # MB of one torch wheel
BESIDE = ("pytest", "hypothesis", "beartype", "mpmath")
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


def row(python: str, torch: str, wheel: pathlib.Path) -> dict[str, object]:
    """One pair; the environment is removed again."""
    pair: dict[str, object] = {"python": python, "torch": torch}
    if shutil.which(python) is None or say([python, "-c", ""]).returncode:
        return pair | {"not tried": "no such interpreter here"}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        made = say([python, "-m", "venv", str(place / "env")])
        inside = place / "env" / "bin" / "python"
        if made.returncode:
            return pair | {"not tried": made.stderr.strip()[-200:]}
        size = megabytes(inside, torch, place)
        if size is None or size > LIMIT:
            said = "no wheel of it" if size is None else f"its wheel is {size:.0f} MB, over {LIMIT}"
            return pair | {"not tried": said}
        pip = [str(inside), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for what in ([f"torch=={torch}"], [f"{wheel}[ode,rewards,train]", f"torch=={torch}", *BESIDE]):
            done = say([*pip, *what])
            if done.returncode:
                return pair | {"failed to install": done.stderr.strip()[-400:]}
        out = place / "row.json"
        script = str(ROOT / "tests" / "support" / "installed.py")
        done = subprocess.run([str(inside), "-P", script, "--out", str(out)], cwd=place, check=False)
        return json.loads(out.read_text()) if out.exists() else pair | {"failed": done.returncode}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=["python3.11", "python3.12", "python3.13"])
    parser.add_argument("--torches", nargs="+", default=list(TORCHES))
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        wheel = build(copied(out / "tree"), "wheel", out)
        rows = [row(python, torch, wheel) for python in given.pythons for torch in given.torches]
    given.out.write_text(json.dumps(rows, indent=1) + "\n")
    for each in rows:
        print(json.dumps(each))
    return int(any(each.get("failed") or each.get("error") or "failed to install" in each for each in rows))


if __name__ == "__main__":
    sys.exit(main())
