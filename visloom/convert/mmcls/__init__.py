"""mmclassification 0.x: its checkpoints and configs. The networks and their names are in `zoo.py`.

A checkpoint is {"meta": {...}, "state_dict": {...}, "optimizer": {...}}, or a bare state dict. `meta` may hold the
text of the config, the class names, and how far the training was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.convert.common import ConvertedWeights, Row, only_file
from visloom.convert.mmcls import zoo
from visloom.convert.oldfiles import Old, read_old
from visloom.errors import ConfigError
from visloom.run import Run
from visloom.task import TaskSpec
from visloom.tasks.classify import Classify

if TYPE_CHECKING:
    from torch import Tensor

MNIST = zoo.MNIST
NAMES = ("mmcls", "mmclassification")
TASKS = ("Classify",)


def recognises(keys: Collection[str], extra: Mapping[str, Any]) -> bool:
    """Say whether a file with these tensors is a classifier of mmclassification."""
    return zoo.recognises({_bare_name(key) for key in keys})


def _bare_name(key: str) -> str:
    """The name without what wrappers put before it."""
    return key.removeprefix("module.")


def weights(
    files: Sequence[Path],
    *,
    into: Run | None = None,
    at: str | None = None,
    classes: str = "",
    colours: str = "",
) -> ConvertedWeights:
    """Convert one checkpoint.

    Args:
        into: the run it belongs to; its task must have the same network.
        at: `epoch:N` or `step:N`, where the file does not say.
        classes: a text file with one class name per line, where the file does not name them.
        colours: "rgb" or "bgr", the order in which the network sees the channels, where the file does not tell.
    Raises:
        ConfigError: the file is no checkpoint of the zoo, or does not belong to `into`.
    """
    old = read_old(only_file(files))
    tensors = {_bare_name(name): tensor for name, tensor in old.tensors.items()}
    try:
        found = zoo.find({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    except ConfigError as error:
        raise ConfigError(f"{old.path}: {error}") from error
    task = _task(found, old, classes, into)
    theirs = {zoo.old_name(found.net, name): name for name in _our_names(task)}
    rows, ours = [], {}
    for name, tensor in old.tensors.items():
        bare = _bare_name(name)
        if bare in theirs:
            ours[f"net.{theirs[bare]}"] = tensor
            rows.append(Row(name, "taken", f"net.{theirs[bare]}"))
        elif bare.startswith("ema_"):
            rows.append(
                Row(name, "not needed", "the weights without averaging; the file's own are the average")
            )
        else:
            rows.append(Row(name, "not supported", f"{found.name} has no such tensor"))
    notes = (f"{found.name}, {found.classes} classes",)
    run = None if into is None else replace(into, task=task)
    return ConvertedWeights(task, ours, tuple(rows), notes, run=run)


def _task(found: zoo.Found, old: Old, classes: str, into: Run | None) -> Classify:
    """The task of a network: that of `into` if there is one, else one of its own."""
    names = _class_names(old, found.classes, classes)
    if into is None:
        return Classify(net=found.net, classes=names, channels=found.channels)
    task = into.task
    if not isinstance(task, Classify) or (task.net, task.channels) != (found.net, found.channels):
        raise ConfigError(
            f"{old.path} holds a {found.name} ({found.net!r}, {found.channels} channels), --into has "
            f"{getattr(task, 'net', type(task).__name__)!r}",
            path="task.net",
        )
    return replace(task, classes=task.classes or names)


def _our_names(task: Classify) -> list[str]:
    """The tensors of a task's network, without making any."""
    import torch

    with torch.device("meta"):
        return list(task.net.build(len(task.classes), task.channels).state_dict())


def _class_names(old: Old, count: int, file: str) -> tuple[str, ...]:
    """Class names from a file, from the checkpoint, or numbers."""
    meta = old.extra.get("meta")
    names: Sequence[Any] = ()
    if file:
        try:
            names = [
                line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--option classes={file} cannot be read: {error}") from error
    elif isinstance(meta, Mapping) and isinstance(meta.get("CLASSES"), list | tuple):
        names = meta["CLASSES"]
    if names and len(names) != count:
        raise ConfigError(f"{len(names)} class names for a head of {count} classes")
    return tuple(map(str, names)) or tuple(map(str, range(count)))


def original(task: TaskSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a classifier's tensors under mmclassification's names. Raises ConfigError for another network."""
    assert isinstance(task, Classify)
    return {
        zoo.old_name(task.net, name.removeprefix("net.")): tensor
        for name, tensor in tensors.items()
        if name.startswith("net.")
    }
