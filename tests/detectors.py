"""Small detectors on the embedded town for tests of whole runs: few regions, tiny pictures.

Source and target have lengths that their batches do not divide: each half of a Pair stands in an epoch of its own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tests.small import small_run
from visloom.data.photometric import ColorJitter
from visloom.data.target import Strong, Target
from visloom.data.town import Drive
from visloom.data.transforms import RandomFlip
from visloom.run import Ema, Eval, Host, How, Optim, Run, Save
from visloom.stream import Ordered, Pair, Shuffled
from visloom.tasks.adapt import Adapt, Teacher
from visloom.tasks.detect import Detect, FasterRCNN, Features
from visloom.units import Monitor, Steps

NET = FasterRCNN(
    body=Features("test_resnet"),
    width=16,
    head=32,
    anchors=(8, 16, 32, 48, 64),
    roi_batch=16,
    before=(100, 50),
    after=(30, 20),
    all=(30, 20),
    most=20,
    score=0.01,
)
CLEAR = Drive(samples=10, height=48, width=64, weather="clear")
FOG = Drive(samples=7, height=48, width=64, weather="fog", seed=1)
COLOURS = Strong((ColorJitter(brightness=0.4),))
SOURCE = Shuffled(source=CLEAR, batch=2, transform=(RandomFlip(), COLOURS), tail="wrap")
TARGET = Shuffled(source=FOG, batch=2, transform=(Target(), RandomFlip(), COLOURS), tail="wrap")
PAIR = Pair(source=SOURCE, target=TARGET)
SEEN = Ordered(source=FOG, batch=3)
DETECT = Detect(net=NET, classes=CLEAR.classes(), divisible=16)
ADAPT = Adapt(net=NET, classes=CLEAR.classes(), divisible=16)
TAUGHT = dataclasses.replace(ADAPT, teacher=Teacher(threshold=0.02, burn_in=0.4))
EMA = How(precision="fp32", ema=Ema(decay=0.9, into="net -> teacher"))


def detector(out: Path, workers: int, **changes: Any) -> Run:
    """Seven updates of a plain detector, saved after every third one, evaluated after every fifth."""
    fields: dict[str, Any] = {
        "task": DETECT,
        "train": SOURCE,
        "evals": {"fog": Eval(stream=SEEN, every=Steps(5), monitor=Monitor("max", "ap50"))},
        "length": Steps(7),
        "optim": Optim(name="SGD", lr=0.02, options={"momentum": 0.9}),
        "host": Host(out=str(out), data=str(out), workers=workers, threads=1),
        "save": Save(every=Steps(3)),
    }
    return small_run(out, **{**fields, **changes})


def adapted(out: Path, workers: int) -> Run:
    """The same with an unlabelled target, discriminators, and a teacher that begins to label in the fourth update."""
    return detector(out, workers, task=TAUGHT, train=PAIR, how=EMA)
