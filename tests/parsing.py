"""A parsing task of five heads on a narrow network, pictures for it, and two sources that label different heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visloom.data.transforms import RandomFlip
from visloom.sample import Sample
from visloom.source import Source
from visloom.stream import Mixture, Shuffled
from visloom.tasks.parse import Parse, Parts, PartsOf, Pixels, Texture, Uper, Whole

HEADS = (
    Pixels(name="object", classes=("-", "car", "person", "sky"), void=True),
    Parts(
        name="part", of="object", parts=(PartsOf("car", ("wheel", "window")), PartsOf("person", ("head",)))
    ),
    Whole(name="scene", classes=("street", "beach", "room")),
    Pixels(name="material", classes=("wood", "metal"), at="finest"),
    Texture(name="texture", classes=("dotted", "woven"), width=4, depth=1),
)
NET = Uper("resnet50", base=2, width=8, pooled=4)
SPEC = Parse(net=NET, heads=HEADS, sides=(), short=0)


def objects(i=0, size=(40, 72), tasks=("object", "part", "scene"), scene=1):
    """A sample: sky above, a car with a wheel, a person with a head."""
    mask = np.full(size, -1, np.int32)
    mask[: size[0] // 2] = 3
    mask[size[0] // 2 :, : size[1] // 2] = 1
    mask[size[0] // 2 :, size[1] // 2 : -8] = 2
    part = np.full(size, -1, np.int32)
    part[mask == 1] = 0
    part[size[0] // 2 + 8 :, :16] = 1
    part[mask == 2] = 3
    part[size[0] // 2 : size[0] // 2 + 8, size[1] // 2 : size[1] // 2 + 12] = 4
    image = np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
    extra = {"tasks": tasks, "labels": {"scene": scene}}
    masks = {name: value for name, value in (("object", mask), ("part", part)) if name in tasks}
    return Sample(f"o{i}", image, masks=masks, extra=extra)


def materials(i=0, size=(40, 72), void=False):
    mask = np.full(size, -1, np.int32)
    if not void:
        mask[:, 10:50] = np.arange(size[0])[:, None] % 2
    image = np.random.default_rng(100 + i).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Sample(f"m{i}", image, masks={"material": mask}, extra={"tasks": ("material",)})


@dataclass(frozen=True, kw_only=True)
class Labelled(Source):
    """Pictures with objects, parts and a scene, or with materials. mixed: each of another size."""

    what: str = "objects"
    samples: int = 12
    mixed: bool = False

    def count(self) -> int:
        return self.samples

    def fetch(self, index: int) -> Sample:
        size = self._size(index)
        return objects(index, size, scene=index % 4 - 1) if self.what == "objects" else materials(index, size)

    def sizes_all(self):
        return np.array([self._size(index) for index in range(self.samples)], np.int64)

    def _size(self, index: int) -> tuple[int, int]:
        return (40 + 4 * (index % 3), 72 + 16 * (index % 5)) if self.mixed else (40, 72)

    def labelled(self) -> dict[str, tuple[str, ...]]:
        names = ("object", "part", "scene") if self.what == "objects" else ("material",)
        return {head.name: head.labels for head in HEADS if head.name in names}


def mixture(batch: int = 4, seed: int = 0, mixed: bool = False) -> Mixture:
    """Steps from one source or the other."""
    return Mixture(
        parts=tuple(
            Shuffled(
                source=Labelled(what=what, samples=n, mixed=mixed),
                batch=batch,
                transform=(RandomFlip(),),
                tail="wrap",
            )
            for what, n in (("objects", 12), ("materials", 8))
        ),
        seed=seed,
    )
