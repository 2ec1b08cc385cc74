"""Evaluation: every sample once, and the same numbers to the last bit at any number of processes.

Whole batches are dealt out (`Deal`), so each is computed as one process would; what they gave is gathered once, at
the end, and put together in the order of the stream.

`evaluating(task)` puts a task in evaluation mode and gives back its mode and the random state afterwards, so that an
evaluation leaves no trace in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from visloom import dist
from visloom.contract import check_predictions
from visloom.errors import DataError
from visloom.loader import Loader, Plan
from visloom.module import TaskModule
from visloom.run import Host
from visloom.stream import Leaf, Stream
from visloom.task import Losses, Progress, TaskSpec
from visloom.tickets import Tickets

if TYPE_CHECKING:
    from visloom.metrics import Metric


@dataclass
class Evaluation:
    """What one evaluation found.

    values: every reported number by name.  tables: confusion matrix, per-class table, ... by name.
    count: samples.  seconds: wall time.
    records: (goodness in [0, 1], position in the stream) of the worst and the best samples, if the task says
        how good a prediction is (`goodness(predictions, batch)` of the spec); worst first.
    notes: what the data side wants told.  metrics: as they are at the end, if they were to be kept.
    """

    values: dict[str, float]
    tables: dict[str, Any]
    count: int
    seconds: float
    records: list[tuple[float, int]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Deal(Stream):
    """Every `world`-th batch of an evaluation stream, from batch `rank` on: the share of one process.

    Batches stay whole. Cut into parts they would be computed by other kernels, which round differently.
    """

    stream: Stream
    rank: int = 0
    world: int = 1

    @property
    def batch(self) -> int:
        """Samples of a batch, all of them in one process."""
        return self.stream.batch

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this process; 0 where there are fewer batches than processes."""
        return len(range(self.rank, self.stream.steps_per_epoch, self.world))

    def leaves(self) -> tuple[Leaf, ...]:
        """The sources of the whole stream."""
        return self.stream.leaves()

    def tickets(self, step: int) -> Tickets:
        """The tickets of this process's batch number `step`."""
        return self.stream.tickets(self.place(step))

    def place(self, step: int) -> int:
        """Where this process's batch number `step` stands in the whole stream."""
        return self.rank + step * self.world

    def samples(self) -> int:
        """Samples of the whole stream."""
        return sum(len(self.stream.tickets(step)) for step in range(self.stream.steps_per_epoch))


def share_of(stream: Stream, spec: TaskSpec, host: Host, device: torch.device) -> Loader:
    """Return the batches of an evaluation stream that this process computes."""
    world = dist.world()
    deal = Deal(stream=stream, rank=world.rank, world=world.size)
    return Loader(Plan(deal, spec, seed=None), host, device, deal.steps_per_epoch)


class _Row(NamedTuple):
    """What one batch gave, on the device: its place in the stream, losses, their weight, goodness per sample."""

    place: int
    losses: dict[str, Tensor]
    weight: Tensor | None
    goodness: Tensor | None  # (B,) in [0, 1]


@contextmanager
def evaluating(task: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode and the random state come back afterwards."""
    modes = [(module, module.training) for module in task.modules()]
    state = torch.default_generator.get_state()
    task.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        torch.default_generator.set_state(state)


def run_evaluation(
    task: TaskModule,
    spec: TaskSpec,
    loader: Loader,
    *,
    autocast: AbstractContextManager[Any],
    losses: bool = True,
    keep: bool = False,
    progress: Progress | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a task, together with the other processes.

    Args:
        loader: what `share_of` returned for an Ordered stream.
        losses: also average the loss terms over the samples, weighted by `Losses.count`.
        keep: return the metrics too, with all that they remember of the samples.
        progress: where training stands, for losses that depend on it.
        tick: told (batches done, batches in all), for progress; it may raise to interrupt.
    Raises:
        DataError: a sample was evaluated twice, or not at all.
    """
    began = perf_counter()
    deal = loader.plan.stream
    assert isinstance(deal, Deal)
    metrics = spec.metrics()
    rows: list[_Row] = []
    ids: list[str] = []
    judge = getattr(spec, "goodness", None)
    notes: tuple[str, ...] = ()
    batches = loader.open(0)
    try:
        with evaluating(task):
            for number in range(loader.stop):
                batch = next(batches)
                batch.progress = progress
                with autocast:
                    found, predictions = task.assess(batch) if losses else (None, task.predict(batch))
                check_predictions(type(task).__name__, predictions, len(batch))
                for metric in metrics.values():
                    metric.update(predictions, batch)
                goodness = None if judge is None else judge(predictions, batch).float()
                rows.append(_row(deal.place(number), found, goodness))
                ids.extend(batch.ids)
                notes += batch.notes
                if tick is not None:
                    tick(number + 1, loader.stop)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    parts = dist.gather((_on_host(rows), ids, notes, loader.stop == deal.steps_per_epoch))
    whole = all(done for *_, done in parts)  # a rehearsal ends earlier
    count = _assert_ids([name for _, part, *_ in parts for name in part], deal.samples() if whole else None)
    rows = sorted((row for part, *_ in parts for row in part), key=lambda row: row.place)
    values = _merge(metrics)
    if losses:
        values = {**_mean_losses(rows), **values}
    tables = {name: table for metric in metrics.values() for name, table in _tables(metric).items()}
    told = tuple(dict.fromkeys(note for _, _, part, _ in parts for note in part))
    records = _records(rows, deal.batch) if judge else []
    kept = metrics if keep else {}
    return Evaluation(values, tables, count, perf_counter() - began, records, told, kept)


def _row(place: int, found: Losses | None, goodness: Tensor | None) -> _Row:
    if found is None:
        return _Row(place, {}, None, goodness)
    count = found.count.double() if found.count.device.type != "mps" else found.count.float()
    share = count.where(count > 0, 1)  # a batch without items gives its plain sum, as `dist.normaliser` does
    terms = {name: value.detach().to(count.dtype) * share for name, value in found.terms.items()}
    return _Row(place, terms, count, goodness)


def _on_host(rows: Sequence[_Row]) -> list[_Row]:
    """Bring what the batches gave to the host, in a few copies."""
    if not rows:
        return []
    scalars = [v.reshape(()) for row in rows for v in (*row.losses.values(), row.weight) if v is not None]
    values = iter(torch.stack(scalars).tolist()) if scalars else iter(())
    lengths = [0 if row.goodness is None else len(row.goodness) for row in rows]
    judged = [row.goodness for row in rows if row.goodness is not None]
    goodness = torch.split(torch.cat(judged).cpu(), lengths) if judged else [None] * len(rows)
    return [
        _Row(
            row.place,
            {name: next(values) for name in row.losses},
            None if row.weight is None else next(values),
            good,
        )
        for row, good in zip(rows, goodness, strict=True)
    ]


def _mean_losses(rows: Sequence[_Row]) -> dict[str, float]:
    """Means over all batches, added up in the order of the stream."""
    sums: dict[str, float] = {}
    weight = 0.0
    for row in rows:
        weight += float(row.weight or 0.0)
        for name, value in row.losses.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    means = {f"loss/{name}": sums[name] / (weight or 1.0) for name in sorted(sums)}
    return {"loss": sum(means.values()), **(means if len(means) > 1 else {})}


def _merge(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """One gather at the end; never a collective while samples are being predicted."""
    states = dist.gather({name: metric.state() for name, metric in metrics.items()}) if metrics else []
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        if len(states) > 1:
            metric.merge([state[name] for state in states])
        values.update(metric.compute())
    return values


def _tables(metric: Metric) -> dict[str, Any]:
    tables = getattr(metric, "tables", None)
    return dict(tables()) if tables is not None else {}


def _assert_ids(ids: Sequence[str], expected: int | None) -> int:
    """Return how many samples there were; each must have been there once, and all of them."""
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(
            f"two samples of the evaluation share the id {twice!r}: ids must be unique within a source"
        )
    if expected is not None and len(ids) != expected:
        raise DataError(
            f"the evaluation has {expected} samples and {len(ids)} came: some were lost among the processes, which "
            f"is a bug in Visloom"
        )
    return len(ids)


def _records(rows: Sequence[_Row], batch: int, keep: int = 48) -> list[tuple[float, int]]:
    """The worst and the best samples: (goodness, position in the stream), worst first."""
    judged = [(row.place * batch, row.goodness) for row in rows if row.goodness is not None]
    if not judged:
        return []
    values = torch.cat([good for _, good in judged]).nan_to_num(nan=0.0)  # a broken prediction is no good one
    positions = torch.cat([start + torch.arange(len(good)) for start, good in judged])
    order = torch.argsort(values, stable=True)
    chosen = order if len(order) <= 2 * keep else torch.cat([order[:keep], order[-keep:]])
    return [(float(values[i]), int(positions[i])) for i in chosen.tolist()]
