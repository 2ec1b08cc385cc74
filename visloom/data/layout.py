"""Layout: what a folder of data turned out to be, for `visloom new` and `visloom inspect-data`.

Each reader has `recognise(folder) -> Layout | None`; `recognise` here asks them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visloom.stream import Source


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A recognised data set.

    kind: what it is, in two or three words.
    parts: the sources to use, "train" first and "val" where there is or can be one; their roots are
        relative to the folder.
    classes: class names.
    said: what was seen, one fact per line.
    recipe, settings: where one source is not all that a recipe needs (several sources, heads): the recipe to extend,
        and what to set in it, by path. Without `recipe`, `settings` are what a recipe for `parts` must also say.
    """

    kind: str
    parts: Mapping[str, Source] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    said: tuple[str, ...] = field(default=())
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join((self.kind, *(f"  {line}" for line in self.said)))


def recognise(folder: str | Path) -> Layout | None:
    """Return what a folder holds, asking every reader in turn, or None if none of them knows it."""
    from visloom.data.ade20k import recognise as ade20k
    from visloom.data.annotated import recognise as annotated
    from visloom.data.arrays import recognise as arrays
    from visloom.data.box_table import recognise as box_table
    from visloom.data.broden import recognise as broden
    from visloom.data.cifar import recognise as cifar
    from visloom.data.cityscapes import recognise as cityscapes
    from visloom.data.clothes import recognise as clothes
    from visloom.data.coco import recognise as coco
    from visloom.data.cocostuff import recognise as cocostuff
    from visloom.data.deepscene import recognise as deepscene
    from visloom.data.folder import recognise as pictures
    from visloom.data.mask_layout import recognise as masks
    from visloom.data.mnist import recognise as mnist
    from visloom.data.nuscenes.converted import recognise as converted
    from visloom.data.nuscenes.source import recognise as nuscenes
    from visloom.data.scenes import recognise as scenes
    from visloom.data.voc import recognise as voc
    from visloom.data.voc_labels import recognise as voc_labels
    from visloom.data.voc_xml import recognise as voc_xml
    from visloom.data.yolo import recognise as yolo

    space = (nuscenes, converted, scenes)
    pixels = (clothes, voc, cityscapes, ade20k, cocostuff, deepscene)
    published = (annotated, broden, *space, cifar, mnist, *pixels)
    boxes = (coco, voc_xml, yolo, box_table)
    readers = (*published, *boxes, voc_labels, arrays, masks, pictures)
    for reader in readers:
        found = reader(Path(folder))
        if found is not None:
            return found
    return None


def head(file: Path, size: int) -> bytes:
    """The first bytes of a file, b"" where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(size)
    except OSError:
        return b""


def some(names: list[str] | tuple[str, ...], count: int = 10) -> str:
    """Join the first names of a list, and say how many more there are."""
    shown = ", ".join(names[:count])
    return f"{shown}, ... ({len(names) - count:,} more)" if len(names) > count else shown
