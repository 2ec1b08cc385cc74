"""The task protocol: a spec that knows the data's side, and a module whose forward returns named losses.

The spec (`TaskSpec`) is a value inside the Run; data workers see only this. `build()` makes the module
(`visloom.module.TaskModule`). The engine minimises the sum of `Losses.terms` and knows nothing else of a task.
This file imports no torch, so that specs and recipes stay quick to load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, device

    from visloom.metrics import Metric
    from visloom.module import TaskModule
    from visloom.sample import Sample


class Losses(NamedTuple):
    """What a task's forward returns, in training and in evaluation.

    terms: named 0-dim losses, minimised as their sum.
    logs: named 0-dim values for people (training accuracy, ...): averaged between log points, never minimised.
    count: 0-dim number of samples (or pixels, or boxes) that the means were taken over; it weights this batch
        when losses are averaged over an evaluation.
    """

    terms: dict[str, Tensor]
    logs: dict[str, Tensor]
    count: Tensor  # type: ignore[assignment]  # tuple has a method of that name


class Progress(NamedTuple):
    """Where training stands, as 0-dim float32 tensors on the device (so that torch.compile never recompiles)."""

    step: Tensor  # updates done before this one
    total: Tensor
    done: float = 0.0  # step / total on the host, for what decides a shape; compiled code must not read it


@dataclass(kw_only=True)
class Batch:
    """Base of every task's batch: a dataclass of tensors and plain values.

    ids: one id per sample, in order.  source: the stream part of each sample, or None.
    progress: stamped by the engine before forward.
    """

    ids: tuple[str, ...]
    source: Tensor | None = None  # (B,) int64
    notes: tuple[str, ...] = ()  # what the data side wants told: a skipped picture, say
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, where: device | str, *, non_blocking: bool = False) -> Self:
        """Return a copy whose tensors (in fields, lists, tuples and dicts) are on a device."""
        return self._map(lambda tensor: tensor.to(where, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory, from which a GPU copies without waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Any) -> Self:
        changed = {f.name: _move(getattr(self, f.name), move) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **changed)


def _move(value: Any, move: Any) -> Any:
    if hasattr(value, "pin_memory") and hasattr(value, "dtype"):
        return move(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_move(v, move) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(_move(v, move) for v in value)
    if isinstance(value, dict):
        return {k: _move(v, move) for k, v in value.items()}
    return value


@runtime_checkable
class TaskSpec(Protocol):
    """The data's side of a task: a picklable value in the Run, with no torch at import time.

    classes: names by class index; stored with the run, so that predict needs no data set.
    palette: one RGB colour (0-255) per class.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]: ...

    def build(self) -> TaskModule:
        """Make the module, with its initial weights drawn from torch's generator (the engine seeds it)."""
        ...

    def collate(self, samples: Sequence[Sample], key: int | None) -> Batch:
        """Join samples into a batch. Runs in data workers.

        key: the key of this micro-batch in training (mixup and its like draw from it; it is the same on every
        rank); None in evaluation and prediction.
        """
        ...

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics, by name. A metric may report several values."""
        ...

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw one prediction, and the truth where it is known, for overlays, report and sample sheets.

        image: (H, W, 3) uint8 RGB.  prediction: one element of what the module's `predict` returned.
        truth: the Sample, or None.
        """
        ...


Predictions = Mapping[str, Any]
"""What `TaskModule.predict` returns: named columns of B entries each, `ids` among them."""
