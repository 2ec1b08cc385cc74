"""Compat: what the original CenterFusion does wrong, one switch each, off by default.

Weights that were trained there expect some of it; and the parity tests, all of it. Its remaining defects were of its
training program and have no switch: here the optimizer resumes, every draw has a key, calibrations are per picture.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Compat:
    """Switches. Each says what happens if it is on, and after "instead of" what is right.

    window: radar is looked for within 1.5 half extents of a box's depth, instead of 1 (widened by `expand`).
    window_units: the box's heading for that window mixes output pixels with a full-size calibration.
    unclipped: predicted boxes that leave the picture at its left or top lose their radar.
    crowded: the boxes that look for radar are the highest cells, neighbours too, instead of the peaks.
    order: features are painted in file or score order and one column too wide, instead of the nearest box last.
    flip_velocity: a mirrored picture keeps the velocity of its boxes.
    offset_twice: the sub-pixel part of a box's middle is added twice to the projected 3D centre.
    lifted: exported boxes stand half their height too high.
    forced_heading: predicted velocities are turned into the direction a box points to.
    thin_pillars: far radar pillars vanish by rounding.
    clipped_alpha: observation angles are made at the middle of the clipped 2D box and read at the 3D centre.
    tipped: exported boxes have their upright axis in the ground plane.
    duplicates: what two cameras see is reported twice.
    divisor: losses divide by their count plus 1e-4, per process, instead of the count of all processes.
    pixels: pictures are sampled half a pixel off, and boxes end a pixel early.
    """

    window: bool = False
    window_units: bool = False
    unclipped: bool = False
    crowded: bool = False
    order: bool = False
    flip_velocity: bool = False
    offset_twice: bool = False
    lifted: bool = False
    forced_heading: bool = False
    thin_pillars: bool = False
    clipped_alpha: bool = False
    tipped: bool = False
    duplicates: bool = False
    divisor: bool = False
    pixels: bool = False

    @classmethod
    def original(cls) -> Compat:
        """Every switch on."""
        return cls(**{field.name: True for field in fields(cls)})
