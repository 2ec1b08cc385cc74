"""Segment: the data's side of semantic segmentation, a value in the Run. It imports no torch until it is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.errors import ConfigError, DataError
from visloom.metrics import Metric
from visloom.palette import Colour, palette
from visloom.sample import Sample
from visloom.tasks import checks
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.segment import views
from visloom.tasks.segment.batch import SegmentBatch
from visloom.tasks.segment.losses import CrossEntropy, LossSpec, balanced, check_classes, weighting
from visloom.tasks.segment.metrics import PixelMetrics
from visloom.tasks.segment.nets import NetSpec
from visloom.tasks.segment.views import Sliding

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from visloom.tasks.segment.module import SegmentModule

MASK = "class"
"""Name of the mask, in `Sample.masks`, that is learnt."""

_VOID = -1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Semantic segmentation.

    net: the network; see `visloom/tasks/segment/nets.py`.  loss: see `losses.py`.
    aux: share of the loss that each auxiliary output of the network gets in training.
    classes: names by class index; () takes the data set's own.  colours: one RGB colour per class; () chooses.
    background: the class that "foreground_accuracy" leaves out; "" does not report it.
    channels: of the images.  normalise: "net" is what the network's weights expect.
    long: evaluation and prediction look at pictures with their longer side at this many pixels, and the answer is
        resized to the picture's own size; 0 looks at them as they are.
    flip, scales, sliding: views that evaluation and prediction average; see `views.py`.
    probabilities: predictions hold the probability of every class at every pixel.
    """

    net: NetSpec
    loss: LossSpec = CrossEntropy()
    aux: float = 0.4
    classes: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    background: str = ""
    channels: int = 3
    normalise: Normalise | Literal["net"] = "net"
    long: int = 0
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    sliding: Sliding | None = None
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.aux < 0 or self.long < 0:
            raise ValueError(f"aux and long must not be negative, got {self.aux} and {self.long}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive factors, got {self.scales}")
        checks.check_normalise(self)
        if not self.classes:
            return
        checks.check_names(self.classes, self.colours)
        PixelMetrics(self.classes, self.background)
        try:
            check_classes(self.loss, len(self.classes))
        except ValueError as error:
            raise ConfigError(str(error), path="task.loss") from error
        self.class_weights()

    @property
    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class."""
        return self.colours or palette(len(self.classes))

    @property
    def viewed(self) -> bool:
        """Whether predictions average more than the picture itself."""
        return self.flip or self.scales != (1.0,) or self.sliding is not None

    def build(self) -> SegmentModule:
        """Make the module, its weights drawn from torch's generator. Raises ConfigError if it cannot be built."""
        from visloom.tasks.segment.module import SegmentModule

        checks.need_classes(self.classes)
        return SegmentModule(self.net.build(len(self.classes), self.channels), self)

    def normalisation(self) -> Normalise:
        """Return the normalisation in force."""
        return checks.normalisation(self)

    def header(self) -> dict[str, str]:
        """What a run says at its start, besides what it says of every task."""
        values = self.normalisation()
        mean, std = (", ".join(f"{v:.4g}" for v in numbers) for numbers in (values.mean, values.std))
        whose = "the network's" if self.normalise == "net" else "the recipe's"
        return {"normalised": f"{whose} mean {mean}, std {std} (pixels 0-255)"}

    # ---- batches

    def collate(self, samples: Sequence[Sample], key: int | None) -> SegmentBatch:
        """Join pictures and masks, padded at the bottom and right; with a key (in training) they have one size.

        A training batch of several sizes would have to be padded to the largest, which depends on how the batch is
        divided among processes; evaluations look at each size by itself, and padding is never seen.

        Raises:
            DataError: names the sample whose image, mask or label does not fit.
        """
        import torch

        sizes = tuple(self._checked(sample) for sample in samples)
        if key is not None and len(set(sizes)) > 1:
            odd = next(i for i, size in enumerate(sizes) if size != sizes[0])
            raise DataError(
                f"a training batch needs images of one size; {samples[0].id!r} is {_size(sizes[0])} and "
                f"{samples[odd].id!r} is {_size(sizes[odd])}: add "
                "RandomCrop(size=...) to the stream's transforms; what is padded is ignored"
            )
        high, wide = (max(size[axis] for size in sizes) for axis in (0, 1))
        narrow = all(s.image is not None and s.image.dtype == np.uint8 for s in samples)
        image = np.zeros((len(samples), high, wide, self.channels), np.uint8 if narrow else np.int32)
        known = all(MASK in sample.masks for sample in samples)
        mask = np.full((len(samples), high, wide), _VOID, np.int16) if known else None
        for row, (sample, (height, width)) in enumerate(zip(samples, sizes, strict=True)):
            image[row, :height, :width] = sample.image
            if mask is not None:
                mask[row, :height, :width] = self._labels(sample)
        return SegmentBatch(
            ids=tuple(sample.id for sample in samples),
            source=torch.tensor([sample.source for sample in samples], dtype=torch.int64),
            notes=tuple(note for sample in samples for note in sample.notes),
            image=torch.from_numpy(image),
            mask=None if mask is None else torch.from_numpy(mask),
            sizes=sizes,
        )

    def _checked(self, sample: Sample) -> tuple[int, int]:
        image = sample.image
        if image is None or image.ndim != 3 or image.shape[2] != self.channels:
            got = "no image" if image is None else f"an image of shape {image.shape}"
            raise DataError(
                f"sample {sample.id!r} has {got}, expected (H, W, {self.channels}): convert it, or set task.channels"
            )
        if image.dtype.kind not in "ui":
            raise DataError(f"sample {sample.id!r}: images keep their stored integer type, got {image.dtype}")
        mask = sample.masks.get(MASK)
        if mask is not None and mask.shape != image.shape[:2]:
            raise DataError(
                f"sample {sample.id!r}: the mask is {_size(mask.shape)} and the image {_size(image.shape)}"
            )
        return int(image.shape[0]), int(image.shape[1])

    def _labels(self, sample: Sample) -> NDArray[np.int32]:
        mask, count = sample.masks[MASK], len(self.classes)
        if int(mask.min()) < _VOID or int(mask.max()) >= count:
            values, numbers = np.unique(mask[(mask < _VOID) | (mask >= count)], return_counts=True)
            found = ", ".join(
                f"{v} ({n:,} pixels)" for v, n in zip(values[:6].tolist(), numbers[:6].tolist(), strict=True)
            )
            raise DataError(
                f"sample {sample.id!r}: labels run from 0 to {count - 1}, and -1 is ignored; the mask also "
                f"holds {found}. Masks that count from 1, or mark ignored "
                "pixels by 255, are read with the source's options for it"
            )
        return mask

    # ---- what is measured and shown

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics; see `PixelMetrics`."""
        return {"pixels": PixelMetrics(self.classes, self.background)}

    def goodness(self, predictions: Any, batch: SegmentBatch) -> Tensor:
        """How good each prediction is, for the worst ones of a report: its mean IoU over the classes in it, (B,)."""
        import torch

        from visloom.tasks.segment.metrics import confusion

        assert batch.mask is not None
        found = []
        for row, (height, width) in enumerate(batch.sizes):
            table = confusion(batch.mask[row, :height, :width], predictions["mask"][row], len(self.classes))
            hits, true = table.diagonal().float(), table.sum(1)
            iou = hits / (true + table.sum(0) - hits).clamp_min(1)
            found.append((iou * (true > 0)).sum() / (true > 0).sum().clamp_min(1))
        return torch.stack(found)

    def floor(self, tables: Mapping[str, Any], value: str) -> tuple[str, float] | None:
        """What always answering the commonest class reaches in one of the values, from an evaluation's tables."""
        from visloom.tasks.segment.metrics import summary

        matrix = tables.get("confusion", {}).get("matrix")
        if not matrix or not any(map(any, matrix)):
            return None
        true = [sum(row) for row in matrix]
        best = true.index(max(true))
        always = [[n if i == best else 0 for i in range(len(true))] for n in true]
        place = self.classes.index(self.background) if self.background else None
        values = summary(always, place)
        return (f"all {self.classes[best]!r}", values[value]) if value in values else None

    @property
    def steady(self) -> bool:
        """Reports show the same samples after every evaluation, so that one sees them improve."""
        return True

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw input | target | prediction, or the overlay where there is no truth; see `draw.py`."""
        from visloom.tasks.segment.draw import draw

        known = None if truth is None else truth.masks.get(MASK)
        return draw(np.asarray(image), prediction["mask"], known, self.classes, self.palette)

    def seen(self, batch: SegmentBatch) -> NDArray[np.uint8]:
        """The pictures of a training batch under their masks, as the network gets them: (B, H, W, 3) uint8."""
        from visloom.tasks.segment.draw import overlay

        image = batch.image.numpy()
        rgb = np.repeat(image, 3, 3) if image.shape[3] == 1 else image[..., :3]
        if batch.mask is None:
            return rgb.astype(np.uint8)
        pairs = zip(rgb.astype(np.uint8), batch.mask.numpy(), strict=True)
        return np.stack([np.asarray(overlay(one, mask, self.palette, 0.45)) for one, mask in pairs])

    # ---- what using a trained run asks

    def bare(self) -> Segment:
        """Return this task without pretrained weights: those of a checkpoint follow, and no network is there."""
        return checks.bare(self)

    def with_tta(self, words: str) -> Segment:
        """Return this task with the views of `predict --tta`: flip, scales, multiscale, sliding, none; the word
        "probabilities" makes predictions hold those too."""
        asked = views.parse(words)
        task = dataclasses.replace(self, probabilities=self.probabilities or asked.probabilities)
        if not asked.views:
            return task
        sliding = (self.sliding or Sliding()) if asked.sliding else None
        return dataclasses.replace(task, flip=asked.flip, scales=asked.scales or (1.0,), sliding=sliding)

    def restore(self, prediction: Mapping[str, Any], matrix: Any, size: tuple[int, int]) -> dict[str, Any]:
        """Bring a prediction for a transformed picture back to the geometry of the original.

        matrix: (3, 3), original -> transformed coordinates.  size: (height, width) of the original. Pixels that the
        transforms cut off become -1 (255 in palette pictures).
        """
        from visloom.warp import warp_image, warp_mask

        back = np.linalg.inv(np.asarray(matrix, np.float64))
        found = dict(prediction)
        mask = np.asarray(prediction["mask"])
        if np.array_equal(back, np.eye(3)) and mask.shape == size:
            return found
        found["mask"] = warp_mask(mask.astype(np.int32), back, size)
        if "probabilities" in found:
            table = np.moveaxis(np.asarray(found["probabilities"], np.float32), 0, 2)  # (h, w, K)
            found["probabilities"] = np.moveaxis(warp_image(table, back, size, "constant", 0), 2, 0)
        return found

    def write(self, prediction: Mapping[str, Any], folder: Path, name: str) -> dict[str, str]:
        """Write a prediction's files: masks/NAME.png, a palette picture, and probabilities/NAME.npz if there are any.

        Returns their places relative to the folder, and what was found, for the table.
        """
        from visloom.tasks.segment.draw import colorize, found

        shares = found(prediction["mask"], self.classes)
        places = {
            "found": ", ".join(f"{n} {100 * s:.1f} %" for n, s in shares[:6]),
            "mask_file": f"masks/{name}.png",
        }
        (folder / "masks").mkdir(exist_ok=True)
        colorize(prediction["mask"], self.palette).save(folder / places["mask_file"])
        if "probabilities" in prediction:
            places["probabilities_file"] = f"probabilities/{name}.npz"
            (folder / "probabilities").mkdir(exist_ok=True)
            half = np.asarray(prediction["probabilities"], np.float16)  # (K, H, W)
            np.savez_compressed(
                folder / places["probabilities_file"], probabilities=half, classes=np.array(self.classes)
            )
        return places

    @property
    def planes(self) -> int:
        """Numbers per pixel that a prediction holds: how much memory it takes."""
        return len(self.classes) if self.probabilities else 1

    # ---- class weights

    def class_weights(self) -> tuple[tuple[float, ...] | None, bool]:
        """Return the weights of the loss known now, and whether training samples decide them (before: all 1)."""
        how = weighting(self.loss)
        if how is None:
            return None, False
        if how.counted:
            return (1.0,) * len(self.classes), True
        try:
            return how.class_weights(len(self.classes)), False
        except ValueError as error:
            raise ConfigError(str(error), path="task.loss") from error

    @property
    def needs_samples(self) -> int:
        """How many training samples `fit` counts classes in before step 1; 0 if none."""
        how = weighting(self.loss)
        return how.samples if how is not None and how.counted else 0

    def fit(self, module: SegmentModule, samples: Sequence[Sample]) -> None:
        """Set the class weights from the pixels of training samples, as they are stored, before step 1."""
        import torch

        how = weighting(self.loss)
        assert how is not None and module.class_weight is not None
        counts = np.zeros(len(self.classes), np.int64)
        for sample in samples:
            mask = self._labels(sample)
            counts += np.bincount(mask[mask >= 0], minlength=len(counts))
        try:
            weights = balanced(counts.tolist(), str(how.weights), how.cap)
        except ValueError as error:
            raise DataError(
                f"{error}: the masks of {len(samples)} training samples are ignored everywhere"
            ) from error
        with torch.no_grad():
            module.class_weight.copy_(torch.tensor(weights))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"
