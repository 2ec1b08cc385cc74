"""A data set of your own: a frozen dataclass with `count` and `fetch`.

    visloom train examples/own_dataset.py

The fields are its configuration (`visloom train examples/own_dataset.py train.source.noise=40`). What `fetch` draws
comes from keys, so sample 7 is the same picture in every process and on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visloom import Epochs, Eval, Monitor, Ordered, Run, Sample, Shuffled, Source, fold
from visloom.data.transforms import RandomFlip
from visloom.keys import generator
from visloom.run import How, Log, Optim
from visloom.schedule import Cosine
from visloom.tasks.classify import Classify
from visloom.tasks.classify.nets import Normalise, ResNetCifar


@dataclass(frozen=True, kw_only=True)
class Stripes(Source):
    """Pictures of stripes, to be told apart by direction."""

    size: int = 512
    noise: float = 20.0
    seed: int = 0

    def count(self) -> int:
        return self.size

    def classes(self) -> tuple[str, ...]:
        return ("horizontal", "vertical", "checked")

    def fetch(self, index: int) -> Sample:
        draw = generator(fold(self.seed, "stripes", index))
        rows, columns = np.mgrid[0:16, 0:16] // int(draw.integers(2, 5)) % 2
        pattern = (rows, columns, rows ^ columns)[index % 3]
        image = pattern[..., None] * draw.uniform(60, 160, 3) + draw.normal(60, self.noise, (16, 16, 3))
        return Sample(
            id=f"stripes-{self.seed}-{index}", image=image.clip(0, 255).astype(np.uint8), label=index % 3
        )


def own_dataset() -> Run:
    """Two epochs on 512 pictures: a few seconds."""
    return Run(
        name="own-dataset",
        task=Classify(net=ResNetCifar(18), normalise=Normalise((100.0,) * 3, (60.0,) * 3)),
        train=Shuffled(source=Stripes(), batch=32, transform=(RandomFlip(),)),
        evals={
            "val": Eval(
                stream=Ordered(source=Stripes(size=60, seed=1), batch=60), monitor=Monitor("max", "accuracy")
            )
        },
        length=Epochs(2),
        optim=Optim(name="AdamW", lr=0.001),
        schedule=Cosine(),
        how=How(precision="fp32"),
        log=Log(images=4),
    )
