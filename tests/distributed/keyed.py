"""A task that several processes can learn exactly as one does: keyed draws, global normalisers, no dropout.

Its pictures are noise under the sample's key; each one trains on the places that a keyed sampler draws, so the number
of places differs from picture to picture and from process to process. With `heads`, the head that learns depends on
the step, and the others are idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.protocol.shapes import Stamp
from tests.worlds import Numbers
from visloom import dist
from visloom.keys import generator
from visloom.metrics import TopK
from visloom.module import TaskModule
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled
from visloom.task import Batch, Losses


@dataclass(kw_only=True)
class Places(Batch):
    x: Tensor  # (B, 3, 6, 6) float32
    chosen: Tensor  # (B, 6, 6) bool, what the sampler drew
    label: Tensor  # (B,) int64
    head: int = 0


@dataclass(frozen=True)
class Keyed:
    """Classifies every drawn place of a picture."""

    classes: tuple[str, ...] = ("a", "b", "c")
    palette: tuple[tuple[int, int, int], ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    heads: int = 1

    def build(self) -> TaskModule:
        return KeyedModule(self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> Batch:
        draws = [generator(sample.extra.get("key", 1000 + int(sample.id[1:]))) for sample in samples]
        x = torch.stack([torch.from_numpy(draw.random((3, 6, 6), "float32")) for draw in draws])
        label = torch.tensor([int(sample.label) for sample in samples])
        chosen = torch.stack([torch.from_numpy(draw.random((6, 6)) < draw.random()) for draw in draws])
        ids = tuple(sample.id for sample in samples)
        x = x + label.view(-1, 1, 1, 1)
        head = 0 if key is None else key // 2 % self.heads
        return Places(ids=ids, x=x, chosen=chosen, label=label, head=head)

    def metrics(self) -> dict[str, Any]:
        return {"top": TopK((1,), classes=3)}

    def goodness(self, predictions: Any, batch: Any) -> Tensor:
        return predictions["probabilities"].gather(1, batch.label[:, None])[:, 0]

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        from PIL import Image

        return Image.fromarray(image).resize((16, 16))


class KeyedModule(TaskModule):
    def __init__(self, spec: Keyed) -> None:
        super().__init__()
        self.sparse = spec.heads > 1
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.norm = nn.BatchNorm2d(8)
        self.heads = nn.ModuleList(nn.Conv2d(8, 3, 1) for _ in range(spec.heads))

    def logits(self, batch: Places) -> Tensor:
        return self.heads[batch.head](self.norm(self.net(batch.x)).relu())  # (B, 3, 6, 6)

    def forward(self, batch: Batch) -> Losses:
        assert isinstance(batch, Places)
        logits = self.logits(batch).movedim(1, -1)[batch.chosen]  # (K, 3)
        label = batch.label.view(-1, 1, 1).expand_as(batch.chosen)[batch.chosen]
        count = batch.chosen.sum()
        loss = nn.functional.cross_entropy(logits, label, reduction="sum") / dist.normaliser(count)
        return Losses({"ce": loss}, {}, count.float())

    def predict(self, batch: Batch) -> dict[str, Any]:
        assert isinstance(batch, Places)
        probabilities = self.logits(batch).mean((2, 3)).softmax(1)  # (B, 3)
        score, label = probabilities.max(1)
        return {"ids": batch.ids, "label": label, "score": score, "probabilities": probabilities}


def stream(batch: int = 8, size: int = 43) -> Shuffled:
    return Shuffled(source=Numbers(size=size), batch=batch, transform=(Stamp(),), seed=3)


def seen(batch: int = 4, size: int = 19) -> Ordered:
    return Ordered(source=Numbers(size=size), batch=batch)
