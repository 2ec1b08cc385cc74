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
_LEAST, _MOST = 192, 512  # pixels of the shown picture's width


def draw(image: NDArray[Any], label: int, score: float, truth: int | None, classes: Sequence[str]) -> Image:
    """Return an RGB picture: the image, a bar (green right, red wrong, grey unknown), prediction and truth.

    image: (H, W, 3) or (H, W, 1) uint8.  score: 0-1.  truth: class index; None or -1 if unknown.
    """
    from PIL import Image as Images
    from PIL import ImageDraw

    picture = _sized(
        Images.fromarray(image[..., 0] if image.shape[2] == 1 else image[..., :3]).convert("RGB")
    )
    known = truth is not None and truth >= 0
    colour = (RIGHT if truth == label else WRONG) if known else UNKNOWN
    lines = [f"{classes[label]} {100 * score:.0f} %"]
    if truth is not None and known:
        lines.append("right" if truth == label else f"truth: {classes[truth]}")
    width, height = picture.size
    font, step = _font(16), 21
    canvas = Images.new("RGB", (width, height + 6 + step * len(lines) + 6), (250, 250, 248))
    canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, height, width, height + 5), fill=colour)
    for number, line in enumerate(lines):
        ink = (24, 28, 32) if number == 0 else colour
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
