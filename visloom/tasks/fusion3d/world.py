"""World: detections of single cameras as boxes of the world, joined by moment, and as a nuScenes submission."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import about_z, move, multiply, quaternion
from visloom.data.truth import WorldBoxes
from visloom.errors import DataError

if TYPE_CHECKING:
    from visloom.tasks.fusion3d.spec import Fusion3d

Array = NDArray[Any]
COLUMNS = ("score", "label", "center", "dims", "yaw", "velocity", "attribute")
Row = Mapping[str, Array]
"""Detections of one picture: the columns of `predict`, K rows each."""


def to_world(row: Row, pose: Array, *, lifted: bool = False, tipped: bool = False) -> WorldBoxes:
    """The boxes of one picture in the world; those with score 0 are none. lifted, tipped: see `Compat`."""
    keep = row["score"] > 0
    dims, yaw = row["dims"][keep].astype(np.float64), row["yaw"][keep].astype(np.float64)
    center = row["center"][keep].astype(np.float64)
    if lifted:
        center = center - dims[:, :1] / 2 * (0, 1, 0)
    front = np.stack([np.cos(yaw), np.zeros_like(yaw), -np.sin(yaw)], 1) @ pose[:3, :3].T
    rotation = about_z(np.arctan2(front[:, 1], front[:, 0]))
    if tipped:
        half = yaw / 2
        about_y = np.stack([np.cos(half), 0 * half, np.sin(half), 0 * half], 1)
        rotation = multiply(np.broadcast_to(quaternion(pose[:3, :3]), (len(yaw), 4)), about_y)
    velocity = row["velocity"][keep].astype(np.float64) @ pose[:3, :3].T
    count = len(yaw)
    return WorldBoxes(
        label=row["label"][keep].astype(np.int64),
        center=move(pose, center).reshape(count, 3),
        size=dims[:, [1, 2, 0]],
        rotation=rotation.reshape(count, 4),
        velocity=velocity[:, :2].reshape(count, 2),
        attribute=row["attribute"][keep].astype(np.int64),
        score=row["score"][keep].astype(np.float64),
        points=np.full(count, -1, np.int64),
    )


def join_cameras(parts: Sequence[WorldBoxes], *, most: int, merge: bool) -> WorldBoxes:
    """The detections of one moment, the surest `most` of them.

    merge: of boxes of one class that two cameras see nearer to each other than half their length (at least
    half a metre),
    the surer stays. A camera's own boxes are left alone: its peaks are apart already.
    """
    boxes = WorldBoxes.join(list(parts)) if parts else WorldBoxes.none()
    camera = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(-boxes.score, kind="stable")
    boxes, camera = boxes.pick(order), camera[order]
    if merge and len(boxes):
        away = np.linalg.norm(boxes.center[:, None, :2] - boxes.center[None, :, :2], axis=-1)
        length = boxes.size[:, 1]
        near = away < np.maximum((length[:, None] + length) / 4, 0.5)
        same = near & (boxes.label[:, None] == boxes.label) & (camera[:, None] != camera)
        kept = np.ones(len(boxes), bool)
        for i in np.flatnonzero(np.triu(same, 1).any(0)).tolist():  # those that a surer box may stand for
            kept[i] = not (same[i, :i] & kept[:i]).any()
        boxes = boxes.pick(kept)
    return boxes.pick(slice(most))


# ------------------------------------------------------------------------------------------------- submissions


def submission(found: Mapping[str, WorldBoxes], spec: Fusion3d) -> dict[str, Any]:
    """Detections by token in the form that nuScenes takes."""
    return {
        "meta": meta(spec),
        "results": {token: entries(token, boxes, spec) for token, boxes in found.items()},
    }


def meta(spec: Fusion3d) -> dict[str, bool]:
    """What a submission says of the sensors that were used."""
    return {
        "use_camera": True,
        "use_lidar": False,
        "use_radar": spec.radar,
        "use_map": False,
        "use_external": False,
    }


def entries(token: str, boxes: WorldBoxes, spec: Fusion3d) -> list[dict[str, Any]]:
    """The boxes of a moment as a submission lists them."""
    return [
        {
            "sample_token": token,
            "translation": boxes.center[i].tolist(),
            "size": boxes.size[i].tolist(),
            "rotation": boxes.rotation[i].tolist(),
            "velocity": boxes.velocity[i].tolist(),
            "detection_name": spec.classes[int(boxes.label[i])],
            "detection_score": float(boxes.score[i]),
            "attribute_name": spec.attributes[int(boxes.attribute[i])] if boxes.attribute[i] >= 0 else "",
        }
        for i in range(len(boxes))
    ]


class Results:
    """results.json, moment by moment; it appears whole when `keep` is called."""

    def __init__(self, folder: Path | None, spec: Fusion3d) -> None:
        self.spec, self.final = spec, None if folder is None else folder / "results.json"
        self._file, self._first = None, True
        if folder is not None:
            self._part = folder / f".results.json.tmp-{os.getpid()}"
            self._file = self._part.open("w", encoding="utf-8")
            self._file.write(f'{{"meta": {json.dumps(meta(spec))},\n"results": {{')

    def add(self, token: str, boxes: WorldBoxes) -> None:
        """Write one moment."""
        if self._file is not None:
            rows = json.dumps(entries(token, boxes, self.spec))
            self._file.write(f"{'' if self._first else ','}\n{json.dumps(token)}: {rows}")
            self._first = False

    def keep(self) -> None:
        """Put the finished file in its place."""
        if self._file is not None and self.final is not None:
            self._file.write("\n}}\n")
            self._file.close()
            os.replace(self._part, self.final)

    def close(self) -> None:
        """Leave nothing half-written behind."""
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)


def read_submission(
    file: Path, tokens: Sequence[str], classes: Sequence[str], attributes: Sequence[str], most: int = 500
) -> dict[str, WorldBoxes]:
    """Read a submission and check it against the moments that it must answer.

    Raises:
        DataError: no JSON, a moment that is missing, too many boxes, a class or attribute that is unknown, a
        number that
            is not finite; each with the file and the moment.
    """
    try:
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
        given = dict(results)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no submission: it needs {{'meta': ..., 'results': {{token: [boxes]}}}} ({error})"
        ) from error
    missing = [token for token in tokens if token not in given]
    if missing:
        raise DataError(
            f"{file}: the submission is incomplete: {len(missing):,} of {len(tokens):,} moments have no entry, "
            f"{missing[0]!r} first; a moment without detections has an empty list"
        )
    found = {}
    for token in tokens:
        if len(given[token]) > most:
            raise DataError(f"{file}: {token!r} has {len(given[token]):,} boxes; {most} count at most")
        found[token] = _read_boxes(file, token, given[token], list(classes), list(attributes))
    return found


def _read_boxes(file: Path, token: str, rows: Any, classes: list[str], attributes: list[str]) -> WorldBoxes:
    if not rows:
        return WorldBoxes.none()
    try:
        boxes = WorldBoxes(
            label=np.array([classes.index(row["detection_name"]) for row in rows], np.int64),
            center=np.array([row["translation"] for row in rows], np.float64).reshape(-1, 3),
            size=np.array([row["size"] for row in rows], np.float64).reshape(-1, 3),
            rotation=np.array([row["rotation"] for row in rows], np.float64).reshape(-1, 4),
            velocity=np.array([row["velocity"] for row in rows], np.float64).reshape(-1, 2),
            attribute=np.array(
                [attributes.index(row["attribute_name"]) if row["attribute_name"] else -1 for row in rows],
                np.int64,
            ),
            score=np.array([row["detection_score"] for row in rows], np.float64),
            points=np.full(len(rows), -1, np.int64),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{file}: a box of {token!r} cannot be read: {error!r}") from error
    for name in ("center", "size", "rotation", "score"):
        if not np.isfinite(getattr(boxes, name)).all():
            raise DataError(f"{file}: a box of {token!r} has a {name} that is not finite")
    return boxes
