"""new and inspect-data: what is said about a folder, the recipe written for it, the contact sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from tests.small import small_run
from tests.tiny import make_pictures, make_recipe
from tests.worlds import Numbers
from visloom import sheets
from visloom.cli import main
from visloom.config import change, load
from visloom.data.arrays import Arrays
from visloom.data.folder import Folder
from visloom.errors import ConfigError, DataError
from visloom.run import Eval
from visloom.stream import Ordered, Shuffled, Split, rooted


def new(tmp_path, data):
    file = tmp_path / "mine.yaml"
    code = main(["new", str(file), "--data", str(data)])
    return code, file


def settings(file):
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


# --------------------------------------------------------------------------------------------------------- new


def test_class_folders_give_a_short_recipe_with_both_parts(tmp_path, capsys):
    code, file = new(tmp_path, make_pictures(tmp_path / "data", train=30, val=2))
    assert code == 0
    assert len(file.read_text().splitlines()) <= 12
    out = capsys.readouterr().out
    for said in ("image folder", "90 pictures", "3 classes: blue, green, red", f"visloom train {file}"):
        assert said in out
    run = load(file)
    assert run.name == "mine" and run.host.data == str(tmp_path / "data")
    train, val = run.train.source, run.evals["val"].stream.source
    assert isinstance(train, Folder) and (train.root, train.split) == ("train", None)
    assert (val.root, val.split) == ("val", None) and val.names == ("blue", "green", "red")
    assert len(rooted(train, run.host.data)) == 90 and len(rooted(val, run.host.data)) == 6
    assert run.train.batch < load("folder").train.batch  # 90 samples


def test_a_folder_without_validation_holds_some_back(tmp_path):
    make_pictures(tmp_path / "data", train=10)
    _, file = new(tmp_path, tmp_path / "data" / "train")
    run = load(file)
    assert run.train.source.split == Split("head", 0.9)
    assert run.evals["val"].stream.source.split == Split("tail", 0.9)


def test_arrays_without_class_names_get_numbers(tmp_path):
    draws = np.random.default_rng(0)
    images = draws.integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    Arrays.write(tmp_path / "data", images, np.arange(40) % 4)
    _, file = new(tmp_path, tmp_path / "data")
    run = load(file)
    assert run.task.classes == ("0", "1", "2", "3")
    assert isinstance(run.train.source, Arrays) and len(rooted(run.train.source, run.host.data)) == 36


@pytest.mark.parametrize("name", ["a b: c", "#no", "'quoted'", "{x}", "- é"])
def test_hostile_folder_names_survive_yaml(tmp_path, name):
    data = make_pictures(tmp_path / name)
    _, file = new(tmp_path, data)
    assert load(file).host.data == str(data)


def test_the_recipe_really_trains(tmp_path, capsys):
    _, file = new(tmp_path, make_pictures(tmp_path / "data"))
    fast = ["task.net.name=test_resnet.r160_in1k", "host.workers=0", f"host.out={tmp_path}", "how.ema=null"]
    assert main(["train", str(file), "--dry-run", "--log-level", "error", *fast]) == 0
    assert "all is well" in capsys.readouterr().out


def test_nothing_is_overwritten(tmp_path, capsys):
    data = make_pictures(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text("precious")
    assert new(tmp_path, data)[0] == 2
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert "nothing is overwritten" in capsys.readouterr().err


def test_an_unknown_folder_is_described(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "novel.docx").write_bytes(b"x")
    assert new(tmp_path, tmp_path / "data")[0] == 4
    err = capsys.readouterr().err
    assert "novel.docx" in err and "class folders" in err
    assert not (tmp_path / "mine.yaml").exists()


# ------------------------------------------------------------------------------------------------- inspect-data


def test_numbers_and_sheets_of_sound_data(tmp_path, capsys):
    recipe = make_recipe(tmp_path)
    assert main(["inspect-data", str(recipe), "--out", str(tmp_path / "sheets")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"blue +4 #+", out) and "16x16 (12)" in out and "everything can be read" in out
    for name in ("train.png", "eval-val.png"):
        with Image.open(tmp_path / "sheets" / name) as sheet:
            assert sheet.width > 200 and len(sheet.getcolors(1 << 20)) > 100


def test_every_unreadable_file_is_named_with_its_reason_and_exits_4(tmp_path, capsys):
    recipe = make_recipe(tmp_path)
    train = tmp_path / "data" / "train"
    (train / "red" / "0.png").write_bytes(b"")
    (train / "red" / "9.png").write_bytes(b"no picture at all")
    assert main(["inspect-data", str(recipe), "--out", str(tmp_path / "sheets")]) == 4
    out = " ".join(capsys.readouterr().out.split())
    assert "0.png: is empty (0 bytes)" in out and "9.png: is no picture" in out
    assert "training would stop" in out
    assert (tmp_path / "sheets" / "train.png").exists()


def test_what_is_shown_is_what_the_network_gets(tmp_path):
    run = load(make_recipe(tmp_path))
    run = change(run, {"train.transform": [{"kind": "CenterCrop", "size": 8}]})
    stream = rooted(run.train, run.host.data)
    run = change(run, {"task.classes": ["blue", "green", "red"]})
    tiles = list(sheets.training_tiles(run, stream, 5))
    assert len(tiles) == 5
    for picture, caption in tiles:
        assert picture.shape == (8, 8, 3)
        assert ("red", "green", "blue")[int(picture.reshape(-1, 3).mean(0).argmax())] == caption


def test_mixed_pictures_are_shown_mixed(tmp_path):
    run = change(load(make_recipe(tmp_path)), {"task.classes": ["blue", "green", "red"]})
    stream = rooted(change(run, {"train.transform": []}).train, run.host.data)
    plain = [picture for picture, _ in sheets.training_tiles(run, stream, 6)]
    mixed = [p for p, _ in sheets.training_tiles(change(run, {"task.mixup": 1.0}), stream, 6)]
    assert [p.shape for p in mixed] == [p.shape for p in plain]
    assert not np.array_equal(np.stack(mixed), np.stack(plain))


@dataclass(frozen=True, kw_only=True)
class Half(Numbers):
    """Knows neither sizes nor labels, and every other picture is broken."""

    def fetch(self, index):
        if index % 2:
            raise DataError(f"n{index}: broken")
        return super().fetch(index)

    def sizes_all(self):
        return None

    def labels_all(self):
        return None


def test_a_source_of_ones_own_is_looked_at_by_reading_it(tmp_path):
    report = sheets.look(Half(size=10))
    assert report.count == 10 and report.labels == {} and report.sizes == [((2, 2), 5)]
    assert report.problems == [f"n{i}: broken" for i in (1, 3, 5, 7, 9)]


def test_a_set_of_which_nothing_can_be_read_is_a_data_error(tmp_path):
    source = Numbers(size=4, broken=0, limit=1)
    run = small_run(
        tmp_path,
        train=Shuffled(source=source, batch=1),
        evals={"val": Eval(stream=Ordered(source=Numbers(size=4), batch=2))},
    )
    with pytest.raises(DataError, match="no sample can be shown"):
        sheets.inspect(run, tmp_path / "sheets")


def test_a_folder_for_sheets_that_cannot_be_made_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        sheets.inspect(small_run(tmp_path), tmp_path / "file" / "sheets")


@pytest.mark.parametrize("shape", [(1, 1, 3), (9, 40, 1), (300, 20, 3), (2, 3, 4)])
def test_pictures_of_any_size_fit_a_tile(shape):
    page = sheets.sheet([(np.zeros(shape, np.uint8), "a very long caption that must be cut somewhere")])
    assert page.size == (sheets._TILE + 12, sheets._TILE + sheets._CAPTION + 12)
