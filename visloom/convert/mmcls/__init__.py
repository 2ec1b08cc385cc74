"""mmclassification 0.x: its checkpoints and configs. The networks and their names are in `zoo.py`.

A checkpoint is {"meta": {...}, "state_dict": {...}, "optimizer": {...}}, or a bare state dict; what stands beside the
tensors is read in `checkpoints.py`, configs in `configs.py` and `pipelines.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.convert import pyconfig
from visloom.convert.common import ConvertedConfig, ConvertedWeights, Row, only_file, without_data
from visloom.convert.keys import Keys
from visloom.convert.mmcls import checkpoints, configs, zoo
from visloom.convert.oldfiles import Old, read_old
from visloom.data.transforms import CenterCrop, Resize
from visloom.errors import ConfigError
from visloom.run import Run
from visloom.stream import Ordered, Transform
from visloom.task import TaskSpec
from visloom.tasks.classify import Classify, MultiLabel, Normalise, ResNetCifar

if TYPE_CHECKING:
    from torch import Tensor

MNIST = zoo.MNIST
NAMES = ("mmcls", "mmclassification")
TASKS = ("Classify", "MultiLabel")


def recognises(keys: Collection[str], extra: Mapping[str, Any]) -> bool:
    """Say whether a file with these tensors is a classifier of mmclassification."""
    return zoo.recognises({_bare_name(key) for key in keys})


def config(file: Path, *, compat: str = "") -> ConvertedConfig:
    """Convert a config file.

    compat: "true" keeps the original's mistakes in schedules and paramwise options; see `mmcls_schedules.py` and
        `mmcls_rules.py`.
    Raises ConfigError with file and line for what cannot be read or cannot be.
    """
    if compat not in ("", "true", "false"):
        raise ConfigError(f"--option compat is true or false, got {compat!r}")
    keys = Keys(pyconfig.read(file))
    run, notes = configs.to_run(keys, file.stem, compat=compat == "true")
    return ConvertedConfig(run, keys.rows(configs.TOP), notes)


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
        at: `step:N`, where the file does not say how many updates were done.
        classes: a text file with one class name per line, where the file does not name them.
        colours: "rgb" or "bgr", the order in which the network sees the channels, where the file does not tell.
    Raises:
        ConfigError: the file is no checkpoint of the zoo, or does not belong to `into`.
    """
    old = read_old(only_file(files))
    try:
        found = zoo.find({_bare_name(name): tuple(tensor.shape) for name, tensor in old.tensors.items()})
    except ConfigError as error:
        raise ConfigError(f"{old.path}: {error}") from error
    tree = checkpoints.tree_of(old)
    told, said, unheeded = None, checkpoints.Stated(), []
    if tree is not None:
        keys = Keys(tree)
        told = checkpoints.run_of(keys, old.path.stem)
        if told is None:
            keys = Keys(tree)
            said = checkpoints.stated(keys, found.channels)
        unheeded = checkpoints.unheeded(keys, said if told is None else None)
    if told is not None and not _same_network(told, found):
        told = None
    names, source = checkpoints.class_names(old, found.classes, classes)
    known = checkpoints.of_run(told) or said.normalise
    normalise, why = checkpoints.normalisation(old, found, tree, known, into, colours)
    task = _task(found, old, into or told, names, normalise, several=said.several)
    ours, tensors, rows, notes = _tensors(old, found, task)
    base = into or told
    if base is None:
        run = _without_data(found, task, old, said.transforms)
    else:
        run = replace(base if into is not None else _for_photos(base, found), task=task)
    moments, became = checkpoints.moments(old, ours, base, tensors)
    step = checkpoints.step_of(old, at)
    taken = {source: "task.classes", "meta.dataset_meta": "task.classes", "meta.iter": "step"}
    taken["optimizer" if moments else "-optimizer"] = became
    config = _RUN_TAKEN if told is not None else _PARTS_TAKEN if said != checkpoints.Stated() else ""
    rows += checkpoints.rows_beside(old, config=config, taken=taken)
    notes = [f"{found.name}, {found.classes} classes: {source}", why, *unheeded, *notes]
    return ConvertedWeights(task, tensors, tuple(rows), tuple(notes), step=step, moments=moments, run=run)


_RUN_TAKEN = "the run: its data, transforms, optimizer and schedule"
_PARTS_TAKEN = (
    "its normalisation, transforms and head; it is no whole run here (visloom import-config says why)"
)


def _same_network(run: Run, found: zoo.Found) -> bool:
    task = run.task
    return isinstance(task, Classify) and (task.net, task.channels) == (found.net, found.channels)


def _task(
    found: zoo.Found,
    old: Old,
    base: Run | None,
    names: tuple[str, ...],
    normalise: Normalise,
    *,
    several: bool,
) -> Classify:
    """The task of a network: that of a run if there is one, else one of its own. Raises ConfigError.

    several: labels per picture, where there is no run.
    """
    if base is None:
        make = MultiLabel if several else Classify
        return make(net=found.net, classes=names, channels=found.channels, normalise=normalise)
    if not _same_network(base, found):
        raise ConfigError(
            f"{old.path} holds a {found.name} ({found.net!r}, {found.channels} channels), --into has "
            f"{getattr(base.task, 'net', type(base.task).__name__)!r}",
            path="task.net",
        )
    task = base.task
    assert isinstance(task, Classify)
    numbers = names == tuple(map(str, range(len(names))))
    kept = task.classes if task.classes and numbers else names
    return replace(task, classes=kept, normalise=normalise)


def _tensors(
    old: Old, found: zoo.Found, task: Classify
) -> tuple[dict[str, str], dict[str, Tensor], list[Row], list[str]]:
    """Return the file's names -> ours, tensors by our names, a row per key, and notes."""
    import torch

    theirs = {zoo.old_name(found.net, name): f"net.{name}" for name in _our_names(task)}
    ours, tensors, rows = {}, {}, []
    for name, tensor in old.tensors.items():
        bare = _bare_name(name)
        if bare in theirs:
            ours[name], tensors[theirs[bare]] = theirs[bare], tensor
            rows.append(Row(name, "taken", theirs[bare]))
        elif bare.startswith("ema_"):
            rows.append(
                Row(name, "not needed", "the weights without averaging; the file's own are the average")
            )
        else:
            rows.append(Row(name, "not supported", f"{found.name} has no such tensor"))
    counters = [
        name for name in theirs.values() if name.endswith("num_batches_tracked") and name not in tensors
    ]
    tensors.update({name: torch.tensor(0) for name in counters})
    notes = ["counters of batch norm are not in so old a file: they start at 0"] if counters else []
    return ours, tensors, rows, notes


def _our_names(task: Classify) -> list[str]:
    """The tensors of a task's network, without making any."""
    import torch

    with torch.device("meta"):
        return list(task.net.build(len(task.classes), task.channels).state_dict())


def _without_data(found: zoo.Found, task: Classify, old: Old, stated: tuple[Transform, ...]) -> Run:
    """A run for predictions, with the transforms of its config, else those that the zoo is evaluated with."""
    from visloom.rundir import safe_name

    small = found.channels == 1 or isinstance(found.net, ResNetCifar)
    usual = (Resize(size=32),) if small else (Resize(short=256), CenterCrop(size=224))
    return without_data(task, name=safe_name(old.path.stem), transform=stated or usual)


def _for_photos(run: Run, found: zoo.Found) -> Run:
    """The run, so that photos of any size are predicted as well: CIFAR's evaluation has no resize, its 32 being given.

    A picture of 32 x 32 stays as it is.
    """
    if not isinstance(found.net, ResNetCifar):
        return run
    evals = {
        name: replace(each, stream=replace(each.stream, transform=(Resize(size=32),)))
        if isinstance(each.stream, Ordered) and not each.stream.transform
        else each
        for name, each in run.evals.items()
    }
    return replace(run, evals=evals)


def original(task: TaskSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a classifier's tensors under mmclassification's names. Raises ConfigError for another network."""
    assert isinstance(task, Classify)
    return {
        zoo.old_name(task.net, name.removeprefix("net.")): tensor
        for name, tensor in tensors.items()
        if name.startswith("net.")
    }
