"""Sweeps that a run and its gradient take in parallel, what order k of the gradient is worth, and two processes.

    python benchmarks/parallel.py             writes benchmarks/results/parallel.json and .png
    python benchmarks/parallel.py --ranks     one process beside two: benchmarks/results/parallel_ranks.json

Sweeps are batched calls one after the other, the whole plan as one window; errors are relative, of the worst sample of
the batch, against `Checkpoint` on the same plan: of the sample, and of the gradient of a loss on it at the noise. For
each tolerance of a list; "to 1e-3" is the loosest one that is within it. Counts and errors depend on no clock.
"""

import argparse
import json
import pathlib
import platform
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pullback import zoo
from pullback.adjoint import Checkpoint, Gradient, Parallel, Swept, sample
from pullback.solvers import (
    DDIM,
    DEIS,
    NOISE,
    VP,
    Denoiser,
    DPMSolverPP,
    FlowAdams,
    FlowEuler,
    FlowMidpoint,
    Method,
    Mixture,
    Model,
    Plan,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    UniPC,
    V,
)

HERE = pathlib.Path(__file__).parent

STEPS, TOLERANCES, WITHIN = (20, 50, 100), (3e-3, 1e-3, 1e-4), 1e-3
METHODS: dict[str, list[Method]] = {
    "VP": [DDIM(), DPMSolverPP(2), DEIS(3), UniPC(2)],
    "flow": [FlowEuler(), FlowAdams(2), FlowMidpoint()],
}
PROBLEMS = ("mixture", "mixture_flow", "digits", "digits_flow", "faces", "faces_flow", "rough")
COLUMNS = (
    "forward sweeps",
    "backward sweeps",
    "forward rows a sample",
    "backward rows a sample",
    "error of the sample",
    "error of the gradient",
)
BATCH = {"mixture": 16, "digits": 4, "faces": 1, "rough": 64}


def problem(name: str) -> tuple[Model, Tensor, Any]:
    """(model, noise, conditioning)."""
    g, flow = torch.Generator().manual_seed(0), name.endswith("_flow")
    batch = BATCH[name.split("_")[0]]
    if name.startswith("mixture"):
        means = torch.randn(16, 16, generator=g, dtype=torch.float64)
        law = Mixture.isotropic(torch.full((16,), 1 / 16), means, torch.full((16,), 0.3))
        return (
            law.denoiser(RectifiedFlow() if flow else VP()),
            torch.randn(batch, 16, generator=g).double(),
            None,
        )
    if name == "rough":  # no model of anything: what `tol` does not bound
        wild = Denoiser(lambda x, t: torch.sin(15 * x) * (1 + t.reshape(-1, 1)), VP(), V)
        return wild, torch.randn(batch, 4, generator=g).double(), None
    shape = (1, 8, 8) if name.startswith("digits") else (1, 25, 25)
    if name == "faces_large":  # the same convolutions on more pixels: a call of 6 ms, for --ranks
        return zoo.denoiser("faces"), torch.randn(batch, 1, 41, 41, generator=g), None
    x = torch.randn(batch, *shape, generator=g)
    return zoo.denoiser(name), x, torch.arange(batch) if name.startswith("digits") else None


def compiled(method: Method, model: Model, steps: int) -> Plan:
    flow = isinstance(model.process, RectifiedFlow)
    return method.plan(
        model.process, UniformT(steps, start=1.0, end=0.0) if flow else UniformLambda(steps, end=1e-3)
    )


def loss(x: Tensor) -> Tensor:
    w = torch.linspace(-1, 1, x[0].numel()).to(x).reshape(x.shape[1:])
    return ((x - w).square() + (3 * x * w).tanh()).flatten(1).sum(1)


def gradient(strategy: Gradient, model: Model, plan: Plan, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = sample(model, plan, x, cond=cond, gradient=strategy)
    return out.detach(), torch.autograd.grad(loss(out).sum(), x)[0]


def error(got: Tensor, want: Tensor) -> float:
    return float(((got - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)).max())


def swept(
    name: str,
    steps: int,
    method: Method,
    strategy: Parallel = Parallel(),
    tolerances: tuple[float, ...] = TOLERANCES,
) -> dict[str, Any]:
    """One row: for each tolerance sweeps and errors both ways."""
    model, x, cond = problem(name)
    plan = compiled(method, model, steps)
    want = gradient(Checkpoint(), model, plan, x, cond)
    row: dict[str, Any] = {
        "problem": name,
        "method": plan.name,
        "steps": steps,
        "calls": plan.nfe,
        "by tol": {},
    }
    for tol in tolerances:
        said: list[Swept] = []
        got = gradient(replace(strategy, tol=tol, observe=said.append), model, plan, x, cond)
        found = [each.sweeps for each in said] + [each.rows // len(x) for each in said]
        row["by tol"][str(tol)] = (*found, error(got[0], want[0]), error(got[1], want[1]))
        for what, sweeps, off in (("forward", found[0], 4), ("backward", found[1], 5)):
            if row["by tol"][str(tol)][off] <= WITHIN:
                row.setdefault(f"{what} to {WITHIN:g}", sweeps)
    print(name, steps, plan.name, {k: v for k, v in row.items() if " to " in k}, row["by tol"], flush=True)
    return row


def orders(name: str = "digits", steps: int = 20) -> list[dict[str, Any]]:
    """Cosine and norm ratio of order k to the exact gradient, at noise and parameters, for each kind of sweep."""
    model, x, cond = problem(name)
    assert isinstance(model, Denoiser)
    weights = [w.requires_grad_() for w in model.parameters()]
    plan, rows = compiled(DPMSolverPP(2), model, steps), []

    def grads(strategy: Gradient) -> tuple[Tensor, Tensor]:
        noise = x.clone().requires_grad_()
        out = sample(model, plan, noise, cond=cond, gradient=strategy)
        at, *of = torch.autograd.grad(loss(out).sum(), [noise, *weights])
        return at.flatten(), torch.cat([g.flatten() for g in of])

    want = grads(Checkpoint())
    kinds = {
        "NOISE, plain": Parallel(base=NOISE, memory=0),
        "V, plain": Parallel(base=V, memory=0),
        "V": Parallel(),
    }
    for kind, strategy in kinds.items():
        for k in range(9):
            got = grads(replace(strategy, tol=1e-5, backward_sweeps=k))
            cos = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(got, want, strict=True)]
            size = [float(a.norm() / b.norm()) for a, b in zip(got, want, strict=True)]
            rows.append({"sweeps": kind, "order": k, "cos at noise": cos[0], "cos at weights": cos[1],
                         "norm at noise": size[0], "norm at weights": size[1], "VJPs in sequence": k + 1,
                         "of Checkpoint": plan.nfe})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def one_rank(rank: int, size: int, port: int, out: str, shared: bool) -> None:
    """Seconds, rows and bytes of one process of `size`; rank 0 writes them. Not `shared`: each does the whole work."""
    torch.set_num_threads(1)
    group = None
    if shared and size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
        )
        group = torch.distributed.group.WORLD
    model, x, cond = problem("faces_large")
    plan = compiled(DPMSolverPP(2), model, 100)
    said: list[Swept] = []
    strategy = Parallel(tol=1e-3, group=group, observe=said.append)
    found, got = [], (x, x)
    for _ in range(5):
        said.clear()
        begin = time.perf_counter()
        got = gradient(strategy, model, plan, x, cond)
        found.append(time.perf_counter() - begin)
    if rank == 0:
        rows = sum(each.rows for each in said)
        exchanged = rows * x[0].numel() * x.element_size()
        share = size if shared else 1
        said_there = {"seconds": sorted(found)[2], "rows of each rank": rows / share,
                      "sweeps": [s.sweeps for s in said], "bytes gathered": exchanged if share > 1 else 0,
                      "value": float(got[0].sum()), "gradient": float(got[1].sum())}  # fmt: skip
        pathlib.Path(out).write_text(json.dumps(said_there))
    if group is not None:
        torch.distributed.destroy_process_group()


def ranks() -> dict[str, Any]:
    """One process beside two, one thread each, on one trajectory of 100 calls, and what one call takes."""
    model, x, cond = problem("faces_large")
    t = torch.full((1,), 0.5)
    torch.set_num_threads(1)
    single = []
    for _ in range(20):
        begin = time.perf_counter()
        with torch.no_grad():
            model(x, t, cond)
        single.append(time.perf_counter() - begin)
    out = HERE / "results" / "rank.json"
    row: dict[str, Any] = {"seconds of one call": sorted(single)[10]}
    kinds = {"one rank": (1, True), "two ranks": (2, True), "two unshared": (2, False)}
    for port, (kind, (size, shared)) in enumerate(kinds.items(), 29511):
        torch.multiprocessing.spawn(one_rank, (size, port, str(out), shared), nprocs=size)  # type: ignore
        row[kind] = json.loads(out.read_text())
        out.unlink()
    row["speed-up"] = row["one rank"]["seconds"] / row["two ranks"]["seconds"]
    # two whole runs at once beside one: what this machine's second core is worth, the limit of any sharing
    row["limit"] = 2 * row["one rank"]["seconds"] / row["two unshared"]["seconds"]
    print(row)
    return row


def draw(rows: list[dict[str, Any]], by_order: list[dict[str, Any]], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name in dict.fromkeys(row["problem"] for row in rows):
        mine = [row for row in rows if row["problem"] == name]
        steps = sorted({row["steps"] for row in mine})
        worst = [max(sum(r["by tol"]["0.001"][:2]) / 2 for r in mine if r["steps"] == n) for n in steps]
        left.plot(steps, worst, "o-", label=name)
    left.plot(STEPS, STEPS, "k:", label="in sequence")
    left.set(xlabel="steps", ylabel="sweeps each way, tol 1e-3, worst method", xscale="log", yscale="log")
    left.legend(fontsize=8)
    for kind in dict.fromkeys(row["sweeps"] for row in by_order):
        mine = [row for row in by_order if row["sweeps"] == kind]
        right.plot(
            [r["order"] for r in mine], [r["cos at weights"] for r in mine], "o-", label=f"{kind}: weights"
        )
        right.plot(
            [r["order"] for r in mine], [r["cos at noise"] for r in mine], "x--", label=f"{kind}: noise"
        )
    right.set(xlabel="order k (VJPs in sequence: k + 1)", ylabel="cosine to the exact gradient")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", action="store_true", help="time two processes beside one")
    parser.add_argument(
        "--only", nargs="*", choices=PROBLEMS, help="measure these anew, keep the others' rows"
    )
    asked = parser.parse_args()
    where = {"torch": torch.__version__, "machine": platform.machine(), "threads": torch.get_num_threads()}
    if asked.ranks:
        (HERE / "results" / "parallel_ranks.json").write_text(
            json.dumps({**where, **ranks()}, indent=1) + "\n"
        )
        return
    path = HERE / "results" / "parallel.json"
    if asked.only:
        found = json.loads(path.read_text())
        found["sweeps"] = [row for row in found["sweeps"] if row["problem"] not in asked.only]
    else:
        found = {**where, "columns": COLUMNS, "orders": orders(), "sweeps": []}
        found["without secants"] = swept("digits", 100, DPMSolverPP(2), Parallel(memory=0))
    for name in asked.only or PROBLEMS:
        if name == "rough":
            found["rough"] = swept(name, 30, DPMSolverPP(2), tolerances=(1e-4, 1e-6, 1e-11))
            path.write_text(json.dumps(found, indent=1) + "\n")
            continue
        # of the faces a part: nearly all of the time goes into them
        steps, tolerances = ((100,), (1e-3,)) if name.startswith("faces") else (STEPS, TOLERANCES)
        for method in METHODS["flow" if name.endswith("_flow") else "VP"]:
            found["sweeps"] += [swept(name, n, method, tolerances=tolerances) for n in steps]
            path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found["sweeps"], found["orders"], path.with_suffix(".png"))


if __name__ == "__main__":
    main()
