"""Held: base of data sets that lie in memory, as one array of pictures and one of labels.

A subclass says how to open them, what its classes are, and how sample number `index` is called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.sample import Sample, Stacked
from visloom.source import Source


class Held(Source):
    """What `open()` returns has `images`, (N, H, W, C) uint8, and `labels`, (N,) int64."""

    def _id(self, index: int) -> str:
        raise TypeError(f"{type(self).__name__} must define _id(index) -> str")

    def count(self) -> int:
        return len(self.opened().labels)

    def fetch(self, index: int) -> Sample:
        opened = self.opened()
        return Sample(self._id(index), opened.images[index], int(opened.labels[index]))

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked:
        opened = self.opened()
        ids = tuple([self._id(index) for index in indices.tolist()])
        return Stacked(ids, opened.images[indices], opened.labels[indices])

    def sizes_all(self) -> NDArray[np.int64]:
        images: NDArray[Any] = self.opened().images
        return np.tile(np.asarray(images.shape[1:3], np.int64), (len(images), 1))

    def labels_all(self) -> NDArray[np.int64]:
        return self.opened().labels  # type: ignore[no-any-return]

    def check(self) -> list[str]:
        """Read everything once, and name classes without a picture."""
        names = self.classes()
        present = np.bincount(self.opened().labels, minlength=len(names))
        empty = [name for name, count in zip(names, present, strict=True) if not count]
        return [f"{self!r}: no picture of {', '.join(empty)}"] if empty else []
