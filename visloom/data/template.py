"""The augmentation of the pytorch-segmentation template, step by step in its order, for parity with its checkpoints.

The usual way here is `RandomScale(long=400), RandomRotation(), Pad(size=380), RandomCrop(size=380), RandomFlip()`: one
warp, continuous draws, ignore outside. These two classes interpolate after every step as the original does, with its
integer draws in its order, from a generator that is a function of the sample's key.

With `compat=True` padding and corners get label 0 too, as in the original: over a quarter of all training labels then
say "class 0" where there is no picture. Without it they are ignored; that is the only difference.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import require
from visloom.errors import DataError
from visloom.warp import IGNORE

if TYPE_CHECKING:
    from visloom.sample import Sample

Array = NDArray[Any]


def _check_length(name: str, value: int | None) -> None:
    require(value is None or value > 0, f"{name} is a positive length, or null", value)


def _image(sample: Sample, who: str) -> Array:
    if sample.image is None or sample.boxes is not None or sample.keypoints is not None:
        raise DataError(f"{who} needs a picture with masks alone, sample {sample.id!r} is {sample!r}")
    return np.asarray(
        sample.image, np.float32
    )  # (H, W, C): the original works in floats and cuts fractions off last


@dataclass(frozen=True, kw_only=True)
class TemplateTrain:
    """Its training augmentation (`BaseDataSet._augmentation`).

    base: longer side before scaling, or None for the picture's own size.  scale: draw it from 0.5 to 2 times `base`.
    rotate: turn by a whole number of degrees, -10 to 10.  crop: side of the square window, or None.
    flip: mirror half of the pictures.  blur: a Gaussian of up to 1 pixel; 6 in 10 draws change nothing.
    compat: label 0 instead of ignore where there is no picture.
    """

    base: int | None = 400
    crop: int | None = 380
    scale: bool = True
    rotate: bool = True
    flip: bool = True
    blur: bool = False
    compat: bool = False

    def __post_init__(self) -> None:
        _check_length("base", self.base)
        _check_length("crop", self.crop)

    def __call__(self, sample: Sample, key: int) -> Sample:
        draw = random.Random(key)
        sample = sample.resolve()
        image, masks = _image(sample, "TemplateTrain"), dict(sample.masks)
        if self.base:
            low, high = (int(self.base * 0.5), int(self.base * 2.0)) if self.scale else (self.base, self.base)
            image, masks = _scaled(image, masks, draw.randint(low, high) if self.scale else self.base)
        outside = 0 if self.compat else IGNORE
        if self.rotate:
            image, masks = _rotated(image, masks, draw.randint(-10, 10), outside)
        if self.crop:
            image, masks = _padded(image, masks, self.crop, outside)
            top = draw.randint(0, image.shape[0] - self.crop)
            left = draw.randint(0, image.shape[1] - self.crop)
            image, masks = _window(image, masks, top, left, self.crop)
        if self.flip and draw.random() > 0.5:
            image, masks = image[:, ::-1], {name: mask[:, ::-1] for name, mask in masks.items()}
        if self.blur:
            image = _blurred(np.ascontiguousarray(image), draw.random())
        return _finished(sample, image, masks)


@dataclass(frozen=True, kw_only=True)
class TemplateEval:
    """Its evaluation (`BaseDataSet._val_augmentation`): the shorter side becomes `crop`, then the square in the middle.

    What lies outside the square is never scored. Evaluation here is at native size, with no transform, by default.
    """

    crop: int = 380

    def __post_init__(self) -> None:
        _check_length("crop", self.crop)

    def __call__(self, sample: Sample, key: int) -> Sample:
        import cv2

        sample = sample.resolve()
        image = _image(sample, "TemplateEval")
        masks: dict[str, Array] = dict(sample.masks)
        height, width = image.shape[:2]
        if height < width:
            new = self.crop, int(self.crop * width / height)
        else:
            new = int(self.crop * height / width), self.crop
        image = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
        # the original resizes labels with Pillow here, which looks at pixel centres, as "exact" does
        masks = {
            name: cv2.resize(mask, new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            for name, mask in masks.items()
        }
        image, masks = _window(image, masks, (new[0] - self.crop) // 2, (new[1] - self.crop) // 2, self.crop)
        return _finished(sample, image, masks)


def _scaled(image: Array, masks: dict[str, Array], long: int) -> tuple[Array, dict[str, Array]]:
    import cv2

    height, width = image.shape[:2]
    if height > width:
        new = long, int(1.0 * long * width / height + 0.5)
    else:
        new = int(1.0 * long * height / width + 0.5), long
    image = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
    return image, {n: cv2.resize(m, new[::-1], interpolation=cv2.INTER_NEAREST) for n, m in masks.items()}


def _rotated(
    image: Array, masks: dict[str, Array], degrees: int, outside: int
) -> tuple[Array, dict[str, Array]]:
    import cv2

    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    turned = {
        name: cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=outside)
        for name, mask in masks.items()
    }
    return image, turned


def _padded(image: Array, masks: dict[str, Array], crop: int, outside: int) -> tuple[Array, dict[str, Array]]:
    import cv2

    below, right = max(crop - image.shape[0], 0), max(crop - image.shape[1], 0)
    if not below and not right:
        return image, masks
    image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
    wide = {
        name: cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=outside)
        for name, mask in masks.items()
    }
    return image, wide


def _window(
    image: Array, masks: dict[str, Array], top: int, left: int, side: int
) -> tuple[Array, dict[str, Array]]:
    part = slice(top, top + side), slice(left, left + side)
    return image[part], {name: mask[part] for name, mask in masks.items()}


def _blurred(image: Array, sigma: float) -> Array:
    import cv2

    side = int(3.3 * sigma)
    side = side + 1 if side % 2 == 0 else side
    return np.asarray(
        cv2.GaussianBlur(image, (side, side), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101)
    )


def _finished(sample: Sample, image: Array, masks: dict[str, Array]) -> Sample:
    assert sample.image is not None
    whole = image.reshape(*image.shape[:2], sample.image.shape[2]).astype(
        sample.image.dtype
    )  # fractions are cut off
    return sample.replace(
        image=np.ascontiguousarray(whole),
        masks={n: np.ascontiguousarray(m, np.int32) for n, m in masks.items()},
    )
