"""scenes.json: cameras, radars and boxes of one's own, read and checked once (docs/scenes.md says what stands in it).

Every error names the file and the key. Keys that mean nothing are counted, for they may be misspelt.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.space import about_z, multiply, quaternion
from visloom.errors import DataError
from visloom.place import one_of

Array = NDArray[Any]
FORM = "visloom-scenes-1"
PARTS = ("train", "val")


@dataclass(frozen=True, eq=False)
class Camera:
    """K: (3, 3) to pixels.  pose: (4, 4) its frame (x right, y down, z ahead) -> the vehicle's.

    radars: those that see some of what it sees.
    """

    K: Array
    pose: Array
    radars: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Returns of a radar: a file, or rows x y z vx vy rcs. pose: (4, 4) their frame -> the vehicle's.  age: seconds."""

    file: str
    rows: Array | None
    pose: Array
    age: float


@dataclass(frozen=True, eq=False)
class Moment:
    """One moment. pose: (4, 4) vehicle -> world.  images: file and camera by name.  boxes: the "box_" arrays of a scene
    of nuScenes (`visloom/data/nuscenes/tables.py`), in the world; None where nobody annotated."""

    id: str
    scene: str
    part: str
    pose: Array
    images: dict[str, tuple[str, Camera]]
    radar: dict[str, tuple[Sweep, ...]]
    boxes: dict[str, Array] | None


@dataclass(frozen=True, eq=False)
class SceneFile:
    """What the file says. unknown: keys that mean nothing, and how often they are there."""

    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    groups: dict[str, str]
    moments: tuple[Moment, ...]
    unknown: Counter[str]


@dataclass
class _Node:
    """A value of the file and where it stands."""

    file: Path
    where: str
    value: Any
    unknown: Counter[str] = field(default_factory=Counter)

    def bad(self, expected: str) -> DataError:
        """The error that this value is."""
        shown = json.dumps(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return DataError(f"{self.file}: {self.where or 'the file'}: expected {expected}, got {shown}")

    def keys(self, needed: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Check that this is an object with some keys."""
        if not isinstance(self.value, dict):
            raise self.bad(f"an object with {one_of(needed or optional, 'and')}")
        missing = [key for key in needed if key not in self.value]
        if missing:
            raise DataError(
                f"{self.file}: {self.where or 'the file'} has no {one_of(missing, 'and')}; it needs "
                f"{one_of(needed, 'and')}" + (f" and may have {one_of(optional, 'and')}" if optional else "")
            )
        place = "".join("[]" if c == "[" else c for c in self.where if not c.isdigit() and c != "]")
        for key in set(self.value) - {*needed, *optional}:
            self.unknown[f"{place}.{key}".lstrip(".")] += 1

    def has(self, key: str) -> bool:
        return self.value.get(key) is not None

    def __getitem__(self, key: str | int) -> _Node:
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.where else key
        return _Node(self.file, f"{self.where}{step}", self.value[key], self.unknown)

    def items(self) -> Iterator[tuple[str, _Node]]:
        if not isinstance(self.value, dict):
            raise self.bad("an object, name by name")
        return ((name, self[name]) for name in self.value)

    def list(self) -> list[_Node]:
        if not isinstance(self.value, list):
            raise self.bad("a list")
        return [self[i] for i in range(len(self.value))]

    def text(self, among: Sequence[str] = ()) -> str:
        if not isinstance(self.value, str) or not self.value or (among and self.value not in among):
            raise self.bad(one_of(among, "or") if among else "a text")
        return self.value

    def number(self, *, positive: bool = False) -> float:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.bad("a number")
        if positive and value <= 0:
            raise self.bad("a number above 0")
        return float(value)

    def array(self, *shape: int, finite: bool = True) -> Array:
        """Numbers of a shape; -1 is any length."""
        try:
            found = np.array(self.value, np.float64)
        except (TypeError, ValueError):
            found = np.zeros(0)
        if shape[0] == -1 and found.size == 0 and self.value == []:
            found = np.zeros((0, *shape[1:]))
        fits = found.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, found.shape, strict=True))
        if not fits or (finite and not np.isfinite(found).all()):
            raise self.bad(f"numbers {'x'.join('N' if n < 0 else str(n) for n in shape)}")
        return found

    def rigid(self) -> Array:
        """A (4, 4) transform that turns and moves."""
        matrix = self.array(4, 4)
        turn = matrix[:3, :3]
        off = np.abs(turn @ turn.T - np.eye(3)).max()
        if off > 1e-3 or np.linalg.det(turn) < 0 or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise self.bad(
                "a rigid transform, 4x4: a rotation, a translation in metres in the last column, and a last row 0 0 0 1"
            )
        return matrix

    def lens(self) -> Array:
        """A (3, 3) matrix of a camera without distortion."""
        matrix = self.array(3, 3)
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.allclose(matrix[2], (0, 0, 1)):
            raise self.bad("a camera matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels")
        return matrix


def read_scenes(file: Path) -> SceneFile:
    """Read and check a file of scenes.

    Raises:
        DataError: the file cannot be read, is no JSON, or a value of it is wrong: with its key, what was expected and
            what is there.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}") from error
    top = _Node(file, "", value)
    top.keys(("format", "classes", "cameras", "moments"), ("attributes", "groups", "radars"))
    top["format"].text((FORM,))
    classes = _names(top["classes"])
    attributes = _names(top["attributes"]) if top.has("attributes") else ()
    groups = {name: node.text() for name, node in top["groups"].items()} if top.has("groups") else {}
    radars: dict[str, Array] = {}
    for name, node in top["radars"].items() if top.has("radars") else ():
        node.keys((), ("T",))
        radars[name] = node["T"].rigid() if node.has("T") else np.eye(4)
    cameras = {name: _camera(node, None, radars) for name, node in top["cameras"].items()}
    if not cameras:
        raise top["cameras"].bad("at least one camera")
    moments = [_moment(node, cameras, radars, classes, attributes) for node in top["moments"].list()]
    if not moments:
        raise DataError(f"{file}: moments is empty: there is nothing to train on or to predict")
    seen: set[str] = set()
    for number, moment in enumerate(moments):
        if moment.id in seen:
            raise DataError(f"{file}: moments[{number}].id: {moment.id!r} is there twice; ids are unique")
        seen.add(moment.id)
    return SceneFile(classes, attributes, groups, tuple(moments), top.unknown)


def _names(node: _Node) -> tuple[str, ...]:
    names = tuple(each.text() for each in node.list())
    if len(set(names)) < len(names):
        raise node.bad("different names")
    return names


def _camera(node: _Node, base: Camera | None, radars: dict[str, Array]) -> Camera:
    """A camera, or what a moment says of one that is known already."""
    node.keys(("K", "T") if base is None else (), ("radars",) if base is None else ("K", "T", "radars"))
    seen = base.radars if base is not None else tuple(radars)
    if node.has("radars"):
        seen = tuple(each.text(tuple(radars)) for each in node["radars"].list())
    lens = node["K"].lens() if base is None or node.has("K") else base.K
    pose = node["T"].rigid() if base is None or node.has("T") else base.pose
    return Camera(lens, pose, seen)


def _moment(
    node: _Node,
    cameras: dict[str, Camera],
    radars: dict[str, Array],
    classes: tuple[str, ...],
    attributes: tuple[str, ...],
) -> Moment:
    node.keys(("id", "images"), ("scene", "part", "pose", "cameras", "radar", "boxes"))
    own = dict(cameras)
    for name, each in node["cameras"].items() if node.has("cameras") else ():
        own[_known(each, name, cameras, "cameras")] = _camera(each, cameras[name], radars)
    images = {}
    for name, each in node["images"].items():
        images[name] = each.text(), own[_known(each, name, cameras, "cameras")]
    sweeps = {}
    for name, each in node["radar"].items() if node.has("radar") else ():
        sweeps[name] = _sweeps(each, radars[_known(each, name, radars, "radars")])
    pose = node["pose"].rigid() if node.has("pose") else np.eye(4)
    boxes = _boxes(node["boxes"].list(), pose, classes, attributes) if node.has("boxes") else None
    return Moment(
        id=node["id"].text(),
        scene=node["scene"].text() if node.has("scene") else "",
        part=node["part"].text(PARTS) if node.has("part") else "",
        pose=pose,
        images=images,
        radar=sweeps,
        boxes=boxes,
    )


def _known(node: _Node, name: str, names: dict[str, Any], what: str) -> str:
    if name not in names:
        listed = one_of(names, "and") if names else "none"
        raise DataError(
            f"{node.file}: {node.where}: {name!r} is none of the {what} of the file, which has {listed}"
        )
    return name


def _sweeps(node: _Node, pose: Array) -> tuple[Sweep, ...]:
    """A file; rows of numbers; or a list of files with the transform and the age of each."""
    if isinstance(node.value, str):
        return (Sweep(node.text(), None, pose, 0.0),)
    nodes = node.list()
    if not nodes or isinstance(nodes[0].value, list):
        rows = node.array(-1, 6, finite=False) if nodes else np.zeros((0, 6))
        return (Sweep("", rows, pose, 0.0),)
    found = []
    for each in nodes:
        if isinstance(each.value, str):
            found.append(Sweep(each.text(), None, pose, 0.0))
            continue
        each.keys(("file",), ("T", "age"))
        own = each["T"].rigid() if each.has("T") else pose
        found.append(Sweep(each["file"].text(), None, own, each["age"].number() if each.has("age") else 0.0))
    return tuple(found)


def _boxes(
    nodes: list[_Node], pose: Array, classes: tuple[str, ...], attributes: tuple[str, ...]
) -> dict[str, Array]:
    rows: dict[str, list[Any]] = {
        name: [] for name in ("label", "center", "size", "yaw", "velocity", "attribute", "points")
    }
    for node in nodes:
        node.keys(
            ("class", "center", "length", "width", "height", "yaw"), ("velocity", "attribute", "points", "id")
        )
        rows["label"].append(classes.index(node["class"].text(classes)))
        rows["center"].append(node["center"].array(3))
        rows["size"].append([node[name].number(positive=True) for name in ("width", "length", "height")])
        rows["yaw"].append(node["yaw"].number())
        known = node.has("velocity")
        rows["velocity"].append(node["velocity"].array(2, finite=False) if known else np.full(2, np.nan))
        named = node.has("attribute") and node["attribute"].value != ""
        rows["attribute"].append(attributes.index(node["attribute"].text(attributes)) if named else -1)
        rows["points"].append(int(node["points"].number()) if node.has("points") else -1)
    turn = pose[:3, :3]
    flat = np.array(rows["velocity"], np.float64).reshape(-1, 2)
    yaw = np.array(rows["yaw"], np.float64)
    return {
        "box_moment": np.zeros(len(nodes), np.int64),
        "box_label": np.array(rows["label"], np.int64),
        "box_center": np.array(rows["center"], np.float64).reshape(-1, 3) @ turn.T + pose[:3, 3],
        "box_size": np.array(rows["size"], np.float64).reshape(-1, 3),
        "box_rotation": multiply(np.broadcast_to(quaternion(turn), (len(nodes), 4)), about_z(yaw)),
        "box_velocity": np.hstack([flat, np.zeros((len(flat), 1))]) @ turn.T,
        "box_attribute": np.array(rows["attribute"], np.int64),
        "box_points": np.array(rows["points"], np.int64),
    }
