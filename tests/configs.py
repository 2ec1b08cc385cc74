"""A run for tests of the configuration: every kind of slot, real classes, nothing to download."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from visloom.data.transforms import RandomCrop, RandomFlip
from visloom.run import Eval, Optim, Rule, Run
from visloom.schedule import Cosine, Warmup
from visloom.stream import Ordered, Shuffled, Source
from visloom.tasks.classify import Classify, ResNetCifar
from visloom.units import Epochs, Monitor


@dataclass(frozen=True, kw_only=True)
class Toy(Source):
    """A source of nothing, of a stated size."""

    size: int = 1000

    def count(self) -> int:
        return self.size


@dataclass(frozen=True)
class Mine(Cosine):
    """A schedule of one's own, with every kind of field."""

    pairs: tuple[tuple[int, float], ...] = ()
    words: list[str] = field(default_factory=list)
    inner: dict[str, tuple[int, ...]] = field(default_factory=dict)
    extra: object = None
    either: int | str | tuple[int, int] = 0
    file: Path | None = None


def sample() -> Run:
    """Classification with warmup, two rules and one monitored evaluation."""
    return Run(
        name="sample",
        task=Classify(net=ResNetCifar(18), classes=("cat", "dog", "emu", "fox", "gnu", "hen")),
        train=Shuffled(source=Toy(), batch=128, transform=(RandomCrop(size=32, padding=4), RandomFlip())),
        evals={
            "val": Eval(stream=Ordered(source=Toy(size=100), batch=100), monitor=Monitor("max", "accuracy"))
        },
        optim=Optim(lr=0.1, weight_decay=5e-4, options={"momentum": 0.9, "nesterov": True}),
        rules=(Rule(name="bias$", lr=2.0), Rule(kind="norm", weight_decay=0.0)),
        schedule=Warmup(Cosine(), Epochs(5)),
    )
