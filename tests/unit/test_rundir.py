"""Run directories: numbering, locks between processes, and finding a run by what people type."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visloom import durable, rundir
from visloom.checkpoint import Checkpoints, State
from visloom.errors import CheckpointError, ConfigError, DirectoryInUse
from visloom.rundir import RunDir, create, find, safe_name, write_json

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run_in(out: Path, name: str, *, steps: tuple[int, ...] = (), age: float = 0) -> RunDir:
    """A run directory with run.json and checkpoints; `age` in seconds."""
    run = create(out, name)
    write_json(run.run_json, {"name": name})
    stamp = 1_700_000_000 - age
    os.utime(run.run_json, (stamp, stamp))
    for step in steps:
        Checkpoints(run.checkpoints, keep=9, background=False).save(State(step))
    return run


# -- making --------------------------------------------------------------------------------------------------


def test_numbers_go_up_and_gaps_are_not_filled(tmp_path):
    out = tmp_path / "a" / "runs"
    assert [create(out, "x").name for _ in range(3)] == ["x-001", "x-002", "x-003"]
    (out / "x-001").rmdir()
    assert create(out, "x").name == "x-004"
    (out / "x-041").write_text("a file takes its number too")
    assert create(out, "x").name == "x-042"
    assert create(out, "x-042").name == "x-042-001"
    (out / "x-999").mkdir()
    assert create(out, "x").name == "x-1000"
    assert create(out, "x").name == "x-1001"


def test_paths(tmp_path):
    run = create(tmp_path, "x")
    assert run.path == tmp_path / "x-001"
    inside = [
        run.run_json, run.provenance, run.log_jsonl, run.log_txt, run.checkpoints, run.report, run.tensorboard,
        run.recipe,
    ]  # fmt: skip
    assert [p.name for p in inside] == [
        "run.json", "provenance.json", "log.jsonl", "log.txt", "checkpoints", "report.html", "tensorboard", "recipe",
    ]  # fmt: skip
    assert all(p.parent == run.path for p in inside)


def test_a_directory_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert create(Path("runs"), "x").path == tmp_path / "runs" / "x-001"


def test_many_at_the_same_moment_get_one_each(tmp_path):
    code = (
        "import sys; from pathlib import Path; from visloom.rundir import create\n"
        "print(*[create(Path(sys.argv[1]), 'x').name for _ in range(40)])"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    names = [name for child in children for name in child.communicate(timeout=60)[0].split()]
    assert len(names) == len(set(names)) == 120
    assert {p.name for p in tmp_path.iterdir()} == set(names)


def test_threads_get_one_each(tmp_path):
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(create(tmp_path, "x").name)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == [f"x-{n:03d}" for n in range(1, 17)]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cifar10:fast", "cifar10-fast"),
        ("a/b\\c", "a-b-c"),
        ("../../etc", "etc"),
        ("  two words ", "two-words"),
        ("Straße", "Straße"),
        ("e\u0301", "é"),
        ("", "run"),
        ("...", "run"),
        ("a\nb\0c", "a-b-c"),
        ("x" * 300, "x" * 80),
        ("名" * 60, "名" * 26),
        ("\ud800x", "x"),
    ],
)
def test_names_are_made_safe(name, safe):
    assert safe_name(name) == safe


@given(st.text())
def test_safe_names_are_names(name):
    safe = safe_name(name)
    assert safe == safe_name(safe)
    assert 0 < len(safe.encode()) <= 80
    assert not set(safe) & set('/\\:*?"<>|\0\n ')
    assert safe[0] not in ".-"
    assert safe[-1] not in ".-"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match=r"runs is a file.*host\.out") as caught:
        create(tmp_path / "runs", "x")
    assert caught.value.path == "host.out"
    with pytest.raises(ConfigError, match=r"runs is a file.*host\.out"):
        create(tmp_path / "runs" / "deeper", "x")


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"no run directory can be made in .*: Permission denied"):
        create(tmp_path, "x")


def test_opening(tmp_path):
    run = create(tmp_path, "x")
    with pytest.raises(ConfigError, match=r"no run\.json"):
        rundir.open(run.path)
    with pytest.raises(ConfigError, match="not a directory"):
        rundir.open(tmp_path / "none")
    write_json(run.run_json, {})
    assert rundir.open(run.path) == run


# -- lock ----------------------------------------------------------------------------------------------------


HOLD = """
import os, sys, time
from pathlib import Path
from visloom.rundir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    if len(sys.argv) > 2:
        ready, tell = os.pipe()
        if os.fork() == 0:
            os.write(tell, b"x")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(run: RunDir, *more: str):
    """Another process that holds the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path), *more],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        assert int(child.stdout.readline()) == child.pid
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def test_the_lock_file_tells_who(tmp_path):
    run = create(tmp_path, "x")
    with run.lock():
        owner = json.loads((run.path / "lock").read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), platform.node())
        assert owner["started"].endswith("+00:00")
    assert (run.path / "lock").read_text() == ""
    with run.lock():
        pass


def test_a_second_holder_is_refused_even_in_one_process(tmp_path):
    run = create(tmp_path, "x")
    with run.lock():
        with pytest.raises(DirectoryInUse, match=f"in use by process {os.getpid()} on "), run.lock():
            pass
        with pytest.raises(DirectoryInUse), run.lock(force=True):
            pass
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    with run.lock():
        pass


@posix
def test_a_live_process_is_named_and_a_killed_one_is_succeeded(tmp_path):
    run = create(tmp_path, "x")
    with holder(run) as child:
        with pytest.raises(DirectoryInUse) as caught, run.lock():
            pass
        for part in (str(run.path), f"process {child.pid} on {platform.node()}", "since 20", "Wait for it"):
            assert part in str(caught.value)
        assert caught.value.exit_code == 3
        child.kill()
        child.wait()
        assert json.loads((run.path / "lock").read_text())["pid"] == child.pid
        with run.lock():
            assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()


@posix
def test_a_forked_worker_that_outlives_the_run_does_not_keep_the_lock(tmp_path):
    run = create(tmp_path, "x")
    with holder(run, "with worker") as child:
        child.kill()
        child.wait()
        os.killpg(child.pid, 0)  # the worker lives
        with run.lock():
            pass


@posix
def test_a_forked_child_that_leaves_the_block_does_not_free_the_lock(tmp_path):
    run = create(tmp_path, "x")
    pid = -1
    try:
        with run.lock():
            pid = os.fork()
            if pid == 0:
                raise SystemExit  # runs the end of the block in the child
            assert os.waitpid(pid, 0)[1] == 0
            assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
            with pytest.raises(DirectoryInUse), run.lock():
                pass
    finally:
        if pid == 0:
            os._exit(0 if sys.exc_info()[0] is SystemExit else 1)


def test_another_machine_is_asked_about(tmp_path):
    run = create(tmp_path, "x")
    owner = {"pid": 7, "host": "elsewhere", "started": "2030-01-01T00:00:00+00:00"}
    (run.path / "lock").write_text(json.dumps(owner))
    with pytest.raises(DirectoryInUse) as caught, run.lock():
        pass
    for part in ("process 7 on elsewhere, since 2030-01-01", f"delete {run.path / 'lock'}"):
        assert part in str(caught.value)
    assert json.loads((run.path / "lock").read_text()) == owner
    with run.lock(force=True):
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", "\0\0\0"])
def test_a_half_written_lock_is_taken_over(tmp_path, content):
    run = create(tmp_path, "x")
    (run.path / "lock").write_text(content)
    with run.lock():
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()


def test_without_locks_of_the_file_system_the_file_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "_try_lock", lambda _: None)
    run = create(tmp_path, "x")
    with run.lock(), pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"), run.lock():
        pass
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (run.path / "lock").write_text(json.dumps({"pid": child.pid, "host": platform.node()}))
    with run.lock():
        pass


def test_an_unwritable_directory(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"lock cannot be opened.*must be writable"),
        RunDir(tmp_path / "no").lock(),
    ):
        pass


def test_the_lock_is_free_after_an_error(tmp_path):
    run = create(tmp_path, "x")
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock():
        pass


# -- finding -------------------------------------------------------------------------------------------------


def test_finding(tmp_path, monkeypatch):
    out = tmp_path / "runs"
    first = run_in(out, "cifar10:fast", steps=(10, 20), age=30)
    second = run_in(out, "cifar10:fast", age=20)
    other = run_in(out, "town", steps=(5,), age=10)
    Checkpoints(first.checkpoints).mark_best(10)
    create(out, "town")  # without run.json: it never began
    assert find("cifar10-fast-001", out) == (first, None)
    assert find(str(first.path), tmp_path) == (first, None)
    assert find("cifar10:fast", out) == (second, None)
    assert find("cifar10-fast", out) == (second, None)
    assert find("latest", out) == (other, None)
    assert find("latest@5", out) == (other, 5)
    assert find("cifar10-fast-001@20", out) == (first, 20)
    assert find("cifar10-fast-001@step-00000020", out) == (first, 20)
    assert find("cifar10-fast-001@best", out) == (first, 10)
    assert find("cifar10-fast-001@latest", out) == (first, None)
    assert find(str(first.checkpoints / "step-00000010"), out) == (first, 10)
    monkeypatch.chdir(tmp_path)
    assert find("runs/town-001") == (other, None)
    assert find("town") == (other, None)


def test_an_at_sign_may_be_part_of_a_path(tmp_path):
    out = tmp_path / "me@home"
    run = run_in(out, "x", steps=(3,))
    assert find(str(run.path), tmp_path) == (run, None)
    assert find(f"{run.path}@3", tmp_path) == (run, 3)


def test_a_step_is_not_taken_for_a_name(tmp_path):
    run = run_in(tmp_path, "x", steps=(5,))
    run_in(tmp_path, "x-5")
    assert find("x@5", tmp_path) == (run, 5)


@pytest.mark.parametrize(
    ("ref", "error", "says"),
    [
        ("town-009", ConfigError, "Did you mean town-001?"),
        ("tonw", ConfigError, "Did you mean town-001?"),
        ("town-001@7", CheckpointError, "no checkpoint of step 7; there are: 5"),
        ("town-001@best", CheckpointError, "no checkpoint is marked as best"),
        ("town-001@first", ConfigError, "a number, best or latest, got 'first'"),
        ("town-001@-5", ConfigError, "got '-5'"),
        ("town-001@²", ConfigError, "a number, best or latest"),
    ],
)
def test_what_is_not_there(tmp_path, ref, error, says):
    run_in(tmp_path, "town", steps=(5,))
    with pytest.raises(error) as caught:
        find(ref, tmp_path)
    assert says in str(caught.value)


def test_no_runs_at_all(tmp_path):
    for ref in ("latest", "x"):
        with pytest.raises(ConfigError, match="There are no runs in"):
            find(ref, tmp_path / "none")


# -- durable files -------------------------------------------------------------------------------------------


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"old": 0})
    with path.open(encoding="utf-8") as reader:  # one that opened the old file goes on reading the old file
        write_json(path, {"ü": [1, 2.5, None]})
        assert json.load(reader) == {"old": 0}
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": [1, 2.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"x": {1, 2}})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"new": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": [1, 2.5, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (12_345_678, "12.3 MB"),
     (2 * 10**9, "2.0 GB"), (3 * 10**15, "3000.0 TB")],
)  # fmt: skip
def test_sizes_for_people(count, text):
    assert durable.size_text(count) == text


def test_processes_that_live():
    assert durable.alive(os.getpid())
    assert not durable.alive(0)
    assert not durable.alive(-1)
    assert not durable.alive(2**70)
