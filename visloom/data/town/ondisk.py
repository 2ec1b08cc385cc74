"""Rides on disk: the town as a nuScenes data root that is written on first use, and read as nuScenes is read."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from visloom.data.nuscenes.source import NuScenes, _Opened
from visloom.data.town.rides import Radar, Rides
from visloom.data.town.root import VERSION, write_root


@dataclass(frozen=True, kw_only=True, repr=False)
class RidesOnDisk(NuScenes):
    """Rides as a data root of nuScenes: pictures, radar sweeps and tables in files.

    The root is written once, about a second for a ride, into a folder under `root` whose name stands for everything
    that it was made from; other rides or another radar are another folder. It may be deleted at any time.

    scenes: town_train or town_val.  train_rides, val_rides: how many; moments: of each, half a second apart.
    height, width: of pictures.  radar: how the radars see.  town: another number is another town of the same kind.
    """

    scenes: str = "town_train"
    sweeps: int = 1
    train_rides: int = 40
    val_rides: int = 8
    moments: int = 6
    height: int = 128
    width: int = 224
    radar: Radar = Radar()
    town: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scenes not in ("town_train", "town_val"):
            raise ValueError(f"scenes are town_train or town_val, got {self.scenes!r}")
        self.parts()  # says what is wrong with the rest

    def parts(self) -> dict[str, Rides]:
        """The rides of both splits."""
        return {
            f"town_{part}": Rides(
                part=part, rides=rides, moments=self.moments, height=self.height, width=self.width,
                radar=self.radar, seed=self.town,
            )
            for part, rides in (("train", self.train_rides), ("val", self.val_rides))
        }  # fmt: skip

    def folder(self) -> Path:
        """Where the data root lies."""
        parts = {name: asdict(source) for name, source in self.parts().items()}
        digest = hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:8]
        return (
            Path(self.root) / f"town-{self.train_rides}-{self.val_rides}-{self.height}x{self.width}-{digest}"
        )

    def open(self) -> _Opened:
        return NuScenes(
            root=str(self.written()), version=VERSION, scenes=self.scenes, sweeps=self.sweeps, hidden=self.hidden,
            missing=self.missing, cache=self.cache,
        ).open()  # fmt: skip

    def written(self) -> Path:
        """Write the root if it is not there yet; a root that is there is whole."""
        folder = self.folder()
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write_root(draft / "root", self.parts())
            try:
                os.rename(draft / "root", folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster: the same bytes
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder
