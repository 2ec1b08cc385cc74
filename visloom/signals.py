"""Signals: SIGTERM, SIGUSR1 and Ctrl-C ask the run to save and leave; a second Ctrl-C leaves at once.

A handler only sets a flag, which is looked at before each step. While the run waits (for data, in an evaluation)
its state is that of the last whole step, so there the handler ends the wait by an exception. Several processes must
leave at the same step, so there no wait is ended: they agree after a step (`agree`).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from visloom import dist
from visloom.errors import Preempted
from visloom.task import Batch

T = TypeVar("T")

ECHO = 2.0
"""Seconds within which a second SIGINT from torchrun is the first one again."""


class _Wake(BaseException):
    """Ends a wait; no `except Exception` of a data set or a metric may take it for a failure of its own."""


class Signals:
    """Context manager that catches the signals while it is open.

    asked: name of the first signal that came, or None.
    """

    names = ("SIGTERM", "SIGUSR1", "SIGINT")

    def __init__(self) -> None:
        self.asked: str | None = None
        self._alone = dist.world().size == 1
        self._agreed = self._alone
        self._waiting = False
        self._since = 0.0
        # torchrun passes a Ctrl-C on to processes that the terminal has sent it to already
        self._echo = ECHO if dist.job() is not None else 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in self.names:
                number = getattr(signal, name, None)
                if number is not None:  # SIGUSR1 does not exist on Windows
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        # one of several that leaves is asked again, by torchrun: it must come to say why, and with its own exit code
        leaving = not self._alone and (self.asked is not None or sys.exc_info()[0] is not None)
        for number, old in self._old.items():
            ignored = leaving and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else old)
        self._old.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self.asked == "SIGINT":
            if time.monotonic() - self._since < self._echo:
                return
            raise KeyboardInterrupt
        self.asked, self._since = name, time.monotonic()
        if self._waiting:
            self._waiting = False
            raise _Wake

    def agree(self) -> None:
        """Tell the other processes of a signal, and hear of theirs; all call it after the same step."""
        if not self._alone and dist.any_rank(self.asked is not None):
            self.asked = self.asked or "a signal to another process"
            self._agreed = True

    def check(self) -> None:
        """Raise Preempted if a signal came (and all processes know of it)."""
        if self.asked is not None and self._agreed:
            raise self._preempted()

    def wait(self, ask: Callable[[], T]) -> T:
        """Call `ask` while the state is that of the last whole step, and return what it returns.

        Raises:
            Preempted: a signal came meanwhile, or before: it must not wait for data that never comes.
        """
        try:
            try:
                self._waiting = self._alone
                self.check()
                return ask()
            finally:
                self._waiting = False
        except _Wake:
            raise self._preempted() from None

    def _preempted(self) -> Preempted:
        return Preempted(f"{self.asked} received")


class Interruptible:
    """A feed whose waits a signal may end."""

    def __init__(self, feed: Any, signals: Signals) -> None:
        self.feed, self.signals = feed, signals

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch of the feed."""
        return int(self.feed.steps_per_epoch)

    def open(self, start: int = 0) -> Iterator[Batch]:
        """Yield the feed's batches; between asking and getting, a signal raises Preempted."""
        batches = self.feed.open(start)
        try:
            while True:
                try:
                    batch = self.signals.wait(batches.__next__)
                except StopIteration:
                    return
                yield batch
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
