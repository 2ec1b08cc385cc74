"""Tables of Broden+: record lists, label tables and where each data set keeps its files, read once and checked whole.

Whatever is missing is told at once, in one error: tables of the meta folder, and folders of pictures.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.pascal_parts import part_names
from visloom.errors import DataError
from visloom.warp import IGNORE

LISTS: Mapping[str, Mapping[str, str]] = {
    "objects": {"train": "broden_ade20k_pascal_train.json", "validation": "broden_ade20k_pascal_val.json"},
    "materials": {"train": "broden_os_train.json", "validation": "broden_os_val.json"},
    "textures": {"train": "dtd_training_list.json", "validation": "dtd_validation_list.json"},
}
"""Record lists by what they label and by part; one JSON document per line."""

DATASETS: Mapping[str, tuple[str, ...]] = {
    "objects": ("ade20k", "pascal"), "materials": ("os",), "textures": ("dtd",),
}  # fmt: skip

_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "ade20k": ("ade20k/ADE20K_2016_07_26/images",),
    "pascal": ("pascal/VOC2010/JPEGImages", "pascal/context/trainval", "pascal/part/Annotations_Part"),
    "os": ("opensurfaces/photos", "opensurfaces/photos-labels"),
    "dtd": ("dtd/dtd-r1.0.1/images",),
}
_JOINT = ("object.csv", "part.csv", "scene.csv", "material.csv", "texture.csv", "object_part_hierarchy.csv",
          "label_assignment.csv")  # fmt: skip


class Record(NamedTuple):
    """One line of a record list; number: of the picture in its data set."""

    dataset: str
    number: int
    height: int
    width: int


class Outputs(NamedTuple):
    """The outputs of one object with parts: label of the object, the first output, labels of the parts (0 first)."""

    label: int
    start: int
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Files of one data set, by the numbers that record lists use; label: of the whole picture, -1 = none."""

    images: Sequence[Path]
    masks: Sequence[Path] = ()
    pieces: Sequence[Path] = ()
    labels: Sequence[int] = ()

    def image(self, index: int) -> Path:
        return self.images[index]

    def mask(self, index: int) -> Path:
        return self.masks[index]

    def parts(self, index: int) -> Path | None:
        """The file with parts, if there is one."""
        found = self.pieces[index]
        return found if found.is_file() else None

    def label(self, index: int) -> int:
        return self.labels[index] if self.labels else -1


@dataclass(frozen=True)
class Tables:
    """All that a record list needs. names: of labels by category.  pascal: (object, short name) -> part label."""

    records: tuple[Record, ...]
    names: Mapping[str, tuple[str, ...]]
    outputs: tuple[Outputs, ...]
    mapping: Mapping[tuple[str, str], NDArray[np.int16]]
    places: Mapping[str, Place]
    pascal: Mapping[tuple[int, str], int]

    def part_names(self) -> tuple[str, ...]:
        """Names of the outputs of the part head: object and part."""
        objects, parts = self.names["object"], self.names["part"]
        return tuple(f"{objects[each.label]}: {parts[part]}" for each in self.outputs for part in each.parts)

    def lookup(self, dataset: str, category: str, raw: NDArray[Any], path: Path) -> NDArray[np.int32]:
        """Turn a data set's own labels (H, W) into Broden's. Raises DataError for unknown ones."""
        table = self.mapping[dataset, category]
        top = int(raw.max(initial=0))
        if top >= len(table):
            values, counts = np.unique(raw[raw >= len(table)], return_counts=True)
            found = ", ".join(f"{v} ({n:,} pixels)" for v, n in zip(values[:6], counts[:6], strict=True))
            raise DataError(
                f"{path}: has {category} label {found}, and label_assignment.csv knows those of {dataset} up to "
                f"{len(table) - 1}"
            )
        return np.asarray(table[raw], np.int32)


def label_masks(
    objects: NDArray[np.int32], pieces: NDArray[np.int32], outputs: Sequence[Outputs]
) -> NDArray[np.int32]:
    """Outputs of the part head from labels of objects and parts, all (H, W): background or part, -1 elsewhere.

    An object counts where at least one of its own parts is labelled in the picture; else nobody looked for them.
    """
    found = np.full(objects.shape, IGNORE, np.int32)
    present = set(np.unique(objects).tolist())
    for label, start, parts in outputs:
        if label not in present:
            continue
        inside = objects == label
        table = np.zeros(int(max(pieces.max(), max(parts))) + 1, np.int32)
        table[list(parts)] = np.arange(
            len(parts)
        )  # parts that are none of this object's count as its background
        local = table[pieces[inside]]
        if local.any():
            found[inside] = start + local
    return found


# -------------------------------------------------------------------------------------------------------- reading


def read_tables(root: Path, meta: str, records: str, part: str, datasets: Sequence[str]) -> Tables:
    """Read everything for one record list. Raises DataError with all that is missing, or what does not fit."""
    unknown = [name for name in datasets if name not in DATASETS[records]]
    if unknown:
        raise DataError(f"datasets: {', '.join(unknown)} is none of {', '.join(DATASETS[records])}")
    wanted = tuple(datasets) or DATASETS[records]
    folder = _meta_folder(root, meta)
    files = {name: _find(folder, "joint_dataset", name) for name in _JOINT}
    lists = {name: _list_file(folder, records, name) for name in LISTS[records]}
    needed = [
        *files.values(),
        *lists.values(),
        *(path for name in wanted for path in _needed(root, folder, name)),
    ]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        lines = "\n  ".join(missing)
        raise DataError(
            f"Broden+ is not whole, {len(missing)} of {len(needed)} files and folders are missing:\n  {lines}\n"
            "  META is the original's meta_file (set meta to its place), ROOT its broden_dataset; to use a part of a "
            'list set datasets, to ["ade20k"] say'
        )
    names = {
        name: _names(files[f"{name}.csv"]) for name in ("object", "part", "scene", "material", "texture")
    }
    mapping = _assignments(files["label_assignment.csv"], names)
    found = tuple(r for r in read_records(lists[part]) if r.dataset in wanted)
    last = _last(lists.values())
    places = {name: _PLACES[name](root, folder, mapping, names) for name in wanted}
    for name, place in places.items():
        _check_count(name, len(place.images), last.get(name, -1))
    pascal = (
        _pascal_labels(_part2ind(root, folder), files["label_assignment.csv"]) if "pascal" in wanted else {}
    )
    return Tables(found, names, _outputs(files["object_part_hierarchy.csv"], names), mapping, places, pascal)


def datasets_there(root: Path) -> dict[str, tuple[str, ...]]:
    """Data sets of which a folder of pictures is at hand, by record list; {} where the tables are not."""
    if not _find(_meta_folder(root, ""), "joint_dataset", "label_assignment.csv").is_file():
        return {}
    found = {
        records: tuple(name for name in names if any((root / folder).is_dir() for folder in _FOLDERS[name]))
        for records, names in DATASETS.items()
    }
    return {records: names for records, names in found.items() if names}


def count_records(root: Path, records: str, part: str, datasets: Sequence[str]) -> int:
    """Records of some data sets in a list, read from the list alone."""
    listing = _list_file(_meta_folder(root, ""), records, part)
    if not listing.is_file():
        raise DataError(f"Broden+ is not whole: {listing} is missing")
    return sum(record.dataset in datasets for record in read_records(listing))


def _list_file(meta: Path, records: str, part: str) -> Path:
    return _find(meta, "dtd" if records == "textures" else "joint_dataset", LISTS[records][part])


def _meta_folder(root: Path, meta: str) -> Path:
    if meta:
        return Path(meta)
    inside, beside = root / "meta_file", root.parent / "meta_file"
    return beside if beside.is_dir() and not inside.is_dir() else inside


def _find(folder: Path, inside: str, name: str) -> Path:
    """A table's place: older versions of the meta folder are flat."""
    flat = folder / name
    return flat if flat.is_file() else folder / inside / name


def _part2ind(root: Path, folder: Path) -> Path:
    own = root / "pascal" / "part" / "part2ind.m"
    return own if own.is_file() else folder / "pascal" / "part2ind.m"


def _needed(root: Path, folder: Path, dataset: str) -> list[Path]:
    """Files and folders of one data set."""
    found = [root / name for name in _FOLDERS[dataset]]
    more = {
        "ade20k": [folder / "ade20k" / "index_ade20k.mat", folder / "ade20k" / "scene_categories.txt"],
        "pascal": [_part2ind(root, folder)],
        "os": [root / "opensurfaces" / "photos.csv"],
        "dtd": [folder / "dtd" / "labels_joint_anno.txt"],
    }
    return found + more[dataset]


def read_records(path: Path) -> list[Record]:
    """Read a record list. Raises DataError with the line that is none."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            found.append(
                Record(str(row["dataset"]), int(row["file_index"]), int(row["height"]), int(row["width"]))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: expected a JSON record with dataset, file_index, height and width, found "
                f"{line[:80]!r}"
            ) from error
    return found


def _last(lists: Any) -> dict[str, int]:
    """The highest number of each data set in some record lists."""
    last: dict[str, int] = {}
    for path in lists:
        for record in read_records(path):
            last[record.dataset] = max(last.get(record.dataset, -1), record.number)
    return last


def _check_count(name: str, count: int, last: int) -> None:
    """Pascal's numbers count its sorted files, so one file less would move all others: it must be exact there."""
    if count <= last or (name == "pascal" and count != last + 1):
        raise DataError(
            f"{name}: the record lists number its pictures up to {last:,}, so {last + 1:,} are expected, and there are "
            f"{count:,}; are files missing, or lists of another version?"
        )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _names(path: Path) -> tuple[str, ...]:
    rows = _rows(path)
    if [row.get("label") for row in rows] != [str(i) for i in range(len(rows))]:
        raise DataError(f"{path}: expected columns label and name with labels 0, 1, 2, ...")
    return tuple(row["name"] for row in rows)


def _assignments(
    path: Path, names: Mapping[str, tuple[str, ...]]
) -> dict[tuple[str, str], NDArray[np.int16]]:
    """Dense tables from a data set's labels to Broden's; what is not assigned is 0, a scene -1."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    for number, row in enumerate(_rows(path), start=2):
        try:
            key, raw, label = (
                (row["dataset"], row["category"]),
                int(row["raw_label"]),
                int(row["broden_label"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: expected dataset, category, raw_label, broden_label"
            ) from error
        if label >= len(names.get(key[1], ())):
            raise DataError(
                f"{path}, line {number}: {key[1]} label {label} is in no table; {key[1]}.csv ends at "
                f"{len(names.get(key[1], ())) - 1}"
            )
        found.setdefault(key, {})[raw] = label
    tables = {}
    for key, pairs in found.items():
        table = np.full(max(pairs) + 1, -1 if key[1] == "scene" else 0, np.int16)
        table[list(pairs)] = list(pairs.values())
        tables[key] = table
    wanted = [
        ("ade20k", "object"),
        ("ade20k", "part"),
        ("ade20k", "scene"),
        ("pascal", "object"),
        ("os", "material"),
    ]
    lost = [" ".join(key) for key in wanted if key not in tables]
    if lost:
        raise DataError(f"{path}: assigns no labels of {', '.join(lost)}")
    return tables


def _outputs(path: Path, names: Mapping[str, tuple[str, ...]]) -> tuple[Outputs, ...]:
    found, start = [], 0
    for row in _rows(path):
        label, parts = int(row["object_label"]), tuple(map(int, row["part_labels"].split(";")))
        if not parts or parts[0] != 0 or label >= len(names["object"]) or max(parts) >= len(names["part"]):
            raise DataError(
                f"{path}: {row['object_name']}: labels begin with 0 and stand in object.csv and part.csv"
            )
        found.append(Outputs(label, start, parts))
        start += len(parts)
    return tuple(found)


# ---------------------------------------------------------------------------------------------------- data sets


def _ade20k(root: Path, meta: Path, mapping: Mapping[Any, NDArray[np.int16]], names: Any) -> Place:
    from scipy.io import loadmat

    index = loadmat(str(meta / "ade20k" / "index_ade20k.mat"), squeeze_me=True)["index"]
    files, folders = (np.atleast_1d(index[name][()]) for name in ("filename", "folder"))
    images = [root / "ade20k" / str(folder) / str(file) for folder, file in zip(folders, files, strict=True)]
    path = meta / "ade20k" / "scene_categories.txt"
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if [line[0] for line in lines] != [image.stem for image in images]:
        raise DataError(f"{path}: does not name the pictures of index_ade20k.mat in their order")
    words = ["-" if line[1] == "misc" else line[1] for line in lines]
    scenes = ["-", *sorted(set(words) - {"-"})]
    numbers = {word: number for number, word in enumerate(scenes)}
    table = mapping["ade20k", "scene"]
    labels = [int(table[numbers[word]]) if numbers[word] < len(table) else -1 for word in words]
    return Place(
        images,
        [image.with_name(f"{image.stem}_seg.png") for image in images],
        [image.with_name(f"{image.stem}_parts_1.png") for image in images],
        labels,
    )


def _pascal(root: Path, meta: Path, mapping: Any, names: Any) -> Place:
    base = root / "pascal"
    stems = sorted(path.stem for path in (base / "part" / "Annotations_Part").glob("*.mat"))
    return Place(
        [base / "VOC2010" / "JPEGImages" / f"{stem}.jpg" for stem in stems],
        [base / "context" / "trainval" / f"{stem}.mat" for stem in stems],
        [base / "part" / "Annotations_Part" / f"{stem}.mat" for stem in stems],
    )


def _opensurfaces(root: Path, meta: Path, mapping: Any, names: Any) -> Place:
    base = root / "opensurfaces"
    rows = _rows(base / "photos.csv")
    if rows and "photo_id" not in rows[0]:
        raise DataError(f"{base / 'photos.csv'}: has no column photo_id, only {', '.join(rows[0])}")
    ids = [int(row["photo_id"]) for row in rows]
    return Place(
        [base / "photos" / f"{i}.jpg" for i in ids], [base / "photos-labels" / f"{i}.png" for i in ids]
    )


def _dtd(root: Path, meta: Path, mapping: Any, names: Mapping[str, tuple[str, ...]]) -> Place:
    lines = (meta / "dtd" / "labels_joint_anno.txt").read_text(encoding="utf-8").splitlines()
    files = [line.split()[0] for line in lines if line.strip()]
    numbers = {name: number for number, name in enumerate(names["texture"])}
    unknown = sorted({file.partition("/")[0] for file in files} - numbers.keys())
    if unknown:
        raise DataError(f"{meta / 'dtd' / 'labels_joint_anno.txt'}: no textures are {', '.join(unknown[:5])}")
    labels = [numbers[file.partition("/")[0]] for file in files]
    return Place([root / "dtd" / "dtd-r1.0.1" / "images" / file for file in files], labels=labels)


_PLACES = {"ade20k": _ade20k, "pascal": _pascal, "os": _opensurfaces, "dtd": _dtd}


def _pascal_labels(part2ind: Path, assignment: Path) -> dict[tuple[int, str], int]:
    """(class of the object, short name) -> Broden's part label, by the plain names; silhouettes are no part."""
    by_name = {
        row["raw_name"]: int(row["broden_label"])
        for row in _rows(assignment)
        if (row["dataset"], row["category"]) == ("pascal", "part")
    }
    found = part_names(part2ind)
    lost = sorted({name for name in found.values() if name not in by_name and name != "silhouette"})
    if lost:
        raise DataError(f"{assignment}: assigns no label to the parts {', '.join(lost)} of Pascal")
    return {key: by_name.get(name, 0) for key, name in found.items()}
