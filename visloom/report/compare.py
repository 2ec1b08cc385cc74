"""Several runs on one page: what each reached, their curves laid over each other, and what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visloom.errors import UsageError
from visloom.report import curves, tree
from visloom.report.read import Record, open_record
from visloom.report.render import render, write
from visloom.report.svg import COLOURS
from visloom.words import duration, speed
from visloom.words import number as written

__all__ = ["compare"]

_HIDDEN = ("argv", "resumed", "changed", "time", "run")  # of the provenance: what every run has of its own
_ROWS = 400  # differences that are shown


def compare(run_dirs: Sequence[Path | str], out: Path | None = None) -> Path:
    """Write one page about several runs and return its path: one file that loads nothing, like `write_report`.

    out: where; by default `compare-A-B.html` beside the first run.

    Raises:
        UsageError: fewer than two runs.
        DataError: a directory does not exist.
        OSError: the page cannot be written.
    """
    folders = [Path(folder) for folder in run_dirs]
    if len(folders) < 2:
        raise UsageError(f"comparing takes at least two run directories, got {len(folders)}")
    records = [open_record(folder) for folder in folders]
    if out is None:
        names = "-".join(record.name for record in records)
        out = folders[0].resolve().parent / f"compare-{names[:80]}.html"
    return write(out, render("compare.html.j2", **view(records)))


def view(records: Sequence[Record]) -> dict[str, Any]:
    """Return everything that the template shows."""
    settings = tree.differences([record.run for record in records])
    made = tree.differences([{k: v for k, v in r.provenance.items() if k not in _HIDDEN} for r in records])
    return {
        "title": f"{len(records)} runs compared",
        "lead": _lead(records),
        "runs": _rows(records),
        "notes": [f"{record.name}: {note}" for record in records for note in record.notes],
        "curves": curves.overlaid(records),
        "tables": [
            _table("settings", "Settings that differ", settings, "All settings are the same."),
            _table("environment", "What else differs", made, "Made by the same code on the same machine."),
        ],
    }


def _table(name: str, title: str, rows: list[tuple[str, list[str]]], same: str) -> dict[str, Any]:
    return {"id": name, "title": title, "rows": rows[:_ROWS], "same": same}


def _winner(records: Sequence[Record]) -> Record | None:
    """The run with the best value, if all are judged by the same one."""
    judged = [(record, record.best) for record in records if record.best is not None]
    if len(judged) < 2 or len({(b.split, b.name, b.mode) for _, b in judged}) > 1:
        return None
    sign = 1 if judged[0][1].mode == "max" else -1
    return max(judged, key=lambda pair: sign * pair[1].value)[0]  # the first of equals


def _lead(records: Sequence[Record]) -> str:
    winner = _winner(records)
    if winner is None or winner.best is None:
        return "The runs are judged by different values."
    word = "highest" if winner.best.mode == "max" else "lowest"
    return (
        f"{winner.name} has the {word} {winner.best.split} {winner.best.name}: {written(winner.best.value)}."
    )


def _rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    winner = _winner(records)
    rows = []
    for place, record in enumerate(records):
        best, pace = record.best, record.typical("images_per_second")
        rows.append(
            {
                "name": record.name,
                "colour": place % COLOURS,
                "value": f"{best.split} {best.name}" if best else "-",
                "best": written(best.value) if best else "-",
                "winner": record is winner,
                "at": f"{best.epoch:.4g}" if best else "-",
                "epochs": f"{record.epochs:.4g}",
                "time": duration(record.seconds),
                "pace": speed(pace) if pace is not None else "-",
            }
        )
    return rows
