"""One-stage detectors on torchvision's heads: RetinaNet (Lin et al., 2017) and FCOS (Tian et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from visloom.nets.detection.anchors import Anchors
from visloom.nets.detection.backbone import Pyramid
from visloom.nets.detection.boxes import Coder, areas, clipped, overlaps, parts
from visloom.nets.detection.matching import BETWEEN, Matcher, smooth_l1
from visloom.nets.detection.rcnn import Seen
from visloom.nets.detection.roi import Found
from visloom.nets.detection.rpn import Truth


class Dense(nn.Module):
    """Base: a pyramid, anchors, and a choice among what every cell answers.

    Args:
        score, before: cells below this chance, or beyond this many per level, are left out.
        threshold, most: of the class-wise suppression, and of detections per picture.
    """

    def __init__(
        self,
        backbone: Pyramid,
        anchors: Anchors,
        head: nn.Module,
        *,
        plus: float = 0.0,
        score: float = 0.05,
        before: int = 1000,
        threshold: float = 0.5,
        most: int = 100,
    ) -> None:
        super().__init__()
        self.backbone, self.anchors, self.head, self.plus = backbone, anchors, head, plus
        self.score, self.before, self.threshold, self.most = score, before, threshold, most

    def features(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> maps, finest first."""
        found: list[Tensor] = self.backbone(image)
        return found

    def look(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The head's answers for all cells, in float32: (B, N, ...)."""
        return {name: value.float() for name, value in self.head(list(features)).items()}

    @torch.no_grad()
    def detect(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        """Detections of each picture, in the network's pixels."""
        answers = self.look(features)
        anchors = self.anchors(features, size)
        return [self._of_one(answers, row, anchors, size) for row, size in enumerate(sizes)]

    def _of_one(
        self, answers: dict[str, Tensor], row: int, anchors: Sequence[Tensor], size: tuple[int, int]
    ) -> Found:
        counts = [len(a) for a in anchors]
        found = []
        chances = parts(self.chance(answers, row), counts)
        deltas = parts(answers["bbox_regression"][row], counts)
        for chance, delta, anchor in zip(chances, deltas, anchors, strict=True):
            flat = chance.flatten()
            kept = torch.where(flat > self.score)[0]
            best = flat[kept].topk(min(self.before, len(kept)))
            at = kept[best.indices]
            cell, label = at // chance.shape[1], at % chance.shape[1]
            boxes = clipped(self.place(delta[cell], anchor[cell]), size, self.plus)
            found.append(Found(boxes, best.values, label + 1))
        place, score, label = (torch.cat([f[i] for f in found]) for i in range(3))  # type: ignore[misc]
        far = place.new_tensor([0.0, 0.0, self.plus, self.plus])
        keep = ops.batched_nms(place + far, score, label, self.threshold)[: self.most]
        return Found(place[keep], score[keep], label[keep])

    def chance(self, answers: dict[str, Tensor], row: int) -> Tensor:
        """Probability of each class at every cell of a picture: (N, K)."""
        return answers["cls_logits"][row].sigmoid()

    def place(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) from a head's numbers (N, 4)."""
        raise TypeError(f"{type(self).__name__} must define place(deltas, anchors)")


class RetinaNet(Dense):
    """Focal loss over all anchors but those between the thresholds; smooth L1 over positives."""

    def __init__(
        self,
        backbone: Pyramid,
        anchors: Anchors,
        classes: int,
        *,
        matcher: Matcher,
        weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
        beta: float = 0.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        plus: float = 0.0,
        score: float = 0.05,
        before: int = 1000,
        threshold: float = 0.5,
        most: int = 100,
    ) -> None:
        super().__init__(
            backbone,
            anchors,
            RetinaNetHead(backbone.width, anchors.per_cell, classes),
            plus=plus,
            score=score,
            before=before,
            threshold=threshold,
            most=most,
        )
        self.matcher, self.coder, self.beta = matcher, Coder(weights, plus), beta
        self.alpha, self.gamma = alpha, gamma

    def place(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) from deltas (N, 4)."""
        return self.coder.decode(deltas, anchors)

    def losses(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        truths: Sequence[Truth | None],
        keys: Sequence[int],
    ) -> Seen:
        """Losses "classes" and "boxes", to be divided by the number of positive anchors."""
        answers = self.look(features)
        logits, deltas = answers["cls_logits"], answers["bbox_regression"]
        anchors = torch.cat(self.anchors(features, size))
        kinds, places, count = logits.sum() * 0, deltas.sum() * 0, logits.new_zeros(())
        for row, truth in enumerate(truths):
            if truth is None:
                continue
            matched = self.matcher(overlaps(truth.boxes, anchors, self.plus))
            positive = torch.where(matched >= 0)[0]
            target = torch.zeros_like(logits[row])
            target[positive, truth.labels[matched[positive]] - 1] = 1.0
            each = ops.sigmoid_focal_loss(logits[row], target, self.alpha, self.gamma)
            kinds = kinds + (each * (matched != BETWEEN)[:, None]).sum()
            wanted = self.coder.encode(truth.boxes[matched[positive]], anchors[positive])
            places = places + smooth_l1(deltas[row][positive] - wanted, self.beta)
            count = count + len(positive)
        return Seen({"classes": (kinds, count), "boxes": (places, count)})


class FCOS(Dense):
    """A cell stands for the smallest box whose middle is near and whose size fits its level; no anchors but cells."""

    def __init__(
        self,
        backbone: Pyramid,
        classes: int,
        *,
        radius: float = 1.5,
        score: float = 0.2,
        before: int = 1000,
        threshold: float = 0.6,
        most: int = 100,
    ) -> None:
        anchors = Anchors([(s,) for s in backbone.strides], (1.0,), backbone.strides)
        head = FCOSHead(backbone.width, 1, classes, 4)
        super().__init__(backbone, anchors, head, score=score, before=before, threshold=threshold, most=most)
        self.radius = radius

    def chance(self, answers: dict[str, Tensor], row: int) -> Tensor:
        """Geometric mean of class probability and centredness: (N, K)."""
        middle = answers["bbox_ctrness"][row].sigmoid()
        return (answers["cls_logits"][row].sigmoid() * middle).sqrt()

    def place(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) from distances to the four sides in units of the cell (N, 4)."""
        middle = (anchors[:, :2] + anchors[:, 2:]) / 2
        side = anchors[:, 2:] - anchors[:, :2]
        return torch.cat([middle - deltas[:, :2] * side, middle + deltas[:, 2:] * side], 1)

    def losses(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        truths: Sequence[Truth | None],
        keys: Sequence[int],
    ) -> Seen:
        """Losses "classes", "boxes" (GIoU) and "centres", to be divided by the number of positive cells."""
        answers = self.look(features)
        logits, deltas, middles = (answers[n] for n in ("cls_logits", "bbox_regression", "bbox_ctrness"))
        levels = self.anchors(features, size)
        cells = torch.cat(levels)
        kinds, count = logits.sum() * 0, logits.new_zeros(())
        places, centres = deltas.sum() * 0, middles.sum() * 0
        for row, truth in enumerate(truths):
            if truth is None:
                continue
            matched = self.match(levels, truth.boxes)
            positive = torch.where(matched >= 0)[0]
            target = torch.zeros_like(logits[row])
            target[positive, truth.labels[matched[positive]] - 1] = 1.0
            kinds = kinds + ops.sigmoid_focal_loss(logits[row], target, reduction="sum")
            goal, cell = truth.boxes[matched[positive]], cells[positive]
            found = self.place(deltas[row][positive], cell)
            places = places + ops.generalized_box_iou_loss(found, goal, reduction="sum")
            middle = (cell[:, :2] + cell[:, 2:]) / 2
            near, far = torch.aminmax(torch.stack([middle - goal[:, :2], goal[:, 2:] - middle]), dim=0)
            centred = (near / far).prod(1).clamp(min=0).sqrt()
            centres = centres + functional.binary_cross_entropy_with_logits(
                middles[row][positive, 0], centred, reduction="sum"
            )
            count = count + len(positive)
        return Seen({"classes": (kinds, count), "boxes": (places, count), "centres": (centres, count)})

    @torch.no_grad()
    def match(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Row of the box that each cell stands for, or -1: (N,) int64."""
        cells = torch.cat(list(levels))
        if not len(boxes):
            return torch.full((len(cells),), -1, device=cells.device)
        middle, side = (cells[:, :2] + cells[:, 2:]) / 2, cells[:, 2] - cells[:, 0]
        gap = (middle[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(2)  # (N, M)
        ltrb = torch.cat([middle[:, None] - boxes[:, :2], boxes[:, 2:] - middle[:, None]], 2)  # (N, M, 4)
        lowest, highest = side * 4, side * 8
        lowest[: len(levels[0])] = 0
        highest[-len(levels[-1]) :] = torch.inf
        longest = ltrb.amax(2)
        fits = (gap < self.radius * side[:, None]) & (ltrb.amin(2) > 0)
        fits &= (longest > lowest[:, None]) & (longest < highest[:, None])
        area = areas(boxes)[None].where(fits, torch.inf)
        best = area.min(1)
        return best.indices.where(best.values < torch.inf, -1)
