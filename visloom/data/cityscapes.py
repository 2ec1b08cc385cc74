"""Cityscapes: streets in 50 cities (Cordts et al. 2016), 19 classes that count, fine or coarse masks.

    leftImg8bit/{train,val,train_extra}/CITY/NAME_leftImg8bit.png
    gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png
    gtCoarse/{train,train_extra,val}/CITY/NAME_gtCoarse_labelIds.png

The folders that the archives unpack to (leftImg8bit_trainvaltest/leftImg8bit, gtFine_trainvaltest/gtFine,
leftImg8bit_trainextra/leftImg8bit, gtCoarse/gtCoarse) are understood too. Masks store ids 0 to 33; 19 of them have a
train id, all others are ignored. A picture and its mask belong together by name, whatever order the file system has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visloom.data.checks import require
from visloom.data.layout import Layout, some
from visloom.data.legend import Legend
from visloom.data.listing import subfolders
from visloom.data.mask_source import Item, MaskSource, existing, files_in
from visloom.errors import DataError
from visloom.palette import Colour
from visloom.warp import IGNORE

TRAINED: tuple[tuple[int, str, Colour], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
"""Id, name and colour of the classes, in the order of their train ids."""

CLASSES = tuple(name for _, name, _ in TRAINED)

MEAN, STD = (0.28689529, 0.32513294, 0.28389176), (0.17613647, 0.18099176, 0.17772235)
"""Per-channel mean and deviation that the original system normalised by, of values in [0, 1]."""

_IMAGE = "_leftImg8bit.png"


@dataclass(frozen=True, kw_only=True, repr=False)
class Cityscapes(MaskSource):
    """Cityscapes.

    part: "train" (2,975 pictures), "val" (500), or with coarse masks "train_extra" (19,998).
    masks: "fine", or "coarse": quick polygons, most pixels ignored.
    """

    part: Literal["train", "val", "train_extra"] = "train"
    masks: Literal["fine", "coarse"] = "fine"

    def __post_init__(self) -> None:
        super().__post_init__()
        coarse = self.part != "train_extra" or self.masks == "coarse"
        require(coarse, "masks is 'coarse' for part 'train_extra', which has no fine ones", self.masks)

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        kind = "gtFine" if self.masks == "fine" else "gtCoarse"
        images = place_of(
            self.root, "leftImg8bit", ("leftImg8bit_trainvaltest", "leftImg8bit_trainextra"), self.part
        )
        labels = place_of(self.root, kind, ("gtFine_trainvaltest", "gtCoarse"), self.part)
        items = []
        for city in subfolders(images):
            for image in files_in(images / city, _IMAGE):
                name = image.name.removesuffix(_IMAGE)
                items.append(Item(name, image, labels / city / f"{name}_{kind}_labelIds.png"))
        return existing(items, what=f"{images}"), ()

    def legend(self) -> Legend:
        ignored = dict.fromkeys((*range(34), 255), IGNORE)
        trained = {stored: label for label, (stored, _, _) in enumerate(TRAINED)}
        return Legend(CLASSES, tuple(colour for _, _, colour in TRAINED), {**ignored, **trained})


def place_of(root: str, name: str, around: Sequence[str], part: str) -> Path:
    """Return root/NAME/PART, or the same in a folder that an archive unpacks to."""
    places = [Path(root) / name / part, *(Path(root) / outer / name / part for outer in around)]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        there = subfolders(Path(root)) if Path(root).is_dir() else []
        raise DataError(
            f"{root or '.'}: is no Cityscapes with part {part!r}: missing {name}/{part} (looked for "
            f"{some([str(place) for place in places])}); found {some(there) or 'no folders'}. Unpack {name}'s archive "
            f"there, or name its place with --data"
        )
    return found


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds Cityscapes, with fine masks or else coarse ones."""
    kinds: tuple[Literal["fine", "coarse"], ...] = ("fine", "coarse")
    for masks in kinds:
        parts = {"train": Cityscapes(masks=masks), "val": Cityscapes(part="val", masks=masks)}
        try:
            counts = [len(Cityscapes(root=str(folder), part=p.part, masks=masks)) for p in parts.values()]
        except DataError:
            continue
        said = (
            f"{counts[0]:,} pictures to train, {counts[1]:,} to validate, {masks} masks",
            f"{len(CLASSES)} classes",
        )
        return Layout(kind="Cityscapes", parts=parts, classes=CLASSES, said=said)
    return None
