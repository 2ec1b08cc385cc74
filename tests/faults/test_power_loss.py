"""Power loss: wherever the power goes in a write, a checkpoint that verifies is found, no older than promised.

The log of names, bytes and syncs (`tests/faults/power.py`) is cut at every event; what was not synced is lost in every
way that a file system may lose it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.power import Recorder, cuts, recorded
from tests.faults.stores import make, right, silent
from visloom import rundir
from visloom.checkpoint import Checkpoints
from visloom.durable import write_text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of open files are read from /proc")


def write_three(run: Path, log: Recorder) -> None:
    """Save steps 1 to 3, and name a best one."""
    store = Checkpoints(run / "checkpoints", keep=1, background=False)
    for step in (1, 2, 3):
        store.save(make(step))
        log.mark(step)
        if step == 2:
            store.mark_best(2)


def write_again(run: Path, log: Recorder) -> None:
    """Save a step twice, as a run does that was sent back."""
    store = Checkpoints(run / "checkpoints", keep=1, background=False)
    for note in ("first", "second"):
        store.save(make(1, note))
        log.mark(1)


def in_the_background(run: Path, log: Recorder) -> None:
    """Save from a thread; a step is promised when it has been waited for."""
    store = Checkpoints(run / "checkpoints", keep=1, background=True)
    for step in (1, 2):
        store.save(make(step))
        store.join()
        log.mark(step)
    store.close()


@pytest.mark.parametrize("unsynced", ["empty", "zeros"])
@pytest.mark.parametrize("work", [write_three, write_again, in_the_background])
def test_a_cut_anywhere_leaves_a_checkpoint_that_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path, Recorder], None], unsynced: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with recorded(run, monkeypatch) as log:
        work(run, log)
    count, found = 0, set()
    for cut in cuts(log):
        after = tmp_path / "after"
        cut.build(log, after, unsynced)
        state = Checkpoints(after / "checkpoints", keep=1).load(say=silent)
        promised = max(cut.marks, default=0)
        assert (state.step if state else 0) >= promised, (cut.after, cut.names, log.events[cut.after - 1])
        assert state is None or right(state)
        found.add(state.step if state else 0)
        shutil.rmtree(after)
        count += 1
    assert count > 50
    assert len(found) > 1  # cuts before and after a promise were among them


def test_a_checkpoint_that_is_not_synced_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same replay of a writer that renames a file into place without syncing it first."""
    run = tmp_path / "run"
    run.mkdir()
    with recorded(run, monkeypatch) as log:
        (run / "new").write_text("whole")
        (run / "new").rename(run / "file")
        log.mark("written")
    texts = set()
    for cut in cuts(log):
        cut.build(log, tmp_path / "after", "empty")
        file = tmp_path / "after" / "file"
        texts.add(file.read_text() if file.exists() else None)
        shutil.rmtree(tmp_path / "after")
    assert texts == {None, ""}


def test_a_text_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with recorded(run, monkeypatch) as log:
        for text in ("old", "new"):
            write_text(run / "run.json", text)
            log.mark(text)
    texts = set()
    for cut in cuts(log):
        cut.build(log, tmp_path / "after", "empty")
        file = tmp_path / "after" / "run.json"
        text = file.read_text() if file.exists() else None
        promised = cut.marks[-1] if cut.marks else None
        assert text in {None: (None, "old"), "old": ("old", "new"), "new": ("new",)}[promised]
        texts.add(text)
        shutil.rmtree(tmp_path / "after")
    assert texts == {None, "old", "new"}


def test_a_new_run_directory_is_named_durably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded(tmp_path, monkeypatch) as log:
        made = rundir.create(tmp_path / "deep" / "runs", "x")
        write_text(made.run_json, "{}")
        log.mark("made")
    *_, last = (cut for cut in cuts(log) if cut.names == 0)
    last.build(log, tmp_path / "after", "empty")
    assert (tmp_path / "after" / "deep" / "runs" / made.name / "run.json").read_text() == "{}"
