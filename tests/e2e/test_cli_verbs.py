"""The verbs, one after the other, on a run that really was trained."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import visloom
from tests.small import Small
from tests.tiny import CLASSES, make_recipe
from visloom.checkpoint import Checkpoints
from visloom.cli import main
from visloom.commands import training
from visloom.commands.training import Demo
from visloom.config import load
from visloom.errors import CheckpointError, DataError
from visloom.log import read
from visloom.prediction import _Sheet, predict
from visloom.saved import open_saved


@pytest.fixture(scope="module")
def world(module_path):
    """A recipe and a run of it, trained by the command line."""
    recipe = make_recipe(module_path)
    assert main(["train", str(recipe), "--log-level", "error"]) == 0
    return module_path


@pytest.fixture
def run(world):
    return world / "runs" / "tiny-001"


def table(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sha(run):
    step = Checkpoints(run / "checkpoints").steps()[-1]
    manifest = json.loads((Checkpoints(run / "checkpoints").path(step) / "manifest.json").read_text())
    return step, {name: entry["sha256"] for name, entry in manifest["files"].items()}


# ------------------------------------------------------------------------------------------------------ training


def test_the_run_remembers_its_command_line_and_recipe(world, run):
    made = json.loads((run / "provenance.json").read_text())
    assert made["argv"][:2] == ["visloom", "train"]
    assert (run / "recipe" / "tiny.yaml").read_text() == (world / "tiny.yaml").read_text()
    assert load(run).task.classes == CLASSES


def test_options_reach_the_run(world, tmp_path):
    recipe, out = str(world / "tiny.yaml"), str(tmp_path / "out")
    words = ["--out", out, "--limit", "6", "--log-level", "error", "length=epochs:1", "train.batch=3"]
    assert main(["train", recipe, *words]) == 0
    made = load(tmp_path / "out" / "tiny-001")
    assert made.host.out == out and made.train.source.limit == 6 and made.train.batch == 3
    assert read(tmp_path / "out" / "tiny-001" / "log.jsonl")[-1]["step"] == 2


def test_overfit_learns_its_samples_by_heart(world, tmp_path):
    words = ["--out", str(tmp_path), "--overfit", "6", "--log-level", "error", "length=steps:60"]
    assert main(["train", str(world / "tiny.yaml"), *words]) == 0
    last = [row for row in read(tmp_path / "tiny-overfit-001" / "log.jsonl") if row["kind"] == "eval"][-1]
    assert last["values"]["accuracy"] == 1.0


def test_a_dry_run_leaves_nothing(world, tmp_path, capsys):
    words = ["--out", str(tmp_path / "runs"), "--dry-run", "--log-level", "error"]
    assert main(["train", str(world / "tiny.yaml"), *words]) == 0
    assert "dry run: all is well. 4 steps" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_resume_goes_on_and_equals_one_that_never_stopped(world, run, tmp_path):
    part = tmp_path / "part"
    words = ["--log-level", "error"]
    assert main(["train", str(world / "tiny.yaml"), "--out", str(part), "length=epochs:1", *words]) == 0
    assert main(["resume", str(part / "tiny-001"), "length=epochs:2", *words]) == 0
    assert sha(part / "tiny-001") == sha(run)


def test_resume_refuses_to_become_another_run(run, capsys):
    assert main(["resume", str(run), "optim.lr=3"]) == 3
    assert "visloom branch" in capsys.readouterr().err


def test_a_branch_records_what_it_changed(run, tmp_path):
    words = ["--out", str(tmp_path), "length=epochs:3", "optim.lr=0.01", "--log-level", "error"]
    assert main(["branch", f"{run}@4", *words]) == 0
    parent = json.loads((tmp_path / "tiny-001" / "provenance.json").read_text())["parent"]
    assert parent["run"] == str(run) and parent["step"] == 4
    assert "optim.lr: 0.05 -> 0.01" in parent["changed"]


# ------------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_finds_what_training_found(run, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert main(["evaluate", f"{run}@best", "--on", "val", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    best = next(
        row for row in read(run / "log.jsonl") if row["kind"] == "eval" and row["step"] == found["step"]
    )
    assert found["evaluations"]["val"]["values"] == pytest.approx(best["values"], abs=0)
    assert found["evaluations"]["val"]["count"] == 6
    assert f"{best['values']['accuracy']:.4f}  decides" in shown


def test_evaluate_as_a_function_and_as_json_alone(run, capsys):
    assert main(["evaluate", str(run), "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = visloom.evaluate(run)
    for each in (printed, found):
        each["evaluations"]["val"].pop("seconds")
    assert printed == json.loads(json.dumps(found))


def test_an_evaluation_that_is_not_there(run, capsys):
    assert main(["evaluate", str(run), "--on", "vall"]) == 3
    assert "did you mean val?" in capsys.readouterr().err


def test_evaluate_on_data_that_moved(run, world, tmp_path, capsys):
    shutil.copytree(world / "data", tmp_path / "elsewhere")
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    file.write_text(file.read_text().replace(str(world / "data"), "/gone"))
    assert main(["evaluate", str(tmp_path / "run")]) == DataError.exit_code
    assert "gone" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "elsewhere")]) == 0


def test_the_best_weights_are_the_average_where_the_run_evaluates_it(world, tmp_path):
    words = ["how.ema.decay=0.5", "--out", str(tmp_path), "--log-level", "error"]
    assert main(["train", str(world / "tiny.yaml"), *words]) == 0
    saved = open_saved(tmp_path / "tiny-001")
    assert saved.averaged
    raw = open_saved(tmp_path / "tiny-001")
    state = Checkpoints(tmp_path / "tiny-001" / "checkpoints").load(saved.step)
    assert torch.equal(saved.task.state_dict()["net.head.weight"], state.tensors["ema"]["net.head.weight"])
    assert not torch.equal(state.tensors["model"]["net.head.weight"], state.tensors["ema"]["net.head.weight"])
    assert not raw.task.training
    found = visloom.evaluate(tmp_path / "tiny-001")["evaluations"]["val"]["values"]
    rows = [
        r
        for r in read(tmp_path / "tiny-001" / "log.jsonl")
        if r["kind"] == "eval" and r["step"] == saved.step
    ]
    assert found == pytest.approx(rows[0]["values"], abs=0)


# ------------------------------------------------------------------------------------------------------- predict


def test_predict_answers_as_the_evaluation_did(run, world, tmp_path):
    out = tmp_path / "out"
    assert main(["predict", str(run), str(world / "data" / "val"), "--recursive", "--out", str(out)]) == 0
    rows = table(out)
    assert [Path(row["file"]).parent.name for row in rows] == ["blue", "blue", "green", "green", "red", "red"]
    right = sum(row["class"] == Path(row["file"]).parent.name for row in rows)
    values = visloom.evaluate(run)["evaluations"]["val"]["values"]
    assert right / 6 == pytest.approx(values["accuracy"])
    losses = [-math.log(float(row[f"p({Path(row['file']).parent.name})"])) for row in rows]
    assert sum(losses) / 6 == pytest.approx(
        values["loss"], abs=1e-5
    )  # so the transforms are the evaluation's
    for row in rows:
        chances = [float(row[f"p({name})"]) for name in CLASSES]
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert float(row["score"]) == max(chances) and CLASSES[int(row["label"])] == row["class"]
        with Image.open(out / row["picture"]) as picture:
            assert picture.width >= 192


def test_the_table_has_the_columns_that_a_task_predicts(tmp_path):
    with _Sheet.open(tmp_path, SimpleNamespace(spec=Small())) as sheet:
        sheet.add({"file": "a.png", "error": "unreadable"})
        sheet.add({"file": "=b.png", "height": 0.5, "boxes": [[1, 2]], "name": "=x"})
        sheet.keep()
    assert table(tmp_path) == [
        {"file": "a.png", "height": "", "name": "", "picture": "", "error": "unreadable"},
        {"file": "./=b.png", "height": "0.500000", "name": "'=x", "picture": "", "error": ""},
    ]


def test_predict_needs_neither_the_data_nor_the_place(run, world, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    file = tmp_path / "moved" / "run.json"
    file.write_text(file.read_text().replace(str(world), "/gone/with/the/wind"))
    here = world / "data" / "val" / "red"
    before = predict(run, here).rows
    after = predict(tmp_path / "moved", here).rows
    assert [row["score"] for row in before] == [row["score"] for row in after]


def test_pictures_of_several_sizes_keep_their_order(run, tmp_path):
    draws = np.random.default_rng(0)
    for number, side in enumerate((16, 40, 16, 24, 40, 16)):
        Image.fromarray(draws.integers(0, 255, (side, 16, 3)).astype(np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    together = predict(run, tmp_path).rows
    assert [Path(row["file"]).name for row in together] == [f"{n}.png" for n in range(6)]
    for row in together:
        alone = predict(run, row["file"]).rows[0]
        assert alone["label"] == row["label"]
        np.testing.assert_allclose(alone["probabilities"], row["probabilities"], atol=1e-5)


def test_unreadable_pictures_are_listed_and_skipped(run, world, tmp_path, capsys):
    album = tmp_path / "album"
    shutil.copytree(world / "data" / "val" / "red", album)
    (album / "a.png").write_bytes(b"")
    (album / "z.jpg").write_bytes(b"not a picture")
    assert main(["predict", str(run), str(album), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 pictures predicted" in said and "2 could not be predicted" in said and "is empty" in said
    rows = table(tmp_path / "out")
    assert [bool(row["error"]) for row in rows] == [False, False, True, True]
    assert rows[2]["class"] == "" and "is empty" in rows[2]["error"]


def test_if_all_fail_it_is_a_data_error_and_no_table_appears(run, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["predict", str(run), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 4
    assert "is empty" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


HOSTILE = ("=1+1.png", "a\nb.png", 'q"uo,te.png', "up..\\..\\up.png", "ünï\x1b[2J.png", "-rf.png")


def test_hostile_file_names_are_harmless(run, world, tmp_path, capsys):
    album = tmp_path / "album"
    album.mkdir()
    for name in HOSTILE:
        shutil.copy(world / "data" / "val" / "red" / "0.png", album / name)
    raw = str(album).encode() + b"/latin\xff.png"
    shutil.copy(world / "data" / "val" / "red" / "0.png", raw)
    assert main(["predict", str(run), str(album), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr()
    assert "\x1b" not in out.out and "\x1b" not in out.err
    rows = table(tmp_path / "out")
    assert len(rows) == 7 and not any(row["error"] for row in rows)
    assert {row["file"] for row in rows} >= {str(album / name) for name in HOSTILE}
    pictures = sorted((tmp_path / "out" / "pictures").iterdir())
    assert len(pictures) == 7
    for picture in pictures:
        assert picture.name.removesuffix(".png").replace("-", "").replace("_", "").replace(".", "").isalnum()


def test_test_time_views_change_the_answer_and_unknown_ones_are_refused(run, world, tmp_path, capsys):
    album = world / "data" / "val"
    plain = predict(run, f"{album}/*/*.png").rows
    flipped = predict(run, f"{album}/*/*.png", tta="flip").rows
    assert any(a["score"] != b["score"] for a, b in zip(plain, flipped, strict=True))
    assert main(["predict", str(run), str(album / "red"), "--out", str(tmp_path), "--tta", "spin"]) == 3
    assert "flip" in capsys.readouterr().err


def test_few_pictures_are_drawn_if_few_are_asked_for(run, world, tmp_path):
    words = ["--out", str(tmp_path), "--pictures", "1", "--recursive"]
    assert main(["predict", str(run), str(world / "data" / "val"), *words]) == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 1 and len(table(tmp_path)) == 6


# ----------------------------------------------------------------------------------------------- which weights


def test_a_damaged_best_checkpoint_is_passed_over_aloud(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    best = checkpoints.best()
    file = checkpoints.path(best) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    told = []
    saved = open_saved(tmp_path / "run", say=told.append)
    assert saved.step != best and saved.which == "newest" and "damaged" in told[0]
    with pytest.raises(CheckpointError, match="damaged"):
        open_saved(f"{tmp_path / 'run'}@{best}")


def test_a_checkpoint_may_be_named_by_its_path(run):
    place = Checkpoints(run / "checkpoints").path(2)
    assert open_saved(place).step == 2


def test_a_run_without_a_checkpoint_says_so(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert main(["predict", str(tmp_path / "run"), str(run), "--out", str(tmp_path / "out")]) in (3, 4)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        open_saved(tmp_path / "run")


def test_a_run_from_a_machine_with_a_gpu_opens_here(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": {"device": "cuda:63"}}))
    told = []
    saved = open_saved(tmp_path / "run", say=told.append)
    assert saved.device.type in ("cpu", "cuda") and "cuda:63" in told[0]


def test_opening_a_run_leaves_the_random_state_alone(run):
    torch.manual_seed(7)
    before = torch.rand(3)
    torch.manual_seed(7)
    open_saved(run)
    assert torch.equal(torch.rand(3), before)


# ---------------------------------------------------------------------------------------------------------- demo


def test_the_demo_compares_with_not_looking_and_ends_with_the_report(world, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "demo.yaml"
    recipe.write_text(f"extends: {world / 'tiny.yaml'}\nlog.report: true\n")
    monkeypatch.setattr(training, "DEMOS", {"classify": Demo("Classification", str(recipe), "cifar10")})
    assert main(["demo", "--out", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = tmp_path / "runs" / "tiny-001" / "report.html"
    assert lines[-1] == f"report  {report}" and report.exists()
    assert re.fullmatch(
        r"val  accuracy [01]\.\d{4}, where answering without looking \(always 'blue'\) gives 0\.3333",
        lines[-2],
    )


def test_demos_of_several_systems_end_on_one_page(world, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "demo.yaml"
    recipe.write_text(f"extends: {world / 'tiny.yaml'}\nlog.report: true\nlog.images: 2\n")
    demos = {
        "one": Demo("The first", str(recipe), "cifar10"),
        "two": Demo("The <second>", str(recipe), "coco"),
    }
    monkeypatch.setattr(training, "DEMOS", demos)
    assert main(["demo", "--out", str(tmp_path / "runs")]) == 0
    page = tmp_path / "runs" / "demo-tiny-002.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"all on one page  {page}"
    text = page.read_text()
    assert "Two systems, one engine" in text and "The &lt;second&gt;" in text
    assert text.count("val accuracy") == 2 and text.count("0.3333") == 2  # each value beside its baseline
    assert "visloom train coco --data DIR" in text
    assert re.findall(r'href="(tiny-00[12]/report.html)"', text) == [
        "tiny-001/report.html",
        "tiny-002/report.html",
    ]
    assert (
        len(re.findall("<img", text)) == 2 * len(list((page.parent / "tiny-001/evals/val").glob("*.png"))) > 0
    )


# ------------------------------------------------------------------------------------------------------- report


def test_report_writes_the_page_again(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "tiny" in page and str(tmp_path / "run" / "report.html") in capsys.readouterr().out


def test_show_of_a_run_is_its_recipe(run, world, capsys):
    assert main(["show", str(run), "--diff", str(world / "tiny.yaml")]) == 0
    assert capsys.readouterr().out == "task.classes: [blue, green, red] -> []\n"
