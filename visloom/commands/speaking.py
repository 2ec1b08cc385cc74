"""Speaking: what the verbs share to say things on the screen, 80 columns wide or more."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from visloom import console, words
from visloom.console import Screen
from visloom.words import safe


@contextmanager
def opened() -> Iterator[Screen]:
    """A screen that is given back whatever happens."""
    screen = console.choose()
    try:
        yield screen
    finally:
        screen.close()


def rows(screen: Screen, pairs: Sequence[tuple[str, object]], indent: int = 2, *, wrap: bool = True) -> None:
    """Write (name, value) rows, names aligned. wrap=False keeps commands and paths whole, to be copied."""
    names = max((words.width(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        head = " " * indent + name.ljust(names) + "  "
        parts = wrapped(str(value), screen.width - len(head)) if wrap else [safe(value)]
        for place, part in enumerate(parts):
            screen.line([(head if place == 0 else " " * len(head), "dim"), (part, "")])


def wrapped(text: str, room: int) -> list[str]:
    """Wrap a text, keeping its own line ends and long words (paths) whole."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        indent = " " * (len(line) - len(line.lstrip()))
        found = textwrap.wrap(
            safe(line),
            max(room, 20),
            break_long_words=False,
            break_on_hyphens=False,
            subsequent_indent=indent,
        )
        lines += found or [""]
    return lines


def table(screen: Screen, lines: Sequence[Sequence[str]], indent: int = 2, right: Sequence[int] = ()) -> None:
    """Write rows of text in columns, the first row as a header; `right` columns are aligned at their right."""
    widths = [max(words.width(line[i]) for line in lines) for i in range(len(lines[0]))]
    for number, line in enumerate(lines):
        text = " " * indent
        for place, cell in enumerate(line):
            space = " " * (widths[place] - words.width(cell))
            text += (space + cell if place in right else cell + space) + "  "
        screen.line([(safe(text.rstrip()), "dim" if number == 0 else "")])


def progress(screen: Screen, what: str, done: int, total: int) -> None:
    """Show a bar on a terminal."""
    if not screen.live:
        return
    head, tail = f" {what} ", f" {done:,}/{total:,}"
    room = screen.width - len(head) - len(tail) - 1
    screen.draw([[(head, "bold"), *words.bar(done, total, room, screen.fancy), (tail, "")]])
