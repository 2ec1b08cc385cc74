"""The `step` and `metric` parts of benchmarks/segmentation.py: a training step, and the counting of pixels.

The template's ways are written here again from their description: float32 in NCHW memory, the loss brought to the host
and pixel metrics counted by three float histograms after every step. Visloom's are its own module and metric, with the
settings that a recipe has by default: memory order and precision that suit the processor, metrics in evaluations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from turns import Row, Setup, kept, race

from visloom.device import keep_freed, resolve_precision
from visloom.engine import precision
from visloom.memory import place, resolve_channels_last
from visloom.run import How
from visloom.tasks.segment import Segment, SegmentBatch
from visloom.tasks.segment.metrics import confusion
from visloom.tasks.segment.nets import IMAGENET, Compact, NetSpec, Pspnet, Smp, Unet

CLASSES = 59
CPU = torch.device("cpu")
NETS: dict[str, NetSpec] = {
    "unet": Unet(),
    "psp": Pspnet("resnet50"),
    "resnet-unet": Smp("unet", "resnet50"),
    "resnet-deeplab": Smp("deeplabv3plus", "resnet50"),
    "compact": Compact(),
}


def template_metrics(output: Tensor, target: Tensor, classes: int) -> tuple[Tensor, ...]:
    """correct, labeled, inter, union of a batch, as the template counts them."""
    return template_counts(torch.max(output.data, 1)[1], target, classes)


def template_counts(predict: Tensor, target: Tensor, classes: int) -> tuple[Tensor, ...]:
    """The same from predicted classes."""
    predict, target = predict + 1, target + 1
    labeled = (target > 0) * (target <= classes)
    correct = ((predict == target) * labeled).sum()
    predict = predict * labeled.long()
    hit = predict * (predict == target).long()
    inter, area_p, area_t = (
        torch.histc(t.float(), bins=classes, max=classes, min=1) for t in (hit, predict, target)
    )
    return correct, labeled.sum(), inter, area_p + area_t - inter


def run_metric(args: argparse.Namespace) -> dict[str, Any]:
    """Counting pixels of a batch of 8 with 59 classes at a crop."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    output = torch.randn(8, CLASSES, args.crop, args.crop)
    target = torch.randint(-1, CLASSES, (8, args.crop, args.crop))
    small = target.to(torch.int16)
    answer = output.max(1).indices
    byte = answer.to(torch.uint8)  # as predictions are
    theirs, ours = template_counts(answer, target, CLASSES), confusion(small, byte, CLASSES)
    assert int(theirs[0]) == int(ours.diagonal().sum()) and int(theirs[1]) == int(ours.sum())
    found: dict[str, dict[str, Row]] = {
        "counting": race(
            {
                "template, three float histograms": lambda: lambda: template_counts(answer, target, CLASSES),
                "visloom, one integer matrix": kept(lambda: confusion(small, byte, CLASSES)),
            },
            args.rounds,
        ),
        "whole update": race(
            {
                "template, every training step": lambda: lambda: template_metrics(output, target, CLASSES),
                "visloom, in evaluations": kept(
                    lambda: confusion(small, output.max(1).indices.to(torch.uint8), CLASSES)
                ),
            },
            args.rounds,
        ),
    }
    for part, rows in found.items():
        print(f"\n{part}, 8 x {CLASSES} x {args.crop} x {args.crop}, one thread, {args.rounds} rounds")
        for name, row in rows.items():
            print(f"  {name:38}{1000 * row.cpu_seconds:8.1f} ms  {row.times:5.2f}x")
    return {part: {name: row._asdict() for name, row in rows.items()} for part, rows in found.items()}


def run_step(args: argparse.Namespace) -> dict[str, Any]:
    """A training step on one thread: forward, backward, optimizer and what each counts."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = Segment(net=NETS[args.net], classes=tuple(map(str, range(CLASSES))), normalise=IMAGENET)
    side, count = args.side, args.batch
    image = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    target = torch.randint(-1, CLASSES, (count, side, side))
    ways: dict[str, Setup] = {
        "template": partial(_template_step, spec, image, target),
        "visloom": partial(_our_step, spec, image, target),
    }
    found = race(ways, args.rounds)
    kind = str(resolve_precision("auto", CPU)).removeprefix("torch.")
    order = "NHWC" if resolve_channels_last(How(), CPU, spec.net.build(CLASSES, 3)) else "NCHW"
    print(
        f"\ntraining step, {args.net}, {count} x {side} x {side}, one thread; visloom computes in {kind}, {order}"
    )
    for name, row in found.items():
        print(
            f"  {name:38}{count / row.cpu_seconds:8.2f} img/s  {row.times:5.2f}x  ({row.least:.2f} to {row.most:.2f})"
        )
    return {"precision": kind, "order": order, **{name: row._asdict() for name, row in found.items()}}


def _template_step(spec: Segment, image: Tensor, target: Tensor) -> Callable[[], None]:
    net = spec.net.build(CLASSES, 3).train()
    values = IMAGENET
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (values.mean, values.std))
    data = ((image.permute(0, 3, 1, 2).float() - mean) / std).contiguous()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=False)
    loss_of = nn.CrossEntropyLoss(ignore_index=-1)

    def step() -> None:
        optimizer.zero_grad()
        found = net(data)
        main, *more = found if isinstance(found, list) else [found]
        loss = loss_of(main, target) + sum(0.4 * loss_of(aux, target) for aux in more)
        loss.backward()
        optimizer.step()
        loss.item()
        template_metrics(main, target, CLASSES)

    return step


def _our_step(spec: Segment, image: Tensor, target: Tensor) -> Callable[[], None]:
    keep_freed()
    task = place(spec.build().train(), How(), CPU)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    sizes = ((image.shape[1], image.shape[2]),) * len(image)
    batch = SegmentBatch(
        ids=tuple(map(str, range(len(image)))), image=image, mask=target.to(torch.int16), sizes=sizes
    )
    autocast = precision(How(), CPU)[0]

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            losses = task(batch)
            loss = torch.stack(list(losses.terms.values())).sum()
        loss.backward()
        optimizer.step()

    return step
