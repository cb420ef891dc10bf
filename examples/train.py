"""Train the bundled models. On one core: faces about 14 minutes, digits 6, embedders and classifiers 2 each.

    python examples/train.py --model faces|digits|faces_flow|digits_flow|embedders|classifiers
                             [--out pullback/zoo/weights] [--updates N]

Deterministic for a given number of steps. `faces` and `digits` predict v under VP(), their `_flow` twins the
velocity eps - x0 under RectifiedFlow(); the loss is the mean square of what is predicted.
"""

import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pullback import zoo
from pullback.solvers import VP, RectifiedFlow
from pullback.zoo import digit_images, face_images

MODELS = ("digits", "faces", "digits_flow", "faces_flow")
WEIGHTS = pathlib.Path(zoo.__file__).parent / "weights"


def held_out(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices (train, held out), always the same."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(7))
    cut = int(count * share)
    return order[cut:], order[:cut]


def loss_of(
    name: str, network: nn.Module, x: Tensor, labels: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Mean square of v - network(x_t, t), t uniform in [0, 1]; for a flow v = eps - x0, else alpha eps - sigma x0."""
    flow = name.endswith("_flow")
    process = RectifiedFlow() if flow else VP()
    t = torch.rand(len(x), generator=generator)
    alpha, sigma = (fn(t).float()[:, None, None, None] for fn in (process.alpha, process.sigma))
    eps = torch.randn(x.shape, generator=generator)
    out = network(alpha * x + sigma * eps, t, *(() if labels is None else (labels,)))
    return F.mse_loss(out, eps - x if flow else alpha * eps - sigma * x)


def train_diffusion(name: str, out: pathlib.Path, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = zoo.architecture(name)
    average = zoo.architecture(name)
    average.load_state_dict(network.state_dict())
    images, labels = digit_images() if name.startswith("digits") else (face_images(), None)
    train, test = held_out(len(images), 0.1)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps, pct_start=0.05)
    batch, began, losses = 32, time.time(), [0.0, 0.0]
    for step in range(steps):
        pick = train[torch.randint(len(train), (batch,), generator=generator)]
        x, y = images[pick], None
        if labels is None:  # faces may be mirrored, digits may not
            x = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.5, x, x.flip(-1))
        else:
            y = torch.where(torch.rand(batch, generator=generator) < 0.12, 10, labels[pick])
        loss = loss_of(name, network, x, y, generator)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        schedule.step()
        with torch.no_grad():
            decay = min(0.999, (step + 1) / (step + 10))
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        if step % 1000 == 999 or step == steps - 1:
            with torch.no_grad():
                losses = [
                    float(
                        loss_of(
                            name,
                            average,
                            images[part].repeat(4, 1, 1, 1),
                            None if labels is None else labels[part].repeat(4),
                            torch.Generator().manual_seed(2),
                        )
                    )
                    for part in (train, test)
                ]
            print(
                f"{name} step {step}: train {losses[0]:.4f} held-out {losses[1]:.4f}, "
                f"{time.time() - began:.0f} s",
                flush=True,
            )
            save_file(average.state_dict(), out / f"{name}.safetensors")
    return {
        "steps": steps,
        "train_loss": losses[0],
        "held_out_loss": losses[1],
        "seconds": round(time.time() - began),
    }


def augment(x: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
    """Small affine maps, contrast, brightness, noise and cutout."""
    count = len(x)

    def spread(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    flip = torch.where(torch.rand(count, generator=generator) < (0.5 if mirror else 0.0), -1.0, 1.0)
    turn, zoom = spread(count) * 0.15, 1 + spread(count) * 0.1
    rows = torch.stack(
        [
            torch.stack([zoom * turn.cos() * flip, -turn.sin(), spread(count) * 0.15], 1),
            torch.stack([turn.sin() * flip, zoom * turn.cos(), spread(count) * 0.15], 1),
        ],
        1,
    )
    moved = F.grid_sample(
        x, F.affine_grid(rows, list(x.shape), align_corners=False), padding_mode="border", align_corners=False
    )
    moved = moved * (1 + 0.3 * spread(count, 1, 1, 1)) + 0.2 * spread(count, 1, 1, 1)
    moved = moved + 0.15 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(
        x.shape, generator=generator
    )
    side = x.shape[-1]
    corner = torch.randint(side, (count, 2), generator=generator)
    line = torch.arange(side)
    hole = [(line >= corner[:, k, None]) & (line < corner[:, k, None] + side // 4) for k in (0, 1)]
    return moved.masked_fill((hole[0][:, :, None] & hole[1][:, None, :])[:, None], 0.0)


def train_embedder(seed: int, out: pathlib.Path, steps: int) -> dict[str, float]:
    """100 identities, normalised softmax: cosine to the class vector, scale 12."""
    torch.manual_seed(100 + seed)
    generator = torch.Generator().manual_seed(200 + seed)
    images, began = face_images(), time.time()
    network = zoo.architecture(f"embedder{seed}")
    heads = nn.Parameter(torch.randn(len(images), 64))
    adam = torch.optim.Adam([*network.parameters(), heads], lr=1e-3)
    for _ in range(steps):
        pick = torch.randint(len(images), (64,), generator=generator)
        scores = 12 * network(augment(images[pick], generator, mirror=True)) @ F.normalize(heads, dim=1).T
        loss = F.cross_entropy(scores, pick)
        adam.zero_grad()
        loss.backward()
        adam.step()
    save_file(network.state_dict(), out / f"embedder{seed}.safetensors")
    with torch.no_grad():
        clean, noisy = network(images), network(augment(images, generator, mirror=True))
        table = noisy @ clean.T
    same = float(table.diagonal().mean())
    other = float((table.sum() - table.diagonal().sum()) / (len(images) * (len(images) - 1)))
    hit = float((table.argmax(1) == torch.arange(len(images))).float().mean())
    return {"same": same, "different": other, "top1_augmented": hit, "seconds": round(time.time() - began)}


def train_classifier(seed: int, out: pathlib.Path, steps: int) -> dict[str, float]:
    torch.manual_seed(300 + seed)
    generator = torch.Generator().manual_seed(400 + seed)
    (images, labels), began = digit_images(), time.time()
    train, test = held_out(len(images), 0.2)
    network = zoo.architecture(f"classifier{seed}")
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        pick = train[torch.randint(len(train), (64,), generator=generator)]
        loss = F.cross_entropy(
            network(augment(images[pick], generator, mirror=False)), labels[pick], label_smoothing=0.05
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    save_file(network.state_dict(), out / f"classifier{seed}.safetensors")
    with torch.no_grad():
        accuracy = float((network(images[test]).argmax(1) == labels[test]).float().mean())
    return {"held_out_accuracy": accuracy, "seconds": round(time.time() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=(*MODELS, "embedders", "classifiers"), required=True)
    parser.add_argument("--out", type=pathlib.Path, default=WEIGHTS)
    parser.add_argument("--updates", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    steps = (
        options.updates
        or {
            "digits": 5000,
            "faces": 4500,
            "digits_flow": 5000,
            "faces_flow": 4500,
            "embedders": 1500,
            "classifiers": 2500,
        }[options.model]
    )
    if options.model in MODELS:
        report = {options.model: train_diffusion(options.model, options.out, steps)}
    else:
        fn, count = (train_embedder, 3) if options.model == "embedders" else (train_classifier, 2)
        report = {f"{options.model[:-1]}{seed}": fn(seed, options.out, steps) for seed in range(count)}
    print(json.dumps(report, indent=1))
    (options.out / f"{options.model}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
