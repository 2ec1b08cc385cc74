"""PixelMetrics: one int64 confusion matrix of pixels on the device, and every number of segmentation from it.

Counting is a bincount of truth * K + prediction, where ignored pixels have a row of their own that is cut off. So
it is exact at any number of pixels (float32 counts stop at 2^24), and the same on every device and in any order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visloom.errors import ConfigError
from visloom.metrics import merge_sums

if TYPE_CHECKING:
    from torch import Tensor

    from visloom.task import Batch, Predictions

_LARGEST = 200  # classes up to which a report holds the matrix itself


class PixelMetrics:
    """Values in [0, 1] over all labelled pixels of an evaluation; IoU_c = hits / (true + predicted - hits) of class c.

    miou: mean IoU over the classes that occur in the truth.
    pixel_accuracy: share of pixels that are right.
    miou_all: mean IoU over all classes, where one that neither occurs nor is predicted counts as 0, as in the
        template. With classes that the data do not have it cannot reach 1.
    fwiou: IoU weighted by how frequent each class is in the truth.
    mean_accuracy: mean over the occurring classes of the share of their pixels that are right.
    foreground_accuracy: share of right pixels among those whose truth is not `background`; only with a background.

    Args:
        background: the class that "foreground" leaves out, or "".
    """

    def __init__(self, classes: Sequence[str], background: str = "") -> None:
        self.classes = tuple(classes)
        if background and background not in self.classes:
            raise ConfigError(
                f"background is {background!r}, which is none of the classes {', '.join(self.classes[:6])}, ...",
                path="task.background",
            )
        self.background = background
        self._matrix: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        named = ("miou", "pixel_accuracy", "miou_all", "fwiou", "mean_accuracy")
        return (*named, "foreground_accuracy") if self.background else named

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count pixels. Reads predictions "mask", (h, w) each, and `batch.mask` (B, H, W) with `batch.sizes`."""
        masks: Tensor | None = batch.mask  # type: ignore[attr-defined]
        if masks is None:
            return
        for row, (height, width) in enumerate(batch.sizes):  # type: ignore[attr-defined]
            new = confusion(masks[row, :height, :width], predictions["mask"][row], len(self.classes))
            self._matrix = new if self._matrix is None else self._matrix + new

    def state(self) -> dict[str, Tensor]:
        import torch

        n = len(self.classes)
        return {"matrix": torch.zeros(n, n, dtype=torch.int64) if self._matrix is None else self._matrix}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._matrix = merge_sums(states)["matrix"]

    def compute(self) -> dict[str, float]:
        values = summary(self.state()["matrix"].tolist(), self._place())
        return {name: values[name] for name in self.names}

    def tables(self) -> dict[str, Any]:
        matrix: list[list[int]] = self.state()["matrix"].tolist()
        total = sum(map(sum, matrix)) or 1
        rows = []
        for name, (hits, true, predicted) in zip(self.classes, per_class(matrix), strict=True):
            iou = _share(hits, true + predicted - hits) if true else None
            shares = [_share(hits, predicted) if predicted else None, _share(hits, true) if true else None]
            rows.append([name, *shares, f"{100 * true / total:.2f} %", iou])
        columns = ["class", "precision", "recall", "of all pixels", "IoU"]
        tables: dict[str, Any] = {"per_class": {"columns": columns, "rows": rows}}
        if len(self.classes) <= _LARGEST:
            tables["confusion"] = {"classes": list(self.classes), "matrix": matrix}
        return tables

    def _place(self) -> int | None:
        return self.classes.index(self.background) if self.background else None


def confusion(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pairs of truth and prediction: (K, K) int64, rows are the truth. Truth outside 0 .. K-1 is left out."""
    import torch

    # Ignored pixels are row 0, which is cut off in front; what lies past the classes is cut off behind. 32 bits and no
    # comparisons: this is a third of the time of the obvious way.
    place = truth.clamp_min(-1).to(torch.int32).add_(1).mul_(classes).add_(predicted)
    counts = torch.bincount(place.flatten(), minlength=(classes + 1) * classes)
    return counts[classes : (classes + 1) * classes].reshape(classes, classes)


def per_class(matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Hits, true and predicted pixels of each class, in Python's exact integers."""
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    return [(row[i], sum(row), predicted[i]) for i, row in enumerate(matrix)]


def summary(matrix: Sequence[Sequence[int]], background: int | None = None) -> dict[str, float]:
    """Every value of `PixelMetrics` from a confusion matrix; NaN where there is nothing to divide by."""
    rows = per_class(matrix)
    total = sum(true for _, true, _ in rows)
    iou = [_share(hits, true + predicted - hits) for hits, true, predicted in rows]
    there = [i for i, (_, true, _) in enumerate(rows) if true]
    values = {
        "miou": sum(iou[i] for i in there) / len(there) if there else math.nan,
        "pixel_accuracy": sum(hits for hits, _, _ in rows) / total if total else math.nan,
        "miou_all": sum(iou) / len(iou) if total else math.nan,
        "fwiou": sum(iou[i] * rows[i][1] for i in there) / total if total else math.nan,
        "mean_accuracy": sum(_share(*rows[i][:2]) for i in there) / len(there) if there else math.nan,
    }
    if background is not None:
        hits = sum(row[0] for i, row in enumerate(rows) if i != background)
        true = sum(row[1] for i, row in enumerate(rows) if i != background)
        values["foreground_accuracy"] = hits / true if true else math.nan
    return values


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
