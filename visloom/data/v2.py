"""V2: any transform of torchvision.transforms.v2, under our keys:
`V2("torchvision.transforms.v2:ElasticTransform")`.

Image, masks, boxes and keypoints travel together as torchvision's tv_tensors. The generators that
torchvision draws from are set from the sample's key and put back after, so the result is a pure function of
(sample, key) like all else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visloom.data.checks import require
from visloom.errors import ConfigError, DataError
from visloom.keys import ambient
from visloom.run import Call

if TYPE_CHECKING:
    from visloom.sample import Sample

_TARGET = r"torchvision\.transforms\.v2:[A-Z]\w*"


@dataclass(frozen=True)
class V2(Call):
    """A torchvision v2 transform and its keywords, as data.

    target: "torchvision.transforms.v2:Name".  kwargs: its arguments; V2 values among them are made too.
    Pending geometry is applied first. Masks keep -1 (ignore) where geometry brings in new pixels, whatever
    `fill` says about the image. The image must keep its type: transforms that make floats (ToDtype,
    Normalize) are refused, because tasks normalise on the device.
    """

    def __post_init__(self) -> None:
        good = isinstance(self.target, str) and re.fullmatch(_TARGET, self.target) is not None
        require(good, "target is torchvision.transforms.v2:NAME", self.target)

    def __call__(self, sample: Sample, key: int) -> Sample:
        import torch

        sample = sample.resolve()
        if sample.calib is not None:
            raise DataError(
                f"{self.target} cannot move a calibration; use visloom's own geometry for such samples"
            )
        made = self.made()
        with ambient(key), torch.no_grad():
            result = made(_to_torch(sample))
        return _from_torch(sample, result, self.target)

    def made(self) -> Any:
        """Return the transform, made on first use.

        Raises:
            ConfigError: torchvision has no such transform, or it refuses the arguments.
        """
        if "_made" not in self.__dict__:
            object.__setattr__(self, "_made", self._make())
        return self.__dict__["_made"]

    def _make(self) -> Any:
        from torchvision.transforms import v2

        name = self.target.partition(":")[2]
        cls = getattr(v2, name, None)
        if not isinstance(cls, type):
            raise ConfigError(f"torchvision.transforms.v2 has no transform {name!r}", path="target")
        values = {word: _inner(value) for word, value in self.kwargs.items()}
        if "fill" in values and not isinstance(values["fill"], Mapping):
            values["fill"] = _fills(values["fill"])
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.target} refuses {dict(self.kwargs)!r}: {error}", path="kwargs"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"target": self.target, "kwargs": self.kwargs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


def _inner(value: Any) -> Any:
    """Make the transforms inside an argument (RandomApply and its like take lists of them)."""
    if isinstance(value, V2):
        return value.made()
    if isinstance(value, list | tuple):
        return type(value)(_inner(item) for item in value)
    return value


def _fills(fill: Any) -> dict[Any, Any]:
    """The fill for images; masks get 0, which stands for ignore while torchvision has them."""
    from torchvision import tv_tensors

    return {tv_tensors.Mask: 0, "others": fill}


def _to_torch(sample: Sample) -> dict[str, Any]:
    """A sample as tv_tensors. Masks go one up, so that torchvision's default fill of 0 means ignore."""
    import torch
    from torchvision import tv_tensors

    held: dict[str, Any] = {}
    if sample.image is not None:
        planes = sample.image.transpose(2, 0, 1).copy()  # (C, H, W); some transforms write in place
        held["image"] = tv_tensors.Image(torch.from_numpy(planes))
    held["masks"] = {name: tv_tensors.Mask(torch.from_numpy(m + 1)) for name, m in sample.masks.items()}
    if sample.boxes is not None:
        held["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(np.array(sample.boxes, np.float32)),
            format="XYXY",  # type: ignore[arg-type]
            canvas_size=sample.size,
        )
        held["labels"] = torch.arange(len(sample.boxes))  # which boxes are left, should some be taken out
    if sample.keypoints is not None:
        if not hasattr(tv_tensors, "KeyPoints"):
            raise DataError("this torchvision knows no keypoints; version 0.23 and later do")
        points = torch.from_numpy(np.array(sample.keypoints[..., :2], np.float32))  # (N, K, 2)
        held["keypoints"] = tv_tensors.KeyPoints(points, canvas_size=sample.size)
    return held


def _from_torch(sample: Sample, held: dict[str, Any], who: str) -> Sample:
    """Put what torchvision made back into the sample, clip boxes to the picture and drop what is empty."""
    changes: dict[str, Any] = {}
    if sample.image is not None:
        planes = held["image"].numpy()  # (C, h, w)
        if planes.dtype != sample.image.dtype:
            raise DataError(
                f"{who} made {planes.dtype} out of {sample.image.dtype}: samples keep their stored type "
                f"and the task normalises them on the device; leave this transform out"
            )
        changes["image"] = np.ascontiguousarray(planes.transpose(1, 2, 0))
    changes["masks"] = {name: mask.numpy().astype(np.int32) - 1 for name, mask in held["masks"].items()}
    if sample.keypoints is not None:
        moved = np.concatenate([held["keypoints"].numpy(), sample.keypoints[..., 2:]], axis=-1)  # (N, K, 3)
        changes["keypoints"] = moved.astype(np.float32)
    if sample.boxes is None:
        return sample.replace(**changes)
    left = held["labels"].numpy()
    if len(left) < len(sample.boxes):
        sample = sample.pick_boxes(np.isin(np.arange(len(sample.boxes)), left))
        if "keypoints" in changes and len(changes["keypoints"]) != len(left):
            changes["keypoints"] = changes["keypoints"][left]
    return sample.replace(boxes=held["boxes"].numpy().astype(np.float32), **changes).clip_boxes()
