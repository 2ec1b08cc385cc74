"""BoxTable: boxes in a CSV table, one line per box, as annotation tools and object detection tutorials write them.

    file,xmin,ymin,xmax,ymax,label         a line of column names, in any order; x0, x1, left, ... are understood, and
                                           x, y, width, height (or w, h) for a corner and a size
    a.jpg,10,20,110,220,cat                without column names: path, x0, y0, x1, y1, class
    b.jpg,,,,,                             a picture without objects

Numbers are pixels, or shares of the picture where every number in the table lies between 0 and 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from visloom.data import listing
from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.checks import require
from visloom.data.images import EXTENSIONS, missing
from visloom.data.layout import Layout, some
from visloom.errors import DataError
from visloom.stream import Split

_PATH = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img", "image_id")
_CLASS = ("label", "class", "class_name", "name", "category", "label_name", "object")
_CORNERS = (
    ("xmin", "x0", "x1", "x_min", "left"),
    ("ymin", "y0", "y1", "y_min", "top"),
    ("xmax", "x1", "x2", "x_max", "right"),
    ("ymax", "y1", "y2", "y_max", "bottom"),
)
_SIZED = (("x", "bbox_x"), ("y", "bbox_y"), ("w", "width", "bbox_width"), ("h", "height", "bbox_height"))


class _Row(NamedTuple):
    line: int
    path: str
    name: str
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, kw_only=True, repr=False)
class BoxTable(BoxSource):
    """Pictures whose boxes stand in one table.

    file: the table, relative to `root`; .tsv has tabs.  images: folder that its paths start from.
    unit: "pixels", "shares" of the picture, or "auto": shares where no number is above 1.
    """

    file: str = "annotations.csv"
    images: str = ""
    unit: Literal["auto", "pixels", "shares"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.file), "file names the table", self.file)
        require(self.unit in ("auto", "pixels", "shares"), "unit is 'auto', 'pixels' or 'shares'", self.unit)

    def listed(self) -> Listed:
        """Read the table; pictures stand in the order in which it first names them.

        Raises:
            DataError: the table is missing, has other columns, or a line is no box.
        """
        file = Path(self.root) / self.file
        rows = list(_rows(file))
        if not rows:
            raise DataError(f"{file}: names no pictures")
        boxes = [row.box for row in rows if row.box is not None]
        shares = self.unit == "shares" or (
            self.unit == "auto" and bool(boxes) and max(max(box) for box in boxes) <= 1
        )
        found: dict[str, Marked] = {}
        for row in rows:
            if row.path not in found:
                image = Path(self.root) / self.images / row.path
                found[row.path] = Marked(row.path, image, file, [], shares=shares)
            if row.box is not None:
                found[row.path].things.append(Thing(f"line {row.line}", row.name, row.box))
        named = {row.name for row in rows if row.box is not None}
        return Listed(list(found.values()), tuple(sorted(named)))


def _rows(file: Path) -> Iterator[_Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = missing(file) if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(f"{file}: the table of boxes cannot be read: {said}") from error
    mark = "\t" if file.suffix.lower() == ".tsv" else ";" if ";" in text.partition("\n")[0] else ","
    lines = [(n, row) for n, row in enumerate(csv.reader(text.splitlines(), delimiter=mark), 1) if any(row)]
    if not lines:
        return
    columns = _columns(file, [cell.strip() for cell in lines[0][1]])
    if columns is None:
        columns = dict(zip(("path", "x0", "y0", "x1", "y1", "class"), range(6), strict=True))
    else:
        lines = lines[1:]
    sized = "width" in columns
    for number, cells in lines:
        if len(cells) <= max(columns.values()):
            raise DataError(
                f"{file}, line {number}: expected {max(columns.values()) + 1} columns, found {cells!r}"
            )
        path, name = (cells[columns[word]].strip().replace("\\", "/") for word in ("path", "class"))
        words = [cells[place].strip() for word, place in columns.items() if word not in ("path", "class")]
        if not path:
            raise DataError(f"{file}, line {number}: names no picture")
        if not any(words):
            yield _Row(number, path, name, None)
            continue
        try:
            a, b, c, d = (float(word) for word in words)
        except ValueError:
            raise DataError(
                f"{file}, line {number}: expected four numbers, found {', '.join(words)!r}"
            ) from None
        if not name:
            raise DataError(f"{file}, line {number}: the box has no class")
        yield _Row(number, path, name, (a, b, a + c, b + d) if sized else (a, b, c, d))


def _columns(file: Path, cells: Sequence[str]) -> Mapping[str, int] | None:
    """Where path, class and the four numbers stand, in this order; None without a line of column names."""
    if len(cells) >= 5 and listing.is_picture(cells[0].replace("\\", "/").rpartition("/")[2], EXTENSIONS):
        if len(cells) != 6:
            raise DataError(
                f"{file}: a line without column names has six cells (path, x0, y0, x1, y1, class)"
            )
        return None
    at = {cell.lower(): place for place, cell in enumerate(cells)}
    found = {
        word: next((at[name] for name in names if name in at), -1)
        for word, names in (("path", _PATH), ("class", _CLASS))
    }
    for words, columns in ((("x0", "y0", "x1", "y1"), _CORNERS), (("x", "y", "width", "height"), _SIZED)):
        places: list[int] = []
        for names in columns:  # "x1" is the left side beside "x2" and the right one beside "x0"
            places.append(next((at[n] for n in names if n in at and at[n] not in places), -1))
        if min(places) >= 0 and min(found.values()) >= 0:
            return {**found, **dict(zip(words, places, strict=True))}
    raise DataError(
        f"{file}: has the columns {', '.join(cells)}; expected a path ({', '.join(_PATH[:4])}, ...), a class "
        f"({', '.join(_CLASS[:3])}, ...) and xmin, ymin, xmax, ymax or x, y, width, height"
    )


_WORDS = {"train": ("train", "annotations", "labels", "boxes"), "val": ("val", "valid", "validation", "test")}
_IMAGES = ("", "images", "imgs", "JPEGImages", "train", "val", "test", "data")


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds a table of boxes with its pictures, for one part or several."""
    if not folder.is_dir():
        return None
    found: dict[str, BoxTable] = {}
    for part, words in _WORDS.items():
        for name in (
            f"{stem}{end}{ext}" for stem in words for end in ("", "_labels") for ext in (".csv", ".tsv")
        ):
            images = _images(folder, name) if part not in found and (folder / name).is_file() else None
            if images is not None:
                found[part] = BoxTable(file=name, images=images)
    if "train" not in found:
        return None
    wholes = {
        part: BoxTable(root=str(folder), file=source.file, images=source.images)
        for part, source in found.items()
    }
    classes = wholes["train"].classes()
    said = [
        f"{part}: {len(whole):,} pictures and {len(whole.opened().boxes):,} boxes in {whole.file}"
        for part, whole in wholes.items()
    ]
    held = found["train"]
    if "val" in found:
        val = found["val"]
        found["val"] = BoxTable(file=val.file, images=val.images, names=classes)
    else:
        found = {
            "train": BoxTable(file=held.file, images=held.images, split=Split("head", 0.9)),
            "val": BoxTable(file=held.file, images=held.images, split=Split("tail", 0.9)),
        }
        said.append("val: none of its own, so a tenth of the pictures is kept for it")
    said.append(f"{len(classes)} classes: {some(classes)}")
    return Layout(kind="boxes in a table", parts=found, classes=classes, said=tuple(said))


def _images(folder: Path, name: str) -> str | None:
    """The folder that a table's paths start from, or None if it is no table of boxes."""
    try:
        first = next(_rows(folder / name), None)
    except DataError:
        return None
    if first is None:
        return None
    return next((place for place in _IMAGES if (folder / place / first.path).is_file()), None)
