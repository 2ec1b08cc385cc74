"""Shape 5, a teacher: the average of the student's weights labels pictures for the student, after a while.

Two views of one sample, drawn from one key: the teacher looks at the weak one, the student at the strong one. The
teacher is an ordinary sub-module of the task, which the engine's average is written into.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.protocol import shapes
from tests.protocol.shapes import engine_of
from visloom import dist
from visloom.data.photometric import ColorJitter, RandomErasing
from visloom.data.town import CLASSES, Town
from visloom.data.transforms import RandomFlip
from visloom.keys import fold
from visloom.loader import Plan
from visloom.metrics import TopK
from visloom.module import TaskModule
from visloom.run import Ema, How, Optim
from visloom.sample import Sample
from visloom.stream import Ordered, Pair, Shuffled, subkey
from visloom.task import Batch, Losses

# ---- task


@dataclass(kw_only=True)
class Views(Batch):
    weak: Tensor  # (B, 3, H, W) float32
    strong: Tensor  # (B, 3, H, W) float32
    label: Tensor  # (B,) int64, -1 where there is none


class Taught(TaskModule):
    def __init__(self, spec: Teach) -> None:
        super().__init__()
        self.spec, width = spec, spec.width
        layers = [
            nn.Sequential(nn.Conv2d(a, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
            for a in (3, width, width)
        ]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(spec.classes)))
        self.student = nn.Sequential(*layers, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def train(self, mode: bool = True) -> Taught:
        super().train(mode)
        self.teacher.eval()  # its statistics are the student's, never its own
        return self

    def forward(self, batch: Views) -> Losses:
        with torch.no_grad():
            sure, guess = self.teacher(batch.weak).softmax(1).max(1)
        logits = self.student(batch.strong)
        truth = nn.functional.cross_entropy(logits, batch.label, ignore_index=-1, reduction="sum")
        told = nn.functional.cross_entropy(logits, guess, reduction="none")
        known, use = batch.label >= 0, (batch.label < 0) & (sure > self.spec.sure)
        begun = batch.progress.step >= self.spec.burn_in * batch.progress.total  # 0-dim: no waiting
        terms = {
            "labels": truth / known.sum().clamp(min=1),
            "guesses": begun * (told * use).sum() / len(batch),
        }
        return Losses(terms, {"used": (begun & use).float().mean()}, known.sum())

    def predict(self, batch: Views) -> dict[str, Any]:
        probabilities = self.teacher(batch.weak).softmax(1)
        return {"ids": batch.ids, "label": probabilities.max(1).indices, "probabilities": probabilities}


@dataclass(frozen=True)
class Teach:
    width: int = 16
    sure: float = 0.3
    burn_in: float = 0.4
    classes: tuple[str, ...] = CLASSES
    palette: tuple[tuple[int, int, int], ...] = tuple(
        (25 * i, 250 - 25 * i, 128) for i in range(len(CLASSES))
    )

    def build(self) -> TaskModule:
        return Taught(self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> Views:
        label = torch.tensor([-1 if s.label is None else s.label for s in samples])
        weak, strong = (shapes.picture_of([s.extra[name] for s in samples]) for name in ("weak", "strong"))
        return Views(ids=tuple(s.id for s in samples), weak=weak, strong=strong, label=label)

    def metrics(self) -> dict[str, Any]:
        return {"top": TopK((1,), classes=len(self.classes))}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        return shapes.draw_boxes(image, [(1, 1, 8, 8)], self.palette[int(prediction["label"])])


# ---- tests


@dataclass(frozen=True)
class TwoViews:
    """Two augmentations of one sample: what moves pixels is drawn once, for both; colours only for the strong one."""

    both: tuple[Any, ...] = ()
    strong: tuple[Any, ...] = ()

    def __call__(self, sample: Sample, key: int) -> Sample:
        for position, transform in enumerate(self.both):
            sample = transform(sample, subkey(key, position))
        weak = strong = sample.resolve()
        for position, transform in enumerate(self.strong):
            strong = transform(strong, fold(key, "strong", position))
        return weak.replace(extra={"weak": weak, "strong": strong.resolve()})


@dataclass(frozen=True, kw_only=True, repr=False)
class Pictures(Town):
    """Small ones, without the names of ten classes: a task with others would be refused."""

    size: int = 24

    def classes(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Stands:
    """Two classes instead of ten: does it roll, or stand."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        return sample.replace(label=int(sample.label >= CLASSES.index("pedestrian")))


@dataclass(frozen=True)
class Unlabeled:
    def __call__(self, sample: Sample, key: int) -> Sample:
        return sample.replace(label=None)


BOTH = TwoViews((RandomFlip(),), (ColorJitter(brightness=0.4, contrast=0.4), RandomErasing(p=0.5)))
LEFT = Shuffled(source=Pictures(samples=60), batch=8, transform=(Stands(), BOTH))
RIGHT = Shuffled(source=Pictures(samples=80, seed=1), batch=8, transform=(Unlabeled(), BOTH))
TRAIN = Pair(source=LEFT, target=RIGHT)
SEEN = Ordered(source=LEFT.source, batch=59, transform=(Stands(), TwoViews()))
SPEC = Teach()
HOW = How(precision="fp32", ema=Ema(decay=0.9, into="student -> teacher"))


def make(how: How = HOW, total: int = 60):
    return engine_of(SPEC, TRAIN, total, how=how, optim=Optim(name="AdamW", lr=0.01, weight_decay=0.1))


def test_it_learns_and_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    engine, losses = shapes.resumes(make, 35, tmp_path)  # in the middle of the guessing
    shapes.falls([{"labels": step["labels"]} for step in losses])
    found = shapes.evaluates(SPEC, engine, SEEN, batches=(1, 7))
    assert found.values["accuracy"] > 0.75  # always "rolls" is right 63 times in 100
    names = engine.state().tensors["model"]
    assert {name.split(".")[0] for name in names} == {"student", "teacher"}
    assert "ema" not in engine.state().tensors

    guesses, first = [step["guesses"] for step in losses], int(SPEC.burn_in * len(losses))
    assert guesses[:first] == [0.0] * first
    assert np.mean([guess > 0 for guess in guesses[first:]]) > 0.8


def test_it_is_short_travels_and_reads_the_same_in_two_processes():
    assert shapes.task_lines(__file__) <= shapes.LIMIT
    shapes.travels(SPEC)
    shapes.shards(SPEC, TRAIN)


def test_the_teacher_is_the_average_and_gets_no_gradient():
    engine = make(total=12)
    student, teacher = engine.task.student, engine.task.teacher
    average = [p.detach().clone() for p in student.parameters()]
    held = {id(p) for group in engine.optimizer.groups for p in group["params"]}
    assert not held & {id(p) for p in teacher.parameters()}
    for step in engine.steps():
        decay = min(0.9, step.index / (9 + step.index))
        average = [
            decay * a + (1 - decay) * p.detach() for a, p in zip(average, student.parameters(), strict=True)
        ]
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
        assert all(torch.equal(a, b) for a, b in zip(student.buffers(), teacher.buffers(), strict=True))
    for a, p, own in zip(average, teacher.parameters(), student.parameters(), strict=True):
        assert torch.allclose(a, p, atol=1e-5)
        assert not torch.equal(p, own)


class Thawed(Teach):
    def build(self) -> TaskModule:
        return super().build().requires_grad_(True)


def test_the_average_freezes_a_teacher_before_the_task_is_wrapped(monkeypatch):
    """Wrapped for several processes, a teacher that can have gradients would be waited for, for ever."""
    wrap, seen = dist.wrap, []

    def watched(task: Taught, *rest: Any) -> Any:
        seen.append(any(p.requires_grad for p in task.teacher.parameters()))
        return wrap(task, *rest)

    monkeypatch.setattr(dist, "wrap", watched)
    engine = engine_of(Thawed(), TRAIN, 1, how=HOW)
    assert seen == [False]
    assert not any(p.requires_grad for p in engine.task.teacher.parameters())


def test_without_the_average_the_teacher_stays_as_it_was():
    engine = make(How(precision="fp32"), total=6)
    before = [p.clone() for p in engine.task.teacher.parameters()]
    shapes.train(engine)
    assert all(torch.equal(a, b) for a, b in zip(before, engine.task.teacher.parameters(), strict=True))


def test_views_are_two_of_one_key():
    one, again, other = (Plan(TRAIN, SPEC, seed=5).make(step, 0) for step in (0, 0, 1))
    assert torch.equal(one.weak, again.weak) and torch.equal(one.strong, again.strong)
    assert not torch.equal(one.weak, one.strong)
    assert not torch.equal(one.strong, other.strong)
    flips = {key & 1 for key in TRAIN.tickets(0).key.tolist()}
    assert flips == {0, 1}  # the alternating bit reaches the views too
