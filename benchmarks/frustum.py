"""Frustum association of all boxes at once against loops over boxes; and what an item and a step of training cost.

python benchmarks/frustum.py [--boxes 100] [--pictures 4] [--repeats 15]       association, against two loops
python benchmarks/frustum.py --items                                           data set items at 448x800
python benchmarks/frustum.py --step [--batch 8] [--size 128 224] [--narrow]    a training step, beside its parts
python benchmarks/frustum.py --gpu                                             a step of DLA-34 at 448x800, batch 32

Loops and our way take turns, with the same numbers out, in one process and one thread; times are of the processor, so
that other programs disturb them less. "as published" goes through boxes as the original CenterFusion does, tensor by
tensor, with its window of depths made inside the loop; "lean loop" is the same loop as tight as we can write it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor

from visloom.tasks.fusion3d.frustum import associate, half_extent

SCALE = (60.0, 1.0, 1.0)
FOCAL, MIDDLE = 316.0, 100.0  # pixels of the raster


def scene(pictures: int, boxes: int) -> dict[str, Tensor]:
    """Rasters of about sixty pillars, and boxes of all sizes and distances, as a network of 448x800 has them."""
    draws = torch.Generator().manual_seed(0)
    raster = torch.zeros(pictures, 3, 112, 200)
    for b in range(pictures):
        for _ in range(60):
            x, y, z = (torch.rand(3, generator=draws) * torch.tensor([196.0, 90.0, 58.0])).tolist()
            high = int(60 / (z + 4)) + 1
            made = torch.tensor([z + 1, 1.0, -1.0])[:, None, None]
            raster[b, :, int(y) : int(y) + high, int(x) : int(x) + 2] = made
    shape = (pictures, boxes)
    depth = 3 + 55 * torch.rand(shape, generator=draws)
    corner = torch.rand(*shape, 2, generator=draws) * torch.tensor([190.0, 100.0])
    box = torch.cat([corner, corner + 300 / depth[..., None] * torch.rand(*shape, 2, generator=draws)], -1)
    dims = torch.tensor([1.6, 1.9, 4.5]) * (0.6 + torch.rand(*shape, 3, generator=draws))
    alpha = 6 * torch.rand(shape, generator=draws) - 3
    return {"raster": raster, "box": box, "depth": depth, "dims": dims, "alpha": alpha}


def at_once(
    raster: Tensor, box: Tensor, depth: Tensor, dims: Tensor, alpha: Tensor, *, order: bool
) -> Tensor:
    """All boxes, their windows of depths included."""
    yaw = alpha + torch.atan2((box[..., 0] + box[..., 2]) / 2 - MIDDLE, torch.tensor(FOCAL))
    reach = half_extent(dims, yaw) * (1.5 if order else 1.0)
    valid = torch.ones(depth.shape, dtype=torch.bool)
    return associate(raster, box, depth, reach, valid, scale=SCALE, order=order)


def lean(raster: Tensor, box: Tensor, depth: Tensor, dims: Tensor, alpha: Tensor) -> Tensor:
    """One box after the other, far ones first, with as few tensors as a loop can do with."""
    yaw = alpha + torch.atan2((box[..., 0] + box[..., 2]) / 2 - MIDDLE, torch.tensor(FOCAL))
    reach = half_extent(dims, yaw)
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


def published(raster: Tensor, box: Tensor, depth: Tensor, dims: Tensor, alpha: Tensor) -> Tensor:
    """Box after box in their order, every number a tensor, as the original does when it predicts."""
    out = torch.zeros_like(raster)
    lens = torch.tensor([FOCAL, MIDDLE])
    for b in range(len(box)):
        for corner, far, dim, turn in zip(box[b], depth[b], dims[b], alpha[b], strict=True):
            centre = torch.stack([(corner[0] + corner[2]) / 2, (corner[1] + corner[3]) / 2])
            yaw = turn + torch.atan2(centre[0] - lens[1], lens[0])
            if yaw > math.pi:
                yaw = yaw - 2 * math.pi
            if yaw < -math.pi:
                yaw = yaw + 2 * math.pi
            cos, sin = torch.cos(yaw), torch.sin(yaw)
            one, nil = torch.ones(()), torch.zeros(())
            turned = torch.stack([cos, nil, sin, nil, one, nil, -sin, nil, cos]).view(3, 3)
            high, wide, long = dim[0], dim[1], dim[2]
            x = torch.stack([long, long, -long, -long, long, long, -long, -long]) / 2
            y = torch.stack([nil, nil, nil, nil, -high, -high, -high, -high])
            z = torch.stack([wide, -wide, -wide, wide, wide, -wide, -wide, wide]) / 2
            solid = (turned @ torch.stack([x, y, z])).T
            window = solid[:, 2].max() - solid[:, 2].min() / 2.0
            low, end = corner[:2].floor().int().clamp_min(0), corner[2:].ceil().int() + 1
            part = raster[b, :, low[1] : end[1], low[0] : end[0]]
            hits = torch.nonzero(part[0], as_tuple=True)
            if not len(hits[0]):
                continue
            away, right, ahead = part[0][hits], part[1][hits], part[2][hits]
            fits = (away < far + window) & (away > (far - window).clamp_min(0))
            away, right, ahead = away[fits], right[fits], ahead[fits]
            if not len(away):
                continue
            best = torch.argmin(away)
            across, down = 0.3 * (corner[2] - corner[0]), 0.3 * (corner[3] - corner[1])
            rows = slice(int(centre[1] - down / 2.0), int(centre[1] + down / 2.0) + 1)
            columns = slice(int(centre[0] - across / 2.0), int(centre[0] + across / 2.0) + 2)
            out[b, 0, rows, columns] = away[best] / SCALE[0]
            out[b, 1, rows, columns] = right[best]
            out[b, 2, rows, columns] = ahead[best]
    return out


def turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median processor seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = process_time()
            way()
            times[name].append(process_time() - began)
    return {name: median(each) for name, each in times.items()}


def association(pictures: int, boxes: int, repeats: int) -> None:
    """Measure the association, and that all ways say the same."""
    made = scene(pictures, boxes)
    assert torch.equal(at_once(**made, order=False), lean(**made))
    assert torch.allclose(at_once(**made, order=True), published(**made), atol=1e-6)
    ways = {
        "as published": lambda: published(**made),
        "lean loop": lambda: lean(**made),
        "at once": lambda: at_once(**made, order=False),
    }
    times = turns(ways, repeats)
    print(f"{pictures} pictures, {boxes} boxes each, one thread, processor time, median of {repeats}")
    for name, seconds in times.items():
        print(f"{name:14} {1e3 * seconds:9.2f} ms   {seconds / times['at once']:6.1f} times")


def items(repeats: int) -> None:
    """Measure reading, transforming and collating pictures of 900x1600 from a data root that is written for it."""
    from visloom.data.nuscenes.source import NuScenes
    from visloom.data.photometric import ColorJitter
    from visloom.data.scene3d import FlipScene, Frame
    from visloom.data.town.rides import Rides
    from visloom.data.town.root import write_root
    from visloom.stream import applied
    from visloom.tasks.fusion3d import Fusion3d

    with tempfile.TemporaryDirectory() as folder:
        root = write_root(Path(folder, "root"), {"town": Rides(rides=1, moments=1, height=900, width=1600)})
        source = NuScenes(root=str(root), scenes="town", sweeps=3)
        chain = (
            FlipScene(),
            Frame(size=(448, 800), shift=0.1),
            ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        )

        def transformed(index: int) -> object:
            sample = source.read(index)
            for position, transform in enumerate(chain):
                sample = applied(transform, sample, 7 * index + position)
            return sample.resolve()

        samples = [transformed(i) for i in range(6)]
        spec = Fusion3d()
        ways = {
            "read": lambda: [source.read(i) for i in range(6)],
            "read, transform": lambda: [transformed(i) for i in range(6)],
            "collate": lambda: spec.collate(samples, 1),
        }
        times = turns(ways, repeats)
        boxes = np.mean([len(source.read(i).boxes) for i in range(6)])
        print(
            f"items of 900x1600 PNG to 448x800, {boxes:.0f} boxes each; processor time an item, median of {repeats}"
        )
        for name, seconds in times.items():
            print(f"{name:16} {1e3 * seconds / 6:8.2f} ms")


def step(batch: int, size: tuple[int, int], *, narrow: bool, device: str, repeats: int) -> None:
    """Measure an update of the whole task beside the update of its trunk alone."""
    from dataclasses import replace

    from visloom.data.scene3d import Frame
    from visloom.data.town.rides import Rides
    from visloom.recipes.rides import rides
    from visloom.tasks.fusion3d import Fusion3d

    spec = rides().task if narrow else Fusion3d()
    assert isinstance(spec, Fusion3d)
    source, frame = Rides(rides=1, moments=2, height=size[0], width=size[1]), Frame(size=size)
    samples = [frame(source.read(i % 12), i).resolve() for i in range(batch)]
    data = spec.collate(samples, 1).to(torch.device(device))
    task = spec.build().to(device).to(memory_format=torch.channels_last)
    bare = replace(spec, radar=False).build().to(device).to(memory_format=torch.channels_last)
    half = device != "cpu"

    def update(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def once() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                total = sum(module(data).terms.values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            if half:
                torch.cuda.synchronize()

        return once

    ways = {
        "camera and radar": update(task, torch.optim.Adam(task.parameters(), 1e-4)),
        "camera alone": update(bare, torch.optim.Adam(bare.parameters(), 1e-4)),
    }
    with torch.no_grad():
        primary = task.first(task.features(data))
        ways["associated"] = lambda: task.associated(primary, data)
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = perf_counter() if half else process_time()
            way()
            times[name].append((perf_counter() if half else process_time()) - began)
    kind = "narrow network" if narrow else "DLA-34"
    print(
        f"{kind}, {size[0]}x{size[1]}, batch {batch}, {device}{', bf16' if half else ', one thread'}, "
        f"median of {repeats}"
    )
    for name, each in times.items():
        print(f"{name:18} {1e3 * median(each):9.1f} ms   {batch / median(each):8.1f} pictures a second")
    if half:
        print(
            f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on {torch.cuda.get_device_name()}"
        )


def main() -> None:
    """Measure what is asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--boxes", type=int, default=100)
    words.add_argument("--pictures", type=int, default=4)
    words.add_argument("--repeats", type=int, default=15)
    words.add_argument("--items", action="store_true")
    words.add_argument("--step", action="store_true")
    words.add_argument("--narrow", action="store_true")
    words.add_argument("--gpu", action="store_true")
    words.add_argument("--batch", type=int, default=8)
    words.add_argument("--size", type=int, nargs=2, default=(128, 224))
    given = words.parse_args()
    torch.set_num_threads(1)
    if given.gpu:
        step(32, (448, 800), narrow=False, device="cuda", repeats=given.repeats)
    elif given.step:
        step(given.batch, tuple(given.size), narrow=given.narrow, device="cpu", repeats=given.repeats)
    elif given.items:
        items(given.repeats)
    else:
        association(given.pictures, given.boxes, given.repeats)


if __name__ == "__main__":
    main()
