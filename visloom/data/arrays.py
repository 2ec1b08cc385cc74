"""Arrays: pictures and labels that are numpy arrays, kept in two .npy files.

    source = Arrays.write("data/mine", images, labels, names=("cat", "dog"))

The arrays go to disk because a run must find its data again when it resumes; they are read through the page
cache, so this is as fast as memory and shared by all workers. Files are opened without pickle: nothing in
them can run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visloom.data.images import missing
from visloom.data.layout import Layout, some
from visloom.errors import DataError
from visloom.sample import Sample, Stacked
from visloom.stream import Source, Split

_PICTURES = ("uint8", "uint16", "int16")


class Opened(NamedTuple):
    """images (N, H, W, C), targets (N,) int64 or (N, K) float32; both mapped from disk where they can be."""

    images: NDArray[Any]
    targets: NDArray[Any]


@dataclass(frozen=True, kw_only=True, repr=False)
class Arrays(Source):
    """Pictures and labels in .npy files.

    images: file in `root` with (N, H, W, C) or (N, H, W), uint8, uint16 or int16.
    targets: file with (N,) whole numbers from 0, or (N, K) floats for soft or multi-label targets.
    names: class names, by label; () if they have none.
    """

    images: str = "images.npy"
    targets: str = "labels.npy"
    names: tuple[str, ...] = ()

    @classmethod
    def write(
        cls, folder: str | Path, images: ArrayLike, targets: ArrayLike, names: tuple[str, ...] = ()
    ) -> Self:
        """Write arrays into a folder (made if need be) and return the source that reads them.

        Raises:
            DataError: shapes or types do not fit.
        """
        place = Path(folder).absolute()
        _checked(np.asarray(images), np.asarray(targets), names, str(place))
        place.mkdir(parents=True, exist_ok=True)
        source = cls(root=str(place), names=names)
        np.save(place / source.images, np.asarray(images), allow_pickle=False)
        np.save(place / source.targets, np.asarray(targets), allow_pickle=False)
        return source

    def open(self) -> Opened:
        """Map both files.

        Raises:
            DataError: a file is missing or damaged, holds Python objects, or shapes and labels do not fit.
        """
        root = Path(self.root)
        return _checked(_load(root / self.images), _load(root / self.targets), self.names, str(root))

    def count(self) -> int:
        return len(self.opened().images)

    def fetch(self, index: int) -> Sample:
        opened = self.opened()
        target = opened.targets[index]
        label = int(target) if opened.targets.ndim == 1 else np.array(target)
        return Sample(self._id(index), np.array(opened.images[index]), label)

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked:
        opened = self.opened()
        ids = tuple([self._id(index) for index in indices.tolist()])
        return Stacked(ids, np.asarray(opened.images[indices]), np.asarray(opened.targets[indices]))

    def sizes_all(self) -> NDArray[np.int64]:
        images = self.opened().images
        return np.tile(np.asarray(images.shape[1:3], np.int64), (len(images), 1))

    def classes(self) -> tuple[str, ...]:
        return self.names

    def labels_all(self) -> NDArray[np.int64] | None:
        targets = self.opened().targets
        return np.asarray(targets) if targets.ndim == 1 else None

    def multilabels_all(self) -> NDArray[Any] | None:
        targets = self.opened().targets
        return np.asarray(targets) if targets.ndim == 2 else None

    def _id(self, index: int) -> str:
        return f"{Path(self.images).stem}/{index:06d}"

    def __repr__(self) -> str:
        if "_opened" not in self.__dict__:
            return f"Arrays({self.root!r})"
        _, height, width, channels = self.opened().images.shape
        return f"Arrays({self.root!r}: {len(self):,} images {height}x{width}x{channels})"


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds images.npy and labels.npy."""
    source = Arrays(root=str(folder))
    if not (folder / source.images).is_file() or not (folder / source.targets).is_file():
        return None
    opened = source.opened()
    shape = "x".join(map(str, opened.images.shape[1:]))
    said = [f"{source.count():,} pictures {shape} {opened.images.dtype}"]
    if opened.targets.ndim == 1:
        present = np.unique(opened.targets)
        said.append(f"labels {some([str(n) for n in present.tolist()])}")
    else:
        said.append(f"targets with {opened.targets.shape[1]} values each")
    parts = {
        "train": Arrays(split=Split("head", 0.9)),
        "val": Arrays(split=Split("tail", 0.9)),
    }
    said.append("val: none of its own, so a tenth of the pictures is kept for it")
    return Layout(kind="arrays in .npy files", parts=parts, said=tuple(said))


def _load(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {missing(path)}") from error
    except (
        Exception
    ) as error:  # a damaged header raises anything, SyntaxError and UnicodeDecodeError included
        raise DataError(f"{path}: is no usable .npy file ({error}); write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: is an archive of arrays; expected one array, written with numpy.save")
    return array


def _checked(images: NDArray[Any], targets: NDArray[Any], names: tuple[str, ...], where: str) -> Opened:
    """Return both in the shapes and types of `Opened`, or raise DataError."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype.name not in _PICTURES or 0 in images.shape or _planes(images):
        raise DataError(
            f"{where}: images must be (N, H, W, C) or (N, H, W) of {', '.join(_PICTURES)}, found {images.shape} "
            f"{images.dtype}" + ("; is the channel first? Transpose it to the end" if _planes(images) else "")
        )
    if targets.ndim not in (1, 2) or len(targets) != len(images):
        raise DataError(f"{where}: {len(images):,} images, but targets of shape {targets.shape}")
    if targets.ndim == 2:
        if targets.dtype.kind != "f" or (names and targets.shape[1] != len(names)):
            expected = f"({len(images)}, {len(names) or 'K'}) floats"
            raise DataError(f"{where}: targets must be {expected}, found {targets.shape} {targets.dtype}")
        return Opened(images, targets)
    if targets.dtype.kind not in "iu":
        raise DataError(f"{where}: labels must be whole numbers, found {targets.dtype}")
    top = len(names) or np.iinfo(np.int64).max
    bad = np.flatnonzero((targets < 0) | (targets >= top))
    if len(bad):
        limits = f"0 to {top - 1}" if names else "0 or more"
        raise DataError(
            f"{where}: label {targets[bad[0]]} in row {bad[0]} is out of range, expected {limits}"
        )
    return Opened(images, targets.astype(np.int64))


def _planes(images: NDArray[Any]) -> bool:
    """Say whether the channels seem to come first, as torch has them: (N, 3, H, W)."""
    return images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4
