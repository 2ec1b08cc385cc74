"""Rides through the embedded town: six cameras, five radars, things that move. No data set, no download.

    visloom train rides                 some 90 CPU-seconds: a narrow network at 128x224
    visloom train rides:camera          the same without radar
    visloom train rides:permuted        radar of another moment: a control
    visloom train rides:proof           for half an hour on two cores

How much radar helps is measured with `proof`, its `task.radar=false`, and radar of another moment.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.photometric import ColorJitter
from visloom.data.scene3d import FlipScene, Frame
from visloom.data.town.rides import Rides
from visloom.run import Clip, Eval, Host, How, Log, Optim, Run
from visloom.schedule import Cosine, Warmup
from visloom.stream import Ordered, Shuffled
from visloom.tasks.fusion3d import DlaNet, Fusion3d
from visloom.units import Epochs, Monitor, Steps


def rides() -> Run:
    """Eight rides to train on, two to validate on; three epochs."""
    return Run(
        name="rides",
        task=Fusion3d(
            net=DlaNet(channels=(8, 8, 24, 32, 48, 64), levels=(1, 1, 1, 1, 1, 1), up="conv3"),
            hidden=32,
            speed=10.0,
            expand=0.5,
            shown=0.2,
            detections=50,
        ),
        train=Shuffled(
            source=Rides(part="train", rides=8),
            batch=8,
            transform=(
                FlipScene(),
                Frame(size=(128, 224), shift=0.05),
                ColorJitter(brightness=0.2, contrast=0.2),
            ),
        ),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=Rides(part="val", rides=2), batch=12, transform=(Frame(size=(128, 224)),)
                ),
                every=None,
                monitor=Monitor("max", "nds"),
            )
        },
        length=Epochs(3),
        optim=Optim(name="AdamW", lr=2e-3, weight_decay=1e-3),
        schedule=Warmup(Cosine(), Steps(20)),
        how=How(clip=Clip(norm=30.0)),
        host=Host(threads=1),
        log=Log(every=Steps(12)),
    )


def camera() -> Run:
    """Without radar."""
    return change(rides(), {"name": "rides-camera", "task.radar": False})


def permuted() -> Run:
    """With the radar of another moment, in training and evaluation: it should help no more than none."""
    edits = {"train.source.mixed_up": True, "evals.val.stream.source.mixed_up": True}
    return change(rides(), {"name": "rides-permuted", **edits})


def proof() -> Run:
    """Forty rides, twenty epochs, for a learning proof."""
    edits = {"train.source.rides": 40, "evals.val.stream.source.rides": 8, "length": Epochs(20)}
    return change(rides(), {"name": "rides-proof", **edits})
