"""Config: one tree, one edit operation, three front doors.

    change(run, {"optim.lr": 0.02})          edit a run in Python
    load("cifar10", ["optim.lr=0.02"])       a recipe, a file or a run directory by name, then edits
    dump(run), to_yaml(run)                  plain data and text; both load again as the same run
    diff(a, b), identity(run)                what differs; what decides the weights

`docs/config.md` is the guide. `validate.py` checks a whole run before anything is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from math import isfinite
from pathlib import PurePath
from typing import Any

import yaml

from visloom import slots
from visloom.coerce import coerce, settle
from visloom.kinds import RENAMED, kind_of, short
from visloom.overlay import FLOAT, INT, NULL, settings
from visloom.paths import is_object, names_of, spread
from visloom.place import Place, join
from visloom.refs import open_ref, recipes
from visloom.run import Run
from visloom.slots import Hint
from visloom.trust import Trust

__all__ = [
    "FREE",
    "apply",
    "change",
    "diff",
    "dump",
    "edited_since",
    "fixed",
    "identity",
    "load",
    "recipes",
    "to_yaml",
]


def change(run: Run, edits: Mapping[str, Any]) -> Run:
    """Return a run with some settings changed: `change(run, {"optim.lr": 0.02, "length": "epochs:50"})`.

    edits: dotted path -> typed object, plain data, or text as in files. All are applied together; of two for
        one path the later counts. docs/config.md has the table of what can be done with lists.

    Raises:
        ConfigError: a path that leads nowhere or a value that does not fit; names both, and the nearest.
    """
    at = Place(root=run)
    made: Run = settle(run, Run, spread(edits, "", at), at)
    return made


def load(
    ref: str | os.PathLike[str], edits: Iterable[str] | Mapping[str, Any] = (), *, trust: bool = False
) -> Run:
    """Return the run that a reference names, with edits applied last. Imports no torch by itself.

    ref: a recipe (`cifar10`, `cifar10:resnet50`), `package.module:function`, a file (`mine.py`,
        `mine.py:big`, `mine.yaml`, `mine.json`) or a run directory.
    edits: `path=value` texts from the command line, or a mapping as for `change`.
    trust: let settings import and call any module, rather than visloom, the library calls in `trust.py`, and
        the folder or package of a Python recipe named by `ref`.

    Raises:
        ConfigError: nothing of that name, or a setting is wrong; names file and line, or "command line".
    """
    opened = open_ref(os.fspath(ref), Trust(everything=trust))
    return _edited(opened.run, edits, opened.trust)


def apply(run: Run, edits: Iterable[str], *, trust: bool = False) -> Run:
    """Return a run with `path=value` texts of the command line applied, as `load` does."""
    return _edited(run, edits, Trust(everything=trust))


def _edited(run: Run, edits: Iterable[str] | Mapping[str, Any], trust: Trust) -> Run:
    at = Place(trust=trust, root=run)
    if isinstance(edits, str):
        raise at.error(f"edits are a list of texts or a mapping, got the text {edits!r}")
    if isinstance(edits, Mapping):
        applied = spread(edits, "", at)
    else:
        applied = [e for path, value in settings(edits) for e in spread({path: value}, value.where, at)]
    made: Run = settle(run, Run, applied, at)
    return made


# ----------------------------------------------------------------------------------------------------- dump


def dump(run: Run) -> dict[str, Any]:
    """Return a run as JSON-able data: every field, in the order of its class; kinds as import paths; lengths
    and monitors as text.

    Raises:
        ConfigError: a value that cannot be written down, such as a function.
    """
    return _plain(run, brief=False)


def identity(run: Run) -> dict[str, Any]:
    """Return what decides the weights: the dump without `host`."""
    return {name: value for name, value in dump(run).items() if name != "host"}


FREE = ("length", "save", "log", "host")
"""What may change when a run is resumed; all else makes it another run."""


def fixed(run: Run) -> dict[str, Any]:
    """Return what may not change when a run is resumed: the dump without FREE."""
    return {name: value for name, value in dump(run).items() if name not in FREE}


def to_yaml(run: Run) -> str:
    """Return a run as a YAML recipe with short names for kinds; `load` reads it back as the same run."""
    data = _plain(run, brief=True)
    style: dict[str, Any] = {"sort_keys": False, "width": 110, "allow_unicode": True}
    return str(yaml.dump(data, Dumper=_Dumper, default_flow_style=None, **style))


def _plain(run: Run, *, brief: bool) -> dict[str, Any]:
    data: dict[str, Any] = _dump(coerce(run, Run, Place()), Run, Place(), brief=brief)
    return data


def _dump(value: Any, hint: Hint, at: Place, *, brief: bool) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise at.error(f"cannot be written to a file: {value} is not finite")
        return value
    texts = [member for member in slots.members(hint) if slots.is_text(member)]
    if isinstance(value, (PurePath, *texts)):
        return str(value)
    if slots.is_text(type(value)) or is_object(value):
        return _dump_object(value, hint, at, brief=brief)
    if isinstance(value, Mapping):
        inner = next((slots.value_hint(m) for m in slots.members(hint) if slots.is_mapping(m)), Any)
        if any(not isinstance(key, str) for key in value) or ("kind" in value and slots.is_any(hint)):
            raise at.error("cannot be written to a file: names are text, and none inside free data is 'kind'")
        return {key: _dump(item, inner, at.child(key), brief=brief) for key, item in value.items()}
    if isinstance(value, list | tuple):
        slot = next((m for m in slots.members(hint) if slots.is_list(m)), tuple[Any, ...])
        slot_of = slots.item_hint
        return [_dump(item, slot_of(slot, i), at.child(i), brief=brief) for i, item in enumerate(value)]
    raise at.error(
        f"cannot be written to a file: {type(value).__name__} is no plain value and no dataclass",
        "make it a frozen dataclass of plain values; a function goes into a Call or a class of its own",
    )


def _dump_object(value: Any, hint: Hint, at: Place, *, brief: bool) -> dict[str, Any]:
    cls: Any = type(value)
    types = slots.hints(cls)
    data: dict[str, Any] = {}
    if slots.closed(hint) is not cls:
        reason = "has a field named kind" if "kind" in types else "is defined inside a function"
        if "kind" in types or "<" in cls.__qualname__:
            raise at.error(f"cannot be written to a file: {kind_of(cls)} {reason}")
        data["kind"] = short(cls) if brief else kind_of(cls)
    for field in slots.settable(cls):
        name = field.name
        data[name] = _dump(getattr(value, name), types[name], at.child(name), brief=brief)
    return data


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes every text that reading would take for a number or null, and never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _pattern, _firsts in ((NULL, "~nN"), (INT, "-+0123456789"), (FLOAT, "-+.0123456789")):
    _Dumper.add_implicit_resolver("!number", re.compile(f"(?:{_pattern.pattern})$"), list(_firsts))


# ----------------------------------------------------------------------------------------------------- diff


def diff(a: Run, b: Run) -> list[str]:
    """Return what differs from a to b, one line each: `optim.lr: 0.1 -> 0.02`; [] if nothing.

    Items of lists are matched by what they are, so that an inserted transform is one line.
    """
    return _diff(coerce(a, Run, Place()), coerce(b, Run, Place()), Run, "")


_ABSENT = object()


def _diff(a: Any, b: Any, hint: Hint, path: str) -> list[str]:
    if is_object(a) and type(a) is type(b):
        cls: Any = type(a)
        types = slots.hints(cls).items()
        return [s for n, t in types for s in _diff(getattr(a, n), getattr(b, n), t, join(path, n))]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        inner = next((slots.value_hint(m) for m in slots.members(hint) if slots.is_mapping(m)), Any)
        names = dict.fromkeys([*a, *b])
        return [s for n in names for s in _diff(a.get(n, _ABSENT), b.get(n, _ABSENT), inner, join(path, n))]
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and any(map(is_object, (*a, *b))):
        return _diff_items(a, b, hint, path)
    if type(a) is type(b) and a == b:
        return []
    old, new = _brief(a), _brief(b)
    return [f"{path}: {old} -> {new}" if old != new else f"{path}: {a!r} -> {b!r}"]


def edited_since(old: Mapping[str, Any], run: Run) -> list[str]:
    """Return what differs from `fixed` of a run, as it was once, to that run now, in the lines of `diff`.

    No name in it is imported. A setting that it lacks, since there was none of that name, had its default.
    """
    free = {name: value for name, value in dump(run).items() if name in FREE}
    return _edited_since({**free, **old}, coerce(run, Run, Place()), Run, "")


def _edited_since(old: Any, value: Any, hint: Hint, path: str) -> list[str]:
    new = _dump(value, hint, Place(), brief=False)
    if old == new:
        return []
    if is_object(value) and isinstance(old, Mapping):
        kinds = [RENAMED.get(kind, kind) for kind in (str(old.get("kind")), str(new.get("kind")))]
        if kinds[0] != kinds[1]:
            return [f"{path}: {kinds[0]} -> {kinds[1]}"]
        cls: Any = type(value)
        fields, types = slots.settable(cls), slots.hints(cls)
        pairs = [(f.name, getattr(value, f.name), types[f.name], slots.default(f)) for f in fields]
        return [
            line
            for name, now, slot, default in pairs
            if name in old or now != default
            for line in _edited_since(old.get(name, _ABSENT), now, slot, join(path, name))
        ]
    if isinstance(value, Mapping) and isinstance(old, Mapping):
        inner = next((slots.value_hint(m) for m in slots.members(hint) if slots.is_mapping(m)), Any)
        lines = [f"{join(path, n)}: {_brief(item)} -> (none)" for n, item in old.items() if n not in value]
        for name, item in value.items():
            lines += _edited_since(old.get(name, _ABSENT), item, inner, join(path, name))
        return lines
    if isinstance(value, tuple | list) and isinstance(old, list) and len(value) == len(old):
        slot = next((m for m in slots.members(hint) if slots.is_list(m)), tuple[Any, ...])
        parts = enumerate(zip(old, value, strict=True))
        return [
            s
            for i, (a, b) in parts
            for s in _edited_since(a, b, slots.item_hint(slot, i), join(path, str(i)))
        ]
    return [f"{path}: {_brief(old)} -> {_brief(new)}"]


def _diff_items(a: Sequence[Any], b: Sequence[Any], hint: Hint, path: str) -> list[str]:
    slot = next((m for m in slots.members(hint) if slots.is_list(m)), tuple[Any, ...])
    old, new = ([" ".join(names_of(item)) or _brief(item) for item in items] for items in (a, b))
    classes = [type(item).__name__ for item in a]
    lines = []
    for what, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            for i, j in zip(range(i1, i2), range(j1, j2)):
                name = classes[i] if classes.count(classes[i]) == 1 and is_object(a[i]) else str(i)
                lines += _diff(a[i], b[j], slots.item_hint(slot, i), join(path, name))
            continue
        lines += [f"{path}: - {_brief(a[i])} (item {i})" for i in range(i1, i2)]
        lines += [f"{path}: + {_brief(b[j])} (item {j})" for j in range(j1, j2)]
    return lines


def _brief(value: Any) -> str:
    """A value in one line, for people."""
    if value is _ABSENT:
        return "(none)"
    if is_object(value):
        fields = slots.settable(value)
        inside = ", ".join(f"{f.name}={_brief(getattr(value, f.name))}" for f in fields)
        return f"{type(value).__name__}({inside})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_brief(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_brief(item) for item in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
