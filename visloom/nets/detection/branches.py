"""Masks and keypoints of detected boxes: the third branches of Mask R-CNN (He et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import (
    heatmaps_to_keypoints,
    keypoints_to_heatmap,
    project_masks_on_boxes,
)

from visloom.nets.detection.boxes import parts
from visloom.nets.detection.roi import Chosen, Found, Pooler, StageHead
from visloom.nets.detection.rpn import Sum, Truth


def positives(chosen: Chosen, truths: Sequence[Truth | None], what: str) -> list[Tensor]:
    """Places of the positive boxes among those chosen of each picture; none where its "masks", say, are unknown."""
    return [
        torch.where(labels > 0)[0] if getattr(truth, what, None) is not None else labels.new_zeros(0)
        for labels, truth in zip(chosen.labels, truths, strict=True)
    ]


class MaskBranch(nn.Module):
    """A mask per class for each box. With C4 the box head's last stage is shared and there are no layers before."""

    def __init__(
        self, pooler: Pooler, inputs: int, classes: int, layers: Sequence[int] = (256,) * 4, width: int = 256
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.head = MaskRCNNHeads(inputs, tuple(layers), 1) if layers else nn.Identity()
        self.predictor = MaskRCNNPredictor(layers[-1] if layers else inputs, width, classes + 1)

    def forward(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], shared: nn.Module | None
    ) -> Tensor:
        """Logits (R, K + 1, M, M) of masks inside the boxes, in float32."""
        x = self.pooler(features, boxes)
        if isinstance(shared, StageHead):
            x = shared.layer4(x)
        found: Tensor = self.predictor(self.head(x))
        return found.float()

    def loss(
        self,
        features: Sequence[Tensor],
        chosen: Chosen,
        truths: Sequence[Truth | None],
        shared: nn.Module | None,
    ) -> Sum:
        """Cross entropy of the mask of each positive box's class, summed over pixels, and their number."""
        where = positives(chosen, truths, "masks")
        boxes = [b[at] for b, at in zip(chosen.boxes, where, strict=True)]
        logits = self(features, boxes, shared)
        side = logits.shape[-1]
        labels = torch.cat([kind[at] for kind, at in zip(chosen.labels, where, strict=True)])
        wanted = [
            project_masks_on_boxes(truth.masks, b, chosen.rows[i][at], side)
            for i, (truth, b, at) in enumerate(zip(truths, boxes, where, strict=True))
            if truth is not None and truth.masks is not None and len(b)
        ]
        count = logits.new_tensor(float(len(labels) * side * side))
        if not wanted:
            return logits.sum() * 0, count
        picked = logits[torch.arange(len(labels), device=labels.device), labels]
        target = torch.cat(wanted)
        return functional.binary_cross_entropy_with_logits(picked, target, reduction="sum"), count

    @torch.no_grad()
    def answers(
        self, features: Sequence[Tensor], found: Sequence[Found], shared: nn.Module | None
    ) -> list[Found]:
        """The same detections with chances (N, M, M) of their masks."""
        logits = self(features, [f.boxes for f in found], shared)
        labels = torch.cat([f.labels for f in found])
        chance = logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()
        each = parts(chance, [len(f.labels) for f in found])
        return [f._replace(masks=part) for f, part in zip(found, each, strict=True)]


class KeypointBranch(nn.Module):
    """A heat map per keypoint for each box."""

    def __init__(self, pooler: Pooler, inputs: int, points: int, layers: Sequence[int] = (512,) * 8) -> None:
        super().__init__()
        self.pooler = pooler
        self.head = KeypointRCNNHeads(inputs, tuple(layers))
        self.predictor = KeypointRCNNPredictor(layers[-1] if layers else inputs, points)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Logits (R, P, S, S) over the cells of each box, in float32."""
        found: Tensor = self.predictor(self.head(self.pooler(features, boxes)))
        return found.float()

    def loss(self, features: Sequence[Tensor], chosen: Chosen, truths: Sequence[Truth | None]) -> Sum:
        """Cross entropy over the cells, summed over visible keypoints of positive boxes, and their number."""
        where = positives(chosen, truths, "keypoints")
        boxes = [b[at] for b, at in zip(chosen.boxes, where, strict=True)]
        logits = self(features, boxes)  # (R, P, S, S)
        side, goals, seen = logits.shape[-1], [], []
        for i, (truth, b, at) in enumerate(zip(truths, boxes, where, strict=True)):
            if truth is not None and truth.keypoints is not None and len(b):
                cell, visible = keypoints_to_heatmap(truth.keypoints[chosen.rows[i][at]], b, side)
                goals.append(cell.reshape(-1))
                seen.append(visible.reshape(-1))
        if not goals:
            return logits.sum() * 0, logits.new_zeros(())
        goal, valid = torch.cat(goals), torch.cat(seen) > 0
        each = functional.cross_entropy(logits.reshape(len(goal), -1), goal, reduction="none")
        return (each * valid).sum(), valid.sum()

    @torch.no_grad()
    def answers(self, features: Sequence[Tensor], found: Sequence[Found]) -> list[Found]:
        """The same detections with keypoints (N, P, 3): x, y in the network's pixels and 1."""
        logits = self(features, [f.boxes for f in found])
        pieces = parts(logits, [len(f.boxes) for f in found])
        result = []
        for each, part in zip(found, pieces, strict=True):
            points = part.new_zeros(0, part.shape[1], 3)
            if len(part):
                points, _ = heatmaps_to_keypoints(part, each.boxes)
            result.append(each._replace(keypoints=points))
        return result
