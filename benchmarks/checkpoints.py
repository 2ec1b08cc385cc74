"""Checkpoints: how long the training loop stands still for one, against torch.save of the same tensors.

    python benchmarks/checkpoints.py                      100 MB, 9 repeats
    python benchmarks/checkpoints.py --megabytes 400 --folder /data

Interleaved repeats and their medians: `torch.save` as most trainers call it (a file, not synced), the same with fsync,
and `Checkpoints.save` in the background, where the loop waits for a copy only; then the time until the checkpoint is
durable, each of its files hashed, synced and in the manifest. The loop between saves is imitated by matrix products,
whose time with and without a write beside them is told too. Each checkpoint is verified, outside the clock. The exit
code is 1 if the loop stood still for more than a quarter of torch.save's time.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from visloom.checkpoint import Checkpoints, State

_SHARE = 0.25  # of torch.save's time that a save in the background may block, at most


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    torch.set_num_threads(1)
    tensors = model(options.megabytes)
    with tempfile.TemporaryDirectory(prefix="visloom-checkpoints-", dir=options.folder) as folder:
        times = measure(tensors, Path(folder), options.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(page(options, times, medians))
    return 0 if medians["blocked"] <= _SHARE * medians["torch.save"] else 1


def model(megabytes: int) -> dict[str, Tensor]:
    """Weights of many sizes, as a network has them: a thousand tensors of 100 MB."""
    draw, tensors, left, number = torch.Generator().manual_seed(0), {}, megabytes * 250_000, 0
    while left > 0:
        size = min(left, (64, 512, 9_216, 36_864, 262_144)[number % 5])
        tensors[f"layer{number}.weight"] = torch.randn(size, generator=draw)
        left, number = left - size, number + 1
    return tensors


def measure(tensors: dict[str, Tensor], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return seconds by what was timed; the first round, which makes files and buffers, does not count."""
    store = Checkpoints(folder / "checkpoints", keep=1, background=True)
    times: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        times.setdefault(name, []).append(time.perf_counter() - began)

    def synced() -> None:
        with (folder / "synced.pt").open("wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())

    square = torch.randn(256, 256)

    def compute() -> None:
        for _ in range(100):
            torch.mm(square, square)

    for number in range(1, repeats + 2):
        clock("torch.save", lambda: torch.save(tensors, folder / "plain.pt"))
        clock("torch.save and fsync", synced)
        clock("loop alone", compute)
        state = State(number, {"model": tensors}, {"step": number})
        began = time.perf_counter()
        clock("blocked", lambda state=state: store.save(state))  # type: ignore[misc]
        clock("loop beside a write", compute)
        store.join()
        times.setdefault("durable", []).append(time.perf_counter() - began)
        problem = store.verify(number)
        if problem:
            raise SystemExit(f"the checkpoint of step {number} is not sound: {problem}")
    store.close()
    return {name: values[1:] for name, values in times.items()}


_WORDS = {
    "torch.save": "torch.save to a file, not synced",
    "torch.save and fsync": "torch.save to a file, then fsync",
    "blocked": "**Checkpoints.save: the loop stands still**",
    "durable": "Checkpoints.save: until hashed, synced and in place",
    "loop alone": "100 products of 256x256 in the loop, alone",
    "loop beside a write": "the same while a checkpoint is written",
}


def page(options: argparse.Namespace, times: dict[str, list[float]], medians: dict[str, float]) -> str:
    """Return the table."""
    whole = medians["torch.save"]
    lines = [
        f"{options.megabytes} MB in {len(model(options.megabytes))} tensors, {options.repeats} interleaved repeats, "
        f"torch {torch.__version__}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores.",
        "",
        "| what | median, ms | least to most, ms | of torch.save |",
        "|---|---|---|---|",
    ]
    for name, words in _WORDS.items():
        low, high = min(times[name]), max(times[name])
        share = "" if name.startswith("loop") else f"{medians[name] / whole:.2f}"
        lines.append(
            f"| {words} | {1e3 * medians[name]:.1f} | {1e3 * low:.1f} to {1e3 * high:.1f} | {share} |"
        )
    return "\n".join(lines)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", help="where to write; a temporary folder unless given")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
