"""Clear weather learnt, fog understood: a detector adapts to a domain whose pictures have no labels.

    visloom train foggy                       clear to foggy streets of the embedded town, no data set needed
    visloom train foggy:source                the same without a look at the fog: what the others are measured by
    visloom train foggy:oracle                trained on the fog's own labels: what could be reached
    visloom train foggy:teacher               a teacher labels the fog
    visloom demo adapt                        source and adapted from one burn-in, side by side
    visloom train foggy:original --data DIR   Cityscapes to Foggy Cityscapes, as DA Faster R-CNN was published

DIR/cityscapes holds gtFine, leftImg8bit and leftImg8bit_foggy (beta 0.02) as they are unpacked. Nothing was trained on
them here: 41.0 % AP50 is published for this schedule on R-50-C4 from MSRA's weights (init.net.backbone.body takes them,
see `visloom import-checkpoint maskrcnn catalog://ImageNetPretrained/MSRA/R-50`), 24.9 % without the fog.
"""

from __future__ import annotations

from typing import Literal

from visloom.config import change
from visloom.data.cityscapes_boxes import CLASSES, CityscapesBoxes
from visloom.data.photometric import ColorJitter, GaussianBlur
from visloom.data.shortside import ShortSide
from visloom.data.target import Strong, Target
from visloom.data.town import Drive
from visloom.data.transforms import RandomFlip
from visloom.recipes.boxes import narrow, taught
from visloom.run import Eval, Host, How, Log, Optim, Rule, Run, Save
from visloom.schedule import Multistep, OneCycle, Warmup
from visloom.stream import Ordered, Pair, Shuffled
from visloom.tasks.adapt import Adapt, Align
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.detect import Detect, FasterRCNN, ResNetBody
from visloom.units import Monitor, Steps

NET = FasterRCNN(
    body=narrow(channels=(24, 48, 96, 96), maps=(2, 3)),
    width=48,
    head=96,
    strides=(8, 16),
    anchors=(24, 40, 64),
    ratios=(0.6, 1.1),
    rpn_high=0.5,
    rpn_batch=64,
    roi_batch=48,
    before=(150, 100),
    after=(60, 40),
    all=(60, 40),
    most=30,
    pool=5,
    samples=1,
)
"""A detector of 0.3 million weights that learns the town's nearer vehicles in half a minute of one core.

Anchors count as objects from an overlap of 0.5 on: with the usual 0.7, most boxes would have but one of two shapes.
"""

NORMALISE = Normalise((112.0, 107.0, 105.0), (52.0, 49.0, 50.0))
VEHICLES = (("vehicle", ("car", "van", "truck", "bus")),)
COLOURS = ColorJitter(brightness=0.2, contrast=0.4)
"""Of both domains, in every preset."""


def _streets(weather: str, part: str, samples: int) -> Drive:
    return Drive(
        part=part,  # type: ignore[arg-type]
        samples=samples,
        height=128,
        width=192,
        visible=200,
        weather=weather,
        groups=VEHICLES,
    )


def source() -> Run:
    """Clear streets alone, evaluated in clear weather and in fog: the number that adaptation is measured by."""
    clear = _streets("clear", "train", 100)
    return Run(
        name="foggy-source",
        task=Detect(net=NET, classes=clear.classes(), normalise=NORMALISE, shown=0.4),
        train=Shuffled(source=clear, batch=4, transform=(RandomFlip(), COLOURS), tail="wrap"),
        evals={
            "fog": Eval(
                stream=Ordered(source=_streets("fog", "val", 40), batch=8),
                every=None,
                monitor=Monitor("max", "ap50"),
                losses=False,
            ),
            "clear": Eval(
                stream=Ordered(source=_streets("clear", "val", 40), batch=8), every=None, losses=False
            ),
        },
        length=Steps(200),
        optim=Optim(name="AdamW", lr=3e-3, weight_decay=0.01),
        schedule=OneCycle(rise=0.25),
        how=How(precision="fp32"),
        host=Host(threads=1, workers=0),
        save=Save(every=Steps(100)),
        log=Log(every=Steps(10), images=6),
    )


def foggy() -> Run:
    """DA Faster R-CNN: image and instance discriminators with reversed gradients, and their consistency."""
    run = source()
    assert isinstance(run.task, Detect) and isinstance(run.train, Shuffled)
    fog = Shuffled(
        source=_streets("fog", "train", 100),
        batch=4,
        transform=(Target(), RandomFlip(), COLOURS),
        tail="wrap",
    )
    return change(
        run,
        {
            "name": "foggy",
            "task": Adapt(
                net=NET,
                classes=run.task.classes,
                normalise=NORMALISE,
                shown=0.4,
                align=Align(ramp="warm", hidden=(64, 128)),
            ),
            "train": Pair(source=run.train, target=fog),
        },
    )


def teacher() -> Run:
    """A moving average of the network labels the fog, which is shown to the network in stronger colours."""
    strong = Strong((ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3), GaussianBlur(p=0.3)))
    return taught(foggy(), "foggy-teacher", strong)


def oracle() -> Run:
    """The fog's own labels: the bound that adaptation is measured by from above."""
    return change(source(), {"name": "foggy-oracle", "train.source": _streets("fog", "train", 100)})


def original() -> Run:
    """Cityscapes to Foggy Cityscapes as published: R-50-C4, 1 + 1 pictures of 600 pixels, 70,000 iterations."""
    resize = ShortSide(short=(600,), longest=1200)

    def streets(part: Literal["train", "val"], *beta: float) -> CityscapesBoxes:
        return CityscapesBoxes(root="cityscapes", part=part, beta=beta)

    def half(source: CityscapesBoxes, *first: Target) -> Shuffled:
        return Shuffled(
            source=source,
            batch=1,
            transform=(*first, resize, RandomFlip()),
            group="orientation",
            tail="wrap",
        )

    net = FasterRCNN(
        body=ResNetBody(depth=50),
        neck="c4",
        before=(12000, 6000),
        after=(2000, 1000),
        roi_batch=256,
        nms=0.3,
    )
    return Run(
        name="foggy-original",
        task=Adapt(net=net, classes=CLASSES, compat=True),
        train=Pair(source=half(streets("train")), target=half(streets("train", 0.02), Target())),
        evals={
            "val": Eval(
                stream=Ordered(source=streets("val", 0.02), batch=1, transform=(resize,)),
                every=Steps(5000),
                monitor=Monitor("max", "ap50"),
            )
        },
        length=Steps(70_000),
        optim=Optim(name="SGD", lr=0.001, weight_decay=0.0005, options={"momentum": 0.9}),
        rules=(Rule(name="bias", lr=2.0, weight_decay=0.0),),
        schedule=Warmup(Multistep((Steps(50_000),), 0.1), Steps(500), start=1 / 3),
        how=How(precision="fp32"),
        save=Save(every=Steps(2500), keep=3),
        log=Log(every=Steps(20)),
    )
