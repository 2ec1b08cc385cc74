"""The task Detect: batches, geometry back to the stored picture, metrics against a written-out example, files."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch

from tests.detectors import NET
from tests.protocol import shapes
from visloom.data.town import Drive
from visloom.data.transforms import RandomFlip, Resize
from visloom.errors import DataError
from visloom.loader import Plan
from visloom.nets.detection.roi import Found
from visloom.run import Optim
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled
from visloom.tasks.detect import FCOS, Detect, FasterRCNN, Features, ResNetBody
from visloom.tasks.detect.results import run_lengths

TOWN = Drive(samples=12, height=48, width=64)
SPEC = Detect(net=NET, classes=TOWN.classes(), divisible=16)
TRAIN = Shuffled(source=TOWN, batch=4, transform=(RandomFlip(),))
SEEN = Ordered(source=TOWN, batch=5)


def sample(name="a", size=(40, 60), boxes=((4, 5, 20, 30),), labels=(1,), **more):
    image = np.full((*size, 3), 100, np.uint8)
    return Sample(
        name,
        image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        **more,
    )


def make(total=30):
    return shapes.engine_of(SPEC, TRAIN, total, optim=Optim(name="AdamW", lr=5e-3))


def test_it_learns_and_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    engine, losses = shapes.resumes(make, 12, tmp_path)
    shapes.falls(losses, span=6)
    found = shapes.evaluates(SPEC, engine, SEEN, batches=(3,), rounding=1e-3)
    assert {"ap", "ap50", "ap75", "voc50", "loss/classes", "loss/objectness"} <= found.values.keys()


def test_it_travels_and_reads_the_same_in_two_processes():
    shapes.travels(SPEC)
    shapes.shards(SPEC, TRAIN)


def test_what_is_drawn_for_a_picture_does_not_depend_on_its_batch():
    """Losses of one picture in two batches: the same anchors and regions are looked at."""
    task = SPEC.build().eval()
    batch = Plan(SEEN, SPEC, seed=None).make(0, 0)
    with torch.no_grad():
        whole = task.net.losses(
            task.net.features(task.images(batch.image, batch.sizes)),
            batch.size,
            batch.sizes,
            task.truths(batch),
            batch.keys,
        )
        rows = [3]
        one = task.net.losses(
            task.net.features(task.images(batch.image[rows], [batch.sizes[3]])),
            batch.size,
            [batch.sizes[3]],
            [task.truths(batch)[3]],
            [batch.keys[3]],
        )
    assert torch.equal(whole.chosen.labels[3], one.chosen.labels[0])
    assert torch.allclose(whole.chosen.boxes[3], one.chosen.boxes[0], atol=1e-3)


def test_pictures_of_any_size_are_padded_together_and_padding_is_zero_to_the_net():
    batch = SPEC.collate([sample(), sample("b", (33, 20), ((1, 1, 9, 9),))], 7)
    assert batch.image.shape == (2, 48, 64, 3)
    assert batch.sizes == ((40, 60), (33, 20))
    image = SPEC.build().images(batch.image, batch.sizes)
    assert image[1, :, 33:].abs().max() == 0 and image[1, :, :, 20:].abs().max() == 0
    assert image[1, :, :33, :20].abs().min() > 0


def test_colours_reach_the_net_in_the_order_of_its_weights():
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    image = torch.from_numpy(np.tile(pixel, (1, 32, 32, 1)).reshape(1, 32, 32, 3))
    body = ResNetBody(stem=8, out=32, group_width=8)
    old = Detect(net=FasterRCNN(body=body, neck="c4"), classes=("a",), compat=True).build()
    assert old.images(image, [(32, 32)])[0, :, 0, 0].tolist() == pytest.approx(
        [30 - 102.9801, 20 - 115.9465, 10 - 122.7717], abs=1e-4
    )
    new = Detect(net=FasterRCNN(body=body, neck="c4"), classes=("a",)).build()
    wanted = (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert new.images(image, [(32, 32)])[0, :, 0, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-3)
    turned = dataclasses.replace(new_spec := Detect(net=NET, classes=("a",)), order="bgr").normalisation()
    assert turned.mean == new_spec.normalisation().mean[::-1]


def test_bad_samples_are_refused_by_name():
    with pytest.raises(DataError, match=r"'a'.*labels run from 0 to 2, got 5 to 5"):
        SPEC.collate([sample(labels=(5,))], 1)
    with pytest.raises(DataError, match=r"'a'.*picture \(H, W, 3\), got \(40, 60, 1\)"):
        SPEC.collate([sample().replace(image=np.zeros((40, 60, 1), np.uint8))], 1)
    with pytest.raises(DataError, match="'a': 1 boxes need as many labels"):
        SPEC.collate([sample().replace(labels=None)], 1)


def test_boxes_without_area_and_inverted_ones_are_left_out_and_told():
    batch = SPEC.collate(
        [sample(boxes=((4, 5, 20, 30), (9, 9, 9, 20), (30, 30, 20, 35)), labels=(0, 1, 2))], 1
    )
    assert batch.labels[0].tolist() == [0]
    assert batch.notes == ("a: 2 of 3 boxes have no area and were left out",)


def test_crowds_are_not_trained_on_and_known_to_metrics():
    one = sample(
        boxes=((1, 1, 9, 9), (2, 2, 30, 30)), labels=(0, 0), extra={"box_crowd": np.array([False, True])}
    )
    batch = SPEC.collate([one], None)
    assert len(batch.boxes[0]) == 1
    assert batch.known[0].crowd.tolist() == [False, True]


def test_predictions_are_in_the_stored_picture(monkeypatch):
    moved = Resize(size=(80, 90))(sample(size=(40, 60)), 0).resolve()
    batch = SPEC.collate([moved], None)
    task = SPEC.build()
    there = Found(
        torch.tensor([[6.0, 10, 30, 60], [0, 0, 95, 90]]), torch.tensor([0.5, 0.9]), torch.tensor([2, 1])
    )
    columns = task.answer(batch, [there])
    assert columns["labels"][0].tolist() == [0, 1]  # best first
    assert torch.allclose(columns["boxes"][0], torch.tensor([[0.0, 0, 60, 40], [4, 5, 20, 30]]), atol=1e-4)
    assert np.allclose(batch.known[0].boxes, [[4, 5, 20, 30]], atol=1e-4)


def test_masks_and_keypoints_come_back_too():
    moved = Resize(size=(80, 120))(sample(size=(40, 60)), 0).resolve()
    batch = SPEC.collate([moved], None)
    there = Found(
        torch.tensor([[20.0, 20, 60, 60]]),
        torch.tensor([0.5]),
        torch.tensor([2]),
        torch.ones(1, 28, 28),
        torch.tensor([[[40.0, 20.0, 1.0]]]),
    )
    columns = SPEC.build().answer(batch, [there])
    mask = columns["masks"][0][0]
    assert mask.shape == (40, 60) and mask[10:30, 10:30].all() and mask.sum() == 400
    assert columns["keypoints"][0].tolist() == [[[20.0, 10.0, 1.0]]]


def test_masks_from_numbers_and_from_polygons_agree():
    spec = dataclasses.replace(SPEC, net=dataclasses.replace(NET, masks=True, mask_layers=(8,)))
    polygon = np.array([[4, 5], [20, 5], [20, 30], [4, 30]], np.float32)
    things = np.full((40, 60), -1, np.int32)
    things[5:30, 4:20] = 3
    numbered = sample(extra={"things": things, "box_thing": np.array([3])})
    drawn = sample(extra={"box_polygons": np.array([[polygon]], object).reshape(1, 1, 4, 2)})
    for one in (numbered, drawn):
        flipped = RandomFlip(p=1.0)(one, 0).resolve()
        mask = spec.collate([flipped], 1).masks[0][0]
        wanted = np.zeros((40, 60), np.uint8)
        wanted[5:30, 40:56] = 1
        assert np.array_equal(mask.numpy(), wanted)
    for without, key in ((sample(), 1), (sample(extra={"box_crowd": np.array([True])}), None)):
        with pytest.raises(DataError, match="'a' has boxes but no masks"):
            spec.collate([without], key)


def scored(boxes, scores, labels):
    return {
        "boxes": [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)],
        "scores": [torch.tensor(scores)],
        "labels": [torch.tensor(labels, dtype=torch.int64)],
    }


# ---- what is written


def test_results_in_coco_form():
    row = {
        "file": "pictures/000139.jpg",
        "boxes": np.array([[1.0, 2, 5, 8]]),
        "scores": np.array([0.75]),
        "labels": np.array([2]),
        "masks": np.array([[[True, False], [False, True]]]),
    }
    spec = dataclasses.replace(SPEC, category_ids=(3, 7, 90))
    (entry,) = json.loads(json.dumps(spec.records(row)))
    assert entry == {
        "image_id": 139,
        "category_id": 90,
        "bbox": [1.0, 2.0, 4.0, 6.0],
        "score": 0.75,
        "segmentation": {"size": [2, 2], "counts": [0, 1, 2, 1]},
    }
    points = {**row, "keypoints": np.array([[[1.5, 2.5, 1.0], [3.5, 4.5, 1.0]]])}
    assert spec.records(points)[0]["keypoints"] == [1.0, 2.0, 1.0, 3.0, 4.0, 1.0]
    assert SPEC.records({**row, "file": "cat.jpg"})[0]["image_id"] == "cat.jpg"
    assert run_lengths(np.zeros((3, 2), bool))["counts"] == [6]
    assert SPEC.lines(row) == [(SPEC.classes[2], 0.75, 1.0, 2.0, 5.0, 8.0)]
    out = io.StringIO()
    csv.writer(out).writerow(SPEC.columns)
    assert out.getvalue().strip() == "class,score,x0,y0,x1,y1"


def test_drawing_shows_what_is_sure_and_the_truth():
    found = {
        name: column[0]
        for name, column in scored([[5, 5, 30, 30], [40, 5, 55, 30]], [0.9, 0.2], [0, 1]).items()
    }
    plain = np.asarray(SPEC.draw(np.zeros((40, 60, 3), np.uint8), found))
    assert plain.shape == (320, 480, 3)  # small pictures are enlarged
    assert (plain[60:220, 40] == SPEC.palette[0]).all()
    assert (plain[:, 320:] == 0).all()  # the second is not sure enough
    resized = Resize(size=(20, 30))(sample(size=(40, 60), boxes=((5, 5, 30, 30),)), 0).resolve()
    with_truth = np.asarray(SPEC.draw(resized.image, found, resized))
    assert (with_truth[60:220, 40] == SPEC.palette[0]).all()  # brought to the sample's picture


def test_masks_and_keypoints_are_drawn_where_they_lie():
    """In the stored picture, and brought to a resized sample."""
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 10:20, 30:50] = True
    found = {
        **{name: column[0] for name, column in scored([[30, 10, 50, 20]], [0.9], [2]).items()},
        "masks": torch.from_numpy(mask),
        "keypoints": torch.tensor([[[40.0, 30.0, 1.0]]]),
    }
    black, colour = np.zeros((40, 60, 3), np.uint8), SPEC.palette[2]
    resized = Resize(size=(20, 30))(sample(size=(40, 60)).replace(image=black), 0).resolve()
    for picture in (SPEC.draw(black, found), SPEC.draw(resized.image, found, resized)):
        shown = np.asarray(picture)
        assert shown.shape == (320, 480, 3)
        assert tuple(shown[240, 320]) == colour  # the keypoint
        assert np.allclose(shown[120, 300], np.array(colour) / 2, atol=6)  # half of it over black
        assert (shown[200:230, 200:] == 0).all()  # left of it is the truth


def test_goodness_is_f1():
    batch = SPEC.collate([sample(boxes=((0, 0, 10, 10), (20, 0, 30, 10)), labels=(0, 0))], None)
    found = scored([[0, 0, 10, 10], [50, 0, 60, 10], [20, 0, 30, 10]], [0.9, 0.8, 0.3], [0, 0, 0])
    assert SPEC.goodness(found, batch).tolist() == [pytest.approx(0.5)]  # one of two found, one false
    none = SPEC.collate([sample(boxes=(), labels=())], None)
    assert SPEC.goodness(scored([], [], []), none).tolist() == [1.0]


def test_impossible_nets_are_refused_with_the_fields_name():
    with pytest.raises(ValueError, match="needs 5 anchor sizes, got 3"):
        FasterRCNN(anchors=(8, 16, 32))
    with pytest.raises(ValueError, match="neck c4 takes a ResNetBody"):
        FasterRCNN(body=Features("resnet18"), neck="c4")
    with pytest.raises(Exception, match="has maps of stride 2, 4, 8, 16, 32, none of 64"):
        Detect(net=FCOS(body=Features("resnet18"), strides=(16, 32, 64)), classes=("a",)).build()
