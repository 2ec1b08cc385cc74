"""The torch side of detection: normalise on the device, one pass of the backbone, named losses, boxes as stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from visloom.dist import normaliser
from visloom.memory import like_weights, standardised
from visloom.module import TaskModule
from visloom.nets.detection.rcnn import Seen
from visloom.nets.detection.roi import Found
from visloom.nets.detection.rpn import Sum, Truth
from visloom.task import Losses
from visloom.tasks.detect.batch import DetectBatch
from visloom.tasks.detect.views import Views, look

if TYPE_CHECKING:
    from visloom.sample import Origin
    from visloom.task import Batch
    from visloom.tasks.detect.spec import Detect


class DetectModule(TaskModule):
    """A detector with its normalisation. Its parameters are `net.*`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, spec: Detect) -> None:
        super().__init__()
        self.net = net
        self.plus = 1.0 if spec.compat else 0.0
        self.bgr = spec.reversed_channels
        self.views, self.divisible = spec.views, spec.divisible
        values = spec.normalisation()
        std = torch.tensor(values.std, dtype=torch.float64)
        mean = torch.tensor(values.mean, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / std).float(), persistent=False)  # (C,)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)  # (C,)

    def forward(self, batch: Batch) -> Losses:
        """Losses by name: "objectness", "rpn_box", "classes", "boxes", and those of further branches."""
        batch = cast(DetectBatch, batch)
        image = self.images(batch.image, batch.sizes)
        features = self.net.features(image)  # type: ignore[operator]
        seen = self.net.losses(  # type: ignore[operator]
            features, batch.size, batch.sizes, self.truths(batch), batch.keys
        )
        return Losses(divided(seen.losses), {}, self.count(batch))

    @property
    def judge(self) -> nn.Module:
        """The network that answers."""
        return self.net

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Columns of one entry per picture, in stored pixels.

        ids; boxes (N, 4), scores (N,), labels (N,) int64 class indices, best score first; with such branches masks
        (N, H, W) bool and keypoints (N, K, 3).
        """
        batch = cast(DetectBatch, batch)
        image = self.images(batch.image, batch.sizes)
        return self.answer(batch, self.find(batch, image))

    def assess(self, batch: Batch) -> tuple[Losses, dict[str, Any]]:
        """Losses and predictions of one pass of the backbone, both of the network that answers."""
        batch = cast(DetectBatch, batch)
        image = self.images(batch.image, batch.sizes)
        features = self.judge.features(image)  # type: ignore[operator]
        seen: Seen = self.judge.losses(  # type: ignore[operator]
            features, batch.size, batch.sizes, self.truths(batch), batch.keys
        )
        found = self.find(batch, image, features)
        return Losses(divided(seen.losses), {}, self.count(batch)), self.answer(batch, found)

    # ---- parts, for tasks that build on this one

    def images(self, image: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalised pictures (B, C, H, W) from stored ones (B, H, W, C), 0 in the padding."""
        seen = image.flip(3) if self.bgr else image
        seen = like_weights(standardised(seen, self.scale, self.shift), self.net)
        for row, (height, width) in enumerate(sizes):
            if height < seen.shape[2]:
                seen[row, :, height:] = 0
            if width < seen.shape[3]:
                seen[row, :, :, width:] = 0
        return seen

    def truths(self, batch: DetectBatch) -> list[Truth | None]:
        """What is known of each picture, in the net's convention of boxes; None where nothing is."""
        return [self.truth(batch, row) if known else None for row, known in enumerate(batch.annotated)]

    def truth(self, batch: DetectBatch, row: int) -> Truth:
        """The truth of one picture."""
        return Truth(
            self.inclusive(batch.boxes[row]),
            batch.labels[row] + 1,
            None if batch.masks is None else batch.masks[row],
            None if batch.keypoints is None else batch.keypoints[row],
        )

    def inclusive(self, boxes: Tensor, sign: float = -1.0) -> Tensor:
        """Boxes on pixel edges as the net counts them, or back with sign 1."""
        return boxes + boxes.new_tensor([0.0, 0.0, sign * self.plus, sign * self.plus])

    def count(self, batch: DetectBatch) -> Tensor:
        """Annotated pictures: what evaluation losses are weighted by."""
        return batch.image.new_tensor(float(sum(batch.annotated)), dtype=torch.float32)

    def find(
        self, batch: DetectBatch, image: Tensor, features: Sequence[Tensor] | None = None
    ) -> list[Found]:
        """Detections of each picture in the network's pixels, in all the views that the task names.

        features: maps of the pictures as they are, where they are known already.
        """
        if self.views == Views():
            features = self.judge.features(image) if features is None else features  # type: ignore[operator]
            found: list[Found] = self.judge.detect(features, batch.size, batch.sizes)  # type: ignore[operator]
            return found
        return look(self.judge, image, batch.sizes, self.views, divisible=self.divisible, plus=self.plus)

    def answer(self, batch: DetectBatch, found: Sequence[Found]) -> dict[str, Any]:
        """Detections of each picture as columns, in stored pixels."""
        columns: dict[str, Any] = {"ids": batch.ids, "boxes": [], "scores": [], "labels": []}
        for each, origin in zip(found, batch.origins, strict=True):
            order = each.scores.argsort(descending=True, stable=True)
            boxes = stored_boxes(self.inclusive(each.boxes, 1.0), origin)[order]
            columns["boxes"].append(boxes)
            columns["scores"].append(each.scores[order])
            columns["labels"].append(each.labels[order] - 1)
            if each.masks is not None:
                columns.setdefault("masks", []).append(pasted(each.masks[order], boxes, origin.size))
            if each.keypoints is not None:
                columns.setdefault("keypoints", []).append(stored_points(each.keypoints[order], origin))
        return columns


def divided(losses: dict[str, Sum]) -> dict[str, Tensor]:
    """Sums over this process's items as shares of the global mean."""
    return {name: total / normaliser(count) for name, (total, count) in losses.items()}


def stored_boxes(boxes: Tensor, origin: Origin) -> Tensor:
    """Boxes (N, 4) of the network's picture in the stored one, clipped to it."""
    corners = boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].view(-1, 4, 2)
    moved = _back(corners, origin)
    framed = torch.cat([moved.amin(1), moved.amax(1)], 1)
    height, width = origin.size
    return framed.clamp(min=0).minimum(framed.new_tensor([width, height, width, height]))


def stored_points(points: Tensor, origin: Origin) -> Tensor:
    """Keypoints (N, K, 3) of the network's picture in the stored one."""
    return torch.cat([_back(points[..., :2], origin), points[..., 2:]], -1)


def _back(points: Tensor, origin: Origin) -> Tensor:
    """Points (..., 2) through the inverse of an origin's matrix."""
    import numpy as np

    back = torch.as_tensor(np.linalg.inv(origin.matrix), dtype=torch.float32, device=points.device)
    moved = points @ back[:, :2].T + back[:, 2]
    return moved[..., :2] / moved[..., 2:]


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks (N, M, M) of boxes (N, 4) in a picture of (height, width): (N, H, W) bool."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    found: Tensor = paste_masks_in_image(masks[:, None], boxes, size)
    return found[:, 0] > threshold
