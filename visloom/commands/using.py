"""Verbs that use a run: evaluate, predict, report."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

from visloom import words
from visloom.commands import speaking
from visloom.errors import ConfigError
from visloom.rundir import must_exist
from visloom.words import duration, number, safe

_LISTED = 10  # unreadable pictures that are listed on the screen


def evaluate(args: Namespace) -> int:
    """Evaluate a run and print what was found; --json - prints only that."""
    must_exist(args.run)
    from visloom.saved import evaluate as work

    alone = args.json == "-"
    with speaking.opened() as screen:
        found = work(
            args.run,
            args.on,
            data=None if args.data is None else Path(args.data).expanduser().absolute(),
            device=args.device,
            tta=args.tta,
            out=args.out,
            pictures=args.pictures,
            trust=args.trust,
            say=lambda text: screen.line([("warning: ", "warn"), (safe(text), "")]),
            tick=lambda name, done, total: speaking.progress(screen, f"evaluating {name}", done, total),
        )
        screen.draw([])
        if not alone:
            speaking.rows(
                screen, [("run", found["run"]), ("weights", f"step {found['step']:,}, {found['weights']}")]
            )
            for name, each in found["evaluations"].items():
                screen.line(
                    [
                        (f"{safe(name)}  ", "bold"),
                        (f"{each['count']:,} samples, {duration(each['seconds'])}", ""),
                    ]
                )
                chosen = str(each["monitor"] or "").partition(" ")[2].removeprefix(f"{name}/")
                bare = words.without_labels(each["values"])
                values = [
                    (safe(n), number(v), "decides" if n == chosen else "")
                    for n, v in each["values"].items()
                    if n not in bare
                ]
                for line in [*words.grid(values, screen.width, 4), *words.bare(bare, screen.width)]:
                    screen.line(line)
            if args.out is not None:
                speaking.rows(screen, [("files", args.out)])
    if args.json is not None:
        _write_json(found, args.json)
    return 0


def _write_json(found: dict[str, Any], place: str) -> None:
    from visloom.evaluation_files import strict

    text = json.dumps(strict(found), indent=2, ensure_ascii=False)
    if place == "-":
        print(text)
        return
    try:
        Path(place).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {place} cannot be written: {error.strerror or error}") from error


def predict(args: Namespace) -> int:
    """Predict pictures; those that cannot be read are listed and cost nothing more."""
    must_exist(args.run)
    from visloom.prediction import PICTURES
    from visloom.prediction import predict as work

    endings = [end for text in args.ext or () for end in text.split(",")]
    chosen = [args.tta] if args.tta is not None else []
    chosen += [word for word in ("sliding", "probabilities") if getattr(args, word)]
    drawn = PICTURES if args.pictures is None else args.pictures
    began = perf_counter()
    with speaking.opened() as screen:
        made = work(
            args.run,
            args.images,
            args.out,
            tta=",".join(chosen) or None,
            device=args.device,
            pictures=drawn,
            part=args.part,
            extensions=endings,
            recursive=args.recursive,
            trust=args.trust,
            tick=lambda done, total: speaking.progress(screen, "predicting", done, total),
        )
        screen.draw([])
        good = [row for row in made.rows if "error" not in row]
        seconds = perf_counter() - began
        screen.line([(f"{len(good):,} {made.what} predicted", "bold"), (f" in {duration(seconds)}", "")])
        pairs: list[tuple[str, object]] = [("weights", made.saved)]
        classes = [row["class"] for row in good if "class" in row]
        classes += [line[0] for row in good for line in row.get("lines", ())]
        counts = Counter(classes).most_common(8)
        if counts:
            pairs.append(("found", ", ".join(f"{name} {count:,}" for name, count in counts)))
        pairs.append(("table", made.table))
        shown = sum("picture" in row for row in good)
        if shown:
            more = f", the first {shown:,} (more with --pictures N)" if shown < len(good) else ""
            pairs.append(("pictures", f"{Path(args.out) / 'pictures'}{more}"))
        speaking.rows(screen, pairs, wrap=False)
        if made.failed:
            screen.line([(f"{len(made.failed):,} could not be predicted:", "warn")])
            for row in made.failed[:_LISTED]:
                for line in speaking.wrapped(row["error"].splitlines()[0], screen.width - 4):
                    screen.line([(f"  {line}", "")])
            if len(made.failed) > _LISTED:
                screen.line([(f"  and {len(made.failed) - _LISTED:,} more, in the table", "")])
    return 0


def report(args: Namespace) -> int:
    """Write the reports of runs again."""
    from visloom.report.page import write_report
    from visloom.rundir import find

    with speaking.opened() as screen:
        for name in args.runs:
            directory, _ = find(name)
            try:
                page = write_report(directory.path)
            except OSError as error:
                raise ConfigError(
                    f"{directory.report} cannot be written: {error.strerror or error}"
                ) from error
            screen.line([("report  ", "dim"), (safe(page), "")])
    return 0
