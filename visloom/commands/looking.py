"""Verbs that look and do not train: show, recipes, doctor, inspect-data, new."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from visloom.commands import speaking
from visloom.commands.training import host_settings
from visloom.errors import UsageError
from visloom.words import safe, shorten

if TYPE_CHECKING:
    from visloom.console import Screen
    from visloom.doctor import Finding
    from visloom.run import Run
    from visloom.sheets import SourceReport

_MARKS = {"good": ("good", "ok  "), "note": ("warn", "note"), "bad": ("bad", "BAD ")}
_LISTED = 12  # classes and sizes that are listed


def _load(args: Namespace) -> Run:
    from visloom.config import load

    return load(args.recipe, [*host_settings(args), *args.settings], trust=args.trust)


def show(args: Namespace) -> int:
    """Show a recipe: its settings, what differs from another one, or its network."""
    from visloom import show as shown
    from visloom.config import diff, load

    if args.model and args.diff:
        raise UsageError("--model and --diff are two different pictures: take one of them")
    run = _load(args)
    with speaking.opened() as screen:
        if args.diff:
            for line in diff(run, load(args.diff, trust=args.trust)) or ["no difference"]:
                screen.line([(safe(line), "")])
        elif args.model:
            _show_network(screen, run)
        elif not args.write:
            _show_settings(screen, run)
        if args.write:
            shown.write(run, args.recipe, Path(args.write))
            screen.line([("written  ", "dim"), (safe(args.write), "")])
            screen.line([("next     ", "dim"), (f"visloom train {safe(args.write)}", "")])
    return 0


def _show_settings(screen: Screen, run: Run) -> None:
    from visloom import show as shown

    for row in shown.rows(run):
        mark = ("* ", "good") if row.changed else ("  ", "")
        line = f"{'  ' * row.level}{row.name}: {row.value}".rstrip()
        usual = f"  (default {row.default})" if row.default else ""
        screen.line([mark, (line, "bold" if row.changed else ""), (usual, "dim")])
    screen.line([("* differs from the default of its class", "dim")])


def _show_network(screen: Screen, run: Run) -> None:
    from visloom import show as shown

    network = shown.layers(run)
    lines = shown.table(network)
    room = screen.width - 2 - sum(max(len(line[i]) for line in lines) + 2 for i in range(2, 5))
    name = max(16, room * 3 // 5)
    cut = [(_tail(line[0], name), shorten(line[1], max(10, room - name - 4)), *line[2:]) for line in lines]
    speaking.table(screen, cut, right=(3, 4))
    frozen = f", {network.frozen:,} of them frozen" if network.frozen else ""
    size = "x".join(map(str, network.size[1:]))
    work = (
        f"{network.flops / 1e9:,.2f} GFLOP" if network.flops >= 1e8 else f"{network.flops / 1e6:,.2f} MFLOP"
    )
    screen.line([(f"{network.parameters:,} parameters{frozen}", "bold"), (f"; {work} for one picture", "")])
    screen.line([(f"fed as {size}; an addition and a multiplication count as two", "dim")])
    for note in network.notes:
        screen.line([("note: ", "warn"), (safe(note), "")])


def _tail(text: str, room: int) -> str:
    """Cut a layer's name at its beginning: its end tells it apart."""
    return text if len(text) <= room else f"..{text[len(text) - room + 2 :]}"


def recipes(args: Namespace) -> int:
    """List the recipes of Visloom."""
    from visloom.catalog import catalog

    with speaking.opened() as screen:
        speaking.rows(screen, [(entry.ref, entry.about) for entry in catalog()], indent=0)
    return 0


def doctor(args: Namespace) -> int:
    """Examine the machine, and a recipe if one is named; exit code 1 if something is broken."""
    from visloom import doctor as doctors

    if args.recipe is None and args.settings:
        raise UsageError("settings belong to a recipe: visloom doctor RECIPE path=value")
    bad = 0
    run = None if args.recipe is None else _load(args)
    with speaking.opened() as screen:
        for finding in doctors.examine("runs" if run is None else run.host.out):
            _tell_finding(screen, finding)
            bad += finding.mark == "bad"
        if run is not None:
            screen.line([(f"{safe(args.recipe)}", "bold")])
            patient = doctors.examine_recipe(run)
            for finding in patient.findings:
                _tell_finding(screen, finding)
                bad += finding.mark == "bad"
            if patient.rules:
                screen.line([("parameter rules", "bold")])
                speaking.rows(screen, [_rule(row) for row in patient.rules[1:]])
        verdict = f"{bad} broken" if bad else "nothing is broken"
        screen.line([(verdict, "bad" if bad else "good")])
    return 1 if bad else 0


def _tell_finding(screen: Screen, finding: Finding) -> None:
    style, word = _MARKS[finding.mark]
    sign = {"good": "✓", "note": "!", "bad": "✗"}[finding.mark] if screen.fancy else " "
    head = f"{finding.name:<12} "
    room = screen.width - 7 - len(head)
    for place, part in enumerate(speaking.wrapped(finding.text, room)):
        first = [(f"{sign} {word} ", style), (head, "dim")]
        screen.line([*(first if place == 0 else [(" " * (7 + len(head)), "")]), (part, "")])


def _rule(row: tuple[str, ...]) -> tuple[str, str]:
    group, optimizer, lr, decay, count, numbers, such = row
    what = "not trained" if optimizer == "-" else f"{optimizer}, lr {lr}, weight decay {decay}"
    return group, f"{what}; {count} parameters with {numbers} numbers: {such}"


def inspect_data(args: Namespace) -> int:
    """Look at the data of a recipe; exit code 4 if training could not read all of it."""
    from visloom.errors import DataError
    from visloom.rundir import safe_name
    from visloom.sheets import inspect

    run = _load(args)
    folder = Path(args.out or f"inspect-{safe_name(run.name)}")
    with speaking.opened() as screen:
        found = inspect(run, folder, lambda text: screen.draw([[(f" {text} ...", "dim")]]))
        screen.draw([])
        for name, reports in found.reports.items():
            screen.line([(safe(name), "bold")])
            for report in reports:
                _tell_source(screen, report)
        screen.line([("pictures", "bold")])
        speaking.rows(screen, list(found.sheets.items()), wrap=False)
        if found.sound:
            screen.line([("everything can be read", "good")])
        else:
            screen.line([("training would stop at what cannot be read", "bad")])
    return 0 if found.sound else DataError.exit_code


def _tell_source(screen: Screen, report: SourceReport) -> None:
    pairs: list[tuple[str, object]] = [("source", report.about), ("samples", f"{report.count:,}")]
    if report.sizes:
        shown = [f"{height}x{width} ({count:,})" for (height, width), count in report.sizes[:4]]
        more = f" and {len(report.sizes) - 4:,} other sizes" if len(report.sizes) > 4 else ""
        of = "" if report.sizes_of == report.count else f", of {report.sizes_of:,} looked at"
        pairs.append(("height x width", ", ".join(shown) + more + of))
    speaking.rows(screen, pairs)
    if report.labels:
        _histogram(screen, report.labels)
    for note in report.notes:
        speaking.rows(screen, [("note", note)])
    for problem in report.problems[:_LISTED]:
        speaking.rows(screen, [("unreadable", problem)])
    if len(report.problems) > _LISTED:
        screen.line([(f"  and {len(report.problems) - _LISTED:,} more", "")])


def _histogram(screen: Screen, labels: dict[str, int]) -> None:
    """A bar per class; of many classes the most and the least frequent ones."""
    order = list(labels.items())
    if len(order) > 2 * _LISTED:
        order.sort(key=lambda pair: -pair[1])
        screen.line([(f"  {len(order)} classes; the {_LISTED} most and least frequent:", "dim")])
        order = [*order[:_LISTED], *order[-_LISTED:]]
    top = max(count for _, count in order) or 1
    width = min(24, max(len(safe(name)) for name, _ in order))
    room = max(10, screen.width - width - 16)
    for name, count in order:
        bar = ("█" if screen.fancy else "#") * max(1 if count else 0, round(room * count / top))
        head = shorten(safe(name), width).ljust(width)
        screen.line([(f"  {head} {count:>9,} ", ""), (bar, "good" if count else "bad")])


def new(args: Namespace) -> int:
    """Write a recipe for a folder of data."""
    from visloom.newrecipe import write_new

    made = write_new(Path(args.file), Path(args.data).expanduser())
    with speaking.opened() as screen:
        screen.line([(f"{safe(made.said[0])} in {safe(args.data)}", "bold")])
        for line in made.said[1:]:
            screen.line([(f"  {safe(line)}", "")])
        pairs = [
            ("written", made.file),
            ("look", f"visloom inspect-data {made.file}"),
            ("train", f"visloom train {made.file}"),
        ]
        speaking.rows(screen, pairs, indent=0, wrap=False)
    return 0
