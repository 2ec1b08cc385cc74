"""Masks: any folder of pictures with a folder of PNG masks beside it, paired by name.

    images/a.jpg        masks/a.png        gray or palette: a class number per pixel; or RGB: a colour per class
    images/x/b.jpg      masks/x/b.png
    classes.csv                            names, and colours if masks are RGB; see `names_file.py`

With train/ and val/ folders, `images` and `masks` are "train/images", "train/masks", and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visloom.data import listing
from visloom.data.checks import require
from visloom.data.images import EXTENSIONS, missing
from visloom.data.layout import some
from visloom.data.legend import Legend, counted
from visloom.data.mask_source import Item, MaskSource, read_list
from visloom.data.names_file import USUAL, read_names
from visloom.errors import DataError
from visloom.warp import IGNORE

MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")


@dataclass(frozen=True, kw_only=True, repr=False)
class Masks(MaskSource):
    """Pictures and masks in two folders.

    images, masks: the folders, in `root`. A picture and its mask have the same path but for the ending.
    suffix: what the names of masks have more than those of pictures ("_mask" for a.jpg and a_mask.png).
    table: CSV or JSON file with names, values and colours, in `root`; by default the first one with a usual name.
    names: class names, in place of a table: masks store `first` for the first of them, and so on.
    first: 1 where masks count from 1; 0 means ignore then.
    values: what masks store for each of `names`, where it is not `first` and so on: [0, 255] for black and white.
    ignore: stored values that mean ignore.
    files: list of paths, relative to `images`, one per line: only these.
    unlabelled: "stop" at a picture without a mask, or "skip" such pictures.
    """

    images: str = "images"
    masks: str = "masks"
    suffix: str = ""
    table: str = ""
    names: tuple[str, ...] = ()
    first: Literal[0, 1] = 0
    values: tuple[int, ...] = ()
    ignore: tuple[int, ...] = (255,)
    files: str = ""
    unlabelled: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first in (0, 1), "first is 0 or 1", self.first)
        require(self.unlabelled in ("stop", "skip"), "unlabelled is 'stop' or 'skip'", self.unlabelled)
        require(len(set(self.names)) == len(self.names), "names has each class once", self.names)
        require(not (self.names and self.table), "names or table are given, not both", self.table)
        fits = not self.values or len(set(self.values)) == len(self.values) == len(self.names)
        require(fits, "values has another number for each of names", self.values)
        require(
            all(0 <= v <= 65535 for v in (*self.values, *self.ignore)),
            "values lie in 0 to 65535",
            self.values,
        )
        require(all(0 <= v <= 65535 for v in self.ignore), "ignore has values from 0 to 65535", self.ignore)

    def items(self) -> tuple[Sequence[Item], tuple[str, ...]]:
        root = Path(self.root)
        folders = root / self.images, root / self.masks
        lost = [str(folder) for folder in folders if not folder.is_dir()]
        if lost:
            there = listing.subfolders(root) if root.is_dir() else []
            inside = (
                f"it has {some(there)}" if there else "it has no folders" if root.is_dir() else missing(root)
            )
            raise DataError(
                f"{root}: no folder {some([Path(name).relative_to(root).as_posix() for name in lost])}; {inside}. Say "
                f"which folders hold pictures and masks (images, masks)"
            )
        pictures = (
            read_list(root / self.files) if self.files else list(listing.pictures(folders[0], EXTENSIONS))
        )
        if not pictures:
            raise DataError(f"{folders[0]}: holds no pictures; looked for {', '.join(EXTENSIONS)}")
        masks: dict[str, str] = {}
        rivals: dict[str, str] = {}
        for path in listing.pictures(folders[1], MASK_ENDINGS):
            stem = str(Path(path).with_suffix(""))
            if masks.setdefault(stem, path) != path:
                rivals[stem] = path
        items, bare = [], []
        for path in pictures:
            stem = str(Path(path).with_suffix(""))
            mask = masks.get(stem + self.suffix)
            if mask is None:
                bare.append(path)
            elif stem + self.suffix in rivals:
                raise DataError(
                    f"{folders[1]}: {mask} and {rivals[stem + self.suffix]} are both masks of {path}; take one away"
                )
            else:
                items.append(Item(Path(stem).as_posix(), folders[0] / path, folders[1] / mask))
        self._check_pairs(folders, items, bare, masks)
        return items, (f"{root}: {len(bare):,} pictures without a mask are left out",) if bare else ()

    def _check_pairs(
        self, folders: tuple[Path, Path], items: Sequence[Item], bare: Sequence[str], masks: Mapping[str, str]
    ) -> None:
        if not items:
            raise DataError(
                f"{folders[1]}: no mask belongs to a picture in {folders[0]}: pictures are called "
                f"{some(list(bare), 3)}, masks {some(sorted(masks.values()), 3) or 'nothing, the folder is empty'}; "
                f"masks have the same name, with `suffix` behind it"
            )
        if bare and self.unlabelled == "stop":
            raise DataError(
                f"{folders[1]}: {len(bare):,} of {len(items) + len(bare):,} pictures have no mask: "
                f'{some(list(bare), 5)}. Add them, or set unlabelled="skip" to leave these pictures out'
            )
        ids = [item.id for item in items]
        if len(set(ids)) < len(ids):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            raise DataError(f"{folders[0]}: two pictures have one name but for the ending: {some(twice)}")

    def legend(self) -> Legend:
        ignore = (*self.ignore, 0) if self.first == 1 else self.ignore
        if self.values:
            stored = {value: label for label, value in enumerate(self.values)}
            return Legend(self.names, values={**dict.fromkeys(self.ignore, IGNORE), **stored})
        if self.names:
            return counted(self.names, first=self.first, ignore=ignore)
        root = Path(self.root)
        found = [name for name in (self.table,) if name] or [
            name for name in USUAL if (root / name).is_file()
        ]
        if not found:
            raise DataError(
                f"{root}: the classes have no names. Write {USUAL[0]} there (one name per line, or name,r,g,b), or "
                f"give `names`; `visloom new` looks at the masks and does so"
            )
        return read_names(root / found[0], ignore)
