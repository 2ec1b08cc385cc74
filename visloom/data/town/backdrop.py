"""Backdrop: sky, skyline and ground, computed per pixel; shadows; and what a camera adds to light.

Every pixel below the horizon is a point of the ground plane, so lines, crossings and paving are exact in any window.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.mesh import Floats
from visloom.data.town.scene import NEAR, Camera, Scene, Street, Thing, Weather, meshes
from visloom.keys import fold, generator, uniforms

Image = NDArray[Any]  # (H, W, 3) uint8; cv2 does not say what it returns
Array = NDArray[Any]
_BITS = 4  # of sub-pixel coordinates


class Window(NamedTuple):
    """A part of the camera's picture: its left, top and size in pixels of the camera."""

    x: float
    y: float
    width: float
    height: float


def background(
    scene: Scene, window: Window, size: tuple[int, int], draws: Floats, things: list[Thing]
) -> Image:
    """Sky, skyline and ground with the things' shadows: (H, W, 3) uint8.

    draws: uniform numbers; the first four place the clouds and the skyline.
    """
    height, width = size
    camera, weather = scene.camera, scene.weather
    rows, columns, first = _grid(camera, window, size)
    out = np.empty((height, width, 3), np.float32)
    if first:
        out[:first] = _sky(rows[:first], columns, camera, weather, draws)
    if first < height:
        out[first:] = _ground(rows[first:], columns, camera, weather, scene.street)
        shade = _shadows((height, width), scene, window, things)
        if shade is not None:
            out[first:] *= shade[first:, :, None]
    return np.clip(out, 0, 255).astype(np.uint8)


def _grid(camera: Camera, window: Window, size: tuple[int, int]) -> tuple[Array, Array, int]:
    """Pixels of a window below the horizon, (h,), and right of the middle, (w,); the first row that is ground."""
    height, width = size
    rows = window.y + (np.arange(height) + 0.5) * (window.height / height) - camera.horizon
    columns = window.x + (np.arange(width) + 0.5) * (window.width / width) - camera.centre
    return rows, columns, int(np.searchsorted(rows, 0.5))


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    """(512, 512) float32 smooth noise that repeats without a seam, mean 0, within -1 to 1: texture and clouds."""
    import cv2

    draws = generator(fold(0, "town noise"))
    total = np.zeros((512, 512), np.float32)
    for cells, weight in ((8, 1.0), (16, 0.7), (32, 0.5), (64, 0.4), (128, 0.35), (256, 0.3)):
        grid = draws.random((cells, cells), np.float32) - 0.5
        step = 512 // cells
        smooth = cv2.resize(
            np.pad(grid, 2, mode="wrap"), ((cells + 4) * step,) * 2, interpolation=cv2.INTER_CUBIC
        )
        total += weight * smooth[2 * step : 2 * step + 512, 2 * step : 2 * step + 512]
    return total / float(np.abs(total).max())


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.float32]:
    """(320, 320, 3) float32 normal noise of a sensor, partly shared by the colours, deviation about 1."""
    draws = generator(fold(0, "town grain"))
    shared = draws.standard_normal((320, 320, 1), np.float32)
    return 0.7 * shared + 0.7 * draws.standard_normal((320, 320, 3), np.float32)


def _sky(rows: Array, columns: Array, camera: Camera, weather: Weather, draws: Floats) -> NDArray[np.float32]:
    haze, zenith = np.array(weather.haze, np.float32), np.array(weather.zenith, np.float32)
    up = (np.clip(-rows / (0.75 * camera.focal), 0, 1) ** 0.7).astype(np.float32)  # (h,)
    picture = (haze + up[:, None] * (zenith - haze))[:, None]  # (h, 1, 3)
    noise = _noise()
    if weather.clouds:
        across = ((columns / camera.focal + camera.yaw) * 150 + 512 * draws[0]).astype(np.int64) & 511
        upward = ((-rows / camera.focal) * 420 + 512 * draws[1]).astype(np.int64) & 511
        clouds = np.clip(noise[upward[:, None], across] * 2.2 + 0.1, 0, 1)  # (h, w)
        clouds *= np.float32(weather.clouds) * np.minimum(1, up * 6)[:, None]
        white = 0.4 * haze + np.float32(150 * min(1.0, max(weather.haze) / 190))
        picture = picture + clouds[..., None] * (white - picture)
    roofs = _skyline(columns, camera, draws)
    far = haze * 0.82 + np.array((70, 74, 84), np.float32) * np.float32(weather.light[1] * 0.18)
    return np.where((-rows[:, None] < roofs)[..., None], far, picture)


def _skyline(columns: Array, camera: Camera, draws: Floats) -> Array:
    """Far roofs: a height in pixels above the horizon for every column, (w,)."""
    bearing = ((columns / camera.focal + camera.yaw) * 60 + 97 * draws[2]).astype(np.int64)
    roofs: Array = camera.focal * (0.035 + 0.05 * np.abs(_noise()[(bearing * 7) & 511, int(draws[3] * 511)]))
    return roofs


def _place(
    rows: Array, columns: Array, camera: Camera
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Where pixels below the horizon lie on the ground: x, z (h, w), and how far before the camera (h, 1); metres."""
    far = (camera.focal * camera.eye / rows).astype(np.float32)[:, None]  # (h, 1)
    across = columns.astype(np.float32) * (far / np.float32(camera.focal))  # (h, w) to the camera's right
    sin, cos = np.float32(math.sin(camera.yaw)), np.float32(math.cos(camera.yaw))
    return (
        np.float32(camera.x) + across * cos + far * sin,
        np.float32(camera.z) - across * sin + far * cos,
        far,
    )


def _zones(side: NDArray[np.float32], street: Street) -> NDArray[np.int64]:
    """What the ground is at a distance from the middle of the street: 0 road, 1 kerb, 2 pavement, 3 beyond."""
    return np.searchsorted([street.half, street.half + 0.22, street.half + street.walk], side)


def regions(scene: Scene, window: Window, size: tuple[int, int], draws: Floats) -> NDArray[np.int32]:
    """What the backdrop shows, by index in `scene.BACKDROP`: (H, W) int32. draws: as for `background`."""
    height, width = size
    rows, columns, first = _grid(scene.camera, window, size)
    found = np.zeros((height, width), np.int32)
    if first:
        found[:first] = -rows[:first, None] < _skyline(columns, scene.camera, draws)
    if first < height:
        x, _, _ = _place(rows[first:], columns, scene.camera)
        found[first:] = np.array([2, 3, 3, 4])[_zones(np.abs(x), scene.street)]
    return found


def crossing(scene: Scene, window: Window, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the crossing lies on the road or would if the street were wider, (H, W)."""
    rows, columns, first = _grid(scene.camera, window, size)
    found = np.zeros(size, bool)
    if first < size[0]:
        _, z, _ = _place(rows[first:], columns, scene.camera)
        found[first:] = _crossed(z, scene.street)
    return found


def _crossed(z: NDArray[np.float32], street: Street) -> NDArray[np.bool_]:
    return np.asarray(np.abs(z - street.crossing - 1.0) < 1.6)


def _ground(
    rows: Array, columns: Array, camera: Camera, weather: Weather, street: Street
) -> NDArray[np.float32]:
    x, z, far = _place(rows, columns, camera)
    side = np.abs(x)
    lit = _surface(x, z, side, far, street, weather)[..., None]
    kinds = _zones(side, street)  # (h, w) 0-3
    painted = 0.10 + 0.0007 * far * far  # lines wider than a far pixel, so that they do not break up
    lane = street.half / street.lanes
    dash = side < painted
    if street.lanes > 1:
        dash |= np.abs(side - lane) < painted
    line = (dash & (z % 7.0 < 3.2)) | (np.abs(side - street.half + 0.25) < 0.8 * painted)
    zebra = _crossed(z, street) & (x % 1.1 < 0.55)
    kinds[(kinds == 0) & (line | zebra)] = 4
    table = np.array(
        [street.road, (170, 168, 162), street.pavement, street.ground, (226, 224, 214)], np.float32
    )
    if weather.snow:
        table[1:4] = 0.35 * table[1:4] + 0.65 * np.array((232, 236, 242), np.float32)
        table[0] = 0.7 * table[0] + 0.3 * np.array((220, 224, 230), np.float32)
    table *= np.array(weather.light, np.float32) * np.float32(
        weather.ambient + weather.direct * weather.sun[1]
    )
    air = np.exp(-far / np.float32(weather.visibility))[..., None]
    shown: NDArray[np.float32] = table[kinds] * lit * air + np.array(weather.haze, np.float32) * (1 - air)
    return shown


def _surface(
    x: NDArray[np.float32],
    z: NDArray[np.float32],
    side: NDArray[np.float32],
    far: NDArray[np.float32],
    street: Street,
    weather: Weather,
) -> NDArray[np.float32]:
    """Brightness of the ground: grain and blotches, weaker with distance, and the joints of paving stones."""
    noise = _noise()
    grain = noise[(z * 23).astype(np.int32) & 511, (x * 23).astype(np.int32) & 511]
    broad = noise[(z * 2.9).astype(np.int32) & 511, (x * 2.9).astype(np.int32) & 511]
    tone: NDArray[np.float32] = 1 + (0.16 * grain + 0.12 * broad) * np.clip(14 / far, 0.15, 1)
    if float(far[-1, 0]) < 14 and not weather.snow:
        paving = (side > street.half + 0.22) & (side < street.half + street.walk) & (far < 14)
        tone -= 0.10 * (paving & ((x % 0.8 < 0.05) | (z % 0.8 < 0.05)))
    return tone


def _shadows(
    size: tuple[int, int], scene: Scene, window: Window, things: list[Thing]
) -> NDArray[np.float32] | None:
    """What share of the light reaches the ground, (H, W) float32 from 0.4 to 1, or None where nothing stands."""
    import cv2

    camera, weather = scene.camera, scene.weather
    standing = [thing for thing in things if thing.y < 0.5 and thing.kind != "house"]
    if not standing:
        return None
    corners = np.array([_footprint(thing) for thing in standing])  # (N, 4, 3)
    high = np.array([thing.height for thing in standing])[:, None, None]
    throw = np.array([-weather.sun[0], 0.0, -weather.sun[2]]) * (0.85 / max(0.3, weather.sun[1]))
    seen = camera.look(np.concatenate([corners, corners + throw * high], axis=1))  # (N, 8, 3)
    scale = camera.focal / np.maximum(seen[..., 2], NEAR)
    across = (camera.centre - window.x + seen[..., 0] * scale) * (size[1] / window.width) - 0.5
    down = (camera.horizon - window.y - seen[..., 1] * scale) * (size[0] / window.height) - 0.5
    flat = np.clip(np.rint(np.stack([across, down], axis=-1) * (1 << _BITS)), -(1 << 17), 1 << 17).astype(
        np.int32
    )
    before = seen[..., 2].min(1) > NEAR
    mask = np.zeros(size, np.uint8)
    cast = int(150 * weather.direct)
    if cast > 20:
        for points in flat[before]:
            cv2.fillConvexPoly(mask, cv2.convexHull(points)[:, 0], cast, cv2.LINE_AA, _BITS)
    for points in flat[before, :4]:
        cv2.fillConvexPoly(mask, points, 130, cv2.LINE_AA, _BITS)
    return 1 - cv2.blur(mask, (3, 3)) * np.float32(0.85 / 255)


def _footprint(thing: Thing) -> list[tuple[float, float, float]]:
    """The corners of the rectangle a thing stands on; a small square for a sprite."""
    if meshes(thing.kind)[thing.mesh].sprite:
        wide = long = 0.08 * thing.height
    else:
        wide, long = 0.53 * thing.width, 0.515 * thing.length
    sin, cos = math.sin(thing.heading), math.cos(thing.heading)
    signs = ((-wide, -long), (wide, -long), (wide, long), (-wide, long))
    return [(thing.x + a * cos + b * sin, 0.0, thing.z - a * sin + b * cos) for a, b in signs]


# ---- light and sensor


def shine(image: Image, glow: Image) -> Image:
    """Add a halo around what shines in the dark; `glow` shows it on black, at any scale."""
    import cv2

    height, width = image.shape[:2]
    small = cv2.resize(glow, (width, height), interpolation=cv2.INTER_AREA)
    spread = max(3, width // 10) | 1
    halo = cv2.blur(cv2.blur(small, (spread, spread)), (spread, spread))
    return cv2.add(image, cv2.convertScaleAbs(halo, alpha=0.9))


def sensor(image: Image, weather: Weather, draws: Floats) -> Image:
    """Rain or snow before the lens, then blur, exposure, white balance and noise of a cheap camera.

    draws: uniform numbers, of which those from the fifth on are used.
    """
    import cv2

    height, width = image.shape[:2]
    if weather.rain or weather.snow:
        image = _falling(image, weather, draws)
    if draws[4] < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), 0.35 + 0.6 * draws[5])
    gain = (0.82 + 0.36 * draws[6]) * (1 + 0.10 * (draws[7:10] - 0.5))  # (3,)
    offset = np.float32(14 * (draws[10] - 0.5))
    grain = _grain()
    if height > 256 or width > 256:
        grain = np.tile(grain, (-(-height // 256), -(-width // 256), 1))
    top, left = int(draws[11] * 64), int(draws[12] * 64)
    noise = grain[top : top + height, left : left + width] * np.float32(1.5 + 6.5 * draws[13] ** 2)
    seen: Image = np.clip(image * gain.astype(np.float32) + offset + noise, 0, 255).astype(np.uint8)
    return seen


def _falling(image: Image, weather: Weather, draws: Floats) -> Image:
    import cv2

    height, width = image.shape[:2]
    fall = np.zeros((height, width), np.uint8)
    count = int(24 * max(weather.rain, weather.snow) * min(2.5, width / 64))
    places = uniforms(int(draws[14] * 2**53), 2 * count).reshape(count, 2) * (width, height)
    slant, long = (draws[15] - 0.5) * 0.6, 0.10 * height
    for x, y in places.tolist():
        if weather.rain:
            cv2.line(fall, (int(x), int(y)), (int(x + slant * long), int(y + long)), 60, 1, cv2.LINE_AA)
        else:
            cv2.circle(fall, (int(x), int(y)), max(1, height // 64), 190, -1, cv2.LINE_AA)
    return cv2.add(image, cv2.merge([fall] * 3))
