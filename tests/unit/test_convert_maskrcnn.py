"""Detectors of other programs: files read whole, round trips the identity, numbers the original's."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from visloom.cli import main
from visloom.convert import common, maskrcnn
from visloom.convert.maskrcnn import catalog, names
from visloom.convert.maskrcnn.defaults import BUILT, DEFAULTS, UNUSED
from visloom.data.coco import Coco
from visloom.data.shortside import ShortSide
from visloom.errors import ConfigError
from visloom.recipes.foggy import foggy
from visloom.sample import Sample
from visloom.tasks.adapt import SADA, Adapt
from visloom.tasks.detect import Detect, FasterRCNN, ResNetBody, RetinaNet
from visloom.tasks.detect.views import Views

SMALL = ResNetBody(stem=8, out=32, group_width=8)
TASKS = {
    "c4": Adapt(net=FasterRCNN(body=SMALL, neck="c4"), classes=("a", "b"), compat=True),
    "fpn": Detect(
        net=FasterRCNN(body=SMALL, width=16, head=32, masks=True, mask_layers=(8, 8), keypoints=3),
        classes=("a", "b"),
        compat=True,
    ),
    "sada": Adapt(net=FasterRCNN(body=SMALL, width=16, head=32), classes=("a", "b"), compat=True, align=SADA),
    "retinanet": Detect(
        net=RetinaNet(body=SMALL, width=32, from_pyramid=False, nms=0.4), classes=("a",), compat=True
    ),
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_round_trip_is_the_identity(kind, tmp_path):
    task = TASKS[kind]
    tensors = task.build().state_dict()
    old = maskrcnn.original(task, tensors)
    assert len(old) == len(tensors)
    file = tmp_path / "model_final.pth"
    torch.save(
        {"model": {f"module.{k}": v for k, v in old.items()}, "iteration": 70000, "optimizer": {}}, file
    )
    assert common.recognise(file) is maskrcnn
    back = maskrcnn.weights([file])
    assert type(back.task) is type(task)
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[name], value) for name, value in tensors.items())
    assert {row.verdict for row in back.rows} == {"taken"}
    assert back.step == 0  # weights never bring the iteration
    common.build(back)
    if isinstance(task, Adapt):
        assert back.task.align == task.align


def test_the_fork_s_checkpoint_answers_as_it_did(shared, tmp_path):
    """The fixture's file, imported without a word about its network, detects what the original detected."""
    data = np.load(shared / "parity" / "da_tiny_c4.npz")
    beginning = "state_dict/"
    state = {
        k.removeprefix(beginning): torch.from_numpy(data[k]) for k in data.files if k.startswith(beginning)
    }
    file = tmp_path / "model_0070000.pth"
    torch.save({"model": state}, file)
    imported = maskrcnn.weights([file])
    assert isinstance(imported.task, Adapt) and imported.task.compat and len(imported.task.classes) == 8
    assert [row.key for row in imported.rows if row.verdict != "taken"] == [
        "rpn.anchor_generator.cell_anchors.0"
    ]
    task = common.build(imported).eval()
    task.net.roi.threshold = 0.3  # ROI_HEADS.NMS of that run's file, which no checkpoint holds
    meta = json.loads(bytes(data["__meta__"]).decode())
    sizes = [tuple(meta[f"image_sizes/{i}"]) for i in range(2)]
    with torch.no_grad():
        found = task.net.detect(task.net.features(torch.from_numpy(data["images"])), (128, 256), sizes)
    for i, each in enumerate(found):
        assert np.abs(each.boxes.numpy() - data[f"detections/{i}/boxes"]).max() < 1e-2


def test_torchvision_s_detectors_are_read_and_answer_alike(tmp_path):
    from torchvision.models import detection

    torch.manual_seed(0)
    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4).eval()
    file = tmp_path / "fasterrcnn.pth"
    torch.save(theirs.state_dict(), file)
    imported = maskrcnn.weights([file])
    assert common.uncovered(imported.rows) == []
    task = common.build(imported).eval()
    assert task.plus == 0.0
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    from torchvision.ops import FrozenBatchNorm2d

    for name, module in list(theirs.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            frozen = FrozenBatchNorm2d(module.num_features)
            frozen.load_state_dict({k: v for k, v in module.state_dict().items() if "num" not in k})
            setattr(theirs.get_submodule(parent), last, frozen)
    with torch.no_grad():
        for ours, other in zip(task.net.features(image), theirs.backbone(image).values(), strict=True):
            assert torch.equal(ours, other)
    assert torch.equal(task.net.roi.predictor.cls_score.bias, theirs.roi_heads.box_predictor.cls_score.bias)
    assert len(imported.task.classes) == 3


def detectron2_state(task, pyramid):
    """A file as detectron2 would write these tensors: the background last and without a box."""
    state = {}
    for name, tensor in task.build().state_dict().items():
        old = names.detectron2_name(name).replace("BODY", "backbone.bottom_up" if pyramid else "backbone")
        if "cls_score" in old:
            tensor = torch.cat([tensor[1:], tensor[:1]])
        if "bbox_pred" in old:
            tensor = tensor[4:]
        if old.startswith("roi_heads.mask_head.predictor"):
            tensor = tensor[1:]
        if "rpn_head.objectness_logits" in old and not pyramid:
            tensor = tensor.view(3, 5, 1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
        if "rpn_head.anchor_deltas" in old and not pyramid:
            tensor = tensor.view(3, 5, 4, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
        state[old] = tensor.contiguous()
    return state


@pytest.mark.parametrize("pyramid", [True, False])
def test_detectron2_with_its_background_last(pyramid, tmp_path):
    net = FasterRCNN(body=SMALL, width=16, head=32) if pyramid else FasterRCNN(body=SMALL, neck="c4")
    task = Detect(net=net, classes=("a", "b"))
    torch.manual_seed(0)
    wanted = task.build().state_dict()
    torch.manual_seed(0)
    file = tmp_path / "model_final.pkl"
    state = {k: v.numpy() for k, v in detectron2_state(task, pyramid).items()}
    with file.open("wb") as out:
        pickle.dump({"model": state, "__author__": "Detectron2 Model Zoo"}, out)
    imported = maskrcnn.weights([file])
    assert imported.task.net.aligned and not imported.task.net.rounded
    assert imported.task.reversed_channels and imported.task.net.body.stride_in_1x1
    for name, value in wanted.items():
        if "bbox_pred" in name and "roi" in name:
            value = torch.cat([torch.zeros_like(value[:4]), value[4:]])
        assert torch.equal(imported.tensors[name], value), name
    assert common.uncovered(imported.rows) == []


def test_other_anchors_of_detectron2_fail_loudly(tmp_path):
    task = Detect(net=FasterRCNN(body=SMALL, width=16, head=32, ratios=(1.0, 2.0)), classes=("a",))
    file = tmp_path / "model.pth"
    torch.save({"model": detectron2_state(task, True)}, file)
    with pytest.raises(ConfigError, match="2 anchors per cell"):
        maskrcnn.weights([file])


LAST = {1: "2", 2: "3", 3: "5", 4: "2"}
"""Number of the last block of each stage of a ResNet-50."""


def caffe2(task, backbone=False):
    """A detector's weights as Detectron's blobs, from maskrcnn-benchmark's names, by rules of this test's own."""
    blobs, pyramid = {}, task.net.neck == "fpn"
    for name, tensor in maskrcnn.original(task, task.build().state_dict()).items():
        if backbone and ".body." not in name and ".layer4." not in name:
            continue
        layer, _, kind = name.rpartition(".")
        short = {"weight": "w", "bias": "b"}.get(kind)
        if short is None or "da_heads" in name or "anchor" in name:
            continue
        norm = "s" if kind == "weight" else "b"
        if ".stem." in name:
            blob = f"conv1_{short}" if layer.endswith("conv1") else f"res_conv1_bn_{norm}"
        elif ".layer" in name:
            stage, block, *rest = layer.partition(".layer")[2].split(".")
            part = f"res{int(stage) + 1}_{block}_branch"
            if rest[0] == "downsample":
                blob = f"{part}1_w" if rest[1] == "0" else f"{part}1_bn_{norm}"
            else:
                letter = "abc"[int(rest[0][-1]) - 1]
                blob = f"{part}2{letter}_" + (short if rest[0].startswith("conv") else f"bn_{norm}")
        elif "fpn_inner" in name or "fpn_layer" in name:
            level = int(layer[-1])
            part = f"res{level + 1}_{LAST[level]}_sum"
            lateral = "" if level == 4 else "_lateral"
            blob = f"fpn_inner_{part}{lateral}_{short}" if "inner" in name else f"fpn_{part}_{short}"
        elif name.startswith("rpn."):
            word = layer.rpartition(".")[2]
            blob = ("conv_rpn" if word == "conv" else f"rpn_{word}") + ("_fpn2_" if pyramid else "_") + short
        elif "mask_fcn" in name and "logits" not in name:
            blob = f"_[mask]_fcn{layer[-1]}_{short}"
        else:
            blob = f"{layer.rpartition('.')[2]}_{short}"
        assert blob not in blobs, blob
        blobs[blob] = tensor.numpy()
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    blobs["lr"] = np.float32(0.1)
    return blobs


@pytest.mark.parametrize("kind", ["c4", "fpn", "mask", "keypoints"])
def test_whole_models_of_detectron_are_read_into_a_run(kind, tmp_path):
    """Every tensor of heads and body arrives, but for statistics that affine norms do not have."""
    pyramid = FasterRCNN(body=SMALL, width=16, head=32)
    net = {
        "c4": FasterRCNN(body=SMALL, neck="c4"),
        "fpn": pyramid,
        "mask": dataclasses.replace(pyramid, masks=True, mask_layers=(16, 16, 16, 16)),
        "keypoints": dataclasses.replace(pyramid, keypoints=5),
    }[kind]
    task = Detect(net=net, classes=("a", "b"), compat=True)
    torch.manual_seed(3)
    blobs = caffe2(task)
    file = tmp_path / "model_final.pkl"
    with file.open("wb") as out:
        pickle.dump({"blobs": blobs, "cfg": "MODEL: {}"}, out, protocol=2)
    torch.manual_seed(3)
    wanted = task.build().state_dict()
    imported = maskrcnn.weights([file], into=dataclasses.replace(foggy(), task=task))
    assert not any("start afresh" in note for note in imported.notes)
    for name, tensor in wanted.items():
        if "running" not in name:
            assert torch.equal(imported.tensors[name], tensor), name
    verdicts = {row.key: row.verdict for row in imported.rows}
    assert {key for key, verdict in verdicts.items() if verdict != "taken"} <= {"lr", "conv1_w_momentum"}
    with pytest.raises(ConfigError, match="needs --into RECIPE"):
        maskrcnn.weights([file])


BLOBS = {
    "conv1_w": "conv1.weight",
    "res_conv1_bn_s": "bn1.weight",
    "res_conv1_bn_b": "bn1.bias",
    "res2_0_branch1_w": "layer1.0.downsample.0.weight",
    "res2_0_branch1_bn_s": "layer1.0.downsample.1.weight",
    "res4_22_branch2b_w": "layer3.22.conv2.weight",
    "res5_2_branch2c_bn_b": "layer4.2.bn3.bias",
    "fpn_inner_res5_2_sum_w": "fpn_inner4.weight",
    "fpn_inner_res4_5_sum_lateral_b": "fpn_inner3.bias",
    "fpn_res2_2_sum_w": "fpn_layer1.weight",
    "conv_rpn_fpn2_w": "rpn.head.conv.weight",
    "rpn_cls_logits_fpn2_b": "rpn.head.cls_logits.bias",
    "rpn_bbox_pred_w": "rpn.head.bbox_pred.weight",
    "cls_score_w": "cls_score.weight",
    "fc6_b": "fc6.bias",
    "_[mask]_fcn3_w": "mask_fcn3.weight",
    "mask_fcn_logits_w": "mask_fcn_logits.weight",
    "conv_fcn8_b": "conv_fcn8.bias",
    "conv5_mask_w": "conv5_mask.weight",
    "kps_score_lowres_w": "kps_score_lowres.weight",
}


def test_names_of_blobs():
    found = names.caffe2_names([*BLOBS, "conv1_w_momentum"])
    assert found == BLOBS


def test_an_imagenet_backbone_of_detectron_starts_a_run(tmp_path):
    """Plain pickle, no code; last stage into the box head; heads start afresh and the notes say so."""
    run = foggy()
    task = Adapt(net=FasterRCNN(body=SMALL, neck="c4"), classes=("a", "b"), compat=True)
    import dataclasses

    run = dataclasses.replace(run, task=task)
    rng = np.random.default_rng(0)
    blobs = {
        "conv1_w": rng.normal(size=(8, 3, 7, 7)).astype(np.float32),
        "fc1000_b": np.zeros(1000, np.float32),
    }
    for number, count in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        for i in range(count):
            middle, out = 8 * 2 ** (number - 2), 32 * 2 ** (number - 2)
            before = out if i else (8 if number == 2 else out // 2)
            shapes = {"2a": (middle, before, 1, 1), "2b": (middle, middle, 3, 3), "2c": (out, middle, 1, 1)}
            if i == 0:
                shapes["1"] = (out, before, 1, 1)
            for branch, shape in shapes.items():
                blobs[f"res{number}_{i}_branch{branch}_w"] = rng.normal(size=shape).astype(np.float32)
                for kind in "sb":
                    blobs[f"res{number}_{i}_branch{branch}_bn_{kind}"] = rng.normal(size=shape[0]).astype(
                        np.float32
                    )
    blobs["res_conv1_bn_s"] = blobs["res_conv1_bn_b"] = np.ones(8, np.float32)
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    file = tmp_path / "R-50.pkl"
    with file.open("wb") as out:
        pickle.dump({"blobs": blobs}, out, protocol=2)
    assert common.recognise(file) is maskrcnn
    imported = maskrcnn.weights([file], into=run)
    for ours, blob in {
        "net.backbone.body.conv1.weight": "conv1_w",
        "net.backbone.body.layer1.0.conv1.weight": "res2_0_branch2a_w",
        "net.backbone.body.layer3.5.bn2.bias": "res4_5_branch2b_bn_b",
        "net.roi.head.layer4.0.downsample.0.weight": "res5_0_branch1_w",
    }.items():
        assert np.array_equal(imported.tensors[ours].numpy(), blobs[blob])
    assert (imported.tensors["net.backbone.body.bn1.running_var"] == 1).all()  # Caffe2 norms are affine alone
    assert any("start afresh" in note for note in imported.notes)
    assert common.uncovered(imported.rows) == []
    common.build(imported)
    with pytest.raises(ConfigError, match="backbone alone: name the run"):
        maskrcnn.weights([file])


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_runs_nothing(tmp_path, capsys):
    file = tmp_path / "R-50.pkl"
    with file.open("wb") as out:
        pickle.dump({"blobs": {"conv1_w": Evil()}}, out)
    with pytest.raises(ConfigError):
        maskrcnn.weights([file], into=foggy())
    assert "must not run" not in capsys.readouterr().out


def test_a_head_of_other_classes_starts_afresh(tmp_path):
    task = TASKS["c4"]
    file = tmp_path / "old.pth"
    torch.save({"model": maskrcnn.original(task, task.build().state_dict())}, file)
    run = dataclasses.replace(foggy(), task=dataclasses.replace(task, classes=("a", "b", "c")))
    imported = maskrcnn.weights([file], into=run)
    assert imported.tensors["net.roi.predictor.cls_score.weight"].shape[0] == 4
    verdicts = {row.key: row.verdict for row in imported.rows}
    assert verdicts["roi_heads.box.predictor.cls_score.weight"] == "not needed"
    assert verdicts["rpn.head.conv.weight"] == "taken"


def test_suffixes_begin_at_a_dot_and_shapes_agree():
    wanted = {
        "a.fc6.weight": (2, 3),
        "a.xfc6.weight": (2, 3),
        "b.conv1.weight": (4,),
        "layer1.0.conv1.weight": (5,),
    }
    there = {"fc6.weight": (2, 3), "conv1.weight": (4,), "0.conv1.weight": (5,)}
    assert names.by_suffix(wanted, there) == {
        "a.fc6.weight": "fc6.weight",
        "b.conv1.weight": "conv1.weight",
        "layer1.0.conv1.weight": "0.conv1.weight",
    }
    assert names.by_suffix({"a.conv1.weight": (9,)}, there) == {}


# ---- catalog


def test_catalog_names_and_what_to_do_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("VISLOOM_WEIGHTS", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(ConfigError) as error:
        catalog.resolve("catalog://ImageNetPretrained/MSRA/R-50")
    place = tmp_path / "ImageNetPretrained_MSRA_R-50.pkl"
    assert str(place) in str(error.value) and "dl.fbaipublicfiles.com/detectron" in str(error.value)
    place.write_bytes(b"weights")
    assert catalog.resolve("catalog:/ImageNetPretrained/MSRA/R-50") == place  # as a Path writes it
    place.write_bytes(b"")
    with pytest.raises(ConfigError, match="is empty"):
        catalog.resolve("catalog://ImageNetPretrained/MSRA/R-50")
    with pytest.raises(ConfigError, match=r"did you mean .*R-101"):
        catalog.resolve("catalog://ImageNetPretrained/MSRA/R-10")
    file = tmp_path / "torchvision:__fasterrcnn_resnet50_fpn.pth"
    entry = catalog.entries()["torchvision://fasterrcnn_resnet50_fpn"]
    (tmp_path / entry.file).write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"sha256 begins with .* expected 258fb6c6"):
        catalog.resolve("torchvision://fasterrcnn_resnet50_fpn")
    assert catalog.resolve(str(file)) == file


def test_a_file_of_the_catalog_that_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VISLOOM_WEIGHTS", str(tmp_path))
    name = "catalog://Caffe2Detectron/COCO/35857197/e2e_faster_rcnn_R-50-C4_1x"
    entry = catalog.entries()[name]
    assert entry.url == (
        "https://dl.fbaipublicfiles.com/detectron/35857197/12_2017_baselines/e2e_faster_rcnn_R-50-C4_1x.yaml.01_33_49."
        "iAX0mXvW/output/train/coco_2014_train%3Acoco_2014_valminusminival/generalized_rcnn/model_final.pkl"
    )
    place = tmp_path / entry.file
    place.write_bytes(b"weights")
    for _ in range(2):
        assert catalog.resolve(name) == place
    place.write_bytes(b"other weights")
    with pytest.raises(ConfigError, match=r"had 7 bytes and a sha256 of 9a12\w{4}\.\.\., now 13 and"):
        catalog.resolve(name)
    (tmp_path / f"{entry.file}.sha256").unlink()
    assert catalog.resolve(name) == place


def test_catalog_names_on_the_command_line(tmp_path, monkeypatch, capsys):
    """Offline the command says which file belongs where; with the file there it imports it."""
    monkeypatch.setenv("VISLOOM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("torch.hub.download_url_to_file", _offline)
    (tmp_path / "mine.py").write_text(RECIPE)
    name = "catalog://ImageNetPretrained/MSRA/R-50"
    words = [
        "import-checkpoint",
        "maskrcnn",
        name,
        "--into",
        f"{tmp_path}/mine.py",
        "--out",
        f"{tmp_path}/ckpt",
    ]
    assert main(words) == 3
    said = " ".join(capsys.readouterr().err.split())
    place = tmp_path / "weights" / "ImageNetPretrained_MSRA_R-50.pkl"
    assert "detectron/ImageNetPretrained/MSRA/R-50.pkl" in said and str(place) in said.replace(" ", "")
    assert not (tmp_path / "ckpt").exists()
    place.parent.mkdir(exist_ok=True)
    blobs = caffe2(TASKS["c4"], backbone=True)
    with place.open("wb") as out:
        pickle.dump({"blobs": blobs}, out, protocol=2)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "start afresh" in said and "blue, green, red" in said


def _offline(*args, **kwargs):
    raise OSError("no network")


RECIPE = """
from tests.unit.test_convert_maskrcnn import TASKS
from visloom.config import change
from visloom.recipes.foggy import foggy


def mine():
    return change(foggy(), {"task": TASKS["c4"]})
"""


# ---- configs

FOGGY = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  DOMAIN_ADAPTATION_ON: True
  WEIGHT: "catalog://ImageNetPretrained/MSRA/R-50"
  BACKBONE: {OUT_CHANNELS: 1024}
  ROI_HEADS: {BATCH_SIZE_PER_IMAGE: 256, NMS: 0.3}
  ROI_BOX_HEAD: {NUM_CLASSES: 9}
  DA_HEADS: {DA_IMG_GRL_WEIGHT: 0.1, DA_INS_GRL_WEIGHT: 0.05}
DATASETS:
  SOURCE_TRAIN: ("cityscapes_fine_instanceonly_seg_train_cocostyle",)
  TARGET_TRAIN: ("foggy_cityscapes_fine_instanceonly_seg_train_cocostyle",)
  TEST: ("foggy_cityscapes_fine_instanceonly_seg_val_cocostyle",)
DATALOADER: {SIZE_DIVISIBILITY: 32}
INPUT:
  MIN_SIZE_TRAIN: (600,)
  MAX_SIZE_TRAIN: 1200
SOLVER: {BASE_LR: 0.001, STEPS: "(50000,)", MAX_ITER: 70000, IMS_PER_BATCH: 2}
TEST: {IMS_PER_BATCH: 1}
"""


def test_the_shipped_config_of_foggy_cityscapes(tmp_path):
    file = tmp_path / "e2e_da_faster_rcnn.yaml"
    file.write_text(FOGGY)
    found = maskrcnn.config(file)
    run = found.run
    assert isinstance(run.task, Adapt) and run.task.compat and len(run.task.classes) == 8
    assert (run.task.align.image, run.task.align.instance) == (0.1, 0.05)
    assert run.task.net.neck == "c4" and run.task.net.nms == 0.3 and run.task.net.roi_batch == 256
    assert str(run.length) == "steps:70000" and run.schedule.inner.at[0].n == 50_000
    assert run.train.source.batch == run.train.target.batch == 1
    assert run.rules[0].lr == 2.0 and run.rules[0].weight_decay == 0.0
    assert run.train.source.transform[0] == ShortSide(short=(600,), longest=1200)
    assert run.task.divisible == 32
    rows = {row.key: row for row in found.rows}
    assert len(rows) == 20
    assert run.task.classes[:3] == ("person", "rider", "car")
    assert run.train.source.source == Coco(
        file="cityscapes/annotations/instancesonly_filtered_gtFine_train.json",
        images="cityscapes/images",
        annotated=True,
    )
    target = run.train.target.source  # pictures without boxes are targets too
    assert target.images == "foggy_cityscapes/images" and "foggy_" in target.file and not target.annotated
    assert run.evals["test"].stream.source.file.endswith("foggy_instancesonly_filtered_gtFine_val.json")
    assert {row.verdict for row in found.rows} == {
        "taken",
        "not needed",
    }  # so it is written without --partial
    assert "import-checkpoint" in rows["MODEL.WEIGHT"].note


def test_upstream_s_spelling_and_a_pyramid_with_masks(tmp_path):
    file = tmp_path / "mask.yaml"
    file.write_text(
        "MODEL:\n  MASK_ON: True\n  BACKBONE: {CONV_BODY: R-101-FPN}\n  RESNETS: {BACKBONE_OUT_CHANNELS: 256}\n"
        "  RPN: {USE_FPN: True, PRE_NMS_TOP_N_TRAIN: 2000, FPN_POST_NMS_PER_BATCH: False}\n"
        "  ROI_BOX_HEAD: {POOLER_RESOLUTION: 7, POOLER_SAMPLING_RATIO: 2}\n"
    )
    found = maskrcnn.config(file)
    net = found.run.task.net
    assert (net.width, net.body.depth, net.masks, net.per_batch, net.pool) == (256, 101, True, False, 7)
    assert {row.verdict for row in found.rows} == {"taken"}
    assert type(found.run.task) is Detect


def test_both_spellings_of_the_body_s_channels_are_one(tmp_path):
    made = []
    for key in ("BACKBONE: {CONV_BODY: R-50-FPN, OUT_CHANNELS: 128}", None):
        file = tmp_path / "same.yaml"
        body = key or "BACKBONE: {CONV_BODY: R-50-FPN}\n  RESNETS: {BACKBONE_OUT_CHANNELS: 128}"
        file.write_text(f"MODEL:\n  {body}\n")
        made.append(maskrcnn.config(file).run)
    assert made[0] == made[1] and made[0].task.net.width == 128


def test_names_of_data_sets(tmp_path):
    def run_of(text):
        file = tmp_path / "data.yaml"
        file.write_text(text)
        return maskrcnn.config(file)

    box = "MODEL: {ROI_BOX_HEAD: {NUM_CLASSES: 21}}\n"
    found = run_of(
        box + "DATASETS:\n  TRAIN: ('voc_2007_train', 'voc_2007_val')\n  TEST: ('voc_2007_test',)\n"
    )
    assert [part.part for part in found.run.train.source.parts] == ["train", "val"]
    assert (
        found.run.evals["test"].stream.source.root == "voc/VOC2007"
        and found.run.task.classes[0] == "aeroplane"
    )
    found = run_of("DATASETS:\n  TEST: ('coco_2014_minival', 'coco_2017_val')\n")
    assert list(found.run.evals) == ["coco_2014_minival", "coco_2017_val"]
    assert found.run.evals["coco_2017_val"].stream.source.file == "coco/annotations/instances_val2017.json"
    assert found.run.task.classes[:2] == ("1", "2") and len(found.run.task.classes) == 80
    found = run_of("DATASETS:\n  TRAIN: ('my_own_set',)\n")
    assert [row.key for row in found.rows if row.verdict == "not supported"] == ["DATASETS.TRAIN"]
    for name in ("sim10k_cocostyle", "kitti_cocostyle", "cityscapes_car_val_cocostyle"):
        car = run_of(f"MODEL: {{ROI_BOX_HEAD: {{NUM_CLASSES: 2}}}}\nDATASETS:\n  TRAIN: ('{name}',)\n").run
        assert car.task.classes == ("car",)


def test_parts_that_are_not_built_and_sada(tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text(
        "MODEL:\n  GROUP_NORM: {NUM_GROUPS: 16}\n  ROI_BOX_HEAD: {FEATURE_EXTRACTOR: FPNXconv1fcFeatureExtractor}\n"
    )
    refused = {row.key: row.note for row in maskrcnn.config(file).rows if row.verdict == "not supported"}
    assert refused["MODEL.GROUP_NORM.NUM_GROUPS"] == "32 is built here"
    assert "FPN2MLPFeatureExtractor" in refused["MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR"]
    file.write_text(
        "MODEL:\n  DOMAIN_ADAPTATION_ON: True\n  BACKBONE: {CONV_BODY: R-50-FPN, OUT_CHANNELS: 256}\n"
        "  DA_HEADS: {DA_IMG_GRL_WEIGHT: 0.2, COS_WEIGHT: 0.3}\nSOLVER: {IMS_PER_BATCH: 2}\n"
    )
    assert maskrcnn.config(file).run.task.align == dataclasses.replace(
        SADA, image=0.2, consistency_gradient=0.3
    )


def test_every_known_key_is_accepted_and_gets_a_verdict(tmp_path):
    tree = {}
    built = {key: values[0] for key, values in BUILT.items()}
    for key, value in {**dict.fromkeys(UNUSED, 0), **built, **DEFAULTS}.items():
        at = tree
        *folders, last = key.split(".")
        for part in folders:
            at = at.setdefault(part, {})
        at[last] = list(value) if isinstance(value, tuple) else value
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(tree))
    found = maskrcnn.config(file)
    assert {row.key for row in found.rows} == DEFAULTS.keys() | UNUSED.keys()
    assert [row.key for row in found.rows if row.verdict == "not supported"] == []


def test_test_time_views_of_a_config(tmp_path):
    file = tmp_path / "aug.yaml"
    aug = "".join(f"    {line}\n" for line in (
        "ENABLED: True", "H_FLIP: True", "SCALES: (400, 1200)", "SCALE_H_FLIP: True",
    ))  # fmt: skip
    file.write_text(f"INPUT: {{MIN_SIZE_TEST: 800}}\nTEST:\n  BBOX_AUG:\n{aug}")
    found = maskrcnn.config(file)
    assert found.run.task.views == Views(scales=(0.5, 1.5), flip=True)
    assert {row.verdict for row in found.rows} == {"taken"}
    file.write_text("TEST: {BBOX_AUG: {ENABLED: True, H_FLIP: True, SCALES: [400], MAX_SIZE: 2000}}")
    found = maskrcnn.config(file)
    assert {row.key for row in found.rows if row.verdict == "not supported"} == {
        "TEST.BBOX_AUG.SCALES",
        "TEST.BBOX_AUG.MAX_SIZE",
    }
    file.write_text("TEST: {BBOX_AUG: {H_FLIP: True}}")
    assert maskrcnn.config(file).run.task.views == Views()


def test_bad_configs(tmp_path):
    file = tmp_path / "bad.yaml"
    for text, words in (
        ("SOLVER: {BASE_LRR: 1}", "BASE_LRR is no key of maskrcnn-benchmark.*BASE_LR"),
        ("MODEL: {BACKBONE: {CONV_BODY: V-16}}", "V-16 is not built here"),
        ("SOLVER: {WARMUP_METHOD: slow}", "linear or constant"),
        ("SOLVER: {IMS_PER_BATCH: 3}\nMODEL: {DOMAIN_ADAPTATION_ON: true}", "divided between two domains"),
        ("[1, 2]", "expected sections"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"(?s){words}"):
            maskrcnn.config(file)


@given(st.integers(50, 2000), st.integers(50, 2000))
def test_short_side_never_passes_its_bounds_and_keeps_the_ratio(height, width):
    resize = ShortSide(short=(600,), longest=1200)
    new = resize.target(height, width, 600)
    # as there, the shorter side is rounded first: the longer one may pass by half a pixel of the shorter
    ratio = max(height, width) / min(height, width)
    assert max(new) <= 1200 + ratio / 2 + 1 and min(new) <= 600
    assert new[0] / new[1] == pytest.approx(height / width, rel=0.06 if min(new) > 20 else 0.5)


def test_short_side_draws_among_its_lengths():
    sample = Sample("a", np.zeros((50, 100, 3), np.uint8))
    sizes = {ShortSide(short=(20, 40), longest=400)(sample, key).size for key in range(20)}
    assert sizes == {(20, 40), (40, 80)}
