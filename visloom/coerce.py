"""Coerce: turn plain data into typed values, and apply edits to a tree of them.

`coerce` makes a whole value for a slot, `settle` applies edits to one. All edits of a batch that go into the
same object are applied together and the object is made once, so that `schedule.kind=Step` and
`schedule.every=epochs:30` never pass through a Step without `every`. Nothing is changed in place: objects
without an edit are shared with the run that came in.

An edit's path goes through fields, the keys of mappings, and the items of lists by index or by name. In a
list, `+` stands where new items go: `+X` before X, `X+` after it, `+` at the end; null removes an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, replace
from itertools import groupby
from math import isfinite
from typing import Any

from visloom import paths, slots
from visloom.errors import ConfigError
from visloom.kinds import TRUST_IT, choices, conforms, find, fits, kind_of, lacking
from visloom.overlay import Fields, Scalar, where_of
from visloom.paths import Edit, is_object, spread
from visloom.place import Place, did_you_mean, join, nearest, one_of, squash
from visloom.run import Call, Optim
from visloom.slots import Hint, NoneType, members


def settle(current: Any, hint: Hint, edits: Sequence[Edit], at: Place) -> Any:
    """Apply edits, in order, to the value of a slot; `current` is MISSING where there is none yet.

    A mapping without a kind, given for an object with fields or for a mapping of such objects, edits it. Any
    other whole value replaces what was there; edits that follow go into it.
    """
    inside: list[Edit] = []
    touched = False
    for edit in edits:
        here = at.seen(edit.where)
        parts = [edit] if edit.path else _parts(current, hint, edit, here)
        if parts is None:
            current, inside, touched = coerce(edit.value, hint, here), [], False
            continue
        if not parts and isinstance(current, Mapping) and current:
            advice = f"null removes an entry: {join(at.path, next(iter(current)))}=null"
            raise here.error("an empty mapping would change nothing here", advice)
        if not edit.path and _kind_of(parts, current, hint) is not None:
            current, inside = MISSING, []
        inside, touched = [*inside, *parts], True
    return _inside(current, hint, inside, at) if touched else current


def _kind_of(edits: list[Edit], current: Any, hint: Hint) -> Edit | None:
    """Return the edit that names the class of an object, if there is one; in a Rule, `kind` is a field."""
    base = type(current) if is_object(current) else slots.closed(hint)
    own = base is not None and "kind" in slots.hints(base)
    return next((edit for edit in reversed(edits) if edit.path == ("kind",)), None) if not own else None


def _parts(current: Any, hint: Hint, edit: Edit, at: Place) -> list[Edit] | None:
    """Return a whole value as edits of the parts of an object, or None if it stands for itself."""
    value = _opened(edit.value, hint)
    objects = slots.structured(hint)
    if isinstance(value, Mapping):
        maps = [m for m in members(hint) if slots.is_mapping(m)]
        parted = objects or any(slots.structured(slots.value_hint(m)) for m in maps)
        listed = not maps and any(map(slots.is_list, members(hint)))
        loose = slots.is_any(hint) and ("kind" in value or is_object(current))
        return spread(value, edit.where, at) if parted or listed or loose else None
    if objects and isinstance(value, type):
        return [Edit(("kind",), value, edit.where)]
    if objects and isinstance(value, str) and value[:1].isalpha() and not _is_null(value):
        if any(_accepts(value, m, at) for m in members(hint) if m not in objects):
            return None
        if objects == (Call,):
            return [Edit(("target",), value, edit.where)]
        only = slots.closed(hint)
        if only is None or squash(value) == squash(only.__name__):
            return [Edit(("kind",), value, edit.where)]
    return None


def _opened(value: Any, hint: Hint) -> Any:
    """Return what a word of the command line holds, `[1, 2]` or `{a: 1}`, if the slot has room for it."""
    if not isinstance(value, Scalar) or value[:1] not in ("[", "{", "'", '"'):
        return value
    return value.opened() if any(map(_is_container, members(hint))) else value


def _is_container(hint: Hint) -> bool:
    checks = (slots.is_any, slots.is_list, slots.is_mapping, slots.is_structured)
    return any(check(hint) for check in checks)


def _accepts(value: Any, hint: Hint, at: Place) -> bool:
    try:
        slots.leaf(value, hint, at)
    except ConfigError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- whole values


def coerce(value: Any, hint: Hint, at: Place) -> Any:
    """Return a value as what a slot takes: typed objects as they are, plain data and text converted.

    Returns the very same object where nothing had to be converted.

    Raises:
        ConfigError: the slot does not take it.
    """
    value = _opened(value, hint)
    if slots.is_any(hint):
        return _free(value, at)
    if is_object(value):
        return _object(value, hint, at)
    parts = _parts(MISSING, hint, Edit((), value, at.where), at)
    if parts is not None:
        return _inside(MISSING, hint, parts, at)
    errors = []
    for member in sorted(members(hint), key=lambda m: _rank(m, value)):
        try:
            return _member(value, member, at)
        except ConfigError as error:
            errors.append((member, error))
    raise _best(value, hint, errors, at)


def _rank(hint: Hint, value: Any) -> int:
    """The order in which the members of a union are tried: `1` is an int before it is a number or text."""
    if type(value) is hint and hint is not str:
        return 0
    if isinstance(value, str) and not isinstance(value, Scalar):  # in quotes: a number if nothing else fits
        return {str: 2, NoneType: 3, bool: 3, int: 3, float: 3}.get(hint, 1)
    return {NoneType: 1, bool: 2, int: 3, float: 4, str: 6}.get(hint, 5)


def _member(value: Any, hint: Hint, at: Place) -> Any:
    if slots.is_list(hint) and isinstance(value, list | tuple):
        return _list(value, hint, at)
    if slots.is_mapping(hint) and isinstance(value, Mapping):
        return _mapping(value, slots.value_hint(hint), at)
    if slots.is_structured(hint):
        if value is not None and not isinstance(value, str | int | float | list | tuple | Mapping):
            if conforms(type(value), hint):
                return value
            raise _not_conforming(value, hint, at)
        fields = one_of(slots.hints(hint), "and") if not slots.is_open(hint) else ""
        raise slots.wrong(value, hint, at, f"{hint.__name__} has {fields}" if fields else "")
    if slots.is_list(hint) and isinstance(value, str | int | float) and value != "":
        raise slots.wrong(value, hint, at, f"a list is written [{value}]")
    if slots.is_list(hint) or slots.is_mapping(hint):
        raise slots.wrong(value, hint, at)
    return slots.leaf(value, hint, at)


def _best(value: Any, hint: Hint, errors: list[tuple[Hint, ConfigError]], at: Place) -> ConfigError:
    """Choose among the complaints of a union's members the one that helps."""
    real = [(member, error) for member, error in errors if member is not NoneType]
    if len(real) == 1:
        return real[0][1]
    if isinstance(value, str) and any(slots.is_text(member) for member, _ in real):
        return slots.text_of_union(value, hint, at)
    same = [error for member, error in real if isinstance(value, list | tuple) and slots.is_list(member)]
    return same[0] if len(same) == 1 else slots.wrong(value, hint, at)


def _list(value: Sequence[Any], hint: Hint, at: Place) -> Any:
    inner = slots.item_hints(hint, len(value))
    if inner is None:
        raise slots.wrong(value, hint, at)
    pairs = enumerate(zip(value, inner))
    items = [coerce(item, slot, at.child(i, where_of(item))) for i, (item, slot) in pairs]
    made = list if slots.origin(hint) is list or hint is list else tuple
    if isinstance(value, made) and all(map(_same, items, value)) and type(value) in (list, tuple):
        return value
    return made(items)


def _mapping(value: Mapping[str, Any], hint: Hint, at: Place) -> Mapping[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise at.error(f"the names of a mapping are text, got {key!r}")
    places = value.places if isinstance(value, Fields) else {}
    items = {str(k): coerce(v, hint, at.child(k, places.get(k, ""))) for k, v in value.items()}
    if not isinstance(value, Fields) and all(_same(items[k], v) for k, v in value.items()):
        return value
    return items


def _free(value: Any, at: Place) -> Any:
    """Plain data for a slot that takes anything: lists become tuples, {kind: ...} what it describes."""
    if isinstance(value, Scalar):
        return _free(value.plain(), at)
    if isinstance(value, Mapping):
        if "kind" in value:
            return _inside(MISSING, Any, spread(value, at.where, at), at)
        return _mapping(value, Any, at)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return _list(value, tuple[Any, ...], at)
    if isinstance(value, float) and not isfinite(value):
        raise at.error(f"expected a finite number, got {value}")
    return _normal(value, at) if is_object(value) else value


def _object(value: Any, hint: Hint, at: Place) -> Any:
    objects = slots.structured(hint)
    if any(conforms(type(value), base) for base in objects):
        return _normal(value, at)
    if any(isinstance(m, type) and isinstance(value, m) for m in members(hint)):
        return value
    protocols = [base for base in objects if getattr(base, "_is_protocol", False)]
    raise _not_conforming(value, protocols[0], at) if len(protocols) == 1 else slots.wrong(value, hint, at)


def _not_conforming(value: Any, base: type, at: Place) -> ConfigError:
    if not getattr(base, "_is_protocol", False):
        return slots.wrong(value, base, at)
    name = type(value).__name__
    return at.error(
        f"{name} is no {base.__name__}: it lacks {one_of(lacking(type(value), base), 'and')}",
        f"define what is missing in {kind_of(type(value))}",
    )


def _normal(value: Any, at: Place) -> Any:
    """Check and convert the fields of an object that Python made; the same object if nothing changes."""
    cls: Any = type(value)
    old = {f.name: getattr(value, f.name) for f in slots.settable(cls)}
    new = {name: coerce(item, slots.hints(cls)[name], at.child(name)) for name, item in old.items()}
    return value if all(_same(new[n], old[n]) for n in old) else _make(cls, new, {}, at)


# ---------------------------------------------------------------------------------------------- edits inside


def _inside(current: Any, hint: Hint, edits: list[Edit], at: Place) -> Any:
    """Apply edits to the parts of a value."""
    if isinstance(current, list | tuple):
        return _items(current, hint, edits, at)
    if isinstance(current, Mapping):
        return _entries(current, hint, edits, at)
    if is_object(current):
        return _fields(current, hint, edits, at)
    if slots.structured(hint) or (slots.is_any(hint) and _kind_of(edits, current, hint) is not None):
        return _fields(MISSING, hint, edits, at)
    if current is None or current is MISSING:
        if any(slots.is_mapping(m) or slots.is_any(m) for m in members(hint)):
            return _entries({}, hint, edits, at)
        if any(map(slots.is_list, members(hint))):
            return _items((), hint, edits, at)
    name = edits[0].path[0] if edits else ""
    raise at.seen(edits[0].where if edits else "").error(
        f"is one value, {slots.describe(hint)}; it has no part {name!r}", f"set {at.path} itself"
    )


def _fields(current: Any, hint: Hint, edits: list[Edit], at: Place) -> Any:
    """Apply edits to the fields of an object, which may change its kind."""
    cls, edits = _class(current, hint, edits, at)
    types = slots.hints(cls)
    groups: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.path[0] not in types:
            raise paths.unknown(edit.path[0], cls, at.seen(edit.where))
        groups.setdefault(edit.path[0], []).append(edit.deeper())
    values = _kept(current, cls)
    for field in slots.settable(cls):
        name = field.name
        before = values.get(name, slots.default(field))
        if name in groups:
            group = groups[name]
            values[name] = settle(before, types[name], group, at.child(name, group[-1].where))
        elif before is MISSING:
            raise paths.missing(cls, {*values, *groups}, at)
        else:
            values[name] = before
    if type(current) is cls and all(_same(values[name], getattr(current, name)) for name in types):
        return current
    made = _make(cls, values, {name: group[-1].where for name, group in groups.items()}, at)
    _check_target(current, made, at)
    return made


def _class(current: Any, hint: Hint, edits: list[Edit], at: Place) -> tuple[type, list[Edit]]:
    """Return the class that the object will have, and the edits that are left for its fields."""
    base = slots.closed(hint) if current is MISSING else type(current)
    kind = _kind_of(edits, current, hint)
    if kind is None:
        if base is None:
            options = choices(slots.structured(hint))
            raise at.error("needs a kind", f"write kind: {one_of(options)}" if options else "")
        return base, edits
    wanted, here = kind.value, at.child("kind", kind.where)
    rest = [edit for edit in edits if edit.path != ("kind",)]
    if isinstance(wanted, type) and fits(wanted, slots.structured(hint)):
        return wanted, rest
    if not isinstance(wanted, str):
        raise here.error(f"expected {slots.describe(hint)}, got {slots.found(wanted)}")
    return find(str(wanted), slots.structured(hint), here), rest


def _kept(current: Any, cls: type) -> dict[str, Any]:
    """Return the field values that an object hands on when it is made anew.

    To another kind those of the fields that both declare alike, with the same type and default: `floor` of
    Poly and Cosine, but not `start` of Warmup (a factor) and FlatCosine (a share of the run).
    """
    if current is MISSING:
        return {}
    old: Any = type(current)
    fields = {field.name: field for field in slots.settable(cls)}
    return {
        f.name: getattr(current, f.name)
        for f in slots.settable(old)
        if f.name in fields
        and slots.hints(old)[f.name] == slots.hints(cls)[f.name]
        and slots.default(f) == slots.default(fields[f.name])
    }


def _make(cls: type, values: dict[str, Any], places: dict[str, str], at: Place) -> Any:
    """Call the constructor; what it refuses is reported at the field that its message begins with."""
    try:
        return cls(**values)
    except Exception as error:
        if isinstance(error, ConfigError):  # a check of several classes, which may know the field
            said, name, rest = str(error), error.path.rpartition(".")[2], str(error)
        else:
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            name, _, rest = said.removeprefix(f"{cls.__name__}.").partition(" ")
        if name in values:
            raise at.child(name, places.get(name, "")).error(rest) from error
        raise at.error(f"{cls.__name__}: {said}") from error


def _check_target(current: Any, made: Any, at: Place) -> None:
    """Refuse a Call or an optimizer that settings may not ask for; what Python wrote stays."""
    if not isinstance(made, Call | Optim):
        return
    field = "target" if isinstance(made, Call) else "name"
    target: str = getattr(made, field)
    if isinstance(current, Call | Optim) and getattr(current, field, None) == target:
        return
    place = at.child(field)
    if field == "target" and not (target.count(":") == 1 and all(target.split(":"))):
        example = "for example torchvision.transforms.v2:ColorJitter"
        raise place.error(f"expected module:callable, got {target!r}", example)
    if ":" in target and not at.trust.call(target):
        raise place.error(f"{target} is none of the calls that settings may ask for", TRUST_IT)


def _entries(current: Mapping[str, Any], hint: Hint, edits: list[Edit], at: Place) -> Mapping[str, Any]:
    """Apply edits to the entries of a mapping: new names are added, null removes (unless it is a value)."""
    inner = next((slots.value_hint(m) for m in members(hint) if slots.is_mapping(m)), Any)
    deep = any(map(_is_container, members(inner)))  # else dots belong to the name: init.net.backbone
    groups: dict[str, list[Edit]] = {}
    for edit in edits:
        name = edit.path[0] if deep else ".".join(edit.path)
        groups.setdefault(name, []).append(edit.deeper() if deep else replace(edit, path=()))
    entries = dict(current)
    for name, group in groups.items():
        here = at.child(name, group[-1].where)
        if not group[-1].path and _is_null(group[-1].value) and not _nullable(inner):
            if name not in entries:
                near = did_you_mean(join(at.path, option) for option in nearest(name, entries))
                there = f"there is {one_of(entries, 'and')}"
                raise here.error("is not there, so it cannot be removed", near or there)
            del entries[name]
            continue
        try:
            entries[name] = settle(entries.get(name, MISSING), inner, group, here)
        except ConfigError as error:
            near = did_you_mean(join(at.path, option) for option in nearest(name, entries))
            if name in entries or not near:
                raise
            raise ConfigError(f"{error}\n  {name!r} is new here: {near}", path=error.path) from error
    unchanged = entries.keys() == current.keys() and all(_same(entries[k], v) for k, v in current.items())
    return current if unchanged and not isinstance(current, Fields) else entries


def _same(a: Any, b: Any) -> bool:
    """Say whether nothing was changed: the same object, or an equal number or text."""
    return a is b or (type(a) is type(b) and isinstance(a, bool | int | float | str) and a == b)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Scalar) and value.is_null())


def _nullable(hint: Hint) -> bool:
    return any(member is NoneType or slots.is_any(member) for member in members(hint))


def _items(current: Sequence[Any], hint: Hint, edits: list[Edit], at: Place) -> Any:
    """Apply edits to the items of a list, one after the other: an index counts the items as they are then."""
    slot = next((m for m in members(hint) if slots.is_list(m)), tuple[Any, ...])
    items = list(current)
    for head, run in groupby(edits, key=lambda edit: edit.path[0]):
        group = list(run)
        here = at.child(head, group[-1].where)
        adding = head.startswith("+") or head.endswith("+")
        if slots.is_fixed(slot) and (adding or _is_null(group[-1].value)):
            raise here.error(f"nothing is added or removed here: expected {slots.describe(slot)}")
        if adding:
            for edit in group:
                number = paths.spot(head, items, at.seen(edit.where))
                items[number:number] = _new_items(edit, slots.item_hint(slot, 0), here.seen(edit.where))
            continue
        pending: list[Edit] = []
        for edit in group:
            number = paths.index(head, items, at.seen(edit.where))
            inner = slots.item_hint(slot, number)
            if edit.path == (head,) and _is_null(edit.value) and NoneType not in members(inner):
                del items[number]
                pending = []
            else:
                pending.append(edit.deeper())
        if pending:
            items[number] = settle(items[number], inner, pending, here)
    if len(items) == len(current) and all(map(_same, items, current)):
        return current
    return list(items) if slots.origin(slot) is list else tuple(items)


def _new_items(edit: Edit, hint: Hint, at: Place) -> list[Any]:
    if len(edit.path) > 1:
        raise at.error("a new item is given whole", f"for example {at.path}={{kind: NAME, ...}}")
    value = _opened(edit.value, tuple[hint, ...])
    several = value if isinstance(value, list | tuple) else [value]
    return [coerce(item, hint, at.seen(where_of(item))) for item in several]
