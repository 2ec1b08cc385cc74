"""Which charts a page has: losses, metrics, learning rates, speed; of one run, or of several laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from visloom.report.read import Record, items, mapping
from visloom.report.svg import COLOURS, Series, chart
from visloom.words import number, rate

_CHARTS = 14  # metrics that get a chart of their own
_TRAIN = 0  # colour of training; evaluations take the ones after it


def learning(record: Record) -> list[Markup]:
    """Return the charts of losses, metrics and learning rates of one run."""
    figures = [_value_chart(record, "loss", title="loss")]
    figures += [_terms_chart(record)]
    together = _together(record)
    alone = [name for name in _metrics([record]) if name not in together]
    figures += [_value_chart(record, name, title=name) for name in alone[:_CHARTS]]
    figures += [_shared_chart(record, split, together) for split in record.splits if together]
    figures += [_group_chart(record, group) for group in _groups(record)]
    figures += [_rates_chart(record)]
    return [figure for figure in figures if figure]


def speed(record: Record) -> list[Markup]:
    """Return the charts of speed of one run."""
    images, wait = (
        record.pace_curve("images_per_second"),
        [(x, 100 * y) for x, y in record.pace_curve("wait_share")],
    )
    figures = [
        chart(
            [Series("median of log points", images, 2, named=False)],
            zero=True,
            **_frame(record, "images per second"),
        ),
        chart(
            [Series("", wait, 1, named=False)], zero=True, **_frame(record, "waiting for data, % of the time")
        ),
    ]
    return [figure for figure in figures if figure]


def overlaid(records: Sequence[Record]) -> list[Markup]:
    """Return charts with one curve per run: losses, metrics, the learning rate and the speed."""
    by_epoch = all(record.by_epoch for record in records)
    x_name = "epoch" if by_epoch else "step"
    figures = []
    for split in dict.fromkeys(["train", *(s for r in records for s in r.splits)]):
        kind = "train" if split == "train" else "eval"
        names = dict.fromkeys(n for r in records for n in r.names(kind, split=split) if "/" not in n)
        for name in list(names)[:_CHARTS]:
            curves = [_common(r, r.curve(kind, split, name), by_epoch) for r in records]
            figures.append(_overlay(records, curves, f"{split} {name}", x_name, dots=kind == "eval"))
    rates = [_common(r, _first_rate(r), by_epoch) for r in records]
    figures.append(_overlay(records, rates, "learning rate", x_name, rates=True))
    pace = [_common(r, r.pace_curve("images_per_second"), by_epoch) for r in records]
    figures.append(_overlay(records, pace, "images per second", x_name, zero=True))
    return [figure for figure in figures if figure]


def of_table(value: Any) -> Markup:
    """Return the chart of an evaluation's table "curves", of its first series with their means; nothing if it is
    damaged."""
    series, title, x_name, note = series_of(value)
    return chart(series, title=title, x_name=x_name, zero=True, note=note)


def series_of(value: Any) -> tuple[list[Series], str, str, str]:
    """Read a table "curves": its first series, title, name of the axis, and a note if there are more series.

    A series has a value for each x, or None where it has none.
    """
    told = mapping(value)
    xs, named = items(told.get("x")), mapping(told.get("series"))
    series: list[Series] = []
    for name, ys in named.items():
        if (
            isinstance(ys, list)
            and len(ys) == len(xs)
            and all(v is None or _is_number(v) for v in (*xs, *ys))
        ):
            points = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
            mean = sum(y for _, y in points) / max(1, len(points))
            series.append(Series(str(name), points, len(series), said=mean))
    more = len(named) - COLOURS
    note = f"the {COLOURS} most frequent of {len(named)} classes" if more > 0 else ""
    return series[:COLOURS], str(told.get("title", "curves")), str(told.get("x_name", "x")), note


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _overlay(
    records: Sequence[Record], curves: Sequence[list[tuple[float, float]]], title: str, x_name: str, *,
    dots: bool = False, rates: bool = False, zero: bool = False,
) -> Markup:  # fmt: skip
    series = [
        Series(record.name, curve, place % COLOURS, "dots" if dots else "line")
        for place, (record, curve) in enumerate(zip(records, curves, strict=True))
        if curve
    ]
    log = rates and _wide(series)
    zero = zero or (rates and not log)
    return chart(series, title=title, x_name=x_name, log=log, zero=zero, written=rate if rates else number)


def _wide(series: Sequence[Series]) -> bool:
    """Say whether learning rates need a logarithmic axis: half of them would lie on the ground of a linear one."""
    values = sorted(y for one in series for _, y in one.points if math.isfinite(y))
    return bool(values) and values[0] > 0 and values[len(values) // 2] < values[-1] / 30


def _common(record: Record, curve: list[tuple[float, float]], by_epoch: bool) -> list[tuple[float, float]]:
    """Bring a curve to the unit that all runs share."""
    factor = record.steps_per_epoch if record.by_epoch and not by_epoch else 1.0
    return [(x * factor, y) for x, y in curve]


def _first_rate(record: Record) -> list[tuple[float, float]]:
    names = record.names("train", "lr")
    return record.curve("train", "train", names[0], "lr") if names else []


def _frame(record: Record, title: str) -> dict[str, Any]:
    marks = [(record.x(row["step"]), row["step"]) for row in record.starts if row["step"] > 0]
    return {"title": title, "x_name": "epoch" if record.by_epoch else "step", "marks": marks}


def _value_chart(record: Record, name: str, *, title: str) -> Markup:
    """Training and every evaluation of one value on one plot."""
    window = record.curve("train", "train", name)
    epoch = record.curve("epoch", "train", name)
    series = []
    if len(epoch) >= 2:
        series = [Series("train", window, _TRAIN, "faint", named=False), Series("train", epoch, _TRAIN)]
    elif window:
        series = [Series("train", window, _TRAIN)]
    curves = {split: record.curve("eval", split, name) for split in record.splits}
    counted = [split for split, points in curves.items() if any(math.isfinite(y) for _, y in points)]
    loss = name.partition("/")[0] == "loss"
    for place, (split, points) in enumerate(curves.items()):
        if points and (split in counted or (loss and not counted)):  # nothing to count is NaN
            series.append(Series(split, points, 1 + place % (COLOURS - 1), "dots"))
    bare = [] if counted or loss else [split for split, points in curves.items() if points]
    note = f"no labels in {', '.join(bare)}" if bare else ""
    best = record.best
    ring = (record.x(best.step), best.value) if best is not None and best.name == name else None
    return chart(series, best=ring, note=note, **_frame(record, title))


def _terms_chart(record: Record) -> Markup:
    """The loss terms, where there are several: training as lines, the first evaluation as dots."""
    names = [n for n in record.names("train") if n.startswith("loss/")]
    series = []
    for place, name in enumerate(names[:COLOURS]):
        epoch = record.curve("epoch", "train", name)
        points = epoch if len(epoch) >= 2 else record.curve("train", "train", name)
        series.append(Series(name.removeprefix("loss/"), points, place))
    return chart(series, **_frame(record, "loss terms, train")) if len(series) > 1 else Markup("")


def _metrics(records: Sequence[Record]) -> list[str]:
    """Names of values that are no loss and belong to no group, those of evaluations first."""
    names = [n for r in records for kind in ("eval", "train") for n in r.names(kind)]
    return [n for n in dict.fromkeys(names) if n != "loss" and "/" not in n]


def _together(record: Record) -> list[str]:
    """Names of metrics that share one chart per evaluation: shares of 1 that training does not report.

    The value that decides keeps a chart of its own, and so does a single one.
    """
    trained = {*record.names("train"), *record.names("epoch")}
    decides = record.best.name if record.best is not None else ""
    found = [
        name
        for name in _metrics([record])
        if name not in trained
        and name != decides
        and all(0 <= y <= 1 for split in record.splits for _, y in record.curve("eval", split, name))
    ]
    return found if len(found) > 1 else []


def _shared_chart(record: Record, split: str, names: Sequence[str]) -> Markup:
    curves = [(name, record.curve("eval", split, name)) for name in names]
    shown = [(name, curve) for name, curve in curves if curve]
    series = [Series(name, curve, 1 + i % (COLOURS - 1), "dots") for i, (name, curve) in enumerate(shown)]
    note = f"the first {COLOURS} of {len(series)}" if len(series) > COLOURS else ""
    return chart(series[:COLOURS], note=note, **_frame(record, split))


def _groups(record: Record) -> list[tuple[str, str, list[str]]]:
    """Values named GROUP/NAME of one evaluation, such as one per class: (evaluation, group, names)."""
    found: dict[tuple[str, str], list[str]] = {}
    for split in record.splits:
        for name in record.names("eval", split=split):
            group, slash, _ = name.partition("/")
            if slash and group != "loss":
                found.setdefault((split, group), []).append(name)
    return [(split, group, names) for (split, group), names in found.items()]


def _group_chart(record: Record, group: tuple[str, str, list[str]]) -> Markup:
    split, prefix, names = group
    series = [
        Series(name.partition("/")[2], record.curve("eval", split, name), place, "dots")
        for place, name in enumerate(names[:COLOURS])
    ]
    note = f"the first {COLOURS} of {len(names)}" if len(names) > COLOURS else ""
    return chart(series, note=note, **_frame(record, f"{prefix}, {split}"))


def _rates_chart(record: Record) -> Markup:
    names = record.names("train", "lr")
    series = [Series(n, record.curve("train", "train", n, "lr"), i) for i, n in enumerate(names[:COLOURS])]
    wide = _wide(series)
    note = f"the first {COLOURS} of {len(names)} rules" if len(names) > COLOURS else ""
    frame = _frame(record, "learning rate")
    return chart(series, log=wide, zero=not wide, note=note, written=rate, **frame)
