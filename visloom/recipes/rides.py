"""Rides through the embedded town: six cameras, five radars, things that move. No data set, no download.

    visloom train rides                     a narrow network at 128x224, 300 steps
    visloom train rides:camera              the same without radar
    visloom train rides:permuted            radar of other pictures: a control
    visloom train rides:baseline            the camera alone, on rides that are written to disk as a nuScenes root
    visloom train rides:proof init.model=RUN@1000            600 steps more of all heads, with radar
    visloom train rides:proof_camera init.model=RUN@1000     and without
    visloom train rides:proof_permuted init.model=RUN@1000   and with the radar of other pictures

What radar adds is in docs/results.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from visloom.config import change
from visloom.data.photometric import ColorJitter
from visloom.data.scene3d import FlipScene, Frame, GuessedDepth, OtherRadar, SceneSource, Within
from visloom.data.town.ondisk import RidesOnDisk
from visloom.data.town.rides import Rides
from visloom.run import Clip, Eval, Host, How, Log, Optim, Rule, Run, Save
from visloom.schedule import OneCycle
from visloom.stream import Ordered, Shuffled
from visloom.tasks.fusion3d import DlaNet, Fusion3d
from visloom.tasks.fusion3d.nds import Rules
from visloom.units import Monitor, Steps

_STILL = Rule(name=r"trunk\.", frozen=True)


def rides() -> Run:
    """Thirty-two short rides to train on, four to validate on; a DLA of narrow levels, one torch thread."""
    return Run(
        name="rides",
        task=Fusion3d(
            net=DlaNet(channels=(8, 8, 16, 32, 64, 96), levels=(1, 1, 1, 1, 1, 1), up="conv3", stem=2),
            hidden=64,
            depth_scale=10.0,
            speed=2.0,
            expand=0.5,
            slack=0.15,
            overlap=0.3,
            spread=1,
            weights={"depth": 0.1, "size": 0.1, "center": 0.25, "rotation": 0.5, "dims": 0.5},
            slots=128,
            shown=0.2,
            detections=50,
        ),
        train=Shuffled(
            source=Rides(part="train", rides=32, moments=3),
            batch=6,
            transform=(
                Within(depth=60.0),
                FlipScene(),
                Frame(size=(128, 224)),
                ColorJitter(brightness=0.2, contrast=0.2),
            ),
        ),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=Rides(part="val", rides=4, moments=3),
                    batch=12,
                    transform=(Frame(size=(128, 224)),),
                ),
                every=None,
                monitor=Monitor("max", "nds"),
            )
        },
        length=Steps(300),
        optim=Optim(name="AdamW", lr=1e-2, weight_decay=0.01),
        schedule=OneCycle(rise=0.2, final_div=100.0),
        how=How(precision="fp32", clip=Clip(norm=30.0), channels_last=True),
        host=Host(threads=1, workers=0),
        save=Save(every=Steps(150)),
        log=Log(every=Steps(20), images=6),
    )


def camera() -> Run:
    """Without radar."""
    return change(rides(), {"name": "rides-camera", "task.radar": False})


def permuted() -> Run:
    """With the radar of other pictures, in training and evaluation: it should help no more than none."""
    return _permuted(rides(), "rides-permuted")


def _permuted(run: Run, name: str) -> Run:
    val = run.evals["val"].stream
    assert isinstance(run.train, Shuffled) and isinstance(val, Ordered)
    sources = {"train.source": run.train.source, "evals.val.stream.source": val.source}
    edits = {path: OtherRadar(source=cast(SceneSource, source)) for path, source in sources.items()}
    return change(run, {"name": name, **edits})


def baseline() -> Run:
    """The camera alone on rides on disk, boxes up to 30 metres away: what the learning proof starts from.

    The proof takes its step 1,000, where the learning rate is still high.
    """
    disk = RidesOnDisk(train_rides=40, val_rides=10, moments=3)
    edits = {
        "name": "rides-baseline",
        "task.radar": False,
        "task.rules": Rules(reach={}, far=30.0),
        "task.weights.depth": 0.2,
        "train.source": disk,
        "train.transform.0": Within(depth=35.0),
        "evals.val.stream.source": replace(disk, scenes="town_val"),
        "length": Steps(1500),
        "save.every": Steps(500),
    }
    return change(rides(), edits)


def proof() -> Run:
    """The learning proof: rides on disk as a nuScenes root, which is written on first use and read as nuScenes is.

    As the original does, it begins with a network that has learnt the camera: init.model=RUN@1000 of `baseline`. The
    trunk stays as it is (the original's --freeze_backbone); new heads learn at twice the rate.
    """
    chain = cast(Shuffled, baseline().train).transform
    edits = {
        "name": "rides-proof",
        "task.radar": True,
        "task.depth_scale": 2.5,
        "rules": (_STILL, Rule(name=r"secondary\.", lr=2.0)),
        "train.transform": (*chain, GuessedDepth(deviation=0.2)),
        "length": Steps(600),
        "optim.lr": 5e-3,
        "schedule": OneCycle(rise=0.1, final_div=100.0),
    }
    return change(baseline(), edits)


def proof_camera() -> Run:
    """The same without radar."""
    return change(proof(), {"name": "rides-proof-camera", "task.radar": False, "rules": (_STILL,)})


def proof_permuted() -> Run:
    """The same with the radar of other pictures, in training and evaluation."""
    return _permuted(proof(), "rides-proof-permuted")
