"""Regions of interest: pooled features of proposals, their class and box, and the losses of those chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops

from visloom.nets.detection.boxes import Coder, areas, clipped, overlaps, parts, suppress
from visloom.nets.detection.matching import BETWEEN, Matcher, smooth_l1, unsure
from visloom.nets.detection.rpn import Draw, Sum, Truth


class Pooler(nn.Module):
    """RoIAlign (He et al., Mask R-CNN, 2017) from the level that fits each box's size (Lin et al., FPN, 2017).

    Args:
        size: of the pooled map.  samples: per bin and side; 0 adapts.  strides: of the levels.
        aligned: half a pixel to the left, as detectron2 does.
        plus: the convention of boxes.  With 1 the level's epsilon lies inside the logarithm.
    """

    def __init__(
        self, size: int, samples: int, strides: Sequence[int], *, aligned: bool = False, plus: float = 0.0
    ) -> None:
        super().__init__()
        self.size, self.samples, self.strides = size, samples, tuple(strides)
        self.aligned, self.plus = aligned, plus
        self.lowest = strides[0].bit_length() - 1  # log2 of the finest stride: its level's number

    def levels(self, boxes: Tensor) -> Tensor:
        """Number of the level (N,), 0 the finest, of boxes (N, 4)."""
        side = areas(boxes, self.plus).clamp(min=0).sqrt() / 224
        level = torch.log2(side + 1e-6) if self.plus else torch.log2(side) + 1e-6
        level = (4 + level).floor().clamp(self.lowest, self.lowest + len(self.strides) - 1)
        return level.long() - self.lowest

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H, W) and the boxes of each picture (N, 4) -> pooled (R, C, size, size)."""
        rows = torch.cat([torch.full((len(b), 1), i, device=b.device) for i, b in enumerate(boxes)])
        together = torch.cat(list(boxes))
        rois = torch.cat([rows.to(together.dtype), together], 1)  # (R, 5)
        if len(self.strides) == 1:
            return self._align(features[0], rois, self.strides[0])
        level = self.levels(together)
        places = [torch.where(level == number)[0] for number in range(len(self.strides))]
        pooled = [
            self._align(seen, rois[here], stride)
            for seen, here, stride in zip(features, places, self.strides, strict=False)
        ]
        # one gather brings them into order: filling a map level by level would copy all of it each time
        order = torch.cat(places).argsort()
        return torch.cat(pooled).to(features[0].dtype).index_select(0, order)

    def _align(self, seen: Tensor, rois: Tensor, stride: int) -> Tensor:
        if seen.device.type == "cpu":
            seen = seen.float()  # there is no half-precision kernel there
        pooled: Tensor = ops.roi_align(
            seen, rois.to(seen.dtype), self.size, 1.0 / stride, self.samples, self.aligned
        )
        return pooled


class TwoMLP(nn.Module):
    """Two linear layers over the flattened pooled map."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(inputs, width), nn.Linear(width, width)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.outputs = width

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, width)."""
        return functional.relu(self.fc7(functional.relu(self.fc6(x.flatten(1)))))


class StageHead(nn.Module):
    """The last stage of a ResNet, averaged over the map: the box head of C4."""

    def __init__(self, layer4: nn.Module, outputs: int) -> None:
        super().__init__()
        self.layer4, self.outputs = layer4, outputs

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, outputs)."""
        seen: Tensor = self.layer4(x)
        return seen.mean((2, 3))


class Predictor(nn.Module):
    """Class logits and four deltas per class; background first."""

    def __init__(self, inputs: int, classes: int, *, agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, classes + 1)
        self.bbox_pred = nn.Linear(inputs, 8 if agnostic else 4 * (classes + 1))
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, inputs) -> (R, K + 1) and (R, 4K + 4) in float32."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()


@dataclass(frozen=True)
class Chosen:
    """Proposals that a training step looks at, picture by picture.

    boxes (N, 4); labels (N,), 0 background; rows: of the truth that each stands for (0 where there is none); known:
    whether the picture's truth is known: others have background labels that no loss may use.
    """

    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    known: tuple[bool, ...]

    @property
    def picture(self) -> Tensor:
        """Number of the picture of every chosen box: (R,) int64."""
        return torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(self.boxes)])


class Found(NamedTuple):
    """Detections of one picture: boxes (N, 4), scores (N,), labels (N,) int64 from 1.

    masks: chances (N, M, M) inside the boxes.  keypoints: (N, P, 3).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def pick(self, rows: Tensor) -> Found:
        """Some of them, by index or by a mask."""
        masks = None if self.masks is None else self.masks[rows]
        points = None if self.keypoints is None else self.keypoints[rows]
        return Found(self.boxes[rows], self.scores[rows], self.labels[rows], masks, points)


class ROI(nn.Module):
    """The second stage: pool, embed, judge; its targets, losses and answers.

    Args:
        beta: of the smooth L1 loss.  score, threshold, most: of the answers (per class suppression).
        plus: the convention of boxes.  With 1 each class is suppressed by itself and ties at the last place stay, as
            in maskrcnn-benchmark.
    """

    def __init__(
        self,
        pooler: Pooler,
        head: TwoMLP | StageHead,
        predictor: Predictor,
        *,
        matcher: Matcher,
        sampler: Draw,
        weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = 1 / 9,
        score: float = 0.05,
        threshold: float = 0.5,
        most: int = 100,
        plus: float = 0.0,
    ) -> None:
        super().__init__()
        self.pooler, self.head, self.predictor = pooler, head, predictor
        self.matcher, self.sampler, self.beta = matcher, sampler, beta
        self.coder, self.plus = Coder(weights, plus), plus
        self.score, self.threshold, self.most = score, threshold, most

    def embed(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pooled and embedded features of boxes (N, 4) of each picture: (R, D)."""
        found: Tensor = self.head(self.pooler(features, boxes))
        return found

    @torch.no_grad()
    def choose(
        self, proposals: Sequence[Tensor], truths: Sequence[Truth | None], keys: Sequence[int]
    ) -> Chosen:
        """Sample proposals of each picture; the boxes of its truth are among them.

        A picture without known truth gets background labels, so that as many are drawn from it.
        """
        boxes, labels, rows, known = [], [], [], []
        for found, truth, key in zip(proposals, truths, keys, strict=True):
            kind, row = torch.zeros(len(found), dtype=torch.int64, device=found.device), None
            if truth is not None:
                found = torch.cat([found, truth.boxes.to(found.dtype)])
                matched = self.matcher(overlaps(truth.boxes, found, self.plus))
                row = matched.clamp(min=0)
                kind = truth.labels[row] if len(truth.labels) else torch.zeros_like(row)
                kind = kind.where(matched >= 0, 0).where(matched != BETWEEN, -1)
                if truth.unsure is not None:
                    left = unsure(found, truth.unsure, self.matcher.low, self.plus)
                    kind = kind.where(~left | (kind > 0), -1)
            positive, negative = self.sampler(kind, key, "roi")
            chosen = torch.where(positive | negative)[0]
            boxes.append(found[chosen])
            labels.append(kind[chosen])
            rows.append(row[chosen] if row is not None else torch.zeros_like(chosen))
            known.append(truth is not None)
        return Chosen(tuple(boxes), tuple(labels), tuple(rows), tuple(known))

    def loss(
        self, logits: Tensor, deltas: Tensor, chosen: Chosen, truths: Sequence[Truth | None]
    ) -> dict[str, Sum]:
        """Losses "classes" (cross entropy) and "boxes" (smooth L1) over the chosen boxes of known pictures."""
        counts = [len(b) for b in chosen.boxes]
        kinds, places = [logits.sum() * 0], [deltas.sum() * 0]
        pictures = zip(parts(logits, counts), parts(deltas, counts), chosen.boxes, chosen.labels, strict=True)
        total = 0
        for i, (logit, delta, boxes, labels) in enumerate(pictures):
            truth = truths[i]
            if truth is None:
                continue
            kinds.append(functional.cross_entropy(logit, labels, reduction="sum"))
            positive = torch.where(labels > 0)[0]
            wanted = self.coder.encode(truth.boxes[chosen.rows[i][positive]], boxes[positive])
            each = delta.view(len(delta), delta.shape[1] // 4, 4)  # (N, K + 1 or 2, 4)
            column = labels[positive].clamp(max=each.shape[1] - 1)
            places.append(smooth_l1(each[positive, column] - wanted, self.beta))
            total += len(boxes)
        count = logits.new_tensor(float(total))
        return {"classes": (torch.stack(kinds).sum(), count), "boxes": (torch.stack(places).sum(), count)}

    @torch.no_grad()
    def candidates(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Found]:
        """Boxes of all classes that are sure enough, of each picture, in the network's pixels."""
        counts = [len(b) for b in proposals]
        pictures = zip(parts(logits.softmax(1), counts), parts(deltas, counts), proposals, sizes, strict=True)
        return [self._of_one(chance, delta, boxes, size) for chance, delta, boxes, size in pictures]

    def _of_one(self, chance: Tensor, delta: Tensor, boxes: Tensor, size: tuple[int, int]) -> Found:
        places = clipped(self.coder.decode(delta, boxes), size, self.plus)
        if places.shape[1] != chance.shape[1]:  # one box for all classes
            places = places[:, 1:].expand(-1, chance.shape[1], -1)
        labels = torch.arange(1, chance.shape[1], device=chance.device).expand(len(chance), -1)
        place, score, label = places[:, 1:].reshape(-1, 4), chance[:, 1:].reshape(-1), labels.reshape(-1)
        keep = score > self.score
        if not self.plus:
            keep &= ((place[:, 2:] - place[:, :2]) >= 1e-2).all(1)
        return Found(place[keep], score[keep], label[keep])

    @torch.no_grad()
    def settled(self, found: Found) -> Found:
        """What suppression leaves of one picture's candidates; with `plus` class by class, ties beyond `most` kept."""
        place, score, label = found[:3]
        if not self.plus:
            return found.pick(ops.batched_nms(place, score, label, self.threshold)[: self.most])
        kept = []
        for each in range(1, int(label.max()) + 1 if len(label) else 1):
            at = torch.where(label == each)[0]
            kept.append(at[suppress(place[at], score[at], self.threshold, self.plus)])
        found = found.pick(torch.cat([*kept, label.new_zeros(0)]))
        if 0 < self.most < len(found.scores):
            least = found.scores.kthvalue(len(found.scores) - self.most + 1).values
            found = found.pick(found.scores >= least)
        return found
