"""nuscenes-devkit: it loads the roots that the town writes, and scores detections as we do, to 1e-6.

The devkit itself is asked where it is installed; its answers about the same root are recorded for everywhere else.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visloom.data.nuscenes.names import CLASSES
from visloom.data.nuscenes.source import NuScenes
from visloom.data.town.rides import Rides
from visloom.data.town.root import VERSION, write_root
from visloom.data.truth import Truth, WorldBoxes
from visloom.keys import generator
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.nds import Rules, evaluate

RECORDED = Path(__file__).with_name("nuscenes_devkit.json")
SOURCE = Rides(part="val", rides=2, moments=3, height=64, width=128)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("town") / "root", {"town_val": SOURCE})


def truths_of(root: Path) -> list[Truth]:
    source = NuScenes(root=str(root), scenes="town_val")
    found = {}
    for i in range(len(source)):
        sample = source.read(i)
        found[sample.extra["token"]] = sample.extra["truth"]
    return list(found.values())


def detections(truths: list[Truth], noise: float) -> dict[str, WorldBoxes]:
    """The truth itself, or moved, turned, resized, renamed and doubled at random."""
    found = {}
    for number, truth in enumerate(truths):
        boxes, draws = truth.boxes.pick(truth.boxes.points != 0), generator(number)
        boxes = replace(boxes, score=draws.random(len(boxes)), velocity=np.nan_to_num(boxes.velocity))
        if noise:
            boxes = WorldBoxes.join([boxes, boxes.pick(draws.random(len(boxes)) < 0.4)])
            count = len(boxes)
            boxes = replace(
                boxes,
                center=boxes.center + noise * draws.standard_normal((count, 3)),
                size=boxes.size * draws.uniform(0.8, 1.2, (count, 3)),
                velocity=boxes.velocity + draws.standard_normal((count, 2)),
                rotation=boxes.rotation + 0.1 * draws.standard_normal((count, 4)) * (1, 0, 0, 1),
                score=np.round(draws.random(count), 2),
                attribute=np.where(draws.random(count) < 0.2, (boxes.attribute + 1) % 8, boxes.attribute),
            )
            norm = np.linalg.norm(boxes.rotation, axis=1, keepdims=True)
            boxes = replace(boxes, rotation=boxes.rotation / norm)
        found[truth.token] = boxes
    return found


def test_perfect_detections_score_one(root):
    truths = truths_of(root)
    scores = evaluate(detections(truths, 0.0), truths, CLASSES)
    assert scores.nds == pytest.approx(1.0, abs=1e-9) and scores.mean_ap == pytest.approx(1.0)


def test_recorded_answers(root):
    truths = truths_of(root)
    summary = evaluate(detections(truths, 0.7), truths, CLASSES).summary(Rules())
    agree(summary, json.loads(RECORDED.read_text()))


def written(folder: Path, truths: list[Truth], found: dict[str, WorldBoxes]) -> dict:
    """The metrics_summary.json that an evaluation leaves, its results.json beside it."""
    metric = Fusion3d(merge=False).metrics()["nds"]
    metric.merge([({token: (token, boxes) for token, boxes in found.items()}, {t.token: t for t in truths})])
    assert metric.write(folder) == ["metrics_summary.json", "results.json"]
    return json.loads((folder / "metrics_summary.json").read_text())


def test_the_file_is_the_devkits(root, tmp_path):
    """Key by key in its order, numbers of its kinds, and what it says about the submission.

    Its values are those of the arrays with moments in the order of results.json. (The devkit breaks ties of scores so
    for nuScenes' own splits, and in the order of the tables for others: the recorded answers.)
    """
    truths = truths_of(root)
    found = detections(truths, 0.7)
    mine = written(tmp_path, truths, found)
    assert form(mine) == form({**json.loads(RECORDED.read_text()), "eval_time": 1.0, "meta": mine["meta"]})
    agree(mine, evaluate(found, sorted(truths, key=lambda t: t.token), CLASSES).summary(Rules()))
    assert mine["eval_time"] > 0
    assert mine["meta"] == json.loads((tmp_path / "results.json").read_text())["meta"]
    assert mine["meta"]["use_camera"] and mine["meta"]["use_radar"] and not mine["meta"]["use_lidar"]


def form(value):
    """Names in their order, and types."""
    return [(name, form(v)) for name, v in value.items()] if isinstance(value, dict) else type(value)


def agree(mine, theirs) -> None:
    """Every number of two summaries, NaN where NaN is; the same names in the same order."""
    skip = ("eval_time", "meta")
    assert list(mine) == list(theirs)
    for name, value in theirs.items():
        if name in skip:
            continue
        if isinstance(value, dict):
            agree(mine[name], value)
        elif isinstance(value, int | float):
            assert mine[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
        else:
            assert mine[name] == value


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_the_devkit_itself(root, tmp_path, noise):
    """It judges the submission that an evaluation leaves; the file that it writes is the one that is there already."""
    pytest.importorskip(
        "nuscenes", reason="nuscenes-devkit is not installed: pip install --no-deps nuscenes-devkit"
    )
    truths = truths_of(root)
    found = detections(truths, noise)
    draws = generator(7)
    found = {t: replace(b, score=b.score + 1e-4 * draws.random(len(b))) for t, b in found.items()}  # no ties
    mine = written(tmp_path, truths, found)
    theirs = ask_devkit(root, tmp_path / "devkit", tmp_path / "results.json")
    if not noise:
        assert theirs["nd_score"] == pytest.approx(1.0)
    agree(mine, theirs)
    assert form(mine) == form(theirs) and mine["meta"] == theirs["meta"]


def ask_devkit(root: Path, folder: Path, file: Path) -> dict:
    """The devkit's metrics_summary.json of a submission."""
    from nuscenes import NuScenes as Devkit
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    devkit = Devkit(version=VERSION, dataroot=str(root), verbose=False)
    judge = DetectionEval(
        devkit, config_factory("detection_cvpr_2019"), str(file), "town_val", str(folder), verbose=False
    )
    judge.main(render_curves=False)
    return json.loads((folder / "metrics_summary.json").read_text())
