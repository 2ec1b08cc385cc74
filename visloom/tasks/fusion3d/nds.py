"""NDS: the nuScenes detection score and what it is made of, as nuscenes-devkit defines it (Caesar et al.
2020, section 3).

Average precision by distance of centres on the ground at 0.5, 1, 2 and 4 metres; five errors of the true positives at 2
metres (translation, scale, orientation, velocity, attribute); and their score. `evaluate` is a function of arrays; the
metric of an evaluation is `Nds` in `metric.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import heading, rotation_matrix
from visloom.data.truth import Truth, WorldBoxes

Floats = NDArray[np.float64]
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
_POINTS = 101  # of the recall axis


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How detections are judged; the default is nuScenes' configuration of 2019.

    reach: metres from the car within which a class counts.  far: for classes that are not named.
    unturned: classes whose orientation, velocity and attribute do not count.  unmoved: whose velocity and
    attribute do not.
    half_turn: classes that look the same from behind.  in_racks: classes that do not count inside a rack.
    """

    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    matched_at: float = 2.0
    min_recall: float = 0.1
    min_precision: float = 0.1
    most: int = 500
    reach: Mapping[str, float] = field(
        default_factory=lambda: {
            "car": 50, "truck": 50, "bus": 50, "trailer": 50, "construction_vehicle": 50, "pedestrian": 40,
            "motorcycle": 40, "bicycle": 40, "traffic_cone": 30, "barrier": 30,
        }
    )  # fmt: skip
    far: float = 50.0
    unturned: tuple[str, ...] = ("traffic_cone",)
    unmoved: tuple[str, ...] = ("barrier",)
    half_turn: tuple[str, ...] = ("barrier",)
    in_racks: tuple[str, ...] = ("bicycle", "motorcycle")


@dataclass(frozen=True, eq=False)
class Curve:
    """One class at one distance, over recall 0, 0.01 ... 1: precision, confidence and running means of the errors."""

    precision: Floats
    confidence: Floats
    errors: Mapping[str, Floats]

    @property
    def last(self) -> int:
        """The highest recall that is reached, in hundredths."""
        reached = np.flatnonzero(self.confidence)
        return int(reached[-1]) if len(reached) else 0


_NOTHING = Curve(np.zeros(_POINTS), np.zeros(_POINTS), {name: np.ones(_POINTS) for name in ERRORS})


@dataclass(frozen=True, eq=False)
class Scores:
    """What an evaluation found. Fractions in [0, 1]; errors in metres, 1 - IoU, radians, m/s and 1 - accuracy.

    aps: class -> distance -> AP.  class_errors: class -> error -> value, NaN where it does not count.
    curves: class -> distance -> curve.
    """

    aps: Mapping[str, Mapping[float, float]]
    class_errors: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, Mapping[float, Curve]]

    @property
    def class_aps(self) -> dict[str, float]:
        """Mean AP over distances of each class."""
        return {name: float(np.mean(list(each.values()))) for name, each in self.aps.items()}

    @property
    def mean_ap(self) -> float:
        return float(np.mean(list(self.class_aps.values())))

    @property
    def errors(self) -> dict[str, float]:
        """Each error, over the classes where it counts; NaN if it counts nowhere."""
        rows = {name: [each[name] for each in self.class_errors.values()] for name in ERRORS}
        return {
            name: float(np.nanmean(row)) if not np.isnan(row).all() else float("nan")
            for name, row in rows.items()
        }

    @property
    def nds(self) -> float:
        """(5 mAP + sum of max(0, 1 - error)) / 10."""
        good = [max(0.0, 1.0 - error) for error in self.errors.values()]
        return float((5 * self.mean_ap + sum(good)) / 10)

    def summary(
        self, rules: Rules, seconds: float = 0.0, meta: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The devkit's metrics_summary.json."""
        errors = self.errors
        reach = {name: rules.reach.get(name, rules.far) for name in self.aps}
        whole = {name: int(far) if float(far).is_integer() else far for name, far in reach.items()}
        return {
            "label_aps": {n: {str(d): ap for d, ap in each.items()} for n, each in self.aps.items()},
            "mean_dist_aps": self.class_aps,
            "mean_ap": self.mean_ap,
            "label_tp_errors": {name: dict(each) for name, each in self.class_errors.items()},
            "tp_errors": errors,
            "tp_scores": {name: max(0.0, 1.0 - error) for name, error in errors.items()},
            "nd_score": self.nds,
            "eval_time": seconds,
            "cfg": {
                "class_range": whole,  # as the devkit writes them: 50, not 50.0
                "dist_fcn": "center_distance",
                "dist_ths": list(rules.distances),
                "dist_th_tp": rules.matched_at,
                "min_recall": rules.min_recall,
                "min_precision": rules.min_precision,
                "max_boxes_per_sample": rules.most,
                "mean_ap_weight": 5,
            },
            "meta": dict(meta or {}),
        }


def evaluate(
    found: Mapping[str, WorldBoxes],
    truths: Sequence[Truth],
    classes: Sequence[str],
    rules: Rules | None = None,
) -> Scores:
    """Compare detections with the truth.

    Args:
        found: by token; a moment without an entry has no detections. Boxes of one score rank later ones first, as the
            devkit does.
        truths: one per moment, in the order in which ties are broken.
        classes: names by label.
    """
    rules = rules or Rules()
    far = np.array([rules.reach.get(name, rules.far) for name in classes])
    racked = np.array([name in rules.in_racks for name in classes])
    true, seen = [], []
    for truth in truths:
        boxes = truth.boxes.pick(truth.boxes.points != 0)
        true.append(_counted(boxes, truth, far, racked))
        seen.append(_counted(found.get(truth.token, WorldBoxes.none()), truth, far, racked))
    curves: dict[str, dict[float, Curve]] = {}
    for label, name in enumerate(classes):
        pairs = [
            (t.pick(t.label == label), s.pick(s.label == label)) for t, s in zip(true, seen, strict=True)
        ]
        curves[name] = {d: _curve(pairs, d, name in rules.half_turn) for d in rules.distances}
        if rules.matched_at not in curves[name]:
            curves[name][rules.matched_at] = _curve(pairs, rules.matched_at, name in rules.half_turn)
    first = round(100 * rules.min_recall) + 1
    aps = {
        name: {d: _precision(curves[name][d], first, rules.min_precision) for d in rules.distances}
        for name in classes
    }
    errors = {name: _errors(curves[name][rules.matched_at], first, name, rules) for name in classes}
    return Scores(aps, errors, curves)


def _counted(boxes: WorldBoxes, truth: Truth, far: Floats, racked: NDArray[np.bool_]) -> WorldBoxes:
    """The boxes that are near enough for their class and in no rack."""
    away = np.hypot(*(boxes.center[:, :2] - truth.origin).T)
    keep = (boxes.label >= 0) & (away < far[boxes.label])
    if len(truth.racks) and racked[boxes.label].any():
        keep &= ~(racked[boxes.label] & _inside(boxes.center, truth.racks))
    return boxes.pick(keep)


def _inside(points: Floats, racks: WorldBoxes) -> NDArray[np.bool_]:
    """Which points lie in any of some boxes: (N,)."""
    away = points[:, None] - racks.center  # (N, R, 3)
    own = np.einsum("nri,rij->nrj", away, rotation_matrix(racks.rotation))
    half = racks.size[:, [1, 0, 2]] / 2  # length lies along x
    return np.asarray((np.abs(own) <= half).all(-1).any(-1))


def _curve(pairs: Sequence[tuple[WorldBoxes, WorldBoxes]], within: float, half_turn: bool) -> Curve:
    """Match detections of one class to its truth, the surest first, and draw the curve."""
    count = sum(len(true) for true, _ in pairs)
    if not count:
        return _NOTHING
    scores = np.concatenate([seen.score for _, seen in pairs])
    order = np.lexsort((np.arange(len(scores)), scores))[::-1]
    hit, errors, start = np.zeros(len(scores), bool), np.full((len(scores), len(ERRORS)), np.nan), 0
    for true, seen in pairs:
        rows = slice(start, start + len(seen))
        which = _match(true, seen, within)
        hit[rows] = which >= 0
        errors[rows][which >= 0] = _differences(
            true.pick(which[which >= 0]), seen.pick(which >= 0), half_turn
        )
        start += len(seen)
    if not hit.any():
        return _NOTHING
    hit, errors, scores = hit[order], errors[order], scores[order]
    tp = np.cumsum(hit).astype(np.float64)
    recall, precision = tp / count, tp / np.arange(1, len(tp) + 1)
    axis = np.linspace(0, 1, _POINTS)
    confidence = np.interp(axis, recall, scores, right=0)
    sure = scores[hit][::-1]
    means = {
        name: np.interp(confidence[::-1], sure, _running_mean(errors[hit, i])[::-1])[::-1]
        for i, name in enumerate(ERRORS)
    }
    return Curve(np.interp(axis, recall, precision, right=0), confidence, means)


def _match(true: WorldBoxes, seen: WorldBoxes, within: float) -> NDArray[np.int64]:
    """For each detection of a moment the nearest box that no surer one took, if it is nearer than this; else -1."""
    which = np.full(len(seen), -1, np.int64)
    if not len(true) or not len(seen):
        return which
    away = np.linalg.norm(seen.center[:, None, :2] - true.center[None, :, :2], axis=-1)  # (S, T)
    for i in np.lexsort((np.arange(len(seen)), seen.score))[::-1].tolist():
        best = int(away[i].argmin())
        if away[i, best] < within:
            which[i] = best
            away[:, best] = np.inf
    return which


def _differences(true: WorldBoxes, seen: WorldBoxes, half_turn: bool) -> Floats:
    """The five errors of matched boxes: (N, 5)."""
    apart = np.linalg.norm(true.center[:, :2] - seen.center[:, :2], axis=1)
    both = np.minimum(true.size, seen.size).prod(1)
    overlap = both / (true.size.prod(1) + seen.size.prod(1) - both)
    period = np.pi if half_turn else 2 * np.pi
    turn = (heading(true.rotation) - heading(seen.rotation) + period / 2) % period - period / 2
    turn = np.where(turn > np.pi, turn - 2 * np.pi, turn)
    speed = np.linalg.norm(seen.velocity - true.velocity, axis=1)
    attribute = np.where(true.attribute < 0, np.nan, (true.attribute != seen.attribute).astype(np.float64))
    return np.stack([apart, 1 - overlap, np.abs(turn), speed, attribute], 1)


def _running_mean(values: Floats) -> Floats:
    """Means of the first 1, 2, ... values without the NaN ones, 0 before the first; ones if all are NaN."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    return np.asarray(np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count != 0))


def _precision(curve: Curve, first: int, least: float) -> float:
    """Normalised area under the part of the curve above least recall and precision."""
    high = np.clip(curve.precision[first:] - least, 0, None)
    return float(high.mean() / (1 - least))


def _errors(curve: Curve, first: int, name: str, rules: Rules) -> dict[str, float]:
    """Mean errors between the least recall and the highest one that is reached; 1 if it is never reached."""
    ignored: tuple[str, ...] = ()
    if name in rules.unturned:
        ignored = ("orient_err", "vel_err", "attr_err")
    elif name in rules.unmoved:
        ignored = ("vel_err", "attr_err")
    last = curve.last
    found = {}
    for each in ERRORS:
        if each in ignored:
            found[each] = float("nan")
        else:
            found[each] = 1.0 if last < first else float(curve.errors[each][first : last + 1].mean())
    return found
