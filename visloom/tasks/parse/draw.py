"""The page of one parsed picture: scene and textures in words, and a panel with a legend for every head with a mask.

Without a truth: the picture and the answers, two beside each other. With one: the answers above what is labelled. A
head that this picture is not labelled for answers all the same, which is what several sources are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.palette import Colour, palette
from visloom.tasks.parse.heads import BACKGROUND, Head, Parts, Pixels
from visloom.tasks.segment.draw import colorize, found, overlay

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_PAPER, _INK, _PALE = (250, 250, 248), (24, 28, 32), (110, 116, 122)
_BACKDROP: Colour = (190, 190, 190)
_GAP, _LINE, _TITLE = 14, 20, 34
_ALONE, _BESIDE = (
    (360, 560),
    (260, 300),
)  # least and most pixels of a panel's longer side, without and with a truth
_MOST = 5  # lines of a legend


class _Column(NamedTuple):
    """What is said of one head: its name, pictures one above the other, and the lines of its legend."""

    name: str
    pictures: list[Image | None]
    legend: list[list[tuple[Colour | None, str]]]


def colours(head: Head) -> tuple[Colour, ...]:
    """One colour per output: a part's name has one colour in all objects, what is no part is grey."""
    if isinstance(head, Pixels):
        return head.palette
    if not isinstance(head, Parts):
        return palette(len(head.labels))
    names = dict.fromkeys(part for each in head.parts for part in each.parts)
    table = dict(zip(names, palette(len(names)), strict=True))
    return tuple(_BACKDROP if i == 0 else table[part] for each in head.parts
                 for i, part in enumerate((BACKGROUND, *each.parts)))  # fmt: skip


def page(image: NDArray[Any], prediction: Mapping[str, Any], truth: Any, heads: Sequence[Head]) -> Image:
    """Draw one picture: (H, W, 3) uint8, its predictions by head, and the Sample with its labels or None."""
    rgb = np.repeat(image, 3, 2) if image.shape[2] == 1 else np.asarray(image[..., :3], np.uint8)
    size = _size(rgb, _ALONE if truth is None else _BESIDE)
    large = _resized(rgb, size)
    masks = [head for head in heads if np.ndim(prediction.get(head.name, 0)) == 2]
    columns = [_Column("picture", [_picture(large)], [])]
    for head in masks:
        labelled = None if truth is None else truth.masks.get(head.name)
        shown: list[Image | None] = [_mask(large, prediction[head.name], head)]
        if truth is not None:
            shown.append(None if labelled is None else _mask(large, labelled, head))
        columns.append(_Column(_heading(head), shown, _legend(head, prediction[head.name], size[1])))
    across = len(columns) if truth is not None else min(2, len(columns))
    rows = [columns[i : i + across] for i in range(0, len(columns), across)]
    return _laid_out(rows, size, words(prediction, truth, heads))


def words(prediction: Mapping[str, Any], truth: Any, heads: Sequence[Head]) -> list[str]:
    """What is said of the whole picture: `scene: beach (83 %)`, and what it is in truth where that differs."""
    said = []
    for head in heads:
        if head.name not in prediction or np.ndim(prediction[head.name]) != 0:
            continue
        label = int(prediction[head.name])
        score = prediction.get(f"{head.name}_score")
        chance = f" ({100 * float(score):.0f} %)" if score is not None else ""
        line = f"{head.name}: {_plain(head.labels[label])}{chance}"
        known = -1 if truth is None else int(truth.extra.get("labels", {}).get(head.name, -1))
        if known >= 0:
            line += ", which is right" if known == label else f", in truth {_plain(head.labels[known])}"
        said.append(line)
    return said


def save_mask(mask: Any, head: Head, file: Path) -> None:
    """Save a mask as a palette picture, or with more than 255 classes as 16-bit gray (65535 = none)."""
    from PIL import Image as Images

    table = colours(head)
    if len(table) <= 255:
        colorize(mask, table).save(file)
        return
    values = _array(mask).astype(np.int64)
    Images.fromarray(np.where(values < 0, 65535, values).astype(np.uint16)).save(file)


# ------------------------------------------------------------------------------------------------------- panels


def _array(mask: Any) -> NDArray[Any]:
    return np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _heading(head: Head) -> str:
    name = _plain(head.name)
    return f"{name}, inside each {_plain(head.of)}" if isinstance(head, Parts) else name


def _size(rgb: NDArray[np.uint8], room: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a panel: enlarged by a whole number, or shrunk."""
    height, width = rgb.shape[:2]
    least, most = room
    longest = max(height, width)
    if longest <= most:
        factor = max(1, min(-(-least // longest), most // longest))
        return height * factor, width * factor
    return max(1, round(height * most / longest)), max(1, round(width * most / longest))


def _resized(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(_picture(rgb).resize((size[1], size[0])))


def _picture(rgb: NDArray[np.uint8]) -> Image:
    from PIL import Image as Images

    return Images.fromarray(np.ascontiguousarray(rgb))


def _mask(large: NDArray[np.uint8], mask: Any, head: Head) -> Image:
    """A mask over the enlarged picture, so that borders are thin."""
    values, (height, width) = _array(mask), large.shape[:2]
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.int64)
    return overlay(large, values[rows[:, None], columns], colours(head), 0.65)


def _legend(head: Head, mask: Any, width: int) -> list[list[tuple[Colour | None, str]]]:
    """Lines of (colour, words); of parts a line for each object, which begins with its name."""
    shares, table = found(mask, head.labels), dict(zip(head.labels, colours(head), strict=True))
    if not isinstance(head, Parts):
        return _wrapped([(table[name], f"{_plain(name)} {_percent(share)}") for name, share in shares], width)
    things: dict[str, list[tuple[str, float]]] = {}  # parts by object
    for label, share in shares:
        thing, _, part = label.partition(": ")
        things.setdefault(thing, []).extend([(label, share)] if part != BACKGROUND else [])
    order = sorted(things, key=lambda thing: -sum(share for _, share in things[thing]))
    lines = [
        [
            (None, f"{_plain(thing)}:"),
            *((table[label], _plain(label.partition(": ")[2])) for label, _ in things[thing]),
        ]
        for thing in order
        if things[thing]
    ]
    return [_wrapped(line, width)[0] for line in lines[:_MOST]] or [[(_BACKDROP, "no part")]]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _wrapped(cells: Sequence[tuple[Colour | None, str]], width: int) -> list[list[tuple[Colour | None, str]]]:
    """Lay a legend out in lines of a width; what does not fit is rare and left out."""
    lines: list[list[tuple[Colour | None, str]]] = [[]]
    used = 0
    for cell in cells:
        room = _room(cell)
        if used + room > width and lines[-1]:
            if len(lines) == _MOST:
                break
            lines.append([])
            used = 0
        lines[-1].append(cell)
        used += room
    return lines


def _room(cell: tuple[Colour | None, str]) -> int:
    return int(_font(13).getlength(cell[1])) + (10 if cell[0] is None else 30)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


# ------------------------------------------------------------------------------------------------------- layout


def _laid_out(rows: Sequence[Sequence[_Column]], size: tuple[int, int], said: Sequence[str]) -> Image:
    from PIL import Image as Images
    from PIL import ImageDraw

    height, width = size
    across = max(len(row) for row in rows)
    room = max(
        across * (width + _GAP) + _GAP, *(int(_font(22).getlength(line)) + 2 * _GAP for line in said), 1
    )
    heights = [_height(row, height) for row in rows]
    sheet = Images.new("RGB", (room, _GAP + _TITLE * len(said) + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(said):
        pen.text((_GAP, _GAP - 2 + _TITLE * number), line, fill=_INK, font=_font(22))
    top = _GAP + _TITLE * len(said)
    for row, high in zip(rows, heights, strict=True):
        for place, column in enumerate(row):
            _draw_column(sheet, pen, column, (_GAP + place * (width + _GAP), top), size)
        top += high
    return sheet


def _height(row: Sequence[_Column], height: int) -> int:
    """Of a row of columns: heads, pictures and the longest legend."""
    pictures = max(len(column.pictures) for column in row)
    return pictures * (_LINE + height + 6) + _LINE * max(len(column.legend) for column in row) + _GAP


def _draw_column(
    sheet: Image, pen: ImageDraw, column: _Column, place: tuple[int, int], size: tuple[int, int]
) -> None:
    (left, top), (height, width) = place, size
    for number, picture in enumerate(column.pictures):
        name = column.name if number == 0 else "as labelled" if picture is not None else "not labelled here"
        pen.text((left, top), name, fill=_PALE, font=_font(14))
        top += _LINE
        if picture is not None:
            sheet.paste(picture, (left, top))
        else:
            pen.rectangle((left, top, left + width - 1, top + height - 1), outline=(214, 216, 216))
        top += height + 6
    for line in column.legend:
        across = left
        for colour, text in line:
            if colour is not None:
                pen.rectangle((across, top + 3, across + 11, top + 14), fill=colour, outline=(120, 120, 120))
            pen.text((across + (16 if colour is not None else 0), top), text, fill=_INK, font=_font(13))
            across += _room((colour, text))
        top += _LINE
