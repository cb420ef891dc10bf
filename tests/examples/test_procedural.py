"""The procedural faces: addresses are reproducible, the picture has a gradient, error rates are counted right."""

import pytest
import torch
from procedural import (
    PERSON,
    PHOTO,
    TEST,
    TRAIN,
    VALIDATION,
    faces,
    neutral,
    passport,
    persons,
    photographs,
    render,
)
from shared import procedural_card

REMEMBERED = (0.1785, -0.1614, -0.257, 0.1827, -0.0009, 0.0211, 0.0205, -0.2168)
REMEMBERED += (0.0649, 0.0002, 0.067, -0.2034, 0.3724, -0.2022, -0.0218, 0.5056)


def test_an_address_is_a_picture_in_any_batch_and_without_global_random_numbers():
    people, photos = [7, 4321, 7, 2**40], [0, 3, 1, 2]
    torch.manual_seed(1)
    together = faces(people, photos)
    drawn = torch.rand(())
    torch.manual_seed(2)
    alone = torch.cat([faces([who], [which]) for who, which in zip(people, photos, strict=True)])
    torch.manual_seed(1)
    assert float((together - alone).abs().max()) < 1e-5 and torch.rand(()) == drawn
    assert together.shape == (4, 1, 32, 32) and float(together.abs().max()) <= 1.05


def test_the_faces_are_those_the_models_learned():
    """Means over 8 x 8 patches of one picture: a renderer that is changed wants its models trained anew."""
    found = torch.nn.functional.avg_pool2d(faces([3], [1]), 8).flatten().double()
    assert found.tolist() == pytest.approx(list(REMEMBERED), abs=2e-3)


def test_people_held_out_are_not_among_those_learned():
    assert not set(TRAIN) & {*VALIDATION, *TEST} and not set(VALIDATION) & set(TEST)
    drawn = persons([0, 1, TEST[0]])
    assert drawn.shape == (3, len(PERSON)) and float(drawn.abs().max()) <= 1
    assert len({tuple(row.tolist()) for row in drawn}) == 3


def test_a_photograph_is_its_own_and_a_passport_nobodys():
    first, grain = photographs([5, 5, 6], [0, 1, 0])
    assert first.shape == (3, len(PHOTO)) and not torch.equal(first[0], first[1])
    assert float(grain.square().mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(passport([5]), render(persons([5]), neutral(1)))


def test_the_picture_has_a_gradient_in_person_and_photograph():
    g = torch.Generator().manual_seed(0)
    at = [torch.rand(1, n, generator=g, dtype=torch.float64) - 0.5 for n in (len(PERSON), len(PHOTO))]
    ways = [torch.randn(a.shape, generator=g, dtype=torch.float64) for a in at]
    weights = torch.randn(1, 1, 32, 32, generator=g, dtype=torch.float64)

    def value(h: float) -> torch.Tensor:
        return (render(at[0] + h * ways[0], at[1] + h * ways[1]) * weights).sum()

    at = [a.requires_grad_() for a in at]
    slopes = torch.autograd.grad(value(0.0), at)
    exact = float(sum((slope * way).sum() for slope, way in zip(slopes, ways, strict=True)))
    assert float((value(1e-6) - value(-1e-6)).detach()) / 2e-6 == pytest.approx(exact, rel=1e-5)


def test_error_rates_by_hand():
    """Three people, two photographs each; distances that anyone can count."""
    table = torch.full((3, 3, 2, 2), 0.9)
    for person, far in enumerate((0.1, 0.3, 0.6)):
        table[person, person] = torch.tensor([[0, far], [far, 0]])
    table[0, 1, 0, 1] = 0.2
    rates = procedural_card.error_rates(table, torch.tensor([0.25, 0.5, 1.0]))
    fnmr, fmr = procedural_card.pooled(*rates, torch.arange(3))
    assert fnmr.tolist() == pytest.approx([2 / 3, 1 / 3, 0]) and fmr.tolist() == pytest.approx(
        [1 / 12, 1 / 12, 1]
    )
    fnmr, fmr = procedural_card.pooled(*rates, torch.tensor([0, 1, 0]))
    assert fnmr.tolist() == pytest.approx([1 / 3, 0, 0]) and fmr.tolist() == pytest.approx([1 / 4, 1 / 4, 1])
    crossing = procedural_card.equal_error(torch.tensor([0.3, 0.2, 0.0]), torch.tensor([0.0, 0.1, 0.4]))
    assert float(crossing) == pytest.approx(0.16)
