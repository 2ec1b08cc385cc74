"""A folder of pictures with one sub-folder per class, fine-tuned from a timm network.

    visloom train folder --data DIR                        DIR/cat/*.jpg, DIR/dog/*.jpg, ...
    visloom train folder --data DIR task.net.pretrained=true
    visloom train folder:scratch --data DIR                without pretrained weights in mind

A tenth of the pictures, the same for everyone, is held out for validation. `visloom new` writes such a recipe for a
folder of yours, with a validation folder or a list file if it has one.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.folder import Folder
from visloom.data.photometric import ColorJitter
from visloom.data.transforms import CenterCrop, RandomFlip, RandomResizedCrop, Resize
from visloom.run import Ema, Eval, How, Optim, Rule, Run
from visloom.schedule import Cosine, Warmup
from visloom.stream import Ordered, Shuffled, Split
from visloom.tasks.classify import Classify, Timm
from visloom.units import Epochs, Monitor


def folder() -> Run:
    """ResNet-18 at 224 pixels, 20 epochs of AdamW with a cosine, an average of the weights."""
    return Run(
        name="folder",
        task=Classify(net=Timm("resnet18"), smoothing=0.1),
        train=Shuffled(
            source=Folder(split=Split("head", 0.9)),
            batch=32,
            transform=(
                RandomResizedCrop(size=224, scale=(0.3, 1.0)),
                RandomFlip(),
                ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ),
            tail="wrap",
        ),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=Folder(split=Split("tail", 0.9)),
                    batch=64,
                    transform=(Resize(short=256), CenterCrop(size=224)),
                ),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(20),
        optim=Optim(name="AdamW", lr=5e-4, weight_decay=0.05),
        rules=(Rule(kind="bias", weight_decay=0.0), Rule(kind="norm", weight_decay=0.0)),
        schedule=Warmup(Cosine(floor_ratio=0.01), Epochs(1)),
        how=How(ema=Ema(decay=0.998)),
    )


def scratch() -> Run:
    """From random weights: longer, and at a higher learning rate."""
    return change(folder(), {"name": "folder-scratch", "length": "epochs:100", "optim.lr": 1e-3})
