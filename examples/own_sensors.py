"""Cameras and a radar of your own: write a folder in the form of docs/scenes.md, then train, evaluate and predict.

    python examples/own_sensors.py FOLDER

`write` is what you replace: it has two cameras that look ahead left and right, one radar in the bumper, and boxes, here
taken from the embedded town. Everything after it works with any folder of this form.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visloom import change, evaluate, load, predict, train
from visloom.data.nuscenes.names import CAMERAS, CLASSES
from visloom.data.space import heading, inverse
from visloom.data.town.rides import RADAR_HEIGHT, RADAR_PLACES, YAWS, Ride, Rides, camera_pose

MINE = {"left": "CAM_FRONT_LEFT", "right": "CAM_FRONT_RIGHT"}
KNOWN = ("car", "truck", "pedestrian")


def write(folder: Path, rides: int = 2, moments: int = 2) -> Path:
    """Write a few drives as FOLDER/scenes.json with pictures and radar files beside it."""
    world = Rides(part="train", rides=rides, moments=moments)
    focal = world.ride(0).arrays["intrinsic"][0]
    ahead, left, _ = RADAR_PLACES["RADAR_FRONT"]
    mount = np.eye(4)
    mount[:3, 3] = ahead, left, RADAR_HEIGHT
    (folder / "images").mkdir(parents=True)
    (folder / "radar").mkdir()
    scenes = {
        "format": "visloom-scenes-1",
        "classes": list(KNOWN),
        "cameras": {
            name: {"K": focal.tolist(), "T": camera_pose(np.zeros(3), YAWS[town]).tolist()}
            for name, town in MINE.items()
        },
        "radars": {"bumper": {"T": mount.tolist()}},
        "moments": [
            _moment(folder, number, m, world.ride(number)) for number in range(rides) for m in range(moments)
        ],
    }
    (folder / "scenes.json").write_text(json.dumps(scenes, indent=1), encoding="utf-8")
    return folder


def _moment(folder: Path, number: int, m: int, ride: Ride) -> dict[str, Any]:
    """One moment: a picture of each camera, a file of radar returns, boxes in the vehicle's frame."""
    name = f"drive{number}-{m:03d}"
    images = {}
    for camera, town in MINE.items():
        images[camera] = f"images/{name}-{camera}.png"
        Image.fromarray(ride.images[m * 6 + CAMERAS.index(town)]).save(folder / images[camera])
    with (folder / "radar" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["x", "y", "z", "vx", "vy", "rcs"])
        for row in ride.returns[m, "RADAR_FRONT"]:
            out.writerow([f"{row[field]:.3f}" for field in ("x", "y", "z", "vx_comp", "vy_comp", "rcs")])
    pose = np.eye(4)
    pose[:3, 3] = ride.origins[m]
    return {
        "id": name,
        "scene": f"drive{number}",
        "pose": pose.tolist(),
        "images": images,
        "radar": {"bumper": f"radar/{name}.csv"},
        "boxes": list(_boxes(ride.arrays, m, inverse(pose))),
    }


def _boxes(world: dict[str, Any], m: int, to_vehicle: Any) -> Iterator[dict[str, Any]]:
    """Boxes of the known classes that the sensors saw, in the vehicle's frame."""
    for i in np.flatnonzero((world["box_moment"] == m) & (world["box_points"] > 0)):
        name = CLASSES[world["box_label"][i]]
        if name in KNOWN:
            center = to_vehicle[:3, :3] @ world["box_center"][i] + to_vehicle[:3, 3]
            width, length, height = world["box_size"][i].tolist()
            yield {
                "class": name,
                "center": center.tolist(),
                "length": length,
                "width": width,
                "height": height,
                "yaw": float(heading(world["box_rotation"][i])),
                "velocity": world["box_velocity"][i][:2].tolist(),
            }


def main(folder: Path) -> None:
    """Write the folder, take two steps on it, evaluate, and draw what was found."""
    write(folder)
    run = change(
        load("scenes:small"),
        {
            "host.data": str(folder),
            "host.out": str(folder / "runs"),
            "host.workers": 0,
            "length": "steps:2",
            "train.batch": 4,
        },
    )
    done = train(run).directory
    values = evaluate(done)["evaluations"]["val"]["values"]
    print(f"nds {values['nds']:.3f} after two steps; a useful network takes some thousand")
    made = predict(done, folder, folder / "boxes", part="all")
    print(
        f"{len(made.rows)} moments: {made.table}, {folder / 'boxes' / 'results.json'}, pictures beside them"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own_sensors"))
