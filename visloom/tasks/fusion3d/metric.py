"""Nds: the metric of an evaluation. Detections are kept by picture, the truth by moment; boxes join at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from visloom.data.truth import Truth, WorldBoxes
from visloom.errors import DataError
from visloom.metrics import merge_tables
from visloom.tasks.fusion3d.nds import ERRORS, Scores, evaluate
from visloom.tasks.fusion3d.world import COLUMNS, Results, join_cameras, meta, to_world

if TYPE_CHECKING:
    from visloom.task import Batch
    from visloom.tasks.fusion3d.batch import FusionBatch
    from visloom.tasks.fusion3d.spec import Fusion3d

NAMES = {
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}

UNITS = {
    "trans_err": "translation error, metres,",
    "scale_err": "scale error, 1 - IoU,",
    "orient_err": "orientation error, radians,",
    "vel_err": "velocity error, m/s,",
    "attr_err": "attribute error, 1 - accuracy,",
}


class Nds:
    """ "nds", "map", the mean errors, and "ap/CLASS" of each class: see `visloom/tasks/fusion3d/nds.py`.

    Ties of scores are broken in the order of results.json, as the devkit does for nuScenes' own splits. A set without
    any truth reports NaN. Memory: K rows of about 80 bytes a picture.
    """

    def __init__(self, spec: Fusion3d) -> None:
        self.spec = spec
        self._found: list[tuple[tuple[str, ...], tuple[str, ...], dict[str, Tensor]]] = []
        self._table: dict[str, tuple[str, WorldBoxes]] = {}  # picture -> moment, boxes
        self._truth: dict[str, Truth] = {}  # by moment

    @property
    def names(self) -> tuple[str, ...]:
        return ("nds", "map", *NAMES.values(), *(f"ap/{name}" for name in self.spec.classes))

    def update(self, predictions: Mapping[str, Any], batch: Batch) -> None:
        """Keep a batch's detections, on their device until they are asked for, and its truth."""
        columns = {name: predictions[name] for name in (*COLUMNS, "pose")}
        self._found.append((tuple(predictions["ids"]), tuple(predictions["tokens"]), columns))
        for truth in cast("FusionBatch", batch).truth:
            if truth is not None:
                self._truth[truth.token] = truth

    def state(self) -> tuple[dict[str, tuple[str, WorldBoxes]], dict[str, Truth]]:
        self._settle()
        return self._table, self._truth

    def merge(self, states: Sequence[Any]) -> None:
        self._table = merge_tables([table for table, _ in states])
        self._truth = {token: truth for _, truths in states for token, truth in truths.items()}

    def _settle(self) -> None:
        """Bring what was predicted to the host and into the world."""
        compat = self.spec.compat
        for ids, tokens, columns in self._found:
            host = {name: values.detach().cpu().double().numpy() for name, values in columns.items()}
            for i, (name, token) in enumerate(zip(ids, tokens, strict=True)):
                if name in self._table:
                    raise DataError(f"picture {name!r} was evaluated twice")
                row = {column: host[column][i] for column in COLUMNS}
                boxes = to_world(row, host["pose"][i], lifted=compat.lifted, tipped=compat.tipped)
                self._table[name] = (token, boxes)
        self._found.clear()

    def _annotated(self) -> bool:
        """Whether there is any box to be found."""
        return any(len(truth.boxes) for truth in self._truth.values())

    def detections(self) -> dict[str, WorldBoxes]:
        """Detections of each moment, cameras joined, moments in the order of their names."""
        self._settle()
        cameras: dict[str, list[WorldBoxes]] = {token: [] for token in sorted(self._truth)}
        for _, (token, boxes) in sorted(self._table.items()):
            cameras.setdefault(token, []).append(boxes)
        merge = self.spec.merge and not self.spec.compat.duplicates
        return {
            t: join_cameras(parts, most=self.spec.rules.most, merge=merge) for t, parts in cameras.items()
        }

    def scores(self) -> Scores:
        """The whole result."""
        truths = [self._truth[token] for token in sorted(self._truth)]
        return evaluate(self.detections(), truths, self.spec.classes, self.spec.rules)

    def compute(self) -> dict[str, float]:
        if not self._annotated():
            return dict.fromkeys(self.names, float("nan"))
        scores = self.scores()
        errors = {NAMES[name]: value for name, value in scores.errors.items()}
        classes = {f"ap/{name}": value for name, value in scores.class_aps.items()}
        return {"nds": scores.nds, "map": scores.mean_ap, **errors, **classes}

    def tables(self) -> dict[str, Any]:
        """The table of classes; the devkit's summary; precision and the errors over recall, of boxes within 2 m."""
        if not self._annotated():
            return {}
        scores = self.scores()
        rows = [
            [name, scores.class_aps[name], *(each[error] for error in ERRORS)]
            for name, each in scores.class_errors.items()
        ]
        return {
            "per_class": {"columns": ["class", "AP", *(NAMES[error] for error in ERRORS)], "rows": rows},
            "metrics_summary": scores.summary(self.spec.rules),
            **self._curves(scores),
        }

    def _curves(self, scores: Scores) -> dict[str, Any]:
        """The tables "curves": classes that are annotated, the most frequent first, at the recalls 0, 0.01, ..., 1."""
        labels = np.concatenate([truth.boxes.label for truth in self._truth.values()])
        count = np.bincount(labels[labels >= 0], minlength=len(self.spec.classes))
        names = [self.spec.classes[i] for i in np.argsort(-count, kind="stable").tolist() if count[i]]
        within, first = self.spec.rules.matched_at, round(100 * self.spec.rules.min_recall)
        axis = {"x_name": "recall", "x": [round(0.01 * i, 2) for i in range(101)]}
        made: dict[str, Any] = {}
        for key, title in (
            ("", "Precision"),
            *((f"/{name}", f"Mean {said}") for name, said in UNITS.items()),
        ):
            series: dict[str, list[float | None]] = {}
            for name in names:
                curve = scores.curves[name][within]
                if not key:
                    series[name] = [round(float(v), 4) for v in curve.precision]
                elif math.isfinite(scores.class_errors[name][key[1:]]) and curve.last > first:
                    values = curve.errors[key[1:]].tolist()
                    series[name] = [
                        round(v, 4) if first < i <= curve.last and math.isfinite(v) else None
                        for i, v in enumerate(values)
                    ]
            made[f"curves{key}"] = {
                "title": f"{title} by recall, within {within:g} m",
                **axis,
                "series": series,
            }
        return made

    def write(self, folder: Path) -> list[str]:
        """Write metrics_summary.json as the devkit does, and the submission results.json; returns their names."""
        if not self._annotated():
            return []
        began = perf_counter()
        summary = self.scores().summary(self.spec.rules)
        summary |= {"eval_time": perf_counter() - began, "meta": meta(self.spec)}
        (folder / "metrics_summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
        with closing(Results(folder, self.spec)) as results:
            for token, boxes in self.detections().items():
                results.add(token, boxes)
            results.keep()
        return ["metrics_summary.json", "results.json"]


def goodness(predictions: Mapping[str, Any], batch: FusionBatch) -> Tensor:
    """Mean over a picture's annotated boxes of exp(-d / 2 m), d to the nearest sure box of its class: (B,),
    1 if none.
    """
    targets, calib = batch.targets, batch.calib
    from visloom.tasks.fusion3d.decode import cell_of, unproject

    width = targets.heat.shape[3]
    pixel = (cell_of(targets.index, width) + targets.center) * (batch.image.shape[2] / width)
    true = unproject(pixel, targets.depth[..., 0], calib)  # (B, M, 3)
    away = torch.cdist(true, predictions["center"])  # (B, M, K)
    fits = (targets.label[..., None] == predictions["label"][:, None]) & (predictions["score"][:, None] > 0.1)
    near = torch.where(fits, away, float("inf")).min(2).values  # (B, M)
    good = (-near / 2).exp() * targets.valid
    count = targets.valid.sum(1)
    return torch.where(count > 0, good.sum(1) / count.clamp_min(1), 1.0)
