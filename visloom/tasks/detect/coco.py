"""CocoPrecision: the average precision and recall of COCO, of boxes, masks and keypoints, in one process or many.

Pictures are rows of a table keyed by sample id: any division among processes merges to the same numbers. hotcoco
(Rust, pycocotools' numbers to the last bit, some fifty times faster) matches and accumulates once, at the end. It is
called in the process that evaluates and nowhere else: its threads are lost where a process forks, and a data worker
that called it would wait for ever. A process that was forked from one that had counted asks a new one to count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.tasks.detect.batch import Numbered
from visloom.tasks.detect.rows import ByPicture

if TYPE_CHECKING:
    from visloom.task import Batch, Predictions

MOST = 100
"""Detections of a picture and class that count; of those with keypoints COCO takes 20."""

SIGMAS = (0.026, *(0.025,) * 2, *(0.035,) * 2, *(0.079,) * 2, *(0.072,) * 2, *(0.062,) * 2, *(0.107,) * 2,
          *(0.087,) * 2, *(0.089,) * 2)  # fmt: skip
"""How far apart people put each of COCO's 17 keypoints, in units of the object's size."""

BETWEEN_PEOPLE = 0.05  # for keypoints of other data sets, whose spread nobody has measured

_KINDS = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}
_WORDS = {"boxes": "", "masks": "mask_", "keypoints": "keypoint_"}
_SIZES = ("", "_small", "_medium", "_large")

Rle = dict[str, Any]


class Row(NamedTuple):
    """One picture: what was found and what there is, in stored pixels.

    size: (height, width).  labels, scores, boxes (N, 4): detections, best first.  truths, true_boxes (M, 4), crowd,
    areas (M,): the truth.  masks, points (N, K, 3) and true_masks, true_points: of these, where they are counted.
    """

    size: tuple[int, int]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    truths: NDArray[np.int64]
    true_boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    masks: list[Rle] | None = None
    true_masks: list[Rle] | None = None
    points: NDArray[np.float64] | None = None
    true_points: NDArray[np.float64] | None = None


class Counted(NamedTuple):
    """COCO's tables. precision: (10 overlaps, 101 recalls, K classes, 4 sizes, numbers of detections), -1 where there
    is no truth; recall: the same without recalls.  numbers: of detections, the last one that of COCO's AP.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    numbers: tuple[int, ...]


class CocoPrecision(ByPicture[Row]):
    """COCO's twelve numbers: "ap" (mean over overlaps 0.5 to 0.95), "ap50", "ap75", "ap_small", "ap_medium" and
    "ap_large" (areas below 32 x 32, to 96 x 96, above), and the recalls "ar1", "ar10", "ar100" (that many detections),
    "ar_small", "ar_medium", "ar_large"; the same of masks as "mask_ap", ..., of keypoints as "keypoint_ap", ...

    NaN where there is nothing of a size. Classes without truth in the data do not count. Source: Lin et al. 2014.

    Args:
        masks: also count masks (column "masks", (N, H, W) bool).
        keypoints: number of keypoints per object (column "keypoints", (N, K, 3)); 0 counts none.
        sigmas: spread of each keypoint; () takes COCO's own for 17, else 0.05.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        masks: bool = False,
        keypoints: int = 0,
        sigmas: Sequence[float] = (),
    ) -> None:
        super().__init__(classes)
        self.kinds = ("boxes", *(("masks",) if masks else ()), *(("keypoints",) if keypoints else ()))
        spread = SIGMAS if keypoints == len(SIGMAS) else (BETWEEN_PEOPLE,) * keypoints
        self.sigmas = tuple(sigmas) or spread
        self._counted: dict[str, Counted] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for kind in self.kinds for name, *_ in _numbers(kind))

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Take in one batch. Reads the columns boxes, scores, labels (masks, keypoints) and `batch.known`."""
        self._counted = None
        for place, name in enumerate(batch.ids):
            known = batch.known[place]  # type: ignore[attr-defined]
            found = {
                column: _host(predictions[column][place])
                for column in ("boxes", "scores", "labels", *self.kinds[1:])
            }
            self._rows[name] = self._row(found, known)

    def _row(self, found: Mapping[str, Any], known: Any) -> Row:
        boxes = known.boxes.astype(np.float64)
        sides = boxes[:, 2:] - boxes[:, :2]
        masks = "masks" in self.kinds
        points = "keypoints" in self.kinds
        row = Row(
            known.size,
            found["labels"].astype(np.int64),
            found["scores"].astype(np.float64),
            found["boxes"].astype(np.float64).reshape(-1, 4),
            known.labels.astype(np.int64),
            boxes,
            known.crowd,
            np.asarray(known.extra.get("box_area", sides.prod(1)), np.float64),
            encoded(found["masks"]) if masks else None,
            _encoded(known.masks, known.size) if masks else None,
            found["keypoints"].astype(np.float64) if points else None,
            _points(known.keypoints, len(boxes), len(self.sigmas)) if points else None,
        )
        order = np.argsort(-row.scores, kind="stable")
        return row._replace(
            labels=row.labels[order],
            scores=row.scores[order],
            boxes=row.boxes[order],
            masks=None if row.masks is None else [row.masks[i] for i in order],
            points=None if row.points is None else row.points[order],
        )

    def merge(self, states: Sequence[Mapping[str, Row]]) -> None:
        super().merge(states)
        self._counted = None

    def compute(self) -> dict[str, float]:
        counted = self.counted()
        return {name: _mean(part(counted[kind])) for kind in self.kinds for name, part, _ in _numbers(kind)}

    def tables(self) -> dict[str, Any]:
        """The table "per_class", and "curves": precision at the recalls 0, 0.01, ..., 1 of each class at overlap
        0.5."""
        counted = self.counted()
        boxes = np.zeros(len(self.classes), np.int64)
        for row in self._rows.values():
            np.add.at(boxes, row.truths[~row.crowd], 1)
        there = [label for label in range(len(self.classes)) if boxes[label]]
        columns = [
            (kind, name, part) for kind in self.kinds for name, part, by_class in _numbers(kind) if by_class
        ]
        rows = [
            [
                self.classes[label],
                *(_mean(part(counted[kind], label)) for kind, _, part in columns),
                int(boxes[label]),
            ]
            for label in there
        ]
        curves = {
            self.classes[label]: [round(float(v), 4) for v in counted["boxes"].precision[0, :, label, 0, -1]]
            for label in sorted(there, key=lambda label: -boxes[label])
        }
        recalls = [round(0.01 * i, 2) for i in range(101)]
        return {
            "per_class": {"columns": ["class", *(name for _, name, _ in columns), "boxes"], "rows": rows},
            "curves": {
                "title": "Precision by recall, overlap 0.5",
                "x_name": "recall",
                "x": recalls,
                "series": curves,
            },
        }

    def counted(self) -> dict[str, Counted]:
        """COCO's tables of each kind."""
        if self._counted is None:
            self._counted = {kind: self._count(kind, self.rows()) for kind in self.kinds}
        return self._counted

    def _count(self, kind: str, rows: Sequence[Row]) -> Counted:
        given = (self.classes, self.sigmas, kind, rows)
        if not _threads.lost:
            return count(*given)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            return fresh.submit(count, *given).result()


class _Threads:
    """Whether the library's threads run in this process, or were lost when it was forked."""

    started = lost = False

    def forked(self) -> None:
        self.lost = self.started


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forked)


def count(classes: Sequence[str], sigmas: Sequence[float], kind: str, rows: Sequence[Row]) -> Counted:
    """COCO's tables of one kind, by the library."""
    from hotcoco import COCO, COCOeval

    _threads.started = True
    truth = COCO({
        "images": [
            {"id": number, "height": row.size[0], "width": row.size[1]} for number, row in enumerate(rows, 1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, 1)],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(_truths(kind, rows), 1)],
    })  # fmt: skip
    evaluator = COCOeval(truth, truth.load_res(list(_results(kind, rows))), _KINDS[kind])
    if kind == "keypoints":
        evaluator.params.kpt_oks_sigmas = list(sigmas)
    evaluator.evaluate()
    evaluator.accumulate()
    found = evaluator.eval
    assert found is not None
    return Counted(found["precision"], found["recall"], tuple(evaluator.params.max_dets))


def _numbers(kind: str) -> Iterator[tuple[str, Any, bool]]:
    """The numbers of a kind: name, the part of COCO's tables that it is the mean of, whether a class has it too."""
    word = _WORDS[kind]
    sizes = [
        place for place in range(4) if kind != "keypoints" or place != 1
    ]  # of small persons COCO has none
    for end, overlap in (("", slice(None)), ("50", 0), ("75", 5)):
        yield f"{word}ap{end}", _part("precision", overlap, 0), True
    for place, size in enumerate(sizes[1:], 1):
        yield f"{word}ap{_SIZES[size]}", _part("precision", slice(None), place), False
    if kind == "keypoints":
        for end, overlap in (("", slice(None)), ("50", 0), ("75", 5)):
            yield f"{word}ar{end}", _part("recall", overlap, 0), False
    else:
        for place, most in enumerate((1, 10, MOST)):
            yield f"{word}ar{most}", _part("recall", slice(None), 0, place), False
    for place, size in enumerate(sizes[1:], 1):
        yield f"{word}ar{_SIZES[size]}", _part("recall", slice(None), place), False


def _part(name: str, overlap: Any, size: int, most: int = -1) -> Any:
    def part(counted: Counted, label: Any = slice(None)) -> NDArray[np.float64]:
        table: NDArray[np.float64] = getattr(counted, name)
        found: NDArray[np.float64] = table[overlap][..., label, size, most]
        return found

    return part


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of what there is; NaN of nothing."""
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")


def _truths(kind: str, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        for i, (label, box, crowd) in enumerate(zip(row.truths, row.true_boxes, row.crowd, strict=True)):
            entry: dict[str, Any] = {
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": _corner_and_sides(box),
                "area": float(row.areas[i]),
                "iscrowd": int(crowd),
            }
            if kind == "masks" and row.true_masks is not None:
                entry["segmentation"] = row.true_masks[i]
            if kind == "keypoints" and row.true_points is not None:
                entry["keypoints"] = row.true_points[i].ravel().tolist()
                entry["num_keypoints"] = int((row.true_points[i][:, 2] > 0).sum())
            yield entry


def _results(kind: str, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        for i, (label, score) in enumerate(zip(row.labels, row.scores, strict=True)):
            entry: dict[str, Any] = {
                "image_id": number,
                "category_id": int(label) + 1,
                "score": float(score),
            }
            if kind == "masks" and row.masks is not None:
                entry["segmentation"] = row.masks[i]
            elif kind == "keypoints" and row.points is not None:
                entry["keypoints"] = row.points[i].ravel().tolist()
            else:
                entry["bbox"] = _corner_and_sides(row.boxes[i])
            yield entry


def _corner_and_sides(box: NDArray[np.float64]) -> list[float]:
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _points(known: NDArray[Any] | None, boxes: int, keypoints: int) -> NDArray[np.float64]:
    return np.zeros((boxes, keypoints, 3)) if known is None else known.astype(np.float64)


def _host(column: Any) -> Any:
    return column.cpu().numpy() if hasattr(column, "cpu") else np.asarray(column)


def encoded(masks: NDArray[np.bool_]) -> list[Rle]:
    """Masks (N, H, W) bool as compressed run lengths."""
    from hotcoco import mask

    if not len(masks):
        return []
    stack: Any = np.asfortranarray(masks.transpose(1, 2, 0), np.uint8)  # (H, W, N)
    found: list[Rle] = mask.encode(stack)
    return found


def _encoded(known: Any, size: tuple[int, int]) -> list[Rle]:
    """What `Known` holds of masks as run lengths."""
    if isinstance(known, Numbered):
        return [encoded(pixels[None])[0] for pixels in known.each()]
    return [outlined(each, size) for each in known]


def outlined(polygons: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> Rle:
    """The pixels of one thing's polygons, each (K, 2), in a picture of (height, width), as COCO counts them."""
    from hotcoco import mask

    flat = [polygon.ravel().tolist() for polygon in polygons if len(polygon) > 2]
    if not flat:
        return encoded(np.zeros((1, *size), bool))[0]
    return mask.merge(mask.fr_py_objects(flat, *size))
