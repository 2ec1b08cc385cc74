"""Kitti: boxes of KITTI's object benchmark (Geiger et al. 2012), one text file per picture.

    training/image_2/000000.png   training/label_2/000000.txt      (ImageSets/train.txt, val.txt: one number per line)
    type truncated occluded alpha left top right bottom height width length x y z rotation

"DontCare" regions are groups of every class in use: detections in them count for nothing. KITTI has no validation part
of its own: give a list, or `split`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.checks import require
from visloom.data.mask_source import find_root, read_list
from visloom.errors import DataError

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
_DONT_CARE = "DontCare"


@dataclass(frozen=True, kw_only=True, repr=False)
class Kitti(BoxSource):
    """KITTI's object benchmark.

    root: the folder that holds training/, or training/ itself.  part: a list in ImageSets, or "" for all 7,481
    pictures. For Cityscapes' cars: `names=("car",), rename={"Car": "car"}`.
    """

    part: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("/" not in self.part, "part is the name of a list in ImageSets", self.part)

    def listed(self) -> Listed:
        """Read the text files.

        Raises:
            DataError: folders or files are missing; a line has no such form.
        """
        place = find_root(
            self.root,
            ("training", "object/training"),
            ["image_2", "label_2"],
            what="KITTI object benchmark",
            get="Unpack data_object_image_2.zip and data_object_label_2.zip there, or name its place with --data",
        )
        if self.part:
            lists = [folder / "ImageSets" / f"{self.part}.txt" for folder in (place, place.parent)]
            ids = read_list(next((path for path in lists if path.is_file()), lists[0]))
        else:
            ids = sorted(path.stem for path in (place / "label_2").glob("*.txt"))
        marked = []
        for name in ids:
            file = place / "label_2" / f"{name}.txt"
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{file}: cannot be read ({error})") from error
            marked.append(Marked(name, place / "image_2" / f"{name}.png", file, list(_things(file, lines))))
        return Listed(marked, CLASSES)


def _things(file: Path, lines: list[str]) -> Iterator[Thing]:
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            x0, y0, x1, y1 = (float(word) for word in words[4:8])
        except ValueError:
            raise DataError(
                f"{file}, line {number}: expected a type, three numbers and a box of four, found {line[:60]!r}"
            ) from None
        apart = words[0] == _DONT_CARE
        yield Thing(f"line {number}", None if apart else words[0], (x0, y0, x1, y1), apart)
