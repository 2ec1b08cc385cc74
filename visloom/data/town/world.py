"""World: the town as data sources. Sample i is a function of (seed, part, i): no file, no download, no end.

Town      pictures of single objects with a class each                          (classification)
Streets   whole street pictures with boxes, masks and places in space           (detection, parsing, fusion)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.backdrop import Window
from visloom.data.town.render import render
from visloom.data.town.scene import CLASSES, Scene, boxes, place
from visloom.data.town.street import WEATHERS, make_scene
from visloom.keys import fold, fold_array, uniforms
from visloom.sample import Sample, Stacked
from visloom.stream import Source

Part = Literal["train", "val", "test"]

SHARES = (0.20, 0.09, 0.09, 0.08, 0.08, 0.09, 0.14, 0.09, 0.07, 0.07)
"""How often each class comes, as in a street; always answering "car" is right one time in five."""


def check(part: str, count: int, sides: tuple[int, ...]) -> None:
    """Raise ValueError for a part, a number of pictures or sides in pixels that make no sense."""
    if part not in ("train", "val", "test"):
        raise ValueError(f"part must be train, val or test, got {part!r}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if min(sides) < 16 or max(sides) > 2048:
        raise ValueError(
            f"pictures must be 16 to 2048 pixels wide and high, got {' x '.join(map(str, sides))}"
        )


class _Album:
    """Pictures that were made already, kept in memory: each is made when it is first asked for."""

    def __init__(self, count: int, side: int) -> None:
        self.image = np.zeros((count, side, side, 3), np.uint8)
        self.made = np.zeros(count, bool)


@dataclass(frozen=True, kw_only=True, repr=False)
class Town(Source):
    """Pictures of one object each, cut out of a street with some of its surroundings, partly hidden now and then.

    part: train, val and test never share a picture.  count: pictures.  size: side in pixels.
    seed: another seed is another town of the same kind.
    """

    part: Part = "train"
    samples: int = 6000
    size: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.part, self.samples, (self.size,))

    def open(self) -> _Album:
        """Return the empty album; pictures are made on demand, about 500 to 1,000 a second on one core."""
        return _Album(self.samples, self.size)

    def count(self) -> int:
        return self.samples

    def picture_size(self) -> tuple[int, int]:
        return self.size, self.size

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def labels_all(self) -> NDArray[np.int64]:
        """(N,) class of every picture, known without drawing it."""
        keys = fold_array(fold(self.seed, "town", self.part), np.arange(self.samples))
        return np.searchsorted(np.cumsum(SHARES)[:-1], uniforms(keys, 1)[:, 0], side="right").astype(np.int64)

    def sizes_all(self) -> NDArray[np.int64]:
        return np.full((self.samples, 2), self.size, np.int64)

    def fetch(self, index: int) -> Sample:
        stacked = self.fetch_batch(np.array([index]))
        return stacked[0]

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked:
        """One array of many pictures: (B, size, size, 3) uint8."""
        album: _Album = self.opened()
        labels = self._labels()
        for index in np.unique(indices[~album.made[indices]]).tolist():
            album.image[index] = picture(self._key(index), int(labels[index]), self.size)
            album.made[index] = True
        ids = tuple(f"{self.part}-{index:06d}" for index in indices.tolist())
        return Stacked(ids, album.image[indices], labels[indices])

    def __repr__(self) -> str:
        return f"Town({self.part}: {len(self):,} pictures {self.size}x{self.size}, {len(CLASSES)} classes)"

    def _key(self, index: int) -> int:
        return int(fold_array(fold(self.seed, "town", self.part), index)[0])

    def _labels(self) -> NDArray[np.int64]:
        if "_all_labels" not in self.__dict__:
            object.__setattr__(self, "_all_labels", self.labels_all())
        return self.__dict__["_all_labels"]  # type: ignore[no-any-return]


def picture(key: int, label: int, size: int) -> NDArray[np.uint8]:
    """Draw one object of a class with 0 to 50 % more around it, somewhat off the middle: (size, size, 3) uint8 RGB."""
    scene = make_scene(key, CLASSES[label])
    x0, y0, x1, y1 = boxes([scene.things[scene.focus]], scene.camera)[0]
    u = uniforms(fold(key, "window"), 3)
    side = max(x1 - x0, y1 - y0) * (1.0 + 0.5 * u[0])
    x = (x0 + x1) / 2 + 0.2 * (u[1] - 0.5) * side
    y = (y0 + y1) / 2 + 0.2 * (u[2] - 0.5) * side
    return render(scene, key, Window(x - side / 2, y - side / 2, side, side), (size, size)).image


@dataclass(frozen=True, kw_only=True, repr=False)
class Streets(Source):
    """Whole pictures of a street, every thing of a recognised class with its box, mask and place in space.

    A sample has boxes (N, 4) and labels (N,) of what can be seen; masks "class" (class indices, -1 elsewhere) and
    "thing" (row of the box, -1 elsewhere); calib, the projection of points before the camera (x right, y down, z
    ahead, metres); extra "box_centre" (N, 3) in that frame, "box_size" (N, 3) width, height, length and "box_heading"
    (N,), 0 where the front points away from the camera; extra "weather", its name.

    part, samples, seed: as in `Town`.  height, width: of the picture, which always shows the same field of view.
    visible: least pixels that a thing must show to be annotated.
    weather: clear, cloudy, fog, rain, snow, dusk or night; "" draws it for each street.
    """

    part: Part = "train"
    samples: int = 1000
    height: int = 192
    width: int = 320
    visible: int = 20
    weather: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.part, self.samples, (self.height, self.width))
        if self.weather and self.weather not in WEATHERS:
            raise ValueError(f"weather is one of {', '.join(WEATHERS)} or empty, got {self.weather!r}")

    def count(self) -> int:
        return self.samples

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def sizes_all(self) -> NDArray[np.int64]:
        return np.tile(np.array([[self.height, self.width]], np.int64), (self.samples, 1))

    def fetch(self, index: int) -> Sample:
        key = fold(self.seed, "streets", self.part, index)
        scene = make_scene(key, weather=self.weather)
        shown = render(scene, key, None, (self.height, self.width), ids=True)
        assert shown.ids is not None
        pixels = np.bincount(shown.ids[shown.ids >= 0], minlength=len(scene.things))
        known = [i for i, t in enumerate(scene.things) if t.kind in CLASSES and pixels[i] >= self.visible]
        row = np.full(len(scene.things) + 1, -1, np.int32)  # the last entry serves -1
        row[known] = np.arange(len(known))
        things = row[shown.ids]  # (H, W)
        labels = np.array([CLASSES.index(scene.things[i].kind) for i in known], np.int64)
        return Sample(
            id=f"{self.part}-{index:06d}",
            image=shown.image,
            masks={"thing": things, "class": np.append(labels, -1).astype(np.int32)[things]},
            boxes=_seen_boxes(things, len(known)),
            labels=labels,
            calib=self._calib(scene),
            extra={**_space(scene, known), "weather": scene.weather.name},
        )

    def __repr__(self) -> str:
        return (
            f"Streets({self.part}: {len(self):,} pictures {self.height}x{self.width}, {len(CLASSES)} classes)"
        )

    def _calib(self, scene: Scene) -> NDArray[np.float64]:
        camera = scene.camera
        across, down = self.width / camera.width, self.height / camera.height
        calib = np.zeros((3, 4))
        calib[0, [0, 2]] = camera.focal * across, camera.centre * across
        calib[1, [1, 2]] = camera.focal * down, camera.horizon * down
        calib[2, 2] = 1.0
        return calib


def _seen_boxes(things: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Boxes around the visible pixels of each thing: (N, 4) float32 x0 y0 x1 y1, in whole pixels."""
    found = np.zeros((count, 4), np.float32)
    for i in range(count):
        rows, columns = np.nonzero(things == i)
        found[i] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return found


def _space(scene: Scene, known: list[int]) -> dict[str, Any]:
    """Centres, sizes and headings of things in the camera's frame, y down."""
    chosen = [scene.things[i] for i in known]
    sizes = np.array([(t.width, t.height, t.length) for t in chosen], np.float32).reshape(-1, 3)
    centre = place(chosen, scene.camera).foot.astype(np.float32) if chosen else np.zeros((0, 3), np.float32)
    centre[:, 1] = -(centre[:, 1] + sizes[:, 1] / 2)
    heading = np.array([t.heading - scene.camera.yaw for t in chosen], np.float32)
    return {"box_centre": centre, "box_size": sizes, "box_heading": heading}
