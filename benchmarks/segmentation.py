"""Segmentation against the pytorch-segmentation template's way of doing the same work, interleaved in one process.

    python benchmarks/segmentation.py input --data DIR [--photos 64] [--rounds 7] [--json FILE]
    python benchmarks/segmentation.py step [--net unet|psp|resnet-unet|...] [--side 128] [--batch 2] [--rounds 5]
    python benchmarks/segmentation.py metric [--crop 380] [--rounds 7]

DIR holds clothing-co-parsing-master/ (real photos, about 550x830, `.mat` masks). `input`: from files to a batch of 8
training samples, with random scale, rotation, padding, crop and flip, on one core. Figures are images per second of
process CPU time, medians over rounds in which every way, in a process of its own, takes its turn on the same photos.

The template's steps are written here again from their description: Pillow and float arrays, one interpolation after
every step, normalisation of floats in the worker. Visloom's batch is uint8, normalised on the device; the last row does
that on the same core too.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import segmentation_step
import torch
from PIL import Image
from scipy.io import loadmat
from torchvision import transforms
from turns import Row, Setup, race

from visloom.data import images
from visloom.data.clothes import MEAN, STD, Clothes
from visloom.data.transforms import Pad, RandomCrop, RandomFlip, RandomRotation, RandomScale
from visloom.device import keep_freed
from visloom.keys import fold
from visloom.stream import Shuffled

BATCH = 8
Batch = tuple[torch.Tensor, torch.Tensor]


def cpu() -> str:
    """The model of this machine's processor, and what of its instruction sets matters here."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value
    }
    words = [
        w for w in fields.get("flags", "").split() if w in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    ]
    return f"{fields.get('model name', platform.processor())} ({', '.join(words)})"


# ------------------------------------------------------------------------------------------ the template's way


class Template:
    """One training sample of the template: `_load_data`, `_augmentation` and `__getitem__`."""

    def __init__(self, data: Path, base: int, crop: int) -> None:
        root = data / "clothing-co-parsing-master"
        names = (root / "splits" / "train.txt").read_text().split()
        self.files = [(root / f"photos/{n}.jpg", root / f"annotations/pixel-level/{n}.mat") for n in names]
        self.base, self.crop = base, crop
        self.to_tensor, self.normalize = transforms.ToTensor(), transforms.Normalize(MEAN, STD)

    def __getitem__(self, index: int) -> Batch:
        photo, mask = self.files[index]
        image = np.asarray(Image.open(photo), dtype=np.float32)
        label = loadmat(str(mask))["groundtruth"].astype(np.int32)
        image, label = self.augment(image, label)
        target = torch.from_numpy(np.array(label, dtype=np.int32)).long()
        return self.normalize(self.to_tensor(Image.fromarray(np.uint8(image)))), target

    def augment(self, image: Any, label: Any) -> tuple[Any, Any]:
        h, w = label.shape
        long = random.randint(self.base // 2, self.base * 2)
        h, w = (long, int(long * w / h + 0.5)) if h > w else (int(long * h / w + 0.5), long)
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, (w, h), interpolation=cv2.INTER_NEAREST)
        turn = cv2.getRotationMatrix2D((w / 2, h / 2), random.randint(-10, 10), 1.0)
        image = cv2.warpAffine(image, turn, (w, h), flags=cv2.INTER_LINEAR)
        label = cv2.warpAffine(label, turn, (w, h), flags=cv2.INTER_NEAREST)
        below, right = max(self.crop - h, 0), max(self.crop - w, 0)
        if below or right:
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
            label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
        y, x = (random.randint(0, side - self.crop) for side in label.shape)
        image = image[y : y + self.crop, x : x + self.crop]
        label = label[y : y + self.crop, x : x + self.crop]
        if random.random() > 0.5:
            image, label = np.fliplr(image).copy(), np.fliplr(label).copy()
        return image, label

    def batches(self, photos: int) -> Iterator[Batch]:
        for start in range(0, photos, BATCH):
            pairs = [self[i] for i in range(start, start + BATCH)]
            yield torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])


# ------------------------------------------------------------------------------------------------ Visloom's way


class Ours:
    """A stream of the same photos with the same augmentation; every pass has new keys."""

    def __init__(self, data: Path, base: int, crop: int, *, cache: bool, normalise: bool = False) -> None:
        chain = (
            RandomScale(long=base),
            RandomRotation(),
            Pad(size=crop),
            RandomCrop(size=crop),
            RandomFlip(),
        )
        source = Clothes(root=str(data), part="train", cache=cache)
        self.stream = Shuffled(source=source, batch=BATCH, transform=chain, shuffle=False)
        self.normalise, self.passes = normalise, 0
        self.mean, self.std = (torch.tensor(v).mul(255).view(1, 3, 1, 1) for v in (MEAN, STD))

    def batches(self, photos: int) -> Iterator[Batch]:
        self.passes += 1
        for step in range(photos // BATCH):
            tickets = self.stream.tickets(step)
            tickets.key[:] = [fold(self.passes, step, i) for i in range(BATCH)]
            samples = self.stream.load(tickets)
            pictures = torch.from_numpy(np.stack([s.image for s in samples if s.image is not None]))
            masks = torch.from_numpy(np.stack([s.masks["class"] for s in samples]))
            if self.normalise:
                pictures = pictures.permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)
            yield pictures, masks


def measure_input(data: Path, base: int, crop: int, photos: int, rounds: int) -> dict[str, Row]:
    """CPU-seconds of every way for some photos, and how many times as fast as the template's."""

    def template() -> Callable[[], None]:
        return _all(Template(data, base, crop).batches, photos)

    def ours(*, simplejpeg: bool, cache: bool, normalise: bool = False) -> Setup:
        def setup() -> Callable[[], None]:
            keep_freed()  # as in a data worker
            if not simplejpeg:
                images._simplejpeg = lambda: None  # type: ignore[assignment]
            return _all(Ours(data, base, crop, cache=cache, normalise=normalise).batches, photos)

        return setup

    ways: dict[str, Setup] = {
        "template": template,
        "visloom, cv2, masks read each time": ours(simplejpeg=False, cache=False),
        "visloom, cv2, cached masks": ours(simplejpeg=False, cache=True),
    }
    if images._simplejpeg() is not None:
        ways["visloom, simplejpeg, cached masks"] = ours(simplejpeg=True, cache=True)
        ways["the same, normalised on this core"] = ours(simplejpeg=True, cache=True, normalise=True)
    return race(ways, rounds)


def _all(batches: Callable[[int], Iterator[Batch]], photos: int) -> Callable[[], None]:
    def work() -> None:
        for _ in batches(photos):
            pass

    return work


def run_input(args: argparse.Namespace) -> dict[str, Any]:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"cpu": cpu(), "photos": args.photos, "rounds": args.rounds}
    print(f"input pipeline, one core: {found['cpu']}; {args.rounds} rounds of {args.photos} photos")
    for base, crop in ((400, 380), (400, 321)):
        rows = measure_input(args.data, base, crop, args.photos, args.rounds)
        found[f"base {base}, crop {crop}"] = {name: row._asdict() for name, row in rows.items()}
        print(f"\nbase {base}, crop {crop}")
        for name, row in rows.items():
            speed = args.photos / row.cpu_seconds
            print(f"  {name:38}{speed:7.1f} img/s  {row.times:5.2f}x  ({row.least:.2f} to {row.most:.2f})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("input", help="from files to a training batch")
    part.add_argument("--data", type=Path, required=True)
    part.add_argument("--photos", type=int, default=64)
    part.add_argument("--rounds", type=int, default=7)
    part.add_argument("--json", type=Path)
    part.set_defaults(run=run_input)
    part = parts.add_parser("metric", help="counting the pixels of a batch")
    part.add_argument("--crop", type=int, default=380)
    part.add_argument("--rounds", type=int, default=7)
    part.add_argument("--json", type=Path)
    part.set_defaults(run=segmentation_step.run_metric)
    part = parts.add_parser("step", help="a training step")
    part.add_argument("--net", choices=sorted(segmentation_step.NETS), default="unet")
    part.add_argument("--side", type=int, default=128)
    part.add_argument("--batch", type=int, default=2)
    part.add_argument("--rounds", type=int, default=5)
    part.add_argument("--json", type=Path)
    part.set_defaults(run=segmentation_step.run_step)
    args = parser.parse_args()
    found = args.run(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
