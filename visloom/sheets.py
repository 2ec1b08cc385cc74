"""Sheets: what is in a recipe's data, in numbers and in pictures of what the network really sees.

`inspect(run, folder)` goes through every stream: how many samples, how many of each class, which sizes, what
cannot be read; and writes one contact sheet for training, with augmentation and mixing, and one for each
evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visloom.assemble import bound, classes_of, colours_of, with_classes
from visloom.errors import ConfigError, DataError, VisloomError
from visloom.keys import fold
from visloom.loader import Plan
from visloom.run import Run
from visloom.shortcuts import edit_each
from visloom.stream import Stream, walk_sources
from visloom.words import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

COUNT = 32
"""Samples on a contact sheet."""

_TILE = 144
_CAPTION = 18
_COLUMNS = 8
_SIZES = 400  # pictures that are opened to learn sizes, where the source does not know them


@dataclass
class SourceReport:
    """What was found in one source.

    about: its repr.  count: samples kept.  labels: samples per class, in the order of classes, or {}.
    sizes: (height, width) of some or all samples with their number, most frequent first.
    problems: what is wrong, with the file.  notes: what the source's own check says.
    """

    about: str
    count: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    sizes: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    sizes_of: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Inspection:
    """What was found in all streams: reports by stream name, and the contact sheets by name."""

    reports: dict[str, list[SourceReport]]
    sheets: dict[str, Path]

    @property
    def sound(self) -> bool:
        """Whether training can read all of it."""
        return not any(r.problems for reports in self.reports.values() for r in reports)


def inspect(run: Run, folder: Path, say: Callable[[str], None] = lambda text: None) -> Inspection:
    """Look at every stream of a run and write contact sheets into a folder.

    Raises:
        ConfigError: the folder cannot be written.
        DataError: no sample of a stream can be read at all.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    names = {"train": run.train, **{f"eval/{name}": each.stream for name, each in run.evals.items()}}
    reports: dict[str, list[SourceReport]] = {}
    sheets: dict[str, Path] = {}
    classes: tuple[str, ...] = ()
    colours: tuple[Any, ...] = ()
    streams = {n: bound(s, name=n, folder=Path(run.host.data), seed=run.seed) for n, s in names.items()}
    for name, stream in streams.items():
        reports[name] = [look(source) for source in walk_sources(stream)]
        for source in walk_sources(stream):
            classes, colours = classes or classes_of(source), colours or colours_of(source)
    run = with_classes(run, classes, colours)
    for name, stream in streams.items():
        stream = edit_each(stream, _skipping)  # what cannot be read is reported, and must not spoil the sheet
        say(f"drawing {name}")
        file = folder / f"{name.replace('/', '-')}.png"
        failed: list[str] = []
        shown = training_tiles if name == "train" else plain_tiles
        tiles = list(shown(run, stream, failed=failed))
        if not tiles:
            problems = [problem for each in reports[name] for problem in each.problems]
            lines = "\n  ".join(dict.fromkeys([*problems, *failed[:1]]))
            raise DataError(f"{name}: no sample can be shown:\n  {lines}")
        sheet(tiles).save(file)
        sheets[name] = file
    return Inspection(reports, sheets)


def look(source: Any) -> SourceReport:
    """Look at one source: what it holds, and what its own check complains about."""
    report = SourceReport(repr(source))
    source = _lenient(source, report)
    report.about, report.count = repr(source), len(source)
    labels = source.labels() if hasattr(source, "labels") else None
    if labels is not None:
        names = classes_of(source) or tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        report.labels = dict(zip(names, counts.tolist(), strict=False))
        if (labels < 0).any():
            report.labels["(no label)"] = int((labels < 0).sum())
    report.sizes, report.sizes_of = _sizes(source, report)
    return report


def _lenient(source: Any, report: SourceReport) -> Any:
    """Run a source's check; one that stops at unreadable pictures is looked at as if it skipped them."""
    check = getattr(source, "check", None)
    if check is None:
        return source
    try:
        report.notes += check()
    except DataError as error:
        report.problems.append(str(error))
    return _skipping(source)


def _skipping(value: Any) -> Any:
    """Return a source that passes over unreadable pictures, where it can; anything else as it is."""
    names = {f.name for f in fields(value)} if is_dataclass(value) else set()
    if "unreadable" in names and value.unreadable == "stop":
        return replace(value, unreadable="skip")
    return value


def _sizes(source: Any, report: SourceReport) -> tuple[list[tuple[tuple[int, int], int]], int]:
    """Sizes by how frequent they are, and of how many samples."""
    known = None
    try:
        known = source.sizes() if hasattr(source, "sizes") else None
    except DataError as error:
        report.problems.append(str(error))
    if known is None:
        known = []
        for index in np.unique(np.linspace(0, len(source) - 1, min(_SIZES, len(source))).astype(int)):
            try:
                image = source.read(int(index)).image
            except VisloomError as error:
                report.problems.append(str(error))
                continue
            known += [] if image is None else [image.shape[:2]]
    found = Counter((int(height), int(width)) for height, width in known)
    return found.most_common(), len(known)


# --------------------------------------------------------------------------------------------------- pictures


def training_tiles(
    run: Run, stream: Stream, count: int = COUNT, *, failed: list[str] | None = None
) -> Iterator[tuple[NDArray[Any], str]]:
    """Yield (picture, caption) of the first training samples, as the network gets them.

    failed: gets what was wrong with batches that are passed over.

    A task whose batches change on the device (mixup, say) shows them by `seen(batch)`, (B, H, W, 3) uint8.
    """
    plan = Plan(stream, run.task, seed=fold(run.seed, "train"), accumulate=run.how.accumulate)
    seen = getattr(run.task, "seen", None)
    shown = step = 0
    while shown < count and step < count:
        try:
            samples = plan.make(step, 0, collate=False)
            batch = plan.make(step, 0) if callable(seen) else None
        except DataError as error:
            _keep(failed, error)
            step += 1
            continue
        pictures = seen(batch) if callable(seen) else [sample.image for sample in samples]
        for picture, sample in zip(pictures, samples, strict=True):
            if picture is not None and shown < count:
                shown += 1
                yield np.asarray(picture), _caption(sample, run)
        step += 1


def _keep(failed: list[str] | None, error: Exception) -> None:
    if failed is not None:
        failed.append(str(error))


def plain_tiles(
    run: Run, stream: Stream, count: int = COUNT, *, failed: list[str] | None = None
) -> Iterator[tuple[NDArray[Any], str]]:
    """Yield (picture, caption) of samples spread over an evaluation stream. failed: as in `training_tiles`."""
    from visloom.pictures import read_at

    total = sum(len(leaf.source) for leaf in stream.leaves())
    for position in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)):
        try:
            sample = read_at(stream, int(position))
        except DataError as error:
            _keep(failed, error)
            continue
        if sample.image is not None:
            yield sample.image, _caption(sample, run)


def _caption(sample: Any, run: Run) -> str:
    label = sample.label
    if label is None:
        return str(sample.id)
    known = run.task.classes
    if np.ndim(label) == 1:
        there = np.flatnonzero(np.asarray(label) == 1)
        if len(there) > 1 and there[-1] < len(known):
            return ", ".join(known[i] for i in there)
        label = int(np.argmax(label))
    return known[label] if 0 <= int(label) < len(known) else str(label)


def sheet(tiles: Sequence[tuple[NDArray[Any], str]], columns: int = _COLUMNS) -> Image:
    """Lay pictures out with a caption under each; small ones are enlarged by whole pixels, big ones shrunk."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    height = _TILE + _CAPTION
    page = Images.new("RGB", (columns * (_TILE + 6) + 6, rows * (height + 6) + 6), (250, 250, 248))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for number, (pixels, caption) in enumerate(tiles):
        left, top = 6 + number % columns * (_TILE + 6), 6 + number // columns * (height + 6)
        picture = _fitted(pixels)
        page.paste(picture, (left + (_TILE - picture.width) // 2, top + (_TILE - picture.height) // 2))
        text = shorten(caption, 22)
        pen.text((left, top + _TILE + 1), text, fill=(24, 28, 32), font=font)
    return page


def _fitted(pixels: NDArray[Any]) -> Image:
    from PIL import Image as Images

    if pixels.dtype != np.uint8:  # 16-bit pictures: their range is not known
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / max(high - low, 1))).astype(np.uint8)
    pixels = pixels[..., 0] if pixels.shape[2] in (1, 2) else pixels[..., :3]
    picture = Images.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    longest = max(picture.size)
    if longest <= _TILE // 2:
        factor = _TILE // longest
        return picture.resize((picture.width * factor, picture.height * factor), Images.Resampling.NEAREST)
    picture.thumbnail((_TILE, _TILE))
    return picture
