"""The words of `--tta`: names of views and scales, such as `flip,0.75,1.25`, read alike for every task."""

from __future__ import annotations

import math
from collections.abc import Sequence

from visloom.errors import ConfigError

LARGEST = 8.0


def read(text: str, *, of: str, names: Sequence[str], path: str) -> list[str | float]:
    """Read words that are separated by commas: names as they are, "none" among them, and scales as numbers.

    of: what the message calls the task.  names: of its views.  path: of the field that they set.

    Raises:
        ConfigError: a word that is neither.
    """
    found: list[str | float] = []
    for word in (part.strip() for part in text.split(",") if part.strip()):
        if word in ("none", *names):
            found.append(word)
            continue
        try:
            scale = float(word)
        except ValueError:
            scale = math.nan
        if not 0 < scale <= LARGEST:
            raise ConfigError(
                f"{of}'s views are {', '.join(names)} and scales above 0, up to {LARGEST:g}, got {word!r}; for "
                "example --tta flip,0.75,1.25",
                path=path,
            )
        found.append(scale)
    return found
