"""MaskSource: what all data sets of pictures with a class per pixel have in common.

A data set says which files belong together (`items()`) and what stored values mean (`legend()`). Here, once: values
become classes by a table, classes merge by `remap`, ignore is -1, masks must fit their picture and hold no value
without a meaning, decoded masks may stay in memory, and `check()` finds what is wrong before the first step.

    Sample.image            (H, W, 3) uint8
    Sample.masks["class"]   (H, W) int32: class index, -1 = ignore
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.checks import require
from visloom.data.images import MAX_PIXELS, check_headers, read_image
from visloom.data.layout import some
from visloom.data.legend import ILLEGAL, Legend, Table, regroup
from visloom.data.maskfile import Array, MaskHeader, mask_header, read_mask
from visloom.errors import DataError
from visloom.palette import Colour
from visloom.sample import Sample
from visloom.stream import Source

CHECKED = 20_000
"""Samples whose headers `check()` compares, evenly spread over larger sets (a few seconds' worth)."""

CHECKED_MAT = 2_000
"""The same for `.mat` files, which have to be unpacked for their size: 1.5 ms each."""

DECODED = 32
"""Masks that `check()` decodes to look at their values; every other mask is checked when it is read."""


class Item(NamedTuple):
    """One sample: its id, and the files of picture and mask."""

    id: str
    image: Path
    mask: Path


class Opened(NamedTuple):
    """What of the data set is known once it is opened; notes are told by `check()`."""

    items: Sequence[Item]
    legend: Legend  # after `remap`
    table: Table
    notes: tuple[str, ...]


class Runs(NamedTuple):
    """A mask in memory by its runs of equal values: a hundredth of its pixels."""

    values: NDArray[np.int32]
    lengths: NDArray[np.int32]
    shape: tuple[int, int]

    @classmethod
    def pack(cls, mask: NDArray[np.int32]) -> Runs:
        """Pack an (H, W) mask, row by row."""
        flat = mask.ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        lengths = np.diff(starts, append=flat.size).astype(np.int32)
        return cls(flat[starts], lengths, (mask.shape[0], mask.shape[1]))

    def unpack(self) -> NDArray[np.int32]:
        """Return the mask: (H, W) int32."""
        return np.repeat(self.values, self.lengths).reshape(self.shape)


@dataclass(frozen=True, kw_only=True, repr=False)
class MaskSource(Source):
    """Base of data sets with a class for each pixel.

    remap: merges classes: class name, or stored class number as text, -> new name. A class that is not mentioned
        keeps its name, "*" stands for all of those, and the new name "ignore" takes a class out of losses and metrics.
        The new classes stand in the order of the old ones, whatever the order of the table.
    cache: keep decoded masks in memory, packed (about 50 kB for a photo), in each data worker.
    max_pixels: larger pictures are refused from their header.
    """

    headers: ClassVar[int] = CHECKED

    remap: Mapping[str, str] = field(default_factory=dict)
    cache: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        require(self.max_pixels > 0, "max_pixels is a positive number", self.max_pixels)

    # ---- what a data set defines

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        """List the samples, in a fixed order, and what should be told about them (photos left out, say)."""
        raise TypeError(f"{type(self).__name__} must define items()")

    def legend(self) -> Legend:
        """Say what stored values mean, before `remap`."""
        raise TypeError(f"{type(self).__name__} must define legend()")

    def read_raw(self, path: Path) -> Array:
        """Read a mask as stored: (H, W) whole numbers, or (H, W, 3) uint8 colours."""
        return read_mask(path, max_pixels=self.max_pixels)

    def raw_header(self, path: Path) -> MaskHeader:
        """Look at the size of a mask without decoding it."""
        return mask_header(path, max_pixels=self.max_pixels)

    def hint(self, found: Mapping[int, int], legend: Legend) -> str:
        """Say what may be behind stored values that have no meaning, by their counts; "" if nothing comes to mind."""
        return ""

    # ---- what streams and tasks call

    def open(self) -> Opened:
        """List the files and make the table from values to classes.

        Raises:
            DataError: folders or files are missing.
            ConfigError: `remap` names a class that does not exist.
        """
        items, notes = self.items()
        if not items:
            raise DataError(f"{self!r}: has no samples")
        legend = regroup(self.legend(), self.remap)
        return Opened(items, legend, legend.table(), notes)

    def count(self) -> int:
        return len(self.opened().items)

    def classes(self) -> tuple[str, ...]:
        return self.opened().legend.names  # type: ignore[no-any-return]

    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class, the data set's own, or () if it has none."""
        return self.opened().legend.colours  # type: ignore[no-any-return]

    def fetch(self, index: int) -> Sample:
        item: Item = self.opened().items[index]
        image = read_image(item.image, max_pixels=self.max_pixels)
        mask = self._mask(index)
        if mask.shape != image.shape[:2]:
            raise DataError(unlike(item, image.shape, mask.shape))
        return Sample(item.id, image, masks={"class": mask})

    def mask(self, index: int) -> NDArray[np.int32]:
        """Return the mask of sample `index` of those kept, without its picture: (H, W) int32, -1 = ignore."""
        kept = self.chosen()
        return self._mask(index if kept is None else int(kept[index]))

    def sizes_all(self) -> NDArray[np.int64]:
        """(N, 2) heights and widths from the headers of all pictures, once upright."""
        if "_sizes" not in self.__dict__:
            sizes, problems = self._headers(np.arange(self.count()))
            if problems:
                raise self._refuse(problems, len(sizes))
            object.__setattr__(self, "_sizes", sizes)
        return self.__dict__["_sizes"]  # type: ignore[no-any-return]

    def check(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Compare the sizes of pictures and masks by their headers, and decode a few masks.

        progress: called with (pictures done, in all).
        Raises:
            DataError: files that are missing or cannot be read, sizes that differ, values without a meaning.
        """
        opened: Opened = self.opened()
        kept = self.chosen()
        wanted = np.arange(self.count()) if kept is None else kept
        if not len(wanted):
            raise DataError(f"{self!r}: nothing is left after split and limit")
        warnings = list(opened.notes)
        looked = spread(wanted, self.headers)
        if len(looked) < len(wanted):
            warnings.append(f"{self!r}: looked at the headers of {len(looked):,} of {len(wanted):,} samples")
        sizes, problems = self._headers(looked, progress)
        problems |= self._mask_headers(looked, sizes, problems)
        if problems:
            raise self._refuse(problems, len(wanted))
        return [*warnings, *self._look_into(spread(wanted, DECODED))]

    def __repr__(self) -> str:
        what = type(self).__name__
        part = getattr(self, "part", "")
        if "_opened" not in self.__dict__:
            return f"{what}({part + ', ' if part else ''}root={self.root!r})"
        return f"{what}({part + ': ' if part else ''}{len(self):,} pictures with masks, {len(self.classes())} classes)"

    # ---- inside

    def _look_into(self, indices: NDArray[np.int64]) -> list[str]:
        """Decode some masks, and warn if together they hold fewer than two classes."""
        names = self.classes()
        present = np.zeros(len(names) + 1, bool)  # by label; the last one is ignore
        for index in indices.tolist():
            present[self._mask(index)] = True
        found = [name for name, there in zip(names, present, strict=False) if there]
        if len(found) > 1 or len(names) < 2:
            return []
        rest = " and pixels to ignore" if present[-1] else ""
        return [
            f"{self!r}: the {len(indices)} masks that were looked at hold only {some(found) or 'no class'}{rest}; if "
            f"they are black and white, say in a table (columns name, value) that 255 is a class"
        ]

    def _mask(self, index: int) -> NDArray[np.int32]:
        if not self.cache:
            return self._decode(index)
        held: dict[int, Runs] = self.__dict__.setdefault("_masks", {})
        if index not in held:
            held[index] = Runs.pack(self._decode(index))
        return held[index].unpack()

    def _decode(self, index: int) -> NDArray[np.int32]:
        """Read a mask and turn its values into classes: (H, W) int32."""
        opened: Opened = self.opened()
        path = opened.items[index].mask
        raw = self.read_raw(path)
        mask = opened.table(raw, str(path))
        if mask.size and int(mask.min()) <= ILLEGAL:
            raise DataError(opened.table.complaint(raw, str(path), self.hint))
        return mask

    def _headers(
        self, indices: NDArray[np.int64], progress: Callable[[int, int], None] | None = None
    ) -> tuple[NDArray[np.int64], dict[int, str]]:
        items = self.opened().items
        sizes, problems = check_headers(
            [items[i].image for i in indices.tolist()], max_pixels=self.max_pixels, progress=progress
        )
        return sizes, {int(indices[i]): text for i, text in problems.items()}

    def _mask_headers(
        self, indices: NDArray[np.int64], sizes: NDArray[np.int64], known: Mapping[int, str]
    ) -> dict[int, str]:
        """Compare the masks' sizes with the pictures'; what is wrong, by the number of the sample."""
        items = [self.opened().items[index] for index in indices.tolist()]
        sizes = sizes.copy()
        sizes[[int(index) in known for index in indices]] = 0  # whose picture is at fault already
        found = differing(items, sizes, self.raw_header)
        return {int(i): text for i, text in zip(indices, found, strict=True) if text}

    def _refuse(self, problems: Mapping[int, str], count: int) -> DataError:
        lines = "\n  ".join(problems[i] for i in sorted(problems)[:10])
        more = f"\n  ... and {len(problems) - 10:,} more" if len(problems) > 10 else ""
        return DataError(
            f"{len(problems):,} of {count:,} samples of {self!r} cannot be used:\n  {lines}{more}"
        )


def differing(
    items: Sequence[Item], sizes: NDArray[np.int64], header: Callable[[Path], MaskHeader]
) -> list[str]:
    """Compare masks with their pictures by their headers: what is wrong with each, "" where nothing is.

    sizes: (N, 2) heights and widths of the pictures, 0 where they are not known.
    """

    def look(pair: tuple[Item, NDArray[np.int64]]) -> str:
        item, size = pair
        try:
            found = header(item.mask)
        except DataError as error:
            return str(error)
        if size.any() and (found.height, found.width) != tuple(size.tolist()):
            return unlike(item, size.tolist(), (found.height, found.width))
        return ""

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(look, zip(items, sizes, strict=True), chunksize=64))


def spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of some indices, evenly spread."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices)))
    return np.asarray(indices[places.astype(np.int64)], np.int64)


def unlike(item: Item, image: Sequence[int], mask: Sequence[int]) -> str:
    """Say that a mask (height, width) has another size than its picture."""
    turned = tuple(mask[:2]) == (image[1], image[0])
    hint = "; the one looks turned by 90 degrees, was only the picture rotated?" if turned else ""
    return (
        f"{item.mask}: the mask is {mask[1]}x{mask[0]} pixels (width x height) and its picture {item.image} "
        f"{image[1]}x{image[0]}{hint}"
    )


def existing(items: Sequence[Item], *, what: str) -> Sequence[Item]:
    """Return the items if all their files exist.

    Raises:
        DataError: names the pictures or masks that are missing.
    """
    for kind, lost in (
        ("picture", [item.image for item in items if not item.image.is_file()]),
        ("mask", [item.mask for item in items if not item.mask.is_file()]),
    ):
        if lost:
            raise DataError(
                f"{what}: {len(lost):,} of {len(items):,} samples have no {kind}; missing are "
                f"{some([str(path) for path in lost], 3)}"
            )
    return items


def files_in(folder: Path, ending: str) -> list[Path]:
    """Return the files of a folder with an ending, by name, whatever order the file system has.

    Raises:
        DataError: there are none.
    """
    found = sorted(
        p for p in folder.iterdir() if p.name.lower().endswith(ending.lower()) and not p.name.startswith(".")
    )
    if not found:
        raise DataError(f"{folder}: holds no file that ends in {ending}")
    return found


def find_root(root: str, inner: Sequence[str], wanted: Sequence[str], *, what: str, get: str) -> Path:
    """Return the folder that holds a data set: `root` or one of the folders `inner` in it.

    Args:
        wanted: folders that it must have.  get: what to do if it is not there.
    Raises:
        DataError: names the folders that were found and those that are missing.
    """
    places = [Path(root) / name if name else Path(root) for name in ("", *inner)]
    there = {place: [name for name in wanted if (place / name).is_dir()] for place in places}
    best = max(places, key=lambda place: len(there[place]))
    missing = [name for name in wanted if name not in there[best]]
    if missing:
        found = (
            f"found {some(there[best])}, missing {some(missing)}"
            if there[best]
            else f"missing {some(missing)}"
        )
        looked = f" (looked in {some([str(place) for place in places])})" if not there[best] else ""
        raise DataError(f"{best}: is no {what}: {found}{looked}. {get}")
    return best


def read_list(path: Path) -> list[str]:
    """Return the lines of a list file that are not empty, each once, in their order.

    Raises:
        DataError: the file is missing, not text or empty; names the lists that lie beside it.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        beside = sorted(p.name for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        there = f"; there are {some(beside)}" if beside else ""
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(f"{path}: the list of samples {reason}{there}") from error
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise DataError(f"{path}: the list of samples is empty")
    return found
