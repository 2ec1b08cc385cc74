"""Clothing Co-Parsing: 59 labels on 1,004 street fashion photos.

    visloom train clothes --data DIR             UNet with a ResNet-50 encoder from ImageNet, on a GPU
    visloom train clothes:psp --data DIR         the same with a PSPNet
    visloom train clothes:small --data DIR       from scratch on a CPU, about 40 minutes on one core
    visloom train clothes:long --data DIR        the same at 256 pixels, three to four hours on one core
    visloom train clothes:coarse --data DIR      clothes:small with the labels merged into 8 groups

DIR holds clothing-co-parsing-master/. What is reached stands in docs/results.md. All background is right at 77 % of the
pixels with a mean IoU of .015 over the classes that occur, the commonest class of each place at 79 % with .034.
"""

from __future__ import annotations

from collections.abc import Mapping

from visloom.config import change
from visloom.data.clothes import CLASSES, Clothes
from visloom.data.legend import voc_palette
from visloom.data.photometric import ColorJitter
from visloom.data.transforms import RandomCrop, RandomFlip, RandomRotation, RandomScale
from visloom.run import Eval, Host, How, Log, Optim, Rule, Run, Save
from visloom.schedule import OneCycle, Poly, Warmup
from visloom.stream import Ordered, Shuffled
from visloom.tasks.segment import CrossEntropy, Segment
from visloom.tasks.segment.nets import Compact, NetSpec, Normalise, Pspnet, Smp
from visloom.units import Epochs, Monitor, Steps

NORMALISE = Normalise((140.25, 136.1, 134.2), (70.0, 69.3, 70.1))
"""Of all pixels of the photos: for networks that start from scratch. Pretrained encoders keep their own."""

GROUPS = {
    "background": ("null",),
    "skin": ("skin",),
    "hair": ("hair",),
    "upper body": (
        "blazer", "blouse", "bra", "cardigan", "hoodie", "jacket", "jumper", "shirt", "suit", "sweater", "sweatshirt",
        "t-shirt", "top", "vest",
    ),
    "lower body": (
        "intimate", "jeans", "leggings", "panties", "pants", "shorts", "skirt", "socks", "stockings", "tights",
    ),
    "dress or coat": ("bodysuit", "cape", "coat", "dress", "romper", "swimwear"),
    "shoes": (
        "boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers", "wedges",
    ),
    "accessories": (
        "accessories", "bag", "belt", "bracelet", "earrings", "glasses", "gloves", "hat", "necklace", "purse", "ring",
        "scarf", "sunglasses", "tie", "wallet", "watch",
    ),
}  # fmt: skip
"""Group -> labels, for `clothes:coarse`. Leg wear counts as lower body, a suit as its jacket."""

COARSE: Mapping[str, str] = {label: group for group, labels in GROUPS.items() for label in labels}


def clothes() -> Run:
    """UNet with a ResNet-50 encoder from ImageNet, 80 epochs at 400 pixels, the encoder at a tenth of the rate."""
    return _large("clothes", Smp("unet", "resnet50", pretrained=True), r"model\.encoder\.")


def unet() -> Run:
    """The same as `clothes`: UNet with a ResNet-50 encoder."""
    return change(clothes(), {"name": "clothes-unet"})


def psp() -> Run:
    """The template's PSPNet on a dilated ResNet-50 with its auxiliary head; weights by init.net=FILE."""
    run = _large("clothes-psp", Pspnet("resnet50"), r"net\.(initial|layer[1-4])\.")
    return change(run, {"init_coverage": 0.5})


def _large(name: str, net: NetSpec, backbone: str) -> Run:
    """A network at 400 pixels on the longer side: the template's settings, at native size in evaluation."""
    return Run(
        name=name,
        task=Segment(
            net=net,
            classes=CLASSES,
            colours=voc_palette(len(CLASSES)),
            background="null",
            normalise="net",
            long=400,
        ),
        train=Shuffled(
            source=Clothes(part="train", cache=True),
            batch=16,
            transform=(
                RandomScale(scale=(0.75, 1.5), long=400),
                RandomRotation(degrees=10.0),
                RandomCrop(size=(384, 288)),
                RandomFlip(),
                ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
            ),
        ),
        evals=_evals(Epochs(5)),
        length=Epochs(80),
        optim=Optim(name="SGD", lr=0.01, weight_decay=1e-4, options={"momentum": 0.9}),
        rules=(Rule(name=backbone, lr=0.1),),
        schedule=Warmup(Poly(0.9), Steps(100)),
        save=Save(every=Epochs(5)),
        log=Log(every=Steps(20), images=15),
    )


def _evals(every: Epochs) -> dict[str, Eval]:
    return {
        "val": Eval(
            stream=Ordered(source=Clothes(part="val", cache=True), batch=8),
            every=every,
            monitor=Monitor("max", "miou"),
        )
    }


def small() -> Run:
    """A compact network from scratch, photos at 192 pixels, for one CPU core and about 40 minutes."""
    return Run(
        name="clothes-small",
        task=Segment(
            net=Compact(width=32),
            loss=CrossEntropy(weights="sqrt", cap=10.0),
            classes=CLASSES,
            colours=voc_palette(len(CLASSES)),
            background="null",
            normalise=NORMALISE,
            long=192,
            flip=True,  # both views in an evaluation: 2 points of pixel accuracy
        ),
        train=Shuffled(
            source=Clothes(part="train", cache=True),
            batch=16,
            transform=(
                RandomScale(scale=(0.8, 1.4), long=192),
                RandomRotation(degrees=10.0),
                RandomCrop(size=(192, 136)),
                RandomFlip(),
                ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
            ),
        ),
        evals=_evals(Epochs(11)),  # with 59 classes at the photos' own size, one costs as much as an epoch
        length=Epochs(33),
        optim=Optim(name="AdamW", lr=8e-3, weight_decay=0.05),
        schedule=OneCycle(rise=0.25, final_div=100.0),
        how=How(precision="fp32"),
        host=Host(threads=1, workers=0),
        save=Save(every=Epochs(3)),
        log=Log(every=Steps(25), images=15),
    )


def long() -> Run:
    """`clothes:small` at 256 pixels and four times as many epochs: three to four hours of one CPU core."""
    return change(
        small(),
        {
            "name": "clothes-long",
            "task.long": 256,
            "train.transform.RandomScale.long": 256,
            "train.transform.RandomCrop.size": (256, 184),
            "length": "epochs:135",
            "evals.val.every": "epochs:27",
            "save.every": "epochs:2",
        },
    )


def coarse() -> Run:
    """`clothes:small` with the 59 labels merged into 8 groups: background, skin, hair, upper and lower body, ..."""
    return change(
        small(),
        {
            "name": "clothes-coarse",
            "length": "epochs:54",
            "evals.val.every": "epochs:6",
            "task.classes": _groups(),
            "task.colours": [],
            "task.background": "background",
            "train.source.remap": dict(COARSE),
            "evals.val.stream.source.remap": dict(COARSE),
        },
    )


def _groups() -> list[str]:
    """The groups in the order in which their labels first come, which is how `remap` orders them."""
    return list(dict.fromkeys(COARSE[label] for label in CLASSES))
