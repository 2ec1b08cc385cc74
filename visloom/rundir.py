"""Run directories: made once, numbered, never reused, and locked by the one process that writes in them.

    runs/
      cifar10-003/            <name>-<number>, the number one more than the highest there
        run.json              the run as a value
        provenance.json       what made it: versions, commit, command, devices
        recipe/               the recipe's own files
        log.txt  log.jsonl  tensorboard/  report.html
        checkpoints/          see `visloom/checkpoint.py`
        lock                  process, machine and time of the process that writes; empty when there is none

`find("cifar10-003@12000")` turns what people type into a directory and a step. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from visloom.bundle import parse_step
from visloom.checkpoint import Checkpoints
from visloom.durable import alive, make_dirs, reason, sync_dir, write_json
from visloom.errors import CheckpointError, ConfigError, DirectoryInUse

__all__ = ["RunDir", "create", "every", "find", "open", "safe_name", "write_json"]

_NAME_BYTES = 80  # of a directory name, before its number
_held: set[int] = set()  # descriptors of the locks that this process holds


@dataclass(frozen=True)
class RunDir:
    """The directory of one run, and where everything in it is."""

    path: Path

    @property
    def name(self) -> str:
        """`cifar10-003`"""
        return self.path.name

    @property
    def run_json(self) -> Path:
        """The run as a value."""
        return self.path / "run.json"

    @property
    def provenance(self) -> Path:
        """What made the run, see `visloom/provenance.py`."""
        return self.path / "provenance.json"

    @property
    def recipe(self) -> Path:
        """Folder of the recipe's own files."""
        return self.path / "recipe"

    @property
    def log_txt(self) -> Path:
        """The log for people."""
        return self.path / "log.txt"

    @property
    def log_jsonl(self) -> Path:
        """The log for programs, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def lock(self, *, force: bool = False) -> Iterator[None]:
        """Hold the directory: a second process that tries is refused.

        The operating system keeps the lock, so kill -9 frees it at once; the file only tells who holds it.
        What a dead process of this machine left is taken over. What a process of another machine left may
        belong to a live one (not every network file system shares locks): `force` takes it over.

        Raises:
            DirectoryInUse: another process holds it; names its pid and machine.
            ConfigError: the lock file cannot be written.
        """
        file = self.path / "lock"
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"{file} cannot be opened: {reason(error)}. A run must be writable") from error
        try:
            self._take(handle, force)
            _held.add(handle)
            _write_owner(handle, file)
            yield
        finally:
            if handle in _held:  # not in a forked child, which closed its copy
                _held.discard(handle)
                os.ftruncate(handle, 0)
                os.close(handle)

    def _take(self, handle: int, force: bool) -> None:
        """Take the lock or raise DirectoryInUse; closes the handle when it raises."""
        locked = _try_lock(handle)
        owner = _read_owner(handle)
        pid, host, since = (owner.get(key, "?") for key in ("pid", "host", "started"))
        who = f"process {pid} on {host}, since {since}"
        here = host == platform.node()
        problem = ""
        if locked is False or (locked is None and here and isinstance(pid, int) and alive(pid)):
            problem = f"it is in use by {who}. Wait for it or stop it"
        elif owner and not here and not force:
            problem = (
                f"{who}, has not given it back. That machine cannot be asked from here: if the process is "
                f"gone, delete {self.path / 'lock'} (or force the lock) and try again"
            )
        if problem:
            os.close(handle)
            raise DirectoryInUse(f"{self.path}: {problem}")


def _drop_in_child() -> None:
    """Close inherited locks, so that a data worker that outlives a killed run does not keep its directory."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)


def _try_lock(handle: int) -> bool | None:
    """Lock a file without waiting: True, False (another holds it), None (the file system has no locks)."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1 << 30, os.SEEK_SET)  # far behind the text: a locked byte cannot be read by others
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, ENOTSUP, ENOSYS, ...: then the file's word must do
        return None
    return True


def _read_owner(handle: int) -> dict[str, Any]:
    """Return what the lock file says; {} if it is empty or half written."""
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(handle, 4096))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _write_owner(handle: int, file: Path) -> None:
    owner = {
        "pid": os.getpid(),
        "host": platform.node(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(owner).encode())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {reason(error)}") from error


# -- making and finding --------------------------------------------------------------------------------------


def safe_name(name: str) -> str:
    """Return a name that every file system takes: letters, digits and `._-`, no dot or dash at either end.

    Other characters become one dash; at most 80 bytes stay; an empty rest becomes `run`.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)
    text = re.sub("-{2,}", "-", text).strip("-.")
    return text.encode()[:_NAME_BYTES].decode(errors="ignore").rstrip("-.") or "run"


def create(out: Path, name: str) -> RunDir:
    """Make the directory `<out>/<name>-<number>`, its number above all that are there.

    Two processes at the same moment get two directories: making one is what claims it.

    Raises ConfigError (at "host.out") if `out` is a file or cannot be made or written.
    """
    stem = safe_name(name)
    number = re.compile(re.escape(stem) + "-([0-9]{3,9})", re.IGNORECASE)
    out = Path(out).absolute()
    try:
        make_dirs(out)
        taken = [int(match[1]) for entry in os.listdir(out) if (match := number.fullmatch(entry))]
        for n in count(max(taken, default=0) + 1):
            path = out / f"{stem}-{n:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            sync_dir(out)
            return RunDir(path)
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} is a file; runs need a folder there. Choose another host.out (--out DIR)",
            path="host.out",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"no run directory can be made in {out}: {reason(error)}. Choose another host.out (--out DIR)",
            path="host.out",
        ) from error
    raise AssertionError("count() does not end")


def open(path: Path) -> RunDir:
    """Return an existing run directory. Raises ConfigError if it is none."""
    path = Path(path).absolute()
    if not path.is_dir():
        raise ConfigError(f"{path} is not a directory")
    if not (path / "run.json").is_file():
        raise ConfigError(f"{path} is not a run directory: it has no run.json")
    return RunDir(path)


def find(ref: str, out: Path = Path("runs")) -> tuple[RunDir, int | None]:
    """Turn what a person typed into a run directory and a step.

    RUN is a path, a directory name under `out`, a run's name without its number (the newest of them),
    `latest` (the newest of all), or the path of one checkpoint. `RUN@STEP` takes a step, `best` or `latest`.

    Returns:
        The directory, and the step, or None for the newest checkpoint that verifies.
    Raises:
        ConfigError: there is no such run; names the nearest.
        CheckpointError: there is no such step; lists those there are.
    """
    out = Path(out)
    name, at = ref, ""
    run, step = _find_path(ref, out)
    if run is None:
        if "@" in ref:
            name, _, at = ref.rpartition("@")
            run, step = _find_path(name, out)
        run = run or _find_name(name, out)
    if run is None:
        raise ConfigError(_no_such_run(name, out))
    return run, _find_step(run, at) if at else step


def must_exist(ref: str) -> None:
    """Refuse what is neither a file nor a run: said before torch is imported, which takes seconds.

    Raises ConfigError or CheckpointError as `find` does.
    """
    if not Path(ref).is_file():
        find(ref)


def _find_path(name: str, out: Path) -> tuple[RunDir | None, int | None]:
    """Return the run, and the step if it is the path of a checkpoint, that a path means."""
    for path in (Path(name), out / name):
        if (path / "run.json").is_file():
            return RunDir(path.absolute()), None
    place = Path(name).absolute()
    step = parse_step(place.name)
    if step is not None and place.is_dir() and (place.parent.parent / "run.json").is_file():
        return RunDir(place.parent.parent), step
    return None, None


def _find_name(name: str, out: Path) -> RunDir | None:
    runs = _runs(out)
    if name != "latest":
        number = re.compile(re.escape(safe_name(name)) + "-[0-9]{3,9}")
        runs = [run for run in runs if number.fullmatch(run.name)]
    return RunDir(runs[-1].absolute()) if runs else None


def every(out: Path) -> list[RunDir]:
    """Return the run directories of a folder, the newest last."""
    return [RunDir(path.absolute()) for path in _runs(Path(out))]


def _runs(out: Path) -> list[Path]:
    """Return the paths of the run directories of a folder, the newest last."""
    found = [file for file in out.glob("*/run.json") if file.is_file()]
    found.sort(key=lambda file: (file.stat().st_mtime_ns, file.parent.name))
    return [file.parent for file in found]


def _find_step(run: RunDir, at: str) -> int | None:
    if at == "latest":
        return None
    checkpoints = Checkpoints(run.checkpoints)
    if at == "best":
        best = checkpoints.best()
        if best is None:
            raise CheckpointError(f"{run.path}: no checkpoint is marked as best; use a step or latest")
        return best
    step = int(at) if at.isascii() and at.isdigit() else parse_step(at)
    if step is None:
        raise ConfigError(f"RUN@STEP takes a number, best or latest, got {at!r}")
    checkpoints.path(step)
    return step


def _no_such_run(name: str, out: Path) -> str:
    names = [run.name for run in _runs(out)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[-3:]
    there = f"Did you mean {' or '.join(near)}?" if near else f"There are no runs in {out}"
    return f"no run {name!r}: neither a run directory nor the name of one in {out}. {there}"
