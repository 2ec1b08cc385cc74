"""Transforms of colours: each changes pixel values of an 8-bit picture, drawn from the sample's key.

They apply pending geometry first, because they look at pixels. Formulas are Pillow's (ImageEnhance,
ImageOps), which timm and torchvision's PIL backend use too, so published recipes mean the same here. Gray
(1 channel) and RGB (3) are served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import factor_range, is_number, require
from visloom.errors import DataError
from visloom.keys import fold, generator, uniforms
from visloom.warp import Fill, fill_colour

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.sample import Sample

Array = NDArray[Any]


def to_pil(sample: Sample, who: str) -> tuple[Sample, Image]:
    """Apply pending geometry and return the sample and its picture for Pillow.

    Raises DataError where the picture is not 8-bit with 1 or 3 channels.
    """
    from PIL import Image

    sample = sample.resolve()
    image = sample.image
    if image is None or image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        found = "no image" if image is None else f"{image.dtype} with {image.shape[2]} channels"
        raise DataError(f"{who} needs an 8-bit picture of 1 or 3 channels, sample {sample.id!r} has {found}")
    return sample, Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def from_pil(sample: Sample, picture: Image) -> Sample:
    """Return the sample with a changed picture: (H, W, C) uint8."""
    array = np.asarray(picture)
    return sample.replace(image=array[..., None] if array.ndim == 2 else array)


def _check_p(p: float) -> None:
    require(is_number(p) and 0 <= p <= 1, "p lies between 0 and 1", p)


def enhance(picture: Image, what: str, factor: float) -> Image:
    """Blend with a degenerate picture: 0 gives black, gray, or blurred; 1 the picture itself; above 1 more
    of it.

    what: Brightness, Contrast, Color (saturation) or Sharpness.
    """
    from PIL import ImageEnhance

    if what == "Color" and picture.mode == "L":
        return picture
    blended: Image = getattr(ImageEnhance, what)(picture).enhance(factor)
    return blended


def turn_hue(picture: Image, turn: float) -> Image:
    """Turn the hue by a share of the colour circle, -0.5 to 0.5, in 8-bit HSV as torchvision does."""
    from PIL import Image

    if picture.mode == "L":
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    turned = np.asarray(hue, np.uint8) + np.uint8(int(turn * 255) % 256)  # wraps round the circle
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue by random amounts, in a random order.

    brightness, contrast, saturation: v means a factor from max(0, 1 - v) to 1 + v; or the range itself.
    hue: v means a turn of -v to v of the colour circle, at most 0.5; or the range.  p: probability of any
    change.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        ranges = self._ranges()
        for (low, _), name in zip(ranges[:3], ("brightness", "contrast", "saturation"), strict=True):
            require(low >= 0, f"{name} has no negative factors", getattr(self, name))
        require(ranges[3][0] >= -0.5 and ranges[3][1] <= 0.5, "hue lies in -0.5 to 0.5", self.hue)
        _check_p(self.p)

    def _ranges(self) -> list[tuple[float, float]]:
        names = ("brightness", "contrast", "saturation", "hue")
        return [factor_range(n, getattr(self, n), 0.0 if n == "hue" else 1.0) for n in names]

    def __call__(self, sample: Sample, key: int) -> Sample:
        draws = uniforms(key, 9)
        if draws[8] >= self.p:
            return sample
        sample, picture = to_pil(sample, "ColorJitter")
        names = ("Brightness", "Contrast", "Color", "Hue")
        for which in np.argsort(draws[4:8]):
            low, high = self._ranges()[which]
            if low == high == (0.0 if which == 3 else 1.0):
                continue
            factor = low + float(draws[which]) * (high - low)
            picture = turn_hue(picture, factor) if which == 3 else enhance(picture, names[which], factor)
        return from_pil(sample, picture)


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """Take the colours away with probability p (ITU-R 601 luma); the number of channels stays."""

    p: float = 0.1

    def __post_init__(self) -> None:
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        if uniforms(key, 1)[0] >= self.p:
            return sample
        sample, picture = to_pil(sample, "Grayscale")
        return from_pil(sample, picture.convert("L").convert(picture.mode))


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Blur or sharpen with probability p.

    factor: range to draw from; 0 blurs, 1 changes nothing, 2 sharpens.
    """

    factor: tuple[float, float] = (0.0, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        low, _ = factor_range("factor", self.factor, 1.0)
        require(low >= 0, "factor is not negative", self.factor)
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        draws = uniforms(key, 2)
        if draws[0] >= self.p:
            return sample
        low, high = factor_range("factor", self.factor, 1.0)
        sample, picture = to_pil(sample, "Sharpness")
        return from_pil(sample, enhance(picture, "Sharpness", low + float(draws[1]) * (high - low)))


@dataclass(frozen=True, kw_only=True)
class AutoContrast:
    """Stretch each channel to the full range with probability p."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _apply(sample, key, self.p, "AutoContrast", "autocontrast")


@dataclass(frozen=True, kw_only=True)
class Equalize:
    """Flatten the histogram of each channel with probability p."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _apply(sample, key, self.p, "Equalize", "equalize")


@dataclass(frozen=True, kw_only=True)
class Invert:
    """Take the negative with probability p."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _apply(sample, key, self.p, "Invert", "invert")


@dataclass(frozen=True, kw_only=True)
class Solarize:
    """Take the negative of all values from `threshold` (0-256) up, with probability p."""

    threshold: int = 128
    p: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.threshold <= 256, "threshold lies between 0 and 256", self.threshold)
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _apply(sample, key, self.p, "Solarize", "solarize", self.threshold)


@dataclass(frozen=True, kw_only=True)
class Posterize:
    """Keep only the highest `bits` (1-8) of each value, with probability p."""

    bits: int = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 8, "bits lies between 1 and 8", self.bits)
        _check_p(self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return _apply(sample, key, self.p, "Posterize", "posterize", self.bits)


def _apply(sample: Sample, key: int, p: float, who: str, name: str, *args: int) -> Sample:
    """Apply a function of PIL.ImageOps with probability p."""
    from PIL import ImageOps

    if uniforms(key, 1)[0] >= p:
        return sample
    sample, picture = to_pil(sample, who)
    return from_pil(sample, getattr(ImageOps, name)(picture, *args))


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Blur with probability p. sigma: of the Gaussian, in pixels, or a range to draw it from."""

    sigma: float | tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        low, high = self._range()
        require(0 < low <= high, "sigma is positive, or 0 < low <= high", self.sigma)
        _check_p(self.p)

    def _range(self) -> tuple[float, float]:
        return (self.sigma, self.sigma) if isinstance(self.sigma, int | float) else self.sigma

    def __call__(self, sample: Sample, key: int) -> Sample:
        import cv2

        draws = uniforms(key, 2)
        if draws[0] >= self.p:
            return sample
        sample = sample.resolve()
        if sample.image is None:
            raise DataError(f"GaussianBlur needs an image, sample {sample.id!r} has none")
        low, high = self._range()
        sigma = low + float(draws[1]) * (high - low)
        blurred = cv2.GaussianBlur(sample.image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        return sample.replace(image=blurred.reshape(sample.image.shape))


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Cover a random rectangle with probability p (Zhong et al. 2017); masks and boxes stay.

    area: range of its share of the picture.  ratio: range of height / width, uniform in its logarithm.
    fill: a number, one per channel, "mean" of the picture, or "noise" (each value at random).
    """

    p: float = 0.5
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 10 / 3)
    fill: Fill | str = 0

    def __post_init__(self) -> None:
        _check_p(self.p)
        require(0 < self.area[0] <= self.area[1] <= 1, "area is 0 < low <= high <= 1", self.area)
        require(0 < self.ratio[0] <= self.ratio[1], "ratio is 0 < low <= high", self.ratio)
        words = not isinstance(self.fill, str) or self.fill in ("mean", "noise")
        require(words, "fill is a number, one per channel, 'mean' or 'noise'", self.fill)

    def __call__(self, sample: Sample, key: int) -> Sample:
        if uniforms(key, 1)[0] >= self.p:
            return sample
        sample = sample.resolve()
        if sample.image is None:
            raise DataError(f"RandomErasing needs an image, sample {sample.id!r} has none")
        image = sample.image.copy()
        self._erase(image, key)
        return sample.replace(image=image)

    def batch(self, images: Array, keys: NDArray[np.uint64]) -> Array:
        """The same for (B, H, W, C)."""
        result = images.copy()
        for at in np.flatnonzero(uniforms(keys, 1)[:, 0] < self.p):
            self._erase(result[at], int(keys[at]))
        return result

    def _erase(self, image: Array, key: int) -> None:
        """Write into an image, in place."""
        where = self._rectangle(image.shape[0], image.shape[1], key)
        if where is None:
            return
        part = image[where]
        if self.fill == "noise":
            limits = np.iinfo(image.dtype)
            noise = generator(fold(key, "erase"))
            part[:] = noise.integers(limits.min, limits.max, part.shape, image.dtype, endpoint=True)
        else:
            part[:] = fill_colour(image, self.fill)  # type: ignore[arg-type]

    def _rectangle(self, height: int, width: int, key: int) -> tuple[slice, slice] | None:
        """Rows and columns to cover, or None where ten tries gave no rectangle that fits."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        draws = uniforms(key, 41)[1:].reshape(10, 4).tolist()  # the first one has decided whether to erase
        for area_draw, ratio_draw, top_draw, left_draw in draws:
            area = height * width * (self.area[0] + area_draw * (self.area[1] - self.area[0]))
            aspect = math.exp(low + ratio_draw * (high - low))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h <= height and 0 < w <= width:
                top, left = int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1))
                return slice(top, top + h), slice(left, left + w)
        return None
