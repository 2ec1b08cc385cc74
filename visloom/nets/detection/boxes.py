"""Boxes: areas, overlaps, clipping, suppression and the box coder, in either of two conventions.

`plus` is 0 for corners on pixel edges (width = x1 - x0; torchvision, detectron2) and 1 for inclusive pixels (width =
x1 - x0 + 1; Detectron, maskrcnn-benchmark). Old checkpoints were trained with 1 and mean something else under 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import ops

LONGEST = math.log(1000.0 / 16)
"""Bound on predicted log sizes: a delta cannot blow a box up without end (Detectron)."""


def areas(boxes: Tensor, plus: float = 0.0) -> Tensor:
    """Areas (N,) of boxes (N, 4)."""
    return (boxes[:, 2] - boxes[:, 0] + plus) * (boxes[:, 3] - boxes[:, 1] + plus)


def overlaps(a: Tensor, b: Tensor, plus: float = 0.0) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4): (N, M); 0 where both are empty."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = (high - low + plus).clamp(min=0)
    inside = sides[..., 0] * sides[..., 1]
    union = areas(a, plus)[:, None] + areas(b, plus)[None] - inside
    return inside / union.where(union > 0, 1)


def clipped(boxes: Tensor, size: tuple[int, int], plus: float = 0.0) -> Tensor:
    """Boxes (..., 4) inside a picture of (height, width)."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width - plus)
    y = boxes[..., 1::2].clamp(0, height - plus)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def suppress(boxes: Tensor, scores: Tensor, threshold: float, plus: float = 0.0) -> Tensor:
    """Indices that non-maximum suppression keeps: best score first, or in the order given where `plus` is 1.

    torchvision's kernel on boxes with 1 added to their far corners counts overlaps as the +1 convention does.
    """
    if not plus:
        kept: Tensor = ops.nms(boxes, scores, threshold)
        return kept
    far = boxes.new_tensor([0.0, 0.0, plus, plus])
    found: Tensor = ops.nms(boxes + far, scores, threshold)
    return found.sort().values


def parts(values: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Rows of a tensor picture by picture, or level by level."""
    return list(torch.split_with_sizes(values, list(counts)))


class Coder(NamedTuple):
    """Boxes as offsets from others: (dx, dy) in their sizes and (dw, dh) as log ratios, times `weights`.

    Source: Girshick et al., R-CNN (2014); weights as in Detectron.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    plus: float = 0.0

    def encode(self, wanted: Tensor, boxes: Tensor) -> Tensor:
        """Offsets (N, 4) that turn boxes (N, 4) into the wanted ones (N, 4)."""
        size = boxes[:, 2:] - boxes[:, :2] + self.plus  # (N, 2)
        middle = boxes[:, :2] + 0.5 * size
        goal = wanted[:, 2:] - wanted[:, :2] + self.plus
        move = (wanted[:, :2] + 0.5 * goal - middle) / size
        weights = boxes.new_tensor(self.weights)
        return torch.cat([weights[:2] * move, weights[2:] * torch.log(goal / size)], 1)

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, K, 4) from offsets (N, K, 4) or (N, 4K), or (N, 4) from (N, 4), in float32."""
        flat = deltas.ndim == 2 and deltas.shape[1] == 4
        per_box = deltas.shape[1:].numel() // 4  # not -1: there may be no boxes
        each = deltas.float().reshape(len(boxes), per_box, 4) / boxes.new_tensor(self.weights)  # (N, K, 4)
        size = (boxes[:, 2:] - boxes[:, :2] + self.plus)[:, None]  # (N, 1, 2)
        middle = boxes[:, None, :2] + 0.5 * size + each[..., :2] * size
        half = 0.5 * size * each[..., 2:].clamp(max=LONGEST).exp()
        found = torch.cat([middle - half, middle + half - self.plus], -1)
        return found[:, 0] if flat else found
