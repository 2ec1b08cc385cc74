"""A folder of pictures with boxes of your own: in COCO's JSON, VOC's XML, YOLO's text files or a CSV table.

    visloom new mine.yaml --data DIR                  writes a recipe for what the folder holds
    visloom train boxes --data DIR                    DIR/images/a.jpg with DIR/annotations/a.xml
    visloom train boxes:small --data DIR              a light network from scratch, for a CPU

A tenth of the pictures, the same for everyone, is held out for validation.
"""

from __future__ import annotations

from dataclasses import replace

from visloom.config import change
from visloom.data.photometric import ColorJitter
from visloom.data.shortside import ShortSide
from visloom.data.target import Strong
from visloom.data.transforms import RandomFlip
from visloom.data.voc_xml import VocXml
from visloom.run import Ema, Eval, Host, How, Log, Optim, Rule, Run
from visloom.schedule import Cosine, OneCycle, Warmup
from visloom.stream import Ordered, Pair, Shuffled, Split
from visloom.tasks.adapt import Teacher
from visloom.tasks.detect import Detect, FasterRCNN, Features
from visloom.units import Epochs, Monitor, Steps


def narrow(channels: tuple[int, ...] = (24, 48, 96, 192), maps: tuple[int, ...] = (2, 3, 4)) -> Features:
    """A ResNet with one block in each stage, half as wide as usual or less.

    Plain convolutions with channels last are what a CPU is fast at: LCNet, of as many weights, takes twice as long.
    channels: of the four stages.  maps: numbers of those that the detector takes, 1 at stride 4 to 4 at stride 32;
        stages behind the last are not built.
    """
    return Features(
        "resnet18",
        options={
            "layers": (1, 1, 1, 1),
            "channels": channels,
            "stem_type": "deep",
            "stem_width": 8,
            "out_indices": maps,
        },
    )


def taught(run: Run, name: str, strong: Strong) -> Run:
    """An adaptation by a teacher alone: a moving average of the network labels the target.

    The network learns both domains in stronger colours than the teacher sees.
    """
    assert isinstance(run.train, Pair)
    halves = {half: getattr(run.train, half).transform for half in ("source", "target")}
    return change(
        run,
        {
            "name": name,
            "task.align": None,
            "task.teacher": Teacher(threshold=0.6, burn_in=0.6),
            "how.ema": Ema(decay=0.98, into="net -> teacher"),
            **{f"train.{half}.transform": (*transform, strong) for half, transform in halves.items()},
        },
    )


LIGHT = FasterRCNN(
    body=narrow(),
    width=64,
    head=128,
    strides=(8, 16, 32),
    anchors=(16, 32, 64, 128),
    rpn_batch=64,
    roi_batch=64,
    before=(200, 100),
    after=(100, 80),
    all=(100, 80),
    most=100,
    pool=5,
    samples=1,
)
"""A detector of a million weights, meant to be trained from scratch on a CPU at 256 pixels."""


def boxes() -> Run:
    """Faster R-CNN on a ResNet-18 pyramid at 480 to 640 pixels, 30 epochs of AdamW, the body at a third of the rate."""
    resize = ShortSide(short=(480, 512, 544, 576, 608, 640), longest=1024)
    return Run(
        name="boxes",
        task=Detect(net=FasterRCNN(body=Features("resnet18"), width=128, head=512, roi_batch=256)),
        train=_train(resize, 8),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=VocXml(split=Split("tail", 0.9)),
                    batch=4,
                    transform=(ShortSide(short=(576,), longest=1024),),
                ),
                every=Epochs(1),
                monitor=Monitor("max", "ap"),
            )
        },
        length=Epochs(30),
        optim=Optim(name="AdamW", lr=2e-4, weight_decay=0.05),
        rules=(
            Rule(name=r"net\.backbone\.body\.", lr=0.33),
            Rule(kind="bias", weight_decay=0.0),
            Rule(kind="norm", weight_decay=0.0),
        ),
        schedule=Warmup(Cosine(floor_ratio=0.01), Steps(200)),
        how=How(ema=Ema(decay=0.998)),
        log=Log(every=Steps(20), images=12),
    )


def small() -> Run:
    """A light network from scratch at 256 pixels."""
    run = boxes()
    return replace(
        run,
        name="boxes-small",
        task=Detect(net=LIGHT),
        train=_train(ShortSide(short=(208, 256, 304), longest=512), 8),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=VocXml(split=Split("tail", 0.9)),
                    batch=8,
                    transform=(ShortSide(short=(256,), longest=512),),
                ),
                every=Epochs(5),
                monitor=Monitor("max", "ap50"),
            )
        },
        optim=Optim(name="AdamW", lr=3e-3, weight_decay=0.02),
        rules=(Rule(kind="bias", weight_decay=0.0), Rule(kind="norm", weight_decay=0.0)),
        schedule=OneCycle(rise=0.2),
        how=How(precision="fp32"),
        host=Host(threads=1),
    )


def _train(resize: ShortSide, batch: int) -> Shuffled:
    return Shuffled(
        source=VocXml(split=Split("head", 0.9)),
        batch=batch,
        transform=(resize, RandomFlip(), ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)),
        tail="wrap",
    )
