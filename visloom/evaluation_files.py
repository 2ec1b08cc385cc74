"""Evaluation files: what a stand-alone evaluation leaves in a folder: numbers, curves, pictures, the task's own files.

DIR/NAME/evaluation.json     values and tables
DIR/NAME/curves*.svg         the tables "curves", one drawing each
DIR/NAME/pictures/*.png      samples drawn by the task, the worst and the best
DIR/NAME/...                 what metrics write: `write(folder)` of a metric returns the names of its files
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.durable import write_json
from visloom.errors import ConfigError
from visloom.pictures import save_pictures
from visloom.rundir import safe_name

if TYPE_CHECKING:
    from visloom.evaluation import Evaluation
    from visloom.saved import Saved
    from visloom.stream import Stream


def write_files(
    out: Path, name: str, result: Evaluation, saved: Saved, stream: Stream, pictures: int
) -> list[str]:
    """Write what one evaluation found into DIR/NAME; returns the names of the files, relative to DIR.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = out / safe_name(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        told = {"values": result.values, "tables": result.tables, "count": result.count, "step": saved.step}
        write_json(folder / "evaluation.json", strict(told))
        names = ["evaluation.json", *_curves(folder, result.tables)]
        for metric in result.metrics.values():
            write = getattr(metric, "write", None)
            names += write(folder) if write is not None else []
        made = []
        if pictures and result.records:
            made = save_pictures(
                saved.task, saved.spec, stream, result.records, folder / "pictures",
                count=pictures, device=saved.device,
            )  # fmt: skip
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror or error}; choose another --out"
        ) from error
    return [f"{folder.name}/{file}" for file in names] + [row["file"] for row in made]


def _curves(folder: Path, tables: Mapping[str, Any]) -> list[str]:
    from visloom.report.curves import series_of
    from visloom.report.svg import drawing

    names = []
    for key in (key for key in tables if key.partition("/")[0] == "curves"):
        series, title, x_name, _ = series_of(tables[key])
        drawn = drawing(series, title=title, x_name=x_name)
        if drawn:
            names.append(f"{key.replace('/', '-')}.svg")
            (folder / names[-1]).write_text(drawn, encoding="utf-8")
    return names


def strict(value: Any) -> Any:
    """NaN and infinities have no place in JSON: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    return [strict(v) for v in value] if isinstance(value, list | tuple) else value
