"""Tables of nuScenes: thirteen JSON files become one small file per scene, once.

The tables of the whole set are gigabytes of JSON, so they are read once, by `convert`, and what a picture
needs is cached
scene by scene: a stopped conversion goes on where it was, a few kilobytes a moment. Radar returns are not in
it: they are
read from their `.pcd` files when a picture is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.nuscenes.names import ATTRIBUTES, CAMERAS, CATEGORIES, CLASSES, RACK, RADAR_CHANNELS
from visloom.data.nuscenes.splits import SPLITS, scenes_of
from visloom.durable import write_json
from visloom.errors import DataError

Array = NDArray[Any]
TABLES = (
    "scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sample_annotation", "instance", "sensor",
    "category", "attribute",
)  # fmt: skip
ANNOTATIONS = ("sample_annotation", "instance", "category", "attribute")
"""Tables without which pictures and radar can still be predicted."""

FORM = 4
"""Of the cached files; another number converts anew."""

_PROBED = 8
"""Of a scene's missing files, so many first and last ones are looked for again."""

SWEEPS = 12
"""Sweeps of a radar that are remembered, the keyframe's among them; a second of nuScenes."""


@dataclass(frozen=True)
class Index:
    """What is cached: the scenes in order, the pictures of each, and what was missing.

    pictures: for each scene its (moment, camera) pairs: rows of `moment`, `camera` in the scene's file.
    annotated: whether the tables of annotations are here.
    """

    folder: Path
    scenes: tuple[str, ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...]
    annotated: bool = True


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read one table. Raises DataError if it is missing or no table."""
    file = folder / f"{name}.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{file}: this table of nuScenes is missing or cannot be read ({error.strerror or error}); a data root has "
            f"a folder like v1.0-mini with {', '.join(TABLES)} and three more"
        ) from error
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}; unpack the archive again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: a table is a list of records")
    return rows


def version_of(root: Path, version: str) -> str:
    """The version folder of a data root: the one asked for, or the only one. Raises DataError."""
    if version:
        if not (root / version).is_dir():
            raise DataError(f"{root}: there is no folder {version} with the tables of nuScenes")
        return version
    found = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
    if len(found) != 1:
        has = f"it has {', '.join(found)}: set version" if found else "no folder in it has sample_data.json"
        raise DataError(f"{root}: a data root of nuScenes holds one folder of tables; {has}")
    return found[0]


def scene_names(root: Path, version: str, split: str) -> list[str]:
    """Scenes of a split, in order of the table: nuScenes' own splits, those of splits.json, a scene's name, or "all".

    Raises:
        DataError: no such split, or none of its scenes is here.
    """
    folder = root / version
    here = [row["name"] for row in table(folder, "scene")]
    if not here:
        raise DataError(f"{folder}/scene.json: the table lists no scene: unpack the archive again")
    twice = sorted({name for name in here if here.count(name) > 1}) if len(set(here)) < len(here) else []
    if twice:
        raise DataError(
            f"{folder}/scene.json: scenes are told apart by name; {', '.join(twice[:3])} is there twice"
        )
    if split == "all":
        return here
    if split in here:
        return [split]
    wanted: set[str] | frozenset[str] | None = None
    own = folder / "splits.json"
    extra: Mapping[str, Sequence[str]] = {}
    if own.is_file():
        extra = json.loads(own.read_text(encoding="utf-8"))
        wanted = set(extra[split]) if split in extra else None
    wanted = scenes_of(split) if wanted is None else wanted
    if wanted is None:
        raise DataError(f"nuScenes has no split {split!r}; there are {', '.join([*SPLITS, *extra, 'all'])}")
    chosen = [name for name in here if name in wanted]
    if not chosen:
        raise DataError(
            f"{folder}: none of the {len(wanted)} scenes of split {split!r} is here; it has {len(here)}, "
            f"{', '.join(here[:3])} first. Unpack another part, or choose another split"
        )
    return chosen


# ------------------------------------------------------------------------------------------------- converting


def convert(
    root: Path,
    version: str,
    split: str,
    cache: Path,
    *,
    missing: str = "skip",
    say: Callable[[str], None] = lambda _: None,
) -> Index:
    """Cache the scenes of a split that are not cached yet.

    Args:
        cache: folder of the cached files; a folder of its own for this root, version and policy is made in it.
        missing: what is done about files that are not on disk: "skip" leaves their pictures or sweeps out and notes it,
            "error" raises.
    Raises:
        DataError: a table is missing, no scene is there, a rotation is none, or files are missing under "error".
    """
    names = scene_names(root, version, split)
    stamp = _stamp(root, version, missing)
    gone = [name for name in ANNOTATIONS if not (root / version / f"{name}.json").is_file()]
    place = cache / f"{version}-{stamp}"
    place.mkdir(parents=True, exist_ok=True)
    todo = [name for name in names if not _is_cached(root, place, name)]
    if todo:
        say(f"nuScenes {version}: reading tables for {len(todo)} of {len(names)} scenes of {split}")
        try:
            tables = _Tables(root, version, tuple(gone))
        except KeyError as error:
            raise DataError(f"{root / version}: a record of the tables has no field {error}") from error
        for number, name in enumerate(todo):
            try:
                scene = tables.scene(name)
            except KeyError as error:
                raise DataError(f"{root / version}: a record of scene {name} has no field {error}") from error
            _write_scene(place, name, scene)
            if (number + 1) % 50 == 0:
                say(f"nuScenes {version}: {number + 1} of {len(todo)} scenes")
    heads = [json.loads(cached_file(place, name, ".json").read_text(encoding="utf-8")) for name in names]
    notes = [note for head in heads for note in head["notes"]]
    if notes and missing == "error":
        raise DataError(
            f"{root}: {len(notes)} files of split {split!r} are missing, {'; '.join(notes[:3])}; set "
            "missing to skip to go on without them"
        )
    if not any(head["pictures"] for head in heads):
        raise DataError(f"{root}: none of the pictures of split {split!r} is on disk, {'; '.join(notes[:3])}")
    notes = [f"{version}/{name}.json is missing" for name in gone] + notes
    return Index(
        place, tuple(names), tuple(head["pictures"] for head in heads), tuple(notes), annotated=not gone
    )


def _stamp(root: Path, version: str, missing: str) -> str:
    """Which tables: their sizes and times."""
    facts = [FORM]
    for name in TABLES:
        try:
            stat = (root / version / f"{name}.json").stat()
        except OSError:
            if name in ANNOTATIONS and missing == "skip":
                facts += [0, 0]
                continue
            table(root / version, name)  # says what is missing
            raise
        facts += [stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(json.dumps([str(root.resolve()), facts]).encode()).hexdigest()[:16]


def cached_file(place: Path, name: str, ending: str) -> Path:
    """The file of a scene in the cache. A name that is no plain word, which might lead elsewhere, is hashed."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name)
    return place / f"{name if plain else hashlib.sha256(name.encode()).hexdigest()}{ending}"


def _is_cached(root: Path, place: Path, name: str) -> bool:
    """Whether a scene is cached and nothing that was missing then has come since: another archive may be unpacked."""
    file = cached_file(place, name, ".json")
    if not file.is_file():
        return False
    gone = json.loads(file.read_text(encoding="utf-8"))["gone"]
    return not any((root / each).is_file() for each in [*gone[:_PROBED], *gone[-_PROBED:]])


def _write_scene(place: Path, name: str, scene: _Scene) -> None:
    """Write a scene's arrays, then its head: a scene with a head is whole."""
    file = cached_file(place, name, ".npz")
    part = place / f".{file.stem}.tmp-{os.getpid()}.npz"
    np.savez_compressed(part, allow_pickle=False, **scene.arrays)
    os.replace(part, file)
    head = {"pictures": len(scene.arrays["camera"]), "notes": scene.notes, "gone": scene.gone}
    write_json(cached_file(place, name, ".json"), head)


class _ByToken(dict[str, Any]):
    """Records by token; asking for one that is not there is an error about its table."""

    def __init__(self, file: Path, rows: Iterable[tuple[str, Any]]) -> None:
        super().__init__(rows)
        self.file = file

    def __missing__(self, token: str) -> Any:
        raise DataError(
            f"{self.file} has no record {token!r}, which another table names: unpack them again together"
        )


@dataclass
class _Scene:
    """What is cached of a scene. gone: files that the tables name and that are not on disk."""

    arrays: dict[str, Array]
    notes: list[str]
    gone: list[str]


class _Tables:
    """The tables, by token."""

    def __init__(self, root: Path, version: str, gone: tuple[str, ...]) -> None:
        self.root, folder = root, root / version

        def rows_of(name: str) -> list[dict[str, Any]]:
            return [] if gone and name in ANNOTATIONS else table(folder, name)

        def by_token(name: str, value: Callable[[dict[str, Any]], Any] = lambda row: row) -> _ByToken:
            return _ByToken(folder / f"{name}.json", ((row["token"], value(row)) for row in rows_of(name)))

        sensors = by_token("sensor", lambda row: row["channel"])
        self.calibrated = by_token("calibrated_sensor")
        channels = ((token, sensors[row["sensor_token"]]) for token, row in self.calibrated.items())
        self.channel = _ByToken(self.calibrated.file, channels)
        for name, row in self.calibrated.items():
            _check_rotation(
                folder / "calibrated_sensor.json", name, row, camera=self.channel[name] in CAMERAS
            )
        self.pose = by_token("ego_pose")
        _check_poses(self.pose.file, self.pose)
        self.scenes = {
            row["name"]: row for row in table(folder, "scene")
        }  # `scene_names` has seen no name twice
        self.samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in table(folder, "sample"):
            self.samples[row["scene_token"]].append(row)
        self.data, self.keyframes = {}, defaultdict(dict)  # type: ignore[var-annotated]
        for row in table(folder, "sample_data"):
            channel = self.channel[row["calibrated_sensor_token"]]
            if channel in CAMERAS or channel in RADAR_CHANNELS or channel == "LIDAR_TOP":
                self.data[row["token"]] = row
                if row["is_key_frame"]:
                    self.keyframes[row["sample_token"]][channel] = row
        categories = by_token("category", lambda row: row["name"])
        self.category = by_token("instance", lambda row: categories[row["category_token"]])
        self.attribute = by_token("attribute", lambda row: row["name"])
        self.annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.annotation = {}
        for row in rows_of("sample_annotation"):
            self.annotations[row["sample_token"]].append(row)
            self.annotation[row["token"]] = row
        self.time = {row["token"]: row["timestamp"] for rows in self.samples.values() for row in rows}

    def scene(self, name: str) -> _Scene:
        """What the pictures of a scene need."""
        notes: list[str] = []
        gone: dict[str, None] = {}  # a set in order
        moments = sorted(self.samples[self.scenes[name]["token"]], key=lambda row: row["timestamp"])
        pictures: dict[str, list[Any]] = defaultdict(list)
        sweeps: dict[str, list[Any]] = defaultdict(list)
        boxes: dict[str, list[Any]] = defaultdict(list)
        origins = []
        for number, moment in enumerate(moments):
            frames = self.keyframes.get(moment["token"], {})
            for at, channel in enumerate(CAMERAS):
                self._picture(
                    number, at, frames.get(channel), f"{name}/{number} {channel}", pictures, (notes, gone)
                )
            for at, channel in enumerate(RADAR_CHANNELS):
                self._sweeps(
                    number, at, frames.get(channel), f"{name}/{number} {channel}", sweeps, (notes, gone)
                )
            self._boxes(number, moment["token"], boxes)
            origins.append(self._origin(frames))
        arrays = {
            "token": np.array([row["token"] for row in moments], "U"),
            "origin": np.array(origins, np.float64).reshape(-1, 2),
            "moment": np.array(pictures["moment"], np.int64),
            "camera": np.array(pictures["camera"], np.int64),
            "picture_file": np.array(pictures["file"], "U"),
            "intrinsic": np.array(pictures["intrinsic"], np.float64).reshape(-1, 3, 3),
            "pose": np.array(pictures["pose"], np.float64).reshape(-1, 4, 4),
            "sweep_moment": np.array(sweeps["moment"], np.int64),
            "sweep_radar": np.array(sweeps["radar"], np.int64),
            "sweep_back": np.array(sweeps["back"], np.int64),
            "sweep_age": np.array(sweeps["age"], np.float64),
            "sweep_file": np.array(sweeps["file"], "U"),
            "sweep_pose": np.array(sweeps["pose"], np.float64).reshape(-1, 4, 4),
            "box_moment": np.array(boxes["moment"], np.int64),
            "box_label": np.array(boxes["label"], np.int64),
            "box_center": np.array(boxes["center"], np.float64).reshape(-1, 3),
            "box_size": np.array(boxes["size"], np.float64).reshape(-1, 3),
            "box_rotation": np.array(boxes["rotation"], np.float64).reshape(-1, 4),
            "box_velocity": np.array(boxes["velocity"], np.float64).reshape(-1, 3),
            "box_attribute": np.array(boxes["attribute"], np.int64),
            "box_points": np.array(boxes["points"], np.int64),
        }
        return _Scene(arrays, notes, list(gone))

    def _picture(
        self,
        number: int,
        at: int,
        row: dict[str, Any] | None,
        what: str,
        pictures: dict[str, list[Any]],
        lost: tuple[list[str], dict[str, None]],
    ) -> None:
        if row is None:
            lost[0].append(f"{what}: no picture in the tables")
            return
        if not self._there(row, what, lost):
            return
        pictures["moment"].append(number)
        pictures["camera"].append(at)
        pictures["file"].append(row["filename"])
        pictures["intrinsic"].append(self.calibrated[row["calibrated_sensor_token"]]["camera_intrinsic"])
        pictures["pose"].append(self._to_world(row))

    def _sweeps(
        self,
        number: int,
        at: int,
        row: dict[str, Any] | None,
        what: str,
        sweeps: dict[str, list[Any]],
        lost: tuple[list[str], dict[str, None]],
    ) -> None:
        """The keyframe of a radar and those before it, back to the beginning of the scene."""
        if row is None:
            lost[0].append(f"{what}: no radar sweep in the tables")
            return
        first = row["timestamp"]
        for back in range(SWEEPS):
            if self._there(row, what, lost):
                sweeps["moment"].append(number)
                sweeps["radar"].append(at)
                sweeps["back"].append(back)
                sweeps["age"].append((first - row["timestamp"]) * 1e-6)
                sweeps["file"].append(row["filename"])
                sweeps["pose"].append(self._to_world(row))
            before = self.data.get(row["prev"])
            if before is None:
                return
            row = before

    def _there(self, row: dict[str, Any], what: str, lost: tuple[list[str], dict[str, None]]) -> bool:
        """Whether a reading's file is on disk; if not, it is noted once, and kept among the files that are gone."""
        file = row["filename"]
        if file not in lost[1]:
            if (self.root / file).is_file():
                return True
            lost[0].append(f"{what}: {file} is not on disk")
            lost[1][file] = None
        return False

    def _to_world(self, row: dict[str, Any]) -> Array:
        """A sensor's frame -> the world at the time of a reading."""
        from visloom.data.space import transform

        sensor, car = self.calibrated[row["calibrated_sensor_token"]], self.pose[row["ego_pose_token"]]
        return transform(car["rotation"], car["translation"]) @ transform(
            sensor["rotation"], sensor["translation"]
        )

    def _origin(self, frames: dict[str, dict[str, Any]]) -> Sequence[float]:
        """Where the car stands: nuScenes measures distances from its pose at the lidar's time."""
        for channel in ("LIDAR_TOP", *CAMERAS):
            if channel in frames:
                return list(self.pose[frames[channel]["ego_pose_token"]]["translation"][:2])
        return [0.0, 0.0]

    def _boxes(self, number: int, token: str, boxes: dict[str, list[Any]]) -> None:
        for row in self.annotations.get(token, ()):
            category = self.category[row["instance_token"]]
            name = CATEGORIES.get(category)
            if name is None and category != RACK:
                continue
            attributes = [self.attribute[each] for each in row["attribute_tokens"]]
            boxes["moment"].append(number)
            boxes["label"].append(CLASSES.index(name) if name else -1)
            boxes["center"].append(row["translation"])
            boxes["size"].append(row["size"])
            boxes["rotation"].append(row["rotation"])
            boxes["velocity"].append(self._velocity(row))
            boxes["attribute"].append(
                ATTRIBUTES.index(attributes[0]) if attributes and attributes[0] in ATTRIBUTES else -1
            )
            boxes["points"].append(row["num_lidar_pts"] + row["num_radar_pts"])

    def _velocity(self, row: dict[str, Any], most: float = 1.5) -> Array:
        """From the annotations before and after, NaN if there is none or they are more than 1.5 s apart (3 s
        for both).
        """
        before, after = self.annotation.get(row["prev"]), self.annotation.get(row["next"])
        if before is None and after is None:
            return np.full(3, np.nan)
        last, first = after or row, before or row
        time = 1e-6 * (self.time[last["sample_token"]] - self.time[first["sample_token"]])
        if time <= 0 or time > most * (2 if before is not None and after is not None else 1):
            return np.full(3, np.nan)
        return np.asarray((np.array(last["translation"]) - np.array(first["translation"])) / time)


def _check_rotation(file: Path, token: str, row: dict[str, Any], *, camera: bool) -> None:
    """Raise DataError where a calibration's rotation is none."""
    value = np.asarray(row.get("rotation", ()), np.float64)
    if value.shape != (4,) or not np.isfinite(value).all() or abs(float(np.linalg.norm(value)) - 1) > 1e-3:
        raise DataError(
            f"{file}: the rotation of {token} is no unit quaternion w x y z: {row.get('rotation')}"
        )
    if not camera:
        return
    intrinsic = np.asarray(row.get("camera_intrinsic") or np.zeros((3, 3)), np.float64)
    if intrinsic.shape != (3, 3) or not np.isfinite(intrinsic).all() or abs(np.linalg.det(intrinsic)) < 1e-9:
        raise DataError(f"{file}: the camera_intrinsic of {token} is no invertible 3x3 matrix")


def _check_poses(file: Path, poses: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise DataError where a pose of the car is no rotation and translation."""
    rows = [
        row for row in poses.values() if "rotation" in row and "translation" in row
    ]  # others are named when used
    try:
        turns = np.array([row["rotation"] for row in rows], np.float64).reshape(-1, 4)
        places = np.array([row["translation"] for row in rows], np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: poses are a rotation w x y z and a translation x y z: {error!r}") from error
    off = np.abs(np.linalg.norm(turns, axis=1) - 1)
    wrong = np.flatnonzero(~((off < 1e-3) & np.isfinite(places).all(1)))
    if len(wrong):
        row = rows[int(wrong[0])]
        raise DataError(
            f"{file}: {len(wrong):,} of {len(rows):,} poses are no unit quaternion w x y z and finite translation, "
            f"{row['token']} first: {row['rotation']}, {row['translation']}"
        )
