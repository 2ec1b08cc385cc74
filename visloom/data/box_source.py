"""BoxSource: the base of readers of boxes. A reader lists what stands in its files; everything else happens here, once.

Boxes are checked where they are listed: those without area are left out, inverted and out-of-picture ones mended or
dropped by policy, all counted and named by `check()`. Classes are renamed, chosen and numbered. Numbers are kept in
flat arrays, so that a million boxes are some tens of megabytes.

    Sample.image (H, W, 3) uint8    Sample.boxes (N, 4) float32 x0 y0 x1 y1, continuous pixels    Sample.labels (N,)
    extra "box_crowd" (N,) bool: groups and difficult things, which count for nothing
    extra "box_area" (N,) float64: what an evaluation sorts things by, where the reader has it
    extra "box_polygons" (N,) lists of (K, 2) arrays in stored pixels: masks, where the reader has them; or "things", a
        stored picture (H, W) int32 of numbers, and "box_thing" (N,): the number of each box's pixels
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import require
from visloom.data.images import MAX_PIXELS, check_headers, read_image
from visloom.data.layout import some
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.stream import Source

CHECKED = 20_000
"""Pictures whose headers `check()` compares with the annotations, evenly spread over larger sets."""

LISTED = 5  # boxes that a note names

BadBoxes = Literal["fix", "drop", "stop"]


@dataclass(slots=True)
class Thing:
    """One annotated object as its file has it.

    where: what a message calls it ("object 3").  name: of its class; None is every class, for regions to ignore.
    box: x0, y0, x1, y1 in pixels, or in shares of the picture where `Marked.shares` says so.
    area: in pixels, as its file has it; None is that of the box.
    """

    where: str
    name: str | None
    box: tuple[float, float, float, float]
    crowd: bool = False
    polygons: Any = None
    keypoints: Any = None
    area: float | None = None


@dataclass(slots=True)
class Marked:
    """One picture as its annotation has it.

    size: (height, width) as annotated, or None: then the picture's header is asked.  file: for messages.
    """

    id: str
    image: Path
    file: Path
    things: list[Thing]
    size: tuple[int, int] | None = None
    shares: bool = False


class Listed(NamedTuple):
    """What a reader found. classes: every name that may occur, in the order of their labels."""

    pictures: Sequence[Marked]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()  # of the classes in the data set's own files


class Opened(NamedTuple):
    """Flat arrays: the things of picture i are rows starts[i] to starts[i + 1].

    sizes (N, 2) heights and widths.  boxes (M, 4) float32.  labels (M,).  crowd (M,) bool.  keypoints (M, K, 3) or
    None.  polygons: (M,) as stored, or None.  areas (M,) float64 or None.
    """

    ids: list[str]
    images: list[Path]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    keypoints: NDArray[np.float32] | None
    polygons: NDArray[np.object_] | None
    areas: NDArray[np.float64] | None
    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class BoxSource(Source):
    """Base of data sets with boxes.

    names: classes to use, in this order; objects of others are passed over, and counted by `check`. () takes all.
    rename: class name -> the name it gets, before `names` is looked at; two classes may get one name.
    bad_boxes: "fix" turns inverted boxes around and cuts boxes at the picture's edge, "drop" leaves such boxes out,
        "stop" refuses them. Boxes without area are left out by both of the former.
    max_pixels: larger pictures are refused from their header.
    """

    names: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    bad_boxes: BadBoxes = "fix"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        require(len(set(self.names)) == len(self.names), "names has each class once", self.names)
        require(
            self.bad_boxes in ("fix", "drop", "stop"), "bad_boxes is 'fix', 'drop' or 'stop'", self.bad_boxes
        )
        require(self.max_pixels > 0, "max_pixels is a positive number", self.max_pixels)

    # ---- what a data set defines

    def listed(self) -> Listed:
        """Read the annotations, in a fixed order."""
        raise TypeError(f"{type(self).__name__} must define listed() -> Listed")

    def placed(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Bring a box from the data set's convention to continuous pixels."""
        return box[0], box[1], box[2], box[3]

    def masks_of(self, stored: Any, size: tuple[int, int]) -> list[NDArray[np.float64]]:
        """Turn what `Thing.polygons` holds into polygons: (K, 2) arrays in stored pixels."""
        return [np.asarray(part, np.float64).reshape(-1, 2) for part in stored]

    def shapes(
        self, image: Path, stored: NDArray[np.object_], size: tuple[int, int]
    ) -> dict[str, NDArray[Any]]:
        """Turn what `Thing.polygons` holds of one picture's boxes into the sample's masks."""
        made = np.empty(len(stored), object)
        for place, each in enumerate(stored):
            made[place] = [] if each is None else self.masks_of(each, size)
        return {"box_polygons": made}

    # ---- what streams and tasks call

    def open(self) -> Opened:
        """Read the annotations and check the boxes.

        Raises:
            DataError: names the file and the object.
        """
        found = self.listed()
        if not found.pictures:
            raise DataError(f"{self!r}: has no pictures")
        _check_ids(found.pictures)
        classes, label_of, numbers = self._classes(found)
        return _Gather(self, label_of).run(found, classes, numbers)

    def count(self) -> int:
        return len(self.opened().ids)

    def classes(self) -> tuple[str, ...]:
        return self.opened().classes  # type: ignore[no-any-return]

    def category_ids(self) -> tuple[int, ...]:
        """Numbers of the classes in the data set's own files, for COCO results, or () if it has none."""
        return self.opened().numbers  # type: ignore[no-any-return]

    def sizes_all(self) -> NDArray[np.int64]:
        """(N, 2) heights and widths, as annotated or from the headers."""
        return self.opened().sizes  # type: ignore[no-any-return]

    def counts(self) -> NDArray[np.int64]:
        """Boxes of each class among the pictures kept, groups left out: (classes,)."""
        opened: Opened = self.opened()
        kept = self._kept(np.arange(self.count()))
        assert kept is not None
        rows = np.zeros(len(opened.labels), bool)
        for index in kept.tolist():
            rows[opened.starts[index] : opened.starts[index + 1]] = True
        return np.bincount(opened.labels[rows & ~opened.crowd], minlength=len(opened.classes))

    def fetch(self, index: int) -> Sample:
        opened: Opened = self.opened()
        image = read_image(opened.images[index], max_pixels=self.max_pixels)
        size = (int(opened.sizes[index, 0]), int(opened.sizes[index, 1]))
        if image.shape[:2] != size:
            raise DataError(_unlike(opened.images[index], image.shape[:2], size))
        rows = slice(int(opened.starts[index]), int(opened.starts[index + 1]))
        extra: dict[str, Any] = {"box_crowd": opened.crowd[rows].copy()}
        if opened.areas is not None:
            extra["box_area"] = opened.areas[rows].copy()
        if opened.polygons is not None:
            extra |= self.shapes(opened.images[index], opened.polygons[rows], size)
        return Sample(
            opened.ids[index],
            image,
            boxes=opened.boxes[rows].copy(),
            labels=opened.labels[rows].copy(),
            keypoints=None if opened.keypoints is None else opened.keypoints[rows].copy(),
            extra=extra,
        )

    def check(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read headers of pictures and compare them with the annotated sizes; tell of boxes that were mended.

        progress: called with (pictures done, in all).
        Raises:
            DataError: pictures are missing, cannot be read, or have another size than annotated.
        """
        opened: Opened = self.opened()
        kept = self.chosen()
        wanted = np.arange(self.count()) if kept is None else kept
        if not len(wanted):
            raise DataError(f"{self!r}: nothing is left after split and limit")
        looked = wanted[np.linspace(0, len(wanted) - 1, min(CHECKED, len(wanted))).astype(np.int64)]
        files = [opened.images[i] for i in looked.tolist()]
        sizes, bad = check_headers(files, max_pixels=self.max_pixels, progress=progress)
        for row, (index, size) in enumerate(zip(looked.tolist(), sizes.tolist(), strict=True)):
            if row not in bad and size != opened.sizes[index].tolist():
                bad[row] = _unlike(files[row], size, opened.sizes[index].tolist())
        if bad:
            raise refusal(self, bad, len(wanted))
        notes = list(opened.notes)
        if len(looked) < len(wanted):
            notes.append(f"{self!r}: looked at the headers of {len(looked):,} of {len(wanted):,} pictures")
        absent = [n for n, count in zip(opened.classes, self.counts(), strict=True) if not count]
        if absent:
            notes.append(f"{self!r}: no box of {some(absent)}")
        return notes

    def __repr__(self) -> str:
        what = type(self).__name__
        part = str(getattr(self, "part", "") or getattr(self, "file", ""))
        if "_opened" not in self.__dict__:
            return f"{what}({part + ', ' if part else ''}root={self.root!r})"
        opened: Opened = self.opened()
        return (
            f"{what}({part + ': ' if part else ''}{len(self):,} pictures, {len(opened.boxes):,} boxes, "
            f"{len(opened.classes)} classes)"
        )

    # ---- inside

    def _classes(self, found: Listed) -> tuple[tuple[str, ...], dict[str, int], tuple[int, ...]]:
        """The classes in use, the label of each stored name (-1: passed over), and their own numbers."""
        strange = [name for name in self.rename if name not in found.classes]
        if strange:
            near = get_close_matches(strange[0], found.classes, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{self!r}: rename names {some(strange)}, which is no class here; the classes are "
                f"{some(found.classes)}{hint}"
            )
        new = {name: self.rename.get(name, name) for name in found.classes}
        classes = self.names or tuple(dict.fromkeys(new.values()))
        if not classes:
            raise DataError(f"{self!r}: no class occurs in the annotations; name the classes with names")
        unknown = [name for name in classes if name not in new.values()]
        if found.classes and len(unknown) == len(classes):
            raise DataError(
                f"{self!r}: none of names ({some(classes)}) is a class here; the classes are {some(found.classes)}"
            )
        label = {name: number for number, name in enumerate(classes)}
        numbers = dict(zip(new.values(), found.numbers, strict=False))
        own = tuple(numbers[name] for name in classes) if all(name in numbers for name in classes) else ()
        return classes, {name: label.get(to, -1) for name, to in new.items()}, own


class _Gather:
    """Puts the things of all pictures into flat arrays and looks at every box on the way."""

    def __init__(self, source: BoxSource, label_of: Mapping[str, int]) -> None:
        self.source, self.label_of = source, label_of
        self.passed: Counter[str] = Counter()
        self.bad: dict[str, list[str]] = {what: [] for what in _BAD}

    def run(self, found: Listed, classes: tuple[str, ...], numbers: tuple[int, ...]) -> Opened:
        sizes = _sizes(found.pictures, self.source)
        starts, labels, crowd = [0], [], []
        boxes: list[tuple[float, ...]] = []
        points: list[Any] = []
        shapes: list[Any] = []
        areas: list[float | None] = []
        for picture, size in zip(found.pictures, sizes.tolist(), strict=True):
            for thing in picture.things:
                box = self._box(picture, thing, size)
                if box is None:
                    continue
                for label in self._labels(picture, thing):
                    boxes.append(box)
                    labels.append(label)
                    crowd.append(thing.crowd)
                    points.append(_scaled(thing.keypoints, size) if picture.shares else thing.keypoints)
                    shapes.append(thing.polygons)
                    areas.append(thing.area)
            starts.append(len(boxes))
        polygons = None
        if any(shape is not None for shape in shapes):
            polygons = np.empty(len(shapes), object)
            polygons[:] = shapes
        return Opened(
            [p.id for p in found.pictures],
            [p.image for p in found.pictures],
            sizes,
            np.array(starts, np.int64),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(crowd, bool),
            _keypoints(points),
            polygons,
            _areas(areas, boxes),
            classes,
            numbers,
            tuple(f"{self.source!r}: {note}" for note in (*found.notes, *self._notes(found))),
        )

    def _labels(self, picture: Marked, thing: Thing) -> Iterable[int]:
        if thing.name is None:
            return range(max(self.label_of.values(), default=-1) + 1)
        label = self.label_of.get(thing.name)
        if label is None:
            near = get_close_matches(thing.name, self.label_of, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{picture.file}: {thing.where} of {picture.id!r} is of class {thing.name!r}, which is none; the "
                f"classes are {some(tuple(self.label_of))}{hint}"
            )
        if label < 0:
            self.passed[thing.name] += 1
            return ()
        return (label,)

    def _box(self, picture: Marked, thing: Thing, size: list[int]) -> tuple[float, ...] | None:
        """The box in pixels, mended, or None if it is left out."""
        box, height, width = thing.box, size[0], size[1]
        at = f"{picture.file}: {thing.where} of {picture.id!r}"
        if not all(map(math.isfinite, box)):
            raise DataError(f"{at} has the box {_said(box)}: expected four finite numbers")
        if picture.shares:
            box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        if box[2] == box[0] or box[3] == box[1]:
            self._found("without area", at, box)
            return None
        if box[2] < box[0] or box[3] < box[1]:
            self._found("inverted", at, box)
            if self.source.bad_boxes == "drop":
                return None
            box = (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
        x0, y0, x1, y1 = self.source.placed(box)
        inside = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
        seen = inside[2] > inside[0] and inside[3] > inside[1]
        if max(-x0, -y0, x1 - width, y1 - height) > _SLACK * max(height, width):
            what = "partly out of the picture" if seen else "out of the picture"
            self._found(what, f"{at} ({width}x{height})", box)
            if self.source.bad_boxes == "drop":
                return None
        return inside if seen else None

    def _found(self, what: str, at: str, box: tuple[float, ...]) -> None:
        if self.source.bad_boxes == "stop":
            raise DataError(
                f'{at} has a box {what}, {_said(box)}; mend it, or set bad_boxes="fix" (or "drop")'
            )
        self.bad[what].append(f"{at} {_said(box)}")

    def _notes(self, found: Listed) -> Iterable[str]:
        for what, places in self.bad.items():
            if places:
                done = _BAD[what] if self.source.bad_boxes == "fix" else "left out"
                yield f"{len(places):,} box{_es(places)} {what}, {done}: {'; '.join(places[:LISTED])}" + (
                    f"; and {len(places) - LISTED:,} more" if len(places) > LISTED else ""
                )
        if self.passed:
            listed = some([f"{name} ({count:,})" for name, count in self.passed.most_common()])
            yield f"objects of classes that are not used are passed over: {listed}"
        empty = sum(not p.things for p in found.pictures)
        if empty:
            yield f"{empty:,} of {len(found.pictures):,} pictures have no object; they teach what is background"


_BAD = {
    "without area": "left out",
    "inverted": "turned around",
    "partly out of the picture": "cut at its edge",
    "out of the picture": "left out",
}
"""What may be wrong with a box, and what becomes of it where boxes are mended."""

_SLACK = 1e-4
"""Share of the longer side that a box may stick out without being told: rounding of shares and of halves."""


def _scaled(points: Any, size: Sequence[int]) -> Any:
    """Keypoints in pixels, from shares of the picture."""
    return None if points is None else np.asarray(points) * (size[1], size[0], 1)


def _es(some_: Sequence[Any]) -> str:
    return "" if len(some_) == 1 else "es"


def _said(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


def _areas(areas: Sequence[float | None], boxes: Sequence[Sequence[float]]) -> NDArray[np.float64] | None:
    """Areas (M,), those of the boxes where only some are known; None where none is."""
    if all(area is None for area in areas):
        return None
    return np.array(
        [(b[2] - b[0]) * (b[3] - b[1]) if a is None else a for a, b in zip(areas, boxes, strict=True)]
    )


def _keypoints(points: list[Any]) -> NDArray[np.float32] | None:
    """(M, K, 3) of all boxes, zeros where one has none; None where nobody has."""
    given = [p for p in points if p is not None]
    if not given:
        return None
    made = np.zeros((len(points), len(given[0]), 3), np.float32)
    for row, point in enumerate(points):
        if point is not None:
            made[row] = point
    return made


def _sizes(pictures: Sequence[Marked], source: BoxSource) -> NDArray[np.int64]:
    """Annotated sizes, and those of headers where nothing is annotated: (N, 2)."""
    sizes = np.array([p.size or (0, 0) for p in pictures], np.int64).reshape(-1, 2)
    asked = np.flatnonzero((sizes <= 0).any(1))
    if len(asked):
        found, bad = check_headers([pictures[i].image for i in asked.tolist()], max_pixels=source.max_pixels)
        if bad:
            raise refusal(source, bad, len(asked))
        sizes[asked] = found
    return sizes


def _check_ids(pictures: Sequence[Marked]) -> None:
    times = Counter(picture.id for picture in pictures)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        first = next(p for p in pictures if p.id == twice[0])
        raise DataError(
            f"{first.file}: {some(twice)} is listed more than once; each picture stands there once"
        )


def _unlike(path: Path, is_: Sequence[int], said: Sequence[int]) -> str:
    turned = tuple(is_) == tuple(said)[::-1]
    hint = "; the one looks turned by 90 degrees: boxes would lie elsewhere" if turned else ""
    return (
        f"{path}: is {is_[1]}x{is_[0]} pixels (width x height) and its annotation says {said[1]}x{said[0]}{hint}. "
        "Mend the annotation, or use the picture that was annotated"
    )


def refusal(source: Any, problems: Mapping[int, str], count: int) -> DataError:
    """One error for many pictures that cannot be used; lists the first ten."""
    lines = "\n  ".join(problems[i] for i in sorted(problems)[:10])
    more = f"\n  ... and {len(problems) - 10:,} more" if len(problems) > 10 else ""
    return DataError(
        f"{len(problems):,} of {count:,} pictures of {source!r} cannot be used:\n  {lines}{more}"
    )
