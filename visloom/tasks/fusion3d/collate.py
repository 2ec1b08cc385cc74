"""Collate: scene samples become a batch; radar is painted and associated with the annotated boxes. Runs in workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from visloom.data.scene3d import MIRROR_WORLD
from visloom.data.space import project
from visloom.tasks.fusion3d.batch import FusionBatch, Targets
from visloom.tasks.fusion3d.frustum import associate
from visloom.tasks.fusion3d.pillars import pillars
from visloom.tasks.fusion3d.targets import Layout, targets
from visloom.warp import mirror

if TYPE_CHECKING:
    from visloom.sample import Sample
    from visloom.tasks.fusion3d.spec import Fusion3d

Array = NDArray[Any]


def layout_of(spec: Fusion3d, size: tuple[int, int]) -> Layout:
    """What shapes the targets of pictures of a (height, width)."""
    allowed = spec.allowed()
    groups = tuple(
        tuple(any(row[a] and row[b] for row in allowed) for b in range(len(spec.attributes)))
        for a in range(len(spec.attributes))
    )
    cells = size[0] // spec.stride, size[1] // spec.stride
    return Layout(
        cells, spec.stride, len(spec.classes), groups, spec.slots, spec.expand, spec.slack, spec.overlap,
        spec.spread, spec.compat,
    )  # fmt: skip


def collate(spec: Fusion3d, samples: Sequence[Sample], *, truth: bool) -> FusionBatch:
    """Join samples of one size, with what an evaluation compares with if `truth`."""
    images = [sample.image for sample in samples if sample.image is not None]
    layout = layout_of(spec, images[0].shape[:2])
    made = [targets(sample, layout) for sample in samples]
    joined = Targets(**{n: torch.from_numpy(np.stack([each[n] for each in made])) for n in Targets._fields})
    radar = torch.from_numpy(np.stack([_radar(sample, spec, layout) for sample in samples]))  # (B, 3, h, w)
    if spec.radar:
        with torch.no_grad():
            found = associate(
                radar,
                joined.box,
                joined.sought,
                joined.reach,
                joined.valid,
                scale=spec.radar_scale,
                middle=spec.middle,
                order=spec.compat.order,
            )
    else:
        found = torch.zeros_like(radar)
    return FusionBatch(
        ids=tuple(sample.id for sample in samples),
        source=torch.tensor([sample.source for sample in samples], dtype=torch.int64),
        notes=tuple(note for sample in samples for note in sample.notes),
        image=torch.from_numpy(np.stack(images)),
        radar=radar,
        found=found,
        calib=_stack([sample.calib for sample in samples]),
        lens=_stack([sample.extra["lens"] for sample in samples]),
        pose=torch.from_numpy(np.stack([sample.extra["pose"] for sample in samples])),
        place=_stack([np.linalg.inv(moved(sample)) for sample in samples]),
        targets=joined,
        tokens=tuple(sample.extra["token"] for sample in samples),
        cameras=tuple(sample.extra["camera"] for sample in samples),
        truth=tuple(sample.extra.get("truth") for sample in samples) if truth else (),
    )


def _stack(arrays: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays)).float()


def moved(sample: Sample) -> Array:
    """How the picture was moved: pixels as stored -> pixels now, (3, 3)."""
    assert sample.calib is not None
    calib = sample.calib @ MIRROR_WORLD if sample.extra.get("mirrored") else sample.calib
    return np.asarray(calib[:, :3] @ np.linalg.inv(sample.extra["lens"][:, :3]))


def _radar(sample: Sample, spec: Fusion3d, layout: Layout) -> NDArray[np.float32]:
    """The raster of a sample's radar returns: (3, h, w)."""
    if not spec.radar:
        return np.zeros((3, *layout.size), np.float32)
    assert sample.calib is not None
    radar = sample.extra["radar"].astype(np.float64)
    shrink = np.diag([1 / layout.stride, 1 / layout.stride, 1.0])
    calib, at = shrink @ sample.calib, None
    if spec.compat.pixels:
        # The original projects the pillars of a mirrored picture through the calibration of the unmirrored one, and
        # leaves out what the stored picture shows in its outermost pixel.
        at = project(calib, radar[:, :3])[:, :2]
        height, width = sample.extra["picture"]
        whole, lens = shrink @ moved(sample), sample.extra["lens"]
        stored = _points(np.linalg.inv(whole), at)
        keep = (stored > 1).all(1) & (stored < (width - 1, height - 1)).all(1)
        radar, at = radar[keep], at[keep]
        calib = (
            whole
            @ (np.linalg.inv(mirror(width=width - 1)) if sample.extra.get("mirrored") else np.eye(3))
            @ lens
        )
    return pillars(
        radar,
        calib,
        layout.size,
        max_depth=spec.max_depth,
        dims=spec.pillar,
        thin=spec.compat.thin_pillars,
        at=at,
    )


def _points(matrix: Array, points: Array) -> Array:
    return np.asarray(points @ matrix[:2, :2].T + matrix[:2, 2])
