"""Overlay: settings as text, from YAML and JSON files and the command line, each with its file and line.

Nothing is decided here about types: a plain word stays text until the slot it goes to is known, so `no`,
`1e-3` and `007` mean what the slot says and not what YAML 1.1 says. Reading runs no code: tags are errors, so
are keys given twice, and the parser's events are all that is used of PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from visloom.errors import ConfigError
from visloom.place import Place

MOST_VALUES = 200_000
MOST_LEVELS = 60

NULL = re.compile(r"~|null|Null|NULL|None|")
TRUE = re.compile(r"true|True|TRUE")
FALSE = re.compile(r"false|False|FALSE")
INT = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)")
FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")


class Scalar(str):
    """A word without quotes, as it was written: what it means depends on the slot.

    where: its file and line.
    """

    where: str = ""

    def __new__(cls, text: str, where: str = "") -> Scalar:
        scalar = super().__new__(cls, text)
        scalar.where = where
        return scalar

    def is_null(self) -> bool:
        """Say whether the word may stand for None."""
        return NULL.fullmatch(self) is not None

    def plain(self) -> Any:
        """Return None, a bool, an int, a float or a str: what the word means where any value is welcome."""
        if self.is_null():
            return None
        if TRUE.fullmatch(self) or FALSE.fullmatch(self):
            return TRUE.fullmatch(self) is not None
        if INT.fullmatch(self) and len(self) < 1000:
            return int(self)
        return float(self) if FLOAT.fullmatch(self) else str(self)

    def opened(self) -> Any:
        """Return the list, mapping or quoted text that a word of the command line holds, or the word.

        Raises:
            ConfigError: it begins like a list, a mapping or a quote and does not end like one.
        """
        return parse(self, self.where, lines=False) if self[:1] in tuple("[{\"'") else self


class Fields(dict[str, Any]):
    """A mapping as it was written. `where` is its place, `places` the places of its keys."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.places: dict[str, str] = {}


class Items(list[Any]):
    """A list as it was written, with its place."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where


def where_of(value: Any, otherwise: str = "") -> str:
    """Return the file and line of a value that was read from text, else `otherwise`."""
    return getattr(value, "where", "") if isinstance(value, Scalar | Fields | Items) else otherwise


def parse(text: str, name: str, *, lines: bool = True) -> Any:
    """Read one YAML (or JSON) document into Fields, Items, Scalar and str (what stood in quotes).

    name: what errors call the text; with `lines`, line numbers are added to it.

    Raises:
        ConfigError: not YAML, more than one document, a tag, a key given twice, far too many values.
    """
    try:
        return _Reader(yaml.parse(text, Loader=yaml.SafeLoader), name, lines).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark is not None and lines else name
        said = "; ".join(part for part in (error.problem, error.context) if part)
        raise Place(where=place).error(f"this is not valid YAML: {said}") from None
    except yaml.YAMLError as error:
        raise Place(where=name).error(f"this is not valid YAML: {error}") from None


def read(path: Path) -> Fields:
    """Read a settings file: YAML, or JSON by its ending.

    Raises:
        ConfigError: the file cannot be read, is empty, or does not hold a mapping.
    """
    place = Place(where=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise place.error(f"cannot read this file: {reason}") from None
    if path.suffix.lower() == ".json":
        text = _UNUSUAL.sub(lambda found: _escaped(found[0]), text)
    value = parse(text, str(path))
    if not isinstance(value, Fields):
        what = "an empty file" if value is None else "a list" if isinstance(value, list) else "one value"
        raise place.error(f"a settings file holds `name: value` lines, found {what}")
    return value


_UNUSUAL = re.compile(r"[^\n\r\x20-\x7e]")


def _escaped(letter: str) -> str:
    """A character as a JSON escape, because YAML takes some for line breaks and refuses others.

    Beyond ASCII, JSON has characters only inside strings, and tabs only outside.
    """
    if letter == "\t":
        return " "
    code = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{code[i]:02x}{code[i + 1]:02x}" for i in range(0, len(code), 2))


def settings(texts: Iterable[str], where: str = "command line") -> list[tuple[str, Any]]:
    """Read `path=value` texts; the values stay text until their slot is known.

    Raises:
        ConfigError: a text without `=`.
    """
    pairs = []
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise Place(where=where).error(f"expected path=value, got {text!r}", "for example: optim.lr=0.02")
        pairs.append((path.strip(), Scalar(value, where)))
    return pairs


class _Reader:
    """Turns the parser's events into values; one use."""

    def __init__(self, events: Iterator[yaml.Event], name: str, lines: bool) -> None:
        self.events = events
        self.name = name
        self.lines = lines
        self.anchors: dict[str, Any] = {}
        self.count = 0

    def document(self) -> Any:
        value = None
        for event in self.events:
            if isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
                if value is not None:
                    raise self._fail(event, "a settings file holds one document, found a second after ---")
            elif not isinstance(event, yaml.DocumentEndEvent | yaml.StreamEndEvent):
                value = self._value(event, 0)
        return value

    def _value(self, event: Any, level: int) -> Any:
        self.count += 1
        if level > MOST_LEVELS or self.count > MOST_VALUES:
            raise self._fail(event, "too many values, or too deep, for settings")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self._fail(event, f"*{event.anchor} stands for nothing that is complete here")
            self.count += _size(self.anchors[event.anchor], MOST_VALUES)
            return self.anchors[event.anchor]
        self._refuse_tag(event)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None and event.tag is None
            value = Scalar(event.value, self._where(event)) if plain else _paired(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = Items(self._where(event))
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                value.append(self._value(inner, level + 1))
        else:
            value = self._mapping(event, level)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def _mapping(self, event: Any, level: int) -> Fields:
        fields = Fields(self._where(event))
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._fail(key, "a key must be one word")
            self._refuse_tag(key)
            name, place = _paired(key.value), self._where(key)
            if name in fields:
                raise self._fail(key, f"{name!r} is given twice, first at {fields.places[name]}")
            fields[name] = self._value(next(self.events), level + 1)
            fields.places[name] = place
        return fields

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag != "!":
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            raise self._fail(event, f"the tag {tag} is not allowed: settings are plain values")

    def _where(self, event: Any) -> str:
        return f"{self.name}:{event.start_mark.line + 1}" if self.lines else self.name

    def _fail(self, event: Any, problem: str) -> ConfigError:
        return Place(where=self._where(event)).error(problem)


def _paired(text: str) -> str:
    """JSON writes characters beyond 16 bits as two escapes, which PyYAML leaves apart."""
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _size(value: Any, most: int) -> int:
    """Count the values of a tree, up to `most`: an alias of an alias of an alias grows without end."""
    total, waiting = 0, [value]
    while waiting and total <= most:
        item = waiting.pop()
        total += 1
        if isinstance(item, Items | Fields):
            waiting.extend(item.values() if isinstance(item, Fields) else item)
    return total
