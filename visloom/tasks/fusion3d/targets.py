"""Targets: what the heads should say about one scene sample, as slots and Gaussian maps.

Zhou et al. 2019, "Objects as Points"; the Gaussian radius is CornerNet's (Law and Deng 2018) as the
originals compute it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import project, wrap
from visloom.tasks.fusion3d.compat import Compat

if TYPE_CHECKING:
    from visloom.sample import Sample

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """What shapes the targets: the maps' (height, width), input pixels per cell, counts of classes, attributes, slots.

    groups: for each attribute, which attributes exclude each other with it: (A, A) bool as rows.
    overlap: see `gaussian_radius`.  spread: cells around the middle of a box that learn what its middle learns.
    expand, slack: shares of a box's extent and of its depth by which the window of depths in which radar belongs to it
    is widened.
    """

    size: tuple[int, int]
    stride: int
    classes: int
    groups: tuple[tuple[bool, ...], ...]
    slots: int
    expand: float
    slack: float
    overlap: float
    spread: int
    compat: Compat


def targets(sample: Sample, layout: Layout) -> dict[str, Array]:
    """The targets of one sample, by the names of `Targets`, without a batch axis."""
    made = _empty(layout)
    if sample.boxes is None or not len(sample.boxes):
        return made
    height, width = layout.size
    extra = sample.extra
    boxes = sample.boxes.astype(np.float64) / layout.stride  # (N, 4)
    if layout.compat.pixels:
        boxes = np.clip(boxes, 0, (width - 1, height - 1) * 2)
    assert sample.labels is not None and sample.calib is not None
    known = (boxes[:, 2:] > boxes[:, :2]).all(1) & (sample.labels >= 0) & (sample.labels < layout.classes)
    rows = np.flatnonzero(known)[: layout.slots]
    if not len(rows):
        return made
    boxes = boxes[rows].astype(np.float32)
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]  # (N, 2) each
    cell = np.minimum(middle.astype(np.int64), (width - 1, height - 1))
    for (x, y), (wide, high), at in zip(
        cell.tolist(), size.tolist(), sample.labels[rows].tolist(), strict=True
    ):
        radius = max(0, int(gaussian_radius(math.ceil(high), math.ceil(wide), layout.overlap)))
        draw_gaussian(made["heat"][at], x, y, radius)
    if layout.spread:
        which, cell = around(cell, middle, size, layout)
        rows, boxes, middle, size = rows[which], boxes[which], middle[which], size[which]
    centre, dims, yaw = extra["box_center"][rows], extra["box_dims"][rows], extra["box_yaw"][rows]
    alpha = _alpha(extra, rows, centre, yaw, layout.compat)
    velocity = extra["box_velocity"][rows]
    sought = extra["box_sought"][rows] if "box_sought" in extra else centre[:, 2]
    values = {
        "index": cell[:, 1] * width + cell[:, 0],
        "label": sample.labels[rows],
        "valid": True,
        "box": boxes,
        "offset": middle - cell,
        "size": size,
        "depth": centre[:, 2:],
        "dims": dims,
        "center": project(sample.calib, centre)[:, :2] / layout.stride - cell,
        "velocity_known": np.isfinite(velocity).all(1),
        "velocity": np.nan_to_num(velocity, nan=0.0),
        "sought": sought,
        "reach": _reach(sample, middle, dims, yaw, alpha, layout) + layout.slack * sought,
    }
    values["bin"], values["residue"] = bins(alpha)
    values["attribute"], values["attribute_known"] = _attributes(extra["box_attribute"][rows], layout)
    for name, value in values.items():
        made[name][: len(rows)] = value
    return made


def _empty(layout: Layout) -> dict[str, Array]:
    """The targets of a sample without boxes."""
    slots, attributes = layout.slots, len(layout.groups)

    def zeros(*more: int, dtype: Any = np.float32) -> Array:
        return np.zeros((slots, *more), dtype)

    return {
        "heat": np.zeros((layout.classes, *layout.size), np.float32),
        "index": zeros(dtype=np.int64),
        "label": zeros(dtype=np.int64),
        "valid": zeros(dtype=bool),
        "box": zeros(4),
        "offset": zeros(2),
        "size": zeros(2),
        "depth": zeros(1),
        "dims": zeros(3),
        "center": zeros(2),
        "bin": zeros(2, dtype=np.int64),
        "residue": zeros(2),
        "attribute": zeros(attributes),
        "attribute_known": zeros(attributes),
        "velocity": zeros(3),
        "velocity_known": zeros(dtype=bool),
        "sought": zeros(),
        "reach": zeros(),
    }


def _attributes(numbers: Array, layout: Layout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Which attribute boxes have, and for which ones that is an answer: (N, A) each, from (N,) with -1 for none."""
    count = len(layout.groups)
    known = (numbers >= 0) & (numbers < count)
    has = (numbers[:, None] == np.arange(count)) & known[:, None]
    groups = np.array(layout.groups, np.float32).reshape(count, count)
    return has.astype(np.float32), has.astype(np.float32) @ groups


def around(cell: Array, middle: Array, size: Array, layout: Layout) -> tuple[Array, Array]:
    """Cells that learn a box: its own, then its neighbours inside the box that are no box's own.

    A peak is seldom in exactly the right cell at first; where its neighbours were trained too it still says where the
    box is (Liu et al. 2020, "Training-Time-Friendly Network", section 3.3).

    Args:
        cell: (N, 2) column and row of the middles.  middle, size: (N, 2) of the 2D boxes, in cells.
    Returns:
        Numbers of the boxes (M,) and their cells (M, 2), the N own ones first; no more than there are slots.
    """
    near = range(-layout.spread, layout.spread + 1)
    steps = np.array([(x, y) for y in near for x in near if x or y])
    beside = cell[:, None] + steps  # (N, S, 2)
    inside = (np.abs(beside + 0.5 - middle[:, None]) < size[:, None] / 2).all(-1)
    inside &= (beside >= 0).all(-1) & (beside < layout.size[::-1]).all(-1)
    inside &= ~(beside[:, :, None] == cell).all(-1).any(-1)
    box, step = np.nonzero(inside)
    which = np.concatenate([np.arange(len(cell)), box])[: layout.slots]
    return which, np.concatenate([cell, beside[box, step]])[: layout.slots]


def _alpha(extra: dict[str, Any], rows: Array, centre: Array, yaw: Array, compat: Compat) -> Array:
    """Observation angles: the heading against the ray to the middle of the 3D box."""
    if compat.clipped_alpha:
        return np.asarray(extra["box_alpha"][rows])
    return wrap(yaw - np.arctan2(centre[:, 0], centre[:, 2]))


def _reach(
    sample: Sample, middle: Array, dims: Array, yaw: Array, alpha: Array, layout: Layout
) -> NDArray[np.float32]:
    """Half width of the window of depths of each box: (N,)."""
    compat = layout.compat
    if compat.window_units:
        lens = sample.extra["lens"].astype(np.float32)
        yaw = alpha + np.arctan2(middle[:, 0] - lens[0, 2], lens[0, 0])
    half = (dims[:, 2] * np.abs(np.sin(yaw)) + dims[:, 1] * np.abs(np.cos(yaw))) / 2
    return np.asarray(half * (1.5 if compat.window else 1.0) * (1 + layout.expand), np.float32)


def bins(alpha: Array) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of two overlapping bins hold angles, (N, 2), and the angles from their middles -pi/2 and pi/2, (N, 2)."""
    right = (alpha < np.pi / 6) | (alpha > 5 * np.pi / 6)
    left = (alpha > -np.pi / 6) | (alpha < -5 * np.pi / 6)
    used = np.stack([right, left], 1).astype(np.int64)
    residue = np.stack([alpha + np.pi / 2, alpha - np.pi / 2], 1) * used
    return used, residue.astype(np.float32)


def gaussian_radius(height: float, width: float, overlap: float = 0.7) -> float:
    """How far a corner may move so that the box still overlaps itself by this much, as the originals compute it.

    They divide by 2 where the quadratic formula divides by 2 a: smaller, and what all weights were trained with.
    """
    both, area = height + width, height * width
    c1 = area * (1 - overlap) / (1 + overlap)
    first = (both + math.sqrt(both**2 - 4 * c1)) / 2
    second = (2 * both + math.sqrt(4 * both**2 - 16 * (1 - overlap) * area)) / 2
    b3 = -2 * overlap * both
    third = (b3 + math.sqrt(b3**2 - 16 * overlap * (overlap - 1) * area)) / 2
    return min(first, second, third)


def draw_gaussian(heat: Array, x: int, y: int, radius: int) -> None:
    """Raise a (H, W) map to a Gaussian around a cell: deviation a sixth of 2 radius + 1, cut off at the radius."""
    height, width = heat.shape
    ramp = np.arange(-radius, radius + 1)
    sigma = (2 * radius + 1) / 6
    gaussian = np.exp(-(ramp[:, None] ** 2 + ramp**2) / (2 * sigma * sigma))
    gaussian[gaussian < np.finfo(gaussian.dtype).eps * gaussian.max()] = 0
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    if left + right <= 0 or top + bottom <= 0:
        return
    part = heat[y - top : y + bottom, x - left : x + right]
    np.maximum(part, gaussian[radius - top : radius + bottom, radius - left : radius + right], out=part,
               casting="same_kind")  # fmt: skip
