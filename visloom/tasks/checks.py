"""What specs of tasks on whole pictures ask of their settings alike: classes, colours, normalisation, the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from visloom.errors import ConfigError
from visloom.palette import Colour
from visloom.tasks.classify.nets import Normalise

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Pictured(Protocol):
    @property
    def net(self) -> Any: ...
    @property
    def channels(self) -> int: ...
    @property
    def normalise(self) -> Normalise | Literal["net"]: ...


_Task = TypeVar("_Task", bound=_Pictured)


def check_normalise(task: _Pictured) -> None:
    """Raise ValueError unless a normalisation of one's own has a number for each channel."""
    if isinstance(task.normalise, Normalise) and len(task.normalise.mean) != task.channels:
        raise ValueError(
            f"normalise has {len(task.normalise.mean)} numbers and the images {task.channels} channels"
        )


def check_names(classes: Sequence[str], colours: Sequence[Colour]) -> None:
    """Raise ValueError unless there are two or more different classes, each with its colour if there are any."""
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be two or more different names, got {classes}")
    if colours and len(colours) != len(classes):
        raise ValueError(f"{len(colours)} colours for {len(classes)} classes")


def need_classes(classes: Sequence[str]) -> None:
    """Raise ConfigError if there are no classes to build a network for."""
    if not classes:
        raise ConfigError("the task has no classes yet: set task.classes", path="task.classes")


def normalisation(task: _Pictured) -> Normalise:
    """Return the normalisation in force. Raises ConfigError if neither the task nor its network says one."""
    if isinstance(task.normalise, Normalise):
        return task.normalise
    found: Normalise | None = task.net.normalisation()
    if found is None:
        raise ConfigError(
            f"{type(task.net).__name__} does not say which normalisation it expects: set task.normalise "
            "to {mean: [...], std: [...]}, in 0-255 units",
            path="task.normalise",
        )
    return found.channels(task.channels)


def bare(task: _Task) -> _Task:
    """Return a task without pretrained weights: those of a checkpoint follow, and no network is there."""
    if not dataclasses.is_dataclass(task.net):
        return task
    fields = {f.name for f in dataclasses.fields(task.net)}
    none: Mapping[str, Any] = {"pretrained": False, "weights": ""}
    changes = {name: value for name, value in none.items() if name in fields}
    if not changes:
        return task
    return dataclasses.replace(task, net=dataclasses.replace(task.net, **changes))  # type: ignore[type-var,no-any-return]
