"""ClassifyBatch: images as they are stored, their labels, and how this batch mixes pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from visloom.keys import fold, generator
from visloom.task import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Mix(NamedTuple):
    """How each picture of a batch is mixed with the one before it; one draw for the whole batch.

    share: () float32, weight of a picture's own label.
    pixel: () float32, weight of its own pixels outside the box.
    box: (4,) int64, top left bottom right; inside it the partner's pixels stand (an empty box for mixup).
    """

    share: Tensor
    pixel: Tensor
    box: Tensor


@dataclass(kw_only=True)
class ClassifyBatch(Batch):
    """Images of one size with one label each.

    image: stored type (uint8, or int32 for wider integers), channels last; normalised on the device.
    label: class indices with -1 for unlabelled, or one weight per class (a row of zeros is unlabelled).
    """

    image: Tensor  # (B, H, W, C)
    label: Tensor  # (B,) int64 or (B, K) float32
    mix: Mix | None = None


def draw_mix(key: int, height: int, width: int, mixup: float, cutmix: float) -> Mix | None:
    """Draw how the batch of this key is mixed: a function of the key and the sizes alone, so equal on every
    process.

    mixup, cutmix: parameter of the Beta(a, a) distribution of the share; 0 turns it off. With both on, a fair
    coin
    decides. Sources: Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019 (a box of 1 - share of the area
    around a uniform centre, clipped to the picture; the share is then what is left of the picture).
    """
    import torch

    if not mixup and not cutmix:
        return None
    draws = generator(fold(key, "mix"))
    cut = draws.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cut else mixup
    share = float(draws.beta(alpha, alpha))
    box, pixel = (0, 0, 0, 0), share
    if cut:
        side = np.sqrt(1.0 - share)
        row, column = draws.random() * height, draws.random() * width
        top, bottom = np.clip(np.round([row - side * height / 2, row + side * height / 2]), 0, height).astype(
            int
        )
        left, right = np.clip(
            np.round([column - side * width / 2, column + side * width / 2]), 0, width
        ).astype(int)
        box, pixel = (int(top), int(left), int(bottom), int(right)), 1.0
        share = 1.0 - float((bottom - top) * (right - left)) / (height * width)
    return Mix(torch.tensor(share), torch.tensor(pixel), torch.tensor(box))


def mix_images(image: Tensor, mix: Mix) -> Tensor:
    """Mix each picture with the one before it in the batch: (B, H, W, C) -> (B, H, W, C) float32."""
    import torch

    _, height, width, _ = image.shape
    top, left, bottom, right = mix.box
    rows = torch.arange(height, device=image.device)
    columns = torch.arange(width, device=image.device)
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))  # (H, W)
    weight = torch.where(inside, 0.0, mix.pixel)[None, :, :, None]  # (1, H, W, 1)
    own = image.float()
    return torch.lerp(own.roll(1, 0), own, weight)


def mix_labels(target: Tensor, mix: Mix) -> Tensor:
    """Mix dense targets (B, K) like the images."""
    return target.roll(1, 0) * (1.0 - mix.share) + target * mix.share
