"""Prove resume: kill a run with SIGKILL, resume it, and compare its files with those of a run left alone.

The run left alone trains in one process from start to end. The other one is killed again and again: at a random
moment, while a checkpoint is being written (which a fault point makes slow), or exactly at a fault point. What is
compared is the sha256 of every file of the last checkpoint (weights, moments, averages, ledger) and of log.jsonl.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from visloom.bundle import step_name
from visloom.checkpoint import Checkpoints
from visloom.errors import CheckpointError, UsageError, VisloomError

Moment = str
"""When a kill comes: "any time", "in a write", or a fault point as VISLOOM_FAULT names it ("best-save@2")."""

_SLOW = 0.03  # seconds that a slow writer waits at every point of a write
_WRITE = (
    8 * _SLOW
)  # kills in a write come within so many seconds of its beginning; slowed down, it takes longer
_PATIENCE = 900.0  # seconds that one life may take at most


class RunFailed(VisloomError):
    """A training run ended by itself with an error; `exit_code` is its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class Process(Protocol):
    """A running process, as `subprocess.Popen` is one; the leader of its own process group."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def spawn(words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> Process:
    """Start `visloom WORDS` in an interpreter of its own, with additions to the environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "visloom", *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


@dataclass(frozen=True)
class Plan:
    """What to prove: `visloom train RECIPE SETTINGS OPTIONS`, killed so many times.

    options: further words of the train command (`--data DIR`).  again: those of `visloom resume` (`--trust`).
    moments: the kinds of the kills, in turn.  workers: data workers of each life, in turn; () leaves them alone.
    folder: where both runs go.  seed: draws the moments of the kills.  start: makes the processes.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    kills: int = 6
    seed: int = 0
    folder: Path = Path("prove-resume")
    moments: tuple[Moment, ...] = ("any time", "in a write")
    workers: tuple[int, ...] = ()
    start: Callable[[Sequence[str], Mapping[str, str], IO[bytes]], Process] = spawn


@dataclass(frozen=True)
class Kill:
    """One kill. step: the newest whole checkpoint after it, or None.  torn: a half-written one lay there.

    workers: data workers of the life that it ended, or None where the plan leaves them alone.
    """

    moment: Moment
    step: int | None
    torn: bool
    workers: int | None = None


@dataclass(frozen=True)
class Compared:
    """One file of both runs."""

    name: str
    alone: str
    killed: str

    @property
    def same(self) -> bool:
        return self.alone == self.killed


@dataclass
class Proof:
    """What came out: the kills in order, and the files compared."""

    kills: list[Kill] = field(default_factory=list)
    files: list[Compared] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether every file is the same."""
        return bool(self.files) and all(each.same for each in self.files)


def prove(plan: Plan, say: Callable[[str], None] = lambda text: None) -> Proof:
    """Train twice, once with kills, and compare.

    Raises:
        UsageError: kills is negative, or the system has no SIGKILL.
        RunFailed: a run ended with an error of its own.
    """
    if plan.kills < 0:
        raise UsageError(f"--kills is a number from 0, got {plan.kills}")
    if not hasattr(signal, "SIGKILL"):
        raise UsageError("this system has no SIGKILL, so nothing can be proved here")
    began = time.monotonic()
    alone, killed = _Life(plan, plan.folder / "alone"), _Life(plan, plan.folder / "killed")
    try:
        alone.start()
        alone.finish()
        pace = _pace(alone.directory, time.monotonic() - began)
        say(f"left alone: {pace.setup:.0f} s of set-up, then {pace.steps:,} steps in {pace.training:.1f} s")
        proof = _with_kills(plan, killed, pace, say)
    finally:
        alone.stop()
        killed.stop()
    proof.files = compare(alone.directory, killed.directory)
    return proof


@dataclass(frozen=True)
class Pace:
    """What the run that was left alone took: seconds of set-up and of training, and its steps."""

    setup: float
    training: float
    steps: int


def _pace(directory: Path, whole: float) -> Pace:
    times = {str(row.get("kind")): float(str(row.get("time"))) for row in speed(directory)}
    training = max(0.0, times.get("end", 0.0) - times.get("start", 0.0))
    steps = Checkpoints(directory / "checkpoints").steps()
    return Pace(max(0.0, whole - training), training, steps[-1] if steps else 0)


def _with_kills(plan: Plan, killed: _Life, pace: Pace, say: Callable[[str], None]) -> Proof:
    """Let a run be killed as often as planned, at moments spread over it, and let it finish."""
    proof = Proof()
    draws = random.Random(plan.seed)
    for number in range(plan.kills):
        moment = plan.moments[number % len(plan.moments)]
        killed.start(_FAULTS.get(moment, f"kill-at:{moment}"))
        share = pace.steps / (plan.kills + 1)
        after, before = int(share * (number + draws.random())), int(share * (number + 1))
        if moment == "in a write":
            delay = draws.uniform(0, _WRITE)
        elif draws.random() < 0.25:
            delay = -draws.uniform(0, pace.setup)  # before the first step of this process
        else:
            delay = draws.uniform(0, pace.training / (plan.kills + 1))
        kill = killed.kill(moment, after, before, delay)
        if kill is None:
            say(f"kill {number + 1}: the run was done before it")
            break
        proof.kills.append(kill)
        where = "no checkpoint yet" if kill.step is None else f"newest checkpoint: step {kill.step}"
        torn = ", and a half-written one" if kill.torn else ""
        say(f"kill {number + 1} ({kill.moment}): {where}{torn}")
    if not killed.over:
        killed.start()
        killed.finish()
    return proof


_FAULTS = {"any time": "", "in a write": f"slow-write:{_SLOW}"}


class _Life:
    """The processes of one run, one after the other, and its directory."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out = plan, out
        self.log = out.with_suffix(".txt")  # what the processes said
        self.over = False
        self.lives = 0
        self._process: Process | None = None
        out.mkdir(parents=True, exist_ok=True)

    @property
    def directory(self) -> Path:
        """The run directory. Raises CheckpointError if there is none."""
        found = self._found()
        if found is None:
            raise CheckpointError(f"{self.out}: the run left no directory; its words are in {self.log}")
        return found

    def _found(self) -> Path | None:
        """The run directory, once there is something to resume."""
        return next((file.parent for file in self.out.glob("*/run.json")), None)

    @property
    def workers(self) -> int | None:
        """Data workers of this life, or None where the plan leaves them alone."""
        counts = self.plan.workers
        return counts[(self.lives - 1) % len(counts)] if counts else None

    def start(self, fault: str = "") -> None:
        """Start training, or go on where the last process ended. fault: as VISLOOM_FAULT has it."""
        found = self._found()
        plan = self.plan
        self.lives += 1
        words = [] if self.workers is None else [f"host.workers={self.workers}"]
        if found is not None:
            words = ["resume", str(found), *words, *plan.again]
        else:
            shutil.rmtree(self.out)  # a directory that was killed before it could be resumed
            self.out.mkdir()
            words = ["train", plan.recipe, *plan.settings, *words, *plan.options, "--out", str(self.out)]
        with self.log.open("ab") as log:
            self._process = plan.start(words, {"NO_COLOR": "1", "VISLOOM_FAULT": fault}, log)

    def finish(self) -> None:
        """Wait for the end of the run."""
        self._ended()
        self._look()

    def _ended(self) -> int:
        """Wait for the end of the process; its exit code, or minus the signal that killed it."""
        assert self._process is not None
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired as error:
            self.stop()
            raise RunFailed(f"a run did not end within {_PATIENCE:.0f} s; see {self.log}", 1) from error

    def _look(self) -> bool:
        """Say whether the process has ended by itself. Raises RunFailed if it did so with an error."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None and code != 0:
            tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:]
            raise RunFailed("the run ended with an error:\n  " + "\n  ".join(tail), code if code > 0 else 1)
        self.over = code == 0
        return self.over

    def stop(self) -> None:
        """Kill the process, and its data workers with it."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def kill(self, moment: Moment, after: int, before: int, delay: float) -> Kill | None:
        """Kill the process at a moment; None if it was done before.

        At a fault point the process kills itself, and neither steps nor delay count.

        after: a step: the moment comes when this process has trained and a checkpoint of that step is whole
            ("any time"), or when a checkpoint of at least that step is half written.
        before: a step: the delay ends early once a checkpoint of that step is whole, lest the run ends.
        delay: seconds from then on; negative ones count from the start of the process.
        """
        if moment in _FAULTS:
            if not self._reach(moment, after, before, delay):
                return None
            self.stop()
        elif not self._killed():
            return None
        return Kill(moment, self._newest() or None, self._writing(), self.workers)

    def _killed(self) -> bool:
        """Wait for the end of the process; False if it was done before a fault point killed it."""
        if self._ended() == -signal.SIGKILL:
            return True
        self._look()
        return False

    def _reach(self, moment: Moment, after: int, before: int, delay: float) -> bool:
        """Wait for the moment of a kill; False if the process was done before."""

        def sign() -> bool:
            return self._writing(after) if moment == "in a write" else self._training(after)

        if delay < 0:
            delay = -delay
        elif not self._await(sign):
            return False
        end = time.monotonic() + delay
        while time.monotonic() < end and not self._look() and self._newest() < max(before, after + 1):
            time.sleep(0.002)
        return not self._look()

    def _newest(self) -> int:
        """The step of the newest whole checkpoint, 0 if there is none."""
        found = self._found()
        return 0 if found is None else max(Checkpoints(found / "checkpoints").steps(), default=0)

    def _await(self, sign: Callable[[], bool]) -> bool:
        """Wait for a sign; False if the process ends before it."""
        end = time.monotonic() + _PATIENCE
        while not sign():
            if self._look():
                return False
            if time.monotonic() > end:
                self.stop()
                raise RunFailed(f"a run did not move for {_PATIENCE:.0f} s; see {self.log}", 1)
            time.sleep(0.002)
        return True

    def _training(self, after: int) -> bool:
        """Whether this process has taken a step, and a checkpoint of at least step `after` is whole."""
        assert self._process is not None
        found = self._found()
        if found is None or self._newest() < after:
            return False
        return any(row.get("kind") == "start" and row.get("pid") == self._process.pid for row in speed(found))

    def _writing(self, after: int = 0) -> bool:
        """Whether this process has left a checkpoint of at least step `after` half written."""
        assert self._process is not None
        found = self._found()
        if found is None:
            return False
        half = (found / "checkpoints").glob(f".tmp-step-*-{self._process.pid}")
        return any(int(place.name.split("-")[2]) >= after for place in half)


def speed(directory: Path) -> list[dict[str, object]]:
    """Return the rows of a run's speed.jsonl, passing over torn ones."""
    from visloom.logfiles import read

    file = directory / "speed.jsonl"
    return read(file, strict=False) if file.exists() else []


def compare(alone: Path, killed: Path) -> list[Compared]:
    """Compare the last checkpoints of two runs, file by file, and their log.jsonl, by sha256."""
    sides = [
        {**_checkpoint(folder), "log.jsonl": _sha256(folder / "log.jsonl")} for folder in (alone, killed)
    ]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [Compared(name, sides[0].get(name, "missing"), sides[1].get(name, "missing")) for name in names]


def _checkpoint(folder: Path) -> dict[str, str]:
    checkpoints = Checkpoints(folder / "checkpoints")
    steps = checkpoints.steps()
    if not steps:
        raise CheckpointError(f"{folder} has no checkpoint")
    damage = checkpoints.verify(steps[-1])
    if damage:
        raise CheckpointError(f"{folder}: the last checkpoint is damaged: {damage}")
    place = checkpoints.path(steps[-1])
    files = sorted(file for file in place.iterdir() if file.name != "manifest.json")
    return {f"{step_name(steps[-1])}/{file.name}": _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
