"""Names of classes and their colours from a CSV or JSON file, as tools for labelling write them.

    CSV     name,r,g,b  or  value,name,colour  or just name: a line of column names, then one class per line. A colour
            is three columns (r, g, b) or one: "#ff8000", "255 128 0". `value` is what masks store, by default the
            number of the line, from 0. A class called "ignore" is none: its value and colour mean ignore.
    JSON    ["sky", ...], {"sky": [0, 0, 255] or "#0000ff" or 1, ...}, [{"name": ..., "color": ..., "value": ...}],
            or {"classes": [...], "palette": [...]}

Every function raises DataError with file and line (or entry).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from visloom.data.images import missing
from visloom.data.layout import some
from visloom.data.legend import DROPPED, Legend
from visloom.errors import DataError
from visloom.palette import Colour
from visloom.warp import IGNORE

USUAL = (
    "classes.csv",
    "classes.json",
    "class_dict.csv",
    "labels.csv",
    "palette.csv",
    "palette.json",
    "labelmap.json",
)
"""File names that are looked for where none is given; "class_dict.csv" is what CamVid's copies have."""

_NAME = ("name", "class", "class_name", "label", "label_name", "category")
_VALUE = ("value", "id", "index", "pixel", "label_id", "class_id")
_COLOUR = ("color", "colour", "rgb", "hex")
_RGB = (("r", "red"), ("g", "green"), ("b", "blue"))


class Row(NamedTuple):
    """One class: where it is written, its name, its colour, and the value that masks store."""

    where: str
    name: str
    colour: Colour | None
    value: int | None


def read_names(path: Path, ignore: Sequence[int] = ()) -> Legend:
    """Read a file of class names.

    ignore: stored values that mean ignore, beside those that the file names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = missing(path) if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(f"{path}: the class names cannot be read: {reason}") from error
    rows = list(_json(path, text) if path.suffix.lower() == ".json" else _table(path, text))
    if not rows:
        raise DataError(f"{path}: names no classes")
    return _legend(path, rows, ignore)


def _legend(path: Path, rows: Sequence[Row], ignore: Sequence[int]) -> Legend:
    _check_repeats(path, rows)
    with_colour = [row for row in rows if row.colour is not None]
    if with_colour and len(with_colour) < len(rows):
        bare = [row.name for row in rows if row.colour is None]
        raise DataError(
            f"{path}: has {len(with_colour)} colours for {len(rows)} classes; without one are {some(bare)}"
        )
    kept = [row for row in rows if row.name.lower() != DROPPED]
    if not kept:
        raise DataError(f"{path}: names no class but {DROPPED!r}")
    label = {row.name: index for index, row in enumerate(kept)}
    values = dict.fromkeys(ignore, IGNORE)
    painted: dict[Colour, int] = {}
    for number, row in enumerate(rows):
        index = label.get(row.name, IGNORE)
        values[number if row.value is None else row.value] = index
        if row.colour is not None:
            painted[row.colour] = index
    colours = tuple(row.colour for row in kept if row.colour is not None)
    return Legend(tuple(label), colours, values, painted)


def _check_repeats(path: Path, rows: Sequence[Row]) -> None:
    for what in ("name", "colour", "value"):
        seen: dict[Any, Row] = {}
        for row in rows:
            mark = getattr(row, what)
            if mark is not None and mark in seen:
                raise DataError(f"{row.where}: {what} {mark!r} stands here and in {seen[mark].where}")
            seen[mark] = row
    given = [row for row in rows if row.value is not None]
    if given and len(given) < len(rows):
        bare = next(row for row in rows if row.value is None)
        raise DataError(f"{bare.where}: {bare.name!r} has no value, where other classes have one")


# ------------------------------------------------------------------------------------------------------ formats


def _table(path: Path, text: str) -> Iterable[Row]:
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in text.partition("\n")[0] else ","
    lines = [
        (n, line)
        for n, line in enumerate(csv.reader(text.splitlines(), delimiter=mark), start=1)
        if any(line)
    ]
    if not lines:
        return
    head = [cell.strip().lower() for cell in lines[0][1]]
    at = {word: place for place, word in enumerate(head)}
    name_at = next((at[word] for word in _NAME if word in at), -1)
    if name_at < 0 and len(head) == 1:  # one name per line, without a line of column names
        lines, name_at = [(0, ["name"]), *lines], 0
    if name_at < 0:
        raise DataError(
            f"{path}, line {lines[0][0]}: expected column names, one of {', '.join(_NAME)} among them, found "
            f"{', '.join(head)}"
        )
    value_at = next((at[word] for word in _VALUE if word in at), None)
    colour_at = next((at[word] for word in _COLOUR if word in at), None)
    rgb_at = [next((at[word] for word in words if word in at), None) for words in _RGB]
    for number, cells in lines[1:]:
        where = f"{path}, line {number}"
        if len(cells) < len(head):
            raise DataError(f"{where}: has {len(cells)} columns, expected {len(head)}: {', '.join(head)}")
        colour: Colour | None = None
        if colour_at is not None:
            colour = _colour(cells[colour_at], where)
        elif None not in rgb_at:
            colour = _colour([cells[place] for place in rgb_at if place is not None], where)
        value = None if value_at is None else _number(cells[value_at], where)
        yield Row(where, _name(cells[name_at], where), colour, value)


def _json(path: Path, text: str) -> Iterable[Row]:
    try:
        held = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error})") from error
    if isinstance(held, Mapping):
        names = next((held[word] for word in ("classes", "names", "labels") if word in held), None)
        colours = next((held[word] for word in ("palette", "colors", "colours") if word in held), None)
        if names is None:
            held = [_entry(name, value) for name, value in held.items()]
        elif colours is None:
            held = names
        else:
            held = _zipped(path, names, colours)
    if not isinstance(held, list):
        raise DataError(
            f"{path}: expected a list of classes or a mapping from names, found {type(held).__name__}"
        )
    for number, entry in enumerate(held):
        where = f"{path}, class {number}"
        fields = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, Mapping):
            raise DataError(f"{where}: expected a name, or an object with a name, found {entry!r}")
        name = next((fields[word] for word in _NAME if word in fields), None)
        value = next((fields[word] for word in _VALUE if word in fields), None)
        colour = next((fields[word] for word in _COLOUR if fields.get(word) is not None), None)
        yield Row(
            where,
            _name(name, where),
            None if colour is None else _colour(colour, where),
            None if value is None else _number(value, where),
        )


def _entry(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"name": name, **value}
    return {"name": name, ("value" if isinstance(value, int) else "color"): value}


def _zipped(path: Path, names: Any, colours: Any) -> list[dict[str, Any]]:
    if not isinstance(names, list) or not isinstance(colours, list):
        raise DataError(f"{path}: classes and palette are two lists of the same length")
    if colours and all(isinstance(v, int) for v in colours):  # flat, as palettes of pictures are
        if len(colours) % 3 or (len(colours) < 3 * len(names)) or any(colours[3 * len(names) :]):
            raise DataError(
                f"{path}: the palette has {len(colours)} numbers for {len(names)} classes, expected {3 * len(names)}: "
                f"red, green and blue of each"
            )
        colours = [colours[at : at + 3] for at in range(0, 3 * len(names), 3)]
    if len(names) != len(colours):
        raise DataError(
            f"{path}: the palette has {len(colours)} colours for {len(names)} classes, expected one each"
        )
    return [{"name": name, "color": colour} for name, colour in zip(names, colours, strict=True)]


# ------------------------------------------------------------------------------------------------------- values


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected the name of a class, found {value!r}")
    return value.strip()


def _number(value: Any, where: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected a whole number from 0 on, found {value!r}") from None
    if number < 0 or isinstance(value, float | bool):
        raise DataError(f"{where}: expected a whole number from 0 on, found {value!r}")
    return number


def _colour(value: Any, where: str) -> Colour:
    """Read "#ff8000", "255 128 0", or three numbers."""
    parts: list[Any] = []
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
            parts = [int(text[at : at + 2], 16) for at in (1, 3, 5)]
        else:
            parts = [word for word in re.split(r"[\s,()\[\]]+", text) if word]
    elif isinstance(value, list | tuple):
        parts = list(value)
    try:
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        raise DataError(
            f"{where}: expected a colour, red, green and blue from 0 to 255 or #rrggbb, found {value!r}"
        )
    return numbers[0], numbers[1], numbers[2]
