"""Street: makes the scene that belongs to a key.

`make_scene` fills a whole street; with `focus` it also puts one thing of a kind where it can be seen, for pictures of
single objects. Every number is a function of the key (`visloom/keys.py`), so a scene is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from visloom.data.town.dress import dress, measure
from visloom.data.town.mesh import Floats
from visloom.data.town.scene import NEAR, Camera, Scene, Street, Thing, Weather, meshes
from visloom.keys import fold, fold_array, uniforms

WEATHERS = {
    "clear": 0.18,
    "cloudy": 0.49,
    "fog": 0.67,
    "rain": 0.77,
    "snow": 0.845,
    "dusk": 0.905,
    "night": 0.97,
}
"""Kinds of weather, and a draw that gives each."""


def make_scene(key: int, focus: str | None = None, weather: str = "") -> Scene:
    """Make the street of a key.

    focus: one of `CLASSES`: the camera turns to a thing of this kind, nothing hides most of it,
    and in about two of five scenes something hides a part.
    """
    first = uniforms(fold(key, "street"), 24)
    street = street_of(first[:8])
    if weather:
        first[10] = WEATHERS[weather]
    weather_now = weather_of(first[8:14])
    draws = uniforms(fold_array(fold(key, "things"), np.arange(64)), 8)  # (64, 8)
    eye, across = float(1.2 + 1.4 * first[14] ** 2), float(2 * first[15] - 1)
    camera = Camera(eye=eye, x=across * street.half, yaw=float(0.16 * (first[16] - 0.5)))
    if focus is None:
        return Scene(camera, weather_now, street, tuple(_surroundings(street, draws[:48], _View(camera))))
    target = _target(focus, street, draws[48], camera.focal)
    camera = _aim(camera, target, street, first[17:20])
    extent = _extent(camera, target)
    beside = 1.2 * (extent.right - extent.left) + 0.4 * target.height / extent.far
    things = _surroundings(street, draws[:48], _View(camera, extent.left - beside, extent.right + beside))
    kept = [thing for thing in things if _leaves_free(camera, target, extent, thing)]
    kept += _support(target) + _occluder(camera, target, extent, draws[49:51])
    return Scene(camera, weather_now, street, (*kept, target), focus=len(kept))


# ---- the parts of a street


def street_of(u: Floats) -> Street:
    lanes = 1 + int(u[0] < 0.4)
    grey = 70 + 40 * u[1]
    paving = 140 + 50 * u[2]
    grounds = ((96, 128, 66), (150, 144, 132), (120, 134, 82), (170, 158, 138))
    return Street(
        half=3.2 * lanes + 0.4 + 0.8 * u[3],
        walk=2.2 + 2.0 * u[4],
        lanes=lanes,
        crossing=10.0 + 30.0 * u[5],
        road=(grey, grey, grey + 4),
        pavement=(paving, paving - 4, paving - 12),
        ground=grounds[int(u[6] * 4)],
    )


def weather_of(u: Floats) -> Weather:
    """Clear (36 %), cloudy (26 %), fog, rain (10 % each), snow (5 %), dusk (7 %) or night (6 %)."""
    turn, height = 2 * math.pi * u[0], 0.35 + 0.75 * u[1]
    sun = (math.cos(turn) * math.cos(height), math.sin(height), math.sin(turn) * math.cos(height))
    grey, force = float(176 + 40 * u[3]), float(u[4])
    clear = Weather(
        name="clear",
        light=(1.04, 1.02, 0.98),
        ambient=0.55,
        direct=0.58,
        sun=sun,
        zenith=(78, 132, 204),
        haze=(190, 212, 232),
        visibility=260.0,
        clouds=0.45,
    )
    if u[2] < 0.36:
        return clear
    if u[2] < 0.62:
        made = replace(clear, name="cloudy", light=(0.95, 0.97, 1.0), ambient=0.84, direct=0.16, clouds=0.25)
        return replace(
            made, zenith=(grey - 36, grey - 28, grey - 16), haze=(grey, grey + 4, grey + 8), visibility=180.0
        )
    if u[2] < 0.72:
        made = replace(clear, name="fog", light=(0.96, 0.97, 1.0), ambient=0.92, direct=0.05, clouds=0.0)
        haze = (grey + 6, grey + 8, grey + 10)
        return replace(made, zenith=haze, haze=haze, visibility=22.0 + 40.0 * force)
    if u[2] < 0.82:
        made = replace(clear, name="rain", light=(0.74, 0.77, 0.82), ambient=0.88, direct=0.08, clouds=0.3)
        made = replace(made, zenith=(112, 118, 128), haze=(150, 156, 164), visibility=90.0)
        return replace(made, rain=0.5 + 0.5 * force)
    if u[2] < 0.87:
        made = replace(clear, name="snow", light=(0.92, 0.95, 1.0), ambient=0.90, direct=0.08, clouds=0.2)
        made = replace(made, zenith=(176, 182, 192), haze=(206, 210, 216), visibility=70.0)
        return replace(made, snow=0.5 + 0.5 * force)
    if u[2] < 0.94:
        made = replace(clear, name="dusk", light=(1.06, 0.84, 0.70), ambient=0.58, direct=0.48, dark=True)
        made = replace(made, sun=(1.2 * sun[0], 0.18, 1.2 * sun[2]))
        return replace(made, zenith=(86, 84, 132), haze=(236, 160, 110), visibility=160.0)
    made = replace(clear, name="night", light=(0.56, 0.60, 0.76), ambient=0.78, direct=0.12, dark=True)
    return replace(made, zenith=(14, 18, 34), haze=(40, 44, 62), visibility=110.0, clouds=0.1)


class _View:
    """The part of the world before a camera: a wedge between two directions (x / z), the whole picture by default.

    What lies outside is never made: it would be most of the work.
    """

    def __init__(self, camera: Camera, left: float = -0.8, right: float = 0.8) -> None:
        self.sin, self.cos = math.sin(camera.yaw), math.cos(camera.yaw)
        self.x, self.z, self.left, self.right = camera.x, camera.z, left, right

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Say whether a thing at this place that reaches so many metres may show."""
        x, z = x - self.x, z - self.z
        across, far = x * self.cos - z * self.sin, x * self.sin + z * self.cos
        if far + reach < NEAR:
            return False
        return across + reach >= self.left * (far + reach) and across - reach <= self.right * (far + reach)


def _surroundings(street: Street, draws: Floats, view: _View) -> list[Thing]:
    """Houses, trees, parked and moving cars, people, signs and lights along both sides."""
    things: list[Thing] = []
    for side, u in ((-1, draws[:24]), (1, draws[24:])):
        things += _houses(side, street, u[:7], view)
        for kind, at, x, z, heading in [*_planted(side, street, u), *_moving(side, street, u)]:
            if view.sees(x, z, 6.0 if kind in ("bus", "truck") else 3.5):
                thing = dress(kind, u[at], x=x, z=z, heading=heading, mesh=1 if kind == "post" else -1)
                things += [*_support(thing), thing]
    return things


def _houses(side: int, street: Street, draws: Floats, view: _View) -> list[Thing]:
    """A row of houses, some of them set back, with gaps here and there."""
    things = []
    z = float(-6.0 + 10 * draws[0, 7])
    for u in draws:
        width, _, length = measure("house", u)
        back = street.half + street.walk + 0.2 + 5.0 * u[5] * (u[6] < 0.5) + length / 2
        if view.sees(side * back, z + width / 2, 10.0):
            things.append(dress("house", u, x=side * back, z=z + width / 2, heading=-side * math.pi / 2))
        z += float(width + (0.0 if u[7] < 0.6 else 5.0 * u[6]))
    return things


_Plan = tuple[str, int, float, float, float]  # kind, row of draws, x, z, heading


def _planted(side: int, street: Street, draws: Floats) -> Iterator[_Plan]:
    """What stands at the edge of one side: trees, parked cars, a sign or a light, a lamp post."""
    for i, u in enumerate(draws[7:11].tolist()):
        if u[0] < 0.75:
            yield "tree", 7 + i, side * (street.half + street.walk - 0.5), 7.0 + 12.0 * i + 6 * u[7], 0.0
    for i, u in enumerate(draws[11:16].tolist()):
        if u[0] < 0.55:
            kind, heading = "car" if u[1] < 0.8 else "van", math.pi * (u[2] < 0.5)
            yield kind, 11 + i, side * (street.half - 1.1), 6.0 + 8.0 * i + 2 * u[7], heading
    u = draws[22].tolist()
    kind = "light" if u[0] < 0.4 else "sign"
    yield kind, 22, side * (street.half + 0.4), street.crossing - 1.0 + 4 * u[7], 0.0
    yield "post", 23, side * (street.half + 0.5), 6.0 + 24 * float(draws[23, 7]), 0.0


def _moving(side: int, street: Street, draws: Floats) -> Iterator[_Plan]:
    """What moves on one side: vehicles in their lane, people on the pavement or the crossing."""
    for i, u in enumerate(draws[16:19].tolist()):
        kind = ("car", "car", "bus", "truck", "van", "cyclist", "motorbike")[int(u[0] * 7)]
        heading = 0.0 if side > 0 else math.pi
        yield kind, 16 + i, side * street.half * (0.3 + 0.1 * u[6]), 14.0 + 22.0 * i + 10 * u[7], heading
    for i, u in enumerate(draws[19:22].tolist()):
        heading = math.pi / 2 if u[5] < 0.5 else -math.pi / 2
        if u[0] < 0.2:
            yield "pedestrian", 19 + i, (2 * u[6] - 1) * street.half, street.crossing + 2 * u[7], heading
        else:
            x = side * (street.half + 0.4 + (street.walk - 0.8) * u[6])
            yield "pedestrian", 19 + i, x, 5.0 + 40.0 * u[7], heading


def _support(thing: Thing) -> list[Thing]:
    """The post that a sign or a light hangs on, just behind it."""
    if thing.kind not in ("sign", "light"):
        return []
    metal = ((140.0, 144.0, 150.0),) * 4
    top = thing.y + 0.85 * thing.height
    return [Thing("post", 0, thing.x, 0.0, thing.z + 0.06, 0.0, 0.1, top, 0.1, metal)]


# ---- a scene about one thing


def _target(kind: str, street: Street, u: Floats, focal: float) -> Thing:
    """A thing of a kind at a place that suits it, at a distance that makes it 40 to 220 pixels high or long."""
    side = 1 if u[0] < 0.5 else -1
    along = 0.0 if u[7] < 0.5 else math.pi
    turn = along + (0.5 * (u[6] - 0.5) if u[5] < 0.35 else 2 * math.pi * u[6])
    if kind in ("sign", "light", "tree", "pedestrian"):
        x = side * (street.half + 0.3 + (street.walk - 0.6) * u[5])
    else:
        x = side * street.half * (0.2 + 0.55 * u[4])
    thing = dress(kind, u, x=x, z=0.0, heading=turn)
    large = max(thing.height, 0.45 * thing.length)
    pixels = 40.0 * (220.0 / 40.0) ** float(u[2] * 991 % 1)
    return thing._replace(z=max(2.5 + 0.7 * thing.length, focal * large / pixels))


def _aim(camera: Camera, target: Thing, street: Street, u: Floats) -> Camera:
    """Move the camera across the street and turn it until the thing lies somewhere about the middle."""
    x = (2 * u[0] - 1) * (street.half + 0.5 * street.walk)
    bearing = math.atan2(target.x - x, target.z)
    return replace(camera, x=float(x), yaw=float(bearing - 0.5 * (u[1] - 0.5)))


class _Extent(NamedTuple):
    """Left and right end of a thing on the picture plane (x / z), and its distance in metres."""

    left: float
    right: float
    far: float


def _extent(camera: Camera, thing: Thing) -> _Extent:
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    x, z = thing.x - camera.x, thing.z - camera.z
    across, far = x * cos - z * sin, max(NEAR, x * sin + z * cos)
    mesh = meshes(thing.kind)[thing.mesh]
    if mesh.sprite:
        half = mesh.half * thing.height
    else:
        turn = thing.heading - camera.yaw
        half = (abs(math.cos(turn)) * thing.width + abs(math.sin(turn)) * thing.length) / 2
    return _Extent((across - half) / far, (across + half) / far, far)


def _leaves_free(camera: Camera, target: Thing, extent: _Extent, thing: Thing) -> bool:
    """False for what would stand inside the target or hide more than a sliver of it."""
    reach = 0.5 * (max(thing.width, thing.length) + max(target.width, target.length))
    apart = math.hypot(thing.x - target.x, thing.z - target.z)
    if thing.kind == "house":  # stands back from the street: see `render`
        return True
    if apart < 0.3 + reach * (0.4 if thing.kind in ("tree", "post") else 0.9):
        return False
    own = _extent(camera, thing)
    overlap = min(extent.right, own.right) - max(extent.left, own.left)
    return own.far > extent.far or overlap < 0.12 * (extent.right - extent.left)


def _occluder(camera: Camera, target: Thing, extent: _Extent, draws: Floats) -> list[Thing]:
    """In two scenes of five, a thing before the target's edge or foot."""
    u, v = draws
    if u[0] > 0.4:
        return []
    wide = (extent.right - extent.left) / 2
    low = target.kind in ("car", "van", "truck", "bus") and u[1] < 0.4
    if low:
        kind = ("hedge", "bin", "bench")[int(u[2] * 3)]
    else:
        kind = ("post", "pedestrian", "hydrant", "car")[int(u[2] * 4)]
    distance = max(2.0, extent.far * (0.45 + 0.35 * float(u[3])))
    thing = dress(kind, v, x=0.0, z=0.0, heading=camera.yaw + (math.pi / 2 if u[4] < 0.5 else 0.0))
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    ahead = thing._replace(x=camera.x + distance * sin, z=camera.z + distance * cos)
    half = _extent(camera, ahead).right
    # From the target's middle to the occluder's: narrow things anywhere, wide ones over a part of one side.
    edge = (
        wide * (0.2 + 0.7 * float(u[6]))
        if half < 0.4 * wide
        else wide + half - wide * (0.3 + 0.4 * float(u[5]))
    )
    middle = (extent.left + extent.right) / 2 + (edge if u[7] < 0.5 else -edge)
    x = middle * distance
    placed = thing._replace(x=camera.x + x * cos + distance * sin, z=camera.z - x * sin + distance * cos)
    own = _extent(camera, placed)
    overlap = min(extent.right, own.right) - max(extent.left, own.left)
    return [placed] if low or overlap < 0.9 * wide else []
