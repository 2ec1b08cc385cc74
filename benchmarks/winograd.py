"""Where Winograd's convolutions gain on a CPU, layer by layer, and what their products take beside PyTorch's.

    python benchmarks/winograd.py [--channels 24 64 128 256] [--sides 2 3 4 6 7 9 16] [--rounds 7]      about 2 minutes

Forward and backward of one layer on one thread in fp32, of so many pictures that they make about 64 or 256 tiles; ways
take turns, figures are medians of CPU time. The rules in `visloom/winograd.py` were found with it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from visloom.device import keep_freed
from visloom.winograd import _cut, _parts, winograd
from visloom.winograd_kernels import kernels

PRODUCTS = ((162, 64, 64), (108, 64, 128), (162, 128, 128), (125, 256, 256))  # tiles, channels, outputs


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU-seconds of each way; they take turns after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if turn:
                taken[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def layer(channels: int, side: int, tiles: int, rounds: int) -> str:
    """Forward and backward of a layer with as many outputs as channels."""
    count = max(1, tiles // _cut(side, side, 1).tiles)
    image, weight = torch.randn(count, channels, side, side), torch.randn(channels, channels, 3, 3)
    grad = torch.randn_like(image)

    def way(convolve: Callable[[Tensor, Tensor], Tensor], order: torch.memory_format) -> Callable[[], object]:
        x, w, g = (tensor.contiguous(memory_format=order) for tensor in (image, weight, grad))
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        return lambda: torch.autograd.grad(convolve(x, w), (x, w), g)

    def usual(x: Tensor, w: Tensor) -> Tensor:
        return functional.conv2d(x, w, padding=1)

    found = medians(
        {
            "NHWC": way(usual, torch.channels_last),
            "NCHW": way(usual, torch.contiguous_format),
            "own": way(lambda x, w: winograd(x, w, 1), torch.channels_last),
        },
        rounds,
    )
    ratios = (found["NHWC"] / found["own"], found["NCHW"] / found["own"])
    tile = _cut(side, side, 1).method.side
    return f"| {channels} | {side} x {side} | {count} | {tile} | {ratios[0]:.2f} | {ratios[1]:.2f} |"


def products(tiles: int, channels: int, outputs: int, rounds: int) -> str:
    """The products of a forward pass, by blocks in registers and by `torch.bmm`."""
    cut = _cut(4, 4, 1)
    code = kernels(cut.method)
    _, a, out = next(_parts(tiles, channels, outputs, cut))
    a.normal_()
    panels = torch.randn(cut.method.places, channels * outputs)
    plain, matrix = a.contiguous(), torch.randn(cut.method.places, channels, outputs)
    result = torch.empty(*plain.shape[:2], outputs)
    found = medians(
        {
            "own": lambda: code.multiply(a, panels, out, channels, outputs),
            "bmm": lambda: torch.bmm(plain, matrix, out=result),
        },
        rounds * 5,
    )
    work = 2 * plain.numel() * outputs / 1e9
    own, bmm = work / found["own"], work / found["bmm"]
    return f"| {plain.shape[1]} | {channels} | {outputs} | {own:.0f} | {bmm:.0f} | {own / bmm:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[24, 64, 128, 256])
    parser.add_argument("--sides", type=int, nargs="+", default=[2, 3, 4, 6, 7, 9, 16])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    print("| tiles | channels | outputs | own GFLOP/s | torch.bmm | ratio |\n|---|---|---|---|---|---|")
    for sizes in PRODUCTS:
        print(products(*sizes, options.rounds), flush=True)
    print(
        "\n| channels | map | pictures | outputs of a tile | NHWC over own | NCHW over own |\n|---|---|---|---|---|---|"
    )
    for channels in options.channels:
        for side in options.sides:
            for tiles in (64, 256):
                print(layer(channels, side, tiles, options.rounds), flush=True)


if __name__ == "__main__":
    main()
