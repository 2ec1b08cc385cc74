"""Decode: from the heads' maps to boxes in the camera's frame, on the device and without a loop.

The K highest peaks become K rows per picture; rows of no use have a low score, so nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from visloom.tasks.fusion3d.compat import Compat
from visloom.tasks.fusion3d.losses import picked


class Peaks(NamedTuple):
    """The highest cells: score (B, K) in [0, 1], label and flat cell (B, K) int64."""

    score: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple has a method of that name


class Found(NamedTuple):
    """Boxes of B pictures, K each, the surest first.

    center (B, K, 3): middle in the camera's frame.  dims (B, K, 3): height, width, length.  yaw (B, K): about y.
    velocity (B, K, 3).  box (B, K, 4): in input pixels.  attribute (B, K) int64, -1 for none.
    """

    score: Tensor
    label: Tensor
    center: Tensor
    dims: Tensor
    yaw: Tensor
    velocity: Tensor
    attribute: Tensor
    box: Tensor


def peaks(heat: Tensor, count: int, *, crowded: bool = False) -> Peaks:
    """The highest cells of probability maps (B, C, H, W), no two neighbours of one class unless crowded."""
    if not crowded:
        heat = torch.where(functional.max_pool2d(heat, 3, 1, 1) == heat, heat, heat.new_zeros(()))
    cells = heat.shape[2] * heat.shape[3]
    best = heat.flatten(1).topk(min(count, heat[0].numel()), 1)
    return Peaks(best.values, best.indices // cells, best.indices % cells)


def cell_of(index: Tensor, width: int) -> Tensor:
    """Column and row of flat cells: (..., 2) float32."""
    return torch.stack([index % width, index // width], -1).float()


def observation_angle(raw: Tensor) -> Tensor:
    """The angle that a rotation head (..., 8) says: the likelier of its two bins, turned by what it adds."""
    first = torch.atan2(raw[..., 2], raw[..., 3]) - math.pi / 2
    second = torch.atan2(raw[..., 6], raw[..., 7]) + math.pi / 2
    return torch.where(raw[..., 1] > raw[..., 5], first, second)


def wrapped(angle: Tensor) -> Tensor:
    """Angles in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def decode(
    heads: Mapping[str, Tensor],
    calib: Tensor,
    groups: Tensor,
    *,
    stride: int,
    count: int,
    compat: Compat,
) -> Found:
    """Boxes of all pictures.

    Args:
        heads: raw maps by name; "heat" is already a probability and "depth" already in metres.
        calib: (B, 3, 4) metres to input pixels.
        groups: (C, A) bool: which attributes a class can have.
        stride: input pixels per cell.  count: boxes per picture.
    """
    best = peaks(heads["heat"].float(), count)
    width = heads["heat"].shape[3]
    at = {name: picked(maps.float(), best.index) for name, maps in heads.items() if name != "heat"}
    cell = cell_of(best.index, width)  # (B, K, 2)
    middle = cell + at["offset"]
    half = at["size"] / 2
    box = torch.cat([middle - half, middle + half], -1) * stride
    pixel = ((middle if compat.offset_twice else cell) + at["center"]) * stride
    center = unproject(pixel, at["depth"][..., 0], calib)
    yaw = wrapped(observation_angle(at["rotation"]) + torch.atan2(center[..., 0], center[..., 2]))
    velocity = at.get("velocity", torch.zeros_like(center))
    if compat.forced_heading:
        speed = velocity[..., [0, 2]].norm(dim=-1)
        velocity = torch.stack([yaw.cos() * speed, velocity[..., 1], -yaw.sin() * speed], -1)
    score = best.score.where((at["dims"] > 0).all(-1) & (at["depth"][..., 0] > 0), 0.0)
    attribute = torch.full_like(best.label, -1)
    if "attribute" in at:
        may = groups[best.label]  # (B, K, A)
        said = at["attribute"].masked_fill(~may, float("-inf")).max(-1).indices
        attribute = torch.where(may.any(-1), said, attribute)
    return Found(score, best.label, center, at["dims"], yaw, velocity, attribute, box)


def unproject(pixel: Tensor, depth: Tensor, calib: Tensor) -> Tensor:
    """Points (B, K, 3) that are seen at pixels (B, K, 2) and lie at depths (B, K) of the camera's frame.

    A calibration whose last row is 0 0 1 t sees depth z at scale z + t.
    """
    matrix, moved = calib[:, None, :, :3], calib[:, None, :, 3]  # (B, 1, 3, 3), (B, 1, 3)
    scale = depth + calib[:, None, 2, 3]
    seen = torch.cat([pixel, torch.ones_like(pixel[..., :1])], -1) * scale[..., None] - moved
    found: Tensor = torch.linalg.solve(matrix.expand(*depth.shape, 3, 3), seen)
    return found
