"""Parsing learns on the embedded world, from two sources that label different things; its demo says how well."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visloom import branch, predict, train
from visloom.checkpoint import Checkpoints
from visloom.cli import main
from visloom.commands import training
from visloom.commands.training import Demo
from visloom.config import change, dump, load
from visloom.data.town import Sights
from visloom.data.town.labels import MATERIALS, SCENES
from visloom.run import Run
from visloom.tasks.parse import Uper

TINY = Uper("timm:test_efficientnet", width=8, pooled=4)


RECORDS = ("objects", "materials", "textures")


def tiny(out: Path, samples: int = 6) -> Run:
    """Small pictures, a tiny network, no augmentation: the training pictures are looked at again."""
    edits = {"task.net": TINY, "host.out": str(out), "log.images": 2, "log.tensorboard": False}
    for number, records in enumerate(RECORDS):
        source = {"samples": samples, "height": 32, "width": 64}
        edits |= {f"train.parts.{number}.source.{name}": value for name, value in source.items()}
        edits |= {f"train.parts.{number}.batch": 2, f"train.parts.{number}.transform": []}
        edits |= {f"evals.{records}.stream.source.{name}": value for name, value in source.items()}
        edits[f"evals.{records}.stream.source.part"] = "train"
    return change(load("sights"), {**edits, "length": "steps:6"})


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Six steps, of all sources."""
    return train(tiny(tmp_path_factory.mktemp("runs"))).directory


def test_heads_without_labels_rest_bit_for_bit(begun, tmp_path):
    """After steps of all heads, whose moments a branch keeps, 100 steps of materials alone leave the others alone."""
    run = load(begun / "run.json")
    alone = run.train.parts[1]
    report = branch(
        begun,
        {
            "train": alone,
            "length": "steps:106",
            "host.out": str(tmp_path),
            "evals.objects": None,
            "evals.materials": None,
            "evals.textures": None,
            "log.report": False,
        },
    )
    before = Checkpoints(begun / "checkpoints").load(6)
    after = Checkpoints(report.directory / "checkpoints").load(106)
    assert before is not None and after is not None
    heads = {"scene_head": 0, "object_head": 0, "part_head": 0, "texture_head": 0, "conv_fusion": 0}
    moved = []
    for name, value in before.tensors["model"].items():
        own = next((head for head in heads if head in name), None)
        if own is None:
            moved.append(not value.equal(after.tensors["model"][name]))
        else:
            assert value.equal(after.tensors["model"][name]), name
            heads[own] += 1
    assert min(heads.values()) > 5 and sum(moved) > 0.8 * len(moved)


def test_every_task_rises_above_its_floor(tmp_path):
    """A few pictures learnt by heart, with the steps alternating between the sources."""
    spec = tiny(tmp_path).task
    sources = [
        Sights(records=records, samples=n, height=32, width=64) for records, n in zip(RECORDS, (4, 4, 8))
    ]
    samples = [[source.read(i) for i in range(len(source))] for source in sources]
    torch.manual_seed(0)
    task = spec.build().train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01)
    for step in range(150):
        optimizer.zero_grad()
        sum(task(spec.collate(samples[step % 3], key=step)).terms.values()).backward()
        optimizer.step()
    task.eval()
    values, tables = {}, {}
    for some in samples:
        batch, metrics = spec.collate(some, None), spec.metrics()
        with torch.no_grad():
            answers = task.predict(batch)
        for name in batch.heads:
            metrics[name].update(answers, batch)
            values |= metrics[name].compute()
            tables |= metrics[name].tables()
    for measure in spec.measures:
        floor = spec.floor(tables, measure)
        assert floor is not None and values[measure] > 1.8 * floor[1], (measure, values[measure], floor)


def test_the_demo_says_every_measure_beside_not_looking(tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "demo.yaml"
    run = tiny(tmp_path / "runs")
    (tmp_path / "run.json").write_text(json.dumps(dump(run)))
    recipe.write_text(f"extends: {tmp_path / 'run.json'}\n")
    monkeypatch.setattr(training, "DEMOS", {"parse": Demo("Parsing", str(recipe), "broden")})
    assert main(["demo", "parse", "--out", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = tmp_path / "runs" / "sights-001" / "report.html"
    assert lines[-1] == f"report  {report}" and report.exists()
    told = [
        re.fullmatch(r"(\w+) +(\w+) ([01]\.\d{4}), where (.+) gives ([01]\.\d{4})", line) for line in lines
    ]
    found = {match[2]: (match[1], match[4]) for match in told if match}
    assert set(found) == {"scene_accuracy", "object_miou", "part_miou", "material_miou", "texture_accuracy"}
    assert found["material_miou"] == ("materials", f"all {commonest()!r}")
    assert found["part_miou"][1].startswith("all 'building: ")
    page = report.read_text()
    assert page.count("data:image/") >= 4 and f"for all {commonest()!r}".replace("'", "&#39;") in page


def commonest() -> str:
    source = Sights(records="materials", samples=6, height=32, width=64)
    counts = sum(
        np.bincount(source.read(i).masks["material"].ravel() + 1, minlength=99)[1:] for i in range(6)
    )
    return MATERIALS[int(np.argmax(counts))]


def test_the_picture_of_a_prediction_is_the_page(begun, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(Sights(height=48, width=64).read(0).image).save(photo)
    found = predict(begun, photo, tmp_path / "out")
    row = found.rows[0]
    assert row["scene_class"] in SCENES and 0 < row["scene_score"] <= 1
    with Image.open(tmp_path / "out" / row["picture"]) as page:
        assert page.width > 2 * 360 and page.height > 2 * 270  # the picture, objects, parts and materials
