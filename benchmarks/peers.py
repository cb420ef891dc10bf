"""The same tasks by this library and by each peer, in one process and by turns.

    python benchmarks/peers.py                       every part, into benchmarks/results/peers.json
    python benchmarks/peers.py --part times sde      these parts anew, the others as they are in the JSON
    python benchmarks/peers.py --quick               the least of each, written nowhere

accuracy     gradients at noise and weights against an exact flow's, at equal network calls: torchdiffeq, diffrax
times        value and gradient of the same Euler steps of one float32 network, and peak memory: torchdiffeq, diffrax
sde          gradients along Brownian paths against a closed form, and their time: torchsde
scheduler    gradients through a scheduler's loop, their time and memory: diffusers
inverse      DPS on the same denoisers at the same calls, and the time of a run: deepinv

A part is a process of its own, on one core and one thread, XLA's too; what is compared takes turns in it. Times are the
processor's: medians and quartiles, ratios turn by turn. A peer that is not installed is left out by name
(`pip install -e ".[peers]"`).
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import time
from typing import Any

from measuring import in_its_own_process, machine, versions

HERE = pathlib.Path(__file__).parent
PATH = HERE / "results" / "peers.json"
PARTS = {  # part: (module, function, peers)
    "accuracy": ("peers_ode", "accuracy", ("torchdiffeq", "diffrax")),
    "times": ("peers_ode", "times", ("torchdiffeq", "diffrax")),
    "sde": ("peers_sde", "measured", ("torchsde",)),
    "scheduler": ("peers_diffusers", "measured", ("diffusers",)),
    "inverse": ("peers_deepinv", "measured", ("deepinv",)),
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
PACKAGES = ("pullback", "torch", "numpy", "torchdiffeq", "torchsde", "diffrax", "jax", "diffusers", "deepinv")


def missing(part: str) -> list[str]:
    return [name for name in PARTS[part][2] if importlib.util.find_spec(name) is None]


def here(part: str, quick: bool) -> None:
    """The part in this process; prints its JSON on the last line."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    import torch

    torch.set_num_threads(1)
    module, function, _ = PARTS[part]
    found = getattr(importlib.import_module(module), function)(quick)
    print("\n" + json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="the least of each part, written nowhere")
    parser.add_argument("--here", choices=list(PARTS), help="one part in this process, printed")
    parser.add_argument("--out", type=pathlib.Path, default=PATH)
    given = parser.parse_args()
    if given.here:
        return here(given.here, given.quick)
    facts: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for part in given.part:
        if absent := missing(part):
            print(f"{part}: left out {', '.join(absent)}, not installed")
        if len(absent) == len(PARTS[part][2]):
            continue
        began = time.perf_counter()
        quick = ["--quick"] if given.quick else []
        found = in_its_own_process(__file__, "--here", part, *quick, environment=ONE_THREAD)
        took = round(time.perf_counter() - began)
        facts[part] = found | {
            "seconds": took, "left_out": absent, "machine": machine(), "versions": versions(*PACKAGES)
        }  # fmt: skip
        print(f"{part}: {took} s", flush=True)
        if not given.quick:
            given.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
