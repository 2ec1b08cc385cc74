"""Transforms of geometry: each multiplies one more matrix onto a sample, drawn from the sample's key.

`transform(sample, key)` is a pure function: the same key gives the same result, in any process. Pixels move
once, when `sample.resolve()` applies the product of all matrices. Crops, pads, shifts and flips also have
`batch(images, keys)` for sets that lie in memory, (B, H, W, C) at once, equal to the per-sample path bit by
bit.

Colours are in `photometric.py`, RandAugment in `randaug.py`, torchvision's own transforms in `v2.py`; all
of them can be imported from here. Sizes are (height, width), or one number for a square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visloom.data.batched import Direction, Images, Keys, cut_windows, flip_some
from visloom.data.checks import is_number, require, size_pair
from visloom.data.photometric import (
    AutoContrast,
    ColorJitter,
    Equalize,
    GaussianBlur,
    Grayscale,
    Invert,
    Posterize,
    RandomErasing,
    Sharpness,
    Solarize,
)
from visloom.data.randaug import RandAugment
from visloom.data.v2 import V2
from visloom.keys import uniforms
from visloom.warp import Border, Fill, mirror, rotation, scale, shift

if TYPE_CHECKING:
    from visloom.sample import Sample

__all__ = [
    "V2",
    "AlternatingFlip",
    "AutoContrast",
    "CenterCrop",
    "ColorJitter",
    "Equalize",
    "GaussianBlur",
    "Grayscale",
    "Invert",
    "Pad",
    "Posterize",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomScale",
    "RandomTranslate",
    "Resize",
    "Sharpness",
    "Solarize",
]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Resize to an exact size, or so that one side gets a length and the other follows.

    Exactly one is given: size, short (the shorter side) or long (the longer side). Bilinear; below half the
    size areas are averaged first.
    """

    geometric: ClassVar[bool] = True
    size: int | tuple[int, int] | None = None
    short: int | None = None
    long: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("size", "short", "long") if getattr(self, name) is not None]
        require(len(given) == 1, "exactly one of size, short and long is given", given)
        size_pair(given[0], getattr(self, given[0]))

    def __call__(self, sample: Sample, key: int) -> Sample:
        height, width = sample.size
        new = self.target(height, width)
        return sample.warp(scale(new[1] / width, new[0] / height), new)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that a picture of this size gets; the free side rounds down."""
        if self.size is not None:
            return size_pair("size", self.size)
        if self.short is not None:
            factor, base = self.short, min(height, width)
        else:
            assert self.long is not None  # __post_init__ saw to it
            factor, base = self.long, max(height, width)
        return max(1, factor * height // base), max(1, factor * width // base)


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Cut the middle out. Where the picture is smaller, `fill` surrounds it."""

    geometric: ClassVar[bool] = True
    size: int | tuple[int, int]
    fill: Fill = 0

    def __post_init__(self) -> None:
        size_pair("size", self.size)

    def __call__(self, sample: Sample, key: int) -> Sample:
        size = size_pair("size", self.size)
        top, left = (round((old - new) / 2) for old, new in zip(sample.size, size, strict=True))
        return sample.warp(shift(-left, -top), size, fill=self.fill)

    def batch(self, images: Images, keys: Keys) -> Images:
        """The same for (B, H, W, C)."""
        size = size_pair("size", self.size)
        top, left = (round((old - new) / 2) for old, new in zip(images.shape[1:3], size, strict=True))
        count = len(images)
        return cut_windows(images, np.full(count, top), np.full(count, left), size, "constant", self.fill)


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Cut a window of a size out at a random place.

    padding: pixels added on every side before.  pad_mode: "constant" (with `fill`) or "reflect".
    A picture that is smaller than the window lies at a random place inside it, surrounded by the padding.
    """

    geometric: ClassVar[bool] = True
    size: int | tuple[int, int]
    padding: int = 0
    fill: Fill = 0
    pad_mode: Border = "constant"

    def __post_init__(self) -> None:
        size_pair("size", self.size)
        require(self.padding >= 0, "padding is 0 or more pixels", self.padding)
        _check_mode("pad_mode", self.pad_mode)

    def __call__(self, sample: Sample, key: int) -> Sample:
        size = size_pair("size", self.size)
        draws = uniforms(key, 2)
        top, left = (int(v) for v in self._corner(np.asarray(sample.size), np.asarray(size), draws))
        return sample.warp(shift(-left, -top), size, border=self.pad_mode, fill=self.fill)

    def batch(self, images: Images, keys: Keys) -> Images:
        """The same for (B, H, W, C)."""
        size = size_pair("size", self.size)
        corner = self._corner(np.asarray(images.shape[1:3]), np.asarray(size), uniforms(keys, 2))  # (B, 2)
        return cut_windows(images, corner[:, 0], corner[:, 1], size, self.pad_mode, self.fill)

    def _corner(self, old: NDArray[Any], new: NDArray[Any], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Top and left of the window in the unpadded picture: (..., 2)."""
        room = old + 2 * self.padding - new  # (2,)
        steps = np.floor(draws * (np.abs(room) + 1)).astype(np.int64)
        return np.asarray(np.where(room < 0, -steps, steps) - self.padding, np.int64)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """Cut a window of random area and aspect ratio out and resize it (Szegedy et al. 2015, as torchvision
    does).

    scale: range of the area's share.  ratio: range of width / height, uniform in its logarithm.
    After ten tries that do not fit, the largest central window within the ratio range is taken.
    """

    geometric: ClassVar[bool] = True
    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        size_pair("size", self.size)
        low, high = self.scale
        require(0 < low <= high <= 1, "scale is 0 < low <= high <= 1", self.scale)
        require(0 < self.ratio[0] <= self.ratio[1], "ratio is 0 < low <= high", self.ratio)

    def __call__(self, sample: Sample, key: int) -> Sample:
        size = size_pair("size", self.size)
        top, left, height, width = self.window(*sample.size, key)
        matrix = scale(size[1] / width, size[0] / height) @ shift(-left, -top)
        return sample.warp(matrix, size)

    def window(self, height: int, width: int, key: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the window in a picture of this size."""
        draws = uniforms(key, 40).reshape(10, 4)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area_draw, ratio_draw, top_draw, left_draw in draws.tolist():
            area = height * width * (self.scale[0] + area_draw * (self.scale[1] - self.scale[0]))
            aspect = math.exp(low + ratio_draw * (high - low))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
        h, w = height, width
        if width / height < self.ratio[0]:
            h = max(1, min(height, round(width / self.ratio[0])))
        elif width / height > self.ratio[1]:
            w = max(1, min(width, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True, kw_only=True)
class RandomFlip:
    """Mirror with probability p: left-right ("horizontal") or top-bottom ("vertical")."""

    geometric: ClassVar[bool] = True
    p: float = 0.5
    direction: Direction = "horizontal"

    def __post_init__(self) -> None:
        require(is_number(self.p) and 0 <= self.p <= 1, "p lies between 0 and 1", self.p)
        _check_direction(self.direction)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _flip(sample, self.direction) if uniforms(key, 1)[0] < self.p else sample

    def batch(self, images: Images, keys: Keys) -> Images:
        """The same for (B, H, W, C)."""
        return flip_some(images, uniforms(keys, 1)[:, 0] < self.p, self.direction)


@dataclass(frozen=True, kw_only=True)
class AlternatingFlip:
    """Mirror a picture in every second epoch, starting at random (Keller Jordan 2024, airbench).

    Two epochs in a row see both versions of every picture, where a random flip shows half of them the same
    one twice.
    Reads the lowest bit of the key, which streams make alternate from one turn of a sample to the next.
    """

    geometric: ClassVar[bool] = True
    direction: Direction = "horizontal"

    def __post_init__(self) -> None:
        _check_direction(self.direction)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _flip(sample, self.direction) if key & 1 else sample

    def batch(self, images: Images, keys: Keys) -> Images:
        """The same for (B, H, W, C)."""
        return flip_some(images, (keys & np.uint64(1)).astype(bool), self.direction)


@dataclass(frozen=True, kw_only=True)
class RandomScale:
    """Resize by a random factor, both sides alike.

    scale: range of the factor.  long: the factor is relative to the size at which the longer side has this
    length, rather than to the picture's own size.
    """

    geometric: ClassVar[bool] = True
    scale: tuple[float, float] = (0.5, 2.0)
    long: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.scale[0] <= self.scale[1], "scale is 0 < low <= high", self.scale)
        require(self.long is None or self.long > 0, "long is a positive length", self.long)

    def __call__(self, sample: Sample, key: int) -> Sample:
        height, width = sample.size
        factor = self.scale[0] + float(uniforms(key, 1)[0]) * (self.scale[1] - self.scale[0])
        if self.long is not None:
            factor *= self.long / max(height, width)
        new = max(1, round(height * factor)), max(1, round(width * factor))
        return sample.warp(scale(new[1] / width, new[0] / height), new)


@dataclass(frozen=True, kw_only=True)
class RandomRotation:
    """Turn by a random angle around the middle; the size stays and `fill` appears in the corners.

    degrees: the angle is uniform in +-degrees, or in a range (low, high); counter-clockwise is positive.
    """

    geometric: ClassVar[bool] = True
    degrees: float | tuple[float, float] = 10.0
    fill: Fill = 0

    def __post_init__(self) -> None:
        low, high = self._range()
        require(low <= high, "degrees is a positive number or (low, high)", self.degrees)

    def __call__(self, sample: Sample, key: int) -> Sample:
        low, high = self._range()
        height, width = sample.size
        angle = low + float(uniforms(key, 1)[0]) * (high - low)
        return sample.warp(rotation(angle, (width / 2, height / 2)), (height, width), fill=self.fill)

    def _range(self) -> tuple[float, float]:
        return (-self.degrees, self.degrees) if isinstance(self.degrees, int | float) else self.degrees


@dataclass(frozen=True, kw_only=True)
class RandomTranslate:
    """Shift by up to `pixels` whole pixels along each axis; what comes in is mirrored, or `fill`."""

    geometric: ClassVar[bool] = True
    pixels: int = 2
    mode: Border = "reflect"
    fill: Fill = 0

    def __post_init__(self) -> None:
        require(self.pixels >= 0, "pixels is 0 or more", self.pixels)
        _check_mode("mode", self.mode)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return self._crop(sample.size)(sample, key)

    def batch(self, images: Images, keys: Keys) -> Images:
        """The same for (B, H, W, C)."""
        return self._crop(images.shape[1:3]).batch(images, keys)

    def _crop(self, size: tuple[int, ...]) -> RandomCrop:
        """A shift is a crop of the padded picture at its old size."""
        return RandomCrop(size=(size[0], size[1]), padding=self.pixels, pad_mode=self.mode, fill=self.fill)


@dataclass(frozen=True, kw_only=True)
class Pad:
    """Add a frame: exactly one of the three is given.

    padding: pixels on every side, or (left, top, right, bottom).
    size: pad right and bottom up to at least this size.
    multiple: pad right and bottom until both sides are multiples of this number.
    mode: "constant" (with `fill`; masks get -1) or "reflect".
    """

    geometric: ClassVar[bool] = True
    padding: int | tuple[int, int, int, int] | None = None
    size: int | tuple[int, int] | None = None
    multiple: int | None = None
    mode: Border = "constant"
    fill: Fill = 0

    def __post_init__(self) -> None:
        given = [name for name in ("padding", "size", "multiple") if getattr(self, name) is not None]
        require(len(given) == 1, "exactly one of padding, size and multiple is given", given)
        require(min(self._sides()) >= 0, "padding is 0 or more pixels, one number or four", self.padding)
        if self.size is not None:
            size_pair("size", self.size)
        require(self.multiple is None or self.multiple > 0, "multiple is at least 1", self.multiple)
        _check_mode("mode", self.mode)

    def __call__(self, sample: Sample, key: int) -> Sample:
        left, top, _, _ = self._sides()
        return sample.warp(shift(left, top), self._target(*sample.size), border=self.mode, fill=self.fill)

    def batch(self, images: Images, keys: Keys) -> Images:
        """The same for (B, H, W, C)."""
        left, top, _, _ = self._sides()
        size = self._target(images.shape[1], images.shape[2])
        count = len(images)
        return cut_windows(images, np.full(count, -top), np.full(count, -left), size, self.mode, self.fill)

    def _sides(self) -> tuple[int, int, int, int]:
        if self.padding is None:
            return 0, 0, 0, 0
        return (self.padding,) * 4 if isinstance(self.padding, int) else self.padding

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            least = size_pair("size", self.size)
            return max(height, least[0]), max(width, least[1])
        if self.multiple is not None:
            return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple
        left, top, right, bottom = self._sides()
        return height + top + bottom, width + left + right


def _check_mode(name: str, mode: str) -> None:
    require(mode in ("constant", "reflect"), f"{name} is 'constant' or 'reflect'", mode)


def _check_direction(direction: str) -> None:
    require(direction in ("horizontal", "vertical"), "direction is 'horizontal' or 'vertical'", direction)


def _flip(sample: Sample, direction: Direction) -> Sample:
    height, width = sample.size
    matrix = mirror(width=width) if direction == "horizontal" else mirror(height=height)
    return sample.warp(matrix, (height, width))
