"""What `from_diffusers` costs beside the pipeline's own loop: a network call, memory, time.

    python benchmarks/pipelines.py      writes benchmarks/results/pipelines.json and pipelines.png

Random weights, float32, one thread, this process's own time. *A call*: the model's over the same call of the bare
network, guidance in one batched call for both, on the tiny pipelines of the tests. *Memory* and *time*: value and
gradient at latents, embeddings and LoRA weights of a Stable Diffusion UNet, guided; memory is the resident set's
high-water mark over what was there before, each point in a fresh process that has run three steps.
"""

import inspect
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))

import torch
from measuring import peak_bytes
from pipelines.build import library
from pipelines.case import built, single, start
from pipelines.image import CASES
from pipelines.stable_diffusion import stable_diffusion
from torch import Tensor

from pullback.adjoint import Checkpoint, Direct, Gradient, Reversible, sample
from pullback.solvers import GivenTimes, ReversibleHeun
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers
from pullback.solvers.process import as_time

HERE = pathlib.Path(__file__).parent
FAMILIES = ("sd15", "sdxl", "sd3", "flux")
STEPS = (8, 50)
LOOPS = {"pipeline's loop": False, "pipeline's loop, gradient checkpointing": True}
STRATEGIES: dict[str, Gradient] = {
    "Direct": Direct(),
    "Checkpoint": Checkpoint(),
    "Checkpoint, recursive": Checkpoint(recursive=True),
    "Checkpoint, 64 MiB": Checkpoint(memory_budget=2**26),
    "Reversible": Reversible(tolerance=1.0),
}


def seconds(fn: Callable[[], object]) -> float:
    began = time.process_time()
    fn()
    return time.process_time() - began


def a_call(name: str, asking: bool, turns: int = 60) -> dict[str, float]:
    """Milliseconds of a call of the model and of its bare network, by turns."""
    case = next(case for case in CASES if case.name == name)
    with single():
        pipe = built(case)
        found = from_diffusers(pipe, case.steps, **case.call(pipe))
        x, t = start(pipe, case), torch.full((2,), float(as_time(found.plan.times)[1]))
        cond = {name: value.clone().requires_grad_(asking) for name, value in found.cond.items()}
        network = found.model.network.networks()[0]  # type: ignore[union-attr]
        seen: dict[str, Any] = {}
        hook = network.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(args=args, kwargs=kwargs), with_kwargs=True
        )
        with torch.set_grad_enabled(asking):
            found.model(x, t, cond)
            hook.remove()
            pairs = [
                (
                    seconds(lambda: found.model(x, t, cond)),
                    seconds(lambda: network(*seen["args"], **seen["kwargs"])),
                )
                for _ in range(turns)
            ]
    ours, bare = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
    return {"model_ms": ours, "network_ms": bare, "own_ms": 1e3 * statistics.median(a - b for a, b in pairs)}


class Setting:
    """A guided pipeline with LoRA, whose network call takes some 40 ms."""

    def __init__(self) -> None:
        from peft import LoraConfig

        with single():
            size = {"block_out_channels": (64, 128), "layers_per_block": 2, "norm_num_groups": 16}
            sampler = library().DDIMScheduler(
                beta_schedule="scaled_linear", beta_end=0.006, clip_sample=False, steps_offset=1
            )
            self.pipe = stable_diffusion(
                sampler=sampler,
                net={**size, "attention_head_dim": 8, "sample_size": 16, "cross_attention_dim": 64},
            )
            self.pipe.unet.add_adapter(
                LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
            )
            self.weights = [each for each in self.pipe.unet.parameters() if each.requires_grad]
            self.x = torch.randn(1, 4, 16, 16)
            self.cond = {name: torch.randn(1, 8, 64) for name in ("prompt_embeds", "negative_prompt_embeds")}

    def call(self) -> dict[str, Any]:
        return {**self.cond, "height": 32, "width": 32, "guidance_scale": 3.0}

    def leaves(self) -> tuple[Tensor, dict[str, Tensor]]:
        asked = {name: value.clone().requires_grad_() for name, value in self.cond.items()}
        return self.x.clone().requires_grad_(), asked

    def own(self, steps: int, saving: bool) -> Callable[[], list[Tensor]]:
        """Value and gradient by the pipeline's own loop, without its no_grad."""
        loop = inspect.unwrap(type(self.pipe).__call__)

        def run() -> list[Tensor]:
            if saving:
                self.pipe.unet.enable_gradient_checkpointing()
                self.pipe.unet.train()  # diffusers checkpoints in training alone; there is no dropout
            x, asked = self.leaves()
            how = {"num_inference_steps": steps, "output_type": "latent", "latents": x}
            end = loop(self.pipe, **(self.call() | asked | how)).images
            found = [end, *torch.autograd.grad(end.square().sum(), [x, *asked.values(), *self.weights])]
            self.pipe.unet.disable_gradient_checkpointing()
            self.pipe.unet.eval()
            return found

        return run

    def ours(self, steps: int, strategy: Gradient) -> Callable[[], list[Tensor]]:
        found: DiffusersPipeline = from_diffusers(self.pipe, steps, **self.call())
        plan = found.plan
        if isinstance(strategy, Reversible):
            plan = ReversibleHeun().plan(found.process, GivenTimes(as_time(found.plan.times)))

        def run() -> list[Tensor]:
            x, asked = self.leaves()
            end = sample(found.model, plan, x, cond=asked, gradient=strategy)
            return [end, *torch.autograd.grad(end.square().sum(), [x, *asked.values(), *self.weights])]

        return run

    def named(self, name: str, steps: int) -> Callable[[], list[Tensor]]:
        return self.own(steps, LOOPS[name]) if name in LOOPS else self.ours(steps, STRATEGIES[name])


def point(name: str, steps: int) -> None:
    with single():
        setting = Setting()
        for _ in range(2):
            setting.named(name, 3)()
        print(json.dumps({"peak_MiB": peak_bytes(setting.named(name, steps)) / 2**20}))


def times(steps: int = 8, turns: int = 5) -> dict[str, Any]:
    """Seconds of a value and gradient, all by turns in one process, and by how much they differ from the loop's."""
    with single():
        setting = Setting()
        runs = {name: setting.named(name, steps) for name in (*LOOPS, *STRATEGIES)}
        exact, *_ = (runs[name]() for name in LOOPS)
        errors = {name: _apart(run(), exact) for name, run in runs.items()}  # and a warm-up
        del errors["Reversible"]  # samples by another plan
        took: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(turns):
            for name, run in runs.items():
                took[name].append(seconds(run))
        found = from_diffusers(setting.pipe, steps, **setting.call())
        with torch.no_grad():
            t = torch.full((1,), 500.0)
            call = statistics.median(seconds(lambda: found.model(setting.x, t)) for _ in range(9))
    plain = statistics.median(took["pipeline's loop"])
    rows = {
        name: {
            "seconds": statistics.median(each),
            "over_the_loop": statistics.median(each) / plain,
            "from_the_loop": errors.get(name),
        }
        for name, each in took.items()
    }
    return {"steps": steps, "call_ms": 1e3 * call, "rows": rows}


def _apart(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float(((a - b).norm() / b.norm()).detach()) for a, b in zip(found, expected, strict=True))


def memory() -> dict[str, dict[int, float]]:
    rows: dict[str, dict[int, float]] = {}
    for name in (*LOOPS, *STRATEGIES):
        for steps in STEPS:
            command = [sys.executable, __file__, name, str(steps)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rows.setdefault(name, {})[steps] = json.loads(out.splitlines()[-1])["peak_MiB"]
            print(name, steps, rows[name][steps], flush=True)
    return rows


def draw(facts: dict[str, Any]) -> None:
    """Memory at 8 and at 50 steps, and time, a line for each way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(facts["memory_MiB"])[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
    for k, name in enumerate(names):
        colour = "0.45" if name in LOOPS else "tab:blue"
        few, many = (facts["memory_MiB"][name][steps] for steps in STEPS)
        left.plot([few, many], [k, k], color=colour, linewidth=1)
        left.plot(few, k, "o", color=colour, markerfacecolor="white", markersize=8)
        left.plot(many, k, "o", color=colour, markersize=8)
        right.plot(facts["time"]["rows"][name]["over_the_loop"], k, "o", color=colour, markersize=8)
    left.set(xscale="log", xlabel="extra memory, MiB: 8 steps (open), 50 steps (full)")
    left.set_yticks(range(len(names)), names)
    right.axvline(1.0, color="0.6", linewidth=1)
    right.set(xlabel="time of value and gradient, over the plain loop's", xlim=(0, None))
    for axis in (left, right):
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", color="0.92", linewidth=10)
        axis.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(HERE / "results" / "pipelines.png", dpi=150)


def main() -> None:
    torch.set_num_threads(1)
    facts: dict[str, Any] = {"torch": torch.__version__, "call": {}}
    for name in FAMILIES:
        for asking in (False, True):
            label = f"{name}, cond that requires grad" if asking else name
            facts["call"][label] = a_call(name, asking)
            print(label, facts["call"][label], flush=True)
    facts["time"] = times()
    print(json.dumps(facts["time"], indent=1), flush=True)
    facts["memory_MiB"] = memory()
    (HERE / "results" / "pipelines.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(facts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        point(sys.argv[1], int(sys.argv[2]))
    else:
        main()
