"""MNIST's idx files: what is read, and that every way in which one can be wrong is told with the file's name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from visloom.data.layout import recognise
from visloom.data.mnist import Mnist, read_idx
from visloom.data.transforms import Resize
from visloom.errors import DataError

TYPES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array: np.ndarray) -> bytes:
    """An idx file, written as its description says."""
    code = TYPES[array.dtype.str.replace("|", "")]
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, images: np.ndarray, labels: np.ndarray, part: str = "train", end: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if end else bytes
    (folder / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
    (folder / f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))


@pytest.fixture
def digits() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8) % 10


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 3, 4, 1), (0, 5)])
def test_idx_round_trip(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array))
    found = read_idx(tmp_path / "a")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("inside", ["", "MNIST/raw"])
def test_reading(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray], end: str, inside: str) -> None:
    images, labels = digits
    write(tmp_path / inside, images, labels, end=end)  # the test files need not be there
    source = Mnist(root=str(tmp_path))
    assert len(source) == 20
    assert source.check() == []
    sample = source.read(13)
    assert (sample.id, sample.label) == ("train/00013", 3)
    np.testing.assert_array_equal(sample.image, images[13][..., None])
    stacked = source.read_batch(np.array([5, 19]))
    assert stacked is not None
    np.testing.assert_array_equal(stacked.image, images[[5, 19]][..., None])
    assert stacked.label is not None
    assert stacked.label.tolist() == [5, 9]
    assert source.classes()[0] == "0 - zero"
    assert Mnist(root=str(tmp_path), name="fashion_mnist").classes()[9] == "Ankle boot"
    assert sorted(source.labels().tolist()) == sorted(labels.tolist())
    resized = Resize(size=(32, 32))(sample, 0).resolve()
    assert resized.image is not None
    assert resized.image.shape == (32, 32, 1)


def test_a_folder_is_recognised(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    write(tmp_path / "plain", *digits)
    write(tmp_path / "FashionMNIST/raw", *digits)
    write(tmp_path / "FashionMNIST/raw", *digits, part="t10k")
    plain = recognise(tmp_path / "plain")
    assert plain is not None
    assert plain.kind == "mnist (idx files)"
    assert set(plain.parts) == {"train"}
    found = recognise(tmp_path / "FashionMNIST")
    assert found is not None
    assert found.kind == "fashion_mnist (idx files)"
    assert {name: (part.train, part.root) for name, part in found.parts.items()} == {  # type: ignore[attr-defined]
        "train": (True, "raw"),
        "val": (False, "raw"),
    }


def test_a_class_without_pictures_is_told(tmp_path: Path) -> None:
    write(tmp_path, np.zeros((9, 4, 4), np.uint8), np.arange(9, dtype=np.uint8))
    assert "no picture of 9 - nine" in Mnist(root=str(tmp_path)).check()[0]


IMAGES = idx(np.zeros((3, 4, 4), np.uint8))
WRONG = {
    "is no idx file: it begins with 89 50 4e 47": b"\x89PNG" + IMAGES,
    "is no idx file: it begins with nothing": b"",
    "is no idx file: it begins with 00 00 07 03": b"\0\0\x07\3" + IMAGES[4:],
    "is cut off inside its 3 dimensions": IMAGES[:10],
    "holds 47 of the 48 bytes": IMAGES[:-1],
    "holds more than the 48 bytes": IMAGES + b"\0",
    "more than is read": b"\0\0\x08\3" + struct.pack(">III", 1 << 31, 1 << 31, 1 << 31),
    "is damaged or cut off": gzip.compress(IMAGES)[:-9],
}


@pytest.mark.parametrize("message", WRONG)
def test_damaged_files_are_refused(tmp_path: Path, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(WRONG[message])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError) as caught:
        len(Mnist(root=str(tmp_path)))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cases = [
        (np.zeros((3, 4, 4), ">i4"), np.zeros(3, np.uint8), "pictures are (N, H, W) bytes"),
        (np.zeros((3, 4), np.uint8), np.zeros(3, np.uint8), "pictures are (N, H, W) bytes"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros((3, 1), np.uint8), "labels are (N,) bytes"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros(4, np.uint8), "has 3 pictures and"),
        (np.zeros((3, 4, 4), np.uint8), np.array([0, 10, 1], np.uint8), "label 10 of picture 1"),
    ]
    for images, labels, message in cases:
        write(tmp_path, images, labels)
        with pytest.raises(DataError) as caught:
            len(Mnist(root=str(tmp_path)))
        assert message in str(caught.value)
    with pytest.raises(DataError, match="expected train-images-idx3-ubyte and train-labels-idx1-ubyte"):
        len(Mnist(root=str(tmp_path / "nowhere")))


def test_a_folder_that_lacks_a_part_says_what_it_has(
    tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    write(tmp_path / "there", *digits, end=".gz")
    with pytest.raises(DataError) as caught:
        Mnist(root=str(tmp_path / "there"), train=False).open()
    said = str(caught.value)
    assert "has no t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte" in said
    assert "it has train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz" in said
    assert "case" not in said and "does not exist" not in said
    with pytest.raises(DataError, match="does not exist; there is 'there', upper and lower case differ"):
        Mnist(root=str(tmp_path / "There")).open()
