"""Signals: whatever a run is at, one leads to a checkpoint of the last whole step, exit code 75, and the same end.

A server process forks a life for each test (`tests/life.py`), so that the signals are real.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.life import FOR_EVER, PATIENCE
from tests.lives import end_of, only
from tests.places import in_memory
from visloom.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SIGNALS = ["SIGTERM", "SIGUSR1", "SIGINT"]


@pytest.fixture(scope="module")
def references(server) -> Iterator[dict]:
    """How each kind of run ends when nothing interrupts it; the marks make it pass its obstacles."""
    ends = {}
    with in_memory() as folder:
        for name in ("slow", "long_evaluation", "stalled"):
            out = Path(folder, name)
            out.mkdir()
            for kind in ("evaluation", "data", "go"):
                (out / f"{kind}.mark").write_text("")
            assert server.live(out, name) == 0
            ends[name] = end_of(only(out))
        yield ends


def send(pid: int, name: str, place: Path) -> None:
    """Send a signal, and let a step that waits for it go on."""
    os.kill(pid, getattr(signal, name))
    (place / "go.mark").write_text("")


def latest(out: Path) -> int:
    step = Checkpoints(only(out) / "checkpoints").latest()
    assert step is not None
    return step


@pytest.mark.parametrize("name", SIGNALS)
def test_in_a_step(server, place, references, name):
    (pid,) = server.start(place, "slow")
    server.wait_for("step.mark", place)
    send(pid, name, place)
    assert server.wait() == [75]
    assert (place / "error.txt").read_text().startswith(f"Preempted: {name} received: saved at step 3.")
    assert latest(place) == 3  # the step that was under way
    assert server.live(place, "slow") == 0
    assert not end_of(only(place)).differs(references["slow"])


@pytest.mark.parametrize("name", SIGNALS)
def test_in_an_evaluation(server, place, references, name):
    (pid,) = server.start(place, "long_evaluation")
    server.wait_for("evaluation.mark", place)
    send(pid, name, place)
    assert server.wait() == [75]
    assert latest(place) == 6
    assert server.live(place, "long_evaluation") == 0
    assert not end_of(only(place)).differs(references["long_evaluation"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", SIGNALS)
def test_while_data_do_not_come(server, place, references, name, workers):
    (pid,) = server.start(place, "stalled", workers)
    for part in ("data", "step"):  # sample 21 is in the third step, whose first half is there
        server.wait_for(f"{part}.mark", place)
    send(pid, name, place)
    assert server.wait() == [75]
    assert latest(place) == 2
    assert server.live(place, "stalled", 2 - workers) == 0
    assert not end_of(only(place)).differs(references["stalled"])


def test_to_the_whole_group_as_schedulers_send_it(server, place, references):
    # the data workers obeyed, and the run failed for their death before it had saved
    (pid,) = server.start(place, "stalled", 2)
    for part in ("data", "step"):
        server.wait_for(f"{part}.mark", place)
    worker = int((place / "data.mark").read_text())
    assert worker != pid
    os.killpg(pid, signal.SIGTERM)
    assert server.wait() == [75]
    assert server.live(place, "stalled", 2) == 0
    assert not end_of(only(place)).differs(references["stalled"])
    assert gone(worker)  # the one that hung was not left behind


def gone(pid: int) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_second_sigterm_while_it_saves_changes_nothing(server, place, references):
    (pid,) = server.start(place, "slow", fault="slow-write:0.3")
    server.wait_for("step.mark", place)
    send(pid, "SIGTERM", place)
    server.wait_for("*/checkpoints/.tmp-*", place)
    os.kill(pid, signal.SIGTERM)
    assert server.wait() == [75]
    assert latest(place) == 3
    assert Checkpoints(only(place) / "checkpoints").load().step == 3
    assert server.live(place, "slow") == 0
    assert not end_of(only(place)).differs(references["slow"])


def test_a_second_ctrl_c_leaves_at_once(server, place, references):
    # the checkpoint that the first one asks for would take for ever
    (pid,) = server.start(place, "slow", fault=f"slow-write:{FOR_EVER}")
    server.wait_for("step.mark", place)
    send(pid, "SIGINT", place)
    server.wait_for("*/checkpoints/.tmp-*", place)
    os.kill(pid, signal.SIGINT)
    assert server.wait() == [130]
    assert Checkpoints(only(place) / "checkpoints").load() is None  # half of one does not count
    assert server.live(place, "slow") == 0
    assert not end_of(only(place)).differs(references["slow"])


def test_a_signal_before_the_first_step_is_not_lost(server, place, references):
    (pid,) = server.start(place, "slow")
    server.wait_for("*/run.json", place)
    send(pid, "SIGTERM", place)
    assert server.wait() == [75]
    assert server.live(place, "slow") == 0
    assert not end_of(only(place)).differs(references["slow"])


def test_the_exit_code_of_a_process_of_its_own(place):
    """No server: an interpreter from its start, and SIGTERM while it trains."""
    import subprocess

    from tests.life import ROOT

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.life", str(place), "slow"], cwd=ROOT, env=environment
    )
    while not (place / "step.mark").exists():
        assert process.poll() is None
        time.sleep(0.005)
    send(process.pid, "SIGTERM", place)
    assert process.wait(PATIENCE) == 75
    assert json.loads((only(place) / "run.json").read_text())["name"] == "small"
