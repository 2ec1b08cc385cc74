"""Object detection: boxes of things, with masks and keypoints where the network has such branches."""

from __future__ import annotations

from visloom.tasks.detect.batch import DetectBatch, Known
from visloom.tasks.detect.nets import FCOS, DetectorNet, FasterRCNN, Features, ResNetBody, RetinaNet
from visloom.tasks.detect.spec import Detect

__all__ = [
    "FCOS",
    "Detect",
    "DetectBatch",
    "DetectorNet",
    "FasterRCNN",
    "Features",
    "Known",
    "ResNetBody",
    "RetinaNet",
]
