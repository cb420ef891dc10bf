"""What the procedural models' card says, all of it on people that no model was trained on.

Thresholds are set on the people VALIDATION and tested on the people TEST. Intervals are of 95 %, over resamples of the
people with all photographs and pairs of each: pairs of one person are not independent, so that an interval for a
proportion of pairs (Wilson's) would be too narrow.
"""

from collections.abc import Callable

import torch
from procedural import TEST, VALIDATION, faces
from shared.procedural_models import RECOGNISERS, autoencoder, recogniser
from torch import Tensor, nn

from pullback.adjoint import sample
from pullback.guidance.recognition import COSINE, bootstrap, threshold_at
from pullback.solvers import Denoiser, DPMSolverPP, Rising, UniformLambda

RATES = (0.01, 0.001)
PHOTOS = 4  # of each person
ENDS = {"start": 1.0, "end": 0.003}


def album(people: range, photos: int = PHOTOS) -> Tensor:
    """(people, photos, 1, 32, 32)."""
    who = [person for person in people for _ in range(photos)]
    return faces(who, list(range(photos)) * len(people)).unflatten(0, (len(people), photos))


def distances(network: nn.Module, pictures: Tensor) -> Tensor:
    """1 - cosine between every two photographs (n, n, photos, photos) of n people."""
    with torch.no_grad():
        seen = network(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
    return COSINE(seen[:, None, :, None], seen[None, :, None, :])


def mated(table: Tensor) -> Tensor:
    """(n, pairs): distances between the photographs of one person."""
    one, other = torch.triu_indices(table.shape[-1], table.shape[-1], 1)
    return table.diagonal().permute(2, 0, 1)[:, one, other]


def impostors(table: Tensor) -> Tensor:
    """(pairs of people, photos^2): distances between different people."""
    one, other = torch.triu_indices(len(table), len(table), 1)
    return table[one, other].flatten(1)


def error_rates(table: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Which share of a person's pairs is refused at each cut (n, c), and of two people's is accepted (c, n, n); those
    of the second with the first are left 0."""
    refused = (mated(table)[..., None] >= cuts).double().mean(1)
    accepted = refused.new_zeros(len(cuts), len(table), len(table))
    one, other = torch.triu_indices(len(table), len(table), 1)
    for k, cut in enumerate(cuts):
        accepted[k, one, other] = (impostors(table) < cut).double().mean(1)
    return refused, accepted


def pooled(refused: Tensor, accepted: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """FNMR and FMR (c,) of the people `drawn`, some perhaps several times; nobody is his own impostor."""
    times = torch.bincount(drawn, minlength=len(refused)).double()
    pairs = (times.sum().square() - times.square().sum()) / 2
    return times @ refused / times.sum(), times @ (accepted @ times).T / pairs


def equal_error(fnmr: Tensor, fmr: Tensor) -> Tensor:
    """Where FNMR falls under FMR along rising cuts, between two of them on the line."""
    gap = fnmr - fmr
    k = int((gap > 0).sum().clamp(1, len(gap) - 1))
    share = gap[k - 1] / (gap[k - 1] - gap[k])
    return torch.lerp(fmr[k - 1], fmr[k], share)


def with_interval(name: str, statistic: Callable[[Tensor], Tensor], people: int) -> dict:
    found = bootstrap(statistic, people)
    value = statistic(torch.arange(people))
    return {name: float(value), f"{name}_interval": [float(found.low), float(found.high)]}


def verification(network: nn.Module, validation: Tensor, test: Tensor) -> dict:
    """Thresholds from `validation`; EER, and FNMR and FMR at the thresholds, on `test`."""
    others, table, n = (
        impostors(distances(network, validation)).flatten(),
        distances(network, test),
        len(test),
    )
    levels = torch.logspace(-3.5, -0.3, 40, dtype=torch.float64)
    refused, accepted = error_rates(table, impostors(table).flatten().double().quantile(levels))
    eer = with_interval("eer", lambda drawn: equal_error(*pooled(refused, accepted, drawn)), n)
    limits = [threshold_at(rate, others) for rate in RATES]
    refused, accepted = error_rates(table, torch.tensor(limits))
    found: dict = {**eer, "thresholds": {str(rate): limit for rate, limit in zip(RATES, limits, strict=True)}}
    for k, rate in enumerate(RATES):
        found[f"at_{rate}"] = {
            **with_interval("fmr", lambda drawn, k=k: pooled(refused, accepted, drawn)[1][k], n),
            **with_interval("fnmr", lambda drawn, k=k: pooled(refused, accepted, drawn)[0][k], n),
        }
    return found


def denoising_loss(model: Denoiser, x: Tensor, coded: bool) -> float:
    """Mean square of v - network, four draws of t and noise for each picture, with the code or without."""
    generator = torch.Generator().manual_seed(2)
    network, x = model.network, x.repeat(4, 1, 1, 1)
    t = torch.rand(len(x), generator=generator, dtype=x.dtype)
    alpha, sigma = (fn(t).to(x)[:, None, None, None] for fn in (model.process.alpha, model.process.sigma))
    eps = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    with torch.no_grad():
        out = network(alpha * x + sigma * eps, t, network.encode(x) if coded else None)  # type: ignore[attr-defined]
    return float((out - alpha * eps + sigma * x).square().mean())


def reconstructions(model: Denoiser, x: Tensor) -> dict[str, Tensor]:
    """From the code with the noise that inversion finds, and with fresh noise."""
    code = model.network.encode(x)  # type: ignore[attr-defined]
    there = DPMSolverPP(2).plan(model.process, Rising(UniformLambda(40, **ENDS)))
    back = DPMSolverPP(2).plan(model.process, UniformLambda(20, **ENDS))
    found = sample(model, there, x, cond=code, gradient=None)
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
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
    for name, made in reconstructions(model, unseen).items():
        found[name] = {"rmse": float((made - unseen).square().mean().sqrt())}
        for k, judge in enumerate(judges):
            with torch.no_grad():
                far = COSINE(judge(made), judge(unseen))
            for rate, limit in card[f"recogniser{k}"]["thresholds"].items():
                accepted = (far < limit).double()
                share = with_interval(
                    f"accepted_by_{k}_at_{rate}", lambda drawn, a=accepted: a[drawn].mean(), 300
                )
                found[name].update(share)
    return {**card, "autoencoder": found}
