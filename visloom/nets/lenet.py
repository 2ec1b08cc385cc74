"""LeNet-5 for 32x32 images: three 5x5 convolutions with tanh and average pooling, and two linear layers.

61,706 parameters with 10 classes and one channel. Parameter names are those of mmclassification's `LeNet5`.
Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998, as simplified there (full
connections between the maps, average pooling without weights, no radial basis functions at the end).
"""

from __future__ import annotations

from torch import Tensor, nn


class LeNet5(nn.Module):
    """(B, in_chans, 32, 32) -> logits (B, num_classes)."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(16, 120, 5), nn.Tanh(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images; images must be 32x32."""
        x = self.features(image)  # (B, 120, 1, 1)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
