"""Clothes: Clothing Co-Parsing read from its published layout, and from the real photos where they are."""

import pickle
import random

import numpy as np
import pytest
from scipy.io import loadmat

from tests import segroots
from visloom.data import layout
from visloom.data.clothes import CLASSES, Clothes
from visloom.errors import ConfigError, DataError
from visloom.stream import Ordered, Shuffled, Split, rooted


def source(root, **changes):
    return Clothes(root=str(root), **changes)


def test_photos_without_a_mask_are_left_out_and_told(tmp_path):
    segroots.clothes(tmp_path, photos=6, masked=4)
    found = source(tmp_path, part="all")
    assert [found.read(i).id for i in range(len(found))] == ["0001", "0002", "0003", "0004"]
    assert any("2 photos without a mask are left out" in note for note in found.check())


def test_masks_are_the_variable_of_the_matlab_file_as_int32(tmp_path):
    place = segroots.clothes(tmp_path)
    sample = source(place, part="all").read(1)
    stored = loadmat(place / "annotations/pixel-level/0002.mat")["groundtruth"]
    assert sample.masks["class"].dtype == np.int32
    np.testing.assert_array_equal(sample.masks["class"], stored)
    assert sample.image.shape == (*stored.shape, 3)
    assert sample.problems() == []


def test_the_root_may_be_the_folder_or_the_one_around_it(tmp_path):
    place = segroots.clothes(tmp_path)
    assert source(tmp_path).items() == source(place).items()


def test_split_files_decide_and_without_them_a_keyed_permutation(tmp_path):
    segroots.clothes(tmp_path / "a", splits=True)
    parts = {p: source(tmp_path / "a", part=p) for p in ("train", "val")}
    ids = {p: [s.read(i).id for i in range(len(s))] for p, s in parts.items()}
    assert ids == {"train": ["0001", "0003"], "val": ["0002"]}

    segroots.clothes(tmp_path / "b", photos=20, masked=20)
    halves = [{i.id for i in source(tmp_path / "b", part=p).items()[0]} for p in ("train", "val")]
    assert len(halves[0]) == 17
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 20
    assert any("no splits/" in note for note in source(tmp_path / "b").check())


def test_a_split_that_names_a_photo_without_mask_is_an_error(tmp_path):
    place = segroots.clothes(tmp_path, splits=True)
    (place / "splits/val.txt").write_text("0002\n0006\n")
    with pytest.raises(DataError, match=r"val\.txt.*0006"):
        source(tmp_path, part="val").check()


def test_found_and_missing_folders_are_named(tmp_path):
    (tmp_path / "clothing-co-parsing-master" / "photos").mkdir(parents=True)
    with pytest.raises(DataError, match=r"found photos, missing annotations/pixel-level"):
        len(source(tmp_path))
    with pytest.raises(DataError, match=r"missing photos, annotations/pixel-level \(looked in"):
        len(source(tmp_path / "elsewhere"))


def test_a_mask_without_photo_is_named(tmp_path):
    place = segroots.clothes(tmp_path)
    (place / "photos/0003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 masks have no photo: 0003\.jpg"):
        source(tmp_path).check()


def test_the_held_out_part_has_evaluation_transforms_and_no_global_generator_moves(tmp_path):
    """The original's validation split was augmented, shuffled, and seeded numpy's global generator."""
    segroots.clothes(tmp_path, photos=20, masked=20)

    class Marked:
        def __call__(self, sample, key):
            return sample.replace(extra={"augmented": True})

    np.random.seed(7)
    random.seed(7)
    before = np.random.get_state()[1].tolist(), random.getstate()
    data = {"root": str(tmp_path), "part": "all"}
    train = Shuffled(source=Clothes(**data, split=Split("head", 0.9)), batch=6, transform=(Marked(),))
    val = Ordered(source=Clothes(**data, split=Split("tail", 0.9)), batch=2)
    ids = {
        name: [s.id for step in range(stream.steps_per_epoch) for s in stream.load(stream.tickets(step))]
        for name, stream in (("train", train), ("val", val))
    }
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    assert len(ids["train"]) == 18
    assert len(ids["val"]) == 2
    assert not set(ids["train"]) & set(ids["val"])
    assert ids["val"] == sorted(ids["val"])
    assert all(s.extra == {} for s in val.load(val.tickets(0)))
    assert all(s.extra for s in train.load(train.tickets(0)))


def test_pickling_carries_nothing_that_was_opened(tmp_path):
    segroots.clothes(tmp_path)
    found = source(tmp_path, part="all", cache=True)
    found.check()
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert not [name for name in again.__dict__ if name.startswith("_")]


def test_cached_masks_are_the_same_and_read_once(tmp_path, monkeypatch):
    segroots.clothes(tmp_path)
    plain, cached = source(tmp_path, part="all"), source(tmp_path, part="all", cache=True)
    first = [cached.read(i).masks["class"] for i in range(4)]
    monkeypatch.setattr("visloom.data.clothes.read_mat", None)  # a second decoding would fail
    second = [cached.read(i).masks["class"] for i in range(4)]
    monkeypatch.undo()
    for i in range(4):
        np.testing.assert_array_equal(first[i], plain.read(i).masks["class"])
        np.testing.assert_array_equal(second[i], first[i])


def test_remap_merges_classes_by_name_by_number_and_by_star(tmp_path):
    segroots.clothes(tmp_path)
    merged = source(
        tmp_path, part="all", remap={"skin": "body", "19": "body", "null": "background", "*": "ignore"}
    )
    assert merged.classes() == ("background", "body")
    mask = merged.read(0).masks["class"]
    assert sorted(np.unique(mask)) == [-1, 0, 1]
    plain = source(tmp_path, part="all").read(0).masks["class"]
    np.testing.assert_array_equal(mask == 1, np.isin(plain, [19, 41]))
    np.testing.assert_array_equal(mask == -1, plain == 14)
    assert merged.palette()[0] == (0, 0, 0)
    with pytest.raises(ConfigError, match=r"'dres', which is no class\n.*dress"):
        source(tmp_path, remap={"dres": "x"}).classes()


def test_a_folder_is_recognised(tmp_path):
    segroots.clothes(tmp_path, splits=True)
    found = layout.recognise(tmp_path)
    assert found is not None
    assert found.kind == "Clothing Co-Parsing"
    assert found.classes == CLASSES
    assert len(rooted(found.parts["train"], tmp_path)) == 2
    assert len(rooted(found.parts["val"], tmp_path)) == 1


@pytest.mark.nightly
def test_real_photos(ccp):
    train, val = Clothes(root=str(ccp), part="train"), Clothes(root=str(ccp), part="val")
    assert (len(train), len(val)) == (704, 150)
    assert train.check() == [] == val.check()
    sizes = val.sizes()
    assert sizes[:, 1].tolist() == [550] * 150
    counts = np.zeros(60, np.int64)
    for i in range(len(val)):
        counts += np.bincount(val.mask(i).ravel() + 1, minlength=60)
    assert counts[0] == 0
    assert counts[1] / counts.sum() == pytest.approx(
        0.767, abs=5e-4
    )  # all background: the floor in the results
    assert not counts[[13, 24, 31, 51]].any()  # clogs, intimate, panties, swimwear never occur


def test_a_real_photo_and_its_mask_fit(ccp):
    source = Clothes(root=str(ccp), part="train")
    sample = source.read(0)
    assert sample.id == "0002"
    assert sample.image.shape == (830, 550, 3)
    assert sorted(np.unique(sample.masks["class"]))[:2] == [0, 14]
