"""Sixty timm models drawn at random: each is built by its name and takes one training step, or is refused in
words.

    python benchmarks/timm_sixty.py docs/timm_sixty.md

The models are drawn with a fixed seed from all that timm lists. Each runs in a process of its own, through
the same spec, collate, module and SGD that a recipe uses, on two images of the smallest size it takes, three
classes. The table says what happened; a traceback that is not a `ConfigError` counts as a failure and the
script exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIDES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
MOST_BYTES = 5.5e9  # weights and gradients; what does not fit is refused before it is built


def draw(count: int, seed: int) -> list[str]:
    """Names of `count` models, the same on every machine with the same timm."""
    import timm

    return sorted(random.Random(seed).sample(timm.list_models(), count))


def attempts(name: str) -> list[tuple[int, dict[str, Any]]]:
    """Image sides to try, smallest first, each with the options that a model of fixed input size needs for
    it."""
    from visloom.nets.backbone import expected

    found = expected(name)
    native = found.size[0]
    sides = [side for side in SIDES if side < native]
    if not found.fixed:
        return [*((side, {}) for side in sides), (native, {})]
    return [*((side, {"img_size": side}) for side in sides), (native, {})]


def smallest(name: str) -> tuple[int, dict[str, Any], float]:
    """Find the smallest side that passes, and the parameters (in millions), on torch's meta device: no
    arithmetic.

    A network that cannot run there (it computes with values while it is built) is given its native size.
    """
    import torch

    from visloom.errors import ConfigError
    from visloom.nets.backbone import create, expected

    for side, options in attempts(name):
        try:
            with torch.device("meta"):
                net = create(name, 3, options=options)
                net.train()(torch.empty(2, 3, side, side))
        except (ConfigError, RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError):
            continue
        return side, options, sum(p.numel() for p in net.parameters()) / 1e6
    return expected(name).size[0], {}, float("nan")


def step(name: str) -> dict[str, Any]:
    """Build the model, make one step of SGD on two random images, and say what happened."""
    import numpy as np
    import torch

    from visloom.errors import VisloomError
    from visloom.sample import Sample
    from visloom.tasks.classify import Classify, Timm

    torch.manual_seed(0)
    row: dict[str, Any] = {"name": name, "side": 0, "millions": float("nan"), "seconds": 0.0}
    started = time.perf_counter()
    try:
        side, options, millions = smallest(name)
        row |= {"side": side, "millions": millions}
        # bf16 weights for the giants: the step is the same, the memory half
        dtype = torch.float32 if not millions * 1e6 * 8 > MOST_BYTES / 2 else torch.bfloat16
        need = 0.0 if millions != millions else millions * 1e6 * 2 * dtype.itemsize
        if need > MOST_BYTES:
            row["result"] = f"not run: weights and gradients need {need / 1e9:.1f} GB"
            return row
        spec = Classify(net=Timm(name, options=options), classes=("a", "b", "c"))
        torch.set_default_dtype(dtype)
        task = spec.build().train()
        draws = np.random.default_rng(0)
        images = [draws.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(2)]
        batch = spec.collate([Sample(f"image {i}", image, i) for i, image in enumerate(images)], None)
        before = [p.detach().float().norm().item() for p in task.parameters()]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = torch.stack(list(task(batch).terms.values())).sum()
        loss.backward()
        torch.optim.SGD(task.parameters(), lr=0.01).step()
        moved = sum(b != p.detach().float().norm().item() for b, p in zip(before, task.parameters()))
        row["loss"] = loss.item()
        row["result"] = "trained" if moved and np.isfinite(row["loss"]) else f"failed: {moved} tensors moved"
    except VisloomError as error:
        row["result"] = f"refused: {error}"
    except Exception as error:
        row["result"] = f"failed: {type(error).__name__}: {error}"
    row["seconds"] = time.perf_counter() - started
    return row


def table(rows: list[dict[str, Any]], versions: str) -> str:
    """The page: a sentence of totals, then one line per model."""
    kinds = [row["result"].partition(":")[0] for row in rows]
    totals = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds, reverse=True)))
    lines = [
        f"# {len(rows)} timm models drawn at random",
        "",
        f"`python benchmarks/timm_sixty.py docs/timm_sixty.md` ({versions}): **{totals}**.",
        "",
        "Each model is built by its name and takes one step of SGD through the `Classify` task on two random",
        "images of the smallest square it takes (at least 32), three classes. *Seconds* are those of one thread:",
        "finding the size, building and stepping.",
        "",
        "| model | parameters (M) | side | loss | seconds | result |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        loss = f"{row['loss']:.3f}" if "loss" in row else ""
        millions = "" if row["millions"] != row["millions"] else f"{row['millions']:.1f}"
        result = " ".join(row["result"].split()).replace("|", "\\|")[:200]
        lines.append(
            f"| {row['name']} | {millions} | {row['side'] or ''} | {loss} | {row['seconds']:.1f} | {result} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="the Markdown table to write")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=60)
    parser.add_argument("--one", help="run this model only and print its row as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(step(args.one)))
        return 0
    import timm
    import torch

    rows = []
    for name in draw(args.count, args.seed):
        command = [sys.executable, __file__, "--one", name]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            row = {"name": name, "side": 0, "millions": float("nan"), "seconds": 0.0}
            row["result"] = f"failed: exit code {done.returncode}: {said}"
        else:
            row = json.loads(done.stdout.strip().splitlines()[-1])
        rows.append(row)
        print(f"{name:45s} {row['seconds']:6.1f} s  {row['result'][:120]}", flush=True)
        if args.out:
            args.out.write_text(table(rows, f"timm {timm.__version__}, torch {torch.__version__}"))
    return int(any(row["result"].startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
