"""Ways of doing the same work, each in a process of its own, taking turns.

So what one way does to its process (memory that it keeps, settings of a library) is not the other's, and a busy
neighbour hits all of them alike. Figures are CPU-seconds of the process, medians over rounds; ratios are medians of the
ratios within a round.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from visloom.device import keep_freed

Setup = Callable[[], Callable[[], object]]
"""Called in the way's process; what it returns is timed."""


class Row(NamedTuple):
    """One way: its CPU-seconds, how many times as fast as the first way, and the least and most of that.

    answer: the number that its last turn returned, if it returned one.
    """

    cpu_seconds: float
    times: float
    least: float
    most: float
    answer: float | None = None


def race(ways: Mapping[str, Setup], rounds: int, warm: int = 1) -> dict[str, Row]:
    """Let every way take its turn in each round, after `warm` rounds that are not counted."""
    context = multiprocessing.get_context("fork")  # what was imported is there at once
    lines: dict[str, Connection] = {}
    workers = []
    for name, setup in ways.items():
        lines[name], theirs = context.Pipe()
        worker = context.Process(target=_serve, args=(setup, theirs), daemon=True)
        worker.start()
        workers.append(worker)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, float | None] = {}
    for turn in range(warm + rounds):
        for name, line in lines.items():
            line.send(True)
            told = line.recv()
            if isinstance(told, BaseException):
                raise RuntimeError(f"{name} failed") from told
            seconds, answers[name] = told
            if turn >= warm:
                spent[name].append(seconds)
    for line, worker in zip(lines.values(), workers, strict=True):
        line.send(False)
        worker.join()
    first = next(iter(spent.values()))
    rows = {}
    for name, values in spent.items():
        ratios = [f / v for f, v in zip(first, values, strict=True)]
        rows[name] = Row(
            statistics.median(values), statistics.median(ratios), min(ratios), max(ratios), answers[name]
        )
    return rows


def _serve(setup: Setup, line: Connection) -> None:
    try:
        work: Any = setup()
        while line.recv():
            start = time.process_time()
            answer = work()
            seconds = time.process_time() - start
            line.send((seconds, answer if isinstance(answer, float) else None))
    except Exception as error:
        line.send(error)


def kept(work: Callable[[], object]) -> Setup:
    """In a process that keeps its memory, as runs do."""

    def setup() -> Callable[[], object]:
        keep_freed()
        return work

    return setup
