"""Street: makes the scene that belongs to a key.

`make_scene` fills a whole street; with `focus` it also puts one thing of a kind where it can be seen, for pictures of
single objects. Every number is a function of the key (`visloom/keys.py`), so a scene is never stored.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from visloom.data.town.dress import dress
from visloom.data.town.mesh import Floats
from visloom.data.town.scene import Camera, Scene, Street, Thing, Weather, meshes
from visloom.keys import fold, fold_array, uniforms


def make_scene(key: int, focus: str | None = None) -> Scene:
    """Make the street of a key.

    focus: one of the first `CLASSES` of `KINDS`: the camera turns to a thing of this kind, nothing hides most of it,
    and in about two of five scenes something hides a part.
    """
    first = uniforms(fold(key, "street"), 24)
    street = _street(first[:8])
    weather = _weather(first[8:14])
    draws = uniforms(fold_array(fold(key, "things"), np.arange(64)), 8)  # (64, 8)
    things = _surroundings(street, draws[:48])
    camera = Camera(
        eye=1.2 + 1.4 * first[14] ** 2, x=(2 * first[15] - 1) * street.half, yaw=0.16 * (first[16] - 0.5)
    )
    if focus is None:
        return Scene(camera, weather, street, tuple(things))
    target = _target(focus, street, draws[48], camera.focal)
    camera = _aim(camera, target, street, first[17:20])
    hidden = _occluder(camera, target, draws[49:51])
    kept = [thing for thing in things if _leaves_free(camera, target, thing)]
    kept += _support(target) + hidden
    return Scene(camera, weather, street, (*kept, target), focus=len(kept))


# ---- the parts of a street


def _street(u: Floats) -> Street:
    lanes = 1 + int(u[0] < 0.4)
    grey = 70 + 40 * u[1]
    paving = 140 + 50 * u[2]
    grounds = ((96, 128, 66), (150, 144, 132), (120, 134, 82), (170, 158, 138))
    return Street(
        half=3.2 * lanes + 0.4 + 0.8 * u[3],
        walk=2.2 + 2.0 * u[4],
        lanes=lanes,
        crossing=10.0 + 30.0 * u[5],
        road=(grey, grey, grey + 4),
        pavement=(paving, paving - 4, paving - 12),
        ground=grounds[int(u[6] * 4)],
    )


def _weather(u: Floats) -> Weather:
    turn, height = 2 * math.pi * u[0], 0.35 + 0.75 * u[1]
    sun = (math.cos(turn) * math.cos(height), math.sin(height), math.sin(turn) * math.cos(height))
    clear = Weather(
        "clear", (1.04, 1.02, 0.98), 0.55, 0.58, sun, (78, 132, 204), (190, 212, 232), 260.0, 0.45
    )
    kind = u[2]
    if kind < 0.36:
        return clear
    if kind < 0.62:
        grey = 176 + 40 * u[3]
        return replace(clear, name="cloudy", light=(0.95, 0.97, 1.0), ambient=0.84, direct=0.16,
                       zenith=(grey - 36, grey - 28, grey - 16), haze=(grey, grey + 4, grey + 8), visibility=180.0, clouds=0.25)  # fmt: skip
    if kind < 0.72:
        grey = 186 + 30 * u[3]
        return replace(clear, name="fog", light=(0.96, 0.97, 1.0), ambient=0.92, direct=0.05, clouds=0.0,
                       zenith=(grey, grey, grey + 4), haze=(grey, grey + 2, grey + 4), visibility=22.0 + 40 * u[4])  # fmt: skip
    if kind < 0.82:
        return replace(clear, name="rain", light=(0.74, 0.77, 0.82), ambient=0.88, direct=0.08, clouds=0.3,
                       zenith=(112, 118, 128), haze=(150, 156, 164), visibility=90.0, rain=0.5 + 0.5 * u[4])  # fmt: skip
    if kind < 0.87:
        return replace(clear, name="snow", light=(0.92, 0.95, 1.0), ambient=0.90, direct=0.08, clouds=0.2,
                       zenith=(176, 182, 192), haze=(206, 210, 216), visibility=70.0, snow=0.5 + 0.5 * u[4])  # fmt: skip
    if kind < 0.94:
        low = (sun[0] * 1.2, 0.18, sun[2] * 1.2)
        return replace(clear, name="dusk", light=(0.92, 0.70, 0.56), ambient=0.50, direct=0.42, sun=low,
                       zenith=(86, 84, 132), haze=(236, 160, 110), visibility=160.0, dark=True)  # fmt: skip
    return replace(clear, name="night", light=(0.42, 0.46, 0.60), ambient=0.74, direct=0.10, clouds=0.1,
                   zenith=(14, 18, 34), haze=(40, 44, 62), visibility=110.0, dark=True)  # fmt: skip


def _surroundings(street: Street, draws: Floats) -> list[Thing]:
    """Houses, trees, parked and moving cars, people, signs and lights along both sides."""
    things: list[Thing] = []
    edge = street.half + street.walk
    for side, offset in ((-1, 0), (1, 24)):
        z = -6.0 + 10 * draws[offset, 7]
        for u in draws[offset : offset + 7]:
            thing = dress("house", u, x=0.0, z=0.0, heading=-side * math.pi / 2)
            far = edge + 0.2 + 5.0 * u[5] * (u[6] < 0.5) + thing.length / 2
            things.append(thing._replace(x=side * far, z=z + thing.width / 2))
            z += thing.width + (0.0 if u[7] < 0.6 else 5.0 * u[6])
        for i, u in enumerate(draws[offset + 7 : offset + 11]):
            if u[0] < 0.75:
                things.append(dress("tree", u, x=side * (edge - 0.5), z=7.0 + 12.0 * i + 6 * u[7]))
        for i, u in enumerate(draws[offset + 11 : offset + 16]):
            if u[0] < 0.55:
                kind = "car" if u[1] < 0.8 else "van"
                z = 6.0 + 8.0 * i + 2 * u[7]
                things.append(
                    dress(kind, u, x=side * (street.half - 1.1), z=z, heading=math.pi * (u[2] < 0.5))
                )
        for i, u in enumerate(draws[offset + 16 : offset + 19]):
            kind = ("car", "car", "bus", "truck", "van", "cyclist", "motorbike")[int(u[0] * 7)]
            lane = side * street.half * (0.3 + 0.1 * u[6])
            heading = 0.0 if side > 0 else math.pi
            things.append(dress(kind, u, x=lane, z=14.0 + 22.0 * i + 10 * u[7], heading=heading))
        for u in draws[offset + 19 : offset + 22]:
            across = (
                (2 * u[6] - 1) * street.half
                if u[0] < 0.2
                else side * (street.half + 0.4 + (street.walk - 0.8) * u[6])
            )
            along = street.crossing + 2 * u[7] if u[0] < 0.2 else 5.0 + 40.0 * u[7]
            things.append(dress("pedestrian", u, x=across, z=along))
        u = draws[offset + 22]
        kind = "light" if u[0] < 0.4 else "sign"
        hung = dress(kind, u, x=side * (street.half + 0.4), z=street.crossing - 1.0 + 4 * u[7])
        things += [*_support(hung), hung]
        u = draws[offset + 23]
        things.append(dress("post", u, x=side * (street.half + 0.5), z=6.0 + 24 * u[7], mesh=1))
    return things


def _support(thing: Thing) -> list[Thing]:
    """The post that a sign or a light hangs on, just behind it."""
    if thing.kind not in ("sign", "light"):
        return []
    metal = ((140.0, 144.0, 150.0),) * 4
    top = thing.y + 0.85 * thing.height
    return [Thing("post", 0, thing.x, 0.0, thing.z + 0.06, 0.0, 0.1, top, 0.1, metal)]


# ---- a scene about one thing


def _target(kind: str, street: Street, u: Floats, focal: float) -> Thing:
    """A thing of a kind at a place that suits it, at a distance that makes it 40 to 220 pixels high or long."""
    side = 1 if u[0] < 0.5 else -1
    along = 0.0 if u[7] < 0.5 else math.pi
    turn = along + (0.5 * (u[6] - 0.5) if u[5] < 0.5 else 2 * math.pi * u[6])
    if kind in ("sign", "light", "tree", "pedestrian"):
        x = side * (street.half + 0.3 + (street.walk - 0.6) * u[5])
    else:
        x = side * street.half * (0.2 + 0.55 * u[4])
    thing = dress(kind, u, x=x, z=0.0, heading=turn)
    large = max(thing.height, 0.45 * thing.length)
    pixels = 40.0 * (220.0 / 40.0) ** float(u[2] * 991 % 1)
    return thing._replace(z=max(2.5 + 0.7 * thing.length, focal * large / pixels))


def _aim(camera: Camera, target: Thing, street: Street, u: Floats) -> Camera:
    """Move the camera across the street and turn it until the thing lies somewhere about the middle."""
    x = (2 * u[0] - 1) * (street.half + 0.5 * street.walk)
    bearing = math.atan2(target.x - x, target.z)
    return replace(camera, x=x, yaw=bearing - 0.5 * (u[1] - 0.5))


def _angles(camera: Camera, thing: Thing) -> tuple[float, float, float]:
    """Left and right end of a thing on the picture plane (x / z), and its distance."""
    foot = camera.look(np.array([thing.x, 0.0, thing.z]))
    far = max(NEAR, float(foot[2]))
    half = thing.width / 2
    mesh = meshes(thing.kind)[thing.mesh]
    if mesh.sprite:
        half = float(np.abs(mesh.points[:, 0]).max()) * thing.height
    else:
        turn = thing.heading - camera.yaw
        half = (abs(math.cos(turn)) * thing.width + abs(math.sin(turn)) * thing.length) / 2
    return (float(foot[0]) - half) / far, (float(foot[0]) + half) / far, far


def _leaves_free(camera: Camera, target: Thing, thing: Thing) -> bool:
    """False for what would stand inside the thing or hide more than a sliver of it."""
    left, right, far = _angles(camera, target)
    begin, end, distance = _angles(camera, thing)
    apart = math.hypot(thing.x - target.x, thing.z - target.z)
    reach = 0.5 * (max(thing.width, thing.length) + max(target.width, target.length))
    if thing.kind != "house" and apart < 0.3 + reach * (0.4 if thing.kind in ("tree", "post") else 0.9):
        return False
    overlap = min(right, end) - max(left, begin)
    if distance - reach * (thing.kind == "house") > far or overlap <= 0:
        return True
    return overlap < 0.12 * (right - left)


def _occluder(camera: Camera, target: Thing, draws: Floats) -> list[Thing]:
    """In two scenes of five, a thing before the target's edge or foot."""
    u, v = draws
    if u[0] > 0.4:
        return []
    left, right, far = _angles(camera, target)
    wide = (right - left) / 2
    low = target.kind in ("car", "van", "truck", "bus") and u[1] < 0.4
    kind = (
        ("hedge", "bin", "bench")[int(u[2] * 3)]
        if low
        else ("post", "pedestrian", "hydrant", "tree", "car")[int(u[2] * 5)]
    )
    distance = max(2.0, far * (0.45 + 0.35 * float(u[3])))
    thing = dress(kind, v, x=0.0, z=0.0, heading=camera.yaw + (1.57 if u[4] < 0.5 else 0.0))
    begin, end, _ = _angles(camera, thing._replace(x=camera.x, z=camera.z + distance))
    half = (end - begin) / 2
    covered = (
        min(0.7 * wide, 2 * half) if kind in ("post", "hydrant", "bin") else 0.55 * wide * (0.5 + float(u[5]))
    )
    edge = wide - covered + half  # from the target's middle to the occluder's
    if low or kind in ("post", "hydrant"):
        edge = min(edge, wide * float(u[6]) + 0.2 * wide)
    if kind == "tree":
        edge = wide * (0.6 + 0.4 * float(u[6])) + (half if target.kind in ("sign", "light") else 0.0)
    middle = (left + right) / 2 + (edge if u[7] < 0.5 else -edge)
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    x, z = middle * distance, distance
    return [thing._replace(x=camera.x + x * cos + z * sin, z=camera.z - x * sin + z * cos)]
