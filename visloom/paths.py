"""Paths: what the names of a dotted path mean, and which one was meant by a name that means nothing.

`train.transform.RandomCrop.padding` goes through fields, the keys of mappings, and the items of lists. An
item is called by its index or by a name: its class, its own `name`, or the callable of a Call. Case and
underscores do not count in such names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass, replace
from typing import Any

from visloom import slots
from visloom.errors import ConfigError
from visloom.overlay import Fields, where_of
from visloom.place import Place, did_you_mean, join, nearest, one_of, split, squash
from visloom.run import Call


@dataclass(frozen=True)
class Edit:
    """One setting: a path from the object at hand (empty: the object itself), a value, where it was written."""

    path: tuple[str, ...]
    value: Any
    where: str = ""

    def deeper(self) -> Edit:
        """Return the same edit as seen from the object that the first name leads to."""
        return replace(self, path=self.path[1:])


def spread(settings: Mapping[str, Any], where: str, at: Place) -> list[Edit]:
    """Return a mapping of dotted names as edits.

    Raises:
        ConfigError: a name that is no dotted path.
    """
    edits = []
    for name, value in settings.items():
        place = settings.places.get(name, where) if isinstance(settings, Fields) else where_of(value, where)
        try:
            edits.append(Edit(split(str(name)), value, place))
        except ValueError as error:
            advice = 'a name with a dot goes in quotes: init."net.head"'
            raise at.seen(place).error(str(error), advice) from None
    return edits


def is_object(value: Any) -> bool:
    """Say whether a value is a dataclass that is written as a mapping of its fields."""
    return is_dataclass(value) and not isinstance(value, type) and not slots.is_text(type(value))


def names_of(item: Any) -> tuple[str, ...]:
    """Return the names by which a path may call an item: its class, its own `name`, a Call's callable."""
    names = [type(item).__name__] if is_object(item) else []
    own = getattr(item, "name", None)
    if names and isinstance(own, str) and own:
        names.append(own)
    if isinstance(item, Call):
        names.append(item.target.rpartition(":")[2].rpartition(".")[2])
    return tuple(names)


def index(head: str, items: Sequence[Any], at: Place) -> int:
    """Return the position of the item that a name or an index means.

    Raises:
        ConfigError: there is none, or the name is that of several.
    """
    here = at.child(head)
    what = ", ".join(f"{i} {(names_of(item) or (slots.found(item),))[-1]}" for i, item in enumerate(items))
    has = f"the list has {what}" if items else "the list is empty"
    if head.removeprefix("-").isdecimal():
        number = int(head)
        if not -len(items) <= number < len(items):
            raise here.error(f"there is no item {head}", has)
        return number % len(items)
    hits = [i for i, item in enumerate(items) if squash(head) in map(squash, names_of(item))]
    if len(hits) == 1:
        return hits[0]
    if hits:
        exact = one_of(join(at.path, str(i)) for i in hits)
        raise here.error(f"{head!r} names several items", f"write {exact}")
    near = nearest(head, dict.fromkeys(name for item in items for name in names_of(item)))
    raise here.error(f"there is no item {head!r}", did_you_mean(join(at.path, n) for n in near), has)


def spot(head: str, items: Sequence[Any], at: Place) -> int:
    """Return where new items go: `+` at the end, `+X` before X, `X+` after X."""
    if head == "+":
        return len(items)
    if head.startswith("+"):
        return 0 if head == "+0" else index(head[1:], items, at)
    return index(head[:-1], items, at) + 1


def missing(cls: type, given: set[str], at: Place) -> ConfigError:
    """Return the error for a field without a default that nobody gave a value."""
    types = slots.hints(cls)
    lost = [f.name for f in slots.settable(cls) if f.name not in given and slots.default(f) is MISSING]
    more = f"{cls.__name__} also needs {one_of(lost[1:], 'and')}" if lost[1:] else ""
    return at.child(lost[0]).error(f"is missing: {cls.__name__} needs {slots.describe(types[lost[0]])}", more)


def unknown(name: str, cls: type, at: Place) -> ConfigError:
    """Return the error for a name that is no field of a class: the nearest here, or anywhere in the run."""
    own = list(slots.hints(cls))
    near = [join(at.path, option) for option in nearest(name, own)]
    if not near and at.root is not None:
        near = elsewhere(name, at.root, near=not at.path)
        near = near if not at.path or len(near) == 1 else []
    return at.child(name).error(
        f"{cls.__name__} has no setting {name!r}",
        did_you_mean(near) or f"{cls.__name__} has {one_of(own, 'and') if own else 'no settings'}",
    )


def elsewhere(name: str, root: Any, *, near: bool, count: int = 3) -> list[str]:
    """Return the paths of a run whose last name is the one given, or else (with `near`) the nearest."""
    leaves = [path for path, _, _ in slots.walk(root)]
    every = dict.fromkeys(path[:i] for path in leaves for i in range(1, len(path) + 1))
    ends: dict[str, list[tuple[str, ...]]] = {}
    for path in sorted(every, key=len):
        ends.setdefault(path[-1], []).append(path)
    same = [end for end in ends if squash(end) == squash(name)]
    close = nearest(name, ends, count) if near and not same else same
    found = [path for end in close for path in ends[end]]
    dotted = []
    for path in found[:count]:
        text = ""
        for part in path:
            text = join(text, part)
        dotted.append(text)
    return dotted
