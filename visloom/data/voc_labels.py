"""VocLabels: the image classification task of PASCAL VOC (Everingham et al. 2010): which of 20 things a picture shows.

    VOCdevkit/VOC2007/
      JPEGImages/000005.jpg   Annotations/000005.xml   ImageSets/Main/trainval.txt, test.txt, train.txt, val.txt

A class is 1 if the annotation has an object of it, -1 if all its objects are difficult, else 0; so mmclassification
has it. Other data sets in this layout are read with `names`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import require
from visloom.data.images import read_image
from visloom.data.layout import Layout, some
from visloom.data.mask_source import find_root, read_list
from visloom.data.safexml import read_xml
from visloom.data.voc import CLASSES as WITH_BACKGROUND
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.stream import Source

CLASSES = WITH_BACKGROUND[1:]
_INNER = tuple(f"{before}VOC{year}" for year in (2007, 2012) for before in ("VOCdevkit/", ""))
_LISTS = "ImageSets/Main"


class Opened(NamedTuple):
    """place: the folder of the year.  ids: one per picture.  targets (N, K) float32: 1, 0 or -1 (difficult).

    sizes (N, 2) heights and widths, or None if an annotation does not say.  unknown: how many objects have a name
    that is no class.
    """

    place: Path
    ids: list[str]
    targets: NDArray[np.float32]
    sizes: NDArray[np.int64] | None
    unknown: Counter[str]


@dataclass(frozen=True, kw_only=True, repr=False)
class VocLabels(Source):
    """Pictures with any number of classes each.

    root: the folder VOC2007 (or of another year), or one that holds it or VOCdevkit.
    part: a list in ImageSets/Main: "trainval", "test", ... .  names: the classes, by default VOC's own; objects of
    other names are passed over, and `check` tells of them.
    """

    part: str = "trainval"
    names: tuple[str, ...] = CLASSES

    def __post_init__(self) -> None:
        require(bool(self.part) and "/" not in self.part, "part is the name of a list", self.part)
        require(len(self.names) > 1, "names has at least two classes", self.names)
        require(len(set(self.names)) == len(self.names), "names has each class once", self.names)

    def open(self) -> Opened:
        """Read the list and all annotations (a second for VOC 2007).

        Raises:
            DataError: folder or list is missing or empty; an annotation is missing, damaged or has no such form.
        """
        place = find_root(
            self.root,
            _INNER,
            ["JPEGImages", "Annotations", _LISTS],
            what="PASCAL VOC",
            get="Unpack VOCtrainval_06-Nov-2007.tar (and VOCtest_06-Nov-2007.tar) there, or name its place with --data",
        )
        ids = [line.split()[0] for line in read_list(place / _LISTS / f"{self.part}.txt")]
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if twice:
            raise DataError(f"{place / _LISTS / self.part}.txt names {some(twice)} more than once")
        column = {name: number for number, name in enumerate(self.names)}
        targets = np.zeros((len(ids), len(column)), np.float32)
        sizes = np.zeros((len(ids), 2), np.int64)
        unknown: Counter[str] = Counter()
        for row, name in enumerate(ids):
            found = _read(place / "Annotations" / f"{name}.xml")
            sizes[row] = found.size
            unknown.update(name for name, _ in found.objects if name not in column)
            for value, hard in (
                (-1.0, True),
                (1.0, False),
            ):  # one that is clear counts, difficult ones beside it or not
                here = [
                    column[name] for name, difficult in found.objects if name in column and difficult is hard
                ]
                targets[row, here] = value
        return Opened(place, ids, targets, sizes if sizes.all() else None, unknown)

    def count(self) -> int:
        return len(self.opened().ids)

    def fetch(self, index: int) -> Sample:
        opened = self.opened()
        image = read_image(opened.place / "JPEGImages" / f"{opened.ids[index]}.jpg")
        return Sample(opened.ids[index], image, opened.targets[index].copy())

    def sizes_all(self) -> NDArray[np.int64] | None:
        return self.opened().sizes  # type: ignore[no-any-return]

    def classes(self) -> tuple[str, ...]:
        return self.names

    def multilabels_all(self) -> NDArray[np.float32]:
        return self.opened().targets  # type: ignore[no-any-return]

    def check(self) -> list[str]:
        """Look for every picture; tell of classes that never occur, and of names that are no class.

        Raises:
            DataError: pictures are missing.
        """
        opened = self.opened()
        files = {path.name for path in (opened.place / "JPEGImages").iterdir()}
        lost = [name for name in opened.ids if f"{name}.jpg" not in files]
        if lost:
            raise DataError(f"{opened.place / 'JPEGImages'}: has no {some([f'{name}.jpg' for name in lost])}")
        empty = [n for n, there in zip(self.names, (opened.targets == 1).any(0), strict=True) if not there]
        notes = [f"{self!r}: no picture of {some(empty)}"] if empty else []
        if opened.unknown:
            named = some([f"{name} ({count})" for name, count in opened.unknown.most_common()])
            notes.append(f"{self!r}: objects of names that are no class are passed over: {named}")
        return notes

    def __repr__(self) -> str:
        if "_opened" not in self.__dict__:
            return f"VocLabels({self.part}, root={self.root!r})"
        return f"VocLabels({self.part}: {len(self):,} images, {len(self.names)} classes)"


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder is, or holds, VOC with lists for classification and without masks, which come first."""
    source = VocLabels(root=str(folder))
    try:
        place = find_root(str(folder), _INNER, ["JPEGImages", "Annotations", _LISTS], what="", get="")
    except DataError:
        return None
    lists = {path.stem for path in (place / _LISTS).glob("*.txt")}
    train = next((name for name in ("trainval", "train") if name in lists), None)
    if train is None:
        return None
    root = place.relative_to(folder).as_posix().removeprefix(".")
    test = "test" if "test" in lists else "val"
    if train == "trainval" and test == "val" and "val" in lists:
        train = "train" if "train" in lists else train
    parts = {"train": VocLabels(root=root, part=train)}
    if test in lists:
        parts["val"] = VocLabels(root=root, part=test)
    said = [f"{place} with the lists {some(sorted(lists & {'train', 'val', 'trainval', 'test'}))}"]
    return Layout(kind="PASCAL VOC, classes of pictures", parts=parts, classes=source.names, said=tuple(said))


class _Annotation(NamedTuple):
    objects: Sequence[tuple[str, bool]]  # name, difficult
    size: tuple[int, int]  # height, width; zeros if not said


def _read(path: Path) -> _Annotation:
    """Read one annotation."""
    tree = read_xml(path)
    objects = []
    for number, entry in enumerate(tree.findall("object")):
        name = (entry.findtext("name") or "").strip()
        hard = (entry.findtext("difficult") or "0").strip()
        if not name or hard not in ("0", "1"):
            raise DataError(
                f"{path}: object {number} needs a name and difficult 0 or 1, got {name!r} and {hard!r}"
            )
        objects.append((name, hard == "1"))
    sides = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    height, width = (int(side) if side.isdigit() else 0 for side in sides)
    return _Annotation(objects, (height, width))
