"""SegmentBatch: pictures of any sizes side by side, padded at the bottom and right, with their own sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from visloom.task import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class SegmentBatch(Batch):
    """Pictures with a class per pixel.

    image: stored type, channels last, 0 in the padding; normalised on the device.
    mask: class index, -1 for ignore and in the padding; None where nothing is known (prediction).
    sizes: (height, width) of each picture without its padding. Plain numbers: kernels are chosen by them.
    """

    image: Tensor  # (B, H, W, C) uint8, or int32 for wider integers
    mask: Tensor | None  # (B, H, W) int16
    sizes: tuple[tuple[int, int], ...]

    def by_size(self) -> dict[tuple[int, int], list[int]]:
        """Rows of the batch by size, in order of appearance."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, size in enumerate(self.sizes):
            found.setdefault(size, []).append(row)
        return found
