"""Boxes of the world, and the truth about one moment that an evaluation compares detections with.

A moment ("sample token" in nuScenes) is seen by one or several cameras; its boxes stand in the world's frame, z up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class WorldBoxes:
    """N boxes in the world's frame.

    label: (N,) int64 class.  center: (N, 3) metres.  size: (N, 3) width, length, height.  rotation: (N, 4) quaternions.
    velocity: (N, 2) m/s, NaN where unknown.  attribute: (N,) int64, -1 for none.  score: (N,).
    points: (N,) int64 sensor returns on the box, -1 where not counted.
    """

    label: Array
    center: Array
    size: Array
    rotation: Array
    velocity: Array
    attribute: Array
    score: Array
    points: Array

    def __len__(self) -> int:
        return len(self.label)

    def pick(self, which: Array | slice) -> Self:
        """Some of the boxes, by a mask or by numbers."""
        return type(self)(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """All boxes of several, in order."""
        joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        return cls(**joined)

    @classmethod
    def none(cls) -> Self:
        """No box."""
        empty = np.zeros(0, np.int64)
        flat = [np.zeros((0, n)) for n in (3, 3, 4, 2)]
        return cls(empty, flat[0], flat[1], flat[2], flat[3], empty, np.zeros(0), empty)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is annotated at one moment.

    token: its name.  origin: (2,) where the car stands: boxes far from it do not count.  boxes: every annotated one.
    racks: racks of bicycles, in which no bicycle is counted: center, size, rotation as in `WorldBoxes`.
    """

    token: str
    origin: Array
    boxes: WorldBoxes
    racks: WorldBoxes
