"""Sample: one picture with everything known about it, and its geometry as one pending 3x3 matrix.

Geometric transforms do not touch pixels: `sample.warp(matrix, size)` multiplies a matrix, `sample.resolve()`
applies the product once to the image (bilinear), to masks (nearest), boxes, keypoints and calibration. So
scale, rotate, crop and flip cost one interpolation, and a chain of crops, pads and flips is a bit-exact copy.

Coordinates are continuous pixels, x to the right and y down: pixel (row i, column j) covers [j, j+1) x [i,
i+1), its centre is (j + 0.5, i + 0.5). A matrix maps old coordinates to new ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from visloom.warp import Border, Fill, bounds, inverse, is_copy, map_points, warp_image, warp_mask

Array = NDArray[Any]

MIN_SIDE = 1.0
"""Boxes that are narrower or lower than this (pixels) after clipping are dropped: log-size targets of slivers
explode, and nobody annotates them."""


VOID = -2
"""Number of pixels that count for nothing, in a picture that numbers things; pixels of no thing have -1."""


class Pending(NamedTuple):
    """Geometry that waits for `resolve()`: old -> new coordinates, new (height, width), what lies outside."""

    matrix: NDArray[np.float64]  # (3, 3)
    size: tuple[int, int]
    border: Border
    fill: Fill


class Origin(NamedTuple):
    """Where a sample's coordinates come from: stored picture -> present coordinates, and its stored (height, width).

    Predictions are taken back by it; what a reader keeps in stored coordinates (polygons, say) is brought here by it.
    """

    matrix: NDArray[np.float64]  # (3, 3)
    size: tuple[int, int]


@dataclass(slots=True, eq=False, repr=False)
class Sample:
    """One sample. Arrays may be views of a data set in memory: replace them, never write into them.

    id: unique inside its source.
    image: (H, W, C) in its stored integer type, RGB where C is 3, or None.
    label: an int class, or a float vector (soft or multi-label target), or None.
    masks: (H, W) int32 by name; -1 means ignore.
    boxes: (N, 4) float32, x0 y0 x1 y1.  labels: (N,) int64, one per box.
    keypoints: (N, K, 3) float32: x, y, visibility (0 = not there).
    calib: (3, 4) float64 projection from 3d points to pixels.
    extra: anything else; arrays whose name starts with "box_" have one row per box and are filtered with
    them.
    source: which leaf of the stream it came from.
    notes: what the user should be told about this sample (a picture skipped, say).
    origin: geometry applied so far, None where there was none.
    pending: geometry not yet applied; the other fields are in the old coordinates until `resolve()`. Streams
        resolve before every transform that does not say `geometric = True`, so only such ones ever see it.
    """

    id: str
    image: Array | None = None
    label: Any = None
    masks: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    keypoints: NDArray[np.float32] | None = None
    calib: NDArray[np.float64] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    source: int = 0
    notes: tuple[str, ...] = ()
    origin: Origin | None = None
    pending: Pending | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the sample has, or will have after `resolve()`."""
        if self.pending is not None:
            return self.pending.size
        if self.image is not None:
            return self.image.shape[0], self.image.shape[1]
        for mask in self.masks.values():
            return mask.shape[0], mask.shape[1]
        raise ValueError(f"sample {self.id!r} has neither image nor mask, so it has no size")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def warp(
        self,
        matrix: Array,
        size: tuple[int, int],
        *,
        border: Border = "constant",
        fill: Fill = 0,
    ) -> Self:
        """Return a copy with one more geometric step pending.

        Args:
            matrix: (3, 3), present coordinates -> new coordinates.
            size: new (height, width).
            border: what lies outside the present picture: "constant" is `fill` (masks: -1), "reflect" mirrors
                it without repeating the edge.
            fill: a number, one per channel, or "mean" (of the picture, by channel).

        Steps compose into one matrix, and crops, pads and flips give what one step after the other would
        give.
        Only behind an interpolating step (a rotation, say) may pixels that it cut off come back if a later
        step looks there: that is the price of interpolating once.
        """
        step = np.asarray(matrix, np.float64)
        height, width = int(size[0]), int(size[1])
        if step.shape != (3, 3) or height < 1 or width < 1:
            raise ValueError(f"warp needs a 3x3 matrix and a positive size, got {step.shape}, size {size}")
        new = Pending(step, (height, width), border, fill)
        if self.pending is None:
            return self.replace(pending=new)
        joined = _join(self.pending, new, self._stored_size())
        if joined is None:
            return self.resolve().replace(pending=new)
        return self.replace(pending=joined)

    def resolve(self) -> Self:
        """Return the sample with its pending geometry applied, once, to everything it holds.

        Boxes are clipped to the picture and dropped, with their labels, keypoints and "box_" extras, where
        less than a pixel is left. Keypoints outside get visibility 0.
        """
        if self.pending is None:
            return self
        matrix, size, border, fill = self.pending
        image = self.image
        if image is not None:
            image = warp_image(image, matrix, size, border, fill)
        masks = {name: warp_mask(mask, matrix, size, border) for name, mask in self.masks.items()}
        keypoints = None if self.keypoints is None else _move_keypoints(self.keypoints, matrix, size)
        calib = None if self.calib is None else matrix @ self.calib
        came = self.stored() if image is not None or masks else None  # else there is no picture to come from
        moved = self.replace(
            image=image,
            masks=masks,
            keypoints=keypoints,
            calib=calib,
            origin=None if came is None else Origin(matrix @ came.matrix, came.size),
            pending=None,
        )
        if self.boxes is None:
            return moved
        return moved.replace(boxes=_move_boxes(self.boxes, matrix)).clip_boxes()

    def stored(self) -> Origin:
        """Where the present coordinates come from, pending geometry left out; the identity where nothing moved."""
        return self.origin if self.origin is not None else Origin(np.eye(3), self._stored_size())

    def clip_boxes(self) -> Self:
        """Return a copy whose boxes end at the picture's edge, without those under a pixel."""
        if self.boxes is None:
            return self
        height, width = self.size
        boxes = np.clip(self.boxes, 0, np.array([width, height, width, height], np.float32))  # (N, 4)
        keep = np.all((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE, axis=1)  # (N,)
        return self.replace(boxes=boxes).pick_boxes(keep)

    def pick_boxes(self, keep: Array) -> Self:
        """Return a copy with some of the boxes and of what belongs to them (labels, keypoints, "box_"
        extras).

        keep: (N,) bool.
        """
        if self.boxes is None or keep.all():
            return self
        points, count = self.keypoints, len(keep)
        return self.replace(
            boxes=self.boxes[keep],
            labels=None if self.labels is None else self.labels[keep],
            keypoints=points[keep] if points is not None and len(points) == count else points,
            extra={k: v[keep] if k.startswith("box_") else v for k, v in self.extra.items()},
        )

    def _stored_size(self) -> tuple[int, int]:
        return dataclasses.replace(self, pending=None).size

    def problems(self) -> list[str]:
        """Return what of this sample breaks the description of its fields, in words."""
        found = []
        image = self.image
        if image is not None and (not isinstance(image, np.ndarray) or image.ndim != 3):
            found.append(f"image must be an (H, W, C) array, got {_shape(image)}")
        elif image is not None and image.dtype.kind not in "ui":
            found.append(f"image must keep its stored integer type, got {image.dtype}; tasks normalise")
        for name, mask in self.masks.items():
            if mask.ndim != 2 or mask.dtype != np.int32:
                found.append(f"masks[{name!r}] must be (H, W) int32, got {_shape(mask)}")
            elif image is not None and isinstance(image, np.ndarray) and mask.shape != image.shape[:2]:
                found.append(f"masks[{name!r}] is {mask.shape}, the image {image.shape[:2]}")
        boxes, labels = self.boxes, self.labels
        if boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
            found.append(f"boxes must be (N, 4), got {_shape(boxes)}")
        elif boxes is not None and labels is not None and labels.shape != (len(boxes),):
            found.append(f"labels must be ({len(boxes)},), one per box, got {_shape(labels)}")
        if self.keypoints is not None and (self.keypoints.ndim != 3 or self.keypoints.shape[2] != 3):
            found.append(f"keypoints must be (N, K, 3), got {_shape(self.keypoints)}")
        if self.calib is not None and self.calib.shape != (3, 4):
            found.append(f"calib must be (3, 4), got {_shape(self.calib)}")
        return found

    def __repr__(self) -> str:
        parts = [repr(self.id)]
        for f in dataclasses.fields(self)[1:]:
            value = getattr(self, f.name)
            if (
                value is None
                or (isinstance(value, dict | tuple) and not value)
                or (f.name == "source" and not value)
            ):
                continue
            if isinstance(value, Origin):
                parts.append(f"from {value.size[0]}x{value.size[1]}")
            elif isinstance(value, Pending):
                parts.append(f"pending -> {value.size[0]}x{value.size[1]}")
            elif isinstance(value, dict):
                parts.append(f"{f.name}={{{', '.join(f'{k}: {_shape(v)}' for k, v in value.items())}}}")
            else:
                parts.append(f"{f.name}={_shape(value)}")
        return f"Sample({', '.join(parts)})"


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


def _join(first: Pending, then: Pending, stored: tuple[int, int]) -> Pending | None:
    """Return both steps as one, or None where one would not show the same picture as two."""
    height, width = first.size
    left, top, right, bottom = bounds(inverse(then.matrix), then.size)
    inside = left >= -1e-6 and top >= -1e-6 and right <= width + 1e-6 and bottom <= height + 1e-6
    matrix = then.matrix @ first.matrix
    if inside:
        return Pending(matrix, then.size, first.border, first.fill)
    if first.border != "constant" or then.border != "constant":
        return None
    if not is_copy(first.matrix):  # a second interpolation costs more than pixels that come back
        return Pending(matrix, then.size, "constant", then.fill)
    left, top, right, bottom = bounds(first.matrix, stored)
    whole = left >= 0 and top >= 0 and right <= width and bottom <= height
    framed = whole and (first.size == stored or first.fill == then.fill)
    return Pending(matrix, then.size, "constant", then.fill) if framed else None


def _move_boxes(boxes: Array, matrix: Array) -> NDArray[np.float32]:
    """Frame the moved corners of each box by an upright box: (N, 4) float32."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].astype(np.float64)  # (N, 4, 2)
    moved = map_points(matrix, corners)
    framed = np.concatenate([moved.min(1), moved.max(1)], axis=1)  # (N, 4)
    return np.asarray(framed, np.float32)


def _move_keypoints(points: Array, matrix: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    moved = map_points(matrix, points[..., :2].astype(np.float64))  # (N, K, 2)
    inside = (moved >= 0).all(-1) & (moved[..., 0] <= size[1]) & (moved[..., 1] <= size[0])
    seen = inside & (points[..., 2] > 0)
    result = np.concatenate([moved, points[..., 2:]], axis=-1)  # (N, K, 3)
    return np.asarray(np.where(seen[..., None], result, 0), np.float32)


@dataclass(frozen=True, eq=False)
class Stacked(Sequence[Sample]):
    """Samples of one size that lie in memory, as arrays: a Sequence[Sample] to use whole.

    ids: one per sample.  image: (B, H, W, C), stored integer type.
    label: (B,) int64, or (B, K) float, or None.  source: as in Sample.  notes: of the batch.
    """

    ids: tuple[str, ...]
    image: Array
    label: Array | None = None
    source: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Stacked: ...
    def __getitem__(self, at: int | slice) -> Sample | Stacked:
        if isinstance(at, slice):
            some = None if self.label is None else self.label[at]
            return Stacked(self.ids[at], self.image[at], some, self.source, self.notes)
        label: Any = None if self.label is None else self.label[at]
        label = int(label) if isinstance(label, np.integer) else label
        notes = self.notes if at == 0 else ()  # told once, not once per sample
        return Sample(self.ids[at], self.image[at], label, source=self.source, notes=notes)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Stacked({len(self)} samples, image={_shape(self.image)})"
