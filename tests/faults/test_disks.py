"""Disks that refuse, by the real kernel: full, read-only, not ours. The checkpoint before stays; the run goes on.

Run directories are on file systems of their own, so that nothing may be written to /tmp and moved.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.faults.disks import as_nobody, in_private_mounts, mount, tmpfs
from tests.faults.stores import make, right, silent
from tests.lives import OFF, end_of, only
from tests.small import small_run
from visloom.checkpoint import Checkpoints, State
from visloom.drive import resume, train
from visloom.errors import CheckpointError, ConfigError
from visloom.run import Save
from visloom.units import Steps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts are those of Linux")


def big(step: int, values: int = 100_000) -> State:
    """A state of 4 bytes a value."""
    return State(step, {"model": {"w": torch.full((values,), float(step))}}, {})


def refused(store: Checkpoints, state: State) -> str:
    """Save, expect a refusal, and return its words; nothing half-written is left."""
    before = sorted(os.listdir(store.directory))

    def save() -> None:
        store.save(state)
        store.join()

    with pytest.raises(CheckpointError) as caught:
        save()
    assert sorted(os.listdir(store.directory)) == before
    return str(caught.value)


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, background):
    def work() -> None:
        disk = tmpfs(tmp_path / "disk", "1m")
        assert os.stat(disk).st_dev != os.stat(tempfile.gettempdir()).st_dev
        store = Checkpoints(disk / "run" / "checkpoints", keep=1, background=background)
        store.save(big(1))
        store.join()
        for step in (2, 3):  # it is refused as often as it is tried
            words = refused(store, big(step, 200_000))
            found = re.search(r"No space left on device; it needs 800\.\d kB, (\d+\.\d) kB is free", words)
            assert found and 500 < float(found[1]) < 700, words
            assert "newest: step 1" in words and "Free some space" in words
            state = store.load(say=silent)
            assert torch.equal(state.tensors["model"]["w"], big(1).tensors["model"]["w"])
        store.save(big(4, 90_000))  # and goes on when there is room
        store.join()
        assert store.steps() == [4]

    in_private_mounts(work)


def test_a_disk_with_no_byte_left(tmp_path):
    def work() -> None:
        disk = tmpfs(tmp_path / "disk", "1m")
        store = Checkpoints(disk / "c", keep=2, background=True)
        store.save(make(1))
        store.join()
        with (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
        words = refused(store, make(2))
        assert "No space left on device" in words and "0 bytes is free" in words
        assert right(store.load(say=silent))

    in_private_mounts(work)


def test_a_read_only_disk_keeps_the_checkpoint_before(tmp_path):
    def work() -> None:
        disk = tmpfs(tmp_path / "disk", "1m")
        store = Checkpoints(disk / "c", keep=1, background=True)
        store.save(make(1))
        store.join()
        mount("-o", "remount,ro", str(disk))
        words = refused(store, make(2))
        assert "Read-only file system" in words and "Make the directory writable" in words
        assert right(store.load(say=silent))
        assert right(Checkpoints(disk / "c").load(say=silent))  # a new reader writes nothing
        mount("-o", "remount,rw", str(disk))
        store.save(make(3))
        store.join()
        assert store.steps() == [3]

    in_private_mounts(work)


@pytest.mark.skipif(
    os.getuid() != 0 or not hasattr(os, "fork"), reason="only root can make a folder of somebody else"
)
def test_a_folder_of_somebody_else_keeps_the_checkpoint_before(tmp_path):
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o011)
    place = tmp_path / "c"
    Checkpoints(place, background=False).save(make(1))

    def work() -> None:
        store = Checkpoints(place, keep=1, background=True)
        words = refused(store, make(2))
        assert "Permission denied" in words and "Make the directory writable" in words
        assert right(store.load(say=silent))

    assert as_nobody(work) == 0
    assert right(Checkpoints(place).load(say=silent))


# ------------------------------------------------------------------------------------------------------ whole runs


def heavy(out: Path) -> object:
    """The small run, saved often."""
    return small_run(out, save=Save(every=Steps(3), keep=2))


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes free."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - leave)))
    return ballast


def refused_run(disk: Path, begin: Callable[[Path], None], end: Callable[[Path], None], words: str) -> None:
    """A run whose disk refuses in its middle: it stops in words, and ends as one whose disk did not."""
    (disk / "alone").mkdir()
    train(heavy(disk / "alone"), told=OFF)

    def loop(launch):
        from visloom.drive import turns

        for step in turns(launch):
            if step.index == 8:
                launch.checkpoints.join()
                begin(disk)

    (disk / "run").mkdir()
    with pytest.raises(CheckpointError, match=words):
        train(heavy(disk / "run"), told=OFF, drive=loop)
    directory = only(disk / "run")
    store = Checkpoints(directory / "checkpoints")
    assert store.load(say=silent).step >= 6  # the one before
    end(disk)
    resume(directory, trust=True, told=OFF)
    assert not end_of(directory).differs(end_of(only(disk / "alone")))
    assert not [p.name for p in store.directory.iterdir() if p.name.startswith(".")]


def test_a_run_whose_disk_fills_up_stops_in_words_and_goes_on_when_there_is_room(tmp_path):
    def work() -> None:
        refused_run(
            tmpfs(tmp_path / "disk", "2m"),
            lambda disk: fill(disk, leave=4096) and None,
            lambda disk: (disk / "ballast").unlink(),
            "No space left on device",
        )

    in_private_mounts(work)


def test_a_run_whose_disk_becomes_read_only_stops_in_words_and_goes_on_after(tmp_path):
    def work() -> None:
        refused_run(
            tmpfs(tmp_path / "disk", "2m"),
            lambda disk: mount("--bind", "-o", "ro", str(disk / "run"), str(disk / "run")),
            lambda disk: mount("-o", "remount,bind,rw", str(disk / "run")),
            "Read-only file system",
        )

    in_private_mounts(work)


def test_a_run_is_not_begun_where_nothing_can_be_written(tmp_path):
    def work() -> None:
        disk = tmpfs(tmp_path / "disk", "1m")
        mount("-o", "remount,ro", str(disk))
        with pytest.raises(ConfigError, match=r"no run directory can be made in .*: Read-only file system"):
            train(heavy(disk / "runs"), told=OFF)

    in_private_mounts(work)
