"""Losses of segmentation as values in a recipe. What they compute stands in `loss_math.py`; no torch here.

    CrossEntropy(weights="median")                 weighted by how rare a class is, counted in training samples
    Mix(parts=(CrossEntropy(), Lovasz()))          a sum, each part with a share

All leave pixels with -1 out, give a connected 0 where nothing is known, and never change their target. One of
your own has `build()`, which returns a function (logits, target, weight) -> {name: 0-dim loss}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    Computed = Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]]

RULES = ("inverse", "median", "sqrt", "log")


@runtime_checkable
class LossSpec(Protocol):
    """A loss as a value.

    `build()` returns a function of logits (B, K, H, W) in float32, target (B, H, W) int64 with -1 for ignore, and
    the class weights (K,) or None; it returns one or more named 0-dim tensors, minimised as their sum.
    """

    def build(self) -> Computed: ...


def weighting(loss: Any) -> CrossEntropy | None:
    """Return the part of a loss that says how classes are weighted, if any does."""
    return next((part for part in _parts(loss) if isinstance(part, CrossEntropy) and part.weighted), None)


def check_classes(loss: Any, classes: int) -> None:
    """Raise ValueError if a part has numbers for other classes than the task's, or parts weight them differently."""
    entropies = []
    for part in _parts(loss):
        if isinstance(part, Focal) and part.alpha and len(part.alpha) != classes:
            raise ValueError(f"the loss has alpha for {len(part.alpha)} classes, the task has {classes}")
        if isinstance(part, CrossEntropy):
            entropies.append((part.weights, part.counts, part.cap))
    if len(set(entropies)) > 1:
        raise ValueError(
            "one loss weights the classes in one way: give all its CrossEntropy parts the same weights, counts and cap"
        )


def _parts(loss: Any) -> Iterator[Any]:
    """A loss and all that it consists of."""
    yield loss
    for part in (*getattr(loss, "parts", ()), getattr(loss, "entropy", None)):
        if part is not None:
            yield from _parts(part)


def balanced(counts: Sequence[int], rule: str, cap: float = 0.0) -> tuple[float, ...]:
    """Turn pixels per class into class weights whose mean over the pixels is 1.

    With p the share of a class: "inverse" 1 / (K p), as scikit-learn's "balanced"; "median" median(p) / p (Eigen,
    Fergus 2015, over all pictures); "sqrt" the square root of that; "log" 1 / ln(1.02 + p) (Paszke et al., ENet,
    2016). A class that never occurs gets the largest weight of the others. cap: no weight exceeds it (0: no limit).
    """
    import numpy as np

    share = np.asarray(counts, np.float64)
    there = share > 0
    if not there.any():
        raise ValueError("class weights need at least one labelled pixel, and all counts are 0")
    share = share / share.sum()
    p = share[there]
    found = {
        "inverse": lambda: 1.0 / (len(counts) * p),
        "median": lambda: np.median(p) / p,
        "sqrt": lambda: np.sqrt(np.median(p) / p),
        "log": lambda: 1.0 / np.log(1.02 + p),
    }[rule]()
    found = found / (found * p).sum()
    weights = np.full(len(share), found.max())
    weights[there] = found
    return tuple((np.minimum(weights, cap) if cap else weights).tolist())


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross entropy: sum of w * -log p over the labelled pixels, by the sum of their weights w.

    weights: one number per class; or a rule that makes them from pixel counts ("inverse", "median", "sqrt", "log",
        see `balanced`); "" weighs all pixels alike.
    counts: pixels per class for a rule; () counts in training samples before step 1.
    samples: how many of them.  cap: largest weight that a rule gives, in units of the mean over all pixels.
    smoothing: label smoothing.
    """

    weights: tuple[float, ...] | Literal["", "inverse", "median", "sqrt", "log"] = ""
    counts: tuple[int, ...] = ()
    samples: int = 200
    cap: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.weights, str) and self.weights not in ("", *RULES):
            raise ValueError(
                f"weights is one number per class or one of {', '.join(RULES)}, got {self.weights!r}"
            )
        if isinstance(self.weights, tuple) and any(w < 0 for w in self.weights):
            raise ValueError(f"weights must not be negative, got {self.weights}")
        if self.counts and not (isinstance(self.weights, str) and self.weights):
            raise ValueError('counts need a rule: weights="median", say')
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {self.smoothing}")
        if self.samples < 1 or self.cap < 0:
            raise ValueError(f"samples is 1 or more and cap 0 or more, got {self.samples} and {self.cap}")

    @property
    def counted(self) -> bool:
        """Whether training samples are counted before step 1."""
        return isinstance(self.weights, str) and bool(self.weights) and not self.counts

    @property
    def weighted(self) -> bool:
        """Whether classes weigh differently."""
        return bool(self.weights or self.counts)

    def class_weights(self, classes: int) -> tuple[float, ...] | None:
        """Return the weights that are known without data; None if all pixels weigh alike, or data decide."""
        given = self.weights if isinstance(self.weights, tuple) else self.counts
        if given and len(given) != classes:
            raise ValueError(
                f"the loss has weights or counts for {len(given)} classes, the task has {classes}"
            )
        if isinstance(self.weights, tuple):
            return self.weights or None
        return balanced(self.counts, self.weights, self.cap) if self.counts else None

    def build(self) -> Computed:
        from visloom.tasks.segment import loss_math

        return partial(
            loss_math.named, "cross_entropy", partial(loss_math.cross_entropy, smoothing=self.smoothing)
        )


@dataclass(frozen=True, kw_only=True)
class Ohem:
    """Cross entropy of the hardest pixels only (online hard example mining, Shrivastava et al. 2016).

    threshold: pixels whose true class has at most this probability count.
    keep: at least this share of a batch's labelled pixels counts, the hardest ones. Each process chooses among its own.
    """

    threshold: float = 0.7
    keep: float = 0.0625

    def __post_init__(self) -> None:
        if not (0 < self.threshold <= 1 and 0 < self.keep <= 1):
            raise ValueError(f"threshold and keep lie above 0, up to 1, got {self.threshold} and {self.keep}")

    def build(self) -> Computed:
        from visloom.tasks.segment import loss_math

        return partial(
            loss_math.named, "ohem", partial(loss_math.ohem, threshold=self.threshold, keep=self.keep)
        )


@dataclass(frozen=True, kw_only=True)
class Dice:
    """1 - (2 * overlap + smooth) / (predicted + true + smooth) of the labelled pixels of a batch.

    over: "pixels" adds up all classes before dividing, as the template does; "classes" is the mean over the classes
        that occur in the target (Milletari et al. 2016), which gives rare ones a say.
    compat: the template's own treatment of ignored pixels, as pixels of the smallest class that occurs.
    """

    smooth: float = 1.0
    over: Literal["pixels", "classes"] = "pixels"
    compat: bool = False

    def __post_init__(self) -> None:
        if self.smooth < 0 or self.over not in ("pixels", "classes"):
            raise ValueError(f"smooth is 0 or more, over pixels or classes; got {self.smooth}, {self.over!r}")

    def build(self) -> Computed:
        from visloom.tasks.segment import loss_math

        made = partial(loss_math.dice, smooth=self.smooth, over=self.over, compat=self.compat)
        return partial(loss_math.named, "dice", made)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyDice:
    """Cross entropy plus Dice, in equal parts, as the template's CE_DiceLoss."""

    entropy: CrossEntropy = CrossEntropy()
    dice: Dice = Dice()

    def build(self) -> Computed:
        return Mix(parts=(self.entropy, self.dice)).build()


@dataclass(frozen=True, kw_only=True)
class Focal:
    """(1 - p)^gamma * -log p, the mean over the labelled pixels (Lin et al. 2017).

    alpha: one weight per class, multiplied on after the modulating factor; () for none.
    compat: the template's own form, which divides by all pixels and lets alpha into p.
    """

    gamma: float = 2.0
    alpha: tuple[float, ...] = ()
    compat: bool = False

    def __post_init__(self) -> None:
        if self.gamma < 0 or any(a < 0 for a in self.alpha):
            raise ValueError(f"gamma and alpha must not be negative, got {self.gamma} and {self.alpha}")

    def build(self) -> Computed:
        from visloom.tasks.segment import loss_math

        made = partial(loss_math.focal, gamma=self.gamma, alpha=self.alpha, compat=self.compat)
        return partial(loss_math.named, "focal", made)


@dataclass(frozen=True, kw_only=True)
class Lovasz:
    """Lovasz-softmax: a convex surrogate of 1 - mean IoU (Berman, Triki, Blaschko 2018).

    classes: the mean is over classes "present" in the target, or "all".
    per_image: one loss per picture, averaged, instead of one over the batch.
    stride: take every n-th row and column of the pixels: sorting is what this loss costs.
    """

    classes: Literal["present", "all"] = "present"
    per_image: bool = False
    stride: int = 1

    def __post_init__(self) -> None:
        if self.classes not in ("present", "all") or self.stride < 1:
            raise ValueError(
                f"classes is present or all, stride 1 or more; got {self.classes!r}, {self.stride}"
            )

    def build(self) -> Computed:
        from visloom.tasks.segment import loss_math

        made = partial(
            loss_math.lovasz_softmax, classes=self.classes, per_image=self.per_image, stride=self.stride
        )
        return partial(loss_math.named, "lovasz", made)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A weighted sum of losses.  shares: one factor per part; () is 1 each."""

    parts: tuple[LossSpec, ...]
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a mix needs at least one loss")
        if self.shares and len(self.shares) != len(self.parts):
            raise ValueError(f"{len(self.shares)} shares for {len(self.parts)} losses")

    def build(self) -> Computed:
        from visloom.tasks.segment import loss_math

        made = tuple(part.build() for part in self.parts)
        return partial(loss_math.mixed, made, self.shares or (1.0,) * len(made))
