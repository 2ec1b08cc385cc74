"""Detection against its peers: a training step beside torchvision's reference loop, and the counting of COCO's numbers.

    python benchmarks/detection.py step                 Faster R-CNN R-50-FPN, and what adaptation costs
    python benchmarks/detection.py evaluator            5,000 synthetic pictures beside pycocotools

Each way has a process of its own, and all take turns; medians of CPU-seconds of one thread, and of the ratio within a
round. The reference loop is that of torchvision's references/detection, from its description: pictures and targets in
lists, the losses brought to the host and checked at every step. Visloom's is its engine with its loader, from pictures
in memory, with the defaults of a run. Both do one picture of padding, 2,000 proposals and 512 regions a picture, and
start from the same random network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from turns import Row, Setup, race

from visloom.data.target import Target
from visloom.device import keep_freed
from visloom.engine import Engine
from visloom.keys import seed_torch
from visloom.loader import Loader, Plan
from visloom.memory import place
from visloom.optim import build_optimizer
from visloom.run import Host, How, Optim
from visloom.sample import Sample
from visloom.schedule import Constant
from visloom.source import Source
from visloom.stream import Pair, Shuffled, Stream
from visloom.tasks.adapt import Adapt
from visloom.tasks.detect import Detect, FasterRCNN, ResNetBody
from visloom.tasks.detect.batch import DetectBatch, Known
from visloom.tasks.detect.coco import CocoPrecision
from visloom.tasks.detect.voc import VocPrecision

CLASSES = tuple(f"class {i}" for i in range(80))
CPU = torch.device("cpu")


def by_name(found: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """What is written as JSON."""
    return {name: row._asdict() for name, row in found.items()}


def told(title: str, found: Mapping[str, Row]) -> None:
    print(f"\n{title}")
    for name, row in found.items():
        print(f"  {name:44}{row.cpu_seconds:8.2f} s  {row.times:6.2f}x  ({row.least:.2f} to {row.most:.2f})")


# ----------------------------------------------------------------------------------------------- a training step


@dataclass(frozen=True, kw_only=True)
class Held(Source):
    """Pictures of noise with some boxes, in memory."""

    side: int = 256
    samples: int = 8

    def open(self) -> list[Sample]:
        rng = np.random.default_rng(0)
        made = []
        for number in range(self.samples):
            corner = rng.uniform(0, 0.6 * self.side, (8, 2))
            far = np.minimum(corner + rng.uniform(16, 0.4 * self.side, (8, 2)), self.side)
            boxes = np.concatenate([corner, far], 1).astype(np.float32)
            image = rng.integers(0, 256, (self.side, self.side, 3), np.uint8)
            made.append(Sample(str(number), image, boxes=boxes, labels=rng.integers(0, len(CLASSES), 8)))
        return made

    def count(self) -> int:
        return self.samples

    def fetch(self, index: int) -> Sample:
        found: Sample = self.opened()[index]
        return found.replace(extra={})


def engine(spec: Detect, stream: Stream, steps: int) -> Callable[[], object]:
    """A step of Visloom's own engine, as a run builds it."""
    keep_freed()
    seed_torch(0)
    how = How(precision="fp32")
    task = place(spec.build(), how, CPU)
    feed = Loader(Plan(stream, spec, seed=0), Host(workers=0), CPU, steps)
    optim = Optim(name="SGD", lr=1e-4, weight_decay=1e-4, options={"momentum": 0.9})
    made = Engine(task, feed, build_optimizer(task, optim), Constant(), total=steps, how=how, seed=0)
    turns = made.steps()
    return lambda: next(turns)


def reference(held: Held, batch: int) -> Callable[[], None]:
    """A step of torchvision's reference loop."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    side = held.side
    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(CLASSES) + 1,
        min_size=side,
        max_size=side,
    ).train()
    _freeze_norms(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    samples = [held.fetch(i) for i in range(held.samples)]
    turn = iter(range(10**6))

    def step() -> None:
        some = [samples[(next(turn)) % held.samples] for _ in range(batch)]
        images = [torch.from_numpy(s.image).permute(2, 0, 1).float() / 255 for s in some]
        targets = [
            {"boxes": torch.from_numpy(s.boxes.copy()), "labels": torch.from_numpy(s.labels) + 1}
            for s in some
        ]
        losses = model(images, targets)
        total = sum(losses.values())
        value = {name: loss.item() for name, loss in losses.items()}
        if not math.isfinite(sum(value.values())):
            raise SystemExit(f"loss is {value}")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def _freeze_norms(model: torch.nn.Module) -> None:
    """Frozen batch norm, as torchvision has it with pretrained weights, and the first stage without gradients."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, FrozenBatchNorm2d(module.num_features))
    for name, parameter in model.named_parameters():
        if name.startswith(("backbone.body.conv1", "backbone.body.layer1")):
            parameter.requires_grad_(False)


def run_step(args: argparse.Namespace) -> dict[str, Any]:
    """torchvision's loop, Visloom's, and Visloom's with adaptation: half of the pictures without labels."""
    torch.set_num_threads(1)
    held, steps = Held(side=args.side), 10**6
    plain = Shuffled(source=held, batch=args.batch, tail="wrap")
    half = Shuffled(source=held, batch=args.batch // 2, tail="wrap")
    pair = Pair(
        source=half, target=Shuffled(source=held, batch=args.batch // 2, transform=(Target(),), tail="wrap")
    )
    net = FasterRCNN(body=ResNetBody(depth=50))
    ways: dict[str, Setup] = {
        "torchvision's reference loop": lambda: reference(held, args.batch),
        "visloom": lambda: engine(Detect(net=net, classes=CLASSES), plain, steps),
        "visloom, half of the pictures a target": lambda: engine(
            Adapt(net=net, classes=CLASSES), pair, steps
        ),
    }
    found = race(ways, args.rounds)
    told(f"training step, Faster R-CNN R-50-FPN, {args.batch} x {args.side} x {args.side}, one thread", found)
    cost = found["visloom, half of the pictures a target"].cpu_seconds / found["visloom"].cpu_seconds
    print(
        f"  discriminators of pictures and regions and their consistency cost {100 * (cost - 1):.0f} % more"
    )
    return {"side": args.side, "batch": args.batch, "rounds": args.rounds, "cost": cost, **by_name(found)}


# -------------------------------------------------------------------------------------------------- the evaluator


@dataclass(frozen=True)
class Scene:
    """One picture: its truth, and what a detector found."""

    known: Known
    boxes: Tensor
    scores: Tensor
    labels: Tensor


def scenes(pictures: int) -> list[Scene]:
    """Pictures like COCO's: some seven things and forty detections each, of 80 classes."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(pictures):
        n, m = rng.poisson(7.4), 40
        corner = rng.uniform(0, (500, 380), (n, 2))
        boxes = np.concatenate([corner, corner + rng.gamma(1.5, 50, (n, 2)) + 2], 1).astype(np.float32)
        labels = rng.integers(0, 80, n)
        source = rng.integers(0, max(1, n), m)
        near = boxes[source] if n else np.tile(np.float32([10, 10, 60, 60]), (m, 1))
        guess = near + rng.normal(0, 6, (m, 4)).astype(np.float32)
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        kinds = np.where(rng.random(m) < 0.5, labels[source] if n else 0, rng.integers(0, 80, m))
        known = Known(boxes, labels, np.zeros(n, bool), None, {}, (480, 640))
        found = (torch.from_numpy(v) for v in (guess, rng.random(m).astype(np.float32), kinds))
        made.append(Scene(known, *found))
    return made


def peer(made: list[Scene]) -> Callable[[], float]:
    """pycocotools, from the dictionaries that it takes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, scene in enumerate(made):
        for box, label in zip(scene.known.boxes.astype(float), scene.known.labels, strict=True):
            size = box[2:] - box[:2]
            truths.append(
                {
                    "id": len(truths) + 1, "image_id": number, "category_id": int(label),
                    "bbox": [*box[:2], *size], "area": float(size.prod()), "iscrowd": 0,
                }
            )  # fmt: skip
        columns = zip(scene.boxes.double().numpy(), scene.scores.double().numpy(), scene.labels, strict=True)
        for box, score, label in columns:
            bbox = [*box[:2], *(box[2:] - box[:2])]
            results.append(
                {"image_id": number, "category_id": int(label), "bbox": bbox, "score": float(score)}
            )
    images = [{"id": number} for number in range(len(made))]
    categories = [{"id": number} for number in range(80)]

    def count() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {"images": images, "annotations": truths, "categories": categories}
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0])

    return count


def ours(made: list[Scene], make: Callable[..., Any], name: str, size: int = 8) -> Callable[[], float]:
    """A metric of Visloom: its updates, batch by batch, and what it computes in the end."""
    empty = torch.zeros(0)
    batches = []
    for start in range(0, len(made), size):
        some = made[start : start + size]
        batch = DetectBatch(
            ids=tuple(f"{start + i:06d}" for i in range(len(some))),
            image=empty,
            sizes=(),
            boxes=[],
            labels=[],
            annotated=(),
            target=(),
            origins=(),
            keys=(),
            known=tuple(scene.known for scene in some),
        )
        columns = {name: [getattr(scene, name) for scene in some] for name in ("boxes", "scores", "labels")}
        batches.append((columns, batch))

    def count() -> float:
        metric = make(CLASSES)
        for columns, batch in batches:
            metric.update(columns, batch)
        return float(metric.compute()[name])

    return count


def run_evaluator(args: argparse.Namespace) -> dict[str, Any]:
    """The twelve numbers of COCO, of boxes."""
    made = scenes(args.pictures)
    ways: dict[str, Setup] = {
        "pycocotools": lambda: peer(made),
        "visloom, CocoPrecision": lambda: ours(made, CocoPrecision, "ap"),
        "visloom, VocPrecision": lambda: ours(made, VocPrecision, "voc50"),
    }
    found = race(ways, args.rounds, warm=0)
    theirs, mine = (found[name].answer for name in ("pycocotools", "visloom, CocoPrecision"))
    assert theirs is not None and mine is not None and abs(theirs - mine) < 1e-9, (theirs, mine)
    told(f"counting {args.pictures:,} pictures, {40 * args.pictures:,} detections of 80 classes", found)
    print(f"  AP {mine:.5f} both")
    return {"pictures": args.pictures, "ap": mine, **by_name(found)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    for name, says, run, rounds, own in (
        ("step", "a training step", run_step, 7, {"--side": 256, "--batch": 2}),
        ("evaluator", "counting COCO's numbers", run_evaluator, 3, {"--pictures": 5000}),
    ):
        part = parts.add_parser(name, help=says)
        part.add_argument("--rounds", type=int, default=rounds)
        part.add_argument("--json", type=Path)
        for option, default in own.items():
            part.add_argument(option, type=int, default=default)
        part.set_defaults(run=run)
    args = parser.parse_args()
    found = args.run(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
