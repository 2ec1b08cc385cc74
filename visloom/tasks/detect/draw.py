"""Pictures of detections: boxes with class and score, masks and keypoints, the truth as thin white frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.tasks.detect.batch import moved_boxes
from visloom.warp import map_points, warp_mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.palette import Colour
    from visloom.sample import Sample

_LEAST, _MOST = 480, 1280  # pixels of the shown picture's width
_PERSON = 17
_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9)),
    *((8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""Which of COCO's keypoints are joined: shins, thighs, hips, body, arms, head."""


def draw(
    image: NDArray[Any],
    prediction: Any,
    truth: Sample | None,
    *,
    classes: Sequence[str],
    colours: Sequence[Colour],
    least: float,
) -> Image:
    """Return an RGB picture: detections from score `least` on, the truth where it is known.

    image: (H, W, 3) or (H, W, 1) uint8. With a truth it is that sample's picture, to which predictions (in stored
    pixels) are brought; else it is the stored one.
    """
    from PIL import Image as Images
    from PIL import ImageDraw

    shown = np.asarray(image if image.shape[2] == 3 else image.repeat(3, 2)).astype(np.uint8)
    columns = {name: _array(value) for name, value in prediction.items()}
    keep = columns["scores"] >= least
    matrix = np.eye(3) if truth is None else truth.stored().matrix
    boxes = moved_boxes(matrix, columns["boxes"][keep].astype(np.float32).reshape(-1, 4))
    labels, scores = columns["labels"][keep], columns["scores"][keep]
    if "masks" in columns:
        masks = [_moved(mask, matrix, shown.shape[:2]) for mask in columns["masks"][keep]]
        shown = _tinted(shown, masks, labels, colours)
    width, height = shown.shape[1], shown.shape[0]
    factor = _LEAST / width if width < _LEAST else min(1.0, _MOST / width)
    picture = Images.fromarray(shown).resize(
        (round(width * factor), round(height * factor)), Images.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(picture)
    if truth is not None and truth.boxes is not None:
        for box in truth.boxes * factor:
            pen.rectangle(_frame(box), outline=(255, 255, 255), width=1)
    for box, label, score in zip(boxes * factor, labels, scores, strict=True):
        _label(pen, box, f"{classes[label]} {100 * score:.0f}", colours[label], picture.size)
    if "keypoints" in columns:
        for points, label in zip(columns["keypoints"][keep], labels, strict=True):
            _figure(pen, map_points(matrix, points[:, :2].astype(np.float64)) * factor, colours[label])
    return picture


def _figure(pen: Any, points: NDArray[np.float64], colour: Colour) -> None:
    """Keypoints (K, 2) of one thing, and a person's limbs where they are COCO's 17."""
    places = [(x, y) for x, y in points.tolist()]
    for a, b in _LIMBS if len(places) == _PERSON else ():
        pen.line((*places[a], *places[b]), fill=(255, 255, 255), width=3)
        pen.line((*places[a], *places[b]), fill=colour, width=1)
    for x, y in places:
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=(255, 255, 255))


def _array(value: Any) -> Any:
    if hasattr(value, "cpu"):
        return value.cpu().numpy()
    return np.asarray(value)


def _frame(box: NDArray[Any]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in box)
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _label(pen: Any, box: NDArray[Any], text: str, colour: Colour, size: tuple[int, int]) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=12)
    frame = _frame(box)
    pen.rectangle(frame, outline=colour, width=2)
    wide = font.getlength(text) + 4
    x = min(max(0.0, frame[0]), max(0.0, size[0] - wide))
    y = frame[1] - 15 if frame[1] >= 15 else min(frame[1] + 1, size[1] - 15)
    pen.rectangle((x, y, x + wide, y + 14), fill=colour)
    ink = (20, 20, 20) if sum(colour) > 380 else (255, 255, 255)
    pen.text((x + 2, y), text, fill=ink, font=font)


def _moved(mask: NDArray[Any], matrix: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask (H, W) in the picture that is shown."""
    if mask.shape == size and np.array_equal(matrix, np.eye(3)):
        return np.asarray(mask, np.bool_)
    return np.asarray(warp_mask(mask, matrix, (size[0], size[1])) == 1)


def _tinted(
    image: NDArray[Any], masks: Sequence[NDArray[Any]], labels: NDArray[Any], colours: Sequence[Colour]
) -> NDArray[Any]:
    """The picture with half of each mask's colour over it."""
    tinted = image.astype(np.float32)
    for mask, label in zip(masks, labels, strict=True):
        tinted[mask] = 0.5 * tinted[mask] + 0.5 * np.asarray(colours[label], np.float32)
    return tinted.astype(np.uint8)
