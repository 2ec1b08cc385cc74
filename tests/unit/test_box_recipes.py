"""Recipes of detection data, `visloom new` for folders with boxes, and two steps on the real blood cells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import boxroots
from visloom.cli import main
from visloom.config import load
from visloom.data.layout import recognise
from visloom.recipes import boxes, cells, coco
from visloom.stream import Pair, rooted
from visloom.tasks.adapt import Adapt
from visloom.validate import validate

ALL = [
    *(boxes.boxes, boxes.small),
    *(coco.coco, coco.c4, coco.mask, coco.keypoints, coco.retinanet),
    *(cells.cells, cells.source, cells.ema, cells.norms, cells.teacher),
    *(cells.oracle, cells.zero, cells.same, cells.bccd),
]
FAST = [
    *("task.net.body.name=test_resnet", "task.net.width=16", "task.net.head=16", "task.net.roi_batch=16"),
    *("train.batch=2", "host.workers=0", "how.precision=fp32", "length=steps:2"),
    *("train.transform.0.short=[32]", "train.transform.0.longest=64"),
    *("evals.val.stream.transform.0.short=[32]", "evals.val.stream.transform.0.longest=64"),
]


@pytest.mark.parametrize("recipe", ALL, ids=lambda f: f"{f.__module__.rpartition('.')[2]}:{f.__name__}")
def test_recipes_are_valid(recipe):
    validate(recipe())


def test_presets_of_cells_differ_in_nothing_but_what_they_say():
    made = (
        cells.source,
        cells.ema,
        cells.cells,
        cells.norms,
        cells.teacher,
        cells.oracle,
        cells.zero,
        cells.same,
    )
    runs = {recipe.__name__: recipe() for recipe in made}
    shared = {
        (str(run.length), str(run.optim), run.schedule, run.task.net.head, run.seed) for run in runs.values()
    }
    assert len(shared) == 1
    assert {run.evals["smear"].stream.source.file for run in runs.values()} == {"annotations/val.json"}
    assert all(run.evals["smear"].every is None for run in runs.values())  # no choice by the target's labels
    pairs = [run for run in runs.values() if isinstance(run.train, Pair)]
    assert len(pairs) == 5 and all(isinstance(run.task, Adapt) for run in pairs)
    assert all(type(run.train.target.transform[0]).__name__ == "Target" for run in pairs)
    assert all("val" not in run.train.target.source.file for run in pairs if run.name != "cells-same")


MADE = {
    "COCO": (boxroots.coco, "Coco", ["annotations/instances_train.json", "annotations/instances_val.json"]),
    "VOC": (boxroots.voc_xml, "VocXml", ["train", "val"]),
    "YOLO": (boxroots.yolo, "Yolo", ["images/train", "images/val"]),
    "CSV": (boxroots.table, "BoxTable", ["annotations.csv", "annotations.csv"]),
}


@pytest.mark.parametrize("kind", MADE)
def test_new_recognises_a_folder_of_boxes_and_its_recipe_trains(kind, tmp_path, capsys):
    make, source, wanted = MADE[kind]
    make(tmp_path / "data")
    file = tmp_path / "mine.yaml"
    assert main(["new", str(file), "--data", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert "boxes in" in out and "2 classes: cat, dog" in out and kind in out.replace("a table", "CSV")
    run = load(file)
    held = [run.train.source, run.evals["val"].stream.source]
    assert [type(each).__name__ for each in held] == [source] * 2
    part = {"COCO": "file", "VOC": "part", "YOLO": "images", "CSV": "file"}[kind]
    assert [getattr(each, part) for each in held] == wanted
    assert all(len(rooted(each, run.host.data)) for each in held)
    words = [*FAST, f"host.out={tmp_path}"]
    assert main(["train", str(file), "--dry-run", "--log-level", "error", *words]) == 0
    assert "all is well" in capsys.readouterr().out


def test_folders_without_validation_hold_some_back_and_others_are_left_alone(tmp_path):
    boxroots.coco(tmp_path / "coco", parts=("train",))
    found = recognise(tmp_path / "coco")
    assert [str(part.split) for part in found.parts.values()] == ["head:0.9", "tail:0.9"]
    boxroots.voc_xml(tmp_path / "voc", lists=False, things=[("a", (0, 0, 9, 9))])
    found = recognise(tmp_path / "voc")
    assert [str(part.split) for part in found.parts.values()] == ["head:0.9", "tail:0.9"]
    assert found.parts["train"].corners == "plain"  # VOC's numbers begin with 1
    boxroots.write(tmp_path / "other" / "a.json", "{}")
    boxroots.write(tmp_path / "other" / "annotations.csv", "a,b\n1,2\n")
    assert recognise(tmp_path / "other") is None


# ------------------------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def blood(shared, tmp_path_factory):
    """Both real sets, unpacked (VISLOOM_CELLS names a place where they are already)."""
    given = os.environ.get("VISLOOM_CELLS")
    if given:
        return given
    if not (shared / "data" / "unpack.py").is_file():
        pytest.skip(f"BCCD and blood-smear-b are not here: {shared / 'data'}")
    place = tmp_path_factory.mktemp("cells")
    unpack = [sys.executable, str(shared / "data" / "unpack.py"), str(place), "bccd", "smear"]
    subprocess.run(unpack, check=True, capture_output=True)
    return str(place)


def test_the_two_real_boxes_without_area_are_counted_and_named(blood):
    run = cells.bccd()
    sources = [rooted(s, blood) for s in (run.train.source, run.evals["val"].stream.source)]
    notes = [note for source in sources for note in source.check()]
    assert [len(source) for source in sources] == [205, 87]
    assert [source.counts().tolist() for source in sources] == [[2381, 214, 209], [967, 87, 83]]
    assert len(notes) == 2 and all("1 box without area, left out" in note for note in notes)
    assert "BloodImage_00343.xml: object 4 (RBC)" in notes[0]
    assert "BloodImage_00338.xml: object 13 (RBC)" in notes[1]
    oracle = cells.oracle()
    smear = [rooted(s, blood) for s in (oracle.train.source, oracle.evals["smear"].stream.source)]
    assert [(len(s), s.counts().tolist(), s.check()) for s in smear] == [
        (60, [1343, 62], []),
        (20, [464, 20], []),
    ]
    assert not {smear[0].read(i).id for i in range(60)} & {smear[1].read(i).id for i in range(20)}


@pytest.mark.parametrize("name", ["cells", "cells:teacher"])
def test_two_steps_on_the_real_cells(name, blood, tmp_path, capsys):
    words = ["--data", blood, "--dry-run", "--log-level", "error", f"host.out={tmp_path}"]
    small = ["train.source.batch=2", "train.target.batch=2", "evals.smear.stream.source.limit=4"]
    assert main(["train", name, *words, *small, "evals.bccd.stream.source.limit=4"]) == 0
    assert "all is well" in capsys.readouterr().out
