"""Place: where a setting stands, so that every complaint about it names file, line and dotted path.

A message is a headline, `mine.yaml:12: optim.lrr: Optim has no such setting`, and below it, indented, what
would have been right: the nearest names, the expected form, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from visloom.errors import ConfigError
from visloom.trust import Trust


@dataclass(frozen=True)
class Place:
    """A dotted path inside the run, and where the setting was written.

    where: "mine.yaml:12", "command line", or "" for Python.  trust: which imports settings may ask for.
    root: the run that is being edited, searched for the nearest setting; None if there is none yet.
    """

    path: str = ""
    where: str = ""
    trust: Trust = Trust(everything=True)
    root: Any = None

    def child(self, name: str | int, where: str = "") -> Place:
        """Return the place of a field, key or item; `where` says where it was written, if elsewhere."""
        return replace(self, path=join(self.path, str(name)), where=where or self.where)

    def seen(self, where: str) -> Place:
        """Return the same path, written at `where` (if that is known)."""
        return replace(self, where=where) if where else self

    def error(self, problem: str, *advice: str) -> ConfigError:
        """Return the ConfigError that says what is wrong here; empty lines of advice are left out."""
        headline = ": ".join(part for part in (self.where, self.path, problem) if part)
        return ConfigError("\n  ".join([headline, *(line for line in advice if line)]), path=self.path)


def join(path: str, name: str) -> str:
    """Put a dotted path and a name together; a name that holds a dot or a space is quoted."""
    if not re.fullmatch(r"[^\s.\"']+", name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{path}.{name}" if path else name


def split(path: str) -> tuple[str, ...]:
    """Split a dotted path into names: `init."net.head"` is two. The inverse of `join`.

    Raises:
        ValueError: an empty name or an open quote.
    """
    names, rest = [], path.strip()
    while True:
        quoted = re.match(r'"((?:[^"\\]|\\.)*)"', rest)
        if quoted:
            names.append(re.sub(r"\\(.)", r"\1", quoted[1]))
            rest = rest[quoted.end() :]
        else:
            name = re.match(r"[^.\"]*", rest)[0]  # type: ignore[index]
            names.append(name.strip())
            rest = rest[len(name) :]
            if not names[-1]:
                raise ValueError(f"{path!r} is no dotted path: a name is empty")
        if not rest:
            return tuple(names)
        if not rest.startswith("."):
            raise ValueError(f"{path!r} is no dotted path: a quote stands in the middle of a name")
        rest = rest[1:]


def squash(name: str) -> str:
    """Return a name without case, underscores and hyphens: `one_cycle` and `OneCycle` are the same kind."""
    return name.replace("_", "").replace("-", "").lower()


def nearest(name: str, options: Iterable[str], count: int = 3) -> list[str]:
    """Return the options that a mistyped name may have meant, best first; [] if none is close.

    Case and underscores do not count, nor does the order of the words (`decay_weight`); initials do.
    """
    scored = []
    for option in dict.fromkeys(options):
        a, b = squash(name), squash(option)
        score = SequenceMatcher(None, a, b).ratio()
        words, others = name.lower().split("_"), option.lower().split("_")
        if sorted(words) == sorted(others) or a == _initials(others) or b == _initials(words):
            score = 1.0
        elif len(a) >= 3 and (b.startswith(a) or b.endswith(a)):
            score = max(score, 0.8)
        if score >= 0.6 and option != name:
            scored.append((-score, option))
    scored.sort(key=lambda pair: pair[0])
    return [option for score, option in scored[:count] if score <= scored[0][0] + 0.2]


def _initials(words: list[str]) -> str:
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def did_you_mean(names: Iterable[str]) -> str:
    """Return `did you mean a, b or c?`, or "" without names."""
    names = list(names)
    return f"did you mean {one_of(names)}?" if names else ""


def one_of(names: Iterable[str], last: str = "or", most: int = 24) -> str:
    """Return `a, b or c`; a long list is cut."""
    names = list(names)
    if len(names) > most:
        return ", ".join(names[:most]) + f" ... ({len(names)} in all)"
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
