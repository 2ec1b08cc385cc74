"""Kills and full disks: at whatever point a save is stopped, a checkpoint that verifies is left, and right.

A child process made by fork saves under an armed fault and is killed by it; this process reads what is left.
One test does the same through VISLOOM_FAULT and a fresh interpreter.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.stores import killed, make, right, silent
from visloom import faults
from visloom.checkpoint import Checkpoints
from visloom.errors import CheckpointError

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


# point -> the step that must be found after saving 1, 2 (done) and being killed in the save of 3
POINTS = {
    "before-file/model.safetensors": 2,
    "chunk/model.safetensors": 2,
    "after-file/model.safetensors": 2,
    "before-file/optim.safetensors": 2,
    "chunk/optim.safetensors": 2,
    "after-file/optim.safetensors": 2,
    "before-file/state.json": 2,
    "chunk/state.json": 2,
    "after-file/state.json": 2,
    "manifest": 2,
    "before-rename": 2,
    "after-rename": 3,
    "before-latest": 3,
    "prune": 3,
    "before-first-checkpoint": 2,
}


@posix
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point_of_a_save(tmp_path, point, background):
    before = Checkpoints(tmp_path, keep=2, background=False)
    before.save(make(1))
    before.save(make(2))

    def work() -> None:
        store = Checkpoints(tmp_path, keep=2, background=background)
        store.save(make(3))
        store.join()

    assert killed(work, f"kill-at:{point}") == signal.SIGKILL
    after = Checkpoints(tmp_path, keep=2, background=False)
    state = after.load(say=silent)
    assert right(state)
    assert state.step == POINTS[point]
    after.save(make(4))
    assert after.latest() == 4
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


@posix
def test_killed_before_the_first_checkpoint_there_is_none(tmp_path):
    for point in ("before-first-checkpoint", "chunk", "manifest", "before-rename"):
        assert killed(lambda: Checkpoints(tmp_path, keep=1).save(make(1), wait=True), f"kill-at:{point}") == 9
        assert Checkpoints(tmp_path, keep=1).load(say=silent) is None


@posix
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("point", ["manifest", "before-rename", "set-aside", "after-rename", "before-latest"])
def test_killed_while_a_step_is_written_again(tmp_path, point, keep):
    Checkpoints(tmp_path, keep=keep, background=False).save(make(3, "old"))

    def work() -> None:
        Checkpoints(tmp_path, keep=keep, background=False).save(make(3, "new"))

    assert killed(work, f"kill-at:{point}") == signal.SIGKILL
    after = Checkpoints(tmp_path, keep=keep, background=False)
    state = after.load(say=silent)
    assert right(state)
    assert state.data["note"] == ("new" if point in ("after-rename", "before-latest") else "old")
    after.sweep()
    assert right(after.load(3, say=silent))


@posix
@pytest.mark.parametrize("point", ["best-save", "prune"])
def test_killed_while_the_best_one_changes(tmp_path, point):
    store = Checkpoints(tmp_path, keep=1, background=False)
    store.save(make(1))
    store.mark_best(1)
    store.save(make(2))

    assert killed(lambda: Checkpoints(tmp_path, keep=1).mark_best(2), f"kill-at:{point}") == signal.SIGKILL
    after = Checkpoints(tmp_path, keep=1)
    assert after.best() == (1 if point == "best-save" else 2)
    assert right(after.load(after.best(), say=silent))
    assert right(after.load(say=silent))


@posix
def test_killed_at_random_moments(tmp_path):
    """40 kills of one that saves without end; each next one goes on from what it finds."""
    draw = random.Random(0)
    last, inside = 0, 0
    patience = 1  # a life is twice as long after one that saved nothing: the machine is busy
    for _ in range(40):
        background = draw.random() < 0.5
        pid = os.fork()
        if pid == 0:
            try:
                faults.arm("slow-write:0.001")
                store = Checkpoints(tmp_path, keep=2, background=background)
                state = store.load(say=silent)
                step = state.step if state else 0
                while True:
                    step += 1
                    store.save(make(step))
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.005, 0.08) * patience)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status)
        inside += any(p.name.startswith(".tmp-") for p in tmp_path.iterdir())
        state = Checkpoints(tmp_path, keep=2).load(say=silent)
        assert state is None or right(state)
        assert (state.step if state else 0) >= last
        patience = min(32, 2 * patience) if (state.step if state else 0) == last else 1
        last = state.step if state else 0
    assert last > 0
    assert inside >= 5


SCRIPT = """
import sys
from pathlib import Path
import torch
from visloom.checkpoint import Checkpoints, State

store = Checkpoints(Path(sys.argv[1]), keep=2, background=True)
for step in (1, 2, 3):
    store.save(State(step, {"model": {"w": torch.full((9,), float(step))}}, {}))
store.close()
"""


@posix
def test_killed_through_the_environment(tmp_path):
    def start(orders: str) -> int:
        env = {**os.environ, "VISLOOM_FAULT": orders}
        return subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=env, timeout=60).returncode

    assert start("slow-write:0.001,kill-at:manifest@3") == -signal.SIGKILL
    state = Checkpoints(tmp_path, keep=2).load(say=silent)
    assert state is not None
    assert state.step == 2
    assert torch.equal(state.tensors["model"]["w"], torch.full((9,), 2.0))


# -- disks that refuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words", "advice"),
    [
        ("ENOSPC", "No space left on device", "Free some space"),
        ("EDQUOT", "quota exceeded", "raise the quota"),
        ("EROFS", "Read-only file system", "Make the directory writable"),
        ("EACCES", "Permission denied", "Make the directory writable"),
        ("EIO", "Input/output error", "Check the disk"),
    ],
)
@pytest.mark.parametrize("point", ["before-file", "chunk/optim.safetensors", "manifest", "before-rename"])
def test_a_failed_background_write_is_raised_at_the_next_step(tmp_path, point, code, words, advice):
    store = Checkpoints(tmp_path, keep=2, background=True)
    store.save(make(1))
    store.join()
    faults.arm(f"fail-at:{point}:{code}")
    try:
        store.save(make(2))
        store._wait()
        with pytest.raises(CheckpointError) as caught:
            store.check()
    finally:
        faults.arm("")
    message = str(caught.value)
    for part in (str(tmp_path), words, advice, "needs 3.", "is free", "newest: step 1", "step 2"):
        assert part in message
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == getattr(errno, code)
    store.check()  # told once
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001"]
    assert right(store.load(say=silent))
    store.save(make(3))
    store.close()
    assert store.steps() == [1, 3]


@pytest.mark.parametrize("call", ["save", "join", "close", "mark_best"])
def test_a_failed_write_is_raised_by_whatever_comes_next(tmp_path, call):
    store = Checkpoints(tmp_path, keep=2, background=True)
    faults.arm("fail-at:chunk@1:ENOSPC")
    try:
        store.save(make(1))
        store._wait()
    finally:
        faults.arm("")
    following: dict[str, Callable[[], Any]] = {
        "save": lambda: store.save(make(2)),
        "join": store.join,
        "close": store.close,
        "mark_best": lambda: store.mark_best(1),
    }
    with pytest.raises(CheckpointError, match="There is no other checkpoint"):
        following[call]()
    assert store.steps() == []


def test_an_unexpected_error_of_the_writer_is_not_lost(tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise MemoryError("no more")

    store = Checkpoints(tmp_path, keep=2, background=True)
    monkeypatch.setattr("visloom.bundle.fill", broken)
    store.save(make(1))
    with pytest.raises(MemoryError, match="no more"):
        store.join()
    assert list(tmp_path.iterdir()) == []


def test_latest_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, keep=2, background=False)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("visloom.checkpoint.write_text", full)
    with pytest.raises(CheckpointError, match=r"latest could not be written: No space.*step 1 is complete"):
        store.save(make(1))
    assert right(store.load(say=silent))


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(CheckpointError, match="File exists"):
        Checkpoints(tmp_path / "c", keep=2, background=False).save(make(1))


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from visloom.checkpoint import Checkpoints, State
from visloom.errors import CheckpointError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Checkpoints(Path(sys.argv[1]), keep=2, background=True)
store.save(State(1, {"model": {"w": torch.ones(1000)}}, {}))
store.join()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store.save(State(2, {"model": {"w": torch.ones(100_000)}}, {}))
try:
    store.join()
except CheckpointError as error:
    print(error)
print(store.steps(), sorted(p.name for p in store.directory.iterdir()), store.verify(1) == "")
"""


@posix
def test_a_limit_of_the_real_kernel(tmp_path):
    """RLIMIT_FSIZE makes the kernel itself refuse to write, in the middle of a file."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    first, last = done.stdout.strip().splitlines()
    assert "step 2 could not be written" in first
    assert "File too large; it needs 400." in first
    assert last == "[1] ['latest', 'step-00000001'] True"


# -- order of what reaches the disk --------------------------------------------------------------------------


@posix
def test_everything_is_synced_before_it_is_named(tmp_path, monkeypatch):
    """Power loss keeps what was synced: each file, then the directory, then the rename, then its parent."""
    events: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def name_of(handle: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name if sys.platform == "linux" else "?"

    def traced_fsync(handle: int) -> None:
        events.append(f"sync {name_of(handle)}")
        fsync(handle)

    def traced_rename(source: Any, target: Any) -> None:
        events.append(f"rename {Path(source).name} {Path(target).name}")
        rename(source, target)

    def traced_replace(source: Any, target: Any) -> None:
        events.append(f"replace {Path(target).name}")
        replace(source, target)

    if sys.platform != "linux":
        pytest.skip("names of open files are read from /proc")
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    monkeypatch.setattr(os, "replace", traced_replace)
    store = Checkpoints(tmp_path / "c", keep=1, background=False)
    store.save(make(1))
    temporary = f".tmp-step-00000001-{os.getpid()}"
    hint = f".latest.tmp-{os.getpid()}"
    assert events == [
        f"sync {tmp_path.name}",  # the name of the folder itself
        "sync model.safetensors",
        "sync optim.safetensors",
        "sync state.json",
        "sync manifest.json",
        f"sync {temporary}",
        f"rename {temporary} step-00000001",
        "sync c",
        f"sync {hint}",
        "replace latest",
        "sync c",
    ]
    events.clear()
    store.save(make(2))
    old = next(i for i, event in enumerate(events) if event.startswith("rename step-00000001 .gone-"))
    assert events.index("replace latest") < old


# -- the fault points themselves -----------------------------------------------------------------------------


def test_unarmed_points_do_nothing():
    faults.arm("")
    assert faults.point("manifest") is None


@pytest.mark.parametrize(
    "text", ["kill", "kill-at:x@y", "fail-at:x", "fail-at:x:ENOTHING", "slow-write:soon"]
)
def test_unreadable_orders_are_an_error(text):
    with pytest.raises(ValueError, match="VISLOOM_FAULT: cannot read"):
        faults.arm(text)


def test_counts_are_kept_per_order():
    faults.arm("fail-at:step@2:EIO, fail-at:manifest:ENOSPC")
    try:
        faults.point("step")
        with pytest.raises(OSError, match="Input/output") as caught:
            faults.point("step")
        assert caught.value.errno == errno.EIO
        faults.point("step")
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                faults.point("manifest")
    finally:
        faults.arm("")
