"""Colours for classes: any number, the first ones easy to tell apart, the same on every machine."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]
"""Red, green and blue, each 0-255."""

_GOLDEN = 0.618033988749895  # turns by this share of a circle never meet and spread evenly


def palette(classes: int) -> tuple[Colour, ...]:
    """Return one colour per class: hues by the golden ratio, three shades in turn.

    The first n colours are the same for every number of classes, so that a class keeps its colour.
    """
    return tuple(_colour(index) for index in range(classes))


def _colour(index: int) -> Colour:
    hue = (0.58 + index * _GOLDEN) % 1.0
    saturation, value = ((0.75, 0.90), (0.55, 0.98), (0.90, 0.65))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
