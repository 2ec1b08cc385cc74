"""Source: numbered samples. Data sets derive from it; `split` and `limit` choose among them.

@dataclass(frozen=True, kw_only=True)
class Mine(Source):
    def count(self) -> int: ...
    def fetch(self, index: int) -> Sample: ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from visloom.keys import fold, permutation

if TYPE_CHECKING:
    from visloom.sample import Sample, Stacked


class Cached:
    """A frozen dataclass that caches under names with an underscore: those are never pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Split:
    """A part of a source, chosen by a keyed permutation: written `head:0.9` and `tail:0.9`.

    `head:0.9` is nine tenths of the samples, `tail:0.9` the tenth that is left: training and validation streams
    name the two halves of one split and give each its own transforms.
    """

    keep: Literal["head", "tail"]
    fraction: float
    seed: int = 0
    syntax: ClassVar[str] = "head:FRACTION or tail:FRACTION"

    def __post_init__(self) -> None:
        if self.keep not in ("head", "tail"):
            raise ValueError(f"a split keeps 'head' or 'tail', got {self.keep!r}")
        if not 0 < self.fraction < 1:
            raise ValueError(f"the fraction of a split lies between 0 and 1, got {self.fraction!r}")

    def __str__(self) -> str:
        return f"{self.keep}:{self.fraction}" + (f":{self.seed}" if self.seed else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `head:FRACTION`, `tail:FRACTION` or either with `:SEED`; raises ValueError otherwise."""
        words = text.split(":")
        try:
            return cls(words[0], float(words[1]), int(words[2]) if len(words) > 2 else 0)  # type: ignore[arg-type]
        except (IndexError, ValueError) as error:
            raise ValueError(f"a split is written head:0.9 or tail:0.9, got {text!r} ({error})") from None

    def choose(self, count: int) -> NDArray[np.int64]:
        """Return the sorted indices of this part among `count` samples: (n,) int64."""
        order = permutation(fold(self.seed, "split"), count)
        cut = round(count * self.fraction)
        return np.sort(order[:cut] if self.keep == "head" else order[cut:])


@dataclass(frozen=True, kw_only=True)
class Source(Cached):
    """Base of data sets: numbered samples that are opened lazily.

    A subclass is a frozen dataclass (its own configuration) and implements `count()` and `fetch(index)`; what
    `open()` returns is cached by `opened()` and never pickled, compared or dumped. A class of one's own with
    `__len__` and `read(index)` serves as well.

    root: folder of the data, relative to `host.data`.  split: keep a part.  limit: keep the first samples of it.
    """

    root: str = ""
    limit: int | None = None
    split: Split | None = None

    def open(self) -> Any:
        """Read what every sample needs (an index, the whole set in memory, ...)."""
        return None

    def count(self) -> int:
        """Samples before `split` and `limit`."""
        raise TypeError(f"{type(self).__name__} must define count() -> int")

    def fetch(self, index: int) -> Sample:
        """Read one sample, by its number before `split` and `limit`."""
        raise TypeError(f"{type(self).__name__} must define fetch(index) -> Sample")

    def fetch_batch(self, indices: NDArray[np.int64]) -> Stacked | None:
        """Read many samples that lie in memory as one array, or None if they do not."""
        return None

    def sizes_all(self) -> NDArray[np.int64] | None:
        """(N, 2) heights and widths of all samples, or None if they are not known without reading them."""
        return None

    def picture_size(self) -> tuple[int, int] | None:
        """(height, width) that every picture has, where that is known without the data; else None."""
        return None

    def classes(self) -> tuple[str, ...]:
        """Class names by label, or () if the source knows none."""
        return ()

    def labels_all(self) -> NDArray[np.int64] | None:
        """(N,) class label of every sample, or None where a sample has no single label."""
        return None

    def multilabels_all(self) -> NDArray[Any] | None:
        """(N, K) labels of several classes: 1 present, 0 not, -1 present but difficult; None where there are none."""
        return None

    def check(self) -> list[str]:
        """Look over the data before step 1: raise DataError for what cannot be used, return warnings."""
        return []

    # ---- what streams call

    def opened(self) -> Any:
        """Return what `open()` returned, opening on first use."""
        state = self.__dict__
        if "_opened" not in state:
            object.__setattr__(self, "_opened", self.open())
        return state["_opened"]

    def chosen(self) -> NDArray[np.int64] | None:
        """(n,) indices that `split` and `limit` keep, or None for all of them."""
        if self.split is None and self.limit is None:
            return None
        if "_chosen" not in self.__dict__:
            count = self.count()
            kept = self.split.choose(count) if self.split else np.arange(count)
            object.__setattr__(self, "_chosen", kept[: self.limit])
        return self.__dict__["_chosen"]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        kept = self.chosen()
        return self.count() if kept is None else len(kept)

    def read(self, index: int) -> Sample:
        """Read sample `index` of those kept."""
        kept = self.chosen()
        return self.fetch(index if kept is None else int(kept[index]))

    def read_batch(self, indices: NDArray[np.int64]) -> Stacked | None:
        """Read many samples at once where the source can, else None."""
        kept = self.chosen()
        return self.fetch_batch(indices if kept is None else kept[indices])

    def sizes(self) -> NDArray[np.int64] | None:
        """(n, 2) heights and widths of the samples kept, or None."""
        return self._kept(self.sizes_all())

    def labels(self) -> NDArray[np.int64] | None:
        """(n,) labels of the samples kept, or None."""
        return self._kept(self.labels_all())

    def multilabels(self) -> NDArray[Any] | None:
        """(n, K) labels of several classes of the samples kept, or None."""
        return self._kept(self.multilabels_all())

    def _kept(self, values: NDArray[Any] | None) -> NDArray[Any] | None:
        kept = self.chosen()
        return values if values is None or kept is None else values[kept]
