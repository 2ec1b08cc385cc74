"""ByPicture: what the metrics of detection share: a state of one row per picture, merged in the order of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from visloom.metrics import merge_tables

R = TypeVar("R")


class ByPicture(Generic[R]):
    """Rows keyed by sample id: any division among processes merges to the same numbers."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._rows: dict[str, R] = {}

    def state(self) -> dict[str, R]:
        return self._rows

    def merge(self, states: Sequence[Mapping[str, R]]) -> None:
        self._rows = merge_tables(states)

    def rows(self) -> list[R]:
        """All rows, in the order of ids."""
        return [row for _, row in sorted(self._rows.items())]
