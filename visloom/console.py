"""The console: permanent lines and one live block on a terminal, plain lines everywhere else.

`Plain` writes the texts of a line as they are; `Terminal` colours them through rich and keeps the live block
below.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from visloom.words import Line, safe

_STYLES = {"": "", "bold": "bold", "dim": "dim", "good": "green", "warn": "yellow", "bad": "bold red"}


class Screen(Protocol):
    """Where lines go. live: the live block is shown.  fancy: block characters can be shown."""

    live: bool
    fancy: bool

    @property
    def width(self) -> int:
        """Columns that a line may take."""
        ...

    def line(self, line: Line) -> None:
        """Write a line that stays."""
        ...

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines as the live block, in place of the ones before."""
        ...

    def close(self) -> None:
        """Take the live block away and give the terminal back."""
        ...


class Mute:
    """Says nothing."""

    live = fancy = False
    width = 80

    def line(self, line: Line) -> None:
        """Drop the line."""

    def draw(self, lines: Sequence[Line]) -> None:
        """Drop the block."""

    def close(self) -> None:
        """Nothing to give back."""


class Plain:
    """Plain lines on a stream (standard output if None), each flushed: for pipes, files and batch systems.

    A reader that went away (`| head`) or a full disk silences the screen; the run goes on.
    """

    live = fancy = False
    width = 80

    def __init__(self, stream: Any = None) -> None:
        self._stream, self._broken, self._lock = stream, False, threading.Lock()

    def line(self, line: Line) -> None:
        """Write a line; what the stream's encoding cannot say is escaped."""
        if self._broken:
            return
        stream = self._stream if self._stream is not None else sys.stdout
        text = "".join(text for text, _ in line).rstrip()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            with self._lock:
                stream.write(text + "\n")
                stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._broken = True

    def draw(self, lines: Sequence[Line]) -> None:
        """Drop the block: what it shows comes as lines, at log points."""

    def close(self) -> None:
        """Nothing to give back: the stream is not ours."""


class Terminal:
    """Coloured lines above a live block, through rich; NO_COLOR takes the colours away.

    The cursor stays visible, so that a process that is killed leaves the terminal as it was.
    """

    live = True

    def __init__(self, stream: Any = None) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, soft_wrap=False)
        self._block: Any = None
        self._broken = False
        # Bars and block characters need an encoding that has them.
        self.fancy = (self._console.encoding or "").lower().startswith("utf")

    @property
    def width(self) -> int:
        """Columns of the terminal now; it may be resized."""
        return max(20, self._console.width)

    def line(self, line: Line) -> None:
        """Write a line above the live block."""
        if self._broken:
            return
        try:
            self._console.print(self._text(line), soft_wrap=True)
        except (OSError, ValueError):
            self._broken = True

    def draw(self, lines: Sequence[Line]) -> None:
        """Show the block; no lines take it away."""
        if self._broken:
            return
        from rich.console import Group

        room = max(1, self._console.height - 2)
        texts = [self._text(line, one_line=True) for line in lines[:room]]
        try:
            if self._block is None:
                if not texts:
                    return
                self._block = self._open()
            self._block.update(Group(*texts), refresh=True)
        except (OSError, ValueError):
            self._broken = True

    def close(self) -> None:
        """Take the live block away."""
        block, self._block = self._block, None
        if block is not None:
            try:
                block.stop()
            except (OSError, ValueError):
                self._broken = True

    def _open(self) -> Any:
        from rich.live import Live

        block = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        block.start()
        self._console.show_cursor(True)
        return block

    def _text(self, line: Line, one_line: bool = False) -> Any:
        from rich.text import Text

        text = Text(no_wrap=one_line, overflow="ellipsis" if self.fancy else "crop", end="\n")
        encoding = self._console.encoding or "utf-8"
        for piece, style in line:
            text.append(piece.encode(encoding, "backslashreplace").decode(encoding), _STYLES[style])
        return text


Kind = Literal["auto", "plain", "terminal", "off"]


def choose(kind: Kind = "auto") -> Screen:
    """Return the screen of that kind; "auto" is a terminal if standard output is a capable one."""
    if kind == "off":
        return Mute()
    if kind == "auto":
        terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        kind = "terminal" if terminal else "plain"
    return Terminal() if kind == "terminal" else Plain()


class OnScreen(logging.Handler):
    """Shows what other parts log, above the live block; records marked `told` are there already."""

    def __init__(self, screen: Screen, level: int) -> None:
        super().__init__(level)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, its level before it unless it is plain information."""
        if getattr(record, "told", False):
            return
        style = {logging.WARNING: "warn", logging.ERROR: "bad", logging.CRITICAL: "bad"}.get(
            record.levelno, ""
        )
        start = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        for place, line in enumerate(record.getMessage().splitlines()):
            head = start if place == 0 else " " * len(start)
            self._screen.line([(head, style), (safe(line), "")])
