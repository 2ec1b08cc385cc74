"""The embedded town: ten kinds of things in a street, drawn on the fly. No data set, no download.

    visloom train town                  91 % accuracy after five epochs
    visloom train town:large            three times the pictures and epochs

Always answering "car" is right 21 % of the time, a linear model on the pixels 57 %: benchmarks/town_baselines.py.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.town import CLASSES, Town
from visloom.data.transforms import RandomFlip, RandomTranslate
from visloom.run import Eval, Host, How, Log, Optim, Run
from visloom.schedule import Linear, Warmup
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Classify, FastCifar, Normalise
from visloom.units import Epochs, Monitor, Steps


def town() -> Run:
    """A small convolutional network, 5 epochs of 4,000 pictures of 32x32.

    One torch thread: at this size a second one gains little, and on a busy machine the two wait for each other.
    """
    return Run(
        name="town",
        task=Classify(
            net=FastCifar(widths=(16, 48, 128), samples=500),
            classes=CLASSES,
            smoothing=0.1,
            normalise=Normalise((112.0, 107.0, 105.0), (52.0, 49.0, 50.0)),
        ),
        train=Shuffled(
            source=Town(part="train", samples=4000, size=32),
            batch=125,
            transform=(RandomFlip(), RandomTranslate(pixels=2)),
        ),
        evals={
            "val": Eval(
                stream=Ordered(source=Town(part="val", samples=800, size=32), batch=200),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(5),
        optim=Optim(
            name="Muon",
            lr=0.12,
            options={"momentum": 0.6, "steps": 3},
            names="conv",
            rest=Optim(name="SGD", lr=0.05, options={"momentum": 0.85, "nesterov": True}),
        ),
        schedule=Warmup(Linear(), Epochs(1)),
        how=How(channels_last=True),  # its pools are quicker so, on every CPU
        host=Host(threads=1),
        log=Log(every=Steps(16)),
    )


def large() -> Run:
    """12,000 pictures of 48x48, 18 epochs."""
    return change(
        town(),
        {
            "name": "town-large",
            "train.source.samples": 12000,
            "train.source.size": 48,
            "evals.val.stream.source.size": 48,
            "length": "epochs:18",
        },
    )
