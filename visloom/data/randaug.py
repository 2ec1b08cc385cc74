"""RandAugment (Cubuk et al. 2019): n random changes of one common strength, with timm's "increasing" set of
operations.

`RandAugment(n=2, magnitude=9, std=0.5)` is what timm writes `rand-m9-mstd0.5-inc1`. Rotations, shears and
shifts join the sample's pending geometry, so behind a resized crop they cost no second interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import is_number, require
from visloom.data.photometric import enhance, from_pil, to_pil
from visloom.keys import uniforms
from visloom.warp import Fill, rotation, shift

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.sample import Sample

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
COLOURS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
)
OPERATIONS = COLOURS[:3] + GEOMETRIC[:1] + COLOURS[3:] + GEOMETRIC[1:]
"""All fifteen, the set that timm calls increasing: every one gets stronger with the magnitude."""


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Apply n operations, each drawn from `ops` with replacement.

    magnitude: strength, 0 to 10.  std: the strength of each operation is normal around it, clipped to 0-10.
    p: probability that a drawn operation is applied (timm 0.5, torchvision 1).
    fill: what lies outside after geometric ones.  ops: the operations to choose from.
    """

    geometric: ClassVar[bool] = True
    n: int = 2
    magnitude: float = 9.0
    std: float = 0.5
    p: float = 0.5
    fill: Fill = 128
    ops: tuple[str, ...] = OPERATIONS

    def __post_init__(self) -> None:
        require(isinstance(self.n, int) and self.n >= 0, "n is a whole number, 0 or more", self.n)
        good = is_number(self.magnitude) and 0 <= self.magnitude <= 10
        require(good, "magnitude lies between 0 and 10", self.magnitude)
        require(is_number(self.std) and self.std >= 0, "std is 0 or more", self.std)
        require(is_number(self.p) and 0 <= self.p <= 1, "p lies between 0 and 1", self.p)
        unknown = [op for op in self.ops if op not in OPERATIONS]
        require(bool(self.ops) and not unknown, f"ops are some of {', '.join(OPERATIONS)}", unknown)

    def __call__(self, sample: Sample, key: int) -> Sample:
        draws = uniforms(key, 5 * self.n).reshape(self.n, 5).tolist() if self.n else []
        for applied, which, sign, first, second in draws:
            if applied >= self.p:
                continue
            normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(
                2 * math.pi * second
            )  # Box and Muller 1958
            strength = min(10.0, max(0.0, self.magnitude + self.std * normal)) / 10
            name = self.ops[int(which * len(self.ops))]
            sample = apply(sample, name, strength, sign < 0.5, self.fill)
        return sample


def apply(sample: Sample, name: str, strength: float, negative: bool, fill: Fill = 128) -> Sample:
    """Apply one operation.

    strength: 0 to 1.  negative: which way operations go that have two.
    """
    way = -strength if negative else strength
    if name in GEOMETRIC:
        height, width = sample.size
        return sample.warp(_matrix(name, way, height, width), (height, width), fill=fill)
    sample, picture = to_pil(sample, f"RandAugment's {name}")
    return from_pil(sample, _COLOUR[name](picture, strength, way))


def _matrix(name: str, way: float, height: int, width: int) -> NDArray[np.float64]:
    """The matrix of a geometric operation, with timm's ranges: 30 degrees, shear 0.3, shift 0.45."""
    if name == "Rotate":
        return rotation(30 * way, (width / 2, height / 2))
    if name == "TranslateX":
        return shift(-0.45 * way * width, 0)
    if name == "TranslateY":
        return shift(0, -0.45 * way * height)
    matrix = np.eye(3)
    if name == "ShearX":
        matrix[0, 1] = -0.3 * way
    else:
        matrix[1, 0] = -0.3 * way
    return matrix


def _ops(name: str, picture: Image, *args: int) -> Image:
    from PIL import ImageOps

    changed: Image = getattr(ImageOps, name)(picture, *args)
    return changed


def _posterize(picture: Image, strength: float, way: float) -> Image:
    bits = 4 - int(strength * 4)
    return _ops("posterize", picture, bits) if bits else picture.point(lambda _: 0)


def _solarize_add(picture: Image, strength: float, way: float) -> Image:
    add = min(128, int(strength * 110))
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def _enhanced(what: str) -> Callable[[Image, float, float], Image]:
    return lambda picture, strength, way: enhance(picture, what, max(0.1, 1 + 0.9 * way))


_COLOUR: dict[str, Callable[[Image, float, float], Image]] = {
    "AutoContrast": lambda picture, strength, way: _ops("autocontrast", picture),
    "Equalize": lambda picture, strength, way: _ops("equalize", picture),
    "Invert": lambda picture, strength, way: _ops("invert", picture),
    "Posterize": _posterize,
    "Solarize": lambda picture, strength, way: _ops("solarize", picture, 256 - min(256, int(strength * 256))),
    "SolarizeAdd": _solarize_add,
    "Color": _enhanced("Color"),
    "Contrast": _enhanced("Contrast"),
    "Brightness": _enhanced("Brightness"),
    "Sharpness": _enhanced("Sharpness"),
}
