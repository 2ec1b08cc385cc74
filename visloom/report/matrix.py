"""The confusion matrix as a heat map, and the pairs of classes that are most often confused."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from visloom.report.svg import text
from visloom.words import safe, shorten, width

MOST = 100  # classes that a heat map can show
_COUNTED = 24  # up to so many classes the cells hold numbers
_NAMED = 48  # up to so many classes the rows and columns have names
_SIZE, _MARGIN = 600, 112
_LETTERS = 15  # of a class name beside the map
_RIGHT = (0x2F, 0x6D, 0xB5)  # as --c0 of the style sheet
_WRONG = (0xD9, 0x7A, 0x21)  # as --c1


class Pair(NamedTuple):
    """Two classes that are confused: a share of the samples of `true`, so many times, was taken for `taken`."""

    true: str
    taken: str
    times: int
    share: float


def is_matrix(classes: Sequence[object], matrix: Sequence[Sequence[object]]) -> bool:
    """Say whether this is a square of counts with one class per row."""
    return (
        len(classes) > 0
        and all(
            len(row) == len(classes)
            and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in row)
            for row in matrix
        )
        and len(matrix) == len(classes)
    )


def confused(classes: Sequence[str], matrix: Sequence[Sequence[int]], most: int = 10) -> list[Pair]:
    """Return the pairs with the most mistakes, the most frequent first."""
    pairs = [
        Pair(classes[i], classes[j], n, n / sum(row))
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
        if i != j and n > 0
    ]
    return sorted(pairs, key=lambda p: -p.times)[:most]  # a stable sort: ties in the order of classes


def heat_map(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Markup:
    """Return the matrix as SVG: a row per true class, a column per answer, coloured by the share of the row.

    Right answers are blue, wrong ones orange; the strength is the square root of the share, so that a few per cent
    are seen. Empty for more than 100 classes.
    """
    count = len(classes)
    if count > MOST:
        return Markup("")
    named = count <= _NAMED
    letters = max(width(shorten(safe(name), _LETTERS)) for name in classes)
    left = min(_MARGIN, 16.0 + 6.6 * letters) if named else 30.0
    side = (_SIZE - left) / count
    body = _numbered(classes, matrix, left, side) if count <= _COUNTED else _painted(matrix, left)
    labels = _names(classes, left, side) if named else _numbers(count, left, side)
    height = _SIZE - left + (max(24.0, 0.8 * left) if named else 30.0)  # the names below stand at an angle
    return Markup(
        '<svg class="matrix" viewBox="0 0 {} {:.0f}" role="img" aria-label="confusion matrix">{}{}</svg>'
    ).format(_SIZE, height, body, labels)


def _strength(count: int, total: int) -> float:
    return (count / total) ** 0.5 if total else 0.0


def _numbered(classes: Sequence[str], matrix: Sequence[Sequence[int]], left: float, side: float) -> Markup:
    parts = []
    digits = len(str(max(n for row in matrix for n in row)))
    size = min(13.0, side * 0.4, side * 1.5 / digits)
    for i, row in enumerate(matrix):
        total = sum(row)
        for j, n in enumerate(row):
            if n == 0:
                continue
            strength = _strength(n, total)
            colour = "c0" if i == j else "c1"
            x, y = left + j * side, i * side
            parts.append(
                Markup(
                    "<g><title>{} taken for {}: {:,} ({:.1f} %)</title>"
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}"/>'
                    '<text class="{}" x="{:.1f}" y="{:.1f}">{}</text></g>'
                ).format(
                    *(text(classes[i], 40), text(classes[j], 40), n, 100 * n / total),
                    *(colour, x + 0.5, y + 0.5, side - 1, side - 1, strength),
                    *("strong" if strength > 0.7 else "weak", x + side / 2, y + side / 2 + size * 0.35, n),
                )
            )
    return _group(size, parts)


def _group(size: float, parts: Sequence[Markup]) -> Markup:
    """Return parts as one group whose texts have a size."""
    return Markup('<g font-size="{:.1f}">{}</g>').format(size, Markup("").join(parts))


def _painted(matrix: Sequence[Sequence[int]], left: float) -> Markup:
    """The cells as one picture of a pixel each; its transparency lets the page's own colour through."""
    rows = []
    for i, row in enumerate(matrix):
        total = sum(row)
        pixels = bytearray()
        for j, n in enumerate(row):
            pixels += bytes((*(_RIGHT if i == j else _WRONG), round(255 * _strength(n, total))))
        rows.append(bytes(pixels))
    data = base64.b64encode(png(rows, len(matrix))).decode("ascii")
    side = _SIZE - left
    return Markup(
        '<image x="{}" y="0" width="{}" height="{}" preserveAspectRatio="none" href="data:image/png;base64,{}"/>'
    ).format(left, side, side, data)


def png(rows: Sequence[bytes], width: int) -> bytes:
    """Return a PNG file of RGBA rows, 4 * width bytes each (PNG specification, third edition, sections 5 and 11)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), 8, 6, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _names(classes: Sequence[str], left: float, side: float) -> Markup:
    parts = []
    size = min(12.5, max(6.5, side * 0.62))
    bottom = _SIZE - left
    for i, name in enumerate(classes):
        middle = (i + 0.5) * side
        label = Markup("{}<title>{}</title>").format(text(name, _LETTERS), text(name, 200))
        parts.append(
            Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(
                left - 6, middle + size * 0.35, label
            )
        )
        x, y = left + middle, bottom + 8
        parts.append(
            Markup(
                '<text class="y" x="{0:.1f}" y="{1:.1f}" transform="rotate(-45 {0:.1f} {1:.1f})">{2}</text>'
            ).format(x + size * 0.4, y + size * 0.4, label)
        )
    return _group(size, parts)


def _numbers(count: int, left: float, side: float) -> Markup:
    parts = []
    for i in range(0, count, 10):
        middle = (i + 0.5) * side
        parts.append(Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(left - 6, middle + 4, i))
        parts.append(
            Markup('<text class="x" x="{:.1f}" y="{:.1f}">{}</text>').format(
                left + middle, _SIZE - left + 16, i
            )
        )
    return _group(12.0, parts)
