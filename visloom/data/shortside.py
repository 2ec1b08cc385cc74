"""ShortSide: the resize of detectors: the shorter side gets a length, unless the longer one would become too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from visloom.data.checks import require
from visloom.keys import uniforms
from visloom.warp import scale

if TYPE_CHECKING:
    from visloom.sample import Sample


@dataclass(frozen=True, kw_only=True)
class ShortSide:
    """Resize so that the shorter side has one of some lengths, drawn from the key, and the longer side at most
    `longest`.

    Sizes as maskrcnn-benchmark computes them: the other side is cut to whole pixels.
    """

    geometric: ClassVar[bool] = True
    short: tuple[int, ...] = (800,)
    longest: int = 1333

    def __post_init__(self) -> None:
        require(len(self.short) > 0 and min(self.short) > 0, "short names positive lengths", self.short)
        require(self.longest >= max(self.short), "longest is at least the largest of short", self.longest)

    def __call__(self, sample: Sample, key: int) -> Sample:
        height, width = sample.size
        draw = float(uniforms(key, 1)[0]) if len(self.short) > 1 else 0.0
        new = self.target(height, width, self.short[int(draw * len(self.short))])
        return sample.warp(scale(new[1] / width, new[0] / height), new)

    def target(self, height: int, width: int, short: int) -> tuple[int, int]:
        """(height, width) that a picture of this size gets."""
        low, high = min(height, width), max(height, width)
        if high / low * short > self.longest:
            short = round(self.longest * low / high)
        if (width <= height and width == short) or (height <= width and height == short):
            return height, width
        if width < height:
            return max(1, int(short * height / width)), short
        return short, max(1, int(short * width / height))
