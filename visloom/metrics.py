"""Metrics: counts that update on the device, merge exactly across processes, and become numbers at the end.

A metric never averages averages. Its state is a table of integer (or float64) sums, so an evaluation split
over any number of batches or processes gives the same numbers to the last bit. Rates are fractions in [0, 1],
never percent.
torch is imported inside functions: specs name metrics without paying for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from visloom.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from visloom.task import Batch, Predictions

T = TypeVar("T")


@runtime_checkable
class Metric(Protocol):
    """One or more values of an evaluation.

    names: the values that `compute` reports, known before any data, so that a monitor's name is checked
    early.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Take in one batch. No host synchronisation, no collective."""
        ...

    def state(self) -> Any:
        """What `merge` takes: tensors, or plain containers of them."""
        ...

    def merge(self, states: Sequence[Any]) -> None:
        """Replace the own state by the union of `states`, which name every process once (this one too)."""
        ...

    def compute(self) -> dict[str, float]:
        """Return a value for each of `names`; may synchronise."""
        ...

    def tables(self) -> dict[str, Any]:
        """Return what the report shows besides the numbers, {} if nothing.

        "confusion": {"classes": names, "matrix": rows of counts}; "curves": {"title", "x_name", "x": numbers,
        "series": {name: as many numbers}}; "per_class" and the like: {"columns": names, "rows": rows}.
        """
        ...


def merge_sums(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Add up states of named sums, in the order given, on the first one's device."""
    if not states:
        raise ValueError("merge needs at least one state, and this process's own is among them")
    total = {name: value.clone() for name, value in states[0].items()}
    for state in states[1:]:
        if state.keys() != total.keys():
            raise ValueError(
                f"states with different names cannot be merged: {sorted(total)} and {sorted(state)}"
            )
        for name, value in state.items():
            total[name] += value.to(total[name].device)
    return total


def merge_tables(states: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Unite tables keyed by sample id, in id order, whatever order they were made in.

    Raises:
        DataError: an id is in two tables: a sample would count twice.
    """
    united: dict[str, T] = {}
    for state in states:
        for key, row in state.items():
            if key in united:
                raise DataError(
                    f"sample {key!r} was evaluated twice: the evaluation stream must give each id once"
                )
            united[key] = row
    return dict(sorted(united.items()))


def hard_labels(label: Tensor) -> Tensor:
    """Class indices of labels: (B,) int64 as they are, (B, K) soft labels by their largest entry.

    A soft label without any weight is -1 (unlabelled).
    """
    if label.ndim == 1:
        return label
    best = label.max(1)
    return best.indices.where(best.values > 0, -1)


class TopK:
    """Share of samples whose label is among the k highest scores: "accuracy" for k = 1, else "topK"; in [0,
    1].

    k = 1 takes the predicted label, so it agrees with a confusion matrix. For greater k, equal scores rank by
    class index and a NaN never counts, so that a constant or broken network does not look good. Labels of -1
    are left out; with no label at all the value is NaN.

    Args:
        ks: the k's, in the order of `names`.
        classes: number of classes, each greater than every k.

    Raises:
        ConfigError: a k that is not in 1 .. classes - 1: the answer would be 100 % without looking.
    """

    def __init__(self, ks: Sequence[int] = (1,), *, classes: int) -> None:
        self.ks = tuple(ks)
        if not self.ks or len(set(self.ks)) != len(self.ks):
            raise ConfigError(f"top-k needs one or more different k, got {self.ks}", path="task.topk")
        for k in self.ks:
            if not 1 <= k < classes:
                raise ConfigError(
                    f"top-{k} of {classes} classes says nothing: k must be from 1 to {classes - 1}. "
                    "Take it out of topk.",
                    path="task.topk",
                )
        self._state: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple("accuracy" if k == 1 else f"top{k}" for k in self.ks)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count hits. Reads predictions "label" (B,) and "probabilities" (B, K), and `batch.label`."""
        import torch

        label = hard_labels(batch.label)  # type: ignore[attr-defined]  # (B,)
        known = label >= 0
        hits = []
        for k in self.ks:
            if k == 1:
                hit = predictions["label"] == label
            else:
                hit = _rank(predictions["probabilities"], label) < k
            hits.append((hit & known).sum())
        new = {"hits": torch.stack(hits), "count": known.sum()}  # (len(ks),) and () int64
        self._state = merge_sums([self._state, new]) if self._state else new

    def state(self) -> dict[str, Tensor]:
        return self._state or self._empty()

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._state = merge_sums(states)

    def compute(self) -> dict[str, float]:
        state = self.state()
        count = int(state["count"])
        hits = state["hits"].tolist()
        return {
            name: hit / count if count else float("nan") for name, hit in zip(self.names, hits, strict=True)
        }

    def tables(self) -> dict[str, Any]:
        return {}

    def _empty(self) -> dict[str, Tensor]:
        import torch

        return {
            "hits": torch.zeros(len(self.ks), dtype=torch.int64),
            "count": torch.zeros((), dtype=torch.int64),
        }


def _rank(scores: Tensor, label: Tensor) -> Tensor:
    """Place of the label among the scores, 0 the highest: (B,) int64 from (B, K) and (B,)."""
    import torch

    classes = scores.shape[1]
    own = label.clamp_min(0)[:, None]  # (B, 1)
    score = scores.gather(1, own)  # (B, 1)
    before = torch.arange(classes, device=scores.device)[None] < own  # (B, K)
    ahead = (scores > score) | ((scores == score) & before)
    return ahead.sum(1).where(score[:, 0] == score[:, 0], classes)


class Confusion:
    """Confusion matrix, and from it macro "precision", "recall" and "f1", in [0, 1].

    One int64 matrix, exact: rows are the truth, columns the prediction. A macro value is the unweighted mean
    over
    all classes; a class with nothing predicted (precision) or nothing true (recall) counts as 0, as in
    mmclassification and in scikit-learn with `zero_division=0`. Labels of -1 are left out.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._matrix: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("precision", "recall", "f1")

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count pairs of truth and prediction. Reads predictions "label" (B,) and `batch.label`."""
        import torch

        n = len(self.classes)
        truth = hard_labels(batch.label)  # type: ignore[attr-defined]  # (B,)
        # Unlabelled samples go to a row of their own, which is cut off: selecting by a mask would
        # synchronise.
        row = truth.where(truth >= 0, n)
        counts = torch.bincount(row * n + predictions["label"], minlength=(n + 1) * n)
        new = counts[: n * n].reshape(n, n)  # (K, K) int64
        self._matrix = new if self._matrix is None else self._matrix + new

    def state(self) -> dict[str, Tensor]:
        import torch

        n = len(self.classes)
        return {"matrix": torch.zeros(n, n, dtype=torch.int64) if self._matrix is None else self._matrix}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._matrix = merge_sums(states)["matrix"]

    def compute(self) -> dict[str, float]:
        rows = self._per_class()
        return {name: sum(row[i] for row in rows) / len(rows) for i, name in enumerate(self.names)}

    def tables(self) -> dict[str, Any]:
        matrix = self.state()["matrix"].tolist()
        rows = [
            [name, *values, sum(counts)]
            for name, values, counts in zip(self.classes, self._per_class(), matrix, strict=True)
        ]
        return {
            "confusion": {"classes": list(self.classes), "matrix": matrix},
            "per_class": {"columns": ["class", *self.names, "samples"], "rows": rows},
        }

    def _per_class(self) -> list[tuple[float, float, float]]:
        """Precision, recall and F1 of each class, in Python's float64."""
        matrix: list[list[int]] = self.state()["matrix"].tolist()
        rows = []
        for i, counts in enumerate(matrix):
            hit, true, predicted = counts[i], sum(counts), sum(row[i] for row in matrix)
            precision = hit / predicted if predicted else 0.0
            recall = hit / true if true else 0.0
            rows.append((precision, recall, 2 * hit / (true + predicted) if true + predicted else 0.0))
        return rows


def majority(labels: Sequence[int], classes: Sequence[str]) -> tuple[str, float]:
    """The baseline that every result stands beside: always answer the commonest class.

    Args:
        labels: class indices; -1 is unlabelled and left out.

    Returns:
        The class's name and the accuracy in [0, 1] that it reaches on these labels; the first of equals.

    Raises:
        DataError: no label at all.
    """
    counts = [0] * len(classes)
    for label in labels:
        if label >= 0:
            counts[label] += 1
    if not sum(counts):
        raise DataError("the majority-class baseline needs at least one labelled sample, and there is none")
    best = max(range(len(counts)), key=lambda index: counts[index])
    return classes[best], counts[best] / sum(counts)
