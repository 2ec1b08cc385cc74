"""Saved: a run directory opened to be used: its task with the best weights, on a device of this machine.

`open_saved` needs neither the data set nor a network, and a directory that was moved or copied works. A weights file
of one of the original systems opens as well.
`evaluate` runs the run's evaluations again, or one of them; `visloom/prediction.py` answers for pictures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from visloom import bundle
from visloom.assemble import bound, check_classes
from visloom.checkpoint import Checkpoints
from visloom.config import load
from visloom.device import find_device, prepare
from visloom.engine import load_weights, precision
from visloom.errors import CheckpointError, ConfigError
from visloom.evaluation import Evaluation, run_evaluation, share_of
from visloom.evaluation_files import write_files
from visloom.memory import place
from visloom.module import TaskModule
from visloom.place import did_you_mean, nearest, one_of
from visloom.run import Run
from visloom.rundir import RunDir, find, safe_name
from visloom.stream import Stream, walk_sources
from visloom.task import TaskSpec

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Say = Callable[[str], None]


def _silent(text: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Saved:
    """An opened run.

    run: the value it was made from.  spec: its task.  task: the module, in evaluation mode, on `device`.
    place, step: where the weights come from: a run directory, or a file.  which: "best", "newest", "asked for",
    or the system that a file is from.
    averaged: the weights are the moving average that the run evaluated.
    """

    run: Run
    spec: TaskSpec
    task: TaskModule
    device: torch.device
    place: Path
    step: int
    which: str
    averaged: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the run evaluates in."""
        return precision(self.run.how, self.device)[0]

    def __str__(self) -> str:
        average = ", moving average" if self.averaged else ""
        return f"{self.place}, step {self.step:,} ({self.which}{average}), on {self.device}"


@dataclass(frozen=True)
class _Found:
    """Weights and the run that they belong to, before anything is built; `net` is a network that brings its own."""

    run: Run
    place: Path
    tensors: dict[str, torch.Tensor]
    extra: dict[str, Any]
    step: int
    which: str
    averaged: bool
    net: nn.Module | None = None


def open_saved(
    ref: str | Path,
    *,
    device: str | None = None,
    tta: str | None = None,
    trust: bool = False,
    say: Say = _silent,
) -> Saved:
    """Open a run with its best weights, or its newest ones where none is marked as best.

    Args:
        ref: RUN, RUN@STEP or the path of a checkpoint, as `visloom.rundir.find` takes it; or a weights file of one
            of the original systems, which is recognised by the names of its tensors.
        device: as `host.device`; None takes the run's own where it exists here.
        tta: views that predictions average, in the words of the task ("flip"); None leaves the run's choice.
        trust: let the run import classes that are neither visloom's nor its libraries' (its recipe's own).
        say: told about checkpoints that were passed over and the like.
    Raises:
        ConfigError: no such run; a class that may not be imported; views that the task does not have.
        CheckpointError: no sound checkpoint, or its weights do not fit the task.
    """
    opened = _find_file(Path(ref), say) if Path(ref).is_file() else _find_run(str(ref), trust, say)
    run = opened.run
    found = _device(run, device, say)
    prepare(run.how, run.host, found)
    spec = _views(run.task, tta)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn only to be replaced
        task = bare(spec).build()
    if opened.net is not None:
        task.net, found = opened.net, torch.device("cpu")
    else:
        load_weights(task, opened.tensors, opened.extra)
    task = place(task.eval(), run.how, found)
    return Saved(run, spec, task, found, opened.place, opened.step, opened.which, opened.averaged)


def _find_run(ref: str, trust: bool, say: Say) -> _Found:
    directory, step = find(ref)
    run = load(directory.path, trust=trust)
    place, which = _choose(directory, step, say)
    manifest = bundle.read_manifest(place)
    averaged = bool(run.how.ema and run.how.ema.evaluate and "ema.safetensors" in manifest["files"])
    tensors = bundle.read_tensors(place, "ema" if averaged else "model")
    extra = json.loads((place / "state.json").read_bytes()).get("extra", {})
    return _Found(run, directory.path, tensors, extra, manifest["step"], which, averaged)


def _find_file(path: Path, say: Say) -> _Found:
    """Read a weights file of another system, or an exported network."""
    if path.suffix == ".onnx":
        return _find_onnx(path)
    from visloom.convert import common

    module = common.recognise(path)
    converted = common.convert(module, [path])
    common.require_whole(converted, f"visloom import-checkpoint {module.NAMES[0]} {path} --out CKPT")
    for note in converted.notes:
        say(note)
    run = common.run_of(converted, name=safe_name(path.stem))
    return _Found(run, path, converted.tensors, {}, converted.step, module.NAMES[0], False)


def _find_onnx(path: Path) -> _Found:
    """Open a network that `visloom export --to onnx` wrote, with the run that its metadata hold."""
    from visloom.exporting import OnnxNet

    net = OnnxNet(path)
    if not net.about:
        raise ConfigError(
            f"{path} tells neither classes nor normalisation: visloom export --to onnx writes such a file"
        )
    if len(net.outputs) > 1:
        raise ConfigError(
            f"{path} answers {', '.join(net.outputs)} for pictures of one size: it is for other programs; predict with "
            "the run itself"
        )
    about = json.loads(net.about)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.json")
        file.write_text(json.dumps(about["run"]), encoding="utf-8")
        run = load(file)
    return _Found(run, path, {}, {}, about["step"], "ONNX", False, net)


def _choose(directory: RunDir, step: int | None, say: Say) -> tuple[Path, str]:
    """Return a checkpoint that verifies: the step asked for, else the best, else the newest."""
    checkpoints = Checkpoints(directory.checkpoints)
    if step is not None:
        place, which = checkpoints.pick(step, say=say), "asked for"
    else:
        best = checkpoints.best()
        damage = checkpoints.verify(best) if best is not None else ""
        if best is not None and not damage:
            return checkpoints.path(best), "best"
        if damage:
            say(f"the best checkpoint, of step {best}, is damaged: {damage}; using the newest sound one")
        place, which = checkpoints.pick(say=say), "newest"
    if place is None:
        raise CheckpointError(f"{directory.path} has no checkpoint yet")
    return place, which


def _device(run: Run, asked: str | None, say: Say) -> torch.device:
    if asked is not None:
        return find_device(asked).device
    try:
        return find_device(run.host.device).device
    except ConfigError:  # the run was made on a machine with other devices
        found = find_device("auto").device
        say(f"the run's device, {run.host.device}, is not here: using {found}")
        return found


def bare(spec: TaskSpec) -> TaskSpec:
    """Return a spec whose `build` fetches no weights: they come from the checkpoint.

    A task that can fetch some (pretrained ones) says how to do without, by a method `bare()`.
    """
    bare = getattr(spec, "bare", None)
    return bare() if callable(bare) else spec


def _views(spec: TaskSpec, tta: str | None) -> TaskSpec:
    if tta is None:
        return spec
    change = getattr(spec, "with_tta", None)
    if not callable(change):
        raise ConfigError(f"{type(spec).__name__} has no test-time views: leave out --tta", path="task")
    changed: TaskSpec = change(tta)
    return changed


# ---------------------------------------------------------------------------------------------- evaluation


def evaluate(
    ref: str | Path,
    on: str | None = None,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    tta: str | None = None,
    out: str | Path | None = None,
    pictures: int = 16,
    trust: bool = False,
    say: Say = _silent,
    tick: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a run's evaluations with its best weights and return what they found.

    Args:
        ref, device, tta, trust, say: as for `open_saved`.
        on: the name of one evaluation; None runs them all.
        data: folder that data roots start from, where it is not the run's `host.data`.
        out: folder for files (`visloom/evaluation_files.py`), a folder in it for each evaluation.  pictures: how many.
        tick: told (evaluation, batches done, batches in all).
    Returns:
        {"run", "step", "weights", "device", "evaluations": {name: {"values", "tables", "count", "seconds",
        "monitor"}}}; values are floats, tables as the metrics make them; and "files" where `out` is given.
    """
    saved = open_saved(ref, device=device, tta=tta, trust=trust, say=say)
    run = saved.run
    if not run.evals:
        raise ConfigError(f"the run {run.name} has no evaluation: its recipe names none", path="evals")
    if on is not None and on not in run.evals:
        raise ConfigError(
            f"the run {run.name} has no evaluation {on!r}\n  {did_you_mean(nearest(on, run.evals))}\n"
            f"  it has {one_of(run.evals, 'and')}".replace("\n  \n", "\n"),
            path="evals",
        )
    if data is not None:
        run = replace(run, host=replace(run.host, data=str(data)))
    found = {}
    for name in [on] if on is not None else run.evals:
        told = partial(tick, name) if tick is not None else None
        result, stream = _evaluate_one(saved, run, name, say, told, keep=out is not None)
        found[name] = dict(_as_dict(result, run.evals[name].monitor))
        if out is not None:
            found[name]["files"] = write_files(Path(out), name, result, saved, stream, pictures)
    return {
        "run": str(saved.place),
        "step": saved.step,
        "weights": saved.which + (", moving average" if saved.averaged else ""),
        "device": str(saved.device),
        "evaluations": found,
    }


def _evaluate_one(
    saved: Saved, run: Run, name: str, say: Say, tick: Callable[[int, int], None] | None, *, keep: bool
) -> tuple[Evaluation, Stream]:
    """Evaluate, and return the stream that was evaluated too."""
    stream = bound(run.evals[name].stream, name=f"eval/{name}", folder=Path(run.host.data), seed=run.seed)
    for source in walk_sources(stream):
        check = getattr(source, "check", None)
        for note in check() if check is not None else ():
            say(note)
        note = check_classes(run.task, source)
        if note:
            say(note)
    loader = share_of(stream, saved.spec, run.host, saved.device)
    result = run_evaluation(
        saved.task,
        saved.spec,
        loader,
        autocast=saved.autocast(),
        losses=run.evals[name].losses,
        keep=keep,
        tick=tick,
    )
    return result, stream


def _as_dict(result: Evaluation, monitor: object) -> Mapping[str, Any]:
    return {
        "values": result.values,
        "tables": result.tables,
        "count": result.count,
        "seconds": result.seconds,
        "monitor": None if monitor is None else str(monitor),
    }
