"""Small sources, tasks and helpers that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visloom.keys import uniforms
from visloom.sample import Sample
from visloom.stream import Source
from visloom.task import Batch


@dataclass(frozen=True, kw_only=True)
class Numbers(Source):
    """`size` samples whose picture holds their own index; wide ones first when `wide` says so."""

    size: int = 20
    wide: int = 0
    broken: int = -1  # reading this index raises
    hang: int = -1  # reading this index never returns
    die: int = -1  # reading this index kills the process

    def count(self) -> int:
        return self.size

    def fetch(self, index: int) -> Sample:
        if index == self.broken:
            raise OSError("this picture is broken")
        if index == self.hang:
            import time

            time.sleep(600)
        if index == self.die:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        return Sample(id=f"n{index}", image=np.full((2, 2, 3), index % 256, np.uint8), label=index % 3)

    def sizes_all(self) -> Any:
        sizes = np.full((self.size, 2), 10, np.int64)
        sizes[: self.wide, 1] = 20
        sizes[self.wide :, 0] = 20
        return sizes

    def labels_all(self) -> Any:
        return np.arange(self.size) % 3


@dataclass(frozen=True)
class Jitter:
    """Adds a keyed number to a sample, so that a test sees which key it was given."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        sample.extra["jitter"] = float(uniforms(key, 1)[0])
        sample.extra["turn"] = key & 1
        return sample


@dataclass(kw_only=True)
class Listing(Batch):
    """A batch that only lists what is in it."""

    rows: tuple[tuple[str, int, float], ...]
    key: int | None


@dataclass(frozen=True)
class Lister:
    """A spec whose collate lists id, source and jitter of each sample."""

    classes: tuple[str, ...] = ("a", "b", "c")
    palette: tuple[tuple[int, int, int], ...] = ()

    def collate(self, samples: Sequence[Sample], key: int | None) -> Listing:
        rows = tuple((s.id, s.source, s.extra.get("jitter", 0.0)) for s in samples)
        return Listing(ids=tuple(s.id for s in samples), rows=rows, key=key)

    def build(self) -> Any:
        raise NotImplementedError

    def metrics(self) -> dict[str, Any]:
        return {}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        raise NotImplementedError
