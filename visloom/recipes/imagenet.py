"""ImageNet-1k (Russakovsky et al. 2015), or any data set in its layout: DIR/train/CLASS/*, DIR/val/CLASS/*.

    visloom train imagenet --data DIR --nproc 8       ResNet-50, 100 epochs: published 76.55 % top-1 (mmclassification)
    visloom train imagenet:modern --data DIR          300 epochs with mixup, cutmix, RandAugment and an average
    visloom train imagenet:vit --data DIR             ViT-S/16

No number was reached here yet: the data set is not free to pass on.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.folder import Folder
from visloom.data.photometric import RandomErasing
from visloom.data.randaug import RandAugment
from visloom.data.transforms import CenterCrop, RandomFlip, RandomResizedCrop, Resize
from visloom.run import Clip, Ema, Eval, How, Optim, Rule, Run
from visloom.schedule import Cosine, Multistep, Warmup
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Classify, Timm
from visloom.units import Epochs, Monitor


def imagenet() -> Run:
    """ResNet-50 as in mmclassification: SGD 0.1, a tenth after 30, 60 and 90 of 100 epochs, batch 256."""
    return Run(
        name="imagenet",
        task=Classify(net=Timm("resnet50"), topk=(1, 5)),
        train=Shuffled(
            source=Folder(root="train"),
            batch=256,
            transform=(RandomResizedCrop(size=224), RandomFlip()),
        ),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=Folder(root="val"),
                    batch=256,
                    transform=(Resize(short=256), CenterCrop(size=224)),
                ),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(100),
        optim=Optim(name="SGD", lr=0.1, weight_decay=1e-4, options={"momentum": 0.9}),
        schedule=Multistep((Epochs(30), Epochs(60), Epochs(90)), gamma=0.1),
    )


def modern() -> Run:
    """The same network by today's means (Wightman et al. 2021, "ResNet strikes back", in outline)."""
    return change(
        imagenet(),
        {
            "name": "imagenet-modern",
            "task.smoothing": 0.1,
            "task.mixup": 0.2,
            "task.cutmix": 1.0,
            "train.batch": 1024,
            "train.transform": (
                RandomResizedCrop(size=224),
                RandomFlip(),
                RandAugment(n=2, magnitude=7),
                RandomErasing(p=0.1),
            ),
            "length": Epochs(300),
            "optim": Optim(
                name="SGD", lr=1.0, weight_decay=2e-5, options={"momentum": 0.9, "nesterov": True}
            ),
            "rules": (Rule(kind="bias", weight_decay=0.0), Rule(kind="norm", weight_decay=0.0)),
            "schedule": Warmup(Cosine(), Epochs(5), start=0.01),
            "how": How(ema=Ema(decay=0.9999)),
        },
    )


def vit() -> Run:
    """A small vision transformer with the same augmentation and AdamW (Touvron et al. 2021, DeiT, in outline)."""
    return change(
        modern(),
        {
            "name": "imagenet-vit",
            "task.net": Timm("vit_small_patch16_224", options={"drop_path_rate": 0.1}),
            "optim": Optim(name="AdamW", lr=1e-3, weight_decay=0.05),
            "how.clip": Clip(norm=1.0),
        },
    )
