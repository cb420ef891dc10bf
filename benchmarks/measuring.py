"""What the benchmarks share: turns, quartiles, peaks of memory, processes of their own, versions, the machine."""

import ctypes
import gc
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Timed = Callable[[], object]
M_MMAP_THRESHOLD, LARGE = -3, 2**16  # glibc's malloc.h; what peaks are measured with beside peers


def machine() -> dict[str, Any]:
    """The processor by name, how many of its cores this process may use, and what runs on it."""
    cpu = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", cpu.read_text()) if cpu.exists() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),  # of the last minute: 1 for each process that asks for a core
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions(*names: str) -> dict[str, str]:
    """Of what is installed; the others are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high}


def by_turns(runs: Mapping[str, Timed], turns: int) -> dict[str, list[float]]:
    """Processor seconds of this process for each run, one after the other, `turns` times after one for warming up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if turn:
                taken[name].append(time.process_time() - began)
    return taken


def beside(taken: Mapping[str, list[float]], base: str) -> dict[str, dict[str, Any]]:
    """Seconds of each, and its ratio to `base` turn by turn: medians and quartiles."""
    return {
        name: {
            "seconds": spread(values),
            "ratio": spread([a / b for a, b in zip(values, taken[base], strict=True)]),
        }
        for name, values in taken.items()
    }


def peak_bytes(fn: Timed, returned: int | None = None) -> int:
    """The resident set's high-water mark in `fn` over what was resident before it.

    Args:
        returned: bytes from which glibc hands what is freed back at once. None leaves it to glibc, which keeps large
            blocks too: where small tensors stay between them they become holes, which count as the strategy's own.
    """
    gc.collect()
    libc = ctypes.CDLL("libc.so.6")
    if returned is not None:
        libc.mallopt(M_MMAP_THRESHOLD, returned)
    libc.malloc_trim(0)  # what was freed goes back, else it would hide what is taken now
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
    before = resident("VmRSS")
    try:
        fn()
        return max(0, resident("VmHWM") - before)
    finally:
        if returned is not None:
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # where glibc ends up by itself


def resident(what: str) -> int:
    """VmRSS, what is resident now, or VmHWM, the most since the mark was cleared, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", status).group(1))  # type: ignore[union-attr]


def in_its_own_process(script: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """The JSON on the last line that `script` prints when it is called with `arguments`."""
    command = [sys.executable, "-W", "ignore", script, *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if out.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {out.returncode}\n{out.stderr[-2000:]}")
    return json.loads(out.stdout.splitlines()[-1])
