"""A trained fusion task in use: predictions of data sets, and what evaluations leave."""

from __future__ import annotations

import csv
import dataclasses
import json
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fusion import NARROW
from visloom.cli import main
from visloom.config import change
from visloom.data.nuscenes.names import ATTRIBUTES, CLASSES
from visloom.data.nuscenes.source import NuScenes
from visloom.data.scene3d import Frame
from visloom.data.space import inverse, project, rotation_matrix, world_corners
from visloom.data.town.rides import Rides
from visloom.data.town.root import write_root
from visloom.data.truth import WorldBoxes
from visloom.drive import Telling, train
from visloom.errors import ConfigError, DataError
from visloom.evaluation import Evaluation
from visloom.evaluation_files import write_files
from visloom.prediction import predict
from visloom.report.curves import of_table
from visloom.run import Eval, Host, Log, Optim, Rule, Run
from visloom.saved import evaluate
from visloom.stream import Ordered, Shuffled
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.draw import span
from visloom.tasks.fusion3d.nds import ERRORS
from visloom.tasks.fusion3d.panorama import heading_of, in_rows, panorama
from visloom.tasks.fusion3d.world import read_submission, to_world
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
    assert (
        abs(side / 2 - above[:, 0].mean() - 12 * 0.48 * side / 20) < 3
    )  # a box at 12 m: the view reaches 20
    assert (
        dataclasses.replace(spec, shown=1.1)
        and not (np.asarray(panorama(dataclasses.replace(spec, shown=1.1), grey, box))[:-30] == (255, 0, 0))
        .all(-1)
        .any()
    )


def test_the_view_from_above_reaches_as_far_as_there_is_something():
    def at(*metres):
        corners = np.array([[1.0, 1], [1, -1], [-1, -1], [-1, 1]])
        return np.array([corners + np.array([0, far]) for far in metres])

    nothing = at()[:0].reshape(0, 4, 2)
    assert span((nothing, nothing), 60.0) == 60.0  # radar alone
    assert span((at(3.0), nothing), 60.0) == 20.0
    assert span((at(5.0, 12.0), at(31.0, 33.0, 38.0)), 60.0) == 40.0
    assert (
        span((at(*[25.0] * 19, 300.0), nothing), 60.0) == 30.0
    )  # one far off does not make all others small
    assert span((at(90.0), at(80.0)), 60.0) == 60.0


# ------------------------------------------------------------------------------------------------- evaluation

TERMS = {
    "heat", "offset", "size", "depth", "rotation", "dims", "center", "depth/secondary", "rotation/secondary",
    "attribute", "velocity",
}  # fmt: skip


def test_every_loss_is_in_the_validation_of_training_and_alone(trained):
    run, _ = trained
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (logged,) = [row["values"] for row in rows if row["kind"] == "eval"]
    alone = evaluate(run)["evaluations"]["val"]["values"]
    for values in (logged, alone):
        assert {name.removeprefix("loss/") for name in values if name.startswith("loss/")} == TERMS
        assert values["loss"] == pytest.approx(
            sum(v for n, v in values.items() if n.startswith("loss/")), rel=1e-5
        )
    assert all(
        alone[name] == pytest.approx(value, rel=1e-4) for name, value in logged.items() if value is not None
    )


def test_the_flip_test_in_training_and_alone(trained, tmp_path):
    """task.flip_test decides in the evaluations of training, --tta decides alone; both give the same boxes."""
    run, _ = trained
    plain = evaluate(run, out=tmp_path / "plain", pictures=0)
    other = change(tiny(tmp_path), {"task.flip_test": True, "host.out": str(tmp_path / "runs")})
    flipped = train(other, told=Telling(screen="off")).directory
    inside = evaluate(flipped, out=tmp_path / "inside", pictures=0)  # as the run itself evaluates
    given = evaluate(run, tta="flip", out=tmp_path / "given", pictures=0)
    results = {n: (tmp_path / n / "val" / "results.json").read_text() for n in ("plain", "inside", "given")}
    assert results["inside"] == results["given"] != results["plain"]
    assert inside["evaluations"]["val"]["values"]["nds"] == given["evaluations"]["val"]["values"]["nds"]
    back = evaluate(flipped, tta="none", out=tmp_path / "back", pictures=0)
    assert (tmp_path / "back" / "val" / "results.json").read_text() == results["plain"]
    assert back["evaluations"]["val"]["values"]["loss"] == plain["evaluations"]["val"]["values"]["loss"]


def test_an_evaluation_leaves_a_summary_a_submission_curves_and_pictures(trained, tmp_path):
    run, _ = trained
    assert main(["evaluate", str(run), "--out", str(tmp_path), "--pictures", "3"]) == 0
    place = tmp_path / "val"
    summary = json.loads((place / "metrics_summary.json").read_text())
    assert set(summary) == {
        "label_aps", "mean_dist_aps", "mean_ap", "label_tp_errors", "tp_errors", "tp_scores", "nd_score", "eval_time",
        "cfg", "meta",
    }  # fmt: skip
    assert (
        set(summary["label_aps"]["car"]) == {"0.5", "1.0", "2.0", "4.0"}
        and summary["meta"]["use_radar"] is True
    )
    told = json.loads((place / "evaluation.json").read_text())
    assert told["values"]["nds"] == summary["nd_score"] and told["count"] == 12
    tokens = list(dict.fromkeys(RIDES.token_of(i) for i in range(12)))
    assert len(read_submission(place / "results.json", tokens, CLASSES, ATTRIBUTES)) == 2
    drawn = sorted(path.name for path in (place / "pictures").glob("*.png"))
    assert drawn == [
        "sample-01.png",
        "sample-02.png",
        "sample-03.png",
        "worst-01.png",
    ]  # moments, then a camera
    assert not list(place.glob(".*"))
    report = (run / "report.html").read_text()
    assert "Precision by recall, within 2 m" in report or "curves" not in told["tables"]
    assert "Worst predictions" in report


def test_curves_are_drawn_of_classes_that_were_found(tmp_path):
    """Detections a little beside the truth: precision and errors become tables, and drawings."""
    spec = Fusion3d()
    metric = spec.metrics()["nds"]
    draws = np.random.default_rng(0)
    for index in range(12):
        sample = RIDES.read(index)
        extra, n = sample.extra, len(sample.extra["box_center"])
        metric._truth[extra["token"]] = extra["truth"]
        row = {
            "score": draws.uniform(0.3, 1, n), "label": sample.labels, "dims": extra["box_dims"],
            "yaw": extra["box_yaw"], "center": extra["box_center"] + draws.normal(0, 0.3, (n, 3)),
            "velocity": extra["box_velocity"],
            "attribute": extra["box_attribute"],
        }  # fmt: skip
        metric._table[sample.id] = extra["token"], to_world(row, extra["pose"])
    tables = metric.tables()
    names = [name for name in tables if name.startswith("curves")]
    assert names == ["curves", *(f"curves/{name}" for name in ERRORS)]
    precision, away = tables["curves"], tables["curves/trans_err"]
    assert "car" in precision["series"] and len(precision["x"]) == len(precision["series"]["car"]) == 101
    known = [v for v in away["series"]["car"] if v is not None]
    assert (
        0 < np.mean(known) < 1 and away["series"]["car"][:11] == [None] * 11
    )  # errors count from recall 0.1 on
    assert "traffic_cone" not in tables["curves/orient_err"]["series"]
    json.dumps(tables["curves/vel_err"], allow_nan=False)
    result = Evaluation(metric.compute(), tables, 12, 0.0, metrics={"nds": metric})
    saved = SimpleNamespace(step=1, task=None, spec=spec, device=None)
    files = write_files(tmp_path, "val", result, saved, None, 0)
    assert {
        "val/curves.svg",
        "val/curves-trans_err.svg",
        "val/metrics_summary.json",
        "val/results.json",
    } <= set(files)
    drawn = ElementTree.parse(tmp_path / "val" / "curves.svg").getroot()
    assert drawn.tag.endswith("svg") and "car" in "".join(drawn.itertext())
    assert len([p for p in drawn.iter() if p.tag.endswith("path") and "line" in p.get("class", "")]) >= 4
    assert "not finite" not in str(of_table(away)) and str(of_table(away)).count("<figure") == 1


def test_fusion_begins_with_a_centernet_and_keeps_its_trunk_frozen(tmp_path):
    """As published: weights of the network without radar; its report names the secondary heads as new."""
    camera = dataclasses.replace(TASK, radar=False).build()
    torch.save(camera.state_dict(), tmp_path / "centernet.pth")
    run = dataclasses.replace(
        tiny(tmp_path),
        init={"model": str(tmp_path / "centernet.pth")},
        init_coverage=0.5,
        optim=Optim(name="SGD", lr=1e-3),
        rules=(Rule(name=r"trunk\..*", frozen=True),),
        evals={},
    )
    report = train(run, told=Telling(screen="off"))
    log = (report.directory / "log.txt").read_text()
    heads = {
        name.split(".")[1] for name, _ in report.task.named_parameters() if name.startswith("secondary.")
    }
    assert heads == {"depth", "rotation", "attribute", "velocity"}
    assert "init.model from" in log and "secondary.depth" in log and "primary.velocity" in log
    first, last = camera.state_dict(), report.task.state_dict()
    frozen = [name for name, _ in camera.named_parameters() if name.startswith("trunk.")]
    assert frozen and all(torch.equal(last[name], first[name]) for name in frozen)
    assert not torch.equal(last["primary.heat.2.bias"], first["primary.heat.2.bias"])
