"""Cameras and radars of your own: 3D boxes from a folder with scenes.json, whose form docs/scenes.md describes.

    visloom train scenes --data DIR                         classes are taken from the file
    visloom train scenes --data DIR task.radar=false        the cameras alone
    visloom train scenes:small --data DIR                   a narrow network on small pictures, for a CPU
    visloom predict RUN DIR --part all --out boxes          all cameras of a moment in one picture, results.json

`visloom new mine.yaml --data DIR` writes such a recipe with what the file says: attributes, the shape of pictures.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.scenes import Scenes
from visloom.recipes.nuscenes import nuscenes
from visloom.run import Clip, How, Optim, Run
from visloom.schedule import Cosine, Warmup
from visloom.tasks.fusion3d import DlaNet, Fusion3d
from visloom.units import Epochs, Steps


def scenes() -> Run:
    """The recipe `nuscenes` on data of one's own: DLA-34 on pictures 800 pixels wide, batch 32, 60 epochs."""
    return change(
        nuscenes(),
        {
            "name": "scenes",
            "task": Fusion3d(classes=(), attributes=()),
            "train.source": Scenes(part="train"),
            "evals.val.stream.source": Scenes(part="val"),
            "save.milestones": Epochs(10),
        },
    )


def small() -> Run:
    """The narrow network of `rides` at 128x224, batch 8."""
    return change(
        scenes(),
        {
            "name": "scenes-small",
            "task.net": DlaNet(channels=(8, 8, 24, 32, 48, 64), levels=(1, 1, 1, 1, 1, 1), up="conv3"),
            "task.hidden": 32,
            "task.speed": 10.0,
            "train.batch": 8,
            "train.transform.1.size": [128, 224],
            "evals.val.stream.transform.0.size": [128, 224],
            "evals.val.stream.batch": 12,
            "optim": Optim(name="AdamW", lr=2e-3, weight_decay=1e-3),
            "schedule": Warmup(Cosine(), Steps(20)),
            "how": How(clip=Clip(norm=30.0)),
        },
    )
