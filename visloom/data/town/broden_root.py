"""Broden root: sights of the town written to disk as Broden+, in the layout and with the tables that `Broden` reads.

    FOLDER/broden_dataset/     ade20k/ with objects, parts and scenes; opensurfaces/ with materials
    FOLDER/meta_file/          record lists, label tables, the hierarchy of parts, the index of ADE20K

Pascal is not written: read objects with `Broden(datasets=("ade20k",))`. Pictures are JPEG, so they differ a little from
the sights in memory; labels are the same.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.broden_tables import LISTS
from visloom.data.town.labels import MATERIALS, OBJECTS, PARTS, SCENES
from visloom.data.town.sights import Records, Sight, Sights, sight

PIECES = ("-", *dict.fromkeys(part for parts in PARTS.values() for part in parts))
"""Names of parts, in whatever object."""

Split = str  # "train" or "validation"


def write_root(folder: Path, splits: Mapping[Split, Mapping[Records, Sights]]) -> Path:
    """Write sights as Broden+.

    splits: for "train" and "validation" the sights of "objects" and of "materials".
    Returns:
        The data root, FOLDER/broden_dataset.
    """
    root, meta = folder / "broden_dataset", folder / "meta_file"
    joint = meta / "joint_dataset"
    joint.mkdir(parents=True)
    ade: list[tuple[str, str, str]] = []  # stem, folder, scene
    photos: list[int] = []
    for split, sources in splits.items():
        lines: dict[Records, list[str]] = {"objects": [], "materials": []}
        for records, source in sources.items():
            for index in range(source.samples):
                seen = sight(source.key(index), (source.height, source.width))
                if records == "objects":
                    number = len(ade)
                    ade.append(_write_ade(root, split, number + 1, seen))
                    more = {"dataset": "ade20k", "nr_part": int((seen.labels.part > 0).any())}
                else:
                    number = len(photos)
                    photos.append(_write_photo(root, number, seen))
                    more = {"dataset": "os"}
                size = {"height": source.height, "width": source.width}
                lines[records].append(json.dumps({**size, "file_index": number, **more}))
        for records, found in lines.items():
            (joint / LISTS[records][split]).write_text(
                "".join(f"{line}\n" for line in found), encoding="utf-8"
            )
    _write_index(meta / "ade20k", ade)
    rows = [(photo, "street") for photo in photos]
    _write_csv(root / "opensurfaces" / "photos.csv", ("photo_id", "scene_category_name"), rows)
    _write_tables(joint, sorted({word for _, _, word in ade}))
    return root


def _write_ade(root: Path, split: Split, number: int, seen: Sight) -> tuple[str, str, str]:
    """A picture as ADE20K stores it: NAME.jpg, NAME_seg.png, and NAME_parts_1.png where there are parts."""
    word = _word(SCENES[seen.labels.scene])
    place = f"ADE20K_2016_07_26/images/{'training' if split == 'train' else 'validation'}/s/{word}"
    stem = f"ADE_{'train' if split == 'train' else 'val'}_{number:08d}"
    base = root / "ade20k" / place
    _save_jpeg(base / f"{stem}.jpg", seen.image)
    _save_png(base / f"{stem}_seg.png", _ade_colours(seen.labels.object))
    pieces = _pieces(seen)
    if pieces.any():
        _save_png(base / f"{stem}_parts_1.png", _ade_colours(pieces))
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
    _save_jpeg(base / "photos" / f"{photo}.jpg", seen.image)
    red = np.zeros((*seen.labels.material.shape, 3), np.uint8)
    red[..., 0] = seen.labels.material
    _save_png(base / "photos-labels" / f"{photo}.png", red)
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
    names = {"object": OBJECTS, "part": PIECES, "scene": SCENES, "material": MATERIALS, "texture": ()}
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
           for dataset, category in (("ade20k", "object"), ("ade20k", "part"), ("pascal", "object"), ("os", "material"))
           for label, word in enumerate(names[category]) if label]  # fmt: skip
    columns = ("dataset", "category", "raw_label", "raw_name", "broden_label", "broden_name")
    rows = [*own, *(("ade20k", "scene", *row) for row in known)]
    _write_csv(joint / "label_assignment.csv", columns, rows)


def _word(name: str) -> str:
    return name.replace(" ", "_")


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def _save_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95, subsampling=0)


def _save_png(path: Path, values: NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, compress_level=1)
