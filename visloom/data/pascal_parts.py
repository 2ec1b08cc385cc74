"""Part annotations of PASCAL-Part (Chen et al. 2014): its table of names, and its .mat files as part names per pixel.

`part2ind.m` is MATLAB source that gives each object's parts short names and, in comments, long ones. It is read as
text, line by line, as the original does; adjectives (left, upper, ...) are dropped, so mirroring needs no exchange.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.errors import DataError

ADJECTIVES = frozenset(("left", "right", "front", "back", "upper", "lower", "side"))

_LONG = {
    "lfho": "left front hoof", "rfho": "right front hoof", "lbho": "left back hoof", "rbho": "right back hoof",
    "fwheel": "front wheel", "bwheel": "back wheel", "frontside": "front side", "leftside": "left side",
    "rightside": "right side", "backside": "back side", "roofside": "roof side", "leftmirror": "left mirror",
    "rightmirror": "right mirror",
}  # fmt: skip
"""Long names of short ones that the file does not explain."""

_OBJECT = re.compile(r"% \[([^\]]*)\]")
_SINGLE = re.compile(r"pimap\{(\d+)\}\('([^']*)'\)\s*=\s*\d+;(?:\s*%\s*(\w[\w ]*\w))?")
_MANY = re.compile(
    r"pimap\{(\d+)\}\(sprintf\('([^']*)_%d',\s*ii\)\)\s*=\s*\d+\s*\+\s*ii\s*;(?:\s*%\s*(\w[\w ]*\w))?"
)
_LOOP = re.compile(r"for ii = 1:(\d+)")
_KEYS = re.compile(r"keySet\s*=\s*keys\(pimap\{(\d+)\}\);")
_COPY = re.compile(r"pimap\{(\d+)\}\s*=\s*containers\.Map\(keySet, valueSet\);")


def plain(name: str) -> str:
    """A part's name without adjectives, its short form written out."""
    return " ".join(word for word in _LONG.get(name, name).split() if word not in ADJECTIVES)


def part_names(path: Path) -> dict[tuple[int, str], str]:
    """Read part2ind.m: (class of the object 1-20, short name) -> plain name.

    Raises:
        DataError: the file cannot be read or names no parts.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: the names of parts cannot be read: {error.strerror or error}") from error
    found: dict[tuple[int, str], str] = {}
    count = copied = 0
    for line in (line.strip() for line in lines):
        if match := _LOOP.match(line):
            count = int(match[1])
        elif match := _SINGLE.match(line):
            found[int(match[1]), match[2]] = plain(match[3] or match[2])
        elif match := _MANY.match(line):
            long = match[3] if match[3] and "multiple" not in match[3] else match[2]
            found |= {(int(match[1]), f"{match[2]}_{i}"): plain(long) for i in range(1, count + 1)}
        elif match := _KEYS.match(line):
            copied = int(match[1])
        elif match := _COPY.match(line):
            found |= {(int(match[1]), name): long for (which, name), long in found.items() if which == copied}
    if not found:
        raise DataError(f"{path}: names no parts; expected the part2ind.m of PASCAL-Part")
    return found


def read_parts(path: Path) -> Iterator[tuple[int, str, NDArray[np.bool_]]]:
    """Yield (class of the object, short name of the part, mask (H, W)) of a file of Annotations_Part, in its order.

    Raises:
        DataError: no such file, or another kind of file.
    """
    from visloom.data.images import check_file, said

    check_file(path)
    try:
        for thing in _rows(_load(path)["objects"]):
            label = int(np.asarray(thing["class_ind"]).ravel()[0])
            for part in _rows(thing["parts"]):
                name = str(np.asarray(part["part_name"]).ravel()[0])
                yield label, name, np.asarray(part["mask"]).astype(bool)
    except DataError:
        raise
    except Exception as error:  # scipy raises anything on a file of another kind
        raise DataError(f"{path}: is no file of PASCAL-Part, or damaged ({said(error)})") from error


def _load(path: Path) -> Mapping[str, Any]:
    from scipy.io import loadmat

    found: Mapping[str, Any] = loadmat(str(path), variable_names=["anno"])["anno"][0, 0]
    return found


def _rows(cells: Any) -> list[Any]:
    """The entries of a MATLAB struct array; an empty matrix where there are none."""
    values = np.asarray(cells)
    return list(values.ravel()) if values.dtype.names else []
