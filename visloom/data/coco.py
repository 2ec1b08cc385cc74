"""Coco: boxes, masks and keypoints in COCO's JSON form (Lin et al. 2014), as many tools write it.

    annotations/instances_train2017.json + train2017/*.jpg     Coco(file="annotations/instances_train2017.json",
                                                                    images="train2017")
    train/_annotations.coco.json + train/*.jpg                 Coco(file="train/_annotations.coco.json", images="train")

Category ids may have gaps: classes stand in the order of their ids, `category_ids()` are the ids. Pictures without
annotations stay, they teach what is background. Masks are polygons or run lengths, plain or compressed; crowds count
for nothing.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.checks import require
from visloom.data.images import missing
from visloom.data.layout import Layout, some
from visloom.errors import DataError
from visloom.stream import Split


@dataclass(frozen=True, kw_only=True, repr=False)
class Coco(BoxSource):
    """Pictures whose boxes stand in one JSON file.

    file: the JSON, relative to `root`.  images: folder of the pictures, relative to `root`.
    masks: keep polygons and run lengths, as Mask R-CNN needs them.  keypoints: keep keypoints.
    annotated: leave out pictures without an annotation (the original did; they help against false alarms).
    """

    file: str = "annotations/instances_train2017.json"
    images: str = "train2017"
    masks: bool = False
    keypoints: bool = False
    annotated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.file), "file names the JSON of the annotations", self.file)

    def listed(self) -> Listed:
        """Read the JSON.

        Raises:
            DataError: the file is missing, no JSON, or has no such form; an annotation names a picture or a category
                that is not there.
        """
        file = Path(self.root) / self.file
        data = read_json(file)
        pictures = _entries(file, data, "images")
        things = _entries(file, data, "annotations")
        names = _categories(file, _entries(file, data, "categories"))
        of_picture: dict[Any, list[Thing]] = defaultdict(list)
        known = {_get(file, "image", entry, "id", (int, str)) for entry in pictures}
        if len(known) < len(pictures):
            raise DataError(f"{file}: {len(pictures):,} images have only {len(known):,} different ids")
        for entry in things:
            picture, thing = self._thing(file, entry, names)
            if picture not in known:
                raise DataError(f"{file}: {thing.where} is of image {picture!r}, and no image has that id")
            of_picture[picture].append(thing)
        folder = Path(self.root) / self.images
        marked = [
            _marked(file, folder, entry, of_picture[entry["id"]])
            for entry in pictures
            if of_picture[entry["id"]] or not self.annotated
        ]
        return Listed(marked, tuple(names.values()), (), tuple(names))

    def masks_of(self, stored: Any, size: tuple[int, int]) -> list[NDArray[np.float64]]:
        """Polygons as they are; run lengths as upright rectangles of their pixels, which is exact."""
        if isinstance(stored, Mapping):
            return rectangles(stored, size)
        return super().masks_of(stored, size)

    def _thing(self, file: Path, entry: Any, names: Mapping[int, str]) -> tuple[Any, Thing]:
        ident = entry.get("id", "?") if isinstance(entry, dict) else "?"
        where = f"annotation {ident}"
        picture = _get(file, where, entry, "image_id", (int, str))
        category = _get(file, where, entry, "category_id", (int,))
        if category not in names:
            raise DataError(
                f"{file}: {where} has category_id {category}, which is none; the categories are "
                f"{some([f'{i} {name}' for i, name in names.items()])}"
            )
        box = _get(file, where, entry, "bbox", (list,))
        if len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            raise DataError(f"{file}: {where} needs bbox [x, y, width, height], got {box!r}")
        x, y, width, height = box
        shape = entry.get("segmentation") if self.masks else None
        return picture, Thing(
            where,
            names[category],
            (x, y, x + width, y + height),
            bool(entry.get("iscrowd", 0)),
            self._shape(file, where, shape) if shape else None,
            self._points(file, where, entry) if self.keypoints else None,
            self._area(file, where, entry),
        )

    def _shape(self, file: Path, where: str, shape: Any) -> Any:
        polygons = isinstance(shape, list) and all(isinstance(p, list) and len(p) % 2 == 0 for p in shape)
        runs = isinstance(shape, dict) and "counts" in shape and len(shape.get("size", ())) == 2
        if not polygons and not runs:
            raise DataError(
                f"{file}: {where} has a segmentation that is neither polygons [[x, y, x, y, ...], ...] nor run "
                f'lengths {{"size": [h, w], "counts": ...}}'
            )
        return shape

    def _area(self, file: Path, where: str, entry: Any) -> float | None:
        area = entry.get("area")
        if area is None:
            return None
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area < math.inf:
            raise DataError(f"{file}: {where} has the area {area!r}: expected pixels, 0 or more")
        return float(area)

    def _points(self, file: Path, where: str, entry: Any) -> Any:
        points = entry.get("keypoints")
        if points is None:
            return None
        if not isinstance(points, list) or len(points) % 3:
            raise DataError(f"{file}: {where} needs keypoints [x, y, visibility, ...] by threes")
        # COCO names the pixel that a point lies in; its middle is half a pixel further
        made = np.asarray(points, np.float32).reshape(-1, 3)
        made[:, :2] += np.where(made[:, 2:] > 0, 0.5, 0.0)
        return made


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing or no JSON; says where it breaks.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file}: {missing(file) if not file.exists() else error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is no JSON, it is damaged or cut off ({error})") from error


def _entries(file: Path, data: Any, name: str) -> list[Any]:
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, list):
        inside = some(list(data)) if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"{file}: has no list {name!r}; COCO's form has images, annotations, categories; here: {inside}"
        )
    return found


def _get(file: Path, what: str, entry: Any, name: str, kinds: tuple[type, ...]) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(f"{file}: {what} needs {name} ({wanted}), got {value!r}")
    return value


def _categories(file: Path, entries: Sequence[Any]) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    pairs = [
        (_get(file, "category", e, "id", (int,)), _get(file, "category", e, "name", (str,))) for e in entries
    ]
    names = dict(sorted(pairs))
    if len(names) < len(pairs) or len(set(names.values())) < len(names):
        raise DataError(f"{file}: categories repeat an id or a name: {some([f'{i} {n}' for i, n in pairs])}")
    return names


def _marked(file: Path, folder: Path, entry: Any, things: list[Thing]) -> Marked:
    name = _get(file, f"image {entry['id']}", entry, "file_name", (str,))
    height, width = (entry.get(side) for side in ("height", "width"))
    known = all(isinstance(side, int) and side > 0 for side in (height, width))
    return Marked(name, folder / name, file, things, (height, width) if known else None)


# ----------------------------------------------------------------------------------------------------- run lengths


def runs(stored: Mapping[str, Any]) -> NDArray[np.int64]:
    """Lengths of the runs of a mask, zeros first, column by column; compressed ones are unpacked as by pycocotools."""
    counts = stored["counts"]
    if isinstance(counts, list):
        return np.asarray(counts, np.int64)
    found: list[int] = []
    value = shift = 0
    for letter in counts.encode() if isinstance(counts, str) else counts:
        part = letter - 48  # six bits of a number in each letter, the low ones first
        value |= (part & 0x1F) << shift
        shift += 5
        if part & 0x20:
            continue
        if part & 0x10:
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)  # later ones as differences
        value = shift = 0
    return np.asarray(found, np.int64)


def decoded(stored: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H, W) from its run lengths. Raises DataError where they do not fill the picture."""
    lengths = runs(stored)
    if tuple(stored["size"]) != size or int(lengths.sum()) != size[0] * size[1] or (lengths < 0).any():
        raise DataError(
            f"run lengths of size {list(stored['size'])} with {int(lengths.sum()):,} pixels do not fill a picture of "
            f"{size[0]}x{size[1]} (height x width)"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size[1], size[0]).T


def rectangles(stored: Mapping[str, Any], size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Upright rectangles that cover just the pixels of a mask: (4, 2) arrays."""
    mask = decoded(stored, size)
    return list(_rectangles(mask))


def _rectangles(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    columns = np.flatnonzero(mask.any(0))
    open_: dict[tuple[int, int], int] = {}  # (top, bottom) of a stripe -> the column where it began
    last = -2
    for column in [*columns.tolist(), -1]:
        edges: list[tuple[int, int]] = []
        if column >= 0:
            steps = np.flatnonzero(np.diff(np.concatenate([[False], mask[:, column], [False]]))).tolist()
            edges = list(zip(steps[::2], steps[1::2], strict=True))
        going = set(edges) if column == last + 1 else set()
        for (top, bottom), start in list(open_.items()):
            if (top, bottom) not in going:
                right = last + 1
                yield np.array([[start, top], [right, top], [right, bottom], [start, bottom]], np.float64)
                del open_[(top, bottom)]
        for edge in edges:
            open_.setdefault(edge, column)
        last = column


# ----------------------------------------------------------------------------------------------------- recognising


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds a JSON in COCO's form with its pictures, for one part or several."""
    if not folder.is_dir():
        return None
    found = dict(_parts(folder))
    if "train" not in found:
        return None
    wholes = {
        part: Coco(root=str(folder), file=source.file, images=source.images) for part, source in found.items()
    }
    said = [
        f"{part}: {len(whole):,} pictures in {whole.images or 'the folder itself'}, {len(whole.opened().boxes):,} "
        f"boxes in {whole.file}"
        for part, whole in wholes.items()
    ]
    classes = wholes["train"].classes()
    if "val" not in found:
        held = found["train"]
        found = {
            "train": Coco(file=held.file, images=held.images, split=Split("head", 0.9)),
            "val": Coco(file=held.file, images=held.images, split=Split("tail", 0.9)),
        }
        said.append("val: none of its own, so a tenth of the pictures is kept for it")
    said.append(f"{len(classes)} classes: {some(classes)}")
    return Layout(kind="boxes in COCO's JSON form", parts=found, classes=classes, said=tuple(said))


_WORDS = {"train": ("train",), "val": ("val", "test")}


def _parts(folder: Path) -> Iterator[tuple[str, Coco]]:
    files = [*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob("*/*coco*.json")]
    taken: set[str] = set()
    for part, words in (*_WORDS.items(), ("train", ("",))):
        for word in words:
            for file in sorted(files, key=lambda path: ("instances" not in path.name, str(path))):
                name = file.relative_to(folder).as_posix()
                if part not in taken and word in name.lower() and name not in taken:
                    images = _images(folder, file)
                    if images is not None:
                        taken.update((part, name))
                        yield part, Coco(file=name, images=images)


def _images(folder: Path, file: Path) -> str | None:
    """The folder with the first picture of a JSON, relative to `folder`, or None if it is no such JSON."""
    try:
        data = read_json(file)
        name = _get(file, "image", _entries(file, data, "images")[0], "file_name", (str,))
        _entries(file, data, "annotations")
        _entries(file, data, "categories")
    except (DataError, IndexError):
        return None
    stem = file.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    beside = file.parent.relative_to(folder).as_posix().removeprefix(".")
    places = (
        stem,
        f"images/{stem}",
        "images",
        beside,
        "",
        "JPEGImages",
        "train",
        "val",
        "test",
        "imgs",
        "data",
    )
    return next((place for place in places if (folder / place / name).is_file()), None)
