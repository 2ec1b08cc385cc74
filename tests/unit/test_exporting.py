"""Exported networks answer as the run does, say what they need to be used, and predict from the command line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import mmcls
from visloom.cli import main
from visloom.convert.mmcls import zoo
from visloom.errors import ConfigError, DataError, UsageError
from visloom.exporting import OnnxNet, export_network, picture_size
from visloom.nets.lenet import LeNet5
from visloom.recipes.cifar10 import cifar10
from visloom.recipes.digits import digits
from visloom.recipes.fashion_mnist import fashion_mnist
from visloom.recipes.town import town
from visloom.saved import open_saved


@pytest.fixture
def old(tmp_path):
    """A checkpoint of LeNet with three classes."""
    torch.manual_seed(0)
    state = {f"backbone.{name}": tensor for name, tensor in LeNet5(num_classes=3).state_dict().items()}
    torch.save({"meta": {"CLASSES": ["a", "b", "c"]}, "state_dict": state}, tmp_path / "old.pth")
    return tmp_path / "old.pth"


def table(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "picture"} for row in csv.DictReader(file)]


def test_onnx_predicts_like_the_run(old, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    model = tmp_path / "model.onnx"
    assert main(["export", str(old), "--to", "onnx", "--out", str(model)]) == 0
    said = capsys.readouterr().out
    assert "compared" in said and "(B, 1, 32, 32)" in said
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        pixels = draw.integers(0, 255, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    for name, ref in (("one", old), ("two", model)):
        words = [
            "predict",
            str(ref),
            str(tmp_path / "pictures"),
            "--out",
            str(tmp_path / name),
            "--device",
            "cpu",
        ]
        assert main(words) == 0
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert [row["class"] for row in one] == [row["class"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert float(a["p(a)"]) == pytest.approx(float(b["p(a)"]), abs=2e-6)
    with pytest.raises(DataError, match=r"of 32x32 \(height x width\) and got 20x32"):
        OnnxNet(model)(torch.zeros(2, 1, 20, 32))
    about = json.loads(OnnxNet(model).about)["run"]["task"]
    assert about["classes"] == ["a", "b", "c"] and about["normalise"]["mean"] == [33.46]
    with pytest.raises(UsageError, match="exists already"):
        export_network(open_saved(old, device="cpu"), model, "onnx")


def test_torch_export_answers_like_the_run(old, tmp_path):
    saved = open_saved(old, device="cpu")
    export_network(saved, tmp_path / "model.pt2", "torch-export")
    files = {"visloom.json": ""}
    program = torch.export.load(str(tmp_path / "model.pt2"), extra_files=files).module()
    images = torch.randn(5, 1, 32, 32)
    assert torch.allclose(program(images), saved.task.net(images), atol=1e-6)
    assert json.loads(files["visloom.json"])["run"]["task"]["classes"] == ["a", "b", "c"]


class Lies(torch.nn.Module):
    """Answers otherwise once it is traced."""

    def forward(self, image):
        total = image.mean((1, 2, 3))[:, None].expand(-1, 3)
        return total + 1.0 if torch.compiler.is_exporting() else total


def test_a_network_that_answers_otherwise_is_not_kept(old, tmp_path):
    saved = open_saved(old, device="cpu")
    saved.task.net = Lies()
    with pytest.raises(ConfigError, match="answers otherwise"):
        export_network(saved, tmp_path / "model.pt2", "torch-export")
    assert [file.name for file in tmp_path.iterdir()] == ["old.pth"]


def test_the_size_of_pictures_comes_from_the_transforms_or_is_asked_for(old, tmp_path):
    saved = open_saved(old, device="cpu")
    assert picture_size(saved) == (32, 32)
    spec = zoo.of_config({"type": "ShuffleNetV2", "widen_factor": 0.5})
    torch.save(mmcls.old_names(spec, spec.build(3, 3)), tmp_path / "shuffle.pth")
    assert picture_size(open_saved(tmp_path / "shuffle.pth", device="cpu")) == (224, 224)
    run = saved.run
    stream = run.evals["val"].stream
    free = replace(run, evals={"val": replace(run.evals["val"], stream=replace(stream, transform=()))})
    with pytest.raises(UsageError, match="--size"):
        picture_size(replace(saved, run=free))
    rows = dict(export_network(replace(saved, run=free), tmp_path / "a.pt2", "torch-export", size=32))
    assert "32, 32" in str(rows["input"])


@pytest.mark.parametrize(("recipe", "size"), [(cifar10, 32), (fashion_mnist, 32), (digits, 8), (town, 32)])
def test_data_of_one_size_need_no_question(old, recipe, size):
    run = recipe()
    assert picture_size(replace(open_saved(old, device="cpu"), run=run)) == (size, size)
    source = next(iter(run.evals.values())).stream.leaves()[0].source
    if recipe in (digits, town):  # the others need files: their readers refuse another size
        assert source.read(0).size == source.picture_size()


def test_what_cannot_be_exported_is_said(old, tmp_path, capsys):
    words = ["export", str(old), "--out", str(tmp_path / "a.pth")]
    assert main([*words, "--to", "onnx"]) == 2
    assert main([*words, "--to", "torch-export", "--keys", "original"]) == 2
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    pytest.importorskip("onnxruntime")
    assert main(["predict", str(tmp_path / "bad.onnx"), str(old), "--out", str(tmp_path / "out")]) == 3
    assert "bad.onnx is no ONNX file" in capsys.readouterr().err


def test_files_of_other_programs_say_what_they_lack(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "theirs.onnx"))
    with pytest.raises(ConfigError, match="neither classes nor normalisation"):
        open_saved(tmp_path / "theirs.onnx")


@pytest.mark.nightly
@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "ResNet", "depth": 18},
        {"type": "ResNetV1d", "depth": 50},
        {"type": "MobileNetV2"},
        {"type": "ShuffleNetV2", "widen_factor": 0.5},
        {"type": "ShuffleNetV1", "groups": 3},
        {"type": "VGG", "depth": 11, "norm_cfg": {"type": "BN"}},
    ],
    ids=lambda each: each["type"],
)
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_networks_of_the_zoo_are_exported_and_answer_alike(old, tmp_path, backbone, to):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    opened = open_saved(old, device="cpu")
    spec = replace(opened.spec, net=zoo.of_config(backbone), channels=3, normalise="net")
    task = spec.build().eval()
    saved = replace(opened, spec=spec, task=task)
    rows = dict(export_network(saved, tmp_path / f"m{'.onnx' if to == 'onnx' else '.pt2'}", to, size=64))
    assert "differs by" in str(rows["compared"])
    assert "(B, 3, 64, 64)" in str(rows["input"])
