"""Words: how numbers, names and lengths of time are written for people, and how they are laid out in lines.

A line is a sequence of (text, style) pairs. Names that come from files or classes go through `safe`, so that
no control character reaches a terminal. Every function here is pure.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

Piece = tuple[str, str]
"""A text and its style: "", "bold", "dim", "good", "warn" or "bad"."""
Line = Sequence[Piece]

_BARS = "▁▂▃▄▅▆▇█"
_NAME = 26  # columns of a name in a table; longer ones are cut


def safe(text: object) -> str:
    """Return a text that a terminal can show: control, direction and line-breaking characters are escaped.

    File and class names may hold any of them (`\\x1b[2J` clears a screen, U+202E reverses a line).
    """
    whole = str(text)
    if whole.isprintable():  # nearly always, and pictures in a report are a megabyte of it
        return whole
    return "".join(
        c
        if c.isprintable() or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode("ascii")
        for c in whole
    )


def width(text: str) -> int:
    """Return how many columns a text takes: wide East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def shorten(text: str, room: int) -> str:
    """Return a text cut to at most `room` columns, with `..` where something is missing."""
    if width(text) <= room:
        return text
    kept, used = [], 2
    for c in text:
        used += width(c)
        if used > room:
            break
        kept.append(c)
    return "".join(kept) + ".."[: max(room, 0)]


def number(value: float) -> str:
    """Return a loss or a metric for people: four digits after the point where that says something."""
    size = abs(value)
    if value == 0 or value != value or size == float("inf"):
        return f"{value:g}"
    if 1e-3 <= size < 100:
        return f"{value:.4f}"
    return f"{value:.1f}" if 100 <= size < 1e6 else f"{value:.3e}"


def without_labels(values: Mapping[str, float]) -> list[str]:
    """Names of an evaluation's values that had no label to count, in order.

    Metrics that count nothing are NaN. Where a loss is NaN too the network is broken, and nothing is excused.
    """
    broken = any(v != v for n, v in values.items() if n.partition("/")[0] == "loss")
    return [] if broken else [n for n, v in values.items() if v != v]


def rate(value: float) -> str:
    """Return a learning rate for people: three digits, no more zeros than needed."""
    return f"{value:.3g}"


def speed(value: float) -> str:
    """Return images per second for people."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Return a length of time for people: `0.8 s`, `48 s`, `3m12s`, `2h05m`, `3d04h`; `?` if it is endless."""
    if not seconds < 1e12:
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def sparkline(values: Iterable[float], room: int) -> str:
    """Return the last `room` finite values as a row of bars, from the lowest to the highest of them."""
    shown = [v for v in values if v - v == 0][-room:]
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((v - low) * scale)] for v in shown)


def flow(
    cells: Sequence[Line], room: int, first: str = "", rest: str = "", gap: int = 2
) -> list[list[Piece]]:
    """Lay cells out from left to right in lines of at most `room` columns; a cell is never broken.

    first, rest: what the first line and the others start with.
    """
    lines: list[list[Piece]] = [[(first, "dim")]]
    used, empty = width(first), True
    for cell in cells:
        size = sum(width(text) for text, _ in cell)
        if not empty and used + gap + size > room:
            lines.append([(rest, "dim")])
            used, empty = width(rest), True
        if not empty:
            lines[-1].append((" " * gap, ""))
            used += gap
        lines[-1].extend(cell)
        used, empty = used + size, False
    return lines


def grid(cells: Sequence[tuple[str, str, str]], room: int, indent: int) -> list[list[Piece]]:
    """Lay (name, value, note) cells out in aligned columns, filled downwards, as many as fit.

    The note stands behind the value: how it changed, or that it is the best.
    """
    if not cells:
        return []
    names = max(width(name) for name, _, _ in cells)
    names = min(names, _NAME)
    values = max(len(value) for _, value, _ in cells)
    notes = max(width(note) for _, _, note in cells)
    cell = names + 2 + values + (2 + notes if notes else 0)
    across = max(1, (room - indent + 3) // (cell + 3))
    down = -(-len(cells) // across)
    lines: list[list[Piece]] = []
    for row in range(down):
        line: list[Piece] = [(" " * indent, "")]
        chosen = cells[row::down]
        for place, (name, value, note) in enumerate(chosen):
            shown = shorten(name, names)
            line.append((shown + " " * (names - width(shown)) + "  ", "dim"))
            line.append((value.rjust(values), "good" if note.startswith("best") else ""))
            if place < len(chosen) - 1:
                line.append((("  " + note.ljust(notes) if notes else "") + "   ", "dim"))
            elif note:
                line.append(("  " + note, "good" if note.startswith("best") else "dim"))
        lines.append(line)
    return lines


def bare(names: Sequence[str], room: int) -> list[list[Piece]]:
    """Say which values of an evaluation had no labels to count; nothing where all had."""
    head = "    no labels for "
    cells: list[Line] = [[(safe(name) + ("," if name != names[-1] else ""), "dim")] for name in names]
    return flow(cells, room, head, " " * len(head), gap=1) if names else []


def cell(name: str, value: str, note: str = "") -> list[Piece]:
    """Return `name value note` as one cell; a note that starts with "best" is in the style of good news."""
    good = "good" if note.startswith("best") else ""
    return [(safe(name) + " ", "dim"), (value, good), (" " + note if note else "", good or "dim")]


def bar(done: int, total: int, room: int, fancy: bool) -> list[Piece]:
    """Return a progress bar of `room` columns, or nothing where it says nothing. fancy: Unicode is fine."""
    if total <= 0 or room < 8:
        return []
    full = min(room, room * done // total)
    on, off = "━━" if fancy else "=-"
    return [(on * full, "good"), (off * (room - full), "dim")]
