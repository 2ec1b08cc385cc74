"""Shape 1, detection: any number of boxes per picture, none included, and a loss divided by what all processes hold.

A centre-free dense head: every cell whose middle lies in a box learns its distances to the four sides.
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
from torchvision import ops

from tests.protocol import shapes
from tests.protocol.shapes import Album, Keep, engine_of
from visloom import dist
from visloom.data.transforms import RandomFlip
from visloom.loader import Plan
from visloom.metrics import merge_tables
from visloom.module import TaskModule
from visloom.run import How
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled
from visloom.task import Batch, Losses

# ---- task


@dataclass(kw_only=True)
class Boxes(Batch):
    image: Tensor  # (B, 3, H, W) float32
    boxes: list[Tensor]  # of each picture (N, 4) float32, N from 0


class BoxModule(TaskModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(a, width, 3, 2, 1), nn.ReLU()) for a in (3, width, width)]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
        self.score, self.sides = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.score.bias, -2.0)

    def look(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, HW), boxes (B, HW, 4) and the cells' middles (HW, 2)."""
        seen = self.net(image)
        y, x = torch.meshgrid(
            *(torch.arange(n, device=image.device) * 8.0 + 4 for n in seen.shape[2:]), indexing="ij"
        )
        middle = torch.stack([x.flatten(), y.flatten()], 1)
        sides = 8 * self.sides(seen).flatten(2).mT.clamp(-3, 3).exp()  # left, top, right, bottom
        boxes = torch.cat([middle - sides[..., :2], middle + sides[..., 2:]], 2)
        return self.score(seen).flatten(1), boxes, middle

    def forward(self, batch: Boxes) -> Losses:
        logits, boxes, middle = self.look(batch.image)
        target, chosen = torch.zeros_like(logits), []  # (B, HW); per picture (P, 4)
        for row, truth in enumerate(batch.boxes):
            gaps = torch.cat(
                [middle[:, None] - truth[:, :2], truth[:, 2:] - middle[:, None]], 2
            )  # (HW, N, 4)
            area = ops.box_area(truth).where(gaps.amin(2) > 0, torch.inf)  # (HW, N)
            best, which = torch.cat([area, middle.new_full((len(middle), 1), torch.inf)], 1).min(1)
            target[row] = (best < torch.inf).float()
            chosen.append(truth[which[best < torch.inf]])
        share = dist.normaliser(target.sum())
        score = ops.sigmoid_focal_loss(logits, target, reduction="sum") / share
        inside = ops.generalized_box_iou_loss(boxes[target > 0], torch.cat(chosen), reduction="sum") / share
        return Losses({"score": score, "box": inside}, {"cells": target.sum()}, target.sum())

    def predict(self, batch: Boxes) -> dict[str, Any]:
        logits, boxes, _ = self.look(batch.image)
        kept = [ops.nms(b, s, 0.5)[:10] for b, s in zip(boxes, logits, strict=True)]
        found = [b[k] for b, k in zip(boxes, kept, strict=True)]
        return {
            "ids": batch.ids,
            "boxes": found,
            "scores": [s[k].sigmoid() for s, k in zip(logits, kept, strict=True)],
        }


@dataclass(frozen=True)
class FindUpright:
    width: int = 16
    classes: tuple[str, ...] = ("upright",)
    palette: tuple[tuple[int, int, int], ...] = ((255, 60, 0),)

    def build(self) -> TaskModule:
        return BoxModule(self.width)

    def collate(self, samples: Sequence[Sample], key: int | None) -> Boxes:
        boxes = [torch.from_numpy(s.boxes) for s in samples]
        return Boxes(ids=tuple(s.id for s in samples), image=shapes.picture_of(samples), boxes=boxes)

    def metrics(self) -> dict[str, Any]:
        return {"ap": AveragePrecision()}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        return shapes.draw_boxes(image, prediction["boxes"].tolist(), self.palette[0])


# ---- tests


class AveragePrecision:
    """Area under precision over recall at IoU 0.3: a table keyed by sample id, so that parts merge exactly."""

    names = ("ap",)

    def __init__(self) -> None:
        self.table: dict[
            str, tuple[Tensor, Tensor, int]
        ] = {}  # id -> scores, hits (both (N,)), boxes there are

    def update(self, predictions: Any, batch: Any) -> None:
        for row, name in enumerate(batch.ids):
            scores, truth = predictions["scores"][row], batch.boxes[row]
            overlap = ops.box_iou(predictions["boxes"][row], truth)  # (N, M)
            hits = torch.zeros(len(scores))
            for i in range(len(scores)):  # best score first: each box of the truth is found once
                if len(truth) and overlap[i].max() > 0.3:
                    hits[i] = 1.0
                    overlap[:, int(overlap[i].argmax())] = 0
            self.table[name] = scores, hits, len(truth)

    def state(self) -> Any:
        return self.table

    def merge(self, states: Sequence[Any]) -> None:
        self.table = merge_tables(states)

    def compute(self) -> dict[str, float]:
        rows = list(merge_tables([self.table]).values())
        order = torch.argsort(torch.cat([r[0] for r in rows]), descending=True, stable=True)
        hits = torch.cat([r[1] for r in rows])[order].double()
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        best = precision.flip(0).cummax(0).values.flip(0)
        return {"ap": float((best * hits).sum() / max(1, sum(r[2] for r in rows)))}

    def tables(self) -> dict[str, Any]:
        return {}


UPRIGHT = (Keep((("pedestrian", "tree"),)),)  # a third of the pictures has none
TRAIN = Shuffled(source=Album(visible=60), batch=4, transform=(RandomFlip(), *UPRIGHT))
# the pictures it learnt; the last batch has one, and nothing for a second process
SEEN = Ordered(source=TRAIN.source, batch=23, transform=UPRIGHT)


def make(total: int = 60):
    return engine_of(FindUpright(), TRAIN, total)


def test_it_learns_and_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    engine, losses = shapes.resumes(make, 25, tmp_path)
    shapes.falls(losses)
    found = shapes.evaluates(FindUpright(), engine, SEEN)
    assert 0.2 < found.values["ap"] <= 1
    assert found.values["ap"] > shapes.evaluation(FindUpright(), make(), SEEN).values["ap"]
    assert {"loss", "loss/score", "loss/box"} < found.values.keys()


def test_it_is_short_travels_and_reads_the_same_in_two_processes():
    assert shapes.task_lines(__file__) <= shapes.LIMIT
    shapes.travels(FindUpright())
    shapes.shards(FindUpright(), TRAIN)


def test_pictures_without_boxes_are_among_them_and_train_well():
    counts = [len(sample.boxes) for step in range(6) for sample in TRAIN.load(TRAIN.tickets(step))]
    assert min(counts) == 0 and max(counts) > 1
    task = FindUpright().build()
    batch = Plan(TRAIN, FindUpright(), seed=0).make(0, 0)
    batch.boxes = [torch.zeros(0, 4)] * 4
    losses = task(batch)
    sum(losses.terms.values()).backward()
    assert losses.terms["box"].item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.sides.parameters())  # zero, not absent
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in task.score.parameters())


def test_a_batch_without_boxes_counts_in_the_loss_of_an_evaluation():
    """Its score loss is a plain sum over background, which must not be lost for want of a divisor."""
    engine = make(4)
    shapes.train(engine)
    one, all_ = (
        shapes.evaluation(FindUpright(), engine, dataclasses.replace(SEEN, batch=size)).values
        for size in (1, 24)
    )
    assert one["loss/score"] == pytest.approx(all_["loss/score"], rel=1e-5)
    assert one["loss/box"] == pytest.approx(all_["loss/box"], rel=1e-5)


@torch.no_grad()
def terms_of(task: BoxModule, **plan: Any) -> tuple[dict[str, float], float]:
    """The loss terms of a part of the first step, and its count."""
    micro = plan.pop("micro", 0)
    losses = task(Plan(TRAIN, FindUpright(), seed=0, **plan).make(0, micro))
    return {name: float(value) for name, value in losses.terms.items()}, float(losses.count)


def test_two_processes_share_one_divisor(monkeypatch):
    """What each of two processes computes, averaged as gradients are, is what one computes on the whole batch."""
    task = make().task
    whole, count = terms_of(task)
    counts = [terms_of(task, rank=rank, world=2)[1] for rank in range(2)]
    assert sum(counts) == count
    assert counts[0] != counts[1]
    monkeypatch.setattr(dist, "normaliser", lambda own: torch.tensor(count / 2))
    halves = [terms_of(task, rank=rank, world=2)[0] for rank in range(2)]
    for name, value in whole.items():
        assert sum(half[name] for half in halves) / 2 == pytest.approx(value, rel=1e-5)


def test_accumulation_is_a_mean_of_means():
    """The divisor spans processes, not the micro-batches of a step: half the batch twice is not the batch."""
    (step,) = engine_of(FindUpright(), TRAIN, 1, how=How(precision="fp32", accumulate=2)).steps()
    parts = [terms_of(make().task, micro=micro, accumulate=2)[0]["box"] for micro in range(2)]
    assert float(step.losses["box"]) == pytest.approx(np.mean(parts), rel=1e-5)
    assert float(step.losses["box"]) != pytest.approx(terms_of(make().task)[0]["box"], rel=1e-3)
