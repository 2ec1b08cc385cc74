"""Average precision of detections in one process or many: the COCO mean over overlaps, and VOC's at 0.5.

One row per picture and class: scores, and for ten overlaps from 0.5 to 0.95 whether a detection is right. Rows are
keyed by sample id, so any division among processes merges to the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.metrics import merge_tables

if TYPE_CHECKING:
    from visloom.task import Batch, Predictions

OVERLAPS = np.linspace(0.5, 0.95, 10)
MOST = 100  # detections of a picture and class that count


class Row(NamedTuple):
    """What became of one picture.

    labels, scores: (N,) of the detections.  hits: (10, N) 1 right, 0 wrong, -1 on a crowd, which counts for nothing.
    boxes: (K,) boxes of each class that there are, crowds left out.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.int8]
    boxes: NDArray[np.int64]


class AveragePrecision:
    """ "ap" (COCO: mean over overlaps 0.5 to 0.95, 101 points), "ap50", "ap75", and "voc50" (VOC 2010: exact area).

    Classes without a box in the data do not count. Source: Lin et al. 2014; Everingham et al. 2010. Matching as in
    pycocotools: best score first, each box is found once, ties go to the later box.
    """

    names = ("ap", "ap50", "ap75", "voc50")

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._rows: dict[str, Row] = {}

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Match one batch. Reads the columns boxes, scores and labels, and `batch.known`."""
        for place, name in enumerate(batch.ids):
            known = batch.known[place]  # type: ignore[attr-defined]
            boxes, scores, labels = (
                np.asarray(predictions[column][place].cpu().numpy(), dtype)
                for column, dtype in (("boxes", np.float64), ("scores", np.float64), ("labels", np.int64))
            )
            self._rows[name] = self._row(boxes, scores, labels, known)

    def _row(self, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], known: Any) -> Row:
        counts = np.bincount(known.labels[~known.crowd], minlength=len(self.classes))
        kept, hits = [], []
        for label in np.unique(labels):
            at = np.flatnonzero(labels == label)
            at = at[np.argsort(-scores[at], kind="stable")][:MOST]
            mine = known.labels == label
            kept.append(at)
            hits.append(matched(boxes[at], known.boxes[mine].astype(np.float64), known.crowd[mine]))
        order = np.concatenate(kept) if kept else np.zeros(0, np.int64)
        found = np.concatenate(hits, 1) if hits else np.zeros((len(OVERLAPS), 0), np.int8)
        return Row(labels[order], scores[order], found, counts.astype(np.int64))

    def state(self) -> dict[str, Row]:
        return self._rows

    def merge(self, states: Sequence[Mapping[str, Row]]) -> None:
        self._rows = merge_tables(states)

    def compute(self) -> dict[str, float]:
        table = self._table()
        values = np.array([row[:4] for row in table.values()], np.float64).reshape(-1, 4)
        means = values.mean(0) if len(values) else np.full(4, np.nan)
        return {name: float(value) for name, value in zip(self.names, means, strict=True)}

    def tables(self) -> dict[str, Any]:
        rows = [[self.classes[label], *values] for label, values in self._table().items()]
        return {"per_class": {"columns": ["class", *self.names, "boxes"], "rows": rows}}

    def _table(self) -> dict[int, tuple[float, float, float, float, int]]:
        """The four values and the number of boxes of each class that has any."""
        rows = [row for _, row in sorted(self._rows.items())]
        found = {}
        for label in range(len(self.classes)):
            boxes = sum(int(row.boxes[label]) for row in rows)
            if not boxes:
                continue
            parts = [(row.scores[row.labels == label], row.hits[:, row.labels == label]) for row in rows]
            scores = np.concatenate([part[0] for part in parts])
            hits = np.concatenate([part[1] for part in parts], 1)
            hits = hits[:, np.argsort(-scores, kind="stable")]
            each = [interpolated(one, boxes) for one in hits]
            found[label] = (float(np.mean(each)), each[0], each[5], area(hits[0], boxes), boxes)
        return found


def matched(
    boxes: NDArray[np.float64], truth: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Which detections (N, 4), best first, are right: (10, N) by overlap."""
    hits = np.zeros((len(OVERLAPS), len(boxes)), np.int8)
    if not len(boxes) or not len(truth):
        return hits
    overlap = _overlap(boxes, truth, crowd)  # (N, M)
    order = np.argsort(crowd, kind="stable")  # crowds last
    for level, least in enumerate(OVERLAPS):
        free = np.ones(len(truth), bool)
        for i in range(len(boxes)):
            best, which = min(float(least), 1 - 1e-10), -1
            for j in order:
                if not free[j] and not crowd[j]:
                    continue
                if which >= 0 and not crowd[which] and crowd[j]:
                    break
                if overlap[i, j] >= best:
                    best, which = overlap[i, j], int(j)
            if which >= 0:
                free[which] = False
                hits[level, i] = -1 if crowd[which] else 1
    return hits


def _overlap(
    boxes: NDArray[np.float64], truth: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Intersection over union (N, M); over the detection alone where the truth is a crowd."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(2)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    theirs = (truth[:, 2:] - truth[:, :2]).prod(1)[None]
    union = np.where(crowd[None], own, own + theirs - inside)
    found: NDArray[np.float64] = inside / np.maximum(union, 1e-12)
    return found


def _curve(hits: NDArray[np.int8], boxes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each detection, best first, precision made to fall."""
    counted = hits[hits >= 0]
    right = np.cumsum(counted == 1)
    precision = right / np.arange(1, len(counted) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return right / boxes, falling


def interpolated(hits: NDArray[np.int8], boxes: int) -> float:
    """Mean precision at recalls 0, 0.01, ..., 1 (COCO)."""
    recall, precision = _curve(hits, boxes)
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    values = np.append(precision, 0.0)[np.minimum(at, len(precision))]
    return float(values.mean())


def area(hits: NDArray[np.int8], boxes: int) -> float:
    """Area under the precision-recall curve (VOC 2010)."""
    recall, precision = _curve(hits, boxes)
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * precision).sum())
