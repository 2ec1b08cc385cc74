"""Folder: pictures with one label each, in class folders (train/<class>/*.jpg) or named by a list file or
CSV.

What to do about a picture that cannot be read is a policy. "stop" (the default) ends the run with its name;
with "skip" the next readable picture of the same stream stands in for it, and the sample says so in its
notes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data import listing
from visloom.data.checks import require
from visloom.data.images import EXTENSIONS, MAX_PIXELS, SixteenBit, check_headers, missing, read_image
from visloom.data.layout import Layout, some
from visloom.errors import DataError
from visloom.sample import Sample, Stacked
from visloom.stream import Source, Split

CHECKED = 100_000
"""Headers that `check()` looks at, evenly spread over larger sets (about ten seconds' worth)."""

MEMORY_LIMIT = 8 << 30
"""Bytes of decoded pictures that `memory=True` may take."""

_SKIP = "train.source.unreadable=skip, evals.NAME.stream.source.unreadable=skip"
_SKIPS = 100  # unreadable pictures in a row after which even "skip" stops: the data set is broken

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "test", "testing", "eval")


class Opened(NamedTuple):
    """What of the folder is known: ids (one per picture), the listing, and pictures if they lie in memory.

    images: None, or per picture (H, W, 3) uint8, or a message where it cannot be read.
    block: (N, H, W, 3) if all have one size.
    """

    ids: list[str]
    listing: listing.Listing
    images: list[NDArray[np.uint8] | str] | None
    block: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Folder(Source):
    """Pictures in class folders, or those that a list names.

    root: the folder with the class folders, or the one that the paths of the list start from.
    files: a list file ("path label" per line) or a .csv / .tsv table in `root`; empty for class folders.
    names: class names in the order of their labels; by default the sorted folders, or the names in the
        list. Give a validation folder the names of the training folder if it may lack a class.
    extensions: endings of picture files, upper or lower case.
    unreadable: "stop" or "skip".  sixteen_bit: "refuse" pictures with 16 bits a channel, or "scale" them to
    8.
    max_pixels: larger pictures are refused from their header.
    memory: decode everything once and keep it, for small sets.
    """

    files: str = ""
    names: tuple[str, ...] = ()
    extensions: tuple[str, ...] = EXTENSIONS
    unreadable: Literal["stop", "skip"] = "stop"
    sixteen_bit: SixteenBit = "refuse"
    max_pixels: int = MAX_PIXELS
    memory: bool = False

    def __post_init__(self) -> None:
        require(self.unreadable in ("stop", "skip"), "unreadable is 'stop' or 'skip'", self.unreadable)
        require(
            self.sixteen_bit in ("refuse", "scale"), "sixteen_bit is 'refuse' or 'scale'", self.sixteen_bit
        )
        require(self.max_pixels > 0, "max_pixels is a positive number", self.max_pixels)
        dotted = self.extensions and all(e.startswith(".") for e in self.extensions)
        require(bool(dotted), "extensions is a list of endings like '.jpg'", self.extensions)
        require(len(set(self.names)) == len(self.names), "names has each class once", self.names)

    def open(self) -> Opened:
        """List the pictures; with `memory`, read them.

        Raises:
            DataError: folder or list is missing, empty or wrong, or has labels out of range.
        """
        root = Path(self.root)
        if self.files:
            found = listing.read(root, self.files, self.names)
        else:
            found = listing.scan(root, self.extensions, self.names)
        images = self._read_all(found.paths) if self.memory else None
        block = None
        if images and all(isinstance(i, np.ndarray) for i in images):
            arrays: Any = images
            if len({a.shape for a in arrays}) == 1:
                block = np.stack(arrays)
                images = list(block)
        return Opened(listing.number_repeats(found.paths), found, images, block)

    def count(self) -> int:
        return len(self.opened().ids)

    def fetch(self, index: int) -> Sample:
        opened = self.opened()
        if opened.images is None:
            image: Any = self._image(opened.listing.paths[index])
        else:
            image = opened.images[index]
            if isinstance(image, str):
                raise DataError(image)
        return Sample(opened.ids[index], image, int(opened.listing.labels[index]))

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked | None:
        opened = self.opened()
        if opened.block is None:
            return None
        ids = tuple([opened.ids[i] for i in indices.tolist()])
        return Stacked(ids, opened.block[indices], opened.listing.labels[indices])

    def read(self, index: int) -> Sample:
        """Read sample `index` of those kept; with "skip", the next readable one in place of an unreadable one."""
        self.opened()  # what is wrong with the folder itself is no matter of skipping
        try:
            return super().read(index)
        except DataError as error:
            if self.unreadable == "stop":
                raise DataError(f"{error}; or pass over such pictures: {_SKIP}") from error
            return self._next_readable(index, error)

    def _next_readable(self, index: int, first: DataError) -> Sample:
        """The stand-in of an unreadable picture: a function of the data alone, within `split` and `limit`."""
        kept, count = self.chosen(), len(self)
        for step in range(1, min(_SKIPS, count - 1) + 1):
            try:
                sample = super().read((index + step) % count)
            except DataError:
                continue
            lost = self.opened().ids[index if kept is None else int(kept[index])]
            note = f"skipped {lost}: {first}; {sample.id} stands in for it"
            return sample.replace(id=f"{sample.id} (for {lost})", notes=(*sample.notes, note))
        raise DataError(
            f"{first}; and none of the {min(_SKIPS, count - 1)} pictures after it can be read"
        ) from first

    def sizes_all(self) -> NDArray[np.int64]:
        """(N, 2) heights and widths from the headers of all pictures, once upright."""
        if "_sizes" not in self.__dict__:
            sizes, problems = self._headers(np.arange(self.count()))
            if problems and self.unreadable == "stop":
                raise self._refuse(problems, len(sizes))
            if len(problems) == len(sizes):
                raise self._refuse(problems, len(sizes))
            for index in sorted(problems, reverse=True):  # what stands in for it, or near enough
                good = next(
                    i % len(sizes)
                    for i in range(index + 1, index + len(sizes))
                    if sizes[i % len(sizes), 0] > 0
                )
                sizes[index] = sizes[good]
            object.__setattr__(self, "_sizes", sizes)
        return self.__dict__["_sizes"]  # type: ignore[no-any-return]

    def classes(self) -> tuple[str, ...]:
        return self.opened().listing.classes  # type: ignore[no-any-return]

    def labels_all(self) -> NDArray[np.int64]:
        return self.opened().listing.labels  # type: ignore[no-any-return]

    def check(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Look for missing files, read the headers of the pictures kept, and count classes.

        progress: called with (pictures done, in all).
        Raises:
            DataError: pictures are missing or unreadable and the policy is "stop"; lists them.
        """
        kept = self.chosen()
        wanted = np.arange(self.count()) if kept is None else kept
        if not len(wanted):
            raise DataError(f"{self!r}: nothing is left after split and limit")
        warnings = []
        some_of = wanted[np.linspace(0, len(wanted) - 1, min(CHECKED, len(wanted))).astype(np.int64)]
        if len(some_of) < len(wanted):
            warnings.append(
                f"{self!r}: looked at the headers of {len(some_of):,} of {len(wanted):,} pictures"
            )
        problems = self._lost(wanted) if self.files else {}
        problems |= self._headers(some_of, progress)[1]
        if problems and (self.unreadable == "stop" or len(problems) == len(wanted)):
            raise self._refuse(problems, len(wanted))
        if problems:
            listed = some([problems[i] for i in sorted(problems)], 5)
            warnings.append(f"{len(problems):,} of {len(wanted):,} pictures are skipped: {listed}")
        labels = self.labels_all()[wanted]
        absent = [n for label, n in enumerate(self.classes()) if not (labels == label).any()]
        if absent:
            warnings.append(f"{self!r}: no picture of {some(absent)}")
        return warnings

    def _refuse(self, problems: dict[int, str], count: int) -> DataError:
        lines = "\n  ".join(problems[i] for i in sorted(problems)[:10])
        more = f"\n  ... and {len(problems) - 10:,} more" if len(problems) > 10 else ""
        return DataError(
            f"{len(problems):,} of {count:,} pictures in {self.root} cannot be used:\n  {lines}{more}\n"
            f"Mend or remove them, or pass over them: {_SKIP}"
        )

    def _lost(self, wanted: NDArray[np.int64]) -> dict[int, str]:
        root, paths = Path(self.root), self.opened().listing.paths
        gone = [i for i in wanted.tolist() if not (root / paths[i]).exists()]
        return {i: f"{root / paths[i]}: {missing(root / paths[i])}" for i in gone}

    def _headers(
        self, indices: NDArray[np.int64], progress: Callable[[int, int], None] | None = None
    ) -> tuple[NDArray[np.int64], dict[int, str]]:
        root, paths = Path(self.root), self.opened().listing.paths
        sizes, problems = check_headers(
            [root / paths[i] for i in indices.tolist()],
            max_pixels=self.max_pixels,
            sixteen_bit=self.sixteen_bit,
            progress=progress,
        )
        return sizes, {int(indices[i]): text for i, text in problems.items()}

    def _image(self, path: str) -> NDArray[np.uint8]:
        return read_image(Path(self.root) / path, max_pixels=self.max_pixels, sixteen_bit=self.sixteen_bit)

    def _read_all(self, paths: list[str]) -> list[NDArray[np.uint8] | str]:
        def one(path: str) -> NDArray[np.uint8] | str:
            try:
                return self._image(path)
            except DataError as error:
                return str(error)

        images: list[NDArray[np.uint8] | str] = []
        total = 0
        with ThreadPoolExecutor(max_workers=8) as pool:
            for start in range(
                0, len(paths), 256
            ):  # in pieces, so that the limit stops before memory is full
                images += pool.map(one, paths[start : start + 256])
                total += sum(i.nbytes for i in images[start:] if isinstance(i, np.ndarray))
                if total > MEMORY_LIMIT:
                    raise DataError(
                        f"{self.root}: {len(images):,} of {len(paths):,} pictures fill {total / 2**30:.0f} GB of "
                        f"memory already; set memory=false"
                    )
        return images

    def __repr__(self) -> str:
        where = f"{self.root}/{self.files}" if self.files else self.root
        if "_opened" not in self.__dict__:
            return f"Folder({where!r})"
        classes = len(self.classes()) or len(np.unique(self.labels_all()))
        return f"Folder({where!r}: {len(self):,} pictures, {classes} classes)"


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds labelled pictures: split into train and val, in class folders, or named by lists."""
    if not folder.is_dir():
        return None
    inside = listing.subfolders(folder)
    parts: dict[str, Folder] = {}
    for part, words in (("train", _TRAIN), ("val", _VAL)):
        name = next((f for word in words for f in inside if f.lower() == word), None)
        if name is not None and _has_classes(folder / name):
            parts[part] = Folder(root=name)
    if "train" not in parts:
        parts = _lists(folder) or ({"train": Folder()} if _has_classes(folder) else {})
    if "train" not in parts:
        return None
    return _described(folder, parts)


def _has_classes(folder: Path) -> bool:
    names = listing.subfolders(folder)
    return any(next(listing.pictures(folder / name, EXTENSIONS), None) is not None for name in names)


def _lists(folder: Path) -> dict[str, Folder]:
    """Parts named by list files such as train.txt, val.csv or labels.csv, if their first picture exists."""
    parts: dict[str, Folder] = {}
    for part, words in (("train", (*_TRAIN, "labels")), ("val", _VAL)):
        for word in words:
            for suffix in (".txt", ".csv", ".tsv"):
                file = folder / f"{word}{suffix}"
                if part not in parts and file.is_file() and _names_pictures(folder, file.name):
                    parts[part] = Folder(files=file.name)
    return parts


def _names_pictures(folder: Path, file: str) -> bool:
    try:
        found = listing.read(folder, file)
    except DataError:  # some other text file
        return False
    return (folder / found.paths[0]).is_file()


def _described(folder: Path, parts: dict[str, Folder]) -> Layout:
    def at(part: Folder) -> Folder:
        return Folder(root=str(folder / part.root), files=part.files, names=part.names)

    classes = at(parts["train"]).classes()
    said = []
    if "val" in parts and classes:
        parts["val"] = Folder(root=parts["val"].root, files=parts["val"].files, names=classes)
    for name, part in parts.items():
        source = at(part)
        counts = np.bincount(source.labels_all())
        where = source.files or part.root or "the folder itself"
        said.append(
            f"{name}: {len(source):,} pictures in {where}, {int(counts.min()):,} to {int(counts.max()):,} per class"
        )
    if "val" not in parts:
        held = parts["train"]
        parts = {
            "train": Folder(root=held.root, files=held.files, split=Split("head", 0.9)),
            "val": Folder(root=held.root, files=held.files, split=Split("tail", 0.9)),
        }
        said.append("val: none of its own, so a tenth of the pictures is kept for it")
    count = len(classes) or int(at(parts["train"]).labels_all().max()) + 1
    said.append(f"{count} classes: {some(classes)}" if classes else f"{count} classes, without names")
    return Layout(kind="image folder", parts=parts, classes=classes, said=tuple(said))
