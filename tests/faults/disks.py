"""Real file systems that refuse: small, read-only, somebody else's; mounted where only one child process sees them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
NOT_PERMITTED = 77
NOBODY = 65534


class NotPermitted(Exception):
    """This user may not mount."""


def mount(*words: str) -> None:
    """Call mount(8), or say that it is not permitted."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        raise NotPermitted(done.stderr.strip())


def tmpfs(place: Path, size: str) -> Path:
    """Mount an empty file system in memory, which is another one than that of /tmp."""
    place.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "visloom-test", str(place))
    return place


def in_private_mounts(work: Callable[[], None]) -> None:
    """Run `work` in a child process whose mounts nobody else sees; skip where that is not permitted.

    The child's traceback is printed, and its failure is the test's.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
                raise NotPermitted(os.strerror(ctypes.get_errno()))
            mount("--make-rprivate", "/")
            work()
            code = 0
        except NotPermitted:
            code = NOT_PERMITTED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == NOT_PERMITTED:
        pytest.skip("this user may not mount file systems of its own")
    assert code == 0, "the child failed: its traceback is above"


def as_nobody(work: Callable[[], None]) -> int:
    """Run `work` in a child that has given up all rights of root; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
