"""Scene: a street of the town as data, before any pixel: camera, weather, street, and things on the ground plane.

The world has x to the right, y up and z along the street, in metres; the ground is y = 0. Boxes, masks, depth order
and pixels all come from this one description. `visloom/data/town/street.py` makes scenes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town import figures, furniture, vehicles
from visloom.data.town.mesh import Floats, Mesh

CLASSES = ("car", "van", "truck", "bus", "motorbike", "cyclist", "pedestrian", "sign", "light", "tree")
"""Kinds of things that are recognised, by class index."""

SURROUNDINGS = ("house", "post", "hydrant", "bin", "bench", "hedge")
"""Kinds of things that only stand about."""

BACKDROP = ("sky", "building", "road", "pavement", "verge")
"""What is behind all things, by index of `backdrop.regions`."""

NEAR = 0.6
"""Metres before the camera where the picture begins."""


@dataclass(frozen=True)
class Camera:
    """A pinhole above the ground. Pixels run right and down; `horizon` is the row of the horizon.

    focal: in pixels.  eye: height above the ground.  yaw: turned to the right, in radians.
    """

    width: int = 640
    height: int = 384
    focal: float = 460.0
    centre: float = 320.0
    horizon: float = 176.0
    eye: float = 1.6
    x: float = 0.0
    z: float = 0.0
    yaw: float = 0.0

    def look(self, points: Floats) -> Floats:
        """World points (..., 3) as seen: right of, above and before the camera, in metres."""
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        x, z = points[..., 0] - self.x, points[..., 2] - self.z
        return np.stack([x * cos - z * sin, points[..., 1] - self.eye, x * sin + z * cos], axis=-1)

    def pixels(self, seen: Floats) -> Floats:
        """Points before the camera (..., 3) as pixels (..., 2)."""
        scale = self.focal / seen[..., 2]
        return np.stack([self.centre + seen[..., 0] * scale, self.horizon - seen[..., 1] * scale], axis=-1)


@dataclass(frozen=True)
class Weather:
    """Light and air. Colours are RGB 0-255; `light` multiplies colours, sun points towards it.

    ambient, direct: shares of light from everywhere and from the sun.  visibility: metres to 63 % haze.
    """

    name: str
    light: tuple[float, float, float]
    ambient: float
    direct: float
    sun: tuple[float, float, float]
    zenith: tuple[float, float, float]
    haze: tuple[float, float, float]
    visibility: float
    clouds: float
    dark: bool = False
    rain: float = 0.0
    snow: float = 0.0


@dataclass(frozen=True)
class Street:
    """Half the road's width, the pavements' width, lanes each way, where a crossing lies, and the colours."""

    half: float
    walk: float
    lanes: int
    crossing: float
    road: tuple[float, float, float]
    pavement: tuple[float, float, float]
    ground: tuple[float, float, float]


class Thing(NamedTuple):
    """One thing: what it is, where it stands (its foot's middle) and how large it is, in metres and radians.

    heading: where its front points: 0 along the street, pi / 2 to the right.  y: of its foot; a sign hangs on a post.
    """

    kind: str
    mesh: int
    x: float
    y: float
    z: float
    heading: float
    width: float
    height: float
    length: float
    paint: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Scene:
    """A street. `focus` is the index of the thing that the scene is about, or -1."""

    camera: Camera
    weather: Weather
    street: Street
    things: tuple[Thing, ...]
    focus: int = -1


@lru_cache(maxsize=1)
def _all_meshes() -> dict[str, tuple[Mesh, ...]]:
    return {
        "car": vehicles.cars(),
        "van": vehicles.vans(),
        "truck": vehicles.trucks(),
        "bus": vehicles.buses(),
        "motorbike": figures.motorbikes(),
        "cyclist": figures.cyclists(),
        "pedestrian": figures.pedestrians(),
        "sign": furniture.signs(),
        "light": furniture.lights(),
        "tree": furniture.trees(),
        "house": furniture.houses(),
        "post": furniture.posts(),
        **{kind: (mesh,) for kind, mesh in furniture.clutter().items()},
    }


def meshes(kind: str) -> tuple[Mesh, ...]:
    """The variants of a kind."""
    return _all_meshes()[kind]


class Placed(NamedTuple):
    """Things before the camera, as arrays: foot (N, 3), size (N, 3) of one mesh unit, sine and cosine of the turn."""

    meshes: list[Mesh]
    foot: Floats
    size: Floats
    sin: Floats
    cos: Floats

    def points(self) -> tuple[Floats, NDArray[np.int64]]:
        """All vertices as the camera sees them, (M, 3) in metres, and where each thing's begin, (N,)."""
        counts = [len(mesh.points) for mesh in self.meshes]
        x, y, z = (np.concatenate([mesh.points for mesh in self.meshes]) * self.size.repeat(counts, 0)).T
        seen = self.foot.repeat(counts, 0)
        sin, cos = self.sin.repeat(counts), self.cos.repeat(counts)
        seen[:, 0] += x * cos + z * sin
        seen[:, 1] += y
        seen[:, 2] += z * cos - x * sin
        return seen, np.cumsum([0, *counts[:-1]])


def place(things: list[Thing], camera: Camera) -> Placed:
    """Turn and move things into the camera's view."""
    chosen = [meshes(thing.kind)[thing.mesh] for thing in things]
    values = np.array([thing[2:9] for thing in things]).reshape(-1, 7)
    x, y, z, heading, width, height, length = values.T
    sprite = np.array([mesh.sprite for mesh in chosen])
    letters = np.array([thing.kind in ("sign", "light") for thing in things])
    turn = np.where(sprite, 0.0, heading - camera.yaw)
    # A sprite is as wide as its height says; people who go to the left are mirrored, letters never.
    mirrored = np.where((np.sin(heading) < 0) & ~letters, -height, height)
    size = np.stack([np.where(sprite, mirrored, width), height, np.where(sprite, 0.0, length)], axis=1)
    foot = camera.look(np.stack([x, y, z], axis=1))
    return Placed(chosen, foot, size, np.sin(turn), np.cos(turn))


def boxes(things: list[Thing], camera: Camera) -> Floats:
    """Boxes that frame whole things in pixels, hidden or cut parts too: (N, 4) x0 y0 x1 y1."""
    placed = place(things, camera)
    seen, starts = placed.points()
    seen[:, 2] = np.maximum(seen[:, 2], NEAR)
    pixels = camera.pixels(seen)
    return np.concatenate([np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)], axis=1)
