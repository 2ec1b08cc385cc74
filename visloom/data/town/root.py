"""Root: rides of the town written to disk as a nuScenes data root, which nuscenes-devkit loads and evaluates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from visloom.data.nuscenes.names import ATTRIBUTES, CAMERAS, CATEGORIES, RADAR_CHANNELS
from visloom.data.nuscenes.pcd import write_pcd
from visloom.data.space import about_z, quaternion
from visloom.data.town.rides import EYE, RADAR_HEIGHT, RADAR_PLACES, STEP, Ride, Rides, camera_pose
from visloom.keys import fold

VERSION = "v1.0-town"
_START = 1_700_000_000_000_000  # microseconds


def token(*words: int | str) -> str:
    """A token of 32 hexadecimal digits that belongs to some words."""
    return f"{fold(0, *words):016x}{fold(1, *words):016x}"


def write_root(folder: Path, parts: dict[str, Rides]) -> Path:
    """Write rides; `parts` are the splits of splits.json ("town_train", ...). Returns the folder, now a data root."""
    from PIL import Image

    rows: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in (
            "scene",
            "sample",
            "sample_data",
            "calibrated_sensor",
            "ego_pose",
            "sample_annotation",
            "instance",
        )
    }
    rows["sensor"] = [
        {
            "token": token("sensor", c),
            "channel": c,
            "modality": "camera" if c in CAMERAS else "radar" if c in RADAR_CHANNELS else "lidar",
        }
        for c in (*CAMERAS, *RADAR_CHANNELS, "LIDAR_TOP")
    ]
    rows["category"] = [{"token": token("category", n), "name": n, "description": ""} for n in CATEGORIES]
    rows["attribute"] = [{"token": token("attribute", n), "name": n, "description": ""} for n in ATTRIBUTES]
    rows["visibility"] = [{"token": "4", "level": "v80-100", "description": ""}]
    log = token("log")
    rows["log"] = [
        {
            "token": log,
            "logfile": "town",
            "vehicle": "town",
            "date_captured": "2026-01-01",
            "location": "town",
        }
    ]
    rows["map"] = [
        {
            "token": token("map"),
            "log_tokens": [log],
            "category": "semantic_prior",
            "filename": "maps/town.png",
        }
    ]
    (folder / "maps").mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "maps" / "town.png")
    splits: dict[str, list[str]] = {}
    for split, source in parts.items():
        for number in range(source.rides):
            ride = source.ride(number)
            name = f"{split}-{number:04d}"
            splits.setdefault(split, []).append(name)
            _write_ride(folder, name, ride, _START + len(rows["scene"]) * 10**9, rows, log)
    (folder / VERSION).mkdir()
    for name, table in rows.items():
        (folder / VERSION / f"{name}.json").write_text(json.dumps(table), encoding="utf-8")
    (folder / VERSION / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    return folder


def _write_ride(
    folder: Path, name: str, ride: Ride, start: int, rows: dict[str, list[dict[str, Any]]], log: str
) -> None:
    moments = len(ride.origins)
    times = [start + int(m * STEP * 1e6) for m in range(moments)]
    tokens = [str(t) for t in ride.arrays["token"]]
    rows["scene"].append({
        "token": token(name), "name": name, "description": "", "log_token": log, "nbr_samples": moments,
        "first_sample_token": tokens[0], "last_sample_token": tokens[-1],
    })  # fmt: skip
    for m in range(moments):
        rows["sample"].append({
            "token": tokens[m], "timestamp": times[m], "scene_token": token(name),
            "prev": tokens[m - 1] if m else "", "next": tokens[m + 1] if m + 1 < moments else "",
        })  # fmt: skip
        rows["ego_pose"].append({
            "token": token(name, "pose", m), "timestamp": times[m], "rotation": [1.0, 0.0, 0.0, 0.0],
            "translation": ride.origins[m].tolist(),
        })  # fmt: skip
    for channel in (*CAMERAS, *RADAR_CHANNELS, "LIDAR_TOP"):
        _write_sensor(folder, name, ride, channel, tokens, times, rows)
    _write_boxes(name, ride, tokens, rows)


def _write_sensor(
    folder: Path,
    name: str,
    ride: Ride,
    channel: str,
    tokens: list[str],
    times: list[int],
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    from PIL import Image

    camera = channel in CAMERAS
    rotation, place = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, EYE]
    if camera:
        from visloom.data.town.rides import YAWS

        rotation = quaternion(camera_pose(np.zeros(3), YAWS[channel])[:3, :3]).tolist()
    elif channel in RADAR_PLACES:
        ahead, left, yaw = RADAR_PLACES[channel]
        rotation, place = about_z(yaw).tolist(), [ahead, left, RADAR_HEIGHT]
    rows["calibrated_sensor"].append({
        "token": token(name, channel), "sensor_token": token("sensor", channel),
        "translation": place, "rotation": rotation,
        "camera_intrinsic": ride.arrays["intrinsic"][0].tolist() if camera else [],
    })  # fmt: skip
    place_of = folder / "samples" / channel
    place_of.mkdir(parents=True, exist_ok=True)
    height, width = ride.arrays["size"][0].tolist() if camera else (0, 0)
    for m, (moment, time) in enumerate(zip(tokens, times, strict=True)):
        kind = "png" if camera else "pcd" if channel in RADAR_CHANNELS else "bin"
        file = place_of / f"{name}__{channel}__{time}.{kind}"
        if camera:
            Image.fromarray(ride.images[m * len(CAMERAS) + CAMERAS.index(channel)]).save(
                file, compress_level=1
            )
        elif channel in RADAR_CHANNELS:
            write_pcd(file, ride.returns[m, channel])
        last = m + 1 == len(tokens)
        rows["sample_data"].append({
            "token": token(name, channel, m), "sample_token": moment,
            "ego_pose_token": token(name, "pose", m),
            "calibrated_sensor_token": token(name, channel), "timestamp": time,
            "fileformat": kind, "is_key_frame": True,
            "height": height, "width": width, "filename": str(file.relative_to(folder)),
            "prev": token(name, channel, m - 1) if m else "",
            "next": "" if last else token(name, channel, m + 1),
        })  # fmt: skip


def _write_boxes(name: str, ride: Ride, tokens: list[str], rows: dict[str, list[dict[str, Any]]]) -> None:
    categories: dict[str, str] = {}
    for category, detected in CATEGORIES.items():
        categories.setdefault(detected, category)
    count, boxes = len(ride.movers), ride.arrays
    for i, mover in enumerate(ride.movers):
        own = [token(name, "box", i, m) for m in range(len(tokens))]
        rows["instance"].append({
            "token": token(name, "thing", i), "category_token": token("category", categories[mover.name]),
            "nbr_annotations": len(own), "first_annotation_token": own[0], "last_annotation_token": own[-1],
        })  # fmt: skip
        for m, moment in enumerate(tokens):
            at = m * count + i
            attribute = int(boxes["box_attribute"][at])
            rows["sample_annotation"].append({
                "token": own[m], "sample_token": moment, "instance_token": token(name,
                "thing", i), "visibility_token": "4",
                "attribute_tokens": [token("attribute", ATTRIBUTES[attribute])] if attribute >= 0 else [],
                "translation": boxes["box_center"][at].tolist(), "size": boxes["box_size"][at].tolist(),
                "rotation": boxes["box_rotation"][at].tolist(), "prev": own[m - 1] if m else "",
                "next": own[m + 1] if m + 1 < len(own) else "", "num_lidar_pts": int(boxes["box_points"][at]),
                "num_radar_pts": 0,
            })  # fmt: skip
