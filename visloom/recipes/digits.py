"""The real handwritten digits inside scikit-learn (1,797 pictures of 8x8): trains in seconds, needs no download.

    pip install "visloom[digits]"
    visloom train digits                99.2 % accuracy in seconds
    visloom train digits:mixed          with mixup and an average of the weights

Four fifths are for training, the same for everyone; the number is of the others.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.digits import Digits
from visloom.data.transforms import RandomTranslate
from visloom.run import Ema, Eval, How, Optim, Run
from visloom.schedule import OneCycle
from visloom.stream import Ordered, Shuffled, Split
from visloom.tasks.classify import Classify, FastCifar, Normalise
from visloom.units import Epochs, Monitor


def digits() -> Run:
    """A tiny convolutional network, 15 epochs, four fifths of the pictures."""
    return Run(
        name="digits",
        task=Classify(
            net=FastCifar(widths=(32, 64), samples=500),
            classes=tuple("0123456789"),
            channels=1,
            normalise=Normalise((78.0,), (96.0,)),
        ),
        train=Shuffled(
            source=Digits(split=Split("head", 0.8)),
            batch=64,
            transform=(RandomTranslate(pixels=1, mode="constant"),),
        ),
        evals={
            "val": Eval(
                stream=Ordered(source=Digits(split=Split("tail", 0.8)), batch=128),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(15),
        optim=Optim(name="AdamW", lr=0.01, weight_decay=0.01),
        schedule=OneCycle(rise=0.25),
    )


def mixed() -> Run:
    """With mixup and an average of the weights, evaluated: for trying both."""
    return change(digits(), {"name": "digits-mixed", "task.mixup": 0.2, "how": How(ema=Ema(decay=0.99))})
