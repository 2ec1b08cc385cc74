"""Keys: an old config with an account of what became of each of its keys.

    keys = Keys(pyconfig.read(path))
    lr = keys.take("optimizer.lr", "optim.lr")     taken, and where it went
    keys.leave("dist_params", "torchrun decides")  not needed, and why
    keys.refuse("optimizer.foo", "no such option") not supported
    keys.rows()                                    one row per leaf; what nobody spoke of is not supported

A word about a key holds for everything below it; the longest one that fits a leaf counts, but what is refused is so
with all that stands below it, whatever has been said of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from visloom.convert.common import Row, Verdict
from visloom.convert.pyconfig import Tree
from visloom.errors import ConfigError
from visloom.place import did_you_mean, nearest

_ABSENT: Any = object()


class Keys:
    """A config tree whose keys are accounted for."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._said: dict[str, tuple[Verdict, str]] = {}

    def has(self, key: str) -> bool:
        """Say whether the config has a key."""
        return self._find(key) is not _ABSENT

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key, without a word about it."""
        found = self._find(key)
        return default if found is _ABSENT else found

    def _find(self, key: str) -> Any:
        value: Any = self.tree.values
        for part in key.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return _ABSENT
        return value

    def take(self, key: str, note: str, default: Any = None) -> Any:
        """The value of a key, noted as taken; `default` where the config has none."""
        return self._say(key, "taken", note, default)

    def leave(self, key: str, why: str, default: Any = None) -> Any:
        """The value of a key, noted as not needed."""
        return self._say(key, "not needed", why, default)

    def refuse(self, key: str, why: str, default: Any = None) -> Any:
        """The value of a key, noted as not supported."""
        return self._say(key, "not supported", why, default)

    def _say(self, key: str, verdict: Verdict, note: str, default: Any) -> Any:
        found = self._find(key)
        if found is _ABSENT:
            return default
        self._said[key] = (verdict, note)
        return found

    def children(self, key: str) -> list[str]:
        """Dotted keys directly below one, in order."""
        value = self.get(key)
        names = (
            value
            if isinstance(value, Mapping)
            else range(len(value))
            if isinstance(value, list | tuple)
            else ()
        )
        return [f"{key}.{name}" for name in names]

    def error(self, key: str, problem: str) -> ConfigError:
        """An error that names the key and where it stands."""
        where = self.tree.where(key)
        return ConfigError(f"{where + ': ' if where else ''}{key} {problem}", path=key)

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """What is made inside is made of this key's value: a refusal of it becomes an error that names the key."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise self.error(key, f"cannot be as it is: {error}") from error
        except ConfigError as error:
            place = error.path if self.has(error.path) else key
            where = self.tree.where(place)
            if not where or str(error).startswith(where):
                raise
            raise ConfigError(f"{where}: {error}", path=place) from error

    def rows(self, known: Sequence[str] = ()) -> tuple[Row, ...]:
        """One row per leaf, in order. `known`: top-level keys that there may be, for hints at misspelt ones."""
        return tuple(self._row(key, known) for key in self._leaves())

    def _row(self, key: str, known: Sequence[str]) -> Row:
        where = self.tree.where(key)
        said = [self._said[place] for place in _around(key) if place in self._said]
        if said:
            verdict, note = next((word for word in said if word[0] == "not supported"), said[0])
            return Row(key, verdict, note, where)
        top = key.partition(".")[0]
        hint = did_you_mean(nearest(top, known)) if top not in known else ""
        return Row(key, "not supported", hint or "nothing here corresponds to it", where)

    def _leaves(self) -> Iterator[str]:
        for name, value in self.tree.values.items():
            yield from _leaves(str(name), value)


def _around(key: str) -> Iterator[str]:
    """A key and the keys that it stands in, the longest first."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _leaves(key: str, value: Any) -> Iterator[str]:
    """Dotted keys of what holds no dicts: `data.train.pipeline.0.size`."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(f"{key}.{place}", item)
    else:
        yield key
