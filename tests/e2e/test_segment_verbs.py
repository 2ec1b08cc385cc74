"""A segmentation run from end to end: trained, its pictures, its report, and predictions for photos of any size."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visloom import predict, train
from visloom.cli import main
from visloom.config import change, load
from visloom.data.town import Scenery
from visloom.errors import DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained run of 4 steps on tiny streets."""
    out = tmp_path_factory.mktemp("runs")
    small = change(
        load("scenery"),
        {
            "host.out": str(out),
            "task.net": {"kind": "Unet", "width": 4, "depth": 2},
            "train.source.samples": 8,
            "train.source.height": 32,
            "train.source.width": 48,
            "train.batch": 4,
            "train.transform": [{"kind": "RandomFlip"}],
            "evals.val.stream.source.samples": 20,
            "evals.val.stream.source.height": 32,
            "evals.val.stream.source.width": 48,
            "evals.val.every": "epochs:1",
            "length": "epochs:2",
            "save.every": "epochs:10",
            "log.every": "steps:2",
        },
    )
    return train(small).directory


def test_fixed_samples_stand_in_report_and_tensorboard(run):
    told = json.loads((run / "evals/val.json").read_text())
    kinds = [picture["kind"] for picture in told["pictures"]]
    assert kinds.count("sample") == 15
    assert kinds[:15] == ["sample"] * 15
    assert {"worst", "best"} < set(kinds)
    with Image.open(run / told["pictures"][0]["file"]) as picture:
        assert picture.width > 3 * picture.height / 2  # input, target and prediction side by side
    page = (run / "report.html").read_text()
    assert "foreground" not in page
    assert "miou" in page
    assert page.count("data:image/") >= 15
    assert list((run / "tensorboard").iterdir())


def test_the_floor_stands_beside_the_result(run):
    told = json.loads((run / "evals/val.json").read_text())
    assert told["baseline"]["name"].startswith("all '")
    assert 0 < told["baseline"]["value"] < 0.1


def test_best_and_last_are_both_kept(run):
    """Defect 16: the best is saved whenever it is found, not only where a save was due; the last always."""
    kept = {path.name for path in (run / "checkpoints").iterdir() if path.is_dir()}
    best = (run / "checkpoints/best").read_text().strip()
    assert best in kept
    assert "step-00000004" in kept


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    source = Scenery(part="test", samples=3, height=40, width=56)
    for index, name in enumerate(("a.jpg", "b.png", "more/a.png")):
        image = Image.fromarray(source.read(index).image)
        image.crop((0, 0, 56 - 7 * index, 40 - 3 * index)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "views", [[], ["--tta", "flip,0.75,1.25"], ["--sliding"], ["--sliding", "--tta", "flip,0.5"]]
)
def test_predict_writes_palette_pictures_of_the_photos_sizes(run, photos, tmp_path, views, capsys):
    out = tmp_path / "out"
    assert (
        main(["predict", str(run), str(photos), "--recursive", "--out", str(out), "--probabilities", *views])
        == 0
    )
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert len({row["mask_file"] for row in rows}) == 3, "two photos called a do not overwrite each other"
    for row in rows:
        with Image.open(row["file"]) as photo, Image.open(out / row["mask_file"]) as mask:
            assert mask.mode == "P"
            assert mask.size == photo.size
            best = np.asarray(mask)
        with np.load(out / row["probabilities_file"]) as file:
            table = file["probabilities"].astype(np.float32)
            assert table.shape == (12, *best.shape)
            np.testing.assert_allclose(table.sum(0), 1, atol=5e-3)
            chosen = np.take_along_axis(table, best[None].astype(int), 0)[0]
            assert (chosen >= table.max(0) - 2e-3).all()
        assert (out / row["picture"]).is_file()
        assert "%" in row["found"]


def test_predictions_without_a_folder_hold_their_masks(run, photos):
    found = predict(run, photos / "a.jpg")
    assert found.rows[0]["mask"].shape == (40, 56)
    assert 0 < found.rows[0]["score"] <= 1


def test_predict_again_into_the_same_folder(run, photos, tmp_path):
    """Defect 13: the original stops at its second run because the folder exists."""
    for _ in range(2):
        predict(run, photos / "b.png", tmp_path / "out")
    assert len(list((tmp_path / "out/masks").iterdir())) == 1


def test_a_run_predicts_at_the_geometry_of_the_photo_whatever_its_transforms(run, photos, tmp_path):
    """An evaluation that resizes and crops still answers for the photo's own pixels."""
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    value = json.loads((moved / "run.json").read_text())
    stream = value.get("run", value)["evals"]["val"]["stream"]
    stream["transform"] = [{"kind": "Resize", "short": 32}, {"kind": "CenterCrop", "size": 32}]
    (moved / "run.json").write_text(json.dumps(value))
    mask = predict(moved, photos / "a.jpg").rows[0]["mask"]
    assert mask.shape == (40, 56)
    assert (mask[:, 9:47] >= 0).all()
    assert (mask[:, :7] == -1).all()


def test_an_unreadable_photo_stops_nothing(run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no picture")
    found = predict(run, photos, tmp_path / "out")
    assert [bool(row.get("error")) for row in found.rows] == [False, False, True]
    with pytest.raises(DataError, match="no such file"):
        predict(run, photos / "nothing.jpg")
