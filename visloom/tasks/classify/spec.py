"""Classify: the data's side of image classification, a value in the Run. It imports no torch until it is
used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from visloom.errors import ConfigError, DataError
from visloom.metrics import Confusion, Metric, TopK, hard_labels, majority
from visloom.palette import Colour, palette
from visloom.sample import Sample, Stacked
from visloom.tasks import checks
from visloom.tasks.classify.batch import ClassifyBatch, draw_mix
from visloom.tasks.classify.nets import NetSpec, Normalise

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from visloom.tasks.classify.module import ClassifyModule


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Image classification.

    net: the network; see `visloom/tasks/classify/nets.py`.
    classes: names by class index; () takes the data set's own.
    channels: of the images.
    smoothing: label smoothing, 0 <= s < 1.
    class_weights: one per class, for the loss; () is 1 each; "balanced" counts the training data's labels, so that a
        rare class weighs more (`visloom.labels.balanced_weights`). The loss is the weighted mean, as torch's.
    mixup, cutmix: parameter of the Beta distribution of the shares; 0 turns it off, with both on a coin
    decides.
    topk: which top-k accuracies an evaluation reports: "accuracy" for 1, "top5" for 5, in [0, 1].
    normalise: "net" is what the network's weights expect.
    tta: views that evaluation and prediction average: "mirror" adds the mirror image, "mirror_shift" also
    both of these shifted by one pixel up-left and down-right (at half the weight).
    colours: one RGB colour per class; () chooses.
    grow: progressive resizing in training: ((0.35, 20), (0.7, 26)) resizes images to a side of 20 pixels for the
        first 35 % of the run, then to 26 up to 70 %, then not at all. Fewer pixels early cost less and lose little.
    """

    net: NetSpec
    classes: tuple[str, ...] = ()
    channels: int = 3
    smoothing: float = 0.0
    class_weights: tuple[float, ...] | Literal["balanced"] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    topk: tuple[int, ...] = (1,)
    normalise: Normalise | Literal["net"] = "net"
    tta: Literal["none", "mirror", "mirror_shift"] = "none"
    colours: tuple[Colour, ...] = ()
    grow: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {self.smoothing}")
        if min(self.mixup, self.cutmix) < 0.0:
            raise ValueError(f"mixup and cutmix must not be negative, got {self.mixup} and {self.cutmix}")
        if self.tta not in ("none", "mirror", "mirror_shift"):
            raise ValueError(f"tta must be none, mirror or mirror_shift, got {self.tta!r}")
        shares = [share for share, _ in self.grow]
        if (
            shares != sorted(shares)
            or any(not 0 < s <= 1 for s in shares)
            or any(n < 1 for _, n in self.grow)
        ):
            raise ValueError(
                f"grow is ((share of the run, side), ...) with rising shares up to 1, got {self.grow}"
            )
        checks.check_normalise(self)
        if any(not 0 <= w < float("inf") for w in self.known_weights):
            raise ValueError(f"class_weights are finite and not negative, got {self.class_weights}")
        if not self.classes:
            return
        if self.known_weights and len(self.known_weights) != len(self.classes):
            raise ValueError(f"{len(self.known_weights)} class_weights for {len(self.classes)} classes")
        checks.check_names(self.classes, self.colours)
        TopK(self.topk, classes=len(self.classes))

    @property
    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class."""
        return self.colours or palette(len(self.classes))

    def build(self) -> ClassifyModule:
        """Make the module, its weights drawn from torch's generator. Raises ConfigError if it cannot be
        built."""
        from visloom.tasks.classify.module import ClassifyModule

        checks.need_classes(self.classes)
        return ClassifyModule(self.net.build(len(self.classes), self.channels), self)

    def normalisation(self) -> Normalise:
        """Return the normalisation in force."""
        return checks.normalisation(self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> ClassifyBatch:
        """Stack images and labels; with a key, draw how the batch is mixed (the same on every process).

        Raises:
            DataError: names the samples whose image or label does not fit.
        """
        import torch

        if isinstance(samples, Stacked):
            image, ids, source, notes = (
                samples.image,
                samples.ids,
                [samples.source] * len(samples),
                samples.notes,
            )
        else:
            image, ids = _stack_images(samples), tuple(sample.id for sample in samples)
            source, notes = [s.source for s in samples], tuple(note for s in samples for note in s.notes)
        image = self._checked(image, ids)  # (B, H, W, C)
        mix = None
        if key is not None:
            mix = draw_mix(key, image.shape[1], image.shape[2], self.mixup, self.cutmix)
        return ClassifyBatch(
            ids=ids,
            source=torch.tensor(source, dtype=torch.int64),
            notes=notes,
            image=torch.from_numpy(image),
            label=torch.from_numpy(self._labels(samples, ids)),
            mix=mix,
        )

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics: the top-k accuracies, and macro precision, recall and F1 with the confusion
        matrix."""
        return {"topk": TopK(self.topk, classes=len(self.classes)), "confusion": Confusion(self.classes)}

    def goodness(self, predictions: Any, batch: ClassifyBatch) -> Tensor:
        """How good each prediction is, for the best and worst of a report: the true class's probability,
        (B,)."""
        truth = hard_labels(batch.label)  # (B,)
        own: Tensor = predictions["probabilities"].gather(1, truth.clamp_min(0)[:, None])[:, 0]
        return own.where(truth >= 0, predictions["score"])

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw the picture over its predicted class, score and, where known, true class; see `draw.py`."""
        from visloom.tasks.classify.draw import draw

        known = None if truth is None else _hard(truth.label)
        return draw(
            np.asarray(image), int(prediction["label"]), float(prediction["score"]), known, self.classes
        )

    def baseline(self, labels: Sequence[int]) -> tuple[str, float] | None:
        """The accuracy of always answering the commonest class, and what to call it; None without labels."""
        if not any(label >= 0 for label in labels):
            return None
        name, share = majority(labels, self.classes)
        return f"always {name!r}", share

    # ---- what using a trained run asks

    def bare(self) -> Classify:
        """Return this task without pretrained weights: those of a checkpoint follow, and no network is there."""
        return checks.bare(self)

    def with_tta(self, views: str) -> Classify:
        """Return this task with the views of `predict --tta`: none, flip, or flip,shift. Raises ConfigError."""
        known = {"none": "none", "flip": "mirror", "flip,shift": "mirror_shift"}
        if views not in known:
            raise ConfigError(
                f"classification averages the views {', '.join(known)}, got {views!r}", path="task.tta"
            )
        return dataclasses.replace(self, tta=known[views])  # type: ignore[arg-type]

    def seen(self, batch: ClassifyBatch) -> NDArray[np.uint8]:
        """The pictures of a training batch as the network sees them, mixed: (B, H, W, C) uint8."""
        from visloom.tasks.classify.batch import mix_images

        image = batch.image if batch.mix is None else mix_images(batch.image, batch.mix).round()
        high = 255.0 / max(255.0, float(image.max()))  # wider integers are scaled to 8 bits
        return (image.float() * high).numpy().astype(np.uint8)

    # ---- what is taken from the training data

    @property
    def known_weights(self) -> tuple[float, ...]:
        """The class weights as numbers; () where there are none, or labels are still to be counted."""
        return self.class_weights if isinstance(self.class_weights, tuple) else ()

    def complete(self, sources: Sequence[Any]) -> Self:
        """Count the labels of the training data where the class weights ask for it. Raises DataError."""
        if self.class_weights != "balanced":
            return self
        from visloom.labels import balanced_weights, counts

        found = sum(counts(source, len(self.classes)) for source in sources)
        return dataclasses.replace(self, class_weights=balanced_weights(found))  # type: ignore[arg-type]

    @property
    def needs_samples(self) -> int:
        """How many training samples `fit` wants before step 1; 0 if none."""
        return self.net.needs_samples

    def fit(self, module: ClassifyModule, samples: Sequence[Sample]) -> None:
        """Let the net set weights from training samples, once, before step 1 and never on resume.

        Called where the task is built if `needs_samples` is not 0, with that many training samples (all, if there
        are fewer), as they are stored and of one size, drawn under a key: a function of the run alone.
        """
        import torch

        batch = self.collate(samples, None).to(next(module.parameters()).device)
        with torch.no_grad():
            self.net.fit(module.net, module.images(batch))

    def _checked(self, image: NDArray[Any], ids: tuple[str, ...]) -> NDArray[Any]:
        if image.ndim != 4 or image.shape[3] != self.channels:
            raise DataError(
                f"images from sample {ids[0]!r} on have shape {image.shape[1:]}, expected "
                f"(H, W, {self.channels}): convert them, or set task.channels"
            )
        if image.dtype.kind not in "ui":
            raise DataError(f"sample {ids[0]!r}: images keep their stored integer type, got {image.dtype}")
        if image.dtype != np.uint8:
            image = image.astype(np.int32)  # torch computes with few other integer types
        return image if image.flags.writeable and image.flags.c_contiguous else image.copy()

    def _labels(self, samples: Sequence[Sample], ids: tuple[str, ...]) -> NDArray[Any]:
        """(B,) int64, or (B, K) float32 if any label of the batch is soft."""
        count = len(self.classes)
        if isinstance(samples, Stacked):
            values: Any = samples.label if samples.label is not None else [None] * len(ids)
        else:
            values = [sample.label for sample in samples]
        if isinstance(values, list):
            soft = any(np.ndim(value) == 1 for value in values)
            rows = [_soft(value, count) if soft else _hard(value) for value in values]
            shapes = {np.shape(row) for row in rows}
            if len(shapes) > 1:
                raise DataError(
                    f"samples {ids[0]!r} ...: a soft label needs {count} numbers, got {sorted(shapes)}"
                )
            values = np.asarray(rows)
        if values.ndim == 2:
            bad = (values.shape[1] != count) | ~(np.isfinite(values) & (values >= 0)).all(1)
            said = f"a soft label needs {count} finite numbers, none negative"
            label: NDArray[Any] = values.astype(np.float32)
        else:
            label = values.astype(np.int64)
            bad = (label < -1) | (label >= count)
            said = f"labels run from 0 to {count - 1} ({_names(self.classes)}), and -1 for none"
        if bad.any():
            at = int(np.argmax(bad))
            raise DataError(f"sample {ids[at]!r} has the label {values[at]!r}: {said}")
        return label


def _stack_images(samples: Sequence[Sample]) -> NDArray[Any]:
    images: list[NDArray[Any]] = []
    for sample in samples:
        image = sample.image
        if image is None:
            raise DataError(f"sample {sample.id!r} has no image")
        images.append(image)
        if image.shape != images[0].shape or image.dtype != images[0].dtype:
            raise DataError(
                f"a batch needs images of one size and type; {samples[0].id!r} is {_shape(images[0])} and "
                f"{sample.id!r} is {_shape(image)}: add a resize or a crop to the stream's transforms"
            )
    return np.stack(images)


def _shape(image: NDArray[Any]) -> str:
    return f"{'x'.join(map(str, image.shape))} {image.dtype}"


def _hard(label: Any) -> int:
    """A class index, -1 for none; of a soft label its largest entry."""
    if label is None:
        return -1
    return int(np.argmax(label)) if np.ndim(label) else int(label)


def _soft(label: Any, classes: int) -> NDArray[np.float32]:
    """A label as one weight per class."""
    if np.ndim(label):
        return np.asarray(label, np.float32)
    row = np.zeros(classes, np.float32)
    if label is not None and 0 <= int(label) < classes:
        row[int(label)] = 1.0
    return row


def _names(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
