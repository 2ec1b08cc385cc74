"""Scenes: cameras, radars and boxes of one's own, from a folder with scenes.json (docs/scenes.md).

One camera a sample, as `visloom/data/scene3d.py` says; nothing of a particular vehicle is assumed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.data.images import check_header, read_image
from visloom.data.layout import Layout, head, some
from visloom.data.nuscenes.pcd import read_pcd, usable
from visloom.data.scene_sample import scene_sample
from visloom.data.scenes_file import FORM, PARTS, Moment, SceneFile, Sweep, read_scenes
from visloom.data.space import inverse, move
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.source import Source

Array = NDArray[Any]
_FIELDS = ("x", "y", "z", "vx", "vy", "rcs")


class _Opened:
    """The file, and the pictures of the chosen part: (moment, camera) each."""

    def __init__(self, root: Path, scenes: SceneFile, moments: list[Moment], notes: list[str]) -> None:
        self.root, self.scenes, self.moments, self.notes = root, scenes, moments, notes
        self.rows = [(m, name) for m, moment in enumerate(moments) for name in moment.images]


@dataclass(frozen=True, kw_only=True, repr=False)
class Scenes(Source):
    """A folder with a file of scenes.

    file: its name.  part: train, val, a scene, or all.  held: the share of scenes (of moments, where there is one
    scene) that val is, the last ones, if the file does not say itself.
    unlabeled: moments without a key "boxes": "drop" them, or "keep" them, to be predicted.
    cameras: which; () takes all.
    hidden: "drop" leaves out boxes that a nearer one covers wholly, "keep" trains on them too.
    missing: pictures and radar files that are not on disk: "skip" (and note it) or "error".
    """

    file: str = "scenes.json"
    part: str = "all"
    held: float = 0.2
    unlabeled: Literal["drop", "keep"] = "drop"
    cameras: tuple[str, ...] = ()
    hidden: Literal["drop", "keep"] = "drop"
    missing: Literal["skip", "error"] = "skip"

    def __post_init__(self) -> None:
        if not 0 < self.held < 1:
            raise ValueError(f"held lies between 0 and 1, got {self.held!r}")

    def open(self) -> _Opened:
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(
                f"{root}: there is no such folder; --data names the folder that {self.file} lies in"
            )
        scenes = read_scenes(root / self.file)
        moments = _part(root / self.file, scenes.moments, self.part, self.held)
        notes: list[str] = []
        bare = [moment.id for moment in moments if moment.boxes is None]
        if self.unlabeled == "drop" and bare:
            moments = [moment for moment in moments if moment.boxes is not None]
            notes.append(f"{len(bare)} moments have no boxes and are left out: {some(bare, 3)}")
            if not moments:
                raise DataError(
                    f"{root / self.file}: none of the {len(bare)} moments of part {self.part!r} has boxes: they can be "
                    "predicted (visloom predict), but not trained on"
                )
        moments = [self._on_disk(root, moment, notes) for moment in moments]
        if self.missing == "error" and notes and any("is not on disk" in note for note in notes):
            gone = [note for note in notes if "is not on disk" in note]
            raise DataError(
                f"{root / self.file}: {len(gone)} files are missing, {some(gone, 3)}; set missing to skip"
            )
        opened = _Opened(root, scenes, moments, notes)
        if not opened.rows:
            raise DataError(
                f"{root / self.file}: part {self.part!r} has no picture on disk; {some(notes, 3)}"
            )
        return opened

    def _on_disk(self, root: Path, moment: Moment, notes: list[str]) -> Moment:
        """The moment with the chosen cameras and what is there."""
        images, radar = {}, {}
        for name, (file, camera) in moment.images.items():
            if self.cameras and name not in self.cameras:
                continue
            if (root / file).is_file():
                images[name] = file, camera
            else:
                notes.append(f"{moment.id} {name}: {file} is not on disk")
        for name, sweeps in moment.radar.items():
            gone = [sweep.file for sweep in sweeps if sweep.file and not (root / sweep.file).is_file()]
            notes.extend(f"{moment.id} {name}: {file} is not on disk" for file in gone)
            radar[name] = tuple(sweep for sweep in sweeps if sweep.file not in gone)
        return replace(moment, images=images, radar=radar)

    def count(self) -> int:
        return len(self.opened().rows)

    def classes(self) -> tuple[str, ...]:
        return self.opened().scenes.classes  # type: ignore[no-any-return]

    @property
    def part_name(self) -> str:
        """The part."""
        return self.part

    def elsewhere(self, root: str, part: str) -> Scenes:
        """The same settings on another folder or part; moments without boxes too."""
        return replace(self, root=root, part=part, unlabeled="keep", split=None, limit=None)

    def token_of(self, index: int) -> str:
        """The id of a picture's moment."""
        kept, opened = self.chosen(), self.opened()
        return str(opened.moments[opened.rows[int(index if kept is None else kept[index])][0]].id)

    def check(self) -> list[str]:
        opened: _Opened = self.opened()
        notes = [f"{self.file}: {some(opened.notes, 5)}"] if opened.notes else []
        unknown = [f"{key} ({count} times)" for key, count in opened.scenes.unknown.items()]
        return notes + ([f"{self.file} has keys that mean nothing: {some(unknown, 5)}"] if unknown else [])

    def fetch(self, index: int) -> Sample:
        opened: _Opened = self.opened()
        number, name = opened.rows[index]
        moment = opened.moments[number]
        file, camera = moment.images[name]
        image = read_image(opened.root / file)
        lens = np.hstack([camera.K, np.zeros((3, 1))])
        pose = moment.pose @ camera.pose
        radar, notes = _radar(
            opened.root, [s for r in camera.radars for s in moment.radar.get(r, ())], camera.pose
        )
        scene = {"token": [moment.id], "origin": moment.pose[None, :2, 3], **(moment.boxes or _NO_BOXES)}
        return scene_sample(
            scene,
            0,
            name=f"{moment.id}/{name}",
            image=image,
            lens=lens,
            pose=pose,
            radar=radar,
            camera=name,
            notes=notes,
            drop=self.hidden == "drop",
            annotated=moment.boxes is not None,
            vehicle=moment.pose,
            attributes=opened.scenes.attributes,
        )

    def __repr__(self) -> str:
        known = f"{len(self):,} pictures of " if "_opened" in self.__dict__ else ""
        return f"Scenes({known}{self.file}, {self.part})"


_NO_BOXES = {
    "box_moment": np.zeros(0, np.int64),
    "box_label": np.zeros(0, np.int64),
    "box_center": np.zeros((0, 3)),
    "box_size": np.zeros((0, 3)),
    "box_rotation": np.zeros((0, 4)),
    "box_velocity": np.zeros((0, 3)),
    "box_attribute": np.zeros(0, np.int64),
    "box_points": np.zeros(0, np.int64),
}


def _part(file: Path, moments: tuple[Moment, ...], part: str, held: float) -> list[Moment]:
    """The moments of a part, in the order of the file."""
    if part == "all":
        return list(moments)
    scenes = list(dict.fromkeys(moment.scene for moment in moments))
    if part not in PARTS:
        chosen = [moment for moment in moments if moment.scene == part]
        if not chosen:
            named = some([scene for scene in scenes if scene]) or "none by name"
            raise DataError(
                f"{file}: there is no part {part!r}: parts are train, val, all, and scenes: {named}"
            )
        return chosen
    if any(moment.part for moment in moments):
        chosen = [moment for moment in moments if moment.part == part]
    else:
        units = [moment.scene for moment in moments] if len(scenes) > 1 else [moment.id for moment in moments]
        order = list(dict.fromkeys(units))
        last = set(order[len(order) - max(1, round(held * len(order))) :]) if len(order) > 1 else set()
        chosen = [m for m, unit in zip(moments, units, strict=True) if (unit in last) == (part == "val")]
    if not chosen:
        raise DataError(
            f"{file}: part {part!r} has no moments: give moments the key part, or name more than one scene"
        )
    return chosen


def _radar(root: Path, sweeps: list[Sweep], camera: Array) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Returns in a camera's frame, (R, 7) x y z, velocity right and ahead, rcs, age in s; and notes."""
    parts, notes = [np.zeros((0, 7))], []
    for sweep in sweeps:
        rows = sweep.rows if sweep.rows is not None else read_returns(root / sweep.file)
        good = np.isfinite(rows).all(1)
        if not good.all():
            place = sweep.file or "radar"
            notes.append(
                f"{place}: {int((~good).sum())} of {len(rows)} returns are not finite and are left out"
            )
        matrix = inverse(camera) @ sweep.pose
        points = move(matrix, rows[good, :3])
        speed = np.hstack([rows[good, 3:5], np.zeros((int(good.sum()), 1))]) @ matrix[:3, :3].T
        age = np.full((len(points), 1), sweep.age)
        parts.append(np.hstack([points, speed[:, [0, 2]], rows[good, 5:6], age]))
    return np.concatenate(parts).astype(np.float32), tuple(notes)


def read_returns(file: Path) -> Array:
    """Read radar returns: (N, 6) float64 x y z, velocity vx vy over the ground, rcs; metres, m/s and dB.

    .npy: (N, 5) or (N, 6) numbers in that order.  .csv: a header with x y vx vy, and z and rcs where they are known.
    .pcd: as nuScenes writes them, through its default filters.

    Raises:
        DataError: the file cannot be read or has another form.
    """
    ending = file.suffix.lower()
    if ending == ".pcd":
        returns = read_pcd(file)
        returns = returns[usable(returns)]
        names = ("x", "y", "z", "vx_comp", "vy_comp", "rcs")
        return np.stack([returns[name].astype(np.float64) for name in names], 1).reshape(-1, 6)
    if ending == ".npy":
        return _npy(file)
    if ending == ".csv":
        return _csv(file)
    raise DataError(f"{file}: radar files are .npy, .csv or .pcd, not {ending or 'without an ending'}")


def _npy(file: Path) -> Array:
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: the radar file cannot be read: {error}") from error
    if found.ndim != 2 or found.shape[1] not in (5, 6) or found.dtype.kind not in "fiu":
        raise DataError(
            f"{file}: radar returns are numbers (N, 5) or (N, 6), {', '.join(_FIELDS)}; this is {found.shape} "
            f"{found.dtype}"
        )
    return np.pad(found.astype(np.float64), ((0, 0), (0, 6 - found.shape[1])))


def _csv(file: Path) -> Array:
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: the radar file cannot be read: {error}") from error
    names = [name.strip() for name in rows[0]] if rows else []
    lacking = [name for name in ("x", "y", "vx", "vy") if name not in names]
    if lacking:
        raise DataError(f"{file}: the first line names no {', '.join(lacking)}; expected {','.join(_FIELDS)}")
    found = np.zeros((len(rows) - 1, 6))
    for number, row in enumerate(rows[1:]):
        for place, name in enumerate(_FIELDS):
            if name in names:
                try:
                    found[number, place] = float(row[names.index(name)])
                except (IndexError, ValueError) as error:
                    raise DataError(
                        f"{file}: line {number + 2} has no number for {name}: {','.join(row)}"
                    ) from error
    return found


def recognise(folder: Path) -> Layout | None:
    """Return what a folder with scenes.json holds, or None if it has none in this form."""
    file = folder / "scenes.json"
    if FORM.encode() not in head(file, 4096):
        return None
    found = read_scenes(file)
    bare = all(moment.boxes is None for moment in found.moments)
    parts = {"train": Scenes(part="train"), "val": Scenes(part="val")}
    try:
        for name in PARTS:
            _part(file, found.moments, name, 0.2)
    except DataError:  # a single moment, or all in one part
        parts = dict.fromkeys(PARTS, Scenes(part="all"))
    if bare:
        parts = {name: replace(source, part="all", unlabeled="keep") for name, source in parts.items()}
    cameras = list(dict.fromkeys(name for moment in found.moments for name in moment.images))
    settings: dict[str, Any] = {"task.attributes": list(found.attributes)} if found.attributes else {}
    if found.groups:
        settings["task.groups"] = dict(found.groups)
    settings |= _sizes(folder, found)
    radars = len({name for moment in found.moments for name in moment.radar})
    return Layout(
        kind="scenes of cameras and radar",
        parts=parts,
        classes=found.classes,
        said=(
            f"{len(found.moments):,} moments, {len(cameras)} cameras ({some(cameras, 6)}), {radars} radars",
            f"{len(found.classes)} classes: {some(found.classes)}",
            *(("no moment has boxes: they can be predicted, but not trained on",) if bare else ()),
        ),
        settings={**settings, **({} if radars else {"task.radar": False})},
    )


def _sizes(folder: Path, found: SceneFile, width: int = 800) -> dict[str, Any]:
    """The size that pictures are fitted into: as wide as the recipe's, as high as the first picture asks for."""
    for moment in found.moments:
        for file, _ in moment.images.values():
            try:
                header = check_header(folder / file)
            except DataError:
                continue
            size = [max(32, round(width * header.height / header.width / 32) * 32), width]
            if size == [448, 800]:
                return {}
            return {"train.transform.1.size": size, "evals.val.stream.transform.0.size": size}
    return {}
