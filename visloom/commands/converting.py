"""Verbs that speak with other programs: import-checkpoint, import-config, export."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visloom.commands import speaking
from visloom.commands.training import host_settings
from visloom.durable import refuse_existing
from visloom.errors import ConfigError, UsageError
from visloom.rundir import must_exist
from visloom.words import safe

if TYPE_CHECKING:
    from visloom.console import Screen
    from visloom.convert.common import Row

_LISTED = 12  # rows per verdict that are shown without --all
_STYLES = {"taken": "good", "not needed": "dim", "not supported": "bad"}


def import_checkpoint(args: Namespace) -> int:
    """Convert old weights, list what became of every key, and keep them as a run directory."""
    from visloom.config import load
    from visloom.convert import common

    module = common.converter(args.format)
    into = None if args.into is None else load(args.into, host_settings(args), trust=args.trust)
    files = [Path(name).expanduser() for name in args.files]
    converted = common.convert(module, files, into=into, at=args.at, options=_options(args.option))
    missing = common.uncovered(converted.rows)
    with speaking.opened() as screen:
        _tell_rows(screen, converted.rows, whole=args.all or bool(missing))
        for note in converted.notes:
            screen.line([("note: ", "warn"), (safe(note), "")])
        if missing and not args.partial:
            raise ConfigError(
                f"{len(missing)} keys are not supported, so the import would not be whole and was not kept; "
                "--partial keeps the rest"
            )
        place, notes = common.keep(converted, Path(args.out).expanduser(), argv=["visloom", *args.words])
        for note in notes:
            screen.line([("note: ", "warn"), (safe(note), "")])
        run = place.parent.parent
        classes = len(converted.task.classes)
        pairs = [
            ("written", place),
            ("holds", f"step {converted.step:,}, {len(converted.tensors):,} tensors, {classes} classes"),
            ("predict", f"visloom predict {run} IMAGES --out predictions"),
            ("train", f"visloom train RECIPE init.model={run}"),
        ]
        speaking.rows(screen, pairs, indent=0, wrap=False)
    return 0


def import_config(args: Namespace) -> int:
    """Write an old config as a recipe, and list what became of every key."""
    from visloom.config import to_yaml
    from visloom.convert import common
    from visloom.validate import validate

    module, out = common.converter(args.format), Path(args.out).expanduser()
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"a recipe file ends in .yaml, got {out}")
    refuse_existing(out)
    converted = common.convert_config(module, Path(args.file).expanduser(), options=_options(args.option))
    validate(converted.run)
    missing = common.uncovered(converted.rows)
    with speaking.opened() as screen:
        _tell_rows(screen, converted.rows, whole=True)
        for note in converted.notes:
            screen.line([("note: ", "warn"), (safe(note), "")])
        if missing and not args.partial:
            raise ConfigError(
                f"{len(missing)} keys are not supported, for one {missing[0].key}: {missing[0].note}\n"
                "  --partial writes the rest"
            )
        head = f"# From {Path(args.file).name} ({args.format}): {common.counts(converted.rows)}.\n"
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(head + to_yaml(converted.run))
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror or error}") from error
        pairs = [("written", out), ("look", f"visloom show {out}"), ("train", f"visloom train {out}")]
        speaking.rows(screen, pairs, indent=0, wrap=False)
    return 0


def _tell_rows(screen: Screen, rows: Sequence[Row], *, whole: bool) -> None:
    """List keys by verdict; where all is well, the first ones only."""
    from visloom.convert.common import counts

    screen.line([(counts(rows), "bold")])
    for verdict, style in _STYLES.items():
        some = [row for row in rows if row.verdict == verdict]
        shown = some if whole else some[:_LISTED]
        width = min(56, max((len(safe(row.key)) for row in shown), default=0))
        for row in shown:
            tail = row.note + (f"  ({row.where})" if row.where else "")
            screen.line(
                [(f"  {verdict:<13}  ", style), (f"{safe(row.key):<{width}}  ", ""), (safe(tail), "dim")]
            )
        if len(some) > len(shown):
            screen.line(
                [(f"  {verdict:<13}  ", style), (f"and {len(some) - len(shown):,} more (--all)", "dim")]
            )


def _options(texts: Sequence[str] | None) -> Mapping[str, str]:
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option takes name=value, got {text!r}")
        found[name.strip().replace("-", "_")] = value
    return found


def export(args: Namespace) -> int:
    """Write a run's weights for another program, and say what was written."""
    if args.keys == "original" and args.to != "state-dict":
        raise UsageError("--keys original names the tensors of a state-dict: use it with --to state-dict")
    must_exist(args.run)
    from visloom.exporting import export_network, export_state_dict
    from visloom.saved import open_saved

    out = Path(args.out).expanduser()
    saved = open_saved(args.run, device="cpu", trust=args.trust)
    if args.to == "state-dict":
        written = export_state_dict(saved, out, original=args.keys == "original")
    else:
        written = export_network(saved, out, args.to, size=args.size)
    with speaking.opened() as screen:
        speaking.rows(screen, [("weights", saved), *written], indent=0, wrap=False)
    return 0
