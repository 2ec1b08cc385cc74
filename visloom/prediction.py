"""Prediction: a saved run answers for pictures: predictions.csv and drawn pictures.

Preprocessing is that of the run's first evaluation: its transforms, its reading options, its precision. The
data set is not needed. A picture that cannot be read is a row with its error and stops nothing.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from visloom.errors import ConfigError, DataError, VisloomError
from visloom.evaluation import evaluating
from visloom.keys import fold
from visloom.loader import collated
from visloom.rundir import safe_name
from visloom.sample import Sample
from visloom.saved import Saved, open_saved
from visloom.stream import applied, subkey

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

PICTURES = 500
"""Drawn pictures that `predict` makes unless told otherwise."""

_MAP = 10_000  # numbers from which on a column is a map
_READERS = 4  # threads: decoding a picture holds no Python lock
_PIXELS = 60_000_000  # of pictures held at once, about 180 MB


@dataclass(frozen=True)
class Predicted:
    """What `predict` found.

    rows: one mapping per picture, in order: "file", and either "error" or "label", "class", "score",
        "probabilities" ((K,) float32) and whatever else the task predicts; "picture" if one was drawn. Maps with a
        value per pixel are there only if nothing is written; else the names of their files are.
    table: the CSV file, or None.  saved: the run.  what: what a row is about.
    """

    rows: list[dict[str, Any]]
    saved: Saved
    table: Path | None = None
    what: str = "pictures"

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows of pictures without a prediction."""
        return [row for row in self.rows if "error" in row]


@dataclass(frozen=True)
class Answer:
    """What a task says that predicts data sets rather than pictures (`answers` of the spec), about one of its parts.

    name: what it is about.  count: samples that it is made of.  lines: of the table, as `spec.columns`.
    error: what went wrong.  draw: makes its picture, None where there is nothing to draw.
    """

    name: str
    count: int
    lines: Sequence[Sequence[Any]]
    error: str = ""
    draw: Callable[[], Image] | None = None


@dataclass
class _Item:
    """One picture on its way: its number, file, pixels as read, and as the network sees them.

    matrix: (3, 3), coordinates of the picture -> those of the sample.
    """

    number: int
    file: Path
    image: NDArray[np.uint8] | None = None  # (H, W, 3)
    sample: Sample | None = None
    matrix: NDArray[np.float64] | None = None
    prediction: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def predict(
    ref: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    tta: str | None = None,
    device: str | None = None,
    pictures: int = PICTURES,
    part: str | None = None,
    extensions: Sequence[str] = (),
    recursive: bool = False,
    trust: bool = False,
    tick: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict pictures with a run's best weights.

    Args:
        ref, tta, device, trust: as for `visloom.saved.open_saved`.
        images: files, globs and folders, or what `find_images` returned; for a task that predicts data sets (3D
            detection), the folder of one, or the name of an evaluation of the run.
        part: of a data set: a split, a scene, "all".  extensions, recursive: as for `find_images`.
        out: folder for predictions.csv and the drawn pictures; None writes nothing.
        pictures: how many pictures to draw at most.
        tick: told (pictures done, pictures in all).
    Raises:
        DataError: no picture there, or none of them could be predicted.
        ConfigError, CheckpointError: as `open_saved`; or `out` cannot be written.
    """
    places = [images] if isinstance(images, str | Path) else images
    saved = open_saved(ref, device=device, tta=tta, trust=trust)
    if hasattr(saved.spec, "answers"):
        return _predict_data(saved, places, None if out is None else Path(out), part, pictures, tick)
    if part is not None:
        raise ConfigError(
            f"{type(saved.spec).__name__} predicts pictures, which have no parts: leave out --part"
        )
    files = find_images(places, extensions=extensions, recursive=recursive, within=out)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sheet = stack.enter_context(_Sheet.open(Path(out), saved)) if out is not None else None
        for items in _chunks(_prepared(files, saved, stack), saved):
            _predict_items(items, saved)
            for item in items:
                row = _row(item, saved)
                if sheet is not None and not item.error:
                    sheet.note(row)
                    row = {**_small(row), **sheet.write(item, saved)}
                    if item.number < pictures:
                        row["picture"] = sheet.draw(item, saved)
                if sheet is not None:
                    sheet.add(row)
                rows.append(row)
            if tick is not None:
                tick(len(rows), len(files))
        if all("error" in row for row in rows):
            raise DataError(f"none of {len(rows)} pictures could be predicted; the first: {rows[0]['error']}")
        table = sheet.keep() if sheet is not None else None
    return Predicted(rows, saved, table)


def _predict_data(
    saved: Saved,
    places: Sequence[str | Path],
    out: Path | None,
    part: str | None,
    pictures: int,
    tick: Callable[[int, int], None] | None,
) -> Predicted:
    """Let a task answer for a data set: the same table and pictures, one of each per answer."""
    spec: Any = saved.spec
    rows: list[dict[str, Any]] = []
    done = 0
    with ExitStack() as stack:
        sheet = stack.enter_context(_Sheet.open(out, saved)) if out is not None else None
        total, answers = spec.answers(saved, places, part=part, out=out)
        for number, answer in enumerate(stack.enter_context(closing(answers))):
            row: dict[str, Any] = {"file": answer.name, "lines": answer.lines}
            if answer.error:
                row["error"] = answer.error
            if sheet is not None:
                if answer.draw is not None and number < pictures:
                    row["picture"] = sheet.keep_picture(number, answer.name, answer.draw())
                sheet.add(row)
            rows.append(row)
            done += answer.count
            if tick is not None:
                tick(done, total)
        if all("error" in row and not row["lines"] for row in rows):
            said = f"; the first: {rows[0]['error']}" if rows else ""
            raise DataError(f"none of {len(rows)} {spec.answers_for} could be predicted{said}")
        table = sheet.keep() if sheet is not None else None
    return Predicted(rows, saved, table, spec.answers_for)


# --------------------------------------------------------------------------------------------------- finding


def find_images(
    places: Sequence[str | Path],
    *,
    extensions: Sequence[str] = (),
    recursive: bool = False,
    within: str | Path | None = None,
) -> list[Path]:
    """Return the picture files that files, globs and folders name, each once, folders in order of names.

    Args:
        extensions: endings (with or without the dot, any case) that count in folders, all that can be read
            by default; a file that is named counts whatever it is called.
        recursive: also look into the folders of a folder.
        within: a folder to leave out, because results are written there.
    Raises:
        DataError: a name that is nothing, or nothing is left.
    """
    from visloom.data.images import EXTENSIONS

    endings = {f".{e.strip().lstrip('.').lower()}" for e in extensions if e.strip(" .")} or {*EXTENSIONS}
    out = None if within is None else Path(os.path.abspath(within))
    found: dict[str, Path] = {}
    for place in places:
        for path in _expanded(Path(place), str(place), endings, recursive):
            whole = Path(os.path.abspath(path))
            if out is None or out not in whole.parents:
                found.setdefault(str(whole), path)
    if not found:
        shown = ", ".join(str(p) for p in places) or "nothing was named"
        raise DataError(
            f"no pictures found: {shown}; endings looked for: {' '.join(sorted(endings))}"
            + ("" if recursive else "; folders inside folders are looked into with --recursive")
        )
    return list(found.values())


def _expanded(path: Path, text: str, endings: set[str], recursive: bool) -> Iterator[Path]:
    if path.is_dir():
        yield from _in_folder(path, endings, recursive)
        return
    if path.exists():  # also a name like photo[1].jpg, which would mean something else as a glob
        yield path
        return
    if not glob.has_magic(text):
        raise DataError(f"{text}: no such file or folder")
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise DataError(f"{text}: nothing matches")
    for match in matches:
        if os.path.isdir(match):
            yield from _in_folder(Path(match), endings, recursive)
        elif Path(match).suffix.lower() in endings:
            yield Path(match)


def _in_folder(folder: Path, endings: set[str], recursive: bool) -> Iterator[Path]:
    """Files of a folder by name; hidden ones are what other programs left there."""
    for at, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith(".")) if recursive else []
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in endings:
                yield Path(at, name)


# ------------------------------------------------------------------------------------------------- predicting


def _prepared(files: Sequence[Path], saved: Saved, stack: ExitStack) -> Iterator[_Item]:
    """Read and transform pictures in threads, a few ahead, in order."""
    pool = ThreadPoolExecutor(_READERS)
    stack.callback(pool.shutdown, cancel_futures=True)
    waiting = iter(enumerate(files))
    ahead: list[Future[_Item]] = []
    while True:
        for number, file in islice(waiting, 2 * _READERS - len(ahead)):
            ahead.append(pool.submit(_read, number, file, saved))
        if not ahead:
            return
        yield ahead.pop(0).result()


def _read(number: int, file: Path, saved: Saved) -> _Item:
    """Read one picture as the run's first evaluation would."""
    from visloom.data.images import read_image

    item = _Item(number, file)
    first = next(iter(saved.run.evals.values()), None)
    leaf = first.stream.leaves()[0] if first is not None else None
    options = {
        name: getattr(leaf.source, name)
        for name in ("max_pixels", "sixteen_bit")
        if leaf is not None and hasattr(leaf.source, name)
    }
    try:
        item.image = read_image(file, **options)
        sample = Sample(str(file), _channels(item.image, getattr(saved.spec, "channels", 3)))
        key = fold(saved.run.seed, "predict", number)
        for position, transform in enumerate(leaf.transform if leaf is not None else ()):
            sample = applied(transform, sample, subkey(key, position))
        item.sample = sample.resolve()
        item.matrix = item.sample.stored().matrix
    except VisloomError as error:
        item.error = str(error)
    except Exception as error:  # a transform of the user's own, on a picture that it did not expect
        item.error = f"{file}: {type(error).__name__}: {error}"
    return item


def _channels(image: NDArray[np.uint8], wanted: int) -> NDArray[np.uint8]:
    """Return (H, W, 3) as it is, or as one gray channel (H, W, 1) for a task that sees gray."""
    if wanted != 1:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def _chunks(items: Iterator[_Item], saved: Saved) -> Iterator[list[_Item]]:
    """Gather pictures to predict together: as many as fill some batches, or as memory allows."""
    most = 4 * _batch(saved)
    room = _PIXELS // max(1, getattr(saved.spec, "planes", 1))
    chunk: list[_Item] = []
    pixels = 0
    for item in items:
        chunk.append(item)
        pixels += 0 if item.image is None else item.image.shape[0] * item.image.shape[1]
        if len(chunk) >= most or pixels >= room:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _batch(saved: Saved) -> int:
    first = next(iter(saved.run.evals.values()), None)
    return min(64, first.stream.batch) if first is not None else 16


def _predict_items(items: Sequence[_Item], saved: Saved) -> None:
    """Predict pictures of one size together; what a network refuses is the error of those pictures."""
    sizes: dict[tuple[int, ...], list[_Item]] = {}
    for item in items:
        if item.sample is not None and item.sample.image is not None:
            sizes.setdefault(item.sample.image.shape, []).append(item)
    for same in sizes.values():
        for start in range(0, len(same), _batch(saved)):
            some = same[start : start + _batch(saved)]
            try:
                batch = collated(saved.spec, [item.sample for item in some if item.sample], None)
                with evaluating(saved.task), saved.autocast():
                    columns = saved.task.predict(batch.to(saved.device))
            except VisloomError as error:
                for item in some:
                    item.error = str(error)
                continue
            columns = {name: _host(column) for name, column in columns.items() if name != "ids"}
            for place, item in enumerate(some):
                item.prediction = _restored({n: column[place] for n, column in columns.items()}, item, saved)


def _restored(prediction: dict[str, Any], item: _Item, saved: Saved) -> Mapping[str, Any]:
    """Bring a prediction back to the geometry of the picture, where the task knows how (`restore` of the spec)."""
    restore = getattr(saved.spec, "restore", None)
    if restore is None or item.matrix is None or item.image is None:
        return prediction
    height, width = item.image.shape[:2]
    restored: Mapping[str, Any] = restore(prediction, item.matrix, (height, width))
    return restored


def _host(column: Any) -> Any:
    """Bring a column of predictions to the host, once for the batch; one of maps of several sizes one by one."""
    if isinstance(column, list | tuple):
        return [_host(value) for value in column]
    return column.float().cpu() if getattr(column, "is_floating_point", bool)() else _cpu(column)


def _cpu(column: Any) -> Any:
    return column.cpu() if hasattr(column, "cpu") else column


def _row(item: _Item, saved: Saved) -> dict[str, Any]:
    """Turn a prediction into plain values; "class" is the name of "label"."""
    row: dict[str, Any] = {"file": str(item.file)}
    if item.error:
        return {**row, "error": item.error}
    for name, value in item.prediction.items():
        plain = value.numpy() if hasattr(value, "numpy") else value
        row[name] = plain.item() if getattr(plain, "ndim", None) == 0 else plain
        if name == "label" and isinstance(row[name], int) and saved.spec.classes:
            row["class"] = saved.spec.classes[row[name]]
    lines = getattr(saved.spec, "lines", None)
    return row if lines is None else {**row, "lines": lines(row)}


def _small(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its maps, which would fill the memory."""
    return {name: value for name, value in row.items() if name == "lines" or np.size(value) < _MAP}


# --------------------------------------------------------------------------------------------------- writing


class _Sheet:
    """predictions.csv and the pictures beside it. The table appears whole when `keep` is called."""

    def __init__(self, folder: Path, saved: Saved) -> None:
        self.folder, self.classes = folder, saved.spec.classes
        self.final = folder / "predictions.csv"
        self._part = folder / f".predictions.csv.tmp-{os.getpid()}"
        self._file: TextIO | None = None
        self._writer: Any = None
        self._waiting: list[Mapping[str, Any]] = []  # rows before the first prediction
        self._names: list[str] = []
        self._chances: tuple[str, ...] = ()
        self._taken: set[str] = set()  # names of files that tasks wrote
        # a task that finds several things in a picture: columns of a line each, and records of a JSON list
        self._columns: tuple[str, ...] = getattr(saved.spec, "columns", ())
        self._records: Callable[[Mapping[str, Any]], list[Any]] | None = getattr(saved.spec, "records", None)
        self._json = folder / f".predictions.json.tmp-{os.getpid()}"
        self._json_file: TextIO | None = None

    @classmethod
    def open(cls, folder: Path, saved: Saved) -> _Sheet:
        """Make the folder. Raises ConfigError if it cannot be written."""
        sheet = cls(folder, saved)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # a name that is not UTF-8 is written with escapes, so that every program can read the table
            sheet._file = sheet._part.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            if sheet._records is not None:
                sheet._json_file = sheet._json.open("w", encoding="utf-8", errors="backslashreplace")
                sheet._json_file.write("[")
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written: {error.strerror or error}; choose another --out"
            ) from error
        return sheet

    def __enter__(self) -> _Sheet:
        return self

    def __exit__(self, *failure: object) -> None:
        for file, part in ((self._file, self._part), (self._json_file, self._json)):
            if file is not None:
                file.close()
            part.unlink(missing_ok=True)

    def note(self, row: Mapping[str, Any]) -> None:
        """Add what a task records of one picture (`records(row)` of the spec) to predictions.json."""
        if self._records is None or self._json_file is None:
            return
        for record in self._records(row):
            comma = "," if self._json_file.tell() > 1 else ""
            self._json_file.write(f"{comma}\n{json.dumps(record)}")

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one picture's line. The first prediction decides which columns there are."""
        if self._columns:
            self._add_lines(row)
            return
        if self._writer is None and "error" in row:
            self._waiting.append(row)
            return
        if self._writer is None:
            self._names = [name for name, value in row.items() if name not in _ENDS and np.ndim(value) == 0]
            chances = row.get("probabilities", ())
            self._chances = self.classes if np.shape(chances) == (len(self.classes),) else ()
            self._writer = csv.writer(self._file)  # type: ignore[arg-type]
            columns = [*self._names, *(f"p({name})" for name in self._chances)]
            self._writer.writerow(["file", *map(_cell, columns), "picture", "error"])
            for earlier in self._waiting:
                self._write(earlier)
        self._write(row)

    def _add_lines(self, row: Mapping[str, Any]) -> None:
        """Write a line for each thing found in a picture; one without anything where there is none."""
        if self._writer is None:
            self._writer = csv.writer(self._file)  # type: ignore[arg-type]
            self._writer.writerow(["file", *self._columns, "picture", "error"])
        ends = [row.get("picture", ""), _cell(str(row.get("error", "")))]
        for line in row.get("lines") or [[""] * len(self._columns)]:
            self._writer.writerow([_file_cell(row["file"]), *map(_shown, line), *ends])

    def _write(self, row: Mapping[str, Any]) -> None:
        values = [_shown(row.get(name, "")) for name in self._names]
        chances = row.get("probabilities", [""] * len(self._chances)) if self._chances else ()
        line = [*values, *map(_shown, chances), row.get("picture", ""), _cell(str(row.get("error", "")))]
        self._writer.writerow([_file_cell(row["file"]), *line])

    def write(self, item: _Item, saved: Saved) -> dict[str, str]:
        """Let the task write files of its own (`write` of the spec); returns cells of the table: what they are."""
        write = getattr(saved.spec, "write", None)
        if write is None:
            return {}
        name = safe_name(item.file.stem)
        if name.lower() in self._taken:  # of another folder, or with another ending
            name = f"{item.number + 1:05d}-{name}"
        self._taken.add(name.lower())
        cells: dict[str, str] = write(item.prediction, self.folder, name)
        return cells

    def draw(self, item: _Item, saved: Saved) -> str:
        """Draw one prediction; returns the file, relative to the table."""
        return self.keep_picture(item.number, item.file.stem, saved.spec.draw(item.image, item.prediction))

    def keep_picture(self, number: int, stem: str, picture: Image) -> str:
        """Write a picture; returns the file, relative to the table."""
        name = f"pictures/{number + 1:05d}-{safe_name(stem)}.png"
        (self.folder / "pictures").mkdir(exist_ok=True)
        picture.save(self.folder / name)
        return name

    def keep(self) -> Path:
        """Put the finished table in its place."""
        assert self._file is not None
        self._file.close()
        os.replace(self._part, self.final)
        if self._json_file is not None:
            self._json_file.write("\n]\n")
            self._json_file.close()
            os.replace(self._json, self.folder / "predictions.json")
        return self.final


_ENDS = ("file", "picture", "error")


def _shown(value: Any) -> Any:
    """Write one value: six digits for a fraction, texts so that they stay texts."""
    if isinstance(value, float | np.floating):
        return f"{float(value):.6f}"
    return _cell(value) if isinstance(value, str) else value


_NUMBER = re.compile(r"[-+]?[0-9.]+")


def _cell(text: str) -> str:
    """Return a text that a spreadsheet takes for text: `=1+1` and its like are formulas there."""
    return (
        f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not _NUMBER.fullmatch(text) else text
    )


def _file_cell(file: str) -> str:
    """The same for a relative path, which stays the same path: `./=1+1.jpg`."""
    return f"./{file}" if _cell(file) != file else file
