"""Moving pixels by a 3x3 matrix: bilinear for images, nearest for masks, plain copies where that is enough.

A matrix maps old continuous coordinates to new ones (pixel j covers [j, j+1), see `visloom/sample.py`). One
that only shifts by whole pixels and mirrors is done by slicing, so it is exact. Strong shrinking averages
areas first, because bilinear sampling alone would skip pixels and alias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Border = Literal["constant", "reflect"]
Fill = int | float | tuple[float, ...] | Literal["mean"]

IGNORE = -1
"""What a mask holds where nothing is known."""

_BY_CV2 = {"uint8", "uint16", "int16", "float32"}  # types that cv2 interpolates
_HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # pixel index -> continuous coordinate
_HALF_BACK = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


def shift(x: float, y: float) -> NDArray[np.float64]:
    """The matrix that moves everything by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def scale(x: float, y: float) -> NDArray[np.float64]:
    """The matrix that stretches by (x, y) from the top left corner."""
    return np.array([[x, 0, 0], [0, y, 0], [0, 0, 1]], np.float64)


def mirror(width: float | None = None, height: float | None = None) -> NDArray[np.float64]:
    """The matrix that mirrors a picture of this width left-right, and/or one of this height top-bottom."""
    matrix = np.eye(3)
    if width is not None:
        matrix[0] = -1, 0, width
    if height is not None:
        matrix[1] = 0, -1, height
    return matrix


def rotation(degrees: float, center: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """The matrix that turns counter-clockwise (as seen, y points down) around a point (x, y)."""
    angle = np.deg2rad(degrees)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    around: NDArray[np.float64] = shift(*center) @ turn @ shift(-center[0], -center[1])
    return around


def map_points(matrix: Array, points: Array) -> NDArray[np.float64]:
    """Map (..., 2) points x, y by a (3, 3) matrix, dividing by w: (..., 2) float64."""
    moved: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]  # (..., 3)
    divided: NDArray[np.float64] = moved[..., :2] / moved[..., 2:]
    return divided


def inverse(matrix: Array) -> NDArray[np.float64]:
    """The inverse of a (3, 3) matrix; of an affine one by its closed form, in a tenth of numpy's time.

    Raises numpy.linalg.LinAlgError for a matrix that has none.
    """
    if _is_affine(matrix):
        (a, b, c), (d, e, f), _ = matrix.tolist()
        area = a * e - b * d
        if area:
            back = [[e, -b, b * f - c * e], [-d, a, c * d - a * f], [0, 0, area]]
            found: NDArray[np.float64] = np.array(back, np.float64) / area
            return found
    return np.asarray(np.linalg.inv(matrix), np.float64)


def bounds(matrix: Array, size: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a picture of (height, width) once a matrix has moved it."""
    height, width = size[:2]
    if _is_affine(matrix):  # plain numbers: numpy takes longer to begin than this takes
        (a, b, c), (d, e, f), _ = matrix.tolist()
        across, down = (a * width, b * height), (d * width, e * height)
        return (
            c + min(across[0], 0.0) + min(across[1], 0.0),
            f + min(down[0], 0.0) + min(down[1], 0.0),
            c + max(across[0], 0.0) + max(across[1], 0.0),
            f + max(down[0], 0.0) + max(down[1], 0.0),
        )
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    moved = map_points(matrix, corners)
    (left, top), (right, bottom) = moved.min(0).tolist(), moved.max(0).tolist()
    return left, top, right, bottom


def is_copy(matrix: Array) -> bool:
    """Say whether a matrix only mirrors and shifts by whole pixels, so that no interpolation is needed."""
    return bool(
        matrix[0, 1] == 0
        and matrix[1, 0] == 0
        and abs(matrix[0, 0]) == 1
        and abs(matrix[1, 1]) == 1
        and matrix[0, 2] == round(matrix[0, 2])
        and matrix[1, 2] == round(matrix[1, 2])
        and _is_affine(matrix)
    )


def warp_image(image: Array, matrix: Array, size: tuple[int, int], border: Border, fill: Fill) -> Array:
    """Warp an (H, W, C) image, bilinear, to a new (height, width): a new array of the same type.

    fill: what lies outside if the border is "constant": a number, one per channel, or "mean".
    """
    colour = fill_colour(image, fill)  # (C,)
    if is_copy(matrix):
        return _copy(image, matrix, size, border, colour)
    window = _window(matrix, image.shape[:2], size) if border == "constant" else None
    if window is not None:  # interpolate where the picture lies alone, not in the padding around it
        part = warp_image(image, *window.inside(matrix), border, tuple(colour.tolist()))
        return window.framed(part, size, colour)
    source = image if image.dtype.name in _BY_CV2 else image.astype(np.float32)
    seen = matrix
    if border == "constant":  # less to average and to widen; a mirrored border needs the whole picture
        source, seen = _cut_out(source, matrix, size)
    small, last = _shrink(source, seen)
    warped = _by_fours(small, lambda part: _bilinear(part, last, size, border))  # (h, w, C)
    warped = warped if warped.dtype == image.dtype else _back(warped, image.dtype)
    return warped if border == "reflect" else _fill_outside(warped, source.shape[:2], seen, colour)


def warp_mask(
    mask: Array, matrix: Array, size: tuple[int, int], border: Border = "constant"
) -> NDArray[np.int32]:
    """Warp an (H, W) int32 mask, nearest neighbour: (h, w) int32, -1 outside unless the border mirrors."""
    whole = np.ascontiguousarray(mask, np.int32)
    outside = np.array([IGNORE], np.int32)
    if is_copy(matrix):
        return _copy(whole[..., None], matrix, size, border, outside)[..., 0]
    window = _window(matrix, mask.shape, size) if border == "constant" else None
    if window is not None:
        return window.framed(warp_mask(mask, *window.inside(matrix), border)[..., None], size, outside)[
            ..., 0
        ]
    if border == "constant":
        whole, matrix = _cut_out(whole, matrix, size)
    return _nearest(whole, matrix, size, border)


def fill_colour(image: Array, fill: Fill) -> Array:
    """Return the colour that `fill` means for an (H, W, C) image: (C,) of its type."""
    channels = image.shape[2]
    if isinstance(fill, str):
        if fill != "mean":
            raise ValueError(f"fill is a number, one per channel, or 'mean', got {fill!r}")
        values = image.mean(axis=(0, 1), dtype=np.float64)
    else:
        values = np.atleast_1d(np.asarray(fill, np.float64))
        if len(values) not in (1, channels):
            raise ValueError(f"fill has {len(values)} values for a picture of {channels} channels")
    return np.broadcast_to(_back(values, image.dtype), (channels,))


def _back(values: Array, dtype: np.dtype[Any]) -> Array:
    """Round and clip to an integer type; floats stay."""
    if dtype.kind not in "ui":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def reflected(index: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Fold indices outside [0, count) back by mirroring without repeating the edge (as numpy's "reflect")."""
    if count == 1:
        return np.zeros_like(index)
    period = 2 * (count - 1)
    folded: NDArray[np.int64] = np.abs(index) % period
    return np.asarray(np.minimum(folded, period - folded), np.int64)


def _copy(image: Array, matrix: Array, size: tuple[int, int], border: Border, colour: Array) -> Array:
    height, width = image.shape[:2]
    rows, columns = _axis(matrix[1, 1], matrix[1, 2], size[0]), _axis(matrix[0, 0], matrix[0, 2], size[1])
    inside = _within(rows, height) and _within(columns, width)
    if border == "reflect" and not inside:
        return image[reflected(rows, height)[:, None], reflected(columns, width)[None, :]]
    if inside:
        return np.ascontiguousarray(image[_slice(rows), _slice(columns)])
    result = _plain(size, colour)
    down = (rows >= 0) & (rows < height)
    across = (columns >= 0) & (columns < width)
    if down.any() and across.any():
        top, left = int(down.argmax()), int(across.argmax())
        part = image[_slice(rows[down]), _slice(columns[across])]
        result[top : top + part.shape[0], left : left + part.shape[1]] = part
    return result


def _axis(sign: float, offset: float, count: int) -> NDArray[np.int64]:
    """Old index of each of `count` new pixels along an axis, where new = sign * old + offset (continuous)."""
    new = np.arange(count)
    return new - int(offset) if sign > 0 else int(offset) - 1 - new


def _within(index: NDArray[np.int64], count: int) -> bool:
    low, high = min(index[0], index[-1]), max(index[0], index[-1])
    return bool(low >= 0 and high < count)


def _slice(index: NDArray[np.int64]) -> slice:
    """The slice of a run of indices that goes up or down by one."""
    first, last = int(index[0]), int(index[-1])
    if last >= first:
        return slice(first, last + 1)
    return slice(first, last - 1 if last else None, -1)


def _cut_out(image: Array, matrix: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Keep only the part of an image that the new picture looks at, with a margin: less work."""
    if not _is_affine(matrix):
        return image, matrix
    x0, y0, x1, y1 = bounds(inverse(matrix), size)
    across, down = (math.ceil(2 / max(math.hypot(*matrix[:2, axis]), 1e-6)) + 2 for axis in (0, 1))  # margin
    left, top = max(math.floor(x0) - across, 0), max(math.floor(y0) - down, 0)
    right, bottom = min(math.ceil(x1) + across, image.shape[1]), min(math.ceil(y1) + down, image.shape[0])
    if right <= left or bottom <= top:  # nothing of the picture is seen; any pixel serves
        return image, matrix
    return image[top:bottom, left:right], matrix @ shift(left, top)


def _shrinks(matrix: Array) -> bool:
    """Say whether an affine matrix shrinks an axis to one half or less."""
    return _is_affine(matrix) and min(math.hypot(*matrix[:2, 0]), math.hypot(*matrix[:2, 1])) <= 0.5


def _shrink(image: Array, matrix: Array) -> tuple[Array, Array]:
    """Average areas along an axis that the matrix shrinks below one half; one half to one is left to do."""
    import cv2

    height, width = image.shape[:2]
    if not _shrinks(matrix):
        return image, matrix
    across = int(1 / max(np.hypot(*matrix[:2, 0]), 1 / width))
    down = int(1 / max(np.hypot(*matrix[:2, 1]), 1 / height))
    across, down = max(across, 1), max(down, 1)
    more = (0, -height % down, 0, -width % across)  # repeat the edge up to whole cells: cv2 is fast at those
    new = (-(-width // across), -(-height // down))

    def averaged(part: Array) -> Array:
        wide = cv2.copyMakeBorder(part, *more, cv2.BORDER_REPLICATE) if any(more) else part
        return cv2.resize(wide, new, interpolation=cv2.INTER_AREA)

    small = _by_fours(image, averaged)  # (h, w, C)
    return small, matrix @ scale(across, down)


def _bilinear(image: Array, matrix: Array, size: tuple[int, int], border: Border) -> Array:
    """Warp an (H, W, C) picture of at most four channels, bilinear: (h, w, C).

    Three channels of bytes get a fourth one on the way: cv2 warps four in two thirds of the time of three.
    """
    import cv2

    if image.dtype != np.uint8 or image.shape[2] != 3:
        return _warp(image, matrix, size, border, linear=True)
    wide = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    return np.asarray(cv2.cvtColor(_warp(wide, matrix, size, border, linear=True), cv2.COLOR_RGBA2RGB))


def _nearest(
    mask: NDArray[np.int32], matrix: Array, size: tuple[int, int], border: Border
) -> NDArray[np.int32]:
    """Warp an (H, W) mask, nearest neighbour: (h, w) int32.

    Labels travel in as few bytes as hold them, and as unsigned ones: cv2 finds the nearest pixel of those 40 times more
    exactly than of int16 and int32 (2 in 100,000 are the next one instead), in less than half of the time.
    """
    low, high = int(mask.min()), int(mask.max())
    # A centre that falls between two old pixels belongs to the later one, which begins there; cv2 would take the even
    # one. Two units in the last place of the 32 bits that it reckons with decide.
    little = 2.0**-22 * max(mask.shape)
    matrix = matrix @ shift(-little, -little)
    for kind, plain in ((np.int8, np.uint8), (np.int16, np.uint16)):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            small = mask.astype(kind).view(plain)
            outside = int(np.iinfo(plain).max)  # IGNORE
            warped = _warp(small, matrix, size, border, linear=False, outside=outside)
            return warped[..., 0].view(kind).astype(np.int32)
    return _warp(mask, matrix, size, border, linear=False, outside=IGNORE)[..., 0]


def _warp(
    image: Array,
    matrix: Array,
    size: tuple[int, int],
    border: Border,
    *,
    linear: bool,
    outside: int | None = None,
) -> Array:
    """Warp by cv2. Outside is `outside`, or with None the nearest pixel of the edge."""
    import cv2

    back = inverse(_HALF_BACK @ matrix @ _HALF)  # new pixel index -> old pixel index
    flags = (cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    mode = cv2.BORDER_REFLECT_101 if border == "reflect" else cv2.BORDER_REPLICATE
    if border == "constant" and outside is not None:
        mode = cv2.BORDER_CONSTANT
    where, value = (size[1], size[0]), (float(outside or 0),) * 4
    if _is_affine(matrix):
        warped = cv2.warpAffine(image, back[:2], where, flags=flags, borderMode=mode, borderValue=value)
    else:
        warped = cv2.warpPerspective(image, back, where, flags=flags, borderMode=mode, borderValue=value)
    return warped[..., None] if warped.ndim == 2 else warped


def _is_affine(matrix: Array) -> bool:
    return bool(matrix[2].tolist() == [0, 0, 1])


def _fill_outside(warped: Array, old: tuple[int, ...], matrix: Array, colour: Array) -> Array:
    """Write a colour on every new pixel whose centre comes from outside the old picture.

    cv2's own constant border would mix the fill into the outermost half pixel of the picture as well: every resized
    picture would get a dark rim.
    """
    import cv2

    height, width = warped.shape[:2]
    affine = _is_affine(matrix)
    if (
        affine and matrix[0, 1] == 0 and matrix[1, 0] == 0
    ):  # the picture is upright: what is outside is a frame
        rows = ((np.arange(height) + 0.5) - matrix[1, 2]) / matrix[1, 1]
        columns = ((np.arange(width) + 0.5) - matrix[0, 2]) / matrix[0, 0]
        warped[(rows < 0) | (rows >= old[0])] = colour
        warped[:, (columns < 0) | (columns >= old[1])] = colour
        return warped
    if affine:
        back = inverse(matrix)
        left, top, right, bottom = bounds(back, (height, width))
        if left >= 0 and top >= 0 and right <= old[1] and bottom <= old[0]:
            return warped
        inside = _inside(old, back, (height, width))
    else:
        inside = _warp(np.ones(old, np.uint8), matrix, (height, width), "constant", linear=False, outside=0)
    return np.asarray(cv2.copyTo(warped, inside, _plain((height, width), colour))).reshape(warped.shape)


class _Window(NamedTuple):
    """The part of a new picture in which the old one may be seen: the rest is padding."""

    top: int
    left: int
    height: int
    width: int

    def inside(self, matrix: Array) -> tuple[Array, tuple[int, int]]:
        """The matrix and the size that make this part alone."""
        return shift(-self.left, -self.top) @ matrix, (self.height, self.width)

    def framed(self, part: Array, size: tuple[int, int], colour: Array) -> Array:
        """Put this part into a new picture of a size: (h, w, C)."""
        whole = _plain(size, colour)
        whole[self.top : self.top + self.height, self.left : self.left + self.width] = part
        return whole


def _window(matrix: Array, old: tuple[int, ...], size: tuple[int, int]) -> _Window | None:
    """Where an affine matrix shows the old picture; None where that is everywhere or nowhere."""
    if not _is_affine(matrix):
        return None
    x0, y0, x1, y1 = bounds(matrix, old)
    left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
    right, bottom = min(math.ceil(x1), size[1]), min(math.ceil(y1), size[0])
    if right <= left or bottom <= top or (bottom - top, right - left) == size:
        return None
    return _Window(top, left, bottom - top, right - left)


def _plain(size: tuple[int, int], colour: Array) -> Array:
    """A picture of one colour: (h, w, C). Rows are copied, for numpy is slow at spreading three numbers."""
    whole = np.empty((*size, len(colour)), colour.dtype)
    whole[0] = colour
    whole[1:] = whole[0]
    return whole


def _inside(old: tuple[int, ...], back: Array, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Say which new pixels have their centre inside the old picture: (h, w) uint8.

    What an affine matrix leaves of a row is one run of pixels, so its two ends are enough.
    """
    rows = np.arange(size[0]) + 0.5
    first, last = np.full(size[0], -np.inf), np.full(size[0], np.inf)  # of new x, by row
    for (step, slope, offset), limit in zip(back[:2].tolist(), (old[1], old[0]), strict=True):
        start = rows * slope + offset  # old coordinate = start + step * x
        if abs(step) < 1e-12:
            gone = (start < 0) | (start >= limit)
            first[gone] = np.inf
            continue
        begin = start / -step
        end = begin + limit / step
        first = np.maximum(first, begin if step > 0 else end)
        last = np.minimum(last, end if step > 0 else begin)
    whole: Any = np.int16 if size[1] < 1 << 15 else np.int32  # short numbers are compared faster
    columns = np.arange(size[1], dtype=whole)
    begin, end = (np.ceil(np.clip(at - 0.5, 0, size[1])).astype(whole) for at in (first, last))
    shown = (columns >= begin[:, None]) & (columns < end[:, None])
    return shown.view(np.uint8)


def _by_fours(image: Array, change: Callable[[Array], Array]) -> Array:
    """Apply a cv2 function to at most four channels at a time, which every version of it can do: (h, w, C)."""
    if image.shape[2] <= 4:  # rows may lie apart, as in a part that was cut out: no copy
        part = change(image)
        return part[..., None] if part.ndim == 2 else part
    parts = []
    for first in range(0, image.shape[2], 4):
        part = change(np.ascontiguousarray(image[..., first : first + 4]))
        parts.append(part[..., None] if part.ndim == 2 else part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
