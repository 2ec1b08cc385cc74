"""Frustum association: which radar return belongs to which box, for all boxes of a batch at once.

Each box looks for the nearest radar pixel inside it whose depth fits (Nabati and Qi 2021, "CenterFusion",
section 4.3) and
writes that pixel's depth and velocity around its middle. Training passes annotated boxes, inference predicted ones.
There is no loop over boxes: only the raster's few hits are compared, and rectangles are painted by one scatter.
"""

from __future__ import annotations

import torch
from torch import Tensor


def half_extent(dims: Tensor, yaw: Tensor) -> Tensor:
    """How far boxes reach from their middle along z: (...,) metres from dims (..., 3) h w l and yaw (...,)."""
    return (dims[..., 2] * yaw.sin().abs() + dims[..., 1] * yaw.cos().abs()) / 2


def associate(
    raster: Tensor,
    box: Tensor,
    depth: Tensor,
    reach: Tensor,
    valid: Tensor,
    *,
    scale: tuple[float, float, float],
    middle: float = 0.3,
    unclipped: bool = False,
    order: bool = False,
) -> Tensor:
    """Write the radar features of boxes into maps: (B, 3, H, W).

    Args:
        raster: (B, 3, H, W) radar pillars: depth in metres (0 is nothing), velocity right and ahead in m/s.
        box: (B, K, 4) x0 y0 x1 y1 in pixels of the raster.
        depth, reach: (B, K) metres: hits lie strictly between depth - reach and depth + reach, and beyond 0.
        valid: (B, K) bool: which boxes there are.
        scale: features are divided by these.
        middle: share of a box's width and height, around its middle, that gets the features.
        unclipped, order: see `Compat`.
    """
    batch, _, height, width = raster.shape
    count = box.shape[1]
    if not count:
        return torch.zeros_like(raster)
    hit = _nearest(raster, box, depth, reach, valid, unclipped)  # (B, K), -1 for none
    found = hit >= 0
    flat = raster.flatten(2)  # (B, 3, HW)
    values = flat.gather(2, hit.clamp_min(0)[:, None].expand(-1, 3, -1))  # (B, 3, K)
    values = values / raster.new_tensor(scale)[:, None]
    if order:  # a later box overwrites an earlier one
        rank = torch.arange(count, device=box.device).expand(batch, -1)
    else:  # a nearer box overwrites a farther one
        rank = depth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    rows, columns = _middles(box, middle, height, width, order=order)
    winner = _paint(rows, columns, rank, found, height, width)  # (B, HW) rank of the box shown, -1 for none
    by_rank = torch.empty_like(rank).scatter_(
        1, rank, torch.arange(count, device=box.device).expand(batch, -1)
    )
    which = by_rank.gather(1, winner.clamp_min(0))  # (B, HW)
    shown = values.gather(2, which[:, None].expand(-1, 3, -1))  # (B, 3, HW)
    return torch.where((winner >= 0)[:, None], shown, shown.new_zeros(())).view_as(raster)


def _nearest(
    raster: Tensor, box: Tensor, depth: Tensor, reach: Tensor, valid: Tensor, unclipped: bool
) -> Tensor:
    """Flat pixel of the nearest fitting hit of each box, the first of equals, or -1: (B, K) int64."""
    batch, _, height, width = raster.shape
    at = raster[:, 0].nonzero()  # (P, 3): picture, row, column; in row-major order
    count = torch.bincount(at[:, 0], minlength=batch)
    most = int(count.max()) if len(at) else 0
    if not most:
        return torch.full(depth.shape, -1, dtype=torch.int64, device=raster.device)
    place = torch.arange(len(at), device=at.device) - (count.cumsum(0) - count)[at[:, 0]]
    pixel = torch.zeros(batch, most, dtype=torch.int64, device=at.device)
    far = raster.new_full((batch, most), float("inf"))  # padding fits no box
    pixel[at[:, 0], place] = at[:, 1] * width + at[:, 2]
    far[at[:, 0], place] = raster[at[:, 0], 0, at[:, 1], at[:, 2]]
    low, high = box[..., :2].floor(), box[..., 2:].ceil() + 1
    left, right = _span(low[..., 0], high[..., 0], width, unclipped)
    top, bottom = _span(low[..., 1], high[..., 1], height, unclipped)
    row, column = (pixel // width)[:, None], (pixel % width)[:, None]  # (B, 1, P)
    fits = (column >= left[..., None]) & (column < right[..., None])
    fits &= (row >= top[..., None]) & (row < bottom[..., None])
    away = far[:, None]
    fits &= (away < (depth + reach)[..., None]) & (away > (depth - reach).clamp_min(0)[..., None])
    fits &= valid[..., None]
    best = torch.where(fits, away, float("inf")).min(2)  # (B, K)
    return torch.where(best.values.isfinite(), pixel.gather(1, best.indices), -1)


def _span(low: Tensor, high: Tensor, size: int, unclipped: bool) -> tuple[Tensor, Tensor]:
    """First and end index of intervals on an axis; unclipped, as a Python slice would read them."""
    low, high = low.long(), high.long()
    if unclipped:
        low, high = torch.where(low < 0, low + size, low), torch.where(high < 0, high + size, high)
    return low.clamp(0, size), high.clamp(0, size)


def _middles(
    box: Tensor, share: float, height: int, width: int, *, order: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows and columns around the middles of boxes, as first and end indices."""
    centre = (box[..., :2] + box[..., 2:]) / 2
    half = share * (box[..., 2:] - box[..., :2]) / 2.0
    low, high = (centre - half).trunc(), (centre + half).trunc() + 1
    if not order:
        low, high = (centre - half).floor(), (centre + half).floor() + 1
    columns = _span(low[..., 0], high[..., 0] + (1 if order else 0), width, order)
    return _span(low[..., 1], high[..., 1], height, order), columns


def _paint(
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    rank: Tensor,
    shown: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """The highest rank among the rectangles that cover each pixel, or -1: (B, HW) int64."""
    batch, count = rank.shape
    wide = (columns[1] - columns[0]).clamp_min(0)
    area = ((rows[1] - rows[0]).clamp_min(0) * wide * shown).flatten()  # (BK,)
    owner = torch.repeat_interleave(area)  # (M,) number of the rectangle of each painted pixel
    inside = torch.arange(len(owner), device=area.device) - (area.cumsum(0) - area)[owner]
    across = wide.flatten()[owner]
    row = rows[0].flatten()[owner] + inside // across
    column = columns[0].flatten()[owner] + inside % across
    at = (owner // count) * (height * width) + row * width + column
    canvas = torch.full((batch * height * width,), -1, dtype=torch.int64, device=area.device)
    return canvas.scatter_reduce_(0, at, rank.flatten()[owner], "amax").view(batch, height * width)
