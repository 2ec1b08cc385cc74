"""Broden: the data of unified perceptual parsing (Broden+, Xiao et al. 2018) in its published layout.

    ROOT/                        the original's broden_dataset/
      ade20k/ADE20K_2016_07_26/images/...      NAME.jpg, NAME_seg.png, NAME_parts_1.png
      pascal/VOC2010/JPEGImages  pascal/context/trainval  pascal/part/Annotations_Part
      opensurfaces/photos  opensurfaces/photos-labels  opensurfaces/photos.csv
      dtd/dtd-r1.0.1/images
    META/                        the original's meta_file/: record lists and label tables

Three record lists: "objects" (ADE20K and Pascal: object, part, and scene of ADE20K), "materials" (OpenSurfaces) and
"textures" (DTD). `Sample.masks["part"]` numbers the outputs of the part head, see `visloom/tasks/parse/heads.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.data.broden_tables import (
    DATASETS,
    Record,
    Tables,
    count_records,
    datasets_there,
    label_masks,
    read_tables,
)
from visloom.data.images import check_headers, read_image
from visloom.data.layout import Layout
from visloom.data.maskfile import read_mask, read_mat
from visloom.data.pascal_parts import read_parts
from visloom.data.transforms import RandomFlip
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled, Source
from visloom.warp import IGNORE

CHECKED = 20_000
"""Pictures whose headers `check()` compares with the record list, evenly spread."""

Records = Literal["objects", "materials", "textures"]

TASKS: dict[Records, tuple[str, ...]] = {
    "objects": ("object", "part", "scene"),
    "materials": ("material",),
    "textures": ("texture",),
}
"""Heads that each record list labels."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Broden(Source):
    """One record list of Broden+.

    records: which list.  part: train or validation.
    datasets: of the list, only these: ("ade20k",) where Pascal is not at hand; () takes all.
    only: of the heads that the list labels, only these: ("scene",), say; () takes all.
    meta: folder of the tables; "" looks for meta_file in ROOT and beside it.
    """

    tasks: ClassVar[dict[Records, tuple[str, ...]]] = TASKS

    records: Records = "objects"
    part: Literal["train", "validation"] = "train"
    datasets: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    meta: str = ""

    def __post_init__(self) -> None:
        if self.records not in TASKS or self.part not in ("train", "validation"):
            raise ValueError(
                f"records is one of {', '.join(TASKS)} and part train or validation, got {self.records!r} and "
                f"{self.part!r}"
            )
        unknown = [name for name in self.only if name not in TASKS[self.records]]
        if unknown:
            raise ValueError(
                f"only: {', '.join(unknown)} is none of what {self.records} label: {', '.join(TASKS[self.records])}"
            )

    def open(self) -> Tables:
        """Read the record list and the tables, and look whether all folders are there.

        Raises:
            DataError: lists everything that is missing; or a table does not fit.
        """
        return read_tables(Path(self.root), self.meta, self.records, self.part, self.datasets)

    def count(self) -> int:
        return len(self.opened().records)

    def sizes_all(self) -> NDArray[np.int64]:
        """(N, 2) heights and widths as the record list says."""
        records: tuple[Record, ...] = self.opened().records
        return np.array([(r.height, r.width) for r in records], np.int64).reshape(-1, 2)

    def labelled(self) -> dict[str, tuple[str, ...]]:
        """Names of the labels in the tables, by task."""
        tables: Tables = self.opened()
        names = {**tables.names, "part": tables.part_names()}
        return {task: names[task] for task in self.only or TASKS[self.records]}

    def fetch(self, index: int) -> Sample:
        tables: Tables = self.opened()
        record = tables.records[index]
        place = tables.places[record.dataset]
        path = place.image(record.number)
        image = read_image(path)
        if image.shape[:2] != (record.height, record.width):
            raise DataError(_unlike(path, image.shape, record))
        masks: dict[str, NDArray[np.int32]] = {}
        labels: dict[str, int] = {}
        tasks = self.only or TASKS[self.records]
        if self.records == "materials":
            raw = read_mask(place.mask(record.number))
            masks["material"] = _known(tables.lookup(record.dataset, "material", _red(raw), path))
        elif self.records == "textures":
            labels["texture"] = place.label(record.number)
        else:
            if {"object", "part"} & {*tasks}:
                found = self._objects(tables, record, path)
                masks = {name: mask for name, mask in found.items() if name in tasks}
            if "scene" in tasks:
                labels["scene"] = place.label(record.number)
        for name, mask in masks.items():
            if mask.shape != image.shape[:2]:
                raise DataError(
                    f"{path}: is {image.shape[1]}x{image.shape[0]} and its labels of {name!r} "
                    f"{mask.shape[1]}x{mask.shape[0]} (width x height)"
                )
        extra = {"tasks": tasks, "labels": labels}
        return Sample(f"{record.dataset}/{path.stem}", image, masks=masks, extra=extra)

    def check(self) -> list[str]:
        """Compare the record list with the pictures' headers. Raises DataError for pictures that do not fit."""
        tables: Tables = self.opened()
        kept = self.chosen()
        wanted = np.arange(self.count()) if kept is None else kept
        looked = wanted[np.linspace(0, len(wanted) - 1, min(CHECKED, len(wanted))).astype(np.int64)]
        records = [tables.records[i] for i in looked.tolist()]
        paths = [tables.places[r.dataset].image(r.number) for r in records]
        sizes, problems = check_headers(paths)
        for number, (record, size) in enumerate(zip(records, sizes.tolist(), strict=True)):
            if number not in problems and tuple(size) != (record.height, record.width):
                problems[number] = _unlike(paths[number], size, record)
        if problems:
            lines = "\n  ".join(problems[i] for i in sorted(problems)[:10])
            more = f"\n  ... and {len(problems) - 10:,} more" if len(problems) > 10 else ""
            raise DataError(f"{len(problems):,} of {len(looked):,} pictures cannot be used:\n  {lines}{more}")
        if len(looked) < len(wanted):
            return [f"{self!r}: looked at the headers of {len(looked):,} of {len(wanted):,} pictures"]
        return []

    def _objects(self, tables: Tables, record: Record, path: Path) -> dict[str, NDArray[np.int32]]:
        """Objects and parts: "object" and "part", (H, W) int32."""
        place = tables.places[record.dataset]
        if record.dataset == "ade20k":
            raw = ade_classes(read_mask(place.mask(record.number)), path)
            file = place.parts(record.number)
            pieces = (
                tables.lookup("ade20k", "part", ade_classes(read_mask(file), file), file) if file else None
            )
        else:
            raw = read_mat(place.mask(record.number), "LabelMap")
            pieces = self._pascal_parts(tables, place.parts(record.number), raw.shape)
        objects = tables.lookup(record.dataset, "object", raw, path)
        if pieces is None:
            return {"object": _known(objects), "part": np.full(objects.shape, IGNORE, np.int32)}
        if pieces.shape != objects.shape:
            raise DataError(
                f"{path}: its objects are {objects.shape} and its parts {pieces.shape} (height, width)"
            )
        return {"object": _known(objects), "part": label_masks(objects, pieces, tables.outputs)}

    def _pascal_parts(
        self, tables: Tables, file: Path | None, shape: tuple[int, ...]
    ) -> NDArray[np.int32] | None:
        """Part labels of a picture; later instances lie over earlier ones."""
        if file is None:
            return None
        found = np.zeros(shape, np.int32)
        for label, name, mask in read_parts(file):
            known = tables.pascal.get((label, name))
            if known is None:
                raise DataError(f"{file}: part2ind.m knows no part {name!r} of object {label}")
            if mask.shape != shape:
                raise DataError(f"{file}: a mask is {mask.shape} and the objects {shape} (height, width)")
            found[mask] = known
        return found

    def __repr__(self) -> str:
        held = f"{len(self):,} pictures" if "_opened" in self.__dict__ else f"root={self.root!r}"
        return f"Broden({self.records} {self.part}: {held})"


def ade_classes(mask: NDArray[Any], path: Path) -> NDArray[np.int32]:
    """Classes that ADE20K stores in colours: (red // 10) * 256 + green, (H, W) int32.

    In 32 bits: numpy 2 refuses a product of 8-bit numbers that does not fit.
    """
    if mask.ndim != 3:
        raise DataError(
            f"{path}: its labels are gray, expected the colours of ADE20K's _seg.png and _parts_1.png"
        )
    wide = mask.astype(np.int32)
    return np.asarray(wide[..., 0] // 10 * 256 + wide[..., 1], np.int32)


def _red(mask: NDArray[Any]) -> NDArray[np.int32]:
    return (mask[..., 0] if mask.ndim == 3 else mask).astype(np.int32)


def _known(mask: NDArray[np.int32]) -> NDArray[np.int32]:
    """Label 0, "-", as ignore."""
    return np.where(mask > 0, mask, np.int32(IGNORE))


def _unlike(path: Path, size: Any, record: Record) -> str:
    return (
        f"{path}: is {size[1]}x{size[0]} pixels (width x height), and the record list says "
        f"{record.width}x{record.height}; the lists are of pictures whose shorter side was brought to 512 (the "
        f"original's resize_images.py)"
    )


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds Broden+: meta_file with broden_dataset beside it, or the latter itself."""
    for inside in ("broden_dataset", ""):
        there = datasets_there(folder / inside)
        if there:
            return _layout(folder, inside, there)
    return None


def _layout(folder: Path, inside: str, there: dict[str, tuple[str, ...]]) -> Layout:
    """What `visloom new` writes: the record lists of which pictures are there, and their heads."""
    recipe = "broden:textures" if "textures" in there else "broden"
    train, said = [], []
    settings: dict[str, Any] = {}
    for records, wanted in TASKS.items():
        if records not in there:
            if records != "textures":
                settings |= {f"task.heads.{task}": None for task in wanted}
            continue
        datasets = there[records] if there[records] != DATASETS[records] else ()
        source = Broden(root=inside, records=records, datasets=datasets)
        train.append(Shuffled(source=source, batch=16, transform=(RandomFlip(),), group="orientation"))
        settings[f"evals.{records}"] = {"stream": Ordered(source=replace(source, part="validation"), batch=2)}
        counts = [
            count_records(folder / inside, records, part, there[records]) for part in ("train", "validation")
        ]
        named = f"{records} of {', '.join(there[records])}"
        said.append(f"{named}: {counts[0]:,} pictures to train on, {counts[1]:,} to validate on")
    settings["train.parts"] = tuple(train)
    return Layout(kind="Broden+", recipe=recipe, settings=settings, said=tuple(said))
