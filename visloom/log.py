"""Teller: everything a run tells people, in one place: console, log.txt, log.jsonl, speed.jsonl, TensorBoard.

The driver calls it with plain numbers; it never touches a tensor. `tick(step)` is called once per step and
costs a look at the clock. Nothing here may stop training: a full disk or a terminal that went away is told
once.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from visloom import __version__, console, words
from visloom.console import Kind, OnScreen, Screen
from visloom.errors import UsageError
from visloom.live import Block, Point, cells, with_sum
from visloom.logfiles import Board, Lines, LogText, read
from visloom.units import Monitor
from visloom.words import Line, duration, number, rate, safe

__all__ = ["Point", "Teller", "is_drop", "read"]

_REDRAW = 0.2  # seconds between two pictures of the live block
_SLOW_STAGE = 0.5  # seconds from which on a stage of the set-up says how long it took

_logger = logging.getLogger("visloom")


def is_drop(before: float, old: float, new: float) -> bool:
    """Say whether a learning rate falls by a step: it stayed put (before == old) and now loses 10 % or more.

    A smooth schedule also falls by 10 % a step near its end; it does not stay put first.
    """
    return before == old and new <= 0.9 * old < old


def _cpu_clock() -> float:
    """CPU time of this process, and of its data workers and other children that have ended, in seconds."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


class Teller:
    """Tells the story of one run, from rank 0; the other ranks hold `Teller.silent()`.

    Args:
        directory: the run directory, which exists; None writes no file.
        total: updates of the whole run.
        steps_per_epoch: updates in one epoch.
        batch: samples of one update.
        level: debug, info, warning or error: what the console shows. log.txt holds info in any case.
        tensorboard: write TensorBoard event files.
        screen: a screen, or which kind ("auto" looks at standard output).
        clock: seconds, for durations.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        total: int,
        steps_per_epoch: int,
        batch: int,
        level: str = "info",
        tensorboard: bool = True,
        screen: Screen | Kind = "auto",
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = _cpu_clock,
    ) -> None:
        self.directory, self._clock, self._level = directory, clock, _level(level)
        self.total, self.steps_per_epoch, self.batch = total, steps_per_epoch, batch
        self._screen = console.choose(screen) if isinstance(screen, str) else screen
        self._live = self._screen.live and self._level <= logging.INFO
        self._block = Block(self._screen, total=total, steps_per_epoch=steps_per_epoch, batch=batch)
        self._cpu_clock, self._cpu_opened = cpu_clock, cpu_clock()
        self._opened = clock()
        self._done = self._start = 0  # updates done; and when this process took over
        self._first: tuple[int, float] | None = None  # step and clock at the first tick: the base of the ETA
        self._next = -math.inf  # clock of the next picture of the live block
        self._stage: tuple[str, float] | None = None
        self._seen: dict[str, Mapping[str, float]] = {}  # last values by evaluation
        self._best: tuple[str, str, float, int] | None = None  # evaluation, value's name, value, step
        self._trained, self._training = 0, 0.0  # updates and seconds of training, of this process
        self._window = (0, 0)  # the last log point: its step, and how many updates it told of
        self._baseline = ""
        self._closed = False
        self._old_level = _logger.level
        self._handlers: list[logging.Handler] = [OnScreen(self._screen, self._level)]
        self._log: Lines | None = None
        self._speed: Lines | None = None
        self._board: Board | None = None
        if directory is not None:
            self._handlers.append(LogText(directory / "log.txt", self._warn_screen))
        for handler in self._handlers:
            _logger.addHandler(handler)
        _logger.setLevel(min(self._level, logging.INFO) if directory is not None else self._level)
        if directory is not None:
            self._log = Lines(directory / "log.jsonl", self.warn)
            self._speed = Lines(directory / "speed.jsonl", self.warn)
            self._board = Board(directory / "tensorboard", self.warn) if tensorboard else None

    @classmethod
    def silent(cls) -> Self:
        """Return one that says and writes nothing, for the ranks other than 0."""
        return cls(None, total=1, steps_per_epoch=1, batch=1, level="error", screen="off")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back and close every file. Closing twice is allowed."""
        if self._closed:
            return
        self._end_stage()
        self._closed = True
        if self._first is not None:
            self._pace("end", self._done)
        self._screen.close()
        for file in (self._log, self._speed, self._board):
            if file is not None:
                file.close()
        for handler in self._handlers:
            _logger.removeHandler(handler)
            handler.close()
        _logger.setLevel(self._old_level)

    # ------------------------------------------------------------------------------------------------ set-up

    def header(self, title: str, rows: Mapping[str, object]) -> None:
        """Write the start header: a title and aligned rows; the run's length and what is shown are added."""
        self._end_stage()
        more = {
            "length": f"{self.epoch(self.total):.4g} epochs = {self.total:,} steps of {self.batch:,} samples "
            f"(1 epoch = {self.steps_per_epoch:,} steps)",
            "shown": "means since the last log point; at an epoch's end over the epoch",
        }
        self._tell([(f"visloom {__version__}  ", "dim"), (safe(title), "bold")])
        self._rows({**rows, **more})

    def stage(self, text: str) -> None:
        """Say what the set-up does now. A stage that took over half a second says so when it is over."""
        self._end_stage()
        self._stage = (safe(text), self._clock())
        if self._live:
            self._screen.draw([[(f"  {self._stage[0]} ...", "dim")]])
        else:
            self._tell([(f"  {self._stage[0]} ...", "")])

    def _end_stage(self) -> None:
        if self._stage is None:
            return
        (text, began), self._stage = self._stage, None
        took = self._clock() - began
        if self._live:
            self._screen.draw([])
            self._tell([(f"  {text}", ""), (f"  {duration(took)}" if took > _SLOW_STAGE else "", "dim")])
        elif took > _SLOW_STAGE:
            self._tell([(f"  {text}: {duration(took)}", "")])

    def resume(self, step: int, offset: int) -> None:
        """Go on after update `step`, at the start or in mid-run: cuts log.jsonl at the checkpoint's byte offset."""
        self._done = self._start = step
        if self._log is not None:
            self._log.cut(offset)
            for row in read(self._log.path, strict=False) if self._log.path.exists() else []:
                self._recall(row)
        if self._board is not None:
            self._board.restart(step)
        if self._first is not None:  # a return to a checkpoint, in mid-run
            self._first = (step, self._clock())
        if step:
            self.say(f"resumed after step {step:,} of {self.total:,} (epoch {self.epoch(step):.2f})")

    def _recall(self, row: Mapping[str, Any]) -> None:
        values = row.get("values", {})
        if row.get("kind") == "train" and "loss" in values:
            self._block.recent.append(values["loss"])
        elif row.get("kind") == "eval":
            self._seen[row["split"]] = values
            if row.get("best"):
                name = Monitor.parse(row["monitor"]).name.removeprefix(f"{row['split']}/")
                self._best = (row["split"], name, values[name], row["step"])

    # ---------------------------------------------------------------------------------------------- messages

    def say(self, text: str) -> None:
        """Write a line."""
        for line in text.splitlines():
            self._tell([(safe(line), "")])

    def warn(self, text: str) -> None:
        """Write a warning; further lines of the text are indented."""
        self._warn_lines(text, file=True)

    def _warn_screen(self, text: str) -> None:
        self._warn_lines(text, file=False)

    def _warn_lines(self, text: str, file: bool) -> None:
        for place, line in enumerate(text.splitlines()):
            start = "warning: " if place == 0 else "         "
            self._tell([(start, "warn"), (safe(line), "")], logging.WARNING, file=file)

    def skipped(self, step: int, steps: Sequence[int], why: str) -> None:
        """Say which updates (1-based) were passed over, known at `step`, and why. They enter log.jsonl."""
        shown = ", ".join(str(s) for s in steps[:8]) + (
            f" and {len(steps) - 8} more" if len(steps) > 8 else ""
        )
        self._record("skipped", "train", step, steps=list(steps))
        self.warn(f"step {step:,}: passed over {len(steps)} update(s) ({shown}): {why}")

    def lr_drop(self, step: int, old: float, new: float) -> None:
        """Say that the learning rate falls by a step after update `step` (see `is_drop`)."""
        where = f"  after step {step:,} (epoch {self.epoch(step):.2f})"
        self._tell([("  learning rate ", ""), (f"{rate(old)} -> {rate(new)}", "bold"), (where, "dim")])

    def saved(self, step: int, path: Path, seconds: float) -> None:
        """Say that a checkpoint is on the disk. May be called from the thread that wrote it."""
        line = [(f"  saved {safe(path.name)}  {duration(seconds)}", "dim")]
        self._tell(line, screen=not self._live)  # a terminal would fill with these
        self._pace("save", step, seconds=seconds)

    # ----------------------------------------------------------------------------------------------- training

    def epoch(self, step: int) -> float:
        """Return a number of updates in epochs."""
        return step / self.steps_per_epoch

    def tick(self, step: int) -> None:
        """Note that an update is done. Call it every step: nearly always it only looks at the clock (0.1 us)."""
        if self._clock() < self._next:
            return
        self._begin(step)
        self._next = self._clock() + _REDRAW if self._live else math.inf
        if self._live:
            self._block.training(step, self._eta(step))

    def _begin(self, step: int) -> None:
        if self._first is None:
            self._end_stage()
            self._first = (step, self._clock())
            setup = self._first[1] - self._opened
            self._pace("start", self._start, setup=setup, host=socket.gethostname(), pid=os.getpid())

    def working(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show on a terminal what else the run does, an evaluation say; with a bar if `total` is known."""
        if self._live and (self._clock() >= self._next or done in (0, total)):
            self._end_stage()
            self._next = self._clock() + _REDRAW
            self._block.working(what, done, total)

    def point(self, point: Point) -> None:
        """Tell a log point: a row in log.jsonl and in speed.jsonl, TensorBoard, and the console."""
        self._begin(point.step)
        self._done = point.step
        self._window = (point.step, point.steps)
        self._trained += point.steps
        self._training += point.seconds
        self._block.take(point)
        drawn = {"drawn": dict(point.drawn)} if point.drawn else {}
        self._record("train", "train", point.step, values=point.values, lr=dict(point.lrs), **drawn)
        pace = {"images_per_second": point.images_per_second(self.batch), "wait_share": point.wait_share}
        if point.memory is not None:
            pace["memory_bytes"] = point.memory
        self._pace("point", point.step, steps=point.steps, seconds=point.seconds, **pace)
        for group, values in (("train", point.values), ("lr", point.lrs), ("speed", pace)):
            self._scalars(group, values, point.step)
        shown: list[Line] = [[(f"step {point.step}/{self.total}  epoch {self.epoch(point.step):.2f}", "")]]
        shown += cells(point, self.batch)
        if point.step < self.total:
            shown.append([(f"eta {self._eta(point.step)}", "")])
        joined = [piece for one in shown for piece in (*one, ("  ", ""))]
        self._tell(joined, screen=not self._live)
        if self._live:
            self._block.training(point.step, self._eta(point.step))

    def epoch_end(self, step: int, losses: Mapping[str, float], logs: Mapping[str, float]) -> None:
        """Tell the means over the epoch that ended with update `step`."""
        values = {**with_sum(losses), **logs}
        self._record("epoch", "train", step, values=values)
        self._scalars("train_epoch", values, step)
        if self._window == (step, self.steps_per_epoch):
            return  # the log point told the same means one line above
        shown = [words.cell(n.removeprefix("loss/"), number(v)) for n, v in values.items()]
        head = f"  {'train':<6}epoch {self.epoch(step):.2f}  "
        for line in words.flow(shown, self._screen.width, head, " " * len(head)):
            self._tell(line)

    def evaluation(
        self,
        name: str,
        step: int,
        values: Mapping[str, float],
        *,
        monitor: Monitor | None = None,
        best: bool = False,
        seconds: float = 0.0,
        baseline: tuple[str, float] | None = None,
    ) -> None:
        """Tell what an evaluation found, on one line if it fits and as a table if not.

        monitor: the value that decides, if this evaluation has it (`max accuracy` or `max val/accuracy`);
        best: it is the best so far.
        baseline: what a predictor that learnt nothing reaches in that value: ("majority class", 0.1).
        """
        decides = {"monitor": str(monitor), "best": best} if monitor else {}
        self._record("eval", name, step, values=dict(values), **decides)
        self._pace("eval", step, split=name, seconds=seconds)
        self._scalars(name, values, step)
        before, self._seen[name] = self._seen.get(name, {}), dict(values)
        decisive = monitor.name.removeprefix(f"{name}/") if monitor else ""
        if best and decisive in values:
            self._best = (name, decisive, values[decisive], step)
        if baseline:
            self._baseline = f"{safe(baseline[0])} {number(baseline[1])}"
        bare = words.without_labels(values)
        order = sorted(
            (n for n in values if n not in bare), key=lambda n: n != decisive
        )  # what decides first
        rows = [
            (safe(n), number(values[n]), f"{values[n] - before[n]:+.4f}" if n in before else "")
            for n in order
        ]
        if decisive in values and decisive not in bare:
            rows[0] = (*rows[0][:2], self._verdict(best, first=not before))
        self._table(f"  {safe(name) + ' ':<6}epoch {self.epoch(step):.2f}  ", rows, duration(seconds))
        for line in words.bare(bare, self._screen.width):
            self._tell(line)

    def _verdict(self, best: bool, first: bool) -> str:
        if best:
            return f"best ({self._baseline})" if first and self._baseline else "best"
        return f"(best {number(self._best[2])} at {self.epoch(self._best[3]):.2f})" if self._best else ""

    def pictures(self, name: str, step: int, image: Any) -> None:
        """Put a grid of predictions, a PIL image or (H, W, 3) uint8 RGB, into TensorBoard."""
        if self._board is not None:
            self._board.picture(f"{name}/predictions", image, step)

    # --------------------------------------------------------------------------------------------------- end

    def offset(self) -> int:
        """Return the size of log.jsonl, in bytes that are safe on the disk: what a checkpoint remembers."""
        return self._log.offset() if self._log is not None else 0

    def report(self) -> Path | None:
        """Write report.html and return its path. A report that fails is told, and never stops a run."""
        if self.directory is None:
            return None
        self._pace("report", self._done)  # the page shows what was spent up to here
        try:
            from visloom.report.page import write_report

            path: Path = write_report(self.directory)
            return path
        except Exception as error:  # the weights matter more than a page about them
            self.warn(f"no report: {type(error).__name__}: {error}; log.txt has the place")
            _logger.info("the report failed here", exc_info=True, extra={"told": True})
        return None

    def cpu_seconds(self) -> float:
        """Return the CPU time that this process has spent since set-up began, with its data workers that ended."""
        return self._cpu_clock() - self._cpu_opened

    def closing(self, paths: Mapping[str, object], next_command: str) -> None:
        """Write the closing lines: how long, how fast, the best value, where things are, what comes next."""
        self._end_stage()
        self._screen.draw([])
        word = "done" if self._done >= self.total else "stopped"
        text = f"{self.epoch(self._done):.4g} epochs ({self._done:,} steps)"
        text += f" in {duration(self._clock() - self._opened)}, {duration(self.cpu_seconds())} of CPU"
        if self._training > 0:
            text += f", {words.speed(self._trained * self.batch / self._training)} img/s"
        self._tell([(word, "bold"), ("  " + text, "")])
        best = {}
        if self._best:
            split, name, value, step = self._best
            against = f"; {self._baseline}" if self._baseline else ""
            best["best"] = f"{split} {name} {number(value)} at epoch {self.epoch(step):.2f}{against}"
        self._rows({**best, **paths, "next": next_command}, wrap=False)  # to be copied

    # ------------------------------------------------------------------------------------------ where it goes

    def _record(self, kind: str, split: str, step: int, **content: Any) -> None:
        if self._log is not None:
            self._log.add({"kind": kind, "split": split, "step": step, "epoch": self.epoch(step), **content})

    def _pace(self, kind: str, step: int, **content: Any) -> None:
        if self._speed is not None:
            spent = round(self.cpu_seconds(), 2)
            self._speed.add(
                {"kind": kind, "step": step, "time": time.time(), "cpu_seconds": spent, **content}
            )

    def _scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            self._board.scalars({f"{group}/{name}": value for name, value in values.items()}, step)

    def _tell(self, line: Line, level: int = logging.INFO, *, screen: bool = True, file: bool = True) -> None:
        if screen and level >= self._level:
            self._screen.line(line)
        if file:
            _logger.log(level, "%s", "".join(text for text, _ in line).rstrip(), extra={"told": True})

    def _rows(self, rows: Mapping[str, object], wrap: bool = True) -> None:
        names = max(len(safe(name)) for name in rows)
        room = max(self._screen.width - names - 4, 20)
        for name, value in rows.items():
            parts = [safe(value)]
            if wrap:
                parts = textwrap.wrap(parts[0], room, break_long_words=False, break_on_hyphens=False)
            for place, part in enumerate(parts or [""]):
                self._tell([(f"  {safe(name) if place == 0 else '':<{names}}  ", "dim"), (part, "")])

    def _table(self, head: str, rows: Sequence[tuple[str, str, str]], after: str) -> None:
        line = [words.cell(n, v, note) for n, v, note in rows]
        lines = words.flow([*line, [(after, "dim")]], self._screen.width, head)
        if len(lines) > 1:
            lines = [[(head, ""), (after, "dim")], *words.grid(rows, self._screen.width, 4)]
        for one in lines:
            self._tell(one)

    def _eta(self, step: int) -> str:
        if self._first is None or step <= self._first[0]:
            return "?"
        pace = (self._clock() - self._first[1]) / (step - self._first[0])
        return duration(pace * (self.total - step))


def _level(name: str) -> int:
    levels = {
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
    }
    if name not in levels:
        raise UsageError(f"--log-level is one of {', '.join(levels)}, got {name!r}")
    return levels[name]
