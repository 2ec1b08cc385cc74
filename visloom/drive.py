"""Drive: the canonical training loop, and the three ways into it: train, resume, branch.

`turns` is the loop, meant to be read. A recipe file may define its own `drive(launch)`: it gets the opened run and
keeps directory, resume, logging, signals and the report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from visloom import dist, peers
from visloom.assemble import Parts, Plans, assemble
from visloom.checkpoint import Checkpoints
from visloom.config import FREE, apply, change, diff, dump, load
from visloom.device import resolve_precision
from visloom.durable import remove_tree, write_json
from visloom.engine import Step
from visloom.errors import CheckpointError, ConfigError, Preempted
from visloom.launch import Launch
from visloom.loader import start_method
from visloom.log import Teller
from visloom.memory import resolve_channels_last
from visloom.module import TaskModule
from visloom.nonfinite import Rollback
from visloom.provenance import collect, drift
from visloom.run import Run
from visloom.rundir import RunDir, create, every, find
from visloom.stream import Stream
from visloom.validate import validate
from visloom.winograd import uses_winograd


@dataclass(frozen=True)
class Report:
    """What a finished run returns.

    directory: the run directory.  step: updates done.  best, best_step: best monitored value.
    values: last values of each evaluation.  task: the trained task (the average, where one is kept).
    seconds, cpu_seconds: of this process, set-up included, the latter with its data workers.
    stopped: why it ended early, or "".
    """

    directory: Path
    step: int
    best: float | None
    best_step: int | None
    values: dict[str, dict[str, float]]
    task: TaskModule
    seconds: float
    cpu_seconds: float
    stopped: str = ""


@dataclass(frozen=True)
class Telling:
    """How much a run says, and where: the console's level, and which kind of screen."""

    level: str = "info"
    screen: Literal["auto", "plain", "terminal", "off"] = "auto"


Drive = Callable[[Launch], None]


def turns(launch: Launch) -> Iterator[Step]:
    """The canonical loop: one optimizer update per turn, everything else is a statement in its body.

    Yields each step when all that was due is done, for a loop of one's own around it. A save comes before an
    evaluation of the same step, so that a crash in the evaluation costs nothing.
    """
    for name in launch.catch_up():
        launch.evaluate(name)
    if launch.over():
        return
    with closing(launch.engine.steps()) as steps:  # type: ignore[type-var]
        for step in steps:
            launch.after(step)
            if launch.log_due(step.index):
                launch.log(step)
            if launch.save_due(step.index):
                launch.save()
            for name in launch.evals_due(step.index):
                launch.evaluate(name)
            yield step
            if launch.over():
                break


def drive(launch: Launch) -> None:
    """Run the canonical loop to its end."""
    for _ in turns(launch):
        pass


def train(
    run: Run, *, drive: Drive = drive, argv: Sequence[str] | None = None, told: Telling | None = None
) -> Report:
    """Train a run in a new directory.

    Args:
        drive: the loop; one's own, or the canonical one.
        argv: the command line, for the provenance.
        told: how much is said and where.
    Raises:
        VisloomError: what is wrong with config, data or weights, before step 1 where it can be known then;
            Preempted when a signal asked the run to save and leave.
    """
    return _go(run, drive, argv, told)


def resume(
    ref: str | Path,
    edits: Mapping[str, Any] | Sequence[str] = (),
    *,
    drive: Drive = drive,
    argv: Sequence[str] | None = None,
    told: Telling | None = None,
    trust: bool = False,
) -> Report:
    """Continue a run in its own directory, from its newest sound checkpoint or from `RUN@STEP`.

    Args:
        ref: run directory, or its name under `runs`, with an optional `@STEP`.
        edits: only `length`, `save`, `log` and `host` may change; anything else is a `branch`.
        trust: import the classes of one's own that run.json names; without it only Visloom's.
    """
    directory, step = find(str(ref))
    old = read_run(directory, trust=trust)
    run = edited(old, edits)
    refused = [line for line in diff(old, run) if not line.startswith(FREE)]
    if refused:
        raise ConfigError(
            "a resumed run stays the same run: only length, save, log and host may change. For "
            f"{'; '.join(refused)} use: visloom branch {ref} ..."
        )
    return _go(run, drive, argv, told, directory=directory, step=step, changed=diff(old, run))


def branch(
    ref: str | Path,
    edits: Mapping[str, Any] | Sequence[str] = (),
    *,
    drive: Drive = drive,
    argv: Sequence[str] | None = None,
    told: Telling | None = None,
    trust: bool = False,
) -> Report:
    """Start a new run from a checkpoint of another one (weights, moments, step); the change is recorded."""
    parent, step = find(str(ref))
    old = read_run(parent, trust=trust)
    run = edited(old, edits)
    return _go(run, drive, argv, told, parent=parent, step=step, changed=diff(old, run))


def edited(run: Run, edits: Mapping[str, Any] | Sequence[str]) -> Run:
    """Apply edits given as a mapping, or as `path=value` texts."""
    return change(run, edits) if isinstance(edits, Mapping) else apply(run, edits)


def read_run(directory: RunDir, *, trust: bool = False) -> Run:
    """Return the run that a directory was made for; `trust` allows it to name classes outside Visloom."""
    if not directory.run_json.is_file():
        raise CheckpointError(
            f"{directory.path} holds no run.json: it is no run directory, or it never started"
        )
    return load(directory.run_json, trust=trust)


def _go(
    run: Run,
    loop: Drive,
    argv: Sequence[str] | None,
    told: Telling | None,
    *,
    directory: RunDir | None = None,
    parent: RunDir | None = None,
    step: int | None = None,
    changed: Sequence[str] = (),
) -> Report:
    """Assemble, open the directory, restore what there is, run the loop, tell how it ended."""
    told = told or Telling()
    validate(run)
    dist.start(run.host.device, run.host.rank_timeout)
    with peers.watched() as watch, ExitStack() as stack:
        if dist.attempt():  # restarted by torchrun: go on with what was begun
            directory, step = directory or _begun(run), None
        resumed = directory is not None
        read: list[str] = []
        parts = assemble(run, read.append)
        validate(parts.run)  # with the class names, which the data may have supplied
        if directory is None:
            directory = stack.enter_context(_new_directory(run))
        if dist.world().first:
            stack.enter_context(directory.lock())
        teller = stack.enter_context(_teller(parts, directory, told))
        for line in read:
            teller.say(f"  {line}")
        teller.stage(f"task: {type(run.task).__name__}")
        launch = stack.enter_context(Launch(parts, directory, teller))
        teller.stage("trial: a few samples of each stream")
        launch.check()
        _header(launch, argv)
        if resumed or parent is not None:
            _restore(launch, directory if resumed else parent, step, resumed=resumed)  # type: ignore[arg-type]
        if (parent is not None and not resumed) or _goes_back(launch):
            launch.save(wait=True)  # a branch does not begin at step 0, and a rollback needs somewhere to go
        if dist.world().first:
            _record(launch, argv, parent if not resumed else None, changed, resumed=resumed)
        watch.advice = f"Go on with: visloom resume {directory.path}"
        _run_loop(launch, loop)
        return _finish(launch)


def _goes_back(launch: Launch) -> bool:
    return launch.run.how.non_finite.policy == "rollback" and launch.checkpoints.latest() is None


def _run_loop(launch: Launch, loop: Drive) -> None:
    """Run the loop, and again from a checkpoint each time a non-finite gradient sends it back."""
    while True:
        try:
            loop(launch)
            launch.look_for_bad_steps()
            return
        except Rollback as back:
            launch.rollback(back)
        except Preempted as error:
            raise Preempted(
                f"{error}: {_save_and_leave(launch)}. Go on with: visloom resume {launch.directory.path}"
            ) from None


def _save_and_leave(launch: Launch) -> str:
    """Save the last whole step, unless a step before it was bad: the resumed run meets that again, and goes back."""
    try:
        launch.save(wait=True)
    except Rollback as back:
        launch.checkpoints.join()
        return f"not saved ({back}); the last checkpoint is of step {launch.checkpoints.latest()}"
    return f"saved at step {launch.step}"


@contextmanager
def _new_directory(run: Run) -> Iterator[RunDir]:
    """Make the directory of a new run; rank 0 does, and all use it.

    A run that fails before it starts, which is when run.json is there, leaves no directory.
    """
    made = create(Path(run.host.out), run.name) if dist.world().first else None
    directory = next(d for d in dist.gather(made) if d is not None)
    try:
        yield directory
    finally:
        if made is not None and not made.run_json.is_file():
            remove_tree(made.path)


def _begun(run: Run) -> RunDir | None:
    """Return the directory that this job made before torchrun restarted its processes, if it came so far."""
    found = None
    for directory in reversed(every(Path(run.host.out))) if dist.world().first else ():
        try:
            made = json.loads(directory.provenance.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not this job's: it would be whole
            continue
        if made.get("job") == dist.job():
            found = directory
            break
    return next((d for d in dist.gather(found) if d is not None), None)


def _teller(parts: Parts, directory: RunDir, told: Telling) -> Teller:
    if not dist.world().first:
        return Teller.silent()
    plans = Plans.of(parts.run, parts.train)
    return Teller(
        directory.path,
        total=plans.total,
        steps_per_epoch=plans.epoch,
        batch=parts.train.batch,
        level=told.level,
        tensorboard=parts.run.log.tensorboard,
        screen=told.screen,
    )


def _curve(schedule: object) -> str:
    """The name of a schedule for people; a warmup is named after what it warms up to."""
    inner = getattr(schedule, "inner", None)
    return f"{_curve(inner)}, warmed up," if inner is not None else type(schedule).__name__.lower()


def _header(launch: Launch, argv: Sequence[str] | None) -> None:
    """Say what runs where on what, before the first step."""
    run, parts = launch.run, launch.parts
    sizes = [f"train {_sizes(parts.train)}", *(f"{name} {_sizes(s)}" for name, s in parts.evals.items())]
    trained = sum(p.numel() for p in launch.task.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in launch.task.parameters()) - trained
    rows = {
        "task": f"{type(run.task).__name__}, {len(run.task.classes)} classes",
        "data": "; ".join(sizes),
        **_drawn(parts.train),
        **getattr(run.task, "header", dict)(),
        "model": f"{trained:,} parameters" + (f" + {frozen:,} frozen" if frozen else ""),
        "optimizer": f"{run.optim.name} lr {run.optim.lr:g}, {_curve(run.schedule)} schedule",
        "device": f"{parts.found}; {_dtype(launch)}, {_order(launch)}; {launch.loader.workers} data workers"
        + (f"; {launch.world.size} processes" if launch.world.size > 1 else ""),
        "seed": run.seed,
        "run": launch.directory.path,
    }
    launch.teller.header(run.name, rows)
    for note in parts.notes:
        launch.teller.warn(note)
    if launch.init_report:
        launch.teller.say(str(launch.init_report))


def _drawn(stream: Stream) -> dict[str, str]:
    """What each source of a mixture can expect; nothing for other streams."""
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in stream.shares().items())
    return {"drawn from": f"{shares} (the counts stand at log points)"} if shares else {}


def _sizes(stream: Any) -> str:
    return " + ".join(f"{len(leaf.source):,}" for leaf in stream.leaves())


def _dtype(launch: Launch) -> str:
    return str(resolve_precision(launch.run.how.precision, launch.device)).removeprefix("torch.")


def _order(launch: Launch) -> str:
    order = "NHWC" if resolve_channels_last(launch.run.how, launch.device, launch.task) else "NCHW"
    return f"{order}, Winograd" if uses_winograd(launch.task) else order


def _restore(launch: Launch, source: RunDir, step: int | None, *, resumed: bool) -> None:
    """Load the newest sound checkpoint (or one step's) of a run directory into the launch."""
    checkpoints = launch.checkpoints if resumed else Checkpoints(source.checkpoints)
    state = checkpoints.load(step, say=launch.teller.warn)  # type: ignore[call-overload]
    if state is None:
        if not resumed:
            raise CheckpointError(f"{source.path} has no checkpoint to branch from")
        launch.teller.say("no checkpoint yet: starting from step 0")
        launch.teller.resume(0, 0)
        return
    if state.step > launch.plans.total:
        raise ConfigError(
            f"the checkpoint is at step {state.step:,}, past the run's length of {launch.plans.total:,} steps; "
            f"set a longer length (length=epochs:N)",
            path="length",
        )
    launch.restore(state, branch=not resumed)
    if not resumed:
        launch.teller.say(f"branched from {source.path} at step {state.step:,}")
    dist.barrier()
    if resumed and step is not None and launch.world.first:
        launch.checkpoints.drop_after(step)
    if resumed:
        launch.name_best()


def _record(
    launch: Launch,
    argv: Sequence[str] | None,
    parent: RunDir | None,
    changed: Sequence[str],
    *,
    resumed: bool,
) -> None:
    """Write provenance.json and run.json; on resume say what could make the bits differ."""
    argv = list(argv if argv is not None else sys.argv)
    directory = launch.directory
    fingerprints = {
        name: _sizes(stream) for name, stream in (("train", launch.parts.train), *launch.parts.evals.items())
    }
    now = collect(
        launch.run,
        argv,
        resolved={
            "device": str(launch.device),
            "precision": _dtype(launch),
            "channels_last": resolve_channels_last(launch.run.how, launch.device, launch.task),
            "winograd": uses_winograd(launch.task),
            "start": start_method(launch.run.host),
            "workers": launch.loader.workers,
            "world_size": launch.world.size,
        },
        data=fingerprints,
    )
    if resumed and directory.provenance.is_file():
        old = json.loads(directory.provenance.read_text(encoding="utf-8"))
        for line in drift(old, now):
            launch.teller.warn(f"identical bits are not promised: {line}")
        life = {"step": launch.step, "at": now["time"], "argv": now["argv"], "changed": list(changed)}
        now = {**old, "resumed": [*old.get("resumed", []), life]}
    elif dist.job() is not None:
        now["job"] = dist.job()
    if parent is not None:
        now["parent"] = {"run": str(parent.path), "step": launch.step, "changed": list(changed)}
    write_json(directory.provenance, now)
    write_json(directory.run_json, dump(launch.run))


def _finish(launch: Launch) -> Report:
    """Save the end, write the report, say where everything is."""
    if not launch.saved:  # it stopped early, or the loop is the user's own
        launch.save()
    launch.checkpoints.join()
    directory, ledger = launch.directory, launch.ledger
    paths: dict[str, object] = {}
    if launch.world.first:
        best = launch.checkpoints.best()
        if best is not None:
            paths["weights"] = f"{directory.path}@{best} (best), {directory.path}@{launch.step} (last)"
        if launch.run.log.report:
            page = launch.teller.report()
            if page is not None:
                paths["report"] = page
    if launch.notes:
        launch.teller.say(f"{len(launch.notes)} samples were not used as they are; log.txt lists them")
    if ledger.stopped:
        launch.teller.say(f"stopped early: {ledger.stopped}")
    data = hasattr(launch.spec, "answers") and launch.run.evals  # predicts data sets, its own for a start
    what = next(iter(launch.run.evals)) if data else "IMAGES"
    launch.teller.closing(paths, f"visloom predict {directory.path} {what} --out predictions")
    return Report(
        directory=directory.path,
        step=launch.step,
        best=ledger.best,
        best_step=ledger.best_step,
        values=dict(ledger.values),
        task=launch.engine.best_module,
        seconds=perf_counter() - launch.began,
        cpu_seconds=launch.teller.cpu_seconds(),
        stopped=ledger.stopped,
    )
