"""What every shape of task is asked, whatever it learns: all of it through the engine, the loader and the streams.

`resumes` trains twice and compares bits, `shards` compares two processes with one, `evaluates` compares batch sizes.
Nothing here knows a task: what differs between the five lies in their spec, module and batch.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import equal, tensors_of
from visloom import dist
from visloom.checkpoint import Checkpoints
from visloom.data.town import CLASSES, Streets
from visloom.engine import Engine
from visloom.evaluation import Evaluation, run_evaluation, share_of
from visloom.keys import fold, seed_torch
from visloom.loader import Loader, Plan
from visloom.optim import build_optimizer
from visloom.run import Host, How, Optim
from visloom.sample import Sample
from visloom.schedule import Constant
from visloom.stream import Ordered, Stream
from visloom.task import TaskSpec

CPU = torch.device("cpu")
LIMIT = 60  # lines that a task of any shape may take


@dataclass(frozen=True, kw_only=True, repr=False)
class Album(Streets):
    """Streets whose pictures are drawn once per process: small, and quick to read again."""

    height: int = 48
    width: int = 64
    samples: int = 24

    def open(self) -> dict[int, Sample]:
        return {}

    def classes(self) -> tuple[str, ...]:
        return ()

    def fetch(self, index: int) -> Sample:
        drawn: dict[int, Sample] = self.opened()
        if index not in drawn:
            drawn[index] = super().fetch(index)
        return drawn[index].replace(extra=dict(drawn[index].extra))


@dataclass(frozen=True)
class Keep:
    """Keeps only the boxes of some classes; a box gets the number of the group its class is in.

    Many pictures keep none.
    """

    groups: tuple[tuple[str, ...], ...]

    def __call__(self, sample: Sample, key: int) -> Sample:
        assert sample.labels is not None
        number = {CLASSES.index(name): i for i, group in enumerate(self.groups) for name in group}
        labels = np.array([number.get(int(label), -1) for label in sample.labels], np.int64)
        return sample.replace(labels=labels).pick_boxes(labels >= 0)


@dataclass(frozen=True)
class Stamp:
    """Writes the key of the ticket into the sample: what a task draws for an image then belongs to the image."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        sample.extra["key"] = key
        return sample


def engine_of(
    spec: TaskSpec,
    stream: Stream,
    total: int,
    *,
    how: How | None = None,
    optim: Optim | None = None,
) -> Engine:
    """An engine as a run builds one; the same initial weights each time."""
    seed_torch(fold(0, "init"))
    task = spec.build()
    how = how or How(precision="fp32")
    world = dist.world()
    plan = Plan(
        stream, spec, seed=fold(0, "train"), rank=world.rank, world=world.size, accumulate=how.accumulate
    )
    feed = Loader(plan, Host(workers=0), CPU, total)
    optimizer = build_optimizer(task, optim or Optim(name="AdamW", lr=3e-3))
    return Engine(task, feed, optimizer, Constant(), total=total, how=how, seed=0)


def train(engine: Engine) -> list[dict[str, float]]:
    """Train to the end; the losses of every step by name."""
    return [{name: float(value) for name, value in step.losses.items()} for step in engine.steps()]


def resumes(make: Callable[[], Engine], at: int, folder: Path) -> tuple[Engine, list[dict[str, float]]]:
    """Train whole, and once more with a checkpoint at a step and a new engine; the bits must be the same.

    Returns the engine that trained whole, and its losses.
    """
    whole = make()
    losses = train(whole)
    first = make()
    for step in first.steps():
        if step.index == at:
            break
    files = Checkpoints(folder)
    files.save(first.state(), wait=True)
    second = make()
    second.restore(files.load(at))
    files.close()
    assert train(second) == losses[at:]
    assert equal(tensors_of(whole), tensors_of(second))
    return whole, losses


def falls(losses: Sequence[dict[str, float]], span: int = 8) -> None:
    """The sum of all terms is clearly lower at the end, on average over some steps."""
    sums = [sum(step.values()) for step in losses]
    assert np.isfinite(sums).all()
    assert np.mean(sums[-span:]) < 0.9 * np.mean(sums[:span])


def shards(spec: TaskSpec, stream: Stream, steps: int = 4) -> None:
    """Two processes together read what one reads, under the same keys, each its half of every part."""
    stream.check_world(2)
    for step in range(steps):
        plans = [Plan(stream, spec, seed=5, rank=rank, world=2) for rank in range(2)]
        whole = stream.tickets(step)
        halves = [list(plan.tickets(step, 0)) for plan in plans]
        assert sorted(halves[0] + halves[1]) == sorted(whole)
        ids = [plan.make(step, 0).ids for plan in plans]
        together = Plan(stream, spec, seed=5).make(step, 0)
        assert len(ids[0]) == len(ids[1]) == len(together) // 2
        assert sorted(ids[0] + ids[1]) == sorted(together.ids)


def evaluation(spec: TaskSpec, engine: Engine, stream: Ordered) -> Evaluation:
    """Evaluate as a run does, with all processes."""
    loader = share_of(stream, spec, Host(workers=0), CPU)
    return run_evaluation(engine.task, spec, loader, autocast=nullcontext(), progress=engine.progress)


def evaluates(
    spec: TaskSpec,
    engine: Engine,
    stream: Ordered,
    *,
    batches: Sequence[int] = (1, 5),
    rounding: float = 0.0,
) -> Evaluation:
    """Evaluate; other batch sizes and two processes' parts must report the same, and nothing may change by it.

    rounding: relative change allowed to metrics that do not count: kernels round differently for another batch size.
        Losses are always allowed it.
    """
    before, modes = tensors_of(engine), [module.training for module in engine.task.modules()]
    first = evaluation(spec, engine, stream)
    assert first.count == len(stream.source)
    assert equal(before, tensors_of(engine))
    assert modes == [module.training for module in engine.task.modules()]
    names = {name for metric in spec.metrics().values() for name in metric.names}
    assert names <= first.values.keys()
    metrics = pytest.approx({name: first.values[name] for name in names}, rel=rounding, abs=0, nan_ok=True)
    for batch in batches:
        other = evaluation(spec, engine, dataclasses.replace(stream, batch=batch)).values
        assert {name: other[name] for name in names} == metrics
        assert other == pytest.approx(first.values, rel=1e-5, nan_ok=True)
    assert _merged(spec, engine, stream) == metrics
    return first


def _merged(spec: TaskSpec, engine: Engine, stream: Ordered) -> dict[str, float]:
    """The metrics of two halves, merged as two processes would, the later half first."""
    from visloom.evaluation import evaluating

    parts = []
    for rank in (1, 0):
        plan = Plan(stream, spec, seed=None, rank=rank, world=2)
        metrics = spec.metrics()
        with evaluating(engine.task):
            for step in range(len(stream)):
                if len(plan.tickets(step, 0)):
                    batch = plan.make(step, 0)
                    predictions = engine.task.predict(batch)
                    for metric in metrics.values():
                        metric.update(predictions, batch)
        parts.append({name: copy.deepcopy(metric.state()) for name, metric in metrics.items()})
    values = {}
    for name, metric in spec.metrics().items():
        metric.merge([part[name] for part in parts])
        values.update(metric.compute())
    return values


def travels(spec: TaskSpec) -> None:
    """A spec is a value: it comes back from pickle equal, and builds the same module."""
    back = pickle.loads(pickle.dumps(spec))
    assert back == spec
    states = []
    for each in (spec, back):
        seed_torch(7)
        states.append(each.build().state_dict())
    assert equal(*states)


def task_lines(file: str) -> int:
    """Lines of code between the marks "# task" and "# tests" of a file, without blank ones and comments."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    marks = [i for i, line in enumerate(lines) if line.startswith(("# ---- task", "# ---- tests"))]
    assert len(marks) == 2
    return sum(1 for line in lines[marks[0] : marks[1]] if line.strip() and not line.strip().startswith("#"))


def picture_of(samples: Sequence[Any]) -> torch.Tensor:
    """The pictures of some samples as one batch: (B, 3, H, W) float32, about -1 to 1."""
    stacked = np.stack([sample.image for sample in samples])  # (B, H, W, 3) uint8
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 64 - 2  # (B, 3, H, W)


def draw_boxes(image: Any, boxes: Sequence[Sequence[float]], colour: tuple[int, int, int]) -> Any:
    """A picture with frames around some boxes, for a task's `draw`."""
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    for x0, y0, x1, y1 in boxes:
        pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=colour)
    return drawn


def draw_mask(image: Any, mask: Any, palette: Sequence[tuple[int, int, int]]) -> Any:
    """A picture half covered by the colours of its classes, for a task's `draw`."""
    from PIL import Image

    colours = np.asarray(palette, np.uint8)[mask]  # (H, W, 3)
    return Image.blend(Image.fromarray(image), Image.fromarray(colours), 0.5)
