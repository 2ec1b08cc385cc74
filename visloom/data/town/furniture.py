"""What stands at the street: signs, traffic lights, trees, lamp posts, hydrants, bins and houses; made once.

Signs and lights are the plate or box alone: their posts are things of their own, so that a box frames what matters.
"""

from __future__ import annotations

import math
from functools import lru_cache

from visloom.data.town.mesh import Builder, Material, Mesh
from visloom.keys import fold, generator

M = Material


@lru_cache(maxsize=1)
def signs() -> tuple[Mesh, ...]:
    """Warning, limit, stop, mandatory direction, parking, give way, main road, no entry, town name."""
    made = []
    for kind in range(9):
        b = Builder(sprite=True)
        b.body()
        (_warning, _limit, _stop, _mandatory, _parking, _give_way, _diamond, _no_entry, _name)[kind](b)
        made.append(b.build())
    return tuple(made)


def _warning(b: Builder) -> None:
    b.polygon([(-0.56, 0.02), (0.56, 0.02), (0.0, 1.0)], M.RED)
    b.polygon([(-0.36, 0.13), (0.36, 0.13), (0.0, 0.76)], M.WHITE)
    b.limb((0.0, 0.60), (0.0, 0.32), 0.10, 0.07, M.BLACK)
    b.disc(0.0, 0.22, 0.05, M.BLACK, 7)


def _limit(b: Builder) -> None:
    b.disc(0.0, 0.5, 0.5, M.RED, 18)
    b.disc(0.0, 0.5, 0.37, M.WHITE, 16)
    for x in (-0.14, 0.14):
        b.disc(x, 0.5, 0.15, M.BLACK, 9, wide=0.7)
        b.disc(x, 0.5, 0.08, M.WHITE, 8, wide=0.6)


def _stop(b: Builder) -> None:
    turn = [
        (0.54 * math.cos(math.pi * (i + 0.5) / 4), 0.5 + 0.54 * math.sin(math.pi * (i + 0.5) / 4))
        for i in range(8)
    ]
    b.polygon(turn, M.WHITE)
    b.polygon([(0.92 * x, 0.5 + 0.92 * (y - 0.5)) for x, y in turn], M.RED)
    for i in range(4):
        x = -0.30 + 0.20 * i
        b.limb((x, 0.38), (x, 0.62), 0.10, 0.10, M.WHITE)


def _mandatory(b: Builder) -> None:
    b.disc(0.0, 0.5, 0.5, M.WHITE, 18)
    b.disc(0.0, 0.5, 0.46, M.BLUE, 18)
    b.limb((0.0, 0.18), (0.0, 0.58), 0.13, 0.13, M.WHITE)
    b.polygon([(-0.24, 0.54), (0.24, 0.54), (0.0, 0.84)], M.WHITE)


def _parking(b: Builder) -> None:
    b.polygon([(-0.5, 0.0), (0.5, 0.0), (0.5, 1.0), (-0.5, 1.0)], M.WHITE)
    b.polygon([(-0.46, 0.04), (0.46, 0.04), (0.46, 0.96), (-0.46, 0.96)], M.BLUE)
    b.limb((-0.16, 0.16), (-0.16, 0.84), 0.13, 0.13, M.WHITE)
    b.disc(0.04, 0.64, 0.21, M.WHITE, 10)
    b.disc(0.04, 0.64, 0.09, M.BLUE, 8)


def _give_way(b: Builder) -> None:
    b.polygon([(-0.56, 0.98), (0.0, 0.0), (0.56, 0.98)], M.RED)
    b.polygon([(-0.36, 0.87), (0.0, 0.24), (0.36, 0.87)], M.WHITE)


def _diamond(b: Builder) -> None:
    b.polygon([(-0.5, 0.5), (0.0, 0.0), (0.5, 0.5), (0.0, 1.0)], M.WHITE)
    b.polygon([(-0.36, 0.5), (0.0, 0.14), (0.36, 0.5), (0.0, 0.86)], M.YELLOW)


def _no_entry(b: Builder) -> None:
    b.disc(0.0, 0.5, 0.5, M.RED, 18)
    b.polygon([(-0.36, 0.41), (0.36, 0.41), (0.36, 0.59), (-0.36, 0.59)], M.WHITE)


def _name(b: Builder) -> None:
    b.polygon([(-0.85, 0.1), (0.85, 0.1), (0.85, 0.9), (-0.85, 0.9)], M.WHITE)
    b.polygon([(-0.80, 0.15), (0.80, 0.15), (0.80, 0.85), (-0.80, 0.85)], M.GREEN)
    for i, width in enumerate((0.50, 0.34)):
        y = 0.64 - 0.28 * i
        b.limb((-0.66, y), (-0.66 + 2 * width, y), 0.12, 0.12, M.WHITE)
    b.polygon([(0.50, 0.30), (0.70, 0.50), (0.50, 0.70)], M.WHITE)


@lru_cache(maxsize=1)
def lights() -> tuple[Mesh, ...]:
    """Three lamps at go, wait, stop and stop-and-wait, with a bright rim or none; two lamps for people on foot."""
    made = [_light(lit, rim) for rim in (False, True) for lit in ((2,), (1,), (0,), (0, 1))]
    return (*made, _walk_light(go=False), _walk_light(go=True))


def _light(lit: tuple[int, ...], rim: bool) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    if rim:
        b.polygon([(-0.26, -0.02), (0.26, -0.02), (0.26, 1.02), (-0.26, 1.02)], M.WHITE)
    b.polygon([(-0.21, 0.0), (0.21, 0.0), (0.21, 1.0), (-0.21, 1.0)], M.BLACK)
    for i, material in enumerate((M.STOP, M.WAIT, M.GO)):
        y = 0.83 - 0.33 * i
        b.disc(0.0, y, 0.15, M.TRIM, 12)
        b.disc(0.0, y, 0.125, material if i in lit else M.OFF, 10)
    return b.build()


def _walk_light(*, go: bool) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    b.polygon([(-0.28, 0.0), (0.28, 0.0), (0.28, 1.0), (-0.28, 1.0)], M.BLACK)
    for y, material in ((0.74, M.OFF if go else M.STOP), (0.27, M.GO if go else M.OFF)):
        b.disc(0.0, y + 0.12, 0.055, material, 7)
        b.limb((0.0, y + 0.07), (0.0, y - 0.05), 0.12, 0.10, material)
        b.limb((-0.02, y - 0.04), (-0.06, y - 0.17), 0.06, 0.05, material)
        b.limb((0.02, y - 0.04), (0.06, y - 0.17), 0.06, 0.05, material)
    return b.build()


@lru_cache(maxsize=1)
def trees() -> tuple[Mesh, ...]:
    """Five round crowns, three conifers, two poplars. MAIN is the leaves' middle tone, SECOND dark, THIRD light."""
    return (
        *(_crown(i, 0.30, 0.27) for i in range(5)),
        *(_conifer(i) for i in range(3)),
        *(_crown(i, 0.13, 0.38) for i in (7, 8)),
    )


def _crown(number: int, wide: float, high: float) -> Mesh:
    draws = generator(fold(0, "crown", number))
    b = Builder(sprite=True)
    b.body()
    middle = 0.97 - high
    b.limb((0.0, 0.0), (0.0, middle), 0.065, 0.04, M.WOOD)
    for side in (-1, 1):
        b.limb((0.0, middle - 0.26 * high / 0.3), (side * 0.5 * wide, middle), 0.03, 0.02, M.WOOD)
    for material, count, shift, size in (
        (M.SECOND, 9, -0.03, 0.40),
        (M.MAIN, 10, 0.0, 0.33),
        (M.THIRD, 8, 0.05, 0.22),
    ):
        for _ in range(count):
            turn, far = 2 * math.pi * draws.random(), math.sqrt(draws.random()) * (1.0 - size)
            x, y = wide * far * math.cos(turn) - shift, middle + high * far * math.sin(turn) + shift
            radius = size * min(wide, high) * (0.75 + 0.5 * draws.random())
            b.polygon(_leafy(x, y, radius, draws.random()), material)
    return b.build()


def _leafy(x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    return [
        (x + radius * math.cos(a + turn), y + radius * math.sin(a + turn))
        for a in (0, 0.8, 1.9, 2.7, 3.6, 4.5, 5.5)
    ]


def _conifer(number: int) -> Mesh:
    draws = generator(fold(0, "conifer", number))
    b = Builder(sprite=True)
    b.body()
    b.limb((0.0, 0.0), (0.0, 0.3), 0.05, 0.04, M.WOOD)
    tiers = 5 + number
    for i in range(tiers):
        y = 0.12 + 0.72 * i / tiers
        half = 0.25 * (1 - i / (tiers + 0.6)) * (0.9 + 0.2 * draws.random())
        tip = min(1.0, y + 0.34 - 0.02 * i)
        b.polygon([(-half, y), (half, y), (0.0, tip)], M.MAIN if i % 2 else M.SECOND)
        b.polygon([(-half, y), (-0.35 * half, y), (0.0, tip)], M.THIRD)
    return b.build()


@lru_cache(maxsize=1)
def posts() -> tuple[Mesh, ...]:
    """A plain post; a lamp post with its lamp."""
    plain = Builder(sprite=True)
    plain.body()
    plain.limb((0.0, 0.0), (0.0, 1.0), 0.028, 0.028, M.METAL)
    lamp = Builder(sprite=True)
    lamp.body()
    lamp.limb((0.0, 0.0), (0.0, 0.97), 0.026, 0.014, M.TRIM)
    lamp.limb((0.0, 0.96), (0.13, 0.99), 0.014, 0.012, M.TRIM)
    lamp.polygon([(0.10, 0.97), (0.21, 0.97), (0.19, 1.0), (0.11, 1.0)], M.LIT)
    return plain.build(), lamp.build()


@lru_cache(maxsize=1)
def clutter() -> dict[str, Mesh]:
    """Hydrant, bin, bench, hedge: what may stand before something else."""
    hydrant = Builder(sprite=True)
    hydrant.body()
    hydrant.limb((0.0, 0.0), (0.0, 0.8), 0.34, 0.30, M.RED)
    hydrant.disc(0.0, 0.80, 0.19, M.RED, 10)
    hydrant.limb((-0.26, 0.56), (0.26, 0.56), 0.16, 0.16, M.STOP)
    bin_ = Builder()
    bin_.body()
    body = bin_.box((-0.5, 0.05, -0.5), (0.5, 0.92, 0.5), M.SECOND, top=(-0.5, 0.5, -0.5, 0.5))
    bin_.box((-0.55, 0.92, -0.55), (0.55, 1.0, 0.55), M.TRIM)
    bin_.pane(body["back"], 0.3, 0.4, 0.7, 0.7, M.WHITE)
    bench = Builder()
    bench.body()
    bench.box((-0.5, 0.40, -0.3), (0.5, 0.48, 0.3), M.WOOD)
    bench.box((-0.5, 0.6, 0.25), (0.5, 1.0, 0.3), M.WOOD)
    for x in (-0.45, 0.40):
        bench.box((x, 0.0, -0.2), (x + 0.05, 0.4, 0.2), M.TRIM)
    hedge = Builder()
    hedge.body()
    leaves = hedge.box((-0.5, 0.0, -0.5), (0.5, 0.96, 0.5), M.SECOND, top=(-0.46, 0.46, -0.48, 0.48))
    draws = generator(fold(0, "hedge"))
    for face in leaves.values():
        for _ in range(14):
            tone = M.MAIN if draws.random() < 0.6 else M.THIRD
            hedge.decal(face, _leafy(draws.random(), 0.1 + 0.85 * draws.random(), 0.10, draws.random()), tone)
    return {"hydrant": hydrant.build(), "bin": bin_.build(), "bench": bench.build(), "hedge": hedge.build()}


@lru_cache(maxsize=1)
def houses() -> tuple[Mesh, ...]:
    """Houses of two to six floors, three to six windows wide, with flat or pitched roofs, some with a shop."""
    plans = (
        (2, 3, True, False),
        (3, 4, False, True),
        (4, 5, False, True),
        (3, 3, True, False),
        (6, 5, False, False),
        (5, 6, False, True),
    )
    return tuple(_house(*plan) for plan in plans)


def _house(floors: int, columns: int, pitched: bool, shop: bool) -> Mesh:
    """MAIN walls, SECOND roof and shop front, THIRD window frames, FOURTH door. Its front looks along +z."""
    b = Builder()
    b.body()
    eaves = 0.78 if pitched else 0.97
    body = b.box((-0.5, 0.0, -0.5), (0.5, eaves, 0.5), M.MAIN, skip=("back",))
    for name, face in body.items():
        if name == "top":
            continue
        count = columns if name == "front" else max(2, columns - 1)
        for floor in range(floors):
            low, high = (floor + 0.28) / floors, (floor + 0.80) / floors
            if floor == 0 and shop and name == "front":
                b.pane(face, 0.04, 0.03 / floors, 0.96, 0.72 / floors, M.GLASS)
                b.call("awning").pane(face, 0.02, 0.70 / floors, 0.98, 0.95 / floors, M.SECOND)
                b.call("")
                continue
            for column in range(count):
                left, right = (column + 0.24) / count, (column + 0.76) / count
                if floor == 0 and name == "front" and column == count // 2:
                    b.pane(face, left, 0.0, right, 0.78 / floors, M.FOURTH)
                    continue
                b.pane(
                    face,
                    left - 0.03 / count,
                    low - 0.02 / floors,
                    right + 0.03 / count,
                    high + 0.03 / floors,
                    M.THIRD,
                )
                lit = (7 * floor + 3 * column + floors) % 5 == 0
                b.pane(face, left, low, right, high, M.LIT if lit else M.GLASS)
    b.piece(1)
    if pitched:
        b.box((-0.53, eaves, -0.53), (0.53, 1.0, 0.53), M.SECOND, top=(-0.53, 0.53, -0.02, 0.02))
    else:
        b.box((-0.52, eaves, -0.52), (0.52, 1.0, 0.52), M.SECOND)
    return b.build()
