"""VOC, Cityscapes, ADE20K, COCO-Stuff, Freiburg Forest: read from small roots in exactly their published layouts."""

import itertools
import os

import numpy as np
import pytest

from tests import segroots
from visloom.assemble import assemble
from visloom.config import load
from visloom.data import ade20k, cityscapes, cocostuff, layout, voc
from visloom.data.ade20k import Ade20k
from visloom.data.cityscapes import Cityscapes
from visloom.data.cocostuff import CocoStuff, CocoStuff10k
from visloom.data.deepscene import DeepScene
from visloom.data.legend import voc_palette
from visloom.data.voc import Voc
from visloom.errors import DataError
from visloom.newrecipe import write_new
from visloom.stream import rooted


def labels(source, index=0):
    return np.unique(source.read(index).masks["class"]).tolist()


def ids(source):
    return [source.read(i).id for i in range(len(source))]


def stripes(source, index=0):
    """The labels of a mask from top to bottom."""
    column = source.read(index).masks["class"][:, 0]
    return [int(column[0]), *(int(b) for a, b in itertools.pairwise(column) if a != b)]


# ---- VOC


def test_voc_lists_palette_and_ignored_borders(tmp_path):
    place = segroots.voc(tmp_path)
    for root in (tmp_path, place, place.parent):
        source = Voc(root=str(root))
        assert ids(source) == ["2007_000000", "2007_000002"]
    assert source.check() == []
    assert stripes(source) == [0, 15, -1, 20]
    assert source.classes()[15] == "person"
    assert source.palette() == voc_palette(21)
    assert ids(Voc(root=str(tmp_path), part="trainval")) == ["2007_000000", "2007_000001", "2007_000002"]


def test_voc_with_sbd_reads_pairs_of_paths_or_ids(tmp_path):
    place = segroots.voc(tmp_path)
    source = Voc(root=str(tmp_path), part="train_aug")
    assert ids(source) == ["2007_000000", "2007_000002", "2007_000003"]
    assert stripes(source, 2) == [0, 15, -1, 20]
    lists = place / "ImageSets/Segmentation"
    (lists / "train_aug.txt").rename(lists / "old.txt")
    (lists / "trainaug.txt").write_text("2007_000003\n")
    assert ids(Voc(root=str(tmp_path), part="train_aug")) == ["2007_000003"]
    (lists / "trainaug.txt").write_text("a b c\n")
    with pytest.raises(DataError, match="expected an id, or a picture and a mask"):
        len(Voc(root=str(tmp_path), part="train_aug"))


def test_voc_names_what_is_missing(tmp_path):
    place = segroots.voc(tmp_path, aug=False)
    with pytest.raises(
        DataError, match=r"found JPEGImages, ImageSets/Segmentation, missing SegmentationClassAug"
    ):
        len(Voc(root=str(tmp_path), part="train_aug"))
    (place / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(
        DataError, match=r"val\.txt: the list of samples is missing; there are train\.txt, trainval\.txt"
    ):
        len(Voc(root=str(tmp_path), part="val"))
    (place / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 samples have no mask; missing are .*2007_000002\.png"):
        len(Voc(root=str(tmp_path)))


# ---- Cityscapes


@pytest.mark.parametrize("archives", [False, True])
def test_cityscapes_ids_become_train_ids(tmp_path, archives):
    segroots.cityscapes(tmp_path, archives=archives)
    source = Cityscapes(root=str(tmp_path))
    assert source.check() == []
    assert ids(source) == ["aachen_000000_000019", "zurich_000001_000019"]
    assert stripes(source) == [-1, 0, 11, 18, -1]  # unlabelled, road, person, bicycle, parking
    assert source.classes()[11] == "person"
    assert source.palette()[11] == (220, 20, 60)
    assert len(Cityscapes(root=str(tmp_path), part="val")) == 1


def test_every_cityscapes_id_is_mapped_at_once_whatever_the_order_of_the_table():
    """The original replaced ids one after the other in place, which is right only by the order of its table."""
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    published |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    stored = np.arange(34, dtype=np.uint8)[None]
    mask = Cityscapes().legend().table()(stored, "m")
    assert mask[0].tolist() == [published.get(i, -1) for i in range(34)]


@pytest.mark.parametrize("archives", [False, True])
def test_cityscapes_coarse_masks_have_their_own_names(tmp_path, archives):
    """The original looked for fine masks in its coarse mode."""
    segroots.cityscapes(tmp_path, archives=archives, coarse=True)
    assert ids(Cityscapes(root=str(tmp_path), part="train_extra", masks="coarse")) == [
        "bad-honnef_000000_000000"
    ]
    coarse = Cityscapes(root=str(tmp_path), part="val", masks="coarse")
    assert stripes(coarse) == [-1, 0]
    assert coarse.opened().items[0].mask.name == "munster_000000_000019_gtCoarse_labelIds.png"
    with pytest.raises(ValueError, match="masks is 'coarse' for part 'train_extra'"):
        Cityscapes(part="train_extra")


def test_cityscapes_pairs_by_name_whatever_order_the_file_system_has(tmp_path, monkeypatch):
    """The original asserted that two listings have one order, which depends on the file system."""
    segroots.cityscapes(tmp_path)
    before = Cityscapes(root=str(tmp_path)).items()
    real = os.scandir

    class Backwards:
        def __init__(self, place):
            with real(place) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *a):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda *a: sorted(listed(*a), reverse=True))
    assert Cityscapes(root=str(tmp_path)).items() == before
    for item in before[0]:
        assert item.mask.name.startswith(item.id)


def test_cityscapes_names_what_is_missing(tmp_path):
    segroots.cityscapes(tmp_path)
    next((tmp_path / "gtFine/train/zurich").glob("*labelIds.png")).unlink()
    with pytest.raises(
        DataError, match=r"1 of 2 samples have no mask.*zurich_000001_000019_gtFine_labelIds\.png"
    ):
        len(Cityscapes(root=str(tmp_path)))
    with pytest.raises(DataError, match=r"missing gtCoarse/train \(looked for .*found gtFine, leftImg8bit"):
        len(Cityscapes(root=str(tmp_path), masks="coarse"))


# ---- ADE20K


def test_ade20k_labels_count_from_one_and_zero_is_ignored(tmp_path):
    place = segroots.ade20k(tmp_path)
    for root in (tmp_path, place):
        source = Ade20k(root=str(root))
        assert ids(source) == ["ADE_train_00000001", "ADE_train_00000002"]
    assert source.check() == []
    assert stripes(source) == [-1, 0, 149]
    assert (source.classes()[0], source.classes()[149]) == ("wall", "flag")


def test_ade20k_colours_belong_to_the_classes_not_to_the_stored_numbers():
    """The original's palette began with black for the stored 0, so every class had its neighbour's colour."""
    colour = dict(zip(ade20k.CLASSES, ade20k.COLOURS, strict=True))
    assert colour["wall"] == (120, 120, 120)
    assert colour["sky"] == (6, 230, 230)
    assert colour["tree"] == (4, 200, 3)
    assert colour["flag"] == (92, 0, 255)


def test_ade20k_says_which_folders_are_missing(tmp_path):
    (tmp_path / "ADEChallengeData2016/images/training").mkdir(parents=True)
    with pytest.raises(DataError, match="found images/training, missing annotations/training"):
        len(Ade20k(root=str(tmp_path)))


# ---- COCO-Stuff


@pytest.mark.parametrize("archives", [False, True])
def test_cocostuff_has_171_classes_that_occur(tmp_path, archives):
    """11 of the 182 ids never occur: as outputs they lower every mean over classes."""
    segroots.cocostuff(tmp_path, archives=archives)
    source = CocoStuff(root=str(tmp_path))
    assert source.check() == []
    assert len(source.classes()) == 171
    names = source.classes()
    assert stripes(source) == [names.index("person"), names.index("stop sign"), names.index("wood"), -1]
    assert not set(cocostuff.UNUSED) & set(names)
    every = CocoStuff(root=str(tmp_path), part="val2017", unused=True)
    assert stripes(every) == [0, 12, 181, -1]
    assert every.classes()[11] == "street sign"


def test_cocostuff_10k_reads_one_variable_and_gray_photos_as_rgb(tmp_path):
    segroots.cocostuff10k(tmp_path)
    source = CocoStuff10k(root=str(tmp_path))
    assert source.check() == []
    assert len(source) == 2
    gray = source.read(1)
    assert gray.image.shape == (*segroots.SIZE, 3)
    assert stripes(source, 1) == [-1, 0, 170]
    assert len(CocoStuff10k(root=str(tmp_path), part="all")) == 3
    assert stripes(CocoStuff10k(root=str(tmp_path), part="test", unused=True)) == [-1, 0, 181]


# ---- Freiburg Forest


@pytest.mark.parametrize("index", [False, True])
def test_deepscene_pairs_by_name_and_ignores_void(tmp_path, index):
    segroots.deepscene(tmp_path, index=index)
    source = DeepScene(root=str(tmp_path))
    assert source.check() == []
    assert sorted(ids(source)) == ["b1-10", "b1-2"]
    two = ids(source).index("b1-2")
    assert stripes(source, two) == [-1, 0, 1, 2, 3, 4]
    assert source.classes() == ("trail", "grass", "vegetation", "sky", "obstacle")
    old = DeepScene(root=str(tmp_path), void="class")
    assert stripes(old, two) == [0, 1, 2, 3, 4, 5]
    assert old.classes()[0] == "void"
    assert len(DeepScene(root=str(tmp_path), part="test")) == 1


def test_deepscene_names_a_picture_without_mask(tmp_path):
    segroots.deepscene(tmp_path)
    (tmp_path / "train/GT_color/b1-10_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 pictures have no mask: b1-10_Clipped\.jpg"):
        len(DeepScene(root=str(tmp_path)))


# ---- all of them

ALL = [
    (segroots.voc, Voc(), 2),
    (segroots.cityscapes, Cityscapes(), 2),
    (segroots.ade20k, Ade20k(), 2),
    (segroots.cocostuff, CocoStuff(), 1),
    (segroots.cocostuff10k, CocoStuff10k(), 2),
    (segroots.deepscene, DeepScene(), 2),
]


@pytest.mark.parametrize(("write", "source", "count"), ALL, ids=lambda v: type(v).__name__)
def test_remap_cache_sizes_and_colours_work_for_every_data_set(tmp_path, write, source, count):
    write(tmp_path)
    source = rooted(source, tmp_path)
    assert len(source) == count
    assert source.sizes().tolist() == [list(segroots.SIZE)] * count
    assert len(source.palette()) == len(source.classes())
    assert source.labels() is None
    assert source.read(0).problems() == []
    first = source.classes()[0]
    merged = type(source)(root=source.root, remap={first: "one", "*": "rest"}, cache=True)
    assert merged.classes() == ("one", "rest")
    plain = source.read(0).masks["class"]
    for _ in range(2):
        np.testing.assert_array_equal(merged.read(0).masks["class"], np.where(plain > 0, 1, plain))


@pytest.mark.parametrize(
    ("write", "kind", "train", "val"),
    [
        (segroots.voc, "PASCAL VOC 2012", 3, 1),  # with SBD
        (segroots.cityscapes, "Cityscapes", 2, 1),
        (segroots.ade20k, "ADE20K", 2, 1),
        (segroots.cocostuff, "COCO-Stuff 164k", 1, 1),
        (segroots.cocostuff10k, "COCO-Stuff 10k", 2, 1),
        (segroots.deepscene, "DeepScene (Freiburg Forest)", 2, 1),
    ],
)
def test_layouts_are_recognised(tmp_path, write, kind, train, val):
    write(tmp_path)
    found = layout.recognise(tmp_path)
    assert found is not None
    assert found.kind == kind
    assert [len(rooted(found.parts[name], tmp_path)) for name in ("train", "val")] == [train, val]
    assert found.classes == rooted(found.parts["train"], tmp_path).classes()


def test_other_cityscapes_and_voc_roots_are_recognised(tmp_path):
    segroots.cityscapes(tmp_path / "a", archives=True)
    assert cityscapes.recognise(tmp_path / "a").kind == "Cityscapes"
    place = segroots.voc(tmp_path / "b", aug=False)
    for root in (place, place.parent, tmp_path / "b"):
        found = voc.recognise(root)
        assert found.parts["train"].part == "train"
        assert len(rooted(found.parts["train"], root)) == 2
    assert voc.recognise(tmp_path / "a") is None


@pytest.mark.parametrize(
    ("write", "classes"),
    [
        (segroots.voc, 21),
        (segroots.cityscapes, 19),
        (segroots.ade20k, 150),
        (segroots.deepscene, 5),
        (segroots.clothes, 59),
    ],
)
def test_new_recipes_of_published_layouts_can_start(tmp_path, write, classes):
    write(tmp_path / "data")
    made = write_new(tmp_path / "mine.yaml", tmp_path / "data")
    parts = assemble(load(str(made.file)))
    assert len(parts.run.task.classes) == classes
    sample = parts.train.leaves()[0].source.read(0)
    assert int(sample.masks["class"].max()) < classes
