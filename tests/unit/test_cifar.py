"""CIFAR batches: the published layout in all its pickled spellings; nothing that a stranger's file names is run."""

import io
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from visloom.data import layout
from visloom.data.cifar import Cifar, recognise
from visloom.errors import DataError
from visloom.stream import Split

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def rows(count, seed=0, classes=10):
    """Pixels (count, 3072) uint8 and labels, in the order of the files."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count).tolist()


def write(path, held, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(held, protocol=protocol))


def miniature(root, per_batch=8, protocol=2):
    """A CIFAR-10 folder of the published layout with a few rows per batch."""
    folder = root / "cifar-10-batches-py"
    for i, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        pixels, labels = rows(per_batch, i)
        labels[:2] = [i, 9]
        write(folder / name, {b"data": pixels, b"labels": labels, b"batch_label": b"x"}, protocol)
    names = [n.encode() for n in NAMES]
    write(folder / "batches.meta", {b"label_names": names, b"num_vis": 3072}, protocol)
    return folder


def python2_batch(pixels, labels):
    """The very opcodes of the published files, which Python 2 wrote: byte strings, protocol 2, numpy.core."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    data = pixels.tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
    dtype += number(-1) + number(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01"
    array += (
        number(len(pixels)) + number(3072) + b"\x86" + dtype + b"\x89T" + struct.pack("<i", len(data)) + data
    )
    array += b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + text(b"data")
        + array
        + text(b"labels")
        + listed
        + text(b"batch_label")
        + text(b"b")
        + b"u."
    )


# ---- reading


@pytest.mark.parametrize("protocol", range(2, 6))
def test_reads_what_any_python_wrote(tmp_path, protocol):
    miniature(tmp_path, protocol=protocol)
    source = Cifar(root=str(tmp_path))
    assert len(source) == 40
    assert source.classes() == tuple(NAMES)
    pixels, _ = rows(8, 1)
    image = source.read(8).image  # first row of data_batch_2
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[..., 0].ravel(), pixels[0, :1024])
    np.testing.assert_array_equal(image[..., 2].ravel(), pixels[0, 2048:])
    assert source.read(8).label == 1
    assert source.read(9).label == 9
    test = Cifar(root=str(tmp_path / "cifar-10-batches-py"), train=False)
    assert len(test) == 8
    assert test.read(0).label == 5


def test_reads_the_opcodes_of_the_published_files(tmp_path):
    folder = miniature(tmp_path)
    pixels, labels = rows(7, 77)
    (folder / "test_batch").write_bytes(python2_batch(pixels, labels))
    source = Cifar(root=str(tmp_path), train=False)
    assert source.labels().tolist() == labels
    expected = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(source.opened().images, expected)
    assert pickle.loads((folder / "test_batch").read_bytes(), encoding="bytes")[b"data"].shape == (7, 3072)


def test_text_keys_and_array_labels(tmp_path):
    folder = miniature(tmp_path)
    pixels, labels = rows(6)
    write(folder / "test_batch", {"data": np.asfortranarray(pixels), "labels": np.array(labels)}, protocol=4)
    source = Cifar(root=str(tmp_path), train=False)
    assert source.labels().tolist() == labels
    assert source.read(3).image[0, 0].tolist() == pixels[3, [0, 1024, 2048]].tolist()


def test_cifar100(tmp_path):
    folder = tmp_path / "cifar-100-python"
    for name, count in (("train", 30), ("test", 10)):
        pixels, labels = rows(count, classes=100)
        write(folder / name, {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [0] * count})
    write(folder / "meta", {b"fine_label_names": [b"c%d" % i for i in range(100)], b"coarse_label_names": []})
    source = Cifar(name="cifar100", root=str(tmp_path))
    assert len(source) == 30
    assert len(source.classes()) == 100
    assert source.labels().max() > 9
    assert repr(source) == "Cifar100(train: 30 images 32x32, 100 classes)"


def test_batches_ids_splits_and_labels(tmp_path):
    miniature(tmp_path)
    source = Cifar(root=str(tmp_path), split=Split("tail", 0.75), limit=5)
    assert len(source) == 5
    stacked = source.read_batch(np.array([4, 0]))
    assert stacked.ids == (source.read(4).id, source.read(0).id)
    np.testing.assert_array_equal(stacked.image[1], source.read(0).image)
    assert stacked.label.tolist() == source.labels()[[4, 0]].tolist()
    assert source.sizes().tolist() == [[32, 32]] * 5
    assert stacked.ids[1].startswith("train/000")


def test_a_value_whether_opened_or_not(tmp_path):
    miniature(tmp_path)
    opened, fresh = Cifar(root=str(tmp_path)), Cifar(root=str(tmp_path))
    assert repr(fresh) == f"Cifar10(train, root={str(tmp_path)!r})"
    opened.opened()
    assert repr(opened) == "Cifar10(train: 40 images 32x32, 10 classes)"
    assert opened == fresh
    assert hash(opened) == hash(fresh)
    assert len(pickle.dumps(opened)) < 500
    assert pickle.loads(pickle.dumps(opened)) == fresh
    with pytest.raises(ValueError, match=r"^name is 'cifar10' or 'cifar100', got 'cifar11'"):
        Cifar(name="cifar11")


def test_check_names_classes_without_a_picture(tmp_path):
    folder = miniature(tmp_path)
    pixels, _ = rows(4)
    write(folder / "test_batch", {b"data": pixels, b"labels": [0, 1, 2, 3]})
    (warning,) = Cifar(root=str(tmp_path), train=False).check()
    assert warning.endswith("no picture of deer, dog, frog, horse, ship, truck")
    write(folder / "test_batch", {b"data": rows(10)[0], b"labels": list(range(10))})
    assert Cifar(root=str(tmp_path), train=False).check() == []


def test_recognise(tmp_path):
    assert recognise(tmp_path) is None
    miniature(tmp_path)
    for place in (tmp_path, tmp_path / "cifar-10-batches-py"):
        found = layout.recognise(place)
        assert found.kind == "cifar10 (python version)"
        assert found.classes == tuple(NAMES)
        assert "7 files of the published layout" in str(found)
        assert "0 of 7 files are the published ones (by md5)" in str(found)
        held = Cifar(root=str(place / found.parts["val"].root), train=found.parts["val"].train)
        assert len(held) == 8
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert "missing: data_batch_3" in str(recognise(tmp_path))


# ---- bad files


def refused(tmp_path, words, train=False):
    with pytest.raises(DataError) as caught:
        Cifar(root=str(tmp_path), train=train).opened()
    text = str(caught.value)
    for word in words:
        assert word in text, text
    return text


def test_nothing_there(tmp_path):
    refused(
        tmp_path,
        ["holds no cifar10", "cifar-10-batches-py", "data_batch_5", "cifar-10-python.tar.gz", "--data"],
    )
    refused(tmp_path / "no" / "such", ["holds no cifar10"])


def test_a_missing_batch_is_named(tmp_path):
    folder = miniature(tmp_path)
    (folder / "data_batch_4").unlink()
    refused(tmp_path, ["data_batch_4: is missing"], train=True)
    assert len(Cifar(root=str(tmp_path), train=False)) == 8
    (folder / "batches.meta").unlink()
    refused(tmp_path, ["batches.meta: is missing"])


def test_truncated_at_any_place(tmp_path):
    folder = miniature(tmp_path)
    data = (folder / "test_batch").read_bytes()
    for share in (0, 0.01, 0.3, 0.5, 0.99):
        (folder / "test_batch").write_bytes(data[: int(len(data) * share)])
        refused(tmp_path, ["test_batch", "40351d587109b95175f43aff81a1287e", "Unpack the archive again"])
    (folder / "test_batch").write_bytes(data[:-1])
    refused(tmp_path, ["damaged or cut off"])


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    folder = miniature(tmp_path, per_batch=2)
    data = bytearray((folder / "test_batch").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(0, 256)
        broken[int(rng.integers(0, 60))] = int(rng.integers(0, 256))  # the head, where the structure is
        (folder / "test_batch").write_bytes(broken)
        try:
            source = Cifar(root=str(tmp_path), train=False)
            assert source.opened().images.shape[1:] == (32, 32, 3)
        except DataError:
            continue


WRONG = {
    "type": ({"data": rows(4)[0].astype(np.int64), "labels": [0] * 4}, ["(N, 3072) uint8", "int64"]),
    "float": ({"data": rows(4)[0].astype(np.float32), "labels": [0] * 4}, ["expected the keys 'data'"]),
    "shape": ({"data": rows(4)[0].reshape(4, 3, 1024), "labels": [0] * 4}, ["(4, 3, 1024)"]),
    "width": ({"data": rows(4)[0][:, :3000], "labels": [0] * 4}, ["(4, 3000)"]),
    "label above": (
        {"data": rows(4)[0], "labels": [0, 1, 10, 12]},
        ["2 label(s) outside 0 to 9", "10 in row 2"],
    ),
    "label below": ({"data": rows(4)[0], "labels": [0, -1, 1, 2]}, ["outside 0 to 9", "-1 in row 1"]),
    "label words": ({"data": rows(4)[0], "labels": ["cat"] * 4}, ["list of whole numbers"]),
    "label halves": ({"data": rows(4)[0], "labels": [0.5] * 4}, ["list of whole numbers"]),
    "ragged": ({"data": rows(4)[0], "labels": [[1], [1, 2], [], 3]}, ["no list of whole numbers"]),
    "too few": ({"data": rows(4)[0], "labels": [0] * 3}, ["4 images and 3 labels"]),
    "empty": ({"data": rows(4)[0][:0], "labels": []}, ["0 images and 0 labels"]),
    "no labels": ({"data": rows(4)[0], "fine_labels": [0] * 4}, ["'labels'", "fine_labels"]),
    "no dictionary": ([1, 2, 3], ["holds a list"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_contents_are_named(tmp_path, name):
    folder = miniature(tmp_path)
    held, words = WRONG[name]
    write(folder / "test_batch", held, protocol=4)
    refused(tmp_path, ["test_batch", *words])


def test_wrong_class_names(tmp_path):
    folder = miniature(tmp_path)
    write(folder / "batches.meta", {b"label_names": [b"one"]})
    refused(tmp_path, ["batches.meta", "'label_names' must be a list of 10 names"])


# ---- malicious files


class Runs:
    """Pickles as a call: what a hostile file does."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def attacks(marker):
    """Files that try to make `marker`."""
    touch = f"open({str(marker)!r}, 'w').close()"
    code = f"c__builtin__\nexec\n(V{touch}\ntR."
    yield "os.system", pickle.dumps(Runs(os.system, f"touch {marker}"))
    yield "exec", pickle.dumps(Runs(exec, touch))
    yield "eval", pickle.dumps(Runs(eval, f"__import__('os').system('touch {marker}')"), protocol=2)
    yield "subprocess", pickle.dumps(Runs(subprocess.call, ["touch", str(marker)]))
    yield "python 2 names", code.encode()
    yield "inside the data", pickle.dumps({b"data": Runs(exec, touch), b"labels": [1]})
    yield "as a key", pickle.dumps({Runs(os.system, f"touch {marker}"): 1})
    yield "numpy object array", pickle.dumps({b"data": np.array([Runs(exec, touch)], object), b"labels": [1]})
    yield "numpy loader", pickle.dumps(Runs(np.load, "x.npy", None, True))
    yield (
        "behind a good batch",
        pickle.dumps({"data": rows(2)[0], "labels": [0, 1], "more": Runs(exec, touch)}),
    )
    yield "a codec", pickle.dumps(Runs(__import__("_codecs").encode, "x", "rot13"))
    yield "attribute walk", b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93."
    yield "stack global", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x08" + b"touch /x" + b"\x85R."
    yield "instance", f"(V{touch}\ni__builtin__\nexec\n.".encode()


@pytest.mark.parametrize("file", ["test_batch", "batches.meta"])
def test_nothing_of_a_hostile_file_is_run(tmp_path, file):
    folder = miniature(tmp_path)
    marker = tmp_path / "marker"
    count = 0
    for name, data in attacks(marker):
        (folder / file).write_bytes(data)
        text = refused(tmp_path, [file])
        assert "refused" in text, (name, text)
        assert "\n" not in text
        assert not marker.exists(), name
        count += 1
    assert count == 14


def test_the_attacks_are_real(tmp_path):
    """The same bytes, loaded as pickles usually are, do run."""
    marker = tmp_path / "marker"
    ran = 0
    for name, data in attacks(marker):
        if name in (
            "os.system",
            "exec",
            "inside the data",
            "as a key",
            "numpy object array",
            "behind a good batch",
        ):
            path = tmp_path / "attack"
            path.write_bytes(data)
            code = f"import pickle; pickle.load(open({str(path)!r}, 'rb'), encoding='bytes')"
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
            ran += marker.exists()
            marker.unlink(missing_ok=True)
    assert ran == 6


def test_odd_calls_of_the_allowed_names_take_no_memory_and_make_no_objects():
    """numpy.ndarray((2**31, 2**31)) or an array of objects, were numpy itself called."""
    from visloom.data import cifar

    for code in (
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftR.",
        b"\x80\x02cnumpy\ndtype\n(V|O\ntR.",
    ):
        made = cifar._Unpickler(io.BytesIO(code)).load()
        assert type(made).__module__ == "visloom.data.cifar"
        assert cifar._array(made) is None


# ---- real data


@pytest.mark.nightly
def test_the_real_cifar10(tmp_path, shared):
    command = [sys.executable, str(shared / "data" / "unpack.py"), str(tmp_path), "cifar10"]
    subprocess.run(command, check=True, capture_output=True)
    train, test = Cifar(root=str(tmp_path)), Cifar(root=str(tmp_path), train=False)
    assert np.bincount(train.labels()).tolist() == [5000] * 10
    assert np.bincount(test.labels()).tolist() == [500] * 10
    assert train.classes() == tuple(NAMES)
    assert 115 < train.opened().images.mean() < 125
