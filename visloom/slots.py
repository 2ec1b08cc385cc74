"""Slots: what a type annotation accepts, in words and as values. Leaves only; `coerce.py` knows trees.

A slot is the annotation of a field: `float`, `Steps | Epochs | None`, `tuple[Rule, ...]`, `Schedule`. A leaf
is a number, a word, one of an enumeration, or a class that is written as text: it has `parse(text)`, with
`str` as the inverse, and may say in `syntax` how it is written (`steps:500`, `max NAME`).
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from inspect import isabstract
from pathlib import Path
from typing import Any, Literal, Union, get_args

from visloom.errors import ConfigError
from visloom.kinds import BASES
from visloom.overlay import FALSE, TRUE, Scalar
from visloom.place import Place, did_you_mean, nearest, one_of

NoneType = type(None)
Hint = Any  # a type annotation, resolved


@lru_cache(maxsize=1024)
def hints(cls: Any) -> dict[str, Hint]:
    """Return the annotations of a dataclass's fields. A name that only type checkers import counts as Any."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            found = typing.get_type_hints(cls, localns=unknown)
            return {f.name: found[f.name] for f in settable(cls)}
        except NameError as error:
            if not error.name or error.name in unknown:
                raise
            unknown[error.name] = Any


def origin(hint: Hint) -> Any:
    """Return what a hint is a form of (tuple for `tuple[int, ...]`), or None."""
    return typing.get_origin(hint)


def settable(cls: Any) -> tuple[Field[Any], ...]:
    """Return the fields that the constructor of a dataclass takes."""
    return tuple(f for f in fields(cls) if f.init)


def default(field: Field[Any]) -> Any:
    """Return the default of a field, or MISSING."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def members(hint: Hint) -> tuple[Hint, ...]:
    """Return what a union is made of; a hint that is no union is its only member."""
    if type(hint).__name__ == "TypeAliasType":  # `type Length = ...`, from Python 3.12 on
        return members(hint.__value__)
    if origin(hint) in (Union, types.UnionType):
        return tuple(inner for member in get_args(hint) for inner in members(member))
    if origin(hint) is typing.Annotated:
        return members(get_args(hint)[0])
    return (hint,)


def is_text(hint: Hint) -> bool:
    """Say whether values of a class are written as text: it has `parse`."""
    return isinstance(hint, type) and callable(getattr(hint, "parse", None))


def is_structured(hint: Hint) -> bool:
    """Say whether a member is written as a mapping of fields: a dataclass, or a base or protocol of such."""
    if not isinstance(hint, type) or is_text(hint):
        return False
    return is_dataclass(hint) or isabstract(hint) or bool(getattr(hint, "_is_protocol", False))


def is_open(cls: type) -> bool:
    """Say whether a structured member cannot stand for itself, so that values of it need a kind."""
    return not is_dataclass(cls) or isabstract(cls) or cls in BASES


def structured(hint: Hint) -> tuple[type, ...]:
    """Return the structured members of a hint."""
    return tuple(member for member in members(hint) if is_structured(member))


def closed(hint: Hint) -> type | None:
    """Return the one class that a hint means where no kind is given, or None."""
    found = structured(hint)
    return found[0] if len(found) == 1 and not is_open(found[0]) else None


def is_any(hint: Hint) -> bool:
    """Say whether a hint puts no condition on a value."""
    return hint is Any or hint is object or isinstance(hint, typing.TypeVar)


def item_hints(hint: Hint, length: int) -> list[Hint] | None:
    """Return the hint of each item of a tuple or list hint, or None if `length` does not fit."""
    args = get_args(hint)
    if not args:
        return [Any] * length
    if origin(hint) is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        args = () if args == ((),) else args
        return list(args) if len(args) == length else None
    return [args[0]] * length


def item_hint(hint: Hint, number: int) -> Hint:
    """Return the hint of one item of a tuple or list hint."""
    args = get_args(hint)
    return args[number] if is_fixed(hint) else args[0] if args else Any


def is_fixed(hint: Hint) -> bool:
    """Say whether a tuple hint fixes the number of items."""
    args = get_args(hint)
    return origin(hint) is tuple and bool(args) and args[-1] is not Ellipsis


def is_list(hint: Hint) -> bool:
    """Say whether a member is a list of items."""
    return (origin(hint) or hint) in (tuple, list, Sequence)


def is_mapping(hint: Hint) -> bool:
    """Say whether a member is a mapping from names."""
    return (origin(hint) or hint) in (Mapping, dict)


def value_hint(hint: Hint) -> Hint:
    """Return the hint of a mapping's values."""
    args = get_args(hint)
    return args[1] if len(args) == 2 else Any


# ------------------------------------------------------------------------------------------------------ words


def describe(hint: Hint) -> str:
    """Say in words what a slot takes."""
    return one_of(dict.fromkeys(_describe(member) for member in members(hint)))


def _describe(hint: Hint) -> str:
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        NoneType: "null",
        Path: "a path",
    }
    if is_any(hint):
        return "any value"
    if hint in words:
        return words[hint]
    if origin(hint) is Literal:
        return one_of(str(value) for value in get_args(hint))
    if is_list(hint):
        args = get_args(hint)
        if is_fixed(hint):
            return f"a list of {len(args)} ({', '.join(map(describe, args))})"
        return f"a list of {_plural(args[0])}" if args else "a list"
    if is_mapping(hint):
        return f"a mapping from names to {_plural(value_hint(hint))}"
    if is_text(hint):
        return _syntax(hint)
    name = getattr(hint, "__name__", str(hint))
    if is_structured(hint):
        return f"a kind of {name}" if is_open(hint) else f"the fields of {name}"
    return f"a Python {name}"


def _plural(hint: Hint) -> str:
    words = {bool: "true or false", int: "whole numbers", float: "numbers", str: "texts", Any: "values"}
    return hint.__name__ if is_structured(hint) else words.get(hint) or describe(hint)


def _syntax(cls: type) -> str:
    """How a text class is written: its `syntax`, or `unit:<number>`."""
    unit = getattr(cls, "unit", "")
    if unit:
        return f"{unit}:<number>"
    return getattr(cls, "syntax", "") or f"the text of a {cls.__name__}"


def found(value: Any) -> str:
    """Say in words what a value is."""
    if value is None or (isinstance(value, Scalar) and value.is_null()):
        return "nothing (null)"
    if isinstance(value, Mapping):
        return f"a mapping with {one_of(map(str, value), 'and', 6)}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Scalar) and not isinstance(value.plain(), str):
        text = str(value)  # as it was written
    else:
        text = repr(str(value)) if isinstance(value, str) else _repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # a class of the user's, or an integer too long to print
        return f"a value of type {type(value).__name__}"


# ----------------------------------------------------------------------------------------------------- leaves


def leaf(value: Any, hint: Hint, at: Place) -> Any:
    """Return a value as one member of a slot: number, word, enumeration, text class or another class.

    Raises:
        ConfigError: the slot does not take it.
    """
    if is_any(hint):
        return value.plain() if isinstance(value, Scalar) else value
    if origin(hint) is Literal:
        return _literal(value, hint, at)
    if is_text(hint):
        return _text(value, hint, at)
    rule = _LEAVES.get(hint)
    if rule is not None:
        return rule(value, at)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    if origin(hint) is type and isinstance(value, type):
        return value
    if not isinstance(hint, type) and not isinstance(value, Scalar | str | int | float | bool | None):
        return value  # an annotation beyond these rules (a callable, say) holds Python objects only
    raise wrong(value, hint, at)


def wrong(value: Any, hint: Hint, at: Place, *advice: str) -> ConfigError:
    """Return the error for a value that a slot does not take."""
    return at.error(f"expected {describe(hint)}, got {found(value)}", *advice)


def _none(value: Any, at: Place) -> None:
    if value is not None and not (isinstance(value, Scalar) and value.is_null()):
        raise wrong(value, NoneType, at)


def _bool(value: Any, at: Place) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Scalar):
        word = value.lower()
        if TRUE.fullmatch(value) or FALSE.fullmatch(value) or word in ("yes", "no", "on", "off"):
            return word in ("true", "yes", "on")
    raise wrong(value, bool, at)


def _int(value: Any, at: Place) -> int:
    plain = value.plain() if isinstance(value, Scalar) else value
    if isinstance(plain, str):
        try:
            plain = int(plain)
        except ValueError:
            raise wrong(value, int, at) from None
    if isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    raise wrong(value, int, at)


def _float(value: Any, at: Place) -> float:
    number: Any = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise wrong(value, float, at) from None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise wrong(value, float, at)
    try:
        number = number if isinstance(number, float) else float(number)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise at.error(f"expected a finite number, got {found(value)}")
    return number  # type: ignore[no-any-return]


def _str(value: Any, at: Place) -> str:
    if isinstance(value, Scalar):
        if not value.is_null():
            return str(value.opened() if value[:1] in ("'", '"') and value[-1:] == value[:1] else value)
    elif isinstance(value, str):
        return value
    raise wrong(value, str, at, 'text that looks like something else goes in quotes, and empty text is ""')


def _path(value: Any, at: Place) -> Path:
    return value if isinstance(value, Path) else Path(_str(value, at))


_LEAVES: dict[Any, Any] = {NoneType: _none, bool: _bool, int: _int, float: _float, str: _str, Path: _path}


def _literal(value: Any, hint: Hint, at: Place) -> Any:
    options = get_args(hint)
    for option in options:
        if isinstance(value, Scalar):
            if value == str(option) or (option is None and value.is_null()):
                return option
        elif type(value) is type(option) and value == option:
            return value
    near = nearest(value, map(str, options)) if isinstance(value, str) else []
    raise wrong(value, hint, at, did_you_mean(near))


def _text(value: Any, cls: Any, at: Place) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, str):
        raise wrong(value, cls, at)
    try:
        return cls.parse(str(value))
    except ValueError as error:
        reason = _reason(str(error), str(value))
        raise at.error(f"expected {_syntax(cls)}, got {str(value)!r}", reason) from None


def _reason(error: str, value: str) -> str:
    """What a parser's complaint adds to the headline: its brackets, if the rest repeats the headline."""
    if error.endswith(")") and repr(value) in error:
        return error[error.rfind(" (") + 2 : -1]
    return "" if repr(value) in error else error


def text_of_union(value: str, hint: Hint, at: Place) -> ConfigError:
    """Return the error for text that none of several text classes can read; names the unit that was meant."""
    classes = [member for member in members(hint) if is_text(member)]
    unit, colon, number = str(value).partition(":")
    units = {cls.unit: cls for cls in classes if hasattr(cls, "unit")}
    if unit.strip() in units and colon:
        try:
            units[unit.strip()].parse(str(value))
        except ValueError as error:
            return wrong(value, hint, at, _reason(str(error), str(value)))
    if units and unit.replace(".", "", 1).isdecimal():
        return wrong(value, hint, at, f"a length has a unit: write {one_of(f'{u}:{unit}' for u in units)}")
    near = nearest(unit, units)
    return wrong(value, hint, at, did_you_mean(f"{name}:{number}" for name in near))


def walk(
    value: Any, hint: Hint = Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Hint]]:
    """Yield every leaf of a tree of dataclasses with its path and its slot, in order.

    Mappings and lists of plain values are leaves; those that hold dataclasses are walked through.
    """
    if is_dataclass(value) and not isinstance(value, type) and not is_text(type(value)):
        for f in settable(value):
            yield from walk(getattr(value, f.name), hints(type(value))[f.name], (*path, f.name))
    elif isinstance(value, Mapping) and (any(map(is_dataclass, value.values())) or path == ()):
        inner = next((value_hint(m) for m in members(hint) if is_mapping(m)), Any)
        for name, item in value.items():
            yield from walk(item, inner, (*path, str(name)))
    elif isinstance(value, list | tuple) and any(map(is_dataclass, value)):
        slot = next((m for m in members(hint) if is_list(m)), tuple[Any, ...])
        for number, item in enumerate(value):
            yield from walk(item, item_hint(slot, number), (*path, str(number)))
    else:
        yield path, value, hint
