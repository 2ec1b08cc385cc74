"""Sights: pictures of the town for unified parsing. Sample i is a function of (seed, part, records, i), without files.

Sources with different labels, as Broden+ has them: "objects" says objects, parts of them and the scene; "materials"
materials alone; "textures" are pictures of one texture each, which show no town. Two pictures of three of the town look
closely at one thing, so that its parts can be told; the others show a street.
`visloom/data/town/broden_root.py` writes sights to disk as Broden+.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.backdrop import Window
from visloom.data.town.labels import Labels, label, outputs
from visloom.data.town.render import render
from visloom.data.town.scene import Scene, boxes
from visloom.data.town.street import WEATHERS, make_scene
from visloom.data.town.textures import TEXTURES, texture
from visloom.data.town.world import Part, check
from visloom.keys import fold, uniforms
from visloom.sample import Sample
from visloom.source import Source
from visloom.warp import IGNORE

FOCUS = ("", "", "", "", "", "car", "car", "truck", "bus", "motorbike", "cyclist", "pedestrian", "pedestrian", "tree",
         "sign", "light")  # fmt: skip
"""What a picture looks at, each equally often; "" looks down the street."""

Records = Literal["objects", "materials", "textures"]

TASKS: Mapping[Records, tuple[str, ...]] = {
    "objects": ("object", "part", "scene"),
    "materials": ("material",),
    "textures": ("texture",),
}
"""Heads that each source labels."""


class Sight(NamedTuple):
    """A picture, (H, W, 3) uint8, with everything that can be said of it."""

    image: NDArray[np.uint8]
    labels: Labels


def look(key: int, aspect: float = 1.5) -> tuple[Scene, Window]:
    """Choose a street and where to look: the scene of a key and a window of its camera. aspect: its width by height."""
    u = uniforms(fold(key, "sight"), 6)
    focus = FOCUS[int(u[0] * len(FOCUS))]
    scene = make_scene(key, focus or None, weather=list(WEATHERS)[int(u[1] * len(WEATHERS))])
    camera = scene.camera
    if not focus:
        height = min(camera.height, camera.width / aspect) * (0.5 + 0.5 * float(u[2]))
        width = height * aspect
        return scene, Window(
            float(u[3]) * (camera.width - width), float(u[4]) * (camera.height - height), width, height
        )
    x0, y0, x1, y1 = boxes([scene.things[scene.focus]], camera)[0].tolist()
    height = max(y1 - y0, (x1 - x0) / aspect) * (1.15 + 0.5 * float(u[2]))
    width = height * aspect
    x = (x0 + x1) / 2 + 0.15 * width * (2 * float(u[3]) - 1)
    y = (y0 + y1) / 2 + 0.10 * height * (2 * float(u[4]) - 1)
    return scene, Window(x - width / 2, y - height / 2, width, height)


def sight(key: int, size: tuple[int, int]) -> Sight:
    """Draw what a key looks at, (height, width) pixels."""
    scene, window = look(key, size[1] / size[0])
    shown = render(scene, key, window, size, ids=True)
    return Sight(shown.image, label(scene, shown, window, uniforms(fold(key, "pixels"), 16)))


def texture_word(key: int) -> str:
    """Which texture the picture of a key shows."""
    return TEXTURES[int(uniforms(fold(key, "word"), 1)[0] * len(TEXTURES))]


@dataclass(frozen=True, kw_only=True, repr=False)
class Sights(Source):
    """Pictures of the town, or of textures, with the labels of one source of Broden+.

    records: what is labelled, see `TASKS`.  only: of that, only these; () labels all.
    part: train, val and test never share a picture, nor do the two kinds of records.  samples: pictures.
    height, width: of each, in pixels; the town looks best at two to three, or square.
    seed: another seed is another town of the same kind.
    Pictures stay in memory once they are drawn.
    """

    tasks: ClassVar[Mapping[Records, tuple[str, ...]]] = TASKS

    records: Records = "objects"
    only: tuple[str, ...] = ()
    part: Part = "train"
    samples: int = 300
    height: int = 64
    width: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.part, self.samples, (self.height, self.width))
        if self.records not in TASKS:
            raise ValueError(f"records is one of {', '.join(TASKS)}, got {self.records!r}")
        unknown = [name for name in self.only if name not in TASKS[self.records]]
        if unknown:
            raise ValueError(
                f"only: {', '.join(unknown)} is none of what {self.records} label: {', '.join(TASKS[self.records])}"
            )

    def open(self) -> dict[int, Sample]:
        return {}

    def count(self) -> int:
        return self.samples

    def sizes_all(self) -> NDArray[np.int64]:
        return np.tile(np.array([[self.height, self.width]], np.int64), (self.samples, 1))

    def key(self, index: int) -> int:
        """What a picture is drawn from."""
        return fold(self.seed, "sights", self.records, self.part, index)

    def fetch(self, index: int) -> Sample:
        album: dict[int, Sample] = self.opened()
        if index not in album:
            album[index] = self._draw(index)
        return album[index]

    def _draw(self, index: int) -> Sample:
        key, size = self.key(index), (self.height, self.width)
        tasks = self.only or TASKS[self.records]
        name = f"{self.part}-{index:06d}"
        if self.records == "textures":
            shown = TEXTURES.index(texture_word(key))
            return Sample(
                name,
                texture(key, TEXTURES[shown], size),
                extra={"tasks": tasks, "labels": {"texture": shown}},
            )
        image, labels = sight(key, size)
        every = {
            "object": _known(labels.object),
            "part": outputs(labels),
            "material": _known(labels.material),
        }
        return Sample(
            name,
            image,
            masks={name: mask for name, mask in every.items() if name in tasks},
            extra={"tasks": tasks, "labels": {"scene": labels.scene} if "scene" in tasks else {}},
        )

    def __repr__(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"Sights({self.records} {self.part}: {self.samples:,} pictures {size})"


def _known(mask: NDArray[np.int32]) -> NDArray[np.int32]:
    """Class 0, "-", as ignore."""
    return np.where(mask > 0, mask, np.int32(IGNORE))
