"""Keys: every random draw of a run is a pure function of (seed, what it is for).

`fold(seed, "shuffle", epoch)` gives a 64-bit key; `uniforms(key, n)` turns a key into numbers; the same keys in
an array give the same numbers in a batch. There is no generator that moves on, so there is nothing to save, and
worker count, resume point and world size cannot change a draw.

The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), chosen because it is a few integer operations in Python and in numpy alike. Strings enter through
BLAKE2b, never through `hash()`, which differs between processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: SplitMix64's increment
_FEW = 12  # draws of one key up to which plain integers are faster than arrays
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return z ^ (z >> 31)


@lru_cache(maxsize=4096)
def _word(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def fold(seed: int, *words: int | str) -> int:
    """Return the 64-bit key of `words` under `seed`: stable across platforms, versions and processes.

    Integers are taken modulo 2**64. `fold(fold(s, a), b) != fold(s, a, b)` is not promised either way; the same
    arguments always give the same key.
    """
    key = _mix((seed + _GOLDEN) & _MASK)
    for word in words:
        value = _word(word) if isinstance(word, str) else int(word) & _MASK
        key = _mix((key ^ _mix((value + _GOLDEN) & _MASK)) + _GOLDEN & _MASK)
    return key


def count(key: int, number: int) -> int:
    """Return the `number`-th key of a sequence that starts at a folded key: SplitMix64's own counter.

    A fifth of the cost of `fold`, for the one draw that every micro-batch needs.
    """
    return _mix((key + number * _GOLDEN) & _MASK)


class Counted:
    """`count(key, number)` for numbers in turn, worked out 256 at a time: a third of its cost."""

    def __init__(self, key: int) -> None:
        self._key = np.uint64(key)
        self._first = 0
        self._block: list[int] = []

    def __getitem__(self, number: int) -> int:
        try:
            if number < self._first:
                raise IndexError
            return self._block[number - self._first]
        except IndexError:
            self._first = number
            numbers = np.arange(256, dtype=np.uint64) + np.uint64(number)
            with np.errstate(over="ignore"):
                self._block = _mix_array(self._key + numbers * np.uint64(_GOLDEN)).tolist()
            return self._block[0]


def _mix_array(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
    return z ^ (z >> np.uint64(31))


def fold_array(key: int | NDArray[np.uint64], words: NDArray[Any] | int) -> NDArray[np.uint64]:
    """Fold integers into already folded keys, elementwise; either side may be a scalar.

    With `base = fold(seed, "x")`, `fold_array(base, [i, ...])[0] == fold(seed, "x", i)`.
    """
    keys = np.atleast_1d(np.asarray(key, dtype=np.uint64))
    values = np.atleast_1d(np.asarray(words)).astype(np.uint64)
    with np.errstate(over="ignore"):
        return _mix_array((keys ^ _mix_array(values + np.uint64(_GOLDEN))) + np.uint64(_GOLDEN))


def seeded(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Start a fold from each seed: `fold_array(seeded(s), w)` is `[fold(x, w) for x in s]`."""
    with np.errstate(over="ignore"):
        return _mix_array(seeds + np.uint64(_GOLDEN))


def uniforms(keys: NDArray[np.uint64] | int, count: int) -> NDArray[np.float64]:
    """Return `count` uniform numbers in [0, 1) for each key.

    Args:
        keys: (N,) uint64 keys, or one key.
        count: draws per key.
    Returns:
        float64 (N, count) for an array of keys, (count,) for one key. Row i depends on keys[i] alone, and
        draw j does not depend on `count`: a batch and its samples one by one get the same numbers.
    """
    if isinstance(keys, int) and count <= _FEW:
        start = _mix(keys)
        few = [(_mix((start + j * _GOLDEN) & _MASK) >> 11) * 2.0**-53 for j in range(1, count + 1)]
        return np.array(few, np.float64)
    single = isinstance(keys, int)
    base = np.asarray([keys] if single else keys, dtype=np.uint64)  # (N,)
    with np.errstate(over="ignore"):
        counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)  # (count,)
        bits = _mix_array(_mix_array(base)[:, None] + counters[None, :])  # (N, count)
    values = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values[0] if single else values


def generator(key: int) -> np.random.Generator:
    """Return a numpy generator (Philox, counter-based) that is a function of the key alone."""
    return np.random.Generator(np.random.Philox(key=key))


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """Return the permutation of range(n) that belongs to the key: (n,) int64."""
    return generator(key).permutation(n)


class Seedable(Protocol):
    """A generator of torch, or what seeds one."""

    def manual_seed(self, seed: int, /) -> Any: ...


def generators() -> tuple[Seedable, ...]:
    """torch's global generators: the CPU's, and every CUDA or MPS generator that exists by now."""
    import torch

    found: list[Seedable] = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found += torch.cuda.default_generators
    if torch.backends.mps.is_available():  # pragma: no cover - needs a Mac
        found.append(torch.mps)
    return tuple(found)


def seed_torch(key: int, among: tuple[Seedable, ...] = ()) -> None:
    """Seed torch's global generators from a key.

    among: what `generators()` returned before, for a caller that seeds every micro-batch: asking which there are takes
        longer than seeding one (1 to 4 us, where `torch.manual_seed` takes over 100).
    """
    seed = key & 0x7FFF_FFFF_FFFF_FFFF
    for one in among or generators():
        one.manual_seed(seed)


@contextmanager
def ambient(key: int) -> Iterator[None]:
    """Run third-party code that draws from global generators under a key, and put the generators back after.

    Covers `random`, numpy's legacy generator and torch's CPU generator: what torchvision's v2 transforms use.
    """
    import torch

    seed = key & 0x7FFF_FFFF_FFFF_FFFF
    saved = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.default_generator.set_state(saved[2])
