"""A run directory like the one that a real run leaves, made up from a seed: what the report is tested on."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def fake_run(
    folder: Path,
    *,
    classes: tuple[str, ...] = CLASSES,
    epochs: int = 20,
    steps_per_epoch: int = 390,
    seed: int = 0,
    lr: float = 0.1,
    pictures: int = 16,
    side: int = 32,
) -> Path:
    """Fill a folder with everything a finished run of classification holds, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    total = epochs * steps_per_epoch
    run = _config(classes, epochs, lr)
    (folder / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps(_provenance(lr), indent=1), encoding="utf-8")
    rows, pace = _course(rng, epochs, steps_per_epoch, lr)
    _write_lines(folder / "log.jsonl", rows)
    _write_lines(folder / "speed.jsonl", pace)
    last = [row for row in rows if row["kind"] == "eval"][-1]
    matrix = _matrix(rng, len(classes), last["values"]["accuracy"])
    evals = folder / "evals"
    evals.mkdir(exist_ok=True)
    told = {
        "step": total,
        "epoch": float(epochs),
        "values": last["values"],
        "tables": {
            "confusion": {"classes": list(classes), "matrix": matrix},
            "per_class": {
                "columns": ["class", "precision", "recall", "f1", "samples"],
                "rows": _per_class(classes, matrix),
            },
        },
        "baseline": {"name": "majority class", "value": round(1 / len(classes), 4)},
        "pictures": _pictures(rng, folder, classes, pictures, side),
    }
    (evals / "val.json").write_text(json.dumps(told), encoding="utf-8")
    for step in (total - steps_per_epoch, total):
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "manifest.json").write_text(json.dumps({"step": step, "files": {}}), encoding="utf-8")
        (checkpoint / "model.safetensors").write_bytes(bytes(rng.randrange(256) for _ in range(4096)))
    (folder / "checkpoints" / "best").write_text(f"step-{total - steps_per_epoch:08d}\n", encoding="utf-8")
    (folder / "checkpoints" / "latest").write_text(f"step-{total:08d}\n", encoding="utf-8")
    return folder


def _config(classes: tuple[str, ...], epochs: int, lr: float) -> dict[str, Any]:
    def data(split: str, transform: list[Any]) -> dict[str, Any]:
        source = {"kind": "visloom.data.cifar:Cifar10", "root": "cifar-10", "split": split, "limit": None}
        return {"kind": "visloom.stream:Shuffled", "source": source, "batch": 128, "transform": transform}

    crop = {"kind": "visloom.data.transforms:RandomCrop", "size": [32, 32], "padding": 4}
    flip = {"kind": "visloom.data.transforms:Flip", "p": 0.5}
    net = {"target": "visloom.nets.resnet_cifar:resnet18", "kwargs": {"width": 64}}
    evaluation = {"stream": data("test", []), "every": "epochs:1", "monitor": "max accuracy", "patience": 0}
    return {
        "name": "cifar10",
        "task": {"kind": "visloom.tasks.classify:Classify", "net": net, "classes": list(classes)},
        "train": data("train", [crop, flip]),
        "evals": {"val": {**evaluation, "losses": True}},
        "length": f"epochs:{epochs}",
        "optim": {
            "name": "SGD",
            "lr": lr,
            "weight_decay": 0.0005,
            "options": {"momentum": 0.9},
            "rest": None,
        },
        "rules": [{"name": "bias|norm", "kind": "any", "lr": None, "weight_decay": 0.0, "frozen": None}],
        "schedule": {"kind": "visloom.schedule:Cosine", "floor": 0.0},
        "how": {"precision": "auto", "accumulate": 1, "clip": None, "compile": False, "deterministic": True},
        "host": {"data": "data", "out": "runs", "device": "auto", "workers": 2},
        "seed": 0,
    }


def _provenance(lr: float) -> dict[str, Any]:
    start = [
        "/home/ada/.venv/bin/visloom",
        "train",
        "cifar10",
        f"optim.lr={lr}",
        "train.transform.RandomCrop.padding=4",
    ]
    return {
        "time": "2026-03-01T12:00:00+00:00",
        "host": "workbench",
        "argv": start,
        "run": "cifar10",
        "seed": 0,
        "code": {"visloom": {"commit": "0f3b2c" + "4d" * 17, "changes": None}, "recipe": None},
        "versions": {"python": "3.11.7", "visloom": "0.1.0", "torch": "2.15.0+cpu", "torchvision": "0.29.2"},
        "machine": {
            "platform": "Linux-6.1-x86_64",
            "cpu": "AMD EPYC 9R14",
            "instructions": "AVX512",
            "cores": 2,
        },
        "execution": {
            "device": "cpu",
            "precision": "bf16",
            "threads": 2,
            "world_size": 1,
            "deterministic": True,
        },
        "data": {"train": "50,000 samples, sha256 9c1f...", "val": "10,000 samples, sha256 77ab..."},
        "resumed": [
            {"step": 2730, "at": "2026-03-01T12:08:00+00:00", "argv": ["visloom", "resume", "cifar10-000"]}
        ],
    }


def _course(rng: random.Random, epochs: int, per: int, lr: float) -> tuple[list[Any], list[Any]]:
    rows: list[dict[str, Any]] = []
    pace: list[dict[str, Any]] = []
    now = 1772366400.0
    pace.append({"kind": "start", "step": 0, "time": now, "setup": 3.2, "host": "workbench", "pid": 4711})
    total = epochs * per
    sums: list[float] = []
    best = 0.0
    for step in range(1, total + 1):
        if step % 50 and step % per:
            continue
        share = step / total
        loss = 0.25 + 2.1 * math.exp(-5 * share) * (1 + 0.08 * rng.gauss(0, 1)) - 0.24 * share
        loss = abs(loss)
        sums.append(loss)
        accuracy = 1 - 0.36 * loss - 0.01 * abs(rng.gauss(0, 1))
        rate = lr * 0.5 * (1 + math.cos(math.pi * share))
        now += 6.1
        values = {"loss": loss, "accuracy": max(0.1, accuracy), "grad_norm": 1.5 + loss + 0.2 * rng.random()}
        row = {"kind": "train", "split": "train", "step": step, "epoch": step / per, "values": values}
        rows.append({**row, "lr": {"base": rate, "head": 2 * rate}})
        wait = 0.02 + 0.02 * rng.random() + (0.3 if 7 * per < step < 8 * per else 0.0)
        speeds = {"images_per_second": 1050 * (1 - wait) + 30 * rng.gauss(0, 1), "wait_share": wait}
        pace.append(
            {
                "kind": "point",
                "step": step,
                "time": now,
                "seconds": 6.1,
                **speeds,
                "memory_bytes": 812_000_000,
            }
        )
        if step == 7 * per:
            pace.append(
                {
                    "kind": "start",
                    "step": step,
                    "time": now + 60,
                    "setup": 2.9,
                    "host": "workbench",
                    "pid": 4800,
                }
            )
            now += 60
        if step % per == 0:
            mean = sum(sums) / len(sums)
            sums = []
            values = {"loss": mean, "accuracy": 1 - 0.37 * mean}
            rows.append(
                {"kind": "epoch", "split": "train", "step": step, "epoch": step / per, "values": values}
            )
            held = 0.3 + 1.7 * math.exp(-5.5 * share) + 0.05 * abs(rng.gauss(0, 1)) * (1.2 - share)
            found = {"loss": held, "accuracy": 1 - 0.26 * held, "top5": 1 - 0.02 * held}
            better = found["accuracy"] > best
            best = max(best, found["accuracy"])
            row = {"kind": "eval", "split": "val", "step": step, "epoch": step / per, "values": found}
            rows.append({**row, "monitor": "max accuracy", "best": better})
            now += 4.0
            pace.append({"kind": "eval", "step": step, "time": now, "split": "val", "seconds": 4.0})
    pace.append({"kind": "end", "step": total, "time": now + 1.0})
    return rows, pace


def _matrix(rng: random.Random, count: int, accuracy: float) -> list[list[int]]:
    matrix = []
    for i in range(count):
        row = [0] * count
        for _ in range(max(1, 10_000 // count)):
            hit = rng.random() < accuracy + 0.05 * math.sin(i)
            near = (i + rng.choice((-2, 2, 2, 3))) % count
            row[i if hit else near if rng.random() < 0.6 else rng.randrange(count)] += 1
        matrix.append(row)
    return matrix


def _per_class(classes: tuple[str, ...], matrix: list[list[int]]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for i, name in enumerate(classes):
        true, taken = sum(matrix[i]), sum(row[i] for row in matrix)
        precision, recall = matrix[i][i] / max(1, taken), matrix[i][i] / max(1, true)
        rows.append([name, precision, recall, 2 * matrix[i][i] / max(1, true + taken), true])
    return rows


def _pictures(
    rng: random.Random, folder: Path, classes: tuple[str, ...], count: int, side: int
) -> list[dict[str, str]]:
    from PIL import Image, ImageDraw

    place = folder / "evals" / "val"
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        kind = "worst" if number < 2 * count // 3 else "best"
        image = Image.new("RGB", (side, side), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
        draw = ImageDraw.Draw(image)
        for _ in range(6):
            x, y, r = rng.randrange(side), rng.randrange(side), side // 3
            draw.ellipse(
                (x - r, y - r, x + r, y + r),
                fill=(rng.randrange(256), rng.randrange(256), rng.randrange(256)),
            )
        file = place / f"{kind}-{number:02d}.png"
        image.save(file)
        true, taken = rng.choice(classes), rng.choice(classes)
        caption = (
            f"{true}, taken for {taken} (0.{rng.randrange(50, 99)})" if kind == "worst" else f"{true} (0.99)"
        )
        name = file.relative_to(folder).as_posix()
        rows.append(
            {"file": name, "id": f"test/{rng.randrange(10_000):05d}.png", "caption": caption, "kind": kind}
        )
    return rows


def _write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
