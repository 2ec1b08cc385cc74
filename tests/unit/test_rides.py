"""Rides: what the cameras show, what the radars return, and the root on disk agree."""

from __future__ import annotations

import numpy as np
import pytest

from visloom.data.nuscenes.source import NuScenes
from visloom.data.space import inverse, move, project
from visloom.data.town.rides import Radar, Rides, radar_pose
from visloom.data.town.root import write_root

SOURCE = Rides(rides=1, moments=2, height=64, width=128)


@pytest.fixture(scope="module")
def opened():
    SOURCE.read(0)
    return SOURCE


def test_a_ride_is_a_function_of_its_number(opened):
    again = Rides(rides=1, moments=2, height=64, width=128).read(7)
    same = opened.read(7)
    assert np.array_equal(again.image, same.image) and np.array_equal(
        again.extra["radar"], same.extra["radar"]
    )
    assert not np.array_equal(
        again.image, Rides(part="val", rides=1, moments=2, height=64, width=128).read(7).image
    )
    assert same.problems() == []


def test_boxes_frame_what_the_pictures_show(opened):
    ride = opened.ride(0)
    sample = opened.read(0)
    middle = project(sample.calib, sample.extra["box_center"])[:, :2]
    inside = (middle >= sample.boxes[:, :2] - 1).all(1) & (middle <= sample.boxes[:, 2:] + 1).all(1)
    assert len(sample.boxes) > 3 and inside.mean() > 0.6  # boxes at the edge are clipped
    assert {name for name in ride.arrays if name.startswith("box_")} >= {"box_center", "box_velocity"}
    moved = ride.arrays["box_center"].reshape(2, -1, 3)
    speed = ride.arrays["box_velocity"].reshape(2, -1, 3)[0]
    assert np.allclose(moved[1] - moved[0], 0.5 * speed)


def test_radar_returns_lie_on_things_and_measure_their_radial_speed():
    exact = Radar(clutter=0, range_noise=0, side_noise=0, speed_noise=0, detects=1)
    ride = Rides(rides=1, moments=1, height=64, width=128, radar=exact).ride(0)
    count = 0
    for channel in ("RADAR_FRONT", "RADAR_FRONT_LEFT"):
        pose = radar_pose(ride.origins[0], channel)
        returns = ride.returns[0, channel]
        points = move(pose, np.stack([returns["x"], returns["y"], returns["z"]], 1).astype(float))
        speed = np.stack([returns["vx_comp"], returns["vy_comp"], 0 * returns["x"]], 1) @ pose[:3, :3].T
        away = np.linalg.norm(points[:, None, :2] - ride.arrays["box_center"][None, :, :2], axis=-1)
        reach = np.linalg.norm(ride.arrays["box_size"][:, :2], axis=1) / 2
        assert ((away - reach).min(1) < 0.1).all()
        ray = points[:, :2] - pose[:2, 3]
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        own = ride.arrays["box_velocity"][(away - reach).argmin(1)][:, :2]
        radial = (own * ray).sum(1)
        assert np.median(np.abs((speed[:, :2] * ray).sum(1) - radial)) < 0.05
        count += len(returns)
    assert count > 5


def test_clutter_and_mixed_up_radar(opened):
    loud = Rides(rides=1, moments=2, height=64, width=128, radar=Radar(clutter=60))
    assert len(loud.read(0).extra["radar"]) > len(opened.read(0).extra["radar"]) + 40
    mixed = Rides(rides=1, moments=2, height=64, width=128, mixed_up=True)
    assert len(mixed.read(0).extra["radar"]) == len(opened.read(6).extra["radar"])
    assert np.array_equal(mixed.read(0).image, opened.read(0).image)


def test_the_root_on_disk_reads_as_the_ride(opened, tmp_path):
    root = write_root(tmp_path / "root", {"town": opened})
    source = NuScenes(root=str(root), scenes="town", sweeps=1)
    assert len(source) == 12
    for index in (0, 4, 11):
        stored, made = source.read(index), opened.read(index)
        assert np.array_equal(stored.image, made.image)
        assert np.allclose(stored.boxes, made.boxes, atol=1e-3) and np.array_equal(stored.labels, made.labels)
        assert np.allclose(stored.extra["box_velocity"], made.extra["box_velocity"], atol=1e-6)
        assert np.allclose(stored.extra["pose"], made.extra["pose"])
        # the reader leaves out what lies within a metre of a radar
        assert len(stored.extra["radar"]) == pytest.approx(len(made.extra["radar"]), abs=2)
        truth, own = stored.extra["truth"], made.extra["truth"]
        assert len(truth.boxes) == len(own.boxes) and np.allclose(truth.origin, own.origin)
    assert len(NuScenes(root=str(root), scenes="town", sweeps=2).read(6).extra["radar"]) > len(
        source.read(6).extra["radar"]
    )
    back = inverse(source.read(3).extra["pose"])
    assert np.allclose(back @ source.read(3).extra["pose"], np.eye(4))
