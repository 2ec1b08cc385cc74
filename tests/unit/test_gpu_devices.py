"""Every tensor of a training step and an evaluation is on the device of the run, and who waits for it is known.

There is no GPU here: `tests/pretend.py` refuses what one refuses, so a constant that stays on the CPU is found.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.detectors import NET
from tests.pretend import CUDA, PretendGpu, on_gpu
from tests.small import Rows, Small
from visloom.assemble import assemble
from visloom.config import change, load
from visloom.device import prepare
from visloom.engine import Engine
from visloom.evaluation import share_of
from visloom.loader import Loader, Plan
from visloom.module import TaskModule
from visloom.optim import build_optimizer
from visloom.run import Clip, Ema, Host, How, Optim
from visloom.schedule import Cosine
from visloom.task import Batch, Losses, Progress
from visloom.tasks.detect import FCOS, Features, RetinaNet
from visloom.units import NonFinite

CPU = torch.device("cpu")
SMALL = {"body": Features("test_resnet"), "width": 32}
LOSSES = ("Ohem", "Dice", "CrossEntropyDice", "visloom.tasks.segment.losses:Focal", "Lovasz")
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("town", {"train.batch": 4}),
    "mixup": ("town", {"train.batch": 4, "task.mixup": 0.4, "task.cutmix": 1.0, "task.smoothing": 0.1}),
    "segment": ("scenery", {"train.batch": 2}),
    **{f"segment, {loss}": ("scenery", {"train.batch": 2, "task.loss": {"kind": loss}}) for loss in LOSSES},
    "PSPNet": ("scenery", {"train.batch": 2, "task.net": {"kind": "Pspnet", "backbone": "resnet18"}}),
    "parse": ("sights", {}),
    "fusion": ("rides", {"train.batch": 2}),
    "Faster R-CNN": ("foggy:source", {"task.net": NET}),
    "RetinaNet": ("foggy:source", {"task.net": RetinaNet(**SMALL)}),
    "FCOS": ("foggy:source", {"task.net": FCOS(**SMALL)}),
    "adapt": ("foggy", {"task.net": NET}),
    "teacher": ("foggy:teacher", {"task.net": NET}),
}
PICKS = ("Faster R-CNN", "RetinaNet", "FCOS", "adapt", "teacher")
"""Detectors pick boxes by score, and ask how many there are."""


@pytest.mark.parametrize("name", RUNS)
def test_a_step_and_an_evaluation_stay_on_the_device(name):
    recipe, edits = RUNS[name]
    run = change(load(recipe), {"host.workers": 0, "host.threads": 1, **edits})
    parts = assemble(change(run, {f"evals.{each}.stream.batch": 2 for each in run.evals}))
    run, evaluation = parts.run, next(iter(parts.evals.values()))
    seen = _first(Loader(Plan(parts.train, run.task, seed=1), run.host, CPU, 1))
    held = _first(share_of(evaluation, run.task, run.host, CPU))
    task = run.task.build()
    with PretendGpu() as gpu:
        gpu.send(task)
        seen, held = _sent(seen), _sent(held)
        gpu.waits.clear()
        losses = task.train()(seen)
        sum(losses.terms.values()).backward()
        assert all(map(on_gpu, (*losses.terms.values(), *losses.logs.values(), losses.count)))
        if name not in PICKS:
            assert not gpu.waits
        with torch.no_grad():
            losses, found = task.eval()(held), task.predict(held)
            assert all(map(on_gpu, (*losses.terms.values(), losses.count)))
            for metric in run.task.metrics().values():
                metric.update(found, held)
                metric.compute()


def _first(feed: Any) -> Batch:
    batches = feed.open(0)
    batch: Batch = next(batches)
    batches.close()
    return batch


def _sent(batch: Batch) -> Batch:
    batch = batch.to(CUDA)
    batch.progress = Progress(torch.zeros((), device=CUDA), torch.ones((), device=CUDA), 0.0)
    return batch


class Feed:
    steps_per_epoch = 4

    def open(self, start: int = 0):
        for step in range(start, 100):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(6, 12, generator=generator)
            yield Rows(ids=tuple("abcdef"), x=x, label=torch.arange(6) % 3).to(CUDA)


@pytest.mark.parametrize("policy", ["ignore", "skip", "stop"])
def test_the_engine_never_waits_between_log_points(policy):
    how = How(
        precision="fp32", clip=Clip(norm=1.0), ema=Ema(decay=0.9), accumulate=2, non_finite=NonFinite(policy)
    )
    task = Small().build()
    with PretendGpu() as gpu:
        gpu.send(task)
        optimizer = build_optimizer(task, Optim(name="AdamW", lr=0.01))
        engine = Engine(task, Feed(), optimizer, Cosine(), total=4, how=how)
        assert engine.device == CUDA
        steps = list(engine.steps())
        assert not gpu.waits and all(on_gpu(loss) for step in steps for loss in step.losses.values())
        assert engine.bad_steps() == [] and len(gpu.waits) == (policy != "ignore")


class Mixing(TaskModule):
    """A constant of its own that nobody moves, and a value that is read in the step."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.net, self.mixes = nn.Linear(12, 3), mixes
        self.weights = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, batch: Any) -> Losses:
        logits: Tensor = self.net(batch.x)
        if self.mixes:
            logits = logits * self.weights
        loss = logits.square().mean()
        return Losses({"loss": loss}, {"value": torch.tensor(loss.item())}, torch.tensor(6.0, device=CUDA))


def test_what_a_gpu_refuses_is_refused_and_what_waits_is_counted():
    batch = Rows(ids=(), x=torch.randn(6, 12), label=torch.zeros(6, dtype=torch.int64))
    with PretendGpu() as gpu:
        sent = batch.to(CUDA)
        with pytest.raises(RuntimeError, match="same device"):
            gpu.send(Mixing(True))(sent)
        losses = gpu.send(Mixing(False))(sent)
        assert len(gpu.waits) == 1 and not on_gpu(losses.logs["value"])
        with pytest.raises(TypeError, match="numpy"):
            losses.terms["loss"].detach().numpy()


def test_a_process_uses_its_own_gpu_alone(monkeypatch):
    """Pinned memory and NCCL take the current GPU: without this every process would start the first one too."""
    set_to: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", set_to.append)
    for device in (torch.device("cuda", 3), CPU):
        prepare(How(precision="fp32"), Host(), device)
    assert set_to == [torch.device("cuda", 3)]
