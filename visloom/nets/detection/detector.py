"""Detector: what one-stage and two-stage detectors share, and in which steps each of them answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from visloom.nets.detection.backbone import Pyramid, Single
from visloom.nets.detection.roi import Found


class Detector(nn.Module):
    """A backbone, and three steps: candidates, their suppression, and masks or keypoints of what is left.

    Each step can be had by itself: several views of a picture share one suppression.
    """

    def __init__(self, backbone: Pyramid | Single) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def branches(self) -> bool:
        """Whether detections get masks or keypoints, from the same maps."""
        return False

    def features(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> maps, finest first."""
        found: list[Tensor] = self.backbone(image)
        return found

    @torch.no_grad()
    def detect(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        """Detections of each picture, in the network's pixels: of a batch padded to `size`."""
        return self.branched(features, [self.settled(f) for f in self.candidates(features, size, sizes)])

    def candidates(
        self, features: Sequence[Tensor], size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        """All boxes that are sure enough, before suppression, of each picture."""
        raise TypeError(f"{type(self).__name__} must define candidates(features, size, sizes)")

    def settled(self, found: Found) -> Found:
        """What suppression leaves of the candidates of one picture, the best at most."""
        raise TypeError(f"{type(self).__name__} must define settled(found)")

    def branched(self, features: Sequence[Tensor], found: list[Found]) -> list[Found]:
        """Detections of each picture with their masks and keypoints."""
        return found
