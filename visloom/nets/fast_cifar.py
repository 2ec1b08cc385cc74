"""FastCifar: a small network that learns 32x32 images in minutes on one CPU core, seconds on a GPU.

A fixed first layer whitens 2x2 patches, so training starts from decorrelated inputs. Six 3x3 convolutions
follow, in three blocks that halve the image; each is followed by a batch norm without scale, and begins as
the identity. With the default widths: 1.97 million parameters, 118 million multiplications per image.

Source: the architecture of the airbench CIFAR-10 speed records (K. Jordan, "94% on CIFAR-10 in 3.29 seconds
on a single GPU", arXiv 2404.00498), which goes back to D. Page's ResNet-9 and T. Balsam's hlb-CIFAR10.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.nets.fused_norm import gelu, norm_gelu


class FastBlock(nn.Module):
    """conv, halve by maximum, norm, GELU; conv, norm, GELU.

    Pooling comes before the norm: everything after it costs a quarter. The norms have a bias but no scale (it
    is one and frozen), because a scale-free weight before a norm is what lets an optimizer hold filters at a
    fixed norm.
    """

    def __init__(self, inputs: int, outputs: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv1 = _identity_conv(inputs, outputs)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _bias_norm(outputs, norm_momentum)
        self.conv2 = _identity_conv(outputs, outputs)
        self.norm2 = _bias_norm(outputs, norm_momentum)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H // 2, W // 2)."""
        x = norm_gelu(self.conv1(x), self.norm1, self.act, self.pool)  # (B, outputs, H // 2, W // 2)
        return norm_gelu(self.conv2(x), self.norm2, self.act)


class FastCifar(nn.Module):
    """Whitening layer, one `FastBlock` per width, global maximum, linear head.

    Call `whiten` once, with training images, before training: until then the first layer holds random
    filters. Its filters are frozen (`first.weight` asks for no gradient), its bias is learnt.

    Parameter names, for optimizer rules: `first.bias`, `blocks.N.conv{1,2}.weight`,
    `blocks.N.norm{1,2}.bias`, `head.weight`.

    Args:
        classes: length of the answer.
        widths: channels of the blocks; any number of blocks as long as the image survives the halvings.
        channels: of the input image.
        patch: side of the whitened patches, in pixels; the first layer has `2 * channels * patch**2` filters.
        norm_momentum: weight of the newest batch in the running statistics of the norms. High, as short runs
            with large batches change quickly.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (64, 256, 256),
        channels: int = 3,
        patch: int = 2,
        norm_momentum: float = 0.4,
    ) -> None:
        super().__init__()
        if not widths or min(classes, channels, patch, *widths) < 1:
            raise ValueError(
                "FastCifar needs at least one block and positive sizes, but got "
                f"classes={classes}, widths={tuple(widths)}, channels={channels}, patch={patch}"
            )
        filters = 2 * channels * patch**2
        self.first = nn.Conv2d(channels, filters, patch)
        self.first.weight.requires_grad_(False)
        nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]
        self.act = nn.GELU()
        sizes = [filters, *widths]
        self.blocks = nn.Sequential(*(FastBlock(i, o, norm_momentum) for i, o in pairwise(sizes)))
        self.head = nn.Linear(sizes[-1], classes, bias=False)
        # Unit weights and a divided output rather than small weights: it sets the head's learning rate apart
        # from the scale of its answers. The standard deviation is made exact, so that the first loss does not
        # depend on luck.
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())
        self.scale = 1.0 / sizes[-1]

    def forward(self, image: Tensor) -> Tensor:
        """Logits of normalised images.

        Args:
            image: (B, channels, H, W) floating, standardised per channel. H and W at least `patch - 1 +
                2**blocks`.

        Returns:
            (B, classes), unnormalised; bfloat16 under autocast, so take the loss of `.float()`.
        """
        x = gelu(self.first(image), self.act)  # (B, filters, H - patch + 1, W - patch + 1)
        x = self.blocks(x)  # (B, widths[-1], h, w)
        x = functional.max_pool2d(x, x.shape[-2:]).flatten(1)  # (B, widths[-1])
        logits: Tensor = self.head(x) * self.scale
        return logits

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer from training images, and its bias to zero.

        The filters are the eigenvectors of the patches' second moments, each divided by the root of its
        eigenvalue, and the same again negated (so that an activation passes both signs). Patches then have
        unit variance in every direction and no correlation. Computed in float64 on the CPU, with a fixed sign
        for every eigenvector, hence the same on every device.

        Args:
            images: (N, channels, H, W) floating, standardised as in `forward`. A few thousand suffice.
            eps: added to the eigenvalues, so that directions with next to no signal are not blown up.

        Raises:
            ValueError: images of another shape, or holding non-finite values.
        """
        channels, side = self.first.in_channels, self.first.kernel_size[0]
        if images.ndim != 4 or images.shape[1] != channels or min(images.shape[0], *images.shape[2:]) < side:
            raise ValueError(
                f"whiten expects images of shape (N, {channels}, H, W) with H, W >= {side}, "
                f"got {tuple(images.shape)}"
            )
        moments = _patch_moments(images.detach().cpu(), side)  # (D, D), D = channels * side * side
        if not torch.isfinite(moments).all():
            raise ValueError("whiten got images with non-finite values: standardise the images before")
        values, vectors = torch.linalg.eigh(moments)  # (D,), (D, D) with eigenvectors as columns
        filters = vectors.T / (values.clamp_min(0.0) + eps).sqrt()[:, None]  # (D, D), rows
        # An eigenvector's sign is free and differs between LAPACK builds: make its largest entry positive.
        largest = filters.gather(1, filters.abs().max(1, keepdim=True).indices)  # (D, 1)
        filters = (filters * largest.sign()).reshape(-1, channels, side, side)
        self.first.weight.copy_(torch.cat((filters, -filters)))
        self.first.bias.zero_()  # type: ignore[union-attr]


def _patch_moments(images: Tensor, side: int, chunk: int = 1000) -> Tensor:
    """Mean of `p p^T` over all side x side patches p of (N, C, H, W): (D, D) float64, D = C * side**2."""
    dim = images.shape[1] * side * side
    moments = torch.zeros(dim, dim, dtype=torch.float64)
    count = 0
    for part in torch.split(images, chunk):  # patches take side**2 times their images' memory
        patches = functional.unfold(part.float(), side).transpose(1, 2).reshape(-1, dim).double()  # (n, D)
        moments += patches.T @ patches
        count += len(patches)
    return moments / count


def _identity_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose first `inputs` filters pass their channel on; the others are random."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def _bias_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm
