"""Helpers of the fusion tests: fixtures of the original, heads made from annotations, a task of a few parameters."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import torch

from visloom.data.nuscenes.names import CAMERAS
from visloom.data.nuscenes.source import NuScenes
from visloom.tasks.fusion3d import Compat, DlaNet, Fusion3d
from visloom.tasks.fusion3d.batch import Targets

ORIGINAL = Fusion3d(compat=Compat.original())
NARROW = DlaNet(channels=(4, 4, 8, 8, 12, 16), levels=(1, 1, 1, 1, 1, 1), up="conv3")


def fixture(shared: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a fixture of the original program, and its scalars."""
    with np.load(shared / "parity" / f"centerfusion_{name}.npz") as stored:
        arrays = dict(stored)
    return arrays, json.loads(bytes(arrays.pop("__meta__")))


def tiny_root(shared: Path, folder: Path) -> Path:
    """The small nuScenes root of the parity fixtures, unpacked."""
    with tarfile.open(shared / "parity" / "centerfusion_tiny_root.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "tiny"


def in_order(source: NuScenes) -> list:
    """Samples as the original orders them: by scene, then camera, then time."""
    samples = [source.read(i) for i in range(len(source))]
    return sorted(samples, key=lambda s: (s.id.split("__")[0], CAMERAS.index(s.extra["camera"])))


def heads_of(targets: Targets, spec: Fusion3d) -> dict[str, torch.Tensor]:
    """Decoded maps that say exactly what is annotated."""
    heat = targets.heat
    batch, _, height, width = heat.shape
    maps = {n: torch.zeros(batch, c, height * width) for head in spec.outputs() for n, c in head.items()}
    maps["heat"] = torch.zeros(batch, len(spec.classes), height * width)
    for b in range(batch):
        for k in targets.valid[b].nonzero()[:, 0].tolist():
            at = targets.index[b, k]
            maps["heat"][b, targets.label[b, k], at] = 0.999
            for name in ("offset", "size", "depth", "dims", "center", "velocity", "attribute"):
                maps[name][b, :, at] = getattr(targets, name)[b, k]
            used, residue = targets.bin[b, k].float(), targets.residue[b, k]
            maps["rotation"][b, :, at] = torch.stack(
                [
                    v
                    for i in (0, 1)
                    for v in (-used[i], used[i] * (1 + (i == 0)), residue[i].sin(), residue[i].cos())
                ]
            )
    return {name: values.view(batch, -1, height, width) for name, values in maps.items()}
