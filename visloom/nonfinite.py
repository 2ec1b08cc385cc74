"""Nonfinite: what is known of steps whose gradient was not finite, and the way back to a checkpoint.

The engine flags such a step on the device and takes no update; the host learns of it at log and save points and
before evaluations. What happens then, `how.non_finite` says; `Launch.look_for_bad_steps` does it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from visloom import dist
from visloom.assemble import some
from visloom.durable import write_json
from visloom.engine import Bad
from visloom.errors import NonFiniteError


class Rollback(Exception):
    """Raised inside the loop to return to a checkpoint; the driver answers it."""

    def __init__(self, bad: Sequence[Bad]) -> None:
        super().__init__(tell(bad))
        self.bad = bad


def tell(bad: Sequence[Bad]) -> str:
    """Say which step it was first, and with which samples."""
    return f"step {bad[0].step + 1}: the gradient was not finite (samples {some(bad[0].ids)})"


def everywhere(bad: Sequence[Bad]) -> list[Bad]:
    """Return the bad steps of all processes, each once, with all its samples."""
    found: dict[int, tuple[str, ...]] = {}
    for part in dist.gather(list(bad)):
        for step, ids in part:
            found[step] = found.get(step, ()) + ids
    return [Bad(step, found[step]) for step in sorted(found)]


def add_to_list(file: Path, bad: Sequence[Bad]) -> None:
    """Add bad steps to a JSON list of {"step": counted from 1, "samples": ids}, each step once."""
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    known = {row["step"]: row for row in rows}
    known |= {b.step + 1: {"step": b.step + 1, "samples": list(b.ids)} for b in bad}
    write_json(file, [known[step] for step in sorted(known)])


def stop(bad: Sequence[Bad], directory: Path, file: Path) -> NonFiniteError:
    """Return the error that ends the run."""
    return NonFiniteError(
        f"{tell(bad)}; no weight was changed by it and nothing was saved since. The samples are listed in {file}. "
        f"Go on from the last checkpoint with a lower optim.lr, clipped gradients (how.clip.norm=1), or "
        f"how.non_finite=skip or rollback:3, as in: visloom branch {directory} how.non_finite=skip"
    )
