"""Drive: streets for detection: things joined into few groups, in one weather, drawn once and kept.

The same street exists in every weather, so a clear town and a foggy one are two domains with nothing else between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.scene import CLASSES
from visloom.data.town.world import Streets
from visloom.sample import Sample

GROUPS = (
    ("vehicle", ("car", "van", "truck", "bus")),
    ("person", ("motorbike", "cyclist", "pedestrian")),
    ("tree", ("tree",)),
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Drive(Streets):
    """Streets whose boxes belong to a few groups of things.

    groups: (name, kinds) of each class; other things have no box.
    keep: pictures stay in memory once they are drawn (180 kB each at 192x320).
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...] = GROUPS
    keep: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [kind for _, kinds in self.groups for kind in kinds]
        strange = sorted(set(known) - set(CLASSES))
        if strange or len(set(known)) < len(known) or not self.groups:
            raise ValueError(
                f"groups join kinds of the town, each once ({', '.join(CLASSES)}), got {self.groups}"
            )

    def open(self) -> dict[int, Sample]:
        return {}

    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.groups)

    def fetch(self, index: int) -> Sample:
        kept: dict[int, Sample] = self.opened()
        if index not in kept:
            drawn = self._grouped(super().fetch(index))
            if not self.keep:
                return drawn
            kept[index] = drawn
        return kept[index].replace(extra=dict(kept[index].extra))

    def _grouped(self, sample: Sample) -> Sample:
        """The sample with labels by group, without boxes of other things."""
        number = {kind: i for i, (_, kinds) in enumerate(self.groups) for kind in kinds}
        to: NDArray[np.int64] = np.array([number.get(kind, -1) for kind in CLASSES], np.int64)
        assert sample.labels is not None and sample.boxes is not None
        extra = {
            **sample.extra,
            "things": sample.masks["thing"],
            "box_thing": np.arange(len(sample.boxes)),
        }
        labels = to[sample.labels]
        return sample.replace(labels=labels, masks={}, extra=extra).pick_boxes(labels >= 0)

    def __repr__(self) -> str:
        weather = f", {self.weather}" if self.weather else ""
        return (
            f"Drive({self.part}: {len(self):,} streets {self.height}x{self.width}{weather}, "
            f"{len(self.groups)} classes)"
        )
