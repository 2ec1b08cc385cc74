"""Shortcuts: what `--limit`, `--overfit` and `--dry-run` mean, as edits of a Run.

limited(run, 100)     100 samples of every source, spread over it, and batches that they fill
overfit(run, 20)      the same 20 samples to train and to evaluate on, without augmentation: a network that
                      cannot learn them by heart has a fault
rehearse(run)         everything that a training does, for two steps, in a directory that goes away again
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from visloom.errors import ConfigError, UsageError
from visloom.run import Run
from visloom.schedule import Constant
from visloom.stream import Ordered, Shuffled, Split, Stream, rooted
from visloom.units import Steps
from visloom.words import duration

if TYPE_CHECKING:
    from visloom.drive import Telling
    from visloom.launch import Launch

OVERFIT_STEPS = 300
"""Updates of `--overfit`, unless a length is given."""

OVERFIT_EPOCH = 50
"""Updates that `--overfit` calls an epoch: a turn through a handful of samples says nothing."""

_REHEARSED = 2  # steps, and batches of each evaluation


def limited(run: Run, count: int) -> Run:
    """Return a run with at most `count` samples in every source.

    They are spread over the source by its split's keyed permutation, for the first ones are often of one class.
    Raises UsageError if `count` is not positive, ConfigError for a source of one's own that has no `limit`.
    """
    _require(count, "--limit")
    evals = {name: replace(each, stream=_cut(each.stream, count, run)) for name, each in run.evals.items()}
    return replace(run, train=_cut(run.train, count, run), evals=evals)


def overfit(run: Run, count: int, given: Collection[str] = ()) -> Run:
    """Return a run that learns `count` samples by heart and is evaluated on these.

    The learning rate is constant, the length OVERFIT_STEPS and an epoch OVERFIT_EPOCH; augmentations are those of
    the first evaluation.

    given: first words of the settings that the user gave (length, schedule, evals, ...): they stay.
    """
    _require(count, "--overfit")
    first = next(iter(run.evals.values()), None)
    plain = first.stream.leaves()[0].transform if first is not None else ()
    train = edit_each(
        _cut(run.train, count, run),
        lambda v: replace(v, transform=plain) if isinstance(v, Shuffled) else v,
    )
    train = replace(train, epoch=OVERFIT_EPOCH)
    source = train.leaves()[0].source
    evals = {}
    for name, each in run.evals.items():
        stream = each.stream
        if isinstance(stream, Ordered):
            stream = replace(stream, source=source)
        every = each.every if "evals" in given else Steps(OVERFIT_EPOCH)
        evals[name] = replace(each, stream=stream, every=every, patience=0)
    changes: dict[str, Any] = {"train": train, "evals": evals}
    if "length" not in given:
        changes["length"] = Steps(OVERFIT_STEPS)
    if "schedule" not in given:
        changes |= {"schedule": Constant(), "momentum": None}
    if "log" not in given:
        changes["log"] = replace(run.log, every=Steps(10))
    if "save" not in given:
        changes["save"] = replace(run.save, every=None)
    return replace(run, name=f"{run.name}-overfit", **changes)


def _require(count: int, option: str) -> None:
    if count < 1:
        raise UsageError(f"{option} takes a number of samples from 1, got {count}")


def _cut(stream: Stream, count: int, run: Run) -> Any:
    """Limit the sources of a stream, and the batches that they could no longer fill."""
    step = run.how.accumulate

    def change(value: Any) -> Any:
        if _is_source(value):
            return _part(value, count, Path(run.host.data))
        if isinstance(value, Shuffled) and value.tail == "drop" and value.batch > count:
            return replace(value, batch=max(step, count - count % step))
        return value

    return edit_each(stream, change)


def _is_source(value: Any) -> bool:
    return hasattr(value, "read") and hasattr(value, "__len__") and is_dataclass(value)


def _part(source: Any, count: int, folder: Path) -> Any:
    """Return a source of at most `count` samples."""
    names = {f.name for f in fields(source)}
    if "limit" not in names:
        raise ConfigError(
            f"{type(source).__name__} has no `limit`: derive it from visloom.Source, or give it such a field"
        )
    limit = count if source.limit is None else min(count, source.limit)
    if "split" not in names:
        return replace(source, limit=limit)
    whole = len(rooted(replace(source, limit=None, split=None), folder))
    if limit >= whole:
        return replace(source, limit=limit)
    split = source.split or Split("head", 0.5)
    share = limit / whole
    kept = split.fraction if split.keep == "head" else 1 - split.fraction
    if source.split is not None and share >= kept:
        return replace(source, limit=limit)
    # a smaller share of the same permutation is a part of what the split kept
    spread = Split(split.keep, share if split.keep == "head" else 1 - share, split.seed)
    return replace(source, split=spread, limit=limit)


def edit_each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a tree of dataclasses and tuples with `change` applied to every part, inner ones first."""
    if isinstance(value, tuple):
        return tuple(edit_each(item, change) for item in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    if not _is_source(value):
        changed = {
            f.name: new
            for f in fields(value)
            if f.init and (new := edit_each(old := getattr(value, f.name), change)) is not old
        }
        value = replace(value, **changed) if changed else value
    return change(value)


# -------------------------------------------------------------------------------------------------- rehearsal


class _Enough(Exception):
    """Ends a rehearsal from inside its loop."""


@dataclass
class Rehearsal:
    """What a rehearsal measured: seconds of a step, steps of the whole run, bytes of a checkpoint."""

    step_seconds: float = 0.0
    total: int = 0
    checkpoint_bytes: int = 0

    def __str__(self) -> str:
        from visloom.durable import size_text

        whole = duration(self.step_seconds * self.total)
        return (
            f"dry run: all is well. {self.total:,} steps of about {duration(self.step_seconds)} take {whole}, "
            f"without evaluations; a checkpoint takes {size_text(self.checkpoint_bytes)}. Nothing was kept."
        )


def rehearse(run: Run, told: Telling | None = None) -> Rehearsal:
    """Do everything that training does, for two steps and two batches of each evaluation, and keep nothing.

    Raises:
        VisloomError: what training would meet.
    """
    from visloom.drive import train

    out = Path(run.host.out)
    existed = out.is_dir()
    seen = Rehearsal()
    place = ""
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            place = tempfile.mkdtemp(prefix=".dry-run-", dir=out)
        except OSError as error:
            raise ConfigError(
                f"no run directory can be made in {out}: {error.strerror}; choose another host.out (--out DIR)",
                path="host.out",
            ) from error
        quiet = replace(run.log, tensorboard=False, report=False)
        run = replace(run, host=replace(run.host, out=place), log=quiet)
        train(
            run,
            drive=lambda launch: _rehearse(launch, seen),
            argv=["visloom", "train", "--dry-run"],
            told=told,
        )
    except _Enough:
        return seen
    finally:
        shutil.rmtree(place, ignore_errors=True) if place else None
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    raise AssertionError("a rehearsal ends by _Enough")


def _rehearse(launch: Launch, seen: Rehearsal) -> None:
    from visloom.engine import precision
    from visloom.evaluation import run_evaluation
    from visloom.pictures import predict_one, read_at

    began = perf_counter()
    with closing(launch.engine.steps()) as steps:  # type: ignore[type-var]
        for step in steps:
            launch.after(step)
            took, began = perf_counter() - began, perf_counter()
            if step.index >= _REHEARSED:
                break
    launch.look_for_bad_steps()
    seen.step_seconds, seen.total = took, launch.plans.total
    module = launch.engine.best_module
    for name, loader in launch.eval_loaders.items():
        loader.stop = min(loader.stop, _REHEARSED)
        autocast = precision(launch.run.how, launch.device)[0]
        result = run_evaluation(
            module, launch.spec, loader, autocast=autocast, losses=launch.run.evals[name].losses
        )
        sample = read_at(launch.parts.evals[name], 0)
        launch.spec.draw(sample.image, predict_one(module, launch.spec, sample, launch.device), sample)
        launch.teller.say(f"  {name}: {result.count} samples evaluated")
    launch.save(wait=True)
    place = launch.checkpoints.path(launch.step) if launch.world.first else None
    seen.checkpoint_bytes = sum(f.stat().st_size for f in place.iterdir()) if place else 0
    raise _Enough
