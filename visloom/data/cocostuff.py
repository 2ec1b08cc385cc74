"""CocoStuff: COCO with 80 things and 91 kinds of stuff (Caesar, Uijlings, Ferrari 2018), 10k and 164k pictures.

    10k     images/*.jpg   annotations/*.mat, variable `S`: 0 = unlabelled, 1 to 182   imageLists/{train,test,all}.txt
    164k    images/{train2017,val2017}/*.jpg   annotations/{train2017,val2017}/*.png: 0 to 181, 255 = unlabelled
            or the archives as they unpack: {train2017,val2017}/*.jpg, stuffthingmaps_trainval2017/{...}/*.png

11 of the 182 ids were dropped before anything was labelled and never occur. They are no classes here, so 171 are left;
`unused=True` keeps them, as the 182 outputs of older networks do. Gray photos are read as RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from visloom.data.layout import Layout
from visloom.data.legend import Legend, names_in
from visloom.data.mask_source import CHECKED_MAT, Item, MaskSource, existing, files_in, find_root, read_list
from visloom.data.maskfile import Array, MaskHeader, mat_header, read_mat
from visloom.errors import DataError
from visloom.palette import palette
from visloom.warp import IGNORE

IDS = names_in(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat,
    backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
    baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife,
    spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
    potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell
    phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair
    drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard,
    carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
    door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
    fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss,
    mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing,
    railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other,
    stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind,
    window-other, wood
    """
)
"""Names of the ids 1 to 182."""

UNUSED = (
    *("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender"),
    "hair brush",
)
"""Things that were dropped: no pixel has them."""

MEAN, STD = (0.43931922, 0.41310471, 0.37480941), (0.24272706, 0.23649098, 0.23429529)
"""Per-channel mean and deviation that the original system normalised by, of values in [0, 1]."""


def _legend(unused: bool, first: int, unlabelled: int) -> Legend:
    """The legend of masks that store `first` for id 1."""
    names = tuple(name for name in IDS if unused or name not in UNUSED)
    values = {first + at: names.index(name) if name in names else IGNORE for at, name in enumerate(IDS)}
    return Legend(names, palette(len(names)), {unlabelled: IGNORE, **values})


@dataclass(frozen=True, kw_only=True, repr=False)
class CocoStuff10k(MaskSource):
    """COCO-Stuff 10k: 9,000 pictures to train and 1,000 to test.

    unused: keep the 11 ids that never occur as classes.
    """

    headers: ClassVar[int] = CHECKED_MAT

    part: Literal["train", "test", "all"] = "train"
    unused: bool = False

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        get = "Unpack cocostuff-10k-v1.1.zip there, or name its place with --data"
        wanted = ["images", "annotations", "imageLists"]
        place = find_root(self.root, ["cocostuff-10k-v1.1"], wanted, what="COCO-Stuff 10k", get=get)
        names = read_list(place / "imageLists" / f"{self.part}.txt")
        items = [Item(n, place / "images" / f"{n}.jpg", place / "annotations" / f"{n}.mat") for n in names]
        return existing(items, what=f"{place}, {self.part}"), ()

    def legend(self) -> Legend:
        return _legend(self.unused, 1, 0)

    def read_raw(self, path: Path) -> Array:
        return read_mat(path, "S")

    def raw_header(self, path: Path) -> MaskHeader:
        return mat_header(path, "S")


@dataclass(frozen=True, kw_only=True, repr=False)
class CocoStuff(MaskSource):
    """COCO-Stuff 164k: 118,287 pictures to train and 5,000 to validate.

    unused: keep the 11 ids that never occur as classes.
    """

    part: Literal["train2017", "val2017"] = "train2017"
    unused: bool = False

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        images, masks = _folders(self.root, self.part)
        found = [Item(path.stem, path, masks / f"{path.stem}.png") for path in files_in(images, ".jpg")]
        return existing(found, what=str(images)), ()

    def legend(self) -> Legend:
        return _legend(self.unused, 0, 255)


def _folders(root: str, part: str) -> tuple[Path, Path]:
    """The folders of pictures and of masks."""
    maps = [Path(root) / name for name in ("stuffthingmaps_trainval2017", "stuffthingmaps")]
    for place in maps:
        if (place / part).is_dir():
            inner = [path for path in (Path(root) / part, Path(root) / "images" / part) if path.is_dir()]
            if inner:
                return inner[0], place / part
    get = "Unpack train2017, val2017 and stuffthingmaps_trainval2017 there, or name their place with --data"
    wanted = [f"images/{part}", f"annotations/{part}"]
    found = find_root(root, [], wanted, what="COCO-Stuff 164k", get=get)
    return found / wanted[0], found / wanted[1]


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds COCO-Stuff, 164k or 10k."""
    sources: tuple[tuple[str, MaskSource, MaskSource], ...] = (
        ("COCO-Stuff 164k", CocoStuff(), CocoStuff(part="val2017")),
        ("COCO-Stuff 10k", CocoStuff10k(), CocoStuff10k(part="test")),
    )
    for kind, train, val in sources:
        try:
            counts = [len(type(s)(root=str(folder), part=s.part)) for s in (train, val)]  # type: ignore[attr-defined,call-arg]
        except DataError:
            continue
        names = train.legend().names
        said = (f"{counts[0]:,} pictures to train, {counts[1]:,} to validate", f"{len(names)} classes")
        return Layout(kind=kind, parts={"train": train, "val": val}, classes=names, said=said)
    return None
