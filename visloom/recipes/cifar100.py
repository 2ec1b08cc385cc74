"""CIFAR-100 (Krizhevsky 2009), fine labels, with the recipe of `cifar10`.

    visloom train cifar100 --data DIR             ResNet-18, 200 epochs
    visloom train cifar100:resnet50 --data DIR

DIR holds cifar-100-python. The original published no number for it.
"""

from __future__ import annotations

from visloom.config import change
from visloom.recipes.cifar10 import cifar10
from visloom.run import Run


def cifar100() -> Run:
    """ResNet-18, everything else as for CIFAR-10 but the data and its normalisation."""
    return change(
        cifar10(),
        {
            "name": "cifar100",
            "train.source.name": "cifar100",
            "evals.test.stream.source.name": "cifar100",
            "task.normalise": {"mean": [129.304, 124.070, 112.434], "std": [68.170, 65.392, 70.418]},
        },
    )


def resnet34() -> Run:
    """ResNet-34."""
    return change(cifar100(), {"task.net.depth": 34})


def resnet50() -> Run:
    """ResNet-50."""
    return change(cifar100(), {"task.net.depth": 50})
