"""Reading one mask: stored values as they stand in the file, with no interpretation, or a DataError with its name.

    PNG, TIFF, BMP, GIF, WebP, PPM    gray or palette: (H, W) of the stored values (palette indices, not colours; 1, 2
                                      and 4 bits unscaled; 16 bits whole). RGB: (H, W, 3), alpha dropped
    .mat (MATLAB up to version 7)     one named numeric 2-D variable; cells, structs and objects are refused

JPEG is refused: it blurs labels into their neighbours. Nothing in a file is ever executed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.images import (
    MAX_PIXELS,
    check_end,
    check_file,
    check_size,
    open_header,
    read_bytes,
    said,
)
from visloom.data.layout import some
from visloom.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]

_NUMERIC = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double")
_GRAY = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_COLOUR = ("RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


class MaskHeader(NamedTuple):
    """What a mask's header says: its size, and whether pixels are colours."""

    height: int
    width: int
    colour: bool


def read_mask(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Read a mask picture: (H, W) unsigned integers as stored, or (H, W, 3) uint8 where pixels are colours.

    Raises:
        DataError: the file is missing, empty, damaged, too big, no picture, or a JPEG; it holds negative values or
            some above 65535.
    """
    name = str(path)
    data = read_bytes(Path(path))
    picture = open_header(io.BytesIO(data), data[:32], name)
    _check_kind(picture, name, max_pixels)
    try:
        check_end(str(picture.format), data)
        values = _values(picture, data)
    except Exception as error:  # decoders raise anything on bad data
        raise DataError(f"{name}: cannot be decoded, it is damaged or cut off ({said(error)})") from error
    if values.dtype.itemsize == 1:
        return values
    low, top = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or top > 65535:
        raise DataError(
            f"{name}: holds values from {low} to {top}, where masks have 0 to 65535; save what is to be ignored as "
            f"255, say, and name it as an ignore value"
        )
    return values.astype(np.uint16)


def mask_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> MaskHeader:
    """Look at a mask picture's header. Raises DataError as `read_mask`, of damage only what the header shows."""
    path, name = Path(path), str(path)
    check_file(path)
    with path.open("rb") as file:
        start = file.read(32)
        file.seek(0)
        picture = open_header(file, start, name)
        _check_kind(picture, name, max_pixels)
        width, height = picture.size
    return MaskHeader(height, width, picture.mode in _COLOUR)


def _check_kind(picture: Image, name: str, max_pixels: int) -> None:
    if picture.format in ("JPEG", "MPO"):
        raise DataError(
            f"{name}: is a JPEG, whose compression changes labels near edges; save masks as PNG from the source"
        )
    if picture.mode not in (*_GRAY, *_COLOUR, "LA", "PA"):
        raise DataError(
            f"{name}: has pixels of mode {picture.mode}; a mask has whole numbers, or RGB colours"
        )
    check_size(picture, name, max_pixels)


def _values(picture: Image, data: bytes) -> Array:
    picture.load()
    if picture.mode in _COLOUR:
        return np.asarray(picture.convert("RGB"), np.uint8)  # (H, W, 3)
    if picture.mode in ("LA", "PA"):
        return np.asarray(picture)[..., 0]
    values = np.asarray(picture)  # (H, W)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if picture.format == "PNG" and picture.mode == "L" and data[24] in (2, 4):  # Pillow scales these to 0-255
        return values // np.uint8(255 // (2 ** data[24] - 1))
    return values


# ------------------------------------------------------------------------------------------------------- .mat


def read_mat(path: str | Path, variable: str) -> Array:
    """Read one numeric matrix of a MATLAB file: (H, W), its stored integer type.

    Only this variable is parsed, and no kind of MATLAB value holds code that a parser would run.

    Raises:
        DataError: no such file or variable, another kind of file, an object, a cell, or no matrix of whole numbers.
    """
    from scipy.io import loadmat

    check_file(Path(path))
    try:
        values = np.asarray(loadmat(str(path), variable_names=[variable])[variable])
    except Exception as error:  # damaged files raise anything
        _mat_shape(Path(path), variable)  # which knows the reason, unless it is damage inside the matrix
        raise DataError(f"{path}: cannot be read, it is damaged or cut off ({said(error)})") from error
    if values.dtype.kind not in "uibf" or values.ndim != 2:
        _mat_shape(Path(path), variable)
        raise DataError(f"{path}: {variable!r} is {values.dtype} of shape {values.shape}, expected a matrix")
    if values.dtype.kind == "f":
        whole = values.astype(np.int64)
        if not (whole == values).all():
            raise DataError(f"{path}: {variable!r} has fractions, where labels are whole numbers")
        values = whole
    return values


def mat_header(path: str | Path, variable: str) -> MaskHeader:
    """Look at the size of a MATLAB matrix, without reading it. Raises DataError as `read_mat`."""
    height, width = _mat_shape(Path(path), variable)
    return MaskHeader(height, width, False)


def _mat_shape(path: Path, variable: str) -> tuple[int, int]:
    from scipy.io import whosmat

    check_file(path)
    try:
        held = {name: (shape, kind) for name, shape, kind in whosmat(str(path))}
    except NotImplementedError as error:
        raise DataError(
            f"{path}: is a MATLAB 7.3 (HDF5) file; save it again with save(..., '-v7')"
        ) from error
    except Exception as error:  # scipy raises anything on a file of another kind
        raise DataError(f"{path}: is no MATLAB file, or damaged ({said(error)})") from error
    if variable not in held:
        found = some([f"{name} ({kind})" for name, (_, kind) in held.items()]) or "no variable"
        raise DataError(f"{path}: has no variable {variable!r}, it holds {found}")
    shape, kind = held[variable]
    if kind not in (*_NUMERIC, "logical"):
        raise DataError(f"{path}: {variable!r} is a MATLAB {kind}, expected a matrix of whole numbers")
    if len(shape) != 2:
        raise DataError(f"{path}: {variable!r} has shape {shape}, expected a matrix (height, width)")
    return int(shape[0]), int(shape[1])
