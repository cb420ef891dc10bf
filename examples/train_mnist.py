"""Train the 28x28 digit models on 8,000 of MNIST's digits; the other 2,000 are held out.

    python examples/train_mnist.py --model mnist|mnist_flow|mnist_classifiers
                                   [--out pullback/zoo/weights] [--updates N] [--state out/training]

On one core with bfloat16 instructions a step of the diffusion models takes 0.13 s. `mnist` predicts v under VP(),
`mnist_flow` the velocity eps - x0 under RectifiedFlow(), both class-conditional with a null label, both with the
exponential average of their weights stored as float16. A run stopped on its way continues from its last checkpoint in
`--state`, to the weights that it would have had.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from train import WEIGHTS, augment, loss_of

from pullback import zoo
from pullback.zoo import MNIST_HELD_OUT, MNIST_TRAIN, mnist_images

BATCH, NULL, DROPPED = 64, 10, 0.1  # the label is left out of a tenth of the examples
SAVE_EVERY = 100
PEAK, WARM, COOL = 2e-3, 200, 0.3  # the rate rises over 200 steps and falls to zero over the last 30 %


def rate(step: int, steps: int) -> float:
    return PEAK * min(1.0, (step + 1) / WARM, (steps - step) / (COOL * steps))


class Training:
    """The network, its average, the optimiser and the generator: all that a checkpoint holds."""

    def __init__(self, name: str, steps: int, work: pathlib.Path) -> None:
        torch.manual_seed(0)
        self.name, self.steps, self.file = name, steps, work / f"{name}.checkpoint"
        self.network, self.average = zoo.architecture(name), zoo.architecture(name)
        self.average.load_state_dict(self.network.state_dict())
        self.adam = torch.optim.Adam(self.network.parameters(), lr=PEAK, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(1)
        self.step, self.seconds = 0, 0.0
        if self.file.exists():
            kept: dict[str, Any] = torch.load(self.file, weights_only=True)
            self.network.load_state_dict(kept["network"])
            self.average.load_state_dict(kept["average"])
            self.adam.load_state_dict(kept["adam"])
            self.generator.set_state(kept["generator"])
            self.step, self.seconds = kept["step"], kept["seconds"]

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "adam": self.adam.state_dict(),
                "generator": self.generator.get_state(),
                "step": self.step,
                "seconds": self.seconds,
            },
            part,
        )
        part.replace(self.file)  # a run killed while it writes leaves the last checkpoint whole

    def run(self, images: Tensor, labels: Tensor) -> None:
        """To the last step."""
        began = time.time() - self.seconds
        while self.step < self.steps:
            pick = torch.randint(len(images), (BATCH,), generator=self.generator)
            dropped = torch.rand(BATCH, generator=self.generator) < DROPPED
            y = labels[pick].masked_fill(dropped, NULL)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(self.name, self.network, images[pick], y, self.generator)
            self.adam.param_groups[0]["lr"] = rate(self.step, self.steps)
            self.adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.adam.step()
            self._follow()
            self.step, self.seconds = self.step + 1, time.time() - began
            if self.step % SAVE_EVERY == 0 or self.step == self.steps:
                self.save()
                print(f"{self.name} step {self.step} of {self.steps}: {self.seconds:.0f} s", flush=True)

    def _follow(self) -> None:
        decay = min(0.999, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                list(self.average.parameters()), list(self.network.parameters()), weight=1 - decay
            )


def train_diffusion(name: str, out: pathlib.Path, steps: int, work: pathlib.Path) -> dict[str, Any]:
    images, labels = mnist_images()
    training = Training(name, steps, work)
    training.run(images[MNIST_TRAIN], labels[MNIST_TRAIN])
    network = training.average
    kept = dict(network.named_buffers()) | {key: p.detach().half() for key, p in network.named_parameters()}
    save_file(kept, out / f"{name}.safetensors")
    network.load_state_dict(kept)  # the losses below are those of the weights as stored

    def mean_loss(part: slice) -> float:
        """Over four draws of t and noise for each of 2,000 digits."""
        generator, x, y = torch.Generator().manual_seed(2), images[part][-2000:], labels[part][-2000:]
        with torch.no_grad():
            losses = [
                float(loss_of(name, network, *pair, generator))
                for pair in zip(x.repeat(4, 1, 1, 1).split(200), y.repeat(4).split(200), strict=True)
            ]
        return sum(losses) / len(losses)

    return {
        "steps": training.step,
        "parameters": sum(p.numel() for p in network.parameters()),
        "train_loss": mean_loss(MNIST_TRAIN),
        "held_out_loss": mean_loss(MNIST_HELD_OUT),
        "seconds": round(training.seconds),
    }


def train_classifier(network: nn.Module, seed: int, file: pathlib.Path, steps: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    (images, labels), began = mnist_images(), time.time()
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        pick = torch.randint(MNIST_TRAIN.stop, (BATCH,), generator=generator)
        adam.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(augment(images[pick], generator, mirror=False))
        loss = F.cross_entropy(scores.float(), labels[pick], label_smoothing=0.05)
        adam.zero_grad()
        loss.backward()
        adam.step()
    save_file(network.state_dict(), file)
    with torch.no_grad():
        read = network(images[MNIST_HELD_OUT]).argmax(1)
    accuracy = float((read == labels[MNIST_HELD_OUT]).float().mean())
    return {"held_out_accuracy": accuracy, "steps": steps, "seconds": round(time.time() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("mnist", "mnist_flow", "mnist_classifiers"), required=True)
    parser.add_argument("--out", type=pathlib.Path, default=WEIGHTS)
    parser.add_argument("--updates", type=int, default=0, help="default: 12000, classifiers 2000")
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path("out/training"))
    run = parser.parse_args()
    torch.set_num_threads(1)
    for folder in (run.out, run.state):
        folder.mkdir(parents=True, exist_ok=True)
    if run.model == "mnist_classifiers":
        report = {}
        for seed in (0, 1):
            torch.manual_seed(500 + seed)
            name, steps = f"mnist_classifier{seed}", run.updates or 2000
            report[name] = train_classifier(
                zoo.architecture(name), 600 + seed, run.out / f"{name}.safetensors", steps
            )
    else:
        report = {run.model: train_diffusion(run.model, run.out, run.updates or 12_000, run.state)}
    print(json.dumps(report, indent=1))
    (run.out / f"{run.model}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
