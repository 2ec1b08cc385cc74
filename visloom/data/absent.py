"""Absent: the data set of a run that knows none, because its weights came without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visloom.errors import DataError
from visloom.source import Source


@dataclass(frozen=True, kw_only=True)
class Absent(Source):
    """Stands where weights were imported without their data: predictions need none, everything else is told so."""

    def open(self) -> Any:
        """Say what is missing."""
        raise DataError(
            "this run was imported without a data set, so it can predict but neither train nor be evaluated by "
            "itself. Import it with --into RECIPE to give it one, or train a recipe of your own from it: "
            "visloom train RECIPE init.model=THIS"
        )

    def count(self) -> int:
        """Raises DataError."""
        return int(self.opened())

    def check(self) -> list[str]:
        """Raises DataError, before anything is built."""
        self.opened()
        return []
