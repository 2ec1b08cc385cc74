"""Pictures of an evaluation: samples that the task draws, as PNG files beside the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
    """Draw samples of an evaluation into a folder: the worst and the best, and for a task that says `steady` first of
    all samples at fixed places, which are the same after every evaluation. There a task with `companions` gets all
    samples that belong together: `companions(stream, position)` gives their positions, and
    `draw_together(samples, predictions)` one picture.

    Args:
        records: (goodness, position in the stream), worst first, as `Evaluation.records`.
        count: pictures at fixed places, and a third of that of the extremes; else of the extremes. Two thirds of those
            are worst.
    Returns:
        For the report: file (relative to the run directory), id, caption, kind ("sample", "worst" or "best").
    """
    chosen: list[tuple[str, float | None, int]] = []
    companions = getattr(spec, "companions", None)
    if getattr(spec, "steady", False):
        total = len(stream.leaves()[0].source)
        places = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
        chosen += [("sample", None, place) for place in places.tolist()]
        count //= 3
    worst = list(records[: max(1, 2 * count // 3)])
    best = [r for r in reversed(records) if r not in worst][: max(0, count - len(worst))]
    chosen += [("worst", *record) for record in worst] + [("best", *record) for record in best]
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for kind, goodness, position in chosen:
        sample = read_at(stream, position)
        number = sum(row["kind"] == kind for row in rows) + 1
        file = folder / f"{kind}-{number:02d}.png"
        if kind == "sample" and companions is not None:
            samples = [read_at(stream, place) for place in companions(stream, position)]
            answers = [predict_one(task, spec, each, device) for each in samples]
            picture = spec.draw_together(samples, answers)  # type: ignore[attr-defined]
        else:
            picture = spec.draw(sample.image, predict_one(task, spec, sample, device), sample)
        picture.save(file)
        caption = str(sample.id) if goodness is None else f"{sample.id}: {goodness:.3f}"
        place = file.relative_to(folder.parent.parent).as_posix()
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
    """Join picture files into one grid: an (H, W, 3) uint8 RGB array.

    Pictures much wider than high are shown larger, in fewer columns.
    """
    from PIL import Image

    pictures = []
    for file in files:
        with Image.open(file) as opened:
            pictures.append(opened.convert("RGB"))
    ratio = max((picture.width / picture.height for picture in pictures), default=1.0)
    if ratio >= 2:
        columns, wide = max(1, columns // 2), int(2 * side * ratio)
        cell = wide, max(round(wide * picture.height / picture.width) for picture in pictures)
    else:
        cell = side, side
    rows = -(-len(files) // columns)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    for number, picture in enumerate(pictures):
        picture.thumbnail((cell[0] - 4, cell[1] - 4))
        sheet.paste(picture, (number % columns * cell[0] + 2, number // columns * cell[1] + 2))
    return np.asarray(sheet)
