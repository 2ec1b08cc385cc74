"""Dress: which variant of a kind a thing is, how large, and in which colours, from eight uniform numbers."""

from __future__ import annotations

import math

from visloom.data.town.mesh import Floats
from visloom.data.town.scene import Thing, meshes

# kind -> (width, height, length) in metres of each of its variants, or of all of them; sprites are as wide as they are
SIZES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "car": ((1.75, 1.45, 4.1), (1.8, 1.42, 4.6), (1.9, 1.72, 4.5)),
    "van": ((2.0, 2.3, 5.3),),
    "truck": ((2.5, 3.5, 8.2), (2.5, 3.2, 7.6), (2.5, 3.1, 8.6), (2.5, 3.1, 8.0)),
    "bus": ((2.5, 3.1, 11.5), (2.5, 3.4, 12.0), (2.5, 4.3, 10.5)),
    "motorbike": ((1.6, 1.5, 1.6),),
    "cyclist": ((1.5, 1.75, 1.5),),
    "pedestrian": ((0.7, 1.72, 0.7),),
    "sign": ((0.8, 0.75, 0.1),),
    "light": ((0.4, 0.95, 0.3),),
    "tree": ((4.0, 6.5, 4.0),),
    "house": (
        (11.0, 8.0, 9.0), (12.0, 10.0, 9.0), (14.0, 13.0, 10.0),
        (9.0, 9.0, 9.0), (13.0, 19.0, 10.0), (15.0, 16.0, 10.0),
    ),
    "post": ((0.1, 2.4, 0.1), (0.6, 6.0, 0.1)),
    "hydrant": ((0.4, 0.8, 0.4),),
    "bin": ((0.6, 1.05, 0.6),),
    "bench": ((1.7, 0.85, 0.5),),
    "hedge": ((1.0, 1.1, 3.2),),
}  # fmt: skip

_CAR_PAINT = (
    (236, 236, 234), (40, 42, 46), (120, 124, 130), (176, 180, 184), (168, 26, 30), (24, 52, 120), (40, 96, 150),
    (30, 78, 52), (212, 172, 64), (120, 70, 40), (224, 100, 30), (96, 30, 44), (90, 130, 160), (226, 218, 196),
)  # fmt: skip
_BUS_PAINT = ((214, 48, 40), (240, 200, 48), (52, 130, 196), (238, 238, 232), (44, 130, 84), (230, 120, 36))
_CLOTH = (
    (38, 44, 58), (196, 52, 48), (236, 232, 220), (58, 96, 160), (72, 116, 72), (228, 178, 60), (126, 76, 130),
    (90, 90, 94), (214, 120, 140), (64, 148, 156), (166, 120, 82), (24, 24, 28),
)  # fmt: skip
_SKIN = ((246, 214, 186), (226, 180, 144), (188, 134, 98), (138, 92, 64), (92, 60, 44))
_HAIR = ((34, 26, 22), (78, 52, 34), (140, 98, 54), (206, 172, 110), (150, 148, 146), (120, 44, 24))
_WALL = (
    (196, 116, 92), (222, 204, 170), (180, 172, 162), (236, 226, 206), (150, 92, 76), (204, 182, 134), (168, 186, 196),
    (214, 160, 128), (120, 124, 132),
)  # fmt: skip
_ROOF = ((128, 62, 48), (78, 76, 80), (96, 70, 56), (60, 66, 76))
_LEAF = ((74, 116, 52), (96, 132, 60), (58, 98, 60), (120, 130, 56), (160, 120, 50))


def _variant(kind: str, u: Floats) -> int:
    return int(u[1] * 7919) % len(meshes(kind))


def measure(kind: str, u: Floats, mesh: int = -1) -> tuple[float, float, float]:
    """Width, height and length in metres that `dress` gives a thing with these draws."""
    number = mesh if mesh >= 0 else _variant(kind, u)
    sizes = SIZES[kind]
    width, height, length = sizes[number] if len(sizes) == len(meshes(kind)) else sizes[0]
    scale = float(0.92 + 0.16 * u[2])
    if kind == "tree":
        scale *= float(0.6 + 0.7 * u[3])
    return width * scale, height * scale, length * scale


def dress(kind: str, u: Floats, *, x: float, z: float, heading: float = 0.0, mesh: int = -1) -> Thing:
    """Make a thing of a kind at a place: its variant, size and colours are drawn from eight uniform numbers `u`."""
    number = mesh if mesh >= 0 else _variant(kind, u)
    if kind in (
        "cyclist",
        "motorbike",
    ):  # the first half is seen from the side, the second from front or back
        half = len(meshes(kind)) // 2
        number = number % half + half * (abs(math.sin(heading)) < 0.6)
    low = 0.0
    if kind == "sign":
        low = float(1.9 + 0.5 * u[3])
    elif kind == "light":
        low = 4.3 if u[3] < 0.3 else 2.1
    return Thing(
        kind, number, float(x), low, float(z), float(heading), *measure(kind, u, mesh), _paint(kind, u)
    )


def _pick(colours: tuple[tuple[int, int, int], ...], u: float, tint: float) -> tuple[float, float, float]:
    red, green, blue = colours[int(u * 1009) % len(colours)]
    gain = 0.86 + 0.28 * tint
    return red * gain, green * gain, blue * gain


def _paint(kind: str, u: Floats) -> tuple[tuple[float, float, float], ...]:
    a, b, c, d = float(u[3]), float(u[4]), float(u[5]), float(u[6])
    if kind in ("car", "van", "motorbike"):
        main = _pick(_CAR_PAINT, a, b)
        second = _pick(_CLOTH, c, d)
        return main, second, _pick(_CLOTH, b, a), _pick(_CAR_PAINT, d, c)
    if kind in ("truck", "bus"):
        main = _pick(_BUS_PAINT if kind == "bus" else _CAR_PAINT, a, b)
        return main, _pick(_CAR_PAINT, c, d), _pick(_BUS_PAINT, d, a), _pick(_CAR_PAINT, b, c)
    if kind in ("pedestrian", "cyclist"):
        last = _HAIR if kind == "pedestrian" else _CAR_PAINT
        return _pick(_CLOTH, a, b), _pick(_CLOTH, c, d), _pick(_SKIN, d, 0.5), _pick(last, b, a)
    if kind in ("tree", "hedge"):
        red, green, blue = _pick(_LEAF, a, b)
        return (
            (red, green, blue),
            (0.66 * red, 0.68 * green, 0.70 * blue),
            (1.25 * red, 1.2 * green, 1.1 * blue),
            (red, green, blue),
        )
    if kind == "house":
        return (
            _pick(_WALL, a, b),
            _pick(_ROOF, c, d),
            _pick(((238, 236, 230), (70, 64, 60)), d, a),
            _pick(_CAR_PAINT, b, c),
        )
    return (_pick(_CAR_PAINT, a, b),) * 4
