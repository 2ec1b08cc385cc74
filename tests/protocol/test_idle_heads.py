"""Shape 2, several annotated sources: each step takes a batch from one of them, and the other's head is idle.

One source knows the weather of a picture, the other the class of some of its pixels; no picture has both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.protocol import shapes
from tests.protocol.shapes import Album, engine_of
from visloom import dist
from visloom.data.town import CLASSES
from visloom.data.transforms import RandomFlip
from visloom.errors import ConfigError
from visloom.loader import Plan
from visloom.metrics import merge_sums
from visloom.module import TaskModule
from visloom.run import How, Optim
from visloom.sample import Sample
from visloom.stream import Mixture, Ordered, Shuffled
from visloom.task import Batch, Losses

WEATHERS = ("clear", "cloudy", "fog", "rain", "snow", "dusk", "night")

# ---- task


@dataclass(kw_only=True)
class Annotated(Batch):
    image: Tensor  # (B, 3, H, W) float32
    weather: Tensor  # (B,) int64, -1 where not annotated
    pixels: Tensor  # (B, H, W) int64, -1 where not annotated
    heads: tuple[str, ...]  # whose annotations occur: plain values, for the host chooses the heads


class TwoHeads(TaskModule):
    sparse = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(WEATHERS)))
        dense = nn.Sequential(nn.Conv2d(width, len(CLASSES), 1), nn.Upsample(scale_factor=4, mode="bilinear"))
        self.heads = nn.ModuleDict({"weather": pooled, "pixels": dense})

    def forward(self, batch: Annotated) -> Losses:
        seen = self.net(batch.image)
        terms, count = {}, torch.zeros(())
        for name in batch.heads:
            logits, truth = self.heads[name](seen).float(), getattr(batch, name)  # (B, K, ...), (B, ...)
            valid = (truth >= 0).sum()
            total = nn.functional.cross_entropy(logits, truth, ignore_index=-1, reduction="sum")
            terms[name] = total / dist.normaliser(valid)  # all ignored: a zero that belongs to the graph
            count = count + valid
        return Losses(terms, {}, count)

    def predict(self, batch: Annotated) -> dict[str, Any]:
        seen = self.net(batch.image)
        return {"ids": batch.ids} | {name: head(seen).max(1).indices for name, head in self.heads.items()}


@dataclass(frozen=True)
class WeatherAndPixels:
    width: int = 16
    classes: tuple[str, ...] = CLASSES
    palette: tuple[tuple[int, int, int], ...] = tuple(
        (25 * i, 250 - 25 * i, 128) for i in range(len(CLASSES))
    )

    def build(self) -> TaskModule:
        return TwoHeads(self.width)

    def collate(self, samples: Sequence[Sample], key: int | None) -> Annotated:
        nothing = np.full(samples[0].size, -1, np.int32)
        return Annotated(
            ids=tuple(s.id for s in samples),
            source=torch.tensor([s.source for s in samples]),
            image=shapes.picture_of(samples),
            weather=torch.tensor([-1 if s.label is None else s.label for s in samples]),
            pixels=torch.from_numpy(np.stack([s.masks.get("class", nothing) for s in samples])).long(),
            heads=tuple(sorted({"pixels" if "class" in s.masks else "weather" for s in samples})),
        )

    def metrics(self) -> dict[str, Any]:
        return {name: Share(name) for name in ("weather", "pixels")}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        return shapes.draw_mask(image, prediction["pixels"].numpy(), self.palette)


# ---- tests


class Share:
    """Share of annotated entries that are right; NaN where the evaluation has none of this kind."""

    def __init__(self, name: str) -> None:
        self.name, self.names = name, (f"{name}_right",)
        self.sums = {"right": torch.zeros((), dtype=torch.int64), "all": torch.zeros((), dtype=torch.int64)}

    def update(self, predictions: Any, batch: Any) -> None:
        truth = getattr(batch, self.name)
        right = ((predictions[self.name] == truth) & (truth >= 0)).sum()
        self.sums = merge_sums([self.sums, {"right": right, "all": (truth >= 0).sum()}])

    def state(self) -> Any:
        return self.sums

    def merge(self, states: Sequence[Any]) -> None:
        self.sums = merge_sums(states)

    def compute(self) -> dict[str, float]:
        count = int(self.sums["all"])
        return {self.names[0]: int(self.sums["right"]) / count if count else float("nan")}

    def tables(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class OnlyWeather:
    """What the first source annotates: the weather, but for fog, which its annotators could not tell."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        name = sample.extra["weather"]
        return sample.replace(label=-1 if name == "fog" else WEATHERS.index(name), masks={})


@dataclass(frozen=True)
class OnlyPixels:
    """What the second source annotates: the pixels of things; a picture without things has none."""

    def __call__(self, sample: Sample, key: int) -> Sample:
        return sample.replace(masks={"class": sample.masks["class"]}, extra={})


FIRST = Shuffled(source=Album(), batch=4, transform=(RandomFlip(), OnlyWeather()))
SECOND = Shuffled(source=Album(samples=12, seed=1), batch=2, transform=(RandomFlip(), OnlyPixels()))
TRAIN = Mixture(parts=(FIRST, SECOND), scope="step", seed=3)
SEEN = {
    "weather": Ordered(source=FIRST.source, batch=23, transform=(OnlyWeather(),)),
    "pixels": Ordered(source=SECOND.source, batch=11, transform=(OnlyPixels(),)),
}
DECAY = Optim(name="SGD", lr=0.05, weight_decay=0.1, options={"momentum": 0.9})
SPEC = WeatherAndPixels()


def test_it_learns_and_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    engine, losses = shapes.resumes(lambda: engine_of(SPEC, TRAIN, 90), 33, tmp_path)
    for name in ("weather", "pixels"):
        shapes.falls([step for step in losses if name in step])
        found = shapes.evaluates(SPEC, engine, SEEN[name])
        assert found.values[f"{name}_right"] > 0.3
        assert found.values["loss"] < np.log(len(WEATHERS if name == "weather" else CLASSES))
        other = "pixels" if name == "weather" else "weather"
        assert np.isnan(found.values[f"{other}_right"])
        assert f"loss/{other}" not in found.values


def test_it_is_short_travels_and_reads_the_same_in_two_processes():
    assert shapes.task_lines(__file__) <= shapes.LIMIT
    shapes.travels(SPEC)
    shapes.shards(SPEC, TRAIN, steps=8)
    halves = [
        [Plan(TRAIN, SPEC, seed=5, rank=r, world=2).make(step, 0).heads for step in range(12)] for r in (0, 1)
    ]
    assert halves[0] == halves[1]  # no process waits for a head that is idle on another
    assert len(set(halves[0])) == 2


def test_a_part_that_two_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="a part of the batch has 3 samples"):
        dataclasses.replace(TRAIN, parts=(dataclasses.replace(FIRST, batch=3),)).check_world(2)


@pytest.mark.parametrize("idle", ["rest", "zero"])
def test_an_idle_head_rests_or_decays_as_it_is_told(idle):
    engine = engine_of(SPEC, TRAIN, 12, how=How(precision="fp32", idle=idle), optim=DECAY)
    heads = engine.task.heads
    before = {name: heads[name].state_dict() for name in heads}
    before = {name: {k: v.clone() for k, v in state.items()} for name, state in before.items()}
    turns = []
    for step in engine.steps():
        (busy,) = step.losses
        (lazy,) = heads.keys() - {busy}
        turns.append(busy)
        now = {name: {k: v.clone() for k, v in heads[name].state_dict().items()} for name in heads}
        same = {name: all(torch.equal(now[name][k], before[name][k]) for k in now[name]) for name in heads}
        assert same == {busy: False, lazy: idle == "rest"}
        before = now
    assert len(set(turns)) == 2


def test_heads_and_sources_agree_in_training_and_ordered_numbers_anew():
    for step in range(8):
        batch = Plan(TRAIN, SPEC, seed=5).make(step, 0)
        assert batch.source.tolist() == [("weather", "pixels").index(batch.heads[0])] * len(batch)
    # an evaluation has one source, so it is number 0 there: annotations, not numbers, say which head is meant
    batch = Plan(SEEN["pixels"], SPEC, seed=None).make(0, 0)
    assert set(batch.source.tolist()) == {0}
    assert batch.heads == ("pixels",)


def test_a_batch_without_any_annotation_is_a_zero_that_belongs_to_the_graph():
    task = SPEC.build()
    batch = Plan(TRAIN, SPEC, seed=5).make(0, 0)
    batch.weather.fill_(-1)
    batch.pixels.fill_(-1)
    losses = task(dataclasses.replace(batch, heads=("pixels", "weather")))
    assert losses.count == 0
    assert {name: value.item() for name, value in losses.terms.items()} == {"weather": 0, "pixels": 0}
    sum(losses.terms.values()).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.parameters())
