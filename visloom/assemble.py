"""Assemble: from the value to its live parts: device, streams that are rooted, seeded and checked, and the task.

What can be seen to be wrong with data, classes or divisibility is an error here, before there is a directory.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from visloom import dist
from visloom.device import Found, find_device, prepare
from visloom.errors import ConfigError, ContractError, DataError
from visloom.keys import fold, permutation, seed_torch
from visloom.memory import place
from visloom.module import TaskModule
from visloom.run import Run
from visloom.stream import Stream, rooted, walk_sources
from visloom.task import TaskSpec
from visloom.units import Epochs, Examples, Minutes, Steps, to_steps


@dataclass
class Parts:
    """A run's live parts, before there is a directory: what training, dry runs and inspection share."""

    run: Run
    found: Found
    train: Stream  # rooted and seeded
    evals: dict[str, Stream]
    notes: list[str]  # warnings of the data's own checks

    @property
    def device(self) -> torch.device:
        return self.found.device


def assemble(run: Run, say: Callable[[str], None] = lambda text: None) -> Parts:
    """Find the device, root and seed the streams, and check the data.

    Raises ConfigError or DataError for everything that can be seen to be wrong now. Class names that the task
    leaves open are taken from the data: the run that comes back is complete.
    """
    found = find_device(run.host.device, dist.world().local)
    prepare(run.how, run.host, found.device)
    found = dataclasses.replace(found, name=find_device(run.host.device, dist.world().local).name)
    bind = partial(bound, folder=Path(run.host.data), seed=run.seed)
    train = bind(run.train, name="train")
    evals = {name: bind(e.stream, name=f"eval/{name}") for name, e in run.evals.items()}
    notes = _checked((train, *evals.values()), say)
    classes: tuple[str, ...] = ()
    colours: tuple[Any, ...] = ()
    for stream in (train, *evals.values()):
        for source in walk_sources(stream):
            classes = classes or classes_of(source)
            colours = colours or colours_of(source)
    run = with_classes(run, classes, colours)
    for stream in (train, *evals.values()):
        for source in walk_sources(stream):
            note = check_classes(run.task, source)
            if note and note not in notes:
                notes.append(note)
    run = completed(run, train)
    train.check_world(dist.world().size, run.how.accumulate)
    for name, stream in evals.items():
        if not stream.steps_per_epoch:
            raise DataError(
                f"evals.{name}: {stream.leaves()[0].source!r} has no samples: check its folder, split and limit"
            )
    return Parts(run, found, train, evals, notes)


def _checked(streams: Iterable[Stream], say: Callable[[str], None]) -> list[str]:
    """Let every source look over its data: warnings, or one DataError with what is wrong with all of them."""
    notes: dict[str, None] = {}
    wrong: dict[str, None] = {}  # each once: training and validation mostly lack the same
    for stream in streams:
        for source in walk_sources(stream):
            say(f"data: {source!r}")
            check = getattr(source, "check", None)
            try:
                notes |= dict.fromkeys(check() if check is not None else ())
            except DataError as error:
                wrong[str(error)] = None
    if wrong:
        raise DataError("\n".join(wrong))
    return list(notes)


def bound(stream: Stream, *, name: str, folder: Path, seed: int) -> Stream:
    """Return a stream whose sources start from a folder, under the seed that it has in a run.

    name: "train", or "eval/NAME".
    """
    return dataclasses.replace(rooted(stream, folder), seed=fold(seed, name, stream.seed))  # type: ignore[no-any-return]


def classes_of(source: Any) -> tuple[str, ...]:
    """Return the class names that a source knows, () if it knows none."""
    classes = getattr(source, "classes", None)
    return tuple(classes()) if callable(classes) else ()


def colours_of(source: Any) -> tuple[Any, ...]:
    """Return the colours that a source has for its classes, () if it has none."""
    colours = getattr(source, "palette", None)
    return tuple(colours()) if callable(colours) else ()


def with_classes(run: Run, classes: tuple[str, ...], colours: tuple[Any, ...] = ()) -> Run:
    """Fill in class names that the task's spec leaves empty, and colours if it has a place for them and none yet."""
    if run.task.classes or not classes or not dataclasses.is_dataclass(run.task):
        return run
    more: dict[str, Any] = {"classes": classes}
    if getattr(run.task, "colours", None) == () and len(colours) == len(classes):
        more["colours"] = colours
    return dataclasses.replace(run, task=dataclasses.replace(run.task, **more))  # type: ignore[type-var]


def completed(run: Run, train: Stream) -> Run:
    """Let a task with `complete(sources)` fill in what it leaves to the training data (class weights, say)."""
    complete = getattr(run.task, "complete", None)
    if complete is None:
        return run
    return dataclasses.replace(run, task=complete([leaf.source for leaf in train.leaves()]))


_WNID = re.compile(r"n\d{8}")


def check_classes(spec: TaskSpec, source: Any) -> str:
    """Raise ConfigError unless the head and the data have the same classes, or one of them names none.

    Numbers in their order ("0", "1", ...) name none, and WordNet's ids (n01440764), which ImageNet's folders are
    called, stand in the order of its class list: both agree with as many other names, by order. What was taken for
    what comes back as a note, else "". A spec with several heads has `check_source(source)`, which compares what it
    needs.
    """
    of_its_own = getattr(spec, "check_source", None)
    if of_its_own is not None:
        of_its_own(source)
    ours, theirs = spec.classes, classes_of(source)
    if not ours or not theirs or tuple(ours) == theirs:
        return ""
    if len(ours) != len(theirs):
        raise ConfigError(
            f"task.classes has {len(ours)} classes ({some(ours)}) but {source!r} has {len(theirs)} "
            f"({some(theirs)}); leave task.classes empty to take them from the data",
            path="task.classes",
        )
    if _by_order(ours) or _by_order(theirs):
        last = len(ours) - 1
        return (
            f"classes are matched by their order: {ours[0]!r} of task.classes is {theirs[0]!r} of {source!r}, ..., "
            f"{ours[last]!r} is {theirs[last]!r}"
        )
    first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    raise ConfigError(
        f"task.classes and {source!r} name class {first} differently: {ours[first]!r} and {theirs[first]!r}; "
        f"labels would be mixed up",
        path="task.classes",
    )


def _by_order(names: Sequence[str]) -> bool:
    """Whether names say no more than a place: numbers from 0 on, or WordNet's ids in their order."""
    if all(name == str(place) for place, name in enumerate(names)):
        return True
    return all(_WNID.fullmatch(name) for name in names) and list(names) == sorted(names)


def some(names: Iterable[str]) -> str:
    """The first four of some names, for a message."""
    names = list(names)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def build_task(run: Run, train: Stream, device: torch.device) -> TaskModule:
    """Build the task with the initial weights that belong to the run's seed, on its device.

    A spec whose `needs_samples` is positive is shown that many training samples first, by `fit(module, samples)`
    (a data-dependent first layer, say): as they are stored, the same ones for a seed at any world size.
    """
    seed_torch(fold(run.seed, "init"))
    task = run.task.build()
    if not isinstance(task, TaskModule):
        raise ContractError(
            f"{type(run.task).__name__}.build returned {type(task).__name__}, expected a visloom.TaskModule",
            path="task",
        )
    wanted = int(getattr(run.task, "needs_samples", 0))
    if wanted > 0:
        source = train.leaves()[0].source
        order = permutation(fold(run.seed, "fit"), len(source))
        run.task.fit(task, [source.read(int(i)) for i in order[:wanted]])  # type: ignore[attr-defined]
    return place(task, run.how, device)


@dataclass(frozen=True)
class Plans:
    """Every length of the run, in steps."""

    total: int
    epoch: int
    log: int
    save: int | None
    save_minutes: float | None
    milestone: int | None
    points: frozenset[int]  # after which a checkpoint is made and stays, where they are named
    evals: dict[str, int | None]

    def stays(self, step: int) -> bool:
        """Say whether the checkpoint of a step stays for good."""
        every = self.milestone
        return step in self.points or (every is not None and step % every == 0)

    @classmethod
    def of(cls, run: Run, stream: Stream) -> Plans:
        """Resolve every unit of a run against its training stream."""

        def steps(length: Steps | Epochs | Examples) -> int:
            return to_steps(length, stream.steps_per_epoch, stream.batch)

        save, stay = run.save.every, run.save.milestones
        named = stay if isinstance(stay, tuple) else ()
        return cls(
            total=steps(run.length),
            epoch=stream.steps_per_epoch,
            log=steps(run.log.every),
            save=None if save is None or isinstance(save, Minutes) else steps(save),
            save_minutes=float(save.n) if isinstance(save, Minutes) else None,
            milestone=steps(stay) if stay and not isinstance(stay, tuple) else None,
            points=frozenset(steps(point) for point in named),
            evals={name: steps(e.every) if e.every else None for name, e in run.evals.items()},
        )
