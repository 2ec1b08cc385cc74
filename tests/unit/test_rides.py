"""Rides: what the cameras show, what the radars return, and the root on disk agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fusion import NARROW
from visloom.config import diff
from visloom.data.nuscenes.source import NuScenes
from visloom.data.scene3d import Frame, OtherRadar
from visloom.data.space import inverse, move, project
from visloom.data.town import ondisk
from visloom.data.town.ondisk import RidesOnDisk
from visloom.data.town.rides import Radar, Rides, radar_pose
from visloom.data.town.root import write_root
from visloom.errors import DataError
from visloom.pictures import save_pictures
from visloom.recipes.rides import proof, proof_camera, proof_permuted
from visloom.run import Rule
from visloom.stream import Ordered
from visloom.tasks.fusion3d import Fusion3d

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


def test_clutter_adds_returns(opened):
    loud = Rides(rides=1, moments=2, height=64, width=128, radar=Radar(clutter=60))
    assert len(loud.read(0).extra["radar"]) > len(opened.read(0).extra["radar"]) + 40


def test_other_radar_gives_every_sample_the_returns_of_another_one(opened):
    mixed = OtherRadar(source=opened)
    own = [opened.read(i) for i in range(len(opened))]
    whose = []
    for i in range(len(mixed)):
        sample = mixed.read(i)
        same = [np.array_equal(sample.extra["radar"], other.extra["radar"]) for other in own]
        whose.append(same.index(True))
        assert sample.id == own[i].id and np.array_equal(sample.image, own[i].image)
        assert np.array_equal(sample.extra["box_center"], own[i].extra["box_center"])
    assert sorted(whose) == list(range(12)) and all(i != j for i, j in enumerate(whose))
    assert len(mixed.classes()) == 10 and "control" in mixed.check()[0]
    other = OtherRadar(source=opened, key=1).read(0)
    assert not np.array_equal(other.extra["radar"], own[whose[0]].extra["radar"])
    with pytest.raises(DataError, match="no other radar"):
        len(OtherRadar(source=Rides(rides=1, limit=1))) and OtherRadar(source=Rides(rides=1, limit=1)).read(0)


def test_rides_on_disk_are_written_once_and_whole(tmp_path, monkeypatch):
    small = {"train_rides": 1, "val_rides": 1, "moments": 2, "height": 32, "width": 64, "root": str(tmp_path)}
    source = RidesOnDisk(**small)
    made = Rides(part="train", rides=1, moments=2, height=32, width=64).read(3)
    assert np.array_equal(source.read(3).image, made.image) and len(source) == 12

    def fails(*_):
        raise AssertionError("it is there already")

    monkeypatch.setattr(ondisk, "write_root", fails)
    assert np.array_equal(RidesOnDisk(**small).read(3).image, made.image)
    val = RidesOnDisk(**small, scenes="town_val")
    assert val.read(3).id != source.read(3).id and val.folder() == source.folder()
    loud = RidesOnDisk(**small, radar=Radar(clutter=50))
    with pytest.raises(AssertionError):
        loud.read(0)
    assert [path.name for path in tmp_path.iterdir()] == [source.folder().name]  # what failed left nothing
    with pytest.raises(ValueError, match="town_train or town_val"):
        RidesOnDisk(scenes="mini_val")


def test_the_root_on_disk_reads_as_the_ride(tmp_path):
    opened = replace(SOURCE)
    near = opened.ride(0).returns[0, "RADAR_FRONT"]
    near["x"][0], near["y"][0] = 0.5, 0.2  # within a metre of the radar: both leave it out
    root = write_root(tmp_path / "root", {"town": opened})
    source = NuScenes(root=str(root), scenes="town", sweeps=1)
    assert len(source) == 12
    for index in range(12):
        stored, made = source.read(index), opened.read(index)
        assert np.array_equal(stored.image, made.image)
        assert np.allclose(stored.boxes, made.boxes, atol=1e-3) and np.array_equal(stored.labels, made.labels)
        assert np.allclose(stored.extra["box_velocity"], made.extra["box_velocity"], atol=1e-6)
        assert np.allclose(stored.extra["pose"], made.extra["pose"])
        assert np.allclose(stored.extra["radar"], made.extra["radar"], atol=1e-4)
        truth, own = stored.extra["truth"], made.extra["truth"]
        assert len(truth.boxes) == len(own.boxes) and np.allclose(truth.origin, own.origin)
    assert len(NuScenes(root=str(root), scenes="town", sweeps=2).read(6).extra["radar"]) > len(
        source.read(6).extra["radar"]
    )
    back = inverse(source.read(3).extra["pose"])
    assert np.allclose(back @ source.read(3).extra["pose"], np.eye(4))


def test_an_evaluation_draws_all_cameras_of_a_moment(opened, tmp_path):
    spec = Fusion3d(net=NARROW, hidden=8, shown=0.0, detections=5)
    stream = Ordered(source=opened, batch=4, transform=(Frame(size=(64, 128)),))
    assert list(spec.companions(stream, 8)) == [6, 7, 8, 9, 10, 11]
    limited = Ordered(source=replace(opened, limit=8), batch=4)
    assert list(spec.companions(limited, 7)) == [6, 7]
    rows = save_pictures(
        spec.build(),
        spec,
        stream,
        [(0.1, 3)],
        tmp_path / "evals" / "val",
        count=2,
        device=torch.device("cpu"),
    )
    assert [row["kind"] for row in rows] == ["sample", "sample", "worst"]
    with Image.open(tmp_path / rows[0]["file"]) as moment, Image.open(tmp_path / rows[2]["file"]) as camera:
        assert moment.width > 3 * 480 and moment.width > camera.width
        assert len(np.unique(np.asarray(moment).reshape(-1, 3), axis=0)) > 1000


def test_other_radar_knows_its_moments(opened):
    mixed = OtherRadar(source=opened)
    assert mixed.token_of(7) == opened.token_of(7) and mixed.part_name == "train"
    assert mixed.elsewhere("", "val").source.part == "val"


def test_the_proof_and_its_twin_differ_in_the_radar_alone():
    """Also in the rate of heads that only radar has; the control differs in whose radar it is."""
    assert {line.split(":")[0] for line in diff(proof(), proof_camera())} == {"name", "rules", "task.radar"}
    assert [rule for rule in proof().rules if rule not in proof_camera().rules] == [
        Rule(name=r"secondary\.", lr=2.0)
    ]
    named = {line.split(":")[0] for line in diff(proof(), proof_permuted())}
    assert named == {"name", "train.source", "evals.val.stream.source"}
