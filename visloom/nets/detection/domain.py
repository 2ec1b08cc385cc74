"""Domain discriminators of DA Faster R-CNN (Chen et al., 2018) and SADA (Chen et al., 2021), and their losses.

Logits above 0 say "source". Gradients are reversed by whoever calls them: these are plain classifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops

Drop = Callable[[Tensor, Sequence[int], Tensor, str], Tensor]
"""Dropout: (features (R, D), keys of the pictures, picture of each row (R,), word) -> features."""


class ImageHead(nn.Module):
    """Domain of every cell of a map: two 1x1 convolutions."""

    def __init__(self, channels: int, width: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv2 = nn.Conv2d(width, 1, 1)
        for layer in (self.conv1, self.conv2):
            nn.init.normal_(layer.weight, std=0.001)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, 1, H, W) in float32."""
        found: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return found.float()


class InstanceHead(nn.Module):
    """Domain of a region: three linear layers with dropout."""

    def __init__(
        self, inputs: int, width: int = 1024, stds: tuple[float, float, float] = (0.01, 0.01, 0.05)
    ) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, 1)
        for layer, std in zip((self.fc1, self.fc2, self.fc3), stds, strict=True):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, drop: Callable[[Tensor, str], Tensor]) -> Tensor:
        """(R, inputs) -> logits (R,) in float32; `drop(features, word)` is the dropout."""
        x = drop(functional.relu(self.fc1(x)), "1")
        x = drop(functional.relu(self.fc2(x)), "2")
        found: Tensor = self.fc3(x)[:, 0]
        return found.float()


def keyed_dropout(x: Tensor, keys: Sequence[int], picture: Tensor, word: str, p: float = 0.5) -> Tensor:
    """Dropout whose mask for a picture's regions depends on the picture's key alone.

    x: (R, D), regions picture by picture.  keys: one per picture.  picture: (R,) number of each region's picture.
    """
    from visloom.keys import fold

    counts = torch.bincount(picture, minlength=len(keys)).tolist()
    masks = []
    for key, count in zip(keys, counts, strict=True):
        generator = torch.Generator(x.device)
        generator.manual_seed(fold(key, "dropout", word) & 0x7FFF_FFFF_FFFF_FFFF)
        masks.append(torch.rand(count, x.shape[1], generator=generator, device=x.device) >= p)
    return x * torch.cat(masks) / (1.0 - p)


def image_loss(logits: Sequence[Tensor], source: Tensor, real: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cross entropy summed over the cells of all levels, and their number.

    logits: (B, 1, H, W) by level.  source: (B,) 1 for source.  real: (B, 1, H, W) by level, 0 in padding.
    """
    total, count = logits[0].new_zeros(()), logits[0].new_zeros(())
    for each, weight in zip(logits, real, strict=True):
        side = source.view(-1, 1, 1, 1).expand_as(each)
        loss = functional.binary_cross_entropy_with_logits(each, side, reduction="none")
        total, count = total + (loss * weight).sum(), count + weight.sum()
    return total, count


def image_chance(logits: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean probability of "source" over the cells of each picture: (levels, B)."""
    return torch.stack(
        [(e.sigmoid() * w).sum((1, 2, 3)) / w.sum((1, 2, 3)) for e, w in zip(logits, real, strict=True)]
    )


def consistency(image: Tensor, instance: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance of a picture's mean chance to that of each of its regions, and the number of terms.

    image: (levels, B) chances.  instance: (R,) chances.  picture: (R,) number of each region's picture. For one
    source and one target picture this is the loss of the original, which could count no others.
    """
    gap = (image[:, picture] - instance[None]).abs()  # (levels, R)
    return gap.sum(), gap.new_tensor(float(gap.numel()))


def regional_consistency(
    logits: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], instance: Tensor
) -> tuple[Tensor, Tensor]:
    """SADA's: L1 distance of the image heads' chances pooled over a region to the region's own.

    logits: (B, 1, H, W) by level.  boxes: (N, 4) of each picture.  instance: (R,) chances.
    """
    total = instance.new_zeros(())
    for each, stride in zip(logits, strides, strict=True):
        pooled = ops.roi_align(each.sigmoid(), list(boxes), 7, 1.0 / stride, 2)  # (R, 1, 7, 7)
        total = total + (pooled.mean((1, 2, 3)) - instance).abs().sum()
    return total, instance.new_tensor(float(len(instance) * len(logits)))


def real_cells(
    features: Sequence[Tensor], sizes: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[Tensor]:
    """1 for cells that see the picture and 0 for cells of padding: (B, 1, H, W) by level."""
    found = []
    for seen in features:
        rows, columns = seen.shape[2:]
        mask = seen.new_zeros(len(sizes), 1, rows, columns, dtype=torch.float32)
        for row, (height, width) in enumerate(sizes):
            mask[row, :, : -(-height * rows // size[0]), : -(-width * columns // size[1])] = 1.0
        found.append(mask)
    return found
