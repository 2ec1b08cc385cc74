"""DetectBatch: pictures of any sizes padded together, their boxes, and what an evaluation compares with.

Training sees boxes in the network's pixels; `known` holds the truth in the stored picture's pixels, as plain arrays
that never leave the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.errors import DataError
from visloom.keys import fold
from visloom.sample import Origin, Sample
from visloom.task import Batch
from visloom.warp import map_points, warp_mask

if TYPE_CHECKING:
    from torch import Tensor


Outlines = list[list[NDArray[np.float64]]]
"""For each box the polygons (K, 2) of its pixels, as they are stored. What counts them encodes them: see `coco.py`."""


class Numbered(NamedTuple):
    """Pixels of things as one picture of numbers, so that no two things share one.

    picture: (H, W) int32, `VOID` where nothing counts.  numbers: (N,) of the boxes.
    """

    picture: NDArray[np.int32]
    numbers: NDArray[np.int64]

    def each(self) -> Iterator[NDArray[np.bool_]]:
        """The pixels (H, W) of one box after the other."""
        for number in self.numbers:
            yield np.asarray(self.picture == number)


class Known(NamedTuple):
    """The truth of one picture in its stored pixels, for metrics.

    boxes: (N, 4) float32 x0 y0 x1 y1.  labels: (N,) class indices.  crowd: (N,) bool, groups that count for nothing.
    keypoints: (N, K, 3) or None.  extra: the sample's "box_" entries, one row per box (areas, ...).
    size: (height, width) of the picture.  masks: of each box, where the net has masks: polygons, or numbered pixels.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    keypoints: NDArray[np.float32] | None
    extra: Mapping[str, Any]
    size: tuple[int, int]
    masks: Outlines | Numbered | None = None


@dataclass(kw_only=True)
class DetectBatch(Batch):
    """Pictures with their boxes.

    image: stored type, channels last, 0 in the padding at the right and at the bottom.
    sizes: (height, width) of each picture without padding.
    boxes, labels, masks, keypoints: of each picture, crowds left out; labels are class indices.
    annotated: whether a picture has annotations at all.  target: whether it belongs to the unlabelled domain.
    origins: from stored to present coordinates.  keys: of each picture, for what a task draws for it.
    weak: the pictures before strong augmentation, where a teacher looks at them.
    """

    image: Tensor  # (B, H, W, C)
    sizes: tuple[tuple[int, int], ...]
    boxes: list[Tensor]  # each (N, 4) float32
    labels: list[Tensor]  # each (N,) int64
    masks: list[Tensor] | None = None  # each (N, H, W) uint8
    keypoints: list[Tensor] | None = None  # each (N, K, 3) float32
    annotated: tuple[bool, ...]
    target: tuple[bool, ...]
    origins: tuple[Origin, ...]
    keys: tuple[int, ...]
    known: tuple[Known, ...]
    weak: Tensor | None = None  # (B, H, W, C)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the padded pictures."""
        return self.image.shape[1], self.image.shape[2]


def collate(
    samples: Sequence[Sample],
    key: int | None,
    *,
    classes: int,
    channels: int,
    divisible: int,
    masks: bool,
    keypoints: int,
) -> DetectBatch:
    """Join samples. Boxes without area are left out, with a note.

    key: of the micro-batch, the same on every process; each picture's own key follows from it and its id.

    Raises:
        DataError: names the sample whose picture, boxes or labels cannot be used.
    """
    import torch

    cleaned: list[Sample] = []
    notes: list[str] = []
    for sample in samples:
        kept, note = _checked(sample, classes, channels, keypoints)
        cleaned.append(kept)
        notes.extend((*sample.notes, *note))
    targets = tuple(bool(sample.extra.get("target", False)) for sample in cleaned)
    trained = [_without(s) if t else _trainable(s) for s, t in zip(cleaned, targets, strict=True)]
    sizes = tuple((s.size[0], s.size[1]) for s in cleaned)
    weak = [sample.extra.get("weak") for sample in cleaned]
    points = [_points(s, keypoints) for s in trained] if keypoints else None
    return DetectBatch(
        ids=tuple(sample.id for sample in cleaned),
        source=torch.tensor([sample.source for sample in cleaned]),
        notes=tuple(notes),
        image=torch.from_numpy(_padded([sample.image for sample in cleaned], divisible)),
        sizes=sizes,
        boxes=[torch.from_numpy(_boxes(sample)) for sample in trained],
        labels=[torch.from_numpy(_labels(sample)) for sample in trained],
        masks=[torch.from_numpy(_masks(sample)) for sample in trained] if masks else None,
        keypoints=None if points is None else [torch.from_numpy(p) for p in points],
        annotated=tuple(s.boxes is not None and not t for s, t in zip(cleaned, targets, strict=True)),
        target=targets,
        origins=tuple(sample.stored() for sample in cleaned),
        keys=tuple(fold(0 if key is None else key, "picture", s.source, _word(s.id)) for s in cleaned),
        known=tuple(_known(sample, masks) for sample in cleaned) if key is None else (),
        weak=None if any(w is None for w in weak) else torch.from_numpy(_padded(weak, divisible)),
    )


def _word(name: Any) -> str:
    return str(name)


def _boxes(sample: Sample) -> NDArray[np.float32]:
    found = sample.boxes if sample.boxes is not None else np.zeros((0, 4), np.float32)
    return np.ascontiguousarray(found, np.float32).reshape(-1, 4).copy()


def _labels(sample: Sample) -> NDArray[np.int64]:
    found = sample.labels if sample.labels is not None else np.zeros(0, np.int64)
    return np.asarray(found, np.int64).copy()


def _checked(sample: Sample, classes: int, channels: int, keypoints: int) -> tuple[Sample, tuple[str, ...]]:
    """The sample without boxes that have no area, and what to tell about it."""
    image, boxes, labels = sample.image, sample.boxes, sample.labels
    if image is None or image.ndim != 3 or image.shape[2] != channels:
        shape = None if image is None else image.shape
        raise DataError(f"sample {sample.id!r}: expected a picture (H, W, {channels}), got {shape}")
    if image.dtype.kind not in "ui":
        raise DataError(f"sample {sample.id!r}: pictures keep their stored integer type, got {image.dtype}")
    if boxes is None:
        return sample, ()
    if labels is None or labels.shape != (len(boxes),):
        raise DataError(f"sample {sample.id!r}: {len(boxes)} boxes need as many labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"sample {sample.id!r}: labels run from 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )
    points = sample.keypoints
    if keypoints and points is not None and points.shape[1:] != (keypoints, 3):
        raise DataError(
            f"sample {sample.id!r}: expected keypoints (N, {keypoints}, 3), got {points.shape}; set "
            "task.net.keypoints to their number"
        )
    sound: NDArray[np.bool_] = np.asarray(
        np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1), np.bool_
    )
    if sound.all():
        return sample, ()
    return sample.pick_boxes(sound), (
        f"{sample.id}: {int((~sound).sum())} of {len(boxes)} boxes have no area and were left out",
    )


def _without(sample: Sample) -> Sample:
    """The picture alone: of the unlabelled domain nothing else may reach a loss."""
    return Sample(sample.id, sample.image, source=sample.source)


def _trainable(sample: Sample) -> Sample:
    crowd = sample.extra.get("box_crowd")
    if crowd is None or sample.boxes is None:
        return sample
    return sample.pick_boxes(np.asarray([not group for group in crowd], np.bool_))


def _padded(images: Sequence[Any], divisible: int) -> NDArray[Any]:
    """(B, H, W, C), the largest height and width rounded up to a multiple."""
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    height, width = (-(-side // divisible) * divisible for side in (height, width))
    wide = any(image.dtype != np.uint8 for image in images)
    made = np.zeros((len(images), height, width, images[0].shape[2]), np.int32 if wide else np.uint8)
    for row, image in zip(made, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return made


def _masks(sample: Sample) -> NDArray[np.uint8]:
    """(N, H, W) of the boxes' masks, from what the reader keeps in stored pixels.

    extra "box_polygons": for each box a list of (K, 2) arrays.  Or "things", a picture (H, W) of numbers (see
    `Numbered`), and "box_thing": the number that a box's pixels have.
    """
    count = 0 if sample.boxes is None else len(sample.boxes)
    height, width = sample.size
    made = np.zeros((count, height, width), np.uint8)
    polygons, numbered = sample.extra.get("box_polygons"), _numbered(sample)
    matrix = sample.stored().matrix
    if polygons is not None:
        for row, parts in zip(made, polygons, strict=True):
            for part in parts:
                _fill(row, map_points(matrix, np.asarray(part, np.float64).reshape(-1, 2)))
    elif numbered is not None:
        moved = numbered._replace(picture=warp_mask(numbered.picture, matrix, (height, width)))
        for row, pixels in zip(made, moved.each(), strict=True):
            row[pixels] = 1
    elif count:
        raise _unmasked(sample)
    return made


def _numbered(sample: Sample) -> Numbered | None:
    things, numbers = (sample.extra.get(name) for name in ("things", "box_thing"))
    return None if things is None or numbers is None else Numbered(things, np.asarray(numbers, np.int64))


def _fill(mask: NDArray[np.uint8], polygon: NDArray[np.float64], fine: int = 4) -> None:
    """Set the pixels whose middle a polygon (K, 2) holds.

    cv2 takes in every pixel that the outline touches: on a finer grid, read at the middles, that error is gone.
    """
    import cv2

    left, top = np.clip(np.floor(polygon.min(0)).astype(int), 0, None)
    right, bottom = np.minimum(np.ceil(polygon.max(0)).astype(int), mask.shape[::-1])
    if len(polygon) < 3 or right <= left or bottom <= top:
        return
    grid = np.zeros(((bottom - top) * fine, (right - left) * fine), np.uint8)
    corners = np.round((polygon - (left, top)) * fine).astype(np.int32)
    cv2.fillPoly(grid, [corners], 1)  # type: ignore[call-overload]
    mask[top:bottom, left:right] |= grid[fine // 2 :: fine, fine // 2 :: fine]


def _points(sample: Sample, keypoints: int) -> NDArray[np.float32]:
    if sample.keypoints is not None:
        return np.asarray(sample.keypoints, np.float32).copy()
    count = 0 if sample.boxes is None else len(sample.boxes)
    return np.zeros((count, keypoints, 3), np.float32)


def _known(sample: Sample, masks: bool) -> Known:
    """The truth in stored pixels."""
    origin = sample.stored()
    back = np.asarray(np.linalg.inv(origin.matrix), np.float64)
    boxes, points = _boxes(sample), sample.keypoints
    crowd = sample.extra.get("box_crowd")
    if points is not None:
        moved = map_points(back, points[..., :2].astype(np.float64))
        points = np.concatenate([moved, points[..., 2:]], -1).astype(np.float32)
    return Known(
        moved_boxes(back, boxes),
        _labels(sample),
        np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool),
        points,
        {
            name: value
            for name, value in sample.extra.items()
            if name.startswith("box_") and name != "box_polygons"
        },
        origin.size,
        _stored_masks(sample) if masks else None,
    )


def _stored_masks(sample: Sample) -> Outlines | Numbered:
    """The boxes' masks in the stored picture."""
    polygons = sample.extra.get("box_polygons")
    if polygons is not None:
        return [[np.asarray(part, np.float64).reshape(-1, 2) for part in parts] for parts in polygons]
    numbered = _numbered(sample)
    if numbered is None and sample.boxes is not None and len(sample.boxes):
        raise _unmasked(sample)
    return numbered or []


def _unmasked(sample: Sample) -> DataError:
    return DataError(
        f"sample {sample.id!r} has boxes but no masks: the net has a mask branch (task.net.masks) and needs "
        "polygons or a picture that numbers the boxes"
    )


def moved_boxes(matrix: NDArray[np.float64], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Upright frames (N, 4) around boxes (N, 4) moved by a matrix."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].astype(np.float64)  # (N, 4, 2)
    moved = map_points(matrix, corners)
    return np.concatenate([moved.min(1), moved.max(1)], 1).astype(np.float32)
