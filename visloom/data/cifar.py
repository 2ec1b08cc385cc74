"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their published layout: pickled batches, whole set in memory.

A pickle can run code, so these are read by an unpickler that knows five names, all of which stand for inert
recorders here: no module is imported and nothing of numpy is called before the bytes have been checked.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.held import Held
from visloom.data.layout import Layout
from visloom.errors import DataError

MAX_BYTES = 1 << 30  # a published batch has 31 MB


class _Files(NamedTuple):
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str
    classes: int


_SETS = {
    "cifar10": _Files(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{n}" for n in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels="labels",
        names="label_names",
        classes=10,
    ),
    "cifar100": _Files(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
        classes=100,
    ),
}

# md5 of the published files: told when a file is damaged, never a condition (re-encoded copies are data too)
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


class Opened(NamedTuple):
    """The set in memory: images (N, 32, 32, 3) uint8 RGB, labels (N,) int64, class names, name of each batch file."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Cifar(Held):
    """CIFAR-10 or CIFAR-100 (fine labels) from the published "python version".

    name: "cifar10" or "cifar100".  train: the training batches, else the test batches.
    root: the folder that holds the batches, or the folder around it. Any number of rows per batch is
    accepted.
    """

    name: Literal["cifar10", "cifar100"] = "cifar10"
    train: bool = True

    def __post_init__(self) -> None:
        if self.name not in _SETS:
            raise ValueError(f"name is 'cifar10' or 'cifar100', got {self.name!r}")

    def open(self) -> Opened:
        """Read all batches of this part: 150 MB for 50,000 images.

        Raises:
            DataError: a file is missing or damaged, holds something else, or has labels out of range.
        """
        files = _SETS[self.name]
        folder = _folder(Path(self.root), files)
        if folder is None:
            wanted = f"{files.meta}, {', '.join((*files.train, *files.test))}"
            raise DataError(
                f"{self.root or '.'}: holds no {self.name} (python version): expected a folder {files.folder!r}, or "
                f"its files {wanted}. Unpack {files.folder.removesuffix('-batches-py').removesuffix('-python')}"
                f"-python.tar.gz there, or name its place with --data"
            )
        classes = _class_names(folder / files.meta, files)
        parts = [_batch(folder / file, files) for file in (files.train if self.train else files.test)]
        return Opened(
            np.concatenate([images for images, _ in parts]),
            np.concatenate([labels for _, labels in parts]),
            classes,
        )

    def picture_size(self) -> tuple[int, int]:
        return 32, 32

    def classes(self) -> tuple[str, ...]:
        return self.opened().classes  # type: ignore[no-any-return]

    def _id(self, index: int) -> str:
        return f"{'train' if self.train else 'test'}/{index:05d}"

    def __repr__(self) -> str:
        part = "train" if self.train else "test"
        title = {"cifar10": "Cifar10", "cifar100": "Cifar100"}[self.name]
        if "_opened" in self.__dict__:
            return f"{title}({part}: {len(self):,} images 32x32, {len(self.opened().classes)} classes)"
        return f"{title}({part}, root={self.root!r})"


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder is, or holds, CIFAR-10 or CIFAR-100 (python version), and what is in it."""
    for name, files in _SETS.items():
        place = _folder(folder, files)
        if place is None:
            continue
        root = "" if place == folder else files.folder
        train = Cifar(name=name, train=True, root=root)  # type: ignore[arg-type]
        val = Cifar(name=name, train=False, root=root)  # type: ignore[arg-type]
        present = [f for f in (*files.train, *files.test, files.meta) if (place / f).is_file()]
        lost = [f for f in (*files.train, *files.test, files.meta) if f not in present]
        classes = _class_names(place / files.meta, files) if files.meta in present else ()
        said = [f"{len(present)} files of the published layout in {place}", f"{len(classes)} classes"]
        same = sum(_digest(place / f) == _MD5[f] for f in present)
        said.append(f"{same} of {len(present)} files are the published ones (by md5)")
        if lost:
            said.append(f"missing: {', '.join(lost)}")
        return Layout(
            kind=f"{name} (python version)",
            parts={"train": train, "val": val},
            classes=classes,
            said=tuple(said),
        )
    return None


def _folder(root: Path, files: _Files) -> Path | None:
    """The folder that holds at least one batch: `root` itself or the published folder in it."""
    for place in (root, root / files.folder):
        batches = (*files.train, *files.test) if files.classes == 10 else (files.meta,)
        if any((place / name).is_file() for name in batches):
            return place
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        state = md5(usedforsecurity=False)
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


# -------------------------------------------------------------------------------------------------------
# files


def _batch(path: Path, files: _Files) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one batch: images (N, 32, 32, 3) uint8 and labels (N,) int64, checked."""
    held = _load(path)
    pixels, labels = _array(held.get("data")), held.get(files.labels)
    if pixels is None or labels is None:
        raise _wrong(path, f"expected the keys 'data' and {files.labels!r}, found {sorted(map(str, held))}")
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise _wrong(path, f"'data' must be (N, 3072) uint8, found {pixels.shape} {pixels.dtype}")
    numbers = _array(labels) if isinstance(labels, _Recorded) else labels
    try:
        values = np.asarray(numbers)
    except (ValueError, OverflowError) as error:
        raise _wrong(path, f"{files.labels!r} is no list of whole numbers") from error
    if values.ndim == 1 and (len(values) != len(pixels) or not len(pixels)):
        raise _wrong(path, f"it has {len(pixels)} images and {len(values)} labels")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise _wrong(
            path, f"{files.labels!r} must be a list of whole numbers, found {values.shape} {values.dtype}"
        )
    bad = np.flatnonzero((values < 0) | (values >= files.classes))
    if len(bad):
        raise _wrong(
            path,
            f"{len(bad)} label(s) outside 0 to {files.classes - 1}, the first is {values[bad[0]]} in row {bad[0]}",
        )
    planes = pixels.reshape(-1, 3, 32, 32)  # row = 1024 red, 1024 green, 1024 blue values
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), values.astype(np.int64)


def _class_names(path: Path, files: _Files) -> tuple[str, ...]:
    names = _load(path).get(files.names)
    if not isinstance(names, list) or len(names) != files.classes:
        raise _wrong(path, f"{files.names!r} must be a list of {files.classes} names")
    return tuple(_text(name) for name in names)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _load(path: Path) -> dict[str, Any]:
    """Unpickle a file of the set into plain objects; keys become str."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: is missing ({error.strerror}); the published layout has it. Unpack the archive again"
        ) from error
    if not 0 < size <= MAX_BYTES:
        raise _wrong(path, f"it has {size:,} bytes")
    try:
        with path.open("rb") as file:
            held = _Unpickler(file, encoding="bytes").load()
    except _Forbidden as error:
        raise DataError(f"{path}: refused: {error}. Nothing of it was run") from error
    except (
        Exception
    ) as error:  # a damaged pickle raises anything: EOFError, KeyError, ValueError, IndexError, ...
        raise _wrong(path, f"it is damaged or cut off ({type(error).__name__}: {error})") from error
    if not isinstance(held, dict):
        raise _wrong(path, f"it holds a {type(held).__name__} instead of a dictionary")
    return {_text(key): value for key, value in held.items()}


def _wrong(path: Path, what: str) -> DataError:
    """An error that names the file and compares it with the published one."""
    hint = ""
    if path.name in _MD5 and path.is_file():
        mine = _digest(path)
        same = mine == _MD5[path.name]
        hint = f" (its md5 is {mine}, the published file's is {_MD5[path.name]})" if not same else ""
    return DataError(f"{path}: is no usable CIFAR file: {what}{hint}. Unpack the archive again")


# ---------------------------------------------------------------------------------------- restricted
# unpickling


class _Forbidden(pickle.UnpicklingError):
    """The pickle names something that a CIFAR batch has no use for."""


class _Recorded:
    """Stands for numpy's array while unpickling: keeps its state and does nothing."""

    def __init__(self, *args: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RecordedType:
    """Stands for numpy.dtype while unpickling: keeps the type string."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = _text(code)
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else "|"


def _reconstruct(*_: Any) -> _Recorded:
    return _Recorded()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Recorded:
    recorded = _Recorded()
    recorded.state = (1, shape, dtype, _text(order) == "F", data)
    return recorded


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """What Python 2 byte strings went through when Python 3 wrote them with an old protocol."""
    if not isinstance(text, str | bytes) or _text(encoding) not in ("latin1", "latin-1", "bytes"):
        raise _Forbidden(f"it encodes with {_text(encoding)!r}")
    return text.encode("latin1") if isinstance(text, str) else text


_KNOWN: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Recorded,
    ("numpy", "dtype"): _RecordedType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Forbidden(f"the pickle asks for {module}.{name}, which no CIFAR file needs")
        return _KNOWN[module, name]


def _array(recorded: Any) -> NDArray[Any] | None:
    """Make the array that a pickle described, from its raw bytes; None where it described none."""
    state = recorded.state if isinstance(recorded, _Recorded) else None
    if not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, kind, fortran, data = state
    data = data.encode("latin1") if isinstance(data, str) else data
    codes = {"u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8"}
    if (
        not isinstance(kind, _RecordedType)
        or kind.code not in codes
        or not isinstance(data, bytes | bytearray)
    ):
        return None
    dtype = np.dtype(f"{kind.order if kind.order in '<>' else '='}{kind.code}")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        return None
    flat = np.frombuffer(data, dtype)
    if flat.size != int(np.prod(shape, dtype=object)):
        return None
    return flat.reshape(shape, order="F" if fortran else "C")
