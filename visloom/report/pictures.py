"""Pictures inside the page: made small enough together, never read from outside the run directory."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import NamedTuple

_SIDES = (320, 224, 160, 112, 80)  # a picture has the area of such a square; the largest is tried first
_LONG = 3  # the longest side in such sides
_WIDE = 2.0  # width by height from which on a picture takes the room of three (input, truth and prediction in a row)
_PIXELS = 64_000_000  # pictures with more are not opened
_SMALL = 64  # longest side up to which a picture is shown with its own pixels, enlarged


class Picture(NamedTuple):
    """A picture as a data URI, with its size in pixels; small: shown enlarged, pixel by pixel."""

    uri: str
    width: int
    height: int
    small: bool

    @property
    def wide(self) -> bool:
        """Whether it is several pictures' width, and gets their room."""
        return self.width >= _WIDE * self.height


def inside(folder: Path, name: str) -> Path | None:
    """Return the file that a name means, if it lies within the folder once links are followed."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None


def embed(files: Sequence[Path | None], budget: int, sides: Sequence[int] = _SIDES) -> list[Picture | None]:
    """Return pictures that take at most `budget` bytes together: all as large as that allows.

    sides: a picture gets the area of such a square; the first that fits is taken.
    What cannot be read is None, and so are the last ones where even small copies of all are too much.
    """
    found: list[Picture | None] = []
    for side in sides:
        found = [None if file is None else _encode(file, side) for file in files]
        if sum(len(p.uri) for p in found if p) <= budget:
            return found
    total = 0
    for place, picture in enumerate(found):
        total += len(picture.uri) if picture else 0
        if total > budget:
            found[place:] = [None] * (len(found) - place)
            break
    return found


def _encode(file: Path, side: int) -> Picture | None:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > _PIXELS:
                return None
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    small = max(picture.size) <= _SMALL
    scale = min(side / sqrt(picture.width * picture.height), _LONG * side / max(picture.size))
    box = (ceil(picture.width * scale), ceil(picture.height * scale))
    picture.thumbnail(box, Image.Resampling.LANCZOS)  # never enlarges
    buffer = BytesIO()
    kind = "png" if small else "jpeg"
    picture.save(buffer, kind, optimize=True, **({} if small else {"quality": 84}))
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, picture.width, picture.height, small)
