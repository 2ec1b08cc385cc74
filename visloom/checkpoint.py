"""Checkpoints: directories that appear atomically, verify before they load, survive kill -9 and full disks.

    checkpoints/
      latest                      one line, `step-00012000`: for people and scripts, never trusted
      best                        one line: the step that the monitor likes best
      step-00012000/              one checkpoint, see `visloom/bundle.py`
      .tmp-step-00012500-4711/    being written by process 4711
      .old-step-00012000-4711/    set aside while step 12000 is written again; counts until that is there
      .gone-step-00011000-4711/   being deleted

A write fills `.tmp-*`, syncs each file, writes the manifest last, syncs the directory, renames it into place
and syncs the parent; only then do `latest` move and old checkpoints go. So whatever stands under a `step-`
name was complete once, and whatever stops the process leaves the checkpoint before it. What has happened to a
directory since then is what `load` checks: size and sha256 of every file, before any tensor is read. A
damaged checkpoint is passed over, aloud. The newest directory that verifies is the truth; `latest` is not
consulted.

One process writes (the one that holds the run's lock); any number may read.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from visloom import bundle, faults
from visloom.bundle import Prepared, State, parse_step, prepare, step_name
from visloom.durable import (
    alive,
    free_bytes,
    make_dirs,
    reason,
    remove_tree,
    size_text,
    sync_dir,
    write_text,
)
from visloom.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from visloom.tensorfile import Buffers

__all__ = ["Checkpoints", "State", "estimate_bytes", "room", "step_name"]

_log = logging.getLogger(__name__)
_TEMPORARY = re.compile(r"\.(tmp|old|gone)-step-([0-9]{8,18})-([0-9]+)")
_HALF_HINT = re.compile(r"\.(?:latest|best)\.tmp-([0-9]+)")


def estimate_bytes(state: State) -> int:
    """Return the bytes that a checkpoint of a state takes on disk.

    Raises CheckpointError if the state cannot be stored: ask before step 1 and both are known.
    """
    return prepare(state).nbytes


def room(path: Path, needed: int) -> int:
    """Check, before step 1, that a checkpoint fits; return the free bytes.

    Raises CheckpointError if the file system of `path` (which need not exist yet) has less than `needed`.
    """
    free = free_bytes(path)
    if free < needed:
        raise CheckpointError(
            f"{path}: the disk is too small for one checkpoint: it needs {size_text(needed)}, "
            f"{size_text(free)} is free. Free some space or put runs elsewhere (host.out)"
        )
    return free


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: the run's `checkpoints` folder; made at the first save.
        keep: newest checkpoints that stay; the best one and milestones stay besides.
        background: copy the state into host memory and write it from a thread. `save` then costs one memory
            copy; a failed write is raised by the next `check`, `save` or `join`.
        milestone: says of a step whether its checkpoint stays for good.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        background: bool = True,
        milestone: Callable[[int], bool] | None = None,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"save.keep must be at least 1, got {keep}", path="save.keep")
        self.directory = Path(directory)
        self.keep = keep
        self.background = background
        self._milestone = milestone
        self._thread: threading.Thread | None = None
        self._failed: Exception | None = None
        self._buffers: Buffers | None = None
        self._damaged: set[int] = set()
        self._started = False

    # -- writing ---------------------------------------------------------------------------------------------

    def save(self, state: State, *, wait: bool = False) -> None:
        """Write a checkpoint; in the background the state may change as soon as this returns.

        A checkpoint of the same step is replaced, and stays in force until the new one is complete. Waits for
        the write before it. `wait` returns only when the checkpoint is durable, and copies nothing.

        Raises:
            CheckpointError: the state cannot be stored (nothing was written), or a write failed: this one or,
                in the background, the one before.
        """
        prepared = prepare(state)
        self.join()
        if not self._started:
            self._started = True
            self.sweep()
            faults.point("before-first-checkpoint")
        if wait or not self.background:
            self._write(prepared)
            return
        if self._buffers is None:
            from visloom.tensorfile import Buffers

            self._buffers = Buffers()
        copied = replace(prepared, packs=self._buffers.copy(prepared.packs))
        self._thread = threading.Thread(target=self._write_behind, args=(copied,), name="visloom-checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise the failure of a background write, once.

        Costs an attribute look-up: call it at every step.
        """
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def join(self) -> None:
        """Wait for the background write; raise its failure."""
        self._wait()
        self.check()

    def close(self) -> None:
        """Wait for the background write, give its memory back, raise its failure."""
        self._wait()
        if self._buffers is not None:
            self._buffers.clear()
        self.check()

    def mark_best(self, step: int) -> None:
        """Name the checkpoint that is kept as the best one; waits until it is durable.

        Raises CheckpointError if that step was not saved, or the file cannot be written.
        """
        self.join()
        if step not in self._found():
            raise CheckpointError(f"{self.directory}: step {step} was not saved and cannot be the best one")
        faults.point("best-save")
        self._hint("best", step)
        self._prune()

    def drop_after(self, step: int) -> list[int]:
        """Delete the checkpoints newer than `step`, for a run that goes on from there; return their steps.

        Without it a later crash would resume from the abandoned future. A `best` among them is forgotten.
        """
        self.join()
        dropped = [s for s in self.steps() if s > step]
        try:
            if any(self.best() == late for late in dropped):
                (self.directory / "best").unlink()
            for late in reversed(dropped):
                self._delete(late)
        except OSError as error:
            raise CheckpointError(
                f"{self.directory}: newer steps cannot be deleted: {reason(error)}"
            ) from error
        if dropped and (newest := self.latest()) is not None:
            self._hint("latest", newest)
        return dropped

    def sweep(self) -> list[str]:
        """Clear what an interrupted process left: half-written, half-deleted and set-aside directories.

        Only names of the forms in this module's docstring are touched, and none of another live process. The
        first save does it; do it earlier, under the run's lock, to have the space back. Returns the names.

        Raises CheckpointError if the directory cannot be listed or changed.
        """
        try:
            names = sorted(os.listdir(self.directory)) if self.directory.is_dir() else []
            return [name for name in names if self._clear(name)]
        except OSError as error:
            raise CheckpointError(f"{self.directory} cannot be tidied up: {reason(error)}") from error

    def _clear(self, name: str) -> bool:
        """Clear one name if it is an orphan; say whether it was."""
        place = self.directory / name
        if match := _HALF_HINT.fullmatch(name):
            if not _orphan(match[1]):
                return False
            place.unlink(missing_ok=True)
            return True
        match = _TEMPORARY.fullmatch(name)
        if match is None or not _orphan(match[3]):
            return False
        home = self.directory / step_name(int(match[2]))
        if match[1] == "old" and not home.exists():
            os.rename(place, home)
        else:
            remove_tree(place)
        return True

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write_behind(self, prepared: Prepared) -> None:
        try:
            self._write(prepared)
        except Exception as error:
            self._failed = error

    def _write(self, prepared: Prepared) -> None:
        """Write one checkpoint durably and put it in force; on failure leave everything as it was."""
        step = prepared.step
        temporary = self.directory / f".tmp-{step_name(step)}-{os.getpid()}"
        try:
            make_dirs(self.directory)
            remove_tree(temporary)
            temporary.mkdir()
            bundle.fill(temporary, prepared)
            self._put_in_place(temporary, step)
        except Exception as error:
            remove_tree(temporary)
            free = free_bytes(self.directory)  # without the remains, which are part of what is needed
            if isinstance(error, OSError):
                raise CheckpointError(self._why_not(step, error, prepared.nbytes, free)) from error
            raise
        self._damaged.discard(step)
        faults.point("before-latest")
        self._hint("latest", step)
        self._prune(step)

    def _put_in_place(self, temporary: Path, step: int) -> None:
        """Rename a complete directory to its step.

        One that stands there steps aside first, and back on failure.
        """
        home = self.directory / step_name(step)
        aside = self.directory / f".old-{step_name(step)}-{os.getpid()}"
        faults.point("before-rename")
        try:
            if home.exists():
                remove_tree(aside)
                os.rename(home, aside)
                faults.point("set-aside")
            os.rename(temporary, home)
        except OSError:
            if aside.exists() and not home.exists():
                os.rename(aside, home)
            raise
        faults.point("after-rename")
        sync_dir(self.directory)
        remove_tree(aside)

    def _hint(self, name: str, step: int) -> None:
        """Write `latest` or `best`."""
        try:
            write_text(self.directory / name, step_name(step) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.directory / name} could not be written: {reason(error)}, "
                f"{size_text(free_bytes(self.directory))} is free. The checkpoint of step {step} is complete"
            ) from error

    def _why_not(self, step: int, error: OSError, needed: int, free: int) -> str:
        others = [s for s in self.steps() if s != step and s not in self._damaged]
        kept = "There is no other checkpoint"
        if others:
            kept = f"Other checkpoints are untouched (newest: step {others[-1]})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "Free some space (or raise the quota)"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "Make the directory writable"
        else:
            advice = "Check the disk"
        return (
            f"checkpoint of step {step} could not be written to {self.directory}: {reason(error)}; "
            f"it needs {size_text(needed)}, {size_text(free)} is free. {kept}. {advice}, then resume the run"
        )

    def _prune(self, fresh: int | None = None) -> None:
        """Delete what retention does not keep.

        Damaged checkpoints do not count; a failure to delete only warns.
        """
        steps = self.steps()
        sound = [s for s in steps if s not in self._damaged]
        kept = {*sound[-self.keep :], fresh, self.best()}
        for step in steps:
            if step in kept or (self._milestone is not None and self._milestone(step)):
                continue
            try:
                self._delete(step)
            except OSError as error:
                _log.warning("old checkpoint of step %d could not be deleted: %s", step, reason(error))

    def _delete(self, step: int) -> None:
        """Take a checkpoint out of sight in one rename, then delete it: no half of one can be met."""
        gone = self.directory / f".gone-{step_name(step)}-{os.getpid()}"
        remove_tree(gone)
        os.rename(self._found()[step], gone)
        faults.point("prune")
        remove_tree(gone)

    # -- reading ---------------------------------------------------------------------------------------------

    def _found(self) -> dict[int, Path]:
        """Return step -> directory. One that was set aside counts while its successor is not in place."""
        found: dict[int, Path] = {}
        aside: dict[int, Path] = {}
        for name in os.listdir(self.directory) if self.directory.is_dir() else ():
            if (step := parse_step(name)) is not None:
                found[step] = self.directory / name
            elif (match := _TEMPORARY.fullmatch(name)) and match[1] == "old":
                aside[int(match[2])] = self.directory / name
        return aside | found

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending; none is verified."""
        return sorted(self._found())

    def latest(self) -> int | None:
        """Return the newest step that has a checkpoint (not verified), or None."""
        return max(self._found(), default=None)

    def best(self) -> int | None:
        """Return the step marked as best, or None if none is marked or it is gone."""
        try:
            step = parse_step((self.directory / "best").read_text(encoding="ascii").strip())
        except (OSError, ValueError):  # absent or damaged: a hint that says nothing
            return None
        return step if step in self._found() else None

    def path(self, step: int) -> Path:
        """Return the directory of a step's checkpoint.

        Raises CheckpointError if there is none; lists what is.
        """
        found = self._found()
        if step not in found:
            there = ", ".join(map(str, sorted(found))) or "none"
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step}; there are: {there}")
        return found[step]

    def verify(self, step: int) -> str:
        """Return what is wrong with a step's checkpoint, or "" if it is sound.

        Raises CheckpointError if absent.
        """
        return bundle.verify(self.path(step), step)

    @overload
    def load(self, step: int, *, say: Callable[[str], None] = ...) -> State: ...
    @overload
    def load(self, step: None = None, *, say: Callable[[str], None] = ...) -> State | None: ...
    def load(self, step: int | None = None, *, say: Callable[[str], None] = _log.warning) -> State | None:
        """Verify a checkpoint and read it; tensors come back on the CPU.

        Arguments and errors are those of `pick`; None if `step` is None and nothing was ever completed.
        """
        place = self.pick(step, say=say)
        if place is None:
            return None
        try:
            return bundle.read(place)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{place} is whole but cannot be read: {error}") from error

    def pick(self, step: int | None = None, *, say: Callable[[str], None] = _log.warning) -> Path | None:
        """Return the directory of a checkpoint that verifies.

        Args:
            step: exactly this one, or None for the newest that is sound.
            say: told, in one sentence each, about checkpoints that were passed over.
        Returns:
            The directory, or None if `step` is None and no checkpoint was ever completed.
        Raises:
            CheckpointError: the step asked for is missing or damaged; or there are checkpoints but none is
                sound (lists them all: training must not silently start from zero); or another release's.
        """
        self._wait()
        places = self._found() if step is None else {step: self.path(step)}
        problems: dict[int, str] = {}
        for candidate in sorted(places, reverse=True):
            problem = bundle.verify(places[candidate], candidate)
            if not problem:
                for bad, why in problems.items():
                    say(f"checkpoint {step_name(bad)} is damaged: {why}; using step {candidate} instead")
                return places[candidate]
            problems[candidate] = problem
            self._damaged.add(candidate)
        if problems:
            raise CheckpointError(self._nothing_sound(problems, step))
        return None

    def _nothing_sound(self, problems: dict[int, str], step: int | None) -> str:
        listing = "\n".join(f"  {step_name(bad)}: {why}" for bad, why in problems.items())
        if step is not None:
            others = ", ".join(str(s) for s in self.steps() if s != step) or "none"
            return f"{self.directory}: the checkpoint is damaged\n{listing}\nOther steps: {others}"
        return (
            f"{self.directory}: every checkpoint is damaged, and a run never restarts from zero by itself\n"
            f"{listing}\nRestore one from a backup, or start a new run"
        )


def _orphan(pid: str) -> bool:
    """Say whether nobody works on a file of this process id: it is ours, or its process is dead."""
    return int(pid) == os.getpid() or not alive(int(pid))
