"""Pictures of an evaluation: its worst and best samples, drawn by the task, as PNG files beside the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from visloom.evaluation import evaluating
from visloom.loader import collated
from visloom.module import TaskModule
from visloom.stream import Stream, Tickets, load_one
from visloom.task import Predictions, TaskSpec


def save_pictures(
    task: TaskModule,
    spec: TaskSpec,
    stream: Stream,
    records: Sequence[tuple[float, int]],
    folder: Path,
    *,
    count: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Draw the worst and the best samples of an evaluation into a folder.

    Args:
        records: (goodness, position in the stream), worst first, as `Evaluation.records`.
        count: pictures in all: two thirds of them worst.
    Returns:
        For the report: file (relative to the run directory), id, caption, kind ("worst" or "best").
    """
    worst = list(records[: max(1, 2 * count // 3)])
    best = [r for r in reversed(records) if r not in worst][: max(0, count - len(worst))]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind, chosen in (("worst", worst), ("best", best)):
        for number, (goodness, position) in enumerate(chosen):
            sample = read_at(stream, position)
            prediction = predict_one(task, spec, sample, device)
            file = folder / f"{kind}-{number + 1:02d}.png"
            spec.draw(sample.image, prediction, sample).save(file)
            place = file.relative_to(folder.parent.parent).as_posix()
            caption = f"{sample.id}: {goodness:.3f}"
            rows.append({"file": place, "id": sample.id, "caption": caption, "kind": kind})
    return rows


def read_at(stream: Stream, position: int) -> Any:
    """Read the sample at a position of an Ordered stream, transformed as in the evaluation."""
    step, place = divmod(position, stream.batch)
    tickets: Tickets = stream.tickets(step)
    return load_one(stream.leaves(), tickets[place])


def predict_one(task: TaskModule, spec: TaskSpec, sample: Any, device: torch.device) -> dict[str, Any]:
    """Predict one sample: the same columns as `predict`, one entry of each."""
    with evaluating(task):
        predictions: Predictions = task.predict(collated(spec, [sample], None).to(device))
    return {name: column[0] for name, column in predictions.items()}


def contact_sheet(files: Sequence[Path], columns: int = 4, side: int = 160) -> Any:
    """Join picture files into one grid: an (H, W, 3) uint8 RGB array."""
    import numpy as np
    from PIL import Image

    rows = -(-len(files) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for number, file in enumerate(files):
        with Image.open(file) as picture:
            picture.thumbnail((side - 4, side - 4))
            sheet.paste(picture, (number % columns * side + 2, number // columns * side + 2))
    return np.asarray(sheet)
