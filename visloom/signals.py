"""Signals: SIGTERM, SIGUSR1 and Ctrl-C ask the run to save and leave; a second Ctrl-C leaves at once.

A handler only sets a flag, which the loop reads after each step. While the run waits (for data, in an evaluation)
its state is that of the last whole step, so there the handler ends the wait by an exception.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from visloom.errors import Preempted
from visloom.task import Batch


class Signals:
    """Context manager that catches the signals while it is open.

    asked: name of the first signal that came, or None.  waiting: True while an exception may end the wait.
    """

    names = ("SIGTERM", "SIGUSR1", "SIGINT")

    def __init__(self) -> None:
        self.asked: str | None = None
        self.waiting = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in self.names:
                number = getattr(signal, name, None)
                if number is not None:  # SIGUSR1 does not exist on Windows
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self.asked == "SIGINT":
            raise KeyboardInterrupt
        self.asked = name
        if self.waiting:
            self.waiting = False
            raise Preempted(f"{name} received")

    def check(self) -> None:
        """Raise Preempted if a signal came."""
        if self.asked is not None:
            raise Preempted(f"{self.asked} received")


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
        signals = self.signals
        try:
            while True:
                signals.waiting = True
                try:
                    signals.check()  # one that came a moment ago must not wait for data that never comes
                    batch = next(batches)
                except StopIteration:
                    return
                finally:
                    signals.waiting = False
                yield batch
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
