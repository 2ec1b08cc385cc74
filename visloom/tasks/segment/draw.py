"""Pictures of segmentations: masks in the colours of their classes, overlays, and both beside the truth.

`colorize` makes the palette picture that other programs read: one byte per pixel, the class number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.palette import Colour

if TYPE_CHECKING:
    from PIL.Image import Image

IGNORED = 255
"""What a palette picture holds where the class is ignored or not known; drawn in `GREY`."""

GREY: Colour = (200, 200, 200)
_PAPER, _INK = (250, 250, 248), (24, 28, 32)
_LEAST, _MOST = 240, 480  # pixels of a panel's longer side
_LINE = 20  # height of a line of the legend


def colorize(mask: Any, palette: Sequence[Colour]) -> Image:
    """Return a mask as a palette picture: its pixels are the class numbers, its colours those of the classes.

    Args:
        mask: (H, W) integers, a numpy array or a tensor; what lies outside 0 .. K-1 becomes 255, in grey.
        palette: one RGB colour (0-255) per class, at most 255 of them. It is not changed.

    Raises:
        ValueError: more than 255 classes, which one byte cannot tell apart from "ignored".
    """
    from PIL import Image as Images

    if len(palette) > IGNORED:
        raise ValueError(f"a palette picture holds up to 255 classes, got {len(palette)}")
    classes = _array(mask)
    known = (classes >= 0) & (classes < len(palette))
    picture = Images.fromarray(np.where(known, classes, IGNORED).astype(np.uint8))
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
    table[IGNORED] = GREY
    picture.putpalette(table.ravel().tolist())
    return picture


def overlay(image: NDArray[np.uint8], mask: Any, palette: Sequence[Colour], weight: float = 0.6) -> Image:
    """Return a picture with its classes laid over it, and their borders in full colour.

    image: (H, W, 3) uint8.  mask: (H, W) integers; ignored pixels stay as they are.  weight: of the colour, 0-1.
    """
    from PIL import Image as Images

    classes = _array(mask).astype(np.int64)
    known = (classes >= 0) & (classes < len(palette))
    table = np.asarray(palette, np.float32).reshape(-1, 3)
    colour = table[np.where(known, classes, 0)]  # (H, W, 3)
    share = np.where(known, np.where(_border(classes), 1.0, weight), 0.0)[..., None]
    grey = image.astype(np.float32).mean(2, keepdims=True)
    base = 0.35 * image + 0.65 * grey  # paler, so that the classes' colours are the only strong ones
    mixed = np.rint(base * (1 - share) + colour * share).astype(np.uint8)
    return Images.fromarray(np.where(known[..., None], mixed, image))


def draw(
    image: NDArray[Any],
    mask: Any,
    truth: Any,
    classes: Sequence[str],
    palette: Sequence[Colour],
) -> Image:
    """Return input | target | prediction over a legend; without a truth the overlay over its legend.

    image: (H, W, 3) or (H, W, 1).  mask, truth: (H, W) integers; truth may be None.
    """
    from PIL import Image as Images

    rgb = np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3]
    rgb = rgb if rgb.dtype == np.uint8 else (rgb / max(float(rgb.max()), 1) * 255).astype(np.uint8)
    found = _array(mask)
    if truth is None:
        panels = [("", overlay(rgb, found, palette))]
    else:
        known = _array(truth)
        panels = [
            ("input", Images.fromarray(np.ascontiguousarray(rgb))),
            ("target", overlay(rgb, known, palette)),
            ("prediction", overlay(rgb, found, palette)),
        ]
    return _joined(panels, _legend(found, None if truth is None else _array(truth), classes, palette))


def _array(mask: Any) -> NDArray[Any]:
    return np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)


def _border(classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    edge = np.zeros(classes.shape, bool)
    edge[:, :-1] |= classes[:, 1:] != classes[:, :-1]
    edge[:-1] |= classes[1:] != classes[:-1]
    return edge


def _legend(
    found: NDArray[Any], truth: NDArray[Any] | None, classes: Sequence[str], palette: Sequence[Colour]
) -> list[tuple[Colour, str]]:
    """(colour, text) of the classes that are seen, the most frequent first, with their share."""
    count = len(classes)

    def shares(mask: NDArray[Any]) -> NDArray[np.float64]:
        inside = mask[(mask >= 0) & (mask < count)].astype(np.int64)
        return np.bincount(inside, minlength=count) / max(1, inside.size)

    own = shares(found)
    true = own if truth is None else shares(truth)
    order = np.argsort(-np.maximum(own, true), kind="stable")
    seen = [int(i) for i in order if max(own[i], true[i]) >= 0.0005]
    return [(palette[i], f"{classes[i]} {_percent(own[i])}") for i in seen]


def found(mask: Any, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Return the classes of a mask with their shares of its known pixels, the largest first."""
    values = _array(mask)
    inside = values[(values >= 0) & (values < len(classes))].astype(np.int64)
    counts = np.bincount(inside, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")
    return [(classes[i], float(counts[i] / inside.size)) for i in order.tolist() if counts[i]]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _joined(panels: Sequence[tuple[str, Image]], legend: Sequence[tuple[Colour, str]]) -> Image:
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    small = [_sized(picture) for _, picture in panels]
    gap, head = 6, _LINE if panels[0][0] else 0
    width = sum(p.width for p in small) + gap * (len(small) - 1)
    font = ImageFont.load_default(size=13)
    lines = _lines(legend, width, font)
    page = Images.new("RGB", (width, head + small[0].height + 6 + _LINE * len(lines)), _PAPER)
    pen, left = ImageDraw.Draw(page), 0
    for (name, _), picture in zip(panels, small, strict=True):
        if name:
            pen.text((left + 2, 3), name, fill=_INK, font=font)
        page.paste(picture, (left, head))
        left += picture.width + gap
    for number, line in enumerate(lines):
        top, left = head + small[0].height + 6 + number * _LINE, 2
        for colour, text, room in line:
            pen.rectangle((left, top + 2, left + 12, top + 14), fill=colour, outline=(120, 120, 120))
            pen.text((left + 17, top), text, fill=_INK, font=font)
            left += room
    return page


def _lines(
    legend: Sequence[tuple[Colour, str]], width: int, font: Any, most: int = 4
) -> list[list[tuple[Colour, str, int]]]:
    """Lay the legend out in up to `most` lines of a width; what does not fit is rare and left out."""
    lines: list[list[tuple[Colour, str, int]]] = [[]]
    used = 0
    for colour, text in legend:
        room = int(font.getlength(text)) + 32
        if used + room > width and lines[-1]:
            if len(lines) == most:
                break
            lines.append([])
            used = 0
        lines[-1].append((colour, text, room))
        used += room
    return lines


def _sized(picture: Image) -> Image:
    """Bring a panel to a readable size: enlarge by whole pixels, or shrink."""
    from PIL import Image as Images

    longest = max(picture.size)
    if longest < _LEAST:
        factor = -(-_LEAST // longest)
        return picture.resize((picture.width * factor, picture.height * factor), Images.Resampling.NEAREST)
    if longest > _MOST:
        share = _MOST / longest
        size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        return picture.resize(size, Images.Resampling.LANCZOS)
    return picture
