"""Noise is addressed: the same numbers for any batch split, order of queries and replay."""

import numpy as np
import pytest
import torch

from pullback import adjoint
from pullback.solvers import DATA, DDPM, VP, Addressed, Denoiser, GivenNoise, RecordedNoise, UniformLambda


def test_any_split_any_order_bitwise(device):
    like = torch.empty(8, 3, 5, device=device)
    noise = Addressed(2**100 + 7)
    whole = {slot: noise(slot, like) for slot in (4, 0, 9)}
    for b in (6, 0, 3):
        for slot in (9, 4, 0):
            assert torch.equal(Addressed(2**100 + 7, samples=[b])(slot, like[:1])[0], whole[slot][b])
    assert torch.equal(noise.at(3, 4, (3, 5)).double(), Addressed(2**100 + 7, on_cpu=True)(4, like)[3].cpu())


def test_one_draw_in_any_dtype(device):
    like = torch.empty(2, 6, dtype=torch.float64, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(Addressed(1)(0, like).to(dtype), Addressed(1)(0, like.to(dtype)))


def test_the_default_dtype_is_no_part_of_the_address(device):
    """Also of what a device's own generator draws, which is made to draw here where there is none."""
    like, found = torch.empty(2, 64, dtype=torch.float32, device=device), []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        found.append(torch.stack([Addressed(1)(0, like), Addressed(1)._on_device(0, like, range(2))]))
    assert torch.equal(*found)


def distinct(samples, slots, streams, seeds):
    """Number of distinct first raw words over all addresses, and the number of addresses."""
    seen, count = set(), 0
    for seed in seeds:
        for stream in streams:
            source = Addressed(seed, stream=stream)
            for sample in samples:
                for slot in slots:
                    seen.add(source._bits(sample, slot).random_raw())
                    count += 1
    return len(seen), count


def test_addresses_are_distinct():
    seen, count = distinct(range(40), range(40), range(3), (0, 1, 2**64, 2**100))
    assert seen == count == 19200


@pytest.mark.slow
def test_ten_million_addresses_are_distinct():
    """The counter of every address is its own block; the first 64-bit words agree (a collision has odds 3e-6)."""
    bits = np.random.Philox(key=5)
    state, words = bits.state, np.empty(10**7, dtype=np.uint64)
    probe = Addressed(5)
    for k in range(10**7):
        state["state"]["counter"][:] = (0, k % 1000, k // 1000, 0)
        state["buffer_pos"] = 4
        bits.state = state
        words[k] = bits.random_raw()
        if k % 10**6 == 12345:
            assert words[k] == probe._bits(k // 1000, k % 1000).random_raw()
    assert len(np.unique(words)) == 10**7


def test_ids_have_64_bits():
    top = [2**63, 2**64 - 1]
    draws = Addressed(0, samples=top)(1, torch.empty(2, 3))
    assert not torch.equal(draws[0], draws[1])
    for k in range(2):
        assert torch.equal(Addressed(0, samples=top[k : k + 1])(1, torch.empty(1, 3))[0], draws[k])
    for wrong in ([2**64], [-1], [3, 3]):
        with pytest.raises(ValueError, match=r"expected distinct ids in \[0, 2\^64\)"):
            Addressed(0, samples=wrong)


def test_standard_normal(device):
    draws = Addressed(3)(0, torch.empty(64, 4096, device=device)).flatten()
    assert abs(float(draws.mean())) < 0.01 and float(draws.var()) == pytest.approx(1.0, abs=0.01)
    assert float((draws**4).mean()) == pytest.approx(3.0, abs=0.1)


def test_the_law_of_the_draws():
    """A million numbers: distances from the normal law in whole, in the tails, of pairs within a word and of one slot
    to the next. 5e-3 is five deviations of what is measured; a radius of too few bits or an angle of half a turn fails.
    """
    like = torch.empty(16, 65536)
    noise = Addressed(11)
    draws = noise(0, like).double()
    flat = draws.flatten().sort().values
    law = torch.distributions.Normal(0.0, 1.0).cdf(flat)
    assert float((law - torch.linspace(0, 1, len(flat), dtype=torch.float64)).abs().max()) < 2e-3
    for level in (3.0, 4.0, 4.5):  # two-sided tails, within four deviations of the expected count
        expected = 2 * len(flat) * float(torch.special.ndtr(torch.tensor(-level, dtype=torch.float64)))
        assert abs(int((flat.abs() > level).sum()) - expected) < 4 * expected**0.5
    left, right = draws.reshape(16, -1, 2).unbind(-1)
    after = noise(1, like).double()
    for a, b in (
        (left, right),
        (left**2, right**2),
        (draws[:, 1:], draws[:, :-1]),
        (draws, after),
        (draws[1:], draws[:-1]),
    ):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 5e-3


def test_a_number_depends_on_its_own_word():
    """Rows of any length begin alike, odd ones too: what lies beside a number in memory does not reach it."""
    whole = Addressed(2).at(5, 3, (1037,))
    for size in (1, 2, 3, 15, 16, 17, 31, 33, 64, 1036):
        assert torch.equal(Addressed(2).at(5, 3, (size,)), whole[:size])
    assert Addressed(2)(0, torch.empty(0, 3)).shape == (0, 3) and Addressed(2)(
        0, torch.empty(2, 0)
    ).shape == (2, 0)


def test_global_generators_are_untouched(device):
    there = torch.cuda.get_rng_state() if device.type == "cuda" else torch.empty(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    Addressed(0)(0, torch.empty(2, 3, device=device))
    assert device.type != "cuda" or torch.equal(torch.cuda.get_rng_state(), there)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]


def test_recorded_noise_replays(device):
    recorded, like = RecordedNoise(Addressed(4)), torch.empty(2, 3, device=device)
    drawn = [recorded(slot, like) for slot in range(3)]
    given = recorded.given()
    given.check(3, like)
    assert all(torch.equal(given(slot, like), value) for slot, value in enumerate(drawn))
    with pytest.raises(ValueError, match="slots"):
        GivenNoise(torch.zeros(2, 2, 3)).check(3, like)


def test_draws_for_another_plan_are_refused():
    """More draws than slots would be used from the front, in silence: they are for a longer plan, or for more steps."""
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    model, plan = Denoiser(lambda x, t: 0.5 * x, VP(), DATA), DDPM().plan(VP(), UniformLambda(4, 0.9, 0.1))
    draws = torch.randn(plan.slots, *x.shape)
    for more in (torch.cat([draws, draws[:1]]), GivenNoise(torch.cat([draws, draws]))):
        with pytest.raises(
            ValueError, match=rf"noise: got \d draws, expected {plan.slots}, one for each slot"
        ):
            adjoint.sample(model, plan, x, noise=more)
    whole, parts = adjoint.sample(model, plan, x, noise=draws), x
    for part in plan.split(2):
        assert part.run_slots == plan.slots
        parts = adjoint.sample(model, part, parts, noise=draws)
    assert torch.equal(parts, whole)
    with pytest.raises(ValueError, match=r"got 2 draws, expected 4"):
        adjoint.sample(model, plan.split(2)[0], x, noise=draws[:2])  # its own slots alone


def test_records_hold_numbers_and_no_graph():
    given = GivenNoise(torch.randn(2, 3, 4, requires_grad=True))
    recorded = RecordedNoise(given)
    assert recorded(1, torch.zeros(3, 4)).requires_grad and not recorded.draws[1].requires_grad
