"""ParseBatch: pictures with whatever their source labels; which heads and objects with parts occur, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from visloom.task import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class ParseBatch(Batch):
    """Pictures side by side, padded at the bottom and right.

    image: stored type, channels last.  sizes: (height, width) of each picture without its padding.
    heads: those that the sources of these samples label, the same on every process.
    masks: class per pixel by head, -1 for ignore and in the padding: at a share of the sides in training, at the
        picture's own size in evaluation.
    labels: class of the picture by head, -1 where there is none.
    blocks: numbers of the objects whose parts occur, for each head of parts.
    """

    image: Tensor  # (B, H, W, C) uint8
    sizes: tuple[tuple[int, int], ...]
    heads: tuple[str, ...]
    masks: dict[str, Tensor]  # (B, H / rate, W / rate) int16
    labels: dict[str, Tensor]  # (B,) int64
    blocks: dict[str, tuple[int, ...]]
