"""Broden root: sights of the town written to disk as Broden+, in the layout and with the tables that `Broden` reads.

    FOLDER/broden_dataset/     ade20k/ with objects, parts and scenes; pascal/ with objects and parts;
                               opensurfaces/ with materials; dtd/ with textures
    FOLDER/meta_file/          record lists, label tables, the hierarchy of parts, the index of ADE20K, names of
                               Pascal's parts, textures of DTD

Pictures are JPEG, so they differ a little from the sights in memory; labels are the same, but that those written as
Pascal have no scene.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.broden_tables import LISTS
from visloom.data.town.labels import MATERIALS, OBJECTS, PARTS, SCENES
from visloom.data.town.pascal_root import write_names, write_pascal
from visloom.data.town.picture_files import save_jpeg, save_png
from visloom.data.town.sights import Records, Sight, Sights, sight, texture_word
from visloom.data.town.textures import TEXTURES, texture

PIECES = ("-", *dict.fromkeys(part for parts in PARTS.values() for part in parts))
"""Names of parts, in whatever object."""

Split = str  # "train" or "validation"


def write_root(
    folder: Path, splits: Mapping[Split, Mapping[Records, Sights]], *, every_pascal: int = 4
) -> Path:
    """Write sights as Broden+.

    splits: for "train" and "validation" the sights of "objects", "materials" and "textures", or of some of them.
    every_pascal: one of so many pictures of objects goes to Pascal, the others to ADE20K; 0 writes no Pascal.
    Returns:
        The data root, FOLDER/broden_dataset.
    """
    root, meta = folder / "broden_dataset", folder / "meta_file"
    joint = meta / "joint_dataset"
    joint.mkdir(parents=True)
    written = _Written([], [], [], 0)
    for split, sources in splits.items():
        for records, source in sources.items():
            lines = []
            for index in range(source.samples):
                as_pascal = every_pascal > 0 and index % every_pascal == every_pascal - 1
                record = _write_one(root, written, split, source, index, as_pascal=as_pascal)
                size = {"height": source.height, "width": source.width}
                lines.append(json.dumps({**size, **record}) + "\n")
            place = meta / "dtd" if records == "textures" else joint
            place.mkdir(exist_ok=True)
            (place / LISTS[records][split]).write_text("".join(lines), encoding="utf-8")
    if written.ade:
        _write_index(meta / "ade20k", written.ade)
    if written.pascal:
        write_names(meta / "pascal" / "part2ind.m")
    if written.textures:
        anno = "".join(f"{file} {file.partition('/')[0]} \n" for file in written.textures)
        (meta / "dtd" / "labels_joint_anno.txt").write_text(anno, encoding="utf-8")
    if written.photos:
        rows = [(photo, "street") for photo in written.photos]
        _write_csv(root / "opensurfaces" / "photos.csv", ("photo_id", "scene_category_name"), rows)
    _write_tables(joint, sorted({word for _, _, word in written.ade}))
    return root


@dataclass
class _Written:
    """What is on disk so far, in the order of each data set's numbers.

    ade: stem, folder, scene.  photos: ids of OpenSurfaces.  textures: files of DTD.  pascal: how many pictures.
    """

    ade: list[tuple[str, str, str]]
    photos: list[int]
    textures: list[str]
    pascal: int


def _write_one(
    root: Path, written: _Written, split: Split, source: Sights, index: int, *, as_pascal: bool
) -> dict[str, Any]:
    """Write one picture; its record, without the size."""
    key, size = source.key(index), (source.height, source.width)
    if source.records == "textures":
        number = len(written.textures)
        name = texture_word(key)
        file = f"{name}/{name}_{number + 1:04d}.jpg"
        save_jpeg(root / "dtd" / "dtd-r1.0.1" / "images" / file, texture(key, name, size))
        written.textures.append(file)
        return {"dataset": "dtd", "file_index": number}
    seen = sight(key, size)
    if source.records == "materials":
        number = len(written.photos)
        written.photos.append(_write_photo(root, number, seen))
        return {"dataset": "os", "file_index": number}
    parts = {"nr_part": int((seen.labels.part > 0).any())}
    if as_pascal:
        number = written.pascal
        write_pascal(root, number, seen.image, seen.labels)
        written.pascal += 1
        return {"dataset": "pascal", "file_index": number, **parts}
    number = len(written.ade)
    written.ade.append(_write_ade(root, split, number + 1, seen))
    return {"dataset": "ade20k", "file_index": number, **parts}


def _write_ade(root: Path, split: Split, number: int, seen: Sight) -> tuple[str, str, str]:
    """A picture as ADE20K stores it: NAME.jpg, NAME_seg.png, and NAME_parts_1.png where there are parts."""
    word = _word(SCENES[seen.labels.scene])
    place = f"ADE20K_2016_07_26/images/{'training' if split == 'train' else 'validation'}/s/{word}"
    stem = f"ADE_{'train' if split == 'train' else 'val'}_{number:08d}"
    base = root / "ade20k" / place
    save_jpeg(base / f"{stem}.jpg", seen.image)
    save_png(base / f"{stem}_seg.png", _ade_colours(seen.labels.object))
    pieces = _pieces(seen)
    if pieces.any():
        save_png(base / f"{stem}_parts_1.png", _ade_colours(pieces))
    return stem, place, word


def _pieces(seen: Sight) -> NDArray[np.int32]:
    """Parts by their names, (H, W): places in `PIECES`."""
    found = np.zeros(seen.labels.object.shape, np.int32)
    for name, parts in PARTS.items():
        table = np.array([0, *(PIECES.index(part) for part in parts)], np.int32)
        inside = seen.labels.object == OBJECTS.index(name)
        found[inside] = table[seen.labels.part[inside]]
    return found


def _write_photo(root: Path, number: int, seen: Sight) -> int:
    """A picture as OpenSurfaces stores it; its photo_id."""
    photo = 1000 + 7 * number
    base = root / "opensurfaces"
    save_jpeg(base / "photos" / f"{photo}.jpg", seen.image)
    red = np.zeros((*seen.labels.material.shape, 3), np.uint8)
    red[..., 0] = seen.labels.material
    save_png(base / "photos-labels" / f"{photo}.png", red)
    return photo


def _ade_colours(classes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """ADE20K's colours of class numbers: red // 10 * 256 + green; blue counts instances, here all one."""
    return np.stack([classes // 256 * 10, classes % 256, np.ones_like(classes)], 2).astype(np.uint8)


def _write_index(meta: Path, ade: Sequence[tuple[str, str, str]]) -> None:
    """The index of ADE20K, and the scene of every picture."""
    from scipy.io import savemat

    meta.mkdir()
    files = np.array([f"{stem}.jpg" for stem, _, _ in ade], object)
    savemat(
        meta / "index_ade20k.mat",
        {"index": {"filename": files, "folder": np.array([f for _, f, _ in ade], object)}},
    )
    lines = "".join(f"{stem} {scene}\n" for stem, _, scene in ade)
    (meta / "scene_categories.txt").write_text(lines, encoding="utf-8")


def _write_tables(joint: Path, scenes: Sequence[str]) -> None:
    """Names of all labels, which objects have which parts, and what a data set's own labels mean.

    scenes: ADE20K's, which are numbered from 1 by the names that occur.
    """
    names = {"object": OBJECTS, "part": PIECES, "scene": SCENES, "material": MATERIALS, "texture": TEXTURES}
    for category, words in names.items():
        _write_csv(joint / f"{category}.csv", ("label", "name"), enumerate(words))
    hierarchy = [
        (
            OBJECTS.index(name), name, ";".join(str(PIECES.index(part)) for part in ("-", *parts)),
            ";".join(("-", *parts)),
        )
        for name, parts in PARTS.items()
    ]  # fmt: skip
    columns: tuple[str, ...] = ("object_label", "object_name", "part_labels", "part_names")
    _write_csv(joint / "object_part_hierarchy.csv", columns, hierarchy)
    labels = {_word(name): label for label, name in enumerate(SCENES)}
    known = [(raw, word, labels[word], SCENES[labels[word]]) for raw, word in enumerate(scenes, start=1)]
    own = [(dataset, category, label, word, label, word)
           for dataset, category in (("ade20k", "object"), ("ade20k", "part"), ("pascal", "object"),
                                    ("pascal", "part"), ("os", "material"))
           for label, word in enumerate(names[category]) if label]  # fmt: skip
    columns = ("dataset", "category", "raw_label", "raw_name", "broden_label", "broden_name")
    rows = [*own, *(("ade20k", "scene", *row) for row in known)]
    _write_csv(joint / "label_assignment.csv", columns, rows)


def _word(name: str) -> str:
    return name.replace(" ", "_")


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
