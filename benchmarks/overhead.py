"""What the engine costs per step, against a raw PyTorch loop, interleaved in one process.

    python benchmarks/overhead.py [--rounds 200] [--json FILE]

A tiny network (MLP 32-64-10, batch 64, cached, one thread) makes the loop itself visible. Both sides run in turns of
50 steps in one process, so that a busy neighbour or a changing clock hits both; a difference is one turn of the
engine minus the mean of the raw turns before and after it. Figures are process CPU time in microseconds per step,
medians over all turns; each row names what both sides do. "full" is a progress line, a log point every 50 steps to a
file, running accuracy every step and a per-step cosine schedule. Syncs are counted by a TorchDispatchMode that sees
every `.item()` between log points.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from visloom.engine import Engine
from visloom.keys import seed_torch
from visloom.live import Point
from visloom.log import Teller
from visloom.meter import Meter, split_names
from visloom.module import TaskModule
from visloom.optim import build_optimizer
from visloom.run import Clip, Ema, How, Optim
from visloom.schedule import Constant, Cosine
from visloom.task import Batch, Losses
from visloom.units import NonFinite

TURN, WARM = 50, 10  # steps of a turn; rounds that only warm up
BARE = How(precision="fp32", non_finite=NonFinite("ignore"), channels_last=False)


@dataclass(kw_only=True)
class Rows(Batch):
    x: Tensor  # (B, 32)
    y: Tensor  # (B,)


class Tiny(TaskModule):
    def __init__(self, metric: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
        self.metric = metric
        self.count = torch.tensor(64.0)

    def forward(self, batch: Batch) -> Losses:
        assert isinstance(batch, Rows)
        logits = self.net(batch.x)
        loss = nn.functional.cross_entropy(logits, batch.y)
        logs = {}
        if self.metric:
            logs["accuracy"] = (logits.detach().max(1).indices == batch.y).float().mean()
        return Losses({"ce": loss}, logs, self.count)


class Cached:
    """A feed that yields ready batches; the time to get one is the same for both sides."""

    steps_per_epoch = 500

    def __init__(self, batches: list[Rows], stop: int) -> None:
        self.batches, self.stop = batches, stop

    def open(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.stop):
            yield self.batches[step % len(self.batches)]


def make_batches() -> list[Rows]:
    generator = torch.Generator().manual_seed(0)
    return [
        Rows(
            ids=(),
            x=torch.randn(64, 32, generator=generator),
            y=torch.randint(0, 10, (64,), generator=generator),
        )
        for _ in range(50)
    ]


def raw(batches: list[Rows], steps: int, feature: str, folder: Path) -> Iterator[None]:
    """The loop by hand, with the same feature by hand; hands back after every turn."""
    seed_torch(1)
    task = Tiny(metric=False)
    net = task.net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
    parameters = list(net.parameters())
    average = copy.deepcopy(net) if feature == "ema" else None
    right = torch.zeros(())
    total_loss = torch.zeros(())
    log = (folder / "raw.jsonl").open("w")
    feed = Cached(batches, steps).open()
    for step in range(steps):
        batch = next(feed)
        assert isinstance(batch, Rows)
        if feature == "full":
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / steps))
        if feature == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(net(batch.x), batch.y)
        else:
            logits = net(batch.x)
            loss = nn.functional.cross_entropy(logits, batch.y)
        loss.backward()
        if feature == "clip":
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        if feature == "finite":
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), parameters, 0.001)
        if feature == "full":
            with torch.no_grad():
                right += (logits.max(1).indices == batch.y).float().mean()
                total_loss += loss.detach()
            if (step + 1) % 50 == 0:
                row = {"step": step + 1, "loss": total_loss.item() / 50, "accuracy": right.item() / 50}
                log.write(json.dumps(row) + "\n")
                print(f"{step + 1}/{steps} {row}", file=log)
                right.zero_(), total_loss.zero_()
        if (step + 1) % TURN == 0:
            yield
    log.close()


def engine(batches: list[Rows], steps: int, feature: str, folder: Path) -> Iterator[None]:
    """The same through the engine, driven as `visloom.drive` does it; hands back after every turn."""
    hows: dict[str, How] = {
        "clip": How(precision="fp32", non_finite=NonFinite("ignore"), clip=Clip(norm=1.0)),
        "ema": How(precision="fp32", non_finite=NonFinite("ignore"), ema=Ema(decay=0.999)),
        "autocast": How(precision="bf16", non_finite=NonFinite("ignore")),
        "finite": How(precision="fp32", non_finite=NonFinite("stop")),
    }
    seed_torch(1)
    full = feature == "full"
    task = Tiny(metric=full)
    optimizer = build_optimizer(task, Optim(name="SGD", lr=0.01, options={"momentum": 0.9}))
    made = Engine(
        task,
        Cached(batches, steps),
        optimizer,
        Cosine() if full else Constant(),
        total=steps,
        how=hows.get(feature, BARE),
    )
    if not full:
        for step in made.steps():
            if feature == "finite" and step.index % 50 == 0:
                made.bad_steps()
            if step.index % TURN == 0:
                yield
        return
    meter = Meter()
    with Teller(
        folder / "run", total=steps, steps_per_epoch=500, batch=64, screen="plain", tensorboard=False
    ) as teller:
        for step in made.steps():
            meter.add(step)
            teller.tick(step.index)
            if step.index % 50 == 0:
                losses, logs = split_names(meter.read())
                point = Point(step=step.index, losses=losses, logs=logs, lrs=step.lr, steps=50, seconds=1.0)
                teller.point(point)
            if step.index % TURN == 0:
                yield


def turns(side: Iterator[None]) -> Iterator[float]:
    """CPU microseconds per step of each turn."""
    while True:
        began = time.process_time()
        try:
            next(side)
        except StopIteration:
            return
        yield (time.process_time() - began) / TURN * 1e6


def measure(batches: list[Rows], rounds: int, feature: str) -> tuple[list[float], list[float]]:
    """Run both sides in turns; returns (engine minus raw, raw) of each round, without the first ones."""
    steps = (rounds + WARM + 1) * TURN
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run").mkdir()
        by_hand, through = (turns(side(batches, steps, feature, Path(folder))) for side in (raw, engine))
        before = next(by_hand)
        over, base = [], []
        for after, ours in zip(by_hand, through, strict=False):
            over.append(ours - (before + after) / 2)
            base.append((before + after) / 2)
            before = after
    return over[WARM:], base[WARM:]


class CountSyncs(TorchDispatchMode):
    """Counts the operations that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            self.syncs += 1
        return func(*args, **(kwargs or {}))


def syncs_between_log_points(batches: list[Rows]) -> int:
    """Count `.item()` and its like over 40 steps with clipping, averaging, finite check and metrics on."""
    task = Tiny(metric=True)
    how = How(precision="bf16", clip=Clip(norm=1.0), ema=Ema())
    optimizer = build_optimizer(task, Optim(name="SGD", lr=0.01, options={"momentum": 0.9}))
    made = Engine(task, Cached(batches, 40), optimizer, Cosine(), total=40, how=how)
    meter = Meter()
    with CountSyncs() as counter:
        for step in made.steps():
            meter.add(step)
    return counter.syncs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batches = make_batches()
    print(f"{'feature':10} {'raw us':>8} {'engine over raw us':>20}   (quartiles)")
    rows = {}
    for feature in ("bare", "full", "clip", "ema", "autocast", "finite"):
        with contextlib.redirect_stdout(io.StringIO()):  # the progress lines of "full" are part of its cost
            over, base = measure(batches, options.rounds, feature)
        low, middle, high = statistics.quantiles(over, n=4)
        rows[feature] = {"raw_us": statistics.median(base), "over_us": middle}
        print(f"{feature:10} {rows[feature]['raw_us']:8.1f} {middle:20.1f}   ({low:.1f} .. {high:.1f})")
    syncs = syncs_between_log_points(batches)
    print(f"host waits between log points, 40 steps with clip, EMA, bf16, finite check, metrics: {syncs}")
    bare, full = rows["bare"], rows["full"]
    by_hand = full["raw_us"] - bare["raw_us"]
    print(
        f"full features over the bare raw loop: {by_hand + full['over_us']:.1f} us (by hand: {by_hand:.1f} us)"
    )
    for feature in ("clip", "ema", "autocast", "finite"):
        over_bare = rows[feature]["over_us"] - bare["over_us"]
        print(f"{feature}: {over_bare:+.1f} us over the same feature by hand")
    if options.json:
        options.json.write_text(
            json.dumps({"rows": rows, "syncs": syncs, "rounds": options.rounds}, indent=1)
        )


if __name__ == "__main__":
    main()
