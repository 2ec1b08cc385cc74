"""Kinds: the names of classes in settings. A kind is an import path, `visloom.schedule:Cosine`.

Inside visloom a short name does: `Cosine`, `cosine`. There is no registry: short names are looked up in the
source of the modules listed in HOMES, nothing is imported until one is chosen. Where a class moves or is
renamed, RENAMED keeps old run.json files readable.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

from visloom.errors import ConfigError
from visloom.place import Place, did_you_mean, nearest, one_of, squash
from visloom.schedule import Curve, Decay, Schedule
from visloom.source import Source
from visloom.stream import Stream
from visloom.trust import definitions, modules

RENAMED: dict[str, str] = {}
"""Old import path of a kind -> its import path today."""

HOMES = ("visloom.run", "visloom.schedule", "visloom.stream", "visloom.tasks", "visloom.data")

# Bases that are complete classes to Python but do nothing by themselves: a slot of such a type needs a kind.
BASES = (Schedule, Curve, Decay, Stream, Source)


TRUST_IT = "if you know and trust that code, say so with --trust (trust=True in Python)"


def kind_of(cls: type) -> str:
    """Return the import path of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def short(cls: type) -> str:
    """Return the shortest name that finds a class again: its own if visloom has one such kind, or the path."""
    path = kind_of(cls)
    return cls.__name__ if known().get(squash(cls.__name__)) == (path,) else path


@lru_cache(maxsize=1)
def known() -> dict[str, tuple[str, ...]]:
    """Return the import paths of visloom's kinds (public dataclasses) by squashed short name."""
    found: dict[str, list[str]] = {}
    bases = set(map(kind_of, BASES))
    for home in HOMES:
        for module in modules(home):
            for name, node in definitions(module).items():
                if not name.startswith("_") and f"{module}:{name}" not in bases and _decorated(node):
                    found.setdefault(squash(name), []).append(f"{module}:{name}")
    return {name: tuple(paths) for name, paths in found.items()}


def _decorated(node: ast.stmt) -> bool:
    marks = node.decorator_list if isinstance(node, ast.ClassDef) else []
    return any("dataclass" in ast.unparse(mark) for mark in marks)


def find(text: str, slot: Iterable[type], at: Place) -> type:
    """Return the class that a kind names, one that fits the slot.

    slot: classes or protocols of which one must fit; empty where anything fits.

    Raises:
        ConfigError: no such kind, one that may not be imported or does not fit, a short name of several.
    """
    slot = tuple(slot)
    text = RENAMED.get(text, text)
    if ":" in text:
        cls = imported(text, at)
        if not fits(cls, slot):
            base = "is a base class, which does nothing by itself"
            raise at.error(
                f"{text} {base if _is_base(cls) else f'is no {_names(slot)}'}", _choice(text, slot)
            )
        return cls
    paths = known().get(squash(text), ())
    fitting = [cls for cls in (imported(path, at) for path in paths) if fits(cls, slot)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise at.error(f"{text!r} names several kinds", f"write {one_of(map(kind_of, fitting))}")
    if "." in text:
        module, _, name = text.rpartition(".")
        colon = f"an import path has a colon: did you mean {module}:{name}?"
        raise at.error(f"there is no kind {text!r}", colon)
    of_what = f" of {_names(slot)}" if slot else ""
    raise at.error(f"there is no kind {text!r}{of_what}", _choice(text, slot))


def fits(cls: Any, slot: Iterable[type]) -> bool:
    """Say whether a class can stand in a slot, and stand for itself."""
    slot = tuple(slot)
    if not isinstance(cls, type) or not is_dataclass(cls) or _is_base(cls):
        return False
    if all(_is_protocol(base) for base in slot) and issubclass(cls, Schedule | Stream):
        return not slot  # a schedule can be called as a transform can, but it is none
    return not slot or any(conforms(cls, base) for base in slot)


def _is_base(cls: Any) -> bool:
    return cls in BASES


def conforms(cls: type, base: type) -> bool:
    """Say whether a class derives from a base, or has all that a protocol asks for."""
    if not _is_protocol(base):
        return issubclass(cls, base)
    return not lacking(cls, base)


def lacking(cls: type, protocol: type) -> list[str]:
    """Return the names that a protocol asks for and a class does not have.

    Only the class is looked at: `isinstance` would read the properties of the value, and so open its data.
    """
    own: set[str] = set()
    for base in cls.__mro__[:-1]:  # not `hasattr`: a class itself can be called, and so has `__call__`
        own.update(vars(base), getattr(base, "__annotations__", {}))
    return [name for name in protocol_names(protocol) if name not in own]


def protocol_names(protocol: type) -> list[str]:
    """Return the methods and attributes that a protocol asks for."""
    names: dict[str, None] = {}
    for base in protocol.__mro__[::-1]:
        if _is_protocol(base):
            for name in [*vars(base), *getattr(base, "__annotations__", {})]:
                if not name.startswith("_") or name in ("__call__", "__len__", "__getitem__", "__iter__"):
                    names[name] = None
    return list(names)


def imported(path: str, at: Place) -> type:
    """Import `module:Class` if that is trusted.

    Raises:
        ConfigError: not trusted, no such module, no such class.
    """
    module, _, name = path.partition(":")
    if not at.trust.kind(module):
        top = module.split(".")[0]
        raise at.error(
            f"the kind {path} may not be imported: {top!r} is neither visloom nor in the folder of the recipe",
            TRUST_IT,
        )
    return attribute(import_module(module, at), name, at)  # type: ignore[no-any-return]


def import_module(module: str, at: Place) -> Any:
    """Import a module; a failure becomes a ConfigError with the nearest names."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            near = nearest(module, [m for home in HOMES for m in modules(home)])
            raise at.error(f"there is no module {module!r}", did_you_mean(near)) from None
        raise at.error(f"the module {module!r} needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise at.error(f"importing {module!r} failed: {type(error).__name__}: {error}") from error


def attribute(module: Any, name: str, at: Place) -> Any:
    """Return `module.name` (dots go deeper); a missing one becomes a ConfigError with the nearest names."""
    value = module
    for part in name.split("."):
        if not part or not hasattr(value, part):
            public = [n for n in dir(value) if not n.startswith("_")]
            owner = getattr(value, "__name__", str(value))
            raise at.error(f"{owner!r} has no {part!r}", did_you_mean(nearest(part, public)))
        value = getattr(value, part)
    return value


def choices(slot: Iterable[type]) -> list[str]:
    """Return the short names of visloom's kinds that fit a slot. Imports every module that has kinds.

    Classes of other tasks can have all that a protocol asks for: where kinds stand beside the protocol, they are meant.
    """
    slot, found = tuple(slot), []
    for path in (path for paths in known().values() for path in paths):
        try:
            cls = imported(path, Place())
        except ConfigError:  # a module that needs an extra which is not installed offers no kinds
            continue
        if fits(cls, slot) and all(_asks_alike(cls, base) for base in slot if _is_protocol(base)):
            found.append(cls)
    beside = [
        cls for cls in found if cls.__module__ in {base.__module__ for base in slot if _is_protocol(base)}
    ]
    return [short(cls) for cls in beside or found]


def _asks_alike(cls: type, protocol: type) -> bool:
    """Say whether the methods that a protocol asks for have its arguments: a loss is called too, but no transform."""

    def arguments(method: Any) -> list[str]:
        return [name for name, p in signature(method).parameters.items() if p.default is p.empty]

    names = [name for name in protocol_names(protocol) if callable(vars(protocol).get(name))]
    return all(arguments(getattr(cls, name)) == arguments(getattr(protocol, name)) for name in names)


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _names(slot: tuple[type, ...]) -> str:
    return one_of(cls.__name__ for cls in slot) if slot else "dataclass"


def _choice(text: str, slot: tuple[type, ...]) -> str:
    options = choices(slot)
    near = nearest(text.rpartition(":")[2], options)
    named = [f"{{kind: {kind}, name: {text}}}" for kind in _take_names(options)]
    if near or not slot:
        return did_you_mean(near) + (f" Or did you mean {one_of(named)}?" if named else "")
    known = f"there are {one_of(options, 'and')}; " if options else ""
    name = f"a name goes into {one_of(named)}; " if named else ""
    return f"{known}{name}a class of your own is written module:Class"


def _take_names(options: Iterable[str]) -> list[str]:
    """Return the kinds whose first and required field is a `name`, as a model's of a library is."""
    found = []
    for option in options:
        first = next(iter(fields(find(option, (), Place()))), None)
        if first and first.name == "name" and first.type == "str" and first.default is MISSING:
            found.append(option)
    return found
