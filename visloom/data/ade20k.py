"""Ade20k: scene parsing with 150 classes (Zhou et al. 2017), the reduced set of the MIT challenge.

ADEChallengeData2016/
  images/{training,validation}/*.jpg        20,210 and 2,000 pictures
  annotations/{training,validation}/*.png   0 = other, which is ignored; 1 to 150 = the classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visloom.data.layout import Layout
from visloom.data.legend import Legend, colours_in, counted, names_in
from visloom.data.mask_source import Item, MaskSource, existing, files_in, find_root
from visloom.errors import DataError

CLASSES = names_in(
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """
)

COLOURS = colours_in(
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652
    8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0
    ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
    8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff
    00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
    ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
    00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
    5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500
    0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
    b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """
)
"""The published colours; road and skyscraper share one."""

MEAN, STD = (0.48897059, 0.46548275, 0.4294), (0.22861765, 0.22948039, 0.24054667)
"""Per-channel mean and deviation that the original system normalised by, of values in [0, 1]."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Ade20k(MaskSource):
    """ADE20K with 150 classes.

    root: the folder with images/ and annotations/, or the one around it.
    """

    part: Literal["training", "validation"] = "training"

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        place = _place(self.root, (self.part,))
        images = files_in(place / "images" / self.part, ".jpg")
        masks = place / "annotations" / self.part
        return existing(
            [Item(path.stem, path, masks / f"{path.stem}.png") for path in images], what=str(place)
        ), ()

    def legend(self) -> Legend:
        return counted(CLASSES, COLOURS, first=1, ignore=(0,))


def _place(root: str, parts: Sequence[str]) -> Path:
    get = "Unpack ADEChallengeData2016.zip there, or name its place with --data"
    wanted = [f"{folder}/{part}" for part in parts for folder in ("images", "annotations")]
    return find_root(root, ["ADEChallengeData2016"], wanted, what="ADE20K", get=get)


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder is, or holds, ADE20K."""
    try:
        place = _place(str(folder), ("training", "validation"))
        counts = [len(Ade20k(root=str(place), part=part)) for part in ("training", "validation")]  # type: ignore[arg-type]
    except DataError:
        return None
    root = place.relative_to(folder).as_posix().removeprefix(".")
    parts = {"train": Ade20k(root=root), "val": Ade20k(root=root, part="validation")}
    said = (
        f"{counts[0]:,} pictures to train, {counts[1]:,} to validate, in {place}",
        f"{len(CLASSES)} classes",
    )
    return Layout(kind="ADE20K", parts=parts, classes=CLASSES, said=said)
