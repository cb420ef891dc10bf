"""Attacks and defences on digits, measured as the field measures them.

    python benchmarks/robustness.py                   8x8 digits, some minutes on one core
    python benchmarks/robustness.py --model mnist     28x28, where those models are bundled

writes benchmarks/results/robustness_<model>.json and .png:

    purification    DiffPure of 100 steps under adaptive attacks with restarts and expectation over its noise, by what
                    the attacker differentiates: robust accuracy for each seed, calls, CPU seconds of a gradient
    memory          bytes kept for the backward pass of one purification, by strategy and number of steps
    certificates    certified accuracy of denoised smoothing; how often a radius exceeds the true one where it is known
    protections     how far an edit is moved by a protected image, before and after the image was purified; beside it
                    a random change of the same size
    detection       regeneration distances of clean, attacked and random images

Settings were fixed before the run: t* and radius are those of examples/robustness.py. A seed is a group of images and
noises of its own; all attacks see the same.
"""

import argparse
import importlib
import json
import pathlib
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.adjoint import Checkpoint, Direct, JacobianFree, Reversible
from pullback.guidance import (
    AdvDM,
    DiffusionGuard,
    Evasion,
    Expectation,
    FixedStep,
    Linf,
    PhotoGuardDiffusion,
    Proportion,
    Purified,
    ScoreDistillation,
    SurrogatePurified,
    Undefended,
    certify,
    one_step_denoise,
    pgd,
    purify,
    regeneration_distance,
    robust_accuracy,
)
from pullback.solvers import DDIM, Addressed, Model, ReversibleHeun, UniformLambda

HERE = pathlib.Path(__file__).parent
BOX, RADIUS, PURIFYING = (-1.0, 1.0), 0.3, {"start": 0.2, "end": 0.02}


class Digits:
    """A denoiser, two classifiers (the second is never attacked) and images of one size."""

    def __init__(self, name: str) -> None:
        sys.path.insert(0, str(HERE.parent / "examples"))
        from pullback.zoo import denoiser, load

        data: Any = importlib.import_module("data")

        self.model: Model = denoiser(name)
        prefix = "classifier" if name == "digits" else f"{name}_classifier"
        self.classifier, self.held_out = (load(f"{prefix}{k}") for k in (0, 1))
        if name == "digits":
            self.images, self.labels = data.digit_images()
        else:
            images, labels = data.mnist_images()
            self.images, self.labels = images[data.MNIST_HELD_OUT], labels[data.MNIST_HELD_OUT]

    def plan(self, steps: int, method: Any = DDIM(), **ends: float) -> Any:
        return method.plan(self.model.process, UniformLambda(steps, **(ends or PURIFYING)))


def seconds(act: Any) -> float:
    """CPU seconds: the machine may be shared."""
    began = time.process_time()
    act()
    return time.process_time() - began


# purification
# ---------------------------------------------------------------------------------------------------------------


def purification(digits: Digits, run: argparse.Namespace) -> dict[str, Any]:
    plan = digits.plan(run.purification)
    parts = (digits.classifier, digits.model, plan)
    defence = Purified(*parts, gradient=Checkpoint())
    seen = {
        "exact": defence,
        "last 4 steps": SurrogatePurified(*parts, last=4, gradient=Checkpoint()),
        "Jacobian-free": Purified(*parts, gradient=JacobianFree()),
        "straight through": SurrogatePurified(*parts, last=0),
    }
    count = run.count * run.seeds
    images, labels = digits.images[:count], digits.labels[:count]
    rows = {}
    for name, through in seen.items():
        attack = Evasion(
            stepping=FixedStep(0.34), steps=run.steps, restarts=run.restarts, draws=run.draws, through=through
        )
        began = time.process_time()
        found = robust_accuracy(
            defence, images, labels, Linf(RADIUS), {name: attack}, box=BOX, draws=run.verdicts
        )
        whole = time.process_time() - began
        small = images[:8].clone().requires_grad_()
        share = found.robust_share.reshape(run.seeds, run.count).mean(1)
        rows[name] = {
            "clean": told(found.clean),
            "robust": told(found.robust),
            "share_of_draws_read_right": float(found.robust_share.mean()),
            "share_by_seed": share.tolist(),
            "held_out_share_by_seed": held_out(digits, plan, found.images, labels, run),
            "calls_per_image": found.calls / count,
            "vjps_per_image": found.vjps / count,
            "cpu_seconds": whole,
            "cpu_seconds_of_a_gradient_of_8": seconds(
                lambda through=through, small=small: through.logits(small, Addressed(0)).sum().backward()
            ),
        }
        print(
            f"{name:18s} {found.robust}  shares {[round(s, 2) for s in share.tolist()]}  {whole:.0f} s",
            flush=True,
        )
    return rows


def held_out(
    digits: Digits, plan: Any, images: Tensor, labels: Tensor, run: argparse.Namespace
) -> list[float]:
    judge = Purified(digits.held_out, digits.model, plan)
    right = torch.zeros(len(images))
    for draw in range(run.verdicts):
        with torch.no_grad():
            out = judge.logits(images, Addressed(9, stream=draw))
        right += (out.argmax(1) == labels) / run.verdicts
    return right.reshape(run.seeds, run.count).mean(1).tolist()


def told(found: Proportion) -> dict[str, Any]:
    return {"value": found.value, "wilson": found.wilson(), "clopper_pearson": found.clopper_pearson()}


# memory
# -----------------------------------------------------------------------------------------------------------


class Alive(TorchDispatchMode):
    """Watches what becomes of the storages that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.made[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def bytes(self) -> int:
        return sum(size for reference, size in self.made.values() if not reference.expired())


def memory(digits: Digits, run: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, strategy, method in (
        ("Direct", Direct(), DDIM()), ("Checkpoint", Checkpoint(), DDIM()),
        ("Reversible", Reversible(), ReversibleHeun()),
    ):  # fmt: skip
        for steps in (10, 100):
            image = digits.images[:1].clone().requires_grad_()
            defence = Purified(digits.classifier, digits.model, digits.plan(steps, method), strategy)
            with Alive() as alive:
                out = defence.logits(image, Addressed(0))
            rows.setdefault(name, {})[str(steps)] = alive.bytes()
            del out
    print("bytes kept", rows, flush=True)
    return rows


# certificates
# -----------------------------------------------------------------------------------------------------------


def certificates(digits: Digits, run: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    images, labels = digits.images[: run.certified], digits.labels[: run.certified]
    for sigma in (0.25, 0.5):
        found = certify(
            lambda noisy, sigma=sigma: digits.classifier(one_step_denoise(digits.model, noisy, sigma)),
            images, sigma, draws=run.smoothing, selection=20,
        )  # fmt: skip
        plain = certify(digits.classifier, images, sigma, draws=run.smoothing, selection=20)
        rows[f"sigma {sigma}"] = {
            name: {str(r): told(each.accuracy(labels, r)) for r in (0.0, 0.25, 0.5, 0.75, 1.0)}
            for name, each in (("denoised", found), ("classifier alone", plain))
        }
        print(f"sigma {sigma}: certified at 0.25 {found.accuracy(labels, 0.25)}, without denoiser "
              f"{plain.accuracy(labels, 0.25)}", flush=True)  # fmt: skip
    rows["coverage of a half space"] = coverage(run.trials)
    return rows


def coverage(trials: int) -> dict[str, Any]:
    """Where the true radius is known: sign(x_1 + x_2), images at all distances from its boundary."""
    images = 0.7 * Addressed(5)(0, torch.zeros(trials, 2))

    def side(x: Tensor) -> Tensor:
        return torch.stack([-x.sum(1), x.sum(1)], 1)

    true, rows = images.sum(1).abs().double() / 2**0.5, {}
    for alpha in (0.001, 0.01, 0.05):
        found = certify(side, images, 0.5, draws=100, selection=10, alpha=alpha, noise=Addressed(6))
        answered = found.labels >= 0
        wrong = answered & ((found.radius > true) | (found.labels != side(images).argmax(1)))
        rows[str(alpha)] = {
            "wrong": told(Proportion(int(wrong.sum()), trials)),
            "abstained": int((~answered).sum()),
        }
        print(f"alpha {alpha}: wrong {int(wrong.sum())} of {trials}", flush=True)
    return rows


# protections
# -----------------------------------------------------------------------------------------------------------


def protections(digits: Digits, run: argparse.Namespace) -> dict[str, Any]:
    """Root mean squares over images and pixels, by seed, under the same noise, which no protector has seen: how far the
    edit of the protected image is from that of the image, and from PhotoGuard's target.
    """
    model, images = digits.model, digits.images[: run.protected]
    editing, cleaning = digits.plan(20, start=0.5, end=0.02), digits.plan(20, start=0.15, end=0.02)
    target = torch.full_like(images, -1.0)

    def edit(x: Tensor, noise: Addressed, gradient: Any = Checkpoint()) -> Tensor:
        return purify(model, editing, x, noise.initial(x), gradient=gradient)

    def measured(protected: Tensor) -> dict[str, list[float]]:
        rows: dict[str, list[float]] = {"moved": [], "to_target": []}
        for seed in range(run.seeds):
            own, image = (edit(x, Addressed(100 + seed), None) for x in (protected, images))
            rows["moved"].append(float((own - image).square().mean().sqrt()))
            rows["to_target"].append(float((own - target).square().mean().sqrt()))
        return rows

    def kept(x: Tensor) -> Tensor:
        """What a purification before editing leaves."""
        return purify(model, cleaning, x, Addressed(50).initial(x), gradient=None)

    losses = {
        "PhotoGuard, whole edit": PhotoGuardDiffusion(edit, target),
        "AdvDM": AdvDM(model, (0.1, 0.6)),
        "score distillation": ScoreDistillation(model, (0.1, 0.6)),
        "score distillation, -": ScoreDistillation(model, (0.1, 0.6), scale=-1.0),
        "early step": DiffusionGuard(model, 0.5),
    }
    ball, random = Linf(RADIUS), RADIUS * Addressed(70)(0, images).sign()
    found = {"no protection": images, "random change": (images + random).clamp(*BOX)}
    for name, loss in losses.items():
        expected = Expectation(loss, 2, Addressed(60))
        found[name] = pgd(expected, images, ball, steps=30, box=BOX).points[0]
    rows = {}
    for name, points in found.items():
        rows[name] = {"before": measured(points), "after_purification": measured(kept(points))}
        told = {
            f"{key}, {what}": round(sum(v) / len(v), 3)
            for key, row in rows[name].items()
            for what, v in row.items()
        }
        print(f"{name:24s} {told}", flush=True)
    return rows


# detection
# -----------------------------------------------------------------------------------------------------------


def detection(digits: Digits, run: argparse.Namespace) -> dict[str, Any]:
    images, labels = digits.images[: run.detected], digits.labels[: run.detected]
    attack = {"ce": Evasion(steps=30)}
    attacked = robust_accuracy(
        Undefended(digits.classifier), images, labels, Linf(RADIUS), attack, box=BOX
    ).images
    noisy = (images + RADIUS * Addressed(80)(0, images).sign()).clamp(*BOX)
    plan = digits.plan(20, start=0.6, end=0.02)
    far = {
        name: regeneration_distance(digits.model, plan, x)
        for name, x in (("clean", images), ("attacked", attacked), ("random change", noisy))
    }
    rows = {}
    for name, values in far.items():
        gaps = values[:, None] - far["clean"][None]
        above = ((gaps > 0).double() + (gaps == 0).double() / 2).mean()
        rows[name] = {"median": float(values.median()), "auc_against_clean": float(above)}
        print(
            f"{name:14s} regeneration distance {float(values.median()):.4f}, AUC {float(above):.2f}",
            flush=True,
        )
    return rows


def draw(facts: dict[str, Any], where: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13.5, 3.9))
    rows = facts["purification"]
    for k, row in enumerate(rows.values()):
        values = row["share_by_seed"]
        axes[0].bar(k, sum(values) / len(values), color="#1f4e79", width=0.6)
        axes[0].plot([k] * len(values), values, "o", color="#c0392b", ms=4)
    axes[0].set_xticks(range(len(rows)), [name.replace(" ", "\n", 1) for name in rows])
    clean = next(iter(rows.values()))["clean"]["value"]
    axes[0].axhline(clean, color="black", lw=1, ls=":")
    axes[0].set(
        ylim=(0, 1.03),
        ylabel="read right behind purification",
        title=f"{facts['steps']} steps, |change| ≤ {RADIUS}",
    )
    for label, row in facts["certificates"].items():
        if label.startswith("sigma"):
            for name, style in (("denoised", "-"), ("classifier alone", "--")):
                points = [(float(r), each["value"]) for r, each in row[name].items()]
                colour = "#c0392b" if label.endswith("0.5") else "#1f4e79"
                axes[1].plot(
                    *zip(*points, strict=True),
                    style,
                    color=colour,
                    marker="o",
                    ms=4,
                    label=f"{label}, {name}",
                )
    axes[1].set(xlabel="L2 radius", ylabel="certified accuracy", ylim=(0, 1.03), title="denoised smoothing")
    axes[1].legend(frameon=False, fontsize=8)
    names = list(facts["protections"])
    for k, name in enumerate(names):
        for shift, (key, colour) in enumerate((("before", "#1f4e79"), ("after_purification", "#e0a030"))):
            values = facts["protections"][name][key]["moved"]
            label = key.replace("_", " ") if k == 0 else None
            axes[2].barh(k + 0.36 * shift, sum(values) / len(values), height=0.34, color=colour, label=label)
    axes[2].set_yticks([k + 0.18 for k in range(len(names))], names)
    axes[2].set(xlabel="edit moved by (rms)", title="protections")
    axes[2].legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(where, dpi=130, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="digits", help="digits (8x8) or mnist (28x28)")
    parser.add_argument("--only", default="", help="one part, the others as they are in the JSON")
    for name, default in {
        "seeds": 5, "count": 4, "purification": 100, "steps": 5, "restarts": 2, "draws": 2, "verdicts": 3,
        "certified": 30, "smoothing": 300, "trials": 1000, "protected": 12, "detected": 40,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    run = parser.parse_args()
    torch.set_num_threads(1)
    digits = Digits(run.model)
    out = HERE / "results" / f"robustness_{run.model}.json"
    facts = json.loads(out.read_text()) if run.only else {"torch": torch.__version__, "radius": RADIUS}
    facts |= {"what": f"benchmarks/robustness.py --model {run.model}", "steps": run.purification}
    facts.setdefault("settings", {})
    for part in (memory, detection, protections, certificates, purification):
        if run.only in ("", part.__name__):
            facts[part.__name__], facts["settings"][part.__name__] = part(digits, run), vars(run)
    out.write_text(json.dumps(facts, indent=1) + "\n")
    draw(facts, out.with_suffix(".png"))
    print(f"wrote {out} and .png")


if __name__ == "__main__":
    main()
