"""Views: several looks at one picture, averaged: scales, mirror images, and windows that slide over it.

What is averaged are logits, as in the template: at each scale the picture is resized with its corner pixels in
place, and so is the answer. `predict --tta flip,0.75,1.25` and `--sliding` choose among these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from visloom.tasks import tta

if TYPE_CHECKING:
    from torch import Tensor

    Net = Callable[[Tensor], Tensor]

MULTISCALE = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""The template's scales; for Cityscapes it adds 2.25."""


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """Windows that overlap and cover every pixel; where several see a pixel, their logits are averaged.

    size: side of a window, or (height, width), in pixels; None is `share` of the picture's height and width.
    overlap: share of a window that the next one sees again, along each axis.
    compat: the template's own places: one stride, from the height, for both axes, windows cut off at the border and
        filled up with zeros. Where windows are narrower than that stride it leaves columns out; they get logits of 0.
    """

    size: int | tuple[int, int] | None = None
    share: float = 0.4
    overlap: float = 1 / 3
    compat: bool = False

    def __post_init__(self) -> None:
        sides = (self.size,) if isinstance(self.size, int) else self.size or (1,)
        if min(sides) < 1 or not 0 < self.share <= 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"size is 1 pixel or more, 0 < share <= 1, 0 <= overlap < 1; got {self.size}, "
                f"{self.share}, {self.overlap}"
            )

    def tile(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of a window on a picture of a size."""
        if self.size is None:
            return max(1, int(height * self.share)), max(1, int(width * self.share))
        wanted = (self.size, self.size) if isinstance(self.size, int) else self.size
        return min(wanted[0], height), min(wanted[1], width)

    def places(self, length: int, tile: int) -> list[int]:
        """Return where windows of a length begin along an axis: evenly, and the last one ends with the picture."""
        stride = max(1, math.ceil(tile * (1 - self.overlap) - 1e-9))  # 1 - 1/3 is a little more than 2/3
        return [*range(0, length - tile, stride), length - tile]


class Words(NamedTuple):
    """What `--tta` asks for. scales: () leaves them alone. probabilities: predictions hold them too."""

    flip: bool
    scales: tuple[float, ...]
    sliding: bool
    probabilities: bool

    @property
    def views(self) -> bool:
        """Whether views are asked for at all; "none" is a view: the plain one."""
        return self.flip or bool(self.scales) or self.sliding


def parse(words: str) -> Words:
    """Read `flip,0.75,1.25`. "multiscale" stands for the template's scales, "none" for the picture itself.

    Raises:
        ConfigError: a word that is no view.
    """
    names = ("flip", "sliding", "multiscale", "probabilities")
    found = tta.read(words, of="segmentation", names=names, path="task.tta")
    meant = {"none": (1.0,), "multiscale": MULTISCALE}
    scales = [s for word in found for s in (meant.get(word, ()) if isinstance(word, str) else (word,))]
    flip, slides, _, probable = (name in found for name in names)
    return Words(flip, tuple(dict.fromkeys(scales)), slides, probable)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly, corner pixels in place."""
    from torch.nn.functional import interpolate

    return (
        image
        if tuple(image.shape[2:]) == size
        else interpolate(image, size, mode="bilinear", align_corners=True)
    )


def multiscale(net: Net, image: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Average the logits of a net over scales, at the size of the image: (B, K, H, W)."""
    height, width = image.shape[2:]
    if scales == (1.0,):
        return net(image)
    total: Tensor | None = None
    for scale in scales:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        answer = resized(net(resized(image, size)), (height, width))
        total = answer if total is None else total + answer
    assert total is not None
    return total / len(scales)


def mirrored(net: Net) -> Net:
    """Return a net that averages its answers to a picture and to its mirror image."""
    return lambda image: 0.5 * (net(image) + net(image.flip(3)).flip(3))


def slide(net: Net, image: Tensor, how: Sliding) -> Tensor:
    """Average the logits of windows that cover the image: (B, K, H, W)."""
    height, width = image.shape[2:]
    tile = how.tile(height, width)
    if how.compat:
        return _slide_compat(net, image, tile, how.overlap)
    total: Tensor | None = None
    count = image.new_zeros(1, 1, height, width)
    for top in how.places(height, tile[0]):
        for left in how.places(width, tile[1]):
            rows, columns = slice(top, top + tile[0]), slice(left, left + tile[1])
            answer = net(image[:, :, rows, columns])
            if total is None:
                total = answer.new_zeros(image.shape[0], answer.shape[1], height, width)
            total[:, :, rows, columns] += answer
            count[:, :, rows, columns] += 1
    assert total is not None
    return total / count


def _slide_compat(net: Net, image: Tensor, tile: tuple[int, int], overlap: float) -> Tensor:
    from torch.nn.functional import pad

    height, width = image.shape[2:]
    stride = math.ceil(tile[0] * (1 - overlap))
    rows, columns = (math.ceil((n - t) / stride) + 1 for n, t in zip((height, width), tile, strict=True))
    total: Tensor | None = None
    count = image.new_zeros(1, 1, height, width)
    for top in (stride * i for i in range(rows)):
        for left in (stride * i for i in range(columns)):
            part = image[:, :, top : top + tile[0], left : left + tile[1]]
            high, wide = part.shape[2:]
            if not high or not wide:
                continue
            answer = net(pad(part, (0, tile[1] - wide, 0, tile[0] - high)))[:, :, :high, :wide]
            if total is None:
                total = answer.new_zeros(image.shape[0], answer.shape[1], height, width)
            total[:, :, top : top + high, left : left + wide] += answer
            count[:, :, top : top + high, left : left + wide] += 1
    assert total is not None
    return total / count.clamp_min(1)
