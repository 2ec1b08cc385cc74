"""A folder of pictures with a folder of masks beside it: a class per pixel, for any data of your own.

    visloom train masks --data DIR                    DIR/images/a.jpg with DIR/masks/a.png, names in DIR/classes.csv
    visloom train masks --data DIR task.net.pretrained=true       the encoder starts from ImageNet
    visloom train masks:small --data DIR              a compact network from scratch, for a CPU

A tenth of the pictures, the same for everyone, is held out for validation, which looks at them at their own size.
`visloom new` writes such a recipe for a folder of yours.
"""

from __future__ import annotations

from dataclasses import replace

from visloom.data.masks import Masks
from visloom.data.photometric import ColorJitter
from visloom.data.transforms import RandomCrop, RandomFlip, RandomRotation, RandomScale
from visloom.run import Eval, Host, How, Log, Optim, Rule, Run
from visloom.schedule import OneCycle, Poly, Warmup
from visloom.stream import Ordered, Shuffled, Split
from visloom.tasks.segment import Segment
from visloom.tasks.segment.nets import IMAGENET, Compact, Smp
from visloom.units import Epochs, Monitor, Steps


def masks() -> Run:
    """UNet with a ResNet-34 encoder on windows of 384 pixels, 60 epochs, the encoder at a tenth of the rate."""
    return Run(
        name="masks",
        task=Segment(net=Smp("unet", "resnet34")),
        train=_train(512, 384, 8),
        evals={
            "val": Eval(
                stream=Ordered(source=Masks(split=Split("tail", 0.9)), batch=4),
                every=Epochs(2),
                monitor=Monitor("max", "miou"),
            )
        },
        length=Epochs(60),
        optim=Optim(name="AdamW", lr=1e-3, weight_decay=0.01),
        rules=(Rule(name=r"model\.encoder\.", lr=0.1),),
        schedule=Warmup(Poly(0.9), Epochs(1)),
        log=Log(every=Steps(20), images=15),
    )


def small() -> Run:
    """A compact network from scratch at 192 pixels: minutes on one CPU core."""
    run = masks()
    return replace(
        run,
        name="masks-small",
        task=Segment(net=Compact(width=32), normalise=IMAGENET, long=192),
        train=_train(192, 160, 16),
        optim=Optim(name="AdamW", lr=8e-3, weight_decay=0.05),
        rules=(),
        schedule=OneCycle(rise=0.25, final_div=100.0),
        how=How(precision="fp32"),
        host=Host(threads=1),
    )


def _train(long: int, side: int, batch: int) -> Shuffled:
    """Pictures at about `long` pixels, turned a little, in windows of `side`; what is outside is ignored."""
    return Shuffled(
        source=Masks(split=Split("head", 0.9), cache=True),
        batch=batch,
        transform=(
            RandomScale(scale=(0.75, 1.5), long=long),
            RandomRotation(degrees=10.0),
            RandomCrop(size=side),
            RandomFlip(),
            ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
        ),
        tail="wrap",
    )
