"""The embedded town, segmented: 12 kinds of things in a street, drawn on the fly. No data set, no download.

    visloom train scenery        mean IoU .41 over 12 classes in 58 CPU-seconds, drawing the pictures included

The same as `visloom demo segment`. Always answering "road" has a mean IoU of .027.
"""

from __future__ import annotations

from visloom.data.town import Scenery
from visloom.data.town.scenery import CLASSES, COLOURS
from visloom.data.transforms import RandomCrop, RandomFlip, RandomScale
from visloom.run import Eval, Host, How, Log, Optim, Run, Save
from visloom.schedule import OneCycle
from visloom.stream import Ordered, Shuffled
from visloom.tasks.segment import CrossEntropy, Segment
from visloom.tasks.segment.nets import Compact, Normalise
from visloom.units import Epochs, Monitor, Steps

NORMALISE = Normalise((112.0, 107.0, 105.0), (52.0, 49.0, 50.0))
"""Of the town's pictures."""


def scenery() -> Run:
    """A compact network on 280 street pictures of 96x160, one torch thread."""
    return Run(
        name="scenery",
        task=Segment(
            net=Compact(width=24, blocks=(1, 1, 1, 1), dropout=0.0),
            loss=CrossEntropy(weights="sqrt", samples=50, cap=5.0),
            classes=CLASSES,
            colours=COLOURS,
            normalise=NORMALISE,
        ),
        train=Shuffled(
            source=Scenery(part="train", samples=280),
            batch=10,
            transform=(RandomFlip(), RandomScale(scale=(0.9, 1.4)), RandomCrop(size=(96, 160))),
        ),
        evals={
            "val": Eval(
                stream=Ordered(source=Scenery(part="val", samples=60), batch=10),
                every=Epochs(3),
                monitor=Monitor("max", "miou"),
            )
        },
        length=Epochs(6),
        optim=Optim(name="AdamW", lr=0.012, weight_decay=0.01),
        schedule=OneCycle(rise=0.25, final_div=100.0),
        how=How(precision="fp32"),
        host=Host(threads=1, workers=0),
        save=Save(every=Epochs(3)),
        log=Log(every=Steps(10), images=15),
    )
