"""Kills: SIGKILL anywhere, resumed until it is done, ends with the bits of a run that nobody killed.

Lives are real processes (`tests/life.py`) and kills are SIGKILL, at fault points or at random moments; bf16,
accumulation, EMA and keyed mixing are on, and the number of data workers changes from life to life. What is compared
is every tensor and number of the last checkpoint (weights, moments, average, ledger) and the bytes of log.jsonl.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.life import Server
from tests.lives import End, end_of, only
from tests.places import in_memory
from visloom.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
LIVES = 12  # at most, for one run


@pytest.fixture(scope="module")
def whole(server) -> Iterator[End]:
    """How the run ends when nobody kills it."""
    with in_memory() as folder:
        assert server.live(folder, "full") == 0
        yield end_of(only(folder))


def live_on(server: Server, place: Path, faults: list[str]) -> int:
    """Live under one fault after the other, 0 and 2 workers in turn, then until it is done; returns the kills."""
    for number in range(LIVES):
        fault = faults[number] if number < len(faults) else ""
        code = server.live(place, "full", workers=2 * (number % 2), fault=fault)
        if code == 0:
            return number
        assert code == -signal.SIGKILL, (code, fault)
    raise AssertionError(f"not done after {LIVES} lives")


def sound(place: Path) -> None:
    """Nothing lies about, and every checkpoint verifies."""
    checkpoints = Checkpoints(only(place) / "checkpoints")
    assert all(checkpoints.verify(step) == "" for step in checkpoints.steps())
    assert not [p.name for p in (only(place) / "checkpoints").iterdir() if p.name.startswith(".")]


POINTS = [
    "before-first-checkpoint",
    "manifest@2",
    "chunk@2",
    "before-rename@3",
    "after-rename",
    "before-latest@2",
    "prune",
    "best-save",
    "evaluation@3",
    "step@9",
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point(server, place, whole, point):
    assert server.live(place, "full", workers=2, fault=f"kill-at:{point}") == -signal.SIGKILL
    state = Checkpoints(only(place) / "checkpoints").load()
    assert server.live(place, "full") == 0
    told = f"resumed after step {state.step} of 24" if state else "no checkpoint yet: starting from step 0"
    assert told in (only(place) / "log.txt").read_text()  # no more was lost than had to be
    assert not end_of(only(place)).differs(whole)
    sound(place)


def test_killed_in_every_life_at_another_point(server, place, whole):
    names = [
        "before-first-checkpoint",
        "manifest",
        "best-save",
        "after-rename",
        "evaluation@2",
        "before-latest",
        "prune",
        "step@2",
    ]
    assert live_on(server, place, [f"kill-at:{name}" for name in names]) == len(names)
    assert not end_of(only(place)).differs(whole)
    sound(place)


def test_killed_before_there_is_a_run_there_is_none(server, place, whole):
    """A kill while it is set up: no run.json, so the next life starts a run of its own."""
    (pid,) = server.start(place, "full")
    os.kill(pid, signal.SIGKILL)
    assert server.wait() == [-signal.SIGKILL]
    assert live_on(server, place, []) == 0
    assert not end_of(only(place)).differs(whole)


def random_kills(server: Server, place: Path, kills: int, seed: int) -> int:
    """Kill at random moments, half of them inside a checkpoint write; returns how many of those were."""
    draw, inside = random.Random(seed), 0
    for number in range(kills):
        slowly = draw.random() < 0.5
        (pid,) = server.start(place, "unhurried", 2 * (number % 2), "slow-write:0.03" if slowly else "")
        if slowly:
            folders = lambda: [t for d in place.glob("*/checkpoints") for t in d.glob(".tmp-*")]
            end = time.monotonic() + 30
            wait = draw.randint(1, 2)  # into the first or the second write
            seen: set[str] = set()
            while time.monotonic() < end and alive(pid):
                seen |= {t.name for t in folders()}
                if len(seen) >= wait:
                    break
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.15))
        else:
            time.sleep(draw.uniform(0.3, 1.5))
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        (code,) = server.wait()
        left = [t for d in place.glob("*/checkpoints") for t in d.glob(f".tmp-*-{pid}")]
        inside += bool(left) and code == -signal.SIGKILL
        if code == 0:
            return inside
    return inside


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(server, place, whole, seed):
    inside = random_kills(server, place, 10, seed)
    assert inside
    assert server.live(place, "unhurried") == 0
    assert not end_of(only(place)).differs(whole)
    sound(place)


# ------------------------------------------------------------------------------------------------------- mutants


MUTANTS = {
    "the meter is forgotten": "step@9",
    "moments are forgotten": "step@9",
    "data start anew": "step@9",
    "draws of the process": "step@9",
    "dropout of the process": "step@9",
    "the best one is not named again": "best-save",
    "the log is not cut": "before-first-checkpoint",
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_engine_is_seen(server, place, whole, mutant):
    """Each test above can fail: the same kill, and one thing forgotten in the life after it."""
    assert server.live(place, "full", fault=f"kill-at:{MUTANTS[mutant]}") == -signal.SIGKILL
    assert server.live(place, "full", mutant=mutant) == 0
    assert end_of(only(place)).differs(whole)
