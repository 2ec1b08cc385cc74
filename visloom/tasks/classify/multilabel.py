"""MultiLabel: pictures with any number of classes each, one yes or no per class.

A label is a row of K numbers: 1 there, 0 not there, -1 there but difficult; shares between 0 and 1 are soft labels.
A class index counts as a row with one 1, and a picture without a label as unknown: it has no loss, and no metric
looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visloom.errors import DataError
from visloom.metrics import Metric
from visloom.sample import Sample, Stacked
from visloom.tasks import checks
from visloom.tasks.classify.batch import ClassifyBatch
from visloom.tasks.classify.multilabel_metrics import MeanAveragePrecision, MultiLabelRates
from visloom.tasks.classify.spec import Classify

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from visloom.tasks.classify.multilabel_module import MultiLabelModule

UNKNOWN = -2.0
"""Fills the row of a picture without a label."""


@runtime_checkable
class MultiLabelLoss(Protocol):
    """A loss of each picture and class. `term`: its name in log and report."""

    term: ClassVar[str]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses (B, K) float32 of logits (B, K) and targets (B, K) in [0, 1]."""
        ...


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-t log p - (1 - t) log (1 - p) with p = sigmoid(logit). (mmclassification: use_sigmoid=True.)"""

    term: ClassVar[str] = "binary_cross_entropy"

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")


@dataclass(frozen=True)
class Focal:
    """The above times (alpha t + (1 - alpha)(1 - t)) * |t - p| ** gamma: easy answers count little.

    Source: Lin et al., "Focal Loss", 2017; mmclassification, FocalLoss.
    """

    gamma: float = 2.0
    alpha: float = 0.25
    term: ClassVar[str] = "focal"

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 <= self.alpha <= 1:
            raise ValueError(f"gamma is 0 or more and alpha a share, got {self.gamma} and {self.alpha}")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from torch.nn import functional

        logits = logits.float()
        p = logits.sigmoid()
        wrong = (1 - p) * target + p * (1 - target)
        weight = (self.alpha * target + (1 - self.alpha) * (1 - target)) * wrong.pow(self.gamma)
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight


@dataclass(frozen=True)
class Asymmetric:
    """-(1 - q) ** g * log q, with q = p and g = gamma_pos where the class is there, else q = min(1, 1 - p + clip) and
    g = gamma_neg: absent classes that are found absent count little, and below `clip` nothing.

    Source: Ben-Baruch et al., "Asymmetric Loss For Multi-Label Classification", 2020; mmclassification.
    """

    gamma_pos: float = 0.0
    gamma_neg: float = 4.0
    clip: float = 0.05
    eps: float = 1e-8
    term: ClassVar[str] = "asymmetric"

    def __post_init__(self) -> None:
        if min(self.gamma_pos, self.gamma_neg) < 0 or not 0 <= self.clip < 1 or self.eps <= 0:
            raise ValueError(f"gammas are 0 or more, clip is a share, eps is positive, got {self}")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.float().sigmoid()
        q = (1 - p + self.clip).clamp(max=1) * (1 - target) + p * target
        gamma = self.gamma_pos * target + self.gamma_neg * (1 - target)
        return -q.clamp(min=self.eps).log() * (1 - q).pow(gamma)


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Classify):
    """Multi-label classification. The loss of a picture is the sum over its classes, as in mmclassification.

    loss: BinaryCrossEntropy(), Focal() or Asymmetric().
    difficult: what the loss does with difficult objects: takes them as there ("positive", mmclassification), as not
        there, or looks away. Metrics: mAP looks away, the others take them as not there, as mmclassification does.
    threshold: least probability of a yes.  k: instead, the k most probable classes are the yeses.
    `smoothing` and `topk` of Classify have no meaning here.
    """

    loss: MultiLabelLoss = BinaryCrossEntropy()
    difficult: Literal["positive", "negative", "ignore"] = "positive"
    threshold: float = 0.5
    k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothing:
            raise ValueError("smoothing belongs to one class per picture; MultiLabel has none")
        if self.difficult not in ("positive", "negative", "ignore"):
            raise ValueError(f"difficult is positive, negative or ignore, got {self.difficult!r}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is a probability between 0 and 1, got {self.threshold}")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k is a number of classes, got {self.k}")

    def build(self) -> MultiLabelModule:
        from visloom.tasks.classify.multilabel_module import MultiLabelModule

        checks.need_classes(self.classes)
        return MultiLabelModule(self.net.build(len(self.classes), self.channels), self)

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics: "mAP", and "CP", "CR", "CF1", "OP", "OR", "OF1"."""
        return {
            "mAP": MeanAveragePrecision(self.classes),
            "rates": MultiLabelRates(self.classes, threshold=self.threshold, k=self.k),
        }

    def goodness(self, predictions: Any, batch: ClassifyBatch) -> Tensor:
        """The probability of the right answer, averaged over the classes of each picture: (B,)."""
        probability, truth = predictions["probabilities"], batch.label
        right = probability.where(truth == 1, 1 - probability)  # (B, K)
        known = truth >= 0
        share = (right * known).sum(1) / known.sum(1).clamp(min=1)
        return cast("Tensor", share.where(known.any(1), predictions["score"]))

    def baseline(self, labels: Sequence[int]) -> tuple[str, float] | None:
        """None: accuracy is not what is reported."""
        return None

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw the picture over the classes found and, where known, those that were missed."""
        from visloom.tasks.classify.draw import draw_several

        chances = np.asarray(prediction["probabilities"], np.float64)
        known = None if truth is None or truth.label is None else self._row(truth.label, str(truth.id))
        return draw_several(np.asarray(image), chances, self.threshold, known, self.classes)

    def _row(self, label: Any, name: str) -> NDArray[np.float32]:
        """One label as (K,) float32."""
        count = len(self.classes)
        if label is None or (np.ndim(label) == 0 and int(label) == -1):
            return np.full(count, UNKNOWN, np.float32)
        if np.ndim(label) == 0:
            if not 0 <= int(label) < count:
                raise DataError(f"sample {name!r} has the label {label!r}: labels run from 0 to {count - 1}")
            row: NDArray[np.float32] = np.eye(count, dtype=np.float32)[int(label)]
            return row
        row = np.asarray(label, np.float32)  # (K,)
        good = row.shape == (count,) and bool((np.isfinite(row) & (row >= -1) & (row <= 1)).all())
        if not good or ((row < 0) & (row != -1)).any():
            raise DataError(
                f"sample {name!r} has the label {label!r}: expected {count} numbers, each 1 (there), 0 (not there), "
                "-1 (difficult) or a share between"
            )
        return row

    def _labels(self, samples: Sequence[Sample], ids: tuple[str, ...]) -> NDArray[Any]:
        """(B, K) float32."""
        if isinstance(samples, Stacked):
            values: Any = samples.label if samples.label is not None else [None] * len(ids)
        else:
            values = [sample.label for sample in samples]
        return np.stack([self._row(value, name) for value, name in zip(values, ids, strict=True)])
