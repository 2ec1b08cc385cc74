"""What evaluations of detectors count: COCO's numbers are pycocotools' own, VOC's those of the development kit.

Cityscapes' numbers are compared with those of its own scripts in tests/parity/test_cityscapes_scripts.py.
"""

import contextlib
import dataclasses
import io
import multiprocessing

import numpy as np
import pytest
import torch

from visloom.data.transforms import RandomFlip, Resize
from visloom.sample import VOID, Sample
from visloom.tasks.detect import Detect, FasterRCNN, Features
from visloom.tasks.detect.cityscapes import CityscapesPrecision
from visloom.tasks.detect.coco import CocoPrecision
from visloom.tasks.detect.voc import VocPrecision

CLASSES = ("a", "b", "c")
SPEC = Detect(net=FasterRCNN(body=Features("test_resnet")), classes=CLASSES)
SIZE = (220, 240)


def sample(name="a", boxes=((4, 5, 20, 30),), labels=(1,), size=SIZE, **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample(
        name, np.zeros((*size, 3), np.uint8), boxes=boxes, labels=np.array(labels, np.int64), **more
    )


def scored(boxes, scores, labels, **more):
    return {
        "boxes": [torch.tensor(np.asarray(boxes, np.float32)).reshape(-1, 4)],
        "scores": [torch.tensor(np.asarray(scores, np.float32))],
        "labels": [torch.tensor(np.asarray(labels, np.int64))],
        **more,
    }


def filled(metric, pairs, spec=SPEC):
    for number, (truth, found) in enumerate(pairs):
        metric.update(found, spec.collate([dataclasses.replace(truth, id=f"{number:03d}")], None))
    return metric


def coco(pairs):
    return filled(CocoPrecision(CLASSES), pairs)


def voc(pairs):
    return filled(VocPrecision(CLASSES), pairs)


# ---- written out


HALF = (
    sample(boxes=((0, 0, 10, 10), (20, 0, 30, 10)), labels=(0, 0)),
    scored([[0, 0, 10, 10], [40, 20, 50, 30], [20, 0, 30, 10]], [0.9, 0.8, 0.7], [0, 0, 0]),
)
"""Found: one right, one wrong, the other right. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""


def test_average_precision_written_out():
    values = coco([HALF]).compute() | voc([HALF]).compute()
    assert values["voc50"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert values["voc07"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert values["ap50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert values["ap"] == pytest.approx(values["ap50"])
    assert values["ar1"] == pytest.approx(0.5) and values["ar100"] == pytest.approx(1.0)
    assert values["ap_small"] == pytest.approx(values["ap"]) and np.isnan(values["ap_large"])


def test_a_box_is_found_once_crowds_count_for_nothing_and_empty_pictures_count():
    crowd = {"box_crowd": np.array([False, True])}
    truth = sample(boxes=((0, 0, 10, 10), (20, 0, 60, 40)), labels=(0, 0), extra=crowd)
    found = scored([[0, 0, 10, 10], [0, 0, 10, 10], [25, 5, 35, 15]], [0.9, 0.8, 0.95], [0, 0, 0])
    assert coco([(truth, found)]).compute()["ap50"] == pytest.approx(1.0)
    nothing = sample(boxes=((0, 0, 10, 10),), labels=(0,))
    pairs = [(truth, found), (nothing, scored([], [], []))]
    assert coco(pairs).compute()["ap50"] == pytest.approx(51 / 101)
    assert voc(pairs).compute()["voc50"] == pytest.approx(0.5 * 1 / 2)  # half a box lies in no difficult one
    assert coco(pairs).tables()["per_class"]["rows"][0][-1] == 2
    only_wrong = [(sample(boxes=(), labels=()), found)]
    assert np.isnan(coco(only_wrong).compute()["ap"]) and np.isnan(voc(only_wrong).compute()["voc50"])
    for metric in (coco([]), voc([])):
        assert all(np.isnan(value) for value in metric.compute().values())


def test_vocs_detection_belongs_to_the_thing_it_overlaps_most_even_if_that_was_found():
    """COCO gives the second one to the thing that is still free; VOC counts it as wrong."""
    pair = (
        sample(boxes=((0, 0, 10, 10), (0, 3, 10, 13)), labels=(0, 0)),
        scored([[0, 0, 10, 10], [0, 1, 10, 11]], [0.9, 0.8], [0, 0]),
    )
    assert voc([pair]).compute()["voc50"] == pytest.approx(0.5)
    assert coco([pair]).compute()["ap50"] == pytest.approx(1.0)


def test_eleven_recalls_are_compared_exactly():
    """Three of ten found is a recall of 0.3, which 3 / 10 and 0.1 + 0.2 do not agree on."""
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    pair = (sample(boxes=boxes, labels=(0,) * 10), scored(boxes[:3], [0.9, 0.8, 0.7], [0] * 3))
    assert voc([pair]).compute()["voc07"] == pytest.approx(4 / 11)


# ---- against independent computations


def scene(seed, pictures=6, truths=7, guesses=12):
    """Random truth with crowds, and detections around it, some pictures without either."""
    rng = np.random.default_rng(seed)
    for picture in range(pictures):
        n, m = (0 if picture == 4 else truths), (0 if picture == 5 else guesses)
        corner = rng.integers(0, 120, (n, 2)).astype(float)
        boxes = np.concatenate([corner, corner + rng.integers(5, 100, (n, 2))], 1).astype(np.float32)
        labels, crowd = rng.integers(0, 3, n), rng.random(n) < 0.2
        base = boxes[rng.integers(0, n, m)] if n else rng.uniform(0, 40, (m, 4)).astype(np.float32)
        guess = (base + rng.normal(0, 4, (m, 4))).astype(np.float32)
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        kinds = rng.integers(0, 3, m)
        scores = (rng.integers(0, 40, m) / 40).astype(np.float32)  # some are equal
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.uniform(0.5, 1, n)
        yield rng, boxes, labels, crowd, areas, guess, kinds, scores


def devkit(pairs, label, eleven):
    """VOCevaldet, step by step, with numbers of pixels from 1."""
    truths, lines = {}, []
    for number, (truth, found) in enumerate(pairs):
        mine = truth.labels == label
        hard = truth.extra["box_crowd"][mine]
        inclusive = [[b[0] + 1, b[1] + 1, b[2], b[3]] for b in truth.boxes[mine].tolist()]
        truths[number] = [[b, bool(h), False] for b, h in zip(inclusive, hard, strict=True)]
        columns = zip(*(found[c][0].tolist() for c in ("boxes", "scores", "labels")), strict=True)
        lines += [(s, number, [b[0] + 1, b[1] + 1, b[2], b[3]]) for b, s, kind in columns if kind == label]
    positives = sum(not hard for each in truths.values() for _, hard, _ in each)
    right, wrong = [], []
    for _, number, box in sorted(lines, key=lambda line: -line[0]):
        best, which = -np.inf, None
        for candidate in truths[number]:
            t = candidate[0]
            width = min(box[2], t[2]) - max(box[0], t[0]) + 1
            height = min(box[3], t[3]) - max(box[1], t[1]) + 1
            if width > 0 and height > 0:
                union = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                union += (t[2] - t[0] + 1) * (t[3] - t[1] + 1) - width * height
                if width * height / union > best:
                    best, which = width * height / union, candidate
        hit = miss = 0
        if best >= 0.5:
            if not which[1]:
                hit, miss = (1, 0) if not which[2] else (0, 1)
                which[2] = True
        else:
            miss = 1
        right.append(hit)
        wrong.append(miss)
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    with np.errstate(invalid="ignore"):
        recall, precision = right / positives, np.nan_to_num(right / (right + wrong))
    if eleven:
        at = [precision[recall >= t / 10 - 1e-12] for t in range(11)]
        return sum(part.max() if part.size else 0.0 for part in at) / 11
    recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


@pytest.mark.parametrize("seed", range(4))
def test_vocs_numbers_are_the_development_kits(seed):
    pairs = [
        (sample(boxes=boxes, labels=labels, extra={"box_crowd": hard}), scored(guess, scores, kinds))
        for _, boxes, labels, hard, _, guess, kinds, scores in scene(seed, pictures=9)
    ]
    found = voc(pairs)
    for name, eleven in (("voc50", False), ("voc07", True)):
        wanted = np.mean([devkit(pairs, label, eleven) for label in range(3)])
        assert found.compute()[name] == pytest.approx(wanted, abs=1e-12), name
        assert 0.05 < wanted < 0.95  # a scene in which something can go wrong


def theirs(pairs, kind, entries):
    """pycocotools' numbers and tables; entries: (annotations of a truth, results) of each picture."""
    api, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    truths = [e for each, _ in entries for e in each]
    for number, entry in enumerate(truths, 1):
        entry["id"] = number
    data = api.COCO()
    data.dataset = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(pairs))],
        "annotations": truths,
        "categories": [{"id": i} for i in range(3)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        found = evaluation.COCOeval(data, data.loadRes([e for _, each in entries for e in each]), kind)
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


def annotations(number, boxes, labels, crowd, areas):
    columns = zip(boxes.astype(float), labels, crowd, areas, strict=True)
    return [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": [*box[:2], *(box[2:] - box[:2])],
            "area": float(area),
            "iscrowd": int(is_crowd),
        }
        for box, label, is_crowd, area in columns
    ]


def results(number, scores, kinds, **columns):
    return [
        {
            "image_id": number,
            "category_id": int(kind),
            "score": float(score),
            **{k: v[i] for k, v in columns.items()},
        }
        for i, (score, kind) in enumerate(zip(scores, kinds, strict=True))
    ]


AP = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
TWELVE = (*AP, "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
TEN = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")


def agree(values, names, stats):
    for name, wanted in zip(names, stats, strict=True):
        assert values[name] == pytest.approx(wanted if wanted >= 0 else np.nan, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("seed", range(3))
def test_boxes_count_as_in_pycocotools(seed):
    pairs, entries = [], []
    for number, (_, boxes, labels, crowd, areas, guess, kinds, scores) in enumerate(scene(seed)):
        extra = {"box_crowd": crowd, "box_area": areas}
        pairs.append((sample(boxes=boxes, labels=labels, extra=extra), scored(guess, scores, kinds)))
        sides = [[*b[:2], *(b[2:] - b[:2])] for b in guess.astype(float)]
        entries.append(
            (annotations(number, boxes, labels, crowd, areas), results(number, scores, kinds, bbox=sides))
        )
    found, ours = theirs(pairs, "bbox", entries), coco(pairs)
    agree(ours.compute(), TWELVE, found.stats)
    table = ours.tables()["per_class"]
    assert table["columns"] == ["class", "ap", "ap50", "ap75", "boxes"]
    for label, row in enumerate(table["rows"]):
        precision = found.eval["precision"][:, :, label, 0, 2]
        assert row[1:4] == pytest.approx(
            [precision.mean(), precision[0].mean(), precision[5].mean()], abs=1e-12
        )
        curve = ours.tables()["curves"]["series"][row[0]]
        assert curve == pytest.approx(precision[0].tolist(), abs=1e-4) and len(curve) == 101


@pytest.mark.parametrize("seed", range(2))
def test_masks_count_as_in_pycocotools(seed):
    tools = pytest.importorskip("pycocotools.mask")
    spec = dataclasses.replace(SPEC, net=dataclasses.replace(SPEC.net, masks=True))
    pairs, entries = [], []
    for number, (rng, boxes, labels, crowd, areas, guess, kinds, scores) in enumerate(scene(seed)):
        polygons = np.empty(len(boxes), object)
        for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            corners = np.array([[x0, y0], [x1, y0 + 3.3], [x1, y1], [(x0 + x1) / 2, y1 - 2.7], [x0, y1]])
            polygons[i] = [corners]
        # half of the crowds have run lengths, which the reader turns into upright rectangles
        upright = [is_crowd and rng.random() < 0.5 for is_crowd in crowd]
        for i in np.flatnonzero(upright):
            x0, y0, x1, y1 = boxes[i].tolist()
            polygons[i] = [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]
        masks = np.zeros((len(guess), *SIZE), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, guess.clip(0).astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
            mask[y0 : y0 + 3, x0 : x0 + 3] = False
        extra = {"box_crowd": crowd, "box_area": areas, "box_polygons": polygons}
        truth = sample(boxes=boxes, labels=labels, extra=extra)
        pairs.append((truth, scored(guess, scores, kinds, masks=[torch.from_numpy(masks)])))
        notes = annotations(number, boxes, labels, crowd, areas)
        for note, parts, as_runs, box in zip(notes, polygons, upright, boxes.astype(int), strict=True):
            pixels = np.zeros(SIZE, np.uint8, order="F")
            pixels[box[1] : box[3], box[0] : box[2]] = 1
            note["segmentation"] = tools.encode(pixels) if as_runs else [parts[0].ravel().tolist()]
        shapes = [tools.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
        entries.append((notes, results(number, scores, kinds, segmentation=shapes)))
    ours = filled(CocoPrecision(CLASSES, masks=True), pairs, spec)
    values = ours.compute()
    agree(values, [f"mask_{name}" for name in TWELVE], theirs(pairs, "segm", entries).stats)
    assert set(values) == {*TWELVE, *(f"mask_{name}" for name in TWELVE)} == set(ours.names)
    assert "mask_ap50" in ours.tables()["per_class"]["columns"]


@pytest.mark.parametrize("seed", range(2))
def test_keypoints_count_as_in_pycocotools(seed):
    spec = dataclasses.replace(SPEC, net=dataclasses.replace(SPEC.net, keypoints=17))
    pairs, entries = [], []
    for number, (rng, boxes, labels, crowd, areas, guess, kinds, scores) in enumerate(scene(seed)):
        spots = boxes[:, None, :2] + rng.random((len(boxes), 17, 2)) * (
            boxes[:, None, 2:] - boxes[:, None, :2]
        )
        seen = rng.integers(0, 3, (len(boxes), 17, 1))
        seen[:1] = 0  # one without a visible point counts for nothing
        points = (np.concatenate([spots, seen], 2) * (seen > 0)).astype(np.float32)
        base = (
            points[rng.integers(0, len(points), len(guess)), :, :2]
            if len(points)
            else rng.random((len(guess), 17, 2))
        )
        guesses = np.concatenate([base + rng.normal(0, 2, base.shape), np.ones((len(guess), 17, 1))], 2)
        guesses = guesses.astype(np.float32)
        truth = sample(
            boxes=boxes, labels=labels, keypoints=points, extra={"box_crowd": crowd, "box_area": areas}
        )
        pairs.append((truth, scored(guess, scores, kinds, keypoints=[torch.from_numpy(guesses)])))
        notes = annotations(number, boxes, labels, crowd, areas)
        for note, each in zip(notes, points.astype(float), strict=True):
            note |= {"keypoints": each.ravel().tolist(), "num_keypoints": int((each[:, 2] > 0).sum())}
        flat = [each.ravel().tolist() for each in guesses.astype(float)]
        entries.append((notes, results(number, scores, kinds, keypoints=flat)))
    ours = filled(CocoPrecision(CLASSES, keypoints=17), pairs, spec)
    agree(ours.compute(), [f"keypoint_{name}" for name in TEN], theirs(pairs, "keypoints", entries).stats)
    other = filled(CocoPrecision(CLASSES, keypoints=17, sigmas=(0.001,) * 17), pairs, spec).compute()
    assert other["keypoint_ap"] < ours.compute()["keypoint_ap"]


def test_data_workers_forked_after_an_evaluation_make_batches_with_masks():
    """The threads of the library that counts do not outlive a fork: a worker that called it would wait for ever."""
    assert coco([HALF]).compute()["ap50"] > 0
    spec = dataclasses.replace(SPEC, net=dataclasses.replace(SPEC.net, masks=True))
    polygons = np.empty(1, object)
    polygons[0] = [np.array([[4, 5], [20, 5], [20, 30]], np.float64)]
    things = np.full(SIZE, -1, np.int32)
    things[5:30, 4:20] = 3
    samples = [
        sample(extra={"box_polygons": polygons}),
        sample("b", extra={"things": things, "box_thing": np.array([3])}),
    ]
    worker = multiprocessing.get_context("fork").Process(target=spec.collate, args=(samples, None))
    worker.start()
    worker.join(60)
    done = worker.exitcode
    worker.kill()
    assert done == 0


def test_masks_that_number_the_things_come_back_to_the_stored_picture():
    spec = dataclasses.replace(SPEC, net=dataclasses.replace(SPEC.net, masks=True))
    things = np.full((40, 60), -1, np.int32)
    things[5:30, 4:20] = 3
    one = sample(size=(40, 60), extra={"things": things, "box_thing": np.array([3])})
    warped = Resize(size=(80, 120))(RandomFlip(p=1.0)(one, 0), 0).resolve()
    for each in (one, warped):
        known = spec.collate([each], None).known[0]
        (pixels,) = known.masks.each()
        assert known.size == (40, 60) and np.array_equal(pixels, things == 3)


# ---- Cityscapes


MASKS = dataclasses.replace(
    SPEC, net=dataclasses.replace(SPEC.net, masks=True), counted=("coco", "cityscapes")
)


def rows_of(*spans):
    """A mask (H, W): from row a to row b, full width."""
    made = np.zeros(SIZE, bool)
    for a, b in spans:
        made[a:b] = True
    return made


def cityscapes(things, found, crowd=(), void=(), label=0):
    """Things and detections (span of rows, score) of one class in one picture; groups and void as spans."""
    numbers = np.full(SIZE, -1, np.int32)
    numbers[rows_of(*void)] = VOID
    spans = [*things, *crowd]
    for number, span in enumerate(spans):
        numbers[slice(*span)] = number
    truth = sample(
        boxes=[(0, a, SIZE[1], b) for a, b in spans],
        labels=[label] * len(spans),
        extra={
            "things": numbers,
            "box_thing": np.arange(len(spans)),
            "box_crowd": np.arange(len(spans)) >= len(things),
        },
    )
    masks = np.array([rows_of(span) for span, _ in found]).reshape(-1, *SIZE)
    columns = scored(
        [(0, 0, 9, 9)] * len(found), [s for _, s in found], [label] * len(found), masks=[torch.tensor(masks)]
    )
    return truth, columns


def city(*pairs):
    return filled(CityscapesPrecision(CLASSES), pairs, MASKS)


def test_cityscapes_average_precision_written_out():
    """Two things. Right at 0.9 and at 0.7, wrong at 0.8: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.

    Through the middles of the steps, with precision 1 at recall 0: 1/4 of 1, 1/4 of 1, 1/4 of 1/2, 1/4 of 2/3.
    """
    pair = cityscapes([(0, 20), (40, 60)], [((0, 20), 0.9), ((100, 120), 0.8), ((40, 60), 0.7)])
    assert city(pair).compute()["cityscapes_ap50"] == pytest.approx((1 + 1 + 1 / 2 + 2 / 3) / 4)
    assert city(pair).tables()["per_class_cityscapes"]["rows"] == [
        ["a", *[pytest.approx((1 + 1 + 1 / 2 + 2 / 3) / 4)] * 2, 2]
    ]
    # overlap 16 / 20: right up to 0.75, wrong from 0.8 on (a hit lies above the threshold); six tenths of 1
    near = city(cityscapes([(0, 20)], [((0, 16), 0.9)])).compute()
    assert near["cityscapes_ap"] == pytest.approx(0.6) and near["cityscapes_ap50"] == pytest.approx(1.0)
    assert (
        CocoPrecision(CLASSES, masks=True).names[12] == "mask_ap"
    )  # COCO's hit begins at the threshold: 0.7
    nothing_found = city(cityscapes([(0, 20)], []))
    assert nothing_found.compute() == {"cityscapes_ap": 0.0, "cityscapes_ap50": 0.0}
    for metric in (city(), city(cityscapes([], [((0, 9), 0.5)]))):
        assert np.isnan(list(metric.compute().values())).all()


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"void": [(100, 220)]}, False),
        ({"void": [(110, 120)]}, True),  # half of it: not more than the overlap
        ({"void": [(109, 120)]}, False),
        ({"crowd": [(100, 111)]}, False),
        ({"crowd": [(100, 106), (115, 120)]}, False),  # two groups of a class are one region
        ({"crowd": [(100, 106)], "void": [(115, 120)]}, False),
        ({}, True),
    ],
    ids=["void", "half void", "more void", "group", "two groups", "both", "neither"],
)
def test_what_is_found_in_groups_and_in_void_is_no_mistake(more, wrong):
    pair = cityscapes([(0, 20)], [((0, 20), 0.5), ((100, 120), 0.9)], **more)
    # one mistake above the only hit: precision 0 and 1/2 at recall 0 and 1
    assert city(pair).compute()["cityscapes_ap50"] == pytest.approx(0.25 if wrong else 1.0)


def test_small_things_need_not_be_found_and_a_second_hit_is_a_mistake():
    twice = cityscapes([(0, 20)], [((0, 20), 0.5), ((0, 19), 0.9)])
    # the better one is the hit, the other a mistake below it
    assert city(twice).compute()["cityscapes_ap50"] == pytest.approx((1 + 1) / 2)
    small = np.full(SIZE, -1, np.int32)
    small[:10, :9], small[100:120] = 0, 1
    truth = sample(
        boxes=[(0, 0, 9, 10), (0, 100, 240, 120)],
        labels=[0, 0],
        extra={"things": small, "box_thing": np.arange(2)},
    )
    masks = np.stack([small == 0, small == 1])
    found = scored([(0, 0, 9, 9)] * 2, [0.9, 0.5], [0, 0], masks=[torch.tensor(masks)])
    metric = city((truth, found))
    assert metric.compute()["cityscapes_ap"] == pytest.approx(1.0)
    assert metric.tables()["per_class_cityscapes"]["rows"][0][-1] == 1
    only = scored([(0, 0, 9, 9)], [0.5], [0], masks=[torch.tensor(masks[1:])])
    assert city((truth, only)).compute()["cityscapes_ap"] == pytest.approx(1.0)


def test_cityscapes_precision_takes_polygons_too():
    polygons = np.empty(2, object)
    polygons[:] = [[np.array([[0, y], [240, y], [240, y + 20], [0, y + 20]], float)] for y in (0, 40)]
    truth, found = cityscapes([(0, 20), (40, 60)], [((0, 20), 0.9), ((100, 120), 0.8), ((40, 60), 0.7)])
    drawn = truth.replace(extra={"box_polygons": polygons, "box_crowd": truth.extra["box_crowd"]})
    assert city((drawn, found)).compute() == city((truth, found)).compute()


def test_cityscapes_precision_needs_masks():
    with pytest.raises(ValueError, match=r"counted: cityscapes counts masks.*set task.net.masks"):
        dataclasses.replace(SPEC, counted=("cityscapes",))
    assert list(MASKS.metrics()) == ["coco", "cityscapes"]


# ---- merging


@pytest.mark.parametrize("make", [CocoPrecision, VocPrecision, CityscapesPrecision])
def test_any_division_among_processes_merges_to_the_same_bits(make):
    pairs = []
    for _, boxes, labels, crowd, _, guess, kinds, scores in scene(7, pictures=11):
        polygons, masks = np.empty(len(boxes), object), np.zeros((len(guess), *SIZE), bool)
        for place, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            polygons[place] = [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]
        for mask, (x0, y0, x1, y1) in zip(masks, guess.clip(0).astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        truth = sample(boxes=boxes, labels=labels, extra={"box_crowd": crowd, "box_polygons": polygons})
        pairs.append((truth, scored(guess, scores, kinds, masks=[torch.from_numpy(masks)])))
    whole = filled(make(CLASSES), pairs, MASKS)
    parts = [make(CLASSES) for _ in range(3)]
    for number, (truth, found) in enumerate(pairs):
        batch = MASKS.collate([dataclasses.replace(truth, id=f"{number:03d}")], None)
        parts[number * number % 3].update(found, batch)
    merged = make(CLASSES)
    merged.merge([part.state() for part in reversed(parts)])
    assert repr(merged.compute()) == repr(whole.compute())  # NaN is not equal to itself
    assert merged.tables() == whole.tables()


def _count_again(metric, answers):
    metric._counted = None
    answers.put(metric.compute()["ap50"])


def test_a_process_forked_after_an_evaluation_counts_too():
    """Ranks that a test or a launcher forks, say: the library's threads are gone there, so a new process counts."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    metric = coco([HALF])
    here = metric.compute()["ap50"]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_count_again, args=(metric, answers))
    child.start()
    assert answers.get(timeout=60) == here
    child.join(60)
    assert child.exitcode == 0
