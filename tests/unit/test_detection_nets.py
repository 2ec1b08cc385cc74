"""Detection parts against torchvision's own detectors, independent formulas, and what has gone wrong before."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import models, ops

from visloom.nets.detection.anchors import Anchors, inside
from visloom.nets.detection.boxes import Coder, overlaps, suppress
from visloom.nets.detection.matching import BACKGROUND, BETWEEN, Matcher, Sampler, smooth_l1
from visloom.nets.detection.rpn import Truth
from visloom.nets.reverse import ramp, reverse
from visloom.tasks.detect import FCOS, FasterRCNN, Features, ResNetBody, RetinaNet


def some_boxes(n, seed=0, side=100):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side, (n, 2))
    return torch.tensor(
        np.concatenate([corner, corner + rng.uniform(1, side / 2, (n, 2))], 1), dtype=torch.float32
    )


def test_overlaps_agree_with_torchvision_and_inclusive_pixels_with_counting():
    a, b = some_boxes(7), some_boxes(5, 1)
    assert torch.allclose(overlaps(a, b), ops.box_iou(a, b), atol=1e-6)
    whole = torch.tensor([[2.0, 3.0, 5.0, 4.0]]), torch.tensor([[4.0, 4.0, 8.0, 6.0]])
    grids = []
    for box in whole:
        x0, y0, x1, y1 = box[0].int().tolist()
        grid = torch.zeros(12, 12, dtype=torch.bool)
        grid[y0 : y1 + 1, x0 : x1 + 1] = True
        grids.append(grid)
    counted = (grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum()
    assert overlaps(*whole, plus=1.0).item() == pytest.approx(counted.item())


def slow_suppress(boxes, scores, threshold, plus):
    order, kept = scores.argsort(descending=True).tolist(), []
    for i in order:
        overlap = [overlaps(boxes[i : i + 1], boxes[j : j + 1], plus).item() for j in kept]
        if all(o <= threshold for o in overlap):
            kept.append(i)
    return sorted(kept) if plus else kept


@pytest.mark.parametrize("plus", [0.0, 1.0])
def test_suppression_is_the_plain_algorithm(plus):
    boxes, scores = some_boxes(60, 3), torch.rand(60, generator=torch.Generator().manual_seed(0))
    assert suppress(boxes, scores, 0.3, plus).tolist() == slow_suppress(boxes, scores, 0.3, plus)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
def test_the_coder_decodes_what_it_encoded(seed, plus):
    wanted, boxes = some_boxes(6, seed), some_boxes(6, seed + 1)
    coder = Coder((10.0, 10.0, 5.0, 5.0), plus)
    assert torch.allclose(coder.decode(coder.encode(wanted, boxes), boxes), wanted, atol=1e-2)


def test_no_boxes_decode_to_no_boxes():
    none = torch.zeros(0, 4)
    assert Coder().decode(none, none).shape == (0, 4)
    assert Coder().decode(torch.zeros(0, 12), none).shape == (0, 3, 4)


def test_a_delta_cannot_blow_a_box_up():
    found = Coder().decode(torch.full((1, 4), 50.0), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    assert (found[0, 2:] - found[0, :2]).tolist() == pytest.approx([1000.0, 1000.0])


def test_anchors_agree_with_torchvision():
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    maps = [torch.zeros(1, 1, 13, 9), torch.zeros(1, 1, 7, 5)]
    theirs = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
    image = torch.zeros(1, 3, 104, 72)
    wanted = theirs(ImageList(image, [(104, 72)]), maps)[0]
    ours = Anchors([(32,), (64,)], (0.5, 1.0, 2.0), (8, 16))(maps, (104, 72))
    assert torch.equal(torch.cat(ours), wanted)
    fixed = Anchors([(32,), (64,)], (0.5, 1.0, 2.0), (8, 16), fixed=True)(maps, (104, 72))
    assert not torch.equal(fixed[1], ours[1])  # 104 // 7 is 14: torchvision's cells are not a stride apart
    assert torch.equal(fixed[0], ours[0])
    assert inside(
        torch.tensor([[-1.0, 0, 5, 5], [0, 0, 71.9, 103], [0, 0, 72, 5]]), (104, 72), 0
    ).tolist() == [
        False,
        True,
        False,
    ]


def test_matcher_without_truth_and_without_overlap():
    assert Matcher(0.7, 0.3, rescue=True)(torch.zeros(0, 4)).tolist() == [BACKGROUND] * 4
    # a box that touches no anchor would tie with all of them: it saves none
    assert Matcher(0.7, 0.3, rescue=True)(torch.zeros(2, 4)).tolist() == [BACKGROUND] * 4
    assert Matcher(0.7, 0.3)(torch.tensor([[0.5]])).tolist() == [BETWEEN]


@given(st.integers(0, 2**63), st.integers(1, 40), st.integers(0, 60), st.integers(0, 60))
def test_the_sampler_keeps_its_promises(key, count, positives, negatives):
    labels = torch.cat(
        [torch.full((positives,), 3), torch.zeros(negatives, dtype=torch.int64), torch.full((5,), -1)]
    )
    sampler = Sampler(count, 0.25)
    positive, negative = sampler(labels, key, "roi")
    assert (labels[positive] > 0).all() and (labels[negative] == 0).all()
    assert positive.sum() == min(positives, int(count * 0.25))
    assert negative.sum() == min(negatives, count - positive.sum())
    again = sampler(labels, key, "roi")
    assert torch.equal(positive, again[0]) and torch.equal(negative, again[1])


def test_draws_depend_on_the_key_and_the_word():
    labels = torch.zeros(200, dtype=torch.int64)
    one, other_key, other_word = (
        Sampler(20, 0.5)(labels, key, word)[1] for key, word in ((1, "rpn"), (2, "rpn"), (1, "roi"))
    )
    assert not torch.equal(one, other_key) and not torch.equal(one, other_word)


def test_smooth_l1_is_torchs():
    x = torch.linspace(-2, 2, 41)
    for beta in (1.0, 1 / 9):
        wanted = torch.nn.functional.smooth_l1_loss(x, torch.zeros_like(x), reduction="sum", beta=beta)
        assert smooth_l1(x, beta).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert smooth_l1(x, 0.0).item() == pytest.approx(x.abs().sum().item())


def test_gradient_reversal():
    x = torch.ones(3, requires_grad=True)
    y = reverse(x, torch.tensor(0.1))
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.allclose(x.grad, -0.1 * torch.tensor([1.0, 2.0, 3.0]))
    assert ramp(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.0, 0.98661, 0.99991], abs=1e-5)


# ---- whole detectors against torchvision's, on the same weights

PICTURE = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
SIZES = ((96, 128), (96, 128))
TRUTHS = [
    Truth(torch.tensor([[10.0, 12, 60, 80], [70, 20, 120, 60]]), torch.tensor([1, 3])),
    Truth(torch.tensor([[30.0, 30, 90, 90]]), torch.tensor([2])),
]
TARGETS = [{"boxes": t.boxes, "labels": t.labels} for t in TRUTHS]


def ours_and_theirs(net, theirs, names):
    """Our net with torchvision's weights. names: (torchvision's beginning, ours)."""
    tensors = {}
    for key, value in theirs.state_dict().items():
        for old, new in names:
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        tensors[key] = value
    missing = net.load_state_dict(tensors, strict=False)
    assert not missing.missing_keys
    assert all("num_batches" in key for key in missing.unexpected_keys)
    return net.eval()


def spread(module):
    """Give a fresh detector answers that differ from place to place."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if ("cls" in name or "bbox" in name) and p.ndim > 1:
                p.mul_(2.0 if "bbox" in name else 8.0)
    return module


def as_list(sampled):
    return [torch.where(mask)[0] for mask in sampled]


@pytest.mark.parametrize("third", ["boxes", "masks", "keypoints"])
def test_faster_mask_and_keypoint_rcnn_are_torchvisions(monkeypatch, third):
    classes = 1 if third == "keypoints" else 3
    torch.manual_seed(0)
    build = {
        "boxes": models.detection.fasterrcnn_resnet50_fpn,
        "masks": models.detection.maskrcnn_resnet50_fpn,
        "keypoints": models.detection.keypointrcnn_resnet50_fpn,
    }[third]
    extra = {"num_keypoints": 4} if third == "keypoints" else {}
    theirs = spread(build(weights=None, weights_backbone=None, num_classes=classes + 1, **extra)).eval()
    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # without weights torchvision trains the norms
            parent, _, last = name.rpartition(".")
            frozen = ops.FrozenBatchNorm2d(module.num_features)
            setattr(theirs.get_submodule(parent), last, frozen)
    points = 4 if third == "keypoints" else 0
    theirs.roi_heads.detections_per_img = 10
    spec = FasterRCNN(masks=third == "masks", keypoints=points, most=10)
    net = ours_and_theirs(
        spec.build(classes, 3, compat=False),
        theirs,
        [
            ("rpn.head.conv.0.0.", "rpn.head.conv."),
            ("roi_heads.box_head.", "roi.head."),
            ("roi_heads.box_predictor.", "roi.predictor."),
            ("roi_heads.mask_head.", "masks.head."),
            ("roi_heads.mask_predictor.", "masks.predictor."),
            ("roi_heads.keypoint_head.", "keypoints.head."),
            ("roi_heads.keypoint_predictor.", "keypoints.predictor."),
        ],
    )
    from torchvision.models.detection.image_list import ImageList

    with torch.no_grad():
        features = net.features(PICTURE)
        maps = theirs.backbone(PICTURE)
        assert all(torch.equal(a, b) for a, b in zip(features, maps.values(), strict=True))
        found = net.detect(features, (96, 128), SIZES)
        images = ImageList(PICTURE, list(SIZES))
        proposals, _ = theirs.rpn(images, maps)
        wanted, _ = theirs.roi_heads(maps, proposals, list(SIZES))
    for ours, other in zip(found, wanted, strict=True):
        assert len(ours.boxes) > 5
        assert torch.allclose(ours.boxes, other["boxes"], atol=1e-3)
        assert torch.allclose(ours.scores, other["scores"], atol=1e-5)
        assert torch.equal(ours.labels, other["labels"])
        if third == "masks":
            assert torch.allclose(ours.masks[:, None], other["masks"], atol=1e-4)
        if third == "keypoints":
            assert torch.allclose(ours.keypoints, other["keypoints"], atol=1e-2)
    losses_agree(net, theirs, features, third, monkeypatch)


def losses_agree(net, theirs, features, third, monkeypatch):
    """The losses of both for the same draws."""
    truths, targets = [], []
    for truth, target in zip(TRUTHS, TARGETS, strict=True):
        labels = truth.labels.clamp(max=1) if third == "keypoints" else truth.labels
        masks = points = None
        extra = {}
        if third == "masks":
            masks = torch.zeros(len(labels), 96, 128, dtype=torch.uint8)
            for mask, box in zip(masks, truth.boxes.int().tolist(), strict=True):
                mask[box[1] : box[3], box[0] : (box[0] + box[2]) // 2] = 1
            extra = {"masks": masks}
        if third == "keypoints":
            points = torch.rand(len(labels), 4, 3, generator=torch.Generator().manual_seed(2))
            points = points * torch.tensor([60.0, 50.0, 0.0]) + torch.tensor([20.0, 20.0, 2.0])
            extra = {"keypoints": points}
        truths.append(Truth(truth.boxes, labels, masks, points))
        targets.append({"boxes": target["boxes"], "labels": labels, **extra})
    draws = []

    def recorded(labels, key, what):
        mask = Sampler(64, 0.25)(labels, key, what)
        draws.append(mask)
        return mask

    net.rpn.sampler = net.roi.sampler = recorded
    net.top = (net.top[0]._replace(before=1000, after=1000, all=1000), net.top[1])
    with torch.no_grad():
        seen = net.losses(features, (96, 128), SIZES, truths, (1, 2))
    rpn, roi = draws[:2], draws[2:]

    def replay(part):
        return lambda labels: ([mask[0] for mask in part], [mask[1] for mask in part])

    from torchvision.models.detection.image_list import ImageList

    theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler = replay(rpn), replay(roi)
    theirs.rpn._pre_nms_top_n = theirs.rpn._post_nms_top_n = {"training": 1000, "testing": 1000}
    theirs.train()
    maps = dict(zip(("0", "1", "2", "3", "pool"), features, strict=True))
    with torch.no_grad():
        proposals, first = theirs.rpn(ImageList(PICTURE, list(SIZES)), maps, targets)
        _, second = theirs.roi_heads(maps, proposals, list(SIZES), targets)
    wanted = {**first, **second}
    ours = {name: (total / count.clamp(min=1)).item() for name, (total, count) in seen.losses.items()}
    pairs = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "classes": "loss_classifier",
        "boxes": "loss_box_reg",
        "masks": "loss_mask",
        "keypoints": "loss_keypoint",
    }
    assert len(ours) == len(wanted)
    for name, value in ours.items():
        assert value == pytest.approx(wanted[pairs[name]].item(), rel=1e-4), name
        assert value > 0


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_one_stage_detectors_are_torchvisions(kind):
    torch.manual_seed(0)
    if kind == "retinanet":
        theirs = models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
        net = RetinaNet(score=0.011).build(4, 3, compat=False)
    else:
        theirs = models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
        net = FCOS(score=0.071).build(4, 3, compat=False)
    theirs.score_thresh, theirs.detections_per_img = net.score, net.most
    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(theirs.get_submodule(parent), last, ops.FrozenBatchNorm2d(module.num_features))
    net = ours_and_theirs(net, spread(theirs).eval(), [])
    with torch.no_grad():
        features = net.features(PICTURE)
        maps = list(theirs.backbone(PICTURE).values())
        assert all(torch.equal(a, b) for a, b in zip(features, maps, strict=True))
        answers = theirs.head(maps)
        from torchvision.models.detection.image_list import ImageList

        anchors = theirs.anchor_generator(ImageList(PICTURE, list(SIZES)), maps)
        counts = [m.shape[2] * m.shape[3] * (9 if kind == "retinanet" else 1) for m in maps]
        split = {k: list(v.split(counts, 1)) for k, v in answers.items()}
        wanted = theirs.postprocess_detections(split, [list(a.split(counts)) for a in anchors], list(SIZES))
        found = net.detect(features, (96, 128), SIZES)
        for ours, other in zip(found, wanted, strict=True):
            assert len(ours.boxes) > 5
            assert torch.allclose(ours.boxes, other["boxes"], atol=1e-3)
            assert torch.equal(ours.labels - 1, other["labels"])
        seen = net.losses(features, (96, 128), SIZES, TRUTHS, (1, 2))
        targets = [{"boxes": t.boxes, "labels": t.labels - 1} for t in TRUTHS]
        if kind == "retinanet":
            # torchvision averages the pictures' own means; ours divides by the positives of the batch
            one = net.losses([f[:1] for f in features], (96, 128), SIZES[:1], TRUTHS[:1], (1,))
            losses = theirs.compute_loss(targets[:1], {k: v[:1] for k, v in answers.items()}, anchors[:1])
            pairs = {"classes": "classification", "boxes": "bbox_regression"}
            seen = one
        else:
            losses = theirs.compute_loss(targets, answers, anchors, counts)
            pairs = {"classes": "classification", "boxes": "bbox_regression", "centres": "bbox_ctrness"}
    for ours, other in pairs.items():
        total, count = seen.losses[ours]
        assert count > 0
        assert (total / count).item() == pytest.approx(losses[other].item(), rel=1e-4), ours


SMALL = {
    "c4": FasterRCNN(
        body=ResNetBody(stem=8, out=32, group_width=8, frozen=0), neck="c4", anchors=(16, 32, 64)
    ),
    "fpn": FasterRCNN(
        body=Features("test_resnet"), width=16, head=16, anchors=(8, 16, 32, 48, 64), roi_batch=16
    ),
    "masks": FasterRCNN(
        body=Features("test_resnet"),
        width=16,
        head=16,
        roi_batch=16,
        masks=True,
        mask_layers=(8,),
        keypoints=2,
    ),
    "retinanet": RetinaNet(body=Features("test_resnet"), width=32),
    "fcos": FCOS(body=Features("test_resnet"), width=32),
}


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("kind", SMALL)
def test_pictures_without_boxes_train_and_their_losses_have_gradients(kind, compat):
    torch.manual_seed(0)
    net = SMALL[kind].build(3, 3, compat)
    image = torch.randn(2, 3, 64, 96) if not compat else 50 * torch.randn(2, 3, 64, 96)
    none = Truth(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 64, 96, dtype=torch.uint8),
        torch.zeros(0, 2, 3),
    )
    seen = net.losses(net.features(image), (64, 96), ((64, 96), (60, 90)), [none, none], (1, 2))
    sum(total / count.clamp(min=1) for total, count in seen.losses.values()).backward()
    gradients = {n: p.grad for n, p in net.named_parameters() if p.requires_grad}
    assert not [name for name, g in gradients.items() if g is None and "backbone.body.net" not in name]
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
    for name in ("rpn_box", "boxes", "masks", "keypoints", "centres"):
        if name in seen.losses:
            assert seen.losses[name][0].item() == 0, name
    assert seen.losses["classes"][0].item() > 0


def test_a_picture_of_unknown_truth_adds_nothing_to_any_loss():
    torch.manual_seed(0)
    net = SMALL["fpn"].build(3, 3, False)
    features = net.features(torch.randn(2, 3, 64, 96))
    truth = Truth(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([2]))
    both = net.losses(features, (64, 96), ((64, 96),) * 2, [truth, None], (1, 2))
    alone = net.losses([f[:1] for f in features], (64, 96), ((64, 96),), [truth], (1,))
    for name, (total, count) in alone.losses.items():
        assert count == both.losses[name][1]
        assert total.item() == pytest.approx(both.losses[name][0].item(), rel=1e-5), name
    assert len(both.chosen.boxes[1]) == 16 and not both.chosen.known[1]
    assert both.embedded.shape == (sum(map(len, both.chosen.boxes)), 16)


def test_legacy_proposals_of_a_batch_starve_and_per_picture_ones_do_not():
    """maskrcnn-benchmark keeps the best of the whole batch in training: one picture can take nearly all."""
    net = SMALL["fpn"].build(3, 3, True)
    guesses = net.rpn(net.features(torch.zeros(2, 3, 64, 96)), (64, 96), ((64, 96),) * 2)
    guesses.logits[0] += 5.0
    top = net.top[0]._replace(all=40)
    assert top.batch
    assert [len(p) for p in net.rpn.proposals(guesses, top)] == [40, 0]
    assert [len(p) for p in net.rpn.proposals(guesses, top._replace(batch=False))] == [40, 40]
