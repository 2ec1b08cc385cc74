"""Transforms of domain adaptation: mark a picture as one of the unlabelled domain, and keep a weak view of it.

Pair(source=Shuffled(..., transform=(Strong(...),)), target=Shuffled(..., transform=(Target(), ..., Strong(...))))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visloom.stream import applied, subkey

if TYPE_CHECKING:
    from visloom.sample import Sample


@dataclass(frozen=True)
class Target:
    """Marks a picture as one of the target domain and takes everything but its pixels away.

    Put it first: then no transform, no batch and no loss can see a label of the target, whatever its files hold.
    """

    geometric: ClassVar[bool] = True

    def __call__(self, sample: Sample, key: int) -> Sample:
        from visloom.sample import Sample

        bare = Sample(sample.id, sample.image, source=sample.source, notes=sample.notes)
        return bare.replace(extra={"target": True}, origin=sample.origin, pending=sample.pending)


@dataclass(frozen=True)
class Strong:
    """Keeps the picture as extra "weak", then changes its colours: a teacher looks at the weak view.

    transforms: of colours only, so that boxes found in one view are those of the other.
    """

    transforms: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        moving = [type(t).__name__ for t in self.transforms if getattr(t, "geometric", False)]
        if moving:
            raise ValueError(
                f"strong views change colours, not places: put {', '.join(moving)} before Strong, so that both "
                "views share it"
            )

    def __call__(self, sample: Sample, key: int) -> Sample:
        weak = sample.image
        for position, transform in enumerate(self.transforms):
            sample = applied(transform, sample, subkey(key, position))
        return sample.replace(extra={**sample.extra, "weak": weak})
