"""Evaluation: every sample once, losses and metrics exact at any batch size and any number of processes.

`evaluating(task)` puts a task in evaluation mode and gives back its mode and the random state afterwards, so that an
evaluation leaves no trace in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visloom import dist
from visloom.contract import check_predictions
from visloom.errors import DataError
from visloom.loader import Loader
from visloom.module import TaskModule
from visloom.task import Losses, Progress, TaskSpec

if TYPE_CHECKING:
    from visloom.metrics import Metric


@dataclass
class Evaluation:
    """What one evaluation found.

    values: every reported number by name.  tables: confusion matrix, per-class table, ... by name.
    count: samples.  seconds: wall time.
    records: (goodness in [0, 1], position in the stream) of the worst and the best samples, if the task says
        how good a prediction is (`goodness(predictions, batch)` of the spec); worst first.
    notes: what the data side wants told.
    """

    values: dict[str, float]
    tables: dict[str, Any]
    count: int
    seconds: float
    records: list[tuple[float, int]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


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
    progress: Progress | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a task on an Ordered stream.

    Args:
        losses: also average the loss terms over the samples, weighted by `Losses.count`.
        progress: where training stands, for losses that depend on it.
        tick: told (batches done, batches in all), for progress; it may raise to interrupt.
    """
    began = perf_counter()
    metrics = spec.metrics()
    sums: dict[str, Tensor] = {}
    ids: list[str] = []
    goodness: list[Tensor] = []
    judge = getattr(spec, "goodness", None)
    weight: Tensor | None = None
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
                if judge is not None:
                    goodness.append(judge(predictions, batch).float())
                ids.extend(batch.ids)
                notes += batch.notes
                if found is not None:
                    weight = _accumulate(sums, found, weight)
                if tick is not None:
                    tick(number + 1, loader.stop)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    values = _merge(metrics)
    if losses:
        values = {**_mean_losses(sums, weight), **values}
    tables = {name: table for metric in metrics.values() for name, table in _tables(metric).items()}
    count = _assert_ids(ids)
    records = _records(goodness, loader) if goodness and dist.world().size == 1 else []
    return Evaluation(values, tables, count, perf_counter() - began, records, notes)


def _accumulate(sums: dict[str, Tensor], found: Losses, weight: Tensor | None) -> Tensor:
    count = found.count.double() if found.count.device.type != "mps" else found.count.float()
    share = count.where(count > 0, 1)  # a batch without items gives its plain sum, as `dist.normaliser` does
    for name, value in found.terms.items():
        term = value.detach().to(count.dtype) * share
        sums[name] = sums[name] + term if name in sums else term
    return count if weight is None else weight + count


def _mean_losses(sums: dict[str, Tensor], weight: Tensor | None) -> dict[str, float]:
    """Means over all processes; one that got no sample has no weight."""
    own = {name: float(value) for name, value in sums.items()}, 0.0 if weight is None else float(weight)
    parts = dist.gather(own)
    total = sum(w for _, w in parts) or 1.0
    names = sorted({name for part, _ in parts for name in part})
    means = {f"loss/{n}": sum(part.get(n, 0.0) for part, _ in parts) / total for n in names}
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


def _assert_ids(ids: list[str]) -> int:
    everyone = [name for part in dist.gather(ids) for name in part]
    if len(set(everyone)) != len(everyone):
        seen: set[str] = set()
        twice = next(name for name in everyone if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(
            f"two samples of the evaluation share the id {twice!r}: ids must be unique within a source"
        )
    return len(everyone)


def _records(goodness: list[Tensor], loader: Loader, keep: int = 48) -> list[tuple[float, int]]:
    values = torch.cat(goodness).nan_to_num(nan=0.0)  # a broken prediction is no good one
    order = torch.argsort(values, stable=True)
    chosen = order if len(order) <= 2 * keep else torch.cat([order[:keep], order[-keep:]])
    return [(float(values[i]), int(i)) for i in chosen.tolist()]
