"""Rides: a car drives through the town with six cameras and five radars, among things that move.

Ride i is a function of (seed, i). It has the same arrays as a scene of nuScenes
(`visloom/data/nuscenes/tables.py`), so the
same code reads both; `visloom/data/town/root.py` writes rides to disk as a nuScenes data root.
The town's x (right), y (up), z (along the street) become the world's y (left, negated), z (up), x (ahead).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visloom.data.nuscenes.names import ATTRIBUTES, CAMERAS, CLASSES, RADAR_CHANNELS, RADARS
from visloom.data.nuscenes.pcd import DTYPE, usable
from visloom.data.nuscenes.source import radar_rows
from visloom.data.scene_sample import scene_sample
from visloom.data.space import about_z, inverse, transform
from visloom.data.town.dress import dress
from visloom.data.town.render import render
from visloom.data.town.scene import Camera, Scene, Thing
from visloom.data.town.street import street_of, weather_of
from visloom.keys import fold, fold_array, generator, uniforms
from visloom.sample import Sample
from visloom.source import Source

Array = NDArray[Any]
YAWS = {"CAM_FRONT": 0, "CAM_FRONT_RIGHT": 55, "CAM_BACK_RIGHT": 110, "CAM_BACK": 180, "CAM_BACK_LEFT": -110,
        "CAM_FRONT_LEFT": -55}  # fmt: skip
"""Degrees to the right that each camera looks."""

RADAR_PLACES = {
    "RADAR_FRONT": (3.4, 0.0, 0.0),
    "RADAR_FRONT_LEFT": (2.4, 0.8, 1.571),
    "RADAR_FRONT_RIGHT": (2.4, -0.8, -1.571),
    "RADAR_BACK_LEFT": (-0.6, 0.6, 3.05),
    "RADAR_BACK_RIGHT": (-0.6, -0.6, -3.05),
}
"""Ahead and left of the car's middle in metres, and the angle to the left that each radar looks."""

KINDS = {
    "car": "car", "truck": "truck", "bus": "bus", "trailer": "truck", "construction_vehicle": "van",
    "pedestrian": "pedestrian", "motorcycle": "motorbike", "bicycle": "cyclist", "traffic_cone": "hydrant",
    "barrier": "hedge",
}  # fmt: skip
"""What stands in for each class of nuScenes."""

EYE, RADAR_HEIGHT, STEP = 1.5, 0.5, 0.5  # metres, metres, seconds between moments
_PAINT = {"trailer": (214, 210, 200), "construction_vehicle": (238, 178, 30), "traffic_cone": (236, 92, 30),
          "barrier": (206, 206, 210)}  # fmt: skip


class Mover(NamedTuple):
    """An annotated thing: its class, the thing at time 0, and metres a second right and along the street."""

    name: str
    thing: Thing
    right: float
    along: float

    def at(self, time: float) -> Thing:
        """Where it is at a time in seconds."""
        return self.thing._replace(x=self.thing.x + self.right * time, z=self.thing.z + self.along * time)


@dataclass(frozen=True)
class Radar:
    """How the radars see. detects: of things in view.  returns: of a thing at most.  clutter: false returns,
    on average.

    range_noise, side_noise: metres.  speed_noise: m/s.  reach: metres.
    """

    detects: float = 0.9
    returns: int = 3
    clutter: float = 4.0
    range_noise: float = 0.15
    side_noise: float = 0.25
    speed_noise: float = 0.15
    reach: float = 80.0


@dataclass(frozen=True, eq=False)
class Ride:
    """A ride, driven: its pictures (M * 6, H, W, 3), the arrays of a nuScenes scene, and the radars' returns, car frame
    by `RADAR_PLACES`, by (moment, channel)."""

    name: str
    images: Array
    arrays: dict[str, Array]
    returns: dict[tuple[int, str], Array]
    origins: Array  # (M, 3) of the car in the world
    movers: tuple[Mover, ...]


def drive(seed: int, number: int, moments: int, size: tuple[int, int], radar: Radar) -> Ride:
    """Drive one ride of some moments, half a second apart, pictures of a (height, width)."""
    key = fold(seed, "ride", number)
    first = uniforms(fold(key, "street"), 24)
    street, weather = street_of(first[:8]), weather_of(first[8:14])
    movers, scenery = _population(key, street.half, street.walk)
    speed, lane = 3.0 + 5.0 * float(first[14]), float(street.half / street.lanes / 2)
    height, width = size
    focal = 0.79 * width
    lens = np.array([[focal, 0, width / 2], [0, focal, 0.44 * height], [0, 0, 1]])
    camera = Camera(width, height, focal, width / 2, 0.44 * height, EYE)
    images: list[Array] = []
    rows: dict[str, list[Any]] = {name: [] for name in ("moment", "camera", "pose")}
    boxes: dict[str, list[Any]] = {
        n: [] for n in ("moment", "label", "center", "size", "rotation", "velocity", "attribute", "points")
    }
    sweeps: dict[str, list[Any]] = {n: [] for n in ("moment", "radar", "pose")}
    returns, origins = {}, []
    for moment in range(moments):
        time = moment * STEP
        car = np.array([speed * time, -lane, 0.0])
        origins.append(car)
        things = tuple([mover.at(time) for mover in movers] + list(scenery))
        shown = np.zeros(len(movers), np.int64)
        for at, name in enumerate(CAMERAS):
            seen = replace(camera, x=lane, z=float(car[0]), yaw=math.radians(YAWS[name]))
            picture = render(Scene(seen, weather, street, things), fold(key, "picture", moment, at), ids=True)
            assert picture.ids is not None
            own = picture.ids[(picture.ids >= 0) & (picture.ids < len(movers))]
            shown += np.bincount(own, minlength=len(movers))
            images.append(picture.image)
            rows["moment"].append(moment)
            rows["camera"].append(at)
            rows["pose"].append(camera_pose(car, YAWS[name]))
        hits = np.zeros(len(movers), np.int64)
        visible = [(i, mover) for i, mover in enumerate(movers) if shown[i] >= 6]
        for at, channel in enumerate(RADAR_CHANNELS):
            draws = generator(fold(key, "radar", moment, at))
            returns[moment, channel] = _sweep(draws, channel, car, visible, time, radar, hits)
            sweeps["moment"].append(moment)
            sweeps["radar"].append(at)
            sweeps["pose"].append(radar_pose(car, channel))
        for i, mover in enumerate(movers):
            _annotate(boxes, moment, mover, time, int(shown[i] + hits[i]) if shown[i] >= 6 else 0)
    count = len(images)
    arrays = {
        "token": np.array([f"{fold(key, 'moment', m):016x}{m:016x}" for m in range(moments)], "U32"),
        "origin": np.array(origins)[:, :2],
        "moment": np.array(rows["moment"]),
        "camera": np.array(rows["camera"]),
        "picture_file": np.array([f"ride-{number}-{i}" for i in range(count)], "U"),
        "size": np.tile(np.array(size), (count, 1)),
        "intrinsic": np.tile(lens, (count, 1, 1)),
        "pose": np.array(rows["pose"]),
        "sweep_moment": np.array(sweeps["moment"]),
        "sweep_radar": np.array(sweeps["radar"]),
        "sweep_pose": np.array(sweeps["pose"]),
        **{f"box_{name}": np.array(values) for name, values in boxes.items()},
    }
    return Ride(f"ride-{number:04d}", np.stack(images), arrays, returns, np.array(origins), movers)


def camera_pose(car: Array, degrees: float) -> Array:
    """A camera's frame -> the world, for a camera that looks so far to the right."""
    yaw = math.radians(degrees)
    pose = np.eye(4)
    pose[:3, 0] = -math.sin(yaw), -math.cos(yaw), 0
    pose[:3, 1] = 0, 0, -1
    pose[:3, 2] = math.cos(yaw), -math.sin(yaw), 0
    pose[:3, 3] = car + np.array([0, 0, EYE])
    return pose


def radar_pose(car: Array, channel: str) -> Array:
    """A radar's frame -> the world."""
    ahead, left, yaw = RADAR_PLACES[channel]
    return transform(about_z(yaw), car + np.array([ahead, left, RADAR_HEIGHT]))


def _population(key: int, half: float, walk: float) -> tuple[tuple[Mover, ...], tuple[Thing, ...]]:
    """What moves or is annotated along the street, and houses and trees around it."""
    draws = uniforms(fold_array(fold(key, "things"), np.arange(96)), 8)
    movers: list[Mover] = []

    def add(name: str, u: Array, x: float, z: float, heading: float, speed: float) -> None:
        thing = dress(KINDS[name], u, x=x, z=z, heading=heading)
        if name in _PAINT:
            thing = thing._replace(paint=(_PAINT[name], *thing.paint[1:]))
        movers.append(Mover(name, thing, speed * math.sin(heading), speed * math.cos(heading)))

    low, high = (
        ("traffic_cone", "barrier", "bicycle", "motorcycle"),
        ("truck", "bus", "trailer", "construction_vehicle"),
    )
    for i, name in enumerate(
        low
    ):  # one of each near the beginning: low ones along the right kerb, high ones opposite
        add(name, draws[i], half + 0.3, 7.0 + 4.5 * i + 2 * float(draws[i, 7]), 0.0, 0.0)
    for i, name in enumerate(high):
        add(name, draws[4 + i], 1.4 - half, 11.0 + 11.5 * i + 2 * float(draws[4 + i, 7]), math.pi, 0.0)
    for i in range(6):  # oncoming and overtaking traffic
        u = draws[8 + i]
        name = ("car", "car", "car", "truck", "motorcycle", "bicycle")[i]
        along = u[0] < 0.4
        x = half * (0.28 if along else -0.28) + (0.6 if along else 0.0)
        add(
            name,
            u,
            float(x),
            -30.0 + 22.0 * i + 12 * float(u[7]),
            0.0 if along else math.pi,
            3.0 + 7.0 * float(u[5]),
        )
    for i in range(7):  # parked cars
        u = draws[16 + i]
        side = 1 if u[0] < 0.5 else -1
        add(
            "car",
            u,
            side * (half - 1.1),
            -75.0 + 10.0 * i + 45.0 * (i > 4) + 5 * float(u[7]),
            0.0 if u[2] < 0.5 else math.pi,
            0.0,
        )
    for i in range(9):  # people, most of them walking
        u = draws[24 + i]
        side = 1 if u[0] < 0.5 else -1
        x = side * (half + 0.4 + (walk - 0.8) * float(u[6]))
        heading = (0.0, math.pi, math.pi / 2, -math.pi / 2)[int(4 * u[5])]
        speed = 1.4 * float(u[4]) if u[3] > 0.3 else 0.0
        add("pedestrian", u, float(x), -25.0 + 10.0 * i + 6 * float(u[7]), heading, speed)
    scenery = []
    for side, some in ((-1, draws[40:68]), (1, draws[68:96])):
        z = -70.0
        for i, u in enumerate(some):
            if i % 2:
                scenery.append(
                    dress(
                        "house",
                        u,
                        x=side * (half + walk + 6.5 + 3 * float(u[5])),
                        z=z,
                        heading=-side * math.pi / 2,
                    )
                )
                z += 13.0
            elif u[0] < 0.6:
                scenery.append(dress("tree", u, x=side * (half + walk - 0.4), z=z, heading=0.0))
    return tuple(movers), tuple(scenery)


def _annotate(boxes: dict[str, list[Any]], moment: int, mover: Mover, time: float, points: int) -> None:
    thing = mover.at(time)
    speed = math.hypot(mover.right, mover.along)
    boxes["moment"].append(moment)
    boxes["label"].append(CLASSES.index(mover.name))
    boxes["center"].append((thing.z, -thing.x, thing.y + thing.height / 2))
    boxes["size"].append((thing.width, thing.length, thing.height))
    boxes["rotation"].append(about_z(-thing.heading))
    boxes["velocity"].append((mover.along, -mover.right, 0.0))
    boxes["attribute"].append(_attribute(mover.name, speed))
    boxes["points"].append(points)


def _attribute(name: str, speed: float) -> int:
    if name in ("traffic_cone", "barrier"):
        return -1
    if name == "pedestrian":
        return ATTRIBUTES.index("pedestrian.moving" if speed > 0.2 else "pedestrian.standing")
    if name in ("motorcycle", "bicycle"):
        return ATTRIBUTES.index("cycle.with_rider")
    return ATTRIBUTES.index("vehicle.moving" if speed > 0.2 else "vehicle.parked")


def _sweep(
    draws: np.random.Generator,
    channel: str,
    car: Array,
    visible: list[tuple[int, Mover]],
    time: float,
    radar: Radar,
    hits: Array,
) -> Array:
    """What a radar returns at a time: of each thing in its view some points of the near side, and clutter.

    A radar measures speed along its ray only; the car's own is taken off.
    """
    back = inverse(radar_pose(car, channel))
    found = []
    for i, mover in visible:
        thing = mover.at(time)
        x, y, _ = back[:3, :3] @ (thing.z, -thing.x, 0.0) + back[:3, 3]
        far, bearing = math.hypot(x, y), math.atan2(y, x)
        if far > radar.reach or abs(bearing) > 1.05 or draws.random() > radar.detects:
            continue
        ray = np.array([x, y]) / far
        speed = back[:3, :3] @ (mover.along, -mover.right, 0.0)
        turn = -thing.heading - math.atan2(back[0, 1], back[0, 0]) - bearing  # of the thing against the ray
        cos, sin = max(abs(math.cos(turn)), 1e-6), max(abs(math.sin(turn)), 1e-6)
        half = (
            min(thing.length / cos, thing.width / sin) / 2
        )  # from the middle to the side that the ray meets
        for _ in range(1 + int(draws.integers(radar.returns))):
            near = far - half * draws.uniform(0.6, 1.0) + radar.range_noise * draws.standard_normal()
            aside = radar.side_noise * draws.standard_normal()
            place = ray * max(near, 0.5) + np.array([-ray[1], ray[0]]) * aside
            along = float(speed[:2] @ ray) + radar.speed_noise * draws.standard_normal()
            found.append((*place, *(ray * along), 10.0))
            hits[i] += 1
    for _ in range(int(draws.poisson(radar.clutter))):
        far, bearing = radar.reach * math.sqrt(draws.random()), draws.uniform(-1.05, 1.05)
        ray = np.array([math.cos(bearing), math.sin(bearing)])
        found.append((*(ray * max(far, 2.0)), *(ray * 0.3 * draws.standard_normal()), 0.0))
    rows = np.zeros(len(found), DTYPE)
    if found:
        for name, column in zip(("x", "y", "vx_comp", "vy_comp", "rcs"), np.array(found).T, strict=True):
            rows[name] = column
        rows["vx"], rows["vy"] = rows["vx_comp"], rows["vy_comp"]
    rows["ambig_state"], rows["is_quality_valid"], rows["id"] = 3, 1, np.arange(len(rows))
    return rows


@dataclass(frozen=True, kw_only=True, repr=False)
class Rides(Source):
    """Rides through the town, one camera a sample (`visloom/data/scene3d.py`); nothing is on disk.

    rides: how many.  moments: of each, half a second apart; six samples a moment.  part: val and train share no ride.
    height, width: of pictures.  radar: how the radars see.
    """

    part: str = "train"
    rides: int = 8
    moments: int = 6
    height: int = 128
    width: int = 224
    radar: Radar = Radar()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in ("train", "val", "test"):
            raise ValueError(f"part must be train, val or test, got {self.part!r}")
        if min(self.rides, self.moments) < 1 or min(self.height, self.width) < 32:
            raise ValueError("rides and moments are at least 1, pictures at least 32 pixels high and wide")

    def open(self) -> OrderedDict[int, Ride]:
        """Return the empty store: a ride is driven when one of its pictures is first asked for."""
        return OrderedDict()

    def count(self) -> int:
        return self.rides * self.moments * len(CAMERAS)

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def part_name(self) -> str:
        return self.part

    def elsewhere(self, root: str, part: str) -> Rides:
        """Rides of another part: they lie in no folder."""
        return replace(self, part=part, split=None, limit=None)

    def token_of(self, index: int) -> str:
        """The token of a sample's moment."""
        kept = self.chosen()
        number, row = divmod(int(index if kept is None else kept[index]), self.moments * len(CAMERAS))
        return str(self.ride(number).arrays["token"][row // len(CAMERAS)])

    def ride(self, number: int) -> Ride:
        """A ride, driven; it is kept."""
        driven: OrderedDict[int, Ride] = self.opened()
        if number not in driven:
            seed = fold(self.seed, "rides", self.part)
            driven[number] = drive(seed, number, self.moments, (self.height, self.width), self.radar)
        return driven[number]

    def fetch(self, index: int) -> Sample:
        number, row = divmod(index, self.moments * len(CAMERAS))
        ride = self.ride(number)
        moment, at = divmod(row, len(CAMERAS))
        pose, camera = ride.arrays["pose"][row], CAMERAS[at]
        lens = np.hstack([ride.arrays["intrinsic"][row], np.zeros((3, 1))])
        return scene_sample(
            ride.arrays,
            moment,
            name=f"{self.part}-{number:04d}-{moment:02d}-{camera}",
            image=ride.images[row],
            lens=lens,
            pose=pose,
            radar=self._radar(ride, moment, camera, pose),
            camera=camera,
            attributes=ATTRIBUTES,
        )

    def _radar(self, ride: Ride, moment: int, camera: str, pose: Array) -> Array:
        """Returns of the radars beside a camera, as `NuScenes` gives them."""
        back, parts = inverse(pose), []
        for channel in RADARS[camera]:
            matrix = back @ radar_pose(ride.origins[moment], channel)
            returns = ride.returns[moment, channel]
            parts.append(radar_rows(returns[usable(returns)], matrix, 0.0))
        return np.concatenate(parts)

    def __repr__(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"Rides({self.part}: {self.rides} rides of {self.moments} moments, six cameras {size})"
