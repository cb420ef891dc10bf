"""What the procedural models' card says, all of it on people that no model was trained on.

Thresholds are set on the people VALIDATION and tested on the people TEST. Intervals are of 95 %, from 1000 resamples of
the people, with all photographs and pairs of each: pairs of one person are not independent, so an interval for a
proportion of pairs (Wilson's) would be too narrow.
"""

import numpy as np
import torch
from procedural import TEST, VALIDATION, faces
from procedural_models import RECOGNISERS, autoencoder, recogniser
from torch import Tensor, nn

from pullback.adjoint import sample
from pullback.solvers import Denoiser, DPMSolverPP, Rising, UniformLambda

RATES = (0.01, 0.001)
PHOTOS = 4  # of each person
ENDS = {"start": 1.0, "end": 0.03}


def album(people: range, photos: int = PHOTOS) -> Tensor:
    """(people, photos, 1, 32, 32)."""
    who = [person for person in people for _ in range(photos)]
    return faces(who, list(range(photos)) * len(people)).unflatten(0, (len(people), photos))


def distances(network: nn.Module, pictures: Tensor) -> np.ndarray:
    """1 - cosine between every two photographs (n, n, photos, photos) of n people."""
    with torch.no_grad():
        seen = network(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
    return (1 - torch.einsum("ipd,jqd->ijpq", seen, seen)).numpy()


def mated(table: np.ndarray) -> np.ndarray:
    """(n, pairs): distances between the photographs of one person."""
    people, photos = np.arange(len(table)), np.triu_indices(table.shape[-1], 1)
    return table[people, people][:, photos[0], photos[1]]


def impostors(table: np.ndarray) -> np.ndarray:
    """(pairs of people, photos^2): distances between different people."""
    one, other = np.triu_indices(len(table), 1)
    return table[one, other].reshape(len(one), -1)


def interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]


def resamples(count: int, times: int = 1000) -> np.ndarray:
    """(times, count): how often each of `count` people is drawn."""
    random = np.random.Generator(np.random.Philox(key=5))
    return random.multinomial(count, np.full(count, 1 / count), size=times)


def error_rates(table: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By person and cut (n, c) how many mated pairs are refused; by two people and cut (n, n, c) how many accepted."""
    refused = (mated(table)[..., None] >= cuts).mean(1)
    accepted = np.zeros((len(table), len(table), len(cuts)))
    one, other = np.triu_indices(len(table), 1)
    for k, cut in enumerate(cuts):
        accepted[one, other, k] = (impostors(table) < cut).mean(1)
    return refused, accepted


def pooled(refused: np.ndarray, accepted: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FNMR and FMR (b, c) with people weighted by the rows of `weights` (b, n)."""
    weights = weights.astype(float)
    fnmr = weights @ refused / weights.sum(1, keepdims=True)
    pairs = (weights.sum(1) ** 2 - (weights**2).sum(1)) / 2  # of different people
    found = [np.einsum("bi,bi->b", weights @ accepted[..., k], weights) for k in range(accepted.shape[-1])]
    return fnmr, np.stack(found, 1) / pairs[:, None]


def equal_error(fnmr: np.ndarray, fmr: np.ndarray) -> np.ndarray:
    """(b,): where the two cross along the cuts."""
    at = np.abs(fnmr - fmr).argmin(1)
    rows = np.arange(len(at))
    return (fnmr[rows, at] + fmr[rows, at]) / 2


def verification(network: nn.Module, validation: Tensor, test: Tensor) -> dict:
    """Thresholds from `validation`; EER, and FNMR and FMR at the thresholds, on `test`."""
    others = impostors(distances(network, validation))
    table = distances(network, test)
    weights = np.concatenate([np.ones((1, len(test)), int), resamples(len(test))])
    cuts = np.quantile(
        np.concatenate([mated(table).ravel(), impostors(table).ravel()[::97]]), np.linspace(0, 1, 60)
    )
    eer = equal_error(*pooled(*error_rates(table, cuts), weights))
    found = {"eer": float(eer[0]), "eer_interval": interval(eer[1:]), "thresholds": {}}
    for rate in RATES:
        found["thresholds"][str(rate)] = float(np.quantile(others, rate))
    limits = np.array(list(found["thresholds"].values()))
    fnmr, fmr = pooled(*error_rates(table, limits), weights)
    for k, rate in enumerate(RATES):
        found[f"at_{rate}"] = {
            "fmr": float(fmr[0, k]),
            "fmr_interval": interval(fmr[1:, k]),
            "fnmr": float(fnmr[0, k]),
            "fnmr_interval": interval(fnmr[1:, k]),
        }
    return found


def denoising_loss(model: Denoiser, x: Tensor, coded: bool) -> float:
    """Mean square of v - network, four draws of t and noise for each picture, with the code or without."""
    generator = torch.Generator().manual_seed(2)
    network, x = model.network, x.repeat(4, 1, 1, 1)
    t = torch.rand(len(x), generator=generator)
    alpha, sigma = (fn(t).float()[:, None, None, None] for fn in (model.process.alpha, model.process.sigma))
    eps = torch.randn(x.shape, generator=generator)
    with torch.no_grad():
        out = network(alpha * x + sigma * eps, t, network.encode(x) if coded else None)
    return float((out - alpha * eps + sigma * x).square().mean())


def reconstructions(model: Denoiser, x: Tensor) -> dict[str, Tensor]:
    """From the code with the noise that inversion finds, and with fresh noise."""
    code = model.network.encode(x)
    there = DPMSolverPP(2).plan(model.process, Rising(UniformLambda(40, **ENDS)))
    back = DPMSolverPP(2).plan(model.process, UniformLambda(20, **ENDS))
    found = sample(model, there, x, cond=code, gradient=None)
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    return {
        "inverted_noise": sample(model, back, found, cond=code, gradient=None),
        "fresh_noise": sample(model, back, fresh, cond=code, gradient=None),
    }


def measure(training: Tensor) -> dict:
    """The card; `training` (people, photos, 1, 32, 32) are the bytes that the models learned from."""
    validation, test = album(VALIDATION), album(TEST)
    judges = [recogniser(k) for k in range(len(RECOGNISERS))]
    card: dict = {f"recogniser{k}": verification(judge, validation, test) for k, judge in enumerate(judges)}
    model, seen, unseen = autoencoder(), training[:500, 0].float() / 127.5 - 1, test[:, 0]
    found: dict = {
        "train_loss": denoising_loss(model, seen, coded=True),
        "held_out_loss": denoising_loss(model, unseen, coded=True),
        "train_loss_without_code": denoising_loss(model, seen, coded=False),
        "held_out_loss_without_code": denoising_loss(model, unseen, coded=False),
    }
    weights = resamples(len(unseen)) / len(unseen)
    for name, made in reconstructions(model, unseen).items():
        found[name] = {"rmse": float((made - unseen).square().mean().sqrt())}
        for k, judge in enumerate(judges):
            with torch.no_grad():
                far = (1 - (judge(made) * judge(unseen)).sum(1)).numpy()
            for rate, limit in card[f"recogniser{k}"]["thresholds"].items():
                accepted = (far < limit).astype(float)
                found[name][f"accepted_by_{k}_at_{rate}"] = float(accepted.mean())
                found[name][f"accepted_by_{k}_at_{rate}_interval"] = interval(weights @ accepted)
    return {**card, "autoencoder": found}
