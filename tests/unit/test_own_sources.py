"""Several sources of one's own: the worked example of docs/own_sources.md end to end, and what is wrong with a file."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import ownset
from visloom.assemble import check_classes
from visloom.cli import main
from visloom.config import change, load
from visloom.data.annotated import Annotated
from visloom.data.sources_file import read_set
from visloom.errors import ConfigError, DataError
from visloom.stream import rooted
from visloom.tasks.parse import Pixels

SMALL = {
    "task.net": {"kind": "Uper", "encoder": "resnet50", "base": 2, "width": 8, "pooled": 4},
    "task.sides": [32], "task.short": 32, "length": "steps:2", "log.every": "steps:1", "how.precision": "fp32",
    "host.workers": 0, "host.threads": 1, "host.device": "cpu", "log.images": 0, "log.tensorboard": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The example, only to be read."""
    return ownset.write(tmp_path_factory.mktemp("own"))


@pytest.fixture
def own(root, tmp_path):
    """A copy to be broken."""
    return shutil.copytree(root, tmp_path / "own")


def edit(folder, old, new):
    file = folder / "sources.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


# ---- the example


def test_the_worked_example_trains_evaluates_and_predicts(root, tmp_path, capsys):
    from visloom import train
    from visloom.prediction import predict

    file = tmp_path / "mine.yaml"
    assert main(["new", str(file), "--data", str(root)]) == 0
    said = capsys.readouterr().out
    assert "streets: 5 pictures to train on, 1 to validate on: object, part, scene" in said
    run = change(load(file), {**SMALL, "host.out": str(tmp_path / "runs")})
    assert [head.name for head in run.task.heads] == ["object", "part", "scene", "material"]
    capsys.readouterr()
    report = train(run)
    assert "streets 50.0 %, rooms 50.0 %" in " ".join(capsys.readouterr().out.split())
    rows = [json.loads(line) for line in (report.directory / "log.jsonl").read_text().splitlines()]
    assert sum(rows[0]["drawn"].values()) == 1 and set(rows[0]["drawn"]) == {"streets", "rooms"}
    values = {row["split"]: row["values"] for row in rows if row["kind"] == "eval"}
    assert 0 <= values["streets"]["part_miou"] <= 1 and values["streets"]["scene_accuracy"] in (0, 1)
    assert 0 < values["rooms"]["material_accuracy"] <= 1 and values["rooms"]["object_miou"] == "NaN"
    found = predict(report.directory, root / "rooms/images/a/0.jpg", tmp_path / "answers", device="cpu")
    assert found.rows[0]["scene_class"] in ("street", "beach", "room")
    assert (tmp_path / "answers" / found.rows[0]["picture"]).is_file()
    assert (tmp_path / "answers" / found.rows[0]["material_file"]).is_file()


def test_the_file_itself_can_be_named(own, tmp_path):
    (own / "sources.yaml").rename(own / "others.yml")
    file = tmp_path / "mine.yaml"
    assert main(["new", str(file), "--data", str(own / "others.yml")]) == 0
    assert load(file).train.parts[0].source.file == "others.yml"


def test_samples_of_both_sources(root):
    streets, rooms = Annotated(root=str(root), source="streets"), Annotated(root=str(root), source="rooms")
    assert streets.check() == [
        "streets: 1 of 6 pictures are not labelled for part", "streets: 1 of 6 pictures are not labelled for scene",
    ]  # fmt: skip
    assert rooms.check() == []
    sample = streets.read(2)
    assert sample.id == "streets/2" and sample.extra["tasks"] == ("object", "part", "scene")
    objects, part = sample.masks["object"], sample.masks["part"]
    assert set(np.unique(objects)) == {-1, 0, 2, 3}  # 0 in the file is not labelled
    assert sample.extra["labels"] == {"scene": 0}
    names = read_set(root / "sources.yaml").heads["part"].labels
    assert names == ("car: -", "car: wheel", "car: window", "person: -", "person: head", "person: torso")
    assert (part[objects == 0] == -1).all()  # the sky has no parts
    assert (part[-6:, 4:12] == 1).all() and part[20, 0] == 0
    assert (part[16:22, 24:32] == 4).all() and (part[-6:, 30:34] == 3).all()  # a person has no wheel
    assert "part" not in streets.read(0).masks and streets.read(1).extra["labels"] == {}
    room = rooms.read(0)
    assert room.id == "rooms/a/0" and room.extra["tasks"] == ("material",)
    material = room.masks["material"]
    assert (
        (material[:, :16] == 0).all() and (material[:, 16:32] == 1).all() and (material[:, 32:] == -1).all()
    )


def test_validation_is_a_share_or_a_list_and_parts_do_not_meet(own):
    def ids(part):
        source = Annotated(root=str(own), source="streets", part=part)
        return {source.read(i).id for i in range(len(source))}

    assert not ids("train") & ids("validation") and ids("train") | ids("validation") == ids("all")
    assert len(ids("validation")) == 1
    edit(own, "scene: streets/scenes.csv}\n    val: 0.2", "scene: streets/scenes.csv}\n    val: val.txt")
    (own / "val.txt").write_text("4.jpg\n5\n")
    assert ids("validation") == {"streets/4", "streets/5"} and len(ids("train")) == 4
    (own / "val.txt").write_text("9.jpg\n")
    with pytest.raises(DataError, match=r"val.txt: names streets/9, no labelled picture"):
        ids("train")


def test_another_task_and_another_source_need_no_code(own):
    """A task of a name of its own, and a third source with its own numbers and names for the first one's task."""
    for number in range(3):
        rng = np.random.default_rng(number)
        for folder in ("dry", "wet"):
            image = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            (own / "lanes" / "images" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(own / "lanes" / "images" / folder / f"{number}.png")
            mask = np.full((32, 48), 7, np.uint8)
            mask[:, 10:] = 9
            (own / "lanes" / "labels" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(own / "lanes" / "labels" / folder / f"{number}.png")
    (own / "lanes" / "labels.csv").write_text("value,name\n7,automobile\n9,pavement\n")
    more = """
  lanes:
    images: lanes/images
    labels:
      object: {path: lanes/labels, classes: lanes/labels.csv, remap: {automobile: car, "*": ignore}}
      ground: lanes/images
"""
    file = own / "sources.yaml"
    text = file.read_text().replace("sources:\n", "  ground: {kind: whole, classes: [dry, wet]}\nsources:\n")
    file.write_text(text.rstrip() + more)
    source = Annotated(root=str(own), source="lanes")
    sample = source.read(4)
    assert sample.extra["labels"] == {"ground": 1} and sample.id == "lanes/wet/1"
    assert (sample.masks["object"][:, :10] == 2).all() and (sample.masks["object"][:, 10:] == -1).all()
    assert source.labelled() == {"object": ("sky", "road", "car", "person"), "ground": ("dry", "wet")}


def test_textures_of_ones_own(own, tmp_path):
    """Pictures of one texture each in class folders, at sizes of their own, beside sources that label other things."""
    from visloom import train
    from visloom.data.town.textures import texture
    from visloom.prediction import predict

    for word, size in (("banded", (40, 40)), ("dotted", (48, 72))):
        for number in range(4):
            file = own / "swatches" / word / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(texture(number, word, size)).save(file)
    text = (own / "sources.yaml").read_text()
    text = text.replace("sources:\n", "  texture: {classes: [dotted, banded]}\nsources:\n", 1)
    (own / "sources.yaml").write_text(
        text + "  swatches: {images: swatches, labels: {texture: swatches}, val: 0.25}\n"
    )
    source = Annotated(root=str(own), source="swatches")
    assert (
        source.check() == [] and len(source) == 8 and source.labelled() == {"texture": ("dotted", "banded")}
    )
    found = {sample.id: sample for sample in (source.read(i) for i in range(8))}
    assert found["swatches/banded/0"].extra == {"tasks": ("texture",), "labels": {"texture": 1}}
    assert (
        found["swatches/dotted/0"].extra["labels"] == {"texture": 0} and not found["swatches/dotted/0"].masks
    )

    file = tmp_path / "mine.yaml"
    assert main(["new", str(file), "--data", str(own)]) == 0
    run = change(
        load(file),
        {**SMALL, "length": "steps:10", "host.out": str(tmp_path / "runs"), "task.heads.texture.width": 4},
    )
    assert [head.kind for head in run.task.heads] == ["pixels", "parts", "whole", "pixels", "texture"]
    report = train(run)
    rows = [json.loads(line) for line in (report.directory / "log.jsonl").read_text().splitlines()]
    assert any("loss/texture" in row.get("values", {}) for row in rows)
    values = {row["split"]: row["values"] for row in rows if row["kind"] == "eval"}
    assert (
        values["swatches"]["texture_accuracy"] in (0, 0.5, 1) and values["rooms"]["texture_accuracy"] == "NaN"
    )
    told = predict(report.directory, own / "swatches/dotted/0.png", tmp_path / "answers", device="cpu").rows[
        0
    ]
    assert told["texture_class"] in ("dotted", "banded") and 0.5 <= told["texture_score"] <= 1

    (own / "swatches" / "woven").mkdir()
    shutil.copy(own / "swatches/dotted/0.png", own / "swatches/woven/0.png")
    with pytest.raises(DataError, match="woven"):
        Annotated(root=str(own), source="swatches").check()


# ---- what is wrong


def test_everything_missing_is_told_at_once(own):
    shutil.rmtree(own / "streets" / "parts")
    shutil.rmtree(own / "rooms")
    (own / "material.csv").unlink()
    with pytest.raises(DataError) as told:
        Annotated(root=str(own), source="streets").check()
    for name in ("streets/parts", "rooms/images", "rooms/materials", "material.csv", "4 are not there"):
        assert name in str(told.value)


WRONG = {
    "no task": ("material: {path", "stuff: {path", r"sources.yaml: sources.rooms.labels.stuff: is no task"),
    "no kind": ("scene: {classes", "weather: {classes", r"tasks.weather.kind: is missing"),
    "a slip": ("suffix: _material", "sufix: _material", r"sources.yaml:\d+: .*has no setting 'sufix'"),
    "no such object": ("car: [wheel", "lorry: [wheel", r"tasks: head 'part' names parts of lorry"),
    "parts alone": ("object: streets/objects, part", "part", r"labels.part: parts lie inside objects"),
    "share": ("val: 0.2", "val: 2", r"sources.streets.val: is a share from 0 to 1"),
    "a list for masks": ("object: streets/objects", "object: streets/scenes.csv", r"masks lie in a folder"),
    "one weight": ("    val: 0.2\n  rooms", "    weight: 2\n  rooms", r"streets say a weight and rooms none"),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_named_with_their_place(own, old, new, said):
    with pytest.raises(ConfigError, match=said):
        read_set(edit(own, old, new))


def test_labels_without_a_class_are_named(own):
    mask = np.array(Image.open(own / "streets/objects/3.png"))
    mask[0, :5] = 77
    Image.fromarray(mask).save(own / "streets/objects/3.png")
    with pytest.raises(DataError, match=r"objects/3.png: 77 is no label, in 5 of .*expected 1 to 4"):
        Annotated(root=str(own), source="streets").check()
    edit(own, "object: streets/objects", "object: {path: streets/objects, remap: {car: lorry}}")
    with pytest.raises(ConfigError, match="stores lorry, no class of 'object'"):
        Annotated(root=str(own), source="streets").check()


def test_sizes_that_differ_and_pictures_that_are_not_there(own):
    Image.new("L", (20, 20)).save(own / "streets/objects/2.png")
    source = Annotated(root=str(own), source="streets")
    for look in (source.check, lambda: source.read(2)):
        with pytest.raises(DataError, match=r"objects/2.png: the mask is 20x20 .* 48x32"):
            look()
    (own / "streets/scenes.csv").write_text("image,label\n77.jpg,beach\n")
    with pytest.raises(DataError, match="1 of 1 lines name no picture"):
        Annotated(root=str(own), source="streets").check()
    (own / "streets/scenes.csv").write_text("image,label\n1.jpg,moon\n")
    with pytest.raises(DataError, match="'moon' is no class"):
        Annotated(root=str(own), source="streets").check()


def test_a_recipe_that_no_longer_agrees_with_the_file_is_refused(own, tmp_path):
    file = tmp_path / "mine.yaml"
    assert main(["new", str(file), "--data", str(own)]) == 0
    run = load(file)
    rooms = rooted(run.train.parts[1].source, own)
    check_classes(run.task, rooms)
    without = change(run, {"task.heads.material": None})
    with pytest.raises(
        ConfigError, match=r"labels 'material', and the task has no such head, only object, part"
    ):
        check_classes(without.task, rooms)
    heads = tuple(
        h if h.name != "material" else Pixels(name="material", classes=("wood", "silk", "fabric"))
        for h in run.task.heads
    )
    with pytest.raises(ConfigError, match=r"'material' and Annotated\(rooms.* label 1 'silk' and 'metal'"):
        check_classes(change(run, {"task.heads": heads}).task, rooms)


def test_all_sources_are_heard_before_a_run_is_refused(own, tmp_path):
    from visloom import train

    file = tmp_path / "mine.yaml"
    assert main(["new", str(file), "--data", str(own)]) == 0
    Image.new("L", (20, 20)).save(own / "streets/objects/2.png")
    (own / "rooms/materials/a/1_material.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"(?s)objects/2.png.*1_material.png"):
        train(change(load(file), {**SMALL, "host.out": str(tmp_path / "runs")}))
    assert not list((tmp_path / "runs").glob("*"))
