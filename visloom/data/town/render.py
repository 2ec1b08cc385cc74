"""Render: a scene as pixels, from far to near, with the masks of the same description.

Sky and ground come from `backdrop.py`. Things are flat polygons: all of a window are projected together, sorted, and
filled by cv2 on a canvas twice as fine as the picture, which is then averaged down.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.backdrop import Window, background, sensor, shine
from visloom.data.town.mesh import (
    BODY,
    COLOURS,
    EMITS,
    MATERIAL,
    NORMAL,
    PIECE,
    RANK,
    START,
    STEP,
    Floats,
    Material,
)
from visloom.data.town.scene import NEAR, Camera, Placed, Scene, Thing, Weather, meshes, place
from visloom.keys import fold, uniforms

_FINE = 2  # canvas pixels per picture pixel
_BITS = 4  # of sub-pixel coordinates in cv2's polygons
_ONE = 1 << _BITS


class Picture(NamedTuple):
    """A rendered window.

    image: (H, W, 3) uint8 RGB.  ids: (H, W) int32, the index of the thing that the pixel shows, -1 for none; None if
    not asked for.  rows: (H, W) int32, which polygon of that thing's mesh, -1 for none; None if not asked for.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.int32] | None
    rows: NDArray[np.int32] | None


class _Polygons(NamedTuple):
    """What is filled, in order: vertices in 1 / _ONE canvas pixels, RGB 0-255, whether it shines, the index of
    the thing and of the polygon in its mesh."""

    points: list[NDArray[np.int32]]  # (n, 2) each
    colours: list[list[float]]
    emits: list[bool]
    things: list[int]
    rows: list[int]


def render(
    scene: Scene,
    key: int,
    window: Window | None = None,
    size: tuple[int, int] | None = None,
    *,
    ids: bool = False,
) -> Picture:
    """Draw a window of the scene at a size (height, width); the whole picture at its own size by default.

    key: what the sensor's noise and the clouds are drawn from.  ids: also say what each pixel shows.
    """
    import cv2

    camera = scene.camera
    window = window or Window(0.0, 0.0, camera.width, camera.height)
    height, width = size or (round(window.height), round(window.width))
    draws = uniforms(fold(key, "pixels"), 16)
    order = _order(scene, window)
    back = background(scene, window, (height, width), draws, [scene.things[i] for i in order])
    canvas = cv2.resize(back, (width * _FINE, height * _FINE), interpolation=cv2.INTER_LINEAR)
    glow = np.zeros_like(canvas) if scene.weather.dark else None
    numbers = np.full(canvas.shape[:2], -1, np.int32) if ids else None  # of polygons
    shown = np.full((2, 1), -1, np.int32)  # thing and row of each polygon; the last entry serves -1
    if order:
        polygons = _polygons(scene, order, window, canvas.shape[:2])
        for points, colour in zip(polygons.points, polygons.colours, strict=True):
            cv2.fillConvexPoly(canvas, points, colour, cv2.LINE_8, _BITS)
        if numbers is not None:
            for number, points in enumerate(polygons.points):
                cv2.fillConvexPoly(numbers, points, number, cv2.LINE_8, _BITS)
            shown = np.array([[*polygons.things, -1], [*polygons.rows, -1]], np.int32)
        if glow is not None:
            for points, colour, emits in zip(polygons.points, polygons.colours, polygons.emits, strict=True):
                cv2.fillConvexPoly(glow, points, colour if emits else (0, 0, 0), cv2.LINE_8, _BITS)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    if glow is not None:
        image = shine(image, glow)
    seen = sensor(image, scene.weather, draws)
    if numbers is None:
        return Picture(seen, None, None)
    half = _FINE // 2
    picked = numbers[half::_FINE, half::_FINE]
    return Picture(seen, shown[0][picked], shown[1][picked])


def _order(scene: Scene, window: Window) -> list[int]:
    """Indices of the things that may show in the window, from far to near; houses before all others.

    Houses frame the street and nothing on it stands behind one, though its middle may lie nearer than what it frames.
    """
    camera = scene.camera
    things = scene.things
    if not things:
        return []
    middle = camera.look(np.array([(t.x, t.y + t.height / 2, t.z) for t in things]))  # (N, 3)
    reach = np.array([_reach(t) for t in things])  # (N, 2) metres around the middle: across, up
    near, far = middle[:, 2] - reach[:, 0], middle[:, 2] + reach[:, 0]
    limits = (
        (window.x - camera.centre, window.x + window.width - camera.centre),
        (camera.horizon - window.y - window.height, camera.horizon - window.y),
    )
    # The end that lies towards the middle of the picture is farthest in when it is far, the other when it is near.
    deep, shallow = camera.focal / np.maximum(far, NEAR), camera.focal / np.maximum(near, NEAR)
    shows = far > NEAR
    for axis, (first, last) in enumerate(limits):
        low, high = middle[:, axis] - reach[:, axis], middle[:, axis] + reach[:, axis]
        shows &= np.maximum(high * deep, high * shallow) >= first
        shows &= np.minimum(low * deep, low * shallow) <= last
    house = np.array([t.kind == "house" for t in things])
    return [int(i) for i in np.lexsort((-middle[:, 2], ~house)) if shows[i]]


def _reach(thing: Thing) -> tuple[float, float]:
    if meshes(thing.kind)[thing.mesh].sprite:
        return 0.9 * thing.height, 0.75 * thing.height
    return 0.55 * math.hypot(thing.width, thing.length), 0.6 * thing.height


def _polygons(scene: Scene, order: list[int], window: Window, canvas: tuple[int, int]) -> _Polygons:
    """Project, light, cull and sort the polygons of some things, all at once."""
    camera = scene.camera
    placed = place([scene.things[i] for i in order], camera)
    seen, firsts = placed.points()  # (M, 3), (N,)
    owner = np.repeat(
        np.arange(len(order)), [len(mesh.rows) for mesh in placed.meshes]
    )  # (P,) place in `order`
    rows = np.concatenate([mesh.rows for mesh in placed.meshes])  # (P, 12), see mesh.py
    number = np.concatenate([np.arange(len(mesh.rows)) for mesh in placed.meshes])  # (P,) place in the mesh
    starts = rows[:, START].astype(np.int64) + firsts[owner]
    ends = np.append(starts[1:], len(seen))
    flat = _canvas(seen, camera, window, canvas)  # (M, 2)
    low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)  # (P, 2)
    behind = np.minimum.reduceat(seen[:, 2], starts) < NEAR
    inside = (high >= 0).all(1) & (low[:, 0] < canvas[1] * _ONE) & (low[:, 1] < canvas[0] * _ONE)
    inside &= ((high - low) >= _ONE // 4).all(1)
    chosen = np.flatnonzero(inside | behind)
    normal = _normals(placed, owner[chosen], rows[chosen])
    # A side looks here if a corner of it lies against its normal; sprites, which have none, always do.
    facing = ((normal * seen[starts[chosen]]).sum(1) < 0) | (rows[chosen, NORMAL] == 0).all(1)
    chosen, normal = chosen[facing], normal[facing]
    sorting = _drawing_order(placed, owner[chosen], rows[chosen])
    chosen, normal = chosen[sorting], normal[sorting]
    colours, emits = _colours(
        scene, order, placed, owner[chosen], rows[chosen, MATERIAL].astype(np.int64), normal
    )
    pieces = [flat[a:b] for a, b in zip(starts[chosen].tolist(), ends[chosen].tolist(), strict=True)]
    for at in np.flatnonzero(behind[chosen]).tolist():
        i = chosen[at]
        pieces[at] = _canvas(_cut(seen[starts[i] : ends[i]]), camera, window, canvas)
    whole = [i for i, piece in enumerate(pieces) if len(piece) > 2]
    return _Polygons(
        points=[pieces[i] for i in whole],
        colours=[colours[i] for i in whole],
        emits=[emits[i] for i in whole],
        things=[order[i] for i in owner[chosen[whole]].tolist()],
        rows=number[chosen[whole]].tolist(),
    )


def _normals(placed: Placed, owner: NDArray[np.int64], rows: Floats) -> Floats:
    """Unit normals of polygons as the camera sees them, 0 for sprites: (P, 3)."""
    size = np.where(placed.size == 0, 1.0, placed.size)[owner]
    x, y, z = (rows[:, NORMAL] / size).T
    sin, cos = placed.sin[owner], placed.cos[owner]
    normal = np.stack([x * cos + z * sin, y, z * cos - x * sin], axis=1)
    length = np.sqrt((normal * normal).sum(1, keepdims=True))
    return normal / np.where(length == 0, 1.0, length)


def _drawing_order(placed: Placed, owner: NDArray[np.int64], rows: Floats) -> NDArray[np.int64]:
    """Sort within each thing: bodies by rank and distance, their pieces by step and distance, then as built."""
    sin, cos = placed.sin[owner], placed.cos[owner]
    wide, long = placed.size[owner, 0], placed.size[owner, 2]

    def nearness(columns: slice) -> Floats:
        x, z = rows[:, columns].T * (wide, long)
        away = (placed.foot[owner, 0] + x * cos + z * sin) ** 2 + (
            placed.foot[owner, 2] + z * cos - x * sin
        ) ** 2
        return np.asarray(np.round(-away, 6))

    return np.lexsort((nearness(PIECE), rows[:, STEP], nearness(BODY), rows[:, RANK], owner))


def _colours(
    scene: Scene,
    order: list[int],
    placed: Placed,
    owner: NDArray[np.int64],
    material: NDArray[np.int64],
    normal: Floats,
) -> tuple[list[list[float]], list[bool]]:
    """Colour under this light and through this air, RGB 0-255, and whether the polygon shines by itself."""
    weather = scene.weather
    paint = np.array([scene.things[i].paint for i in order])  # (N, 4, 3)
    colour = np.where(
        (material < 4)[:, None], paint[owner, np.minimum(material, 3)], _table(weather)[material]
    )
    sin, cos = math.sin(-scene.camera.yaw), math.cos(-scene.camera.yaw)
    x, y, z = weather.sun
    facing = normal @ np.array([x * cos + z * sin, y, z * cos - x * sin])
    flat = ~normal.any(1)  # sprites have no side: half lit
    shade = weather.ambient + weather.direct * np.where(flat, 0.55, np.maximum(0, facing))
    emits = EMITS[material] & weather.dark
    lit = np.where(emits[:, None], colour, colour * shade[:, None] * weather.light)
    air = np.exp(-np.maximum(0, placed.foot[owner, 2:]) / weather.visibility)  # (P, 1)
    lit = lit * air + np.array(weather.haze) * (1 - air)
    return np.clip(lit, 0, 255).tolist(), emits.tolist()


def _table(weather: Weather) -> Floats:
    """The colour of each material: panes mirror the sky, windows are lit in the dark only."""
    table = COLOURS.copy()
    table[Material.GLASS] = 0.72 * table[Material.GLASS] + 0.28 * np.array(weather.haze)
    if not weather.dark:
        table[Material.LIT] = table[Material.GLASS]
    return table


def _canvas(seen: Floats, camera: Camera, window: Window, canvas: tuple[int, int]) -> NDArray[np.int32]:
    """Points as the camera sees them in sub-pixel canvas coordinates: (n, 3) metres -> (n, 2) int32.

    cv2 has pixel centres at whole numbers, so half a pixel is taken off. The limit keeps huge polygons within cv2's
    arithmetic; points beside or behind the camera come out wrong and must be cut off before.
    """
    scale = camera.focal / np.maximum(seen[:, 2], 0.1 * NEAR)
    x = (camera.centre - window.x + seen[:, 0] * scale) * (canvas[1] / window.width) - 0.5
    y = (camera.horizon - window.y - seen[:, 1] * scale) * (canvas[0] / window.height) - 0.5
    place = np.rint(np.stack([x, y], axis=1) * _ONE)
    return np.clip(place, -(1 << 17), 1 << 17).astype(np.int32)


def _cut(polygon: Floats) -> Floats:
    """The part of a polygon before the camera (Sutherland and Hodgman, 1974): (n, 3)."""
    kept = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept).reshape(-1, 3)
