"""RandomMaskCrop: a random window that is drawn again while one class fills too much of it, or nothing is in it.

Photos are mostly background, streets mostly road: windows of one class alone teach little. A window is judged by a
grid of at most 32 x 32 of its pixels, looked up through the pending matrix, so that no picture is warped for a window
that is thrown away: about a tenth of a millisecond each, where a warp takes one or two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import is_number, require, size_pair
from visloom.errors import DataError
from visloom.keys import uniforms
from visloom.warp import IGNORE, Fill, shift

if TYPE_CHECKING:
    from visloom.sample import Sample

_GRID = 32  # points along a side of the window


@dataclass(frozen=True, kw_only=True)
class RandomMaskCrop:
    """Cut a window of a size out at a random place, drawn up to `tries` times until what it holds will do.

    A window will do if some pixel of it has a class other than `background`, and no class has more than the share
    `most` of its labelled pixels (0.75 in mmsegmentation's `cat_max_ratio`). The last draw is taken in any case. A
    picture that is smaller than the window lies at a random place inside it (put a `Pad` before it for the top left
    corner); masks are -1 around it, the image is `fill`.

    size: (height, width), or one number.  mask: name of the mask that is looked at.
    background: a label that does not count as something, or None.
    """

    geometric: ClassVar[bool] = True
    size: int | tuple[int, int]
    most: float = 0.75
    tries: int = 10
    background: int | None = None
    mask: str = "class"
    fill: Fill = 0

    def __post_init__(self) -> None:
        size_pair("size", self.size)
        require(is_number(self.most) and 0 < self.most <= 1, "most lies above 0 and up to 1", self.most)
        require(self.tries >= 1, "tries is at least 1", self.tries)

    def __call__(self, sample: Sample, key: int) -> Sample:
        if sample.pending is not None and sample.pending.matrix[2].tolist() != [0, 0, 1]:
            sample = sample.resolve()  # a perspective has no even grid
        size = size_pair("size", self.size)
        corners = self._corners(sample.size, size, key).tolist()
        look = _Look(sample, self.mask, size)
        top, left = next((c for c in corners[:-1] if self._will_do(look(*c))), corners[-1])
        return sample.warp(shift(-left, -top), size, fill=self.fill)

    def _corners(self, old: tuple[int, int], size: tuple[int, int], key: int) -> NDArray[np.int64]:
        """Top and left of every draw's window: (tries, 2)."""
        draws = uniforms(key, 2 * self.tries).reshape(self.tries, 2)
        room = np.asarray(old) - np.asarray(size)  # (2,)
        steps = np.floor(draws * (np.abs(room) + 1)).astype(np.int64)
        return np.asarray(np.where(room < 0, -steps, steps), np.int64)

    def _will_do(self, labels: NDArray[np.int32]) -> bool:
        known = labels[labels >= 0]
        if not len(known) or (self.background is not None and bool((known == self.background).all())):
            return False
        return bool(np.bincount(known).max() <= self.most * len(known))


class _Look:
    """A grid of pixels of a window that may lie anywhere: the labels that the finished picture will have there."""

    def __init__(self, sample: Sample, mask: str, size: tuple[int, int]) -> None:
        if mask not in sample.masks:
            raise DataError(
                f"RandomMaskCrop looks at mask {mask!r}, sample {sample.id!r} has {', '.join(sample.masks) or 'none'}"
            )
        self.mask, self.canvas = sample.masks[mask], sample.size
        self.back = np.eye(3) if sample.pending is None else np.linalg.inv(sample.pending.matrix)
        rows, columns = (np.linspace(0, side - 1, min(side, _GRID)).astype(np.int64) for side in size)
        self.rows, self.columns = rows, columns
        steps = self.back[
            :2, :2
        ]  # where one pixel right and one down of the new picture lead in the stored one
        self.x = (
            steps[0, 0] * (columns + 0.5)[None, :] + steps[0, 1] * (rows + 0.5)[:, None]
        )  # (rows, columns)
        self.y = steps[1, 0] * (columns + 0.5)[None, :] + steps[1, 1] * (rows + 0.5)[:, None]

    def __call__(self, top: int, left: int) -> NDArray[np.int32]:
        """Return the labels of the window with this corner, -1 where it shows nothing: (rows, columns)."""
        right, down, _ = self.back @ (left, top, 1)
        x, y = np.floor(self.x + right).astype(np.int64), np.floor(self.y + down).astype(np.int64)
        height, width = self.mask.shape
        shown = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        shown &= ((self.rows >= -top) & (self.rows < self.canvas[0] - top))[:, None]
        shown &= ((self.columns >= -left) & (self.columns < self.canvas[1] - left))[None, :]
        found = self.mask[y.clip(0, height - 1), x.clip(0, width - 1)]
        return np.asarray(np.where(shown, found, IGNORE), np.int32)
