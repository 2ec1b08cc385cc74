"""CityscapesBoxes: the things of Cityscapes (Cordts et al. 2016) and Foggy Cityscapes (Sakaridis et al. 2018) as boxes.

    gtFine/{train,val}/CITY/NAME_gtFine_polygons.json
    leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png
    leftImg8bit_foggy/{train,val}/CITY/NAME_leftImg8bit_foggy_beta_0.02.png

A box is the extent of a polygon, cut at the picture's edge; "cargroup" and the like are groups. A mask is what of the
polygon can be seen: polygons are painted in the order of their file, from back to front, as the data set's own tools
do. Published numbers differ by which fog they use: 0.02 alone, or all three, which is thrice the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.checks import require
from visloom.data.cityscapes import TRAINED, place_of
from visloom.data.coco import read_json
from visloom.data.listing import subfolders
from visloom.data.mask_source import files_in
from visloom.errors import DataError
from visloom.sample import VOID

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""The classes with instances, in the order of their train ids."""

BETAS = (0.005, 0.01, 0.02)
"""Densities of fog that are published; visibility is about 3 / beta metres."""

COUNTED = frozenset({*(name for _, name, _ in TRAINED), "caravan", "trailer"})
"""Labels of pixels that count; where anything else was painted, or nothing, is void.

Caravans and trailers were meant to be void, but the benchmark finds void by numbers below 1000, which of these only
groups have. Its numbers are kept comparable.
"""

_UNPAINTED = frozenset({"license plate"})
_GROUP = "group"
_NAME = "_gtFine_polygons.json"


@dataclass(frozen=True, kw_only=True, repr=False)
class CityscapesBoxes(BoxSource):
    """Streets with boxes of eight classes.

    part: "train" (2,975 pictures) or "val" (500).
    beta: densities of fog, such as (0.02,) or all of `BETAS`; () is clear weather. Foggy pictures of a list that was
        published only in part are told of by `check`.
    masks: paint the polygons, as Mask R-CNN needs them, and Cityscapes' own average precision.
    """

    part: Literal["train", "val"] = "train"
    beta: tuple[float, ...] = ()
    masks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(set(self.beta) <= set(BETAS), f"beta has some of {BETAS}", self.beta)
        require(len(set(self.beta)) == len(self.beta), "beta has each density once", self.beta)

    def listed(self) -> Listed:
        """Read the polygons.

        Raises:
            DataError: folders or pictures are missing; a file has no such form.
        """
        labels = self._labels()
        folder = "leftImg8bit_foggy" if self.beta else "leftImg8bit"
        around = ("leftImg8bit_trainvaltest_foggy",) if self.beta else ("leftImg8bit_trainvaltest",)
        images = place_of(self.root, folder, around, self.part)
        endings = [f"_leftImg8bit_foggy_beta_{beta}.png" for beta in self.beta] or ["_leftImg8bit.png"]
        marked: list[Marked] = []
        lost = 0
        for city in subfolders(labels):
            for file in files_in(labels / city, _NAME):
                name = file.name.removesuffix(_NAME)
                size, things = self._read(file)
                for ending in endings:
                    image = images / city / f"{name}{ending}"
                    if self.beta and not image.is_file():
                        lost += 1
                        continue
                    ident = name if not self.beta else image.stem
                    marked.append(Marked(ident, image, file, things, size))
        if lost and not marked:
            raise DataError(f"{images}: has none of the {lost:,} pictures with fog of {self.beta}")
        notes = (f"{lost:,} annotated pictures have no foggy one here and are left out",) if lost else ()
        return Listed(marked, CLASSES, notes)

    def shapes(
        self, image: Path, stored: NDArray[np.object_], size: tuple[int, int]
    ) -> dict[str, NDArray[Any]]:
        """Paint the polygons of the file that belongs to a picture."""
        name = image.name.partition("_leftImg8bit")[0]
        file = self._labels() / image.parent.name / f"{name}{_NAME}"
        return {"things": painted(list(_outlined(file)), size), "box_thing": stored.astype(np.int64)}

    def _labels(self) -> Path:
        return place_of(self.root, "gtFine", ("gtFine_trainvaltest",), self.part)

    def _read(self, file: Path) -> tuple[tuple[int, int], list[Thing]]:
        data = _read(file)
        return (data["imgHeight"], data["imgWidth"]), list(self._things(_outlined(file, data)))

    def _things(self, outlines: Iterable[Outline]) -> Iterator[Thing]:
        for number, label, corners in outlines:
            name = label.removesuffix(_GROUP)
            if name not in CLASSES:
                continue
            x0, y0 = corners.min(0).tolist()
            x1, y1 = corners.max(0).tolist()
            yield Thing(
                f"object {number} ({label})",
                name,
                (x0, y0, x1, y1),
                name != label,
                number if self.masks else None,
            )


class Outline(NamedTuple):
    """One object of a file: its number, from 1, its label, and the corners (K, 2) of its polygon in pixels."""

    number: int
    label: str
    corners: NDArray[np.float64]


def painted(outlines: Sequence[Outline], size: tuple[int, int]) -> NDArray[np.int32]:
    """Objects as a picture (height, width) of their numbers, later ones over earlier ones, as json2instanceImg.

    -1 is what counts and is no thing (a road, a wall), `VOID` what does not count.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("I", size[::-1], VOID)
    pen = ImageDraw.Draw(picture)
    for number, label, corners in outlines:
        if label not in _UNPAINTED and len(corners) > 1:  # PIL draws no polygon of one corner
            thing = label.removesuffix(_GROUP) in CLASSES
            fill = number if thing else -1 if label in COUNTED else VOID
            pen.polygon([(x, y) for x, y in corners.tolist()], fill=fill)
    return np.asarray(picture, np.int32).copy()


def _outlined(file: Path, data: Any = None) -> Iterator[Outline]:
    """The objects of a file that are not marked as deleted."""
    for number, entry in enumerate((data or _read(file))["objects"], start=1):
        try:
            label, deleted = str(entry["label"]), entry.get("deleted")
            corners = np.asarray(entry["polygon"], np.float64)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: object {number} needs a label and a polygon ({error!r})") from error
        if corners.ndim != 2 or corners.shape[1] != 2 or not len(corners):
            raise DataError(f"{file}: object {number} ({label}) needs a polygon [[x, y], ...]")
        if not deleted:
            yield Outline(number, label, corners)


def _read(file: Path) -> dict[str, Any]:
    data = read_json(file)
    try:
        return {
            "imgHeight": int(data["imgHeight"]),
            "imgWidth": int(data["imgWidth"]),
            "objects": [*data["objects"]],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: expected imgHeight, imgWidth and objects with label and polygon ({error!r})"
        ) from error
