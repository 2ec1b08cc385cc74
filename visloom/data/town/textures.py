"""Textures: pictures that show one texture each, as those of the Describable Textures Dataset (DTD) do.

A texture is a function of place alone: shares of two colours on a plane that is turned, scaled and bent a little. What
the paint is, how large the pattern and where it lies differ from picture to picture; what stays is the word for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.mesh import Floats
from visloom.keys import fold, generator

Draw = np.random.Generator
_NOISE = 6.0  # of a camera, in grey values
_SIDE = 64  # of the grid that flecks and folds are drawn on, whatever the picture's size


def texture(key: int, word: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a texture by its word (`TEXTURES`): (H, W, 3) uint8 RGB."""
    import cv2

    draw = generator(fold(key, "texture"))
    across, down = _plane(draw, size)
    share = cv2.GaussianBlur(_PATTERNS[word](across, down, draw), (0, 0), 0.5)[..., None]  # (H, W, 1)
    paint = _two_colours(draw)
    image = share * paint[0] + (1 - share) * paint[1]
    light = 0.85 + 0.3 * _smooth(draw, size, 2)[..., None]
    image = image * light + draw.normal(0.0, _NOISE, image.shape)
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def _plane(draw: Draw, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Coordinates of the pixels in periods of the pattern, (H, W) each: turned, scaled and slightly bent."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    period = min(size) * draw.uniform(0.12, 0.26)
    angle = draw.uniform(-0.4, 0.4)
    bend = 0.25 * _smooth(draw, size, 2), 0.25 * _smooth(draw, size, 2)
    x, y = columns / period + bend[0], rows / period + bend[1]
    cos, sin = np.cos(angle), np.sin(angle)
    start = draw.uniform(0, 1, 2)
    return x * cos + y * sin + start[0], y * cos - x * sin + start[1]


def _two_colours(draw: Draw) -> Floats:
    """A light and a dark colour, (2, 3) RGB 0-255."""
    return np.stack([draw.uniform(150, 240, 3), draw.uniform(15, 95, 3)])


def _smooth(draw: Draw, size: tuple[int, int], cells: int) -> Floats:
    """Smooth noise in [0, 1], (H, W): a few random numbers joined by curves."""
    import cv2

    coarse = draw.uniform(0, 1, (cells + 2, cells + 2)).astype(np.float32)
    fine = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(fine, 0, 1), np.float64)


def _near(value: Floats, width: float) -> Floats:
    """Where a coordinate is within `width` of a whole number."""
    return (np.abs(value - np.round(value)) < width).astype(np.float64)


def _banded(x: Floats, y: Floats, draw: Draw) -> Floats:
    return (x % 1 < draw.uniform(0.35, 0.65)).astype(np.float64)


def _chequered(x: Floats, y: Floats, draw: Draw) -> Floats:
    return (np.floor(1.4 * x) + np.floor(1.4 * y)) % 2


def _dotted(x: Floats, y: Floats, draw: Draw) -> Floats:
    x = x + 0.5 * (np.round(y) % 2) * (draw.uniform() < 0.5)  # rows beside or between each other
    near = np.hypot(x - np.round(x), y - np.round(y))
    return (near < draw.uniform(0.22, 0.36)).astype(np.float64)


def _flecked(x: Floats, y: Floats, draw: Draw) -> Floats:
    import cv2

    sheet = np.zeros((_SIDE, _SIDE), np.float32)
    for column, row, long, turn in zip(
        *draw.integers(0, _SIDE, (2, 70)).tolist(),
        draw.integers(1, 4, 70).tolist(),
        draw.uniform(0, 180, 70).tolist(),
    ):
        cv2.ellipse(sheet, (column, row), (long, 1), turn, 0, 360, 1.0, -1)
    return np.asarray(cv2.resize(sheet, (x.shape[1], x.shape[0]), interpolation=cv2.INTER_LINEAR), np.float64)


def _grid(x: Floats, y: Floats, draw: Draw) -> Floats:
    width = draw.uniform(0.07, 0.13)
    return np.maximum(_near(x, width), _near(y, width))


def _honeycombed(x: Floats, y: Floats, draw: Draw) -> Floats:
    """Cells around the points of a triangular lattice; walls where two points are about equally far."""
    high = np.sqrt(3) / 2
    row = np.floor(y / high)
    apart = []
    for step in (-1, 0, 1, 2):
        shift = 0.5 * ((row + step) % 2)
        off = (x - shift) - np.round(x - shift)
        rise = y - (row + step) * high
        apart += [np.hypot(off, rise), np.hypot(1 - np.abs(off), rise)]
    first, second = np.sort(np.stack(apart), 0)[:2]
    return np.asarray(second - first < draw.uniform(0.14, 0.22), np.float64)


def _marbled(x: Floats, y: Floats, draw: Draw) -> Floats:
    size = x.shape
    folds = sum(_smooth(draw, size, cells) / share for cells, share in ((3, 0.4), (6, 0.8), (12, 1.6)))
    veins = 1 - np.abs(np.sin(np.pi * (0.3 * x + folds)))
    return np.asarray(veins ** draw.uniform(1.5, 3.0))


def _zigzagged(x: Floats, y: Floats, draw: Draw) -> Floats:
    return ((x + draw.uniform(0.6, 1.0) * np.abs(2 * (y % 1) - 1)) % 1 < draw.uniform(0.35, 0.6)).astype(
        np.float64
    )


_PATTERNS: Mapping[str, Callable[[Floats, Floats, Draw], Floats]] = {
    "banded": _banded, "chequered": _chequered, "dotted": _dotted, "flecked": _flecked, "grid": _grid,
    "honeycombed": _honeycombed, "marbled": _marbled, "zigzagged": _zigzagged,
}  # fmt: skip

TEXTURES = tuple(_PATTERNS)
"""Words for textures, each one of DTD's."""
