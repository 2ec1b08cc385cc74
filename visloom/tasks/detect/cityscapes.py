"""CityscapesPrecision: the average precision of masks by the rules of Cityscapes' instance benchmark.

A detection belongs to each thing of its class that it overlaps by more than the threshold. Groups, things under 100
pixels and void are no mistakes: a detection that lies in them by more than the threshold counts for nothing. The curve
is integrated through the middles of its steps. Source: Cordts et al. 2016, and cityscapesScripts 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.sample import VOID
from visloom.tasks.detect.batch import Known, Numbered
from visloom.tasks.detect.rows import ByPicture

if TYPE_CHECKING:
    from visloom.task import Batch, Predictions

OVERLAPS = np.arange(0.5, 1.0, 0.05)
SMALLEST = 100
"""Pixels of a thing that must be found."""


class Row(NamedTuple):
    """One picture, in numbers of pixels. The groups of a class are one region.

    labels, scores, areas, void: (N,) of the detections; void is how much of each counts for nothing.
    truths, groups, sizes: (M,) class, whether it is a group, and pixels of the things.
    shared: (N, M) pixels that a detection shares with a thing of its class.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    areas: NDArray[np.int64]
    void: NDArray[np.int64]
    truths: NDArray[np.int64]
    groups: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    shared: NDArray[np.int64]


class CityscapesPrecision(ByPicture[Row]):
    """ "cityscapes_ap", the mean over overlaps 0.5 to 0.95, and "cityscapes_ap50", of the classes that occur."""

    names = ("cityscapes_ap", "cityscapes_ap50")

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Compare one batch. Reads the columns masks (N, H, W) bool, scores and labels, and `batch.known`."""
        for place, name in enumerate(batch.ids):
            known = batch.known[place]  # type: ignore[attr-defined]
            masks, scores, labels = (
                predictions[column][place].cpu().numpy() for column in ("masks", "scores", "labels")
            )
            self._rows[name] = compared(masks, scores.astype(np.float64), labels.astype(np.int64), known)

    def compute(self) -> dict[str, float]:
        found = self._table()
        there = found[~np.isnan(found).any(1)]
        values = (there.mean(), there[:, 0].mean()) if len(there) else (np.nan, np.nan)
        return {name: float(value) for name, value in zip(self.names, values, strict=True)}

    def tables(self) -> dict[str, Any]:
        things = np.zeros(len(self.classes), np.int64)
        for row in self._rows.values():
            np.add.at(things, row.truths[counts(row)], 1)
        rows = [
            [name, float(values.mean()), float(values[0]), int(number)]
            for name, values, number in zip(self.classes, self._table(), things, strict=True)
            if number
        ]
        return {"per_class_cityscapes": {"columns": ["class", *self.names, "things"], "rows": rows}}

    def _table(self) -> NDArray[np.float64]:
        """Average precision by class and overlap: (classes, 10), NaN where there is no thing."""
        rows = self.rows()
        return np.array(
            [[class_precision(rows, label, o) for o in OVERLAPS] for label in range(len(self.classes))]
        ).reshape(-1, len(OVERLAPS))


def compared(
    masks: NDArray[np.bool_], scores: NDArray[np.float64], labels: NDArray[np.int64], known: Known
) -> Row:
    """Count the pixels of one picture's detections and things; detections without a pixel are none."""
    masks = np.asarray(masks, np.bool_).reshape(len(labels), *known.size)
    kept = masks.any((1, 2))
    masks, scores, labels = masks[kept], scores[kept], labels[kept]
    regions = [region for region in _regions(known) if region[2].any()]
    shared = np.zeros((len(labels), len(regions)), np.int64)
    for column, (label, _, pixels) in enumerate(regions):
        for row in np.flatnonzero(labels == label):
            shared[row, column] = np.count_nonzero(masks[row] & pixels)
    void = np.zeros(known.size, bool)
    if isinstance(known.masks, Numbered):
        void = known.masks.picture == VOID
    return Row(
        labels,
        scores,
        masks.sum((1, 2), dtype=np.int64),
        np.array([np.count_nonzero(mask & void) for mask in masks], np.int64),
        np.array([label for label, *_ in regions], np.int64),
        np.array([group for _, group, _ in regions], bool),
        np.array([np.count_nonzero(pixels) for *_, pixels in regions], np.int64),
        shared,
    )


def _regions(known: Known) -> Iterator[tuple[int, bool, NDArray[np.bool_]]]:
    """Class, whether it is a group, and pixels (H, W) of every thing, and of all groups of a class together."""
    groups: dict[int, NDArray[np.bool_]] = {}
    for label, crowd, pixels in zip(known.labels.tolist(), known.crowd.tolist(), _pixels(known), strict=True):
        if crowd:
            groups[label] = groups[label] | pixels if label in groups else pixels
        else:
            yield label, False, pixels
    for label, pixels in groups.items():
        yield label, True, pixels


def _pixels(known: Known) -> Iterator[NDArray[np.bool_]]:
    if isinstance(known.masks, Numbered):
        yield from known.masks.each()
        return
    from hotcoco import mask

    from visloom.tasks.detect.coco import outlined

    for polygons in known.masks or ():
        yield np.asarray(mask.decode(outlined(polygons, known.size)), np.bool_)


def counts(row: Row) -> NDArray[np.bool_]:
    """Which things of a picture must be found: (M,)."""
    return ~row.groups & (row.sizes >= SMALLEST)


def class_precision(rows: Sequence[Row], label: int, overlap: float) -> float:
    """Average precision of one class at one overlap, NaN where there is no thing of it."""
    parts = [matched(row, label, overlap) for row in rows]
    things = sum(int((counts(row) & (row.truths == label)).sum()) for row in rows)
    if not things:
        return float("nan")
    scores, right = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return area(scores, right, things)


def matched(row: Row, label: int, overlap: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of what one picture's detections of a class come to, and which of them are right: (K,) each."""
    mine, things = row.labels == label, row.truths == label
    shared, areas, scores = row.shared[np.ix_(mine, things)], row.areas[mine], row.scores[mine]
    sizes, groups, real = row.sizes[things], row.groups[things], counts(row)[things]
    hits = shared / (sizes[None] + areas[:, None] - shared) > overlap  # (N, M)
    found: list[tuple[float, bool]] = []
    for column in np.flatnonzero(real):
        best, *others = sorted(scores[hits[:, column]].tolist(), reverse=True) or [None]
        found += [(best, True)] if best is not None else []
        found += [(other, False) for other in others]
    # a group of less than SMALLEST pixels is both, and counts twice: so does the benchmark's own script
    ignored = row.void[mine] + shared[:, groups].sum(1) + shared[:, sizes < SMALLEST].sum(1)  # (N,)
    wrong = ~hits.any(1) & (ignored / areas <= overlap)
    found += [(score, False) for score in scores[wrong].tolist()]
    return np.array([score for score, _ in found]), np.array([right for _, right in found], bool)


def area(scores: NDArray[np.float64], right: NDArray[np.bool_], things: int) -> float:
    """Area under precision by recall, each threshold's precision over half of the steps on both sides."""
    thresholds, ends = np.unique(-scores, return_inverse=True)
    hits, all_ = (np.bincount(ends, each, len(thresholds)).cumsum() for each in (right, np.ones(len(right))))
    precision = np.concatenate([[1.0], hits / all_])
    recall = np.concatenate([[0.0, 0.0], hits / things, hits[-1:] / things])
    recall = recall if len(hits) else np.zeros(3)
    return float((precision * (recall[2:] - recall[:-2]) / 2).sum())
