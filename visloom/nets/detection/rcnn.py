"""Faster R-CNN (Ren et al., 2015) and Mask R-CNN (He et al., 2017), composed: each part can be had by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visloom.nets.detection.backbone import Pyramid, Single
from visloom.nets.detection.branches import KeypointBranch, MaskBranch
from visloom.nets.detection.detector import Detector
from visloom.nets.detection.roi import ROI, Chosen, Found
from visloom.nets.detection.rpn import RPN, Guesses, Sum, Top, Truth


@dataclass(frozen=True)
class Seen:
    """What a training pass computed on its way to the losses, for whoever builds on it.

    losses: sums and counts by name.  guesses: of all anchors.  chosen: proposals.  embedded: (R, D) of those.
    """

    losses: dict[str, Sum]
    guesses: Guesses | None = None
    chosen: Chosen | None = None
    embedded: Tensor | None = None


class RCNN(Detector):
    """A two-stage detector.

    top: numbers of proposals, in training and in tests. Which are taken follows from what is asked for, never from
        the module's mode.
    """

    def __init__(
        self,
        backbone: Pyramid | Single,
        rpn: RPN,
        roi: ROI,
        *,
        top: tuple[Top, Top],
        masks: MaskBranch | None = None,
        keypoints: KeypointBranch | None = None,
    ) -> None:
        super().__init__(backbone)
        self.rpn, self.roi, self.top = rpn, roi, top
        self.masks, self.keypoints = masks, keypoints

    @property
    def branches(self) -> bool:
        """Whether there are masks or keypoints."""
        return self.masks is not None or self.keypoints is not None

    def propose(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]], top: Top
    ) -> tuple[Guesses, list[Tensor]]:
        """What the head says of all anchors, and the proposals of each picture (N, 4)."""
        guesses = self.rpn(features, size, sizes)
        return guesses, self.rpn.proposals(guesses, top)

    def losses(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        truths: Sequence[Truth | None],
        keys: Sequence[int],
    ) -> Seen:
        """Losses of the pictures whose truth is known; proposals are chosen and embedded for all."""
        guesses, proposals = self.propose(features, size, sizes, self.top[0])
        losses = self.rpn.loss(guesses, truths, keys)
        chosen = self.roi.choose(proposals, truths, keys)
        embedded = self.roi.embed(features, chosen.boxes)
        logits, deltas = self.roi.predictor(embedded)
        losses |= self.roi.loss(logits, deltas, chosen, truths)
        if self.masks is not None:
            losses["masks"] = self.masks.loss(features, chosen, truths, self.roi.head)
        if self.keypoints is not None:
            losses["keypoints"] = self.keypoints.loss(features, chosen, truths)
        return Seen(losses, guesses, chosen, embedded)

    @torch.no_grad()
    def candidates(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        """Boxes of all classes that are sure enough, of each picture."""
        _, proposals = self.propose(features, size, sizes, self.top[1])
        logits, deltas = self.roi.predictor(self.roi.embed(features, proposals))
        return self.roi.candidates(logits, deltas, proposals, sizes)

    def settled(self, found: Found) -> Found:
        """What suppression leaves of the candidates of one picture."""
        return self.roi.settled(found)

    @torch.no_grad()
    def branched(self, features: Sequence[Tensor], found: list[Found]) -> list[Found]:
        """Detections of each picture with their masks and keypoints."""
        if self.masks is not None:
            found = self.masks.answers(features, found, self.roi.head)
        if self.keypoints is not None:
            found = self.keypoints.answers(features, found)
        return found
