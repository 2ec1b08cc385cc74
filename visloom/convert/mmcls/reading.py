"""What is gathered while a config of mmclassification is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from visloom.convert.keys import Keys

CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "MNIST": 10, "FashionMNIST": 10, "ImageNet": 1000, "VOC": 20}
"""How many classes the original's data sets have."""


@dataclass
class Reading:
    """What is gathered on the way. compat: keep the original's mistakes. notes: what the user should know."""

    keys: Keys
    name: str
    compat: bool = False
    notes: list[str] = field(default_factory=list)
