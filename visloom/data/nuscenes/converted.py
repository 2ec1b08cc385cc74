"""Converted: the JSON that the original CenterFusion makes of nuScenes (`annotations_3sweeps/train.json`), as it is.

Its pictures, radar returns and boxes are those of the tables. Its truth is not whole: it lists what cameras see, and
not how many sensor returns lie on a box; an evaluation on it counts those boxes. The real files are gigabytes of text,
so they become arrays once, in the cache, and the radar stays on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.images import read_image
from visloom.data.layout import Layout, head, some
from visloom.data.nuscenes.names import ATTRIBUTES, CAMERAS, CLASSES, picture_name
from visloom.data.nuscenes.source import cache_folder
from visloom.data.scene_sample import joined
from visloom.data.space import about_z, move
from visloom.data.truth import Truth, WorldBoxes
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.source import Source

Array = NDArray[Any]
_FORM = 1  # of the cached files
_IMAGE = (
    "id",
    "file_name",
    "calib",
    "video_id",
    "frame_id",
    "sensor_id",
    "sample_token",
    "trans_matrix",
    "radar_pc",
)
_BOX = (
    "image_id",
    "category_id",
    "dim",
    "location",
    "rotation_y",
    "attributes",
    "velocity_cam",
    "bbox",
    "alpha",
)
_ROWS = (0, 1, 2, 8, 9, 5)  # of the 18 rows of radar_pc: x y z, velocity right and ahead, cross-section


@dataclass(frozen=True)
class _Opened:
    root: Path
    arrays: dict[str, Array]
    radar: Array  # (R, 6), mapped from the disk


@dataclass(frozen=True, kw_only=True, repr=False)
class Converted(Source):
    """A file of the original's converter, one camera a sample (`visloom/data/scene3d.py`).

    root: the data root that its pictures lie in.  file: below it.  cache: where the arrays go; "" as for `NuScenes`.
    """

    file: str = "annotations_3sweeps/train.json"
    cache: str = ""

    def open(self) -> _Opened:
        root, file = Path(self.root), Path(self.root) / self.file
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
        words = [_FORM, str(file.resolve()), stat.st_size, stat.st_mtime_ns]
        stamp = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        place = cache_folder(root, self.cache) / f"converted-{stamp}"
        if not (place / "arrays.npz").is_file():
            _write(place, *_read(file))
        with np.load(place / "arrays.npz", allow_pickle=False) as stored:
            arrays = dict(stored)
        return _Opened(root, arrays, np.load(place / "radar.npy", mmap_mode="r", allow_pickle=False))

    def count(self) -> int:
        return len(self.opened().arrays["picture_file"])

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def part_name(self) -> str:
        """The file's name without its ending, by which the original calls a split."""
        return Path(self.file).stem

    def elsewhere(self, root: str, part: str) -> Converted:
        """Another file, beside this one, of the same number of sweeps."""
        return replace(
            self, root=root, file=str(Path(self.file).with_name(f"{part}.json")), split=None, limit=None
        )

    def token_of(self, index: int) -> str:
        """The token of a picture's moment."""
        kept = self.chosen()
        return str(self.opened().arrays["token"][index if kept is None else kept[index]])

    def check(self) -> list[str]:
        opened: _Opened = self.opened()
        files = opened.arrays["picture_file"].tolist()
        gone = [file for file in files if not (opened.root / file).is_file()]
        if gone:
            raise DataError(
                f"{opened.root / self.file}: {len(gone):,} of {len(files):,} pictures are not on disk: {some(gone, 3)}"
            )
        return [
            f"{self.file}: evaluations count the boxes that cameras see; the tables of nuScenes know all of them"
        ]

    def fetch(self, index: int) -> Sample:
        opened: _Opened = self.opened()
        at = opened.arrays
        image = read_image(opened.root / str(at["picture_file"][index]))
        rows = slice(*at["box_start"][index : index + 2].tolist())
        radar = np.array(opened.radar[slice(*at["radar_start"][index : index + 2].tolist())])
        lens, pose, camera = at["calib"][index], at["pose"][index], CAMERAS[int(at["camera"][index])]
        names = ("center", "dims", "yaw", "velocity", "attribute", "alpha")
        boxes = {"boxes": at["box_framed"][rows], "labels": at["box_label"][rows]}
        return joined(
            {**boxes, **{f"box_{name}": at[f"box_{name}"][rows] for name in names}},
            name=picture_name(str(at["picture_file"][index]), camera),
            image=image,
            lens=lens,
            pose=pose,
            radar=np.hstack([radar, np.zeros((len(radar), 1), np.float32)]),
            token=str(at["token"][index]),
            camera=camera,
            truth=_truth(at, index),
            attributes=ATTRIBUTES,
        )

    def __repr__(self) -> str:
        known = f"{len(self):,} pictures of " if "_opened" in self.__dict__ else ""
        return f"Converted({known}{self.file})"


def _truth(at: dict[str, Array], picture: int) -> Truth:
    """What the cameras of a picture's moment see, each thing once."""
    moment = int(np.searchsorted(at["moment_start"], picture, side="right"))
    pictures = range(*at["moment_start"][moment - 1 : moment + 1].tolist())
    parts, things = [], []
    for index in pictures:
        rows = slice(*at["box_start"][index : index + 2].tolist())
        pose, yaw, dims = at["pose"][index], at["box_yaw"][rows], at["box_dims"][rows]
        front = np.stack([np.cos(yaw), np.zeros_like(yaw), -np.sin(yaw)], 1) @ pose[:3, :3].T
        parts.append(
            WorldBoxes(
                label=at["box_label"][rows],
                center=move(pose, at["box_center"][rows]),
                size=dims[:, [1, 2, 0]],
                rotation=about_z(np.arctan2(front[:, 1], front[:, 0])),
                velocity=(at["box_velocity"][rows] @ pose[:3, :3].T)[:, :2],
                attribute=at["box_attribute"][rows],
                score=np.full(len(dims), -1.0),
                points=np.full(len(dims), -1, np.int64),
            )
        )
        things.append(at["box_track"][rows])
    _, first = np.unique(np.concatenate(things), return_index=True)
    boxes = WorldBoxes.join(parts).pick(np.sort(first))
    return Truth(str(at["token"][picture]), at["origin"][pictures[0]], boxes, WorldBoxes.none())


def _read(file: Path) -> tuple[dict[str, Array], Array]:
    """The arrays of a file, the cameras of a moment one after the other; and its radar returns."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: no JSON that can be read: {error}") from error
    if not isinstance(value, dict) or not all(
        isinstance(value.get(n), list) for n in ("images", "annotations")
    ):
        raise DataError(
            f"{file}: the original's converter writes the lists images and annotations; they are not here"
        )
    boxes: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(value["annotations"]):
        _require(file, f"annotations[{number}]", row, _BOX)
        boxes.setdefault(row["image_id"], []).append(row)
    first: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(value["images"]):
        _require(file, f"images[{number}]", row, _IMAGE)
        place = int(row["video_id"]), int(row["frame_id"])
        first[row["sample_token"]] = min(place, first.get(row["sample_token"], place))
    images = sorted(
        value["images"], key=lambda row: (first[row["sample_token"]], row["sample_token"], row["sensor_id"])
    )
    if not images:
        raise DataError(f"{file}: images is empty")
    known = {str(row.get("id")): row.get("name") for row in value.get("categories", ())}
    wrong = {i: n for i, n in known.items() if n not in CLASSES or CLASSES.index(n) + 1 != int(i)}
    if wrong:
        raise DataError(
            f"{file}: categories are {', '.join(CLASSES)}, numbered from 1; this file has {wrong}"
        )
    tokens = [row["sample_token"] for row in images]
    starts = [i for i in range(1, len(tokens)) if tokens[i] != tokens[i - 1]]
    chosen = [row for image in images for row in boxes.get(image["id"], ())]
    radar = [_radar(file, row) for row in images]
    dims, low = _column(file, chosen, "dim", 3), _column(file, chosen, "bbox", 4)
    middle = _column(file, chosen, "location", 3) - dims[:, :1] / 2 * (0, 1, 0)  # it is of the bottom
    return {
        "picture_file": np.array([row["file_name"] for row in images], "U"),
        "token": np.array([row["sample_token"] for row in images], "U"),
        "moment_start": np.array([0, *starts, len(images)]),
        "camera": np.array([_camera(file, row) for row in images], np.int64),
        "calib": _column(file, images, "calib", 3, 4),
        "pose": _column(file, images, "trans_matrix", 4, 4),
        "origin": np.array([row.get("pose_record_trans", [0, 0, 0])[:2] for row in images], np.float64),
        "radar_start": np.cumsum([0, *map(len, radar)]),
        "box_start": np.cumsum([0, *(len(boxes.get(row["id"], ())) for row in images)]),
        "box_framed": np.concatenate([low[:, :2], low[:, :2] + low[:, 2:]], 1),
        "box_label": _column(file, chosen, "category_id").astype(np.int64) - 1,
        "box_center": middle,
        "box_dims": dims,
        "box_yaw": _column(file, chosen, "rotation_y"),
        "box_alpha": _column(file, chosen, "alpha"),
        "box_velocity": np.array([row["velocity_cam"][:3] for row in chosen], np.float64).reshape(-1, 3),
        "box_attribute": np.clip(
            _column(file, chosen, "attributes").astype(np.int64) - 1, -1, len(ATTRIBUTES) - 1
        ),
        "box_track": np.array([row.get("track_id", -1 - i) for i, row in enumerate(chosen)], np.int64),
    }, np.concatenate(radar)


def _require(file: Path, where: str, row: Any, keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if not isinstance(row, dict) or key not in row]
    if missing:
        raise DataError(f"{file}: {where} has no {', '.join(missing)}: it is not of the original's converter")


def _column(file: Path, rows: list[dict[str, Any]], name: str, *shape: int) -> Array:
    try:
        return np.array([row[name] for row in rows], np.float64).reshape(-1, *shape)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{file}: {name} of its rows are not all {'x'.join(map(str, shape)) or 'one'} numbers"
        ) from error


def _camera(file: Path, row: dict[str, Any]) -> int:
    if row["sensor_id"] not in range(1, len(CAMERAS) + 1):
        raise DataError(
            f"{file}: image {row['id']} has sensor_id {row['sensor_id']}; cameras are 1 to {len(CAMERAS)}"
        )
    return int(row["sensor_id"]) - 1


def _radar(file: Path, row: dict[str, Any]) -> NDArray[np.float32]:
    """(N, 6) returns in the camera's frame."""
    found = np.array(row["radar_pc"], np.float32)
    if not found.size:
        return np.zeros((0, 6), np.float32)
    if found.ndim != 2 or len(found) != 18:
        raise DataError(f"{file}: radar_pc of image {row['id']} has shape {found.shape}, expected 18 rows")
    return found[list(_ROWS)].T


def _write(place: Path, arrays: dict[str, Array], radar: Array) -> None:
    """Write the radar, then the arrays: a folder that has those is whole."""
    place.mkdir(parents=True, exist_ok=True)
    part = place / f".{os.getpid()}.tmp"
    with part.open("wb") as out:
        np.save(out, radar, allow_pickle=False)
    os.replace(part, place / "radar.npy")
    with part.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **arrays)
    os.replace(part, place / "arrays.npz")


def recognise(folder: Path) -> Layout | None:
    """Return what the files of the original's converter hold, or None if there are none."""
    found = sorted(folder.glob("annotations*/*.json"))
    splits = {file.stem: file for file in found if file.parent == found[0].parent}
    pair = next((p for p in (("train", "val"), ("mini_train", "mini_val")) if p[0] in splits), None)
    if pair is None or b'"sample_token"' not in head(splits[pair[0]], 1 << 16):
        return None
    train, val = (splits.get(name, splits[pair[0]]) for name in pair)
    parts = {
        name: Converted(file=str(file.relative_to(folder))) for name, file in (("train", train), ("val", val))
    }
    return Layout(
        kind="nuScenes as the original CenterFusion converts it",
        parts=parts,
        classes=CLASSES,
        said=(f"files in {found[0].parent.name}: {some(list(splits))}",),
    )
