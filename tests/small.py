"""A small task on numbers, with dropout and batch norm, for tests of the engine and the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.worlds import Jitter, Numbers
from visloom.engine import Engine
from visloom.keys import fold, seed_torch
from visloom.loader import Loader, Plan
from visloom.metrics import TopK
from visloom.module import TaskModule
from visloom.optim import build_optimizer
from visloom.run import Eval, Host, How, Log, Optim, Run, Save
from visloom.sample import Sample
from visloom.schedule import Constant, Cosine, Schedule
from visloom.stream import Ordered, Shuffled, Stream
from visloom.task import Batch, Losses
from visloom.units import Epochs, Monitor, Steps


@dataclass(kw_only=True)
class Rows(Batch):
    x: Tensor  # (B, 12) float32
    label: Tensor  # (B,) int64


@dataclass(frozen=True)
class Small:
    """Classifies `Numbers`; `poison` makes the loss of some samples NaN, `sleep` slows each step down."""

    classes: tuple[str, ...] = ("a", "b", "c")
    palette: tuple[tuple[int, int, int], ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    poison: tuple[str, ...] = ()
    sleep: float = 0.0
    extras: dict[str, Any] = field(default_factory=dict)

    def build(self) -> TaskModule:
        return SmallModule(self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> Batch:
        x = torch.stack([torch.from_numpy(s.image.astype("float32")).flatten() for s in samples])  # (B, 12)
        x = x / 25 - 1 + 0.1 * torch.tensor([[s.extra.get("jitter", 0.5)] for s in samples])
        for row, sample in enumerate(samples):
            if sample.id in self.poison:
                x[row] = float("nan")
        return Rows(
            ids=tuple(s.id for s in samples), x=x, label=torch.tensor([int(s.label) for s in samples])
        )

    def metrics(self) -> dict[str, Any]:
        return {"top": TopK((1,), classes=len(self.classes))}

    def goodness(self, predictions: Any, batch: Any) -> Tensor:
        return predictions["probabilities"].gather(1, batch.label[:, None])[:, 0]

    def baseline(self, labels: Any) -> tuple[str, float]:
        import numpy as np

        return "majority class", float(np.bincount(labels).max() / len(labels))

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        from PIL import Image

        return Image.fromarray(image).resize((16, 16))


class SmallModule(TaskModule):
    def __init__(self, spec: Small) -> None:
        super().__init__()
        self.spec = spec
        self.net = nn.Sequential(
            nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 3)
        )
        self.idle = nn.Linear(2, 2)  # never used
        self.sparse = True

    def forward(self, batch: Batch) -> Losses:
        assert isinstance(batch, Rows)
        if self.spec.sleep and self.training:
            import time

            time.sleep(self.spec.sleep)
        logits = self.net(batch.x)  # (B, 3)
        loss = nn.functional.cross_entropy(logits, batch.label)
        right = (logits.detach().max(1).indices == batch.label).float().mean()
        return Losses({"ce": loss}, {"accuracy": right}, torch.tensor(float(len(batch.label))))

    def predict(self, batch: Batch) -> dict[str, Any]:
        assert isinstance(batch, Rows)
        probabilities = self.net(batch.x).softmax(1)
        score, label = probabilities.max(1)
        return {"ids": batch.ids, "label": label, "score": score, "probabilities": probabilities}


def small_stream(batch: int = 8, size: int = 50, seed: int = 1, **more: Any) -> Shuffled:
    return Shuffled(source=Numbers(size=size, **more), batch=batch, transform=(Jitter(),), seed=seed)


def small_engine(
    total: int = 40,
    how: How | None = None,
    optim: Optim | None = None,
    schedule: Schedule | None = None,
    spec: Small | None = None,
    stream: Stream | None = None,
    **more: Any,
) -> Engine:
    """An engine on the small task: the same initial weights each time."""
    how = how or How(precision="fp32")
    spec = spec or Small()
    seed_torch(fold(0, "init"))
    task = spec.build()
    plan = Plan(stream or small_stream(), spec, seed=fold(0, "train"), accumulate=how.accumulate)
    feed = Loader(plan, Host(workers=0), torch.device("cpu"), total)
    optim = optim or Optim(name="SGD", lr=0.1, options={"momentum": 0.9})
    optimizer = build_optimizer(task, optim)
    return Engine(task, feed, optimizer, schedule or Cosine(), total=total, how=how, seed=0, **more)


def small_run(out: Any, **changes: Any) -> Run:
    """A run on the small task: 6 steps an epoch, 4 epochs, two evaluations."""
    fields: dict[str, Any] = {
        "name": "small",
        "task": Small(),
        "train": Shuffled(source=Numbers(size=50), batch=8, transform=(Jitter(),)),
        "evals": {
            "val": Eval(stream=Ordered(source=Numbers(size=20), batch=8), monitor=Monitor("max", "accuracy"))
        },
        "length": Epochs(4),
        "optim": Optim(name="SGD", lr=0.1, options={"momentum": 0.9}),
        "schedule": Constant(),
        "how": How(precision="fp32"),
        "host": Host(out=str(out), data=str(out), workers=0, threads=1),
        "save": Save(every=Steps(5)),
        "log": Log(every=Steps(4), tensorboard=False, report=False, images=0),
    }
    return Run(**{**fields, **changes})


def tensors_of(engine: Engine) -> dict[str, Tensor]:
    """Every tensor of an engine's state by file and name, copied."""
    return {f"{g}/{n}": t.clone() for g, part in engine.state().tensors.items() for n, t in part.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states hold the same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
