"""Mesh: what a thing of the town looks like, as flat convex polygons with a material each.

Two kinds. A solid has x across, y up and z along (its front at +z), in shares of the thing's width, height and length:
x and z from -0.5 to 0.5, y from 0 to 1. A sprite is flat and always faces the camera (people, trees, signs); x and y
are in shares of its height. Polygons are drawn in order; those of a solid that face away are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, float]


class Material(IntEnum):
    """Colour slots. The first four are the thing's own paint, the others are the same everywhere."""

    MAIN = 0
    SECOND = 1
    THIRD = 2
    FOURTH = 3
    GLASS = 4
    TYRE = 5
    RIM = 6
    LAMP = 7
    TAIL = 8
    WHITE = 9
    TRIM = 10
    BLACK = 11
    METAL = 12
    RED = 13
    BLUE = 14
    YELLOW = 15
    GREEN = 16
    GO = 17
    WAIT = 18
    STOP = 19
    OFF = 20
    WOOD = 21
    LIT = 22
    PLATE = 23


COLOURS: Floats = np.array(
    [
        *((128, 128, 128),) * 4,
        (58, 74, 90),
        (30, 30, 33),
        (168, 170, 174),
        (255, 246, 214),
        (214, 34, 30),
        (240, 240, 236),
        (52, 54, 58),
        (18, 18, 20),
        (140, 144, 150),
        (202, 30, 36),
        (26, 84, 176),
        (246, 196, 32),
        (24, 122, 74),
        (60, 240, 140),
        (255, 190, 60),
        (255, 60, 48),
        (40, 34, 32),
        (104, 76, 52),
        (255, 226, 150),
        (232, 228, 206),
    ],
    np.float64,
)  # (materials, 3) RGB 0-255

EMITS = np.array(
    [m in (Material.LAMP, Material.GO, Material.WAIT, Material.STOP, Material.LIT) for m in Material]
)
"""(materials,): those that shine by themselves, also at night."""


class Mesh(NamedTuple):
    """Polygons: their vertices, and one row for each polygon in drawing order.

    points: (M, 3).  rows: (P, 12), see the columns below.  half: largest distance of a vertex from the middle, across.
    """

    points: Floats
    rows: Floats
    half: float
    sprite: bool


NORMAL = slice(0, 3)  # outward, 0 for sprites
BODY, PIECE = slice(3, 5), slice(5, 7)  # x and z of the middle of the polygon's body and piece
RANK, STEP = (
    7,
    8,
)  # bodies of lower rank and pieces of lower step are drawn first, equal ones from far to near
MATERIAL, START = 9, 10  # of the polygon; where its vertices begin
NAME = 11  # what the polygon is a piece of, by index in NAMES

NAMES = ("", "head", "torso", "arm", "leg", "shoe", "bag", "umbrella", "wheel", "awning")
"""Words for pieces whose colour does not tell what they are; "" leaves it to the colour slot (`labels.py`)."""


class Builder:
    """Collects polygons and makes a Mesh of them."""

    def __init__(self, *, sprite: bool = False) -> None:
        self.sprite = sprite
        self._polygons: list[Floats] = []
        self._material: list[int] = []
        self._normal: list[Floats] = []
        self._rank: list[int] = []
        self._body: list[int] = []
        self._step: list[int] = []
        self._piece: list[int] = []
        self._name: list[int] = []
        self._now = (0, 0, 0, 0)  # rank, body, step, piece
        self._called = 0

    def body(self, rank: int = 0) -> Builder:
        """Begin a body: sorted by distance among those of its rank, so that bodies must not reach around each other."""
        _, number, _, piece = self._now
        self._now = (rank, number + 1, 0, piece + 1)
        return self

    def piece(self, step: int) -> Builder:
        """Begin another piece of this body, which stands on those of lower step."""
        rank, number, _, piece = self._now
        self._now = (rank, number, step, piece + 1)
        return self

    def call(self, name: str) -> Builder:
        """Say what the polygons from here on are a piece of: one of `NAMES`."""
        self._called = NAMES.index(name)
        return self

    def polygon(self, points: Any, material: int, normal: Any = (0, 0, 0)) -> None:
        """Add one convex polygon: points (n, 3), or (n, 2) for a sprite."""
        vertices = np.asarray(points, np.float64)
        if vertices.shape[1] == 2:
            vertices = np.concatenate([vertices, np.zeros((len(vertices), 1))], axis=1)
        self._polygons.append(vertices)
        self._material.append(int(material))
        self._normal.append(np.asarray(normal, np.float64))
        self._name.append(self._called)
        for values, now in zip((self._rank, self._body, self._step, self._piece), self._now):
            values.append(now)

    def box(
        self,
        low: Sequence[float],
        high: Sequence[float],
        material: int,
        *,
        top: tuple[float, float, float, float] | None = None,
        front_drop: float = 0.0,
        skip: Sequence[str] = (),
    ) -> dict[str, Floats]:
        """Add a body with six corners (x, y, z) low and high; return its faces, each (4, 3) from lower left round.

        top: (x0, x1, z0, z1) of the upper rectangle, if it is smaller.  front_drop: how much lower its front edge
        is.  skip: faces that nobody sees.
        """
        (x0, y0, z0), (x1, y1, z1) = low, high
        u0, u1, w0, w1 = top or (x0, x1, z0, z1)
        yf = y1 - front_drop
        corners = {
            "front": [(x1, y0, z1), (x0, y0, z1), (u0, yf, w1), (u1, yf, w1)],
            "back": [(x0, y0, z0), (x1, y0, z0), (u1, y1, w0), (u0, y1, w0)],
            "right": [(x1, y0, z0), (x1, y0, z1), (u1, yf, w1), (u1, y1, w0)],
            "left": [(x0, y0, z1), (x0, y0, z0), (u0, y1, w0), (u0, yf, w1)],
            "top": [(u0, y1, w0), (u1, y1, w0), (u1, yf, w1), (u0, yf, w1)],
        }
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2])
        faces = {}
        for name, face in corners.items():
            if name in skip:
                continue
            points = np.array(face, np.float64)
            normal = np.cross(points[1] - points[0], points[2] - points[0])
            if normal @ (points.mean(0) - centre) < 0:
                normal = -normal
            self.polygon(points, material, normal)
            faces[name] = points
        return faces

    def decal(self, face: Floats, shape: Sequence[Point], material: int) -> None:
        """Add a polygon on a face (4, 3), in shares of it: u from its left to its right edge, v upwards."""
        normal = np.cross(face[1] - face[0], face[2] - face[0])
        match = [
            n
            for p, n in zip(self._polygons, self._normal)
            if p.shape == face.shape and np.array_equal(p, face)
        ]
        uv = np.array(shape, np.float64)
        u, v = uv[:, :1], uv[:, 1:]
        points = (1 - v) * ((1 - u) * face[0] + u * face[1]) + v * ((1 - u) * face[3] + u * face[2])
        self.polygon(points, material, match[-1] if match else normal)

    def pane(self, face: Floats, left: float, low: float, right: float, high: float, material: int) -> None:
        """Add an upright rectangle on a face."""
        self.decal(face, [(left, low), (right, low), (right, high), (left, high)], material)

    def wheel(self, z: float, radius: float, size: Sequence[float], axle: float, low: float) -> None:
        """Add a wheel on both sides of a solid.

        z: its place along; the tread of the foremost and the rearmost wheels (beyond 0.25) shows from that end.
        radius: in metres.  size: width, height and length of the solid in metres.  axle: how far out it sits.
        low: the height of the solid's bottom, below which the tread shows.
        """
        width, height, length = size
        before, self._called = self._called, NAMES.index("wheel")
        for side in (-1.0, 1.0):
            if abs(z) > 0.25:
                end, inner = math.copysign(1.0, z), axle - 0.24 / width
                along = z + 0.8 * end * radius / length
                tread = [(inner, 0.0), (axle, 0.0), (axle, low), (inner, low)]
                self.polygon([(side * x, y, along) for x, y in tread], Material.TYRE, (0, 0, end))
            for share, material, sides in (
                (1.0, Material.TYRE, 14),
                (0.56, Material.RIM, 9),
                (0.16, Material.TRIM, 9),
            ):
                ring = circle(0.0, 0.0, radius * share, sides)
                out = side * (axle + 0.004 * (1 - share))
                points = [(out, (y + radius) / height, z + x / length) for x, y in ring]
                self.polygon(points, material, (side, 0, 0))
        self._called = before

    def limb(self, start: Point, end: Point, wide: float, narrow: float, material: int) -> None:
        """Add a tapered bar to a sprite: `wide` at its start, `narrow` at its end."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / length / 2, (x1 - x0) / length / 2
        self.polygon(
            [
                (x0 + nx * wide, y0 + ny * wide),
                (x1 + nx * narrow, y1 + ny * narrow),
                (x1 - nx * narrow, y1 - ny * narrow),
                (x0 - nx * wide, y0 - ny * wide),
            ],
            material,
        )

    def disc(
        self, x: float, y: float, radius: float, material: int, sides: int = 10, wide: float = 1.0
    ) -> None:
        """Add a circle to a sprite, or an ellipse `wide` times as wide as it is high."""
        self.polygon([(x + wide * (px - x), py) for px, py in circle(x, y, radius, sides)], material)

    def ring(self, x: float, y: float, radius: float, thick: float, material: int, wide: float = 1.0) -> None:
        """Add a circle's outline to a sprite."""
        outer, inner = circle(0, 0, radius, 14), circle(0, 0, radius - thick, 14)
        for i in range(14):
            j = (i + 1) % 14
            quad = (outer[i], outer[j], inner[j], inner[i])
            self.polygon([(x + wide * px, y + py) for px, py in quad], material)

    def build(self) -> Mesh:
        """Return the mesh."""
        middles = np.array([polygon.mean(0)[[0, 2]] for polygon in self._polygons])  # (P, 2)
        bodies, pieces = np.array(self._body), np.array(self._piece)
        starts = np.cumsum([0, *(len(polygon) for polygon in self._polygons[:-1])])
        rows = np.concatenate(
            [
                np.stack(self._normal),
                np.stack([middles[bodies == body].mean(0) for body in bodies]),
                np.stack([middles[pieces == piece].mean(0) for piece in pieces]),
                np.stack([self._rank, self._step, self._material, starts, self._name], axis=1),
            ],
            axis=1,
        )
        half = max(float(np.abs(polygon[:, 0]).max()) for polygon in self._polygons)
        return Mesh(np.concatenate(self._polygons), rows, half, self.sprite)


def circle(x: float, y: float, radius: float, sides: int) -> list[Point]:
    """Corners of a regular polygon, counter-clockwise from the right."""
    turns = (2 * math.pi * i / sides for i in range(sides))
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
