"""DeepScene: Freiburg Forest (Valada et al. 2016), paths through woods.

    train/rgb/NAME_Clipped.jpg    train/GT_color/NAME_mask.png     a colour per pixel
    test/rgb/...                  test/GT_color/...                or GT_index/: numbers 0 to 5, 0 for void

Void is ignored; the original system trained it as class 0, which `void="class"` does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visloom.data.checks import require
from visloom.data.layout import Layout, some
from visloom.data.legend import Legend
from visloom.data.mask_source import Item, MaskSource, files_in, find_root
from visloom.errors import DataError
from visloom.palette import Colour
from visloom.warp import IGNORE

FOLDER = "freiburg_forest_annotated"
CLASSES = ("trail", "grass", "vegetation", "sky", "obstacle")
COLOURS: tuple[Colour, ...] = ((170, 170, 170), (0, 255, 0), (102, 102, 51), (0, 120, 255), (0, 0, 0))
VOID: Colour = (255, 255, 255)
TREE: Colour = (0, 60, 0)
"""Trees have a colour of their own in the masks; they are vegetation, as in the publication."""

MEAN, STD = (0.45734706, 0.43338275, 0.40058118), (0.23965294, 0.23532275, 0.2398498)
"""What the original system normalised by: VOC's, of values in [0, 1]."""

_ENDS = re.compile(r"_(clipped|mask|gt|color|index).*$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, repr=False)
class DeepScene(MaskSource):
    """Freiburg Forest.

    part: "train" (230 pictures) or "test" (136).  void: "ignore", or "class" for a class 0 of that name.
    """

    part: Literal["train", "test"] = "train"
    void: Literal["ignore", "class"] = "ignore"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.void in ("ignore", "class"), "void is 'ignore' or 'class'", self.void)

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        get = "Unpack freiburg_forest_annotated there, or name its place with --data"
        place = find_root(self.root, [FOLDER], [f"{self.part}/rgb"], what="Freiburg Forest", get=get)
        labels = next(
            (p for p in (place / self.part / n for n in ("GT_color", "GT_index")) if p.is_dir()), None
        )
        if labels is None:
            raise DataError(f"{place / self.part}: found rgb, missing GT_color (or GT_index). {get}")
        masks = {_name(path): path for path in files_in(labels, ".png")}
        images = {_name(path): path for path in files_in(place / self.part / "rgb", "")}
        lost = [path.name for name, path in images.items() if name not in masks]
        if lost:
            raise DataError(f"{labels}: {len(lost):,} of {len(images):,} pictures have no mask: {some(lost)}")
        return [Item(name, path, masks[name]) for name, path in images.items()], ()

    def legend(self) -> Legend:
        first = 1 if self.void == "class" else 0
        values = {0: 0 if first else IGNORE, **{n: n - 1 + first for n in range(1, 6)}}
        painted = {VOID: values[0], TREE: CLASSES.index("vegetation") + first}
        painted |= {colour: label + first for label, colour in enumerate(COLOURS)}
        return Legend(("void",) * first + CLASSES, (VOID,) * first + COLOURS, values, painted)


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder is, or holds, Freiburg Forest."""
    for root in ("", FOLDER):
        parts = {"train": DeepScene(root=root), "val": DeepScene(root=root, part="test")}
        here = [DeepScene(root=str(folder / root), part=part.part) for part in parts.values()]
        try:
            counts = [len(part) for part in here]
        except DataError:
            continue
        said = (
            f"{counts[0]:,} pictures to train, {counts[1]:,} to validate (its test part), in {folder / root}",
            f"{len(CLASSES)} classes; void is ignored",
        )
        return Layout(kind="DeepScene (Freiburg Forest)", parts=parts, classes=CLASSES, said=said)
    return None


def _name(path: Path) -> str:
    """What picture and mask have in common: b1-09517 of b1-09517_Clipped.jpg and b1-09517_mask.png."""
    return _ENDS.sub("", path.stem)
