"""Reading one picture: any common file to (H, W, 3) uint8 RGB, upright and whole, or a DataError with its
name.

What is decided here, for every reader:

    EXIF orientation      applied; an EXIF block that cannot be read counts as none
    gray, palette, CMYK   converted to RGB; alpha is dropped (as torchvision does)
    16 bits a channel     refused, or with sixteen_bit="scale" the high byte is taken; 32 bits are refused
    truncated             refused, never padded with gray: a decoder that fills in silently is not trusted
    decompression bombs   refused from the header, above `max_pixels`
    wrong extension       read by content; what is no picture at all is refused with its first bytes
    several frames        the first one

JPEG goes through simplejpeg where it is installed (the extra "jpeg"), else through cv2 (1.8 times Pillow's
speed): the same pixels, all three decode by libjpeg-turbo. All else goes through Pillow. Which
formats may be opened is fixed, so that no exotic plugin sees a stranger's file. Damage inside complete JPEG
data can go unnoticed: the format has no checksum. So can late scans that a progressive one lacks: it is less sharp.
"""

from __future__ import annotations

import io
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""File name endings that readers of folders take for pictures (upper or lower case)."""

MAX_PIXELS = 178_956_970
"""Default limit of height x width: 0.5 GB of RGB, where Pillow's own error begins."""

MAX_BYTES = 1 << 30
"""Files above this are not read: no picture within MAX_PIXELS needs as much."""

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")  # Pillow's names; JPEG includes MPO

SixteenBit = Literal["refuse", "scale"]
_EOI = b"\xff\xd9"
_GRAY = 128  # luma of a block without data: all its coefficients are zero
_MORE = b"".join(bytes([*range(1, 250, 7)]) * 4 + b"\xff" + bytes([0xD0 + n]) for n in range(8))
"""Data that a decoder takes for further blocks, between all eight restart marks."""

_pillow_limit = threading.Lock()


class Header(NamedTuple):
    """What a picture's header says: format by Pillow's name, and the size once upright."""

    format: str
    height: int
    width: int


def read_image(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, sixteen_bit: SixteenBit = "refuse"
) -> NDArray[np.uint8]:
    """Read a picture: (H, W, 3) uint8 RGB, upright.

    Raises:
        DataError: the file is missing, empty, no picture, damaged, too big or of more than 8 bits.
    """
    data = read_bytes(Path(path))
    return decode_image(data, str(path), max_pixels=max_pixels, sixteen_bit=sixteen_bit)


def decode_image(
    data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, sixteen_bit: SixteenBit = "refuse"
) -> NDArray[np.uint8]:
    """Decode the bytes of a picture file as `read_image` does; `name` is for messages."""
    picture = open_header(io.BytesIO(data), data[:32], name)
    check_size(picture, name, max_pixels)
    _check_depth(picture, data[:32], name, sixteen_bit)
    orientation = _orientation(picture)
    try:
        if picture.format == "JPEG" and picture.mode in ("L", "RGB") and data.endswith(_EOI):
            image = _decode_jpeg(data, name)
        else:
            check_end(str(picture.format), data)
            image = _to_rgb(picture)
            if picture.format in ("JPEG", "MPO"):
                _check_filled(data, image, _decode_slowly)
    except DataError:
        raise
    except Exception as error:  # decoders raise anything on bad data: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{name}: cannot be decoded, it is damaged or cut off ({said(error)})") from error
    return _upright(image, orientation)


def check_header(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, sixteen_bit: SixteenBit = "refuse"
) -> Header:
    """Look at a picture's header and its end, without decoding it where the end looks right.

    Raises:
        DataError: as `read_image`; of damage only what header and end show.
    """
    path, name = Path(path), str(path)
    check_file(path)
    with path.open("rb") as file:
        start = file.read(32)
        file.seek(0)
        picture = open_header(file, start, name)
        check_size(picture, name, max_pixels)
        _check_depth(picture, start, name, sixteen_bit)
        turned = _orientation(picture) >= 5
        kind, (width, height) = str(picture.format), picture.size
        file.seek(max(0, path.stat().st_size - 16))
        whole = _end_looks_right(kind, file.read())
    if not whole:
        read_image(path, max_pixels=max_pixels, sixteen_bit=sixteen_bit)
    return Header(kind, width, height) if turned else Header(kind, height, width)


def check_headers(
    paths: Sequence[str | Path],
    *,
    max_pixels: int = MAX_PIXELS,
    sixteen_bit: SixteenBit = "refuse",
    progress: Callable[[int, int], None] | None = None,
    threads: int = 8,
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Check the headers of many files, in threads.

    Args:
        progress: called with (files done, files in all) from time to time.
    Returns:
        (N, 2) heights and widths, -1 for bad files; and what is wrong, by the number of the file.
    """
    sizes = np.full((len(paths), 2), -1, np.int64)
    problems: dict[int, str] = {}

    def look(number: int) -> tuple[int, Header | str]:
        try:
            return number, check_header(paths[number], max_pixels=max_pixels, sixteen_bit=sixteen_bit)
        except DataError as error:
            return number, str(error)

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for done, (number, found) in enumerate(pool.map(look, range(len(paths)), chunksize=64), start=1):
            if isinstance(found, str):
                problems[number] = found
            else:
                sizes[number] = found.height, found.width
            if progress is not None and (done % 1000 == 0 or done == len(paths)):
                progress(done, len(paths))
    return sizes, problems


# ------------------------------------------------------------------------------------------------------ files


def check_file(path: Path) -> None:
    try:
        info = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: {missing(path) if isinstance(error, FileNotFoundError) else error}"
        ) from error
    if not stat.S_ISREG(info.st_mode):
        raise DataError(f"{path}: is not a regular file")
    if info.st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes); fetch it again or remove it")
    if info.st_size > MAX_BYTES:
        raise DataError(
            f"{path}: has {info.st_size:,} bytes, more than any picture that is read ({MAX_BYTES:,})"
        )


def read_bytes(path: Path) -> bytes:
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def missing(path: Path) -> str:
    """Say that a file does not exist, and which one has the same name but for upper and lower case."""
    try:
        names = [p.name for p in path.parent.iterdir() if p.name != path.name]
        near = [name for name in names if name.lower() == path.name.lower()]
    except OSError:
        return (
            f"does not exist, and neither does its folder {path.parent}"
            if not path.parent.is_dir()
            else "no access"
        )
    return f"does not exist; there is {near[0]!r}, upper and lower case differ" if near else "does not exist"


# ------------------------------------------------------------------------------------------------------
# headers


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's global pixel limit while a header is read: the caller has a limit of its own."""
    from PIL import Image

    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def open_header(file: Any, start: bytes, name: str) -> Image:
    """Read a header; no pixel is decoded."""
    from PIL import Image, UnidentifiedImageError

    Image.init()  # plugins register themselves once; without this, formats that were never met are unknown

    try:
        with _without_pillow_limit():
            return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name}: is no picture, or its header is damaged (it starts with {start[:16]!r}; "
            f"known formats are {', '.join(FORMATS)})"
        ) from error
    except Exception as error:  # plugins raise anything on a bad header
        raise DataError(f"{name}: has a damaged header ({said(error)})") from error


def check_size(picture: Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise DataError(f"{name}: its header says {width}x{height} pixels")
    if width * height > max_pixels:
        raise DataError(
            f"{name}: has {width}x{height} = {width * height:,} pixels, above the limit of {max_pixels:,} "
            f"(a decompression bomb?); shrink it, or raise max_pixels if it is wanted"
        )


def _check_depth(picture: Image, start: bytes, name: str, sixteen_bit: SixteenBit) -> None:
    bits = _depth(picture, start)
    if bits == 16 and sixteen_bit == "refuse":
        raise DataError(
            f'{name}: has 16 bits per channel where 8 are needed; convert it, or set sixteen_bit="scale" '
            f"to take the high byte of each value"
        )
    if bits > 16:
        raise DataError(
            f"{name}: has {bits}-bit values (mode {picture.mode}); convert it to 8 bits per channel"
        )


def _depth(picture: Image, start: bytes) -> int:
    """Bits per channel in the file; Pillow hides them for colour pictures, because it opens these with 8."""
    if picture.format == "PNG":
        return 16 if start[24] == 16 else 8  # IHDR: signature 8, length 4, "IHDR" 4, width 4, height 4, depth
    if picture.format == "TIFF":
        tags: Any = getattr(picture, "tag_v2", {})
        return int(max(tags.get(258, (8,))))  # BitsPerSample
    if picture.format == "PPM":
        tiles: Any = getattr(picture, "tile", ())
        numbers = [a for tile in tiles for a in (tile[3] if isinstance(tile[3], tuple) else ())]
        if picture.mode != "F":
            return 16 if any(isinstance(n, int) and n > 255 for n in numbers) or picture.mode == "I" else 8
    if picture.mode in ("I", "F"):
        return 32
    return 16 if picture.mode.startswith("I;16") else 8


def _orientation(picture: Image) -> int:
    """EXIF orientation that is still to be applied, 1 to 8; 1 where there is none or it cannot be read."""
    if picture.format == "TIFF":  # Pillow turns those itself when it loads them
        return 1
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # the pixels are what matters: a broken EXIF block is no reason to lose a picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror as an EXIF orientation says."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    rows, columns = {
        2: (1, -1),
        3: (-1, -1),
        4: (-1, 1),
        5: (1, 1),
        6: (1, -1),
        7: (-1, -1),
        8: (-1, 1),
    }[orientation]
    return np.ascontiguousarray(image[::rows, ::columns])


def _end_looks_right(kind: str, end: bytes) -> bool:
    """Say whether the last bytes of a file close its format; True for formats that have no end mark."""
    if kind == "JPEG":
        return end.endswith(_EOI)
    if kind == "PNG":
        return b"IEND" in end
    if kind == "GIF":
        return end.endswith(b";")
    return kind not in ("BMP", "PPM", "WEBP", "MPO")  # those are cheap to decode, or have no mark at the end


# ------------------------------------------------------------------------------------------------------
# pixels


def _decode_jpeg(data: bytes, name: str) -> NDArray[np.uint8]:
    simple = _simplejpeg()
    if simple is not None:
        # it is stricter: what it refuses is for cv2 to judge, as if it were not here
        with suppress(ValueError):
            return np.asarray(simple.decode_jpeg(data, colorspace="RGB", strict=True), np.uint8)
    image = _decode_cv2(data, name)
    _check_filled(data, image, partial(_decode_cv2, name=name), _GRAY)
    return image


def _decode_cv2(data: bytes, name: str) -> NDArray[np.uint8]:
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise DataError(f"{name}: cannot be decoded, its JPEG data are damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def check_end(kind: str, data: bytes) -> None:
    """Raise OSError where zeros stand in place of a picture's end: a file that was reserved and never filled.

    Decoders take such zeros for pixels. A JPEG that merely stops is left to Pillow, which knows whether
    pixels are missing. In uncompressed formats and WebP zeros cannot be told from a picture.
    """
    if kind == "PNG" and b"IEND" not in data:
        raise OSError("the end of the picture is missing")
    if kind in ("JPEG", "MPO") and data.endswith(bytes(4)):
        at = 2
        while (
            at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA
        ):  # walk to the start of the scan
            at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data.rfind(_EOI, at) < 0:
            raise OSError("the end of the picture is missing, zeros follow instead")


@lru_cache(maxsize=1)
def _simplejpeg() -> Any:
    """The module, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _check_filled(
    data: bytes,
    image: NDArray[np.uint8],
    decode: Callable[[bytes], NDArray[np.uint8]],
    gray: int | None = None,
) -> None:
    """Raise OSError where a JPEG's end mark comes before its last block: decoders fill the rest with flat `gray`.

    None of them tells, so it is tried: where the last corner is flat and of that luma (None: of any, as CMYK's depends
    on its inks), the picture is decoded again with more data before its end mark. A whole picture does not change by
    it. An end inside the very last block may go unnoticed.
    """
    top, left = (max(side - 4, (side - 1) // 8 * 8) for side in image.shape[:2])  # inside the last block
    corner = image[top:, left:].astype(np.int64) @ np.array([299, 587, 114]) // 1000  # chroma may blend in
    end = data.rfind(_EOI)
    other = gray is not None and abs(int(corner[0, 0]) - gray) > 3
    if np.ptp(corner) > 2 or other or end < 0:
        return
    before = data[:end].rstrip(b"\xff")  # fill bytes, or half of a stuffed one: it would swallow what follows
    if not np.array_equal(decode(before + _MORE + data[end:]), image):
        raise OSError("the end of the picture is missing, though the file ends like one")


def _decode_slowly(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with _without_pillow_limit():
        return _to_rgb(Image.open(io.BytesIO(data), formats=FORMATS))


def _to_rgb(picture: Image) -> NDArray[np.uint8]:
    picture.load()
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):  # 16 bits; _check_depth let it pass
        values = np.asarray(picture).astype(np.int64)
        gray = np.clip(values >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA")  # the way to RGB that does not warn about transparency in palettes
    return np.array(picture.convert("RGB"), np.uint8)


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
