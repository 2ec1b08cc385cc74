"""Names of nuScenes: detection classes and what they are made of, attributes, cameras, radars."""

from __future__ import annotations

from pathlib import PurePosixPath

CLASSES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone",
    "barrier",
)  # fmt: skip

CATEGORIES = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
"""Category of an annotation -> detection class; others (animals, strollers, debris ...) are not detected."""

RACK = "static_object.bicycle_rack"

ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing",
    "pedestrian.sitting_lying_down", "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip

GROUPS = {
    "car": "vehicle.", "truck": "vehicle.", "bus": "vehicle.", "trailer": "vehicle.",
    "construction_vehicle": "vehicle.", "pedestrian": "pedestrian.", "motorcycle": "cycle.", "bicycle": "cycle.",
}  # fmt: skip
"""Class -> beginning of the names of its attributes."""

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")

RADARS = {
    "CAM_FRONT": ("RADAR_FRONT_RIGHT", "RADAR_FRONT_LEFT", "RADAR_FRONT"),
    "CAM_FRONT_LEFT": ("RADAR_FRONT_LEFT", "RADAR_FRONT"),
    "CAM_FRONT_RIGHT": ("RADAR_FRONT_RIGHT", "RADAR_FRONT"),
    "CAM_BACK_LEFT": ("RADAR_BACK_LEFT", "RADAR_FRONT_LEFT"),
    "CAM_BACK_RIGHT": ("RADAR_BACK_RIGHT", "RADAR_FRONT_RIGHT"),
    "CAM_BACK": ("RADAR_BACK_RIGHT", "RADAR_BACK_LEFT"),
}
"""Camera -> radars that see some of what it sees."""

RADAR_CHANNELS = tuple(dict.fromkeys(name for names in RADARS.values() for name in names))


def picture_name(file: str, camera: str) -> str:
    """The id of a picture: its file's stem, as nuScenes names them apart; else its path without the ending.

    Other writers call a file 000001.jpg in the folder of each camera, or of each scene.
    """
    path = PurePosixPath(file)
    own = path.parts[:-1] == ("samples", camera) and camera in path.stem
    return path.stem if own else str(path.with_suffix(""))
