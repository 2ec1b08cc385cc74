"""NuScenes: pictures of six cameras with radar and boxes, one camera a sample (`visloom/data/scene3d.py`)."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.data.images import read_image
from visloom.data.layout import Layout
from visloom.data.nuscenes.names import ATTRIBUTES, CAMERAS, CLASSES, RADAR_CHANNELS, RADARS, picture_name
from visloom.data.nuscenes.pcd import read_pcd, usable
from visloom.data.nuscenes.tables import SWEEPS, Index, cached_file, convert, scene_names, version_of
from visloom.data.scene_sample import scene_sample
from visloom.data.space import inverse, move
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.source import Source

Array = NDArray[Any]
_HELD = 16  # scenes in memory


class _Opened:
    """The index, and the scenes used last."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root, self.index = root, index
        self.ends = np.cumsum(index.counts)
        self._scenes: OrderedDict[int, dict[str, Array]] = OrderedDict()

    def scene(self, number: int) -> dict[str, Array]:
        """The arrays of a scene."""
        if number not in self._scenes:
            file = cached_file(self.index.folder, self.index.scenes[number], ".npz")
            with np.load(file, allow_pickle=False) as stored:
                self._scenes[number] = dict(stored)
            if len(self._scenes) > _HELD:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(number)
        return self._scenes[number]


@dataclass(frozen=True, kw_only=True, repr=False)
class NuScenes(Source):
    """nuScenes, or any part of it that is on disk, straight from its tables.

    root: the data root (the folder that holds `v1.0-...`, `samples` and `sweeps`).  version: "" takes the only one.
    scenes: train, val, test, mini_train, mini_val, a split of splits.json, or all.
    cameras: which.  sweeps: of each radar, 1 to 12, back from the picture's moment.
    hidden: "drop" leaves out boxes that a nearer one covers wholly, "keep" trains on them too.
    missing: files that are not on disk: "skip" (and note it) or "error".
    cache: where the converted tables go; "" is the root if it can be written, else the user's cache folder.
    """

    version: str = ""
    scenes: str = "train"
    cameras: tuple[str, ...] = CAMERAS
    sweeps: int = 3
    hidden: Literal["drop", "keep"] = "drop"
    missing: Literal["skip", "error"] = "skip"
    cache: str = ""

    def __post_init__(self) -> None:
        unknown = [name for name in self.cameras if name not in CAMERAS]
        if unknown or not self.cameras:
            raise ValueError(f"cameras are some of {', '.join(CAMERAS)}, got {self.cameras}")
        if not 1 <= self.sweeps <= SWEEPS:
            raise ValueError(f"sweeps is 1 to {SWEEPS}, got {self.sweeps}")

    def open(self) -> _Opened:
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(f"{root}: there is no such folder; --data names the data root of nuScenes")
        version = version_of(root, self.version)
        return _Opened(
            root, convert(root, version, self.scenes, cache_folder(root, self.cache), missing=self.missing)
        )

    def _rows(self) -> NDArray[np.int64]:
        """(N, 2) scene and row of every picture of the chosen cameras."""
        if "_all_rows" not in self.__dict__:
            opened: _Opened = self.opened()
            wanted = [CAMERAS.index(name) for name in self.cameras]
            parts = []
            for number, count in enumerate(opened.index.counts):
                rows = np.arange(count)
                if len(wanted) < len(CAMERAS):
                    rows = rows[np.isin(opened.scene(number)["camera"], wanted)]
                parts.append(np.stack([np.full(len(rows), number), rows], 1))
            object.__setattr__(self, "_all_rows", np.concatenate(parts))
        return self.__dict__["_all_rows"]  # type: ignore[no-any-return]

    def count(self) -> int:
        return len(self._rows())

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def part_name(self) -> str:
        """The split, scene, or "all"."""
        return self.scenes

    def elsewhere(self, root: str, part: str) -> NuScenes:
        """The same cameras and sweeps of another data root, or another part of it."""
        version = self.version if root == self.root else ""
        return replace(self, root=root, scenes=part, version=version, split=None, limit=None)

    def token_of(self, index: int) -> str:
        """The token of the moment ("sample" in nuScenes) that a picture belongs to."""
        kept = self.chosen()
        number, row = self._rows()[index if kept is None else kept[index]].tolist()
        scene = self.opened().scene(number)
        return str(scene["token"][scene["moment"][row]])

    def check(self) -> list[str]:
        index: Index = self.opened().index
        notes = index.notes
        if not index.annotated:
            raise DataError(
                f"{self.root}: {notes[0]}: without annotations its pictures can be predicted (visloom predict), but "
                "not trained or evaluated on"
            )
        if not notes:
            return []
        return [
            f"nuScenes {self.scenes}: {len(notes)} files are missing and left out: {'; '.join(notes[:5])}"
        ]

    def fetch(self, index: int) -> Sample:
        opened: _Opened = self.opened()
        number, row = self._rows()[index].tolist()
        scene = opened.scene(number)
        moment, pose = int(scene["moment"][row]), scene["pose"][row]
        camera = CAMERAS[int(scene["camera"][row])]
        image = read_image(opened.root / str(scene["picture_file"][row]))
        lens = np.hstack([scene["intrinsic"][row], np.zeros((3, 1))])
        radar, notes = self._radar(opened.root, scene, moment, camera, pose)
        return scene_sample(
            scene,
            moment,
            name=picture_name(str(scene["picture_file"][row]), camera),
            image=image,
            lens=lens,
            pose=pose,
            radar=radar,
            camera=camera,
            notes=notes,
            drop=self.hidden == "drop",
            attributes=ATTRIBUTES,
        )

    def _radar(
        self, root: Path, scene: dict[str, Array], moment: int, camera: str, pose: Array
    ) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Returns of the radars beside a camera: (R, 7) x y z, velocity right and ahead, cross-section in
        dB, age in s.
        """
        back, parts, notes = inverse(pose), [], []
        for channel in RADARS[camera]:
            which = (scene["sweep_moment"] == moment) & (
                scene["sweep_radar"] == RADAR_CHANNELS.index(channel)
            )
            which &= scene["sweep_back"] < self.sweeps
            for at in np.flatnonzero(which).tolist():
                try:
                    returns = read_pcd(root / str(scene["sweep_file"][at]))
                except DataError as error:
                    if self.missing == "error":
                        raise
                    notes.append(str(error))
                    continue
                returns = returns[usable(returns)]
                good = np.all(
                    [np.isfinite(returns[n]) for n in ("x", "y", "z", "vx_comp", "vy_comp", "rcs")], 0
                )
                if not good.all():
                    file, bad = scene["sweep_file"][at], int((~good).sum())
                    notes.append(f"{file}: {bad} of {len(returns)} returns are not finite and are left out")
                matrix = back @ scene["sweep_pose"][at]
                parts.append(radar_rows(returns[good], matrix, scene["sweep_age"][at]))
        joined = np.concatenate(parts) if parts else np.zeros((0, 7), np.float32)
        return joined, tuple(notes)

    def __repr__(self) -> str:
        known = f"{len(self):,} pictures, " if "_opened" in self.__dict__ else ""
        return (
            f"NuScenes({self.scenes}: {known}{len(self.cameras)} cameras, {self.sweeps} sweeps of 5 radars)"
        )


def cache_folder(root: Path, wanted: str) -> Path:
    """Where what is made of a data root is kept: the folder wanted, else the root's own, else that of the user."""
    if wanted:
        return Path(wanted).expanduser()
    own = root / ".visloom"
    if os.access(own if own.exists() else root, os.W_OK):
        return own
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "visloom" / "nuscenes"


def radar_rows(returns: Array, matrix: Array, age: float) -> NDArray[np.float32]:
    """Returns in a camera's frame: (N, 7) x y z, velocity right and ahead (m/s, the car's own taken off),
    rcs, age in s.
    """
    points = np.stack([returns[name] for name in ("x", "y", "z")], 1).astype(np.float64)
    speed = np.stack([returns["vx_comp"], returns["vy_comp"], np.zeros(len(returns))], 1).astype(np.float64)
    turned = speed @ matrix[:3, :3].T
    rows = [move(matrix, points), turned[:, [0, 2]], returns["rcs"][:, None], np.full((len(returns), 1), age)]
    return np.concatenate(rows, 1).astype(np.float32)


def recognise(folder: Path) -> Layout | None:
    """Return what a data root of nuScenes holds (its splits, the mini ones, or all scenes), or None if it is none."""
    found = sorted(path.parent.name for path in folder.glob("*/sample_data.json"))
    if not found:
        return None
    version = found[0]
    own = [("train", "val"), ("mini_train", "mini_val")]  # the mini scenes are some of the others
    for train, val in (*(reversed(own) if version.endswith("mini") else own), ("all", "all")):
        try:
            names = [scene_names(folder, version, split) for split in (train, val)]
        except DataError:
            continue
        return Layout(
            kind=f"nuScenes {version}",
            parts={
                name: NuScenes(version=version, scenes=split)
                for name, split in (("train", train), ("val", val))
            },
            classes=CLASSES,
            said=(
                f"{len(names[0])} scenes to train on ({train}), {len(names[1])} to validate on ({val})",
                *((f"other versions here: {', '.join(found[1:])}",) if found[1:] else ()),
            ),
        )
    return None
