"""Which pictures a folder holds and what their labels are: class folders, list files and CSV tables.

    class folders    root/<class>/**/*.jpg       classes in alphabetical order
    list file        relative/path.jpg 3         one per line; the label follows the last space
    CSV (or TSV)     path,label                  with or without a line of column names
Labels are numbers from 0, or class names. Every function raises DataError with file and line.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.images import EXTENSIONS, missing
from visloom.data.layout import some
from visloom.errors import DataError

_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
_LABELS = ("label", "class", "category", "target", "class_name", "label_name")


class Listing(NamedTuple):
    """Pictures of a folder: paths relative to it ("/" between parts), labels (N,) int64, class names or ()."""

    paths: list[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


class _Row(NamedTuple):
    line: int
    path: str
    label: str


def is_picture(name: str, extensions: Sequence[str]) -> bool:
    """Say whether a file name ends like a picture's; hidden files and macOS's "._" copies are none."""
    return not name.startswith(".") and name.lower().endswith(tuple(e.lower() for e in extensions))


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__MACOSX")))


def pictures(folder: Path, extensions: Sequence[str]) -> Iterator[str]:
    """Yield the pictures below a folder, sorted, as paths relative to it; links to folders are followed once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        info = os.stat(place)
        if (info.st_dev, info.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        inside = Path(place).relative_to(folder).as_posix()
        for name in sorted(files):
            if is_picture(name, extensions):
                yield name if inside == "." else f"{inside}/{name}"


def scan(root: Path, extensions: Sequence[str], names: Sequence[str] = ()) -> Listing:
    """List the pictures of class folders.

    names: the classes in the order of their labels; a folder outside them is an error, a class without a
        folder is not (a validation set may lack one). Without names every folder is a class and must hold a
        picture.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {missing(root)}; expected a folder with one folder of pictures per class")
    found = subfolders(root)
    if not found:
        loose = sum(is_picture(p.name, extensions) for p in root.iterdir())
        hint = f"; {loose:,} pictures lie in it without a class, list them in a file" if loose else ""
        raise DataError(f"{root}: has no class folders; expected {root.name}/<class>/*.jpg{hint}")
    strange = [name for name in found if names and name not in names]
    if strange:
        raise DataError(
            f"{root}: folder(s) that are no class: {some(strange)}; the classes are {some(tuple(names))}"
        )
    classes = tuple(names) if names else tuple(found)
    paths, labels, empty = [], [], []
    for label, name in enumerate(classes):
        own = [f"{name}/{path}" for path in pictures(root / name, extensions)] if name in found else []
        if not own and name in found:
            empty.append(name)
        paths += own
        labels += [label] * len(own)
    if not paths:
        raise DataError(
            f"{root}: no pictures in its folders ({some(found)}); looked for {', '.join(extensions)}"
        )
    if empty and not names:
        raise DataError(
            f"{root}: class folder(s) without a picture: {some(empty)}; remove them, or name the classes with `names`"
        )
    return Listing(paths, np.asarray(labels, np.int64), classes)


def read(root: Path, file: str, names: Sequence[str] = ()) -> Listing:
    """List the pictures that a list file or a CSV table names. Whether they exist is not looked at here."""
    place = root / file
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = missing(place) if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(f"{place}: the list of pictures cannot be read: {said}") from error
    tables = {".csv": ",", ".tsv": "\t"}
    mark = tables.get(place.suffix.lower())
    rows = list(_table(place, text, mark) if mark else _lines(place, text))
    if not rows:
        raise DataError(f"{place}: names no pictures")
    return _labelled(place, rows, names)


def _lines(place: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not path:
            raise DataError(
                f"{place}, line {number}: expected a path, a space and a label, found {line.strip()!r}"
            )
        yield _Row(number, path.strip(), label)


def _table(place: Path, text: str, mark: str) -> Iterator[_Row]:
    rows = [
        (i, row) for i, row in enumerate(csv.reader(text.splitlines(), delimiter=mark), start=1) if any(row)
    ]
    if not rows:
        return
    first = [cell.strip() for cell in rows[0][1]]
    path_at, label_at = 0, 1
    if not any(is_picture(cell.rpartition("/")[2], EXTENSIONS) for cell in first):  # names of columns
        lower = [cell.lower() for cell in first]
        path_at = next((lower.index(name) for name in _PATHS if name in lower), -1)
        label_at = next((lower.index(name) for name in _LABELS if name in lower), -1)
        if path_at < 0 or label_at < 0:
            raise DataError(
                f"{place}: has the columns {', '.join(first)}; expected one of {', '.join(_PATHS)} and one of "
                f"{', '.join(_LABELS)}"
            )
        rows = rows[1:]
    for number, row in rows:
        if len(row) <= max(path_at, label_at) or not row[path_at].strip():
            raise DataError(f"{place}, row {number}: expected a path and a label, found {row!r}")
        yield _Row(number, row[path_at].strip(), row[label_at].strip())


def _labelled(place: Path, rows: list[_Row], names: Sequence[str]) -> Listing:
    paths = [row.path.replace("\\", "/") for row in rows]
    words = [row.label for row in rows]
    if all(word.lstrip("-").isdigit() for word in words):
        labels = np.asarray([int(word) for word in words], np.int64)
        _check_range(place, rows, labels, names)
        return Listing(paths, labels, tuple(names))
    classes = tuple(names) if names else tuple(sorted(set(words)))
    number = {name: label for label, name in enumerate(classes)}
    for row in rows:
        if row.label not in number:
            near = get_close_matches(row.label, classes, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{place}, line {row.line}: {row.label!r} is no class; the classes are {some(classes)}{hint}"
            )
    return Listing(paths, np.asarray([number[word] for word in words], np.int64), classes)


def _check_range(place: Path, rows: list[_Row], labels: NDArray[np.int64], names: Sequence[str]) -> None:
    top = len(names) if names else np.iinfo(np.int64).max
    bad = np.flatnonzero((labels < 0) | (labels >= top))
    if not len(bad):
        return
    row = rows[bad[0]]
    values, counts = np.unique(labels[bad], return_counts=True)
    seen = some(
        [f"{value} ({count}x)" for value, count in zip(values.tolist(), counts.tolist(), strict=True)], 5
    )
    hint = "; they seem to count from 1, this file should count from 0" if labels.min() == 1 else ""
    limits = f"0 to {top - 1} ({top} classes)" if names else "0 or more"
    raise DataError(
        f"{place}, line {row.line}: label {labels[bad[0]]} of {row.path!r} is out of range, expected {limits}. "
        f"Labels out of range: {seen}{hint}"
    )


def number_repeats(paths: Sequence[str]) -> list[str]:
    """Return the paths as ids: a path that comes again gets "#2", "#3", ... behind it."""
    if len(set(paths)) == len(paths):
        return list(paths)
    times: dict[str, int] = {}
    ids = []
    for path in paths:
        times[path] = times.get(path, 0) + 1
        ids.append(path if times[path] == 1 else f"{path}#{times[path]}")
    return ids
