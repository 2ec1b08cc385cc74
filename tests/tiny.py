"""A tiny world on disk for tests of the command line: red, green and blue noise, and a recipe that learns it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")

RECIPE = """\
name: tiny
task: {kind: Classify, net: {kind: FastCifar, widths: [8, 8, 8], samples: 12}}
train: {kind: Shuffled, source: {kind: Folder, root: train}, batch: 6, transform: [{kind: RandomFlip}]}
evals:
  val:
    stream: {kind: Ordered, source: {kind: Folder, root: val}, batch: 4, transform: [{kind: Resize, size: 20}]}
    monitor: max accuracy
length: epochs:2
optim: {name: SGD, lr: 0.05, options: {momentum: 0.9}}
save: {every: epochs:1}
log: {every: steps:2, tensorboard: false, report: false, images: 0}
how: {precision: fp32}
host: {workers: 0, threads: 1, device: cpu}
"""


def make_pictures(root: Path, train: int = 4, val: int = 2, side: int = 16) -> Path:
    """Write train/<class>/*.png and val/<class>/*.png; returns the folder."""
    draws = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = draws.integers(0, 90, (side, side, 3)).astype(np.uint8)
                image[..., ("red", "green", "blue").index(name)] += 120
                Image.fromarray(image).save(folder / f"{number}.png")
    return root


def make_recipe(folder: Path, more: str = "") -> Path:
    """Write pictures and tiny.yaml, both paths absolute; returns the recipe."""
    data = make_pictures(folder / "data")
    recipe = folder / "tiny.yaml"
    recipe.write_text(f"{RECIPE}{more}\nhost.data: {data}\nhost.out: {folder / 'runs'}\n")
    return recipe
