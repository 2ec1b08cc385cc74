"""Launcher: `--nproc N` starts the same command in N processes of this machine, one per device.

Each process gets the environment that torchrun would give it (RANK, WORLD_SIZE, MASTER_PORT, ...). Signals are
passed on to all of them, so that they save and leave together; the exit code is that of the job, and what went
wrong is said once. For several machines, or restarts by themselves: `torchrun ... -m visloom train ...`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from visloom.errors import Preempted, ProcessLost, UsageError

GRACE = 20.0
"""Seconds that the other processes have to leave by themselves once one has failed: they call the roll first."""

_FOLDER = "VISLOOM_LAUNCH"  # where processes leave their last word; set means: started by `launch`
_POLL = 0.05
_PASSED_ON = ("SIGTERM", "SIGINT", "SIGUSR1")
_GOOD = (0, Preempted.exit_code)


@dataclass(frozen=True)
class LastWord:
    """How one process ended: its exit code, and what it would have printed."""

    rank: int
    code: int
    message: str = ""


def choose_gpus(text: str) -> int:
    """Show only some GPUs to this process and its children (`--gpus 0,2`); returns how many.

    Raises UsageError if the text is no list of numbers. Must come before CUDA starts.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text) or len(set(text.split(","))) < len(text.split(",")):
        raise UsageError(f"--gpus is a list of different GPU numbers such as 0,2, got {text!r}")
    os.environ["CUDA_VISIBLE_DEVICES"] = text
    return len(text.split(","))


def launch(count: int, argv: Sequence[str]) -> LastWord:
    """Run `visloom ARGV` in `count` processes; returns the last word of the job: its code and message."""
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="visloom-launch-") as folder:
        try:
            with _passing_on(started):
                port = _free_port()
                for rank in range(count):
                    started.append(_start(rank, count, argv, port, folder))
                _wait(started)
        finally:
            late = [rank for rank, process in enumerate(started) if process.poll() is None]
            for rank in late:
                started[rank].kill()
            for process in started:
                process.wait()
        return judge([_last_word(Path(folder), rank, p, rank in late) for rank, p in enumerate(started)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(rank: int, count: int, argv: Sequence[str], port: int, folder: str) -> subprocess.Popen[bytes]:
    """Start one process, in a session of its own: Ctrl-C reaches it once, from here."""
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # warnings of lost connections come with stacks of C++; they are told in words
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        _FOLDER: folder,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "visloom", *argv],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextmanager
def _passing_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass signals on to every process while the job runs."""

    def handle(number: int, frame: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    old = {n: signal.signal(getattr(signal, n), handle) for n in _PASSED_ON if hasattr(signal, n)}
    try:
        yield
    finally:
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for all; once one has failed, the others have GRACE seconds: they may wait for it for ever."""
    end: float | None = None
    while any(process.poll() is None for process in started):
        if end is None and any(process.poll() not in (None, *_GOOD) for process in started):
            end = time.monotonic() + GRACE
        if end is not None and time.monotonic() > end:
            return
        time.sleep(_POLL)


def _last_word(folder: Path, rank: int, process: subprocess.Popen[bytes], late: bool) -> LastWord:
    """Read what a process left; one that was late counts all the same, for it may only have been slow to end."""
    try:
        left = json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
        return LastWord(rank, int(left["code"]), str(left["message"]))
    except (OSError, ValueError):  # it ended without a word
        code = process.returncode
    if code >= 0 or late:  # killed from here, which explains nothing
        return LastWord(rank, code if code >= 0 else 128 - code)
    name = signal.Signals(-code).name
    return LastWord(rank, 128 - code, f"process {rank} was ended by {name}")


def judge(words: Sequence[LastWord]) -> LastWord:
    """Return the last word of a job: that of the first process with something to say.

    One that failed by itself comes before those that were ended because of it; one that names a lost process before
    the way in which that one ended.
    """
    failed = [word for word in words if word.code not in _GOOD]
    if failed:
        chosen = min(failed, key=_rank_of_cause)
        lost = chosen.code == ProcessLost.exit_code  # it names the process already
        alone = len({w.message for w in failed if w.code < 128}) > 1 and not lost
        where = f"[process {chosen.rank} of {len(words)}] " if alone and chosen.rank else ""
        return LastWord(chosen.rank, chosen.code, where + chosen.message)
    preempted = [word for word in words if word.code]
    return preempted[0] if preempted else LastWord(0, 0)


def _rank_of_cause(word: LastWord) -> int:
    """0 for what a process failed by itself, more for what may be a consequence of another one's end."""
    if word.code < 128 and word.code not in (1, ProcessLost.exit_code):
        return 0
    if word.code == 1:
        return 1
    return (2 if word.code == ProcessLost.exit_code else 3) if word.message else 4


# ------------------------------------------------------------------------------------------- in each process


def launched() -> bool:
    """Say whether this process was started by `launch`."""
    return _FOLDER in os.environ


def tie_to_parent() -> None:
    """Ask the system to end this process when the launcher dies (Linux): nobody would stop it any more."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            raise SystemExit(Preempted.exit_code)


def leave_word(code: int, message: str) -> None:
    """Leave this process's last word for the launcher, which says it once for all processes."""
    file = Path(os.environ[_FOLDER], f"rank-{os.environ.get('RANK', '0')}.json")
    file.write_text(json.dumps({"code": code, "message": message}), encoding="utf-8")
