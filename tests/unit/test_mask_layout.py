"""Mask folders are recognised as people lay them out, with what their masks store."""

import numpy as np
import pytest

from tests.segroots import blocks, gray, painted, photo
from visloom.data import layout
from visloom.errors import DataError
from visloom.stream import rooted


def write(root, images, masks, *, names=("a", "b", "c"), labels=(0, 1, 2), suffix="", save=gray, **more):
    for number, name in enumerate(names):
        photo(root / images / f"{name}.jpg", number)
        save(root / masks / f"{name}{suffix}.png", blocks(list(labels)), **more)


def seen(root):
    found = layout.recognise(root)
    assert found is not None
    assert found.kind == "pictures with masks"
    parts = {name: rooted(part, root) for name, part in found.parts.items()}
    for part in parts.values():
        part.check()
    return found, parts


@pytest.mark.parametrize(
    ("images", "masks", "suffix"),
    [
        ("images", "masks", ""),
        ("Img", "GT", "_mask"),
        ("JPEGImages", "SegmentationClass", ""),
        ("rgb", "labels", "-seg"),
    ],
)
def test_two_folders_side_by_side_get_a_held_out_tenth(tmp_path, images, masks, suffix):
    names = [f"p{i:02d}" for i in range(20)]
    write(tmp_path, images, masks, names=names, suffix=suffix)
    found, parts = seen(tmp_path)
    assert (len(parts["train"]), len(parts["val"])) == (18, 2)
    assert found.classes == ("0", "1", "2")
    assert any("a tenth of the pictures is kept" in line for line in found.said)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (("train/images", "train/masks"), ("val/images", "val/masks")),
        (("images/train", "labels/train"), ("images/test", "labels/test")),
        (("train", "train_labels"), ("val", "val_labels")),
    ],
)
def test_parts_in_folders_of_their_own(tmp_path, train, val):
    write(tmp_path, *train)
    write(tmp_path, *val, names=("x",))
    _, parts = seen(tmp_path)
    assert (len(parts["train"]), len(parts["val"])) == (3, 1)


def test_what_masks_store_is_looked_up(tmp_path):
    cases = {
        "zero": ((0, 1, 255), ("0", "1"), [-1, 0, 1]),
        "one": ((1, 2, 3), ("1", "2", "3"), [0, 1, 2]),
        "white": ((0, 255), ("background", "object"), [0, 1]),
        "wide": ((0, 80, 160), ("0", "80", "160"), [0, 1, 2]),
    }
    for name, (labels, classes, held) in cases.items():
        write(tmp_path / name, "images", "masks", labels=labels)
        found, parts = seen(tmp_path / name)
        assert found.classes == classes, name
        assert np.unique(parts["train"].read(0).masks["class"]).tolist() == held, name


def test_a_table_names_the_classes(tmp_path):
    write(tmp_path, "images", "masks", save=painted, colours=[(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    with pytest.raises(DataError, match=r"(?s)no table says which colour.*name,r,g,b\n    class0,"):
        layout.recognise(tmp_path)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,1,2,3\nroad,4,5,6\ncar,7,8,9\n")
    found, parts = seen(tmp_path)
    assert found.classes == ("sky", "road", "car")
    assert np.unique(parts["train"].read(0).masks["class"]).tolist() == [0, 1, 2]


def test_class_folders_are_still_class_folders(tmp_path):
    for name in ("cat", "dog"):
        photo(tmp_path / "train" / name / "a.jpg")
        photo(tmp_path / "val" / name / "b.jpg")
    assert layout.recognise(tmp_path).kind == "image folder"
