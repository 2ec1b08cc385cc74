"""The report of one run: `write_report(run_dir)` reads what the run left behind and writes report.html beside it.

The page holds everything itself and needs no script; it can be written again at any time, also while the run goes
on. Every part is optional: what is not there is left out, what is damaged is said.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from visloom.durable import size_text
from visloom.report import curves, matrix, pictures, tree
from visloom.report.read import Record, items, mapping, number, open_record
from visloom.report.render import LIMIT, render, write
from visloom.report.svg import meter, text
from visloom.words import duration, speed, without_labels
from visloom.words import number as written

__all__ = ["write_report"]

_PICTURES = (1_200_000, 500_000, 100_000, 0)  # bytes for pictures: less if the page would be too large
_ROWS = 500  # rows of a table that are shown
_TITLES = {"worst": "Worst predictions", "best": "Best predictions", "sample": "Predictions"}


class Fact(NamedTuple):
    """A number worth a box of its own."""

    name: str
    value: str
    more: str = ""


def write_report(run_dir: Path | str) -> Path:
    """Write report.html into a run directory and return its path: one file under 2 MB that loads nothing.

    Reads run.json, provenance.json, log.jsonl, speed.jsonl, evals/*.json with their pictures, and checkpoints/.

    Raises:
        DataError: there is no such directory.
        OSError: the page cannot be written.
    """
    folder = Path(run_dir)
    record = open_record(folder)
    page = ""
    for budget in _PICTURES:
        page = render("page.html.j2", **view(record, budget))
        if len(page.encode("utf-8")) <= LIMIT:
            break
    return write(folder / "report.html", page)


def view(record: Record, budget: int) -> dict[str, Any]:
    """Return everything that the template shows. budget: bytes for pictures."""
    told = [_evaluation(record, name, budget // max(1, len(record.evals))) for name in record.evals]
    told = [one for one in told if one["numbers"] or one["tables"] or one["pictures"] or one["pairs"]]
    learning = curves.learning(record)
    pace = curves.speed(record)
    changed = tree.changes(
        items(record.provenance.get("argv")),
        items(mapping(record.provenance.get("parent")).get("changed")),
        record.provenance.get("changed"),
    )
    config = tree.lines(record.run, changed)
    marked = any(line.was is not None for line in config)
    parts: dict[str, Any] = {
        "curves": learning,
        "evals": told,
        "speed": pace,
        "config": config,
        "environment": _environment(record.provenance),
        "starts": _starts(record),
        "checkpoints": record.checkpoints,
    }
    names = {"curves": "Learning", "speed": "Speed", "config": "Configuration", "environment": "Environment"}
    names |= {"starts": "Starts and resumes", "checkpoints": "Checkpoints"}
    contents = [(key, name) for key, name in names.items() if parts[key]]
    place = 1 if learning else 0
    contents[place:place] = [(one["id"], one["name"]) for one in told]
    return {
        **parts,
        "title": record.name,
        "lead": lead(record),
        "facts": _facts(record),
        "contents": [*contents, ("again", "Again")],
        "notes": record.notes,
        "curves_note": _curves_note(record),
        "config_note": "Marked values were changed from what the recipe says." if marked else "",
        "commands": _commands(record),
    }


# -------------------------------------------------------------------------------------------- what came out


def lead(record: Record) -> Markup:
    """Return the result in one sentence."""
    best = record.best
    if not record.rows:
        return Markup("This run has logged nothing yet.")
    length = "1 epoch" if record.epochs == 1 else f"{record.epochs:.4g} epochs"
    if not record.by_epoch and record.epochs != 1:
        length = f"{record.step:,} steps"
    took = f"{length} took {duration(record.seconds)}" if record.seconds >= 1 else f"the run has {length}"
    if best is None:
        return Markup("{}; nothing was evaluated.").format(took[0].upper() + took[1:])
    told = baseline(record, best.split)
    beside = Markup(" ({}: {})").format(text(told[0], 60), written(told[1])) if told else ""
    return Markup("On {}, {} {} <b>{}</b>{} at {}; {}.").format(
        text(best.split, 60),
        text(best.name, 60),
        "reached" if best.mode == "max" else "came down to",
        written(best.value),
        beside,
        f"epoch {best.epoch:.4g}" if record.by_epoch else f"step {best.step:,}",
        took,
    )


def baseline(record: Record, split: str) -> tuple[str, float] | None:
    """Return what a predictor that learnt nothing would reach, by name, if the evaluation says."""
    told = mapping(mapping(record.evals.get(split)).get("baseline"))
    value = number(told, "value")
    return (str(told.get("name", "baseline")), value) if value is not None and math.isfinite(value) else None


def _facts(record: Record) -> list[Fact]:
    facts = []
    best = record.best
    if best is not None:
        at = f"at epoch {best.epoch:.4g}" if record.by_epoch else f"at step {best.step:,}"
        facts.append(Fact(f"best {best.split} {best.name}", written(best.value), at))
        last = [row for row in record.rows if row["kind"] == "eval" and row["split"] == best.split][-1]
        value = number(last.get("values"), best.name)
        if value is not None and last["step"] != best.step:
            facts.append(Fact("last", written(value), f"at epoch {last['epoch']:.4g}"))
        told = baseline(record, best.split)
        if told:
            facts.append(Fact("baseline", written(told[1]), told[0]))
    if record.rows:
        facts.append(Fact("length", f"{record.epochs:.4g} epochs", f"{record.step:,} steps"))
    if record.seconds >= 1:
        facts.append(Fact("time", duration(record.seconds), "set-up and evaluations included"))
    if record.cpu_seconds >= 1:
        facts.append(Fact("CPU time", duration(record.cpu_seconds), "data workers included"))
    images, wait = record.typical("images_per_second"), record.typical("wait_share")
    if images is not None:
        waited = "" if wait is None else f"{100 * wait:.0f} % waiting for data"
        facts.append(Fact("images per second", speed(images), waited))
    memory = max((v for _, v in record.pace_curve("memory_bytes") if math.isfinite(v)), default=None)
    if memory is not None:
        facts.append(Fact("peak memory", size_text(int(memory))))
    return facts


def _curves_note(record: Record) -> str:
    parts = ["Training values are means between log points"]
    if len(record.names("epoch")) and record.epochs >= 2:
        parts.append("the firm line is the mean of each epoch")
    parts.append("the ring is the best evaluation")
    if any(row["step"] > 0 for row in record.starts):
        parts.append("a dotted line is a resume")
    return "; ".join(parts) + "."


# ---------------------------------------------------------------------------------------------- evaluations


def _evaluation(record: Record, name: str, budget: int) -> dict[str, Any]:
    told = record.evals[name]
    numbers = {
        k: v for k in mapping(told.get("values")) for v in [number(told["values"], k)] if v is not None
    }
    bare = without_labels(numbers)
    values = [
        Fact(key, written(v), _floor(mapping(told.get("floors")).get(key)))
        for key, v in numbers.items()
        if key not in bare
    ]
    values += [Fact("no labels for", ", ".join(bare), "")] if bare else []
    tables = dict(mapping(told.get("tables")))
    confusion = mapping(tables.pop("confusion", None))
    drawn = [key for key in tables if key.partition("/")[0] == "curves"]
    charts = [figure for key in drawn for figure in [curves.of_table(tables.pop(key))] if figure]
    classes, counts = items(confusion.get("classes")), items(confusion.get("matrix"))
    sound = all(isinstance(row, list) for row in counts) and matrix.is_matrix(classes, counts)
    names = [str(c) for c in classes]
    epoch = number(told, "epoch")
    return {
        "id": "eval-" + re.sub(r"[^A-Za-z0-9_-]", "-", name),
        "name": name,
        "epoch": f"{epoch:.4g}" if epoch is not None else "?",
        "numbers": values if len(values) <= 16 else [],
        "matrix": matrix.heat_map(names, counts) if sound else "",
        "curves": charts,
        "matrix_note": f"{len(names):,} classes are too many for a picture.",
        "pairs": matrix.confused(names, counts) if sound else [],
        "tables": [*_long(values), *(t for key, value in tables.items() for t in _table(key, value))],
        "pictures": _pictures(record, items(told.get("pictures")), budget),
    }


def _floor(told: Any) -> str:
    """What answering without looking gives in a value."""
    value = number(mapping(told), "value")
    return "" if value is None else f"{written(value)} for {mapping(told).get('name', 'not looking')}"


def _long(values: Sequence[Fact]) -> list[dict[str, Any]]:
    """Many values become a table."""
    if len(values) <= 16:
        return []
    return _table("values", {"columns": ["name", "value"], "rows": [[f.name, f.value] for f in values]})


def _table(name: str, value: Any) -> list[dict[str, Any]]:
    columns, rows = items(mapping(value).get("columns")), items(mapping(value).get("rows"))
    rows = [row for row in rows if isinstance(row, list) and len(row) == len(columns)]
    if not rows:
        return []
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    shares = [
        i
        for i, yes in enumerate(numeric)
        if yes
        and any(isinstance(row[i], float) for row in rows)
        and all(0 <= (row[i] or 0) <= 1 for row in rows)
    ]
    barred = shares[-1] if shares else None
    cells = [
        [
            {
                "text": _cell(v),
                "number": numeric[i],
                "bar": meter(v) if i == barred and isinstance(v, int | float) else "",
            }
            for i, v in enumerate(row)
        ]
        for row in rows[:_ROWS]
    ]
    title = name.replace("_", " ").capitalize()
    note = f"The first {_ROWS} of {len(rows):,} rows." if len(rows) > _ROWS else ""
    heads = [{"name": str(c), "number": n} for c, n in zip(columns, numeric, strict=True)]
    return [{"title": title, "columns": heads, "rows": cells, "note": note}]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return written(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _pictures(record: Record, told: list[Any], budget: int) -> list[dict[str, Any]]:
    entries = [mapping(one) for one in told if isinstance(mapping(one).get("file"), str)]
    images = pictures.embed([pictures.inside(record.path, one["file"]) for one in entries], budget)
    groups = []
    for kind in dict.fromkeys(str(one.get("kind", "sample")) for one in entries):
        chosen = [
            (e, i) for e, i in zip(entries, images, strict=True) if str(e.get("kind", "sample")) == kind
        ]
        shown = [
            {"image": i, "id": str(e.get("id", "")), "caption": str(e.get("caption", e.get("id", "")))}
            for e, i in chosen
            if i is not None
        ]
        gone = len(chosen) - len(shown)
        note = f"{gone} more could not be shown: unreadable, or no room left on the page." if gone else ""
        title = _TITLES.get(kind, kind.capitalize())
        if shown or note:
            groups.append({"title": title, "pictures": shown, "note": note})
    return groups


# ------------------------------------------------------------------------------------------ where it came from


def _environment(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    hidden = ("argv", "resumed", "changed")
    shown = {key: value for key, value in provenance.items() if key not in hidden}
    return list(tree.flatten(shown).items()) if shown else []


def _starts(record: Record) -> list[dict[str, str]]:
    """Every start of a process: from speed.jsonl, with the command line that provenance.json has for it."""
    argvs = [
        record.provenance.get("argv"),
        *(mapping(r).get("argv") for r in items(record.provenance.get("resumed"))),
    ]
    rows = []
    for place, start in enumerate(record.starts):
        argv = items(argvs[place]) if len(argvs) == len(record.starts) else []
        when = datetime.fromtimestamp(start["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        rows.append({"step": f"{start['step']:,}", "when": when, "how": shlex.join(map(str, argv))})
    return rows


def _commands(record: Record) -> list[tuple[str, str]]:
    path = os.path.relpath(record.path)
    place = shlex.quote(path if not path.startswith("..") else str(record.path.resolve()))
    argv = [str(word) for word in items(record.provenance.get("argv"))]
    commands = []
    if argv:
        commands.append(("This run was started with", shlex.join([Path(argv[0]).name, *argv[1:]])))
    if record.run:
        commands.append(("The same run once more, from its own record", f"visloom train {place}/run.json"))
    if record.checkpoints:
        commands.append(("Go on where it stopped", f"visloom resume {place}"))
    commands.append(("Write this page again", f"visloom report {place}"))
    return commands
