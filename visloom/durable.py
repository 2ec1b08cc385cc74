"""Durable files: text that appears whole or not at all, synced directories, and how much room a disk has.

A file is durable only after it *and* the directory that names it are synced. `write_text` does both around an
atomic rename; everything that must survive a power cut in a run directory goes through here or through
`visloom/checkpoint.py`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from visloom.errors import UsageError

_log = logging.getLogger(__name__)


def sync_dir(path: Path) -> None:
    """Make the names inside a directory durable.

    Windows cannot open directories; its renames are journaled.
    """
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_dirs(path: Path) -> None:
    """Make a directory and what is missing above it, durably; one that is there already is left alone.

    Raises OSError.
    """
    if path.is_dir():
        return
    make_dirs(path.parent)
    path.mkdir(exist_ok=True)
    sync_dir(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically and durably: readers see the old text or the new, never a part.

    Raises OSError; the old file is then untouched and no temporary file stays.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_dir(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically and durably. Raises TypeError for what JSON cannot hold."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def refuse_existing(path: Path, choose: str = "another --out") -> None:
    """Refuse a place for output at which there is something already. Raises UsageError.

    choose: what the person can name instead.
    """
    if path.exists():
        raise UsageError(f"{path} exists already, and nothing is overwritten: choose {choose}, or remove it")


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write where `path` is, or would be."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def size_text(count: int) -> str:
    """Return a byte count for people: `17 bytes`, `12.3 MB` (decimal units)."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def alive(pid: int) -> bool:
    """Say whether a process of this machine runs; also True for a process that we may not signal."""
    if pid <= 0:
        return False
    if sys.platform == "win32":  # os.kill(pid, 0) would send Ctrl-C there
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # larger than any pid
        return False
    return True


def remove_tree(place: Path) -> None:
    """Delete a directory if it is there.

    What cannot be deleted stays, with a warning: nobody waits for it.
    """

    def failed(_function: Any, path: str, error: BaseException) -> None:
        if not isinstance(error, FileNotFoundError):
            _log.warning("%s could not be deleted: %s", path, error)

    if sys.version_info >= (3, 12):
        shutil.rmtree(place, onexc=failed)
    else:
        shutil.rmtree(place, onerror=lambda function, path, info: failed(function, path, info[1]))


def reason(error: OSError) -> str:
    """Return the system's words for an error, without number and path."""
    return error.strerror or str(error)
