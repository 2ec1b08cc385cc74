"""Several sources of your own, each labelled for some tasks, and one parsing network that learns them all.

    visloom new mine.yaml --data DIR        DIR/sources.yaml names sources, tasks and folders: see docs/own_sources.md
    visloom train mine.yaml
    visloom train mine.yaml task.net.pretrained=true      the encoder starts from ImageNet
    visloom train sources --data DIR        as it stands: for the two sources of that page
    visloom train sources:small --data DIR  a narrow network at 128 pixels, for a CPU

Each step takes its pictures from one source and trains the heads that this source labels; the others rest.
"""

from __future__ import annotations

from dataclasses import replace

from visloom.data.annotated import Annotated
from visloom.data.transforms import RandomFlip
from visloom.recipes.broden import RULES
from visloom.run import Eval, Host, How, Log, Optim, Run
from visloom.schedule import Poly, Warmup
from visloom.stream import Mixture, Ordered, Shuffled
from visloom.tasks.parse import Parse, Parts, PartsOf, Pixels, Uper, Whole
from visloom.units import Epochs, Monitor, Steps

HEADS = (
    Pixels(name="object", classes=("sky", "road", "car", "person")),
    Parts(
        name="part",
        of="object",
        parts=(PartsOf("car", ("wheel", "window")), PartsOf("person", ("head", "torso"))),
    ),
    Whole(name="scene", classes=("street", "beach", "room")),
    Pixels(name="material", classes=("wood", "metal", "fabric"), at="finest"),
)
"""Tasks of the two sources in docs/own_sources.md."""


def sources() -> Run:
    """UPerNet on a timm ResNet-50, 60 epochs of AdamW, the encoder at half the rate."""
    return Run(
        name="sources",
        task=Parse(net=Uper("timm:resnet50", width=256, pooled=256), heads=HEADS),
        train=Mixture(
            parts=tuple(
                Shuffled(
                    source=Annotated(source=name, part="train"),
                    batch=8,
                    transform=(RandomFlip(),),
                    group="orientation",
                    tail="wrap",
                )
                for name in ("streets", "rooms")
            )
        ),
        evals={
            name: Eval(
                stream=Ordered(source=Annotated(source=name, part="validation"), batch=2),
                every=Epochs(2),
                monitor=Monitor("max", "object_miou") if name == "streets" else None,
            )
            for name in ("streets", "rooms")
        },
        length=Epochs(60),
        optim=Optim(name="AdamW", lr=4e-4, weight_decay=0.01),
        rules=(replace(RULES[0], lr=0.5), *RULES[1:]),
        schedule=Warmup(Poly(0.9), Epochs(1)),
        log=Log(every=Steps(20), images=12),
    )


def small() -> Run:
    """A narrow network from scratch at 128 pixels: minutes on one CPU core."""
    run = sources()
    assert isinstance(run.task, Parse)
    net = Uper("resnet50", base=8, width=64, pooled=32)
    return replace(
        run,
        name="sources-small",
        task=replace(run.task, net=net, sides=(112, 128, 144), short=128, longest=256),
        optim=Optim(name="AdamW", lr=2e-3, weight_decay=0.01),
        how=How(precision="fp32"),
        host=Host(threads=1),
    )
