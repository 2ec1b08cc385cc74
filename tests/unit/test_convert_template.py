"""Checkpoints and configs of the segmentation template."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from visloom.cli import main
from visloom.config import load
from visloom.convert import common, template
from visloom.data.clothes import CLASSES
from visloom.errors import ConfigError
from visloom.nets.psp import PSPNet
from visloom.nets.unet import UNet
from visloom.prediction import predict
from visloom.schedule import OneCycle, Poly
from visloom.tasks.segment import Focal
from visloom.tasks.segment.nets import Pspnet, Smp, Unet
from visloom.units import Epochs, Monitor, Steps
from visloom.validate import validate

CONFIG = {
    "name": "PSPNet",
    "n_gpu": 1,
    "use_synch_bn": False,
    "arch": {"type": "PSPNet", "args": {"backbone": "resnet50", "freeze_bn": False, "freeze_backbone": False}},
    "train_loader": {
        "type": "VOC",
        "args": {
            "data_dir": "./data/voc", "batch_size": 8, "base_size": 400, "crop_size": 380, "augment": True,
            "shuffle": True, "scale": True, "flip": True, "rotate": True, "blur": False, "split": "train_aug",
            "num_workers": 8,
        },
    },
    "val_loader": {
        "type": "VOC",
        "args": {
            "data_dir": "./data/voc", "batch_size": 8, "crop_size": 480, "val": True, "split": "val", "num_workers": 4,
        },
    },
    "optimizer": {"type": "SGD", "differential_lr": True, "args": {"lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9}},
    "loss": "CrossEntropyLoss2d",
    "ignore_index": 255,
    "lr_scheduler": {"type": "Poly", "args": {}},
    "trainer": {
        "epochs": 80, "save_dir": "saved/", "save_period": 10, "monitor": "max Mean_IoU", "early_stop": 10,
        "tensorboard": True, "log_dir": "saved/runs", "log_per_iter": 20, "val": True, "val_per_epochs": 5,
    },
}  # fmt: skip


def changed(path: str, value):
    made = json.loads(json.dumps(CONFIG))
    part, names = made, path.split(".")
    for name in names[:-1]:
        part = part[name]
    part[names[-1]] = value
    return made


def convert(tmp_path, value):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(value))
    return template.config(file)


def leaves(value, before=""):
    for name, item in value.items():
        key = f"{before}.{name}" if before else name
        if isinstance(item, dict) and item:
            yield from leaves(item, key)
        else:
            yield key


def fill(net):
    """Weights that are not those of a fresh network."""
    torch.manual_seed(3)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) * 0.5 + 0.1 if "var" in name else torch.randn_like(tensor) * 0.1
            )
    return net.eval()


# ------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (lambda: UNet(59), 26_358_939),
        (lambda: PSPNet(59, 3, "resnet50"), 51_485_750),
        (lambda: PSPNet(59, 3, "resnet18"), 12_929_974),
    ],
)
def test_networks_have_the_originals_parameters(net, parameters):
    """26.36, 51.49 and 12.93 million in the reference."""
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == parameters


def test_names_of_tensors_are_the_originals():
    with torch.device("meta"):
        unet, psp = set(UNet(5).state_dict()), set(PSPNet(5).state_dict())
    assert {
        "start_conv.0.weight", "start_conv.1.running_mean", "start_conv.3.weight", "down1.down_conv.0.weight",
        "down4.down_conv.4.bias", "middle_conv.0.weight", "up1.up.weight", "up1.up.bias", "up4.up_conv.3.weight",
        "final_conv.weight", "final_conv.bias",
    } <= unet  # fmt: skip
    assert {
        "initial.0.0.weight", "initial.0.6.weight", "initial.1.weight", "layer1.0.downsample.0.weight",
        "layer4.2.bn3.running_var", "master_branch.0.stages.3.1.weight", "master_branch.0.stages.0.2.weight",
        "master_branch.0.bottleneck.0.weight", "master_branch.1.bias", "auxiliary_branch.0.weight",
        "auxiliary_branch.4.bias",
    } <= psp  # fmt: skip
    assert not any(name.startswith("fc") for name in psp)


def test_dilations_of_the_backbone():
    with torch.device("meta"):
        net = PSPNet(5, 3, "resnet50")
    found = [[block.conv2.dilation[0] for block in stage] for stage in (net.layer2, net.layer3, net.layer4)]
    assert found == [[1] * 4, [1] + [2] * 5, [2, 4, 4]]
    assert net.layer2[0].conv2.stride == (2, 2)
    assert net.layer4[0].conv2.stride == (1, 1)


# --------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(params=["unet", "psp"])
def net(request):
    """A small network of each kind, with weights of its own."""
    return fill(UNet(59, width=4) if request.param == "unet" else PSPNet(59, 3, "resnet18"))


@pytest.mark.parametrize("wrapped", [True, False])
def test_old_checkpoints_predict_at_once_and_go_back(net, wrapped, tmp_path):
    before = "module." if wrapped else ""
    theirs = {f"{before}{name}": tensor for name, tensor in net.state_dict().items()}
    config = changed("train_loader.type", "Clothes")
    file = tmp_path / "best_model.pth"
    saved = {
        "arch": "DataParallel",
        "epoch": 30,
        "state_dict": theirs,
        "monitor_best": np.float64(0.3),
        "config": config,
    }
    torch.save(saved, file)  # defect 18: numpy's number keeps the original's own loader from reading it
    photo = tmp_path / "photo.png"
    image = np.random.default_rng(0).integers(0, 256, (45, 37, 3)).astype(np.uint8)
    Image.fromarray(image).save(photo)

    found = predict(file, photo, device="cpu")
    assert found.saved.spec.classes == CLASSES
    mean, std = np.array([0.55, 0.53374356, 0.526291]), np.array([0.26, 0.257, 0.259])
    x = torch.tensor((image / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = net(x).max(1).indices[0]
    assert (found.rows[0]["mask"] == expected.numpy()).mean() > 0.999

    converted = template.weights([file])
    assert {row.key for row in converted.rows} == {*theirs, "arch", "epoch", "monitor_best", "config"}
    assert not common.uncovered(converted.rows)
    back = template.original(converted.task, converted.tensors)
    assert list(back) == list(net.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in net.state_dict().items())


def test_a_kept_import_is_a_run(tmp_path):
    net = fill(UNet(3, width=4))
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    (tmp_path / "names.txt").write_text("sky\nroad\ncar\n")
    words = ["import-checkpoint", "template", str(tmp_path / "bare.pth"), "--out", str(tmp_path / "run")]
    assert main([*words, "--option", f"classes={tmp_path / 'names.txt'}", "--option", "data=VOC"]) == 0
    assert load(tmp_path / "run").task.classes == ("sky", "road", "car")
    out = tmp_path / "old.pth"
    assert (
        main(["export", str(tmp_path / "run"), "--to", "state-dict", "--keys", "original", "--out", str(out)])
        == 0
    )
    again = torch.load(out, weights_only=True)
    again = again.get("state_dict", again)
    assert all(torch.equal(again[name], tensor) for name, tensor in net.state_dict().items())


def test_a_file_without_a_config_says_what_is_assumed(tmp_path):
    torch.save(UNet(4, width=4).state_dict(), tmp_path / "bare.pth")
    converted = template.weights([tmp_path / "bare.pth"])
    assert converted.task.classes == ("0", "1", "2", "3")
    assert any("--option data=VOC" in note for note in converted.notes)


def test_other_files_are_not_recognised():
    assert not template.recognises(["backbone.conv1.weight", "head.fc.weight"], {})
    first_version = [
        "down1.down_conv.0.weight",
        "middle_conv.0.weight",
        "up4.up_conv.0.weight",
        "final_conv.weight",
    ]
    assert not template.recognises(first_version, {})


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_unet_of_another_depth_comes_back(tmp_path, depth):
    state = UNet(3, width=4, depth=depth).state_dict()
    torch.save(state, tmp_path / "unet.pth")
    assert common.recognise(tmp_path / "unet.pth") is template
    converted = template.weights([tmp_path / "unet.pth"])
    assert converted.task.net == Unet(width=4, depth=depth)
    assert list(template.original(converted.task, converted.tensors)) == list(state)


def test_foreign_tensors_and_runs_are_refused(tmp_path):
    state = UNet(3, width=4).state_dict()
    torch.save({**state, "extra.weight": torch.zeros(2)}, tmp_path / "more.pth")
    assert [row.key for row in common.uncovered(template.weights([tmp_path / "more.pth"]).rows)] == [
        "extra.weight"
    ]
    torch.save(state, tmp_path / "unet.pth")
    with pytest.raises(ConfigError, match="--into has"):
        template.weights([tmp_path / "unet.pth"], into=load("scenery"))
    torch.save({"down1.down_conv.0.weight": torch.zeros(1)}, tmp_path / "first.pth")
    with pytest.raises(ConfigError, match="first version"):
        template.weights([tmp_path / "first.pth"])


# ------------------------------------------------------------------------------------------------------- configs


def test_every_key_of_the_originals_config_is_accounted_for(tmp_path):
    converted = convert(tmp_path, CONFIG)
    assert {row.key for row in converted.rows} == set(leaves(CONFIG))
    assert {row.verdict for row in converted.rows} <= {"taken", "not needed"}
    run = converted.run
    validate(run)
    assert run.task.net == Pspnet("resnet50")
    assert len(run.task.classes) == 21
    assert run.train.source.part == "train_aug"
    assert [type(t).__name__ for t in run.train.transform] == [
        "RandomScale", "RandomRotation", "Pad", "RandomCrop", "RandomFlip",
    ]  # fmt: skip
    assert run.schedule == Poly(0.9, lag=-1)
    assert [rule.lr for rule in run.rules] == [0.1]
    evaluation = run.evals["val"]
    assert evaluation.monitor == Monitor("max", "miou_all")
    assert (evaluation.patience, evaluation.every, run.save.every) == (10, Epochs(5), Epochs(10))
    assert run.log.every == Steps(3)  # int(20 / 8) + 1
    assert run.length == Epochs(80)
    assert (run.host.data, run.host.out, run.host.workers) == ("./data/voc", "saved", 8)


def test_a_config_becomes_a_recipe(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    out = tmp_path / "voc.yaml"
    assert main(["import-config", "template", str(tmp_path / "config.json"), "--out", str(out)]) == 0
    assert load(out) == template.config(tmp_path / "config.json").run


def test_keys_that_the_original_does_not_have_are_told(tmp_path):
    rows = common.uncovered(convert(tmp_path, changed("trainer.epoch", 3)).rows)
    assert [row.key for row in rows] == ["trainer.epoch"]


def test_settings_of_a_backbone_are_not_said_to_be_taken_where_there_is_none(tmp_path):
    args = {"backbone": "resnet50", "freeze_backbone": True}
    made = convert(tmp_path, changed("arch", {"type": "UNet", "args": args}))
    said = {row.key: row.verdict for row in made.rows}
    assert made.run.rules == ()
    for key in ("arch.args.backbone", "arch.args.freeze_backbone", "optimizer.differential_lr"):
        assert said[key] == "not needed"


def test_missing_keys_have_the_originals_defaults(tmp_path):
    """Defect 29: the original stops where log_per_iter or freeze_bn is absent."""
    made = json.loads(json.dumps(CONFIG))
    del made["trainer"]["log_per_iter"], made["arch"]["args"]["freeze_bn"], made["loss"]
    assert convert(tmp_path, made).run.how.frozen_norms is None


@pytest.mark.parametrize(
    ("path", "value", "look"),
    [
        ("arch", {"type": "UNet", "args": {}}, lambda run: (run.task.net, run.rules) == (Unet(), ())),
        ("arch.args.freeze_bn", True, lambda run: run.how.frozen_norms == ".*"),
        ("arch.args.freeze_backbone", True, lambda run: run.rules[0].frozen),
        ("arch.args.use_aux", False, lambda run: run.task.net == Pspnet("resnet50", aux=False)),
        ("arch.type", "DeepLab", lambda run: run.task.net.arch == "deeplabv3plus" and run.task.net.pretrained),
        ("arch.type", "UperNet", lambda run: run.task.net == Smp("upernet", "resnet50", True)),
        ("use_synch_bn", True, lambda run: run.how.sync_norm),
        ("loss", "FocalLoss", lambda run: run.task.loss == Focal()),
        ("trainer.early_stop", 0, lambda run: run.evals["val"].patience == 0),
        ("trainer.monitor", "off", lambda run: run.evals["val"].monitor is None),
        ("trainer.monitor", "min val_loss", lambda run: run.evals["val"].monitor == Monitor("min", "loss")),
        ("trainer.val", False, lambda run: run.evals == {}),
        ("train_loader.args.val_split", 0.1, lambda run: str(run.train.source.split) == "head:0.9"),
        ("train_loader.args.augment", False, lambda run: run.train.transform == ()),  # it leaves pictures as they are
        ("train_loader.args.crop_size", 0, lambda run: "Crop" not in str(run.train.transform)),
        ("train_loader.args.blur", True, lambda run: type(run.train.transform[-1]).__name__ == "GaussianBlur"),
        ("lr_scheduler.type", "OneCycle", lambda run: isinstance(run.schedule, OneCycle) and run.momentum is not None),
        ("optimizer.type", "Adam", lambda run: run.optim.name == "Adam"),
        ("optimizer.differential_lr", False, lambda run: run.rules == ()),
    ],
)  # fmt: skip
def test_keys_go_where_they_belong(tmp_path, path, value, look):
    assert look(convert(tmp_path, changed(path, value)).run)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("arch.type", "GCN", "arch.type 'GCN' is not here"),
        ("train_loader.type", "Kitti", "no data set 'Kitti'"),
        ("loss", "MSE", "loss 'MSE'"),
        ("lr_scheduler.type", "Step", "lr_scheduler.type 'Step'"),
        ("trainer.monitor", "max mAP", "trainer.monitor 'max mAP'"),
    ],
)
def test_what_is_not_known_is_said(tmp_path, path, value, match):
    with pytest.raises(ConfigError, match=match):
        convert(tmp_path, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("train_loader.args.batch_size", 0, "train_loader.args.batch_size is a whole number from 1, got 0"),
        (
            "train_loader.args.batch_size",
            "8",
            "train_loader.args.batch_size is a whole number from 1, got '8'",
        ),
        ("train_loader.args.base_size", "x", "train_loader.args.base_size"),
        ("train_loader.args.crop_size", -3, "train_loader.args.crop_size"),
        ("train_loader.args.val_split", 1.5, "train_loader.args.val_split"),
        ("train_loader.args.num_workers", -5, "train_loader.args.num_workers"),
        ("train_loader.args", [], "train_loader.args is a JSON object"),
        ("val_loader.args.batch_size", 0, "val_loader.args.batch_size"),
        ("trainer.epochs", 0, "trainer.epochs"),
        ("trainer.epochs", [1], "trainer.epochs"),
        ("trainer.save_period", 0, "trainer.save_period"),
        ("trainer.val_per_epochs", 0, "trainer.val_per_epochs"),
        ("trainer.early_stop", -2, "trainer.early_stop"),
        ("trainer.log_per_iter", -1, "trainer.log_per_iter"),
        ("optimizer.args.lr", -1, "optimizer.args.lr is a number above 0, got -1"),
        ("optimizer.args.lr", [1], "optimizer.args.lr"),
        ("optimizer.args.weight_decay", "a", "optimizer.args.weight_decay"),
        ("arch.args.backbone", "resnet51", "arch.args.backbone: .*resnet51"),
        ("arch.args.backbone", 5, "arch.args.backbone: .*'5'"),
    ],
)
def test_values_that_cannot_be_are_errors_with_file_and_key(tmp_path, path, value, match, capsys):
    with pytest.raises(ConfigError, match=f"config.json: {match}"):
        convert(tmp_path, changed(path, value))
    words = ["import-config", "template", str(tmp_path / "config.json"), "--out", str(tmp_path / "a.yaml")]
    assert main(words) == 3 and "bug" not in capsys.readouterr().err


def test_files_that_are_no_configs(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="as JSON"):
        template.config(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="no arch"):
        convert(tmp_path, {"name": "x"})


def test_the_schedules_of_a_config_are_the_recorded_ones(tmp_path, shared):
    from visloom.schedule import Progress

    for case in json.loads((shared / "parity/seg_schedules.json").read_text()):
        if case["kw"]:
            continue  # arguments that no config reaches
        run = convert(tmp_path, changed("lr_scheduler.type", case["name"])).run
        total = case["epochs"] * case["iters"]
        for step, (rate, backbone, momentum) in enumerate(case["trace"]):
            at = Progress(step, total, case["iters"])
            assert run.schedule(run.optim.lr, at) == pytest.approx(rate, rel=1e-9, abs=1e-15)
            assert run.schedule(run.optim.lr, at) * run.rules[0].lr == pytest.approx(
                backbone, rel=1e-9, abs=1e-15
            )
            if run.momentum is not None:
                now = run.momentum(run.optim.options["momentum"], at)
                assert now == pytest.approx(momentum, rel=1e-9)
