"""Shape 4, fusion: six cameras with a calibration each make one sample, and there is one prediction per sample.

The six pictures are windows of one street. Each cell of each picture says how far it looks and how sure it is; the
calibrations turn that into places before the car, and the sure ones vote where the nearest thing stands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.protocol import shapes
from tests.protocol.shapes import Album, engine_of
from visloom.data.photometric import ColorJitter
from visloom.keys import fold
from visloom.loader import Plan
from visloom.metrics import merge_tables
from visloom.module import TaskModule
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled
from visloom.task import Batch, Losses
from visloom.warp import shift

# ---- task


@dataclass(kw_only=True)
class Cameras(Batch):
    image: Tensor  # (B * 6, 3, H, W) float32: the six of a sample one after the other
    calib: Tensor  # (B * 6, 3, 4) float32: metres before the car -> pixels
    place: Tensor  # (B, 2) float32: right of and before the car, in tens of metres


class Locate(TaskModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(a, width, 3, 2, 1), nn.ReLU()) for a in (3, width, width)]
        self.net = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))

    def places(self, batch: Cameras) -> Tensor:
        """(B, 2): right of and before the car, in tens of metres."""
        depth, sure = self.net(batch.image).flatten(2).unbind(1)  # (6B, cells) each
        depth = nn.functional.softplus(depth + 1)
        columns = torch.arange(4.0, batch.image.shape[3], 8, device=depth.device).repeat(
            batch.image.shape[2] // 8
        )  # middles, (cells,)
        focal, centre = batch.calib[:, 0, :1], batch.calib[:, 0, 2:3]  # (6B, 1)
        seen = torch.stack([(columns - centre) / focal * depth, depth], 2)  # (6B, cells, 2)
        votes, sure = seen.view(len(batch), -1, 2), sure.reshape(len(batch), -1).softmax(1)
        return (votes * sure[..., None]).sum(1)

    def forward(self, batch: Cameras) -> Losses:
        loss = nn.functional.smooth_l1_loss(self.places(batch).float(), batch.place)
        return Losses({"place": loss}, {}, torch.tensor(float(len(batch))))

    def predict(self, batch: Cameras) -> dict[str, Any]:
        return {"ids": batch.ids, "place": 10 * self.places(batch).float()}


@dataclass(frozen=True)
class Nearest:
    width: int = 16
    classes: tuple[str, ...] = ("thing",)
    palette: tuple[tuple[int, int, int], ...] = ((255, 60, 0),)

    def build(self) -> TaskModule:
        return Locate(self.width)

    def collate(self, samples: Sequence[Sample], key: int | None) -> Cameras:
        views = [view for s in samples for view in s.extra["views"]]
        return Cameras(
            ids=tuple(s.id for s in samples),
            image=shapes.picture_of(views),
            calib=torch.from_numpy(np.stack([view.calib for view in views])).float(),
            place=torch.tensor(np.stack([s.extra["place"] for s in samples])) / 10,
        )

    def metrics(self) -> dict[str, Any]:
        return {"distance": Distance()}

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Any:
        x, z = prediction["place"].tolist()
        image = truth.extra["views"][0].image if image is None else image
        return shapes.draw_boxes(image, [(x - 1, z - 1, x + 1, z + 1)], self.palette[0])


# ---- tests


class Distance:
    """Mean distance to the true place in metres: a table keyed by sample id, summed in id order."""

    names = ("distance",)

    def __init__(self) -> None:
        self.table: dict[str, Tensor] = {}

    def update(self, predictions: Any, batch: Any) -> None:
        far = (predictions["place"] - 10 * batch.place).double().norm(dim=1)
        self.table.update(zip(batch.ids, far, strict=True))

    def state(self) -> Any:
        return self.table

    def merge(self, states: Sequence[Any]) -> None:
        self.table = merge_tables(states)

    def compute(self) -> dict[str, float]:
        rows = merge_tables([self.table])
        return {"distance": float(torch.stack(list(rows.values())).mean())}

    def tables(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True, repr=False)
class SixCameras(Album):
    """Six windows of one wide street, each a sample of its own inside the sample, with its own calibration."""

    height: int = 48
    width: int = 192

    def fetch(self, index: int) -> Sample:
        street = super().fetch(index)
        views = tuple(street.warp(shift(-32 * i, 0), (48, 32)).resolve() for i in range(6))
        centre = street.extra["box_centre"]
        place = centre[np.argmin(centre[:, 2])][[0, 2]] if len(centre) else np.zeros(2, np.float32)
        return Sample(id=street.id, extra={"views": views, "place": place})


@dataclass(frozen=True)
class Each:
    """A transform of every view, each under a key of its own."""

    inner: Any

    def __call__(self, sample: Sample, key: int) -> Sample:
        views = (self.inner(view, fold(key, i)).resolve() for i, view in enumerate(sample.extra["views"]))
        return sample.replace(extra={**sample.extra, "views": tuple(views)})


TRAIN = Shuffled(source=SixCameras(visible=60), batch=4, transform=(Each(ColorJitter(brightness=0.2)),))
SEEN = Ordered(source=TRAIN.source, batch=23)
SPEC = Nearest()


def make(total: int = 60):
    return engine_of(SPEC, TRAIN, total)


def test_it_learns_and_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    engine, losses = shapes.resumes(make, 25, tmp_path)
    shapes.falls(losses)
    found = shapes.evaluates(SPEC, engine, SEEN, rounding=1e-6)
    assert found.values["distance"] < 0.85 * shapes.evaluation(SPEC, make(), SEEN).values["distance"]


def test_it_is_short_travels_and_reads_the_same_in_two_processes():
    assert shapes.task_lines(__file__) <= shapes.LIMIT
    shapes.travels(SPEC)
    shapes.shards(SPEC, TRAIN)


def test_six_pictures_are_one_sample():
    batch = Plan(TRAIN, SPEC, seed=5).make(0, 0)
    assert len(batch) == len(batch.ids) == 4
    assert batch.image.shape == (24, 3, 48, 32)
    assert len(make().task.eval().predict(batch)["place"]) == 4


def test_calibrations_follow_their_pictures():
    """The same point of the street, seen by each camera, moves by the width of a camera."""
    views = TRAIN.source.read(0).extra["views"]
    wide = Album(visible=60, width=192).read(0)
    point = np.array([*wide.extra["box_centre"][0], 1.0])
    row = wide.calib @ point
    for number, view in enumerate(views):
        seen = view.calib @ point
        assert np.allclose(seen[:2] / seen[2], row[:2] / row[2] - (32 * number, 0))
        assert np.array_equal(view.image, wide.image[:, 32 * number : 32 * number + 32])


def test_calibrations_matter():
    task, batch = make().task.eval(), Plan(TRAIN, SPEC, seed=5).make(0, 0)
    before = task.places(batch)
    batch.calib = batch.calib.roll(1, 0)
    assert not torch.allclose(before, task.places(batch))


def test_the_metric_is_the_same_to_the_last_bit_however_predictions_are_divided():
    batch = Plan(Ordered(source=TRAIN.source, batch=9), SPEC, seed=None).make(0, 0)
    places = 30 * torch.rand(9, 2, generator=torch.Generator().manual_seed(1))

    def metric_of(rows: Sequence[int]) -> Distance:
        part = dataclasses.replace(
            batch, ids=tuple(batch.ids[i] for i in rows), place=batch.place[list(rows)]
        )
        metric = Distance()
        metric.update({"place": places[list(rows)]}, part)
        return metric

    whole = metric_of(range(9)).compute()
    for parts in ([(8, 3), (1, 0, 2), (4, 5, 6, 7)], [(i,) for i in reversed(range(9))]):
        merged = Distance()
        merged.merge([metric_of(rows).state() for rows in parts])
        assert merged.compute() == whole
