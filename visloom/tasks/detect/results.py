"""Detections as files: lines of a table, and the JSON that COCO's evaluation reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def lines_of(row: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[Any, ...]]:
    """Class, score and corners in pixels of each detection of a picture."""
    columns = zip(row["boxes"], row["scores"], row["labels"], strict=True)
    return [
        (classes[int(label)], float(score), *(round(float(v), 2) for v in box))
        for box, score, label in columns
    ]


def coco_results(row: Mapping[str, Any], ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of a picture as COCO results.

    row: "file" with "boxes" (N, 4), "scores", "labels", and "masks" (N, H, W) or "keypoints" (N, K, 3) if any.
    ids: category id of each class. A picture's id is the number that its file is named by, as in COCO (000139.jpg is
    139), or else the file's name.
    """
    return list(_entries(row, ids))


def _entries(row: Mapping[str, Any], ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    stem = Path(row["file"]).stem
    picture: int | str = int(stem) if stem.isdecimal() else Path(row["file"]).name
    for place, (box, score, label) in enumerate(zip(row["boxes"], row["scores"], row["labels"], strict=True)):
        x0, y0, x1, y1 = (float(v) for v in box)
        entry: dict[str, Any] = {
            "image_id": picture,
            "category_id": ids[int(label)],
            "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(float(score), 6),
        }
        if "masks" in row:
            entry["segmentation"] = run_lengths(np.asarray(row["masks"][place]))
        if "keypoints" in row:
            # COCO names the pixel that a point lies in: its middle is half a pixel further
            points = np.asarray(row["keypoints"][place], np.float64) - (0.5, 0.5, 0.0)
            entry["keypoints"] = [round(float(v), 2) for v in points.ravel()]
        yield entry


def run_lengths(mask: NDArray[Any]) -> dict[str, Any]:
    """A mask (H, W) as COCO's uncompressed run lengths: column by column, first the zeros."""
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [len(flat)]])).tolist()
    if len(flat) and flat[0]:
        counts = [0, *counts]
    return {"size": list(mask.shape), "counts": counts}
