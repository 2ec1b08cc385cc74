"""Metrics of parsing: sums over the whole set, never means of means. A head without labels in an evaluation is NaN.

object_miou, object_accuracy      mean IoU over the classes that occur, share of labelled pixels that are right
object_miou_all                   the original's mean: a class that does not occur counts as 0
part_miou, part_accuracy          mean over objects of the IoU of their parts ("mIoU-bg": background is no class of
                                  it, but what is predicted on it counts), and of the share of right part pixels
scene_accuracy                    share of pictures whose class is right

Each metric has a table of its classes, NAME_classes, and knows from it what answering without looking gives (`floor`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visloom.metrics import merge_sums
from visloom.tasks.parse.heads import Head, Parts, Pixels
from visloom.tasks.segment.metrics import confusion, per_class

if TYPE_CHECKING:
    from torch import Tensor

    from visloom.task import Batch, Predictions


class _Sums:
    """A metric whose state is named integer sums."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = dict(shapes)
        self._sums: dict[str, Tensor] = {}

    def add(self, **new: Tensor) -> None:
        """Add to the sums."""
        self._sums = {name: self._sums[name] + v if self._sums else v for name, v in new.items()}

    def state(self) -> dict[str, Tensor]:
        import torch

        return self._sums or {n: torch.zeros(s, dtype=torch.int64) for n, s in self._shapes.items()}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._sums = merge_sums(states)

    def tables(self) -> dict[str, Any]:
        return {}


class PixelHead(_Sums):
    """Confusion of a head of pixels, over labelled pixels."""

    def __init__(self, head: Pixels) -> None:
        count = len(head.classes)
        super().__init__({"matrix": (count, count)})
        self.head = head

    @property
    def names(self) -> tuple[str, ...]:
        name = self.head.name
        return f"{name}_miou", f"{name}_accuracy", f"{name}_miou_all"

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Reads the predicted masks (h, w) of the head and `batch.masks`."""
        name = self.head.name
        if name not in batch.masks or name not in predictions:  # type: ignore[attr-defined]
            return
        for row, (height, width) in enumerate(batch.sizes):  # type: ignore[attr-defined]
            truth = batch.masks[name][row, :height, :width]  # type: ignore[attr-defined]
            self.add(matrix=confusion(truth, predictions[name][row], len(self.head.classes)))

    def compute(self) -> dict[str, float]:
        counts = per_class(self.state()["matrix"].tolist())[self.head.first :]
        total = sum(true for _, true, _ in counts)
        iou = [hits / max(1, true + answers - hits) for hits, true, answers in counts]
        there = [i for i, (_, true, _) in zip(iou, counts, strict=True) if true]
        values = (
            (math.fsum(there) / len(there), sum(c[0] for c in counts) / total, math.fsum(iou) / len(iou))
            if total
            else (math.nan, math.nan, math.nan)
        )
        return dict(zip(self.names, values, strict=True))

    def tables(self) -> dict[str, Any]:
        counts = per_class(self.state()["matrix"].tolist())
        total = sum(true for _, true, _ in counts) or 1
        rows = [
            [name, f"{100 * true / total:.2f} %", true, hits / max(1, true + answers - hits)]
            for name, (hits, true, answers) in zip(self.head.classes, counts, strict=True)
            if true
        ]
        return _table(self.head.name, ["of all pixels", "pixels", "IoU"], rows)

    def floor(self, tables: Mapping[str, Any], value: str) -> tuple[str, float] | None:
        """What the commonest class everywhere gives in one of the values."""
        found = {name: true for name, _, true, _ in _rows(tables, self.head.name)}
        if value not in self.names or not found:
            return None
        best = max(found, key=lambda name: found[name])
        share = found[best] / sum(found.values())
        every = len(self.head.classes) - self.head.first
        values = (share / len(found), share, share / every)
        return f"all {best!r}", values[self.names.index(value)]


class PartHead(_Sums):
    """Parts inside objects, in pictures where parts of that object are labelled.

    A predicted part counts only where its object is predicted as well, on and off the true object (reference D).
    """

    def __init__(self, head: Parts, objects: Pixels) -> None:
        self.head, self.blocks = head, head.blocks(objects)
        count = len(head.labels)
        super().__init__({"hits": (count,), "true": (count,), "answers": (count,)})

    @property
    def names(self) -> tuple[str, ...]:
        name = self.head.name
        return f"{name}_miou", f"{name}_accuracy", f"{name}_miou_all"

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Reads the predicted part masks (h, w), -1 where no object with parts is, and `batch.masks`."""
        import torch

        name, count = self.head.name, len(self.head.labels)
        if name not in batch.masks or name not in predictions:  # type: ignore[attr-defined]
            return
        sizes = torch.tensor(self.head.sizes)
        block_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # (K,)
        for row, (height, width) in enumerate(batch.sizes):  # type: ignore[attr-defined]
            truth = batch.masks[name][row, :height, :width].long().flatten()  # type: ignore[attr-defined]
            found = predictions[name][row].long().flatten()
            tables = [
                torch.bincount(values.clamp_min(-1) + 1, minlength=count + 1)[1:]
                for values in (torch.where(found == truth, truth, -1), truth, found)
            ]
            # objects without a labelled part in this picture say nothing of its parts
            owner = block_of.to(truth.device)
            there = torch.zeros(len(sizes), dtype=torch.int64, device=truth.device).index_add(
                0, owner, tables[1]
            )
            known = (there > 0)[owner]
            self.add(hits=tables[0] * known, true=tables[1] * known, answers=tables[2] * known)

    def compute(self) -> dict[str, float]:
        hits, true, answers = (self.state()[n].tolist() for n in ("hits", "true", "answers"))
        present, everything, right = [], [], []
        for start, stop, *_ in self.blocks:
            pixels = sum(true[start + 1 : stop])
            if not pixels:
                continue
            iou = {i: hits[i] / max(1, true[i] + answers[i] - hits[i]) for i in range(start + 1, stop)}
            there = [value for i, value in iou.items() if true[i]]
            present.append(math.fsum(there) / len(there))
            everything.append(math.fsum(iou.values()) / len(iou))
            right.append(sum(hits[start + 1 : stop]) / pixels)
        lists = (present, right, everything)
        values = [math.fsum(found) / len(found) if found else math.nan for found in lists]
        return dict(zip(self.names, values, strict=True))

    def tables(self) -> dict[str, Any]:
        hits, true, answers = (self.state()[n].tolist() for n in ("hits", "true", "answers"))
        labels = self.head.labels
        rows = [
            [label, true[i], None if i == start else hits[i] / max(1, true[i] + answers[i] - hits[i])]
            for start, stop, *_ in self.blocks
            for i, label in enumerate(labels[start:stop], start=start)
            if true[i] and any(true[start + 1 : stop])
        ]
        return _table(self.head.name, ["pixels", "IoU"], rows)

    def floor(self, tables: Mapping[str, Any], value: str) -> tuple[str, float] | None:
        """What the commonest part wherever its object is gives in one of the values; outlines of objects are known."""
        found = {label: true for label, true, _ in _rows(tables, self.head.name)}
        if value not in self.names or not found:
            return None
        labels, best = self.head.labels, ""
        shares: list[tuple[float, ...]] = []
        for start, stop, *_ in self.blocks:
            parts = {label: found.get(label, 0) for label in labels[start + 1 : stop]}
            if not any(parts.values()):
                continue
            most = max(parts, key=lambda label: parts[label])
            true, there = parts[most], sum(map(bool, parts.values()))
            share = true / (sum(parts.values()) + found.get(labels[start], 0))
            shares.append((true, share / there, true / sum(parts.values()), share / len(parts)))
            best = most if true == max(each[0] for each in shares) else best
        _, *values = max(shares)
        return f"all {best!r}", values[self.names.index(value)] / len(shares)


class PictureHead(_Sums):
    """Share of labelled pictures whose class is right: scenes and textures."""

    def __init__(self, head: Head) -> None:
        count = len(head.labels)
        super().__init__({"hits": (count,), "true": (count,)})
        self.head = head

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.head.name}_accuracy",)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Reads the predicted classes (B,) and `batch.labels`."""
        import torch

        name, count = self.head.name, len(self.head.labels)
        if name not in batch.labels or name not in predictions:  # type: ignore[attr-defined]
            return
        truth: Tensor = batch.labels[name]  # type: ignore[attr-defined]
        right = torch.where(predictions[name] == truth, truth, -1)  # an answer is never -1
        hits, true = (torch.bincount(v + 1, minlength=count + 1)[1:] for v in (right, truth))
        self.add(hits=hits, true=true)

    def compute(self) -> dict[str, float]:
        right, seen = (int(self.state()[name].sum()) for name in ("hits", "true"))
        return {self.names[0]: right / seen if seen else math.nan}

    def tables(self) -> dict[str, Any]:
        hits, true = (self.state()[name].tolist() for name in ("hits", "true"))
        rows = [[n, t, h / t] for n, h, t in zip(self.head.labels, hits, true, strict=True) if t]
        return _table(self.head.name, ["pictures", "right"], rows)

    def floor(self, tables: Mapping[str, Any], value: str) -> tuple[str, float] | None:
        """What the commonest class gives."""
        found = {name: true for name, true, _ in _rows(tables, self.head.name)}
        if value not in self.names or not found:
            return None
        best = max(found, key=lambda name: found[name])
        return f"always {best!r}", found[best] / sum(found.values())


def _table(name: str, columns: Sequence[str], rows: list[Any]) -> dict[str, Any]:
    """The table of a head's classes, those that occur; none where nothing is labelled."""
    return {f"{name}_classes": {"columns": [name, *columns], "rows": rows}} if rows else {}


def _rows(tables: Mapping[str, Any], name: str) -> list[Any]:
    rows: list[Any] = tables.get(f"{name}_classes", {}).get("rows", [])
    return rows
