"""Pictures of predictions: 3D boxes in the camera's picture, and the same from above with radar and velocities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_DRAWN = (*_EDGES, (0, 5), (1, 4))  # the front face is crossed out
_NEAR = 0.3  # metres before the camera from which on an edge is drawn
PAPER, _INK, TRUTH = (250, 250, 248), (60, 66, 72), (34, 150, 84)
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
    sheet = Images.new("RGB", (picture.width + above.width, picture.height), PAPER)
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
        solids = corners(truth.extra["box_center"], truth.extra["box_dims"], truth.extra["box_yaw"])
        wires(pen, calib, solids, [TRUTH] * len(solids), 1)
    colours = [spec.palette[int(label)] for label in row["label"]]
    wires(pen, calib, corners(row["center"], row["dims"], row["yaw"]), colours, 2)
    return shown


def wires(pen: Any, calib: Array, solids: Array, colours: Any, width: int) -> None:
    """Draw the edges of boxes given by their corners in the camera's frame (N, 8, 3), as far as they lie before the
    camera; the front face gets a cross."""
    ends = solids[:, np.array(_DRAWN)]  # (N, 14, 2, 3)
    away = ends[..., 2]  # (N, 14, 2)
    share = (_NEAR - away[..., :1]) / np.where(
        away[..., 1:] == away[..., :1], 1, away[..., 1:] - away[..., :1]
    )
    cut = ends[..., :1, :] + share[..., None] * (
        ends[..., 1:, :] - ends[..., :1, :]
    )  # where an edge meets the plane
    seen = project(calib, np.where((away < _NEAR)[..., None], cut, ends))
    for edges, depths, colour in zip(seen[..., :2].tolist(), away.max(-1).tolist(), colours, strict=True):
        for (start, end), depth in zip(edges, depths, strict=True):
            if depth > _NEAR:
                pen.line((*start, *end), fill=tuple(colour), width=width)


def span(feet: Sequence[Array], most: float) -> float:
    """Metres that a view from above reaches: nine of ten boxes, in tens, at least 20 and no more than `most`.

    feet: corners on the ground, (N, 4, 2) from the viewer, of boxes that were found and that are annotated.
    """
    away = np.concatenate([np.hypot(each[..., 0], each[..., 1]).mean(1) for each in feet])  # (N,)
    if not len(away):
        return most
    return float(min(most, max(20.0, 10.0 * np.ceil(np.quantile(away, 0.9) / 10))))


@dataclass(frozen=True)
class Ground:
    """The ground from above, in metres to the right and ahead: a square of `side` pixels.

    middle: pixels of the place that is looked from.  scale: pixels per metre.
    """

    pen: Any
    middle: tuple[float, float]
    scale: float

    def at(self, right: float, ahead: float) -> tuple[float, float]:
        """Pixels of a place."""
        return self.middle[0] + right * self.scale, self.middle[1] - ahead * self.scale

    def rings(self, most: float, start: int, end: int) -> None:
        """Draw a ring every ten metres, between two angles in degrees, and the viewer."""
        x, y = self.middle
        for ring in range(10, int(most) + 1, 10):
            r = ring * self.scale
            self.pen.arc((x - r, y - r, x + r, y + r), start, end, fill=(214, 216, 218))
            self.pen.text((x + 3, y - r - 11), f"{ring} m", fill=(150, 154, 158))
        self.pen.polygon([(x, y - 6), (x - 5, y + 4), (x + 5, y + 4)], fill=_INK)

    def radar(self, rows: Array) -> None:
        """Draw radar returns (N, 4), right, ahead and their velocities, with what they move in a second."""
        for right, ahead, vr, va in rows.tolist():
            u, v = self.at(right, ahead)
            self.pen.line(
                (u, v, *self.at(right + vr * _SECONDS, ahead + va * _SECONDS)), fill=(232, 150, 110)
            )
            self.pen.ellipse((u - 1.5, v - 1.5, u + 1.5, v + 1.5), fill=(214, 84, 40))

    def boxes(self, feet: Array, speed: Array, colours: Any, width: int) -> None:
        """Draw boxes by their corners on the ground (N, 4, 2), the front two first, and with arrows what they move in a
        second by their speed (N, 2)."""
        for points, (vr, va), colour in zip(feet, np.nan_to_num(speed).tolist(), colours, strict=True):
            flat = [self.at(*point) for point in points.tolist()]
            self.pen.line([*flat, flat[0]], fill=tuple(colour), width=width)
            right, ahead = points.mean(0).tolist()
            front = (flat[0][0] + flat[1][0]) / 2, (flat[0][1] + flat[1][1]) / 2
            self.pen.line((*self.at(right, ahead), *front), fill=tuple(colour), width=1)
            if float(np.hypot(vr, va)) > 0.5:
                self._arrow(
                    self.at(right, ahead),
                    self.at(right + vr * _SECONDS, ahead + va * _SECONDS),
                    colour,
                    width,
                )

    def _arrow(self, start: tuple[float, float], end: tuple[float, float], colour: Any, width: int) -> None:
        self.pen.line((*start, *end), fill=tuple(colour), width=width)
        turn = np.arctan2(start[1] - end[1], start[0] - end[0])
        for side in (-0.45, 0.45):
            head = end[0] + 5 * np.cos(turn + side), end[1] + 5 * np.sin(turn + side)
            self.pen.line((*end, *head), fill=tuple(colour), width=width)


def _from_above(spec: Fusion3d, row: Mapping[str, Array], truth: Sample | None, side: int) -> Image:
    """What lies before the camera, seen from above: the camera at the bottom, ahead of it is up."""
    from PIL import Image as Images
    from PIL import ImageDraw

    sheet = Images.new("RGB", (side, side), PAPER)
    feet = corners(row["center"], row["dims"], row["yaw"])[:, :4, [0, 2]]
    extra = {} if truth is None else truth.extra
    true = np.zeros((0, 4, 2))
    if "box_center" in extra:
        true = corners(extra["box_center"], extra["box_dims"], extra["box_yaw"])[:, :4, [0, 2]]
    reach = span((feet, true), spec.max_depth)
    ground = Ground(ImageDraw.Draw(sheet), (side / 2, side * 0.97), 0.94 * side / reach)
    ground.rings(reach, 200, 340)
    radar = extra.get("radar", np.zeros((0, 5)))
    ground.radar(radar[(radar[:, 2] > 0) & (radar[:, 2] <= reach)][:, [0, 2, 3, 4]])
    if len(true):
        ground.boxes(true, extra["box_velocity"][:, [0, 2]], [TRUTH] * len(true), 1)
    colours = [spec.palette[int(label)] for label in row["label"]]
    ground.boxes(feet, row["velocity"][:, [0, 2]], colours, 2)
    return sheet
