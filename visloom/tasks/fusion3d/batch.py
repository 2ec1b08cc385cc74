"""FusionBatch: pictures, radar rasters, calibrations, and what the heads should say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from visloom.task import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Targets(NamedTuple):
    """What is annotated, in slots: M of them, of which `valid` are used. Pixels are those of the heads' maps.

    Rotation is an observation angle in two overlapping bins (Mousavian et al. 2017): `bin` says whether each is used,
    `residue` the angle from its middle.
    """

    heat: Tensor  # (B, C, H, W) float32: Gaussians around the cell of each box, 1 at the cell
    index: Tensor  # type: ignore[assignment]  # (B, M) int64: flat cell
    label: Tensor  # (B, M) int64
    valid: Tensor  # (B, M) bool
    box: Tensor  # (B, M, 4) float32: the clipped 2D box
    offset: Tensor  # (B, M, 2) float32: from the cell to the middle of the 2D box
    size: Tensor  # (B, M, 2) float32: width and height of the 2D box
    depth: Tensor  # (B, M, 1) float32: metres
    dims: Tensor  # (B, M, 3) float32: height, width, length in metres
    center: Tensor  # (B, M, 2) float32: from the cell to the projected middle of the 3D box
    bin: Tensor  # (B, M, 2) int64
    residue: Tensor  # (B, M, 2) float32: radians
    attribute: Tensor  # (B, M, A) float32
    attribute_known: Tensor  # (B, M, A) float32
    velocity: Tensor  # (B, M, 3) float32: m/s in the camera's frame
    velocity_known: Tensor  # (B, M) bool
    sought: Tensor  # (B, M) float32: the depth at which a box looks for radar, metres
    reach: Tensor  # (B, M) float32: how far from that depth radar returns belong to the box, metres


@dataclass(kw_only=True)
class FusionBatch(Batch):
    """Pictures of one size with what belongs to them.

    mirrored: whether a picture shows a mirrored scene; it matters to `Compat` alone.
    place: what brings a box back into the picture as stored: (3, 3), from the network's input.
    truth: what an evaluation compares with; training carries none.
    """

    image: Tensor  # (B, H, W, 3) uint8, RGB
    radar: (
        Tensor  # (B, 3, h, w) float32: depth in metres, velocity right and ahead in m/s; zeros without radar
    )
    found: Tensor  # (B, 3, h, w) float32: radar features associated with the annotated boxes
    calib: Tensor  # (B, 3, 4) float32: metres to input pixels
    lens: Tensor  # (B, 3, 4) float32: metres to pixels of the stored picture
    pose: Tensor  # (B, 4, 4) float64: camera to world
    place: Tensor  # (B, 3, 3) float32
    targets: Targets
    tokens: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    truth: tuple[Any, ...] = field(default=(), repr=False)
