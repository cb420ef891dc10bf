"""Strategies: where the best morph is known they find it; costs are counted; batch mates never meet."""

from dataclasses import replace

import pytest
import torch
from identities import brute_force, crowd, least_worse, ode, one, pair, sde, seen_by
from torch import Tensor

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Reversible, sample
from pullback.guidance import (
    Anchor,
    BestMorph,
    BlackBoxRecogniser,
    DenoiserError,
    EndToEnd,
    Evolution,
    GreedyMorph,
    GreedySearch,
    InvertedBlend,
    LatentBlend,
    LookaheadMorph,
    Morph,
    MorphLoss,
    Over,
    Pair,
    ParticleSearch,
    PixelBlend,
    StochasticEncoder,
    Stop,
    SumAndDifference,
    adam,
    morph,
)
from pullback.guidance.morphs.encoders import FlowEncoder
from pullback.guidance.morphs.scene import Scene
from pullback.solvers import DATA, DDIM, VP, Addressed, Denoiser, ReversibleHeun, Rising, UniformLambda

QUICK = EndToEnd(optimiser=adam(0.1), steps=60)
SEARCHES = (
    replace(QUICK, steps=4),
    replace(QUICK, steps=4, differences=Addressed(0), directions=3),
    GreedyMorph(rounds=3),
    GreedySearch(weights=5),
    LookaheadMorph(ahead=3),
    Evolution(generations=4, population=4),
    BestMorph((LatentBlend(0.3), InvertedBlend())),
)


def levels(plan):
    """((alpha, sigma) at either end) of every step."""
    at = [(float(VP().alpha(t)), float(VP().sigma(t))) for t in plan.times]
    return list(zip(at, at[1:], strict=False))


def state_of(found: Morph) -> Tensor:
    """What a morph starts from."""
    assert found.latents is not None
    return found.latents.state


# the truth
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "gradient, plan",
    [
        (Checkpoint(), ode(6)),
        (Reversible(), ReversibleHeun().plan(VP(), UniformLambda(6, start=0.99, end=0.02))),
        (Continuous(), ode(6)),
        (AdjointDEIS(), ode(12)),
    ],
    ids=["Checkpoint", "Reversible", "Continuous", "AdjointDEIS"],
)
def test_every_gradient_reaches_the_best_morph_of_gaussian_data(gradient, plan):
    """Half the distance of the subjects, by the triangle inequality."""
    best = least_worse(seen_by(), pair())
    found = morph(
        one().denoiser(VP()), plan, pair(), [seen_by()], replace(QUICK, gradient=gradient), progress=False
    )
    assert bool((found.worse[0] >= best - 1e-9).all())
    torch.testing.assert_close(found.worse[0], best, atol=0.03, rtol=0)
    assert found.stop is Stop.STEPS


@pytest.mark.parametrize("gradient", [Checkpoint(), AdjointDEIS()], ids=lambda g: type(g).__name__)
def test_injected_noise_and_start_reach_it_along_an_sde(gradient):
    strategy = replace(QUICK, gradient=gradient, over=Over(noise=True))
    found = morph(one().denoiser(VP()), sde(6), pair(), [seen_by()], strategy, encoder=StochasticEncoder(),
                  progress=False)  # fmt: skip
    torch.testing.assert_close(found.worse[0], least_worse(seen_by(), pair()), atol=0.03, rtol=0)
    assert found.latents is not None and found.latents.noise is not None
    again = sample(
        one().denoiser(VP()), sde(6), found.latents.start, noise=found.latents.noise, gradient=None
    )
    torch.testing.assert_close(again, found.images)


@pytest.mark.slow
def test_conditioning_reaches_it_row_by_row():
    """The toy's conditioning shifts its data: a semantic code. Pairs of a batch end where they end alone."""
    a, b = torch.full((3, 2), -0.5), torch.full((3, 2), 0.7)
    subjects = Pair(pair().first, pair().second, a, b)
    strategy = replace(QUICK, over=Over(x=False, cond=True, cond_rows=True), optimiser=adam(0.3))
    model = one().denoiser(VP())
    found = morph(model, ode(), subjects, [seen_by()], strategy, progress=False)
    torch.testing.assert_close(found.worse[0], least_worse(seen_by(), subjects), atol=0.03, rtol=0)
    alone = morph(model, ode(), Pair(subjects.first[1:2], subjects.second[1:2], a[1:2], b[1:2]), [seen_by()],
                  strategy, progress=False)  # fmt: skip
    torch.testing.assert_close(found.images[1:2], alone.images)


@pytest.mark.parametrize(
    "strategy, within",
    [(replace(QUICK, start=InvertedBlend()), 0.05), (Evolution(generations=25, width=0.3), 0.1)],
    ids=["end to end", "evolution"],
)
def test_on_a_mixture_a_search_comes_near_the_brute_force_best(strategy, within):
    model, terms = crowd().denoiser(VP()), MorphLoss(SumAndDifference(0.5), realism=(DenoiserError(0.05),))
    found = morph(model, ode(), pair(), [seen_by()], strategy, loss=terms, progress=False)
    loss = terms.of(Scene(model, ode(), pair(), FlowEncoder()), (seen_by(),))
    for row in range(3):
        best = brute_force(model, ode(), loss, row)
        assert -1e-3 <= float(found.loss[row]) - best <= within


def test_greedy_is_the_published_loop():
    """Algorithm 1 of Greedy-DiM written out: at each step Adam on eps from the network's, the best kept, DDIM."""
    law, eye, plan = crowd(), seen_by(), DDIM().plan(VP(), UniformLambda(4, start=0.9, end=0.05))
    found = morph(law.denoiser(VP()), plan, pair(), [eye], GreedyMorph(rounds=5, lr=0.05), progress=False)
    start = morph(law.denoiser(VP()), plan, pair(), [eye], LatentBlend(), progress=False).latents
    assert start is not None
    x = start.state
    subjects = [eye.describe(face) for face in (pair().first, pair().second)]

    def loss(image):
        near, far = (eye.distance(eye.network(image), each) for each in subjects)
        return near + far + (near - far).abs()

    for (a, c), (a2, c2) in levels(plan):
        eps = law.noise(x, a, c).detach().requires_grad_()
        adam_ = torch.optim.Adam([eps], lr=0.05, betas=(0.5, 0.9))
        best, least = eps.detach().clone(), loss((x - c * eps) / a).detach()
        for _ in range(5):
            adam_.zero_grad()
            loss((x - c * eps) / a).sum().backward()
            adam_.step()
            now = loss((x - c * eps) / a).detach()
            better = now < least
            best, least = torch.where(better[:, None], eps.detach(), best), torch.minimum(now, least)
        x = a2 * (x - c * best) / a + c2 * best
    torch.testing.assert_close(found.images, x)


def test_greedy_search_takes_the_best_prediction_of_every_step():
    law, eye, plan = crowd(), seen_by(), DDIM().plan(VP(), UniformLambda(4, start=0.9, end=0.05))
    model = law.denoiser(VP())
    found = morph(model, plan, pair(), [eye], GreedySearch(weights=3), progress=False)
    starts = [
        state_of(morph(model, plan, pair(), [eye], LatentBlend(weight), progress=False))
        for weight in (0.5, 0.0, 1.0)
    ]
    subjects = [eye.describe(face) for face in (pair().first, pair().second)]
    x, ways = starts[0], list(starts[1:])
    for (a, c), (a2, c2) in levels(plan):
        own, first, second = (law.denoise(state, a, c) for state in (x, *ways))
        options = torch.stack([own, first, (first + second) / 2, second])
        losses = torch.stack(
            [
                2 * torch.stack([eye.distance(eye.network(d), each) for each in subjects]).amax(0)
                for d in options
            ]
        )
        best = options[losses.argmin(0), torch.arange(3)]
        step = lambda state, data: a2 * data + c2 * (state - a * data) / c  # noqa: B023, E731
        x, ways = step(x, best), [step(ways[0], first), step(ways[1], second)]
    torch.testing.assert_close(found.images, x)
    assert found.looks == 4 * 4 + 1


def test_what_is_looked_for_is_found_better_than_where_it_began():
    model, eye = crowd().denoiser(VP()), seen_by()
    start = morph(model, ode(), pair(), [eye], LatentBlend(), progress=False).loss
    for strategy in SEARCHES[:6]:
        found = morph(model, ode(), pair(), [eye], strategy, progress=False)
        assert bool((found.loss <= start + 1e-9).all()) and bool((found.loss < start - 1e-6).any()), strategy
    noisy = {"noise": Addressed(0), "progress": False}
    plain = morph(model, sde(), pair(), [eye], LatentBlend(), **noisy)
    best = morph(model, sde(), pair(), [eye], ParticleSearch(children=6), **noisy)
    assert float(best.loss.sum()) < float(plain.loss.sum())


# what strategies share
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SEARCHES, ids=lambda s: type(s).__name__)
def test_a_pair_alone_is_what_it_is_in_a_batch(strategy):
    model, subjects = crowd().denoiser(VP()), pair()
    together = morph(model, ode(), subjects, [seen_by()], strategy, progress=False)
    if getattr(strategy, "differences", None) is not None:
        strategy = replace(strategy, differences=Addressed(0, samples=[2]))
    if isinstance(strategy, Evolution):
        strategy = replace(strategy, noise=replace(strategy.noise, samples=(2,)))
    one_pair = Pair(subjects.first[2:], subjects.second[2:])
    alone = morph(model, ode(), one_pair, [seen_by()], strategy, progress=False)
    torch.testing.assert_close(together.images[2:], alone.images)
    torch.testing.assert_close(together.distances[:, :, 2:], alone.distances)


def test_particles_of_a_pair_are_its_own():
    model, subjects = crowd().denoiser(VP()), pair()
    strategy = ParticleSearch(children=3)
    together = morph(model, sde(), subjects, [seen_by()], strategy, noise=Addressed(0), progress=False)
    alone = morph(model, sde(), Pair(subjects.first[2:], subjects.second[2:]), [seen_by()],
                  replace(strategy, noise=replace(strategy.noise, samples=(2,))),
                  noise=Addressed(0, samples=[2]), progress=False)  # fmt: skip
    torch.testing.assert_close(together.images[2:], alone.images)


@pytest.mark.parametrize("strategy", SEARCHES, ids=lambda s: type(s).__name__)
def test_costs_are_what_is_called(strategy):
    """Network evaluations of one pair: rows that went in, over the pairs; VJPs from a hook on what came out."""
    law, calls, backs = crowd(), [0], [0]

    def network(x, t, cond=None):
        calls[0] += len(x)
        out = law.denoise(x, VP().alpha(t), VP().sigma(t))
        if out.requires_grad:
            out.register_hook(lambda _: backs.__setitem__(0, backs[0] + 3))
        return out

    looks = [0]
    eye = seen_by()
    counted = replace(eye, network=lambda x: (looks.__setitem__(0, looks[0] + len(x)), eye.network(x))[1])
    found = morph(Denoiser(network, VP(), DATA), ode(), pair(), [counted], strategy, progress=False,
                  loss=MorphLoss(realism=(DenoiserError(0.1),)))  # fmt: skip
    assert (3 * found.nfe, 3 * found.vjps) == (calls[0], backs[0])
    assert 3 * found.looks == looks[0] - 2 * 2 * 3 - 3  # but for the subjects, twice, and the last table


@pytest.mark.parametrize(
    "strategy", [s for s in SEARCHES if not s.needs_gradient], ids=lambda s: type(s).__name__
)
def test_a_recogniser_without_a_gradient_is_searched(strategy):
    eye = seen_by()
    blind = BlackBoxRecogniser(lambda x: eye.network(x).numpy())
    model = crowd().denoiser(VP())
    seen = morph(model, ode(), pair(), [eye], strategy, progress=False)
    torch.testing.assert_close(
        morph(model, ode(), pair(), [blind], strategy, progress=False).images, seen.images
    )


def test_an_image_that_cannot_be_read_is_never_the_best():
    """Descriptors of NaN: no face was found."""
    eye = seen_by()

    def reads(x):
        found = eye.network(x)
        return torch.where((x[:, :1] > 0.4) & (x[:, :1] < 0.9), torch.nan, found)

    model, subjects = crowd().denoiser(VP()), pair()
    blends = BestMorph((PixelBlend(0.2), PixelBlend(0.5), PixelBlend(0.8)))
    found = morph(model, ode(), subjects, [BlackBoxRecogniser(reads)], blends, progress=False)
    assert bool(found.loss.isfinite().all()) and not bool(
        ((found.images[:, 0] > 0.4) & (found.images[:, 0] < 0.9)).any()
    )


def test_particles_pass_by_images_that_cannot_be_read():
    eye = seen_by()

    def reads(x):
        return torch.where((x[:, :1] > 0.4) & (x[:, :1] < 0.9), torch.nan, eye.network(x))

    search = ParticleSearch(children=4)
    model, encoder = crowd().denoiser(VP()), StochasticEncoder()
    found = morph(model, sde(6), pair(), [BlackBoxRecogniser(reads)], search, encoder=encoder, progress=False)
    assert bool(found.loss.isfinite().all())
    everyone = morph(
        model, sde(6), pair(), [BlackBoxRecogniser(eye.network)], search, encoder=encoder, progress=False
    )
    plain = morph(model, sde(6), pair(), [eye], search, encoder=encoder, progress=False)
    torch.testing.assert_close(everyone.images, plain.images)


def test_a_subject_who_cannot_be_read_is_refused_before_any_call():
    """Where no distance to a subject exists there is nothing to search for; a judge may fail, it only measures."""

    def never(x, t, cond=None):
        raise AssertionError

    everyone, eye = pair(), seen_by()
    subjects = Pair(everyone.first[:2], everyone.second[:2])

    def unread(x):
        found = eye.network(x)
        return torch.where((x == subjects.second[1]).all(1, keepdim=True), torch.nan, found)

    model, blind = Denoiser(never, VP(), DATA), BlackBoxRecogniser(unread)
    for strategy in (PixelBlend(), BestMorph((PixelBlend(0.2), PixelBlend())), Evolution(), GreedySearch()):
        with pytest.raises(
            ValueError, match=r"BlackBoxRecogniser that cannot read the second subject of pairs \[1\]"
        ):
            morph(model, ode(), subjects, [blind], strategy, progress=False)
    found = morph(model, ode(), subjects, [eye], PixelBlend(), judges=[blind], progress=False)
    assert found.distances[1].isnan().tolist() == [
        [False] * len(subjects.first),
        [b == 1 for b in range(len(subjects.first))],
    ]


def test_a_leash_weighs_the_way_from_the_start():
    """So short that nothing moves; else the way counts as one from an anchor does."""
    model, eye = crowd().denoiser(VP()), seen_by()
    start = morph(model, ode(), pair(), [eye], InvertedBlend(0.3), progress=False)
    held = replace(QUICK, start=InvertedBlend(0.3), leash=1e6, steps=5)
    torch.testing.assert_close(morph(model, ode(), pair(), [eye], held, progress=False).images, start.images)
    leashed = replace(held, start=InvertedBlend(), leash=0.7, steps=6)
    anchored = replace(leashed, leash=0.0)
    torch.testing.assert_close(
        morph(model, ode(), pair(), [eye], leashed, progress=False).images,
        morph(
            model, ode(), pair(), [eye], anchored, progress=False, loss=MorphLoss(realism=(Anchor(0.7),))
        ).images,
    )


def test_strategies_rest_on_one_another():
    """What starts from another is at least as good, and pays for both."""
    model, eye = crowd().denoiser(VP()), seen_by()
    first = morph(model, ode(), pair(), [eye], Evolution(generations=3), progress=False)
    both = morph(
        model, ode(), pair(), [eye], replace(QUICK, start=Evolution(generations=3), steps=3), progress=False
    )
    assert bool((both.loss <= first.loss).all()) and both.nfe > first.nfe


def test_what_does_not_fit_is_said_before_any_call():
    def never(x, t, cond=None):
        raise AssertionError

    model, eye, subjects = Denoiser(never, VP(), DATA), seen_by(), pair()
    blind = BlackBoxRecogniser(lambda x: x)
    for strategy in SEARCHES:
        if strategy.needs_gradient:
            with pytest.raises(
                ValueError, match="recognisers: got .*no gradient, expected differentiable.*Evolution"
            ):
                morph(model, ode(), subjects, [eye, blind], strategy, progress=False)
            with torch.no_grad(), pytest.raises(ValueError, match="morph: got a call under torch.no_grad"):
                morph(model, ode(), subjects, [eye], strategy, progress=False)
    for make, said in (
        (lambda: EndToEnd(over=Over(cond=True)), "EndToEnd: got .*share their conditioning.*cond_rows=True"),
        (lambda: EndToEnd(over=Over(parameters=True)), "EndToEnd: got .*weights are shared"),
        (lambda: Evolution(population=1), "Evolution: got .*population=1"),
        (lambda: GreedySearch(weights=1), "GreedySearch: got weights=1"),
        (lambda: morph(model, ode(), subjects, [eye], replace(QUICK, start=PixelBlend()), progress=False),
         "EndToEnd: got start=PixelBlend.*expected one with latents; take LatentBlend"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            make()
    rising = DDIM().plan(VP(), Rising(UniformLambda(4, start=0.9, end=0.05)))
    with pytest.raises(ValueError, match="morph: got DDIM.*rises from data to noise, expected .*falling"):
        morph(model, rising, subjects, [eye], LatentBlend(), progress=False)
    with pytest.raises(ValueError, match="ParticleSearch: got .*expected a stochastic plan"):
        morph(crowd().denoiser(VP()), ode(), subjects, [eye], ParticleSearch(), progress=False)
