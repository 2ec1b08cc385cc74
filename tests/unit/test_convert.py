"""The frame of all converters: recognition, whole or not kept, and a run directory that every verb takes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import visloom
from visloom.checkpoint import Checkpoints
from visloom.cli import main
from visloom.convert import common, mmcls
from visloom.convert.common import ConvertedWeights, Row
from visloom.errors import CheckpointError, ConfigError, DataError, UsageError
from visloom.exporting import export_state_dict
from visloom.init import read_weights
from visloom.nets.lenet import LeNet5
from visloom.run import Optim
from visloom.saved import evaluate, open_saved
from visloom.tasks.classify import Normalise

NAMES = ["zero", "one", "two"]


def old_names(net):
    return {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return LeNet5(num_classes=3).eval()


@pytest.fixture
def old(tmp_path, net):
    """A checkpoint as mmclassification writes it."""
    file = tmp_path / "old.pth"
    torch.save({"meta": {"CLASSES": NAMES, "epoch": 2}, "state_dict": old_names(net)}, file)
    return file


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(draw.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def table(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predict_takes_the_old_file_itself(old, pictures, net, tmp_path):
    assert main(["predict", str(old), str(pictures), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    rows = table(tmp_path / "out")
    image = np.stack([np.asarray(Image.open(file)) for file in sorted(pictures.iterdir())])
    values = mmcls.MNIST
    x = (torch.from_numpy(image)[:, None].float() - values.mean[0]) / values.std[0]
    with torch.no_grad():
        expected = net(x).softmax(1)
    for row, chances in zip(rows, expected, strict=True):
        assert row["class"] == NAMES[int(chances.argmax())]
        assert [float(row[f"p({name})"]) for name in NAMES] == pytest.approx(chances.tolist(), abs=2e-6)


def test_an_imported_checkpoint_is_a_run(old, pictures, net, tmp_path, capsys):
    out = tmp_path / "ckpt"
    assert main(["import-checkpoint", "mmcls", str(old), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        "11 taken, 1 not needed" in said
        and "backbone.features.0.weight" in said
        and f"init.model={out}" in said
    )
    assert main(["predict", str(out), str(pictures), "--out", str(tmp_path / "new"), "--device", "cpu"]) == 0
    assert main(["predict", str(old), str(pictures), "--out", str(tmp_path / "old"), "--device", "cpu"]) == 0
    assert [{**row, "picture": ""} for row in table(tmp_path / "new")] == [
        {**row, "picture": ""} for row in table(tmp_path / "old")
    ]
    run = visloom.load(out)
    assert run.task.classes == tuple(NAMES) and run.init == {"model": str(out)}
    kept = read_weights(str(out)).tensors
    assert all(torch.equal(kept[f"net.{name}"], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(DataError, match="without a data set"):
        evaluate(out, device="cpu")
    assert main(["import-checkpoint", "mmcls", str(old), "--out", str(out)]) == 2  # never overwritten


def test_unsupported_keys_keep_nothing_unless_asked(old, net, tmp_path, capsys):
    torch.save({"state_dict": {**old_names(net), "backbone.extra.weight": torch.ones(2)}}, old)
    words = ["import-checkpoint", "mmcls", str(old), "--out", str(tmp_path / "ckpt")]
    assert main(words) == 3
    told = capsys.readouterr()
    assert "backbone.extra.weight" in told.out and "1 keys are not supported" in told.err
    assert not (tmp_path / "ckpt").exists()
    assert main(["predict", str(old), str(old), "--out", str(tmp_path / "out")]) == 3
    assert main([*words, "--partial"]) == 0


def test_missing_tensors_keep_nothing(old, net, tmp_path, capsys):
    tensors = old_names(net)
    del tensors["backbone.classifier.0.bias"]
    torch.save({"state_dict": tensors}, old)
    assert main(["import-checkpoint", "mmcls", str(old), "--out", str(tmp_path / "ckpt"), "--partial"]) == 3
    assert "net.classifier.0.bias" in capsys.readouterr().err
    assert not (tmp_path / "ckpt").exists()


def test_moments_and_step_are_kept_by_name(net, tmp_path):
    file = tmp_path / "old.pth"
    torch.save({"state_dict": old_names(net)}, file)
    converted = common.convert(mmcls, [file])
    run = common.without_data(converted.task)
    run = visloom.change(run, {"optim": Optim(lr=0.1, options={"momentum": 0.9})})
    buffers = {
        f"net.{name}": {"momentum_buffer": torch.full_like(p, 2.0)} for name, p in net.named_parameters()
    }
    row = {"kind": "train", "step": 4, "epoch": 1.0, "values": {"loss": 0.5}}
    full = ConvertedWeights(
        converted.task, converted.tensors, converted.rows, step=4, moments=buffers, run=run, history=[row]
    )
    place, notes = common.keep(full, tmp_path / "ckpt")
    state = Checkpoints(tmp_path / "ckpt" / "checkpoints").load()
    assert notes == [] and place.name == "step-00000004" and state.step == 4
    assert state.tensors["optim"]["net.features.0.weight/momentum_buffer"].eq(2).all()
    assert json.loads((tmp_path / "ckpt" / "log.jsonl").read_text()) == row
    wrong = ConvertedWeights(
        converted.task, converted.tensors, converted.rows, moments={"net.no": {}}, run=run
    )
    assert "net.no" in common.keep(wrong, tmp_path / "other")[1][0]


def test_state_dicts_go_back_under_the_old_names(old, net, tmp_path):
    for name in ("back.pth", "back.safetensors"):
        words = [
            "export",
            str(old),
            "--to",
            "state-dict",
            "--keys",
            "original",
            "--out",
            str(tmp_path / name),
        ]
        assert main(words) == 0
        back = read_weights(str(tmp_path / name)).tensors
        assert list(back) == list(old_names(net))
        assert all(torch.equal(back[key], tensor) for key, tensor in old_names(net).items())
    assert main(words) == 2  # nothing is overwritten
    with pytest.raises(UsageError, match="safetensors"):
        export_state_dict(open_saved(old, device="cpu"), tmp_path / "back.npz")


def test_files_of_nobody_and_formats_of_nobody(tmp_path, capsys):
    torch.save({"alpha.weight": torch.ones(2)}, tmp_path / "mine.pth")
    with pytest.raises(ConfigError, match=r"no system that is known here: its tensors are alpha\.weight"):
        common.recognise(tmp_path / "mine.pth")
    with pytest.raises(ConfigError, match=r"there is no format 'mmcl'.*\n.*mmcls"):
        common.converter("mmcl")
    assert main(["import-checkpoint", "mmcls", "x.pth", "--out", "y", "--option", "colour"]) == 2
    assert main(["import-checkpoint", "mmcls", "x.pth", "--out", "y", "--option", "tint=bgr"]) == 3
    assert "no option 'tint'" in capsys.readouterr().err


def test_every_converter_has_what_the_frame_asks_for():
    for module in common.converters():
        assert module.NAMES and module.TASKS
        assert all(callable(getattr(module, name)) for name in ("recognises", "weights", "original"))
    assert common.counts([Row("a", "taken"), Row("b", "not needed")]) == "1 taken, 1 not needed"


def test_weights_of_another_shape_are_refused(old, net, tmp_path):
    converted = common.convert(mmcls, [old])
    converted.tensors["net.features.0.weight"] = torch.ones(6, 1, 3, 3)
    with pytest.raises(CheckpointError, match=r"net\.features\.0\.weight"):
        common.build(converted)
    assert isinstance(converted.task.normalisation(), Normalise)
