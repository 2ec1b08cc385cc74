"""CIFAR-10 (Krizhevsky 2009) with the ResNets of mmclassification, and a small network for a CPU.

    visloom train cifar10 --data DIR              ResNet-18, 200 epochs: published 94.72 % top-1
    visloom train cifar10:resnet50 --data DIR     ResNet-50, 200 epochs: published 95.36 %
    visloom train cifar10:fast --data DIR         40 CPU-minutes in fp32: 91.0 %; made for a CPU with bf16
    visloom train cifar10:fast_fp32 --data DIR    20 CPU-minutes in fp32: 89.7 %

DIR holds cifar-10-batches-py. What these recipes reached here stands in docs/results.md.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.cifar import Cifar
from visloom.data.transforms import AlternatingFlip, RandomCrop, RandomFlip, RandomTranslate
from visloom.run import Eval, Optim, Rule, Run, Save
from visloom.schedule import Linear, Multistep
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Classify
from visloom.tasks.classify.nets import FastCifar, ResNetCifar
from visloom.units import Epochs, Monitor


def cifar10() -> Run:
    """ResNet-18 as published: SGD 0.1, a tenth after 100 and 150 of 200 epochs, batch 128, crop and flip."""
    return Run(
        name="cifar10",
        task=Classify(net=ResNetCifar(18), topk=(1, 5)),
        train=Shuffled(
            source=Cifar(name="cifar10", train=True),
            batch=128,
            transform=(RandomCrop(size=32, padding=4), RandomFlip()),
            tail="keep",
        ),
        evals={
            "test": Eval(
                stream=Ordered(source=Cifar(name="cifar10", train=False), batch=250),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(200),
        optim=Optim(name="SGD", lr=0.1, weight_decay=1e-4, options={"momentum": 0.9}),
        schedule=Multistep((Epochs(100), Epochs(150)), gamma=0.1),
        save=Save(every=Epochs(1), keep=2),
    )


def fast() -> Run:
    """A small network for one CPU core: whitening, Muon for the filters, growing images, mirrored and shifted views.

    After K. Jordan's airbench (arXiv 2404.00498), with its settings for batch 250.
    """
    rest = Optim(name="SGD", lr=13.25, weight_decay=3.7736e-5, options={"momentum": 0.85, "nesterov": True})
    muon = Optim(
        name="Muon",
        lr=0.085,
        options={"momentum": 0.6, "nesterov": True, "unit_norm": True, "steps": 3},
        names=r"blocks\.\d\.conv[12]\.weight",
        rest=rest,
    )
    return Run(
        name="cifar10-fast",
        task=Classify(
            net=FastCifar((64, 256, 256)),
            smoothing=0.2,
            tta="mirror_shift",
            grow=((0.35, 20), (0.7, 26)),
            topk=(1, 5),
        ),
        train=Shuffled(
            source=Cifar(name="cifar10", train=True),
            batch=250,
            transform=(
                AlternatingFlip(),
                RandomTranslate(pixels=2, mode="reflect"),
            ),
        ),
        evals={
            "test": Eval(
                stream=Ordered(source=Cifar(name="cifar10", train=False), batch=250),
                every=None,
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(14),
        optim=muon,
        rules=(Rule(name=r"head\.weight", lr=12.6415, weight_decay=2.98507e-6),),
        schedule=Linear(),
        save=Save(every=Epochs(2)),
    )


def fast_fp32() -> Run:
    """The same for a CPU that multiplies in fp32 only: narrower, and most of its steps on small images."""
    return change(
        fast(),
        {
            "name": "cifar10-fast-fp32",
            "task.net.widths": (64, 128, 256),
            "task.grow": ((0.45, 17), (0.75, 25)),  # 16, 24 and 31 pixels after the first layer
            "length": Epochs(11),
        },
    )


def resnet34() -> Run:
    """Published: 95.34 %."""
    return change(cifar10(), {"task.net.depth": 34})


def resnet50() -> Run:
    """Published: 95.36 %."""
    return change(cifar10(), {"task.net.depth": 50})


def resnet101() -> Run:
    """Published: 95.66 %."""
    return change(cifar10(), {"task.net.depth": 101})


def resnet152() -> Run:
    """Published: 95.96 %."""
    return change(cifar10(), {"task.net.depth": 152})
