"""The page of one parsed picture: scene and textures in words, and a panel with a legend for every head with a mask.

With a truth, a panel shows input, target and prediction side by side, for the heads that the sample is labelled for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.palette import Colour, palette
from visloom.tasks.parse.heads import BACKGROUND, Head, Parts, Pixels
from visloom.tasks.segment.draw import colorize
from visloom.tasks.segment.draw import draw as draw_masks

if TYPE_CHECKING:
    from PIL.Image import Image

_PAPER, _INK, _PALE = (250, 250, 248), (24, 28, 32), (110, 116, 122)
_GAP, _LINE = 12, 20
_BACKDROP: Colour = (190, 190, 190)


def colours(head: Head) -> tuple[Colour, ...]:
    """One colour per output: a part's name has one colour in all objects, what is no part is grey."""
    if isinstance(head, Pixels):
        return head.palette
    if not isinstance(head, Parts):
        return palette(len(head.labels))
    names = sorted({part for each in head.parts for part in each.parts})
    table = dict(zip(names, palette(len(names)), strict=True))
    return tuple(_BACKDROP if i == 0 else table[part] for each in head.parts
                 for i, part in enumerate((BACKGROUND, *each.parts)))  # fmt: skip


def page(image: NDArray[Any], prediction: Mapping[str, Any], truth: Any, heads: Sequence[Head]) -> Image:
    """Draw one picture: (H, W, 3) uint8, its predictions by head, and the Sample with its labels or None."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    rgb = np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3]
    panels: list[tuple[str, Image]] = []
    for head in heads:
        if head.name in prediction and np.ndim(prediction[head.name]) == 2:
            known = None if truth is None else truth.masks.get(head.name)
            if truth is None or known is not None:
                drawn = draw_masks(rgb, prediction[head.name], known, head.labels, colours(head))
                panels.append((head.name, drawn))
    if truth is None or not panels:
        panels.insert(0, ("picture", _like(rgb, panels[0][1].width if panels else 480)))
    said = words(prediction, truth, heads)
    across = 1 if truth is not None else min(2, len(panels))
    title, head_font = ImageFont.load_default(size=20), ImageFont.load_default(size=14)
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    heights = [max(picture.height for _, picture in row) + _LINE + _GAP for row in rows]
    width = max(sum(p.width for _, p in row) + _GAP * (len(row) - 1) for row in rows)
    width = max(width, *(int(title.getlength(line)) for line in said)) if said else width
    top = _GAP + 28 * len(said)
    sheet = Images.new("RGB", (width + 2 * _GAP, top + sum(heights) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(said):
        pen.text((_GAP, _GAP + 28 * number), line, fill=_INK, font=title)
    for row, height in zip(rows, heights, strict=True):
        left = _GAP
        for name, picture in row:
            pen.text((left, top), name, fill=_PALE, font=head_font)
            sheet.paste(picture, (left, top + _LINE))
            left += picture.width + _GAP
        top += height
    return sheet


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
        if known >= 0 and known != label:
            line += f", in truth {_plain(head.labels[known])}"
        if truth is None or known >= 0:
            said.append(line)
    return said


def save_mask(mask: Any, head: Head, file: Path) -> None:
    """Save a mask as a palette picture, or with more than 255 classes as 16-bit gray (65535 = none)."""
    from PIL import Image as Images

    table = colours(head)
    if len(table) <= 255:
        colorize(mask, table).save(file)
        return
    values = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask).astype(np.int64)
    Images.fromarray(np.where(values < 0, 65535, values).astype(np.uint16)).save(file)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _like(rgb: NDArray[Any], width: int) -> Image:
    """The picture at the width of the other panels."""
    from PIL import Image as Images

    picture = Images.fromarray(np.ascontiguousarray(rgb, np.uint8))
    return picture.resize((width, max(1, round(picture.height * width / picture.width))))
