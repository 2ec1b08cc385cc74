"""A task of your own: a spec (the data's side) and a module whose forward returns named losses.

    visloom train examples/own_task.py

Here: how bright is the picture, as a number. The engine only ever sees `Losses`; resume, checkpoints, logging and the
report come with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from own_dataset import Stripes
from torch import Tensor, nn

from visloom import Batch, Epochs, Eval, Losses, Monitor, Ordered, Run, Sample, Shuffled, TaskModule
from visloom.run import How, Optim
from visloom.schedule import Cosine


@dataclass(kw_only=True)
class Pictures(Batch):
    """What collate makes and forward reads."""

    image: Tensor  # (B, H, W, 3) uint8
    bright: Tensor  # (B,) float32, 0 to 1


class MeanError:
    """Mean absolute error: sums that merge, so any number of processes gives the same value."""

    names = ("error",)

    def __init__(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)  # summed error, samples

    def update(self, predictions: Any, batch: Any) -> None:
        error = (predictions["bright"] - batch.bright).abs().double()
        self.sums += torch.stack([error.sum(), torch.tensor(float(len(error)), dtype=torch.float64)])

    def state(self) -> Tensor:
        return self.sums

    def merge(self, states: Sequence[Tensor]) -> None:
        self.sums = torch.stack(list(states)).sum(0)

    def compute(self) -> dict[str, float]:
        return {"error": float(self.sums[0] / self.sums[1].clamp(min=1))}

    def tables(self) -> dict[str, Any]:
        return {}


class BrightModule(TaskModule):
    """One small network, one loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)
        )

    def _bright(self, batch: Pictures) -> Tensor:
        return self.net(batch.image.permute(0, 3, 1, 2) / 255)[:, 0]  # type: ignore[no-any-return]  # (B,)

    def forward(self, batch: Pictures) -> Losses:  # type: ignore[override]
        loss = nn.functional.mse_loss(self._bright(batch).float(), batch.bright)
        return Losses({"square": loss}, {}, torch.tensor(float(len(batch))))

    def predict(self, batch: Pictures) -> dict[str, Any]:  # type: ignore[override]
        return {"ids": batch.ids, "bright": self._bright(batch).float()}


@dataclass(frozen=True)
class Bright:
    """The data's side."""

    classes: tuple[str, ...] = ("brightness",)
    palette: tuple[tuple[int, int, int], ...] = ((200, 200, 0),)

    def build(self) -> TaskModule:
        return BrightModule()

    def collate(self, samples: Sequence[Sample], key: int | None) -> Pictures:
        images = np.stack([s.image for s in samples if s.image is not None])  # (B, H, W, 3)
        bright = torch.from_numpy(images.mean((1, 2, 3)) / 255).float()
        return Pictures(ids=tuple(s.id for s in samples), image=torch.from_numpy(images), bright=bright)

    def metrics(self) -> dict[str, Any]:
        return {"error": MeanError()}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        from PIL import Image, ImageDraw

        drawn = Image.fromarray(image).resize((96, 96))
        ImageDraw.Draw(drawn).text((4, 4), f"{float(prediction['bright']):.2f}", fill=(255, 0, 0))
        return drawn


@dataclass(frozen=True, kw_only=True)
class Plain(Stripes):
    """The pictures of own_dataset.py without their class names."""

    def classes(self) -> tuple[str, ...]:
        return ()


def own_task() -> Run:
    """Four epochs on 512 pictures: a few seconds."""
    return Run(
        name="own-task",
        task=Bright(),
        train=Shuffled(source=Plain(), batch=32),
        evals={
            "val": Eval(
                stream=Ordered(source=Plain(size=60, seed=1), batch=60), monitor=Monitor("min", "error")
            )
        },
        length=Epochs(4),
        optim=Optim(name="AdamW", lr=0.01),
        schedule=Cosine(),
        how=How(precision="fp32"),
    )
