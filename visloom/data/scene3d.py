"""Scene samples: one picture of one camera with its calibration, radar returns and boxes in space; and their
transforms.

A scene sample is a `Sample` with `image`, `boxes` and `labels` (clipped 2D boxes in the picture), `calib` (3, 4) from
metres in the camera's frame (`visloom/data/space.py`) to pixels, which follows every transform, and in `extra`:

    radar          (R, 5 or more) float32: x y z, velocity right and ahead in m/s, compensated for the car's own
    lens           (3, 4) float64: calib of the picture as it was stored
    picture        (height, width) as stored;  mirrored: whether the scene was mirrored
    pose           (4, 4) float64: the camera's frame to the world;  token, camera: the moment, and which camera
    box_center     (N, 3) float64 middles, box_dims (N, 3) height width length, box_yaw (N,) about the camera's y
    box_velocity   (N, 3) float64 in the camera's frame, NaN where unknown;  box_attribute (N,) int64, -1 for none
    box_alpha      (N,) float64: the observation angle as the original makes it
    box_sought     (N,) float64: depths at which boxes look for radar in training, where those are not their own
    truth          what an evaluation compares with (`visloom/data/truth.py`), or None
    vehicle        (4, 4) the vehicle's frame to the world, where it is known;  attributes: their names, likewise
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import is_number, require, size_pair
from visloom.data.space import corners, project, wrap
from visloom.errors import DataError
from visloom.keys import fold, generator, permutation, uniforms
from visloom.stream import Source
from visloom.warp import map_points, mirror, scale, shift

if TYPE_CHECKING:
    from visloom.sample import Sample

Array = NDArray[Any]
MIRROR_WORLD = np.diag([-1.0, 1.0, 1.0, 1.0])
"""Turns left and right of the camera's frame round."""


def seen_boxes(
    calib: Array, size: tuple[int, int], middles: Array, dims: Array, yaw: Array
) -> tuple[Array, Array]:
    """Frame the corners of boxes in a picture of a (height, width): clipped boxes (N, 4), and which can be seen (N,).

    A box can be seen if all its corners lie at least 0.1 m before the camera and one of them, more than 1 m away, falls
    into the picture (nuScenes' BoxVisibility.ANY).
    """
    height, width = size
    if not len(middles):
        return np.zeros((0, 4)), np.zeros(0, bool)
    pixels = project(calib, corners(middles, dims, yaw))  # (N, 8, 3)
    far = pixels[..., 2]
    inside = (pixels[..., :2] > 0).all(-1) & (pixels[..., :2] < (width, height)).all(-1) & (far > 1)
    low, high = pixels[..., :2].min(1), pixels[..., :2].max(1)
    framed = np.concatenate([np.maximum(low, 0), np.minimum(high, (width, height))], 1)
    shown = inside.any(1) & (far > 0.1).all(1) & (framed[:, 2:] > framed[:, :2]).all(1)
    return framed, np.asarray(shown)


def uncovered(boxes: Array, depth: Array, dims: Array) -> NDArray[np.bool_]:
    """Which boxes are not hidden: none that is wholly nearer frames them completely: (N,) bool."""
    nearest, farthest = depth - dims.min(1) / 2, depth + dims.max(1) / 2
    before = nearest[:, None] > farthest[None]  # [i, j]: j lies before i
    around = (boxes[:, None, :2] > boxes[None, :, :2]).all(-1) & (
        boxes[:, None, 2:] < boxes[None, :, 2:]
    ).all(-1)
    return np.asarray(~(before & around).any(1))


@runtime_checkable
class SceneSource(Protocol):
    """A source of scene samples. The cameras of a moment follow each other."""

    root: str

    @property
    def part_name(self) -> str:
        """Which part of its data it reads: a split, a scene, or "all"."""
        ...

    def elsewhere(self, root: str, part: str) -> Self:
        """The same settings on another folder, or another part of it."""
        ...

    def token_of(self, index: int) -> str:
        """The moment of a sample, known without reading it."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """One sample. Raises DataError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Fit pictures of any size into one: uniformly scaled to its width, about their middle, moved at random.

    size: (height, width), multiples of 32.  shift: deviation of the random move, as a share of the longer side, at most
    twice that; 0 for evaluation.  zoom: the picture is scaled by a factor from 1 - zoom to 1 + zoom.
    original: as the original samples pixels (`Compat.pixels`).
    """

    size: tuple[int, int] = (448, 800)
    shift: float = 0.0
    zoom: float = 0.0
    original: bool = False

    def __post_init__(self) -> None:
        height, width = size_pair("size", self.size)
        require(height % 32 == 0 and width % 32 == 0, "height and width are multiples of 32", self.size)
        require(is_number(self.shift) and self.shift >= 0, "shift is not negative", self.shift)
        require(is_number(self.zoom) and 0 <= self.zoom < 1, "zoom lies in [0, 1)", self.zoom)

    def __call__(self, sample: Sample, key: int) -> Sample:
        draws = generator(key)
        moved = np.clip(draws.standard_normal(2) * self.shift, -2 * self.shift, 2 * self.shift)
        zoom = 1 + self.zoom * float(2 * draws.random() - 1)
        return self.placed(sample, moved, zoom)

    def placed(self, sample: Sample, moved: Array, zoom: float = 1.0) -> Sample:
        """The sample with its middle moved by a share of its longer side, and zoomed."""
        height, width = sample.size
        side = max(height, width)
        x, y = width / 2 + moved[0] * side, height / 2 + moved[1] * side
        factor = zoom * self.size[1] / (side if self.original else width)
        matrix = shift(self.size[1] / 2, self.size[0] / 2) @ scale(factor, factor) @ shift(-x, -y)
        if not self.original:
            return sample.warp(matrix, self.size)
        import cv2

        sample = sample.resolve()
        assert sample.image is not None
        image = cv2.warpAffine(
            np.ascontiguousarray(sample.image),
            matrix[:2],
            (self.size[1], self.size[0]),
            flags=cv2.INTER_LINEAR,
        )
        return _with_pixels(sample, matrix, image)


@dataclass(frozen=True, kw_only=True)
class FlipScene:
    """Mirror the picture and the world in it: radar, boxes and their velocities too.

    p: how often.  original: boxes keep their velocity (`Compat.flip_velocity`), pixels count from their index.
    """

    p: float = 0.5
    original: bool = False

    def __post_init__(self) -> None:
        require(is_number(self.p) and 0 <= self.p <= 1, "p lies between 0 and 1", self.p)

    def __call__(self, sample: Sample, key: int) -> Sample:
        return self.mirrored(sample) if uniforms(key, 1)[0] < self.p else sample

    def mirrored(self, sample: Sample) -> Sample:
        """The mirrored sample."""
        sample = sample.resolve()
        height, width = sample.size
        extra = dict(sample.extra)
        radar = np.array(extra["radar"])
        radar[:, [0, 3]] *= -1
        extra.update(radar=radar, mirrored=not extra.get("mirrored", False))
        if "box_center" in extra:
            extra["box_center"] = extra["box_center"] * (-1, 1, 1)
            extra["box_yaw"] = wrap(np.pi - extra["box_yaw"])
            extra["box_alpha"] = wrap(np.pi - extra["box_alpha"])
            if not self.original:
                extra["box_velocity"] = extra["box_velocity"] * (-1, 1, 1)
        assert sample.calib is not None
        sample = sample.replace(extra=extra, calib=sample.calib @ MIRROR_WORLD)
        if not self.original:
            return sample.warp(mirror(width=width), (height, width))
        assert sample.image is not None
        image = np.ascontiguousarray(sample.image[:, ::-1])
        return _with_pixels(sample, mirror(width=width - 1), image)


def _with_pixels(sample: Sample, matrix: Array, image: Array) -> Sample:
    """The sample under a matrix, with the picture that was made for it: where pixels and coordinates do not agree."""
    boxes = sample.boxes
    if boxes is not None:
        ends = map_points(matrix, boxes.reshape(-1, 2, 2).astype(np.float64))  # (N, 2, 2)
        boxes = np.concatenate([ends.min(1), ends.max(1)], 1).astype(np.float32)
    assert sample.calib is not None
    return sample.replace(image=image, calib=matrix @ sample.calib, boxes=boxes).clip_boxes()


@dataclass(frozen=True, kw_only=True)
class Within:
    """Leave out annotated boxes that are too far to learn from. What an evaluation counts does not change.

    depth: metres; boxes whose middle is farther ahead are left out.
    """

    depth: float

    def __post_init__(self) -> None:
        require(is_number(self.depth) and self.depth > 0, "depth is positive", self.depth)

    def __call__(self, sample: Sample, key: int) -> Sample:
        extra = sample.extra
        if "box_center" not in extra or sample.boxes is None or sample.labels is None:
            return sample
        near = extra["box_center"][:, 2] <= self.depth
        if near.all():
            return sample
        kept = {name: value[near] for name, value in extra.items() if name.startswith("box_")}
        return sample.replace(boxes=sample.boxes[near], labels=sample.labels[near], extra={**extra, **kept})


@dataclass(frozen=True, kw_only=True)
class GuessedDepth:
    """Boxes look for radar where a camera might guess them to be, not where they are annotated.

    In use it is the camera's guess that says where a box looks for radar; a network that was trained with the right
    returns alone trusts wrong ones too. What the network learns of a box does not change.

    deviation: of the logarithm of the guess; 0.2 is about a fifth of the depth.
    """

    deviation: float

    def __post_init__(self) -> None:
        require(
            is_number(self.deviation) and self.deviation >= 0, "deviation is not negative", self.deviation
        )

    def __call__(self, sample: Sample, key: int) -> Sample:
        center = sample.extra.get("box_center")
        if center is None:
            return sample
        draws = generator(key).standard_normal(len(center))  # one a box, before any is left out
        return sample.replace(
            extra={**sample.extra, "box_sought": center[:, 2] * np.exp(self.deviation * draws)}
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class OtherRadar(Source):
    """Scene samples, each with the radar returns of another one: a control experiment.

    What a network gains from radar must vanish if it is trained and evaluated so.

    source: scene samples.  key: which one gets whose; all are one ring, so that none gets its own.
    """

    source: SceneSource
    key: int = 0

    @property
    def part_name(self) -> str:
        """The part that the source reads."""
        return self.source.part_name

    def elsewhere(self, root: str, part: str) -> Self:
        """The same of another folder, or another part of it."""
        return replace(self, source=self.source.elsewhere(root, part), split=None, limit=None)

    def token_of(self, index: int) -> str:
        """The moment of a sample."""
        kept = self.chosen()
        return self.source.token_of(index if kept is None else int(kept[index]))

    def open(self) -> NDArray[np.int64]:
        """(n,) whose radar each sample gets. Raises DataError if there is only one."""
        count = len(self.source)
        if count < 2:
            raise DataError(f"{self.source!r} has {count} sample: there is no other radar to give it")
        ring = permutation(fold(self.key, "other radar"), count)
        whose = np.empty(count, np.int64)
        whose[ring] = np.roll(ring, 1)
        return whose

    def count(self) -> int:
        return len(self.source)

    def fetch(self, index: int) -> Sample:
        sample, other = self.source.read(index), self.source.read(int(self.opened()[index]))
        return sample.replace(extra={**sample.extra, "radar": other.extra["radar"]})

    def classes(self) -> tuple[str, ...]:
        known = getattr(self.source, "classes", None)
        return tuple(known()) if callable(known) else ()

    def check(self) -> list[str]:
        look = getattr(self.source, "check", None)
        return [*look(), f"{self!r}: a control experiment"] if callable(look) else []

    def __repr__(self) -> str:
        return f"OtherRadar({self.source!r})"
