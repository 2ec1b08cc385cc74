"""Semantic segmentation: a class for every pixel, at the size of the picture, whatever that is."""

from __future__ import annotations

from visloom.tasks.segment.batch import SegmentBatch
from visloom.tasks.segment.draw import colorize
from visloom.tasks.segment.losses import CrossEntropy, CrossEntropyDice, Dice, Focal, Lovasz, Mix, Ohem
from visloom.tasks.segment.metrics import PixelMetrics
from visloom.tasks.segment.spec import Segment
from visloom.tasks.segment.views import Sliding

__all__ = [
    "CrossEntropy",
    "CrossEntropyDice",
    "Dice",
    "Focal",
    "Lovasz",
    "Mix",
    "Ohem",
    "PixelMetrics",
    "Segment",
    "SegmentBatch",
    "Sliding",
    "colorize",
]
