"""Contract: what a user's classes must return, and a trial that asks them all before the first step.

`try_out` takes a few samples of every stream through collate, forward, predict, metrics and draw, in evaluation mode
and without a trace in the weights or the random state: what would fail hours later, at the first evaluation, fails now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visloom.errors import ConfigError, ContractError, VisloomError
from visloom.metrics import Metric
from visloom.task import Batch, Losses

if TYPE_CHECKING:
    from visloom.loader import Plan
    from visloom.module import TaskModule
    from visloom.run import Eval
    from visloom.task import Progress, TaskSpec


# ------------------------------------------------------------------------------------------------- single checks


def check_losses(name: str, losses: Any) -> None:
    """Raise ContractError, in words, unless a forward returned Losses of 0-dim tensors.

    Where gradients are recorded, at least one term must have one.
    """
    if not isinstance(losses, Losses):
        raise ContractError(
            f"{name}.forward returned {type(losses).__name__}, expected visloom.Losses(terms={{name: 0-dim tensor}}, "
            f"logs={{...}}, count=0-dim tensor)",
            path="task",
        )
    for part, values in (("terms", losses.terms), ("logs", losses.logs)):
        if not isinstance(values, Mapping):
            raise ContractError(
                f"{name}.forward: {part} is {type(values).__name__}, expected a dict of 0-dim tensors by name",
                path="task",
            )
    if not losses.terms:
        raise ContractError(
            f"{name}.forward returned no loss terms: there is nothing to minimise", path="task"
        )
    for part, values in (("terms", losses.terms), ("logs", losses.logs), ("count", {"": losses.count})):
        for key, value in values.items():
            if not isinstance(value, Tensor) or value.ndim != 0:
                is_tensor = isinstance(value, Tensor)
                what = f"a tensor of shape {tuple(value.shape)}" if is_tensor else repr(type(value))
                raise ContractError(
                    f"{name}.forward: {part}{f'[{key!r}]' if key else ''} is {what}, expected a 0-dim tensor",
                    path="task",
                )
    if torch.is_grad_enabled() and not any(value.requires_grad for value in losses.terms.values()):
        raise ContractError(
            f"{name}.forward: no term has a gradient ({', '.join(losses.terms)}), expected losses that are computed "
            f"from the parameters, without detach or no_grad",
            path="task",
        )


def check_batch(name: str, batch: Any, size: int) -> None:
    """Raise ContractError unless a collate returned a Batch of `size` samples."""
    if not isinstance(batch, Batch):
        raise ContractError(
            f"{name}.collate returned {type(batch).__name__}, expected a subclass of visloom.task.Batch (a "
            f"dataclass of tensors with `ids`)",
            path="task",
        )
    if len(batch.ids) != size:
        raise ContractError(
            f"{name}.collate: the batch has {len(batch.ids)} ids for {size} samples, expected one each",
            path="task",
        )


def check_predictions(name: str, predictions: Any, size: int) -> None:
    """Raise ContractError unless a predict returned named columns of `size` entries, "ids" among them."""
    if not isinstance(predictions, Mapping) or "ids" not in predictions:
        raise ContractError(
            f"{name}.predict returned {type(predictions).__name__}, expected a dict of columns with 'ids' among "
            f"them",
            path="task",
        )
    for column, values in predictions.items():
        if not hasattr(values, "__len__"):
            raise ContractError(
                f"{name}.predict: column {column!r} is {type(values).__name__}, expected one entry per sample",
                path="task",
            )
        if len(values) != size:
            raise ContractError(
                f"{name}.predict: column {column!r} has {len(values)} entries for {size} samples", path="task"
            )


def check_metrics(name: str, metrics: Any) -> None:
    """Raise ContractError unless a spec's `metrics()` returned named metrics."""
    if not isinstance(metrics, Mapping):
        raise ContractError(
            f"{name}.metrics returned {type(metrics).__name__}, expected a dict of metrics by name",
            path="task",
        )
    for key, metric in metrics.items():
        lacking = [part for part in _METRIC if not hasattr(metric, part)]
        if lacking:
            raise ContractError(
                f"{name}.metrics: {key!r} is {type(metric).__name__}, which has no {', '.join(lacking)}; a metric "
                f"has {', '.join(_METRIC)}",
                path="task",
            )


_METRIC = tuple(sorted(name for name in vars(Metric) if not name.startswith("_")))


# --------------------------------------------------------------------------------------------------------- trial


def try_out(
    task: TaskModule,
    spec: TaskSpec,
    train: Plan,
    evals: Mapping[str, tuple[Plan, Eval]],
    *,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    progress: Progress,
    draws: bool = False,
) -> list[str]:
    """Take a few samples of every stream through a task, and return warnings.

    Args:
        draws: the run draws predictions: try that too.
    Raises:
        ContractError: names the method, what came back and what was expected.
        DataError: a sample cannot be read or joined.
        ConfigError: a monitor names a value that is not reported.
        Whatever else the task's own code raises, with a note of what was tried.
    """
    from visloom.evaluation import evaluating

    name, warnings = type(task).__name__, []
    with evaluating(task), autocast:
        batch, _ = _few(train, device, progress)
        with _trying(f"{name}.forward", "training samples"):
            check_losses(name, task(batch))
        for key, (plan, setting) in evals.items():
            warnings += _try_evaluation(task, spec, plan, setting, key, device, progress)
            if draws and hasattr(spec, "goodness"):  # what tells the samples that are worth a picture
                _try_drawing(task, spec, plan, key, device)
    return warnings


def _try_evaluation(
    task: TaskModule,
    spec: TaskSpec,
    plan: Plan,
    setting: Eval,
    key: str,
    device: torch.device,
    progress: Progress,
) -> list[str]:
    name, on = type(task).__name__, f"samples of evals.{key}"
    batch, samples = _few(plan, device, progress)
    losses = None
    if setting.losses:
        with _trying(f"{name}.assess (forward and predict)", on):
            losses, predictions = task.assess(batch)
        check_losses(name, losses)
    else:
        with _trying(f"{name}.predict", on):
            predictions = task.predict(batch)
    check_predictions(name, predictions, len(samples))
    if list(predictions["ids"]) != list(batch.ids):
        raise ContractError(
            f"{name}.predict: column 'ids' is {_some(predictions['ids'])}, expected the batch's, in its order: "
            f"{_some(batch.ids)}",
            path="task",
        )
    metrics = spec.metrics()
    check_metrics(type(spec).__name__, metrics)
    if setting.monitor is not None:
        reported = [value for metric in metrics.values() for value in metric.names]
        if losses is not None:
            reported += ["loss", *(f"loss/{term}" for term in losses.terms if len(losses.terms) > 1)]
        require_reported(key, setting, reported)
    judge = getattr(spec, "goodness", None)
    if judge is not None:
        with _trying(f"{type(spec).__name__}.goodness", on):
            goodness = judge(predictions, batch)
        if not isinstance(goodness, Tensor) or goodness.shape != (len(batch),):
            what = tuple(goodness.shape) if isinstance(goodness, Tensor) else type(goodness).__name__
            raise ContractError(
                f"{type(spec).__name__}.goodness returned {what}, expected a tensor of shape ({len(batch)},)",
                path="task",
            )
    return [
        line for each, metric in metrics.items() for line in _try_metric(each, metric, predictions, batch, on)
    ]


def _try_metric(key: str, metric: Metric, predictions: Any, batch: Batch, on: str) -> list[str]:
    with _trying(f"{type(metric).__name__}.update (metric {key!r})", on):
        metric.update(predictions, batch)
        metric.state()
    try:
        values = metric.compute()
    except Exception as error:  # so few samples may be too few for it: no reason to refuse the run
        return [
            f"metric {key!r} has no value for {len(batch)} samples ({type(error).__name__}: {error}); if that is "
            f"not because they are few, the first evaluation will fail"
        ]
    if not isinstance(values, Mapping) or set(values) != set(metric.names):
        got = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise ContractError(
            f"{type(metric).__name__}.compute returned {got}, expected a number for each of its names: "
            f"{', '.join(metric.names)}",
            path="task",
        )
    with _trying(f"{type(metric).__name__}.merge (metric {key!r})", on):
        metric.merge([metric.state()])  # as several processes do at the end of an evaluation
        merged = metric.compute()
    if repr(merged) != repr(values):  # repr: NaN is NaN
        raise ContractError(
            f"{type(metric).__name__}.merge: with the own state alone the values become {merged}, expected {values} as "
            f"before",
            path="task",
        )
    return []


def _try_drawing(task: TaskModule, spec: TaskSpec, plan: Plan, key: str, device: torch.device) -> None:
    from visloom.pictures import predict_one, read_at

    sample = read_at(plan.stream, 0)
    with _trying(f"{type(spec).__name__}.draw", f"samples of evals.{key}"):
        picture = spec.draw(sample.image, predict_one(task, spec, sample, device), sample)
    if not hasattr(picture, "save"):
        raise ContractError(
            f"{type(spec).__name__}.draw returned {type(picture).__name__}, expected a PIL image", path="task"
        )


def _few(plan: Plan, device: torch.device, progress: Progress) -> tuple[Batch, Sequence[Any]]:
    """The first samples of a stream's first step, two or so of every part, as a batch on the device."""
    from visloom.loader import collated

    tickets = plan.stream.tickets(0)
    few = tickets.shard(0, max(1, min(tickets.parts) // 2))
    samples = plan.stream.load(few)
    batch = collated(plan.spec, samples, plan.key(0, 0)).to(device)
    batch.progress = progress
    return batch, samples


def _some(ids: Sequence[Any]) -> str:
    """The first three of some ids, for a message."""
    return ", ".join(repr(name) for name in list(ids)[:3]) + (", ..." if len(ids) > 3 else "")


def require_reported(key: str, setting: Eval, reported: Sequence[str]) -> str:
    """Return the value that evaluation `key` monitors, without the evaluation's name before it.

    Raises ConfigError if it is not reported.
    """
    assert setting.monitor is not None
    wanted = setting.monitor.name.removeprefix(f"{key}/")
    if wanted not in reported:
        raise ConfigError(
            f"evals.{key}.monitor names {wanted!r}, which is not reported; there is: {', '.join(reported)}",
            path=f"evals.{key}.monitor",
        )
    return wanted


@contextmanager
def _trying(what: str, on: str) -> Iterator[None]:
    """Tell, in an error of the user's own code, what was tried; its traceback stays what they need most."""
    try:
        yield
    except VisloomError:
        raise
    except Exception as error:
        error.add_note(f"This happened before the first step, when {what} was tried on a few {on}.")
        raise
