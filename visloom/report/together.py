"""Runs of several systems on one page: a picture of each one's answers beside the truth, and its value beside what
can be had without learning. `visloom demo` ends with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visloom.report import pictures
from visloom.report.page import Fact, baseline
from visloom.report.read import Record, items, mapping, open_record
from visloom.report.render import render, write
from visloom.words import duration
from visloom.words import number as written

__all__ = ["Part", "write_together"]

_BUDGET = 1_500_000  # bytes for the pictures of all parts
_SIDES = (640, 480, 320, 224, 160)  # one picture has the page's width to itself
_SMALL, _THUMB = 8, 240  # pictures of a part whose pictures are small; columns up to which they are


@dataclass(frozen=True)
class Part:
    """One system's run.

    command: what to type next.  against: a name and the value to hold the run's own against, where its evaluation
    tells none itself: ("source only", 0.31).
    """

    title: str
    run: Path
    command: str
    against: tuple[str, float] | None = None


def write_together(parts: Sequence[Part], out: Path) -> Path:
    """Write one page about several runs and return its path: one file that loads nothing, with links to the runs'
    own reports, relative to it.

    Raises:
        DataError: a directory does not exist.
        OSError: the page cannot be written.
    """
    records = [open_record(part.run) for part in parts]
    budget = _BUDGET // max(1, len(parts))
    told = [_part(part, record, budget, out.parent) for part, record in zip(parts, records, strict=True)]
    seconds = sum(record.seconds for record in records)
    title = f"{_COUNTS.get(len(parts), str(len(parts)))} systems, one engine"
    lead = f"Trained one after the other from random weights in {duration(seconds)}, on pictures drawn by Visloom."
    return write(out, render("together.html.j2", title=title, lead=lead, parts=told))


_COUNTS = {2: "Two", 3: "Three", 4: "Four", 5: "Five"}


def _part(part: Part, record: Record, budget: int, beside: Path) -> dict[str, Any]:
    facts = []
    best = record.best
    if best is not None:
        facts.append(Fact(f"{best.split} {best.name}", written(best.value), "the best of the run"))
        against = part.against or baseline(record, best.split)
        if against is not None:
            facts.append(Fact("to compare with", written(against[1]), against[0]))
    facts.append(Fact("time", duration(record.seconds), f"{record.step:,} steps"))
    page = os.path.relpath(part.run / "report.html", beside)
    return {
        "title": part.title,
        "facts": facts,
        "pictures": _pictures(record, budget),
        "report": Path(page).as_posix(),
        "command": part.command,
        "notes": record.notes,
    }


def _pictures(record: Record, budget: int) -> list[dict[str, Any]]:
    """The first picture of the monitored evaluation, or a row of them where they are small."""
    split = record.best.split if record.best is not None else next(iter(record.evals), "")
    told = [mapping(one) for one in items(mapping(record.evals.get(split)).get("pictures"))]
    told = [one for one in told if isinstance(one.get("file"), str)]
    kinds = list(dict.fromkeys(str(one.get("kind", "sample")) for one in told))
    rows = [[one for one in told if str(one.get("kind", "sample")) == kind] for kind in kinds]
    mixed = [one for row in rows for one in row[: max(1, _SMALL // len(rows))]]  # some of every kind
    images = pictures.embed([pictures.inside(record.path, one["file"]) for one in mixed], budget, _SIDES)
    shown: list[dict[str, Any]] = [
        {"image": image, "caption": str(one.get("caption", one.get("id", "")))}
        for one, image in zip(mixed, images, strict=True)
        if image is not None
    ]
    return shown if all(one["image"].width <= _THUMB for one in shown) else shown[:1]
