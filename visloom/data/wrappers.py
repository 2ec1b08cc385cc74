"""Wrappers: sources made of others. Each is a plain list of which sample of which source stands at which number.

    Concat((a, b))                   one after the other
    Repeat(a, times=3)               each sample three times
    ClassBalanced(a, threshold=0.1)  samples of rare classes more often (LVIS; mmclassification's ClassBalancedDataset)
    Balanced(a)                      every class equally often

The list is a function of the labels, so that no draw has to be remembered; the stream above shuffles it, and gives
each turn of a repeated sample augmentations of its own. A repeated sample has the number of its turn in its id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import require
from visloom.errors import ConfigError, DataError
from visloom.keys import fold, permutation
from visloom.labels import presence
from visloom.sample import Sample, Stacked
from visloom.stream import Readable, Source


def _asked(source: Any, name: str) -> Any:
    """What a source answers to `name()`, None if it has no such method."""
    ask = getattr(source, name, None)
    return ask() if callable(ask) else None


@dataclass(frozen=True, kw_only=True, repr=False)
class Concat(Source):
    """Several sources one after the other; an id gets the number of its source in front.

    parts: sources with the same classes.
    """

    parts: tuple[Readable, ...]

    def __post_init__(self) -> None:
        require(len(self.parts) > 0, "parts has at least one source", self.parts)

    def open(self) -> NDArray[np.int64]:
        """(parts,) where each one ends. Raises ConfigError if their classes differ."""
        names = [tuple(_asked(part, "classes") or ()) for part in self.parts]
        known = [(part, found) for part, found in zip(self.parts, names, strict=True) if found]
        for part, found in known[1:]:
            if found != known[0][1]:
                raise ConfigError(
                    f"{known[0][0]!r} and {part!r} have different classes, {known[0][1]} and {found}: their labels "
                    "would be mixed up"
                )
        return np.asarray(list(accumulate(map(len, self.parts))), np.int64)

    def count(self) -> int:
        return int(self.opened()[-1])

    def fetch(self, index: int) -> Sample:
        part, place = self._place(index)
        sample = self.parts[part].read(place)
        return sample.replace(id=f"{part}/{sample.id}")

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked | None:
        ends = self.opened()
        which = np.searchsorted(ends, indices, side="right")
        found: list[tuple[NDArray[np.int64], Stacked]] = []
        for part in np.unique(which).tolist():
            at = np.flatnonzero(which == part)
            read = getattr(self.parts[part], "read_batch", None)
            stacked = None if read is None else read(indices[at] - (ends[part - 1] if part else 0))
            if stacked is None or (found and not _alike(stacked, found[0][1])):
                return None
            found.append((at, stacked))
        ids = [""] * len(indices)
        for at, stacked in found:
            for position, name in zip(at.tolist(), stacked.ids, strict=True):
                ids[position] = f"{which[position]}/{name}"
        order = np.argsort(np.concatenate([at for at, _ in found]))
        labels = [stacked.label for _, stacked in found if stacked.label is not None]
        return Stacked(
            tuple(ids),
            np.concatenate([stacked.image for _, stacked in found])[order],
            np.concatenate(labels)[order] if labels else None,
        )

    def sizes_all(self) -> NDArray[np.int64] | None:
        return self._joined("sizes")  # type: ignore[no-any-return]

    def labels_all(self) -> NDArray[np.int64] | None:
        return self._joined("labels")  # type: ignore[no-any-return]

    def multilabels_all(self) -> NDArray[Any] | None:
        return self._joined("multilabels")  # type: ignore[no-any-return]

    def classes(self) -> tuple[str, ...]:
        self.opened()
        return next((tuple(names) for part in self.parts if (names := _asked(part, "classes"))), ())

    def check(self) -> list[str]:
        self.opened()
        return [note for part in self.parts for note in _asked(part, "check") or []]

    def _place(self, index: int) -> tuple[int, int]:
        ends = self.opened()
        part = int(np.searchsorted(ends, index, side="right"))
        return part, index - (int(ends[part - 1]) if part else 0)

    def _joined(self, name: str) -> Any:
        """What all parts know of their samples, or None if one does not."""
        found = [_asked(part, name) for part in self.parts]
        return None if any(one is None for one in found) else np.concatenate(found)

    def __repr__(self) -> str:
        return f"Concat({', '.join(map(repr, self.parts))})"


def _alike(one: Stacked, other: Stacked) -> bool:
    labels = (one.label is None) == (other.label is None)
    same = one.image.shape[1:] == other.image.shape[1:] and one.image.dtype == other.image.dtype
    return same and labels and (one.label is None or one.label.shape[1:] == other.label.shape[1:])  # type: ignore[union-attr]


class _Listed(Source):
    """Samples of one source in the order of a list, some of them several times. Subclasses make the list.

    To split off a validation part, split the source inside: a split of the list would put the same sample into both.
    """

    source: Readable

    def __post_init__(self) -> None:
        require(
            self.split is None,
            "split stands in the source inside, or one sample would be in both parts",
            self.split,
        )

    def order(self) -> NDArray[np.int64]:
        """(n,) which sample of the source stands at each number; its turns come in order."""
        raise TypeError(f"{type(self).__name__} must define order()")

    def open(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples and turns, (n,) each: how often the sample has stood before."""
        order = self.order()
        first = np.argsort(order, kind="stable")
        ordered = order[first]
        begins = (
            np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else np.empty(0, np.int64)
        )
        turns = np.empty(len(order), np.int64)
        turns[first] = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)]))
        return order, turns

    def count(self) -> int:
        return len(self.opened()[0])

    def fetch(self, index: int) -> Sample:
        order, turns = self.opened()
        sample = self.source.read(int(order[index]))
        return sample.replace(id=_named(sample.id, int(turns[index])))

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked | None:
        order, turns = self.opened()
        read = getattr(self.source, "read_batch", None)
        stacked: Stacked | None = None if read is None else read(order[indices])
        if stacked is None:
            return None
        ids = tuple(
            [_named(name, turn) for name, turn in zip(stacked.ids, turns[indices].tolist(), strict=True)]
        )
        return Stacked(ids, stacked.image, stacked.label, stacked.source, stacked.notes)

    def sizes_all(self) -> NDArray[np.int64] | None:
        return self._listed("sizes")  # type: ignore[no-any-return]

    def labels_all(self) -> NDArray[np.int64] | None:
        return self._listed("labels")  # type: ignore[no-any-return]

    def multilabels_all(self) -> NDArray[Any] | None:
        return self._listed("multilabels")  # type: ignore[no-any-return]

    def classes(self) -> tuple[str, ...]:
        return tuple(_asked(self.source, "classes") or ())

    def check(self) -> list[str]:
        notes = list(_asked(self.source, "check") or [])
        before, after = len(self.source), self.count()
        return [*notes, f"{self!r}: {after:,} samples from {before:,}"] if after != before else notes

    def _listed(self, name: str) -> Any:
        found = _asked(self.source, name)
        return None if found is None else found[self.opened()[0]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"


def _named(name: str, turn: int) -> str:
    return f"{name}#{turn + 1}" if turn else name


@dataclass(frozen=True, kw_only=True, repr=False)
class Repeat(_Listed):
    """The whole source `times` times: longer epochs for a small set. (mmclassification: RepeatDataset.)"""

    source: Readable
    times: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(type(self.times) is int and self.times >= 1, "times is a whole number above 0", self.times)

    def order(self) -> NDArray[np.int64]:
        return np.tile(np.arange(len(self.source)), self.times)


@dataclass(frozen=True, kw_only=True, repr=False)
class ClassBalanced(_Listed):
    """Each sample ceil(r) times, with r the greatest max(1, sqrt(threshold / f)) of its classes.

    f: the share of the samples that have the class. A sample of no class stands once.
    threshold: classes that fewer samples have are repeated.
    Source: Gupta et al., "LVIS", 2019, repeat factor sampling; mmclassification, ClassBalancedDataset.
    """

    source: Readable
    threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.threshold <= 1, "threshold is a share, above 0 and at most 1", self.threshold)

    def factors(self) -> NDArray[np.float64]:
        """(n,) r of every sample of the source."""
        found, n = presence(self.source), len(self.source)
        share = np.bincount(found.label) / n
        with np.errstate(divide="ignore"):
            of_class = np.maximum(1.0, np.sqrt(self.threshold / share))
        factors = np.ones(n)
        np.maximum.at(factors, found.sample, of_class[found.label])
        return factors

    def order(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.source)), np.ceil(self.factors()).astype(np.int64))


@dataclass(frozen=True, kw_only=True, repr=False)
class Balanced(_Listed):
    """Samples of one class each, repeated until all classes are equally frequent; no sample is left out.

    power: 1 makes them equal; 0 leaves them; between, a class with the share q of the greatest one's samples gets
        the share q ** (1 - power) (0.5: square-root sampling, Mahajan et al. 2018).
    key: which samples of a class stand once more than others, where the number does not come out even.
    """

    source: Readable
    power: float = 1.0
    key: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.power <= 1, "power lies between 0 and 1", self.power)

    def order(self) -> NDArray[np.int64]:
        labels = _asked(self.source, "labels")
        if labels is None:
            raise DataError(
                f"{self.source!r} has no single label per sample, so its classes cannot be made equally frequent; "
                "ClassBalanced works with several labels each"
            )
        counts = np.bincount(labels[labels >= 0])
        most = counts.max(initial=0)
        pieces = [np.flatnonzero(labels < 0)]
        for label in np.flatnonzero(counts).tolist():
            members = np.flatnonzero(labels == label)
            wanted = max(len(members), math.floor(most * (len(members) / most) ** (1 - self.power) + 0.5))
            whole, rest = divmod(wanted, len(members))
            more = permutation(fold(self.key, "balanced", label), len(members))[:rest]
            pieces += [np.tile(members, whole), members[np.sort(more)]]
        return np.concatenate(pieces)
