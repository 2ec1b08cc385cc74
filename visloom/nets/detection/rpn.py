"""Region proposal network (Ren et al., Faster R-CNN, 2015): which anchors hold anything, and where exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops

from visloom.nets.detection.anchors import Anchors, inside
from visloom.nets.detection.boxes import Coder, clipped, overlaps, parts, suppress
from visloom.nets.detection.matching import BETWEEN, Matcher, smooth_l1, unsure

Draw = Callable[[Tensor, int, str], tuple[Tensor, Tensor]]
"""A sampler: (labels, key of the picture, word) -> masks of positives and of background."""

Sum = tuple[Tensor, Tensor]
"""A loss: its sum and the count that it is divided by, both 0-dim."""


class Truth(NamedTuple):
    """What is known of one picture, in the network's pixels.

    boxes (N, 4) float32; labels (N,) int64, from 1; masks (N, H, W) uint8 or None; keypoints (N, K, 3) or None.
    unsure: (M, 4), places that may hold something: candidates there are no background, and are left out.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None
    unsure: Tensor | None = None


class Top(NamedTuple):
    """Numbers of proposals: of each level before and after suppression, and of a picture (or batch) in all."""

    before: int
    after: int
    all: int
    batch: bool = False


@dataclass(frozen=True)
class Guesses:
    """What the head says of every anchor of a batch.

    logits (B, N), deltas (B, N, 4), anchors (N, 4), counts: anchors of each level, sizes: (height, width) of each
    picture without padding.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


def flat(maps: Tensor, each: int) -> Tensor:
    """A head's answer (B, A * each, H, W) as rows of anchors (B, H * W * A, each)."""
    count, _, height, width = maps.shape
    return maps.view(count, -1, each, height, width).permute(0, 3, 4, 1, 2).reshape(count, -1, each)


class RPNHead(nn.Module):
    """A 3x3 convolution, then a logit and four deltas for each anchor of a cell; shared by all levels."""

    def __init__(self, channels: int, per_cell: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, per_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * per_cell, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (B, C, H, W) -> logits (B, A, H, W) and deltas (B, 4A, H, W), by level."""
        seen = [functional.relu(self.conv(each)) for each in features]
        return [self.cls_logits(s) for s in seen], [self.bbox_pred(s) for s in seen]


class RPN(nn.Module):
    """Proposals and their losses.

    Args:
        matcher, sampler: of anchors, in training.  beta: of the smooth L1 loss.
        threshold: of the suppression.  least: shortest side of a proposal.
        straddle: anchors that reach further than this beyond the picture are not trained; below 0 all are.
        plus: the convention of boxes.  With 1 levels are suppressed one by one and the best of the whole batch
            stay in training, as in maskrcnn-benchmark.
    """

    def __init__(
        self,
        channels: int,
        anchors: Anchors,
        *,
        matcher: Matcher,
        sampler: Draw,
        beta: float = 1 / 9,
        threshold: float = 0.7,
        least: float = 1e-3,
        straddle: float = -1.0,
        plus: float = 0.0,
    ) -> None:
        super().__init__()
        self.head = RPNHead(channels, anchors.per_cell)
        self.anchors, self.coder = anchors, Coder(plus=plus)
        self.matcher, self.sampler, self.beta = matcher, sampler, beta
        self.threshold, self.least, self.straddle, self.plus = threshold, least, straddle, plus

    def forward(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> Guesses:
        """Look at the maps of a batch padded to `size`, whose pictures have `sizes`."""
        logits, deltas = self.head(features)
        anchors = self.anchors(features, size)
        return Guesses(
            torch.cat([flat(each, 1)[..., 0] for each in logits], 1).float(),
            torch.cat([flat(each, 4) for each in deltas], 1).float(),
            torch.cat(anchors),
            tuple(len(each) for each in anchors),
            tuple(sizes),
        )

    @torch.no_grad()
    def proposals(self, guesses: Guesses, top: Top) -> list[Tensor]:
        """The best boxes of each picture (N, 4), without gradients."""
        found = [self._of_one(guesses, row, top) for row in range(len(guesses.logits))]
        if not self.plus:
            return [boxes for boxes, _ in found]
        if len(guesses.counts) == 1:
            return [boxes for boxes, _ in found]
        return _best_of_all(found, top)

    def _of_one(self, guesses: Guesses, row: int, top: Top) -> tuple[Tensor, Tensor]:
        """Proposals of one picture and their logits (compat: probabilities)."""
        boxes, scores, levels = [], [], []
        logits = parts(guesses.logits[row], guesses.counts)
        deltas = parts(guesses.deltas[row], guesses.counts)
        anchors = parts(guesses.anchors, guesses.counts)
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            rank = logit.sigmoid() if self.plus else logit
            best = rank.topk(min(top.before, len(rank)))
            box = self.coder.decode(delta[best.indices], anchor[best.indices])
            box = clipped(box, guesses.sizes[row], self.plus)
            score = best.values
            keep = (box[:, 2:] - box[:, :2] + self.plus >= self.least).all(1)
            box, score = box[keep], score[keep]
            if self.plus:
                keep = suppress(box, score, self.threshold, self.plus)[: top.after]
                box, score = box[keep], score[keep]
            boxes.append(box)
            scores.append(score)
            levels.append(torch.full((len(box),), level, device=box.device))
        box, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        if self.plus:
            return box, score
        keep = ops.batched_nms(box, score.sigmoid(), level_of, self.threshold)[: top.all]
        return box[keep], score[keep]

    def loss(self, guesses: Guesses, truths: Sequence[Truth | None], keys: Sequence[int]) -> dict[str, Sum]:
        """Losses "objectness" and "rpn_box" over the sampled anchors of the pictures whose truth is known."""
        objects, places, count = [guesses.logits.sum() * 0], [guesses.deltas.sum() * 0], []
        for row, (truth, key) in enumerate(zip(truths, keys, strict=True)):
            if truth is None:
                continue
            labels, matched = self.targets(guesses.anchors, truth, guesses.sizes[row])
            positive, negative = self.sampler(labels, key, "rpn")
            chosen = positive | negative
            logit = guesses.logits[row]
            each = functional.binary_cross_entropy_with_logits(logit, positive.float(), reduction="none")
            objects.append((each * chosen).sum())
            wanted = self.coder.encode(truth.boxes[matched[positive].clamp(min=0)], guesses.anchors[positive])
            places.append(smooth_l1(guesses.deltas[row][positive] - wanted, self.beta))
            count.append(chosen.sum())
        total = torch.stack(count).sum() if count else guesses.logits.new_zeros(())
        return {
            "objectness": (torch.stack(objects).sum(), total),
            "rpn_box": (torch.stack(places).sum(), total),
        }

    def targets(self, anchors: Tensor, truth: Truth, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Labels of anchors (1 object, 0 background, -1 left out) and their rows of the truth: both (N,)."""
        matched = self.matcher(overlaps(truth.boxes, anchors, self.plus))
        labels = (matched >= 0).long().where(matched != BETWEEN, -1)
        if truth.unsure is not None:
            left = unsure(anchors, truth.unsure, self.matcher.low, self.plus)
            labels = labels.where(~left | (labels > 0), -1)
        if self.straddle >= 0:
            labels = labels.where(inside(anchors, size, self.straddle), -1)
        return labels, matched


def _best_of_all(found: list[tuple[Tensor, Tensor]], top: Top) -> list[Tensor]:
    """Keep the best `top.all` proposals of each picture, or of the batch as maskrcnn-benchmark does in training."""
    if not top.batch:
        return [boxes[scores.topk(min(top.all, len(scores))).indices] for boxes, scores in found]
    scores = torch.cat([each for _, each in found])
    keep = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    keep[scores.topk(min(top.all, len(scores))).indices] = True
    each_keeps = parts(keep, [len(each) for _, each in found])
    return [boxes[kept] for (boxes, _), kept in zip(found, each_keeps, strict=True)]
