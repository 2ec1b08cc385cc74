"""Verbs that train: train, resume, branch, demo, prove-resume."""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from visloom.commands import speaking
from visloom.errors import UsageError, VisloomError
from visloom.launcher import choose_gpus, launch, launched

if TYPE_CHECKING:
    from visloom.console import Screen
    from visloom.drive import Report, Telling
    from visloom.report.together import Part
    from visloom.run import Run


def train(args: Namespace) -> int:
    """Train a recipe, in several processes if asked for."""
    several = _several(args)
    if several is not None:
        return several
    if args.limit and args.overfit:
        raise UsageError("--limit and --overfit exclude each other: --overfit N is N samples already")
    from visloom import origin, shortcuts
    from visloom.config import load

    run = load(args.recipe, [*host_settings(args), *args.settings], trust=args.trust)
    from visloom import drive  # torch, after the settings are known to be good: a typing error costs no wait

    if args.limit is not None:
        run = shortcuts.limited(run, args.limit)
    if args.overfit is not None:
        run = shortcuts.overfit(
            run, args.overfit, [text.partition(".")[0].partition("=")[0] for text in args.settings]
        )
    if args.dry_run:
        done = shortcuts.rehearse(run, told(args))
        if os.environ.get("RANK", "0") == "0":
            with speaking.opened() as screen:
                screen.line([(str(done), "")])
        return 0
    own = origin.loop_of(args.recipe)
    loop = origin.recorded(own or drive.drive, origin.files_of(args.recipe), own is not None)
    drive.train(run, drive=loop, argv=["visloom", *args.words], told=told(args))
    return 0


def resume(args: Namespace) -> int:
    """Go on with a run."""
    return _again(args, "resume")


def branch(args: Namespace) -> int:
    """Start a new run from another one's checkpoint."""
    return _again(args, "branch")


def _again(args: Namespace, verb: str) -> int:
    several = _several(args)
    if several is not None:
        return several
    from visloom import origin
    from visloom.rundir import find

    directory, _ = find(args.run)
    trust = args.trust or args.drive is not None
    own = origin.loop_again(directory, trust=trust, file=args.drive, say=_say, verb=verb)
    from visloom import drive  # after what can be refused without torch

    files = origin.code_files(directory, args.drive, trust=trust, new=verb == "branch")
    loop = origin.recorded(own or drive.drive, files, own is not None)
    work = drive.resume if verb == "resume" else drive.branch
    work(
        args.run,
        [*host_settings(args), *args.settings],
        drive=loop,
        argv=["visloom", *args.words],
        told=told(args),
        trust=trust,
    )
    return 0


def _say(text: str) -> None:
    with speaking.opened() as screen:
        screen.line([("warning: ", "warn"), (text, "")])


def told(args: Namespace) -> Telling:
    """How much the run says, and where."""
    from visloom.drive import Telling

    return Telling(level=args.log_level)


def host_settings(args: Namespace) -> list[str]:
    """Return the settings that options stand for. Paths become absolute: a run is resumed from anywhere."""
    found = []
    for option in ("data", "out"):
        value = getattr(args, option, None)
        if value is not None:
            found.append(f"host.{option}={os.path.abspath(os.path.expanduser(value))}")
    if getattr(args, "device", None) is not None:
        found.append(f"host.device={args.device}")
    return found


def _several(args: Namespace) -> int | None:
    """Start several processes if asked for; returns their exit code, or None if this one is to do the work."""
    if launched():
        return None
    count = choose_gpus(args.gpus) if args.gpus is not None else 1
    count = count if args.nproc is None else args.nproc
    if count < 1:
        raise UsageError(f"--nproc is a number from 1, got {count}")
    if count == 1:
        return None
    last = launch(count, without(args.words, ("--nproc", "--gpus")))
    if last.message:
        from visloom.cli import tell

        tell(last.message)
    return last.code


def without(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values."""
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


# -------------------------------------------------------------------------------------------------- the demo


class Demo(NamedTuple):
    """What `visloom demo SYSTEM` trains: a recipe of the built-in world; and the recipe that does so on real data."""

    title: str
    recipe: str
    real: str
    floor: tuple[str, float] | None = None  # where no evaluation tells what can be had without learning

    def part(self, run: Path, against: tuple[str, float] | None = None) -> Part:
        """Its place on the page about several."""
        from visloom.report.together import Part

        return Part(self.title, run, f"visloom train {self.real} --data DIR", against or self.floor)


DEMOS = {
    "classify": Demo("Classification", "town", "cifar10:fast"),
    "segment": Demo("Segmentation", "scenery", "clothes"),
    "parse": Demo("Unified perceptual parsing", "sights", "broden"),
    "adapt": Demo("Detection in a new domain", "foggy", "cells"),
    "fusion": Demo("3D detection from cameras and radar", "rides", "nuscenes", ("no boxes at all", 0.0)),
}


def demo(args: Namespace) -> int:
    """Train the built-in world, one system after the other, and end with the path of a report."""
    from visloom.place import did_you_mean, nearest, one_of

    systems = args.systems or list(DEMOS)
    for system in systems:
        if system not in DEMOS:
            near = did_you_mean(nearest(system, DEMOS))
            raise UsageError(
                f"there is no demo of {system!r}; there is {one_of(DEMOS, 'and')}\n  {near}".rstrip()
            )
    parts = []
    for system in systems:
        if system == "adapt":
            from visloom.commands import adapting

            run, against = adapting.demo(args, host_settings(args), told(args))
        else:
            run, against = _demo_one(args, DEMOS[system].recipe), None
        parts.append(DEMOS[system].part(run, against))
    if len(parts) > 1:
        _together(parts)
    return 0


def _together(parts: Sequence[Part]) -> None:
    """Write one page about all, and end with its path."""
    from visloom.report.together import write_together

    page = write_together(parts, parts[-1].run.parent / f"demo-{parts[-1].run.name}.html")
    with speaking.opened() as screen:
        screen.line([("all on one page  ", "dim"), (str(page), "bold")])


def _demo_one(args: Namespace, recipe: str) -> Path:
    from visloom import drive, origin
    from visloom.config import load

    run = load(recipe, host_settings(args))
    loop = origin.recorded(drive.drive)
    report = drive.train(run, drive=loop, argv=["visloom", *args.words], told=told(args))
    with speaking.opened() as screen:
        _compare_with_baseline(screen, run, report)
        screen.line([("report  ", "dim"), (str(report.directory / "report.html"), "bold")])
    return report.directory


def _compare_with_baseline(screen: Screen, run: Run, report: Report) -> None:
    """Say the best value beside the one that needs no learning; of a task with several measures, each of them."""
    import json

    measures = getattr(run.task, "measures", ())
    for name in run.evals if measures else ():
        told = json.loads((report.directory / "evals" / f"{name}.json").read_text(encoding="utf-8"))
        for key, floor in told["floors"].items():
            if key in measures:
                said = f"{key} {told['values'][key]:.4f}, where {floor['name']} gives {floor['value']:.4f}"
                screen.line([(f"{name:<10}", "dim"), (said, "")])
    if measures:
        return
    monitored = next(
        ((name, each.monitor) for name, each in run.evals.items() if each.monitor is not None), None
    )
    if monitored is None or report.best is None:
        return
    name, monitor = monitored
    assert monitor is not None
    line = f"{monitor.name} {report.best:.4f}"
    file = report.directory / "evals" / f"{name}.json"
    baseline = json.loads(file.read_text(encoding="utf-8")).get("baseline") if file.exists() else None
    if baseline is not None:
        line += f", where answering without looking ({baseline['name']}) gives {baseline['value']:.4f}"
    screen.line([(f"{name}  ", "dim"), (line, "")])


# ----------------------------------------------------------------------------------------------- prove-resume


_SHORT = (
    "length=steps:60",
    "save.every=steps:4",
    "save.keep=2",
    "log.every=steps:3",
    "log.tensorboard=false",
)


def prove_resume(args: Namespace) -> int:
    """Kill, resume, compare; exit code 0 only if every file is the same."""
    from visloom.prove import Plan, prove

    folder = Path(args.keep_runs or tempfile.mkdtemp(prefix="visloom-prove-")).absolute()
    if args.keep_runs and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--keep-runs {folder}: the folder is not empty")
    given = {text.partition("=")[0] for text in args.settings}
    if "host.out" in given:
        raise UsageError(
            "host.out: both runs lie in a folder of their own; --keep-runs DIR says which, and keeps it"
        )
    short = [text for text in _SHORT if text.partition("=")[0] not in given]
    options = [*(["--trust"] if args.trust else [])]
    for name in ("data", "device"):
        if getattr(args, name) is not None:
            options += [f"--{name}", getattr(args, name)]
    plan = Plan(
        args.recipe,
        (*short, *args.settings),
        tuple(options),
        ("--trust",),
        args.kills,
        args.seed,
        folder,
    )
    kept = args.keep_runs is not None
    try:
        with speaking.opened() as screen:
            screen.line([(f"prove-resume  {args.recipe} {' '.join(plan.settings)}", "bold")])
            proof = prove(plan, lambda text: screen.line([(f"  {text}", "")]))
            lines = [("file", "left alone", "killed and resumed", "")]
            lines += [
                (f.name, f.alone[:16], f.killed[:16], "same" if f.same else "DIFFERENT") for f in proof.files
            ]
            speaking.table(screen, lines)
            torn = sum(kill.torn for kill in proof.kills)
            done = f"{len(proof.kills)} kills, {torn} of them inside a checkpoint write: "
            verdict = "every bit is the same" if proof.identical else "the runs differ"
            screen.line([(done, ""), (verdict, "good" if proof.identical else "bad")])
            kept = kept or not proof.identical
            if kept:
                screen.line([(f"both runs are in {folder}", "dim")])
    except VisloomError:
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if proof.identical else 1
