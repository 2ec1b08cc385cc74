"""CityscapesBoxes: the things of Cityscapes (Cordts et al. 2016) and Foggy Cityscapes (Sakaridis et al. 2018) as boxes.

    gtFine/{train,val}/CITY/NAME_gtFine_polygons.json
    leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png
    leftImg8bit_foggy/{train,val}/CITY/NAME_leftImg8bit_foggy_beta_0.02.png

A box is the extent of a polygon, cut at the picture's edge; "cargroup" and the like are groups. The polygon itself is
the mask. Published numbers differ by which fog they use: 0.02 alone, or all three, which is thrice the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.checks import require
from visloom.data.cityscapes import place_of
from visloom.data.coco import read_json
from visloom.data.listing import subfolders
from visloom.data.mask_source import files_in
from visloom.errors import DataError

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""The classes with instances, in the order of their train ids."""

BETAS = (0.005, 0.01, 0.02)
"""Densities of fog that are published; visibility is about 3 / beta metres."""

_GROUP = "group"
_NAME = "_gtFine_polygons.json"


@dataclass(frozen=True, kw_only=True, repr=False)
class CityscapesBoxes(BoxSource):
    """Streets with boxes of eight classes.

    part: "train" (2,975 pictures) or "val" (500).
    beta: densities of fog, such as (0.02,) or all of `BETAS`; () is clear weather. Foggy pictures of a list that was
        published only in part are told of by `check`.
    masks: keep the polygons, as Mask R-CNN needs them.
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
        labels = place_of(self.root, "gtFine", ("gtFine_trainvaltest",), self.part)
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

    def _read(self, file: Path) -> tuple[tuple[int, int], list[Thing]]:
        data = read_json(file)
        try:
            size = int(data["imgHeight"]), int(data["imgWidth"])
            objects = data["objects"]
            return size, list(self._things(file, objects))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file}: expected imgHeight, imgWidth and objects with label and polygon ({error!r})"
            ) from error

    def _things(self, file: Path, objects: list[Any]) -> Iterator[Thing]:
        for number, entry in enumerate(objects, start=1):
            label = str(entry["label"])
            name = label.removesuffix(_GROUP)
            if name not in CLASSES or entry.get("deleted"):
                continue
            corners = np.asarray(entry["polygon"], np.float64)
            if corners.ndim != 2 or corners.shape[1] != 2 or not len(corners):
                raise DataError(f"{file}: object {number} ({label}) needs a polygon [[x, y], ...]")
            x0, y0 = corners.min(0).tolist()
            x1, y1 = corners.max(0).tolist()
            polygons = [entry["polygon"]] if self.masks else None
            yield Thing(f"object {number} ({label})", name, (x0, y0, x1, y1), name != label, polygons)
