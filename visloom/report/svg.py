"""Line charts as inline SVG: no script, no library, sharp at any size, coloured by the page's style sheet.

A chart is 440 units wide and takes the width of its place. Its colours are the classes `c0` to `c7`, so that light
and dark pages share one drawing. Long curves are thinned to what the eye can see, keeping every peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from visloom.words import number, safe, shorten

WIDTH, HEIGHT = 440, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 30
_BUCKETS = 240  # a longer curve keeps the lowest and the highest value of each of so many stretches
COLOURS = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One curve: its points in order of x. Non-finite values leave a gap.

    colour: 0 to 7.  style: `line`; `faint`, the noisy curve behind a line; `dots`, a line through measured points.
    named: it stands in the legend.  said: the value beside its name there; None is the last one.
    """

    label: str
    points: Sequence[Point]
    colour: int = 0
    style: Literal["line", "faint", "dots"] = "line"
    named: bool = True
    said: float | None = None


class Axis(NamedTuple):
    """A scale: values from low to high, where ticks stand, and whether it is logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value stands, 0 at low and 1 at high."""
        if self.log:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)


def text(value: object, room: int = 0) -> Markup:
    """Return text that is harmless in HTML and on the eye, cut to `room` characters if that is given."""
    shown = safe(value)
    return escape(shorten(shown, room) if room else shown)


def linear(low: float, high: float, count: int = 5) -> Axis:
    """Return a linear axis over [low, high] with about `count` round ticks inside it."""
    if not high - low > 1e-12 * max(abs(low), abs(high), 1e-150):
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(i * step for i in range(first, last + 1)))


def logarithmic(low: float, high: float) -> Axis:
    """Return a logarithmic axis over positive values, from power of ten to power of ten."""
    bottom, top = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    top = max(top, bottom + 1)
    every = max(1, math.ceil((top - bottom) / 5))
    return Axis(10.0**bottom, 10.0**top, tuple(10.0**i for i in range(bottom, top + 1, every)), log=True)


def tick(value: float, axis: Axis) -> str:
    """Return a tick's label with as many digits as tell it from the next one."""
    if axis.log:
        return f"{value:g}"
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else abs(value) or 1.0
    if max(abs(axis.low), abs(axis.high)) >= 1e4:
        return f"{value / 1000:,.{_digits(step / 1000)}f}k"
    return f"{value:.{_digits(step)}f}" if step >= 1e-4 else f"{value:.1e}"


def _digits(step: float) -> int:
    return next((d for d in range(6) if abs(round(step, d) - step) < 1e-9 * max(step, 1e-300)), 6)


def thin(points: Sequence[Point], buckets: int = _BUCKETS) -> list[Point]:
    """Return at most about 2 * buckets points that look like the curve: the lowest and highest of each stretch."""
    if len(points) <= 2 * buckets + 2:
        return list(points)
    kept = [points[0]]
    inner = points[1:-1]
    for i in range(buckets):
        part = inner[i * len(inner) // buckets : (i + 1) * len(inner) // buckets]
        finite = [p for p in part if _drawn(p[1])]
        if len(finite) < len(part):
            kept.append(next(p for p in part if not _drawn(p[1])))
        if finite:
            ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}
            kept.extend(sorted(ends))
    kept.append(points[-1])
    return kept


def y_axis(values: Sequence[float], *, log: bool = False, zero: bool = False) -> Axis:
    """Return an axis for these finite values; a few far above the rest may leave it at the top.

    log: logarithmic where every value is positive.  zero: the axis starts at 0.
    """
    low, high = min(values), max(values)
    if log and low > 1e-100 and high > low:
        return logarithmic(low, high)
    ordered = sorted(values)
    usual = ordered[
        int(0.97 * (len(ordered) - 1))
    ]  # the first losses of a run may be a hundred times the rest
    if len(ordered) >= 20 and high - low > 4 * (usual - low) > 0:
        high = usual + 0.25 * (usual - low)
    if zero:
        low = min(0.0, low)
    margin = 0.04 * (high - low)
    return linear(low if zero and low == 0 else low - margin, high + margin)


def chart(
    series: Sequence[Series],
    *,
    title: str,
    x_name: str,
    log: bool = False,
    zero: bool = False,
    best: Point | None = None,
    marks: Sequence[Point] = (),
    note: str = "",
    written: Callable[[float], str] = number,
) -> Markup:
    """Return a `<figure>` with a title, a legend with last values, and the curves; empty if there is no value.

    log, zero: see `y_axis`.  best: a point to ring.  marks: (x, step) of resumes, thin lines across the chart.
    written: how the legend writes a value.
    """
    finite = [p for one in series for p in one.points if _drawn(p[1])]
    if not finite:
        return Markup("")
    x, y = _axes(finite, log=log, zero=zero)
    parts = [_frame(x, y, x_name)]
    for at, step in marks:
        parts.append(
            Markup(
                '<path class="mark" d="M{0} {1}V{2}"><title>resumed after step {3:,}</title></path>'
            ).format(_px(x.place(at)), _TOP, HEIGHT - _BOTTOM, int(step))
        )
    parts += [_curve(one, x, y) for one in series]
    if best is not None and _drawn(best[1]) and y.low <= best[1] <= y.high:
        parts.append(
            Markup('<circle class="best" cx="{}" cy="{}" r="5.5"><title>best: {}</title></circle>').format(
                _px(x.place(best[0])), _py(y.place(best[1])), number(best[1])
            )
        )
    above = sum(v > y.high for _, v in finite)
    gone = sum(not _drawn(p[1]) for one in series for p in one.points)
    notes = [note] if note else []
    notes += [f"{above} values above the chart, up to {number(max(v for _, v in finite))}"] if above else []
    notes += [f"{gone} values are not finite"] if gone else []
    return Markup(
        '<figure class="chart"><figcaption><b>{}</b>{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>{}</figure>'
    ).format(
        text(title, 60),
        _legend(series, written),
        WIDTH,
        HEIGHT,
        text(title, 60),
        Markup("").join(parts),
        Markup('<p class="note">{}</p>').format("; ".join(notes)) if notes else "",
    )


_STYLE = """
svg { background: #ffffff; }
text { font: 11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #5d6670; }
text.y, text.end, text.name { text-anchor: end; } text.x { text-anchor: middle; }
text.title { fill: #1d2126; font-weight: 600; }
.grid { stroke: #e3e1dc; fill: none; } .axis { stroke: #5d6670; fill: none; opacity: .6; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
path.c0 { stroke: #2f6db5; } path.c1 { stroke: #d97a21; } path.c2 { stroke: #3b8f5c; } path.c3 { stroke: #8a5bb0; }
path.c4 { stroke: #c04a5a; } path.c5 { stroke: #2b95a3; } path.c6 { stroke: #8c7a1f; } path.c7 { stroke: #6f7780; }
circle.c0 { fill: #2f6db5; } circle.c1 { fill: #d97a21; } circle.c2 { fill: #3b8f5c; } circle.c3 { fill: #8a5bb0; }
circle.c4 { fill: #c04a5a; } circle.c5 { fill: #2b95a3; } circle.c6 { fill: #8c7a1f; } circle.c7 { fill: #6f7780; }
"""


def drawing(series: Sequence[Series], *, title: str, x_name: str) -> str:
    """Return a chart as a file of its own: SVG with its colours, title and legend; "" if there is no value."""
    finite = [p for one in series for p in one.points if _drawn(p[1])]
    if not finite:
        return ""
    x, y = _axes(finite, log=False, zero=True)
    parts = [_frame(x, y, x_name), *(_curve(one, x, y) for one in series)]
    keys = []
    for place, one in enumerate(series):
        left, top = 12 + place % 3 * 142, HEIGHT + 44 + place // 3 * 16
        keys.append(
            Markup('<path class="line c{}" d="M{} {}h14"/><text x="{}" y="{}">{}</text>').format(
                one.colour % COLOURS, left, top - 4, left + 19, top, text(one.label, 22)
            )
        )
    height = HEIGHT + 56 + (len(series) - 1) // 3 * 16
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{2}" height="{3}"><style>{4}</style>'
        '<rect width="{0}" height="{1}" fill="#ffffff"/><text class="title" x="12" y="18">{5}</text>'
        '<g transform="translate(0 24)">{6}</g>{7}</svg>\n'
    ).format(
        WIDTH,
        height,
        2 * WIDTH,
        2 * height,
        Markup(_STYLE),
        text(title, 60),
        Markup("").join(parts),
        Markup("").join(keys),
    )


def _axes(points: Sequence[Point], *, log: bool, zero: bool) -> tuple[Axis, Axis]:
    xs = [p[0] for p in points]
    x = linear(min(0.0, min(xs)), max(xs))
    x = x._replace(ticks=tuple(t for t in x.ticks if x.low <= t <= x.high))
    return x, y_axis([p[1] for p in points], log=log, zero=zero)


def _drawn(value: float) -> bool:
    """Say whether a value can stand on a chart: squares and differences of larger ones overflow."""
    return abs(value) < 1e150  # not of NaN


def _px(share: float) -> str:
    return f"{_LEFT + share * (WIDTH - _LEFT - _RIGHT):.1f}"


def _py(share: float) -> str:
    return f"{HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM):.1f}"


def _frame(x: Axis, y: Axis, x_name: str) -> Markup:
    parts = []
    for value in y.ticks:
        at = _py(y.place(value))
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, at, WIDTH - _RIGHT))
        parts.append(
            Markup('<text class="y" x="{}" y="{}">{}</text>').format(
                _LEFT - 6, f"{float(at) + 3.5:.1f}", tick(value, y)
            )
        )
    bottom = HEIGHT - _BOTTOM
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(_LEFT, bottom, WIDTH - _RIGHT))
    for value in x.ticks:
        at = _px(x.place(value))
        side = "end" if x.place(value) >= 0.98 else "x"  # the last one stays inside the drawing
        parts.append(
            Markup('<text class="{}" x="{}" y="{}">{}</text>').format(side, at, bottom + 15, tick(value, x))
        )
    parts.append(
        Markup('<text class="name" x="{}" y="{}">{}</text>').format(WIDTH - _RIGHT, bottom + 28, text(x_name))
    )
    return Markup("").join(parts)


def _curve(series: Series, x: Axis, y: Axis) -> Markup:
    colour = f"c{series.colour % COLOURS}"
    points = thin(series.points)
    path, pen_down = [], False
    dots = []
    for px, py in points:
        if not _drawn(py) or (y.log and py <= 0):
            pen_down = False
            continue
        at = _px(x.place(px)), _py(min(y.place(py), 1.02))
        path.append(f"{'L' if pen_down else 'M'}{at[0]} {at[1]}")
        pen_down = True
        if series.style == "dots" and len(points) <= 80:
            dots.append(
                Markup(
                    '<circle class="{}" cx="{}" cy="{}" r="2.6"><title>{} {} at {}</title></circle>'
                ).format(colour, at[0], at[1], text(series.label, 40), number(py), f"{px:g}")
            )
    if series.style != "dots" and len(path) == 1:  # a line needs two points
        only = path[0][1:].split(" ")
        dots.append(Markup('<circle class="{}" cx="{}" cy="{}" r="2.6"/>').format(colour, *only))
    style = " faint" if series.style == "faint" else ""
    line = Markup('<path class="line {}{}" d="{}"/>').format(colour, style, "".join(path))
    return Markup("").join([line, *dots])


def _legend(series: Sequence[Series], written: Callable[[float], str]) -> Markup:
    items = []
    for one in series:
        if not one.named:
            continue
        last = next((v for _, v in reversed(one.points) if math.isfinite(v)), math.nan)
        items.append(
            Markup('<span class="key"><i class="c{}"></i>{} <b>{}</b></span>').format(
                one.colour % COLOURS, text(one.label, 40), written(last if one.said is None else one.said)
            )
        )
    return Markup('<span class="keys">{}</span>').format(Markup("").join(items)) if items else Markup("")


def meter(share: float) -> Markup:
    """Return a small bar for a value in [0, 1]."""
    return Markup(
        '<svg class="meter" viewBox="0 0 60 6" aria-hidden="true"><rect class="rail" width="60" height="6"/>'
        '<rect class="c0" width="{}" height="6"/></svg>'
    ).format(f"{60 * min(max(share, 0.0), 1.0):.1f}")
