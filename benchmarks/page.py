"""docs/benchmarks.md from what the scripts have left in benchmarks/results; measures nothing.

python benchmarks/page.py
"""

import json
import pathlib
from typing import Any

import page_tables as tables
from bench import BENCH, ON_A_GPU, OTHERS, known

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"

WORDS = """# Benchmarks

[Index](index.md) · before: [choosing a gradient](gradients.md), [parallel in time](parallel.md) · beside:
[orders and errors](orders.md), [diffusers' schedulers](diffusers.md), [pipelines](pipelines.md)

<!-- written by benchmarks/page.py from benchmarks/results; do not edit -->
{machine} Times are the processor's, medians with quartiles in brackets; ratios are formed turn by turn, both sides in
one process. Every table says which script made it; `make bench` runs them all.{loaded}

## Where this library is ahead

{in_front}

## Where a peer is ahead

{ahead}

## Gradients of an ODE: error at equal calls

`benchmarks/peers.py --part accuracy`, float64. The probability flow of a mixture of four Gaussians on the line, whose
gradients at the noise and at all 12 weights are known to round-off (the flow moves quantiles). *N* is the calls
forwards; what a gradient calls backwards is its own: `Checkpoint` N and N VJPs, `odeint` N VJPs, `odeint_adjoint` and
`BacksolveAdjoint` what their backward solve takes. Relative errors at the noise / at the weights. Peers in t and in
lambda, the better of the two at each N, fixed steps and adaptive (whichever tolerance spends about N).

{accuracy}

## The same steps, the same gradient: time and memory

`benchmarks/peers.py --part times`, float32, value and gradient at x and all weights, Euler's method on one perceptron
from every side; *off* is the distance of the gradient from `Direct`'s. Small: a call takes some 0.05 ms, and what is
around it counts. Large: the network counts. diffrax is compiled first, for the seconds named (a compiled run of ours:
[one graph](gradients.md#one-graph), `benchmarks/compiled.py`). Peak over what was resident before, a process each, in
which large blocks go back to the system as they are freed. As glibc is by itself, small states that are kept between
freed activations leave holes: `Checkpoint` at 200 steps then has {holes:.0f} MiB. `MALLOC_MMAP_THRESHOLD_=65536` in the
environment avoids it.

{times}

## Gradients along Brownian paths

`benchmarks/peers.py --part sde`, float64. The reverse SDE of Gaussian data is linear, so gradients at x and at the mean
are known on every path. DDIM(1) and SDE-DPM-Solver++ are exact on this law whatever the number of calls, so their rows
say only that nothing is lost; Euler-Maruyama is the same arithmetic on both sides. Errors at x / at the mean; on a law
that is not Gaussian: `benchmarks/gradients.py`.

{sde}

Time of a value and gradient in float32, Euler-Maruyama, 50 steps (small), 20 (large):

{sde_times}

## A diffusers scheduler's loop

`benchmarks/peers.py --part scheduler`: DPMSolverMultistepScheduler, a UNet of {parameters:.1f} M parameters, value and
gradient at x and all weights, {steps} steps. *off*: distance of the gradient from that of autograd through their loop.

{scheduler}

A scheduler's own time in a step, noise included, ours over diffusers' (`benchmarks/overhead.py`):

{overhead}

## DPS beside deepinv's

`benchmarks/peers.py --part inverse`: inpainting of 8 x 8 digits, {measurements} measurements, {samples} samples each on
the mixture, a quarter on the network. One call and one VJP a step on both sides, each at the best of six weights,
chosen on another measurement. On the mixture fitted to digits: sliced Wasserstein distance to exact posterior draws
over that of such draws among themselves (1 is perfect). On the digits network: RMS distance of the hidden pixels from
the truth.

{inverse}

A run of {time_steps} steps of {batch} images on the network: {inverse_times}.

## Growth

`benchmarks/growth.py`: value and gradient at x and all weights, three convolutions, one axis at a time around {base}.
Slopes of log time / log peak memory over the upper half of each line (1: in proportion, 0: does not grow):

![time and peak memory against steps, batch, parameters and state](../benchmarks/results/growth.png)

{growth}

From 1000 to 10,000 steps the peak of `Checkpoint` grows by {each:.1f} KiB a step, of which its state is {state:.0f}
and the rest the allocator's (tensors that live between the passes are the states alone: `benchmarks/memory.py`); that
of `Reversible` by {book:.2f} KiB. Peaks of a few MiB say little of a slope: along parameters and state only `Direct`
has more.

Processes that share a batch of {shared} over gloo, `Checkpoint`, weights' gradients summed:

{ranks}

This machine has {cores} cores: up to {cores} processes can gain, more of them share the cores and pay for it. *A share
alone* is what one process takes for its samples with nobody beside it: what is above that is waiting for memory, for
the cores' other users and for the sum.

## On paper: large models on 8 and 64 GPUs

Arithmetic, not a measurement (`benchmarks/on_paper.py`, whose docstring has every assumption): GPUs of 80 GB,
{flops:.0f} Tflop/s in bf16 at an MFU of {mfu}, 450 GB/s within 8 GPUs and 50 GB/s a GPU between nodes.

{models}

- *A call* is 2 flops for each weight that a token meets, times tokens, and 4 tokens^2 d in each layer's attention. Flux
  has a stream each for text and image in 19 blocks and modulation once a sample: a token meets 6.5 of its 11.8 G
  weights.
- *A state* is its latent in float32. `Checkpoint` keeps one for each network call, `Reversible` two in float64.
- *Activations* of one call are 34 d bytes a token and block. Where that would fill the GPU, the blocks' own
  checkpointing keeps 2 d and one block in full, and costs one more forward pass.
- *LoRA* of rank 32 with gradient and Adam: 18 bytes a parameter; all weights instead: the same for each.
- Where things live: weights, gradients and optimiser in equal shares (FSDP2's `fully_shard`), two blocks gathered at a
  time; the states and activations of a sample on the GPU that has the sample. `Checkpoint` runs under FSDP2 by regions;
  `8 x 8 replicas` is hybrid sharding: shares within a node, copies between nodes. `Reversible` is refused where weights
  are sharded ([wrapped networks](gradients.md#wrapped-networks)): its columns say what it would take.

GB on one GPU and seconds of a value and gradient, one sample a GPU, LoRA (all weights in brackets). With `Direct` all
activations would be kept: {direct}.

{on_paper}

Read from it: states are never what fills the GPU. `Checkpoint` and `Reversible` differ by at most {differ:.2g} GB, and
what decides is the activations of one call. Flux over 64 shares waits for its weights ({wait:.1f} s to gather against
{call:.2f} s to compute a call); shares within the node and copies between nodes do not wait. 720p video does not fit
one sample to a GPU: its tokens have to be shared too (sequence parallelism of the network's engine), which divides
activations and seconds of a sample by the GPUs that share it.

## Running them

`make bench` installs the extra `peers` and runs the first table, at most 25 minutes on two quiet cores; a peer that is
missing is left out by name. Each script also runs by itself, `python benchmarks/NAME.py`, and
`python benchmarks/bench.py --only NAME --minutes 120` keeps what it took. Minutes here, or as the script's author
noted them:

{scripts}

With a GPU: {gpu}.
"""


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def machine(facts: list[dict[str, Any]], versions: dict[str, str]) -> tuple[str, str]:
    """The first sentence; the last one where the machine had other work."""
    first = facts[0]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    said = (
        f"Value and gradient of samplers, this library's and its peers', measured on {first['processor']} with "
        f"{first['cores']} cores, one thread a process, Python {first['python']}, {named}."
    )
    most = max(each["load"] for each in facts)
    loaded = (
        f"\n\n**The machine was not quiet**: its load was up to {most:g} on {first['cores']} cores. Errors, bytes and "
        "calls stand; seconds and ratios are rough until these are run again."
        if most > first["cores"]
        else ""
    )
    return said, loaded


def written() -> str:
    peers, growth, paper = read("peers"), read("growth"), read("on_paper")
    said, loaded = machine(
        [*(part["machine"] for part in peers.values()), growth["machine"]], peers["accuracy"]["versions"]
    )
    took = known(RESULTS / "bench.json")
    sde, inverse, scheduler = peers["sde"], peers["inverse"], peers["scheduler"]
    base = ", ".join(f"{name} {value}" for name, value in growth["base"].items())
    far = next(row for row in paper["rows"] if row["layout"] == "64")["ways"]["Checkpoint"]["seconds"]
    differ = max(
        abs(row["ways"]["Checkpoint"]["bytes"] - row["ways"]["Reversible"]["bytes"]) for row in paper["rows"]
    )
    return WORDS.format(
        machine=said,
        loaded=loaded,
        in_front=tables.in_front(peers, read("overhead")["over_diffusers"]),
        ahead=tables.ahead(peers, read("overhead")["over_diffusers"]),
        accuracy=tables.accuracy(peers["accuracy"]["rows"]),
        times=tables.times({size: peers["times"][size] for size in ("small", "large")}),
        holes=peers["times"]["large"]["rows"]["pullback, Checkpoint"]["peak_with_holes_MiB"],
        sde=tables.sde(sde["rows"]),
        sde_times=tables.times(sde["times"]),
        parameters=scheduler["parameters"] / 1e6,
        steps=scheduler["steps"],
        scheduler=tables.timed(scheduler["rows"]),
        overhead=tables.overhead(read("overhead")["over_diffusers"]),
        measurements=inverse["measurements"],
        samples=inverse["samples"],
        inverse=tables.inverse(inverse["errors"]),
        time_steps=inverse["time_steps"],
        batch=inverse["batch"],
        inverse_times="; ".join(
            f"{name} {tables.spread(row['seconds'], 's')}, ratio {tables.spread(row['ratio'])}"
            for name, row in inverse["times"].items()
        ),
        base=base,
        growth=tables.growth(growth["slopes"]),
        each=tables.a_step(growth["axes"]["steps"]["Checkpoint"]),
        state=4 * growth["axes"]["steps"]["Checkpoint"]["10000"]["state"] / 1024,
        book=tables.a_step(growth["axes"]["steps"]["Reversible"]),
        shared=growth["ranks"]["at"]["batch"],
        ranks=tables.ranks(growth["ranks"]["rows"]),
        cores=growth["machine"]["cores"],
        flops=paper["assumed"]["flop_per_second"] / 1e12,
        mfu=paper["assumed"]["mfu"],
        models=tables.models(paper["models"]),
        on_paper=tables.on_paper(paper["rows"]),
        direct=tables.direct(paper["rows"]),
        differ=differ / 1e9,
        wait=far["gather"],
        call=far["call"],
        scripts=tables.scripts(BENCH, OTHERS, took),
        gpu=", ".join(f"`benchmarks/{name}.py`" for name in ON_A_GPU),
    )


def main() -> None:
    PAGE.write_text(written())


if __name__ == "__main__":
    main()
