"""Photos: a folder of pictures without labels: the target of an adaptation, whose pictures need no annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visloom.data import listing
from visloom.data.box_source import refusal
from visloom.data.checks import require
from visloom.data.images import EXTENSIONS, MAX_PIXELS, check_headers, missing, read_image
from visloom.errors import DataError
from visloom.sample import Sample
from visloom.stream import Source


@dataclass(frozen=True, kw_only=True, repr=False)
class Photos(Source):
    """All pictures below a folder, in the order of their names, and nothing else.

    extensions: endings of picture files.  max_pixels: larger pictures are refused from their header.
    """

    extensions: tuple[str, ...] = EXTENSIONS
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        require(bool(self.extensions), "extensions names endings of picture files", self.extensions)
        require(self.max_pixels > 0, "max_pixels is a positive number", self.max_pixels)

    def open(self) -> list[str]:
        """List the pictures.

        Raises:
            DataError: the folder is missing or holds none.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(f"{root}: {missing(root)}; expected a folder of pictures")
        found = list(listing.pictures(root, self.extensions))
        if not found:
            raise DataError(
                f"{root}: holds no pictures (looked for {', '.join(self.extensions)}, in folders below it too); an "
                "adaptation needs pictures of its target, without labels"
            )
        return found

    def count(self) -> int:
        return len(self.opened())

    def fetch(self, index: int) -> Sample:
        name = self.opened()[index]
        return Sample(name, read_image(Path(self.root) / name, max_pixels=self.max_pixels))

    def sizes_all(self) -> NDArray[np.int64]:
        """(N, 2) heights and widths from the headers."""
        if "_sizes" not in self.__dict__:
            sizes, bad = self._headers(np.arange(self.count()))
            if bad:
                raise refusal(self, bad, len(sizes))
            object.__setattr__(self, "_sizes", sizes)
        return self.__dict__["_sizes"]  # type: ignore[no-any-return]

    def check(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read the headers of the pictures kept.

        Raises:
            DataError: nothing is left, or pictures cannot be read; lists them.
        """
        kept = self.chosen()
        wanted = np.arange(self.count()) if kept is None else kept
        if not len(wanted):
            raise DataError(f"{self!r}: nothing is left after split and limit")
        _, bad = self._headers(wanted, progress)
        if bad:
            raise refusal(self, bad, len(wanted))
        return []

    def _headers(
        self, indices: NDArray[np.int64], progress: Callable[[int, int], None] | None = None
    ) -> tuple[NDArray[np.int64], dict[int, str]]:
        paths = [Path(self.root) / self.opened()[i] for i in indices.tolist()]
        return check_headers(paths, max_pixels=self.max_pixels, progress=progress)

    def __repr__(self) -> str:
        if "_opened" not in self.__dict__:
            return f"Photos(root={self.root!r})"
        return f"Photos({self.root!r}: {len(self):,} pictures without labels)"
