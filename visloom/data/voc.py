"""Voc: PASCAL VOC 2012 (Everingham et al. 2010), 20 things and background, also with the masks of SBD (Hariharan 2011).

    VOCdevkit/VOC2012/
      JPEGImages/*.jpg   SegmentationClass/*.png   SegmentationClassAug/*.png (SBD in the same form, 255 less often)
      ImageSets/Segmentation/train.txt, val.txt, trainval.txt      one id per line
                             train_aug.txt, ...         ids, or "/JPEGImages/x.jpg /SegmentationClassAug/x.png"

Masks have a palette; their index is the class, 255 (object borders) is ignored. Masks of the test part are not
published: `visloom predict` serves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visloom.data.layout import Layout
from visloom.data.legend import Legend, counted, voc_palette
from visloom.data.mask_source import Item, MaskSource, existing, find_root, read_list
from visloom.errors import DataError

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)

MEAN, STD = (0.45734706, 0.43338275, 0.40058118), (0.23965294, 0.23532275, 0.2398498)
"""Per-channel mean and deviation that the original system normalised by, of values in [0, 1]."""

_INNER = ("VOCdevkit/VOC2012", "VOC2012")
_LISTS = "ImageSets/Segmentation"


@dataclass(frozen=True, kw_only=True, repr=False)
class Voc(MaskSource):
    """PASCAL VOC 2012.

    root: the folder VOC2012, or one that holds it or VOCdevkit.  part: a list file; those with "_aug" take in SBD.
    """

    part: Literal["train", "val", "trainval", "train_aug", "val_aug", "trainval_aug"] = "train"

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        masks = "SegmentationClassAug" if self.part.endswith("_aug") else "SegmentationClass"
        place = _place(self.root, masks)
        lists = [place / _LISTS / f"{name}.txt" for name in (self.part, self.part.replace("_", ""))]
        lines = read_list(next((path for path in lists if path.is_file()), lists[0]))
        return existing([_item(place, masks, line) for line in lines], what=f"{place}, {self.part}"), ()

    def legend(self) -> Legend:
        return counted(CLASSES, voc_palette(len(CLASSES)), ignore=(255,))


def _item(place: Path, masks: str, line: str) -> Item:
    """A line names an id, or the two files by their paths in VOC2012, which begin with a slash."""
    files = line.split()
    if len(files) == 1:
        return Item(line, place / "JPEGImages" / f"{line}.jpg", place / masks / f"{line}.png")
    if len(files) > 2:
        raise DataError(f"{place / _LISTS}: expected an id, or a picture and a mask, found {line!r}")
    image, mask = (place / name.lstrip("/") for name in files)
    return Item(image.stem, image, mask)


def _place(root: str, masks: str) -> Path:
    get = "Unpack VOCtrainval_11-May-2012.tar there, or name its place with --data"
    if masks.endswith("Aug"):
        get += "; SegmentationClassAug is a download of its own, with its lists"
    return find_root(root, _INNER, ["JPEGImages", masks, _LISTS], what="VOC 2012", get=get)


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder is, or holds, VOC 2012; with SBD's masks where they and their list are there."""
    try:
        place = _place(str(folder), "SegmentationClass")
    except DataError:
        return None
    root = place.relative_to(folder).as_posix().removeprefix(".")
    listed = [path.stem.replace("_", "") for path in (place / _LISTS).glob("*.txt")]
    more = "trainaug" in listed and (place / "SegmentationClassAug").is_dir()
    parts = {
        "train": Voc(root=root, part="train_aug" if more else "train"),
        "val": Voc(root=root, part="val"),
    }
    said = [f"{place} with the lists {', '.join(sorted(listed))}", f"{len(CLASSES)} classes"]
    said.append("train with the masks of SBD" if more else "without the masks of SBD (SegmentationClassAug)")
    return Layout(kind="PASCAL VOC 2012", parts=parts, classes=CLASSES, said=tuple(said))
