"""How a log point looks: as one plain line, and as the live block of a terminal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from visloom import words
from visloom.console import Screen
from visloom.durable import size_text
from visloom.words import Line, Piece, cell, number, rate

_WAITING = 0.2  # share of time spent waiting for data from which on it is shown in yellow
_SOURCES = 4  # most sources whose counts a line has room for
_ROWS = 5  # most lines of values in the live block


@dataclass(frozen=True, kw_only=True)
class Point:
    """What there is to tell at a log point. All values are means over the steps since the last one.

    step: updates done.  losses: loss terms by name; their sum is shown as `loss`.  logs: training metrics.
    lrs: learning rate by rule.  extra: further numbers that the run alone decides (gradient norm, ...).
    steps, seconds, waited: updates since the last log point, the seconds of training they took (without
    evaluations and saves) and how many of those were spent waiting for data.  memory: peak bytes, or None.
    drawn: how often each source was drawn since the beginning, where steps or samples are drawn from several.
    """

    step: int
    losses: Mapping[str, float]
    logs: Mapping[str, float] = field(default_factory=dict)
    lrs: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    steps: int
    seconds: float
    waited: float = 0.0
    memory: int | None = None
    drawn: Mapping[str, int] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """Every value under the name that it has in log.jsonl."""
        return {**with_sum(self.losses), **self.logs, **self.extra}

    @property
    def wait_share(self) -> float:
        """Share of the time that was spent waiting for data, in [0, 1]."""
        return min(1.0, self.waited / self.seconds) if self.seconds > 0 else 0.0

    def images_per_second(self, batch: int) -> float:
        """Samples per second of training, for a batch of that size."""
        return self.steps * batch / self.seconds if self.seconds > 0 else 0.0


def with_sum(losses: Mapping[str, float]) -> dict[str, float]:
    """Name loss terms as evaluations do: `loss` is their sum, `loss/NAME` each one if there are several."""
    total = math.fsum(losses.values()) if all(map(math.isfinite, losses.values())) else sum(losses.values())
    return {"loss": total, **({f"loss/{n}": v for n, v in losses.items()} if len(losses) > 1 else {})}


def cells(point: Point, batch: int) -> list[Line]:
    """Return the values of a log point as cells: losses, metrics, learning rates, speed, waiting, memory."""
    found: list[Line] = [cell(n.removeprefix("loss/"), number(v)) for n, v in point.values.items()]
    rates: dict[str, list[str]] = {}
    for name, lr in point.lrs.items():  # rules that share a rate share a cell
        rates.setdefault(rate(lr), []).append(name)
    for shown, names in rates.items():
        found.append(cell("lr" if len(rates) == 1 else f"lr.{','.join(names)}", shown))
    if 0 < len(point.drawn) <= _SOURCES:
        found.append(cell("drawn", "+".join(f"{count:,}" for count in point.drawn.values())))
    found.append([(words.speed(point.images_per_second(batch)), ""), (" img/s", "dim")])
    wait = point.wait_share
    found.append([("wait ", "dim"), (f"{100 * wait:.0f}%", "warn" if wait >= _WAITING else "")])
    if point.memory is not None:
        found.append([(size_text(point.memory), "")])
    return found


class Block:
    """The live block: a progress bar, the values of the last log point, and the course of the loss."""

    def __init__(self, screen: Screen, *, total: int, steps_per_epoch: int, batch: int) -> None:
        self._screen, self._total, self._steps_per_epoch, self._batch = screen, total, steps_per_epoch, batch
        self.recent: deque[float] = deque(maxlen=200)
        self._last: Point | None = None

    def take(self, point: Point) -> None:
        """Show the values of this log point from now on."""
        self._last = point
        self.recent.append(point.values["loss"])

    def training(self, step: int, eta: str) -> None:
        """Draw the block after update `step`."""
        head = f" epoch {step / self._steps_per_epoch:.2f}/{self._total / self._steps_per_epoch:.4g} "
        self._draw(head, step, self._total, f" {step:,}/{self._total:,}  eta {eta}")

    def working(self, what: str, done: int, total: int) -> None:
        """Draw the block while the run does something else, such as an evaluation."""
        self._draw(f" {words.safe(what)} ", done, total, f" {done:,}/{total:,}" if total else "")

    def _draw(self, head: str, done: int, total: int, tail: str) -> None:
        room = self._screen.width - len(head) - len(tail) - 1
        bar = words.bar(done, total, room, self._screen.fancy)
        self._screen.draw([[(head, "bold"), *bar, (tail, "")], *self._values()])

    def _values(self) -> list[list[Piece]]:
        if self._last is None:
            return []
        room = self._screen.width - 1
        lines = words.flow(cells(self._last, self._batch), room, " ", " ")[:_ROWS]
        spark = words.sparkline(self.recent, 24) if self._screen.fancy else ""
        used = sum(words.width(text) for text, _ in lines[-1])
        if spark and used + 8 + len(spark) <= room:
            lines[-1] += [("   loss ", "dim"), (spark, "good")]
        return lines
