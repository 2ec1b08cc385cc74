"""Pictures of predictions: the image, enlarged if it is tiny, over a caption with a green or red bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

RIGHT, WRONG, UNKNOWN = (34, 150, 84), (206, 52, 52), (96, 108, 120)
_INK = (24, 28, 32)
_LINES = 4  # classes that are named
_LEAST, _MOST = 192, 512  # pixels of the shown picture's width


def draw(image: NDArray[Any], label: int, score: float, truth: int | None, classes: Sequence[str]) -> Image:
    """Return an RGB picture: the image, a bar (green right, red wrong, grey unknown), prediction and truth.

    image: (H, W, 3) or (H, W, 1) uint8.  score: 0-1.  truth: class index; None or -1 if unknown.
    """
    known = truth is not None and truth >= 0
    colour = (RIGHT if truth == label else WRONG) if known else UNKNOWN
    lines = [(f"{classes[label]} {100 * score:.0f} %", _INK)]
    if truth is not None and known:
        lines.append(("right" if truth == label else f"truth: {classes[truth]}", colour))
    return _captioned(image, lines, colour)


def draw_several(
    image: NDArray[Any],
    chances: NDArray[Any],
    threshold: float,
    truth: NDArray[Any] | None,
    classes: Sequence[str],
) -> Image:
    """Return an RGB picture: the image over the classes found, likely ones first, and those missed.

    chances: (K,) in [0, 1]; `threshold` and above is found.  truth: (K,), 1 there, 0 not, -1 difficult, or None.
    The bar is green if all is right, red if not, grey if the truth is not known.
    """
    found = [i for i in (-chances).argsort(kind="stable").tolist() if chances[i] >= threshold]
    known = truth is not None and bool((truth >= -1).any())
    lines, good = [], True
    for i in found[:_LINES]:
        right = truth is not None and known and abs(truth[i]) > 0.5
        lines.append(
            (f"{classes[i]} {100 * chances[i]:.0f} %", (RIGHT if right else WRONG) if known else _INK)
        )
    if len(found) > _LINES:
        lines.append((f"and {len(found) - _LINES} more", _INK))
    if not found:
        lines.append(("none of the classes", _INK))
    if truth is not None and known:
        missed = [classes[i] for i in range(len(classes)) if truth[i] > 0.5 and i not in found]
        good = not missed and all(abs(truth[i]) > 0.5 for i in found)
        lines += [(f"missed: {name}", WRONG) for name in missed[:_LINES]]
    return _captioned(image, lines, (RIGHT if good else WRONG) if known else UNKNOWN)


def _captioned(
    image: NDArray[Any], lines: Sequence[tuple[str, tuple[int, int, int]]], colour: tuple[int, int, int]
) -> Image:
    """The image, a bar of a colour, and lines of text in theirs."""
    from PIL import Image as Images
    from PIL import ImageDraw

    picture = _sized(
        Images.fromarray(image[..., 0] if image.shape[2] == 1 else image[..., :3]).convert("RGB")
    )
    width, height = picture.size
    font, step = _font(16), 21
    canvas = Images.new("RGB", (width, height + 6 + step * len(lines) + 6), (250, 250, 248))
    canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, height, width, height + 5), fill=colour)
    for number, (line, ink) in enumerate(lines):
        pen.text((6, height + 8 + number * step), _fitted(line, font, width - 12), fill=ink, font=font)
    return canvas


def _sized(picture: Image) -> Image:
    """Enlarge by whole pixels up to a readable width, or shrink to a handy one."""
    from PIL import Image as Images

    width, height = picture.size
    if width < _LEAST:
        factor = -(-_LEAST // width)
        return picture.resize((width * factor, height * factor), Images.Resampling.NEAREST)
    if width > _MOST:
        return picture.resize((_MOST, max(1, round(height * _MOST / width))), Images.Resampling.LANCZOS)
    return picture


def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _fitted(text: str, font: Font, width: int) -> str:
    """Shorten a text to a width in pixels; its end, which holds the score, stays."""
    if font.getlength(text) <= width:
        return text
    head, _, tail = text.rpartition(" ") if text.endswith("%") else (text, "", "")
    if tail:
        head, _, number = head.rpartition(" ")
        tail = f" {number} {tail}"
    while head and font.getlength(f"{head}...{tail}") > width:
        head = head[:-1]
    return f"{head}...{tail}"
