"""How a CPU convolves: steps of whole networks in NCHW, in NHWC, by Winograd's method, and as `how` chooses by itself.

    python benchmarks/convolutions.py [--rounds 3] [--threads 1] [--only UNet ResNet]       about 6 minutes

A step is forward, backward and update in fp32. Every way has a process of its own that keeps its memory, as runs do;
figures are CPU-seconds, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from turns import kept, race

from visloom.memory import like_weights, place
from visloom.run import How

CPU = torch.device("cpu")
WAYS = {
    "NCHW": How(precision="fp32", channels_last=False, winograd=False),
    "NHWC": How(precision="fp32", channels_last=True, winograd=False),
    "Winograd": How(precision="fp32", channels_last=True, winograd=True),
    "chosen": How(precision="fp32"),
}


def _networks() -> dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]]:
    """Name -> shape of the pictures, how the network is made."""
    import segmentation_models_pytorch as smp
    import timm

    from visloom.nets.compact import Compact
    from visloom.nets.fast_cifar import FastCifar
    from visloom.nets.psp import PSPNet
    from visloom.nets.resnet_cifar import ResNetCifar
    from visloom.nets.unet import UNet

    def of_timm(name: str) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, num_classes=10)

    def of_smp(name: str, encoder: str) -> Callable[[], nn.Module]:
        return lambda: smp.create_model(name, encoder, encoder_weights=None, classes=59)

    return {
        "ResNet-18 for CIFAR": ((64, 3, 32, 32), lambda: ResNetCifar(18, 10, 3)),
        "FastCifar": ((250, 3, 32, 32), FastCifar),
        "UNet": ((2, 3, 128, 128), lambda: UNet(59)),
        "PSPNet, ResNet-50": ((2, 3, 128, 128), lambda: PSPNet(59)),
        "U-Net, ResNet-50": ((2, 3, 128, 128), of_smp("unet", "resnet50")),
        "FPN, ResNet-18": ((2, 3, 128, 128), of_smp("fpn", "resnet18")),
        "DeepLabV3+, ResNet-50": ((2, 3, 128, 128), of_smp("deeplabv3plus", "resnet50")),
        "Compact": ((8, 3, 192, 136), lambda: Compact(59)),
        "ResNet-18": ((16, 3, 64, 64), of_timm("resnet18")),
        "ResNet-50": ((4, 3, 96, 96), of_timm("resnet50")),
        "VGG-11": ((4, 3, 96, 96), of_timm("vgg11_bn")),
        "MobileNetV2": ((8, 3, 128, 128), of_timm("mobilenetv2_100")),
        "ResNeXt-50 32x4d": ((4, 3, 96, 96), of_timm("resnext50_32x4d")),
        "ConvNeXt-atto": ((4, 3, 96, 96), of_timm("convnext_atto")),
    }


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    else:
        for part in found.values() if isinstance(found, dict) else found:
            yield from _tensors(part)


def _step(
    make: Callable[[], nn.Module], shape: tuple[int, ...], how: How, threads: int
) -> Callable[[], object]:
    def setup() -> Callable[[], object]:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        net: Any = place(make().train(), how, CPU)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)
        image = like_weights(torch.randn(shape), net)

        def step() -> None:
            optimizer.zero_grad()
            sum(found.square().mean() for found in _tensors(net(image))).backward()  # type: ignore[union-attr]
            optimizer.step()

        return kept(step)()

    return setup


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], help="words that names of networks begin with")
    options = parser.parse_args()
    print("| network, pictures |", " | ".join(WAYS), "| chosen against NCHW |")
    for name, (shape, make) in _networks().items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        rows = race(
            {way: _step(make, shape, how, options.threads) for way, how in WAYS.items()}, options.rounds
        )
        last = rows["chosen"]
        times = f"{last.times:.2f} ({last.least:.2f} to {last.most:.2f})"
        size = f"{shape[0]} x {shape[2]} x {shape[3]}"
        print(f"| {name}, {size} |", " | ".join(f"{row.cpu_seconds:.3f}" for row in rows.values()), f"| {times} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
