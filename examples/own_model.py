"""A network of your own: any nn.Module that answers (B, C, H, W) images with (B, classes) logits.

    visloom train examples/own_model.py

`Call` names it by file and class; its arguments are checked against the signature when the run is loaded
(`visloom train examples/own_model.py task.net.call.kwargs.width=32`).
"""

from __future__ import annotations

from own_dataset import own_dataset
from torch import Tensor, nn

from visloom import Call, Run, change
from visloom.tasks.classify.nets import Custom


class TinyNet(nn.Module):
    """Three convolutions and a mean."""

    def __init__(self, num_classes: int, in_chans: int = 3, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.features(image)  # (B, 2 * width, H / 4, W / 4)
        return self.head(features.mean((2, 3)))  # (B, num_classes)


def own_model() -> Run:
    """The run of own_dataset.py with another network."""
    net = Custom(Call("own_model:TinyNet", {"width": 24}))
    return change(own_dataset(), {"name": "own-model", "task.net": net})
