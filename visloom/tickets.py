"""Tickets: which samples, with which random keys, make a batch; and how processes and transforms share them.

The lowest bit of a ticket's key is not random: it alternates from one turn of a sample to the next, which is what an
alternating flip needs, so the keys of single transforms (`subkey`) keep it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.keys import fold, fold_array, seeded

_LOW = np.uint64(1)


class Ticket(NamedTuple):
    """One sample of a batch: which source (leaf of the stream), which index in it, and its random key."""

    source: int
    index: int  # type: ignore[assignment]  # tuple has a method of that name
    key: int


@dataclass(frozen=True, eq=False)
class Tickets:
    """The tickets of one step, as three arrays.

    source (B,) int32, index (B,) int64, key (B,) uint64; parts: lengths of the parts of the batch, which sum to B
    (one for a Shuffled stream, two for a Pair).
    """

    source: NDArray[np.int32]
    index: NDArray[np.int64]
    key: NDArray[np.uint64]
    parts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, at: int) -> Ticket:
        return Ticket(int(self.source[at]), int(self.index[at]), int(self.key[at]))

    def __iter__(self) -> Iterator[Ticket]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tickets) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Tickets({list(self)!r})"

    def shard(self, rank: int, world: int) -> Tickets:
        """Return what process `rank` of `world` reads: [rank::world] of every part."""
        if world == 1:
            return self
        picks, lengths, start = [], [], 0
        for length in self.parts:
            pick = np.arange(start + rank, start + length, world)
            picks.append(pick)
            lengths.append(len(pick))
            start += length
        chosen = np.concatenate(picks)
        return Tickets(self.source[chosen], self.index[chosen], self.key[chosen], tuple(lengths))

    @staticmethod
    def join(parts: Sequence[Tickets]) -> Tickets:
        """Put the tickets of several parts one after the other."""
        return Tickets(
            np.concatenate([p.source for p in parts]),
            np.concatenate([p.index for p in parts]),
            np.concatenate([p.key for p in parts]),
            tuple(length for p in parts for length in p.parts),
        )


def subkey(key: int, position: int) -> int:
    """The key of the transform at a position of the list; keeps the alternating lowest bit."""
    return (fold(key, position) & ~1) | (key & 1)


def subkeys(keys: NDArray[np.uint64], position: int) -> NDArray[np.uint64]:
    """`subkey` for an array of keys: (N,) uint64 -> (N,) uint64."""
    folded = _fold_into(keys, position)
    return (folded & ~_LOW) | (keys & _LOW)


def _fold_into(keys: NDArray[np.uint64], word: int) -> NDArray[np.uint64]:
    """`fold(key, word)` for each key: the key is a seed here, so it is mixed first, as fold does."""
    return fold_array(seeded(keys), word)
