"""A process that dies, stops or hangs: the others end soon, name it, and the run goes on from its last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from tests.life import ROOT
from tests.lives import End, end_of, only
from tests.ranks import can_fork
from tests.tiny import make_recipe
from visloom.checkpoint import Checkpoints
from visloom.errors import ProcessLost

pytestmark = can_fork
LOST = ProcessLost.exit_code
LONG = ("length=steps:100000", "save.every=steps:20", "log.every=steps:5", "evals.val.every=steps:100000")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("world"))


def until(found: Path, lines: int = 0) -> None:
    """Wait for a file, and until it has so many lines."""
    end = time.monotonic() + 240
    while not found.exists() or found.read_text().count("\n") < lines:
        assert time.monotonic() < end, found
        time.sleep(0.001)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_named_by_the_other_one(server, tmp_path, rank):
    """The first one keeps the store: the other must know it without."""
    pids = server.start(tmp_path, "unhurried_pair", world=2)
    until(tmp_path / f"ids-{rank}.txt")
    os.kill(pids[rank], signal.SIGKILL)
    began = time.monotonic()
    codes = server.wait()
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == LOST
    assert time.monotonic() - began < 20
    told = (tmp_path / f"error{1 - rank}.txt").read_text()
    assert f"process {rank} (pid {pids[rank]} on " in told and "is gone: something killed it" in told
    assert f"visloom resume {only(tmp_path)}" in told


def test_a_hung_process_is_named_with_its_line(server, tmp_path):
    pids = server.start(tmp_path, "hanging_pair", world=2)
    until(tmp_path / "data.mark")
    began = time.monotonic()
    until(tmp_path / "error0.txt")
    assert time.monotonic() - began < 20
    os.kill(pids[1], signal.SIGKILL)  # as the launcher does
    assert server.wait() == [LOST, -signal.SIGKILL]
    told = (tmp_path / "error0.txt").read_text()
    assert f"process 1 (pid {pids[1]} on " in told and "hangs after step 2 at " in told
    assert "tests/life.py:" in told and " in fetch" in told
    assert "host.rank_timeout" in told


@pytest.mark.nightly
def test_a_stopped_process_is_named(server, tmp_path):
    pids = server.start(tmp_path, "impatient_pair", world=2)
    until(tmp_path / "ids-1.txt")
    os.kill(pids[1], signal.SIGSTOP)
    try:
        until(tmp_path / "error0.txt")
    finally:
        os.kill(pids[1], signal.SIGKILL)
    assert server.wait() == [LOST, -signal.SIGKILL]
    assert f"process 1 (pid {pids[1]} on " in (told := (tmp_path / "error0.txt").read_text())
    assert "is stopped" in told


def test_the_failure_of_one_is_its_own_to_tell(server, tmp_path):
    server.start(tmp_path, "bad_picture_pair", world=2)
    assert server.wait() == [LOST, 4]
    assert "process 1 of 2 failed: " in (tmp_path / "error0.txt").read_text()
    assert "this picture is broken" in (tmp_path / "error1.txt").read_text()


# ------------------------------------------------------------------------------------------------------- torchrun


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory) -> End:
    """How two processes end that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    server.start(out, "unhurried_pair", world=2)
    assert server.wait() == [0, 0]
    return end_of(only(out))


def test_the_same_command_goes_on_with_its_run_after_a_restart(server, tmp_path, whole):
    """What torchrun does with --max-restarts: all processes again, with the same words."""
    pids = server.start(tmp_path, "unhurried_pair", world=2, attempt=0)
    until(
        tmp_path / "ids-1.txt", lines=28
    )  # of step 13, two micro-batches a step: the checkpoint is of step 10
    os.kill(pids[1], signal.SIGKILL)
    assert server.wait() == [LOST, -signal.SIGKILL]
    directory = only(tmp_path)
    server.start(tmp_path, "unhurried_pair", world=2, attempt=1)
    assert server.wait() == [0, 0]
    assert only(tmp_path) == directory  # no second one
    assert [life["step"] for life in json.loads((directory / "provenance.json").read_text())["resumed"]] == [
        10
    ]
    assert not end_of(directory).differs(whole)


def test_another_job_begins_a_run_of_its_own(server, tmp_path):
    for attempt in (None, 0):
        server.start(tmp_path, "pair", world=2, attempt=attempt)
        assert server.wait() == [0, 0]
        if attempt is None:
            only(tmp_path).rename(tmp_path / "small-001")
    assert len(list(tmp_path.glob("small-*"))) == 2


class Torchrun:
    """`torchrun --nproc-per-node 2 WORDS` in a session of its own; what it says goes to a file."""

    def __init__(self, folder: Path, *words: object, restarts: int = 0) -> None:
        self.said = folder / "said.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with self.said.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts",
                 str(restarts), "-m", *map(str, words)],
                cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip

    def workers(self) -> dict[int, int]:
        """Process ids of the workers by rank."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    words = (place / "environ").read_bytes().split(b"\0")
                    found[int(next(w for w in words if w.startswith(b"RANK="))[5:])] = int(place.name)
            except (OSError, StopIteration):
                continue
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.nightly
def test_torchrun_restarts_all_and_they_end_like_the_run_that_was_not_killed(tmp_path, whole):
    with Torchrun(tmp_path, "tests.life", tmp_path, "unhurried_pair", restarts=2) as job:
        read = tmp_path / "ids-1.txt"  # 48 lines in a life that nothing interrupts
        for more in (20, 12):
            until(read, (read.read_text().count("\n") if read.exists() else 0) + more)
            os.kill(job.workers()[1], signal.SIGKILL)
        assert job.process.wait(240) == 0, job.said.read_text()
    assert not end_of(only(tmp_path)).differs(whole)
    assert len(json.loads((only(tmp_path) / "provenance.json").read_text())["resumed"]) == 2


@pytest.mark.nightly
def test_without_restarts_the_command_ends_and_names_the_lost_process_once(world, tmp_path):
    with Torchrun(tmp_path, "visloom", "train", world, "--out", tmp_path / "runs", *LONG) as job:
        until(tmp_path / "runs" / "tiny-001" / "log.jsonl", lines=2)
        os.kill(job.workers()[0], signal.SIGKILL)
        assert job.process.wait(180) == 1
    said = job.said.read_text()
    assert said.count("error: process 0 (pid ") == 1 and "is gone" in said
    assert said.count("Traceback") == said.count("ChildFailedError: ") == 1, said  # torchrun's own


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["SIGTERM to torchrun", "SIGTERM to process 1", "Ctrl-C"])
def test_a_signal_makes_all_save_once_and_leave(world, tmp_path, how):
    run = tmp_path / "runs" / "tiny-001"
    with Torchrun(tmp_path, "visloom", "train", world, "--out", tmp_path / "runs", *LONG) as job:
        until(run / "log.jsonl", lines=2)
        if how == "Ctrl-C":  # a terminal sends it to the whole group, and torchrun passes it on
            os.killpg(job.process.pid, signal.SIGINT)
        else:
            os.kill(job.process.pid if how.endswith("torchrun") else job.workers()[1], signal.SIGTERM)
        job.process.wait(180)
    said = job.said.read_text()
    assert said.count("stopped: ") == 1, said
    step = int(said.partition("saved at step ")[2].partition(".")[0])
    assert Checkpoints(run / "checkpoints").latest() == step
    assert said.count("saved  step-") + said.count("saved step-") >= 1
    if how.endswith("1"):
        assert said.count("exitcode  : 75") == 2


@pytest.mark.nightly
def test_what_all_processes_would_say_is_said_once(tmp_path):
    with Torchrun(tmp_path, "visloom", "train", "nosuchrecipe") as job:
        assert job.process.wait(180) == 1
    assert job.said.read_text().count("error: ") == 1
