"""Noise is addressed, not drawn: the same (seed, sample, slot) gives the same numbers in any batch, order or replay."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Annotated, Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

from .checked import CheckedFields
from .kinds import check_kind
from .notebook import Shown
from .packing import State, packing_of
from .wanted import Wanted

INITIAL = 2**64 - 1  # the slot of the starting noise, out of the reach of any plan
_BLOCK = 16384  # words at a time, so that what is made of them stays in the processor's cache


class Noise(CheckedFields, ABC):
    """A source of standard normal draws for the slots of a plan."""

    @abstractmethod
    def __call__(self, slot: int, like: Tensor) -> Tensor:
        """The draw of `slot`, in the shape (B, ...), dtype and device of `like`."""

    @abstractmethod
    def check(self, slots: int, like: Tensor) -> None:
        """Raise ValueError if the source cannot serve `slots` slots for states like `like`."""


@dataclass(frozen=True)
class Addressed(Noise):
    """Counter-based normal noise: Philox-4x64 with key `seed` and counter (block, slot, sample, stream).

    Addresses are distinct by construction, nothing is hashed. Each word of 64 bits makes two normal numbers
    (`_box_muller`) in float32, then cast, so float32 and float64 runs see the same noise. The leaves of a joint state
    share one row of draws, in the order of their names: the first has the numbers it would have alone (on the CPU),
    the others what follows.
    On a CUDA state each (sample, slot) is drawn there by its own generator (other values than the CPU's) unless
    `on_cpu`.

    Args:
        seed: 0 <= seed < 2^128.
        samples: global ids of the batch's samples, default 0 .. B-1.
        stream: an independent family under one seed.

    Cost: no storage. Source: Salmon et al. 2011 (Philox), through numpy.
    """

    seed: Annotated[int, Wanted("a whole number; pass Addressed(0)")]
    samples: tuple[int, ...] | None = None
    stream: int = 0
    on_cpu: bool = False
    address: Tensor = field(init=False, repr=False, compare=False)

    def __init__(
        self, seed: int, samples: Sequence[int] | Tensor | None = None, stream: int = 0, on_cpu: bool = False
    ) -> None:
        check_kind("seed", seed, Integral, "a whole number; pass Addressed(0)")
        check_kind("stream", stream, Integral, "a whole number; leave it out where there is one stream")
        if not 0 <= seed < 2**128:
            raise ValueError(f"Addressed: got seed={seed}, expected 0 <= seed < 2^128; pass Addressed(0)")
        if not 0 <= stream < 2**64:
            raise ValueError(f"Addressed: got stream={stream}, expected 0 <= stream < 2^64")
        ids = None if samples is None else tuple(int(s) for s in samples)
        if ids is not None and (
            len(set(ids)) != len(ids) or min(ids, default=0) < 0 or max(ids, default=0) >= 2**64
        ):
            raise ValueError(
                f"Addressed: got samples={ids}, expected distinct ids in [0, 2^64); equal ids would share "
                "noise"
            )
        numbers = np.array([seed % 2**64, seed >> 64, stream, *(ids or ())], dtype=np.uint64)
        address = torch.from_numpy(numbers.view(np.int64))
        given = {"seed": seed, "samples": ids, "stream": stream, "on_cpu": on_cpu, "address": address}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def check(self, slots: int, like: Tensor) -> None:
        if self.samples is not None and len(self.samples) != len(like):
            raise ValueError(
                f"noise: got {len(self.samples)} sample ids, expected {len(like)}, one for each sample of "
                "the batch"
            )

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        self.check(slot + 1, like)
        ids = self.samples if self.samples is not None else range(len(like))
        if like.is_cuda and not self.on_cpu:
            return self._on_device(slot, like, ids)
        drawn = torch.from_numpy(self._rows(ids, slot, math.prod(like.shape[1:])).reshape(like.shape))
        if like.is_cuda:  # the host would wait for a copy from memory that is not pinned
            drawn = drawn.pin_memory().to(like.device, non_blocking=True)
        return drawn.to(like)

    def at(self, sample: int, slot: int, shape: Sequence[int]) -> Tensor:
        """The float32 draw of one address."""
        return torch.from_numpy(self._rows((sample,), slot, math.prod(shape))).reshape(tuple(shape))

    def initial(self, like: State) -> State:
        """Starting noise for states like this one, from a slot of its own."""
        packing = packing_of(like)
        return packing.unpack(self(INITIAL, packing.pack(like)))

    def _bits(self, sample: int, slot: int) -> np.random.Philox:
        """The words of one address, from its first."""
        return np.random.Philox(key=self.seed, counter=slot << 64 | sample << 128 | self.stream << 192)

    def _rows(self, ids: Sequence[int], slot: int, size: int) -> np.ndarray:
        """(B, size): the draws of `slot` for each sample."""
        out = np.empty((len(ids), (size + 1) // 2, 2), dtype=np.float32)
        bits = np.random.Philox(_Key(self.seed))  # pyright: ignore[reportArgumentType]  (any ISeedSequence will do)
        start = bits.state  # to set it takes half the time of another generator
        wide = min(out.shape[1], _BLOCK)
        high = _BLOCK // max(wide, 1)
        for low in range(0, out.shape[1], _BLOCK):
            for first in range(0, len(ids), high):
                block = out[first : first + high, low : low + wide]
                words = []
                for sample in ids[first : first + high]:
                    # a count of the first is four words
                    start["state"]["counter"][:] = low // 4, slot, sample, self.stream
                    bits.state = start
                    words.append(bits.random_raw(block.shape[1]))
                _box_muller(np.stack(words) if len(words) > 1 else words[0][None], block)
        return out.reshape(len(ids), 2 * out.shape[1])[:, :size]

    def _on_device(self, slot: int, like: Tensor, ids: Sequence[int]) -> Tensor:
        draws = []
        for sample in ids:
            # the device's generator takes 63 bits of the address as its seed: among n draws two are the same with
            # probability n^2 / 2^64, 5e-8 for a million and 5 % for a thousand million
            word = self._bits(sample, slot).random_raw()
            generator = torch.Generator(like.device).manual_seed(int(word) >> 1)
            draws.append(
                torch.randn(like.shape[1:], dtype=torch.float32, generator=generator, device=like.device)
            )
        return torch.stack(draws).to(like.dtype)


def addressed_by(address: Tensor, on_cpu: bool) -> Addressed:
    """The source whose `address` this is: two words of its seed, its stream, the samples' ids."""
    low, high, stream, *ids = address.numpy().view(np.uint64).tolist()
    return Addressed(low + (high << 64), ids or None, stream, on_cpu)


class _Key(ISeedSequence):
    """A key of 128 bits, taken as it is: handed to Philox itself, the system would be asked for another one first."""

    def __init__(self, key: int) -> None:
        self.words = np.array([key % 2**64, key >> 64], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        return self.words


def _box_muller(words: np.ndarray, out: np.ndarray) -> None:
    """Words of 64 bits, (B, n), which are overwritten, as standard normal numbers, float32 (B, n, 2), two from each:

        sqrt(-2 log u) cos(theta), sqrt(-2 log u) sin(theta),   u = (m + 1)/2^31,  theta = pi w/2^31

    with m the upper 31 bits, so that |x| goes up to 6.5, and w the lower 32, a signed number. Source: Box and Muller
    1958. A number depends on its own word alone, whatever stands beside it.
    """
    theta = words.astype(np.int32).astype(np.float32)
    theta *= math.pi * 2.0**-31
    words >>= 33
    radius = words.astype(np.int32).astype(np.float32)
    radius += 1
    radius *= 2.0**-31
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    np.multiply(radius, np.cos(theta), out=out[..., 0])
    np.multiply(radius, np.sin(theta, out=theta), out=out[..., 1])


@dataclass(frozen=True, eq=False)
class GivenNoise(Noise):
    """Noise given as a tensor (slots, B, ...), one unit-variance draw a slot; it receives its gradient. For a joint
    state it is given in the state's form.
    """

    values: State

    def check(self, slots: int, like: Tensor) -> None:
        if not isinstance(self.values, Tensor):
            raise ValueError(
                f"noise: got {type(self.values).__name__} of draws inside another source, expected a tensor there; "
                "hand draws in a joint state's form to the run itself"
            )
        if (
            self.values.ndim != like.ndim + 1
            or len(self.values) < slots
            or self.values.shape[1:] != like.shape
        ):
            raise ValueError(
                f"noise: got a tensor of shape {tuple(self.values.shape)}, expected {(slots, *like.shape)}: "
                "(slots, B, ...); draw one x for each of the plan's slots"
            )

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        return self.values[slot].to(like)


@dataclass(frozen=True, eq=False, repr=False)
class RecordedNoise(Shown, Noise):
    """Passes draws of `source` through and keeps them."""

    source: Noise
    draws: dict[int, Tensor] = field(default_factory=dict)

    def check(self, slots: int, like: Tensor) -> None:
        self.source.check(slots, like)

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        value = self.source(slot, like)
        self.draws[slot] = value.detach()
        return value

    def given(self) -> GivenNoise:
        """The recorded draws, slots 0 .. S-1."""
        if sorted(self.draws) != list(range(len(self.draws))):
            raise ValueError(
                f"recorded noise: got slots {sorted(self.draws)}, expected 0 .. S-1; record a whole run first"
            )
        return GivenNoise(torch.stack([self.draws[slot] for slot in range(len(self.draws))]))
