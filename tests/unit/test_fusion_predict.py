"""Prediction of the fusion task: a data set in, a submission, a table and a picture of each moment out."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fusion import NARROW
from visloom.cli import main
from visloom.data.nuscenes.names import ATTRIBUTES, CLASSES
from visloom.data.nuscenes.source import NuScenes
from visloom.data.scene3d import Frame
from visloom.data.space import inverse, project, rotation_matrix, world_corners
from visloom.data.town.rides import Rides
from visloom.data.town.root import write_root
from visloom.data.truth import WorldBoxes
from visloom.drive import Telling, train
from visloom.errors import ConfigError, DataError
from visloom.prediction import predict
from visloom.run import Eval, Host, Log, Optim, Run
from visloom.stream import Ordered, Shuffled
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.panorama import heading_of, in_rows, panorama
from visloom.tasks.fusion3d.world import read_submission
from visloom.units import Monitor, Steps

TASK = Fusion3d(net=NARROW, hidden=4, detections=10, shown=0.0)
RIDES = Rides(part="val", rides=1, moments=2, height=64, width=128)


def tiny(out) -> Run:
    """A run of one step, which finds boxes of a sensible size from the first, with an evaluation of twelve pictures."""
    frame = (Frame(size=(64, 128)),)
    torch.manual_seed(0)
    task = TASK.build()
    dims = task.primary["dims"][-1]
    torch.nn.init.zeros_(dims.weight)
    torch.nn.init.constant_(dims.bias, 1.5)
    torch.save(task.state_dict(), out / "start.pth")
    return Run(
        name="tiny",
        task=TASK,
        init={"model": str(out / "start.pth")},
        train=Shuffled(source=RIDES, batch=2, transform=frame),
        evals={
            "val": Eval(stream=Ordered(source=RIDES, batch=8, transform=frame), monitor=Monitor("max", "nds"))
        },
        length=Steps(1),
        optim=Optim(name="SGD", lr=1e-9),
        host=Host(out=str(out), workers=0, device="cpu"),
        log=Log(tensorboard=False, images=2),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    run = train(tiny(folder), told=Telling(screen="off")).directory
    return run, write_root(folder / "root", {"town_val": RIDES})


def test_a_data_root_becomes_a_submission_a_table_and_pictures(trained, tmp_path):
    run, root = trained
    made = predict(run, root, tmp_path, part="town_val")
    source = NuScenes(root=str(root), scenes="all")
    tokens = list(dict.fromkeys(source.token_of(i) for i in range(12)))
    assert [row["file"] for row in made.rows] == tokens and made.what == "moments" and not made.failed
    found = read_submission(tmp_path / "results.json", tokens, CLASSES, ATTRIBUTES)
    up = np.concatenate([rotation_matrix(boxes.rotation)[:, :, 2] for boxes in found.values()])
    assert len(up) > 20 and np.allclose(up, [0, 0, 1])  # upright
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(map(len, found.values())) and {row["file"] for row in rows} == set(tokens)
    first = found[tokens[0]]
    assert float(rows[0]["x"]) == pytest.approx(first.center[0, 0], abs=1e-5)
    assert float(rows[0]["length"]) == pytest.approx(first.size[0, 1], abs=1e-5)
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == sorted(
        row["picture"].removeprefix("pictures/") for row in made.rows
    )
    with Image.open(tmp_path / made.rows[0]["picture"]) as picture:
        assert picture.width > 1800 and len(picture.convert("RGB").getcolors(10**6)) > 500
    assert not list(tmp_path.glob(".*"))
    again = predict(run, "val", part=None)  # the run's own data, nothing written
    assert [len(row["lines"]) for row in again.rows] == [len(row["lines"]) for row in made.rows]


def test_what_cannot_be_read_is_named_and_costs_one_camera(trained, tmp_path):
    run, root = trained
    picture = next((root / "samples" / "CAM_BACK").iterdir())
    whole = picture.read_bytes()
    try:
        picture.write_bytes(whole[:100])
        made = predict(run, root, tmp_path / "out", part="all", pictures=1)
    finally:
        picture.write_bytes(whole)
    (failed,) = made.failed
    assert (
        failed["error"].startswith("1 of 6 cameras: ") and picture.name in failed["error"] and failed["lines"]
    )
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 1


def test_places_that_hold_no_scenes(trained, tmp_path, capsys):
    run, root = trained
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"holds no scenes.*nuScenes.*or the run's own data: val"):
        predict(run, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        predict(run, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="one data set at a time"):
        predict(run, [root, root])
    with pytest.raises(DataError, match="no split 'nothing'"):
        predict(run, root, part="nothing")
    assert not (tmp_path / "out").exists()
    assert (
        main(
            [
                "predict",
                str(run),
                str(root),
                "--out",
                str(tmp_path / "out"),
                "--part",
                "all",
                "--pictures",
                "0",
            ]
        )
        == 0
    )
    assert "2 moments predicted" in capsys.readouterr().out and not (tmp_path / "out" / "pictures").exists()


def test_cameras_stand_as_one_looks():
    views = [RIDES.read(i) for i in range(6)]
    rows = in_rows(views, *heading_of(views))
    names = [[view.extra["camera"].removeprefix("CAM_") for view in row] for row in rows]
    assert names == [["FRONT_LEFT", "FRONT", "FRONT_RIGHT"], ["BACK_LEFT", "BACK", "BACK_RIGHT"]]


def test_boxes_are_drawn_where_they_are():
    """A box before the front camera is drawn there, ahead of the car from above, and in no other camera."""
    views = [RIDES.read(i) for i in range(6)]
    grey = [view.replace(image=np.full_like(view.image, 90)) for view in views]
    for view in grey:
        view.extra["radar"] = view.extra["radar"][:0]
    pose = views[0].extra["pose"]
    center = pose[:3, 3] + 12 * pose[:3, 2]
    box = WorldBoxes(
        label=np.array([5]), center=center[None], size=np.array([[2.0, 2.0, 2.0]]), rotation=np.array([[1.0, 0, 0, 0]]),
        velocity=np.array([[0.0, 0.0]]), attribute=np.array([-1]), score=np.array([1.0]), points=np.array([1]),
    )  # fmt: skip
    spec = Fusion3d(colours=((255, 0, 0),) * 10)
    drawn = np.asarray(panorama(spec, grey, box)).astype(int)
    red = np.argwhere((drawn[:-30] == (255, 0, 0)).all(-1))
    high = 64 * 480 // 128
    front = red[(red[:, 1] >= 484) & (red[:, 1] < 964) & (red[:, 0] < high)]
    above = red[red[:, 1] >= 1452]
    assert len(front) + len(above) == len(red) and len(front) > 50 and len(above) > 5
    back = inverse(pose)
    corner = world_corners(box.center, box.size, box.rotation)[0] @ back[:3, :3].T + back[:3, 3]
    pixels = project(np.diag([480 / 128] * 2 + [1]) @ views[0].calib, corner)[:, :2] + (484, 0)
    assert np.allclose(front.min(0), pixels.min(0)[::-1], atol=2) and np.allclose(
        front.max(0), pixels.max(0)[::-1], atol=2
    )
    side = drawn.shape[1] - 1452
    assert abs(above[:, 1].mean() - 1452 - side / 2) < 3
    assert abs(side / 2 - above[:, 0].mean() - 12 * 0.48 * side / 60) < 3
    assert (
        dataclasses.replace(spec, shown=1.1)
        and not (np.asarray(panorama(dataclasses.replace(spec, shown=1.1), grey, box))[:-30] == (255, 0, 0))
        .all(-1)
        .any()
    )
