"""Panorama: all cameras of a moment with the boxes that were found, and the same from above around the car.

Cameras stand as one looks: those to the front in the upper row, those to the back in the lower one, left to right.
Boxes are those of the whole moment, drawn into every camera that they are seen by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import inverse, project, world_corners
from visloom.tasks.fusion3d.draw import PAPER, TRUTH, Ground, depth_colour, span, wires

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.data.truth import WorldBoxes
    from visloom.sample import Sample
    from visloom.tasks.fusion3d.spec import Fusion3d

Array = NDArray[Any]
_WIDE, _FOOT, _GAP = 480, 26, 4  # pixels: of a camera, of the legend, between cameras
_TEXT = (24, 28, 32)


def panorama(
    spec: Fusion3d,
    views: Sequence[Sample],
    boxes: WorldBoxes,
    truth: WorldBoxes | None = None,
    title: str = "",
) -> Image:
    """Draw one moment.

    Args:
        views: its scene samples (`visloom/data/scene3d.py`) as they were stored, one a camera.
        boxes: what was found, in the world; those below `spec.shown` are left out.
        truth: what is annotated, drawn thin and green.
    """
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    boxes = boxes.pick(boxes.score >= spec.shown)
    origin, forward = heading_of(views)
    rows = in_rows(views, origin, forward)
    solids = world_corners(boxes.center, boxes.size, boxes.rotation)
    true = (
        world_corners(truth.center, truth.size, truth.rotation) if truth is not None else np.zeros((0, 8, 3))
    )
    colours = [spec.palette[int(label)] for label in boxes.label]
    tiles = [[_camera(spec, view, solids, colours, true) for view in row] for row in rows]
    wide = max(sum(tile.width + _GAP for tile in row) for row in tiles)
    high = sum(max(tile.height for tile in row) + _GAP for row in tiles)
    side = max(high - _GAP, 480)
    sheet = Images.new("RGB", (wide + side, max(high, side) + _FOOT), PAPER)
    y = 0
    for row in tiles:
        x = (wide - sum(tile.width + _GAP for tile in row)) // 2
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + _GAP
        y += max(tile.height for tile in row) + _GAP
    above = _above(spec, views, side, (origin, forward), (solids, boxes.velocity, colours), (true, truth))
    sheet.paste(above, (wide, 0))
    _legend(
        ImageDraw.Draw(sheet), sheet.height - _FOOT + 5, spec, boxes, title, ImageFont.load_default(size=13)
    )
    return sheet


def heading_of(views: Sequence[Sample]) -> tuple[Array, float]:
    """Where the car is in the world, (3,), and the angle about z at which it looks.

    Where its own pose is not known, it is between its cameras and looks where the one called front does, or the first.
    """
    own = views[0].extra.get("vehicle")
    if own is not None:
        return own[:3, 3], float(np.arctan2(own[1, 0], own[0, 0]))
    poses = [np.asarray(view.extra["pose"]) for view in views]
    names = [str(view.extra["camera"]).lower() for view in views]
    exact = [i for i, name in enumerate(names) if name in ("cam_front", "front", "camera_front")]
    first = next(iter(exact), 0)
    ahead = poses[first][:3, 2]
    return np.mean([pose[:3, 3] for pose in poses], 0), float(np.arctan2(ahead[1], ahead[0]))


def in_rows(views: Sequence[Sample], origin: Array, forward: float) -> list[list[Sample]]:
    """Cameras that look ahead, then those that look back, each row from left to right as one sees them."""
    turns = []
    for view in views:
        looks = np.asarray(view.extra["pose"])[:3, 2]
        turns.append(
            (float(np.arctan2(looks[1], looks[0])) - forward + np.pi) % (2 * np.pi) - np.pi
        )  # to the left
    front = sorted((i for i, turn in enumerate(turns) if abs(turn) < 1.55), key=lambda i: -turns[i])
    back = sorted(
        (i for i, turn in enumerate(turns) if abs(turn) >= 1.55), key=lambda i: turns[i] % (2 * np.pi)
    )
    return [[views[i] for i in row] for row in (front, back) if row]


def _camera(spec: Fusion3d, view: Sample, solids: Array, colours: Sequence[Any], true: Array) -> Image:
    """One camera's picture with radar returns in colours of depth, and boxes."""
    from PIL import Image as Images
    from PIL import ImageDraw

    assert view.image is not None and view.calib is not None
    picture = Images.fromarray(np.ascontiguousarray(view.image[..., :3]))
    factor = _WIDE / picture.width
    picture = picture.resize((_WIDE, max(1, round(picture.height * factor))))
    pen = ImageDraw.Draw(picture)
    calib = np.diag([factor, factor, 1.0]) @ view.calib
    radar = view.extra["radar"]
    ahead = radar[(radar[:, 2] > 0.5) & (radar[:, 2] <= spec.max_depth)]
    at = project(calib, ahead[:, :3].astype(np.float64))[:, :2]
    for (u, v), colour in zip(at.tolist(), depth_colour(ahead[:, 2], spec.max_depth).tolist(), strict=True):
        if 0 <= u < picture.width and 0 <= v < picture.height:
            pen.ellipse((u - 2, v - 2, u + 2, v + 2), fill=tuple(colour))
    back = inverse(view.extra["pose"])
    for some, colour_of, width in ((true, [TRUTH] * len(true), 1), (solids, colours, 2)):
        own = some @ back[:3, :3].T + back[:3, 3]
        wires(pen, calib, own, colour_of, width)
    pen.text((6, 4), str(view.extra["camera"]), fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def _above(
    spec: Fusion3d,
    views: Sequence[Sample],
    side: int,
    car: tuple[Array, float],
    found: tuple[Array, Array, Sequence[Any]],
    true: tuple[Array, WorldBoxes | None],
) -> Image:
    """The ground around the car, its front to the top: radar returns and boxes with what they move in a second."""
    from PIL import Image as Images
    from PIL import ImageDraw

    sheet = Images.new("RGB", (side, side), PAPER)
    origin, forward = car
    to_car = np.array(
        [[np.sin(forward), -np.cos(forward)], [np.cos(forward), np.sin(forward)]]
    )  # right, ahead
    solids, velocity, colours = found
    feet = (solids[:, :4, :2] - origin[:2]) @ to_car.T
    real = (true[0][:, :4, :2] - origin[:2]) @ to_car.T
    reach = span((feet, real), spec.max_depth)
    ground = Ground(ImageDraw.Draw(sheet), (side / 2, side / 2), 0.48 * side / reach)
    ground.rings(reach, 0, 360)
    for view in views:
        pose, radar = np.asarray(view.extra["pose"]), view.extra["radar"].astype(np.float64)
        radar = radar[(radar[:, 2] > 0) & (np.hypot(radar[:, 0], radar[:, 2]) <= reach)]
        place = radar[:, :3] @ pose[:3, :3].T + pose[:3, 3] - origin
        speed = radar[:, [3]] * pose[:3, 0] + radar[:, [4]] * pose[:3, 2]
        ground.radar(np.concatenate([place[:, :2] @ to_car.T, speed[:, :2] @ to_car.T], 1))
    if true[1] is not None:
        ground.boxes(real, true[1].velocity @ to_car.T, [TRUTH] * len(real), 1)
    ground.boxes(feet, velocity @ to_car.T, colours, 2)
    return sheet


def _legend(pen: Any, y: int, spec: Fusion3d, boxes: WorldBoxes, title: str, font: Any) -> None:
    """The classes that were found, each with its colour and how often."""
    x = 8.0
    for label in np.unique(boxes.label).tolist():
        text = f"{spec.classes[label]} {int((boxes.label == label).sum())}"
        pen.rectangle((x, y + 2, x + 11, y + 13), fill=tuple(spec.palette[label]))
        pen.text((x + 16, y), text, fill=_TEXT, font=font)
        x += 30 + pen.textlength(text, font=font)
    end = f"{title}   arrows: what moves in a second".strip()
    pen.text((pen.im.size[0] - pen.textlength(end, font=font) - 8, y), end, fill=_TEXT, font=font)
