"""People, cyclists and motorbikes: sprites, in shares of their height, made once in several poses.

Paint slots of a figure: MAIN top, SECOND trousers, THIRD skin, FOURTH hair, helmet or bag.
"""

from __future__ import annotations

import math
from functools import lru_cache

from visloom.data.town.mesh import Builder, Material, Mesh, Point

M = Material


@lru_cache(maxsize=1)
def pedestrians() -> tuple[Mesh, ...]:
    """Walking or standing, seen from the side or from the front; some with skirt, long hair, bag or umbrella."""
    made = []
    for i, swing in enumerate((0.02, 0.10, 0.16, 0.20, -0.12, -0.18)):
        made.append(_walker(swing, skirt=i % 3 == 1, long_hair=i % 2 == 1, bag=i % 3 == 2, umbrella=i == 3))
        made.append(
            _stander(0.25 * swing, skirt=i % 3 == 2, long_hair=i % 2 == 0, bag=i % 3 == 0, umbrella=i == 4)
        )
    return tuple(made)


def _walker(swing: float, *, skirt: bool, long_hair: bool, bag: bool, umbrella: bool) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    hip, shoulder, head = (0.0, 0.49), (0.015, 0.80), (0.025, 0.925)
    _leg(b, hip, -swing, far=True)
    b.call("arm").limb(shoulder, (shoulder[0] + 0.9 * swing, 0.60), 0.07, 0.05, M.MAIN)
    b.disc(shoulder[0] + 1.05 * swing, 0.50, 0.028, M.THIRD, 6)
    _leg(b, hip, swing, far=False)
    if bag:
        b.call("bag").polygon([(-0.075, 0.56), (-0.16, 0.58), (-0.15, 0.80), (-0.06, 0.80)], M.FOURTH)
    b.call("torso").limb((0.01, 0.83), (0.0, 0.47), 0.13, 0.15, M.MAIN)
    b.disc(0.012, 0.80, 0.075, M.MAIN, 9)
    if skirt:
        b.call("leg").polygon([(-0.07, 0.52), (0.07, 0.52), (0.11, 0.30), (-0.11, 0.30)], M.SECOND)
    elbow = (shoulder[0] - 0.7 * swing, 0.64)
    hand = (shoulder[0] + 0.12, 0.72) if umbrella else (shoulder[0] - 0.75 * swing + 0.04, 0.49)
    b.call("arm").limb((shoulder[0], 0.81), elbow, 0.075, 0.06, M.MAIN)
    b.limb(elbow, hand, 0.055, 0.045, M.MAIN)
    b.disc(*hand, 0.028, M.THIRD, 6)
    b.call("head").limb((0.02, 0.86), (0.02, 0.82), 0.05, 0.06, M.THIRD)
    b.disc(*head, 0.066, M.THIRD, 10)
    b.polygon(
        [(-0.045, 0.90), (0.0, 0.975), (0.05, 0.995), (0.09, 0.965), (0.02, 0.95), (-0.005, 0.885)], M.FOURTH
    )
    b.disc(-0.005, 0.94, 0.058, M.FOURTH, 8)
    if long_hair:
        b.limb((-0.03, 0.95), (-0.05, 0.80), 0.07, 0.05, M.FOURTH)
    if umbrella:
        _umbrella(b, hand)
    return b.build()


def _stander(swing: float, *, skirt: bool, long_hair: bool, bag: bool, umbrella: bool) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    for side in (-1, 1):
        foot = 0.045 * side + swing * (side > 0)
        lift = 0.03 if side > 0 else 0.0
        tone = M.THIRD if skirt else M.SECOND
        b.call("leg").limb((0.042 * side, 0.50), (foot, 0.05 + lift), 0.085, 0.055, tone)
        b.call("shoe").limb(
            (foot - 0.01, 0.03 + lift), (foot + 0.02 * side, 0.02 + lift), 0.06, 0.05, M.BLACK
        )
    if skirt:
        b.call("leg").polygon([(-0.09, 0.53), (0.09, 0.53), (0.12, 0.30), (-0.12, 0.30)], M.SECOND)
    if long_hair:
        b.call("head").limb((0.0, 0.95), (0.0, 0.79), 0.14, 0.15, M.FOURTH)
    for side in (-1, 1):
        hand = (0.10 * side, 0.71) if umbrella and side > 0 else (0.155 * side, 0.48 + 0.2 * swing * side)
        b.call("arm").limb((0.115 * side, 0.80), (0.15 * side, 0.64), 0.07, 0.055, M.MAIN)
        b.limb((0.15 * side, 0.65), hand, 0.055, 0.045, M.MAIN)
        b.disc(*hand, 0.027, M.THIRD, 6)
    b.call("torso").polygon(
        [(-0.09, 0.47), (0.09, 0.47), (0.135, 0.79), (0.07, 0.84), (-0.07, 0.84), (-0.135, 0.79)], M.MAIN
    )
    if bag:
        b.call("bag").limb((-0.10, 0.83), (0.09, 0.52), 0.02, 0.02, M.FOURTH)
        b.polygon([(0.06, 0.42), (0.17, 0.42), (0.16, 0.55), (0.07, 0.55)], M.FOURTH)
    b.call("head").limb((0.0, 0.87), (0.0, 0.82), 0.055, 0.07, M.THIRD)
    b.disc(0.0, 0.92, 0.064, M.THIRD, 10, wide=0.88)
    b.polygon(
        [
            (-0.06, 0.93),
            (-0.052, 0.97),
            (0.0, 0.998),
            (0.052, 0.97),
            (0.06, 0.93),
            (0.035, 0.955),
            (-0.035, 0.955),
        ],
        M.FOURTH,
    )
    if umbrella:
        _umbrella(b, (0.10, 0.71))
    return b.build()


def _leg(b: Builder, hip: Point, swing: float, *, far: bool) -> None:
    knee = (hip[0] + 0.55 * swing + 0.015, 0.27)
    foot = (hip[0] + 1.05 * swing - 0.01, 0.045 + 0.05 * max(0.0, -swing))
    b.call("leg").limb(hip, knee, 0.105, 0.075, M.SECOND)
    b.limb(knee, foot, 0.075, 0.055, M.SECOND)
    b.call("shoe").polygon(
        [
            (foot[0] - 0.03, foot[1] - 0.04),
            (foot[0] + 0.075, foot[1] - 0.045),
            (foot[0] + 0.05, foot[1]),
            (foot[0] - 0.03, foot[1] + 0.01),
        ],
        M.TRIM if far else M.BLACK,
    )


def _umbrella(b: Builder, hand: Point) -> None:
    x, y = hand
    b.call("umbrella").limb((x, y - 0.05), (x, 1.10), 0.012, 0.012, M.TRIM)
    rim = [(x + 0.30 * math.cos(math.pi * i / 8), 1.04 + 0.16 * math.sin(math.pi * i / 8)) for i in range(9)]
    b.polygon(rim, M.FOURTH)
    b.polygon([(x - 0.10, 1.04), (x + 0.10, 1.04), (x + 0.05, 1.19), (x - 0.05, 1.19)], M.MAIN)


@lru_cache(maxsize=1)
def cyclists() -> tuple[Mesh, ...]:
    """Side views in four pedal positions (the first half), then views from the front or back."""
    side = tuple(_cyclist(turn) for turn in (0.3, 1.2, 2.2, 4.0))
    return (*side, *(_cyclist_front(lift) for lift in (0.0, 0.05, 0.09, 0.03)))


def _cyclist(turn: float) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    rear, front, crank, saddle, bar = (-0.30, 0.19), (0.32, 0.19), (-0.02, 0.19), (-0.13, 0.52), (0.22, 0.58)
    pedals = [
        (crank[0] + 0.09 * math.cos(turn + a), crank[1] + 0.09 * math.sin(turn + a)) for a in (math.pi, 0.0)
    ]
    hip, shoulder, head = (-0.11, 0.57), (0.12, 0.81), (0.19, 0.915)
    _pedalling(b, hip, pedals[0], M.TRIM)
    b.call("wheel")
    for x, y in (rear, front):
        b.ring(x, y, 0.19, 0.028, M.TYRE)
        b.limb((x - 0.16, y), (x + 0.16, y), 0.008, 0.008, M.METAL)
        b.limb((x, y - 0.16), (x, y + 0.16), 0.008, 0.008, M.METAL)
    b.call("")
    for start, end in (
        (rear, crank),
        (rear, (-0.12, 0.44)),
        (crank, saddle),
        (crank, (0.21, 0.46)),
        ((-0.11, 0.43), (0.22, 0.48)),
        (front, bar),
    ):
        b.limb(start, end, 0.026, 0.026, M.FOURTH)
    b.limb((-0.19, 0.53), (-0.05, 0.53), 0.035, 0.02, M.BLACK)
    b.limb((0.20, 0.585), (0.29, 0.585), 0.03, 0.025, M.BLACK)
    _pedalling(b, hip, pedals[1], M.SECOND)
    b.call("torso").limb(hip, shoulder, 0.15, 0.15, M.MAIN)
    b.disc(*shoulder, 0.075, M.MAIN, 8)
    b.call("arm").limb(shoulder, (0.22, 0.67), 0.065, 0.05, M.MAIN)
    b.limb((0.22, 0.67), (0.27, 0.60), 0.05, 0.04, M.THIRD)
    b.call("head").disc(*head, 0.062, M.THIRD, 9)
    b.polygon([(0.115, 0.93), (0.15, 0.985), (0.21, 0.995), (0.265, 0.955), (0.26, 0.935)], M.WHITE)
    return b.build()


def _pedalling(b: Builder, hip: Point, pedal: Point, material: Material) -> None:
    middle = ((hip[0] + pedal[0]) / 2, (hip[1] + pedal[1]) / 2)
    knee = (middle[0] + 0.10, middle[1] + 0.06)
    b.call("leg").limb(hip, knee, 0.10, 0.075, material)
    b.limb(knee, pedal, 0.07, 0.05, material)
    b.call("shoe").limb(
        (pedal[0] - 0.03, pedal[1] - 0.015), (pedal[0] + 0.06, pedal[1] - 0.015), 0.04, 0.03, M.BLACK
    )


def _cyclist_front(lift: float) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    b.call("wheel").disc(0.0, 0.19, 0.19, M.TYRE, 12, wide=0.16)
    b.call("").limb((0.0, 0.19), (0.0, 0.58), 0.022, 0.03, M.FOURTH)
    for side in (-1, 1):
        raised = lift if side > 0 else -lift
        b.call("leg").limb((0.055 * side, 0.56), (0.085 * side, 0.36 + raised), 0.085, 0.07, M.SECOND)
        b.limb((0.085 * side, 0.37 + raised), (0.07 * side, 0.16 + raised), 0.07, 0.05, M.SECOND)
        b.call("shoe").disc(0.07 * side, 0.14 + raised, 0.03, M.BLACK, 6)
    b.call("torso").polygon(
        [(-0.09, 0.52), (0.09, 0.52), (0.135, 0.79), (0.06, 0.84), (-0.06, 0.84), (-0.135, 0.79)], M.MAIN
    )
    b.call("").limb((-0.17, 0.60), (0.17, 0.60), 0.022, 0.022, M.BLACK)
    b.call("arm")
    for side in (-1, 1):
        b.limb((0.12 * side, 0.80), (0.17 * side, 0.68), 0.06, 0.05, M.MAIN)
        b.limb((0.17 * side, 0.69), (0.145 * side, 0.60), 0.05, 0.04, M.THIRD)
    b.call("head").disc(0.0, 0.905, 0.058, M.THIRD, 9, wide=0.88)
    b.polygon([(-0.058, 0.925), (-0.045, 0.975), (0.0, 0.995), (0.045, 0.975), (0.058, 0.925)], M.WHITE)
    return b.build()


@lru_cache(maxsize=1)
def motorbikes() -> tuple[Mesh, ...]:
    """Side views of a sports bike, a scooter and a tourer with a box (the first half), then front or back views."""
    return (*(_motorbike(kind) for kind in range(3)), *(_motorbike_front(kind) for kind in range(3)))


def _motorbike(kind: int) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    small = 0.15 if kind == 1 else 0.19
    b.call("wheel")
    for x in (-0.40, 0.42):
        b.disc(x, small, small, M.TYRE, 14)
        b.disc(x, small, 0.55 * small, M.RIM, 10)
        b.disc(x, small, 0.2 * small, M.TRIM, 6)
    b.call("")
    if kind == 1:
        b.polygon([(-0.56, 0.30), (-0.20, 0.20), (-0.08, 0.46), (-0.54, 0.50)], M.MAIN)
        b.polygon([(-0.22, 0.13), (0.24, 0.13), (0.24, 0.20), (-0.22, 0.20)], M.MAIN)
        b.polygon([(0.20, 0.13), (0.32, 0.16), (0.34, 0.60), (0.24, 0.66)], M.MAIN)
        b.limb((0.42, 0.15), (0.28, 0.64), 0.05, 0.05, M.TRIM)
        b.polygon([(0.26, 0.58), (0.38, 0.56), (0.36, 0.66), (0.28, 0.68)], M.LAMP)
    else:
        b.limb((0.42, 0.19), (0.26, 0.62), 0.05, 0.05, M.METAL)
        b.limb((-0.40, 0.19), (-0.06, 0.28), 0.06, 0.08, M.TRIM)
        b.polygon([(-0.20, 0.14), (0.18, 0.14), (0.22, 0.36), (-0.16, 0.38)], M.TRIM)
        b.disc(0.0, 0.25, 0.08, M.METAL, 8)
        b.limb((-0.10, 0.12), (-0.52, 0.20), 0.04, 0.06, M.METAL)
        b.polygon([(-0.10, 0.36), (0.22, 0.38), (0.27, 0.56), (0.05, 0.60), (-0.10, 0.48)], M.MAIN)
        b.polygon([(-0.58, 0.52), (-0.34, 0.38), (-0.08, 0.40), (-0.06, 0.48), (-0.36, 0.50)], M.MAIN)
        b.polygon([(0.20, 0.40), (0.40, 0.44), (0.42, 0.60), (0.28, 0.70), (0.22, 0.60)], M.MAIN)
        b.polygon([(0.36, 0.48), (0.43, 0.48), (0.43, 0.58), (0.37, 0.59)], M.LAMP)
        b.polygon([(0.28, 0.66), (0.36, 0.62), (0.30, 0.78), (0.26, 0.78)], M.GLASS)
    b.polygon([(-0.40, 0.48), (-0.04, 0.45), (-0.04, 0.50), (-0.40, 0.53)], M.BLACK)
    b.polygon([(-0.60, 0.42), (-0.55, 0.40), (-0.54, 0.48), (-0.59, 0.50)], M.TAIL)
    if kind == 2:
        b.polygon([(-0.66, 0.52), (-0.40, 0.52), (-0.40, 0.74), (-0.64, 0.74)], M.TRIM)
    hip = (-0.17, 0.54)
    b.call("leg").limb(hip, (0.08, 0.46), 0.11, 0.09, M.SECOND)
    b.limb((0.08, 0.46), (-0.02, 0.22), 0.08, 0.06, M.SECOND)
    b.call("shoe").limb((-0.05, 0.19), (0.06, 0.18), 0.05, 0.04, M.BLACK)
    shoulder = (-0.02, 0.80) if kind else (0.06, 0.76)
    b.call("torso").limb(hip, shoulder, 0.16, 0.17, M.THIRD)
    b.disc(*shoulder, 0.085, M.THIRD, 8)
    b.call("arm").limb(shoulder, (0.16, 0.64), 0.075, 0.06, M.THIRD)
    b.limb((0.16, 0.64), (0.27, 0.63), 0.06, 0.045, M.BLACK)
    _helmet(b, shoulder[0] + 0.06, 0.91)
    return b.build()


def _motorbike_front(kind: int) -> Mesh:
    b = Builder(sprite=True)
    b.body()
    b.call("wheel").disc(0.0, 0.19, 0.19, M.TYRE, 12, wide=0.32)
    b.call("").limb((-0.05, 0.18), (-0.06, 0.60), 0.03, 0.03, M.METAL)
    b.limb((0.05, 0.18), (0.06, 0.60), 0.03, 0.03, M.METAL)
    for side in (-1, 1):
        b.call("leg").limb((0.07 * side, 0.52), (0.19 * side, 0.44), 0.10, 0.09, M.SECOND)
        b.limb((0.19 * side, 0.46), (0.16 * side, 0.20), 0.08, 0.06, M.SECOND)
        b.call("shoe").disc(0.16 * side, 0.17, 0.04, M.BLACK, 6)
    b.call("torso").polygon(
        [(-0.10, 0.50), (0.10, 0.50), (0.16, 0.78), (0.07, 0.84), (-0.07, 0.84), (-0.16, 0.78)], M.THIRD
    )
    wide = 0.15 if kind == 1 else 0.12
    b.call("").polygon(
        [(-wide, 0.32), (wide, 0.32), (wide, 0.56), (0.05, 0.68), (-0.05, 0.68), (-wide, 0.56)], M.MAIN
    )
    b.disc(0.0, 0.50, 0.055, M.LAMP if kind != 2 else M.TAIL, 10)
    b.polygon([(-0.05, 0.32), (0.05, 0.32), (0.05, 0.38), (-0.05, 0.38)], M.PLATE)
    b.limb((-0.26, 0.64), (0.26, 0.64), 0.03, 0.03, M.BLACK)
    for side in (-1, 1):
        b.call("arm").limb((0.14 * side, 0.79), (0.22 * side, 0.70), 0.08, 0.06, M.THIRD)
        b.limb((0.22 * side, 0.70), (0.22 * side, 0.64), 0.06, 0.05, M.BLACK)
        b.call("").disc(0.27 * side, 0.71, 0.035, M.TRIM, 6)
    _helmet(b, 0.0, 0.91)
    return b.build()


def _helmet(b: Builder, x: float, y: float) -> None:
    b.call("head").disc(x, y, 0.082, M.FOURTH, 11)
    b.polygon(
        [(x - 0.01, y - 0.03), (x + 0.08, y - 0.03), (x + 0.08, y + 0.02), (x - 0.01, y + 0.03)], M.GLASS
    )
