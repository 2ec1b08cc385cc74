"""How convolutions work here: the order of pixels, NCHW ("contiguous") or NHWC ("channels last"), and the method.

    GPU, or half precision            channels last: what tensor cores, AMX and AVX512-BF16 multiply
    a CPU in fp32, with AVX512        channels last
    a CPU in fp32, with AVX2 or less  3x3 convolutions by Winograd's method (`visloom/winograd.py`), in channels last.
                                      Contiguous where most weights are in other dense convolutions of several pixels,
                                      which oneDNN is slow at in NHWC there (a step of UNet: 1.5 times); channels last
                                      where most are of one pixel or in groups (ResNeXt: 0.4 times, ResNet-50: 0.8)

Stored pictures are NHWC, and a convolution takes the order of its input: `like_weights` brings them into that of the
network, so only the weights have to be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from visloom.device import resolve_precision
from visloom.winograd import takes, use_winograd

if TYPE_CHECKING:
    from visloom.module import TaskModule
    from visloom.run import How

_NARROW = ("DEFAULT", "AVX2")  # of torch's names for what a processor has


def resolve_channels_last(how: How, device: torch.device, task: nn.Module) -> bool:
    """Say whether the weights of a task's convolutions go into channels-last memory on a device."""
    if how.channels_last != "auto":
        return how.channels_last
    if device.type != "cpu" or resolve_precision(how.precision, device) is not torch.float32:
        return True
    if torch.backends.cpu.get_cpu_capability() not in _NARROW:
        return True
    dense, spared, total = _weights(task)
    if spared and resolve_winograd(how, device):
        return how.winograd is True or dense - spared <= 0.25 * total
    return dense <= 0.5 * total


def resolve_winograd(how: How, device: torch.device) -> bool:
    """Say whether 3x3 convolutions are computed by Winograd's method on a device: in fp32, in NHWC, on a CPU, eagerly.

    "auto" does so where it was measured to gain: where fp32 is multiplied by AVX2.
    """
    if device.type != "cpu" or resolve_precision(how.precision, device) is not torch.float32 or how.compile:
        return False
    if how.winograd != "auto":
        return how.winograd
    return torch.backends.cpu.get_cpu_capability() in _NARROW and how.channels_last is not False


def _weights(net: nn.Module) -> tuple[int, int, int]:
    """Of a network's convolutions: weights of dense ones of several pixels, those that Winograd's method takes, all."""
    dense = spared = total = 0
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            count = module.weight.numel()
            total += count
            dense += count if module.groups == 1 and max(module.kernel_size) > 1 else 0
            spared += count if isinstance(module, nn.Conv2d) and takes(module) else 0
    return dense, spared, total


def place(task: TaskModule, how: How, device: torch.device) -> TaskModule:
    """Bring a task to its device, with the memory format and the convolutions that `how` means there."""
    task = task.to(device)
    if resolve_channels_last(how, device, task):
        if resolve_winograd(how, device):
            use_winograd(task)
        task = task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return task


def standardised(image: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`image * scale + shift` per channel: stored pictures as a network takes them.

    A row of pixels is one axis here, as three channels alone are too few for a CPU to compute as vectors.

    Args:
        image: (B, H, W, C), integers or floating.
        scale, shift: C float32 numbers each, in any shape.

    Returns:
        (B, C, H, W) float32, in channels-last memory.
    """
    width = image.shape[2]
    rows = image.float().flatten(2)  # (B, H, W * C)
    rows = torch.addcmul(shift.flatten().repeat(width), rows, scale.flatten().repeat(width))
    return rows.view(image.shape).permute(0, 3, 1, 2)


def like_weights(image: Tensor, net: nn.Module) -> Tensor:
    """Bring (B, C, H, W) pictures into the memory format of a network's weights. Free where they are in it."""
    return image.contiguous(memory_format=memory_format(net))


def memory_format(net: nn.Module) -> torch.memory_format:
    """The memory format of a network's weights, as its first convolution of several channels and pixels shows it."""
    for weight in net.parameters():
        # with one channel, or one pixel, both formats are the same
        if weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[2:] != (1, 1):
            last = weight.is_contiguous(memory_format=torch.channels_last)
            return torch.channels_last if last else torch.contiguous_format
    return torch.contiguous_format
