"""PASCAL VOC 2007 (Everingham et al. 2010), which of 20 things a picture shows: VGG-16 as in mmclassification.

    visloom train voc_labels --data DIR init.net=vgg16.pth      40 epochs from weights of ImageNet
    visloom train voc_labels:asymmetric --data DIR              with the asymmetric loss

DIR holds VOCdevkit/VOC2007 with the trainval and test lists. The original published no number for it. There, the ten
times higher learning rate of the head is written down but never applied (its key begins with a dot that no name has).
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.transforms import CenterCrop, RandomFlip, RandomResizedCrop, Resize
from visloom.data.voc_labels import CLASSES, VocLabels
from visloom.run import Call, Eval, Optim, Rule, Run
from visloom.schedule import Step
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Asymmetric, Custom, MultiLabel, Normalise
from visloom.units import Epochs, Monitor


def voc_labels() -> Run:
    """VGG-16 with binary cross entropy: SGD 0.001, ten times that for the head, a tenth every 20 of 40 epochs."""
    normalise = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    return Run(
        name="voc_labels",
        task=MultiLabel(
            net=Custom(Call("torchvision.models:vgg16"), channels_as="", normalise=normalise),
            classes=CLASSES,
        ),
        train=Shuffled(
            source=VocLabels(part="trainval"),
            batch=128,
            transform=(RandomResizedCrop(size=224, scale=(0.7, 1.0)), RandomFlip()),
        ),
        evals={
            "test": Eval(
                stream=Ordered(
                    source=VocLabels(part="test"),
                    batch=128,
                    transform=(Resize(short=256), CenterCrop(size=224)),
                ),
                monitor=Monitor("max", "mAP"),
            )
        },
        length=Epochs(40),
        optim=Optim(name="SGD", lr=0.001, options={"momentum": 0.9}),
        rules=(Rule(name=r"^net\.classifier\.", lr=10.0),),
        schedule=Step(Epochs(20), gamma=0.1),
    )


def asymmetric() -> Run:
    """The same with the asymmetric loss, which makes little of the many absent classes."""
    return change(voc_labels(), {"name": "voc_labels-asymmetric", "task.loss": Asymmetric()})
