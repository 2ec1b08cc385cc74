"""VocPrecision: average precision as the PASCAL VOC development kit counts it, at overlap 0.5.

"voc50" is the area under the curve (2010 to 2012), "voc07" the mean precision at eleven recalls (2007). Each detection
belongs to the thing that it overlaps most, whether that was found before or not; difficult things count for nothing,
and neither does what is found of them. Pictures without detections count. Source: Everingham et al. 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.tasks.detect.rows import ByPicture

if TYPE_CHECKING:
    from visloom.task import Batch, Predictions

OVERLAP = 0.5


class Row(NamedTuple):
    """What became of one picture.

    labels, scores: (N,) of the detections.  hits: (N,) 1 right, 0 wrong, -1 on a difficult thing.
    boxes: (K,) things of each class, difficult ones left out.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.int8]
    boxes: NDArray[np.int64]


class VocPrecision(ByPicture[Row]):
    """ "voc50" and "voc07": means over the classes that occur. Things marked as crowds are VOC's difficult ones."""

    names = ("voc50", "voc07")

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Match one batch. Reads the columns boxes, scores and labels, and `batch.known`."""
        for place, name in enumerate(batch.ids):
            known = batch.known[place]  # type: ignore[attr-defined]
            boxes, scores, labels = (
                predictions[column][place].cpu().numpy() for column in ("boxes", "scores", "labels")
            )
            boxes, scores, labels = (
                boxes.astype(np.float64),
                scores.astype(np.float64),
                labels.astype(np.int64),
            )
            counts = np.bincount(known.labels[~known.crowd], minlength=len(self.classes))
            order = np.argsort(-scores, kind="stable")
            hits = np.zeros(len(labels), np.int8)
            for label in np.unique(labels):
                mine, at = known.labels == label, order[labels[order] == label]
                hits[at] = matched(boxes[at], known.boxes[mine].astype(np.float64), known.crowd[mine])
            self._rows[name] = Row(labels, scores, hits, counts.astype(np.int64))

    def compute(self) -> dict[str, float]:
        values = np.array([row[:2] for row in self._table().values()], np.float64).reshape(-1, 2)
        means = values.mean(0) if len(values) else np.full(2, np.nan)
        return {name: float(value) for name, value in zip(self.names, means, strict=True)}

    def tables(self) -> dict[str, Any]:
        rows = [[self.classes[label], *values] for label, values in self._table().items()]
        return {"per_class_voc": {"columns": ["class", *self.names, "boxes"], "rows": rows}}

    def _table(self) -> dict[int, tuple[float, float, int]]:
        """Area, mean of eleven points and the number of boxes of each class that has any."""
        rows = self.rows()
        found = {}
        for label in range(len(self.classes)):
            boxes = sum(int(row.boxes[label]) for row in rows)
            if not boxes:
                continue
            scores = np.concatenate([row.scores[row.labels == label] for row in rows])
            hits = np.concatenate([row.hits[row.labels == label] for row in rows])
            hits = hits[np.argsort(-scores, kind="stable")]
            found[label] = (area(hits, boxes), eleven_points(hits, boxes), boxes)
        return found


def matched(
    boxes: NDArray[np.float64], truth: NDArray[np.float64], difficult: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Which detections (N, 4) of one class, best first, are right: (N,) 1, 0, or -1 on a difficult thing."""
    hits = np.zeros(len(boxes), np.int8)
    if not len(boxes) or not len(truth):
        return hits
    overlap = overlaps(boxes, truth)  # (N, M)
    nearest = overlap.argmax(1)
    free = np.ones(len(truth), bool)
    for i in np.flatnonzero(overlap.max(1) >= OVERLAP):
        which = nearest[i]
        if difficult[which]:
            hits[i] = -1
        elif free[which]:
            hits[i], free[which] = 1, False
    return hits


def overlaps(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4)."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(2)
    own, theirs = ((each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, truth))
    found: NDArray[np.float64] = inside / np.maximum(own[:, None] + theirs[None] - inside, 1e-12)
    return found


def _counts(hits: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Right detections so far, and precision made to fall, after each one that counts."""
    counted = hits[hits >= 0]
    right = np.cumsum(counted == 1)
    precision = right / np.arange(1, len(counted) + 1)
    return right, np.maximum.accumulate(precision[::-1])[::-1]


def area(hits: NDArray[np.int8], boxes: int) -> float:
    """Area under the curve of precision by recall (VOC 2010)."""
    right, precision = _counts(hits)
    steps = np.diff(np.concatenate([[0.0], right / boxes]))
    return float((steps * precision).sum())


def eleven_points(hits: NDArray[np.int8], boxes: int) -> float:
    """Mean precision at recalls 0, 0.1, ..., 1 (VOC 2007), the recalls compared as whole numbers."""
    right, precision = _counts(hits)
    at = np.searchsorted(10 * right, boxes * np.arange(11), side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
