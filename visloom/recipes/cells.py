"""Blood cells through one microscope learnt, through another understood: BCCD to a smear that has no labels.

    visloom train cells --data DIR                DA Faster R-CNN: image and instance discriminators
    visloom train cells:source --data DIR         BCCD alone: what the others are measured by
    visloom train cells:ema --data DIR            BCCD alone, stronger colours, an average of the weights
    visloom train cells:norms --data DIR          BCCD alone, batch norm by the smear's statistics
    visloom train cells:teacher --data DIR        a teacher labels the target
    visloom train cells:oracle --data DIR         trained on the target's own labels: what could be reached
    visloom train cells:zero --data DIR           control: discriminators whose gradient does not reach the features
    visloom train cells:same --data DIR           control: the target is the source again
    visloom train cells:bccd --data DIR           plain detection of BCCD's three classes

DIR/BCCD is BCCD (Shenggan, MIT: 205 and 87 pictures of 640x480, VOC's XML), DIR/blood-smear-b the smear (draaslan,
MIT: 60 pictures of 256x256 to adapt to, whose labels no loss sees, and 20 to count on, in COCO's JSON). At 256 pixels
a red cell is 55 pixels wide in BCCD and 49 in the smear, a white one 101 and 95: the domains differ in stain, in
density, and in cells that the smear's picture edge cuts. All presets but `bccd` make the same number of updates with as
many labelled pictures, from scratch, on RBC and WBC. The last state is evaluated, never the best: choosing by the
target's labels would use them. `benchmarks/adaptation.py` trains all of them from one burn-in for each seed;
docs/results.md has the numbers.
"""

from __future__ import annotations

from dataclasses import replace

from visloom.config import change
from visloom.data.coco import Coco
from visloom.data.photometric import ColorJitter, GaussianBlur
from visloom.data.shortside import ShortSide
from visloom.data.target import Strong, Target
from visloom.data.transforms import RandomCrop, RandomFlip
from visloom.data.voc_xml import VocXml
from visloom.recipes.boxes import narrow, taught
from visloom.run import Ema, Eval, Host, How, Log, Optim, Rule, Run, Save
from visloom.schedule import OneCycle
from visloom.stream import Ordered, Pair, Shuffled
from visloom.tasks.adapt import Adapt, Align
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.detect import Detect, FasterRCNN
from visloom.units import Epochs, Monitor, Steps

SHARED = ("RBC", "WBC")
CLASSES = ("RBC", "WBC", "Platelets")
NORMALISE = Normalise((186.0, 170.0, 177.0), (45.0, 55.0, 30.0))

NET = FasterRCNN(
    body=narrow(channels=(24, 48, 96, 96), maps=(3,)),
    width=64,
    head=128,
    strides=(16,),
    anchors=(52, 100),
    rpn_batch=64,
    roi_batch=64,
    before=(200, 100),
    after=(80, 60),
    all=(80, 60),
    most=60,
    pool=5,
    samples=1,
)
"""A detector of 0.4 million weights for red and white cells: one map, and one size of anchors for each class."""

FINE = replace(
    NET,
    body=narrow(channels=(24, 48, 96, 96), maps=(2, 3)),
    strides=(8, 16),
    anchors=(22, 52, 100),
    after=(100, 80),
    all=(100, 80),
)
"""With a finer map, for platelets of 21 pixels."""

ALIGN = Align(ramp="warm", hidden=(NET.width, NET.head))
"""The discriminators of the 2018 paper, as wide as this network: at 512 and 1024 they cost more than the detector."""

STRONG = (ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.08), GaussianBlur(p=0.3))
"""Changes of colour that stains and microscopes make, and more."""

_RESIZE = ShortSide(short=(256,), longest=352)
_SHAPE = (ShortSide(short=(224, 240, 256, 272), longest=400), RandomCrop(size=224), RandomFlip())
"""Sizes of both domains; windows whose edges cut cells, as those of the smear do."""


def _bccd(part: str, names: tuple[str, ...] = SHARED) -> VocXml:
    return VocXml(root="BCCD", part=part, names=names)


def _smear(part: str) -> Coco:
    return Coco(root="blood-smear-b", file=f"annotations/{part}.json", images="images")


def source() -> Run:
    """BCCD alone, evaluated on both: the number that adaptation is measured by."""
    return Run(
        name="cells-source",
        task=Detect(net=NET, classes=SHARED, normalise=NORMALISE),
        train=Shuffled(source=_bccd("train"), batch=8, transform=_SHAPE, tail="wrap"),
        evals={
            "smear": Eval(
                stream=Ordered(source=_smear("val"), batch=4, transform=(_RESIZE,)),
                every=None,
                monitor=Monitor("max", "ap50"),
                losses=False,
            ),
            "bccd": Eval(
                stream=Ordered(source=_bccd("val"), batch=4, transform=(_RESIZE,)), every=None, losses=False
            ),
        },
        length=Steps(250),
        optim=Optim(name="AdamW", lr=3e-3, weight_decay=0.02),
        rules=(Rule(kind="bias", weight_decay=0.0), Rule(kind="norm", weight_decay=0.0)),
        schedule=OneCycle(rise=0.2),
        how=How(precision="fp32"),
        host=Host(threads=1, workers=0),
        save=Save(every=Steps(200)),
        log=Log(every=Steps(20), images=12),
    )


def ema() -> Run:
    """BCCD alone in stronger colours, the average of the weights evaluated: the equal baseline of every adaptation."""
    return change(
        source(),
        {
            "name": "cells-ema",
            "train.transform": (*_SHAPE, *STRONG),
            "how.ema": Ema(decay=0.98),
        },
    )


def cells() -> Run:
    """DA Faster R-CNN (2018): discriminators of pictures and of regions, and their consistency, at 0.1 each."""
    run = source()
    assert isinstance(run.task, Detect) and isinstance(run.train, Shuffled)
    target = Shuffled(source=_smear("train"), batch=8, transform=(Target(), *_SHAPE), tail="wrap")
    return change(
        run,
        {
            "name": "cells",
            "task": Adapt(net=NET, classes=SHARED, normalise=NORMALISE, align=ALIGN),
            "train": Pair(source=run.train, target=target),
        },
    )


def norms() -> Run:
    """Batch norm by the smear's own statistics (AdaBN), and nothing else: the weights learn from BCCD alone."""
    return change(cells(), {"name": "cells-norms", "task.align": None, "task.norms": "target"})


def teacher() -> Run:
    """A moving average of the network labels the smear, which is shown to the network in stronger colours."""
    return taught(cells(), "cells-teacher", Strong(STRONG))


def oracle() -> Run:
    """The smear's own labels: the bound that adaptation is measured by from above."""
    return change(source(), {"name": "cells-oracle", "train.source": _smear("train")})


def zero() -> Run:
    """Control: the discriminators learn, their gradient is lost before the features.

    Batch norm still sees both domains together: what it gains against `source` is that, and no more.
    """
    return change(cells(), {"name": "cells-zero", "task.align": replace(ALIGN, image=0.0, instance=0.0)})


def same() -> Run:
    """Control: the target is BCCD again, so there is no domain to adapt to. No gain may come of it."""
    return change(cells(), {"name": "cells-same", "train.target.source": _bccd("train")})


def bccd() -> Run:
    """Plain detection of all three classes of BCCD, counted on its 87 validation pictures."""
    val = Ordered(source=_bccd("val", CLASSES), batch=4, transform=(_RESIZE,))
    colours = ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)
    return replace(
        source(),
        name="cells-bccd",
        task=Detect(net=FINE, classes=CLASSES, normalise=NORMALISE),
        train=Shuffled(source=_bccd("train", CLASSES), batch=8, transform=(*_SHAPE, colours), tail="wrap"),
        evals={"val": Eval(stream=val, every=Epochs(10), monitor=Monitor("max", "ap50"), losses=False)},
        length=Steps(1000),
        how=How(precision="fp32", ema=Ema(decay=0.99)),
    )
