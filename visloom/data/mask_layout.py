"""Which folders of a stranger's data set hold pictures and masks, and what the masks store, for `visloom new`.

    images/ masks/     train/images/ train/masks/ val/...     images/train/ masks/train/ ...     train/ train_labels/

Folder names are compared without case; a mask may have more behind the name of its picture ("_mask"). Where no table
names the classes, some masks are read: they are numbers without names then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from visloom.data import listing
from visloom.data.images import EXTENSIONS
from visloom.data.layout import Layout, some
from visloom.data.legend import codes
from visloom.data.maskfile import read_mask
from visloom.data.masks import MASK_ENDINGS, Masks
from visloom.data.names_file import USUAL
from visloom.errors import DataError
from visloom.stream import Split

_IMAGES = ("images", "image", "imgs", "img", "photos", "pictures", "rgb", "jpegimages", "inputs", "input")
_MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth"),
    *("segmentation", "segmentations", "segmentationclass", "targets", "target", "mask_png", "png_masks"),
)
_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "testing")}

LOOKED = 100
"""Masks that are read to see which values they hold, evenly spread."""


class _Pair(NamedTuple):
    images: str
    masks: str
    suffix: str


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds pictures with masks, in one part or in several.

    Raises:
        DataError: it does, and the masks are colours that no table explains: says what to write.
    """
    if not folder.is_dir():
        return None
    pairs = dict(_pairs(folder))
    if "train" not in pairs:
        return None
    found = Masks(**pairs["train"]._asdict(), unlabelled="skip")
    found, said = _with_names(folder, found)
    parts = {name: replace(found, **pair._asdict()) for name, pair in pairs.items()}
    rows = [_count(folder, name, part) for name, part in parts.items()]
    if "val" not in parts:
        held = parts["train"]
        count = len(replace(held, root=str(folder)))
        share = 0.9 if count > 5 else 0.5  # of five, nine tenths would leave nothing
        parts = {part: replace(held, split=Split(keep, share)) for part, keep in _HALVES}
        kept = "a tenth" if share == 0.9 else "half"
        rows.append(f"val: none of its own, so {kept} of the pictures is kept for it")
    classes = replace(found, root=str(folder)).legend().names
    said = f"{len(classes)} classes: {some(classes)}{said}"
    return Layout(kind="pictures with masks", parts=parts, classes=classes, said=(*rows, said))


_HALVES: tuple[tuple[str, Any], ...] = (("train", "head"), ("val", "tail"))


def _pairs(folder: Path) -> Iterator[tuple[str, _Pair]]:
    """Yield the parts ("train", "val") with their folders."""
    inside = {name.lower(): name for name in listing.subfolders(folder)}
    for part, words in _PARTS.items():
        for word in words:
            if word not in inside:
                continue
            name = inside[word]
            below = {n.lower(): n for n in listing.subfolders(folder / name)}
            pair = _one(folder, [(f"{name}/{i}", f"{name}/{m}") for i, m in _named(below)])
            beside = [f"{word}{mark}{end}" for end in _MASKS for mark in ("_", "-", "")]
            pair = pair or _one(folder, [(name, inside[n]) for n in beside if n in inside])
            if pair:
                yield part, pair
                break
    for images, masks in _named(inside):
        found = []
        for part, words in _PARTS.items():
            both = [{n.lower(): n for n in listing.subfolders(folder / place)} for place in (images, masks)]
            shared = [w for w in words if all(w in names for names in both)]
            pair = _one(folder, [(f"{images}/{both[0][w]}", f"{masks}/{both[1][w]}") for w in shared[:1]])
            if pair:
                found.append((part, pair))
        if not any(part == "train" for part, _ in found):
            pair = _one(folder, [(images, masks)])
            found = [("train", pair)] if pair else []
        yield from found
        if found:
            return


def _named(inside: dict[str, str]) -> Iterator[tuple[str, str]]:
    for image in _IMAGES:
        for mask in _MASKS:
            if image in inside and mask in inside:
                yield inside[image], inside[mask]


def _one(folder: Path, candidates: list[tuple[str, str]]) -> _Pair | None:
    """The first two folders of which the names of files fit together."""
    for images, masks in candidates:
        suffix = _suffix(folder / images, folder / masks)
        if suffix is not None:
            return _Pair(images, masks, suffix)
    return None


def _suffix(images: Path, masks: Path) -> str | None:
    """What the names of masks have more than those of pictures, or None if they do not belong together."""
    stems = [str(Path(p).with_suffix("")) for p in islice(listing.pictures(images, EXTENSIONS), 50)]
    held = sorted(str(Path(p).with_suffix("")) for p in listing.pictures(masks, MASK_ENDINGS))
    if set(stems) & set(held):
        return ""
    more = Counter(name[len(stem) :] for stem in stems for name in held if name.startswith(stem))
    return max(more, key=lambda end: (more[end], end)) if more else None


def _with_names(folder: Path, found: Masks) -> tuple[Masks, str]:
    """The source with class names: from a table, or numbers as the masks hold them; and what to say of it."""
    table = next((name for name in USUAL if (folder / name).is_file()), None)
    if table is not None:
        return replace(found, table=table), f" (from {table})"
    items = replace(found, root=str(folder), names=("a",)).items()[0]
    held: Counter[int] = Counter()
    looked = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, LOOKED).astype(int))]
    for item in looked:
        raw = read_mask(item.mask)
        if raw.ndim == 3:
            raise DataError(_unexplained(folder, item.mask, codes(raw)))
        values, counts = np.unique(raw, return_counts=True)
        held.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    said = f", numbers without names, as {len(looked):,} masks hold them; name them in {USUAL[0]}"
    stored = sorted(held)
    if stored == [0, 255]:
        return replace(
            found, names=("background", "object"), values=(0, 255), ignore=()
        ), " (black and white)"
    labels = [value for value in stored if value != 255]
    if labels and labels[0] == 1:
        return replace(found, names=_numbers(1, labels[-1]), first=1), said
    if labels and labels[-1] < 2 * len(labels) + 16:
        return replace(found, names=_numbers(0, max(1, labels[-1]))), said
    return replace(found, names=tuple(map(str, labels)), values=tuple(labels)), said


def _numbers(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(value) for value in range(first, last + 1))


def _unexplained(folder: Path, file: Path, held: Any) -> str:
    values, counts = np.unique(held, return_counts=True)
    order = np.argsort(-counts)[:8]
    lines = [f"    class{n},{v >> 16},{v >> 8 & 255},{v & 255}" for n, v in enumerate(values[order].tolist())]
    return (
        f"{file}: masks are RGB, and no table says which colour is which class. Write {folder / USUAL[0]}, one line "
        f"for each of the {len(values):,} colours or more, such as\n    name,r,g,b\n" + "\n".join(lines)
    )


def _count(folder: Path, name: str, part: Masks) -> str:
    source = replace(part, root=str(folder))
    items, notes = source.items()
    more = f" ({notes[0].rpartition(': ')[2]})" if notes else ""
    ends = f", masks end in {part.suffix}.png" if part.suffix else ""
    return f"{name}: {len(items):,} pictures in {part.images}, masks in {part.masks}{ends}{more}"
