"""Train the models of the procedural faces on one core: the autoencoder 4 minutes, each recogniser 2.

    python examples/train_procedural.py --model autoencoder|recogniser0|recogniser1|recogniser2|card
                                        [--updates N] [--state out/procedural] [--out examples/weights]

A run that was stopped goes on where its last checkpoint in --state was written; the result is the same. `card` measures
all four on people that no model saw and writes procedural.json.
"""

import argparse
import json
import math
import pathlib
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from procedural import PERSON, TRAIN, faces, persons
from safetensors.torch import save_file
from shared.procedural_card import measure
from shared.procedural_models import RECOGNISERS, Autoencoder
from torch import Tensor, nn

from pullback.solvers import VP

HALF = torch.autocast("cpu", torch.bfloat16)  # networks alone; losses, weights and averages are float32
PHOTOS = 6  # of each of the people TRAIN
STEPS = {"autoencoder": 2600, "recogniser0": 1500, "recogniser1": 1500, "recogniser2": 1500}


def training_faces(state: pathlib.Path) -> Tensor:
    """(people, PHOTOS, 1, 32, 32) as bytes, rendered once (a minute) and kept in `state`."""
    path = state / "faces.pt"
    if not path.exists():
        shape = (len(TRAIN), PHOTOS, 1, 32, 32)
        people = [person for person in TRAIN for _ in range(PHOTOS)]
        pictures = faces(people, list(range(PHOTOS)) * len(TRAIN))
        torch.save(((pictures + 1) * 127.5).round().byte().reshape(shape), path)
    return torch.load(path, weights_only=True)


def diffusion_loss(network: nn.Module, x: Tensor, generator: torch.Generator, dropped: float) -> Tensor:
    """Mean square of alpha eps - sigma x - network(x_t, t, code), t uniform; a share of the codes left out."""
    process, t = VP(), torch.rand(len(x), generator=generator)
    alpha, sigma = (fn(t).float()[:, None, None, None] for fn in (process.alpha, process.sigma))
    eps = torch.randn(x.shape, generator=generator)
    kept = (torch.rand(len(x), 1, generator=generator) >= dropped).float()
    with HALF:
        out = network(alpha * x + sigma * eps, t, network.encode(x) * kept)  # type: ignore[operator]
    return F.mse_loss(out.float(), alpha * eps - sigma * x)


class Denoising(nn.Module):
    """What the autoencoder is trained by."""

    batch = 32

    def __init__(self) -> None:
        super().__init__()
        self.network = Autoencoder()

    def loss(self, x: Tensor, people: Tensor, part: float, generator: torch.Generator) -> Tensor:
        return diffusion_loss(self.network, x, generator, dropped=0.1)


class LargeMargin(nn.Module):
    """CosFace (Wang et al. 2018): softmax over 24 (cosine to each person's vector - margin at the right one).

    The margin grows from 0 to 0.3 over the first 40 % of the run. As what makes a person is known here, the 33 numbers
    are read off the vector too, linearly: every picture then teaches more than a name.
    """

    batch = 64

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.people = network, nn.Parameter(0.1 * torch.randn(len(TRAIN), 64))
        self.reading, self.truth = nn.Linear(64, len(PERSON)), persons(TRAIN)

    def loss(self, x: Tensor, people: Tensor, part: float, generator: torch.Generator) -> Tensor:
        x = x + 0.04 * torch.randn(x.shape, generator=generator)
        with HALF:
            seen = self.network(x)
        seen = seen.float()
        cosines = seen @ F.normalize(self.people, dim=1).T
        margin = 0.3 * min(1.0, part / 0.4)
        named = F.cross_entropy(24 * (cosines - margin * F.one_hot(people, len(TRAIN))), people)
        return named + 20 * F.mse_loss(self.reading(8 * seen), self.truth[people])


def task_of(name: str) -> Denoising | LargeMargin:
    seed = list(STEPS).index(name)
    torch.manual_seed(1000 + seed)
    return Denoising() if name == "autoencoder" else LargeMargin(RECOGNISERS[seed - 1]())


def rate(part: float) -> float:
    """Up to 2e-3 within a tenth of the run, then down to 0 along half a cosine."""
    return 2e-3 * min(1.0, part / 0.1 + 0.05) * (1 + math.cos(math.pi * part)) / 2


def train(name: str, steps: int, state: pathlib.Path, save: Callable[[dict[str, Tensor]], None]) -> dict:
    """Adam, weights averaged. Step k draws with a seed of its own, so that a run
    may be stopped and resumed."""
    pictures, task, average = training_faces(state), task_of(name), task_of(name).network
    adam = torch.optim.Adam(task.parameters(), lr=1e-3, betas=(0.9, 0.99))
    parts, path = {"task": task, "average": average, "adam": adam}, state / f"{name}.pt"
    first, seconds, smooth = 0, 0.0, 0.0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        first, seconds, smooth = kept["step"], kept["seconds"], kept["smooth"]
        for key, part in parts.items():
            part.load_state_dict(kept[key])
    began = time.time()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(list(STEPS).index(name) * 10**6 + step)
        people = torch.randint(len(TRAIN), (task.batch,), generator=generator)
        photos = torch.randint(PHOTOS, (task.batch,), generator=generator)
        x = pictures[people, photos].float() / 127.5 - 1
        loss = task.loss(x, people, step / steps, generator)
        adam.param_groups[0]["lr"] = rate(step / steps)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        adam.step()
        smooth += (float(loss.detach()) - smooth) / min(step + 1, 200)
        with torch.no_grad():
            decay = min(0.995, (step + 1) / (step + 10))
            for slow, fast in zip(average.parameters(), task.network.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
            for slow, fast in zip(average.buffers(), task.network.buffers(), strict=True):
                slow.copy_(fast)
        if step % 100 == 99 or step == steps - 1:
            total = seconds + time.time() - began
            print(f"{name} step {step + 1}: loss {smooth:.4f}, {total:.0f} s", flush=True)
            kept = {key: part.state_dict() for key, part in parts.items()}
            torch.save({**kept, "step": step + 1, "seconds": total, "smooth": smooth}, path)
    save(average.state_dict())
    return {"steps": steps, "seconds": round(seconds + time.time() - began), "training_loss": smooth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=(*STEPS, "card"), required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "weights")
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path("out/procedural"))
    parser.add_argument("--updates", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for folder in (options.out, options.state):
        folder.mkdir(parents=True, exist_ok=True)
    if options.model == "card":
        found = measure(training_faces(options.state))
        for name in STEPS:
            found[name].update(json.loads((options.state / f"{name}.json").read_text()))
        (options.out / "procedural.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))
        return
    path = options.out / f"procedural_{options.model}.safetensors"
    steps = options.updates or STEPS[options.model]
    report = train(options.model, steps, options.state, lambda weights: save_file(weights, path))
    (options.state / f"{options.model}.json").write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
