"""Arrays in .npy files, and the digits of scikit-learn."""

import pickle

import numpy as np
import pytest

from visloom.data import layout
from visloom.data.arrays import Arrays
from visloom.data.digits import Digits
from visloom.errors import DataError
from visloom.stream import Split


def pixels(count=6, shape=(4, 5, 3), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 200, (count, *shape)).astype(dtype)


def test_write_and_read(tmp_path):
    images, labels = pixels(), np.array([2, 0, 1, 1, 0, 2])
    source = Arrays.write(tmp_path / "new" / "set", images, labels, names=("a", "b", "c"))
    assert len(source) == 6
    np.testing.assert_array_equal(source.read(3).image, images[3])
    assert source.read(0).label == 2
    assert isinstance(source.read(0).label, int)
    stacked = source.read_batch(np.array([5, 1]))
    np.testing.assert_array_equal(stacked.image, images[[5, 1]])
    assert type(stacked.image) is np.ndarray
    assert stacked.label.tolist() == [2, 0]
    assert stacked.ids[0] == source.read(5).id
    assert source.classes() == ("a", "b", "c")
    assert source.labels().tolist() == labels.tolist()
    assert source.sizes().tolist() == [[4, 5]] * 6
    assert "6 images 4x5x3" in repr(source)
    fresh = Arrays(root=source.root, names=("a", "b", "c"))
    assert fresh == source
    assert pickle.loads(pickle.dumps(source)) == source
    assert len(pickle.dumps(source)) < 500


def test_gray_sixteen_bit_and_soft_targets(tmp_path):
    soft = np.random.default_rng(0).random((6, 3)).astype(np.float32)
    source = Arrays.write(tmp_path, pixels(shape=(4, 5), dtype=np.uint16), soft)
    assert source.read(0).image.shape == (4, 5, 1)
    assert source.read(0).image.dtype == np.uint16
    np.testing.assert_array_equal(source.read(2).label, soft[2])
    assert source.labels() is None
    assert source.read_batch(np.array([1])).label.shape == (1, 3)
    assert source.classes() == ()


def test_splits(tmp_path):
    source = Arrays.write(tmp_path, pixels(100), np.arange(100))
    halves = [Arrays(root=source.root, split=Split(keep, 0.7)) for keep in ("head", "tail")]
    seen = [{s.read(i).label for i in range(len(s))} for s in halves]
    assert [len(s) for s in seen] == [70, 30]
    assert seen[0] | seen[1] == set(range(100))


WRONG = {
    "float images": (pixels().astype(np.float32), [0] * 6, (), "images must be"),
    "channels first": (pixels(shape=(3, 32, 32)), [0] * 6, (), "is the channel first"),
    "flat": (pixels(shape=(60,)), [0] * 6, (), "images must be"),
    "empty": (pixels(0), [], (), "images must be"),
    "count": (pixels(), [0] * 5, (), "6 images, but targets of shape"),
    "float labels": (pixels(), [0.5] * 6, (), "labels must be whole numbers"),
    "negative": (pixels(), [0, 1, -1, 0, 0, 0], (), "label -1 in row 2 is out of range, expected 0 or more"),
    "range": (pixels(), [0, 1, 2, 0, 0, 0], ("a", "b"), "label 2 in row 2 is out of range, expected 0 to 1"),
    "width": (pixels(), np.zeros((6, 3), np.float32), ("a", "b"), "must be .6, 2. floats"),
    "integer matrix": (pixels(), np.zeros((6, 2), np.int64), (), "floats, found"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_are_refused_when_written_and_when_read(tmp_path, name):
    images, targets, names, said = WRONG[name]
    with pytest.raises(DataError, match=said):
        Arrays.write(tmp_path / "w", images, np.asarray(targets), names)
    assert not (tmp_path / "w").exists()
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.asarray(targets))
    with pytest.raises(DataError, match=said):
        Arrays(root=str(tmp_path), names=names).opened()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_files_with_python_objects_are_refused_and_not_run(tmp_path):
    Arrays.write(tmp_path, pixels(), np.zeros(6, np.int64))
    marker = tmp_path / "marker"
    np.save(tmp_path / "labels.npy", np.array([Evil(marker)] * 6, object), allow_pickle=True)
    with pytest.raises(DataError, match=r"labels.npy: is no usable .npy file"):
        Arrays(root=str(tmp_path)).opened()
    (tmp_path / "labels.npy").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(DataError, match=r"labels.npy: is no usable .npy file"):
        Arrays(root=str(tmp_path)).opened()
    assert not marker.exists()


def test_damaged_and_missing_files(tmp_path):
    Arrays.write(tmp_path, pixels(), np.zeros(6, np.int64))
    data = (tmp_path / "images.npy").read_bytes()
    for share in (0, 0.05, 0.2, 0.9):
        (tmp_path / "images.npy").write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match=r"images.npy: is no usable .npy file"):
            Arrays(root=str(tmp_path)).opened()
    np.savez(tmp_path / "images.npz", a=pixels())
    with pytest.raises(DataError, match="archive of arrays"):
        Arrays(root=str(tmp_path), images="images.npz").opened()
    (tmp_path / "images.npy").unlink()
    with pytest.raises(DataError, match=r"images.npy: does not exist"):
        Arrays(root=str(tmp_path)).opened()


def test_recognise(tmp_path):
    Arrays.write(tmp_path, pixels(40), np.arange(40) % 4)
    found = layout.recognise(tmp_path)
    assert found.kind == "arrays in .npy files"
    assert "40 pictures 4x5x3 uint8" in found.said
    assert "labels 0, 1, 2, 3" in found.said
    assert set(found.parts) == {"train", "val"}


# ---- digits


def test_digits():
    source = Digits()
    assert repr(source) == "Digits()"
    assert len(source) == 1797
    sample = source.read(0)
    assert sample.label == 0
    assert sample.image.shape == (8, 8, 1)
    assert sample.image.dtype == np.uint8
    assert source.opened().images.max() == 255
    assert source.classes() == tuple("0123456789")
    assert np.bincount(source.labels()).min() > 170
    stacked = source.read_batch(np.array([3, 3]))
    np.testing.assert_array_equal(stacked.image[1], source.read(3).image)
    assert stacked.label.tolist() == [3, 3]
    assert repr(source) == "Digits(1,797 images 8x8, 10 classes)"
    assert source == Digits()
    assert source.sizes().shape == (1797, 2)
    parts = [Digits(split=Split(keep, 0.8)) for keep in ("head", "tail")]
    assert [len(p) for p in parts] == [1438, 359]


def test_digits_without_scikit_learn(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'visloom\[digits\]'"):
        Digits().opened()
