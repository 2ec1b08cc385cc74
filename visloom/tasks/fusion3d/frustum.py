"""Frustum association: which radar return belongs to which box, for all boxes of a batch at once.

Each box looks for the nearest radar pixel inside it whose depth fits (Nabati and Qi 2021, "CenterFusion", section 4.3)
and writes that pixel's depth and velocity around its middle. Training passes annotated boxes, inference predicted ones.
There is no loop over boxes and no mask of boxes by pixels: a picture's few hits are sorted by depth, so that those
within a box's window of depths are one range of them; and only pixels that are painted are looked at again.
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
    if order:  # a later box overwrites an earlier one
        rank = torch.arange(count, device=box.device).expand(batch, -1)
    else:  # a nearer box overwrites a farther one
        rank = depth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    rows, columns = _middles(box, middle, height, width, order=order)
    owner, at = _painted(rows, columns, hit >= 0, width)  # (M,) which box paints, and which pixel
    cells = height * width
    picture = torch.arange(batch, device=box.device).repeat_interleave(count)  # (BK,) of each box
    place = (picture * cells)[owner] + at
    ranks = rank.reshape(-1)[owner]
    canvas = torch.full((batch * cells,), -1, dtype=torch.int64, device=box.device)
    canvas.scatter_reduce_(0, place, ranks, "amax")
    wins = (canvas[place] == ranks).nonzero()[:, 0]  # one box a pixel
    owner, at = owner[wins], at[wins]
    base = (picture * (3 * cells))[owner] + torch.arange(3, device=box.device)[:, None] * cells  # (3, M)
    values = raster.reshape(-1)[base + hit.reshape(-1)[owner]]  # (3, M)
    made = torch.zeros(raster.numel(), dtype=raster.dtype, device=raster.device)
    made[base + at] = values / raster.new_tensor(scale)[:, None]
    return made.view_as(raster)


def _nearest(
    raster: Tensor, box: Tensor, depth: Tensor, reach: Tensor, valid: Tensor, unclipped: bool
) -> Tensor:
    """Flat pixel of the nearest fitting hit of each box, the first of equals, or -1: (B, K) int64."""
    batch, _, height, width = raster.shape
    count = box.shape[1]
    at = raster[:, 0].nonzero()  # (P, 3): picture, row, column; in row-major order
    hits = torch.bincount(at[:, 0], minlength=batch)  # (B,)
    most = int(hits.max()) if len(at) else 0
    none = torch.full((batch * count,), -1, dtype=torch.int64, device=raster.device)
    if not most:
        return none.view(batch, count)
    # the hits of each picture, near to far, equals in row-major order: (B, P), padded by infinitely far ones
    picture, away = at[:, 0], raster[:, 0][at.unbind(1)]
    by_depth = away.argsort(stable=True)
    by_depth = by_depth[picture[by_depth].argsort(stable=True)]
    at, away = at[by_depth], away[by_depth]
    pad = (
        torch.arange(len(at), device=at.device)
        + (torch.arange(batch, device=at.device) * most - (hits.cumsum(0) - hits))[picture]
    )
    far = raster.new_full((batch * most,), float("inf"))
    far[pad] = away
    place = at.new_zeros(batch * most)
    place[pad] = at[:, 1] * width + at[:, 2]
    # the range of hits within each box's window
    sides = [(depth - reach).clamp_min(0), depth + reach]
    first = torch.searchsorted(far.view(batch, most), sides[0].contiguous(), right=True)  # (B, K)
    end = torch.searchsorted(far.view(batch, most), sides[1].contiguous())
    long = ((end - first).clamp_min(0) * valid).view(-1)  # (BK,)
    owner = torch.repeat_interleave(long)  # (M,) the box of each candidate
    start = first.view(-1) + torch.arange(batch, device=at.device).repeat_interleave(count) * most
    mine = torch.arange(len(owner), device=at.device) + (start - (long.cumsum(0) - long))[owner]
    # the first of them that lies in the box
    low, high = box[..., :2].floor(), box[..., 2:].ceil() + 1
    left, right = _span(low[..., 0], high[..., 0], width, unclipped)
    top, bottom = _span(low[..., 1], high[..., 1], height, unclipped)
    edges = torch.stack([left, right, top, bottom], -1).view(-1, 4)[owner]  # (M, 4)
    row, column = (place // width)[mine], (place % width)[mine]
    fits = (column >= edges[:, 0]) & (column < edges[:, 1]) & (row >= edges[:, 2]) & (row < edges[:, 3])
    beyond = batch * most
    which = fits.nonzero()[:, 0]
    best = torch.full_like(none, beyond).scatter_reduce_(0, owner[which], mine[which], "amin")
    found = best < beyond
    return torch.where(found, place[best.clamp_max(beyond - 1)], none).view(batch, count)


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


def _painted(
    rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], shown: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Every pixel of every rectangle that is shown: the rectangle's number, and the flat pixel, (M,) int64 each."""
    wide = (columns[1] - columns[0]).clamp_min(0)
    area = ((rows[1] - rows[0]).clamp_min(0) * wide * shown).flatten()  # (BK,)
    owner = torch.repeat_interleave(area)
    inside = torch.arange(len(owner), device=area.device) - (area.cumsum(0) - area)[owner]
    across = wide.flatten()[owner]
    row = rows[0].flatten()[owner] + inside // across
    return owner, row * width + columns[0].flatten()[owner] + inside % across
