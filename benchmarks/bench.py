"""What `make bench` runs: the scripts that compare with peers, and growth, one after the other, within a time.

    python benchmarks/bench.py                         25 minutes on two quiet cores
    python benchmarks/bench.py --only peers growth     these alone, of the other scripts too: `--only reward`
    python benchmarks/bench.py --list                  what there is, and what each took here

Each is a script of its own and can be run by itself. One that would not be done in what is left of the time is stopped
and named; a peer that is not installed is left out and named. What each took goes into
benchmarks/results/bench.json, and the tables of docs/benchmarks.md are made anew from all results.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from measuring import machine, versions

HERE = pathlib.Path(__file__).parent
PATH = HERE / "results" / "bench.json"
# script: its arguments and the peers that it compares with
BENCH: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "on_paper": ((), ()),
    "gradients": ((), ("torchdiffeq", "torchsde")),
    "overhead": ((), ("diffusers",)),
    "peers": ((), ("torchdiffeq", "torchsde", "diffrax", "diffusers", "deepinv")),
    "growth": ((), ()),
}
# the others: minutes of one core as their authors noted them, where they did
OTHERS: dict[str, float | None] = {
    "as_scheduler_time": None, "attainable": None, "audits": None, "auto": None, "compiled": 3,
    "continuous": None, "continuous_orders": None,
    "cost": None, "diffusers_parity": None, "draft": None, "durability": None, "error_nfe": 10,
    "guide_defaults": None, "held_out_morphs": 5, "identities": None, "implicit": 1, "inverse": None,
    "latents": None, "leaks": None, "learned": 12, "learned_eta": None, "learned_guidance_seeds": None,
    "levenberg": None, "likelihood": 10, "limit": 1, "memory": None, "multilevel": None, "orders": 3,
    "parallel": None, "peers_can": 1, "peers_faults": 2, "pipelines": None, "pipelines_parity": None,
    "recognisers": None, "reward": None, "robustness": None, "round_trip": None, "small_studies": 1,
    "vae_memory": None,
}  # fmt: skip
ON_A_GPU = ("gpu", "pipelines_gpu")
SHARED = (
    "backbones", "bench", "judged", "measuring", "order_rows", "page", "page_tables", "peers_deepinv",
    "peers_diffrax", "peers_diffusers", "peers_equations", "peers_exact", "peers_ode", "peers_rows", "peers_said",
    "peers_samplers", "peers_sde",
)  # fmt: skip


def run(name: str, left: float) -> dict[str, float | int | str]:
    """Seconds of the clock and of the processor, and how it ended."""
    arguments = BENCH.get(name, ((), ()))[0]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), *arguments]
    child = subprocess.Popen(command, start_new_session=True)
    try:
        end: int | str = child.wait(timeout=left)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)  # and the processes that it has begun
        child.wait()
        end = "stopped: out of time"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(spent, 1),
        "end": end,
    }


def known(path: pathlib.Path) -> dict[str, dict[str, float | int | str]]:
    return json.loads(path.read_text())["scripts"] if path.exists() else {}


def listed(path: pathlib.Path) -> None:
    took = known(path)
    for title, names in (("make bench", BENCH), ("by themselves", OTHERS), ("on a GPU", ON_A_GPU)):
        print(title)
        for name in names:
            said = f"{took[name]['seconds'] / 60:.1f} minutes here" if name in took else "not timed here"  # type: ignore[operator]
            noted = f", noted: {OTHERS[name]} minutes" if OTHERS.get(name) else ""
            print(f"    {name}.py: {said}{noted}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="the time for all together")
    parser.add_argument("--only", nargs="+", default=list(BENCH), choices=[*BENCH, *OTHERS, *ON_A_GPU])
    parser.add_argument("--list", action="store_true", help="what there is and what it took; runs nothing")
    parser.add_argument("--out", type=pathlib.Path, default=PATH)
    given = parser.parse_args()
    if given.list:
        listed(given.out)
        return 0
    began, scripts = time.perf_counter(), known(given.out)
    failed = []
    for name in given.only:
        absent = [peer for peer in BENCH.get(name, ((), ()))[1] if importlib.util.find_spec(peer) is None]
        if absent:
            print(f"{name}: {', '.join(absent)} left out, not installed")
        if absent and len(absent) == len(BENCH[name][1]):
            continue
        left = 60 * given.minutes - (time.perf_counter() - began)
        if left <= 0:
            scripts[name] = {"seconds": 0.0, "processor_seconds": 0.0, "end": "not begun: out of time"}
        else:
            print(f"== {name}", flush=True)
            scripts[name] = run(name, left) | ({"left_out": ", ".join(absent)} if absent else {})
        failed += [name] * (scripts[name]["end"] != 0)
        print(f"== {name}: {scripts[name]}", flush=True)
        facts = {"machine": machine(), "versions": versions("pullback", "torch"), "scripts": scripts}
        given.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{(time.perf_counter() - began) / 60:.1f} of {given.minutes:g} minutes")
    if given.out == PATH:
        subprocess.run([sys.executable, str(HERE / "page.py")], check=True)
    if failed:
        print(f"not done: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
