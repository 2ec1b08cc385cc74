"""Readers of boxes: each layout gives the same boxes; boxes are checked once, errors name file and object."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import boxroots
from tests.boxroots import SIZE, THINGS, coco_json, image, thing, write, xml
from tests.segroots import photo
from visloom.assemble import check_classes
from visloom.data.box_source import BoxSource
from visloom.data.box_table import BoxTable
from visloom.data.cityscapes_boxes import CityscapesBoxes
from visloom.data.coco import Coco, decoded, rectangles, runs
from visloom.data.kitti import Kitti
from visloom.data.photos import Photos
from visloom.data.target import Target
from visloom.data.transforms import RandomFlip, Resize
from visloom.data.voc_xml import VocXml
from visloom.data.yolo import Yolo
from visloom.errors import ConfigError, DataError
from visloom.sample import VOID
from visloom.tasks.detect import Detect, FasterRCNN
from visloom.tasks.detect.batch import _masks
from visloom.tasks.detect.results import run_lengths

BOXES = [list(box) for _, box in THINGS]


def voc_plain(root):
    boxroots.voc_xml(root)
    return VocXml(root=str(root), part="train", corners="plain")


def coco_source(root):
    boxroots.coco(root)
    return Coco(root=str(root), file="annotations/instances_train.json", images="train")


def yolo_source(root):
    boxroots.yolo(root)
    return Yolo(root=str(root), images="images/train")


def table_source(root):
    boxroots.table(root)
    return BoxTable(root=str(root), images="images")


READERS = [voc_plain, coco_source, yolo_source, table_source]


@pytest.mark.parametrize("make", READERS)
def test_every_layout_gives_the_same_boxes(make, tmp_path):
    source = make(tmp_path)
    assert source.check() == []
    assert source.classes() == ("cat", "dog")
    assert len(source) == 4 or len(source) == 6
    assert source.sizes().tolist() == [list(SIZE)] * len(source)
    assert source.counts().tolist() == [len(source)] * 2
    sample = source.read(1)
    assert sample.problems() == []
    assert sample.image.shape == (*SIZE, 3)
    assert np.allclose(sample.boxes, BOXES, atol=1e-4) and sample.boxes.dtype == np.float32
    assert sample.labels.tolist() == [0, 1] and sample.extra["box_crowd"].tolist() == [False, False]
    assert "4 pictures" in repr(source) or "6 pictures" in repr(source)


@pytest.mark.parametrize("make", READERS)
def test_classes_are_chosen_renamed_and_ordered(make, tmp_path):
    import dataclasses

    source = dataclasses.replace(make(tmp_path), names=("hound", "cat"), rename={"dog": "hound"})
    assert source.classes() == ("hound", "cat")
    assert source.read(0).labels.tolist() == [1, 0]
    one = dataclasses.replace(source, names=("cat",), rename={})
    assert one.read(0).labels.tolist() == [0] and len(one.read(0).boxes) == 1
    assert any("passed over: dog" in note for note in one.check())
    with pytest.raises(DataError, match=r"rename names cot, .* did you mean 'cat'"):
        dataclasses.replace(source, rename={"cot": "dog"}, names=()).classes()
    with pytest.raises(DataError, match="none of names"):
        dataclasses.replace(source, names=("car",), rename={}).classes()


BAD = [
    ("cat", (5, 5, 5, 20)),  # no area
    ("dog", (20, 20, 10, 8)),  # inverted
    ("cat", (-4, 3, 60, 20)),  # out of the picture
    ("dog", (50, 3, 60, 20)),  # far outside
    ("cat", (1, 2, 9, 12)),
]


def test_bad_boxes_are_mended_counted_and_named(tmp_path):
    boxroots.voc_xml(tmp_path, count=1, things=BAD, lists=False)
    source = VocXml(root=str(tmp_path), corners="plain")
    assert source.read(0).boxes.tolist() == [[10, 8, 20, 20], [0, 3, 40, 20], [1, 2, 9, 12]]
    notes = "\n".join(source.check())
    assert "1 box without area, left out" in notes and "000000.xml: object 1 (cat)" in notes
    assert "1 box inverted, turned around" in notes and "object 2 (dog)" in notes
    assert "1 box partly out of the picture, cut at its edge" in notes and "(40x30)" in notes
    assert "1 box out of the picture, left out: " in notes and "object 4 (dog)" in notes
    dropped = VocXml(root=str(tmp_path), corners="plain", bad_boxes="drop")
    assert dropped.read(0).boxes.tolist() == [[1, 2, 9, 12]]
    assert "1 box partly out of the picture, left out" in "\n".join(dropped.check())
    with pytest.raises(DataError, match=r"000000.xml: object 1 \(cat\) of '000000' has a box without area"):
        VocXml(root=str(tmp_path), bad_boxes="stop").check()


def test_vocs_corners_count_pixels_from_one_and_the_last_lies_inside(tmp_path):
    boxroots.voc_xml(tmp_path, count=1, things=[("a", (1, 1, 40, 30)), ("b", (1, 1, 1, 30))], lists=False)
    source = VocXml(root=str(tmp_path))
    assert source.read(0).boxes.tolist() == [[0, 0, 40, 30]]  # the second has no area in any convention
    assert len(source.check()) == 2  # and b has no box


def test_difficult_objects_are_groups(tmp_path):
    boxroots.voc_xml(
        tmp_path, count=1, things=[("a", (1, 1, 9, 9), 1), ("a", (1, 1, 20, 20), 0)], lists=False
    )
    read = {
        how: VocXml(root=str(tmp_path), difficult=how).read(0).extra["box_crowd"].tolist()
        for how in ("ignore", "use", "drop")
    }
    assert read == {"ignore": [True, False], "use": [False, False], "drop": [False]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a SYSTEM "http://x/y.dtd"><annotation/>', "declares a document type .DTD. 'a'"),
        (
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>',
            "declares a document type",
        ),
        ("<annotation>&b;</annotation>", "is no XML"),
        ("<annotation><object>", "is no XML"),
        ("", "is no XML"),
        (xml([("", (1, 1, 5, 5))]), "object 1 needs a name"),
        (xml([("a", (1, 1, 5, 5)), ("a", (1, "x", 5, 5))]), r"object 2 \(a\) needs a bndbox .* ymin 'x'"),
        (xml([("a", (1, 1, "nan", 5))]), "object 1 .* four finite numbers"),
    ],
)
def test_broken_xml_is_refused_by_file_and_object(tmp_path, text, message):
    boxroots.voc_xml(tmp_path)
    write(tmp_path / "Annotations/000002.xml", text)
    with pytest.raises(DataError, match=f"000002.xml: {message}"):
        VocXml(root=str(tmp_path), part="train").check()


def test_layouts_of_other_sets_in_vocs_form(tmp_path):
    """SIM10k (a list of its own, one class used), labelImg (files beside each other, PNG), a missing picture."""
    sim = boxroots.voc_xml(tmp_path / "VOC2012", things=[*THINGS, ("car", (1, 1, 9, 9))], lists=False)
    write(sim / "ImageSets/Main/trainval10k.txt", "000003\n000001\n")
    source = VocXml(root=str(tmp_path), part="trainval10k", names=("car",))
    assert (len(source), source.classes(), source.read(0).id) == (2, ("car",), "000003")
    beside = tmp_path / "beside"
    photo(beside / "b.png", 1, SIZE)
    write(beside / "b.xml", xml(THINGS, size=None))
    source = VocXml(root=str(beside))
    assert source.read(0).id == "b" and source.sizes().tolist() == [list(SIZE)]
    write(beside / "c.xml", xml(THINGS, filename="gone.png"))
    with pytest.raises(DataError, match="1 of 2 annotations have no picture: c"):
        VocXml(root=str(beside)).check()
    with pytest.raises(DataError, match="no pictures with XML"):
        VocXml(root=str(tmp_path / "VOC2012/ImageSets")).check()


def test_a_picture_of_another_size_than_annotated_is_refused(tmp_path):
    source = coco_source(tmp_path)
    photo(tmp_path / "train/train1.jpg", 0, SIZE[::-1])
    with pytest.raises(DataError, match=r"train1.jpg: is 30x40 .* says 40x30; the one looks turned"):
        source.check()
    with pytest.raises(DataError, match="looks turned"):
        source.read(1)


# ------------------------------------------------------------------------------------------------------------- COCO


def one_json(root, annotations, **how):
    photo(root / "train/a.jpg", 0, SIZE)
    photo(root / "train/b.jpg", 0, SIZE)
    data = coco_json([image(7, "a.jpg"), image(3, "b.jpg")], annotations, ids=(18, 3))
    write(root / "a.json", json.dumps(data))
    return Coco(root=str(root), file="a.json", images="train", **how)


def test_category_ids_have_gaps_and_pictures_without_boxes_stay(tmp_path):
    source = one_json(tmp_path, [thing(1, 7, 18, (1, 2, 10, 20)), thing(2, 7, 3, (5, 5, 5, 5), iscrowd=1)])
    assert source.classes() == ("dog", "cat") and source.category_ids() == (
        3,
        18,
    )  # in the order of their ids
    assert [source.read(i).id for i in range(len(source))] == ["a.jpg", "b.jpg"]
    sample = source.read(0)
    assert sample.labels.tolist() == [1, 0] and sample.extra["box_crowd"].tolist() == [False, True]
    assert sample.boxes.tolist() == [[1, 2, 11, 22], [5, 5, 10, 10]]
    assert source.read(1).boxes.shape == (0, 4)
    assert "1 of 2 pictures have no object" in source.check()[0]
    assert len(one_json(tmp_path, [thing(1, 7, 18, (1, 2, 10, 20))], annotated=True)) == 1
    spec = Detect(classes=source.classes()).complete([source])  # a run does this with its training data
    assert spec.category_ids == (3, 18) and spec.complete([source]) is spec
    found = {"file": "a.jpg", "boxes": [(0, 0, 2, 2)], "scores": [0.5], "labels": [1]}
    assert spec.records(found)[0]["category_id"] == 18
    own = Detect(classes=source.classes(), category_ids=(5, 6))
    assert (
        own.complete([source]).category_ids == (5, 6)
        and Detect(classes=("a",)).complete([source]).category_ids == ()
    )
    assert Detect(classes=("cat", "dog")).complete([Photos()]).category_ids == ()


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (thing(5, 7, 2, (1, 1, 5, 5)), "annotation 5 has category_id 2, which is none"),
        (thing(5, 99, 3, (1, 1, 5, 5)), "annotation 5 is of image 99, and no image"),
        (thing(5, 7, 3, (1, 1, 5)), "annotation 5 needs bbox"),
        ({"id": 5, "image_id": 7}, r"annotation 5 needs category_id \(int\), got None"),
        (thing(5, 7, 3, (1, 1, float("nan"), 5)), "annotation 5 .* four finite"),
        (thing(5, 7, 3, (1, 1, 5, 5), segmentation="x"), "neither polygons"),
        (thing(5, 7, 3, (1, 1, 5, 5), keypoints=[1, 2]), "keypoints .* by threes"),
    ],
)
def test_broken_json_is_refused_by_annotation(tmp_path, annotation, message):
    with pytest.raises(DataError, match=message):
        one_json(tmp_path, [annotation], masks=True, keypoints=True).check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "has no list 'images'"),
        ("[" * 100_000, "is no JSON"),
        ('{"images": []}', "has no list 'annotations'"),
    ],
)
def test_a_file_that_is_no_coco_is_refused(tmp_path, text, message):
    write(tmp_path / "a.json", text)
    with pytest.raises(DataError, match=f"a.json: {message}"):
        Coco(root=str(tmp_path), file="a.json").check()
    with pytest.raises(DataError, match=r"b.json: does not exist"):
        Coco(root=str(tmp_path), file="b.json").check()


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_pycocotools_own(seed):
    """Plain and compressed run lengths give the mask that pycocotools gives, and rectangles cover just its pixels."""
    mask_tools = pytest.importorskip("pycocotools.mask")
    draws = np.random.default_rng(seed)
    mask = (draws.random((30, 40)) < (0.1, 0.5, 0.9, 0.0, 1.0)[seed]).astype(np.uint8)
    packed = mask_tools.encode(np.asfortranarray(mask))
    plain = run_lengths(mask)
    for stored in (packed, {**packed, "counts": packed["counts"].decode()}, plain):
        assert runs(stored).tolist() == plain["counts"]
        assert np.array_equal(decoded(stored, (30, 40)), mask)
    covered = np.zeros((30, 40), int)
    for part in rectangles(plain, (30, 40)):
        (x0, y0), (x1, y1) = part[0].astype(int), part[2].astype(int)
        covered[y0:y1, x0:x1] += 1
    assert np.array_equal(covered, mask)
    with pytest.raises(DataError, match="do not fill"):
        decoded({"size": [30, 40], "counts": [5]}, (30, 40))


def test_masks_and_keypoints_reach_the_batch(tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[4:20, 6:18] = 1
    mask[8:12, 10:14] = 0
    polygon = [[2.0, 2.0, 20.0, 2.0, 20.0, 12.0, 2.0, 12.0]]
    points = [3, 4, 2, 0, 0, 0]
    source = one_json(
        tmp_path,
        [
            thing(1, 7, 3, (6, 4, 12, 16), segmentation=run_lengths(mask), keypoints=points),
            thing(2, 7, 18, (2, 2, 18, 10), segmentation=polygon),
            thing(3, 7, 3, (0, 0, 40, 30), segmentation=run_lengths(mask), iscrowd=1),
        ],
        masks=True,
        keypoints=True,
    )
    sample = source.read(0)
    assert sample.problems() == [] and sample.keypoints.shape == (3, 2, 3)
    assert sample.keypoints[0].tolist() == [[3.5, 4.5, 2], [0, 0, 0]] and not sample.keypoints[1].any()
    made = _masks(sample)
    assert np.array_equal(made[0], mask)
    assert made[1].sum() == 180 and made[1][2:12, 2:20].all()
    larger = Resize(size=(60, 80))(sample, 0).resolve()
    assert np.array_equal(_masks(larger)[0], mask.repeat(2, 0).repeat(2, 1))
    batch = Detect(net=FasterRCNN(masks=True, keypoints=2), classes=source.classes()).collate([sample], 1)
    assert batch.masks[0].shape[0] == 2 and len(batch.keypoints[0]) == 2  # without the crowd


# ------------------------------------------------------------------------------------------------------------- YOLO


def test_yolo_outlines_keypoints_and_pictures_without_a_file(tmp_path):
    root = boxroots.yolo(tmp_path, table="names: {0: cat, 1: dog}\n")
    write(root / "labels/train/0.txt", "1 0.25 0.2 0.75 0.2 0.75 0.8\n\n")
    (root / "labels/train/1.txt").unlink()
    source = Yolo(root=str(root), images="images/train", masks=True)
    assert np.allclose(source.read(0).boxes, [[10, 6, 30, 24]])
    assert np.allclose(source.read(0).extra["box_polygons"][0][0], [[10, 6], [30, 6], [30, 24]])
    assert len(source.read(1).boxes) == 0
    assert "1 of 4 pictures have no text file" in "\n".join(source.check())
    write(root / "data.yaml", "names: [cat, dog]\nkpt_shape: [2, 3]\n")
    for file in (root / "labels/train").glob("*.txt"):
        write(file, "0 .5 .5 .5 .5 .5 .5 2 0 0 0")
    points = Yolo(root=str(root), images="images/train").read(0).keypoints
    assert points.tolist() == [[[20, 15, 2], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 .5 .5 .1 .1", "line 1: class 2 is none; classes run from 0 to 1"),
        ("-1 .5 .5 .1 .1", "line 1: class -1 is none"),
        ("0 .5 .5 .1 .1\n0 20 30 10 10", "line 2: .* these seem to be pixels"),
        ("0 .5 .5", "line 1: expected a class and at least four"),
        ("cat .5 .5 .1 .1", "line 1: expected numbers"),
        ("0 .1 .2 .3 .4 .5", "line 1: an outline has three points"),
    ],
)
def test_yolo_lines_that_are_no_object(tmp_path, text, message):
    root = boxroots.yolo(tmp_path)
    write(root / "labels/train/2.txt", text)
    with pytest.raises(DataError, match=f"2.txt, {message}"):
        Yolo(root=str(root), images="images/train").check()


def test_yolo_needs_names_and_labels(tmp_path):
    root = boxroots.yolo(tmp_path)
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no table of class names; expected one of data.yaml"):
        Yolo(root=str(root), images="images/train").check()
    write(root / "classes.txt", "cat\ndog\n")
    assert Yolo(root=str(root), images="images/train").classes() == ("cat", "dog")
    write(root / "data.yaml", "names: {1: cat, 2: dog}")
    with pytest.raises(DataError, match="needs names"):
        Yolo(root=str(root), images="images/train").check()
    write(root / "data.yaml", "names: !!python/object/apply:os.system ['false']")
    with pytest.raises(DataError, match=r"data.yaml: cannot be read"):
        Yolo(root=str(root), images="images/train").check()


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("head", "first"),
    [
        ("filename,xmin,ymin,xmax,ymax,class", "0.jpg,4,5,20,25,cat"),
        ("class;x;y;width;height;image", "cat;4;5;16;20;0.jpg"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "0.jpg,40,30,cat,4,5,20,25"),
        ("path,x1,y1,x2,y2,label", "0.jpg,4,5,20,25,cat"),
        ("path,x0,y0,x1,y1,label", "0.jpg,4,5,20,25,cat"),
        ("", "0.jpg,4,5,20,25,cat"),
        ("image,xmin,ymin,xmax,ymax,label", "0.jpg,0.1,0.16666667,0.5,0.83333333,cat"),
    ],
)
def test_columns_of_tables(tmp_path, head, first):
    photo(tmp_path / "0.jpg", 0, SIZE)
    write(tmp_path / "annotations.csv", "\n".join(line for line in (head, first) if line))
    source = BoxTable(root=str(tmp_path))
    assert np.allclose(source.read(0).boxes, BOXES[:1], atol=1e-3)
    assert source.classes() == ("cat",)


def test_a_table_names_pictures_without_objects_too(tmp_path):
    for i in range(2):
        photo(tmp_path / f"{i}.jpg", 0, SIZE)
    write(tmp_path / "annotations.csv", "0.jpg,4,5,20,25,cat\n1.jpg,,,,,\n")
    source = BoxTable(root=str(tmp_path))
    assert [len(source.read(i).boxes) for i in (0, 1)] == [1, 0]
    assert "1 of 2 pictures have no object" in source.check()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2", "has the columns a, b; expected a path"),
        ("path,xmin,ymin,xmax,ymax,label\n0.jpg,1,x,3,4,cat", "line 2: expected four numbers"),
        ("path,xmin,ymin,xmax,ymax,label\n0.jpg,1,2,3", "line 2: expected 6 columns"),
        ("path,xmin,ymin,xmax,ymax,label\n0.jpg,1,2,3,4,", "line 2: the box has no class"),
        ("path,xmin,ymin,xmax,ymax,label\n,1,2,3,4,cat", "line 2: names no picture"),
        ("", "names no pictures"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    write(tmp_path / "annotations.csv", text)
    with pytest.raises(DataError, match=f"annotations.csv.*{message}"):
        BoxTable(root=str(tmp_path)).check()


# --------------------------------------------------------------------------------------------- KITTI and Cityscapes


def test_kitti(tmp_path):
    lines = [
        "Car 0.00 0 -1.5 4.00 5.00 20.00 25.00 1.4 1.6 3.7 -16.5 2.4 58.5 -1.3",
        "DontCare -1 -1 -10 30.00 2.00 38.00 9.00 -1 -1 -1 -1000 -1000 -1000 -10",
        "Pedestrian 0.00 0 0.2 22.0 4.0 25.0 16.0 1.9 0.5 1.2 1.8 1.5 8.4 0.0",
    ]
    root = boxroots.kitti(tmp_path, lines)
    source = Kitti(root=str(root), names=("car", "Pedestrian"), rename={"Car": "car"})
    sample = source.read(0)
    assert sample.labels.tolist() == [0, 0, 1, 1] and sample.extra["box_crowd"].tolist() == [0, 1, 1, 0]
    assert sample.boxes[0].tolist() == [4, 5, 20, 25]
    write(root / "ImageSets/train.txt", "000001\n")
    assert Kitti(root=str(root), part="train").read(0).id == "000001"
    write(root / "training/label_2/000001.txt", "Car 0 0 0 1 2")
    with pytest.raises(DataError, match=r"000001.txt, line 1: expected a type"):
        Kitti(root=str(root)).check()
    write(root / "training/label_2/000001.txt", "Cra 0 0 0 1 2 9 9")
    with pytest.raises(
        DataError, match=r"000001.txt: line 1 .* class 'Cra', which is none.*did you mean 'Car'"
    ):
        Kitti(root=str(root)).check()


def test_cityscapes_boxes_from_polygons_clear_and_in_fog(tmp_path):
    objects = [
        ("car", [[4, 5], [20, 5], [20, 25], [4, 25]]),
        ("cargroup", [[30, 10], [50, 10], [50, 20]]),
        ("road", [[0, 20], [40, 20], [40, 30]]),
        ("person", [[1, 1], [6, 1], [3, 9]]),
    ]
    root = boxroots.cityscapes(tmp_path, objects, betas=(0.01, 0.02))
    source = CityscapesBoxes(root=str(root), masks=True)
    sample = source.read(0)
    assert [source.classes()[i] for i in sample.labels] == ["car", "car", "person"]
    assert sample.boxes.tolist() == [[4, 5, 20, 25], [30, 10, 40, 20], [1, 1, 6, 9]]
    assert sample.extra["box_crowd"].tolist() == [False, True, False]
    car, group, person = _masks(sample)
    # outlines are painted too (to column 20); the road covers row 20 and more, the person some of the car
    assert car[5:20, 7:21].all() and not car[20].any() and person[1, 1:7].all() and group[12:16, 38:].any()
    assert not (car & person).any() and (sample.extra["things"] == VOID).any()
    flipped = RandomFlip(p=1.0)(sample, 0).resolve()
    assert np.array_equal(_masks(flipped), _masks(sample)[..., ::-1])
    assert np.array_equal(
        flipped.extra["things"], sample.extra["things"]
    )  # an evaluation counts stored pixels
    assert "things" not in CityscapesBoxes(root=str(root)).read(0).extra
    foggy = CityscapesBoxes(root=str(root), beta=(0.01, 0.02))
    assert [foggy.read(i).id.rpartition("_")[2] for i in range(len(foggy))] == ["0.01", "0.02"]
    assert np.array_equal(foggy.read(0).boxes, sample.boxes)
    partly = CityscapesBoxes(root=str(root), beta=(0.005, 0.02))
    assert len(partly) == 1 and "1 annotated pictures have no foggy one" in partly.check()[0]
    with pytest.raises(DataError, match="none of the 1 pictures with fog"):
        CityscapesBoxes(root=str(root), beta=(0.005,)).check()
    with pytest.raises(ValueError, match="beta has some of"):
        CityscapesBoxes(beta=(0.03,))
    for broken, message in (
        ("[1, 2]", "expected imgHeight"),
        ('{"imgHeight": 30, "imgWidth": 40, "objects": [7]}', "object 1 needs a label"),
    ):
        write(root / "gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json", broken)
        with pytest.raises(DataError, match=f"polygons.json: {message}"):
            CityscapesBoxes(root=str(root)).check()
    boxroots.cityscapes(tmp_path, [("car", [1, 2])])
    with pytest.raises(DataError, match=r"polygons.json: object 1 \(car\) needs a polygon"):
        CityscapesBoxes(root=str(root)).check()


# ----------------------------------------------------------------------------------------------- targets, domains


def test_a_folder_of_pictures_is_a_target(tmp_path):
    for name in ("b.png", "sub/a.jpg"):
        photo(tmp_path / name, 1, SIZE)
    source = Photos(root=str(tmp_path))
    assert [source.read(i).id for i in range(2)] == ["b.png", "sub/a.jpg"]
    assert source.sizes().tolist() == [list(SIZE)] * 2 and source.check() == [] and source.classes() == ()
    assert source.read(0).boxes is None
    assert Target()(source.read(0), 0).extra == {"target": True}
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of 2 pictures of (?s:.*)b.png: is no picture"):
        source.check()
    with pytest.raises(DataError, match=r"b.png"):
        Photos(root=str(tmp_path)).sizes()


def test_a_target_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no pictures .* needs pictures of its target"):
        Photos(root=str(tmp_path)).check()
    with pytest.raises(DataError, match="gone: does not exist"):
        Photos(root=str(tmp_path / "gone")).check()


def test_domains_with_other_classes_are_refused(tmp_path):
    spec = Detect(classes=("cat", "dog"))
    boxroots.table(tmp_path)
    check_classes(spec, BoxTable(root=str(tmp_path), images="images"))
    with pytest.raises(ConfigError, match=r"2 classes .* has 1"):
        check_classes(spec, BoxTable(root=str(tmp_path), images="images", names=("cat",)))
    with pytest.raises(ConfigError, match="name class 0 differently"):
        check_classes(spec, BoxTable(root=str(tmp_path), images="images", names=("dog", "cat")))


def test_pictures_that_repeat_and_a_base_without_a_reader(tmp_path):
    boxroots.voc_xml(tmp_path)
    photo(tmp_path / "JPEGImages/000000.png", 3, SIZE)
    assert VocXml(root=str(tmp_path), part="train").read(0).image is not None
    data = coco_json([image(1, "a.jpg"), image(1, "a.jpg")], [])
    write(tmp_path / "a.json", json.dumps(data))
    with pytest.raises(DataError, match="only 1 different ids"):
        Coco(root=str(tmp_path), file="a.json").check()
    data = coco_json([image(1, "a.jpg"), image(2, "a.jpg")], [])
    write(tmp_path / "a.json", json.dumps(data))
    with pytest.raises(DataError, match=r"a.jpg is listed more than once"):
        Coco(root=str(tmp_path), file="a.json").check()
    with pytest.raises(TypeError, match="must define listed"):
        BoxSource().check()


def test_cityscapes_outlines_of_one_corner_have_no_pixel(tmp_path):
    objects = [("car", [[4, 5], [20, 5], [20, 25]]), ("rider", [[1, 1]])]
    root = boxroots.cityscapes(tmp_path, objects)
    sample = CityscapesBoxes(root=str(root), masks=True).read(0)
    assert len(sample.boxes) == 1 and set(np.unique(sample.extra["things"])) == {VOID, 1}
