"""Anchors: boxes of several sizes and shapes around every cell of every feature map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool = True) -> Tensor:
    """Anchors around (0, 0), ratio by ratio (ratio = height / width): (A, 4) float32, as torchvision makes them.

    rounded: to whole pixels; detectron2 does not.
    """
    side = torch.as_tensor(sizes, dtype=torch.float32)
    tall = torch.as_tensor(ratios, dtype=torch.float32).sqrt()
    width = (side[None] / tall[:, None]).flatten()
    height = (side[None] * tall[:, None]).flatten()
    boxes = torch.stack([-width, -height, width, height], 1) / 2
    return boxes.round() if rounded else boxes


def legacy_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: int) -> Tensor:
    """Anchors of maskrcnn-benchmark: inclusive pixels around the middle of the first cell, (A, 4) float32.

    The cell's square is reshaped to each ratio, rounded (half to even), and only then scaled to each size.
    """
    middle = 0.5 * (stride - 1)
    width = np.round(np.sqrt(stride * stride / np.asarray(ratios, np.float64)))
    height = np.round(width * np.asarray(ratios, np.float64))
    scale = np.asarray(sizes, np.float64) / stride
    w, h = (np.outer(side, scale).ravel() for side in (width, height))
    boxes = np.stack([-0.5 * (w - 1), -0.5 * (h - 1), 0.5 * (w - 1), 0.5 * (h - 1)], 1) + middle
    return torch.from_numpy(boxes.astype(np.float32))


class Anchors(nn.Module):
    """Anchors of all cells, level by level; no parameters and nothing in the state dict.

    Args:
        sizes: for each level, sides in pixels.  ratios: height / width.
        strides: pixels between cells, by level.
        legacy: the anchors of maskrcnn-benchmark.  rounded: see `cell_anchors`.
        fixed: cells are `strides` apart; else (torchvision) picture size // map size apart, which differs where a
            map's size was rounded up.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        *,
        legacy: bool = False,
        rounded: bool = True,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        self.strides, self.fixed = tuple(strides), fixed or legacy
        for level, (each, stride) in enumerate(zip(sizes, strides, strict=True)):
            cell = (
                legacy_anchors(each, ratios, stride)
                if legacy
                else cell_anchors(each, ratios, rounded=rounded)
            )
            self.register_buffer(f"cell{level}", cell, persistent=False)
        self.per_cell = len(sizes[0]) * len(ratios)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Anchors of each level (H * W * A, 4) for maps (B, C, H, W) of a padded picture of (height, width)."""
        found = []
        for level, seen in enumerate(features):
            rows, columns = seen.shape[2:]
            step = (self.strides[level],) * 2 if self.fixed else (size[0] // rows, size[1] // columns)
            y = torch.arange(rows, device=seen.device, dtype=torch.float32) * step[0]
            x = torch.arange(columns, device=seen.device, dtype=torch.float32) * step[1]
            y, x = torch.meshgrid(y, x, indexing="ij")
            shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (HW, 1, 4)
            cell: Tensor = self.get_buffer(f"cell{level}")
            found.append((shift + cell).reshape(-1, 4))
        return found


def inside(anchors: Tensor, size: tuple[int, int], straddle: float) -> Tensor:
    """Which anchors (N, 4) lie inside a picture of (height, width), but for `straddle` pixels: (N,) bool."""
    low = (anchors[:, :2] >= -straddle).all(1)
    return low & (anchors[:, 2] < size[1] + straddle) & (anchors[:, 3] < size[0] + straddle)
