"""Legend: what the stored values of a mask mean: class names, colours, and a table from value or colour to class.

A table is a numpy array that is indexed by the whole mask at once. A stored value that it does not know becomes
ILLEGAL, and `complaint` says which values those are, how often they occur, and what is probably behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.layout import some
from visloom.data.maskfile import Array
from visloom.errors import ConfigError, DataError
from visloom.palette import Colour
from visloom.place import did_you_mean, nearest
from visloom.warp import IGNORE

ILLEGAL = -2
"""What a stored value without a meaning becomes: never seen outside, it is an error."""

DROPPED = "ignore"
"""The new name in a `remap` table that takes a class out."""


@dataclass(frozen=True)
class Legend:
    """The classes of a data set and how masks store them.

    names: by class index.  colours: RGB 0-255 by class index, or () if the data set has none.
    values: stored value -> class index, -1 for ignore; values that are not in it are errors.
    painted: stored RGB colour -> class index, for masks whose pixels are colours.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    values: Mapping[int, int] = field(default_factory=dict)
    painted: Mapping[Colour, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.colours:
            check_palette(self.colours, self.names, "palette")

    def table(self) -> Table:
        """Return the table that turns stored masks into classes."""
        return Table(self)


def _looked_up(raw: NDArray[np.uint8], values: NDArray[np.int32]) -> NDArray[np.int32]:
    """values[raw], in rows, at a quarter of numpy's time. MATLAB's matrices come in columns: they are turned first."""
    import cv2

    if not raw.size:
        return values[raw]
    rows: Any = raw
    if not raw.flags.c_contiguous:
        rows = cv2.transpose(raw.T) if raw.flags.f_contiguous else raw.copy()
    return np.asarray(cv2.LUT(rows, values), np.int32).reshape(raw.shape)


def counted(
    names: Sequence[str], colours: Sequence[Colour] = (), *, first: int = 0, ignore: Sequence[int] = ()
) -> Legend:
    """Return the legend of masks that store `first` for class 0, and so on, and some values for ignore."""
    values = {first + index: index for index in range(len(names))}
    return Legend(tuple(names), tuple(colours), {**dict.fromkeys(ignore, IGNORE), **values})


def check_palette(colours: Sequence[Colour], names: Sequence[str], where: str) -> None:
    """Raise DataError unless there is one RGB colour, each part 0-255, for every class."""
    if len(colours) != len(names):
        raise DataError(
            f"{where}: has {len(colours)} colours for {len(names)} classes ({some(tuple(names), 4)}), expected one each"
        )
    for name, colour in zip(names, colours, strict=True):
        if len(colour) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour):
            raise DataError(
                f"{where}: the colour of {name!r} is {colour!r}, expected red, green and blue from 0 to 255"
            )


def regroup(legend: Legend, remap: Mapping[str, str]) -> Legend:
    """Merge classes by a table old name (or number as text) -> new name; "*" stands for all others.

    The new classes stand where their first old class stood. A group has the colour of that class.

    Raises:
        ConfigError: a name that is no class; a class that is named twice; nothing is left.
    """
    if not remap:
        return legend
    target = _targets(legend.names, remap)
    names = tuple(dict.fromkeys(name for name in target if name != DROPPED))
    if not names:
        raise ConfigError("remap ignores every class", path="remap")
    new = [IGNORE if name == DROPPED else names.index(name) for name in target]
    moved = {IGNORE: IGNORE, **dict(enumerate(new))}
    colours = tuple(legend.colours[target.index(name)] for name in names) if legend.colours else ()
    return replace(
        legend,
        names=names,
        colours=colours,
        values={value: moved[label] for value, label in legend.values.items()},
        painted={colour: moved[label] for colour, label in legend.painted.items()},
    )


def _targets(names: Sequence[str], remap: Mapping[str, str]) -> list[str]:
    """The new name of every class."""
    found: dict[int, str] = {}
    for word, name in remap.items():
        if word == "*":
            continue
        if word in names:
            index = names.index(word)
        elif word.isdecimal() and int(word) < len(names):
            index = int(word)
        else:
            hint = did_you_mean(nearest(word, names)) or f"the classes are {some(tuple(names))}"
            raise ConfigError(f"remap names {word!r}, which is no class\n  {hint}", path="remap")
        if index in found:
            raise ConfigError(
                f"remap names class {names[index]!r} twice, by name and by number", path="remap"
            )
        if not isinstance(name, str) or not name:
            raise ConfigError(f"remap gives {word!r} no name: {name!r}", path="remap")
        found[index] = name
    return [found.get(index, remap.get("*", name)) for index, name in enumerate(names)]


class Table:
    """A legend as arrays: call it with a stored mask and get classes."""

    def __init__(self, legend: Legend) -> None:
        self.legend = legend
        top = max(legend.values, default=-1)
        self.values = np.full(max(256, top + 1), ILLEGAL, np.int32)
        for value, label in legend.values.items():
            if value >= 0:
                self.values[value] = label
        self.below = {value: label for value, label in legend.values.items() if value < 0}
        self._painted: NDArray[np.int16] | None = None

    def __call__(self, raw: Array, name: str) -> NDArray[np.int32]:
        """Turn a stored mask into classes: (H, W) int32, -1 for ignore, ILLEGAL for what has no meaning.

        Raises:
            DataError: pixels are colours where numbers are expected, or the other way round.
        """
        if raw.ndim == 3:
            return self._by_colour(raw, name)
        if not self.legend.values:
            raise DataError(
                f"{name}: the mask has numbers (up to {raw.max(initial=0)}), expected the colours of "
                f"{some(self.legend.names)}"
            )
        if raw.dtype == np.uint8:
            return _looked_up(raw, self.values[:256])
        numbers = raw.astype(np.int64)
        inside = (numbers >= 0) & (numbers < len(self.values))
        mask = np.where(inside, self.values[np.where(inside, numbers, 0)], np.int32(ILLEGAL))
        for value, label in self.below.items():
            mask[numbers == value] = label
        return mask

    def _by_colour(self, raw: Array, name: str) -> NDArray[np.int32]:
        if not self.legend.painted:
            gray = bool((raw[..., 0] == raw[..., 1]).all() and (raw[..., 0] == raw[..., 2]).all())
            hint = (
                "its three channels are equal: save one of them, as a gray PNG"
                if gray
                else "give a table with a colour for each class, or save class numbers as a gray or palette PNG"
            )
            raise DataError(f"{name}: the mask is RGB, expected one number per pixel; {hint}")
        if self._painted is None:  # 2**24 entries of which only the pages in use take memory: 0 is ILLEGAL
            self._painted = np.zeros(1 << 24, np.int16)
            for colour, label in self.legend.painted.items():
                self._painted[_code(colour)] = label - ILLEGAL
        return self._painted[codes(raw)].astype(np.int32) + np.int32(ILLEGAL)

    def complaint(self, raw: Array, name: str, hint: Callable[[Mapping[int, int], Legend], str]) -> str:
        """Say which stored values have no meaning: the first, a histogram, what was expected, a hint.

        hint: gets the counts of all stored values (not of colours) and the legend.
        """
        colours = raw.ndim == 3
        held, counts = np.unique(codes(raw) if colours else raw, return_counts=True)
        found = dict(zip(held.tolist(), counts.tolist(), strict=True))
        known = {_code(c) for c in self.legend.painted} if colours else set(self.legend.values)
        bad = {value: count for value, count in found.items() if value not in known}
        first = next(iter(bad))
        say = _colour_text if colours else str
        histogram = some([f"{say(value)} ({count:,}x)" for value, count in found.items()], 12)
        head = f"{name}: {say(first)} is no label, in {bad[first]:,} of {sum(found.values()):,} pixels"
        others = f" ({len(bad)} such {'colours' if colours else 'values'})" if len(bad) > 1 else ""
        advice = (
            _colour_hint(bad, known)
            if colours
            else hint(found, self.legend) or _value_hint(found, self.legend)
        )
        return f"{head}{others}; expected {self._expected(colours)}. The mask holds {histogram}{advice}"

    def _expected(self, colours: bool) -> str:
        legend = self.legend
        if colours:
            return f"the colours of {some(legend.names)}"
        labels = sorted(value for value, label in legend.values.items() if label != IGNORE)
        ignored = sorted(value for value, label in legend.values.items() if label == IGNORE)
        whole = labels == list(range(labels[0], labels[-1] + 1)) if labels else False
        text = f"{labels[0]} to {labels[-1]}" if whole else some([str(value) for value in labels], 12)
        more = f", or {some([str(value) for value in ignored], 6)} for ignore" if ignored else ""
        return f"{text} ({len(legend.names)} classes){more}"


def _value_hint(found: Mapping[int, int], legend: Legend) -> str:
    """What is probably behind values without a meaning."""
    bad = sorted(value for value in found if value not in legend.values)
    ours = [value for value, label in legend.values.items() if label != IGNORE]
    low, top = min(ours, default=0), max(ours, default=0)
    if bad == [255] and set(found) <= {0, 255}:
        return ". This is a black-and-white mask: say in a table (columns name, value) that 255 is a class"
    if bad == [255]:
        return ". 255 mostly means that nobody labelled these pixels: name it as an ignore value"
    if bad == [0]:
        return ". The labels of this data set count from 1, and 0 mostly means unlabelled: name it as an ignore value"
    if bad == [top + 1] and low not in found and low == 0:
        return (
            ". The labels of this mask seem to count from 1, where 0 is expected to be the first class: first=1 says "
            "so of a Masks source"
        )
    if bad == list(range(top + 1, top + 1 + len(bad))):
        return f". The masks hold more classes than the {len(ours)} that have names: name all of them"
    which = ", ".join(map(str, bad[:4]))
    return f". If nobody labelled these pixels, name {which} as an ignore value; a class needs a name"


def _colour_hint(bad: Mapping[int, int], known: set[int]) -> str:
    if len(bad) > 8:
        return ". So many colours come from smoothed edges (resizing, JPEG): save masks without interpolation"
    if all((v & 0xFF) << 16 | v & 0xFF00 | v >> 16 in known for v in bad):
        return ". Red and blue seem to be swapped"
    return ""


def codes(raw: Array) -> NDArray[np.int32]:
    """(H, W, 3) uint8 colours as numbers: (H, W) int32, red * 65536 + green * 256 + blue."""
    wide = raw.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.int32)


def _code(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _colour_text(code: int) -> str:
    return f"RGB ({code >> 16}, {code >> 8 & 255}, {code & 255})"


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a text, which are set apart by commas; it may have many lines."""
    return tuple(" ".join(text.split()).split(", "))


def colours_in(text: str) -> tuple[Colour, ...]:
    """Return the colours in a text of words like ff8000."""
    return tuple((int(word[:2], 16), int(word[2:4], 16), int(word[4:], 16)) for word in text.split())


def voc_palette(classes: int) -> tuple[Colour, ...]:
    """Return the PASCAL VOC colours: the bits of the class number, three at a time, go to R, G and B from the top."""
    found = []
    for index in range(classes):
        red = green = blue = 0
        for place in range(8):
            three = index >> 3 * place
            red |= (three & 1) << 7 - place
            green |= (three >> 1 & 1) << 7 - place
            blue |= (three >> 2 & 1) << 7 - place
        found.append((red, green, blue))
    return tuple(found)
