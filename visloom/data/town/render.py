"""Render: a scene as pixels, from far to near, with the masks and boxes of the same description.

Sky and ground are computed per pixel; things are flat polygons, projected exactly for any window of the picture and
filled by cv2 on a canvas twice as fine, which is then averaged down. No file, no texture: everything is a function
of the scene and a key.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.mesh import COLOURS, EMITS, Floats, Material
from visloom.data.town.scene import NEAR, Camera, Scene, Street, Thing, Weather, meshes, thing_points
from visloom.keys import fold, generator, uniforms

_FINE = 2  # canvas pixels per picture pixel
_BITS = 4  # of sub-pixel coordinates in cv2's polygons
_ONE = 1 << _BITS


class Window(NamedTuple):
    """A part of the camera's picture: its left, top and size in pixels of the camera."""

    x: float
    y: float
    width: float
    height: float


class Picture(NamedTuple):
    """A rendered window.

    image: (H, W, 3) uint8 RGB.  ids: (H, W) int32, the index of the nearest thing at the pixel's centre, -1 where
    none is, or None if not asked for.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.int32] | None


def render(
    scene: Scene,
    key: int,
    window: Window | None = None,
    size: tuple[int, int] | None = None,
    *,
    ids: bool = False,
) -> Picture:
    """Draw a window of the scene at a size (height, width); the whole picture at its own size by default.

    key: what the sensor's noise and the texture are drawn from.
    """
    import cv2

    camera = scene.camera
    window = window or Window(0.0, 0.0, camera.width, camera.height)
    height, width = size or (round(window.height), round(window.width))
    draws = uniforms(fold(key, "pixels"), 16)
    order = _order(scene, window)
    back = _background(scene, window, (height, width), draws, [scene.things[i] for i in order])
    canvas = cv2.resize(back, (width * _FINE, height * _FINE), interpolation=cv2.INTER_LINEAR)
    glow = np.zeros_like(canvas) if scene.weather.dark else None
    numbers = np.full(canvas.shape[:2], -1, np.int32) if ids else None
    colours = _lit(scene.weather)
    for i in order:
        _paint(canvas, glow, numbers, scene, i, colours, window)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    if glow is not None:
        image = _shine(image, glow)
    image = _sensor(image, scene.weather, draws)
    picked = (
        None if numbers is None else np.ascontiguousarray(numbers[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE])
    )
    return Picture(image, picked)


def _order(scene: Scene, window: Window) -> list[int]:
    """Indices of the things that may show in the window, from far to near; houses before all others.

    Houses frame the street and nothing on it stands behind one, while their centres lie nearer than what they frame.
    """
    camera = scene.camera
    middle = camera.look(np.array([(t.x, t.y + t.height / 2, t.z) for t in scene.things]))  # (N, 3)
    reach = np.array([_reach(t) for t in scene.things])  # (N, 2) metres around the middle: across, up
    near, far = middle[:, 2] - reach[:, 0], middle[:, 2] + reach[:, 0]
    limits = np.array(
        [
            [window.x - camera.centre, window.x + window.width - camera.centre],
            [camera.horizon - window.y - window.height, camera.horizon - window.y],
        ]
    )
    shows = far > NEAR
    for axis in (0, 1):
        low, high = middle[:, axis] - reach[:, axis], middle[:, axis] + reach[:, axis]
        # The end that lies towards the middle of the picture is farthest in when it is far, the other when near.
        deep, shallow = np.maximum(far, NEAR), np.maximum(near, NEAR)
        begin = camera.focal * np.minimum(low / deep, low / shallow)
        end = camera.focal * np.maximum(high / deep, high / shallow)
        shows &= (end >= limits[axis, 0]) & (begin <= limits[axis, 1])
    house = np.array([t.kind == "house" for t in scene.things])
    order = np.lexsort((-middle[:, 2], ~house))
    return [int(i) for i in order if shows[i]]


def _reach(thing: Thing) -> tuple[float, float]:
    if meshes(thing.kind)[thing.mesh].sprite:
        return 0.9 * thing.height, 0.75 * thing.height
    return 0.55 * math.hypot(thing.width, thing.length), 0.6 * thing.height


def _lit(weather: Weather) -> Floats:
    """The colour table under this light: panes mirror the sky, windows are lit in the dark only."""
    table = COLOURS.copy()
    sky = np.array(weather.haze)
    table[Material.GLASS] = 0.72 * table[Material.GLASS] + 0.28 * sky
    if not weather.dark:
        table[Material.LIT] = table[Material.GLASS]
    return table


class _Shape(NamedTuple):
    """Polygons of one thing in canvas coordinates, in drawing order."""

    points: list[NDArray[np.int32]]  # (n, 2) each, in 1 / _ONE canvas pixels
    colours: list[list[float]]
    emits: list[bool]


def _paint(
    canvas: NDArray[np.uint8],
    glow: NDArray[np.uint8] | None,
    numbers: NDArray[np.int32] | None,
    scene: Scene,
    index: int,
    table: Floats,
    window: Window,
) -> None:
    """Fill the polygons of one thing."""
    import cv2

    shape = _shape(scene.things[index], scene, table, window, canvas.shape)
    for points, colour, emits in zip(shape.points, shape.colours, shape.emits, strict=True):
        cv2.fillConvexPoly(canvas, points, colour, cv2.LINE_8, _BITS)
        if numbers is not None:
            cv2.fillConvexPoly(numbers, points, index, cv2.LINE_8, _BITS)
        if glow is not None:
            cv2.fillConvexPoly(glow, points, colour if emits else (0, 0, 0), cv2.LINE_8, _BITS)


def _shape(thing: Thing, scene: Scene, table: Floats, window: Window, canvas: tuple[int, ...]) -> _Shape:
    camera, weather = scene.camera, scene.weather
    mesh = meshes(thing.kind)[thing.mesh]
    seen = thing_points(thing, camera)  # (M, 3)
    ends = np.append(mesh.starts[1:], len(seen))
    shade = np.full(len(mesh.starts), weather.ambient + 0.55 * weather.direct)
    chosen = np.arange(len(mesh.starts))
    if not mesh.sprite:
        normal = _turned(mesh.normal / (thing.width, thing.height, thing.length), thing.heading - camera.yaw)
        chosen = np.flatnonzero((normal * seen[mesh.starts]).sum(1) < 0)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        shade = weather.ambient + weather.direct * np.maximum(
            0, normal @ _turned(np.array(weather.sun), -camera.yaw)
        )
        if len(np.unique(mesh.centre[chosen, 2])) > 1:
            size = np.array((thing.width, thing.height, thing.length))
            away = np.linalg.norm(
                _turned(mesh.centre * size, thing.heading - camera.yaw)
                + camera.look(np.array([thing.x, thing.y, thing.z])),
                axis=1,
            )
            chosen = chosen[np.lexsort((-away[chosen].round(6), mesh.rank[chosen]))]
    emits = EMITS[mesh.material] & weather.dark
    air = math.exp(-max(0.0, float(seen[:, 2].mean())) / weather.visibility)
    colour = table[mesh.material]
    own = mesh.material < 4
    colour[own] = np.array(thing.paint)[mesh.material[own]]
    lit = np.where(emits[:, None], colour, colour * shade[:, None] * weather.light)
    lit = np.clip(lit * air + np.array(weather.haze) * (1 - air), 0, 255)
    if seen[:, 2].min() < NEAR:
        pieces = [_cut(seen[mesh.starts[i] : ends[i]]) for i in chosen]
        chosen = chosen[[len(piece) > 2 for piece in pieces]]
        pieces = [_canvas(piece, camera, window, canvas) for piece in pieces if len(piece) > 2]
    else:
        flat = _canvas(seen, camera, window, canvas)
        low = np.minimum.reduceat(flat, mesh.starts)
        high = np.maximum.reduceat(flat, mesh.starts)
        inside = (high >= 0).all(1) & (low[:, 0] < canvas[1] * _ONE) & (low[:, 1] < canvas[0] * _ONE)
        inside &= ((high - low) >= _ONE // 4).all(1)
        chosen = chosen[inside[chosen]]
        pieces = [flat[a:b] for a, b in zip(mesh.starts[chosen].tolist(), ends[chosen].tolist(), strict=True)]
    return _Shape(pieces, lit[chosen].tolist(), emits[chosen].tolist())


def _turned(vectors: Floats, angle: float) -> Floats:
    """Vectors (..., 3) turned about the vertical: +z towards +x for a positive angle."""
    sin, cos = math.sin(angle), math.cos(angle)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.stack([x * cos + z * sin, y, z * cos - x * sin], axis=-1)


def _canvas(seen: Floats, camera: Camera, window: Window, canvas: tuple[int, ...]) -> NDArray[np.int32]:
    """Points before the camera as sub-pixel canvas coordinates: (n, 2) int32.

    cv2 has pixel centres at whole numbers, so half a pixel is taken off. The limit keeps huge polygons, whose sides
    leave the canvas, within cv2's arithmetic.
    """
    place = (camera.pixels(seen) - (window.x, window.y)) * (
        canvas[1] / window.width,
        canvas[0] / window.height,
    ) - 0.5
    return np.clip(np.rint(place * _ONE), -(1 << 17), 1 << 17).astype(np.int32)


def _cut(polygon: Floats) -> Floats:
    """The part of a polygon before the camera (Sutherland and Hodgman, 1974): (n, 3)."""
    kept = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept).reshape(-1, 3)


# ---- sky and ground, per pixel


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    """(512, 512) float32 smooth noise that repeats without a seam, mean 0, about -1 to 1: textures and clouds."""
    import cv2

    draws = generator(fold(0, "town noise"))
    total = np.zeros((512, 512), np.float32)
    for cells, weight in ((8, 1.0), (16, 0.7), (32, 0.5), (64, 0.4), (128, 0.35), (256, 0.3)):
        grid = draws.random((cells, cells), np.float32) - 0.5
        tiled = np.pad(grid, 2, mode="wrap")
        step = 512 // cells
        smooth = cv2.resize(tiled, ((cells + 4) * step,) * 2, interpolation=cv2.INTER_CUBIC)
        total += weight * smooth[2 * step : 2 * step + 512, 2 * step : 2 * step + 512]
    return total / float(np.abs(total).max())


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.float32]:
    """(320, 320, 3) float32 standard normal noise of a sensor, partly shared by the colours."""
    draws = generator(fold(0, "town grain"))
    return 0.7 * draws.standard_normal((320, 320, 1), np.float32) + 0.7 * draws.standard_normal(
        (320, 320, 3), np.float32
    )


def _background(
    scene: Scene, window: Window, size: tuple[int, int], draws: Floats, things: list[Thing]
) -> NDArray[np.uint8]:
    """Sky, skyline and ground with the things' shadows: (H, W, 3) uint8."""
    height, width = size
    camera, weather = scene.camera, scene.weather
    rows = (
        window.y + (np.arange(height) + 0.5) * (window.height / height) - camera.horizon
    )  # below the horizon
    columns = window.x + (np.arange(width) + 0.5) * (window.width / width) - camera.centre
    first = int(np.searchsorted(rows, 0.5))
    out = np.empty((height, width, 3), np.float32)
    if first:
        out[:first] = _sky(rows[:first], columns, camera, weather, draws)
    if first < height:
        out[first:] = _ground(rows[first:], columns, camera, weather, scene.street)
        _shadows(out, first, scene, window, things)
    return np.clip(out, 0, 255).astype(np.uint8)


def _sky(
    rows: Floats, columns: Floats, camera: Camera, weather: Weather, draws: Floats
) -> NDArray[np.float32]:
    up = np.clip(-rows / (0.75 * camera.focal), 0, 1) ** 0.7
    sky = np.array(weather.haze) + up[:, None] * (np.array(weather.zenith) - np.array(weather.haze))  # (h, 3)
    noise = _noise()
    across = ((columns / camera.focal + camera.yaw) * 150 + 512 * draws[0]).astype(np.int64) & 511
    shade = noise[
        ((-rows / camera.focal) * 420 + 512 * draws[1]).astype(np.int64)[:, None] & 511, across
    ]  # (h, w)
    clouds = (
        np.clip(shade * 2.2 + 0.1, 0, 1)[..., None] * weather.clouds * np.minimum(1, up * 6)[:, None, None]
    )
    white = np.array(weather.haze) * 0.4 + 0.6 * 250 * min(1.0, max(weather.haze) / 190)
    picture = sky[:, None] * (1 - clouds) + white * clouds
    # A skyline of far roofs: a height in pixels for every bearing.
    bearing = ((columns / camera.focal + camera.yaw) * 60 + 97 * draws[2]).astype(np.int64)
    roofs = camera.focal * (0.035 + 0.05 * np.abs(noise[(bearing * 7) & 511, int(draws[3] * 511)]))  # (w,)
    behind = -rows[:, None] < roofs
    far = np.array(weather.haze) * 0.82 + np.array((70, 74, 84)) * weather.light[1] * 0.18
    return np.where(behind[..., None], far, picture).astype(np.float32)


def _ground(
    rows: Floats, columns: Floats, camera: Camera, weather: Weather, street: Street
) -> NDArray[np.float32]:
    far = (camera.focal * camera.eye / rows)[:, None]  # (h, 1) metres before the camera
    across = columns[None] * (far / camera.focal)  # (h, w) metres to its right
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    x = camera.x + across * cos + far * sin
    z = camera.z - across * sin + far * cos
    side = np.abs(x)
    painted = 0.10 + 0.0007 * far * far  # lines wider than a far pixel, so that they do not flicker
    kinds = np.zeros(x.shape, np.int64)
    kinds[side > street.half] = 1
    kinds[side > street.half + 0.22] = 2
    kinds[side > street.half + street.walk] = 3
    lane = street.half / street.lanes
    dash = (side < painted) | ((np.abs(side - lane) < painted) & (street.lanes > 1))
    line = dash & (z % 7.0 < 3.2) | (np.abs(side - street.half + 0.25) < 0.8 * painted)
    zebra = (np.abs(z - street.crossing - 1.0) < 1.6) & (x % 1.1 < 0.55)
    kinds[(kinds == 0) & (line | zebra)] = 4
    table = np.array(
        [street.road, (170, 168, 162), street.pavement, street.ground, (226, 224, 214)], np.float32
    )
    if weather.snow:
        table[1:4] = 0.35 * table[1:4] + 0.65 * np.array((232, 236, 242), np.float32)
        table[0] = 0.7 * table[0] + 0.3 * np.array((220, 224, 230), np.float32)
    noise = _noise()
    grain = noise[(z * 23).astype(np.int64) & 511, (x * 23).astype(np.int64) & 511]
    broad = noise[(z * 2.9).astype(np.int64) & 511, (x * 2.9).astype(np.int64) & 511]
    joints = (kinds == 2) & ((x % 0.8 < 0.05) | (z % 0.8 < 0.05)) & (far < 14)
    tone = 1 + (0.16 * grain + 0.12 * broad) * np.clip(14 / far, 0.15, 1) - 0.10 * joints
    lit = (
        table[kinds] * (tone * (weather.ambient + weather.direct * weather.sun[1]))[..., None] * weather.light
    )
    air = np.exp(-far / weather.visibility)[..., None]
    return (lit * air + np.array(weather.haze) * (1 - air)).astype(np.float32)


def _shadows(out: NDArray[np.float32], first: int, scene: Scene, window: Window, things: list[Thing]) -> None:
    """Darken the ground under things, and where the sun does not reach."""
    import cv2

    weather, camera = scene.weather, scene.camera
    mask = np.zeros(out.shape[:2], np.uint8)
    cast = np.array([-weather.sun[0], 0.0, -weather.sun[2]]) / max(0.3, weather.sun[1])
    for thing in things:
        if thing.y > 0.5 or thing.kind == "house":
            continue
        sprite = meshes(thing.kind)[thing.mesh].sprite
        wide, long = (0.16 * thing.height,) * 2 if sprite else (1.06 * thing.width, 1.03 * thing.length)
        corners = _turned(
            np.array(
                [(a * wide, 0.0, b * long) for a, b in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
            ),
            thing.heading,
        )
        corners += (thing.x, 0.0, thing.z)
        thrown = corners + cast * thing.height * (0.9 if sprite else 0.8)
        for points, dark in ((np.concatenate([corners, thrown]), 150 * weather.direct), (corners, 120)):
            seen = camera.look(points)
            if seen[:, 2].min() > NEAR:
                flat = _canvas(seen, camera, window, out.shape)
                layer = cv2.fillConvexPoly(
                    np.zeros_like(mask), cv2.convexHull(flat)[:, 0], int(dark), cv2.LINE_AA, _BITS
                )
                np.maximum(mask, layer, out=mask)
    if mask.any():
        out[first:] *= 1 - cv2.blur(mask, (3, 3))[first:, :, None] * np.float32(0.85 / 255)


# ---- light and sensor


def _shine(image: NDArray[np.uint8], glow: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add a halo around what shines in the dark."""
    import cv2

    height, width = image.shape[:2]
    small = cv2.resize(glow, (width, height), interpolation=cv2.INTER_AREA)
    spread = max(3, width // 10) | 1
    halo = cv2.blur(cv2.blur(small, (spread, spread)), (spread, spread))
    return cv2.add(image, cv2.convertScaleAbs(halo, alpha=0.9))


def _sensor(image: NDArray[np.uint8], weather: Weather, draws: Floats) -> NDArray[np.uint8]:
    """Rain or snow before the lens, then blur, exposure, white balance and noise of a cheap camera."""
    import cv2

    height, width = image.shape[:2]
    if weather.rain or weather.snow:
        image = _falling(image, weather, draws)
    if draws[4] < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), 0.35 + 0.6 * draws[5])
    gain = (0.82 + 0.36 * draws[6]) * (1 + 0.10 * (draws[7:10] - 0.5))  # (3,)
    offset = 14 * (draws[10] - 0.5)
    grain = _grain()
    if height > 256 or width > 256:
        grain = np.tile(grain, (-(-height // 256), -(-width // 256), 1))
    top, left = int(draws[11] * 64), int(draws[12] * 64)
    noise = grain[top : top + height, left : left + width] * np.float32(1.5 + 6.5 * draws[13] ** 2)
    return np.clip(image * gain.astype(np.float32) + np.float32(offset) + noise, 0, 255).astype(np.uint8)


def _falling(image: NDArray[np.uint8], weather: Weather, draws: Floats) -> NDArray[np.uint8]:
    import cv2

    height, width = image.shape[:2]
    fall = np.zeros((height, width), np.uint8)
    flakes = uniforms(int(draws[14] * 2**53), 120).reshape(60, 2) * (width, height)
    count = int(60 * max(weather.rain, weather.snow))
    slant = (draws[15] - 0.5) * 0.6
    for x, y in flakes[:count].tolist():
        if weather.rain:
            long = 0.10 * height
            cv2.line(fall, (int(x), int(y)), (int(x + slant * long), int(y + long)), 60, 1, cv2.LINE_AA)
        else:
            cv2.circle(fall, (int(x), int(y)), max(1, height // 64), 190, -1, cv2.LINE_AA)
    return cv2.add(image, cv2.merge([fall] * 3))
