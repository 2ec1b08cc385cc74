"""Shape 3, domain adaptation: a pair of streams, one without labels, and one pass of the network over both.

The detector is made of torchvision's parts. Their own `forward` is never called: it computes losses in training mode
only. A classifier of the whole picture tells the domains apart, and its gradient is reversed, ever more strongly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import faster_rcnn, roi_heads, rpn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou

from tests.protocol import shapes
from tests.protocol.shapes import Album, Keep, Stamp, engine_of
from tests.small import equal, tensors_of
from visloom.data.transforms import RandomFlip
from visloom.keys import ambient, uniforms
from visloom.loader import Plan
from visloom.metrics import merge_tables
from visloom.module import TaskModule
from visloom.run import Optim
from visloom.sample import Sample
from visloom.stream import Ordered, Pair, Shuffled
from visloom.task import Batch, Losses, Progress

# ---- network: plain modules that know nothing of batches and losses; any task may use them


class Draws(BalancedPositiveNegativeSampler):
    """Chooses anchors and proposals under the key of their picture, whatever else is in the batch."""

    keys: Sequence[int] = ()

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen = []
        for key, own in zip(self.keys, labels, strict=True):
            with ambient(key):
                chosen.append(super().__call__([own]))
        return [positive[0] for positive, _ in chosen], [negative[0] for _, negative in chosen]


class Parts(nn.Module):
    """Backbone, proposals and box heads of a Faster R-CNN (Ren et al. 2015), from torchvision's parts."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(a, width, 3, 2, 1), nn.ReLU()) for a in (3, width, width)]
        self.backbone = nn.Sequential(*layers)
        anchors = faster_rcnn.AnchorGenerator(((10, 20, 40),), ((1.0,),))
        top = {"training": 40, "testing": 40}  # the mode decides nothing
        self.rpn = rpn.RegionProposalNetwork(anchors, rpn.RPNHead(width, 3), 0.5, 0.3, 32, 0.5, top, top, 0.7)
        head, last = faster_rcnn.TwoMLPHead(width * 9, 32), faster_rcnn.FastRCNNPredictor(32, classes + 1)
        pool = MultiScaleRoIAlign(["0"], 3, 2)
        self.roi = roi_heads.RoIHeads(pool, head, last, 0.5, 0.5, 32, 0.5, None, 0.05, 0.5, 20)

    def propose(self, image: Tensor, seen: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Proposals and anchors of each picture (N, 4), logits (BA, 1) and box deltas (BA, 4)."""
        sizes = [(image.shape[2], image.shape[3])] * len(image)
        logits, deltas = self.rpn.head([seen])
        anchors = self.rpn.anchor_generator(ImageList(image, sizes), [seen])
        scores, moves = rpn.concat_box_prediction_layers(logits, deltas)
        boxes = self.rpn.box_coder.decode(moves.detach(), anchors).view(len(image), -1, 4)
        found, _ = self.rpn.filter_proposals(boxes, scores, sizes, [logits[0][0].numel()])
        return found, anchors, scores, moves

    def judge(self, image: Tensor, seen: Tensor, found: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and box deltas (R, 4K + 4) of the proposals of all pictures."""
        sizes = [(image.shape[2], image.shape[3])] * len(image)
        return self.roi.box_predictor(self.roi.box_head(self.roi.box_roi_pool({"0": seen}, found, sizes)))


# ---- task


@dataclass(kw_only=True)
class TwoDomains(Batch):
    image: Tensor  # (B, 3, H, W) float32
    boxes: list[Tensor]  # of each picture (N, 4) float32
    labels: list[Tensor]  # of each picture (N,) int64, from 1: 0 is the background
    keys: tuple[int, ...]  # what is drawn for a picture belongs to the picture
    labeled: list[int]  # rows of the pictures of the source


class Adapted(TaskModule):
    def __init__(self, spec: Adapt) -> None:
        super().__init__()
        self.net, self.domain = Parts(len(spec.classes), spec.width), nn.Conv2d(spec.width, 1, 1)
        self.draws = self.net.rpn.fg_bg_sampler = self.net.roi.fg_bg_sampler = Draws(32, 0.5)

    def forward(self, batch: TwoDomains) -> Losses:
        net, rows, features = self.net, batch.labeled, self.net.backbone(batch.image)  # one pass over both
        image, seen, self.draws.keys = batch.image[rows], features[rows], [batch.keys[i] for i in rows]
        truth = [{"boxes": batch.boxes[i], "labels": batch.labels[i]} for i in rows]
        found, anchors, scores, moves = net.propose(image, seen)
        wanted, matched = net.rpn.assign_targets_to_anchors(anchors, truth)
        first = net.rpn.compute_loss(scores, moves, wanted, net.rpn.box_coder.encode(matched, anchors))
        found, _, kinds, goals = net.roi.select_training_samples(found, truth)
        second = roi_heads.fastrcnn_loss(*net.judge(image, seen, found), kinds, goals)
        ramp = 0.2 / (1 + torch.exp(-10 * batch.progress.step / batch.progress.total)) - 0.1
        turned = features.detach() * (1 + ramp) - features * ramp  # the same values, the gradient times -ramp
        side = self.domain(turned).mean((1, 2, 3))  # (B,)
        side = nn.functional.binary_cross_entropy_with_logits(side, (batch.source == 0).float())
        names = ("objects", "places", "kinds", "boxes", "domain")
        terms = dict(zip(names, (*first, *second, side), strict=True))
        return Losses(terms, {"ramp": ramp}, torch.tensor(float(len(rows))))

    def predict(self, batch: TwoDomains) -> dict[str, Any]:
        seen = self.net.backbone(batch.image)
        found, sizes = self.net.propose(batch.image, seen)[0], [tuple(batch.image.shape[2:])] * len(batch)
        columns = self.net.roi.postprocess_detections(*self.net.judge(batch.image, seen, found), found, sizes)
        return {"ids": batch.ids} | dict(zip(("boxes", "scores", "labels"), columns, strict=True))


@dataclass(frozen=True)
class Adapt:
    width: int = 16
    classes: tuple[str, ...] = ("vehicle", "upright")
    palette: tuple[tuple[int, int, int], ...] = ((255, 60, 0), (0, 200, 60))

    def build(self) -> TaskModule:
        return Adapted(self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> TwoDomains:
        return TwoDomains(
            ids=tuple(s.id for s in samples),
            source=torch.tensor([s.source for s in samples]),
            image=shapes.picture_of(samples),
            boxes=[torch.from_numpy(s.boxes) for s in samples],
            labels=[torch.from_numpy(s.labels) + 1 for s in samples],
            keys=tuple(s.extra["key"] for s in samples),
            labeled=[row for row, s in enumerate(samples) if s.source == 0],
        )

    def metrics(self) -> dict[str, Any]:
        return {"found": Found()}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        return shapes.draw_boxes(image, prediction["boxes"].tolist(), self.palette[0])


# ---- tests


class Found:
    """Share of boxes that a detection of their class covers with IoU 0.3: a table of counts, keyed by sample id."""

    names = ("recall",)

    def __init__(self) -> None:
        self.table: dict[str, tuple[int, int]] = {}  # id -> boxes found, boxes there are

    def update(self, predictions: Any, batch: Any) -> None:
        for row, name in enumerate(batch.ids):
            overlap = box_iou(batch.boxes[row], predictions["boxes"][row])  # (M, N)
            right = (overlap > 0.3) & (batch.labels[row][:, None] == predictions["labels"][row])
            self.table[name] = int(right.any(1).sum()), len(right)

    def state(self) -> Any:
        return self.table

    def merge(self, states: Sequence[Any]) -> None:
        self.table = merge_tables(states)

    def compute(self) -> dict[str, float]:
        rows = self.table.values()
        return {"recall": sum(r[0] for r in rows) / max(1, sum(r[1] for r in rows))}

    def tables(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Darken:
    """Makes the target domain: evening in the whole town."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        return sample.replace(image=(sample.image * np.array([0.5, 0.4, 0.6])).astype(np.uint8))


@dataclass(frozen=True)
class Nonsense:
    """Replaces all labels by boxes at random places, as many as chance says."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        draws = uniforms(key, 21).astype(np.float32)
        count = int(draws[20] * 6)
        corner, side = draws[:10].reshape(5, 2)[:count] * 30, 2 + draws[10:20].reshape(5, 2)[:count] * 16
        return sample.replace(boxes=np.concatenate([corner, corner + side], 1), labels=np.arange(count) % 2)


THINGS = Keep((("car", "van", "truck", "bus"), ("pedestrian", "tree")))
LEFT = Shuffled(source=Album(visible=60), batch=2, transform=(RandomFlip(), THINGS, Stamp()))
RIGHT = Shuffled(
    source=Album(visible=60, seed=1, samples=10), batch=2, transform=(RandomFlip(), THINGS, Darken(), Stamp())
)
TRAIN = Pair(source=LEFT, target=RIGHT)
SEEN = Ordered(source=LEFT.source, batch=23, transform=(THINGS, Stamp()))
SPEC = Adapt()


def make(stream: Pair = TRAIN, total: int = 80):
    return engine_of(SPEC, stream, total, optim=Optim(name="AdamW", lr=5e-3))


def test_it_learns_and_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    engine, losses = shapes.resumes(make, 20, tmp_path)
    for step in losses:
        del step["domain"]  # a contest: it need not fall
    shapes.falls(losses)
    found = shapes.evaluates(SPEC, engine, SEEN)
    assert 0.2 < found.values["recall"] <= 1
    assert "loss/objects" in found.values


def test_it_is_short_travels_and_reads_the_same_in_two_processes():
    assert shapes.task_lines(__file__) <= shapes.LIMIT
    shapes.travels(SPEC)
    shapes.shards(SPEC, TRAIN)
    halves = [Plan(TRAIN, SPEC, seed=5, rank=rank, world=2).make(0, 0) for rank in range(2)]
    assert [half.source.tolist() for half in halves] == [[0, 1], [0, 1]]  # both domains on every process


def test_labels_of_the_target_change_nothing_and_labels_of_the_source_do():
    def trained(stream: Pair) -> dict[str, Tensor]:
        engine = make(stream, total=6)
        shapes.train(engine)
        return tensors_of(engine)

    def nonsense(part: Shuffled) -> Shuffled:
        return dataclasses.replace(part, transform=(*part.transform, Nonsense()))

    plain = trained(TRAIN)
    assert equal(plain, trained(dataclasses.replace(TRAIN, target=nonsense(RIGHT))))
    assert not equal(plain, trained(dataclasses.replace(TRAIN, source=nonsense(LEFT))))  # the check can fail


def at(batch: TwoDomains, share: float) -> TwoDomains:
    """A batch as the engine would stamp it at this share of the training."""
    batch.progress = Progress(torch.tensor(share), torch.tensor(1.0))
    return batch


def test_losses_do_not_ask_for_the_mode():
    task = make().task
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)
    train, evaluation = task.train()(batch), task.eval()(batch)
    assert train.terms.keys() == evaluation.terms.keys() == {"objects", "places", "kinds", "boxes", "domain"}
    assert all(torch.equal(train.terms[name], evaluation.terms[name]) for name in train.terms)
    assert len(task.predict(batch)["boxes"]) == len(batch)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_gradient_of_the_domain_is_reversed_ever_more_strongly(share):
    task = make().task
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), share)
    losses = task(batch)
    losses.terms["domain"].backward()
    got = torch.cat([p.grad.flatten() for p in task.net.backbone.parameters()])

    task.zero_grad()
    side = task.domain(task.net.backbone(batch.image)).mean((1, 2, 3))
    plain = nn.functional.binary_cross_entropy_with_logits(side, (batch.source == 0).float())
    plain.backward()
    expected = torch.cat([p.grad.flatten() for p in task.net.backbone.parameters()])
    assert losses.terms["domain"].item() == pytest.approx(plain.item(), rel=1e-5)
    ramp = 0.2 / (1 + np.exp(-10 * share)) - 0.1
    assert torch.allclose(got, -ramp * expected, atol=1e-6)
    assert expected.abs().max() > 1e-4


def test_the_domain_is_that_of_the_image_even_where_it_shows_nothing():
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)
    empty = dataclasses.replace(
        batch, boxes=[torch.zeros(0, 4)] * 4, labels=[torch.zeros(0, dtype=torch.int64)] * 4
    )
    task = make().task
    with_boxes, without = task(batch), task(empty)
    assert torch.equal(with_boxes.terms["domain"], without.terms["domain"])
    assert without.count == 2  # pictures of the source, not pictures with boxes
    sum(without.terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())


def test_what_is_drawn_for_a_picture_does_not_depend_on_its_batch():
    draws = Draws(8, 0.5)
    labels = [(torch.arange(60) % 3 == turn).float() for turn in range(3)]
    draws.keys = (11, 22, 33)
    together = draws(labels)
    draws.keys = (22,)
    alone = draws(labels[1:2])
    assert all(torch.equal(a[1], b[0]) for a, b in zip(together, alone, strict=True))
    draws.keys = (23,)
    assert not torch.equal(draws(labels[1:2])[0][0], alone[0][0])
