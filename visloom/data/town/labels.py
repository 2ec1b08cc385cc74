"""Labels: what every pixel of a town picture shows: an object, a part of it, a material; and what scene it is.

Nothing is drawn for this: a pixel knows the polygon that it shows, and a polygon its thing, colour slot and name. Words
are those of Broden+ where it has them; class 0, "-", is not labelled, as in its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.backdrop import Window, crossing, regions
from visloom.data.town.mesh import MATERIAL, NAME, NAMES, Floats, Material
from visloom.data.town.render import Picture
from visloom.data.town.scene import Scene, Street, Thing, meshes
from visloom.data.town.street import WEATHERS
from visloom.palette import Colour
from visloom.warp import IGNORE

M = Material

OBJECTS = (
    "-", "sky", "building", "road", "sidewalk", "ground", "tree", "car", "large vehicle", "two-wheeler", "person",
    "traffic sign", "street furniture",
)  # fmt: skip
"""Those of `scenery.py`, but that who rides is a person."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "building": ("window", "door", "roof"),
    "road": ("crosswalk",),
    "tree": ("trunk", "crown"),
    "car": ("window", "wheel", "light"),
    "large vehicle": ("window", "wheel"),
    "two-wheeler": ("wheel",),
    "person": ("head", "torso", "leg"),
}
"""Objects with parts, in the order of their outputs; what is none of them is the object's background."""

MATERIALS = (
    "-", "asphalt", "stone", "foliage", "brick", "painted", "glass", "metal", "rubber", "wood", "fabric",
)  # fmt: skip
"""What is thin or rare is not labelled: window frames, trim, hair and skin."""

OBJECT_COLOURS: tuple[Colour, ...] = (
    (0, 0, 0), (126, 178, 230), (152, 120, 108), (110, 96, 128), (226, 172, 214), (190, 206, 130), (56, 142, 60),
    (28, 78, 190), (0, 150, 170), (240, 140, 40), (230, 60, 50), (246, 200, 30), (120, 124, 128),
)  # fmt: skip
MATERIAL_COLOURS: tuple[Colour, ...] = (
    (0, 0, 0), (96, 96, 112), (198, 188, 172), (70, 156, 70), (190, 84, 58), (236, 208, 150), (100, 190, 232),
    (64, 92, 168), (24, 24, 28), (150, 102, 54), (156, 72, 176),
)  # fmt: skip

SCENES = ("sunny street", "overcast street", "foggy street", "rainy street", "snowy street", "street at dusk",
          "street at night")  # fmt: skip
"""By the order of `street.WEATHERS`."""

_OBJECT = {
    "house": "building", "car": "car", "van": "car", "truck": "large vehicle", "bus": "large vehicle",
    "motorbike": "two-wheeler", "cyclist": "two-wheeler", "pedestrian": "person", "sign": "traffic sign",
    "light": "traffic sign", "tree": "tree", "hedge": "tree", "post": "street furniture",
    "hydrant": "street furniture", "bin": "street furniture", "bench": "street furniture",
}  # fmt: skip
_BODY = ("head", "torso", "arm", "leg", "shoe")  # who rides is a person

_PART: Mapping[str, Mapping[Material, str]] = {
    "building": {M.GLASS: "window", M.LIT: "window", M.THIRD: "window", M.FOURTH: "door", M.SECOND: "roof"},
    "tree": {M.WOOD: "trunk", M.MAIN: "crown", M.SECOND: "crown", M.THIRD: "crown"},
    "car": {M.GLASS: "window", M.LAMP: "light", M.TAIL: "light"},
    "large vehicle": {M.GLASS: "window"},
}
"""Part by colour slot, where the polygon has no name of its own."""

_MADE_OF: Mapping[Material, str] = {
    M.GLASS: "glass", M.LIT: "glass", M.TYRE: "rubber", M.RIM: "metal", M.METAL: "metal", M.PLATE: "metal",
    M.WHITE: "metal", M.RED: "metal", M.BLUE: "metal", M.YELLOW: "metal", M.GREEN: "metal", M.WOOD: "wood",
}  # fmt: skip
_PAINTED = {M.MAIN: "metal", M.SECOND: "metal", M.THIRD: "metal", M.FOURTH: "metal"}
_WORN = {M.MAIN: "fabric", M.SECOND: "fabric"}
_FOLIAGE = {M.MAIN: "foliage", M.SECOND: "foliage", M.THIRD: "foliage"}
_OWN: Mapping[str, Mapping[Material, str]] = {
    "house": {M.FOURTH: "wood"},
    **dict.fromkeys(("car", "van", "truck", "bus"), _PAINTED),
    "pedestrian": _WORN,
    "cyclist": {**_WORN, M.FOURTH: "metal", M.WHITE: "-"},
    "motorbike": {M.MAIN: "metal", M.SECOND: "fabric", M.THIRD: "fabric"},
    "tree": _FOLIAGE,
    "hedge": _FOLIAGE,
    "post": {M.TRIM: "metal"},
    "light": {M.BLACK: "metal"},
}
"""Material of the colour slots of a kind; `_MADE_OF` has those that are the same everywhere."""

_NAMED = {"bag": "fabric", "umbrella": "fabric", "awning": "fabric", "shoe": "-"}
_LIMB = {"shoe": "leg", "arm": "torso"}
_BRICK = 1.6  # walls as red as this, red by blue, are of brick


class Labels(NamedTuple):
    """Labels of a picture. object, material: (H, W) int32 classes, 0 where nothing is said.

    part: (H, W) int32, background (0) or part of the pixel's object, by its place in `PARTS` and one more.
    scene: class of the picture.
    """

    object: NDArray[np.int32]
    part: NDArray[np.int32]
    material: NDArray[np.int32]
    scene: int


def label(scene: Scene, shown: Picture, window: Window, draws: Floats) -> Labels:
    """Say what a rendered window shows. draws: as for `backdrop.background`."""
    assert shown.ids is not None and shown.rows is not None
    size = shown.ids.shape
    behind = regions(scene, window, size, draws)
    found = np.stack([_BEHIND[behind], np.zeros(size, np.int32), _ground(scene.street)[behind]])  # (3, H, W)
    found[1, (behind == 2) & crossing(scene, window, size)] = 1 + PARTS["road"].index("crosswalk")
    things = np.flatnonzero(np.bincount(shown.ids.ravel() + 1, minlength=len(scene.things) + 1)[1:])
    if len(things):
        tables = [_of(scene.things[number]) for number in things.tolist()]
        first = np.zeros(len(scene.things), np.int64)  # where the polygons of each thing begin
        first[things] = np.cumsum([0, *(table.shape[1] for table in tables[:-1])])
        seen = shown.ids >= 0
        found[:, seen] = np.concatenate(tables, 1)[:, first[shown.ids[seen]] + shown.rows[seen]]
    weather = list(WEATHERS).index(scene.weather.name)
    return Labels(found[0], found[1], found[2], weather)


def outputs(found: Labels) -> NDArray[np.int32]:
    """Number the outputs of the part head, (H, W) int32: those of all objects one after another, -1 elsewhere.

    Objects count where at least one of their parts shows in the picture, as in `broden_tables.label_masks`.
    """
    numbers = np.full(found.object.shape, IGNORE, np.int32)
    start = 0
    for name, parts in PARTS.items():
        inside = found.object == OBJECTS.index(name)
        if found.part[inside].any():
            numbers[inside] = start + found.part[inside]
        start += 1 + len(parts)
    return numbers


_BEHIND = np.array([OBJECTS.index(n) for n in ("sky", "building", "road", "sidewalk", "ground")], np.int32)
"""Object by index of `scene.BACKDROP`."""


def _ground(street: Street) -> NDArray[np.int32]:
    """Material by index of `scene.BACKDROP`; of the sky and of roofs far away nothing is said."""
    red, green, _ = street.ground
    words = ("-", "-", "asphalt", "stone", "foliage" if green > red else "stone")
    return np.array([MATERIALS.index(word) for word in words], np.int32)


def _of(thing: Thing) -> NDArray[np.int32]:
    """Object, part and material of each polygon of a thing: (3, P) int32."""
    table = _table(thing.kind, thing.mesh)
    if thing.kind != "house":
        return table
    red, _, blue = thing.paint[0]
    walls = meshes("house")[thing.mesh].rows[:, MATERIAL] == M.MAIN
    wall = MATERIALS.index("brick" if red > _BRICK * blue else "painted")
    return np.stack([table[0], table[1], np.where(walls, wall, table[2])])


@lru_cache
def _table(kind: str, mesh: int) -> NDArray[np.int32]:
    found = []
    for row in meshes(kind)[mesh].rows:
        slot, name = Material(int(row[MATERIAL])), NAMES[int(row[NAME])]
        thing = "person" if name in _BODY else _OBJECT[kind]
        known = ("", *PARTS.get(thing, ()))
        word = _LIMB.get(name, name) or _PART.get(thing, {}).get(slot, "")
        made = _NAMED.get(name) or _OWN.get(kind, {}).get(slot) or _MADE_OF.get(slot, "-")
        part = known.index(word) if word in known else 0
        found.append((OBJECTS.index(thing), part, MATERIALS.index(made)))
    return np.array(found, np.int32).T
