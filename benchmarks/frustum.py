"""Frustum association: all boxes at once against a loop over boxes, the same numbers out, in interleaved repeats.

python benchmarks/frustum.py [--boxes 100] [--pictures 4] [--repeats 15]
"""

from __future__ import annotations

import argparse
import math
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from visloom.tasks.fusion3d.frustum import associate

SCALE = (60.0, 1.0, 1.0)


def loop(raster: Tensor, box: Tensor, depth: Tensor, reach: Tensor) -> Tensor:
    """One box after the other, far ones first, as the original goes through them."""
    out = torch.zeros_like(raster)
    scale = torch.tensor(SCALE)
    for b in range(len(box)):
        for k in depth[b].argsort(descending=True, stable=True).tolist():
            x0, y0, x1, y1 = box[b, k].tolist()
            left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
            part = raster[b, :, top : max(0, math.ceil(y1) + 1), left : max(0, math.ceil(x1) + 1)]
            hits = part[0].nonzero()
            far = part[0][hits[:, 0], hits[:, 1]]
            low, high = (depth[b, k] - reach[b, k]).clamp_min(0), depth[b, k] + reach[b, k]
            fits = (far > low) & (far < high)
            if not fits.any():
                continue
            row, column = hits[fits][far[fits].argmin()]
            cx, cy, hw, hh = (x0 + x1) / 2, (y0 + y1) / 2, 0.15 * (x1 - x0), 0.15 * (y1 - y0)
            rows = slice(max(0, math.floor(cy - hh)), max(0, math.floor(cy + hh) + 1))
            columns = slice(max(0, math.floor(cx - hw)), max(0, math.floor(cx + hw) + 1))
            out[b, :, rows, columns] = (part[:, row, column] / scale)[:, None, None]
    return out


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--boxes", type=int, default=100)
    words.add_argument("--pictures", type=int, default=4)
    words.add_argument("--repeats", type=int, default=15)
    given = words.parse_args()
    torch.set_num_threads(1)
    draws = torch.Generator().manual_seed(0)
    raster = torch.zeros(given.pictures, 3, 112, 200)
    for b in range(given.pictures):  # about sixty pillars a picture
        for _ in range(60):
            x, y, z = (torch.rand(3, generator=draws) * torch.tensor([196.0, 90.0, 58.0])).tolist()
            high = int(60 / (z + 4)) + 1
            raster[b, :, int(y) : int(y) + high, int(x) : int(x) + 2] = torch.tensor([z + 1, 1.0, -1.0])[
                :, None, None
            ]
    shape = (given.pictures, given.boxes)
    depth = 3 + 55 * torch.rand(shape, generator=draws)
    corner = torch.rand(*shape, 2, generator=draws) * torch.tensor([190.0, 100.0])
    box = torch.cat([corner, corner + 300 / depth[..., None] * torch.rand(*shape, 2, generator=draws)], -1)
    reach = 0.5 + 3 * torch.rand(shape, generator=draws)
    valid = torch.ones(shape, dtype=torch.bool)
    assert torch.equal(
        associate(raster, box, depth, reach, valid, scale=SCALE), loop(raster, box, depth, reach)
    )
    times: dict[str, list[float]] = {"loop": [], "at once": []}
    for _ in range(given.repeats):
        for name in times:
            began = perf_counter()
            if name == "loop":
                loop(raster, box, depth, reach)
            else:
                associate(raster, box, depth, reach, valid, scale=SCALE)
            times[name].append(perf_counter() - began)
    slow, quick = median(times["loop"]), median(times["at once"])
    print(f"{given.pictures} pictures, {given.boxes} boxes each, one thread, median of {given.repeats}")
    print(
        f"loop over boxes {1e3 * slow:8.2f} ms\nat once         {1e3 * quick:8.2f} ms   {slow / quick:.1f} times faster"
    )


if __name__ == "__main__":
    main()
