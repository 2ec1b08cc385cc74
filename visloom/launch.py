"""Launch: an opened run. Everything between the value (`Run`) and its first step, and what the loop calls.

Stages, in order: processes and device, data (found and checked), task (built, initial weights), optimizer and
engine, state (resumed or new). Whatever can be known to be wrong before step 1 is an error here.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from visloom import dist, faults, peers
from visloom.assemble import Parts, Plans, build_task
from visloom.checkpoint import Checkpoints, State, estimate_bytes, room, step_name
from visloom.config import edited_since, fixed
from visloom.contract import require_reported, try_out
from visloom.device import memory_bytes
from visloom.durable import write_json
from visloom.engine import Engine, Step, precision
from visloom.errors import CheckpointError, NonFiniteError
from visloom.evaluation import Evaluation, run_evaluation, share_of
from visloom.init import initialise
from visloom.keys import fold
from visloom.live import Point
from visloom.loader import Loader, Plan
from visloom.log import Teller, is_drop
from visloom.meter import Meter, split_names
from visloom.nonfinite import Rollback, add_to_list, everywhere, stop
from visloom.optim import build_optimizer
from visloom.pictures import contact_sheet, save_pictures
from visloom.rules import diff_resolved, resolve_rules, resolved_to_json
from visloom.run import Eval
from visloom.rundir import RunDir
from visloom.signals import Interruptible, Signals
from visloom.task import Progress
from visloom.units import Monitor, due

_log = logging.getLogger("visloom")
_NOTES = 10  # notes of the data that are shown; log.txt has them all


@dataclass
class Ledger:
    """What a run remembers besides weights and moments; small, JSON, part of every checkpoint.

    best: best monitored value so far, at step best_step.  waits: evaluations in a row without a better one.
    evaluated: last step at which each evaluation was done.
    bad: steps (from 0) whose gradient was not finite.  untold: those of them that the log does not tell yet.
    rollbacks: returns to a checkpoint so far.  stopped: why the run ended early, or "".
    """

    best: float | None = None
    best_step: int | None = None
    waits: int = 0
    evaluated: dict[str, int] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)  # evaluation -> what it last reported
    bad: list[int] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)
    rollbacks: int = 0
    stopped: str = ""


class Launch:
    """An opened run: what `drive(launch)` receives. Use it in a `with` statement.

    engine: the iterator over steps.  directory: the run directory.  plans: lengths in steps.
    `log`, `save`, `evaluate` and `finish` are what the canonical loop in `visloom/drive.py` calls.
    """

    def __init__(self, parts: Parts, directory: RunDir, teller: Teller) -> None:
        run = parts.run
        self.run, self.parts, self.directory, self.teller = run, parts, directory, teller
        self.spec, self.device, self.world = run.task, parts.device, dist.world()
        self.plans = plans = Plans.of(run, parts.train)
        self.task = build_task(run, parts.train, self.device)
        self.init_report = initialise(self.task, run.init, coverage=run.init_coverage, out=Path(run.host.out))
        self.rows = resolve_rules(self.task, run.optim, run.rules)
        self.optimizer = build_optimizer(self.task, run.optim, run.rules)
        self.signals = Signals()
        plan = Plan(
            parts.train,
            self.spec,
            seed=fold(run.seed, "train"),
            rank=self.world.rank,
            world=self.world.size,
            accumulate=run.how.accumulate,
        )
        self.loader = Loader(plan, run.host, self.device, plans.total)
        self.engine = Engine(
            self.task,
            Interruptible(self.loader, self.signals),
            self.optimizer,
            run.schedule,
            total=plans.total,
            how=run.how,
            seed=run.seed,
            momentum=run.momentum,
        )
        self.eval_loaders = {
            name: share_of(stream, self.spec, run.host, self.device) for name, stream in parts.evals.items()
        }
        self.checkpoints = Checkpoints(
            directory.checkpoints,
            keep=run.save.keep,
            background=run.save.background,
            milestone=plans.stays,
        )
        self.meter, self.ledger = Meter(), Ledger()
        self.last_evaluation: dict[str, Evaluation] = {}
        self.notes: dict[str, None] = {}  # what the data side told, each once
        self._unsaid: list[str] = []  # by this process of several, since the last log point
        self.began = perf_counter()
        self._saved: int | None = None  # the step that this run's newest sound checkpoint holds
        self._saved_at = perf_counter()
        self._was_end = False  # the checkpoint that was restored was its run's last
        self._lr_before = self._lr = 0.0  # of the two steps before
        # of the log window: when it began, and seconds of it spent waiting for data; None before the first step
        self._window: list[float] | None = None
        self._logged = 0  # step of the last log point
        self._stack = ExitStack()
        self.rules = resolved_to_json(self.rows)
        self.fixed = fixed(run)

    def check(self) -> None:
        """Find out what else would fail later: the methods of the task on a few samples, room for a checkpoint.

        Raises ContractError, DataError, ConfigError or CheckpointError, in words.
        """
        evals = {
            name: (Plan(stream, self.spec, seed=None), self.run.evals[name])
            for name, stream in self.parts.evals.items()
        }
        warnings = try_out(
            self.task, self.spec, self.loader.plan, evals, device=self.device,
            autocast=precision(self.run.how, self.device)[0], progress=self._progress(),
            draws=self.run.log.images > 0,
        )  # fmt: skip
        for line in warnings:
            self.teller.warn(line)
        room(self.directory.path, estimate_bytes(self.state()))

    def _progress(self) -> Progress:
        """Where training stands, for an evaluation."""
        return Progress(torch.full((), float(self.step), device=self.device), self.engine.progress.total)

    def __enter__(self) -> Launch:
        self._stack.enter_context(self.signals)
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()
        self.checkpoints.close()

    # ------------------------------------------------------------------------------------------------ the state

    def state(self) -> State:
        """Return the state of the run after the last whole step."""
        state = self.engine.state()
        meter_tensors, meter_data = self.meter.state()
        state.tensors["meter"] = meter_tensors
        state.data.update(
            ledger=dataclasses.asdict(self.ledger),
            meter=meter_data,
            run=self.fixed,
            rules=self.rules,
            total=self.plans.total,
            log_offset=self.teller.offset(),
        )
        return state

    def restore(self, state: State, *, branch: bool = False) -> None:
        """Continue from a state.

        branch: the state is another run's. Moments that do not fit this run start afresh, aloud; best value,
            patience and log are this run's own.
        """
        before = state.data.get("run")  # older versions did not write it
        edited = [] if branch or before is None else edited_since(before, self.run)
        if edited:
            raise CheckpointError(
                f"{self.directory.run_json} is not of the run that wrote the checkpoint of step {state.step}:\n  "
                + "\n  ".join(edited)
                + f"\nTake that back to resume, or start another run: visloom branch {self.directory.path} ..."
            )
        changed = diff_resolved(state.data.get("rules", self.rules), self.rules)
        if changed and not branch:
            raise CheckpointError(
                "the checkpoint's parameters stand under other rules than the run's:\n  "
                + "\n  ".join(changed)
            )
        for note in self.engine.restore(state, strict=not branch):
            self.teller.warn(note)
        self._logged = state.step
        self._lr_before, self._lr = (self.engine.highest_lr(max(0, state.step - n)) for n in (2, 1))
        if branch:
            self.teller.resume(state.step, 0)
            return
        self.ledger = Ledger(**state.data["ledger"])
        self.meter.restore(state.tensors.get("meter", {}), state.data.get("meter", {}), self.device)
        self._saved, self._was_end = state.step, state.data["total"] == state.step
        self.teller.resume(state.step, int(state.data["log_offset"]))

    # ------------------------------------------------------------------------------- what the loop asks and does

    @property
    def step(self) -> int:
        """Updates done."""
        return self.engine.step

    def log_due(self, step: int) -> bool:
        """Log points: every `log.every` steps, at the end of each epoch and of the run."""
        return due(self.plans.log, step, self.plans.total) or step % self.plans.epoch == 0

    def save_due(self, step: int) -> bool:
        """Save points: as `save.every` says, the milestones that are named, and the last step."""
        if step in self.plans.points:
            return True
        if self.plans.save_minutes is not None:
            elapsed = perf_counter() - self._saved_at >= 60 * self.plans.save_minutes
            return dist.any_rank(elapsed) or step == self.plans.total
        return due(self.plans.save, step, self.plans.total)

    def evals_due(self, step: int) -> list[str]:
        """Names of the evaluations that are due after a step."""
        return [name for name, every in self.plans.evals.items() if due(every, step, self.plans.total)]

    def after(self, step: Step) -> None:
        """Bookkeeping of every step: sums on the device, the progress line, failed writes, signals."""
        if self._window is None:  # before the first step the time was that of setting up
            self._window = [perf_counter() - step.seconds, 0.0]
        self.meter.add(step)
        self._window[1] += step.waited
        peers.note(step.index)
        self._heard(step.notes)
        lr = max(step.lr.values(), default=0.0)
        if is_drop(self._lr_before, self._lr, lr):
            self.teller.lr_drop(step.index - 1, self._lr, lr)
        self._lr_before, self._lr = self._lr, lr
        self.teller.tick(step.index)
        self.checkpoints.check()
        faults.point("step")
        self.signals.agree()  # answered before the next step: what is due after this one is done first

    def _heard(self, notes: Sequence[str]) -> None:
        """Take notes of this process; those of all are told at log points, for only one process speaks."""
        if self.world.size == 1:
            self._note(notes)
        else:
            self._unsaid += notes

    def _note(self, notes: Sequence[str]) -> None:
        """Tell what the data side noted, each note once: the first ones to everybody, all to log.txt."""
        for note in notes:
            if note in self.notes:
                continue
            self.notes[note] = None
            if len(self.notes) <= _NOTES:
                self.teller.warn(note)
            else:
                _log.warning("%s", note, extra={"told": True})

    def log(self, step: Step) -> None:
        """Write a log point: window means of losses and training metrics, learning rates, speed."""
        self.look_for_bad_steps()
        if self.world.size > 1:
            self._note([note for part in dist.gather(self._unsaid) for note in part])
            self._unsaid = []
        if self.ledger.untold:  # told at log points only: saves may come at any time
            steps, self.ledger.untold = [s + 1 for s in self.ledger.untold], []
            self.teller.skipped(step.index, steps, "the gradient was not finite")
        losses, logs = split_names(self.meter.read())
        now = perf_counter()
        began, waited = self._window or (now, 0.0)
        if losses:  # else every step since the last point was passed over
            self.teller.point(
                Point(
                    step=step.index,
                    losses=losses,
                    logs=logs,
                    lrs=step.lr,
                    steps=step.index - self._logged,
                    seconds=now - began,
                    waited=waited,
                    memory=memory_bytes(self.device),
                    drawn=self.parts.train.drawn(step.index),
                )
            )
        if step.index % self.plans.epoch == 0:
            losses, logs = split_names(self.meter.read_epoch())
            if losses:
                self.teller.epoch_end(step.index, losses, logs)
        self._window, self._logged = [perf_counter(), 0.0], step.index

    def _not_training(self, seconds: float) -> None:
        """Leave time out of the speed, which is that of training."""
        if self._window is not None:
            self._window[0] += seconds

    def save(self, *, wait: bool = False) -> None:
        """Write a checkpoint of the last whole step; never of non-finite weights."""
        self.look_for_bad_steps()
        state, began = self.state(), perf_counter()
        if self.world.first:
            self.checkpoints.save(state, wait=wait)
            self.teller.saved(
                state.step, self.checkpoints.directory / step_name(state.step), perf_counter() - began
            )
        dist.barrier()
        self._not_training(perf_counter() - began)
        self._saved, self._saved_at = state.step, perf_counter()

    def evaluate(self, name: str) -> Evaluation:
        """Run one evaluation; keep the checkpoint if it is the best one so far."""
        began, setting = perf_counter(), self.run.evals[name]
        self.look_for_bad_steps()
        module = self.engine.best_module
        dist.share(module)

        def ask() -> Evaluation:
            return run_evaluation(
                module, self.spec, self.eval_loaders[name], autocast=precision(self.run.how, self.device)[0],
                losses=setting.losses, progress=self._progress(), tick=partial(self._eval_tick, name),
            )  # fmt: skip

        result = self.signals.wait(ask)  # the state is whole here: a signal may end the evaluation
        faults.point("evaluation")
        self.ledger.evaluated[name] = self.step
        self.ledger.values[name] = result.values
        self.last_evaluation[name] = result
        self._note(result.notes)
        monitor, better = self._judge(name, setting, result.values)
        self.teller.evaluation(
            name, self.step, result.values, monitor=monitor, best=better, seconds=result.seconds,
            baseline=self.baseline(name),
        )  # fmt: skip
        if better and self.run.save.best:
            self._keep_best()
        if self.world.first:
            self._write_evaluation(name, result)
        self._not_training(perf_counter() - began)
        return result

    def _eval_tick(self, name: str, number: int, total: int) -> None:
        faults.point("evaluation-batch")
        self.teller.working(f"evaluating {name}", number, total)

    def _judge(self, name: str, setting: Eval, values: Mapping[str, float]) -> tuple[Monitor | None, bool]:
        """Return what the evaluation monitors, by the name under which it is reported, and whether it is best."""
        if setting.monitor is None:
            return None, False
        monitor = Monitor(setting.monitor.mode, require_reported(name, setting, list(values)))
        value, ledger = values[monitor.name], self.ledger
        if monitor.better(value, ledger.best):
            ledger.best, ledger.best_step, ledger.waits = value, self.step, 0
            return monitor, True
        ledger.waits += 1
        if setting.patience and ledger.waits >= setting.patience:
            ledger.stopped = f"{ledger.waits} evaluations without a better {monitor.name}"
        return monitor, False

    def _keep_best(self) -> None:
        state = None if self._saved == self.step else self.state()
        if self.world.first:
            if state is not None:
                self.checkpoints.save(state, wait=True)
            self.checkpoints.mark_best(self.step)
        dist.barrier()
        self._saved = self.step

    def name_best(self) -> None:
        """Name the best checkpoint again: the run may have been stopped between saving and naming it."""
        best, known = self.ledger.best_step, self.checkpoints
        if not self.world.first or not self.run.save.best or best is None or best == known.best():
            return
        if best in known.steps() and not known.verify(best):
            known.mark_best(best)

    def _write_evaluation(self, name: str, result: Evaluation) -> None:
        """Write evals/<name>.json, and pictures of the worst and best samples, for the report."""
        folder = self.directory.path / "evals"
        folder.mkdir(exist_ok=True)
        pictures = []
        if self.run.log.images:
            pictures = save_pictures(
                self.engine.best_module, self.spec, self.parts.evals[name], result.records, folder / name,
                count=self.run.log.images, device=self.device,
            )  # fmt: skip
        if pictures:
            kind = pictures[0]["kind"]  # samples at fixed places if the task wants those, else the extremes
            shown = [p for p in pictures if p["kind"] == kind or kind != "sample"]
            sheet = contact_sheet([self.directory.path / p["file"] for p in shown])
            self.teller.pictures(name, self.step, sheet)
        baseline = self.baseline(name)
        floor = getattr(self.spec, "floor", None)
        floors = {} if floor is None else {key: floor(result.tables, key) for key in result.values}
        write_json(
            folder / f"{name}.json",
            {
                "step": self.step,
                "epoch": self.step / self.plans.epoch,
                "values": {k: v if math.isfinite(v) else None for k, v in result.values.items()},
                "tables": result.tables,
                "baseline": None if baseline is None else {"name": baseline[0], "value": baseline[1]},
                "floors": {key: {"name": told[0], "value": told[1]} for key, told in floors.items() if told},
                "pictures": pictures,
            },
        )

    def baseline(self, name: str) -> tuple[str, float] | None:
        """The value that needs no learning, if the task knows one: `baseline(labels)` of the spec, or, for a task
        whose samples have no single label, `floor(tables, value)` from the tables of the last evaluation."""
        floor, monitor = getattr(self.spec, "floor", None), self.run.evals[name].monitor
        if floor is not None and monitor is not None and name in self.last_evaluation:
            found: tuple[str, float] | None = floor(
                self.last_evaluation[name].tables, monitor.name.removeprefix(f"{name}/")
            )
            return found
        known = getattr(self.spec, "baseline", None)
        labels = getattr(self.parts.evals[name].leaves()[0].source, "labels", None)
        values = labels() if callable(labels) else None
        return None if known is None or values is None else known(values)

    def look_for_bad_steps(self) -> None:
        """Read the flags of non-finite gradients, and do what `how.non_finite` says."""
        bad = everywhere(self.engine.bad_steps())
        if not bad:
            return
        policy, steps = self.run.how.non_finite, [b.step for b in bad]
        self.ledger.bad = sorted({*self.ledger.bad, *steps})
        file = self.directory.path / "nonfinite.json"
        if self.world.first:
            add_to_list(file, bad)
        if policy.policy == "skip":
            self.ledger.untold += steps
        elif policy.policy == "rollback" and self.ledger.rollbacks < policy.tries:
            raise Rollback(bad)
        else:
            raise stop(bad, self.directory.path, file)

    def rollback(self, back: Rollback) -> None:
        """Return to the last checkpoint and pass over the bad steps from there on."""
        steps, ledger = [b.step for b in back.bad], self.ledger
        passed = self.engine.skipped.union(steps)
        self.checkpoints.join()
        dist.barrier()
        state = self.checkpoints.load(say=self.teller.warn)
        if state is None:
            raise NonFiniteError(f"{back}, and there is no checkpoint to return to")
        self.restore(state)
        self.engine.skipped = passed
        self.ledger.bad, self.ledger.rollbacks = ledger.bad, ledger.rollbacks + 1
        late = {s for s in passed if s >= state.step}  # what the log told of them has been cut off
        self.ledger.untold = sorted({*self.ledger.untold, *late})
        self.teller.warn(f"{back}; back to step {state.step}, passing over {len(steps)} step(s)")

    def over(self) -> bool:
        """Say whether the run ends before its last step."""
        return bool(self.ledger.stopped)

    def catch_up(self) -> Iterator[str]:
        """Names of evaluations that were due at the restored step but not done before the run ended.

        Where it was the last step of a run that now is longer, all were due.
        """
        for name in self.plans.evals if self._was_end else self.evals_due(self.step):
            if self.ledger.evaluated.get(name, 0) < self.step:
                yield name

    @property
    def saved(self) -> bool:
        """Say whether there is a checkpoint of the last whole step."""
        return self._saved == self.step
