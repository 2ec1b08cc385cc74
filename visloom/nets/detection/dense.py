"""One-stage detectors on torchvision's heads: RetinaNet (Lin et al., 2017) and FCOS (Tian et al., 2019).

Both ask every cell for classes and a place, and teach classes by the focal loss; `Dense` holds what they share. They
differ in which box a cell stands for and in how a place is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from visloom.nets.detection.anchors import Anchors
from visloom.nets.detection.backbone import Pyramid
from visloom.nets.detection.boxes import Coder, areas, clipped, overlaps, parts
from visloom.nets.detection.detector import Detector
from visloom.nets.detection.matching import BETWEEN, Matcher, smooth_l1, unsure
from visloom.nets.detection.rcnn import Seen
from visloom.nets.detection.roi import Found
from visloom.nets.detection.rpn import Truth


class Taken(NamedTuple):
    """Which answers are taken.

    score, before: cells below this chance, or beyond this many per level, are left out.
    threshold, most: of the class-wise suppression, and of detections per picture.
    """

    score: float
    before: int
    threshold: float
    most: int


class Dense(Detector):
    """Base: a pyramid, anchors, and a choice among what every cell answers.

    `terms` names each loss and the answers of the head that it teaches.

    Args:
        alpha, gamma: of the focal loss.  plus: the convention of boxes.
    """

    terms: ClassVar[dict[str, str]] = {"classes": "cls_logits", "boxes": "bbox_regression"}

    def __init__(
        self,
        backbone: Pyramid,
        anchors: Anchors,
        head: nn.Module,
        taken: Taken,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        plus: float = 0.0,
    ) -> None:
        super().__init__(backbone)
        self.anchors, self.head, self.plus = anchors, head, plus
        self.alpha, self.gamma = alpha, gamma
        self.score, self.before, self.threshold, self.most = taken

    def look(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The head's answers for all cells, in float32: (B, N, ...)."""
        return {name: value.float() for name, value in self.head(list(features)).items()}

    # ---- what a detector defines

    def chance(self, answers: dict[str, Tensor], row: int) -> Tensor:
        """Probability of each class at every cell of a picture: (N, K)."""
        return answers["cls_logits"][row].sigmoid()

    def place(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) from a head's numbers (N, 4)."""
        raise TypeError(f"{type(self).__name__} must define place(deltas, anchors)")

    def match(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Row of the box that each cell stands for, -1 for background, `BETWEEN` for neither: (N,) int64."""
        raise TypeError(f"{type(self).__name__} must define match(levels, boxes)")

    def places(
        self, answers: dict[str, Tensor], row: int, positive: Tensor, cells: Tensor, goal: Tensor
    ) -> dict[str, Tensor]:
        """Losses, summed, of the cells `positive` (P,) with their anchors and boxes (P, 4), by name in `terms`."""
        raise TypeError(f"{type(self).__name__} must define places(answers, row, positive, cells, goal)")

    # ---- the same for all

    def losses(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        truths: Sequence[Truth | None],
        keys: Sequence[int],
    ) -> Seen:
        """Losses as named in `terms`, to be divided by the number of positive cells."""
        answers = self.look(features)
        levels = self.anchors(features, size)
        anchors = torch.cat(levels)
        sums = {name: answers[column].sum() * 0 for name, column in self.terms.items()}
        count = anchors.new_zeros(())
        for row, truth in enumerate(truths):
            if truth is None:
                continue
            matched = self.match(levels, truth.boxes)
            positive = torch.where(matched >= 0)[0]
            rows = matched[positive]
            logits = answers["cls_logits"][row]
            target = torch.zeros_like(logits)
            target[positive, truth.labels[rows] - 1] = 1.0
            each = ops.sigmoid_focal_loss(logits, target, self.alpha, self.gamma)
            found = self.places(answers, row, positive, anchors[positive], truth.boxes[rows])
            left = (matched < 0) & unsure(anchors, truth.unsure, 0.4)
            found["classes"] = (each * ((matched != BETWEEN) & ~left)[:, None]).sum()
            sums = {name: total + found[name] for name, total in sums.items()}
            count = count + len(positive)
        return Seen({name: (total, count) for name, total in sums.items()})

    @torch.no_grad()
    def candidates(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        """Boxes of all classes that are sure enough, the best of each level, of each picture."""
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
            found.append((boxes, best.values, label + 1))
        return Found(*(torch.cat(column) for column in zip(*found, strict=True)))

    def settled(self, found: Found) -> Found:
        """What class-wise suppression leaves of the candidates of one picture."""
        far = found.boxes.new_tensor([0.0, 0.0, self.plus, self.plus])
        keep = ops.batched_nms(found.boxes + far, found.scores, found.labels, self.threshold)
        return found.pick(keep[: self.most])


class RetinaNet(Dense):
    """Focal loss over all anchors but those between the thresholds; smooth L1 over positives."""

    def __init__(
        self,
        backbone: Pyramid,
        anchors: Anchors,
        classes: int,
        taken: Taken,
        *,
        matcher: Matcher,
        weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
        beta: float = 0.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        plus: float = 0.0,
    ) -> None:
        head = RetinaNetHead(backbone.width, anchors.per_cell, classes)
        super().__init__(backbone, anchors, head, taken, alpha=alpha, gamma=gamma, plus=plus)
        self.matcher, self.coder, self.beta = matcher, Coder(weights, plus), beta

    def match(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """By overlap with the anchors."""
        return self.matcher(overlaps(boxes, torch.cat(list(levels)), self.plus))

    def place(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) from deltas (N, 4)."""
        return self.coder.decode(deltas, anchors)

    def places(
        self, answers: dict[str, Tensor], row: int, positive: Tensor, cells: Tensor, goal: Tensor
    ) -> dict[str, Tensor]:
        """Smooth L1 of the deltas."""
        wanted = self.coder.encode(goal, cells)
        return {"boxes": smooth_l1(answers["bbox_regression"][row][positive] - wanted, self.beta)}


class FCOS(Dense):
    """A cell stands for the smallest box whose middle is near and whose size fits its level; no anchors but cells."""

    terms: ClassVar[dict[str, str]] = {**Dense.terms, "centres": "bbox_ctrness"}

    def __init__(self, backbone: Pyramid, classes: int, taken: Taken, *, radius: float = 1.5) -> None:
        anchors = Anchors([(s,) for s in backbone.strides], (1.0,), backbone.strides)
        super().__init__(backbone, anchors, FCOSHead(backbone.width, 1, classes, 4), taken)
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

    def places(
        self, answers: dict[str, Tensor], row: int, positive: Tensor, cells: Tensor, goal: Tensor
    ) -> dict[str, Tensor]:
        """GIoU of the boxes, and cross entropy of how near the middle a cell lies."""
        found = self.place(answers["bbox_regression"][row][positive], cells)
        middle = (cells[:, :2] + cells[:, 2:]) / 2
        near, far = torch.aminmax(torch.stack([middle - goal[:, :2], goal[:, 2:] - middle]), dim=0)
        centred = (near / far).prod(1).clamp(min=0).sqrt()
        logits = answers["bbox_ctrness"][row][positive, 0]
        return {
            "boxes": ops.generalized_box_iou_loss(found, goal, reduction="sum"),
            "centres": functional.binary_cross_entropy_with_logits(logits, centred, reduction="sum"),
        }

    @torch.no_grad()
    def match(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """By where a cell's middle lies in the boxes."""
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
