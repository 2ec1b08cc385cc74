"""Fashion-MNIST (Xiao et al. 2017) with LeNet-5 and the recipe of `mnist`.

    visloom train fashion_mnist --data DIR            LeNet-5, 20 epochs

DIR holds train-images-idx3-ubyte and its like, gzipped or not. The original has a reader for it and no config.
"""

from __future__ import annotations

from visloom.config import change
from visloom.recipes.mnist import mnist
from visloom.run import Run


def fashion_mnist() -> Run:
    """LeNet-5, 20 epochs, the learning rate a tenth after 15; normalised by this set's own mean and deviation."""
    return change(
        mnist(),
        {
            "name": "fashion_mnist",
            "train.source.name": "fashion_mnist",
            "evals.test.stream.source.name": "fashion_mnist",
            "task.normalise": {"mean": [72.94], "std": [90.02]},
            "length": "epochs:20",
        },
    )
