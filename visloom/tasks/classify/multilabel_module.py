"""The torch side of multi-label classification: a loss per class, and a sigmoid in place of a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from visloom.dist import normaliser
from visloom.task import Losses
from visloom.tasks.classify.batch import ClassifyBatch, mix_labels
from visloom.tasks.classify.module import ClassifyModule

if TYPE_CHECKING:
    from visloom.task import Batch
    from visloom.tasks.classify.multilabel import MultiLabel


class MultiLabelModule(ClassifyModule):
    """A network with its normalisation, and one answer per class."""

    def __init__(self, net: nn.Module, spec: MultiLabel) -> None:
        super().__init__(net, spec)
        self.loss, self.difficult = spec.loss, spec.difficult

    def forward(self, batch: Batch) -> Losses:
        """Losses: one term, named by the loss; log "accuracy", the share of right answers among all yes and no."""
        batch = cast(ClassifyBatch, batch)
        mix = batch.mix if self.training else None
        target, known = self._target(batch.label)
        if mix is not None:
            target, known = mix_labels(target, mix), mix_labels(known, mix)
        image = self._grown(self.images(batch, mixed=mix is not None), batch)
        return self._several(self._logits(image), target, known)

    def _losses(self, logits: Tensor, target: Tensor) -> Losses:
        return self._several(logits, *self._target(target))

    def _target(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss takes as there, and what it looks at: (B, K) float32 each."""
        hard = label == -1
        known = (label >= -1).float()
        if self.difficult == "ignore":
            known = known * (~hard).float()
        there = 1.0 if self.difficult == "positive" else 0.0
        return torch.where(hard, there, label.clamp(min=0)), known

    def _several(self, logits: Tensor, target: Tensor, known: Tensor) -> Losses:
        loss = self.loss(logits, target) * known  # (B, K)
        if self.class_weights is not None:
            loss = loss * self.class_weights
        count = known.amax(1).sum()  # pictures that have a label
        answers = known.sum()
        right = (((logits.detach() > 0) == (target > 0.5)).float() * known).sum()
        divisor = normaliser(count) if self.training else count.clamp(min=1)
        return Losses(
            {self.loss.term: loss.sum() / divisor}, {"accuracy": right / answers.clamp(min=1)}, count
        )

    def _answer(self, batch: ClassifyBatch, logits: Tensor) -> dict[str, Any]:
        probabilities = logits.sigmoid()  # (B, K)
        best = probabilities.max(1)
        return {"ids": batch.ids, "label": best.indices, "score": best.values, "probabilities": probabilities}
