"""Clothes: Clothing Co-Parsing (Yang, Luo, Lin 2014), 59 labels on street fashion photos, in its published layout.

    clothing-co-parsing-master/
      photos/0001.jpg                        2,098 photos
      annotations/pixel-level/0001.mat       1,004 of them have a mask: variable `groundtruth`, (H, W) uint8, 0 to 58
      splits/train.txt, val.txt              stems, where somebody fixed a split

Photos without a mask are left out. 4 of the 59 labels never occur (clogs, intimate, panties, swimwear).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from visloom.data.layout import Layout, some
from visloom.data.legend import Legend, counted, voc_palette
from visloom.data.mask_source import CHECKED_MAT, Item, MaskSource, find_root, read_list
from visloom.data.maskfile import Array, MaskHeader, mat_header, read_mat
from visloom.errors import DataError
from visloom.stream import Split

FOLDER = "clothing-co-parsing-master"
PHOTOS, MASKS, SPLITS = "photos", "annotations/pixel-level", "splits"

# fmt: off
CLASSES = (
    "null", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra", "bracelet", "cape",
    "cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses", "gloves", "hair", "hat", "heels", "hoodie",
    "intimate", "jacket", "jeans", "jumper", "leggings", "loafers", "necklace", "panties", "pants", "pumps", "purse",
    "ring", "romper", "sandals", "scarf", "shirt", "shoes", "shorts", "skin", "skirt", "sneakers", "socks",
    "stockings", "suit", "sunglasses", "sweater", "sweatshirt", "swimwear", "t-shirt", "tie", "tights", "top", "vest",
    "wallet", "watch", "wedges",
)
# fmt: on
"""The labels, as `label_list.mat` of the data set has them; 0, "null", is the background."""

MEAN, STD = (0.55, 0.53374356, 0.526291), (0.26, 0.257, 0.259)
"""Per-channel mean and deviation that the original system normalised by, of values in [0, 1]. The deviation is the
average of each photo's own; over all pixels together it is 0.275, 0.272, 0.275."""

HELD = 0.85
"""Share of the photos to train on where no split files are there."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Clothes(MaskSource):
    """Clothing Co-Parsing.

    root: the folder with photos/ and annotations/, or the one around it.
    part: "train" and "val" follow splits/train.txt and splits/val.txt; where there are none, 85 % of the photos by a
        keyed permutation, and the rest. "all" is every photo with a mask.
    """

    headers: ClassVar[int] = CHECKED_MAT

    part: Literal["train", "val", "all"] = "train"

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        place = _place(self.root)
        photos = {
            path.stem: path for path in sorted((place / PHOTOS).iterdir()) if path.suffix.lower() == ".jpg"
        }
        masks = {path.stem: path for path in (place / MASKS).iterdir() if path.suffix.lower() == ".mat"}
        lost = sorted(set(masks) - set(photos))
        if lost:
            raise DataError(
                f"{place / PHOTOS}: {len(lost):,} masks have no photo: {some([f'{n}.jpg' for n in lost])}"
            )
        both = [name for name in photos if name in masks]
        if not both:
            raise DataError(f"{place}: none of the {len(photos):,} photos has a mask in {MASKS}")
        bare = len(photos) - len(both)
        notes = [f"{place}: {bare:,} photos without a mask are left out"] if bare else []
        if self.part != "all":
            both = self._part(place, both, notes)
        return [Item(name, photos[name], masks[name]) for name in both], tuple(notes)

    def _part(self, place: Path, names: list[str], notes: list[str]) -> list[str]:
        file = place / SPLITS / f"{self.part}.txt"
        if not file.parent.is_dir():
            notes.append(
                f"{place}: has no {SPLITS}/, so {HELD:.0%} of the photos are for training, the same ones always"
            )
            split = Split("head" if self.part == "train" else "tail", HELD)
            return [names[i] for i in split.choose(len(names))]
        listed = [Path(line).stem for line in read_list(file)]
        lost = sorted(set(listed) - set(names))
        if lost:
            raise DataError(f"{file}: names {len(lost):,} photos that have no mask: {some(lost)}")
        return listed

    def legend(self) -> Legend:
        return counted(CLASSES, voc_palette(len(CLASSES)))

    def read_raw(self, path: Path) -> Array:
        return read_mat(path, "groundtruth")

    def raw_header(self, path: Path) -> MaskHeader:
        return mat_header(path, "groundtruth")


def _place(root: str) -> Path:
    get = "Unpack clothing-co-parsing there, or name its place with --data"
    return find_root(root, [FOLDER], [PHOTOS, MASKS], what="Clothing Co-Parsing", get=get)


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder is, or holds, Clothing Co-Parsing."""
    try:
        place = _place(str(folder))
    except DataError:
        return None
    root = "" if place == folder else FOLDER
    parts = {"train": Clothes(root=root, part="train"), "val": Clothes(root=root, part="val")}
    found = [len(Clothes(root=str(place), part=part).items()[0]) for part in ("train", "val")]  # type: ignore[arg-type]
    where = (
        "by its split files"
        if (place / SPLITS).is_dir()
        else "by a keyed permutation, there are no split files"
    )
    said = (
        f"{sum(found):,} photos with masks in {place}",
        f"{found[0]:,} to train, {found[1]:,} to validate, {where}",
    )
    return Layout(
        kind="Clothing Co-Parsing", parts=parts, classes=CLASSES, said=(*said, f"{len(CLASSES)} classes")
    )
