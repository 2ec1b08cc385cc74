"""Labels: which samples have which classes, how many there are of each, and weights that follow from that.

presence(source)                  (sample, class) pairs, from single labels or labels of several classes
counts(source, 20)                samples of each class
balanced_weights(counts)          weights for a loss: a class that is rare weighs more
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.errors import DataError


class Presence(NamedTuple):
    """Pairs of a sample and a class that it has, by sample: sample (P,) int64, label (P,) int64."""

    sample: NDArray[np.int64]
    label: NDArray[np.int64]


def presence(source: Any) -> Presence:
    """Return which classes each sample of a source has; those marked difficult do not count, as in mmclassification.

    Raises:
        DataError: the source knows its labels neither as `labels()` nor as `multilabels()`.
    """
    for name in ("labels", "multilabels"):
        ask = getattr(source, name, None)
        found = ask() if callable(ask) else None
        if found is None:
            continue
        if found.ndim == 1:
            sample = np.flatnonzero(found >= 0)
            return Presence(sample, found[sample].astype(np.int64))
        sample, label = np.nonzero(found == 1)
        return Presence(sample, label)
    raise DataError(
        f"{source!r} does not know its labels without reading every picture, so samples cannot be counted or "
        "balanced by class: give it labels_all() or multilabels_all()"
    )


def counts(source: Any, classes: int) -> NDArray[np.int64]:
    """Return how many samples have each class: (classes,)."""
    return np.bincount(presence(source).label, minlength=classes).astype(np.int64)


def balanced_weights(counts: Sequence[int] | NDArray[np.int64]) -> tuple[float, ...]:
    """Return N / (K * n) for each class with n samples, K classes that occur, and N samples in them all.

    The average over the samples is 1, so a learning rate stays right. A class without samples gets 1: its weight
    never matters. Source: King, Zeng, "Logistic Regression in Rare Events Data", 2001; scikit-learn, "balanced".

    Raises:
        DataError: no class has a sample.
    """
    found = np.asarray(counts, np.float64)
    there = found > 0
    if not there.any():
        raise DataError("no class has a sample: there is nothing to weight by")
    weights = np.ones(len(found))
    weights[there] = found.sum() / (there.sum() * found[there])
    return tuple(weights.tolist())
