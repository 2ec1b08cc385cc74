"""Lives of a run: helpers that start, interrupt and resume small runs, and compare how they end.

`interrupted(...)` ends a life inside this process by an exception or a flag; `tests/life.py` runs lives in processes of
their own, for real signals and kills.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.small import Rows, Small, SmallModule
from visloom.checkpoint import Checkpoints
from visloom.drive import Drive, Telling, drive
from visloom.keys import generator
from visloom.launch import Launch
from visloom.log import read
from visloom.module import TaskModule

OFF = Telling(screen="off")


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


def crash_at(step: int) -> Drive:
    """A loop that ends after update `step`, before anything that is due then."""
    return _in_step(step, after=_crash)


def signal_at(step: int) -> Drive:
    """A loop in which SIGTERM comes during update `step`."""
    return _in_step(step, before=_ask)


def _crash(launch: Launch) -> None:
    raise Crash


def _ask(launch: Launch) -> None:
    launch.signals.asked = "SIGTERM"


def _nothing(launch: Launch) -> None:
    pass


def _in_step(
    at: int, before: Callable[[Launch], None] = _nothing, after: Callable[[Launch], None] = _nothing
) -> Drive:
    """A loop that does something before and after the bookkeeping of one step."""

    def loop(launch: Launch) -> None:
        original = launch.after

        def bookkeeping(step: Any) -> None:
            here = step.index == at
            (before if here else _nothing)(launch)
            original(step)
            (after if here else _nothing)(launch)

        launch.after = bookkeeping  # type: ignore[method-assign]
        drive(launch)

    return loop


def crash_in_evaluation(at: int) -> Drive:
    """A loop that ends inside an evaluation after update `at`, when some batches are done."""
    return _in_evaluation(at, _crash)


def signal_in_evaluation(at: int) -> Drive:
    """A loop in which SIGTERM comes inside an evaluation after update `at`."""

    def what(launch: Launch) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    return _in_evaluation(at, what)


def _in_evaluation(at: int, what: Callable[[Launch], None]) -> Drive:
    def loop(launch: Launch) -> None:
        original = launch._eval_tick

        def tick(name: str, number: int, total: int) -> None:
            original(name, number, total)
            if launch.step == at and number == 2:
                what(launch)

        launch._eval_tick = tick  # type: ignore[method-assign]
        drive(launch)

    return loop


def only(out: Path) -> Path:
    """The one run directory in a folder."""
    (found,) = (file.parent for file in out.glob("*/run.json"))
    return found


@dataclass(frozen=True)
class End:
    """How a run ended: its newest checkpoint, and its log."""

    step: int
    tensors: dict[str, str]  # file/name -> sha256 of the bytes
    data: dict[str, Any]  # everything else that a checkpoint holds: ledger, meter, offsets
    log: bytes
    best: int | None  # step of the checkpoint that is named the best one
    files: dict[str, bytes]  # what evaluations and non-finite steps left

    def differs(self, other: End) -> list[str]:
        """What is not the same, in words; [] if nothing is."""
        found = [] if self.step == other.step else [f"step {self.step} != {other.step}"]
        for mine, others in ((self.tensors, other.tensors), (self.data, other.data)):
            for name in sorted(mine.keys() | others.keys()):
                if mine.get(name) != others.get(name):
                    found.append(f"{name}: {mine.get(name)} != {others.get(name)}")
        if self.best != other.best:
            found.append(f"best: {self.best} != {other.best}")
        if self.files != other.files:
            found.append(f"files: {self.files} != {other.files}")
        if self.log != other.log:
            found.append(f"log.jsonl:\n{self.log.decode()}\n---\n{other.log.decode()}")
        return found


def end_of(directory: Path) -> End:
    """Read how a run ended."""
    state = Checkpoints(Path(directory) / "checkpoints").load()
    assert state is not None
    tensors = {
        f"{stem}/{name}": hashlib.sha256(
            t.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for stem, part in state.tensors.items()
        for name, t in part.items()
    }
    directory = Path(directory)
    return End(
        state.step,
        tensors,
        {
            name: value for name, value in state.data.items() if name != "run"
        },  # which names the test's folders
        (directory / "log.jsonl").read_bytes(),
        Checkpoints(directory / "checkpoints").best(),
        {
            f.name: f.read_bytes()
            for f in (*directory.glob("evals/*.json"), *directory.glob("nonfinite.json"))
        },
    )


def rows(directory: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind of a run's log."""
    return [row for row in read(Path(directory) / "log.jsonl") if row["kind"] == kind]


@dataclass(frozen=True)
class Mixing(Small):
    """Small, with batches whose samples are mixed under the micro-batch's key, as mixup does."""

    def build(self) -> TaskModule:
        return SmallModule(self)

    def collate(self, samples: Any, key: int | None) -> Any:
        batch = super().collate(samples, key)
        assert isinstance(batch, Rows)
        if key is not None:
            draw = generator(key)
            share, order = float(draw.beta(0.4, 0.4)), torch.from_numpy(draw.permutation(len(batch)))
            batch.x = share * batch.x + (1 - share) * batch.x[order]
        return batch
