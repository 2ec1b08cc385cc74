"""Reading pictures: whole, upright, 8-bit RGB, or an error that names the file. Never half a picture."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from visloom.data.images import MAX_PIXELS, check_header, check_headers, decode_image, read_image
from visloom.errors import DataError


def pixels(height=37, width=53):
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 4, y * 6, (x * y) % 256], -1).astype(np.uint8)
    image[10:20] = np.random.default_rng(0).integers(0, 256, image[10:20].shape)
    return image


def encode(format, picture=None, **options):
    file = io.BytesIO()
    (picture if picture is not None else Image.fromarray(pixels())).save(file, format, **options)
    return file.getvalue()


def converted(mode):
    return Image.fromarray(pixels()).convert(mode)


FILES = {
    "jpeg": encode("JPEG", quality=90),
    "progressive": encode("JPEG", progressive=True),
    "gray.jpeg": encode("JPEG", converted("L")),
    "cmyk.jpeg": encode("JPEG", converted("CMYK")),
    "png": encode("PNG"),
    "palette.png": encode("PNG", converted("P")),
    "alpha.png": encode("PNG", converted("RGBA")),
    "gray.png": encode("PNG", converted("L")),
    "one-bit.png": encode("PNG", converted("1")),
    "bmp": encode("BMP"),
    "ppm": encode("PPM"),
    "tiff": encode("TIFF"),
    "lzw.tiff": encode("TIFF", compression="tiff_lzw"),
    "deflate.tiff": encode("TIFF", compression="tiff_adobe_deflate"),
    "webp": encode("WEBP"),
    "lossless.webp": encode("WEBP", lossless=True),
    "gif": encode("GIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_becomes_rgb_as_pillow_has_it(name, tmp_path):
    image = decode_image(FILES[name], name)
    assert image.dtype == np.uint8
    assert image.shape == (37, 53, 3)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(FILES[name])).convert("RGB")))
    path = tmp_path / name
    path.write_bytes(FILES[name])
    np.testing.assert_array_equal(read_image(path), image)
    assert tuple(check_header(path))[1:] == (37, 53)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_refused_or_whole(name, tmp_path):
    data = FILES[name]
    whole = decode_image(data, name)
    cuts = sorted({*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 30, len(data))})
    refused = 0
    for cut in cuts:
        try:
            image = decode_image(data[:cut], name)
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(image, whole)
    assert refused > 0.8 * len(cuts)


@pytest.mark.parametrize("behind", [b"", b"\r\n", bytes(2)], ids=["nothing", "newline", "zeros"])
@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "gray", "restarts", "cmyk"])
def test_a_jpeg_with_its_middle_missing_is_refused_though_it_ends_like_one(kind, behind):
    # decoders fill what is missing with flat gray, and neither cv2 nor Pillow says so
    draws = np.random.default_rng(0)
    picture = Image.fromarray(draws.integers(0, 255, (41, 67, 3)).astype(np.uint8))
    mode = {"gray": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    options = {"4:4:4": {"subsampling": 0}, "restarts": {"restart_marker_blocks": 2}}.get(kind, {})
    data = encode("JPEG", picture.convert(mode), **options)
    whole = decode_image(data + behind, kind)
    scan, refused = data.rfind(b"\xff\xda"), 0
    cuts = range(scan + 16, len(data) - 2, 7)
    for cut in cuts:
        try:
            image = decode_image(data[:cut] + b"\xff\xd9" + behind, f"{kind}, {cut} of {len(data)} bytes")
        except DataError:
            refused += 1
        else:  # the very last block, and the colour beside it
            changed = np.argwhere((image != whole).any(2))
            assert (changed >= np.array(whole.shape[:2]) - 17).all(), cut
    assert refused > 0.85 * len(cuts)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_white_picture_is_not_taken_for_one_that_ends_early(progressive):
    for size in ((1, 1), (8, 8), (16, 16), (17, 33), (64, 64)):
        image = decode_image(
            encode("JPEG", Image.new("RGB", size, "white"), progressive=progressive), "white"
        )
        assert (image == 255).all()


@pytest.mark.parametrize(
    "name", ["jpeg", "progressive", "cmyk.jpeg", "png", "palette.png", "gif", "lzw.tiff"]
)
def test_a_file_that_was_reserved_and_never_filled_is_refused(name):
    data = FILES[name]
    whole = decode_image(data, name)
    for cut in range(0, len(data) - 12, 37):
        try:
            image = decode_image(data[:cut] + bytes(len(data) - cut), name)
        except DataError:
            continue
        np.testing.assert_array_equal(image, whole)


def test_a_thumbnails_end_is_not_taken_for_the_pictures():
    """The EXIF block of a cut-off JPEG may hold a complete JPEG of its own."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 10
    thumbnail = encode("JPEG", Image.fromarray(pixels(8, 8)))
    segment = b"\xff\xed" + struct.pack(">H", len(thumbnail) + 2) + thumbnail  # APP13
    data = FILES["jpeg"][:2] + segment + FILES["jpeg"][2:]
    assert decode_image(data, "with thumbnail").shape == (37, 53, 3)
    cut = data[: len(data) * 3 // 4]
    with pytest.raises(DataError, match="damaged or cut off"):
        decode_image(cut + bytes(64), "zeros behind")
    with pytest.raises(DataError, match="damaged or cut off"):
        decode_image(cut, "cut")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, format, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, "turned"), expected)
    path = tmp_path / "turned"
    path.write_bytes(data)
    header = check_header(path)
    assert (header.height, header.width) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_senseless_orientations_count_as_none(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode_image(encode("JPEG", exif=exif), "odd").shape == (37, 53, 3)


def test_transparency_in_a_palette_does_not_warn():
    data = encode("PNG", converted("P"), transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data, "transparent")
    np.testing.assert_array_equal(image, np.asarray(converted("P").convert("RGB")))


# ---- more than 8 bits


def png16(channels):
    """A 16-bit PNG, which Pillow cannot write in colour."""
    values = (np.arange(4 * 5 * channels).reshape(4, 5 * channels) * 1000).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 5, 4, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body, values.astype(np.int64).reshape(4, 5, channels)


def pgm16():
    values = (np.arange(20).reshape(4, 5) * 3000).astype(">u2")
    return b"P5 5 4 65535\n" + values.tobytes(), values.astype(np.int64)[..., None]


def tiff16():
    values = (np.arange(20).reshape(4, 5) * 3000).astype(np.uint16)
    return encode("TIFF", Image.fromarray(values)), values.astype(np.int64)[..., None]


DEEP = {"gray.png": png16(1), "colour.png": png16(3), "pgm": pgm16(), "tiff": tiff16()}


@pytest.mark.parametrize("name", DEEP)
def test_sixteen_bits_are_refused_or_scaled_by_policy(name, tmp_path):
    data, values = DEEP[name]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (read_image, check_header):
        with pytest.raises(DataError, match=r"16 bits per channel.*sixteen_bit=\"scale\""):
            read(path)
    image = read_image(path, sixteen_bit="scale")
    np.testing.assert_array_equal(image, np.broadcast_to(values >> 8, (4, 5, 3)))
    assert check_header(path, sixteen_bit="scale").width == 5


def test_floats_and_32_bits_are_refused():
    for values in (np.zeros((4, 5), np.float32), np.zeros((4, 5), np.int32)):
        data = encode("TIFF", Image.fromarray(values))
        for policy in ("refuse", "scale"):
            with pytest.raises(DataError, match="32-bit values"):
                decode_image(data, "deep.tiff", sixteen_bit=policy)


# ---- bad files


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (30_000, 6_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_from_the_header(width, height, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(width, height))
    for read in (read_image, check_header):
        with pytest.raises(DataError, match=r"bomb.png: has .* pixels, above the limit of 178,956,970"):
            read(path)


def test_the_limit_is_ours_whatever_pillows_is(monkeypatch):
    data = FILES["png"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, "a").shape == (37, 53, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(DataError, match="above the limit of 1,000"):
        decode_image(data, "a", max_pixels=1000)
    assert decode_image(data, "a", max_pixels=37 * 53).shape == (37, 53, 3)
    assert MAX_PIXELS == 2 * 89_478_485


def test_a_picture_between_pillows_warning_and_the_limit_is_read(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("1", (100_000, 900)).save(path)  # 90 Mpx: Pillow warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_header(path).width == 100_000


def test_wrong_extension_is_read_by_content(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(FILES["png"])
    np.testing.assert_array_equal(read_image(path), pixels())
    assert check_header(path).format == "PNG"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is no picture.*<!DOCTYPE html>"),
        (b"%PDF-1.7 ...", "is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),  # would start ghostscript
        (b"\xff\xd8\xff\xe0", "is no picture, or its header is damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no picture, or its header is damaged|damaged"),
    ],
)
def test_files_that_are_no_pictures(data, said, tmp_path):
    path = tmp_path / "bad file é.jpg"
    path.write_bytes(data)
    for read in (read_image, check_header):
        with pytest.raises(DataError, match=f"(?s)bad file é.jpg: .*({said})"):
            read(path)


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "Photo.JPG").write_bytes(FILES["jpeg"])
    with pytest.raises(DataError, match=r"photo.jpg: does not exist; there is 'Photo.JPG'"):
        read_image(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match=r"none.png: does not exist$"):
        check_header(tmp_path / "none.png")
    with pytest.raises(DataError, match="neither does its folder"):
        read_image(tmp_path / "no" / "none.png")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_headers_of_many_files(tmp_path):
    paths = []
    for i in range(30):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(encode("PNG", Image.fromarray(pixels(10 + i, 20))) if i % 7 else b"")
    told = []
    sizes, problems = check_headers(paths, progress=lambda done, total: told.append((done, total)), threads=3)
    assert sorted(problems) == [0, 7, 14, 21, 28]
    assert all(f"{i}.png: is empty" in text for i, text in problems.items())
    assert sizes[3].tolist() == [13, 20]
    assert sizes[7].tolist() == [-1, -1]
    assert told == [(30, 30)]


def test_check_header_sees_a_missing_end(tmp_path):
    for name in ("jpeg", "png", "gif", "bmp", "webp"):
        path = tmp_path / name
        path.write_bytes(FILES[name][:-40])
        with pytest.raises(DataError, match=r"cut off|header"):
            check_header(path)


def test_the_same_file_gives_the_same_bits():
    images = {decode_image(FILES["jpeg"], "a").tobytes() for _ in range(5)}
    assert len(images) == 1
