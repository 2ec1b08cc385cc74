"""The embedded town, parsed: objects, their parts, materials, textures and the scene by one network from three sources.

    visloom train sights        mean IoU of objects .33, parts .08, materials .27; scene .59; in 69 CPU-seconds
                                (measured before there were textures)

The same as `visloom demo parse`. One source labels objects, parts and scenes, another one materials, on other pictures,
and a third one has pictures of one texture each; nothing is on disk.
"""

from __future__ import annotations

from visloom.data.town import Sights
from visloom.data.town.labels import MATERIAL_COLOURS, MATERIALS, OBJECT_COLOURS, OBJECTS, PARTS, SCENES
from visloom.data.town.textures import TEXTURES
from visloom.data.transforms import RandomFlip
from visloom.recipes.scenery import NORMALISE
from visloom.run import Eval, Host, How, Log, Optim, Run, Save
from visloom.schedule import OneCycle
from visloom.stream import Mixture, Ordered, Shuffled
from visloom.tasks.parse import Head, Parse, Parts, PartsOf, Pixels, Texture, Uper, Whole
from visloom.units import Epochs, Monitor, Steps

HEADS: tuple[Head, ...] = (
    Whole(name="scene", classes=SCENES),
    Pixels(name="object", classes=OBJECTS, void=True, colours=OBJECT_COLOURS),
    Parts(name="part", of="object", parts=tuple(PartsOf(name, parts) for name, parts in PARTS.items())),
    Pixels(name="material", classes=MATERIALS, at="finest", void=True, colours=MATERIAL_COLOURS),
    Texture(name="texture", classes=TEXTURES, width=32, depth=3),
)
"""What is asked of a picture of the town, or of a texture."""


def sights() -> Run:
    """A narrow UPerNet on 520 pictures of 64x96 and 120 textures of 64x64, one torch thread."""
    return Run(
        name="sights",
        task=Parse(
            net=Uper(
                "timm:resnet10t",
                width=24,
                pooled=8,
                options={"channels": (16, 32, 64, 128), "stem_width": 8},
            ),
            heads=HEADS,
            sides=(),
            short=0,
            normalise=NORMALISE,
        ),
        train=Mixture(
            parts=(
                Shuffled(source=Sights(records="objects", samples=320), batch=8, transform=(RandomFlip(),)),
                Shuffled(source=Sights(records="materials", samples=200), batch=8, transform=(RandomFlip(),)),
                Shuffled(
                    source=Sights(records="textures", samples=120, width=64),
                    batch=8,
                    transform=(RandomFlip(),),
                ),
            )
        ),
        evals={
            "objects": Eval(
                stream=Ordered(source=Sights(records="objects", part="val", samples=64), batch=8),
                every=None,
                monitor=Monitor("max", "object_miou"),
            ),
            "materials": Eval(
                stream=Ordered(source=Sights(records="materials", part="val", samples=64), batch=8),
                every=None,
            ),
            "textures": Eval(
                stream=Ordered(source=Sights(records="textures", part="val", samples=64, width=64), batch=8),
                every=None,
            ),
        },
        length=Epochs(8),
        optim=Optim(name="AdamW", lr=0.012, weight_decay=0.02),
        schedule=OneCycle(rise=0.25, final_div=100.0),
        how=How(precision="fp32"),
        host=Host(threads=1, workers=0),
        save=Save(every=Epochs(8)),
        log=Log(every=Steps(20), images=9),
    )
