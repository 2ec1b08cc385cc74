"""A configuration as lines of YAML-like text, with what was changed marked, and the differences between several."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_TEXT = 300  # letters of one value that are shown
_LINES = 1500  # lines of one configuration that are shown
_SETTING = re.compile(r"[A-Za-z_][\w.\-]*=")
_CHANGE = re.compile(r"([\w.\-]+): (.*?) -> ", re.S)


class Line(NamedTuple):
    """One line: how deep it stands, its key (`name:` or `-`), its value, and what it was if it was changed.

    was: None, or what there is to say about the change.
    """

    depth: int
    key: str
    value: str
    was: str | None = None


def lines(run: Mapping[str, Any], changed: Mapping[str, str]) -> list[Line]:
    """Return a configuration as lines.

    changed: dotted path -> what to say about its change. Items of lists are found by number and by kind.
    """
    found: list[Line] = []
    for line in _walk(run, 0, [""], changed):
        if len(found) == _LINES:
            found.append(Line(0, "...", "the rest is in run.json"))
            break
        found.append(line)
    return found


def changes(argv: Sequence[Any], parent: Sequence[Any], told: Any = None) -> dict[str, str]:
    """Return what was changed, by dotted path.

    argv: the command line; its `path=value` words count.  parent: lines `path: before -> after` of a branch.
    told: a mapping path -> value before, or a list of such lines, if the run directory has one.
    """
    found = {}
    for line in [*parent, *(told if isinstance(told, list) else [])]:
        match = _CHANGE.match(str(line))
        if match:
            found[match[1]] = f"was {match[2]}"
    for path, before in told.items() if isinstance(told, Mapping) else ():
        found[str(path)] = f"was {_scalar(before)}"
    for word in map(str, argv):
        if _SETTING.match(word):
            found.setdefault(word.partition("=")[0], "set on the command line")
    return found


def _walk(value: Any, depth: int, paths: list[str], changed: Mapping[str, str]) -> Iterator[Line]:
    """Yield the lines below a mapping or list that stands at these paths (several names for one place)."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "kind":
                yield from _entry(f"{key}:", item, depth, _below(paths, [str(key)]), changed)
    else:
        for i, item in enumerate(value):
            kind = _kind(item)
            yield from _entry("-", item, depth, _below(paths, [str(i), *([kind] if kind else [])]), changed)


def _entry(key: str, item: Any, depth: int, paths: list[str], changed: Mapping[str, str]) -> Iterator[Line]:
    was = next((changed[p] for p in paths if p in changed), None)
    if isinstance(item, Mapping | list | tuple) and item and not _flat(item):
        yield Line(depth, key, _kind(item), was)
        yield from _walk(item, depth + 1, paths, changed)
    elif isinstance(item, Mapping) and _kind(item):
        yield Line(depth, key, _kind(item), was)
    else:
        yield Line(depth, key, _scalar(item), was)


def _flat(item: Any) -> bool:
    """A short list of plain values fits on one line."""
    return isinstance(item, list | tuple) and not any(isinstance(v, Mapping | list) for v in item)


def _below(paths: list[str], names: list[str]) -> list[str]:
    return [f"{path}.{name}" if path else name for path in paths for name in names]


def _kind(item: Any) -> str:
    return str(item["kind"]).rpartition(":")[2] if isinstance(item, Mapping) and "kind" in item else ""


def _scalar(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[\w./:%+\- ]+", value):
        shown = value
    else:
        shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= _TEXT else f"{shown[:_TEXT]}... ({len(shown):,} letters)"


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """Return every leaf of a tree by dotted path; kinds are leaves, short lists too."""
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for key, item in value.items():
            found |= flatten(item, f"{path}.{key}" if path else str(key))
        return found
    if isinstance(value, list) and value and not _flat(value):
        found = {}
        for i, item in enumerate(value):
            found |= flatten(item, f"{path}.{i}")
        return found
    return {path: _scalar(value)}


def differences(trees: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return (path, value in each tree) of every leaf that is not the same in all; "" where a tree has none."""
    flat = [flatten(tree) for tree in trees]
    paths = dict.fromkeys(path for one in flat for path in one)
    rows = [(path, [one.get(path, "") for one in flat]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]
