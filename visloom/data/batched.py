"""Crops and flips of many small pictures at once: (B, H, W, C) arrays, one gather, no loop over pictures."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.warp import Border, Fill, fill_colour, reflected

Images = NDArray[Any]  # (B, H, W, C)
Keys = NDArray[np.uint64]  # (B,)
Direction = Literal["horizontal", "vertical"]


def flip_some(images: Images, which: NDArray[np.bool_], direction: Direction) -> Images:
    """Mirror the pictures that `which` (B,) names: (B, H, W, C), a new array."""
    result = images.copy()
    chosen = np.flatnonzero(which)
    if direction == "vertical":
        result[chosen] = images[chosen][:, ::-1]
        return result
    part = images[chosen]
    for channel in range(images.shape[3]):  # one plane at a time is three times faster than whole pixels
        result[chosen, :, :, channel] = part[:, :, ::-1, channel]
    return result


def cut_windows(
    images: Images,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    size: tuple[int, int],
    border: Border,
    fill: Fill,
) -> Images:
    """Cut one window of a size out of each picture, at its own place, in one gather: (B, h, w, C).

    top, left: (B,) whole pixels; parts outside the picture are mirrored or filled.
    """
    count, height, width, channels = images.shape
    before_y, before_x = max(0, -int(top.min())), max(0, -int(left.min()))
    after_y = max(0, int(top.max()) + size[0] - height)
    after_x = max(0, int(left.max()) + size[1] - width)
    wide = images
    if before_y or before_x or after_y or after_x:
        wide = np.empty(
            (count, before_y + height + after_y, before_x + width + after_x, channels), images.dtype
        )
        if border == "constant":
            wide[:] = _colours(images, fill)
        wide[:, before_y : before_y + height, before_x : before_x + width] = images
        if border == "reflect":
            _reflect(wide, 1, before_y, height)
            _reflect(wide, 2, before_x, width)
    wide = np.ascontiguousarray(wide)
    picture, row, column, item = wide.strides
    places = (wide.shape[1] - size[0] + 1, wide.shape[2] - size[1] + 1)
    windows = np.lib.stride_tricks.as_strided(  # a view: no pixel is copied before the gather below
        wide,
        (count, *places, size[0], size[1] * channels),
        (picture, row, column, row, item),
        writeable=False,
    )
    cut = windows[np.arange(count), top + before_y, left + before_x]  # (B, h, w * C)
    return cut.reshape(count, *size, channels)


def _reflect(wide: Images, axis: int, before: int, count: int) -> None:
    """Fill what lies around `count` rows (axis 1) or columns (2) from `before` on by mirroring, in place."""
    places = np.arange(wide.shape[axis])
    around = places[(places < before) | (places >= before + count)]
    mirrored = reflected(around - before, count) + before
    if axis == 1:
        wide[:, around] = wide[:, mirrored]
    else:
        wide[:, :, around] = wide[:, :, mirrored]


def _colours(images: Images, fill: Fill) -> Images:
    """`fill` for each picture: broadcastable to (B, H, W, C)."""
    if fill == "mean":
        return np.stack([fill_colour(image, fill) for image in images])[:, None, None, :]
    return fill_colour(images[0], fill)
