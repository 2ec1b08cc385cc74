"""Yolo: boxes in text files beside the pictures, one line per object, in shares of the picture (0 to 1).

    images/train/a.jpg + labels/train/a.txt     (or train/images/a.jpg + train/labels/a.txt, or images/ + labels/)
    data.yaml with names: [cat, dog] or {0: cat}, kpt_shape for keypoints; or classes.txt, obj.names

    class cx cy width height                        a box
    class x1 y1 x2 y2 x3 y3 ...                     an outline, which gives box and mask
    class cx cy width height x1 y1 [v1] x2 ...      a box with keypoints, where data.yaml has kpt_shape

A picture without a file has no objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from visloom.data import listing
from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.images import EXTENSIONS, missing
from visloom.data.layout import Layout, some
from visloom.errors import DataError
from visloom.stream import Split

TABLES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml", "classes.txt", "obj.names", "labels.txt")
"""Files with class names that are looked for where none is given."""

_FAR = 2.0  # shares beyond this are no rounding: such numbers are pixels


class Named(NamedTuple):
    """What a table says: class names, and (number, values each) of keypoints or None."""

    names: tuple[str, ...]
    points: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Yolo(BoxSource):
    """Pictures with one text file of boxes each.

    images, texts: folders of pictures and text files; by default the word "images" in the former becomes "labels".
    table: file with the class names, relative to `root`; "" looks for data.yaml, classes.txt, obj.names and the like.
    masks: keep outlines, as Mask R-CNN needs them.
    """

    images: str = "images"
    texts: str = ""
    table: str = ""
    masks: bool = False

    def listed(self) -> Listed:
        """Read the table and all text files.

        Raises:
            DataError: folders or the table are missing; a line is no object, of no class, or in pixels.
        """
        root = Path(self.root)
        images, labels = root / self.images, root / (self.texts or labels_of(self.images))
        for folder in (images, labels):
            if not folder.is_dir():
                raise DataError(f"{folder}: {missing(folder)}; name the folders with images and texts")
        known = read_table(root, self.table)
        marked, bare = [], 0
        for name in listing.pictures(images, EXTENSIONS):
            file = (labels / name).with_suffix(".txt")
            things: list[Thing] = []
            if file.is_file():
                things = list(self._things(file, known))
            else:
                bare += 1
            marked.append(Marked(name, images / name, file, things, shares=True))
        if marked and bare == len(marked):
            raise DataError(f"{labels}: none of the {bare:,} pictures in {images} has a text file there")
        notes = (f"{bare:,} of {len(marked):,} pictures have no text file, so no object",) if bare else ()
        return Listed(marked, known.names, notes)

    def masks_of(self, stored: Any, size: tuple[int, int]) -> list[NDArray[np.float64]]:
        """Outlines in pixels."""
        return [np.asarray(part, np.float64).reshape(-1, 2) * (size[1], size[0]) for part in stored]

    def _things(self, file: Path, known: Named) -> Sequence[Thing]:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read ({error})") from error
        return [
            self._thing(file, number, line, known) for number, line in enumerate(lines, 1) if line.strip()
        ]

    def _thing(self, file: Path, number: int, line: str, known: Named) -> Thing:
        where = f"line {number}"
        try:
            label, *values = (float(word) for word in line.split())
        except ValueError:
            raise DataError(f"{file}, {where}: expected numbers, found {line.strip()[:60]!r}") from None
        if label != int(label) or not 0 <= label < len(known.names):
            raise DataError(
                f"{file}, {where}: class {label:g} is none; classes run from 0 to {len(known.names) - 1} "
                f"({some(known.names)})"
            )
        if len(values) < 4 or any(abs(value) > _FAR for value in values[:4]):
            raise DataError(
                f"{file}, {where}: expected a class and at least four shares of the picture, 0 to 1, found "
                f"{line.strip()[:60]!r}{'; these seem to be pixels' if len(values) >= 4 else ''}"
            )
        name = known.names[int(label)]
        if known.points is None and len(values) > 4:
            if len(values) < 6 or len(values) % 2:
                raise DataError(
                    f"{file}, {where}: an outline has three points or more, found {len(values)} numbers"
                )
            outline = np.array(values).reshape(-1, 2)
            box = (*outline.min(0).tolist(), *outline.max(0).tolist())
            return Thing(where, name, box, polygons=[values] if self.masks else None)
        cx, cy, width, height = values[:4]
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        points = None if known.points is None else self._points(file, where, values[4:], known.points)
        return Thing(where, name, box, keypoints=points)

    def _points(
        self, file: Path, where: str, values: Sequence[float], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        if len(values) != shape[0] * shape[1]:
            raise DataError(
                f"{file}, {where}: expected {shape[0]} keypoints of {shape[1]} numbers behind the box, found "
                f"{len(values)} numbers"
            )
        points = np.array(values, np.float32).reshape(shape)
        seen = points[:, 2:] if shape[1] == 3 else (points > 0).any(1, keepdims=True) * 2.0
        return np.concatenate([points[:, :2], seen], 1).astype(np.float32)


def labels_of(images: str) -> str:
    """The folder of text files that belongs to a folder of pictures."""
    parts = images.split("/")
    for place in reversed(range(len(parts))):
        if parts[place].lower() == "images":
            return "/".join((*parts[:place], "labels", *parts[place + 1 :]))
    return images


def read_table(root: Path, table: str = "") -> Named:
    """Read class names.

    Raises:
        DataError: there is no table, or it names no classes.
    """
    places = [root / table] if table else [root / name for name in TABLES]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        looked = table or f"one of {', '.join(TABLES)}"
        raise DataError(f"{root}: has no table of class names; expected {looked}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        data = yaml.safe_load(text) if file.suffix in (".yaml", ".yml") else text.split("\n")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if isinstance(data, list):
        names = tuple(line.strip() for line in data if line.strip())
        return Named(_each_once(file, names))
    found = data.get("names") if isinstance(data, dict) else None
    if isinstance(found, dict) and sorted(found) == list(range(len(found))):
        found = [found[number] for number in range(len(found))]
    if not isinstance(found, list) or not found:
        raise DataError(
            f"{file}: needs names, a list of class names or a number from 0 for each, got {found!r}"
        )
    shape = data.get("kpt_shape")
    good = isinstance(shape, list) and len(shape) == 2 and shape[1] in (2, 3)
    if shape is not None and not good:
        raise DataError(f"{file}: kpt_shape is [keypoints, 2 or 3], got {shape!r}")
    return Named(_each_once(file, tuple(map(str, found))), (shape[0], shape[1]) if good else None)


def _each_once(file: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise DataError(f"{file}: needs class names, each once, got {some(names)}")
    return names


_TRAIN, _VAL = ("train", "training"), ("val", "valid", "validation", "test")


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds pictures with text files of boxes, in one part or several."""
    if not folder.is_dir() or not any((folder / name).is_file() for name in TABLES):
        return None
    found: dict[str, Yolo] = {}
    for part, words in (("train", _TRAIN), ("val", _VAL)):
        for images in (form.format(word) for word in words for form in ("images/{}", "{}/images")):
            if part not in found and _has(folder, images):
                found[part] = Yolo(images=images)
    if "train" not in found:
        bare = next((name for name in ("images", "obj_train_data", "data", "") if _has(folder, name)), None)
        if bare is None:
            return None
        found["train"] = Yolo(images=bare)
    wholes = {part: Yolo(root=str(folder), images=source.images) for part, source in found.items()}
    said = [
        f"{part}: {len(whole):,} pictures in {whole.images or 'the folder itself'}, {len(whole.opened().boxes):,} boxes"
        for part, whole in wholes.items()
    ]
    classes = wholes["train"].classes()
    if "val" not in found:
        images = found["train"].images
        found = {
            "train": Yolo(images=images, split=Split("head", 0.9)),
            "val": Yolo(images=images, split=Split("tail", 0.9)),
        }
        said.append("val: none of its own, so a tenth of the pictures is kept for it")
    said.append(f"{len(classes)} classes: {some(classes)}")
    return Layout(kind="boxes in YOLO's text form", parts=found, classes=classes, said=tuple(said))


def _has(folder: Path, images: str) -> bool:
    """Whether a folder has pictures and its text files hold a class and shares."""
    labels = folder / labels_of(images)
    if not (folder / images).is_dir() or not labels.is_dir():
        return False
    for name in listing.pictures(folder / images, EXTENSIONS):
        file = (labels / name).with_suffix(".txt")
        if file.is_file() and file.stat().st_size:
            words = file.read_text(encoding="utf-8", errors="replace").split("\n")[0].split()
            return len(words) >= 5 and words[0].isdecimal()
    return False
