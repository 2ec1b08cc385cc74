"""CenterFusion on nuScenes (Nabati and Qi 2021): 3D boxes from six cameras and five radars.

    visloom train nuscenes --data DIR                 published: NDS 0.453, mAP 0.332 on val (with flip test)
    visloom train nuscenes:mini --data DIR            the ten scenes of v1.0-mini
    visloom train nuscenes:centernet --data DIR       the camera alone: what CenterFusion starts from
    visloom train nuscenes:original --data DIR        with every defect of the original, for old weights

DIR is the data root: v1.0-trainval or v1.0-mini, samples, sweeps; a part of it does. Published runs start
from a CenterNet
that was trained for 170 epochs: init.model=RUN of nuscenes:centernet, or of an imported checkpoint.
No number was reached here: the data set is not free to pass on.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.nuscenes.source import NuScenes
from visloom.data.photometric import ColorJitter
from visloom.data.scene3d import FlipScene, Frame
from visloom.run import Eval, Optim, Run, Save
from visloom.schedule import Multistep
from visloom.stream import Ordered, Shuffled
from visloom.tasks.fusion3d import Compat, Fusion3d
from visloom.units import Epochs, Monitor


def nuscenes() -> Run:
    """DLA-34 at 448x800, Adam 2.5e-4 at batch 32, 60 epochs, a tenth for the last ten; three sweeps of each radar."""
    return Run(
        name="nuscenes",
        task=Fusion3d(),
        train=Shuffled(
            source=NuScenes(scenes="train"),
            batch=32,
            transform=(
                FlipScene(),
                Frame(size=(448, 800), shift=0.1),
                ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            ),
        ),
        evals={
            "val": Eval(
                stream=Ordered(source=NuScenes(scenes="val"), batch=32, transform=(Frame(size=(448, 800)),)),
                monitor=Monitor("max", "nds"),
            )
        },
        length=Epochs(60),
        optim=Optim(name="Adam", lr=2.5e-4),
        schedule=Multistep((Epochs(50),), gamma=0.1),
        save=Save(every=Epochs(1), milestones=(Epochs(20), Epochs(40), Epochs(50))),
    )


def mini() -> Run:
    """The eight training and two validation scenes of v1.0-mini."""
    edits = {
        "name": "nuscenes-mini",
        "train.source.scenes": "mini_train",
        "evals.val.stream.source.scenes": "mini_val",
    }
    return change(nuscenes(), edits)


def centernet() -> Run:
    """Without radar: one set of heads on the picture. Published, after 170 epochs: NDS 0.328, mAP 0.306."""
    return change(nuscenes(), {"name": "nuscenes-centernet", "task.radar": False})


def original() -> Run:
    """As the original computes it, defects and all."""
    return change(
        nuscenes(),
        {
            "name": "nuscenes-original",
            "task.compat": Compat.original(),
            "train.transform.0.original": True,
            "train.transform.1.original": True,
            "evals.val.stream.transform.0.original": True,
        },
    )
