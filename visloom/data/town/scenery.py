"""Scenery: street pictures with a class for every pixel. Sample i is a function of (seed, part, i), without files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.backdrop import Window, regions
from visloom.data.town.render import render
from visloom.data.town.scene import BACKDROP
from visloom.data.town.street import make_scene
from visloom.data.town.world import Part, check
from visloom.keys import fold, uniforms
from visloom.palette import Colour
from visloom.sample import Sample
from visloom.stream import Source

GROUPS = {
    "tree": ("tree", "hedge"),
    "car": ("car", "van"),
    "large vehicle": ("truck", "bus"),
    "two-wheeler": ("cyclist", "motorbike"),
    "person": ("pedestrian",),
    "traffic sign": ("sign", "light"),
    "street furniture": ("post", "hydrant", "bin", "bench"),
}
"""Class -> kinds of things; houses are buildings, as the far roofs of the backdrop are."""

CLASSES = (*BACKDROP, *GROUPS)

COLOURS: tuple[Colour, ...] = (
    (126, 178, 230), (152, 120, 108), (110, 96, 128), (226, 172, 214), (190, 206, 130), (56, 142, 60), (28, 78, 190),
    (0, 150, 170), (150, 40, 60), (230, 60, 50), (246, 200, 30), (120, 124, 128),
)  # fmt: skip


class _Album(NamedTuple):
    """Samples that were made already."""

    image: NDArray[np.uint8]  # (N, H, W, 3)
    mask: NDArray[np.int8]  # (N, H, W)
    made: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, repr=False)
class Scenery(Source):
    """Pictures of a street with masks["class"] for segmentation: 12 classes, from sky to street furniture.

    part: train, val and test never share a picture.  samples: pictures.  height, width: of each, in pixels.
    seed: another seed is another town of the same kind.  Pictures stay in memory once they are drawn.
    """

    part: Part = "train"
    samples: int = 400
    height: int = 96
    width: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.part, self.samples, (self.height, self.width))

    def open(self) -> _Album:
        shape = (self.samples, self.height, self.width)
        return _Album(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.int8), np.zeros(self.samples, bool))

    def count(self) -> int:
        return self.samples

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class."""
        return COLOURS

    def sizes_all(self) -> NDArray[np.int64]:
        return np.tile(np.array([[self.height, self.width]], np.int64), (self.samples, 1))

    def fetch(self, index: int) -> Sample:
        album: _Album = self.opened()
        if not album.made[index]:
            album.image[index], album.mask[index] = self._draw(index)
            album.made[index] = True
        mask = album.mask[index].astype(np.int32)
        return Sample(f"{self.part}-{index:06d}", album.image[index], masks={"class": mask})

    def _draw(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        key, size = fold(self.seed, "scenery", self.part, index), (self.height, self.width)
        scene = make_scene(key)
        shown = render(scene, key, None, size, ids=True)
        assert shown.ids is not None
        window = Window(0.0, 0.0, scene.camera.width, scene.camera.height)
        behind = regions(scene, window, size, uniforms(fold(key, "pixels"), 16))
        kinds = np.array([*(_CLASS_OF[thing.kind] for thing in scene.things), -1], np.int32)  # -1: none
        things = kinds[shown.ids]
        return shown.image, np.where(things >= 0, things, behind)

    def __repr__(self) -> str:
        return (
            f"Scenery({self.part}: {len(self):,} pictures {self.height}x{self.width}, {len(CLASSES)} classes)"
        )


_CLASS_OF = {
    "house": CLASSES.index("building"),
    **{kind: CLASSES.index(name) for name, kinds in GROUPS.items() for kind in kinds},
}
