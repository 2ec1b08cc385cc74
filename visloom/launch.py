"""Launch: an opened run. Everything between the value (`Run`) and its first step, and what the loop calls.

Stages, in order: processes and device, data (found and checked), task (built, initial weights), optimizer and
engine, state (resumed or new). Whatever can be known to be wrong before step 1 is an error here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

from visloom import dist, faults
from visloom.assemble import Parts, Plans, build_task, some
from visloom.checkpoint import Checkpoints, State, estimate_bytes, room, step_name
from visloom.device import memory_bytes
from visloom.durable import write_json
from visloom.engine import Bad, Engine, Step, precision
from visloom.errors import CheckpointError, ConfigError, NonFiniteError
from visloom.evaluation import Evaluation, run_evaluation
from visloom.init import initialise
from visloom.keys import fold
from visloom.live import Point
from visloom.loader import Loader, Plan
from visloom.log import Teller, is_drop
from visloom.meter import Meter, split_names
from visloom.optim import build_optimizer
from visloom.pictures import contact_sheet, save_pictures
from visloom.rules import diff_resolved, resolve_rules, resolved_to_json
from visloom.run import Eval
from visloom.rundir import RunDir
from visloom.signals import Interruptible, Signals
from visloom.stream import Stream
from visloom.units import due


@dataclass
class Ledger:
    """What a run remembers besides weights and moments; small, JSON, part of every checkpoint.

    best: best monitored value so far, at step best_step.  waits: evaluations in a row without a better one.
    evaluated: last step at which each evaluation was done.  bad: steps whose gradient was not finite.
    rollbacks: returns to a checkpoint so far.  stopped: why the run ended early, or "".
    """

    best: float | None = None
    best_step: int | None = None
    waits: int = 0
    evaluated: dict[str, int] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)  # evaluation -> what it last reported
    bad: list[int] = field(default_factory=list)
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
        self.eval_loaders = {name: self._eval_loader(stream) for name, stream in parts.evals.items()}
        self.checkpoints = Checkpoints(
            directory.checkpoints,
            keep=run.save.keep,
            background=run.save.background,
            milestone=(lambda step: step % plans.milestone == 0) if plans.milestone else None,
        )
        self.meter, self.ledger = Meter(), Ledger()
        self.last_evaluation: dict[str, Evaluation] = {}
        self.began, self.cpu_began = perf_counter(), process_time()
        self._saved_at = perf_counter()
        self._lr_before = self._lr = 0.0  # of the two steps before
        self._window = [perf_counter(), 0.0]  # start of the log window, seconds of it spent waiting for data
        self._logged = 0  # step of the last log point
        self._stack = ExitStack()
        self.rules = resolved_to_json(self.rows)
        room(directory.path, estimate_bytes(self.state()))

    def _eval_loader(self, stream: Stream) -> Loader:
        plan = Plan(stream, self.spec, seed=None, rank=self.world.rank, world=self.world.size)
        return Loader(plan, self.run.host, self.device, stream.steps_per_epoch)

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
            rules=self.rules,
            log_offset=self.teller.offset(),
        )
        return state

    def restore(self, state: State, *, cut: bool = True) -> None:
        """Continue from a state; `cut` also cuts the log back to it."""
        changed = diff_resolved(state.data.get("rules", self.rules), self.rules)
        if changed:
            raise CheckpointError(
                "the checkpoint's parameters stand under other rules than the run's:\n  "
                + "\n  ".join(changed)
            )
        self.engine.restore(state)
        self.ledger = Ledger(**state.data["ledger"])
        self.meter.restore(state.tensors.get("meter", {}), state.data.get("meter", {}), self.device)
        self._logged = state.step
        if cut:
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
        """Save points: as `save.every` says, and the last step."""
        if self.plans.save_minutes is not None:
            elapsed = perf_counter() - self._saved_at >= 60 * self.plans.save_minutes
            return dist.any_rank(elapsed) or step == self.plans.total
        return due(self.plans.save, step, self.plans.total)

    def evals_due(self, step: int) -> list[str]:
        """Names of the evaluations that are due after a step."""
        return [name for name, every in self.plans.evals.items() if due(every, step, self.plans.total)]

    def after(self, step: Step) -> None:
        """Bookkeeping of every step: sums on the device, the progress line, failed writes, signals."""
        self.meter.add(step)
        self._window[1] += step.waited
        lr = max(step.lr.values(), default=0.0)
        if is_drop(self._lr_before, self._lr, lr):
            self.teller.lr_drop(step.index - 1, self._lr, lr)
        self._lr_before, self._lr = self._lr, lr
        self.teller.tick(step.index)
        self.checkpoints.check()
        faults.point("step")
        if self.world.size > 1 and dist.any_rank(self.signals.asked is not None):
            self.signals.asked = self.signals.asked or "a signal on another process"
        self.signals.check()

    def log(self, step: Step) -> None:
        """Write a log point: window means of losses and training metrics, learning rates, speed."""
        self.look_for_bad_steps()
        losses, logs = split_names(self.meter.read())
        now = perf_counter()
        self.teller.point(
            Point(
                step=step.index,
                losses=losses,
                logs=logs,
                lrs=step.lr,
                steps=step.index - self._logged,
                seconds=now - self._window[0],
                waited=self._window[1],
                memory=memory_bytes(self.device),
            )
        )
        if step.index % self.plans.epoch == 0:
            self.teller.epoch_end(step.index, *split_names(self.meter.read_epoch()))
        self._window, self._logged = [perf_counter(), 0.0], step.index

    def save(self, *, wait: bool = False) -> None:
        """Write a checkpoint of the last whole step; never of non-finite weights."""
        self.look_for_bad_steps()
        state = self.state()
        if self.world.first:
            began = perf_counter()
            self.checkpoints.save(state, wait=wait)
            self.teller.saved(
                state.step, self.checkpoints.directory / step_name(state.step), perf_counter() - began
            )
            self._window[0] += perf_counter() - began  # speed is that of training
        dist.barrier()
        self._saved_at = perf_counter()

    def evaluate(self, name: str) -> Evaluation:
        """Run one evaluation; keep the checkpoint if it is the best one so far."""
        self.engine.bad_steps()
        module = self.engine.best_module
        self.signals.waiting = True  # the state is whole here: a signal may end the evaluation
        try:
            self.signals.check()
            result = run_evaluation(
                module, self.spec, self.eval_loaders[name], autocast=precision(self.run.how, self.device)[0],
                losses=self.run.evals[name].losses, tick=partial(self._eval_tick, name),
            )  # fmt: skip
        finally:
            self.signals.waiting = False
        faults.point("evaluation")
        self.ledger.evaluated[name] = self.step
        self.ledger.values[name] = result.values
        self.last_evaluation[name] = result
        setting = self.run.evals[name]
        better = self._judge(name, setting, result.values)
        self.teller.evaluation(
            name, self.step, result.values, monitor=setting.monitor, best=better, seconds=result.seconds,
            baseline=self.baseline(name),
        )  # fmt: skip
        if better and self.run.save.best:
            self._keep_best()
        if self.world.first:
            self._write_evaluation(name, result)
        self._window[0] += result.seconds  # speed is that of training
        return result

    def _eval_tick(self, name: str, number: int, total: int) -> None:
        self.teller.working(f"evaluating {name}", number, total)
        self.signals.check()

    def _judge(self, name: str, setting: Eval, values: Mapping[str, float]) -> bool:
        monitor = setting.monitor
        if monitor is None:
            return False
        key = monitor.name.removeprefix(f"{name}/")
        if key not in values:
            raise ConfigError(
                f"evals.{name}.monitor names {key!r}, which is not reported; there is: {', '.join(values)}",
                path=f"evals.{name}.monitor",
            )
        if monitor.better(values[key], self.ledger.best):
            self.ledger.best, self.ledger.best_step, self.ledger.waits = values[key], self.step, 0
            return True
        self.ledger.waits += 1
        if setting.patience and self.ledger.waits >= setting.patience:
            self.ledger.stopped = f"{self.ledger.waits} evaluations without a better {monitor.name}"
        return False

    def _keep_best(self) -> None:
        if self.world.first:
            self.checkpoints.join()
            if self.step not in self.checkpoints.steps():
                self.checkpoints.save(self.state(), wait=True)
            self.checkpoints.mark_best(self.step)
        dist.barrier()

    def _write_evaluation(self, name: str, result: Evaluation) -> None:
        """Write evals/<name>.json, and pictures of the worst and best samples, for the report."""
        folder = self.directory.path / "evals"
        folder.mkdir(exist_ok=True)
        pictures = []
        if self.run.log.images and result.records:
            pictures = save_pictures(
                self.engine.best_module, self.spec, self.parts.evals[name], result.records, folder / name,
                count=self.run.log.images, device=self.device,
            )  # fmt: skip
            self.teller.pictures(
                name, self.step, contact_sheet([self.directory.path / p["file"] for p in pictures])
            )
        baseline = self.baseline(name)
        write_json(
            folder / f"{name}.json",
            {
                "step": self.step,
                "epoch": self.step / self.plans.epoch,
                "values": {k: v if math.isfinite(v) else None for k, v in result.values.items()},
                "tables": result.tables,
                "baseline": None if baseline is None else {"name": baseline[0], "value": baseline[1]},
                "pictures": pictures,
            },
        )

    def baseline(self, name: str) -> tuple[str, float] | None:
        """The value that needs no learning, if the task knows one (`baseline(labels)` of the spec)."""
        known = getattr(self.spec, "baseline", None)
        labels = getattr(self.parts.evals[name].leaves()[0].source, "labels", None)
        values = labels() if callable(labels) else None
        return None if known is None or values is None else known(values)

    def look_for_bad_steps(self) -> None:
        """Read the flags of non-finite gradients, and do what `how.non_finite` says."""
        bad = self.engine.bad_steps()
        if not bad:
            return
        policy = self.run.how.non_finite
        self.ledger.bad.extend(b.step for b in bad)
        if self.world.first:
            path = self.directory.path / "nonfinite.json"
            write_json(path, [{"step": b.step, "samples": list(b.ids)} for b in bad])
        first = bad[0]
        told = f"step {first.step + 1}: the gradient was not finite (samples {some(first.ids)})"
        if policy.policy == "skip":
            self.teller.skipped(self.step, [b.step + 1 for b in bad], "the gradient was not finite")
        elif policy.policy == "rollback" and self.ledger.rollbacks < policy.tries:
            raise Rollback(bad, told)
        else:
            raise NonFiniteError(
                f"{told}; no weight was changed by it and nothing was saved since. The samples are listed in "
                f"{self.directory.path / 'nonfinite.json'}. Lower optim.lr, clip gradients (how.clip.norm=1), or "
                f"choose how.non_finite=skip or rollback:3, then: visloom resume {self.directory.path}"
            )

    def rollback(self, bad: list[Bad], told: str) -> None:
        """Return to the last checkpoint and pass over the bad steps from there on."""
        rollbacks, passed = self.ledger.rollbacks + 1, sorted({*self.engine.skipped, *(b.step for b in bad)})
        self.checkpoints.join()
        state = self.checkpoints.load(say=self.teller.warn)
        if state is None:
            raise NonFiniteError(f"{told}, and there is no checkpoint to return to")
        self.restore(state)
        self.engine.skipped = set(passed)
        self.ledger.rollbacks = rollbacks
        self.teller.warn(f"{told}; back to step {state.step}, passing over {len(bad)} step(s)")

    def over(self) -> bool:
        """Say whether the run ends before its last step."""
        return bool(self.ledger.stopped)

    def catch_up(self) -> Iterator[str]:
        """Names of evaluations that were due at the restored step but not done before the run ended."""
        for name in self.evals_due(self.step):
            if self.ledger.evaluated.get(name, 0) < self.step:
                yield name


class Rollback(Exception):
    """Raised inside the loop to return to a checkpoint; the driver answers it."""

    def __init__(self, bad: list[Bad], told: str) -> None:
        super().__init__(told)
        self.bad, self.told = bad, told
