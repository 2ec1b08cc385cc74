"""Radar pillars: returns of a radar as upright boxes in the picture, nearest on top.

A radar does not measure height, so every return becomes a thin pillar that stands on it (Nabati and Qi 2021, section
4.2), painted into a raster at the resolution of the heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import corners, project

Array = NDArray[Any]


def pillars(
    radar: Array,
    calib: Array,
    size: tuple[int, int],
    *,
    max_depth: float = 60.0,
    dims: tuple[float, float, float] = (1.5, 0.2, 0.2),
    thin: bool = False,
    at: Array | None = None,
) -> NDArray[np.float32]:
    """Paint radar returns: (3, H, W) float32: depth in metres (0 where nothing is), velocity right and ahead in m/s.

    Args:
        radar: (N, 5 or more) x y z, velocity right and ahead, in the camera's frame.
        calib: (3, 4), points to pixels of the raster.
        size: (height, width) of the raster.
        max_depth: returns beyond are left out.
        dims: height, width and length of a pillar in metres.
        thin: see `Compat.thin_pillars`.
        at: (N, 2) where the returns lie in the raster, if that is not what `calib` says.
    """
    height, width = size
    raster = np.zeros((3, height, width), np.float32)
    seen = project(calib, radar[:, :3].astype(np.float64))  # (N, 3)
    place = seen[:, :2] if at is None else at
    depth = radar[:, 2]
    keep = (depth <= max_depth) & (depth > 0) & (place > 0).all(1) & (place < (width, height)).all(1)
    order = np.flatnonzero(keep)
    order = order[np.argsort(-depth[order], kind="stable")]  # far to near
    if not len(order):
        return raster
    wide, high = _extents(radar[order, :3], calib, size, dims)
    u, v = place[order].T
    edges = np.stack(
        [np.maximum(v - high, 0), v, np.maximum(u - wide / 2, 0), np.minimum(u + wide / 2, width)], 1
    )
    cells = np.round(edges).astype(np.int64)  # (N, 4) first and end row, first and end column
    if not thin:  # every return keeps the cell that it falls into
        cells[:, 0] = np.minimum(cells[:, 0], np.floor(v).astype(np.int64))
        cells[:, 1] = np.maximum(cells[:, 1], np.floor(v).astype(np.int64) + 1)
        cells[:, 2] = np.minimum(cells[:, 2], np.floor(u).astype(np.int64))
        cells[:, 3] = np.maximum(cells[:, 3], np.floor(u).astype(np.int64) + 1)
    values = radar[order][:, 2:5].astype(np.float32)  # depth, right, ahead
    for (top, bottom, left, right), value in zip(cells.tolist(), values, strict=True):
        raster[:, top:bottom, left:right] = value[:, None, None]
    return raster


def _extents(
    points: Array, calib: Array, size: tuple[int, int], dims: tuple[float, float, float]
) -> tuple[Array, Array]:
    """Width and height in pixels of the pillars on points, of what of their corners lies inside: (N,) each."""
    count = len(points)
    centre = points.astype(np.float64) - (0, dims[0] / 2, 0)  # a pillar stands on its return
    shape = np.tile(np.array(dims), (count, 1))
    pixels = project(calib, corners(centre, shape, np.zeros(count)))[..., :2]  # (N, 8, 2)
    inside = np.asarray((pixels > 0).all(-1) & (pixels < (size[1], size[0])).all(-1))  # (N, 8)
    low = np.where(inside[..., None], pixels, np.inf).min(1)
    high = np.where(inside[..., None], pixels, -np.inf).max(1)
    extent = np.where((inside.sum(1) > 1)[:, None], high - low, 0.0)  # (N, 2)
    return extent[:, 0], extent[:, 1]
