"""Pictures of predictions: 3D boxes in the camera's picture, and the same from above with radar and velocities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import corners, project

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.sample import Sample
    from visloom.tasks.fusion3d.batch import FusionBatch
    from visloom.tasks.fusion3d.spec import Fusion3d

Array = NDArray[Any]
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_PAPER, _INK, _TRUTH = (250, 250, 248), (60, 66, 72), (34, 150, 84)
_SECONDS = 1.0  # of movement that an arrow shows


def depth_colour(depth: Array, most: float) -> NDArray[np.uint8]:
    """Colours of depths, from yellow (near) over red to violet (at `most` metres): (..., 3)."""
    stops = np.array([(255, 232, 80), (250, 120, 40), (200, 40, 80), (96, 40, 150)], np.float64)
    at = np.clip(np.asarray(depth, np.float64) / most, 0, 1) * 3
    low = np.minimum(at.astype(int), 2)
    share = (at - low)[..., None]
    return np.asarray(stops[low] * (1 - share) + stops[low + 1] * share, np.uint8)


def overlaid(batch: FusionBatch, max_depth: float) -> NDArray[np.uint8]:
    """The pictures of a batch with their radar pillars in colours of depth: (B, H, W, 3)."""
    image = batch.image.numpy().copy()
    scale = image.shape[1] // batch.radar.shape[2]
    depth = batch.radar[:, 0].numpy().repeat(scale, 1).repeat(scale, 2)
    shown = depth > 0
    image[shown] = image[shown] // 3 + depth_colour(depth[shown], max_depth) // 3 * 2
    return np.asarray(image, np.uint8)


def draw(spec: Fusion3d, image: Array, prediction: Mapping[str, Any], truth: Sample | None) -> Image:
    """The picture with boxes, and beside it the view from above.

    Args:
        image: (H, W, 3) uint8.  prediction: a row of `predict`'s columns.  truth: the sample, in the same pixels; its
            calibration and radar are needed, its boxes are drawn in green.
    """
    from PIL import Image as Images

    row = {
        name: np.asarray(prediction[name])
        for name in ("score", "label", "center", "dims", "yaw", "velocity", "box")
    }
    keep = row["score"] >= spec.shown
    row = {name: values[keep] for name, values in row.items()}
    picture = _in_picture(spec, image, row, truth)
    above = _from_above(spec, row, truth, picture.height)
    sheet = Images.new("RGB", (picture.width + above.width, picture.height), _PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(above, (picture.width, 0))
    return sheet


def _in_picture(spec: Fusion3d, image: Array, row: Mapping[str, Array], truth: Sample | None) -> Image:
    from PIL import Image as Images
    from PIL import ImageDraw

    shown = Images.fromarray(np.ascontiguousarray(image[..., :3]))
    factor = max(1, -(-480 // shown.width))
    shown = shown.resize((shown.width * factor, shown.height * factor))
    pen = ImageDraw.Draw(shown)
    if (
        truth is None or truth.calib is None
    ):  # no calibration at hand: what is left is the frame around each box
        for box, label in zip(row["box"] * factor, row["label"], strict=True):
            x0, y0, x1, y1 = box.tolist()
            pen.rectangle(
                (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)),
                outline=spec.palette[int(label)],
                width=2,
            )
        return shown
    calib = np.diag([factor, factor, 1.0]) @ truth.calib
    radar = truth.extra.get("radar", np.zeros((0, 5)))
    ahead = radar[(radar[:, 2] > 0.5) & (radar[:, 2] <= spec.max_depth)]
    for (u, v, z), colour in zip(
        project(calib, ahead[:, :3].astype(np.float64)).tolist(),
        depth_colour(ahead[:, 2], spec.max_depth).tolist(),
        strict=True,
    ):
        if 0 <= u < shown.width and 0 <= v < shown.height and z > 0:
            pen.ellipse((u - 2, v - 2, u + 2, v + 2), fill=tuple(colour))
    if "box_center" in truth.extra:
        _wires(
            pen,
            calib,
            truth.extra["box_center"],
            truth.extra["box_dims"],
            truth.extra["box_yaw"],
            [_TRUTH] * 10**4,
            1,
        )
    colours = [spec.palette[int(label)] for label in row["label"]]
    _wires(pen, calib, row["center"], row["dims"], row["yaw"], colours, 2)
    return shown


def _wires(pen: Any, calib: Array, center: Array, dims: Array, yaw: Array, colours: Any, width: int) -> None:
    """Draw the edges of boxes that lie wholly before the camera; the front face gets a cross."""
    if not len(center):
        return
    seen = project(calib, corners(center, dims, yaw))
    for points, colour in zip(seen, colours, strict=False):
        if (points[:, 2] < 0.3).any():
            continue
        flat = [tuple(point) for point in points[:, :2].tolist()]
        for a, b in (*_EDGES, (0, 5), (1, 4)):
            pen.line((*flat[a], *flat[b]), fill=tuple(colour), width=width)


def _from_above(spec: Fusion3d, row: Mapping[str, Array], truth: Sample | None, side: int) -> Image:
    """What lies before the camera, seen from above: the camera at the bottom, `max_depth` metres to the top."""
    from PIL import Image as Images
    from PIL import ImageDraw

    sheet = Images.new("RGB", (side, side), _PAPER)
    pen = ImageDraw.Draw(sheet)
    scale = 0.94 * side / spec.max_depth

    def at(x: float, z: float) -> tuple[float, float]:
        return side / 2 + x * scale, side * 0.97 - z * scale

    for ring in range(10, int(spec.max_depth) + 1, 10):
        x, y = at(0, 0)
        r = ring * scale
        pen.arc((x - r, y - r, x + r, y + r), 200, 340, fill=(214, 216, 218))
        pen.text((x + 3, y - r - 11), f"{ring} m", fill=(150, 154, 158))
    x, y = at(0, 0)
    pen.polygon([(x, y - 6), (x - 5, y + 4), (x + 5, y + 4)], fill=_INK)
    if truth is not None:
        radar = truth.extra.get("radar", np.zeros((0, 5)))
        for px, _, pz, vx, vz, *_ in radar.tolist():
            if 0 < pz <= spec.max_depth:
                u, v = at(px, pz)
                pen.line((u, v, *at(px + vx * _SECONDS, pz + vz * _SECONDS)), fill=(232, 150, 110))
                pen.ellipse((u - 1.5, v - 1.5, u + 1.5, v + 1.5), fill=(214, 84, 40))
        extra = truth.extra
        if "box_center" in extra:
            speed = np.nan_to_num(extra["box_velocity"])
            _footprints(
                pen,
                at,
                extra["box_center"],
                extra["box_dims"],
                extra["box_yaw"],
                speed,
                [_TRUTH] * len(speed),
                1,
            )
    colours = [spec.palette[int(label)] for label in row["label"]]
    _footprints(pen, at, row["center"], row["dims"], row["yaw"], row["velocity"], colours, 2)
    return sheet


def _footprints(
    pen: Any, at: Any, center: Array, dims: Array, yaw: Array, velocity: Array, colours: Any, width: int
) -> None:
    """Draw boxes from above, a line to their front, and an arrow of their movement in a second."""
    if not len(center):
        return
    for points, middle, speed, colour in zip(
        corners(center, dims, yaw), center, velocity, colours, strict=True
    ):
        flat = [at(*point) for point in points[:4, [0, 2]].tolist()]
        pen.line([*flat, flat[0]], fill=tuple(colour), width=width)
        front = ((flat[0][0] + flat[1][0]) / 2, (flat[0][1] + flat[1][1]) / 2)
        x, z = float(middle[0]), float(middle[2])
        pen.line((*at(x, z), *front), fill=tuple(colour), width=1)
        if float(np.hypot(speed[0], speed[2])) > 0.5:
            pen.line(
                (*at(x, z), *at(x + speed[0] * _SECONDS, z + speed[2] * _SECONDS)),
                fill=tuple(colour),
                width=width,
            )
