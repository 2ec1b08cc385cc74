"""Peers: what the processes of a job know of each other when one of them fails, dies or hangs.

An exchange that fails says only that it failed. The process it fails in then calls the roll: every process has a
thread that answers where its main thread is. Who does not answer is gone or stopped; who answers from elsewhere than
an exchange keeps the others waiting, and is named with the line it is at. A failure of a process's own is told by
that process, once; its consequences in the others are not told.

All of it goes through the store of the process group (one request a second when nothing is wrong).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from visloom.durable import alive
from visloom.errors import Preempted, ProcessLost, VisloomError

PULSE = 1.0
"""Seconds between two looks for a roll call."""
ANSWER = 5.0
"""Seconds that a process has to answer one."""
FIRST = 3.0
"""Seconds that other processes leave the first one to say what they would say too."""

_FAILED = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|broken pipe|socket|recvValue",
    re.IGNORECASE,
)
_EXCHANGES = {"all_reduce", "all_gather", "barrier", "broadcast", "all_gather_object", "_engine_run_backward"}
_TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parent)


@dataclass(frozen=True)
class Place:
    """Where a process is.

    waiting: its main thread is in an exchange with the others.  where: file, line and function.
    """

    rank: int
    pid: int
    host: str
    step: int = 0
    waiting: bool = False
    where: str = ""

    def __str__(self) -> str:
        return f"process {self.rank}" + (f" (pid {self.pid} on {self.host})" if self.pid else "")


def place_of(frame: FrameType | None) -> tuple[bool, str]:
    """Say whether a stack is in an exchange, and the innermost line that is not torch's: a user's, if there is one.

    The backward pass counts as an exchange: gradients travel in it.
    """
    waiting, nearest, own = False, "", ""
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        waiting = waiting or (name in _EXCHANGES and file.startswith(_TORCH))
        line = f"{file}:{frame.f_lineno} in {name}"
        library = file.startswith((_TORCH, sys.base_prefix, "<")) or "site-packages" in file
        if not library:
            nearest = nearest or line
            if not own and not file.startswith(_OWN):
                own = line
        frame = frame.f_back
    return waiting, own if own and not waiting else nearest


class Peers:
    """This process among the others, as seen through their store.

    Args:
        store: a connection of its own; the one of the process group may be busy waiting.
        rank, size: this process among all.
        patience: seconds that an exchange waits, for the message.
    """

    def __init__(self, store: Any, rank: int, size: int, patience: float) -> None:
        self.store, self.rank, self.size, self.patience = store, rank, size, patience
        self.others = [other for other in range(size) if other != rank]
        self.step = 0
        self._known: list[Place] = []
        self._main = threading.main_thread().ident
        self._over = threading.Event()
        store.set(f"who/{rank}", json.dumps(asdict(self._place())))
        self._thread = threading.Thread(target=self._answer, name="visloom-peers", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Answer no more."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * PULSE)
        atexit.unregister(self.close)

    def _place(self) -> Place:
        waiting, where = place_of(sys._current_frames().get(self._main or 0))
        return Place(self.rank, os.getpid(), platform.node(), self.step, waiting, where)

    def _answer(self) -> None:
        """Look for a roll call now and then, and answer it."""
        try:
            while not self._over.wait(PULSE):
                if self.store.check(["call"]):
                    self.store.set(f"at/{self.rank}", json.dumps(asdict(self._place())))
                    return
        except RuntimeError:
            return  # the store is gone, and with it whoever would ask

    # ----------------------------------------------------------------------------------------------- when it fails

    def tell_end(self, message: str) -> None:
        """Leave why this process ends, for the others."""
        try:
            self.store.set(f"end/{self.rank}", message)
        except RuntimeError:  # its owner has ended already
            return

    def meet(self) -> None:
        """Keep what every process said of itself, now that all have joined: the store may go with the first one."""
        names = [f"who/{rank}" for rank in range(self.size)]
        self._known = [Place(**json.loads(text)) for text in self.store.multi_get(names)]

    def who(self, rank: int) -> Place:
        """Return what a process said of itself when it joined; no process id if it did not yet."""
        if self._known:
            return self._known[rank]
        there = self.store.check([f"who/{rank}"])
        return Place(**json.loads(self.store.get(f"who/{rank}"))) if there else Place(rank, 0, "")

    def call(self) -> tuple[dict[int, str], dict[int, Place]]:
        """Call the roll; return what processes that failed by themselves left, and the answers of the others.

        Raises RuntimeError if the store is gone.
        """
        ends: dict[int, str] = {}
        answers: dict[int, Place] = {}
        self.store.set(f"at/{self.rank}", json.dumps(asdict(self._place()) | {"waiting": True}))
        self.store.set("call", str(self.rank))
        end = time.monotonic() + ANSWER
        missing, gone = set(self.others), False
        while missing and not gone and time.monotonic() < end:
            gone = all(_fate(self.who(rank)) == _GONE for rank in missing)  # then this is the last look
            for rank in self.others:
                if rank not in ends and self.store.check([f"end/{rank}"]):
                    ends[rank] = self.store.get(f"end/{rank}").decode()
                if rank not in answers and self.store.check([f"at/{rank}"]):
                    answers[rank] = Place(**json.loads(self.store.get(f"at/{rank}")))
            missing -= ends.keys() | answers.keys()
            time.sleep(0.05)
        return ends, answers

    def blame(self) -> ProcessLost:
        """Find out which process keeps this one from going on."""
        try:
            ends, answers = self.call()
            silent = [self.who(rank) for rank in self.others if rank not in answers]
        except RuntimeError:  # the first process keeps the store: it is gone, and it may not be the only one
            known = [place for place in self._known if place.rank != self.rank]
            gone = [place for place in known if place.rank == 0 or _fate(place) == _GONE]
            return ProcessLost(_told(gone or [Place(0, 0, "")]))
        if ends:
            rank, message = next(iter(ends.items()))
            return ProcessLost(f"process {rank} of {self.size} failed: {message}", told=True)
        if silent:
            return ProcessLost(_told(silent))
        hung = [each for each in answers.values() if not each.waiting]
        if not hung:  # all are in an exchange, but not all in the same one
            least = min(each.step for each in answers.values())
            hung = [each for each in answers.values() if each.step == least < self.step]
        places = " and ".join(f"{each} hangs after step {each.step} at {each.where}" for each in hung)
        if hung:
            return ProcessLost(f"{places}; the others waited {self.patience:g} s for it (host.rank_timeout)")
        places = "; ".join(f"{each} after step {each.step} at {each.where}" for each in answers.values())
        return ProcessLost(f"the processes wait for each other: {places}")


_GONE = "is gone: something killed it (the system, if memory ran out)"


def _told(silent: Sequence[Place]) -> str:
    return " and ".join(f"{each} {_fate(each)}" for each in silent)


def _fate(place: Place) -> str:
    """What became of a process that does not answer, as far as this machine can know."""
    if not place.pid:
        return "never joined"
    if place.host != platform.node():
        return "does not answer: it is gone, or its machine cannot be reached"
    try:
        state = Path(f"/proc/{place.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no such process, or no such folder
        return "does not answer" if alive(place.pid) else _GONE
    return {"Z": _GONE, "X": _GONE, "T": "is stopped", "t": "is stopped"}.get(state, "does not answer")


# -------------------------------------------------------------------------------------------------- this process's


_peers: Peers | None = None


def join(store: Any, rank: int, size: int, patience: float) -> Peers:
    """Begin to answer roll calls."""
    global _peers
    _peers = Peers(store, rank, size, patience)
    return _peers


def leave() -> None:
    """Answer no more: the process group ends."""
    global _peers
    if _peers is not None:
        _peers.close()
        _peers = None


def note(step: int) -> None:
    """Keep the number of updates done, for a roll call."""
    if _peers is not None:
        _peers.step = step


@dataclass
class Watch:
    """What is to be said besides when a process is lost."""

    advice: str = ""


@contextmanager
def watched() -> Iterator[Watch]:
    """Turn a failed exchange into a ProcessLost that names who is to blame, and tell the others of failures here."""
    watch = Watch()
    try:
        yield watch
    except (Preempted, ProcessLost):  # all leave together; it is explained already
        raise
    except Exception as error:
        if _peers is None:
            raise
        if isinstance(error, VisloomError) or not failed_exchange(error):
            _peers.tell_end((str(error).strip() or type(error).__name__).splitlines()[0])
            raise
        lost = _peers.blame()
        raise ProcessLost(f"{lost}. {watch.advice}".rstrip(". "), told=lost.told) from error


def failed_exchange(error: BaseException) -> bool:
    """Say whether an error is that of an exchange between processes."""
    kinds: tuple[type[BaseException], ...] = (torch.distributed.DistError,)
    return isinstance(error, kinds) or (type(error) is RuntimeError and bool(_FAILED.search(str(error))))


# ------------------------------------------------------------------------------------- what is said, and how often


def first_to_say(message: str, *, once: bool = False, environment: Mapping[str, str] = os.environ) -> str:
    """Return what this process is to print of a message, "" if another one prints it.

    For processes that torchrun started: no launcher of ours listens to all of them. The first process goes first;
    what only another one says carries its number. `once`: all leave for one reason, whatever their words are.
    """
    rank, size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    own = message if rank == 0 else f"[process {rank} of {size}] {message}"
    if size == 1 or (once and rank == 0):
        return message
    if once:
        return ""
    try:
        store: Any = connect(environment, timedelta(seconds=FIRST))
        key = f"said/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_digest(message)}"
        if rank:
            end = time.monotonic() + FIRST
            while time.monotonic() < end and not store.check([key]):
                time.sleep(0.05)
        return own if store.add(key, 1) == 1 else ""
    except (RuntimeError, KeyError, ValueError):  # nobody keeps a store (any more)
        return own


def _digest(message: str) -> str:
    """The same for messages that differ in their process alone."""
    return hashlib.sha256(re.sub(r"\bprocess \d+|\bpid \d+|cuda:\d+", "", message).encode()).hexdigest()[:16]


def connect(environment: Mapping[str, str], timeout: timedelta, *, serve: bool = False) -> Any:
    """Return a connection to the store that MASTER_ADDR and MASTER_PORT name; `serve`: this process keeps it."""
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=serve, timeout=timeout,
        wait_for_workers=False,
    )  # fmt: skip
