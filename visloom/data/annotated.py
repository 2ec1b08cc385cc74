"""Annotated: one source of a set of one's own, labelled for some tasks, as a sources file describes it.

    Sample.masks[TASK]              (H, W) int32: class, or output of a head of parts; -1 = not labelled
    Sample.extra["labels"][TASK]    class of the picture; a picture that is not labelled has none
    Sample.extra["tasks"]           all tasks that the source labels

A picture may lack labels of some tasks; one that has none at all is left out, aloud. See `sources_file.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data import listing, mask_source
from visloom.data.broden_tables import Outputs, label_masks
from visloom.data.images import EXTENSIONS, MAX_PIXELS, check_headers, read_image
from visloom.data.layout import Layout, some
from visloom.data.legend import ILLEGAL, Table
from visloom.data.maskfile import mask_header, read_mask
from visloom.data.masks import MASK_ENDINGS
from visloom.data.sources_file import FILE, Described, OwnSet, read_set
from visloom.data.transforms import RandomFlip
from visloom.errors import DataError
from visloom.keys import fold, permutation
from visloom.place import join
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled, Source
from visloom.tasks.parse.heads import Parts, Pixels
from visloom.warp import IGNORE

BATCH = 8
"""Pictures of a training step in a recipe that `visloom new` writes; fewer where a source is small."""


class Item(NamedTuple):
    """One picture: its id, its file, its masks by task, and its classes by task."""

    id: str
    image: Path
    masks: Mapping[str, Path]
    labels: Mapping[str, int]


class Opened(NamedTuple):
    """What is known once a source is opened. outputs: of tasks of parts; notes are told by `check()`."""

    held: OwnSet
    items: Sequence[Item]
    tables: Mapping[str, Table]
    outputs: Mapping[str, tuple[Outputs, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Annotated(Source):
    """One source of a sources file.

    source: its name there.  part: what is trained on, what is held out, or all.
    file: the sources file, in `root`.  max_pixels: larger pictures are refused from their header.
    """

    source: str
    part: Literal["train", "validation", "all"] = "all"
    file: str = FILE
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.part not in ("train", "validation", "all"):
            raise ValueError(f"part is train, validation or all, got {self.part!r}")

    def open(self) -> Opened:
        """Read the file and list the pictures.

        Raises:
            ConfigError: the file has a wrong setting.
            DataError: what it names is missing, or no label belongs to a picture.
        """
        file = Path(self.root) / self.file
        held = read_set(file)
        if self.source not in held.sources:
            raise DataError(f"{file} has no source {self.source!r}, only {some(tuple(held.sources))}")
        described = held.sources[self.source]
        items, notes = _items(described, held)
        tables = {n: each.legend.table() for n, each in described.labels.items() if each.legend is not None}
        outputs = {n: _outputs(held, head) for n, head in held.heads.items() if isinstance(head, Parts)}
        return Opened(held, _part(items, described, self.part), tables, outputs, notes)

    def count(self) -> int:
        return len(self.opened().items)

    def labelled(self) -> dict[str, tuple[str, ...]]:
        """Names of the outputs, by task."""
        held: OwnSet = self.opened().held
        return {name: held.heads[name].labels for name in held.sources[self.source].labels}

    def sizes_all(self) -> NDArray[np.int64]:
        """(N, 2) heights and widths from the headers of all pictures."""
        if "_sizes" not in self.__dict__:
            paths = [item.image for item in self.opened().items]
            sizes, problems = check_headers(paths, max_pixels=self.max_pixels)
            if problems:
                raise self._refuse(list(problems.values()), len(paths))
            object.__setattr__(self, "_sizes", sizes)
        return self.__dict__["_sizes"]  # type: ignore[no-any-return]

    def fetch(self, index: int) -> Sample:
        item: Item = self.opened().items[index]
        image = read_image(item.image, max_pixels=self.max_pixels)
        masks = {name: self._decode(name, path) for name, path in item.masks.items()}
        for name, mask in masks.items():
            if mask.shape != image.shape[:2]:
                pair = mask_source.Item(item.id, item.image, item.masks[name])
                raise DataError(mask_source.unlike(pair, image.shape, mask.shape))
        held: OwnSet = self.opened().held
        for name in [n for n in masks if isinstance(held.heads[n], Parts)]:
            masks[name] = self._parts(name, masks)
        tasks = tuple(held.sources[self.source].labels)
        return Sample(item.id, image, masks=masks, extra={"tasks": tasks, "labels": dict(item.labels)})

    def check(self) -> list[str]:
        """Compare headers of pictures and masks, and decode a few masks.

        Raises:
            DataError: files that cannot be read, sizes that differ, stored values without a meaning.
        """
        opened: Opened = self.opened()
        kept = self.chosen()
        wanted = np.arange(self.count()) if kept is None else kept
        if not len(wanted):
            raise DataError(f"{self!r}: nothing is left after val, split and limit")
        looked = mask_source.spread(wanted, mask_source.CHECKED)
        problems = self._headers([opened.items[i] for i in looked.tolist()])
        if problems:
            raise self._refuse(problems, len(wanted))
        for index in mask_source.spread(wanted, mask_source.DECODED).tolist():
            for name, path in opened.items[index].masks.items():
                self._decode(name, path)
        more = [f"{self!r}: looked at the headers of {len(looked):,} of {len(wanted):,} pictures"]
        return [*opened.notes, *(more if len(looked) < len(wanted) else [])]

    def __repr__(self) -> str:
        if "_opened" not in self.__dict__:
            return f"Annotated({self.source} {self.part}, {self.root or '.'}/{self.file})"
        tasks = ", ".join(self.opened().held.sources[self.source].labels)
        return f"Annotated({self.source} {self.part}: {len(self):,} pictures, {tasks})"

    # ---- inside

    def _decode(self, name: str, path: Path) -> NDArray[np.int32]:
        """A mask as classes of its head, or as names of parts: (H, W) int32."""
        table: Table = self.opened().tables[name]
        raw = read_mask(path, max_pixels=self.max_pixels)
        mask = table(raw, str(path))
        if mask.size and int(mask.min()) <= ILLEGAL:
            raise DataError(table.complaint(raw, str(path), lambda found, legend: ""))
        return mask

    def _parts(self, name: str, masks: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int32]:
        """Outputs of a head of parts, from names of parts and the objects that they lie in."""
        opened: Opened = self.opened()
        head = opened.held.heads[name]
        assert isinstance(head, Parts)
        named = masks[name]
        if head.of not in masks:  # a picture whose objects nobody labelled
            return np.full(named.shape, IGNORE, np.int32)
        none = len(opened.held.parts[name]) - 1
        pieces = np.where((named == none) | (named == IGNORE), 0, named + 1).astype(np.int32)
        found = label_masks(masks[head.of], pieces, opened.outputs[name])
        return np.where(named == IGNORE, np.int32(IGNORE), found)

    def _headers(self, items: Sequence[Item]) -> list[str]:
        """What is wrong with pictures and masks, by their headers."""
        sizes, problems = check_headers([item.image for item in items], max_pixels=self.max_pixels)
        pairs = [
            (number, mask_source.Item(item.id, item.image, path))
            for number, item in enumerate(items)
            if number not in problems
            for path in item.masks.values()
        ]
        numbers = np.array([number for number, _ in pairs], np.int64)
        header = partial(mask_header, max_pixels=self.max_pixels)
        found = mask_source.differing([pair for _, pair in pairs], sizes[numbers], header)
        return [*problems.values(), *(line for line in found if line)]

    def _refuse(self, problems: Sequence[str], count: int) -> DataError:
        more = f"\n  ... and {len(problems) - 10:,} more" if len(problems) > 10 else ""
        lines = "\n  ".join(problems[:10])
        return DataError(f"{len(problems):,} faults in {count:,} samples of {self!r}:\n  {lines}{more}")


# ------------------------------------------------------------------------------------------------- finding files


def recognise(folder: Path) -> Layout | None:
    """Say whether a folder holds a sources file under its usual name. Raises what `read_set` raises."""
    file = folder / FILE
    return layout(file) if file.is_file() else None


def layout(file: Path) -> Layout:
    """What `visloom new` writes for a sources file: heads, a part for each source, an evaluation for each."""
    held = read_set(file)
    train, evals, said = [], {}, []
    for name, described in held.sources.items():
        source = Annotated(source=name, part="train", file=file.name)
        seen = replace(source, part="validation")
        counts = [len(replace(each, root=str(file.parent))) for each in (source, seen)]
        batch = max(2, min(BATCH, 1 << max(1, counts[0] // 4).bit_length() - 1))  # batch norm needs two
        train.append(
            Shuffled(source=source, batch=batch, transform=(RandomFlip(),), group="orientation", tail="wrap")
        )
        if counts[1]:
            evals[name] = Ordered(source=seen, batch=2)
        tasks = some(tuple(described.labels))
        said.append(f"{name}: {counts[0]:,} pictures to train on, {counts[1]:,} to validate on: {tasks}")
    weights = tuple(s.weight for s in held.sources.values() if s.weight is not None)
    settings: dict[str, Any] = {"task.heads": tuple(held.heads.values()), "train.parts": tuple(train)}
    settings |= {"train.weights": weights} if weights else {}
    first = next(iter(evals), None)
    for name, stream in evals.items():
        settings[join("evals", name)] = {
            "stream": stream,
            "monitor": _monitor(held, name) if name == first else None,
        }
    said.append(f"tasks: {', '.join(f'{n} ({len(h.labels)})' for n, h in held.heads.items())}")
    return Layout(kind="a set of several sources", recipe="sources", settings=settings, said=tuple(said))


def _monitor(held: OwnSet, name: str) -> str:
    """What decides which checkpoint is the best: the first task of the first source."""
    head = held.heads[next(iter(held.sources[name].labels))]
    return f"max {head.name}_{'miou' if head.kind in ('pixels', 'parts') else 'accuracy'}"


def _items(described: Described, held: OwnSet) -> tuple[list[Item], tuple[str, ...]]:
    """Every picture that has a label, and what should be told."""
    pictures = _pictures(described)
    by_stem = {_stem(path): path for path in pictures}
    if len(by_stem) < len(pictures):
        twice = sorted({p for p in pictures if by_stem[_stem(p)] != p})
        raise DataError(f"{described.images}: two pictures have one name but for the ending: {some(twice)}")
    masks: dict[str, dict[str, Path]] = {}
    labels: dict[str, dict[str, int]] = {}
    for name, each in described.labels.items():
        if each.legend is not None:
            masks[name] = _masks(each.path, each.suffix, by_stem)
        else:
            labels[name] = _classes(each.path, described.images, held.heads[name].labels, by_stem)
    places: dict[str, Mapping[str, object]] = {**masks, **labels}
    for name, found in places.items():
        if not found.keys() & by_stem.keys():
            raise DataError(
                f"{described.labels[name].path}: no label of {name!r} belongs to a picture in {described.images}; "
                f"pictures are called {some(tuple(pictures), 3)}, labels have the same name"
            )
    items = [
        Item(
            f"{described.name}/{stem}",
            described.images / path,
            {name: found[stem] for name, found in masks.items() if stem in found},
            {name: found[stem] for name, found in labels.items() if stem in found},
        )
        for stem, path in by_stem.items()
        if any(stem in found for found in places.values())
    ]
    return items, _told(described, by_stem, places)


def _told(
    described: Described, by_stem: Mapping[str, str], places: Mapping[str, Mapping[str, object]]
) -> tuple[str, ...]:
    """Notes about pictures that lack labels."""
    count, notes = len(by_stem), []
    bare = [path for stem, path in by_stem.items() if not any(stem in found for found in places.values())]
    if bare:
        notes.append(f"{described.name}: {len(bare):,} of {count:,} pictures have no label and are left out")
    for name, found in places.items():
        lack = count - len(bare) - len(found.keys() & by_stem.keys())
        if lack:
            notes.append(f"{described.name}: {lack:,} of {count:,} pictures are not labelled for {name}")
    return tuple(notes)


def _stem(path: str) -> str:
    return Path(path).with_suffix("").as_posix()


def _pictures(described: Described) -> list[str]:
    """Pictures below the folder of a source, without the masks that may lie in it too."""
    inside = [
        each.path.relative_to(described.images).as_posix()
        for each in described.labels.values()
        if each.legend is not None
        and each.path != described.images
        and each.path.is_relative_to(described.images)
    ]
    endings = tuple(
        f"{each.suffix}.png" for each in described.labels.values() if each.path == described.images
    )
    found = [
        path
        for path in listing.pictures(described.images, EXTENSIONS)
        if not any(path.startswith(f"{folder}/") for folder in inside)
        and not any(path.endswith(ending) for ending in endings if ending != ".png")
    ]
    if not found:
        raise DataError(f"{described.images}: holds no pictures; looked for {', '.join(EXTENSIONS)}")
    return found


def _masks(folder: Path, suffix: str, pictures: Mapping[str, str]) -> dict[str, Path]:
    """Masks by the name of their picture without its ending."""
    files = {_stem(path): folder / path for path in listing.pictures(folder, MASK_ENDINGS)}
    return {stem: files[stem + suffix] for stem in pictures if stem + suffix in files}


def _classes(
    place: Path, images: Path, names: tuple[str, ...], pictures: Mapping[str, str]
) -> dict[str, int]:
    """Classes by the name of their picture without its ending: from a table, or from class folders."""
    if place.is_dir():
        found = listing.scan(place, EXTENSIONS, names)
        cut = 0 if place == images else 1  # the pictures themselves may lie in the class folders
        stems = [Path(*Path(path).parts[cut:]).with_suffix("").as_posix() for path in found.paths]
    else:
        found = listing.read(place.parent, place.name, names)
        stems = [_stem(path) for path in found.paths]
    strange = [path for path, stem in zip(found.paths, stems, strict=True) if stem not in pictures]
    if strange:
        raise DataError(
            f"{place}: {len(strange):,} of {len(stems):,} lines name no picture in {images}: {some(strange, 3)}"
        )
    return dict(zip(stems, found.labels.tolist(), strict=True))


def _part(items: Sequence[Item], described: Described, part: str) -> Sequence[Item]:
    """The items of a part; where validation is a share, at least one picture stays on each side."""
    if part == "all":
        return items
    if isinstance(described.val, Path):
        named = {f"{described.name}/{_stem(line)}" for line in mask_source.read_list(described.val)}
        unknown = sorted(named - {item.id for item in items})
        if unknown:
            raise DataError(
                f"{described.val}: names {some(unknown, 3)}, no labelled picture of {described.name}"
            )
        held = {item.id for item in items if item.id in named}
    elif described.val and len(items) > 1:
        order = permutation(fold(0, "validation", described.name), len(items))
        count = min(len(items) - 1, max(1, round(described.val * len(items))))
        held = {items[i].id for i in order[:count].tolist()}
    else:
        held = set()
    return [item for item in items if (item.id in held) == (part == "validation")]


def _outputs(held: OwnSet, head: Parts) -> tuple[Outputs, ...]:
    """Outputs of each object: its label, where they begin, and the numbers of its parts, 0 first."""
    objects, named = held.heads[head.of], held.parts[head.name]
    assert isinstance(objects, Pixels)
    return tuple(
        Outputs(block.label, block.start, (0, *(named.index(part) + 1 for part in each.parts)))
        for block, each in zip(head.blocks(objects), head.parts, strict=True)
    )
