"""COCO 2017 (Lin et al. 2014): the detectors of the published tables, twelve epochs of 16 pictures.

    visloom train coco --data COCO                    Faster R-CNN R-50-FPN: 37 % AP is published for it
    visloom train coco:c4 --data COCO                 on the last map alone, as DA Faster R-CNN uses it
    visloom train coco:mask --data COCO               Mask R-CNN
    visloom train coco:keypoints --data COCO          Keypoint R-CNN, persons
    visloom train coco:retinanet --data COCO          RetinaNet
    visloom train coco --data COCO task.net.body.pretrained=true     the ResNet starts from ImageNet, as published

COCO holds annotations/instances_train2017.json, train2017/*.jpg and the same for val2017. None of these was trained
here: the numbers are those of maskrcnn-benchmark and torchvision for the same schedule.
"""

from __future__ import annotations

from dataclasses import replace

from visloom.config import change
from visloom.data.coco import Coco
from visloom.data.shortside import ShortSide
from visloom.data.transforms import RandomFlip
from visloom.run import Eval, Log, Optim, Rule, Run, Save
from visloom.schedule import Multistep, Warmup
from visloom.stream import Ordered, Shuffled
from visloom.tasks.detect import Detect, FasterRCNN, ResNetBody, RetinaNet
from visloom.tasks.detect.nets import DetectorNet
from visloom.units import Epochs, Monitor, Steps

CATEGORIES = tuple(
    number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)
"""Ids of COCO's 80 classes, which have gaps."""


def coco() -> Run:
    """Faster R-CNN R-50-FPN, 90,000 updates ("1x")."""
    return _run("coco", FasterRCNN(body=ResNetBody(depth=50)), batch=16, lr=0.02, steps=90_000)


def c4() -> Run:
    """Faster R-CNN R-50-C4, 180,000 updates of 8 pictures."""
    net = FasterRCNN(
        body=ResNetBody(depth=50),
        neck="c4",
        before=(12000, 6000),
        after=(2000, 1000),
        all=(2000, 1000),
    )
    return _run("coco-c4", net, batch=8, lr=0.01, steps=180_000)


def mask() -> Run:
    """Mask R-CNN R-50-FPN."""
    run = _run(
        "coco-mask", FasterRCNN(body=ResNetBody(depth=50), masks=True), batch=16, lr=0.02, steps=90_000
    )
    return change(run, {"train.source.masks": True, "evals.val.stream.source.masks": True})


def keypoints() -> Run:
    """Keypoint R-CNN R-50-FPN on COCO's persons, with their 17 keypoints."""
    net = FasterRCNN(body=ResNetBody(depth=50), keypoints=17)
    run = _run("coco-keypoints", net, batch=16, lr=0.02, steps=90_000)
    files = {
        f"{place}.file": f"annotations/person_keypoints_{part}2017.json"
        for place, part in (("train.source", "train"), ("evals.val.stream.source", "val"))
    }
    more = {"train.source.keypoints": True, "evals.val.stream.source.keypoints": True}
    short = {"train.transform.0.short": [640, 672, 704, 736, 768, 800], "task.category_ids": [1]}
    return change(run, {**files, **more, **short})


def retinanet() -> Run:
    """RetinaNet R-50."""
    return _run("coco-retinanet", RetinaNet(body=ResNetBody(depth=50)), batch=16, lr=0.01, steps=90_000)


def _run(name: str, net: DetectorNet, *, batch: int, lr: float, steps: int) -> Run:
    val = Coco(file="annotations/instances_val2017.json", images="val2017")
    resize = ShortSide(short=(800,), longest=1333)
    return Run(
        name=name,
        task=Detect(net=net, category_ids=CATEGORIES),
        train=Shuffled(
            source=replace(
                val, file="annotations/instances_train2017.json", images="train2017", annotated=True
            ),
            batch=batch,
            transform=(resize, RandomFlip()),
            group="orientation",
            tail="wrap",
        ),
        evals={
            "val": Eval(
                stream=Ordered(source=val, batch=8, transform=(resize,)),
                every=Epochs(1),
                monitor=Monitor("max", "ap"),
            )
        },
        length=Steps(steps),
        optim=Optim(name="SGD", lr=lr, weight_decay=1e-4, options={"momentum": 0.9}),
        rules=(Rule(name="bias", lr=2.0, weight_decay=0.0),),
        schedule=Warmup(
            Multistep((Steps(steps * 2 // 3), Steps(steps * 8 // 9)), 0.1), Steps(500), start=1 / 3
        ),
        save=Save(every=Steps(5000), keep=3),
        log=Log(every=Steps(20)),
    )
