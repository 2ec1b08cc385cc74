"""Broden+: the real record lists and tables, pictures in exactly the published layouts, and what bad data are told."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests import brodenroot
from visloom.data.broden import Broden, ade_classes
from visloom.data.broden_tables import LISTS, read_records, read_tables
from visloom.errors import ConfigError, DataError
from visloom.stream import Mixture, Shuffled
from visloom.tasks.parse import Parse, Pixels, Uper
from visloom.tasks.parse import broden as labels

SHARED = Path(os.environ.get("VISLOOM_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
TAR = SHARED / "data" / "broden_meta.tar.gz"

pytestmark = pytest.mark.skipif(not TAR.is_file(), reason="the label tables broden_meta.tar.gz are not there")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(TAR) as tar:
        tar.extractall(folder, filter="data")
    return folder / "meta_file"


@pytest.fixture(scope="module")
def small(real, tmp_path_factory):
    """ROOT with its meta_file beside it."""
    folder = tmp_path_factory.mktemp("small")
    brodenroot.write(folder / "broden_dataset", folder / "meta_file", real)
    return folder / "broden_dataset"


@pytest.fixture
def own(small, tmp_path):
    """A copy to damage."""
    shutil.copytree(small.parent, tmp_path / "copy")
    return tmp_path / "copy" / "broden_dataset"


# ---- the real lists and tables


@pytest.mark.parametrize(
    ("records", "part", "count", "upright"),
    [
        ("objects", "train", {"ade20k": 20067, "pascal": 9015}, 4195),
        ("objects", "validation", {"ade20k": 2143, "pascal": 1088}, 453),
        ("materials", "train", {"os": 17226}, 3653),
        ("materials", "validation", {"os": 1914}, 453),
        ("textures", "train", {"dtd": 5076}, None),
        ("textures", "validation", {"dtd": 564}, None),
    ],
)
def test_the_published_record_lists(real, records, part, count, upright):
    folder = "dtd" if records == "textures" else "joint_dataset"
    found = read_records(real / folder / LISTS[records][part])
    assert {name: sum(r.dataset == name for r in found) for name in count} == count
    assert len(found) == sum(count.values())
    if upright is not None:
        assert sum(r.height > r.width for r in found) == upright


def test_the_published_tables(real, tmp_path):
    (tmp_path / "ade20k/ADE20K_2016_07_26/images").mkdir(parents=True)
    tables = read_tables(tmp_path, str(real), "objects", "train", ("ade20k",))
    assert {n: len(v) for n, v in tables.names.items()} == {
        "object": 336, "part": 153, "scene": 365, "material": 26, "texture": 47,
    }  # fmt: skip
    assert len(tables.outputs) == 77 and sum(len(o.parts) for o in tables.outputs) == 427
    assert len({part for o in tables.outputs for part in o.parts}) == 146
    targets = {key: len(set(table[table > 0].tolist())) for key, table in tables.mapping.items()}
    assert targets == {
        ("ade20k", "object"): 325, ("pascal", "object"): 188, ("ade20k", "part"): 141, ("pascal", "part"): 40,
        ("os", "material"): 25, ("ade20k", "scene"): targets["ade20k", "scene"],
    }  # fmt: skip
    place = tables.places["ade20k"]
    assert len(place.images) == len(place.labels) == 22210 and len(tables.records) == 20067
    assert set(place.labels) <= set(range(-1, 365)) and -1 in place.labels


def test_the_labels_that_come_with_visloom_are_those_of_the_tables(real):
    def column(name):
        with (real / "joint_dataset" / f"{name}.csv").open() as file:
            return tuple(row["name"] for row in csv.DictReader(file))

    assert tuple(column(n) for n in ("object", "scene", "material", "texture")) == (
        labels.OBJECTS,
        labels.SCENES,
        labels.MATERIALS,
        labels.TEXTURES,
    )
    with (real / "joint_dataset" / "object_part_hierarchy.csv").open() as file:
        rows = [(r["object_name"], tuple(r["part_names"].split(";")[1:])) for r in csv.DictReader(file)]
    assert [(each.object, each.parts) for each in labels.PARTS] == rows
    assert sum(len(each.parts) for each in labels.PARTS) == 350
    assert [len(head.labels) for head in labels.heads()] == [336, 427, 365, 26]


def test_names_of_pascal_parts_are_those_of_the_raw_labels(real):
    """The original numbers the plain names in an order of its own; the table names those numbers."""
    from visloom.data.pascal_parts import part_names

    found = part_names(real / "pascal" / "part2ind.m")
    with (real / "joint_dataset" / "label_assignment.csv").open() as file:
        known = {
            r["raw_name"] for r in csv.DictReader(file) if (r["dataset"], r["category"]) == ("pascal", "part")
        }
    assert {*found.values()} - known <= {"silhouette"}
    assert found[1, "lwing"] == "wing" and found[7, "window_20"] == "window" and found[12, "lfpa"] == "paw"


# ---- pictures


def names(mask, all_names):
    return {all_names[i] for i in np.unique(mask) if i >= 0}


def test_ade20k(small):
    source = Broden(root=str(small))
    sample, other = source.read(0), source.read(2)
    assert sample.id == "ade20k/ADE_train_00000001" and sample.image.shape == (48, 64, 3)
    assert names(sample.masks["object"], labels.OBJECTS) == {"sky", "person"}
    head = labels.heads()[1]
    assert names(sample.masks["part"], head.labels) == {"person: -", "person: leg", "person: head"}
    part = sample.masks["part"]
    assert (part[:24] == -1).all() and (part[24:, 32:] == -1).all()  # the sky has no head
    assert head.labels[part[45, 3]] == "person: leg" and head.labels[part[26, 3]] == "person: head"
    assert labels.SCENES[sample.extra["labels"]["scene"]] == "church/outdoor"
    assert (
        other.extra["labels"]["scene"] == -1 and (other.masks["part"] == -1).all()
    )  # misc; no file of parts
    assert sample.extra["tasks"] == other.extra["tasks"] == ("object", "part", "scene")


def test_pascal(small):
    train, val = Broden(root=str(small)), Broden(root=str(small), part="validation")
    sample, bare = train.read(1), val.read(0)
    assert "airplane" in names(sample.masks["object"], labels.OBJECTS)
    found = names(sample.masks["part"], labels.heads()[1].labels)
    assert found == {"airplane: -", "airplane: wing", "airplane: engine"}
    assert sample.extra["labels"]["scene"] == -1
    assert (bare.masks["part"] == -1).all() and (bare.masks["object"] >= 0).any()


def test_opensurfaces_and_textures(small):
    sample = Broden(root=str(small), records="materials").read(0)
    assert sample.id == "os/4711" and names(sample.masks["material"], labels.MATERIALS) == {
        "brick",
        "cardboard",
    }
    assert (sample.masks["material"][:, :8] == -1).all()
    texture = Broden(root=str(small), records="textures").read(0)
    assert labels.TEXTURES[texture.extra["labels"]["texture"]] == "woven" and not texture.masks
    assert Broden(root=str(small), records="textures").check() == []


def test_colours_of_ade20k_do_not_overflow(tmp_path):
    classes = np.array([[0, 255, 256, 3147]])
    assert np.array_equal(ade_classes(brodenroot.ade_colours(classes), tmp_path), classes)


def test_a_mixture_makes_batches_of_one_source_with_its_heads(small):
    parts = tuple(
        Shuffled(source=Broden(root=str(small), records=records), batch=1, group="orientation")
        for records in ("objects", "materials")
    )
    stream = Mixture(parts=parts, scope="step", weights="size")
    spec = Parse(net=Uper(), heads=labels.heads(), sides=(64,))
    seen = set()
    for step in range(12):
        tickets = stream.tickets(step)
        number = int(tickets.source[0])
        batch = spec.collate([parts[number].source.read(int(i)) for i in tickets.index], key=step)
        assert batch.heads == (("object", "part", "scene"), ("material",))[number]
        assert batch.image.shape == (1, 64, 96, 3)
        seen.add(number)
    assert seen == {0, 1}


def test_new_writes_a_recipe_for_what_is_there(small, own, tmp_path, capsys):
    from visloom.assemble import check_classes
    from visloom.cli import main
    from visloom.config import load
    from visloom.stream import rooted

    def made(name, data):
        assert main(["new", str(tmp_path / name), "--data", str(data)]) == 0
        run = load(tmp_path / name)
        for part in run.train.parts:
            check_classes(
                run.task, rooted(part.source, run.host.data)
            )  # names of heads are those of the tables
        return run

    whole = made("whole.yaml", small.parent)
    said = capsys.readouterr().out
    assert "objects of ade20k, pascal: 3 pictures to train on, 1 to validate on" in said
    assert [head.name for head in whole.task.heads] == ["object", "part", "scene", "material", "texture"]
    assert set(whole.evals) == {"objects", "materials", "textures"}
    shutil.rmtree(own / "pascal")
    shutil.rmtree(own / "opensurfaces")
    shutil.rmtree(own / "dtd")
    part = made("part.yaml", own)  # the folder with the pictures, its meta_file beside it
    assert [head.name for head in part.task.heads] == ["object", "part", "scene"]
    assert set(part.evals) == {"objects"} and part.train.parts[0].source.datasets == ("ade20k",)
    assert part.evals["objects"].stream.source.part == "validation"


def test_a_head_that_the_data_do_not_fit_is_refused(small):
    from visloom.assemble import check_classes

    source = Broden(root=str(small), records="materials")
    with pytest.raises(ConfigError, match=r"labels 'material', and the task has no such head"):
        check_classes(Parse(heads=labels.heads("object", "part", "scene")), source)
    swapped = (*labels.MATERIALS[:1], labels.MATERIALS[2], labels.MATERIALS[1], *labels.MATERIALS[3:])
    with pytest.raises(ConfigError, match=r"label 1 'cardboard' and 'brick'"):
        check_classes(Parse(heads=(Pixels(name="material", classes=swapped, void=True),)), source)


@pytest.mark.nightly
def test_a_whole_run_on_two_sources(small, tmp_path):
    """The recipe itself, narrow and short: it trains, evaluates both lists, and its best weights answer a picture."""
    from visloom import train
    from visloom.config import change
    from visloom.prediction import predict
    from visloom.recipes.broden import broden

    run = change(
        broden(),
        {
            "task.net": Uper(base=2, width=8, pooled=4),
            "task.sides": [64], "task.short": 64,
            "train.parts.0.batch": 1, "train.parts.1.batch": 1, "train.epoch": 4,
            "length": "steps:6", "optim.lr": 0.001, "log.every": "steps:2", "save.every": "steps:6",
            "evals.objects.every": "steps:6", "evals.materials.every": "steps:6",
            "host.data": str(small.parent), "host.out": str(tmp_path), "host.workers": 0, "host.threads": 1,
            "how.precision": "fp32",
        },
    )  # fmt: skip
    train(run)
    folder = next(tmp_path.glob("broden*"))
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    seen = {name for row in rows if row["kind"] == "train" for name in row["values"]}
    assert {"loss/object", "loss/part", "loss/scene", "loss/material", "material_accuracy"} <= seen
    values = {row["split"]: row["values"] for row in rows if row["kind"] == "eval"}
    assert 0 <= values["objects"]["object_miou"] <= 1 and values["objects"]["material_miou"] == "NaN"
    assert 0 <= values["materials"]["material_accuracy"] <= 1
    picture = small / "opensurfaces/photos/88.jpg"
    found = predict(folder, picture, tmp_path / "answers", device="cpu")
    assert found.rows[0]["scene_class"] in labels.SCENES
    assert (tmp_path / "answers" / found.rows[0]["picture"]).is_file()


# ---- bad data


def test_everything_missing_is_told_at_once(own):
    (own.parent / "meta_file/joint_dataset/scene.csv").unlink()
    (own.parent / "meta_file/pascal/part2ind.m").unlink()
    shutil.rmtree(own / "pascal/context")
    shutil.rmtree(own / "ade20k")
    with pytest.raises(DataError) as told:
        Broden(root=str(own)).read(0)
    for name in ("scene.csv", "part2ind.m", "context/trainval", "ADE20K_2016_07_26/images", "4 of"):
        assert name in str(told.value)


def test_lists_that_lack_the_same_say_it_once_before_a_run(own, tmp_path):
    """Two record lists, each in training and validation: everything that is missing, in one error."""
    from visloom.assemble import assemble
    from visloom.config import change
    from visloom.recipes.broden import broden

    shutil.rmtree(own / "opensurfaces/photos")
    shutil.rmtree(own / "pascal/context")
    run = change(broden(), {"host.data": str(own.parent), "host.device": "cpu", "host.threads": 1})
    with pytest.raises(DataError) as told:
        assemble(run)
    assert str(told.value).count("Broden+ is not whole") == 2
    assert str(told.value).count("opensurfaces/photos\n") == str(told.value).count("context/trainval\n") == 1


def test_a_part_of_a_list_needs_only_its_own_files(own):
    shutil.rmtree(own / "pascal")
    assert len(Broden(root=str(own), datasets=("ade20k",))) == 2
    with pytest.raises(DataError, match="none of ade20k, pascal"):
        len(Broden(root=str(own), datasets=("coco",)))


def test_record_lists_of_another_size_than_the_files(own):
    (own / "pascal/part/Annotations_Part/2008_000002.mat").unlink()
    with pytest.raises(DataError, match="pascal: the record lists number its pictures up to 1"):
        Broden(root=str(own)).read(0)


def test_a_picture_of_another_size_than_its_record(own):
    path = own.parent / "meta_file/joint_dataset/broden_os_train.json"
    path.write_text(json.dumps({"dataset": "os", "file_index": 0, "height": 48, "width": 60}) + "\n")
    source = Broden(root=str(own), records="materials")
    for look in (source.check, lambda: source.read(0)):
        with pytest.raises(DataError, match=r"4711.jpg: is 64x48 pixels .* says 60x48"):
            look()


def test_inspecting_says_why_nothing_can_be_shown(own, tmp_path):
    """Every picture of one of two sources is of another size: all that is wrong is told, whichever source it is."""
    from visloom.run import Run
    from visloom.sheets import inspect

    path = own.parent / "meta_file/joint_dataset/broden_os_train.json"
    path.write_text(json.dumps({"dataset": "os", "file_index": 0, "height": 48, "width": 60}) + "\n")
    stream = Shuffled(source=Broden(root=str(own), records="materials"), batch=1)
    run = Run(
        name="x", task=Parse(net=Uper("resnet50", base=2), heads=labels.heads("material")), train=stream
    )
    with pytest.raises(DataError, match=r"(?s)train: no sample can be shown:.*4711.jpg: is 64x48 pixels"):
        inspect(run, tmp_path / "sheets")


def test_labels_without_an_assignment(own):
    from PIL import Image

    path = own / "opensurfaces/photos-labels/4711.png"
    wrong = np.array(Image.open(path))
    wrong[0, 0, 0] = 200
    Image.fromarray(wrong).save(path)
    with pytest.raises(DataError, match=r"material label 200 \(1 pixels\).* up to 45"):
        Broden(root=str(own), records="materials").read(0)
    table = own.parent / "meta_file/joint_dataset/label_assignment.csv"
    table.write_text(table.read_text().replace("os,material,1,brick,1,brick", "os,material,1,brick,99,brick"))
    with pytest.raises(DataError, match=r"material label 99 is in no table; material\.csv ends at 25"):
        Broden(root=str(own), records="materials").read(0)


def test_a_damaged_record_list_is_named(own):
    path = own.parent / "meta_file/joint_dataset/broden_os_train.json"
    path.write_text(path.read_text() + "{nonsense\n")
    with pytest.raises(DataError, match=r"broden_os_train\.json, line 2"):
        len(Broden(root=str(own), records="materials"))
