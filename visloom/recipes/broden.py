"""Broden+: objects, parts, scenes, materials (and textures) by one UPerNet, from ADE20K, Pascal and OpenSurfaces.

    visloom train broden --data DIR init.net.encoder=FILE      the original's settings, its defects mended
    visloom train broden:light --data DIR                      the light variant
    visloom train broden:textures --data DIR                   with DTD, which the paper has and its code has not
    visloom train broden:original --data DIR                   the original's optimizer dynamics, defects included

DIR holds broden_dataset/ and meta_file/, as the original's download script makes them. FILE is an ImageNet ResNet-50
with the deep stem. The paper reports for objects, parts, scenes and materials mIoU 23.36, mIoU 28.75, top-1 70.87, mIoU
54.19; users of the weights that came with its code measured less, and no run of ours has been that long yet.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.broden import Broden, Records
from visloom.data.transforms import RandomFlip
from visloom.run import Eval, Log, Optim, Rule, Run, Save
from visloom.schedule import Poly
from visloom.stream import Mixture, Ordered, Shuffled
from visloom.tasks.parse import Parse, Uper
from visloom.tasks.parse.broden import heads
from visloom.units import Monitor, Steps

RULES = (
    Rule(name=r"net\.encoder\.", lr=1.0),
    Rule(name=r"net\.decoder\.", lr=1.0),
    Rule(kind="bias", weight_decay=0.0),
    Rule(kind="norm", weight_decay=0.0),
)
"""Encoder and decoder may have learning rates of their own; biases and norms do not decay."""


def broden() -> Run:
    """ResNet-50, 16 pictures a step from one source each, 200,000 steps, as published for eight GPUs."""
    return _run("broden", ("objects", "materials"))


def light() -> Run:
    """The light variant: a pyramid of 256 channels."""
    return change(broden(), {"name": "broden-light", "task.net.width": 256})


def textures() -> Run:
    """With a third source, DTD, whose labels do not reach the encoder, as in the paper."""
    return _run("broden-textures", ("objects", "materials", "textures"))


def original() -> Run:
    """The original's dynamics: idle heads drift under momentum and decay, the rate lags a step, norms move by 0.001."""
    return change(
        broden(),
        {
            "name": "broden-original", "how.idle": "zero", "schedule": Poly(0.9, lag=1),
            "task.net.norm_momentum": 0.001, "task.antialias": False, "how.precision": "fp32",
        },
    )  # fmt: skip


def _run(name: str, lists: tuple[Records, ...]) -> Run:
    chosen = tuple(task for records in lists for task in Broden.tasks[records])
    return Run(
        name=name,
        task=Parse(net=Uper(), heads=heads(*chosen)),
        train=Mixture(
            parts=tuple(
                Shuffled(
                    source=Broden(root="broden_dataset", records=records),
                    batch=16,
                    transform=(RandomFlip(),),
                    group="orientation",
                )
                for records in lists
            ),
            epoch=5000,
        ),
        evals={
            records: Eval(
                stream=Ordered(
                    source=Broden(root="broden_dataset", records=records, part="validation"), batch=2
                ),
                every=Steps(20_000),
                monitor=Monitor("max", "object_miou") if records == "objects" else None,
            )
            for records in lists
        },
        length=Steps(200_000),
        optim=Optim(name="SGD", lr=0.02, weight_decay=1e-4, options={"momentum": 0.9}),
        rules=RULES,
        schedule=Poly(0.9),
        save=Save(every=Steps(5000)),
        log=Log(every=Steps(20)),
    )
