"""Digits: the 1,797 real handwritten digits of 8x8 pixels that come inside scikit-learn (an extra).

No download and no files: a data set to try things on. From E. Alpaydin and C. Kaynak's "Optical Recognition
of Handwritten Digits" (UCI, 1998); `split: head:0.8` and `split: tail:0.8` are its training and validation
part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.held import Held
from visloom.errors import DataError


class Opened(NamedTuple):
    """images (1797, 8, 8, 1) uint8, labels (1797,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, repr=False)
class Digits(Held):
    """Handwritten digits 0 to 9, 8x8 gray. Their 17 gray levels 0-16 are stretched to 0-255."""

    def open(self) -> Opened:
        """Load them.

        Raises:
            DataError: scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError("digits come with scikit-learn: pip install 'visloom[digits]'") from error
        held = load_digits()
        images = np.rint(held.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
        return Opened(images, held.target.astype(np.int64))

    def picture_size(self) -> tuple[int, int]:
        return 8, 8

    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def _id(self, index: int) -> str:
        return f"digit/{index:04d}"

    def __repr__(self) -> str:
        return f"Digits({len(self):,} images 8x8, 10 classes)" if "_opened" in self.__dict__ else "Digits()"
