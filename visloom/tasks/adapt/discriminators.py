"""Discriminators of an alignment, with gradient reversal: the losses that make two domains look alike.

Each discriminator is asked twice: once behind a reversed gradient for its own loss, once behind a plain one for the
consistency of the two, as in the original. The embedded regions of the detection losses serve here too; the original
computed the same numbers a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.dist import normaliser
from visloom.nets.detection.domain import (
    ImageHead,
    InstanceHead,
    consistency,
    image_chance,
    image_loss,
    keyed_dropout,
    regional_consistency,
)
from visloom.nets.detection.roi import Chosen
from visloom.nets.reverse import ramp, reverse, scale_gradient
from visloom.tasks.detect.batch import DetectBatch

if TYPE_CHECKING:
    from visloom.nets.detection.rcnn import RCNN
    from visloom.tasks.adapt.spec import Align

Found = tuple[dict[str, Tensor], dict[str, Tensor]]


class Discriminators(nn.Module):
    """Image heads `image.*` and instance heads `instance.*`: one each, or one per level."""

    def __init__(self, net: Any, align: Align) -> None:
        super().__init__()
        rcnn: RCNN = net
        self.align = align
        levels = len(rcnn.backbone.strides) if align.heads == "levels" else 1
        pooled = len(rcnn.backbone.pooled) if align.heads == "levels" else 1
        stds = (0.01, 0.01, 0.01) if align.heads == "levels" else (0.01, 0.01, 0.05)
        inputs = rcnn.roi.head.outputs
        self.image = nn.ModuleList(
            ImageHead(rcnn.backbone.width, align.hidden[0]) for _ in range(levels if align.uses_image else 0)
        )
        self.instance = nn.ModuleList(
            InstanceHead(inputs, align.hidden[1], stds) for _ in range(pooled if align.uses_instance else 0)
        )
        self.strides, self.level = rcnn.backbone.strides, rcnn.roi.pooler.levels
        self.drop: Callable[[Tensor, Sequence[int], Tensor, str], Tensor] = partial(
            keyed_dropout, p=align.dropout
        )

    def forward(
        self,
        features: Sequence[Tensor],
        chosen: Chosen,
        embedded: Tensor,
        batch: DetectBatch,
        real: Sequence[Tensor],
        *,
        training: bool,
    ) -> Found:
        """Losses and logs of a batch of both domains.

        features: maps of all pictures.  embedded: (R, D) of the chosen regions.  real: cells that count.
        """
        align = self.align
        source = features[0].new_tensor([0.0 if t else 1.0 for t in batch.target], dtype=torch.float32)
        picture = chosen.picture  # (R,)
        weight = self._weight(batch, features[0])
        terms: dict[str, Tensor] = {}
        logs = {"reversal": weight * (align.image if align.uses_image else align.instance)}
        regions = source.new_tensor([float(len(b)) for b in chosen.boxes])
        for name, side in (("source", source), ("target", 1 - source)):
            logs[f"regions/{name}"] = (regions * side).sum() / side.sum()
        if align.uses_image:
            logits = self._image(features, partial(reverse, weight=weight * align.image))
            total, count = image_loss(logits, source, real if len(logits) == len(real) else real[:1])
            terms["domain_image"] = align.image_loss * total / normaliser(count)
            with torch.no_grad():
                side = torch.stack([(e > 0).float().mean((1, 2, 3)) for e in logits]).mean(0)  # (B,)
                logs |= _accuracies("image", side, source)
        if align.uses_instance:
            drop = self._dropout(batch, picture, "instance", training)
            found = self._instance(reverse(embedded, weight * align.instance), chosen, drop)
            of = source[picture]
            loss = functional.binary_cross_entropy_with_logits(found, of, reduction="sum")
            terms["domain_instance"] = align.instance_loss * loss / normaliser(found.new_tensor(len(found)))
            with torch.no_grad():
                logs |= _accuracies("instance", (found > 0).float(), of)
        if align.uses_consistency:
            terms["consistency"] = align.consistency * self._consistency(
                features, chosen, embedded, batch, real, weight * align.consistency_gradient, training
            )
        return terms, logs

    def _weight(self, batch: DetectBatch, like: Tensor) -> Tensor:
        """Factor of the reversed gradient at this point of the training: 0-dim, 0 to 1."""
        if self.align.ramp == "constant" or batch.progress is None:
            return like.new_ones((), dtype=torch.float32)
        return ramp(batch.progress.step / batch.progress.total)

    def _image(self, features: Sequence[Tensor], turn: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Logits of all levels (B, 1, H, W), those of single heads brought to the finest map (SADA)."""
        if self.align.heads == "shared":
            return [self.image[0](turn(each)) for each in features]
        size = features[0].shape[2:]
        found = [head(turn(each)) for head, each in zip(self.image, features, strict=True)]
        together = [
            functional.interpolate(each, size, mode="bilinear", align_corners=True)
            if each.shape[2:] != size
            else each
            for each in found
        ]
        return [torch.cat(together, 1)]

    def _instance(self, embedded: Tensor, chosen: Chosen, drop: Callable[[Tensor, str], Tensor]) -> Tensor:
        """Logits (R,) of regions, by the head of each one's level."""
        if len(self.instance) == 1:
            found: Tensor = self.instance[0](embedded, drop)
            return found
        level = self.level(torch.cat(list(chosen.boxes)))
        every = torch.stack([head(embedded, drop) for head in self.instance])  # (levels, R)
        return every.gather(0, level[None])[0]

    def _dropout(
        self, batch: DetectBatch, picture: Tensor, word: str, training: bool
    ) -> Callable[[Tensor, str], Tensor]:
        """Dropout for one pass over the regions; the identity outside training."""
        if not training or not self.align.dropout:
            return lambda x, place: x
        return lambda x, place: self.drop(x, batch.keys, picture, f"{word}{place}")

    def _consistency(
        self,
        features: Sequence[Tensor],
        chosen: Chosen,
        embedded: Tensor,
        batch: DetectBatch,
        real: Sequence[Tensor],
        weight: Tensor,
        training: bool,
    ) -> Tensor:
        picture = chosen.picture
        drop = self._dropout(batch, picture, "consistency", training)
        align = self.align
        instance = self._instance(scale_gradient(embedded, weight * align.instance), chosen, drop).sigmoid()
        logits = self._image(features, partial(scale_gradient, factor=weight * align.image))
        if align.heads == "shared":
            total, count = consistency(image_chance(logits, real), instance, picture)
        else:
            levels = [logits[0][:, i : i + 1] for i in range(logits[0].shape[1])]
            total, count = regional_consistency(
                levels, [self.strides[0]] * len(levels), chosen.boxes, instance
            )
        return total / normaliser(count)


def _accuracies(what: str, says_source: Tensor, source: Tensor) -> dict[str, Tensor]:
    """Share of each domain that a discriminator gets right: 0.5 is what an alignment aims at."""
    return {
        f"accuracy/{what}_source": (says_source * source).sum() / source.sum().clamp(min=1),
        f"accuracy/{what}_target": ((1 - says_source) * (1 - source)).sum() / (1 - source).sum().clamp(min=1),
    }
