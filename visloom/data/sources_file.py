"""Sources file: a YAML that says what several sources of pictures label, each for some tasks of one parsing network.

    tasks:
      object: {classes: [sky, road, car, person], first: 1}     a class per pixel; masks store 1 for sky, 0 = unlabelled
      part: {of: object, parts: {car: [wheel, window], person: [head]}}
      scene: {classes: [street, beach]}                          one class for the picture
      material: {classes: material.csv}
    sources:
      streets:
        images: streets/images
        labels: {object: streets/objects, part: streets/parts, scene: streets/scenes.csv}
      rooms:
        images: rooms/images
        labels: {material: rooms/materials}

Paths start from the file's folder. `docs/own_sources.md` has every setting. Reading it runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from visloom.coerce import coerce
from visloom.data.layout import some
from visloom.data.legend import Legend, counted, regroup
from visloom.data.names_file import read_names
from visloom.errors import ConfigError, DataError
from visloom.overlay import read
from visloom.place import Place, did_you_mean, nearest, one_of
from visloom.tasks.parse.heads import (
    BACKGROUND,
    Head,
    Kind,
    Parts,
    PartsOf,
    Pixels,
    Texture,
    Whole,
    check_heads,
)
from visloom.warp import IGNORE

FILE = "sources.yaml"
"""Name under which such a file is found in a folder."""

_KINDS: Mapping[str, Kind] = {
    "object": "pixels", "part": "parts", "scene": "whole", "material": "pixels", "texture": "texture",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """One task of a sources file. Raises ValueError for settings that its kind does not have.

    kind: a class per pixel ("pixels"), parts inside objects ("parts"), one class per picture ("whole"), the texture of
        the picture ("texture"); object, part, scene, material and texture need not say it.
    classes: names, or a CSV or JSON file with names, stored values and colours (`visloom/data/names_file.py`). Of
        parts: what part masks store, by default all parts in their order.
    first: what masks store for the first class, where a file does not say; with 1, 0 is unlabelled.
    ignore: stored values that mean unlabelled.
    of, parts: the task of the objects, and the parts of each class of it.
    weight: of the loss.  at: the map of the network that a task of pixels looks at.
    """

    kind: Kind | None = None
    classes: tuple[str, ...] | str = ()
    first: Literal[0, 1] | None = None
    ignore: tuple[int, ...] = (255,)
    of: str = "object"
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weight: float | None = None
    at: Literal["fused", "finest"] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelEntry:
    """Where a source keeps the labels of a task, and how it stores them.

    path: folder of masks; of a task of whole pictures a CSV, TSV or list file with pictures and classes, or a folder of
        class folders.
    suffix: what the names of masks have more than those of pictures.
    classes, first, ignore: where this source stores other values than the task says; see `TaskEntry`.
    remap: names of this source -> classes of the task, or "ignore"; "*" stands for all others.
    """

    path: str
    suffix: str = ""
    classes: tuple[str, ...] | str = ()
    first: Literal[0, 1] | None = None
    ignore: tuple[int, ...] | None = None
    remap: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One source.

    images: folder of its pictures.  labels: by task, a place or a `LabelEntry`.
    val: share of its pictures that is held out for validation, chosen by a keyed permutation; or a file that lists
        them.
    weight: how often it is drawn, in relation to the others; by default in proportion to its pictures.
    """

    images: str
    labels: Mapping[str, str | LabelEntry]
    val: float | str = 0.1
    weight: float | None = None

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels is empty: a source labels at least one task")
        if not isinstance(self.val, str) and not 0 <= self.val < 1:
            raise ValueError(f"val is a share from 0 to 1, or a file, got {self.val}")
        if self.weight is not None and self.weight <= 0:
            raise ValueError(f"weight is positive, got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class SourcesFile:
    """The whole file, as it is written."""

    tasks: Mapping[str, TaskEntry]
    sources: Mapping[str, SourceEntry]


class Labels(NamedTuple):
    """Labels of a task in a source. legend: of masks, to the classes of the head; None for whole pictures."""

    path: Path
    suffix: str
    legend: Legend | None


@dataclass(frozen=True)
class Described:
    """A source with its places made absolute."""

    name: str
    images: Path
    labels: Mapping[str, Labels]
    val: float | Path
    weight: float | None


@dataclass(frozen=True)
class OwnSet:
    """What a sources file describes. parts: names that part masks store, by task of parts."""

    heads: Mapping[str, Head]
    parts: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, Described]


def read_set(file: Path) -> OwnSet:
    """Read a sources file, and look whether all that it names is there.

    Raises:
        ConfigError: a setting is wrong; says file and line.
        DataError: lists every folder and file that is missing; or a table of classes cannot be read.
    """
    at = Place(where=str(file))
    written: SourcesFile = coerce(read(file), SourcesFile, at)
    if not written.tasks or not written.sources:
        raise at.error("names no task or no source", "see docs/own_sources.md for an example")
    _check_places(file, written)
    legends: dict[str, Legend] = {}
    heads: dict[str, Head] = {}
    for name, entry in written.tasks.items():
        heads[name], legends[name] = _task(file.parent, name, entry, at.child("tasks").child(name))
    try:
        check_heads(tuple(heads.values()))
    except ValueError as error:
        raise at.child("tasks").error(str(error)) from error
    parts = {name: legends[name].names for name, head in heads.items() if isinstance(head, Parts)}
    sources = {
        name: _source(
            file.parent, name, entry, heads, (written.tasks, legends), at.child("sources").child(name)
        )
        for name, entry in written.sources.items()
    }
    weighted = [name for name, source in sources.items() if source.weight is not None]
    if weighted and len(weighted) < len(sources):
        bare = [name for name in sources if name not in weighted]
        raise at.child("sources").error(
            f"{some(weighted)} say a weight and {some(bare)} none; all do, or none"
        )
    return OwnSet(heads, parts, sources)


def _check_places(file: Path, written: SourcesFile) -> None:
    """Raise DataError with everything that is missing, of all sources."""
    named: dict[str, str] = {}
    for name, task in written.tasks.items():
        if isinstance(task.classes, str):
            named.setdefault(task.classes, f"classes of {name}")
    for name, source in written.sources.items():
        named.setdefault(source.images, f"pictures of {name}")
        if isinstance(source.val, str):
            named.setdefault(source.val, f"validation pictures of {name}")
        for task_name, label in source.labels.items():
            entry = LabelEntry(path=label) if isinstance(label, str) else label
            named.setdefault(entry.path, f"{task_name} of {name}")
            if isinstance(entry.classes, str):
                named.setdefault(entry.classes, f"classes of {task_name} in {name}")
    lost = [
        f"{file.parent / place}  ({what})"
        for place, what in named.items()
        if not (file.parent / place).exists()
    ]
    if lost:
        lines = "\n  ".join(lost)
        raise DataError(
            f"{file} names {len(named)} files and folders, and {len(lost)} are not there:\n  {lines}"
        )


# ----------------------------------------------------------------------------------------------------------- tasks


def _task(folder: Path, name: str, entry: TaskEntry, at: Place) -> tuple[Head, Legend]:
    """The head of a task, and what masks store for its classes (of parts: for the names of parts)."""
    kind = entry.kind or _KINDS.get(name)
    if kind is None:
        raise at.child("kind").error(
            f"is missing: {name!r} says nothing of itself", "write kind: pixels, parts, whole or texture"
        )
    more: dict[str, Any] = {} if entry.weight is None else {"weight": entry.weight}
    try:
        if kind == "parts":
            head: Head = Parts(
                name=name,
                of=entry.of,
                parts=tuple(PartsOf(o, tuple(p)) for o, p in entry.parts.items()),
                **more,
            )
            return head, _part_legend(folder, entry, at)
        legend = _legend(folder, entry.classes, entry.first, entry.ignore)
        if kind == "pixels":
            where = entry.at or ("finest" if name == "material" else "fused")
            return Pixels(name=name, classes=legend.names, at=where, colours=legend.colours, **more), legend
        return (Whole if kind == "whole" else Texture)(name=name, classes=legend.names, **more), legend
    except ValueError as error:
        raise at.error(str(error)) from error


def _legend(
    folder: Path, classes: tuple[str, ...] | str, first: int | None, ignore: tuple[int, ...]
) -> Legend:
    unlabelled = (*ignore, 0) if first == 1 else ignore
    if isinstance(classes, str):
        return read_names(folder / classes, unlabelled)
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes come once, got {', '.join(classes)}")
    return counted(classes, first=first or 0, ignore=unlabelled)


def _part_legend(folder: Path, entry: TaskEntry, at: Place) -> Legend:
    """What part masks store, with one more class behind the parts: what is none of them, stored as 0."""
    used = tuple(dict.fromkeys(part for parts in entry.parts.values() for part in parts))
    return _with_none(_legend(folder, entry.classes or used, 1, entry.ignore), used, at)


def _with_none(legend: Legend, used: tuple[str, ...], at: Place) -> Legend:
    unknown = [part for part in used if part not in legend.names]
    if unknown:
        raise at.child("classes").error(f"lacks {some(unknown)}, which `parts` names")
    values, painted = dict(legend.values), dict(legend.painted)
    if values.get(0, IGNORE) == IGNORE:
        values[0] = len(legend.names)
    if painted and painted.get((0, 0, 0), IGNORE) == IGNORE:
        painted[0, 0, 0] = len(legend.names)
    return Legend((*legend.names, BACKGROUND), (), values, painted)


# --------------------------------------------------------------------------------------------------------- sources


def _source(
    folder: Path,
    name: str,
    entry: SourceEntry,
    heads: Mapping[str, Head],
    tasks: tuple[Mapping[str, TaskEntry], Mapping[str, Legend]],
    at: Place,
) -> Described:
    labels = {}
    for task, label in entry.labels.items():
        here = at.child("labels").child(task)
        head = heads.get(task)
        if head is None:
            raise here.error(
                "is no task of this file", did_you_mean(nearest(task, heads)) or f"there is {one_of(heads)}"
            )
        if isinstance(head, Parts) and head.of not in entry.labels:
            raise here.error(f"parts lie inside objects, and this source does not label {head.of!r}")
        given = LabelEntry(path=label) if isinstance(label, str) else label
        labels[task] = Labels(folder / given.path, given.suffix, None)
        if head.kind in ("pixels", "parts"):
            if not (folder / given.path).is_dir():
                raise here.error(f"masks lie in a folder, and {folder / given.path} is a file")
            legend = _own_legend(folder, head, given, tasks[0][task], tasks[1][task], here)
            labels[task] = labels[task]._replace(legend=legend)
        elif given != LabelEntry(path=given.path):
            raise here.error("a task of whole pictures has a path alone")
    val = entry.val if not isinstance(entry.val, str) else folder / entry.val
    return Described(name, folder / entry.images, labels, val, entry.weight)


def _own_legend(
    folder: Path, head: Head, given: LabelEntry, task: TaskEntry, legend: Legend, at: Place
) -> Legend:
    """What this source's masks store, as numbers of the task's classes."""
    if given.classes or given.first is not None or given.ignore is not None:
        ignore = task.ignore if given.ignore is None else given.ignore
        classes = given.classes or task.classes
        if head.kind == "parts":
            own = _with_none(_legend(folder, classes or legend.names[:-1], 1, ignore), (), at)
        else:
            own = _legend(folder, classes, task.first if given.first is None else given.first, ignore)
    else:
        own = legend
    try:
        kept = {BACKGROUND: BACKGROUND} if head.kind == "parts" and given.remap else {}
        own = regroup(own, {**kept, **given.remap})
    except ConfigError as error:
        raise at.child("remap").error(str(error)) from error
    strange = [name for name in own.names if name not in legend.names]
    if strange:
        raise at.error(
            f"stores {some(strange)}, no class of {head.name!r}",
            f"the classes are {some(legend.names)}",
            "say in remap which class each is, or ignore",
        )
    number = {index: legend.names.index(name) for index, name in enumerate(own.names)} | {IGNORE: IGNORE}
    return replace(
        own,
        names=legend.names,
        colours=(),
        values={value: number[label] for value, label in own.values.items()},
        painted={colour: number[label] for colour, label in own.painted.items()},
    )
