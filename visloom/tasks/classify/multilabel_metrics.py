"""Metrics of pictures with several classes each: mAP, and precision, recall and F1 by class and over all.

Both read predictions "probabilities" (B, K) and `batch.label` (B, K): 1 there, 0 not, -1 difficult, less is unknown.
All values are fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visloom.errors import ConfigError
from visloom.metrics import merge_sums

if TYPE_CHECKING:
    from torch import Tensor

    from visloom.task import Batch, Predictions


def average_precision(score: NDArray[Any], target: NDArray[Any]) -> float:
    """Area under the steps of precision over recall, without interpolation.

    sum over the distinct scores, from high to low, of (recall gained there) * (precision there). Equal scores are one
    step, so that the order of the samples has no part in it (in mmclassification the sort decides); without equal
    scores it is mmclassification's value. Source: scikit-learn, average_precision_score.

    Args:
        score: (N,).  target: (N,), 1 there, 0 not; -1 (difficult) and less are left out.

    Returns:
        A value in [0, 1]; 0 where the class is never there, as in mmclassification.
    """
    known = target >= 0
    score = np.nan_to_num(score[known].astype(np.float64), nan=-np.inf)
    hit = target[known] > 0.5
    total = int(hit.sum())
    if not total:
        return 0.0
    order = np.argsort(-score, kind="stable")
    ordered, found = score[order], np.cumsum(hit[order])
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])  # the last place of each score
    true = found[last]
    return float(np.sum(np.diff(true, prepend=0) * (true / (last + 1))) / total)


class MeanAveragePrecision:
    """ "mAP": the mean over the classes of `average_precision`. Difficult objects are left out.

    The scores of all samples are kept until the end: N x K x 5 bytes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    @property
    def names(self) -> tuple[str, ...]:
        return ("mAP",)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        import torch

        self._scores.append(predictions["probabilities"].detach().float())
        self._targets.append(batch.label.round().clamp(-2, 1).to(torch.int8))  # type: ignore[attr-defined]

    def state(self) -> dict[str, Tensor]:
        import torch

        if not self._scores:
            empty = torch.empty(0, len(self.classes))
            return {"scores": empty, "targets": empty.to(torch.int8)}
        self._scores, self._targets = [torch.cat(self._scores)], [torch.cat(self._targets)]
        return {"scores": self._scores[0], "targets": self._targets[0]}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        here = states[0]["scores"].device
        self._scores = [state["scores"].to(here) for state in states]
        self._targets = [state["targets"].to(here) for state in states]

    def compute(self) -> dict[str, float]:
        values = self._values()
        return {"mAP": sum(values) / len(values) if self._scores and len(self._scores[0]) else float("nan")}

    def tables(self) -> dict[str, Any]:
        targets = self.state()["targets"]
        there = (targets == 1).sum(0).tolist()
        rows = [list(row) for row in zip(self.classes, self._values(), there, strict=True)]
        return {"average_precision": {"columns": ["class", "AP", "samples"], "rows": rows}}

    def _values(self) -> list[float]:
        state = self.state()
        scores, targets = state["scores"].cpu().numpy(), state["targets"].cpu().numpy()
        return [average_precision(scores[:, i], targets[:, i]) for i in range(len(self.classes))]


class MultiLabelRates:
    """Precision, recall and F1 of yes and no: "CP", "CR" and "CF1" by class, "OP", "OR" and "OF1" over all.

    CP and CR are the unweighted means over the classes of tp / (tp + fp) and tp / (tp + fn), 0 where there is
    nothing; OP and OR are the same of the sums over the classes; F1 is the harmonic mean of the two. Difficult
    objects count as not there. Source: Wu et al. 2017; mmclassification, average_performance.

    threshold: least probability of a yes.  k: instead, the k highest are; equal ones by class index.
    """

    def __init__(self, classes: Sequence[str], *, threshold: float = 0.5, k: int | None = None) -> None:
        self.classes = tuple(classes)
        self.threshold, self.k = threshold, k
        if k is not None and not 1 <= k <= len(self.classes):
            raise ConfigError(
                f"the {k} most probable of {len(self.classes)} classes cannot be told", path="task.k"
            )
        self._state: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return ("CP", "CR", "CF1", "OP", "OR", "OF1")

    def update(self, predictions: Predictions, batch: Batch) -> None:
        import torch

        score, label = predictions["probabilities"], batch.label  # type: ignore[attr-defined]
        known, there = label >= -1, label > 0.5  # (B, K)
        if self.k is None:
            yes = score >= self.threshold
        else:
            order = score.argsort(dim=1, descending=True, stable=True)[:, : self.k]
            yes = torch.zeros_like(there).scatter_(1, order, True)
        new = {
            "tp": (yes & there & known).sum(0),
            "fp": (yes & ~there & known).sum(0),
            "fn": (~yes & there & known).sum(0),
        }  # (K,) int64 each
        self._state = merge_sums([self._state, new]) if self._state else new

    def state(self) -> dict[str, Tensor]:
        import torch

        return self._state or {
            name: torch.zeros(len(self.classes), dtype=torch.int64) for name in ("tp", "fp", "fn")
        }

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._state = merge_sums(states)

    def compute(self) -> dict[str, float]:
        rows = self._counts()
        sums = [sum(column) for column in zip(*rows, strict=True)]
        pairs = [_rates(*row) for row in rows]
        cp, cr = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
        op, recall = _rates(*sums)
        return {"CP": cp, "CR": cr, "CF1": _f1(cp, cr), "OP": op, "OR": recall, "OF1": _f1(op, recall)}

    def tables(self) -> dict[str, Any]:
        rows = []
        for name, (tp, fp, fn) in zip(self.classes, self._counts(), strict=True):
            precision, recall = _rates(tp, fp, fn)
            rows.append([name, precision, recall, _f1(precision, recall), tp + fn])
        return {"per_class": {"columns": ["class", "precision", "recall", "f1", "samples"], "rows": rows}}

    def _counts(self) -> list[tuple[int, int, int]]:
        state = self.state()
        return list(zip(*(state[name].tolist() for name in ("tp", "fp", "fn")), strict=True))


def _rates(tp: int, fp: int, fn: int) -> tuple[float, float]:
    return tp / (tp + fp) if tp + fp else 0.0, tp / (tp + fn) if tp + fn else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
