"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) in their published idx files, gzipped or not.

An idx file is two zero bytes, a byte for the type, a byte for the number of dimensions, each dimension as a
big-endian 32-bit number, and the values, big-endian. All of it is checked, so that a file that was cut off, or of
another data set, is refused with what was found.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from visloom.data.held import Held
from visloom.data.images import missing
from visloom.data.layout import Layout, some
from visloom.durable import reason
from visloom.errors import DataError

MAX_BYTES = 1 << 32  # values of one file once unpacked; the published ones have 47 MB

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# in mmclassification's spelling, so that its checkpoints name the same classes
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CLASSES = {
    "mnist": tuple(f"{number} - {word}" for number, word in enumerate(_DIGITS)),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
_FOLDERS = {
    "mnist": ("MNIST/raw", "MNIST", "raw", "mnist"),
    "fashion_mnist": ("FashionMNIST/raw", "FashionMNIST", "raw"),
}
_STEMS = {True: ("train-images", "train-labels"), False: ("t10k-images", "t10k-labels")}


class Opened(NamedTuple):
    """images (N, H, W, 1) uint8, labels (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, repr=False)
class Mnist(Held):
    """Gray pictures of 28x28 in ten classes.

    name: "mnist" or "fashion_mnist": the files are called alike, so the name decides what the classes are called.
    train: the training files, else the test files; the other two need not be there.
    root: the folder with the files, or one around it (MNIST/raw, as torchvision keeps them).
    """

    name: Literal["mnist", "fashion_mnist"] = "mnist"
    train: bool = True

    def __post_init__(self) -> None:
        if self.name not in _CLASSES:
            raise ValueError(f"name is 'mnist' or 'fashion_mnist', got {self.name!r}")

    def open(self) -> Opened:
        """Read both files.

        Raises:
            DataError: one is missing or damaged, or they do not fit each other.
        """
        root = Path(self.root)
        folder = _folder(root, self.name, self.train)
        if folder is None:
            names = " and ".join(_published(stem) for stem in _STEMS[self.train])
            there = some(sorted(p.name for p in root.iterdir())) if root.is_dir() else ""
            said = f"has no {names}; it has {there or 'nothing'}" if root.is_dir() else missing(root)
            raise DataError(
                f"{root}: {said}; expected {names}, gzipped or not, there or in {_FOLDERS[self.name][0]}; "
                "name their place with --data"
            )
        pictures, numbers = (cast(Path, _file(folder, stem)) for stem in _STEMS[self.train])
        images, labels = read_idx(pictures), read_idx(numbers)
        if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape:
            raise DataError(f"{pictures}: pictures are (N, H, W) bytes, found {images.shape} {images.dtype}")
        if labels.ndim != 1 or labels.dtype != np.uint8:
            raise DataError(f"{numbers}: labels are (N,) bytes, found {labels.shape} {labels.dtype}")
        if len(images) != len(labels):
            raise DataError(
                f"{pictures} has {len(images):,} pictures and {numbers.name} {len(labels):,} labels"
            )
        bad = np.flatnonzero(labels >= len(_CLASSES[self.name]))
        if len(bad):
            raise DataError(f"{numbers}: label {labels[bad[0]]} of picture {bad[0]} is not from 0 to 9")
        return Opened(images[..., None], labels.astype(np.int64))

    def picture_size(self) -> tuple[int, int]:
        return 28, 28

    def classes(self) -> tuple[str, ...]:
        return _CLASSES[self.name]

    def _id(self, index: int) -> str:
        return f"{'train' if self.train else 'test'}/{index:05d}"

    def __repr__(self) -> str:
        part, title = "train" if self.train else "test", {"mnist": "Mnist", "fashion_mnist": "FashionMnist"}
        if "_opened" not in self.__dict__:
            return f"{title[self.name]}({part}, root={self.root!r})"
        _, height, width, _ = self.opened().images.shape
        return f"{title[self.name]}({part}: {len(self):,} images {height}x{width}, 10 classes)"


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds MNIST's files. Fashion-MNIST's are called alike: its folder's name tells."""
    for name in ("fashion_mnist", "mnist"):
        place = _folder(folder, name, train=True)
        if place is None or (name == "fashion_mnist") != ("fashion" in str(place.absolute()).lower()):
            continue
        root = "" if place == folder else place.relative_to(folder).as_posix()
        parts = {"train": Mnist(name=name, root=root)}  # type: ignore[arg-type]
        if _folder(place, name, train=False) == place:
            parts["val"] = Mnist(name=name, train=False, root=root)  # type: ignore[arg-type]
        said = [f"idx files in {place}", f"{len(_CLASSES[name])} classes"]
        if "val" not in parts:
            said.append("the test files are missing")
        return Layout(kind=f"{name} (idx files)", parts=parts, classes=_CLASSES[name], said=tuple(said))
    return None


# --- files


def _published(stem: str) -> str:
    return f"{stem}-idx{3 if 'images' in stem else 1}-ubyte"


def _file(folder: Path, stem: str) -> Path | None:
    """The file of a stem, in one of the spellings that are about; the one that is not packed first."""
    plain = _published(stem)
    for name in (plain, plain.replace("-idx", ".idx"), f"{plain}.gz", f"{plain.replace('-idx', '.idx')}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _folder(root: Path, name: str, train: bool) -> Path | None:
    """The folder with both files of a part: `root` itself, or one that is usual inside it."""
    for place in (root, *(root / inside for inside in _FOLDERS[name])):
        if all(_file(place, stem) is not None for stem in _STEMS[train]):
            return place
    return None


def read_idx(path: str | Path) -> NDArray[Any]:
    """Read an idx file, gzipped or not (its first bytes tell): an array in native byte order.

    Raises:
        DataError: missing or damaged; another magic number, an unknown type, or more or fewer values than it says.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                return _idx(file, path)
            with gzip.GzipFile(fileobj=file) as inside:
                return _idx(cast("IO[bytes]", inside), path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged or cut off ({error}); fetch it again") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: {missing(path)}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


def _idx(file: IO[bytes], path: Path) -> NDArray[Any]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not head[3]:
        raise DataError(
            f"{path}: is no idx file: it begins with {head.hex(' ') or 'nothing'}; expected two zero bytes, a type "
            f"({', '.join(f'{code:02x}' for code in _TYPES)}) and the number of dimensions"
        )
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{path}: is cut off inside its {head[3]} dimensions")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    dtype = np.dtype(_TYPES[head[2]])
    expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    if expected > MAX_BYTES:
        raise DataError(f"{path}: says that it holds {shape} values, {expected:,} bytes: more than is read")
    values = file.read(expected + 1)  # one more: what follows must be nothing
    if len(values) != expected:
        more = "more than" if len(values) > expected else f"{len(values):,} of"
        raise DataError(f"{path}: holds {more} the {expected:,} bytes of the {shape} values that it names")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="))
