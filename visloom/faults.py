"""Fault points: places where a test can kill the process, slow it down or make the disk fail.

For fault tests only. `point("manifest")` does nothing unless the environment variable VISLOOM_FAULT was set
when the process started. It holds one or more orders, separated by commas:

    kill-at:POINT            SIGKILL this process when it reaches POINT
    kill-at:POINT@N          ... when it reaches it for the Nth time
    fail-at:POINT:ENOSPC     raise OSError with that errno name, every time; @N: the Nth time only
    slow-write:SECONDS       sleep at every point of a checkpoint write

Points, in the order of a run (a point with `/FILE` also answers to its name without it):

    step                     after each update (the driver's loop)
    before-first-checkpoint  a checkpoint is wanted and the directory holds none of this process yet
    before-file/FILE, chunk/FILE, after-file/FILE     chunk: after the header and after every 4 MiB
    manifest                 every file is durable, the manifest is not written
    before-rename            the temporary directory is complete
    set-aside                an older checkpoint of the same step has moved away, the new one is not there
    after-rename             the checkpoint is in place, its parent directory is not synced
    before-latest            the checkpoint is durable, the file `latest` is old
    prune                    a superseded checkpoint has been moved away, its files still exist
    best-save                before the file `best` is written
    evaluation-batch         inside an evaluation, after each of its batches
    evaluation               after an evaluation, which the run does not know of yet
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from dataclasses import dataclass

WRITE_POINTS = frozenset(
    {
        "before-file",
        "chunk",
        "after-file",
        "manifest",
        "before-rename",
        "set-aside",
        "after-rename",
        "before-latest",
    }
)


@dataclass
class _Order:
    """One order of VISLOOM_FAULT. `count` is how often its point must be reached; 0 means every time."""

    kind: str
    point: str
    count: int = 0
    code: int = 0
    seconds: float = 0.0
    seen: int = 0


def _parse(text: str) -> list[_Order]:
    orders = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        kind, _, rest = item.partition(":")
        try:
            if kind == "slow-write":
                orders.append(_Order(kind, "", seconds=float(rest)))
            elif kind == "kill-at":
                name, _, count = rest.partition("@")
                orders.append(_Order(kind, name, int(count or 1)))
            elif kind == "fail-at":
                name, _, code = rest.partition(":")
                name, _, count = name.partition("@")
                orders.append(_Order(kind, name, int(count or 0), code=int(getattr(errno, code))))
            else:
                raise ValueError(f"unknown kind {kind!r}")
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"VISLOOM_FAULT: cannot read {item!r} ({error}); expected kill-at:POINT[@N], "
                f"fail-at:POINT[@N]:ERRNO or slow-write:SECONDS"
            ) from None
    return orders


_orders = _parse(os.environ.get("VISLOOM_FAULT", ""))


def arm(text: str) -> None:
    """Replace the orders of this process, as if VISLOOM_FAULT had been `text`; "" disarms."""
    global _orders
    _orders = _parse(text)


def point(name: str) -> None:
    """Mark a place where a fault may strike. Costs one comparison when nothing is armed."""
    if _orders:
        _strike(name)


def _strike(name: str) -> None:
    family = name.partition("/")[0]
    for order in _orders:
        if order.kind == "slow-write":
            if family in WRITE_POINTS:
                time.sleep(order.seconds)
            continue
        if order.point not in (name, family):
            continue
        order.seen += 1
        if order.count not in (0, order.seen):
            continue
        if order.kind == "fail-at":
            raise OSError(order.code, os.strerror(order.code), name)
        if sys.platform == "win32":  # there os.kill ends a process at once, whatever the signal
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
