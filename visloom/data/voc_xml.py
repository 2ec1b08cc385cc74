"""VocXml: boxes in PASCAL VOC's XML form, a file per picture, as VOC itself, BCCD, SIM10k, Clipart1k and labelImg have.

    JPEGImages/000005.jpg   Annotations/000005.xml   ImageSets/Main/train.txt, val.txt, ...
    images/a.png            annotations/a.xml         (or both beside each other, without lists)

A document type or an entity in a file is refused by name. Corners are VOC's: numbers of pixels counted from 1, the last
one inside; `corners="plain"` takes them as coordinates. SIM10k: `part="trainval10k", names=("car",)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

from visloom.data import listing
from visloom.data.box_source import BoxSource, Listed, Marked, Thing
from visloom.data.checks import require
from visloom.data.images import EXTENSIONS
from visloom.data.layout import Layout, some
from visloom.data.mask_source import read_list
from visloom.data.safexml import read_xml
from visloom.errors import DataError
from visloom.stream import Split

INNER = ("", *(f"{before}VOC{year}" for year in (2007, 2012) for before in ("VOCdevkit/", "")))
"""Where published archives have the three folders, below the root."""

_LISTS = "ImageSets/Main"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_IMAGES = ("JPEGImages", "images", "Images", "imgs", "")
_XMLS = ("Annotations", "annotations", "labels", "xmls", "xml", "")


@dataclass(frozen=True, kw_only=True, repr=False)
class VocXml(BoxSource):
    """Pictures with one XML file of boxes each.

    root: the folder with pictures and annotations, or one that holds VOC2007, VOC2012 or VOCdevkit.
    part: a list in ImageSets/Main, or "" for every annotation there is.
    images, xml: folders of pictures and annotations; by default JPEGImages or images, Annotations or annotations,
        or both kinds of file beside each other.
    difficult: "ignore" keeps difficult objects as groups that neither teach nor count, "use" as any other, "drop"
        leaves them out. VOC's own evaluation ignores them; here a detection belongs to one if half of it lies inside.
    corners: "voc" or "plain", see above.
    Without `names` the classes are all names in the annotations, of every part, in alphabetical order, as
    VOC's own are.
    """

    part: str = ""
    images: str = ""
    xml: str = ""
    difficult: Literal["ignore", "use", "drop"] = "ignore"
    corners: Literal["voc", "plain"] = "voc"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("/" not in self.part, "part is the name of a list in ImageSets/Main", self.part)
        known = self.difficult in ("ignore", "use", "drop")
        require(known, "difficult is 'ignore', 'use' or 'drop'", self.difficult)
        require(self.corners in ("voc", "plain"), "corners is 'voc' or 'plain'", self.corners)

    def listed(self) -> Listed:
        """Read the list and the annotations.

        Raises:
            DataError: folders, lists or files are missing; an annotation is damaged or has no such form.
        """
        place, images, xml = self._places()
        ids = _ids(place, xml, self.part)
        files = _pictures(images)
        pictures: list[Marked] = []
        named: set[str] = set()
        lost: list[str] = []
        for name in ids:
            tree = read_xml(xml / f"{name}.xml")
            image = _picture(name, tree, files)
            if image is None:
                lost.append(name)
                continue
            marked = self._marked(name, images / image, xml / f"{name}.xml", tree)
            named.update(str(thing.name) for thing in marked.things)
            pictures.append(marked)
        if lost:
            raise DataError(
                f"{images}: {len(lost):,} of {len(ids):,} annotations have no picture: {some(lost)}"
            )
        if self.part and not self.names:
            others = sorted({path.stem for path in xml.glob("*.xml")} - set(ids))
            for name in others:
                named.update(n for n in _names(read_xml(xml / f"{name}.xml")) if n)
        return Listed(pictures, tuple(sorted(named)))

    def placed(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """VOC's first pixel is number 1 and its last one lies inside the box."""
        before = 1.0 if self.corners == "voc" else 0.0
        return box[0] - before, box[1] - before, box[2], box[3]

    # ---- inside

    def _places(self) -> tuple[Path, Path, Path]:
        """The data set's folder, that of the pictures and that of the annotations."""
        for inner in INNER:
            place = Path(self.root) / inner
            images = _first(place, (self.images,) if self.images else _IMAGES, EXTENSIONS)
            xml = _first(place, (self.xml,) if self.xml else _XMLS, (".xml",))
            if images is not None and xml is not None:
                return place, images, xml
        raise DataError(
            f"{self.root}: has no pictures with XML annotations; expected JPEGImages/*.jpg and Annotations/*.xml (or "
            "images/ and annotations/), or name the folders with images and xml"
        )

    def _marked(self, name: str, image: Path, file: Path, tree: Element) -> Marked:
        things = []
        for number, entry in enumerate(tree.findall("object"), start=1):
            word = (entry.findtext("name") or "").strip()
            hard = (entry.findtext("difficult") or "0").strip()
            if not word or hard not in ("0", "1"):
                raise DataError(
                    f"{file}: object {number} needs a name and difficult 0 or 1, got {word!r} and {hard!r}"
                )
            if hard == "1" and self.difficult == "drop":
                continue
            box = _box(entry, f"{file}: object {number} ({word})")
            crowd = hard == "1" and self.difficult == "ignore"
            things.append(Thing(f"object {number} ({word})", word, box, crowd))
        sides = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
        height, width = (int(side) if side.isdecimal() else 0 for side in sides)
        return Marked(name, image, file, things, (height, width) if height and width else None)


def _box(entry: Element, at: str) -> tuple[float, float, float, float]:
    words = [(entry.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
    try:
        x0, y0, x1, y1 = (float(word) for word in words)
    except ValueError:
        said = ", ".join(f"{corner} {word!r}" for corner, word in zip(_CORNERS, words, strict=True))
        raise DataError(f"{at} needs a bndbox of four numbers, got {said}") from None
    return x0, y0, x1, y1


def _names(tree: Element) -> Iterator[str]:
    return ((entry.findtext("name") or "").strip() for entry in tree.findall("object"))


def _first(place: Path, names: Sequence[str], endings: Sequence[str]) -> Path | None:
    """The first of some folders that has a file with such an ending."""
    for name in names:
        folder = place / name
        if folder.is_dir() and any(listing.is_picture(path.name, endings) for path in folder.iterdir()):
            return folder
    return None


def _ids(place: Path, xml: Path, part: str) -> list[str]:
    if not part:
        return sorted(path.stem for path in xml.glob("*.xml") if not path.name.startswith("."))
    return [line.split()[0] for line in read_list(place / _LISTS / f"{part}.txt")]


def _pictures(images: Path) -> dict[str, str]:
    """File names of the pictures by their stems."""
    return {
        path.stem: path.name for path in sorted(images.iterdir()) if listing.is_picture(path.name, EXTENSIONS)
    }


def _picture(name: str, tree: Element, files: dict[str, str]) -> str | None:
    """The picture of an annotation: of the same name, or the one that it names."""
    if name in files:
        return files[name]
    said = (tree.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    return said if said and files.get(Path(said).stem) == said else None


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds pictures with boxes in VOC's XML form."""
    if not folder.is_dir():
        return None
    source = VocXml(root=str(folder))
    try:
        place, images, xml = source._places()
        first = next(iter(sorted(xml.glob("*.xml"))))
        if not any(entry.find("bndbox") is not None for entry in read_xml(first).findall("object")):
            return None
    except DataError:
        return None
    root = place.relative_to(folder).as_posix().removeprefix(".")
    lists = {path.stem for path in (place / _LISTS).glob("*.txt")}
    train = next((name for name in ("train", "trainval") if name in lists), "")
    test = next((name for name in ("val", "test") if name in lists and train), "")
    if test == "test" and "trainval" in lists:
        train = "trainval"
    whole = VocXml(root=str(folder), part=train)
    corners: Literal["voc", "plain"] = "plain" if _counts_from_zero(whole) else "voc"
    made = VocXml(root=root, part=train, corners=corners)
    if test:
        parts = {"train": made, "val": VocXml(root=root, part=test, corners=corners)}
    else:
        parts = {
            "train": replace(made, split=Split("head", 0.9)),
            "val": replace(made, split=Split("tail", 0.9)),
        }
    classes = whole.classes()
    said = (
        f"{len(whole):,} pictures in {images}, {len(whole.opened().boxes):,} boxes in {xml}",
        f"with the lists {some(sorted(lists))}" if lists else "val: a tenth of the pictures is kept for it",
        f"{len(classes)} classes: {some(classes)}",
    )
    return Layout(kind="boxes in VOC's XML form", parts=parts, classes=classes, said=said)


def _counts_from_zero(source: VocXml) -> bool:
    """Whether a corner is 0, which VOC's numbers never are."""
    return any(min(thing.box[:2]) < 1 for picture in source.listed().pictures for thing in picture.things)
