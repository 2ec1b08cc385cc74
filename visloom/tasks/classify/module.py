"""The torch side of classification: normalise on the device, mix in training, one cross entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from visloom.dist import normaliser
from visloom.errors import ConfigError, ContractError
from visloom.memory import like_weights, standardised
from visloom.module import TaskModule
from visloom.task import Losses
from visloom.tasks.classify.batch import ClassifyBatch, mix_images, mix_labels
from visloom.tasks.classify.losses import cross_entropy, dense, hits

if TYPE_CHECKING:
    from visloom.task import Batch
    from visloom.tasks.classify.spec import Classify


class ClassifyModule(TaskModule):
    """A network with its normalisation. Its parameters are `net.*`, whatever the network calls them.

    The normalisation is part of the Run, so it does not stand in the state dict.
    """

    scale: Tensor
    shift: Tensor
    class_weights: Tensor | None

    def __init__(self, net: nn.Module, spec: Classify) -> None:
        super().__init__()
        self.net = net
        self.classes = len(spec.classes)
        self.smoothing = spec.smoothing
        self.tta = spec.tta
        self.grow = spec.grow
        values = spec.normalisation()
        self.turned = values.order == "bgr" and spec.channels == 3
        std = torch.tensor(values.std, dtype=torch.float64)
        mean = torch.tensor(values.mean, dtype=torch.float64)
        # (pixel - mean) / std as one multiplication and addition
        self.register_buffer("scale", (1.0 / std).float(), persistent=False)  # (C,)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)  # (C,)
        weights = torch.tensor(spec.known_weights) if spec.known_weights else None  # (K,)
        self.register_buffer("class_weights", weights, persistent=False)
        # A weighted mean does not change with the scale of the weights. With 1 as the least, no batch counts less
        # than one sample, below which the divisor of a mean is 1.
        self._lightest = min((w for w in spec.known_weights if w > 0), default=1.0)
        self._tried: set[tuple[int, ...]] = set()

    def forward(self, batch: Batch) -> Losses:
        """Losses: term "cross_entropy"; log "accuracy", the share of (mixed) labels that the answers hit."""
        batch = cast(ClassifyBatch, batch)
        mix = batch.mix if self.training else None
        target = batch.label
        if mix is not None:
            target = mix_labels(dense(target, self.classes), mix)
        image = self._grown(self.images(batch, mixed=mix is not None), batch)
        return self._losses(self._logits(image), target)

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Columns: ids; label (B,) int64; score (B,), its probability; probabilities (B, K) float32."""
        batch = cast(ClassifyBatch, batch)
        image = self.images(batch)
        return self._answer(batch, self._views(image, self._logits(image)))

    def assess(self, batch: Batch) -> tuple[Losses, dict[str, Any]]:
        """Losses and predictions of one pass. The losses are those of the image itself, without its other
        views."""
        batch = cast(ClassifyBatch, batch)
        image = self.images(batch)
        logits = self._logits(image)
        return self._losses(logits, batch.label), self._answer(batch, self._views(image, logits))

    def images(self, batch: ClassifyBatch, *, mixed: bool = False) -> Tensor:
        """Normalised images of a batch, (B, C, H, W) float32 in the network's memory format, mixed if wanted."""
        image = batch.image  # (B, H, W, C)
        if self.turned:
            image = image.flip(3)
        if mixed and batch.mix is not None:
            image = mix_images(image, batch.mix)
        return like_weights(standardised(image, self.scale, self.shift), self.net)

    def _grown(self, image: Tensor, batch: ClassifyBatch) -> Tensor:
        """The images at the side that `grow` gives this point of the run: (B, C, h, w)."""
        if not self.training or not self.grow or batch.progress is None:
            return image
        side = next((side for share, side in self.grow if batch.progress.done < share), None)
        if side is None:
            return image
        small = nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
        return like_weights(small, self.net)

    def _losses(self, logits: Tensor, target: Tensor) -> Losses:
        weights = None if self.class_weights is None else self.class_weights / self._lightest
        total, count = cross_entropy(logits, target, self.smoothing, weights)
        right = hits(logits.detach().max(1).indices, target)
        if self.class_weights is not None:  # the share of right answers stays one of pictures
            known = (target >= 0).sum() if target.ndim == 1 else target.sum()
            share = right / known.clamp(min=1)
            divisor = normaliser(count) if self.training else count.clamp(min=1)
            return Losses({"cross_entropy": total / divisor}, {"accuracy": share}, count)
        # Evaluation batches differ in number between processes: a collective there would hang.
        divisor = normaliser(count) if self.training else count.clamp(min=1)
        return Losses({"cross_entropy": total / divisor}, {"accuracy": right / divisor}, count)

    def _answer(self, batch: ClassifyBatch, logits: Tensor) -> dict[str, Any]:
        probabilities = logits.softmax(1)  # (B, K)
        best = probabilities.max(1)
        return {"ids": batch.ids, "label": best.indices, "score": best.values, "probabilities": probabilities}

    def _views(self, image: Tensor, logits: Tensor) -> Tensor:
        """Average the logits of the image's views (K. Jordan, airbench, 2024): (B, K)."""
        if self.tta == "none":
            return logits
        logits = (logits + self._logits(image.flip(3))) / 2
        if self.tta == "mirror":
            return logits
        height, width = image.shape[2:]
        padded = nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
        moved = torch.zeros_like(logits)
        for at in (0, 2):
            view = padded[:, :, at : at + height, at : at + width]
            moved += (self._logits(view) + self._logits(view.flip(3))) / 2
        return (logits + moved / 2) / 2

    def _logits(self, image: Tensor) -> Tensor:
        """The network's answer in float32: (B, K)."""
        if torch.compiler.is_compiling() or (self.training, *image.shape[1:]) in self._tried:
            logits: Tensor = self.net(image)
            return logits.float()
        return self._first(image)

    def _first(self, image: Tensor) -> Tensor:
        """The first image of a size: the place to say in words that the network cannot take it."""
        try:
            logits = self.net(image)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            size = f"{image.shape[2]}x{image.shape[3]}"
            text = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"{type(self.net).__name__} cannot take {len(image)} images of {size} pixels: {text}. "
                "Resize the images in the stream's transforms, or give a timm model `img_size` in "
                "task.net.options.",
                path="task.net",
            ) from error
        wanted = (len(image), self.classes)
        if not isinstance(logits, Tensor) or logits.shape != wanted:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ContractError(
                f"{type(self.net).__name__} returned {found}, expected logits of shape {wanted}",
                path="task.net",
            )
        self._tried.add((self.training, *image.shape[1:]))
        return logits.float()
