"""mmclassification's zoo: every key accounted for, the recorded answers met, and the way back the identity."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests import mmcls
from visloom.cli import main
from visloom.convert import common
from visloom.convert import mmcls as converter
from visloom.convert.mmcls import zoo
from visloom.data.wrappers import Repeat
from visloom.errors import ConfigError
from visloom.saved import open_saved
from visloom.tasks.classify import Custom, Normalise, ResNetCifar, Timm

QUICK = ("lenet5_mnist", "shufflenet_v1_1x_b64x16_linearlr_bn_nowd_imagenet", "resnet18_b16x8_cifar10")
SLOW = (
    "shufflenet_v2_1x_b64x16_linearlr_bn_nowd_imagenet", "mobilenet_v2_b32x8_imagenet", "resnet50_b16x8_cifar10",
    "resnet18_b32x8_imagenet", "resnet50_b32x8_imagenet", "resnetv1d50_b32x8_imagenet",
    "resnext50_32x4d_b32x8_imagenet", "seresnet50_b32x8_imagenet", "vgg11bn_imagenet",
)  # fmt: skip

# every network of v0.8's configs, by the backbone that they write
ZOO = [
    *({"type": "VGG", "depth": d} | more for d in (11, 13, 16, 19) for more in ({}, {"norm_cfg": {"type": "BN"}})),
    *({"type": kind, "depth": d} for kind in ("ResNet", "ResNet_CIFAR") for d in (18, 34, 50, 101, 152)),
    *({"type": "ResNetV1d", "depth": d} for d in (50, 101, 152)),
    *({"type": "ResNeXt", "depth": d, "groups": 32, "width_per_group": 4} for d in (50, 101, 152)),
    {"type": "ResNeXt", "depth": 101, "groups": 32, "width_per_group": 8},
    *({"type": "SEResNet", "depth": d} for d in (50, 101, 152)),
    *({"type": "SEResNeXt", "depth": d, "groups": 32, "width_per_group": 4} for d in (50, 101, 152)),
    {"type": "ResNet", "depth": 50, "deep_stem": True},
    {"type": "ShuffleNetV1", "groups": 3},
    *({"type": "ShuffleNetV2", "widen_factor": w} for w in (0.5, 1.0, 1.5, 2.0)),
    {"type": "MobileNetV2", "widen_factor": 1.0},
    {"type": "LeNet5", "num_classes": 10},
]  # fmt: skip
# parameters in millions, of the published table
MILLIONS = {
    "VGG-11": 132.86, "VGG-13": 133.05, "VGG-16": 138.36, "VGG-19": 143.67, "VGG-11-BN": 132.87,
    "VGG-13-BN": 133.05, "VGG-16-BN": 138.37, "VGG-19-BN": 143.68, "ResNet-18": 11.69, "ResNet-34": 21.8,
    "ResNet-50": 25.56, "ResNet-101": 44.55, "ResNet-152": 60.19, "ResNetV1d-50": 25.58, "ResNetV1d-101": 44.57,
    "ResNetV1d-152": 60.21, "ResNeXt-50 (32x4d)": 25.03, "ResNeXt-101 (32x4d)": 44.18,
    "ResNeXt-101 (32x8d)": 88.79, "ResNeXt-152 (32x4d)": 59.95, "SEResNet-50": 28.09, "SEResNet-101": 49.33,
    "ShuffleNetV1 1x (g=3)": 1.87, "ShuffleNetV2 1.0x": 2.28, "MobileNetV2": 3.5,
}  # fmt: skip


def met(net, model):
    net.eval()
    with torch.no_grad():
        logits = net(mmcls.pictures(model))
    recorded = torch.tensor(model["logits_first10"])
    assert (logits[:, :10] - recorded).abs().max() < 1e-4 * model["logits_absmax"]
    assert logits.sum(1).tolist() == pytest.approx(
        model["logits_sum"], abs=1e-4 * model["logits_absmax"] * 100
    )
    loss = functional.cross_entropy(logits, torch.tensor(model["gt"]))
    assert float(loss) == pytest.approx(model["loss"], rel=1e-5)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.nightly) for name in SLOW)])
def test_recorded_models_from_the_command_line(shared, tmp_path, name, capsys):
    model = mmcls.models(shared)[name]
    weights = mmcls.state_dict(model)
    lines = "\n".join(f"{key} {tuple(shape)}" for key, shape in model["keys"])
    assert hashlib.sha1(lines.encode()).hexdigest() == model["keys_sha1"]
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "old.pth")
    assert (
        main(["import-checkpoint", "mmcls", str(tmp_path / "old.pth"), "--out", str(tmp_path / "new")]) == 0
    )
    assert f"{model['num_keys']} taken" in capsys.readouterr().out
    saved = open_saved(tmp_path / "new", device="cpu")
    assert sum(p.numel() for p in saved.task.parameters()) == model["num_params"]
    assert len(saved.spec.classes) == model["num_classes"]
    met(saved.task.net, model)
    words = ["export", str(tmp_path / "new"), "--to", "state-dict", "--keys", "original"]
    assert main([*words, "--out", str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert back.keys() == weights.keys()
    assert all(
        torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in weights.items()
    )


def on_meta(spec, classes, channels):
    with torch.device("meta"):
        return spec.build(classes, channels)


@pytest.mark.parametrize("backbone", ZOO, ids=lambda b: "-".join(str(v) for v in b.values()))
def test_the_whole_zoo_goes_there_and_back(backbone):
    spec = zoo.of_config(backbone)
    channels = 1 if backbone["type"] == "LeNet5" else 3
    net = on_meta(spec, 1000, channels)
    state = mmcls.old_names(spec, net)
    assert len(state) == len(net.state_dict())  # no two names fall together
    found = zoo.find({key: tuple(value.shape) for key, value in state.items()})
    assert (found.net, found.classes, found.channels) == (spec, 1000, channels)
    assert converter.recognises(state.keys(), {})
    if found.name in MILLIONS:
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(
            MILLIONS[found.name], abs=0.006
        )


def test_recorded_keys_are_those_of_our_networks(shared):
    for name, model in mmcls.models(shared).items():
        shapes = {key: tuple(shape) for key, shape in model["keys"]}
        found = zoo.find(shapes)
        state = mmcls.old_names(found.net, on_meta(found.net, found.classes, found.channels))
        assert {key: tuple(value.shape) for key, value in state.items()} == shapes, name


def test_networks_out_of_the_zoo_are_refused_in_words(shared):
    shapes = {k: tuple(s) for k, s in mmcls.models(shared)["resnet50_b32x8_imagenet"]["keys"]}
    short = {k: s for k, s in shapes.items() if "layer3.5" not in k}
    with pytest.raises(ConfigError, match=r"\(3, 4, 5, 3\) blocks"):
        zoo.find(short)
    for stranger, said in (
        (
            {k.replace(".conv2.weight", ".conv2.conv.weight"): s for k, s in shapes.items()},
            "split attention, as ResNeSt",
        ),
        (
            {k: s[:1] + s[1:] for k, s in shapes.items() if not re.search(r"layer1\.[12]", k)},
            "ResNet or RegNet",
        ),
        ({**shapes, "backbone.layer2.0.downsample.1.weight": (512, 256, 1, 1)}, "pooled shortcuts"),
        ({f"backbone.{k}": (9, 9) for k in ("features.0.weight", "classifier.6.weight", "head")}, "AlexNet"),
    ):
        with pytest.raises(ConfigError, match=said):
            zoo.find(stranger)
    with pytest.raises(ConfigError, match=r"no head\.fc\.weight"):
        zoo.find({k: s for k, s in shapes.items() if "head" not in k})
    with pytest.raises(ConfigError, match="no counterpart"):
        zoo.old_name(Timm("vit_tiny_patch16_224"), "blocks.0.norm1.weight")
    for wrong in (
        {"type": "ResNet", "depth": 51},
        {"type": "RegNet"},
        {"type": "MobileNetV2", "widen_factor": 0.5},
    ):
        with pytest.raises(ConfigError):
            zoo.of_config(wrong)


PREPROCESSOR = "data_preprocessor = dict(mean=[1., 2., 3.], std=[4., 5., 6.], to_rgb=False)"

OWN = "train_dataloader = dict(dataset=dict(type='Mine', pipeline=[dict(type='{}')]))"


@pytest.fixture(scope="module")
def small():
    """A ResNet_CIFAR-18's tensors by their old names."""
    torch.manual_seed(0)
    net = ResNetCifar(18).build(10, 3)
    return mmcls.old_names(ResNetCifar(18), net)


@pytest.mark.parametrize(
    ("meta", "file", "order"),
    [
        ({}, "a.pth", "bgr"),
        ({"mmcls_version": "0.8.0"}, "a.pth", "bgr"),
        ({"mmcls_version": "0.11.1+abc"}, "a.pth", "bgr"),
        ({"mmcls_version": "0.12.0"}, "a.pth", "rgb"),
        ({}, "resnet18_b16x8_20200823-f906fa4e.pth", "bgr"),
        ({}, "resnet18_b16x8_20210528-bd6371c8.pth", "rgb"),
        ({"mmcls_version": "0.8.0", "config": mmcls.CIFAR_CONFIG}, "a.pth", "bgr"),
        ({"mmcls_version": "0.8.0", "config": mmcls.CIFAR_CONFIG.replace("=True)\n", "=False)\n")}, "a.pth", "rgb"),
        ({"cfg": f"dataset_type = 'CIFAR10'\n{PREPROCESSOR}"}, "a.pth", "rgb"),
        ({"cfg": f"dataset_type = 'ImageNet'\n{PREPROCESSOR}"}, "a.pth", "bgr"),
        ({"cfg": f"{OWN.format('PackInputs')}\n{PREPROCESSOR}"}, "a.pth", "rgb"),
        ({"cfg": f"{OWN.format('LoadImageFromFile')}\n{PREPROCESSOR}"}, "a.pth", "bgr"),
    ],
)  # fmt: skip
def test_colour_order_by_vintage(small, tmp_path, meta, file, order):
    torch.save({"meta": meta, "state_dict": small}, tmp_path / file)
    converted = common.convert(converter, [tmp_path / file])
    assert converted.task.normalise.order == order
    assert any(f"colours: {order}" in note for note in converted.notes)
    said = common.convert(converter, [tmp_path / file], options={"colours": "rgb"})
    assert said.task.normalise.order == "rgb"
    if "cfg" not in meta:
        assert converted.task.normalise.mean == (125.307, 122.961, 113.8575)


def test_imagenet_weights_see_rgb(tmp_path):
    torch.manual_seed(0)
    spec = zoo.of_config({"type": "ShuffleNetV2", "widen_factor": 0.5})
    torch.save(mmcls.old_names(spec, spec.build(3, 3)), tmp_path / "a.pth")
    converted = common.convert(converter, [tmp_path / "a.pth"])
    assert converted.task.normalise == zoo.IMAGENET and isinstance(converted.task.net, Custom)
    assert [type(t).__name__ for t in converted.run.evals["val"].stream.transform] == ["Resize", "CenterCrop"]


def optimizer_of(state, value=1.0, word="momentum_buffer"):
    parameters = [v for k, v in state.items() if not k.endswith(("running_mean", "running_var", "tracked"))]
    moments = {i: {word: torch.full_like(p, value + i)} for i, p in enumerate(parameters)}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(range(len(parameters)))}]}


def test_wrappers_moments_and_step(small, tmp_path):
    names = [f"class {n}" for n in range(10)]
    meta = {"CLASSES": names, "epoch": 2, "iter": 782, "config": mmcls.CIFAR_CONFIG, "mmcls_version": "0.8.0"}
    wrapped = {f"module.{key}": value for key, value in small.items()}
    optimizer = optimizer_of(small)
    torch.save({"meta": meta, "state_dict": wrapped, "optimizer": optimizer}, tmp_path / "epoch_2.pth")
    out = tmp_path / "ckpt"
    assert main(["import-checkpoint", "mmcls", str(tmp_path / "epoch_2.pth"), "--out", str(out)]) == 0
    converted = common.convert(converter, [tmp_path / "epoch_2.pth"])
    assert converted.step == 782 and converted.task.classes == tuple(names)
    assert converted.run.optim.lr == 0.1 and str(converted.run.length) == "epochs:200"
    order = [k for k in small if not k.endswith(("running_mean", "running_var", "tracked"))]
    for number, key in enumerate(order):
        ours = "net." + key.removeprefix("backbone.").removeprefix("head.")
        assert float(converted.moments[ours]["momentum_buffer"].flatten()[0]) == 1.0 + number
    verdicts = {row.key: (row.verdict, row.note) for row in converted.rows}
    assert len(verdicts) == len(converted.rows)
    assert verdicts["optimizer"] == ("taken", "moments of 62 parameters")
    assert verdicts["meta.iter"][0] == verdicts["meta.config"][0] == verdicts["meta.CLASSES"][0] == "taken"
    bare = {key: value for key, value in small.items() if not key.endswith("tracked")}
    torch.save(bare, tmp_path / "bare.pth")
    assert "counters of batch norm" in " ".join(common.convert(converter, [tmp_path / "bare.pth"]).notes)


def test_moments_that_are_not_exact_are_left_behind_aloud(small, tmp_path):
    meta = {"config": mmcls.CIFAR_CONFIG}
    fewer = optimizer_of(dict(list(small.items())[:30]))
    misshapen = optimizer_of(small)
    misshapen["state"][0]["momentum_buffer"] = torch.ones(2)
    for optimizer, said in (
        (fewer, "the network has 62"),
        (misshapen, "another shape"),
        (optimizer_of(small, word="exp_avg"), "not what SGD"),
    ):
        torch.save({"meta": meta, "state_dict": small, "optimizer": optimizer}, tmp_path / "a.pth")
        converted = common.convert(converter, [tmp_path / "a.pth"])
        assert converted.moments is None
        row = next(row for row in converted.rows if row.key == "optimizer")
        assert row.verdict == "not needed" and said in row.note
    torch.save({"state_dict": small, "optimizer": optimizer_of(small)}, tmp_path / "a.pth")
    converted = common.convert(converter, [tmp_path / "a.pth"])
    assert "--into" in next(row for row in converted.rows if row.key == "optimizer").note


def test_a_recipe_of_other_pictures_than_cifar_says_how_they_come(small, tmp_path):
    from visloom.config import load

    torch.save({"state_dict": small}, tmp_path / "a.pth")
    mine = Normalise((120.0, 115.0, 105.0), (60.0, 59.0, 58.0))
    folder = load("folder")
    folder = replace(folder, task=replace(folder.task, net=ResNetCifar(18), normalise=mine))
    converted = common.convert(converter, [tmp_path / "a.pth"], into=folder)
    assert converted.task.normalise == mine and any(
        "colours: rgb, as --into" in note for note in converted.notes
    )
    cifar = load("cifar10")
    again = replace(cifar, train=replace(cifar.train, source=Repeat(source=cifar.train.source, times=2)))
    for run in (cifar, again):
        assert common.convert(converter, [tmp_path / "a.pth"], into=run).task.normalise.order == "bgr"


def test_moments_of_weights_that_an_average_has_replaced_are_left_behind(small, tmp_path):
    state = {**small, "ema_backbone_conv1_weight": torch.zeros(2)}
    kept = {"meta": {"config": mmcls.CIFAR_CONFIG}, "state_dict": state, "optimizer": optimizer_of(small)}
    torch.save(kept, tmp_path / "a.pth")
    converted = common.convert(converter, [tmp_path / "a.pth"])
    row = next(row for row in converted.rows if row.key == "optimizer")
    assert converted.moments is None and row.verdict == "not needed" and "average" in row.note
    verdicts = {row.key: row.verdict for row in converted.rows}
    assert verdicts["ema_backbone_conv1_weight"] == "not needed" and len(verdicts) == len(converted.rows)


def test_a_file_of_mmpretrain_with_an_average_says_which_weights_are_taken(small, tmp_path):
    torch.save(
        {"meta": {}, "state_dict": small, "ema_state_dict": {"steps": torch.tensor(3)}}, tmp_path / "a.pth"
    )
    converted = common.convert(converter, [tmp_path / "a.pth"])
    row = next(row for row in converted.rows if row.key.startswith("ema_state_dict"))
    assert row.verdict == "not needed" and "without averaging" in row.note


@pytest.mark.parametrize(
    ("name", "step"), [("iter_6", 6), ("iter_5", 5), ("epoch_1", 5), ("iter_7", 5), ("latest", 5)]
)
def test_an_update_that_is_saved_before_it_is_counted(small, tmp_path, name, step):
    """There `iter` is one too low in a file that an epoch runner saves inside an epoch; its name is right."""
    torch.save({"meta": {"iter": 5}, "state_dict": small}, tmp_path / f"{name}.pth")
    assert common.convert(converter, [tmp_path / f"{name}.pth"]).step == step


def test_a_checkpoint_goes_into_the_run_it_belongs_to(small, tmp_path):
    from visloom.config import load

    torch.save(
        {"meta": {"iter": 5}, "state_dict": small, "optimizer": optimizer_of(small)}, tmp_path / "a.pth"
    )
    converted = common.convert(converter, [tmp_path / "a.pth"], into=load("cifar10"))
    assert converted.moments is not None and converted.run.name == "cifar10"
    assert converted.run.task.normalise.order == "bgr" and converted.step == 5
    with pytest.raises(ConfigError, match="ResNet_CIFAR-18"):
        common.convert(converter, [tmp_path / "a.pth"], into=load("cifar10:resnet50"))
    with pytest.raises(ConfigError, match="written step:N"):
        common.convert(converter, [tmp_path / "a.pth"], at="epoch:3")
    assert common.convert(converter, [tmp_path / "a.pth"], at="step:9").step == 9
    (tmp_path / "names.txt").write_text("\n".join(f"n{i}" for i in range(10)))
    named = common.convert(converter, [tmp_path / "a.pth"], options={"classes": str(tmp_path / "names.txt")})
    assert named.task.classes[9] == "n9"
    (tmp_path / "names.txt").write_text("only\none\n")
    with pytest.raises(ConfigError, match="2 class names"):
        common.convert(converter, [tmp_path / "a.pth"], options={"classes": str(tmp_path / "names.txt")})
