"""A run directory as the report sees it: every part optional, a damaged part noted, nothing ever executed.

run.json  provenance.json      JSON objects, shown as they are
log.jsonl  speed.jsonl         what `visloom/log.py` writes
evals/NAME.json                the last evaluation of that name: step, epoch, values {name: number or null},
                               baseline {name, value} or null, tables and pictures:
    tables.confusion           {"classes": names, "matrix": rows of counts}
    tables.curves              {"title", "x_name", "x": numbers, "series": {name: as many numbers}}
    tables.ANYTHING            {"columns": names, "rows": rows}
    pictures                   [{"file": path inside the run directory, "id", "caption",
                                 "kind": "worst" | "best" | "sample"}]
checkpoints/step-*/manifest.json, checkpoints/best, checkpoints/latest
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from visloom.errors import DataError
from visloom.logfiles import read
from visloom.units import Monitor

Point = tuple[float, float]
_LAST_TIME = 253402300800.0  # the year 10000, which no date can be
_LAST_STEP = 2**53  # from here on a float does not tell steps apart


class Checkpoint(NamedTuple):
    """A checkpoint on the disk; sha256: of its manifest, which holds those of all its files."""

    name: str
    size: int
    sha256: str
    marks: tuple[str, ...]  # "best", "latest"


class Best(NamedTuple):
    """The best value of the evaluation that decides. value is NaN where it was never finite."""

    split: str
    name: str
    mode: str
    value: float
    step: int
    epoch: float


@dataclass(frozen=True)
class Record:
    """One run directory, read. `notes` says in words what could not be read."""

    path: Path
    run: dict[str, Any]
    provenance: dict[str, Any]
    rows: list[dict[str, Any]]
    pace: list[dict[str, Any]]
    evals: dict[str, dict[str, Any]]
    checkpoints: list[Checkpoint]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return self.path.resolve().name

    @cached_property
    def step(self) -> int:
        """Updates that the log knows of."""
        return max((row["step"] for row in self.rows), default=0)

    @cached_property
    def steps_per_epoch(self) -> float:
        """Updates in one epoch, 1 if the log is empty."""
        ratios = [r["step"] / r["epoch"] for r in self.rows if r["step"] > 0 and r["epoch"] > 1e-9]
        found = statistics.median(ratios) if ratios else 1.0
        return float(round(found)) if abs(found - round(found)) < 1e-6 else found

    @property
    def epochs(self) -> float:
        """Epochs done."""
        return self.step / self.steps_per_epoch if self.rows else 0.0

    @property
    def by_epoch(self) -> bool:
        """Say whether charts count epochs rather than steps."""
        return self.epochs >= 1.5

    def x(self, step: float) -> float:
        """Return where a step stands on the charts."""
        return step / self.steps_per_epoch if self.by_epoch else float(step)

    def curve(self, kind: str, split: str, name: str, part: str = "values") -> list[Point]:
        """Return the course of a value: (x, value) of the rows of a kind and split, in order."""
        return [
            (self.x(row["step"]), value)
            for row in self.rows
            if row["kind"] == kind and row["split"] == split
            for value in [number(row.get(part), name)]
            if value is not None
        ]

    def names(self, kind: str, part: str = "values", split: str | None = None) -> list[str]:
        """Return every name that rows of a kind (and split) have in a part, in order of appearance."""
        rows = (r for r in self.rows if r["kind"] == kind and split in (None, r["split"]))
        return list(dict.fromkeys(name for row in rows for name in mapping(row.get(part))))

    @cached_property
    def splits(self) -> list[str]:
        """Names of the evaluations, in order of appearance."""
        return list(dict.fromkeys([r["split"] for r in self.rows if r["kind"] == "eval"] + list(self.evals)))

    @cached_property
    def best(self) -> Best | None:
        """The best value of the monitored evaluation; without a monitor the lowest loss of the first one."""
        split, monitor = self._monitor()
        rows = [r for r in self.rows if r["kind"] == "eval" and r["split"] == split]
        best: Best | None = None
        for row in rows:
            value = number(row.get("values"), monitor.name)
            if value is not None and monitor.better(value, None if best is None else best.value):
                best = Best(split, monitor.name, monitor.mode, value, row["step"], row["epoch"])
        return best

    def _monitor(self) -> tuple[str, Monitor]:
        told = {
            name: mapping(setting).get("monitor") for name, setting in mapping(self.run.get("evals")).items()
        }
        told |= {r["split"]: r["monitor"] for r in self.rows if r["kind"] == "eval" and "monitor" in r}
        for split, text in told.items():
            try:
                monitor = Monitor.parse(str(text))
            except ValueError:
                continue
            return split, Monitor(monitor.mode, monitor.name.removeprefix(f"{split}/"))
        return (self.splits or [""])[0], Monitor("min", "loss")

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """Each time that a process took over: rows of speed.jsonl with the step it started from."""
        return [row for row in self.pace if row["kind"] == "start"]

    @cached_property
    def seconds(self) -> float:
        """Wall time of all processes that worked on the run, from set-up to their last sign of life."""
        total = first = last = 0.0
        for row in [*self.pace, {"kind": "start", "time": 0.0, "setup": 0.0}]:
            if row["kind"] == "start":
                total += last - first
                first = last = row["time"] - (number(row, "setup") or 0.0)
            last = max(last, row["time"])
        return max(total, 0.0)

    @cached_property
    def cpu_seconds(self) -> float:
        """CPU time of all processes that worked on the run: this rank's and its data workers'; 0 if not known."""
        total = most = 0.0
        for row in [*self.pace, {"kind": "start"}]:
            if row["kind"] == "start":
                total, most = total + most, 0.0
            most = max(most, number(row, "cpu_seconds") or 0.0)
        return total

    def pace_curve(self, name: str) -> list[Point]:
        """Return the course of a value of speed.jsonl; where steps were done twice, the second time counts."""
        found = {
            row["step"]: value
            for row in self.pace
            if row["kind"] == "point"
            for value in [number(row, name)]
            if value is not None
        }
        return [(self.x(step), found[step]) for step in sorted(found)]

    def typical(self, name: str) -> float | None:
        """Return the median of a value of speed.jsonl."""
        values = [v for _, v in self.pace_curve(name) if math.isfinite(v)]
        return statistics.median(values) if values else None


def mapping(value: Any) -> dict[str, Any]:
    """Return a value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def number(values: Any, name: str) -> float | None:
    """Return a number of a mapping as a float; null is NaN; None if it is not there or not a number."""
    if not isinstance(values, Mapping) or name not in values:
        return None
    value = values[name]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has integers of any size
        return math.inf


def open_record(folder: Path) -> Record:
    """Read a run directory. Raises DataError only if there is no such directory."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a run directory")
    notes: list[str] = []
    run = _json(folder / "run.json", notes)
    run = mapping(run.get("run")) or run  # with or without an envelope
    evals = {p.stem: _json(p, notes) for p in sorted((folder / "evals").glob("*.json"))}
    rows = [r for r in _lines(folder / "log.jsonl", notes) if _is_row(r)]
    pace = [r for r in _lines(folder / "speed.jsonl", notes) if _is_pace(r)]
    provenance = _json(folder / "provenance.json", notes)
    return Record(folder, run, provenance, rows, pace, evals, _checkpoints(folder / "checkpoints"), notes)


def _is_row(row: Mapping[str, Any]) -> bool:
    epoch = number(row, "epoch")
    known = isinstance(row.get("kind"), str) and isinstance(row.get("split"), str) and _is_step(row)
    return known and epoch is not None and 0 <= epoch < _LAST_STEP


def _is_pace(row: Mapping[str, Any]) -> bool:
    time = row.get("time")
    return (
        isinstance(row.get("kind"), str) and _is_step(row) and type(time) is float and 0 <= time < _LAST_TIME
    )


def _is_step(row: Mapping[str, Any]) -> bool:
    step = row.get("step")
    return type(step) is int and 0 <= step < _LAST_STEP


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return read(path)
    except DataError as error:
        notes.append(str(error))
    try:
        return read(path, strict=False)
    except DataError:
        return []


def _checkpoints(folder: Path) -> list[Checkpoint]:
    marks = {mark: _first_line(folder / mark) for mark in ("best", "latest")}
    found = []
    for manifest in sorted(folder.glob("step-*/manifest.json")):
        try:
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
            size = sum(file.stat().st_size for file in manifest.parent.iterdir() if file.is_file())
        except OSError:
            continue  # it may be superseded while we look
        name = manifest.parent.name
        found.append(Checkpoint(name, size, digest, tuple(m for m, n in marks.items() if n == name)))
    return found


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def first(values: Iterable[Any]) -> Any:
    """Return the first value that is not None, or None."""
    return next((v for v in values if v is not None), None)
