"""Cameras and radars of one's own: the file, what is read from it, and what is wrong with it."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from PIL import Image

from tests.fusion import tiny_root
from visloom.config import load
from visloom.data.layout import recognise
from visloom.data.nuscenes.names import ATTRIBUTES, CAMERAS, CLASSES
from visloom.data.nuscenes.pcd import DTYPE, write_pcd
from visloom.data.nuscenes.source import NuScenes
from visloom.data.scenes import Scenes, read_returns
from visloom.data.space import heading, inverse, move
from visloom.errors import DataError
from visloom.newrecipe import write_new
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.panorama import heading_of

T = [[0, 0, 1, 1.7], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]
K = [[100.0, 0, 64], [0, 100.0, 32], [0, 0, 1]]
BOX = {"class": "car", "center": [12.0, -1.5, 0.8], "length": 4.5, "width": 1.9, "height": 1.6, "yaw": 0.1}


def whole() -> dict:
    return {
        "format": "visloom-scenes-1",
        "classes": ["car", "person"],
        "attributes": ["car.moving", "car.parked"],
        "groups": {"car": "car."},
        "cameras": {"front": {"K": K, "T": T}},
        "radars": {"bumper": {"T": [[1, 0, 0, 3.5], [0, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]]}},
        "moments": [
            {
                "id": f"m{i}",
                "images": {"front": f"{i}.png"},
                "radar": {"bumper": [[8.5, -1.5, 0.3, 5.0, 1.0, 10.0]]},
                "boxes": [
                    {**BOX, "velocity": [5.0, 0.0], "attribute": "car.moving"},
                    {**BOX, "center": [20.0, 3, 1]},
                ],
            }
            for i in range(5)
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        Image.new("RGB", (128, 64), (90, 90, 90)).save(tmp_path / f"{i}.png")
    (tmp_path / "scenes.json").write_text(json.dumps(whole()))
    return tmp_path


def test_a_folder_is_read(folder):
    source = Scenes(root=str(folder))
    assert len(source) == 5 and source.classes() == ("car", "person") and source.check() == []
    assert source.token_of(3) == "m3"
    sample = source.read(0)
    assert sample.problems() == [] and sample.extra["camera"] == "front" and sample.id == "m0/front"
    # the box is 12 m before the vehicle, 1.5 m to its right: the camera stands 1.7 m ahead, 1.5 m up
    assert np.allclose(sample.extra["box_center"][0], (1.5, 0.7, 10.3))
    assert np.allclose(sample.extra["box_dims"][0], (1.6, 1.9, 4.5))
    assert sample.extra["box_yaw"][0] == pytest.approx(-np.pi / 2 - 0.1)
    assert (
        np.allclose(sample.extra["box_velocity"][0], (0, 0, 5))
        and np.isnan(sample.extra["box_velocity"][1]).any()
    )
    assert sample.extra["box_attribute"].tolist() == [0, -1]
    # the radar stands 3.5 m ahead: its return lies on the box, and moves ahead and to the left
    assert np.allclose(sample.extra["radar"], [[1.5, 0.7, 10.3, -1.0, 5.0, 10.0, 0.0]], atol=1e-6)
    truth = sample.extra["truth"]
    assert np.allclose(truth.boxes.center[0], BOX["center"]) and heading(truth.boxes.rotation)[
        0
    ] == pytest.approx(0.1)
    parts = [len(Scenes(root=str(folder), part=part)) for part in ("train", "val", "all")]
    assert parts == [4, 1, 5]


def test_radar_files_of_all_kinds(folder):
    rows = np.array([[8.5, -1.5, 0.3, 5.0, 1.0, 10.0], [3.0, 1.0, 0.0, np.nan, 0.0, 0.0]])
    np.save(folder / "a.npy", rows)
    (folder / "a.csv").write_text("vx,vy,x,y,z,rcs\n5,1,8.5,-1.5,.3,10\nnan,0,3,1,0,0\n")
    returns = np.zeros(1, DTYPE)
    for name, value in zip(("x", "y", "z", "vx_comp", "vy_comp", "rcs"), rows[0], strict=True):
        returns[name] = value
    returns["ambig_state"] = 3
    write_pcd(folder / "a.pcd", returns)
    value = whole()
    back = [[1, 0, 0, -1.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    files = [
        "a.npy",
        "a.csv",
        "a.pcd",
        rows.tolist(),
        [{"file": "a.csv"}, {"file": "a.npy", "T": back, "age": 0.1}],
    ]
    for moment, radar in zip(value["moments"], files, strict=True):
        moment["radar"]["bumper"] = radar
    (folder / "scenes.json").write_text(json.dumps(value))
    source = Scenes(root=str(folder))
    expected = [1.5, 0.7, 10.3, -1.0, 5.0, 10.0, 0.0]
    for index in range(5):
        sample = source.read(index)
        assert np.allclose(sample.extra["radar"][0], expected, atol=1e-5)
        if index != 2:
            assert "1 of 2 returns are not finite" in sample.notes[0]
    swept = source.read(4).extra["radar"]
    assert (
        len(swept) == 2
        and swept[1, 2] == pytest.approx(8.5 - 1.0 - 1.7)
        and swept[1, 6] == pytest.approx(0.1)
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"nothing", "cannot be read"),
        ("a.csv", b"x,y,z\n1,2,3\n", "names no vx, vy"),
        ("a.csv", b"x,y,vx,vy\n1,2,3,fast\n", "line 2 has no number for vy"),
        ("a.txt", b"1 2 3", r"\.npy, \.csv or \.pcd"),
        ("a.pcd", b"VERSION 0.7\n", "cut off"),
    ],
)
def test_radar_files_that_are_wrong(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{says}"):
        read_returns(tmp_path / name)
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))
    with pytest.raises(DataError, match=r"\(N, 5\) or \(N, 6\)"):
        read_returns(tmp_path / "b.npy")


BAD_T = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
WRONG = [
    ("format", "coco", 'format: expected visloom-scenes-1, got "coco"'),
    ("classes", ["car", "car"], "classes: expected different names"),
    ("cameras.front.K", [[1, 2], [3, 4]], "cameras.front.K: expected numbers 3x3"),
    ("cameras.front.K", [[0, 0, 5], [0, 1, 5], [0, 0, 1]], "cameras.front.K: expected a camera matrix"),
    ("cameras.front.T", BAD_T, "cameras.front.T: expected a rigid transform"),
    ("cameras.front", {"K": K}, "cameras.front has no T; it needs K and T and may have radars"),
    ("cameras.front.radars", ["lidar"], r"cameras.front.radars\[0\]: expected bumper"),
    ("radars.bumper.T", [[float("nan")] * 4] * 4, "radars.bumper.T: expected numbers 4x4"),
    ("moments", [], "moments is empty"),
    ("moments.1.id", "m0", r"moments\[1\].id: 'm0' is there twice"),
    ("moments.1.pose", BAD_T, r"moments\[1\].pose: expected a rigid transform"),
    ("moments.1.part", "test", r"moments\[1\].part: expected train or val"),
    ("moments.1.images", {"rear": "1.png"}, "'rear' is none of the cameras of the file, which has front"),
    ("moments.1.radar", {"rear": "1.csv"}, "'rear' is none of the radars of the file, which has bumper"),
    (
        "moments.2.boxes.0.length",
        -4.5,
        r"moments\[2\].boxes\[0\].length: expected a number above 0, got -4.5",
    ),
    ("moments.2.boxes.0.yaw", "left", r"moments\[2\].boxes\[0\].yaw: expected a number"),
    ("moments.2.boxes.0.center", [1, 2], r"moments\[2\].boxes\[0\].center: expected numbers 3"),
    ("moments.2.boxes.0.class", "horse", r"moments\[2\].boxes\[0\].class: expected car or person"),
    ("moments.2.boxes.0.attribute", "flying", r"boxes\[0\].attribute: expected car.moving or car.parked"),
    (
        "moments.2.boxes.0",
        {"class": "car"},
        r"moments\[2\].boxes\[0\] has no center, length, width, height and yaw",
    ),
]


@pytest.mark.parametrize(("path", "value", "says"), WRONG)
def test_what_is_wrong_is_named_by_its_key(folder, path, value, says):
    made = whole()
    *way, last = path.split(".")
    at = made
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[int(last) if isinstance(at, list) else last] = value
    (folder / "scenes.json").write_text(json.dumps(made))
    with pytest.raises(DataError, match=rf"scenes\.json: .*{says}"):
        len(Scenes(root=str(folder)))


def test_files_that_are_missing_and_keys_that_mean_nothing(folder):
    made = whole()
    made["moments"][1]["radar"]["bumper"] = "gone.csv"
    made["moments"][2]["boxes"][0]["velocty"] = [1, 2]
    (folder / "scenes.json").write_text(json.dumps(made))
    (folder / "0.png").unlink()
    source = Scenes(root=str(folder))
    assert len(source) == 4 and len(source.read(0).extra["radar"]) == 0
    first, second = source.check()
    assert "m0 front: 0.png is not on disk" in first and "gone.csv" in first
    assert "moments[].boxes[].velocty (1 times)" in second
    with pytest.raises(DataError, match="2 files are missing"):
        len(Scenes(root=str(folder), missing="error"))
    with pytest.raises(DataError, match="no part 'nothing'"):
        len(Scenes(root=str(folder), part="nothing"))
    (folder / "scenes.json").write_text("[")
    with pytest.raises(DataError, match=r"scenes\.json: no JSON"):
        len(Scenes(root=str(folder)))
    with pytest.raises(DataError, match="cannot be read"):
        len(Scenes(root=str(folder), file="other.json"))
    with pytest.raises(DataError, match="no such folder"):
        len(Scenes(root=str(folder / "nowhere")))


def test_moments_that_nobody_annotated_are_for_prediction(folder):
    made = whole()
    del made["moments"][0]["boxes"]
    (folder / "scenes.json").write_text(json.dumps(made))
    source = Scenes(root=str(folder))
    assert len(source) == 4 and "1 moments have no boxes" in source.check()[0]
    there = source.elsewhere(str(folder), "all")
    assert len(there) == 5 and there.read(0).extra["truth"] is None and len(there.read(0).boxes) == 0
    for moment in made["moments"]:
        moment.pop("boxes", None)
    (folder / "scenes.json").write_text(json.dumps(made))
    with pytest.raises(DataError, match="can be predicted"):
        len(Scenes(root=str(folder)))


def test_a_recipe_for_the_folder(folder):
    made = write_new(folder / "mine.yaml", folder)
    run = load(made.file)
    assert (
        made.said[0] == "scenes of cameras and radar"
        and "5 moments, 1 cameras (front), 1 radars" in made.said[1]
    )
    assert run.task.attributes == ("car.moving", "car.parked") and run.task.groups == {"car": "car."}
    assert run.train.source == Scenes(part="train") and run.evals["val"].stream.source == Scenes(part="val")
    assert run.train.transform[1].size == (384, 800) and run.evals["val"].stream.transform[0].size == (
        384,
        800,
    )


def test_attributes_of_the_task_are_those_of_the_data(folder):
    source = Scenes(root=str(folder))
    spec = Fusion3d(classes=("car", "person"), attributes=("car.parked", "car.moving"))
    with pytest.raises(
        DataError, match=r"the data have the attributes \['car.moving', 'car.parked'\].*task.attributes"
    ):
        spec.collate([source.read(0)], None)
    assert Fusion3d(classes=("car", "person"), attributes=()).collate([source.read(0)], None)
    made = whole()
    del made["attributes"]
    for moment in made["moments"]:
        del moment["boxes"]
    (folder / "scenes.json").write_text(json.dumps(made))  # nobody looked: it can be predicted
    assert spec.collate([Scenes(root=str(folder), unlabeled="keep").read(0)], None)


def test_a_nuscenes_root_written_in_this_form_gives_the_same_samples(shared, tmp_path):
    """The generic form loses nothing: pictures, radar with sweeps, boxes and truth are those of the tables."""
    root = tiny_root(shared, tmp_path)
    tables = NuScenes(root=str(root), scenes="mini_val", sweeps=3)
    samples = [tables.read(i) for i in range(6)]
    truth = samples[0].extra["truth"].boxes
    value = copy.deepcopy(whole())
    value |= {"classes": list(CLASSES), "attributes": list(ATTRIBUTES), "radars": {}, "cameras": {}}
    images, radar = {}, {}
    for sample, name in zip(samples, CAMERAS, strict=True):
        pose = sample.extra["pose"]
        rows = sample.extra["radar"].astype(np.float64)
        turned = np.stack([rows[:, 3], 0 * rows[:, 3], rows[:, 4]], 1) @ pose[:3, :3].T
        np.save(tmp_path / f"{name}.npy", np.hstack([move(pose, rows[:, :3]), turned[:, :2], rows[:, 5:6]]))
        value["cameras"][name] = {"K": sample.calib[:, :3].tolist(), "T": pose.tolist(), "radars": [name]}
        value["radars"][name] = {}
        images[name] = str(next(root.rglob(f"{sample.id}.jpg")))
        radar[name] = f"{name}.npy"
    boxes = [
        {
            "class": CLASSES[truth.label[i]], "center": truth.center[i].tolist(), "width": truth.size[i, 0],
            "length": truth.size[i, 1], "height": truth.size[i, 2], "yaw": heading(truth.rotation[i : i + 1])[0],
            "velocity": truth.velocity[i].tolist(), "points": int(truth.points[i]),
            "attribute": ATTRIBUTES[truth.attribute[i]] if truth.attribute[i] >= 0 else "",
        }
        for i in range(len(truth))
    ]  # fmt: skip
    value["moments"] = [{"id": "one", "images": images, "radar": radar, "boxes": boxes}]
    (tmp_path / "scenes.json").write_text(json.dumps(value))
    source = Scenes(root=str(tmp_path))
    assert source.check() == []
    for index, sample in enumerate(samples):
        mine = source.read(index)
        assert np.array_equal(mine.image, sample.image) and np.array_equal(mine.labels, sample.labels)
        assert np.allclose(mine.boxes, sample.boxes, atol=1e-3)
        assert np.allclose(mine.extra["radar"][:, :6], sample.extra["radar"][:, :6], atol=1e-4)
        for name in ("box_center", "box_dims", "box_yaw", "box_velocity", "box_attribute", "box_alpha"):
            assert np.allclose(mine.extra[name], sample.extra[name], atol=1e-5, equal_nan=True), name
        assert np.allclose(inverse(mine.extra["pose"]) @ sample.extra["pose"], np.eye(4))


def test_a_folder_of_something_else_is_not_taken_for_scenes(tmp_path):
    (tmp_path / "scenes.json").write_text("{}")
    assert recognise(tmp_path) is None


def test_a_vehicle_whose_cameras_look_aside_is_drawn_as_it_stands(folder):
    made = whole()
    made["cameras"]["front"]["T"] = [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, -1, 0, 1.5],
        [0, 0, 0, 1],
    ]  # looks to the left
    made["moments"][0]["pose"] = [[0, -1, 0, 7], [1, 0, 0, 9], [0, 0, 1, 0], [0, 0, 0, 1]]
    (folder / "scenes.json").write_text(json.dumps(made))
    origin, forward = heading_of([Scenes(root=str(folder)).read(0)])
    assert origin.tolist() == [7, 9, 0] and forward == pytest.approx(np.pi / 2)
