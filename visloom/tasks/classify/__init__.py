"""Image classification: one answer per picture, from hard or soft labels, with mixup, cutmix and label
smoothing."""

from __future__ import annotations

from visloom.tasks.classify.batch import ClassifyBatch
from visloom.tasks.classify.multilabel import Asymmetric, BinaryCrossEntropy, Focal, MultiLabel
from visloom.tasks.classify.nets import Custom, FastCifar, NetSpec, Normalise, ResNetCifar, Timm
from visloom.tasks.classify.spec import Classify

__all__ = [
    "Asymmetric",
    "BinaryCrossEntropy",
    "Classify",
    "ClassifyBatch",
    "Custom",
    "FastCifar",
    "Focal",
    "MultiLabel",
    "NetSpec",
    "Normalise",
    "ResNetCifar",
    "Timm",
]
