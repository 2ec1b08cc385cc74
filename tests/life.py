"""One life of a run in a process of its own: starts the run, or resumes the one that is there.

    python -m tests.life OUT RUN [WORKERS]     one life; RUN is a function of this file
    python -m tests.life --serve               reads orders, one JSON object a line, and forks a life for each

Importing torch costs seconds and a fork costs none, so tests keep one server. `VISLOOM_FAULT`, or "fault" in an order,
arms a fault point.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from tests import detectors
from tests.lives import OFF, Mixing
from tests.small import Rows, Small, SmallModule, small_run
from tests.worlds import Jitter, Numbers
from visloom import change, faults
from visloom.drive import resume, train
from visloom.errors import VisloomError
from visloom.run import Ema, Eval, Host, How, Log, Run, Save
from visloom.sample import Sample
from visloom.stream import Ordered, Pair, Shuffled
from visloom.task import Batch, Losses
from visloom.tickets import Tickets
from visloom.units import Epochs, Monitor, NonFinite, Steps

ROOT = Path(__file__).resolve().parents[1]
FOR_EVER = 86_400  # seconds: longer than any test waits
PATIENCE = 300  # seconds for what must come but cannot be told from what only takes long


# ------------------------------------------------------------------------------------------------ runs to live


def full(out: Path, workers: int) -> Run:
    """bf16, accumulation, EMA, mixing; saves, evaluations and log points that fall together and apart."""
    return small_run(
        out,
        task=Mixing(),
        train=Shuffled(source=Numbers(size=51), batch=8, transform=(Jitter(),)),
        evals={
            "val": Eval(
                stream=Ordered(source=Numbers(size=20), batch=8),
                every=Steps(3),
                monitor=Monitor("min", "loss"),
            ),
            "train": Eval(stream=Ordered(source=Numbers(size=10), batch=4), every=Steps(7)),
        },
        how=How(precision="bf16", accumulate=2, ema=Ema(decay=0.9)),
        host=Host(out=str(out), data=str(out), workers=workers, threads=1),
        save=Save(every=Steps(4), keep=2),
    )


def unhurried(out: Path, workers: int) -> Run:
    """The same at leisure: time does not change how it ends."""
    return change(full(out, workers), {"task": Mixing(sleep=0.05)})


def slow(out: Path, workers: int) -> Run:
    """A step that tells when it has begun, and does not end before it is let go."""
    return small_run(out, task=Telltale(marks=str(out), hold=True), host=_host(out, workers))


def long_evaluation(out: Path, workers: int) -> Run:
    """An evaluation that does not end the first time."""
    return small_run(out, task=Telltale(marks=str(out), stall=True), host=_host(out, workers))


def stalled(out: Path, workers: int) -> Run:
    """Data that do not come the first time, in the second micro-batch of a step; the first one leaves a mark."""
    source = Stalling(size=51, marks=str(out))
    how = How(precision="fp32", accumulate=2)
    return small_run(
        out,
        task=Telltale(marks=str(out)),
        train=Shuffled(source=source, batch=8, transform=(Jitter(),), shuffle=False),
        how=how,
        host=_host(out, workers),
    )


def pair(out: Path, workers: int) -> Run:
    """For two processes: an evaluation whose last batch has nothing for the second one, and the ids that each reads."""
    val = Eval(
        stream=Ordered(source=Numbers(size=17), batch=8), every=Steps(5), monitor=Monitor("min", "loss")
    )
    how = How(precision="fp32", accumulate=2, ema=Ema(decay=0.9))
    return small_run(
        out, task=Recording(marks=str(out)), evals={"val": val}, how=how, host=_host(out, workers)
    )


def broken_pair(out: Path, workers: int) -> Run:
    """For two processes, one of which meets a loss that is not finite, with a scaler."""
    return small_run(out, task=Recording(marks=str(out), poison=("n9",)), how=How(precision="fp16"))


def returning_pair(out: Path, workers: int) -> Run:
    """For two processes: a loss that is not finite in step 6 of each epoch of 6, and a save after step 4 or 8."""
    return small_run(
        out,
        task=Recording(marks=str(out), poison=("n45",)),
        train=Shuffled(source=Numbers(size=50), batch=8, transform=(Jitter(),), shuffle=False),
        how=How(precision="fp32", non_finite=NonFinite("rollback", 9)),
        length=Epochs(2),
        save=Save(every=Steps(4)),
        log=Log(every=Steps(2), tensorboard=False, report=False, images=0),
    )


def hanging_pair(out: Path, workers: int) -> Run:
    """For two processes, the second of which does not come back from its data, once."""
    source = Stalling(size=51, marks=str(out))
    return small_run(
        out,
        train=Shuffled(source=source, batch=8, transform=(Jitter(),), shuffle=False),
        host=Host(out=str(out), data=str(out), workers=0, threads=1, rank_timeout=2.0),
    )


def unhurried_pair(out: Path, workers: int) -> Run:
    """The pair at leisure."""
    return change(pair(out, workers), {"task": Recording(marks=str(out), sleep=0.05)})


def impatient_pair(out: Path, workers: int) -> Run:
    """The pair at leisure, where one does not wait long for the other."""
    return change(unhurried_pair(out, workers), {"host.rank_timeout": 2.0})


def bad_picture_pair(out: Path, workers: int) -> Run:
    """For two processes, the second of which meets a picture that cannot be read."""
    broken = Shuffled(source=Numbers(size=50, broken=21), batch=8, transform=(Jitter(),), shuffle=False)
    return small_run(out, train=broken)


def detector(out: Path, workers: int) -> Run:
    """A small detector on the town."""
    return detectors.detector(out, workers)


def adapted(out: Path, workers: int) -> Run:
    """A small detector that adapts to fog, aligned and taught."""
    return detectors.adapted(out, workers)


def odd_batch(out: Path, workers: int) -> Run:
    """For two processes: a batch that they cannot divide."""
    return small_run(out, train=Shuffled(source=Numbers(size=50), batch=7))


def _host(out: Path, workers: int) -> Host:
    return Host(out=str(out), data=str(out), workers=workers, threads=1)


@dataclass(frozen=True)
class Telltale(Small):
    """Leaves the mark `step` in the third update.

    hold: that update then waits for the mark `go`.  stall: the first evaluation does not end, marked `evaluation`.
    """

    marks: str = ""
    hold: bool = False
    stall: bool = False

    def build(self) -> Any:
        return TelltaleModule(self)


class TelltaleModule(SmallModule):
    spec: Telltale

    def forward(self, batch: Batch) -> Losses:
        if self.training and batch.progress is not None and float(batch.progress.step) == 2:
            mark(self.spec.marks, "step")
            while self.spec.hold and not Path(self.spec.marks, "go.mark").exists():
                time.sleep(0.005)
        return super().forward(batch)

    def predict(self, batch: Batch) -> dict[str, Any]:
        assert isinstance(batch, Rows)
        first = self.spec.stall and len(batch) > 2 and mark(self.spec.marks, "evaluation")  # two: a trial
        if first:
            time.sleep(FOR_EVER)
        return super().predict(batch)


@dataclass(frozen=True)
class Recording(Small):
    """Writes what each process trains on."""

    marks: str = ""

    def build(self) -> Any:
        return RecordingModule(self)


class RecordingModule(SmallModule):
    spec: Recording

    def forward(self, batch: Batch) -> Losses:
        if self.training and batch.progress is not None:
            rank = os.environ.get("RANK", "0")
            with Path(self.spec.marks, f"ids-{rank}.txt").open("a") as file:
                file.write(f"{int(batch.progress.step)} {' '.join(batch.ids)}\n")
        return super().forward(batch)


@dataclass(frozen=True, kw_only=True)
class Stalling(Numbers):
    """Reading sample 21 takes for ever the first time, and leaves the file `data`."""

    marks: str = ""

    def fetch(self, index: int) -> Sample:
        if index == 21 and mark(self.marks, "data"):
            time.sleep(FOR_EVER)
        return super().fetch(index)


def mark(folder: str, name: str) -> bool:
    """Leave a file; say whether it was not there before."""
    file = Path(folder, f"{name}.mark")
    new = not file.exists()
    written = Path(folder, f"{name}.{os.getpid()}")
    written.write_text(str(os.getpid()))
    written.replace(file)  # who sees it, sees it whole
    return new


# ------------------------------------------------------------------------------------------------------- lives


MUTANTS: dict[str, tuple[str, Any]] = {
    "the meter is forgotten": ("visloom.meter.Meter.restore", lambda self, *state: None),
    "moments are forgotten": ("visloom.optim.Optimizers.load_state_by_name", lambda self, *state: None),
    "the target starts anew": ("visloom.stream.Pair.tickets", lambda self, step: _anew(self, step)),
    "data start anew": ("visloom.launch.Interruptible.open", lambda self, start=0: self.feed.open(0)),
    "draws of the process": (
        "tests.life.Mixing.collate",
        lambda self, samples, key: _mixed(self, samples, os.getpid()),
    ),
    "dropout of the process": ("visloom.keys.Counted.__getitem__", lambda self, number: os.getpid() + number),
    "the best one is not named again": ("visloom.launch.Launch.name_best", lambda self: None),
    "the log is not cut": ("visloom.logfiles.Lines.cut", lambda self, offset: None),
}
"""What could be forgotten: a name, the place of a function, and what stands there instead."""

_mixed = Mixing.collate


def _anew(pair: Pair, step: int) -> Tickets:
    """The tickets of a Pair whose second half begins where this life does."""
    source, target = pair._halves()
    begun = pair.__dict__.setdefault("_begun", step) if step else 0
    left, right = source.tickets(step), target.tickets(step - begun)
    return Tickets.join([left, Tickets(right.source + np.int32(1), right.index, right.key, right.parts)])


def live(out: Path, name: str, workers: int = 0, fault: str = "", mutant: str = "") -> int:
    """Live once, with a fault armed or a mutant in place; returns the exit code of the command line."""
    if mutant:
        place, instead = MUTANTS[mutant]
        owner, _, attribute = place.rpartition(".")
        found = pkgutil.resolve_name(owner)
        getattr(found, attribute)  # what is not there any more breaks nothing
        setattr(found, attribute, instead)
    faults.arm(fault or os.environ.get("VISLOOM_FAULT", ""))
    rank = os.environ.get("RANK", "")
    try:
        there = sorted(out.glob("*/run.json"))
        if there and not os.environ.get("TORCHELASTIC_RUN_ID"):  # under torchrun the same command comes again
            report = resume(there[-1].parent, {"host.workers": workers}, told=OFF, trust=True)
        else:
            report = train(globals()[name](out, workers), told=OFF)
        if rank:
            torch.save({"state": report.task.state_dict(), "values": report.values}, out / f"end-{rank}.pt")
    except VisloomError as error:
        (out / f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


class Server:
    """A process that forks lives; use it in a `with` statement.

    `start` begins one and returns its process id; `wait` returns how it ended: an exit code, or minus a signal.
    """

    def __init__(self, *modules: str) -> None:
        """modules: what lives need besides, imported once."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("VISLOOM_FAULT", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.life", "--serve", *modules],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._living: list[int] = []  # processes whose end was not told yet
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        for pid in self._living:  # after a test that failed
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def start(
        self,
        out: Path,
        name: str,
        workers: int = 0,
        fault: str = "",
        mutant: str = "",
        world: int = 1,
        attempt: int | None = None,
    ) -> list[int]:
        """Start a life, in `world` processes, and return their process ids.

        attempt: how often torchrun has restarted it, or None where torchrun has nothing to do with it.
        """
        assert self._process.stdin is not None
        out.mkdir(parents=True, exist_ok=True)
        order = {"out": str(out), "name": name, "workers": workers, "fault": fault, "mutant": mutant}
        self._process.stdin.write(json.dumps({"world": world, "attempt": attempt, "order": order}) + "\n")
        self._process.stdin.flush()
        self._living = self._answer()
        return self._living

    def wait(self) -> list[int]:
        """Wait for the end of the life that was started; returns how each process ended."""
        ends = self._answer()
        self._living = []
        return ends

    def wait_for(self, pattern: str, out: Path) -> None:
        """Wait until the life that was started has made a file in `out` that fits a pattern."""
        end = time.monotonic() + PATIENCE
        while not any(out.glob(pattern)):
            assert self._lines.empty(), f"the life ended before there was {pattern}: {self._lines.get()}"
            assert time.monotonic() < end, f"{pattern} did not come"
            time.sleep(0.005)

    def live(self, out: Path, name: str, workers: int = 0, fault: str = "", mutant: str = "") -> int:
        """Live in one process, to the end; returns how it ended."""
        self.start(out, name, workers, fault, mutant)
        return self.wait()[0]

    def _answer(self) -> list[int]:
        line = self._lines.get(timeout=PATIENCE)
        assert line, "the server has ended"
        return [int(word) for word in line.split()]


def serve(*modules: str) -> None:
    """Fork a life for each order on standard input; print its process ids, and then how they ended."""
    for module in modules:
        importlib.import_module(module)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch: once, not in every life
    for line in sys.stdin:
        asked = json.loads(line)
        world, port = asked["world"], _free_port()
        pids = [_fork(asked["order"], rank, world, port, asked["attempt"]) for rank in range(world)]
        print(*pids, flush=True)
        print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)


def _fork(order: dict[str, Any], rank: int, world: int, port: int, attempt: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what the server is asked through is its own
        if world > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "127.0.0.1"}
        if attempt is not None:
            os.environ |= {"TORCHELASTIC_RUN_ID": "tested", "TORCHELASTIC_RESTART_COUNT": str(attempt)}
        code = live(**{**order, "out": Path(order["out"])})
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(*sys.argv[2:])
    else:
        out, name, *more = sys.argv[1:]
        raise SystemExit(live(Path(out), name, int(more[0]) if more else 0))
