"""Halving a picture by its maxima, and doubling it with every value back in its place.

torch has `max_unpool2d` for the latter, but no kernel of it that promises the same bits each time; places of a pooling
without overlap are all different, so writing to them is the same in any order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of 2x2 pixels: (B, C, H, W) -> (B, C, H / 2, W / 2), and their places in a flattened picture."""
    pooled, places = functional.max_pool2d(x, 2, return_indices=True)
    return pooled, places


def unpool(x: Tensor, places: Tensor) -> Tensor:
    """The picture of twice the sides with `x` at the places that `pool` found, and 0 elsewhere."""
    batch, channels, height, width = x.shape
    flat = x.new_zeros(batch, channels, 4 * height * width)
    return flat.scatter(2, places.flatten(2), x.flatten(2)).view(batch, channels, 2 * height, 2 * width)
