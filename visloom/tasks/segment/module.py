"""The torch side of segmentation: normalise on the device, ask the network, compare and answer at every picture's size.

Pictures of one size go through the network together and without padding, so that in an evaluation no answer
depends on what else is in the batch. A network may return a list: the first of its outputs is the answer, the
others (auxiliary heads) are trained with a share of the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.errors import ConfigError, ContractError
from visloom.memory import like_weights, standardised
from visloom.module import TaskModule
from visloom.task import Losses
from visloom.tasks.segment import views
from visloom.tasks.segment.batch import SegmentBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from visloom.task import Batch
    from visloom.tasks.segment.spec import Segment

_COARSE = 4  # training accuracy and scores look at every 4th row and column: a sixteenth of the cost


class SegmentModule(TaskModule):
    """A network with its normalisation. Its parameters are `net.*`, whatever the network calls them.

    class_weight: (K,) weights of the loss, part of the state where they were counted in training samples.
    """

    scale: Tensor
    shift: Tensor
    class_weight: Tensor | None

    def __init__(self, net: nn.Module, spec: Segment) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.classes = len(spec.classes)
        self.loss = spec.loss.build()
        values = spec.normalisation()
        std = torch.tensor(values.std, dtype=torch.float64)
        mean = torch.tensor(values.mean, dtype=torch.float64)
        # (pixel - mean) / std as one multiplication and addition
        self.register_buffer("scale", (1.0 / std).float(), persistent=False)  # (C,)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)  # (C,)
        weights, counted = spec.class_weights()
        given = None if weights is None else torch.tensor(weights)
        self.register_buffer("class_weight", given, persistent=counted)  # (K,)
        self._tried: set[tuple[int, ...]] = set()

    def forward(self, batch: Batch) -> Losses:
        """Losses: those of the recipe, with "aux" in front for auxiliary outputs. Log: pixel_accuracy, of every 4th
        row and column."""
        batch = cast(SegmentBatch, batch)
        if not self.training:
            return self._assessed(batch, answers=False)[0]
        outputs = self._outputs(self.images(batch.image))
        target = self._target(batch)
        terms = self._terms(outputs, target)
        coarse, known = outputs[0].detach()[:, :, ::_COARSE, ::_COARSE], target[:, ::_COARSE, ::_COARSE]
        # max(1).indices rather than argmax: less than half the time on a CPU
        right = (coarse.max(1).indices == known).sum() / (known >= 0).sum().clamp_min(1)
        return Losses(terms, {"pixel_accuracy": right}, (target >= 0).sum())

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Columns: ids; mask, (h, w) uint8 (int16 from 256 classes on) each; score (B,), the mean probability of the
        answers; with `spec.probabilities` also probabilities, (K, h, w) float32 each."""
        batch = cast(SegmentBatch, batch)
        columns: list[dict[str, Any]] = [{} for _ in batch.ids]
        for size, rows in batch.by_size().items():
            logits = self._averaged(self._working(self._cut(batch, rows, size)))
            for row, answer in zip(rows, logits, strict=True):
                columns[row] = self._answer(answer[None], size)
        return self._columns(batch, columns)

    def assess(self, batch: Batch) -> tuple[Losses, dict[str, Any]]:
        """Losses and predictions of one pass. The losses are those of the picture itself, without other views."""
        return self._assessed(cast(SegmentBatch, batch), answers=True)

    # ---- what there is to see

    def images(self, image: Tensor) -> Tensor:
        """Normalise: (B, H, W, C) integers -> (B, C, H, W) float32 in the memory format of the network."""
        return like_weights(standardised(image, self.scale, self.shift), self.net)

    def _cut(self, batch: SegmentBatch, rows: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Normalised pictures of some rows, which have one size, without their padding: (b, C, h, w)."""
        chosen = batch.image if len(rows) == len(batch) else batch.image[list(rows)]
        return self.images(chosen[:, : size[0], : size[1]])

    def _working(self, image: Tensor) -> Tensor:
        """Pictures at the size that the task looks at: their own, or with `long` pixels on the longer side."""
        height, width = image.shape[2:]
        long = self.spec.long
        if not long or max(height, width) == long:
            return image
        share = long / max(height, width)
        size = max(1, round(height * share)), max(1, round(width * share))
        small = functional.interpolate(image, size, mode="bilinear", antialias=share < 1)
        return like_weights(small, self.net)

    # ---- losses and answers

    def _target(self, batch: SegmentBatch) -> Tensor:
        if batch.mask is None:
            raise ContractError("the samples have no mask 'class', so there is no loss", path="task")
        return batch.mask.long()  # (B, H, W)

    def _terms(self, outputs: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        terms = dict(self.loss(outputs[0], target, self.class_weight))
        for place, output in enumerate(outputs[1:]):
            for name, value in self.loss(output, target, self.class_weight).items():
                terms[f"aux{place + 1 if place else ''}_{name}"] = self.spec.aux * value
        return terms

    def _assessed(self, batch: SegmentBatch, *, answers: bool) -> tuple[Losses, dict[str, Any]]:
        """Pass over an evaluation batch, size by size; the loss is the mean over pixels of those of its parts."""
        target = self._target(batch)
        columns: list[dict[str, Any]] = [{} for _ in batch.ids]
        sums: dict[str, Tensor] = {}
        count, total = target.new_zeros(()), (target >= 0).sum()
        for size, rows in batch.by_size().items():
            image = self._working(self._cut(batch, rows, size))
            plain = self._outputs(image)[0]
            viewed = self._averaged(image) if answers and self.spec.viewed else plain
            for row, own, best in zip(
                rows, plain, viewed, strict=True
            ):  # one by one: large pictures fill memories
                full = self._full(own[None], size)
                known = target[row : row + 1, : size[0], : size[1]]
                number = (known >= 0).sum()
                for name, value in self.loss(full, known, self.class_weight).items():
                    sums[name] = sums.get(name, 0.0) + value * number
                count = count + number
                if answers:
                    same = not self.spec.viewed
                    columns[row] = self._answer(full if same else best[None], size)
        terms = {name: value / count.clamp_min(1) for name, value in sums.items()}
        return Losses(terms, {}, total), self._columns(batch, columns) if answers else {}

    def _full(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits at the size of the picture: (1, K, h, w)."""
        if tuple(logits.shape[2:]) == size:
            return logits
        return functional.interpolate(logits, size, mode="bilinear")

    def _answer(self, logits: Tensor, size: tuple[int, int]) -> dict[str, Any]:
        full = self._full(logits, size)
        kind = torch.uint8 if self.classes <= 256 else torch.int16
        coarse = full[:, :, ::_COARSE, ::_COARSE].softmax(1)
        found = {"mask": full.max(1).indices[0].to(kind), "score": coarse.amax(1).mean()}
        if self.spec.probabilities:
            found["probabilities"] = full.softmax(1)[0]
        return found

    def _columns(self, batch: SegmentBatch, rows: list[dict[str, Any]]) -> dict[str, Any]:
        names = rows[0] if rows else {}
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
        if "score" in columns:
            columns["score"] = torch.stack(columns["score"])  # (B,)
        return {"ids": batch.ids, **columns}

    # ---- the network

    def _averaged(self, image: Tensor) -> Tensor:
        """Logits of pictures, averaged over the views of the task: (b, K, h, w)."""

        def net(part: Tensor) -> Tensor:
            return self._outputs(part)[0]

        seen = views.mirrored(net) if self.spec.flip else net
        slides = self.spec.sliding
        if slides is None:
            return views.multiscale(seen, image, self.spec.scales)
        return views.multiscale(lambda part: views.slide(seen, part, slides), image, self.spec.scales)

    def _outputs(self, image: Tensor) -> list[Tensor]:
        """The network's answers in float32, (b, K, h, w) each; the first one is the main one."""
        if torch.compiler.is_compiling() or (self.training, *image.shape[1:]) in self._tried:
            found = self.net(image)
        else:
            found = self._first(image)
        outputs = list(found) if isinstance(found, list | tuple) else [found]
        return [output.float() for output in outputs]

    def _first(self, image: Tensor) -> Any:
        """The first picture of a size: the place to say in words that the network cannot take it."""
        size = f"{image.shape[2]}x{image.shape[3]}"
        try:
            found = self.net(image)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            text = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"{type(self.net).__name__} cannot take {len(image)} images of {size} pixels: {text}",
                path="task.net",
            ) from error
        outputs = list(found) if isinstance(found, list | tuple) else [found]
        wanted = (len(image), self.classes, *image.shape[2:])
        for output in outputs:
            if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ContractError(
                    f"{type(self.net).__name__} returned {got} for images of {size}, expected logits of shape "
                    f"{wanted}, or a list of such with the main one first",
                    path="task.net",
                )
        self._tried.add((self.training, *image.shape[1:]))
        return found
