"""Streams: `tickets(step)` says exactly which samples, with which random keys, make the batch of that step.

A stream is a function of the step and has no cursor, so there is no position to save or to lose: worker count,
start method, resume point and world size cannot change the data.

    Source    numbered samples: `len`, `read(index)`                         (data sets derive from it)
    Shuffled  one source, a fresh permutation each epoch
    Mixture   several annotated sources, one per step or mixed in a batch     (unified parsing)
    Pair      two streams, a part of every batch each                        (domain adaptation)
    Ordered   each sample exactly once, in order                             (evaluation)

A ticket is (source, index, key). `key = fold(seed, source, ordinal)`, where ordinal is the running position in that
source's endless stream, so a sample drawn twice gets two augmentations. The lowest bit of a key is not random: it
alternates from one turn of a sample to the next, which is what an alternating flip needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from visloom.errors import ConfigError, DataError
from visloom.keys import fold, fold_array, permutation, uniforms
from visloom.source import Cached, Source, Split
from visloom.tickets import Ticket, Tickets, subkey, subkeys

if TYPE_CHECKING:
    from visloom.sample import Sample, Stacked

_LOW = np.uint64(1)


__all__ = [
    "Leaf",
    "Mixture",
    "Ordered",
    "Pair",
    "Readable",
    "Shuffled",
    "Source",
    "Split",
    "Stream",
    "Ticket",
    "Tickets",
    "Transform",
    "load_one",
    "rooted",
    "subkey",
    "subkeys",
    "walk_sources",
]


class Readable(Protocol):
    """Numbered samples: a `Source`, or a class of one's own with these two methods."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Read one sample."""
        ...


class Transform(Protocol):
    """A change of one sample, drawn from a key. Transforms with `batch(images, keys)` also serve whole arrays."""

    def __call__(self, sample: Sample, key: int) -> Sample: ...


class Leaf(NamedTuple):
    """A source with its transforms: what `Ticket.source` counts."""

    source: Any
    transform: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Stream(Cached):
    """Base of streams. `seed` is mixed with the run's seed when the run starts; `epoch` overrides the number of
    steps that are called one epoch."""

    seed: int = 0

    if TYPE_CHECKING:  # a field in some subclasses, a property in others

        @property
        def batch(self) -> int:
            """Samples per step, over all processes."""
            ...

    @property
    def steps_per_epoch(self) -> int:
        """Steps that make one epoch."""
        raise TypeError(f"{type(self).__name__} must define steps_per_epoch")

    def leaves(self) -> tuple[Leaf, ...]:
        """The sources of the stream with their transforms, in the order that `Ticket.source` counts."""
        raise TypeError(f"{type(self).__name__} must define leaves()")

    def tickets(self, step: int) -> Tickets:
        """Return the tickets of step `step` (0-based), for all processes together."""
        raise TypeError(f"{type(self).__name__} must define tickets(step)")

    def shares(self) -> dict[str, float]:
        """Expected share of each source that steps (or samples) are drawn from, by name; {} where none is drawn."""
        return {}

    def drawn(self, step: int) -> dict[str, int]:
        """How often each source was drawn in the first `step` steps, by the names of `shares()`.

        A function of the step, as everything here: a resumed run counts on as if nothing had happened.
        """
        return {}

    def check_world(self, world: int, accumulate: int = 1) -> None:
        """Raise ConfigError if a part of the batch cannot be divided among processes and micro-batches."""
        last = self.steps_per_epoch - 1
        lengths = [(at, length) for at in (0, last) for length in self.tickets(at).parts]
        for step, length in lengths:
            if length % (world * accumulate):
                which = "the" if step == 0 else "the epoch's last"
                raise ConfigError(
                    f"a part of {which} batch has {length} samples, which {world} process(es) x {accumulate} "
                    f"micro-batch(es) do not divide; choose a batch that is a multiple of {world * accumulate}",
                    path="train",
                )

    def load(self, tickets: Tickets, note: Callable[[int], None] | None = None) -> Sequence[Sample]:
        """Read and transform the samples of some tickets, as one array where the source lies in memory.

        note: told the position of each sample before it is read, so that a hung or dead worker can be asked
            which sample it was at.
        """
        leaves = self.leaves()
        stacked = self._load_stacked(leaves, tickets)
        if stacked is not None:
            return stacked
        samples = []
        for position, ticket in enumerate(tickets):
            if note is not None:
                note(position)
            samples.append(load_one(leaves, ticket))
        return samples

    def in_memory(self) -> bool:
        """Say whether whole batches come from memory in one gather, so that workers would only cost time."""
        tickets = self.tickets(0)
        return self._load_stacked(self.leaves(), tickets.shard(0, max(1, len(tickets)))) is not None

    def _load_stacked(self, leaves: tuple[Leaf, ...], tickets: Tickets) -> Stacked | None:
        if not len(tickets) or (tickets.source != tickets.source[0]).any():
            return None
        number = int(tickets.source[0])
        leaf = leaves[number]
        batchers = [getattr(t, "batch", None) for t in leaf.transform]
        read_batch: Callable[..., Stacked | None] | None = getattr(leaf.source, "read_batch", None)
        if read_batch is None or not all(callable(b) for b in batchers):
            return None
        stacked = read_batch(tickets.index)
        if stacked is None:
            return None
        image = stacked.image
        for position, batcher in enumerate(batchers):
            image = batcher(image, subkeys(tickets.key, position))  # type: ignore[misc]
        return dataclasses.replace(stacked, image=image, source=number)


def applied(transform: Transform, sample: Any, key: int) -> Any:
    """Apply one transform. One that does not say `geometric = True` sees pending geometry already applied."""
    if getattr(sample, "pending", None) is not None and not getattr(transform, "geometric", False):
        sample = sample.resolve()
    return transform(sample, key)


def load_one(leaves: tuple[Leaf, ...], ticket: Ticket) -> Sample:
    """Read and transform one sample; a failure names the source, the index and the sample."""
    leaf = leaves[ticket.source]
    sample = None
    try:
        sample = leaf.source.read(ticket.index)
        for position, transform in enumerate(leaf.transform):
            sample = applied(transform, sample, subkey(ticket.key, position))
        resolve = getattr(sample, "resolve", None)
        if resolve is not None:
            sample = resolve()
        sample.source = ticket.source
        return sample  # type: ignore[no-any-return]
    except DataError as error:
        raise DataError(f"{error} [{_where(leaf, ticket, sample)}]") from error
    except Exception as error:
        raise DataError(f"{_where(leaf, ticket, sample)}: {type(error).__name__}: {error}") from error


def _where(leaf: Leaf, ticket: Ticket, sample: Any) -> str:
    name = f", id {sample.id!r}" if sample is not None and hasattr(sample, "id") else ""
    return f"source {ticket.source} ({type(leaf.source).__name__}), sample {ticket.index}{name}"


@lru_cache(maxsize=16)
def _order(key: int, n: int, shuffle: bool) -> NDArray[np.int64]:
    return permutation(key, n) if shuffle else np.arange(n)


@dataclass(frozen=True, kw_only=True)
class Shuffled(Stream):
    """One source in a fresh order each epoch.

    batch: samples per step, over all processes.
    transform: applied in order, each under its own key.
    tail: the last samples of an epoch that do not fill a batch are left out ("drop"), come as a short batch
        ("keep"), or are joined with the next epoch's first ones ("wrap").
    group: "orientation" makes batches of landscape or of portrait images only (needs `sizes()`); the share of each
        is exact over epochs and no sample is lost: what does not fill a batch waits for the next epoch.
    """

    source: Readable
    batch: int  # type: ignore[misc]
    transform: tuple[Transform, ...] = ()
    group: Literal["none", "orientation"] = "none"
    tail: Literal["drop", "keep", "wrap"] = "drop"
    shuffle: bool = True
    epoch: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    @property
    def steps_per_epoch(self) -> int:
        if self.epoch is not None:
            return self.epoch
        n, batch = self._length(), self.batch
        return (
            -(-n // batch) if self.tail in ("keep", "wrap") and self.group == "none" else max(1, n // batch)
        )

    def leaves(self) -> tuple[Leaf, ...]:
        return (Leaf(self.source, self.transform),)

    def tickets(self, step: int) -> Tickets:
        if self.group == "orientation":
            return self._grouped(step)
        n, batch = self._length(), self.batch
        if self.tail == "wrap":
            return self.at(np.arange(step * batch, (step + 1) * batch), 0)
        steps = -(-n // batch) if self.tail == "keep" else n // batch
        turn, place = divmod(step, steps)
        start = turn * n + place * batch
        return self.at(np.arange(start, min(start + batch, (turn + 1) * n)), 0)

    def at(self, ordinals: NDArray[np.int64], number: int) -> Tickets:
        """Return the tickets at running positions of this source's endless stream, as source `number`.

        ordinals: (B,) int64, non-decreasing. An epoch of the endless stream is every sample once.
        """
        n = self._length()
        turns, places = np.divmod(ordinals, n)
        index = np.empty(len(ordinals), np.int64)
        for turn in np.unique(turns):
            here = turns == turn
            index[here] = _order(fold(self.seed, "order", int(turn)), n, self.shuffle)[places[here]]
        return self._issue(index, ordinals, turns, number)

    def _issue(
        self, index: NDArray[np.int64], ordinals: NDArray[np.int64], turns: NDArray[np.int64], number: int
    ) -> Tickets:
        keys = fold_array(fold(self.seed, "sample"), ordinals)
        first = fold_array(fold(self.seed, "phase"), index)
        keys = (keys & ~_LOW) | ((first + turns.astype(np.uint64)) & _LOW)
        return Tickets(np.full(len(index), number, np.int32), index, keys, (len(index),))

    def _length(self) -> int:
        if "_n" not in self.__dict__:
            n = len(self.source)
            if n == 0:
                raise DataError(f"{self.source!r} has no samples: check its folder, split and limit")
            if self.tail == "drop" and n < self.batch:
                raise DataError(
                    f"{self.source!r} has {n} samples, fewer than one batch of {self.batch}: "
                    f'choose a smaller batch, or tail="wrap"'
                )
            object.__setattr__(self, "_n", n)
        return self.__dict__["_n"]  # type: ignore[no-any-return]

    # ---- aspect grouping: a closed form, so that it needs no state either. Group g with n_g samples has made
    # floor(e * n_g / batch) batches by the end of epoch e; within an epoch the groups come in a keyed order.

    def _members(self) -> list[NDArray[np.int64]]:
        if "_groups" not in self.__dict__:
            sizes = getattr(self.source, "sizes", lambda: None)()
            if sizes is None:
                raise ConfigError(
                    f"group='orientation' needs the image sizes, which {type(self.source).__name__} does not know; "
                    f"give it sizes() or set group: none",
                    path="train.group",
                )
            wide = sizes[:, 1] >= sizes[:, 0]
            groups = [g for g in (np.flatnonzero(wide), np.flatnonzero(~wide)) if len(g)]
            object.__setattr__(self, "_groups", groups)
        return self.__dict__["_groups"]  # type: ignore[no-any-return]

    def _made(self, turn: int) -> list[int]:
        """Batches of each group that are done before epoch `turn`."""
        return [turn * len(g) // self.batch for g in self._members()]

    def _grouped(self, step: int) -> Tickets:
        n = self._length()
        turn = step * self.batch // n
        while sum(self._made(turn + 1)) <= step:  # at most as many times as there are groups
            turn += 1
        before, after = self._made(turn), self._made(turn + 1)
        plan = np.repeat(np.arange(len(before)), [b - a for a, b in zip(before, after, strict=True)])
        plan = plan[_order(fold(self.seed, "groups", turn), len(plan), self.shuffle)]
        place = step - sum(before)
        which = int(plan[place])
        number = before[which] + int((plan[:place] == which).sum())
        members = self._members()[which]
        ordinals = np.arange(number * self.batch, (number + 1) * self.batch)
        turns, places = np.divmod(ordinals, len(members))
        index = np.empty(self.batch, np.int64)
        for t in np.unique(turns):
            here = turns == t
            order = _order(fold(self.seed, "order", which, int(t)), len(members), self.shuffle)
            index[here] = members[order[places[here]]]
        return self._issue(index, ordinals * len(self._members()) + which, turns, 0)


@dataclass(frozen=True, kw_only=True)
class Mixture(Stream):
    """Several annotated sources, drawn with weights (unified perceptual parsing).

    parts: the streams, one per source.
    weights: "size" (in proportion to the number of samples), or one positive weight per part.
    scope: "step" takes a whole batch from one source, the same on every process; "sample" draws a source for
        each sample. A head that depends on the source and is idle on some processes would hang the exchange of
        gradients, hence "step" by default.
    epoch: steps that are called one epoch; by default as many as the parts' samples fill.
    """

    parts: tuple[Shuffled, ...]
    weights: Literal["size"] | tuple[float, ...] = "size"
    scope: Literal["step", "sample"] = "step"
    epoch: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a mixture needs at least one part")
        if self.weights != "size" and (len(self.weights) != len(self.parts) or min(self.weights) <= 0):
            raise ValueError(
                f"weights must be 'size' or {len(self.parts)} positive numbers, got {self.weights!r}"
            )
        if self.scope == "sample" and len({p.batch for p in self.parts}) > 1:
            raise ValueError("with scope='sample' all parts must name the same batch")

    @property
    def batch(self) -> int:
        return max(p.batch for p in self.parts)

    @property
    def steps_per_epoch(self) -> int:
        if self.epoch is not None:
            return self.epoch
        return max(1, sum(p._length() for p in self.parts) // self.batch)

    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(leaf for part in self.parts for leaf in part.leaves())

    def _share(self) -> NDArray[np.float64]:
        weights = [p._length() for p in self.parts] if self.weights == "size" else list(self.weights)
        return np.cumsum(np.asarray(weights, np.float64)) / float(sum(weights))

    def shares(self) -> dict[str, float]:
        return dict(zip(_names(self.parts), np.diff(self._share(), prepend=0.0).tolist(), strict=True))

    def drawn(self, step: int) -> dict[str, int]:
        """In the first `step` steps: steps of each source, or its samples with scope="sample"."""
        size = 1 if self.scope == "step" else self.batch
        counts = _draws(fold(self.seed, "mixture"), tuple(self._share().tolist()), step, size)[1]
        return dict(zip(_names(self.parts), counts.tolist(), strict=True))

    def tickets(self, step: int) -> Tickets:
        share = tuple(self._share().tolist())
        if self.scope == "step":
            which, earlier = _draws(fold(self.seed, "mixture"), share, step, 1)
            part = int(which[0])
            drawn = self._part(part).tickets(int(earlier[part]))
            return Tickets(np.full(len(drawn), part, np.int32), drawn.index, drawn.key, drawn.parts)
        which, earlier = _draws(fold(self.seed, "mixture"), share, step, self.batch)
        index = np.empty(self.batch, np.int64)
        key = np.empty(self.batch, np.uint64)
        for part in np.unique(which):
            here = which == part
            first = int(earlier[part])
            drawn = self._part(int(part)).at(np.arange(first, first + int(here.sum())), int(part))
            index[here], key[here] = drawn.index, drawn.key
        return Tickets(which.astype(np.int32), index, key, (self.batch,))

    def _part(self, number: int) -> Shuffled:
        """Part `number` under its own seed, so that two parts never share an order."""
        if "_parts" not in self.__dict__:
            seeded = tuple(
                dataclasses.replace(p, seed=fold(self.seed, "part", i, p.seed))
                for i, p in enumerate(self.parts)
            )
            object.__setattr__(self, "_parts", seeded)
        return self.__dict__["_parts"][number]  # type: ignore[no-any-return]


def _names(parts: Sequence[Shuffled]) -> list[str]:
    """Short names of parts: the first setting in which their sources differ, or their classes, numbered if need be."""
    sources = [part.source for part in parts]
    kinds = [type(source).__name__ for source in sources]
    if len(set(kinds)) == 1 and dataclasses.is_dataclass(sources[0]):
        fields = [field.name for field in dataclasses.fields(sources[0])]
        own = [name for name in fields if name not in ("root", "limit", "split")]
        for name in (*own, "root"):
            values = [getattr(source, name, None) for source in sources]
            words = [value.rstrip("/").rpartition("/")[2] for value in values if isinstance(value, str)]
            if all(words) and len(set(words)) == len(parts):
                return words
    return kinds if len(set(kinds)) == len(parts) else [f"{kind} {n}" for n, kind in enumerate(kinds)]


_BLOCK = 1 << 16


@lru_cache(maxsize=64)
def _block(key: int, share: tuple[float, ...], block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws number block * _BLOCK ... of a mixture, and how often each part was drawn up to the end of the block."""
    numbers = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
    which = np.searchsorted(np.asarray(share), uniforms(fold_array(key, numbers), 1)[:, 0], side="right")
    which = np.minimum(which, len(share) - 1).astype(np.int64)
    return which, np.bincount(which, minlength=len(share)).astype(np.int64)


@lru_cache(maxsize=64)
def _before(key: int, share: tuple[float, ...], block: int) -> NDArray[np.int64]:
    counts = np.zeros(len(share), np.int64)
    for earlier in range(block):
        counts += _block(key, share, earlier)[1]
    return counts


def _draws(
    key: int, share: tuple[float, ...], step: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sources of draws step*size ... and how often each was drawn before them.

    Counter-based: nothing is remembered but a cache. One million draws are counted again in under 0.1 s.
    """
    start, stop = step * size, (step + 1) * size
    block = start // _BLOCK
    counts = _before(key, share, block).copy()
    which = _block(key, share, block)[0]
    counts += np.bincount(which[: start - block * _BLOCK], minlength=len(share))
    pieces = [which[start - block * _BLOCK : stop - block * _BLOCK]]
    while (block + 1) * _BLOCK < stop:
        block += 1
        pieces.append(_block(key, share, block)[0][: stop - block * _BLOCK])
    return np.concatenate(pieces), counts


@dataclass(frozen=True, kw_only=True)
class Pair(Stream):
    """Two streams side by side: every step has a part of each (domain adaptation).

    `batch.source` tells them apart: 0... are the leaves of `source`, the numbers after those of `target`. An epoch
    is the source's, unless `epoch` says a number of steps.
    """

    source: Shuffled | Mixture
    target: Shuffled | Mixture
    epoch: int | None = None

    @property
    def batch(self) -> int:
        return self.source.batch + self.target.batch

    @property
    def steps_per_epoch(self) -> int:
        return self.epoch if self.epoch is not None else self.source.steps_per_epoch

    def leaves(self) -> tuple[Leaf, ...]:
        return (*self.source.leaves(), *self.target.leaves())

    def tickets(self, step: int) -> Tickets:
        source, target = self._halves()
        left, right = source.tickets(step), target.tickets(step)
        offset = len(self.source.leaves())
        moved = Tickets(right.source + np.int32(offset), right.index, right.key, right.parts)
        return Tickets.join([left, moved])

    def shares(self) -> dict[str, float]:
        return self._both_of("shares")

    def drawn(self, step: int) -> dict[str, int]:
        return self._both_of("drawn", step)

    def _both_of(self, method: str, *given: int) -> dict[str, Any]:
        """What both halves say, under "source" and "target" where both say something."""
        found: list[dict[str, Any]] = [getattr(half, method)(*given) for half in self._halves()]
        if not all(found):
            return found[0] or found[1]
        return {f"{half} {n}": v for half, each in zip(("source", "target"), found) for n, v in each.items()}

    def _halves(self) -> tuple[Stream, Stream]:
        if "_both" not in self.__dict__:
            both = tuple(
                dataclasses.replace(half, seed=fold(self.seed, name, half.seed))
                for name, half in (("source", self.source), ("target", self.target))
            )
            object.__setattr__(self, "_both", both)
        return self.__dict__["_both"]  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Ordered(Stream):
    """Each sample exactly once, in order, for evaluation: `len(stream)` steps, the last one may be short.

    Process r of W takes whole batches (`visloom.evaluation.Deal`): each sample is seen by one, and none is padded.
    """

    source: Readable
    batch: int  # type: ignore[misc]
    transform: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch)

    @property
    def steps_per_epoch(self) -> int:
        return len(self)

    def leaves(self) -> tuple[Leaf, ...]:
        return (Leaf(self.source, self.transform),)

    def tickets(self, step: int) -> Tickets:
        index = np.arange(step * self.batch, min((step + 1) * self.batch, len(self.source)))
        keys = fold_array(fold(self.seed, "sample"), index)
        return Tickets(np.zeros(len(index), np.int32), index, keys, (len(index),))


def rooted(value: Any, folder: Path | str) -> Any:
    """Return a copy of a stream (or any tree of dataclasses) whose sources start from a folder.

    A relative `root` is joined to the folder; an absolute one stays. Everything else is shared.
    """
    if isinstance(value, tuple):
        return tuple(rooted(item, folder) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        old = getattr(value, f.name)
        if f.name == "root" and isinstance(old, str):
            new: Any = str(Path(folder) / old)
        else:
            new = rooted(old, folder)
        if new is not old and f.init:
            changes[f.name] = new
    return dataclasses.replace(value, **changes) if changes else value


def walk_sources(stream: Stream) -> Iterator[Any]:
    """Yield each distinct source of a stream once."""
    seen: list[Any] = []
    for leaf in stream.leaves():
        if not any(leaf.source is s for s in seen):
            seen.append(leaf.source)
            yield leaf.source
