"""mmclassification's configs become runs: the one of the original document first, then the families of v0.8."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

from tests import mmcls
from visloom.cli import main
from visloom.config import load
from visloom.convert import mmcls as converter
from visloom.convert.mmcls import zoo
from visloom.data.cifar import Cifar
from visloom.data.folder import Folder
from visloom.data.transforms import CenterCrop, RandomCrop, RandomFlip, RandomResizedCrop, Resize
from visloom.data.voc_labels import VocLabels
from visloom.data.wrappers import Repeat
from visloom.errors import ConfigError
from visloom.run import Clip, Ema, Optim, Rule
from visloom.schedule import Cosine, Multistep, Poly, Step, Warmup
from visloom.tasks.classify import (
    Asymmetric,
    BinaryCrossEntropy,
    Focal,
    MultiLabel,
    Normalise,
    ResNetCifar,
    Timm,
)
from visloom.units import Epochs, Monitor, Steps

IMAGENET = """
dataset_type = 'ImageNet'
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', size=224, backend='pillow'),
    dict(type='RandomFlip', flip_prob=0.5, direction='horizontal'),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='ImageToTensor', keys=['img']), dict(type='ToTensor', keys=['gt_label']),
    dict(type='Collect', keys=['img', 'gt_label'])
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', size=(256, -1), backend='pillow'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])
]
data = dict(
    samples_per_gpu=64, workers_per_gpu=2,
    train=dict(type=dataset_type, data_prefix='data/imagenet/train', pipeline=train_pipeline),
    val=dict(type=dataset_type, data_prefix='data/imagenet/val', ann_file='data/imagenet/meta/val.txt',
             pipeline=test_pipeline),
    test=dict(type=dataset_type, data_prefix='data/imagenet/val', ann_file='data/imagenet/meta/val.txt',
              pipeline=test_pipeline))
evaluation = dict(interval=1, metric='accuracy')
"""
RUNTIME = """
checkpoint_config = dict(interval=1)
log_config = dict(interval=100, hooks=[dict(type='TextLoggerHook'), # dict(type='TensorboardLoggerHook')
])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
"""
MODEL = """
model = dict(type='ImageClassifier', backbone=dict({}), neck=dict(type='GlobalAveragePooling'),
             head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048, loss=dict({}), topk=(1, 5)))
"""
CROSS = "type='CrossEntropyLoss', loss_weight=1.0"
SCHEDULES = {
    "bs256": ("optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)\n"
              "optimizer_config = dict(grad_clip=None)\nlr_config = dict(policy='step', step=[30, 60, 90])\n"
              "runner = dict(type='EpochBasedRunner', max_epochs=100)"),
    "coslr": ("optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)\n"
              "optimizer_config = dict(grad_clip=None)\nlr_config = dict(policy='CosineAnnealing', min_lr=0)\n"
              "runner = dict(type='EpochBasedRunner', max_epochs=100)"),
    "epochstep": ("optimizer = dict(type='SGD', lr=0.045, momentum=0.9, weight_decay=0.00004)\n"
                  "optimizer_config = dict(grad_clip=None)\nlr_config = dict(policy='step', gamma=0.98, step=1)\n"
                  "runner = dict(type='EpochBasedRunner', max_epochs=300)"),
    "bs1024": ("paramwise_cfg = dict(norm_decay_mult=0)\n"
               "optimizer = dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=0.00004,\n"
               "                 paramwise_cfg=paramwise_cfg)\n"
               "optimizer_config = dict(grad_clip=None)\n"
               "lr_config = dict(policy='poly', min_lr=0, by_epoch=False, warmup='constant', warmup_iters=5000)\n"
               "runner = dict(type='EpochBasedRunner', max_epochs=300)"),
    "bs2048": ("optimizer = dict(type='SGD', lr=0.8, momentum=0.9, weight_decay=0.0001, nesterov=True)\n"
               "optimizer_config = dict(grad_clip=None)\nlr_config = dict(policy='step', step=[30, 60, 90],\n"
               "    warmup='linear', warmup_iters=2500, warmup_ratio=0.25)\n"
               "runner = dict(type='EpochBasedRunner', max_epochs=100)"),
}  # fmt: skip


@pytest.fixture
def configs(tmp_path):
    """A folder of configs in the layout of the original: `_base_` with models, data, schedules, runtime."""
    base = tmp_path / "_base_"
    base.mkdir()
    (base / "imagenet.py").write_text(IMAGENET)
    (base / "runtime.py").write_text(RUNTIME)
    for name, text in SCHEDULES.items():
        (base / f"{name}.py").write_text(text)
    return tmp_path


def write(configs, name, backbone, schedule, more="", loss=CROSS):
    (configs / "_base_" / f"model_{name}.py").write_text(MODEL.format(backbone, loss))
    parts = [f"model_{name}", "imagenet", schedule, "runtime"]
    file = configs / f"{name}.py"
    file.write_text(f"_base_ = {[f'_base_/{part}.py' for part in parts]}\n{more}\n")
    return file


def verdicts(converted):
    return {row.key: row.verdict for row in converted.rows}


def whole(converted):
    return [row for row in converted.rows if row.verdict == "not supported"] == []


# --------------------------------------------------------------------------------------- the original document


@pytest.fixture
def document(shared, tmp_path):
    """The whole config text that the original document prints, as the file that it is of."""
    text = (shared / "originals" / "classification.txt").read_text(encoding="utf-8")
    begin = text.index("'config': ") + len("'config': ")
    literal = text[begin : text.index(", 'CLASSES'", begin)]
    file = tmp_path / "resnet50.py"
    file.write_text(ast.literal_eval(literal))
    return file


def test_the_config_of_the_original_document(document):
    converted = converter.config(document)
    run = converted.run
    assert whole(converted)
    assert run.optim == Optim(name="SGD", lr=0.1, weight_decay=0.0001, options={"momentum": 0.9})
    assert run.schedule == Multistep((Epochs(100), Epochs(150)), 0.1, by="epoch")
    assert run.momentum is None and run.rules == () and run.how.clip is None and run.how.precision == "fp32"
    assert run.length == Epochs(200) and run.train.batch == 128 and run.host.workers == 2
    assert run.task.net == ResNetCifar(50) and run.task.smoothing == 0.0 and run.task.topk == (1, 5)
    # to_rgb=True turns CIFAR, which is RGB already, into BGR
    assert run.task.normalise == Normalise((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255), "bgr")
    assert run.train.transform == (RandomCrop(size=32, padding=4), RandomFlip(p=0.5, direction="horizontal"))
    assert run.train.source == Cifar(name="cifar10", train=True) and run.host.data == "../data/cifar10"
    assert list(run.evals) == ["val"]
    val = run.evals["val"]
    assert val.stream.source == Cifar(name="cifar10", train=False) and val.stream.transform == ()
    assert val.every == Epochs(1) and val.monitor == Monitor("max", "accuracy") and val.losses
    assert run.save.every == Epochs(1) and run.log.every == Steps(100) and not run.log.tensorboard
    assert run.name == "resnet50" and run.seed == 0
    found = verdicts(converted)
    assert len(found) == len(converted.rows) == 105
    assert found["workflow"] == found["total_epochs"] == found["optimizer.momentum"] == "taken"
    assert found["resume_from"] == found["dist_params.backend"] == "not needed"


def test_the_document_from_the_command_line(document, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    assert main(["import-config", "mmcls", str(document), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "52 taken, 53 not needed"
    assert "resnet50.py:86" in said and "optim.lr" in said
    run = load(out)
    assert run == converter.config(document).run
    assert main(["import-config", "mmcls", str(document), "--out", str(out)]) == 2  # nothing is overwritten
    assert main(["import-config", "mmcls", str(document), "--out", str(tmp_path / "mine.py")]) == 2


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        ("[('trian', 1)]", "the mode 'trian', which no runner has"),
        ("[('train', 1), ('test', 1)]", "the mode 'test'"),
        ("[(None, 1)]", "a mode of type NoneType"),
        ("[('train', 0)]", "for 0 epochs"),
        ("[('val', 1)]", "never trains"),
        ("['train']", r"a list of \(mode, epochs\)"),
    ],
)
def test_a_bad_workflow_is_refused_by_name(tmp_path, flow, said, capsys):
    file = tmp_path / "bad.py"
    file.write_text(mmcls.CIFAR_CONFIG.replace("[('train', 1)]", flow))
    with pytest.raises(ConfigError, match=said):
        converter.config(file)
    assert main(["import-config", "mmcls", str(file), "--out", str(tmp_path / "a.yaml")]) == 3
    line = 1 + file.read_text().splitlines().index(f"workflow = {flow}")
    assert f"bad.py:{line}: workflow" in capsys.readouterr().err and not (tmp_path / "a.yaml").exists()


def test_training_and_validating_in_turns_is_a_run_with_losses(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(mmcls.CIFAR_CONFIG.replace("[('train', 1)]", "[('train', 1), ('val', 1)]"))
    converted = converter.config(file)
    assert whole(converted) and converted.run.evals["val"].losses


# -------------------------------------------------------------------------------------------------- the families


def test_resnet50_of_imagenet(configs):
    converted = converter.config(write(configs, "resnet50_b32x8_imagenet", "type='ResNet', depth=50", "bs256",
                                       "data = dict(samples_per_gpu=32)"))  # fmt: skip
    run = converted.run
    assert whole(converted)
    assert run.train.batch == 256 and "train.batch=32" in " ".join(converted.notes)
    assert run.host.data == "data/imagenet" and run.train.source == Folder(root="train")
    assert run.evals["val"].stream.source == Folder(root="val", files="../meta/val.txt")
    assert run.train.transform == (RandomResizedCrop(size=224), RandomFlip())
    assert run.evals["val"].stream.transform == (Resize(short=256), CenterCrop(size=224))
    assert run.task.normalise == zoo.IMAGENET and run.task.net == Timm("resnet50")
    assert run.schedule == Multistep((Epochs(30), Epochs(60), Epochs(90)), 0.1, by="epoch")
    assert run.length == Epochs(100)


def test_schedules_of_the_families(configs):
    small = "type='ShuffleNetV2', widen_factor=1.0"
    cosine = converter.config(write(configs, "a", small, "coslr")).run
    assert cosine.schedule == Cosine(0.0, by="epoch")
    mobile = converter.config(write(configs, "b", "type='MobileNetV2', widen_factor=1.0", "epochstep")).run
    assert mobile.schedule == Step(Epochs(1), 0.98, by="epoch") and mobile.optim.lr == 0.045
    shuffle = converter.config(write(configs, "shufflenet_v2_b64x16", small, "bs1024"))
    assert whole(shuffle)
    run = shuffle.run
    assert run.rules == (Rule(kind="norm", weight_decay=0.0),) and run.train.batch == 1024
    assert run.schedule == Warmup(Poly(power=1, by="step"), Steps(5000), 0.1, "constant", by="step")
    large = converter.config(write(configs, "c", "type='ResNet', depth=50", "bs2048")).run
    assert large.optim.options == {"momentum": 0.9, "nesterov": True}
    assert isinstance(large.schedule, Warmup) and large.schedule.start == 0.25


def test_label_smoothing_clipping_average_and_frozen_stages(configs):
    more = (
        "optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=20, norm_type=2))\n"
        "fp16 = dict(loss_scale=512.)\n"
        "custom_hooks = [dict(type='EMAHook', momentum=0.001, interval=2, warm_up=10)]\nseed = 7\n"
        "evaluation = dict(interval=5)\ncheckpoint_config = dict(interval=10, max_keep_ckpts=3)\n"
        "log_config = dict(interval=10, hooks=[dict(type='TensorboardLoggerHook')])\ncudnn_benchmark = True\n"
    )
    converted = converter.config(
        write(
            configs, "a", "type='ResNet', depth=50, frozen_stages=1, norm_eval=False", "bs256", more,
            "type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1000, loss_weight=1.0",
        )
    )  # fmt: skip
    run = converted.run
    assert whole(converted), [row for row in converted.rows if row.verdict == "not supported"]
    assert run.task.smoothing == 0.1 and run.how.clip == Clip(norm=20.0) and run.how.precision == "fp16"
    assert run.how.ema == Ema(decay=0.999**2, ramp=1.0, every=2) and run.seed == 7 and run.how.cudnn_benchmark
    assert run.evals["val"].every == Epochs(5) and run.save.every == Epochs(10) and run.save.keep == 3
    assert run.log.tensorboard and run.log.every == Steps(10)
    with torch.device("meta"):
        net = torch.nn.Module()
        net.net = run.task.net.build(1000, 3)
    frozen = {n for n, _ in net.named_parameters() if re.search(run.rules[0].name, n)}
    assert frozen and all(n.startswith(("net.conv1.", "net.bn1.", "net.layer1.")) for n in frozen)
    norms = {n for n, m in net.named_modules() if re.search(run.how.frozen_norms, n) and "bn" in n}
    assert "net.bn1" in norms and not any("layer2" in n for n in norms)


def test_iterations_instead_of_epochs(configs):
    more = (
        "runner = dict(_delete_=True, type='IterBasedRunner', max_iters=1000)\nevaluation = dict(interval=50)"
    )
    run = converter.config(write(configs, "a", "type='ResNet', depth=18", "coslr", more)).run
    assert run.length == Steps(1000) and run.schedule == Cosine(0.0, by="step")
    assert run.evals["val"].every == Steps(50) and run.save.every == Steps(1)


VOC = """
model = dict(type='ImageClassifier', backbone=dict(type='VGG', depth=16, num_classes=20), neck=None,
    head=dict(type='MultiLabelClsHead', loss=dict({})))
dataset_type = 'VOC'
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', size=(256, -1)), dict(type='CenterCrop', crop_size=224),
    dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])]
data = dict(samples_per_gpu=16, workers_per_gpu=2,
    train=dict(type='RepeatDataset', times=3, dataset=dict(type=dataset_type, data_prefix='data/VOCdevkit/VOC2007/',
        ann_file='data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt', pipeline=test_pipeline)),
    val=dict(type=dataset_type, data_prefix='data/VOCdevkit/VOC2007/',
        ann_file='data/VOCdevkit/VOC2007/ImageSets/Main/test.txt', pipeline=test_pipeline))
evaluation = dict(interval=1, metric=['mAP', 'CP', 'OP', 'CR', 'OR', 'CF1', 'OF1'])
optimizer = dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=0,
    paramwise_cfg=dict(custom_keys={{'.backbone.classifier': dict(lr_mult=10)}}))
lr_config = dict(policy='step', step=20, gamma=0.1)
runner = dict(type='EpochBasedRunner', max_epochs=40)
"""


@pytest.mark.parametrize(
    ("loss", "made"),
    [
        ("type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0", BinaryCrossEntropy()),
        ("type='FocalLoss', gamma=1.5, alpha=0.5", Focal(gamma=1.5, alpha=0.5)),
        ("type='AsymmetricLoss', gamma_neg=2.0, clip=0.1", Asymmetric(gamma_neg=2.0, clip=0.1)),
    ],
)
def test_several_labels_per_picture(tmp_path, loss, made):
    (tmp_path / "vgg16_voc.py").write_text(VOC.format(loss))
    converted = converter.config(tmp_path / "vgg16_voc.py")
    run = converted.run
    assert whole(converted), [row for row in converted.rows if row.verdict == "not supported"]
    assert isinstance(run.task, MultiLabel) and run.task.loss == made
    assert run.train.source == Repeat(source=VocLabels(root=""), times=3)
    assert run.evals["val"].stream.source == VocLabels(root="", part="test")
    assert run.evals["val"].monitor == Monitor("max", "mAP") and run.host.data == "data/VOCdevkit/VOC2007"
    # the original's leading dot never matches; here it does, and the user is told
    assert run.rules[0].lr == 10 and "custom key" in " ".join(converted.notes)


def test_what_nothing_corresponds_to_is_listed(configs, tmp_path, capsys):
    more = (
        "optimizr = dict(lr=5)\nload_from = 'a.pth'\ncustom_hooks = [dict(type='Mine')]\n"
        "model = dict(backbone=dict(sparkle=1))\ntrain_pipeline = None\n"
        "data = dict(train=dict(pipeline=[dict(type='Albu', transforms=[dict(type='Blur', p=1)]),\n"
        "    dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])]))"
    )
    file = write(configs, "a", "type='ResNet', depth=18", "coslr", more)
    converted = converter.config(file)
    bad = {row.key: row.note for row in converted.rows if row.verdict == "not supported"}
    assert set(bad) == {
        "optimizr.lr", "load_from", "custom_hooks.0.type", "model.backbone.sparkle", "data.train.pipeline.0.type",
        "data.train.pipeline.0.transforms.0.type", "data.train.pipeline.0.transforms.0.p",
    }  # fmt: skip
    assert "optimizer" in bad["optimizr.lr"] and "import-checkpoint" in bad["load_from"]
    words = ["import-config", "mmcls", str(file), "--out", str(tmp_path / "a.yaml")]
    assert main(words) == 3
    assert "keys are not supported" in capsys.readouterr().err
    assert main([*words, "--partial"]) == 0 and load(tmp_path / "a.yaml").name == "a"


def test_configs_that_are_not_whole_say_what_is_missing(configs):
    for text, said in (
        ("optimizer = dict(type='SGD', lr=0.1)", r"no model\.backbone"),
        (MODEL.format("type='ResNet', depth=18", CROSS), r"data\.train is no data set"),
        (
            MODEL.format("type='ResNet', depth=19", CROSS),
            r"model\.backbone is not known here: a ResNet of depth 19",
        ),
        (MODEL.format("type='ResNet', depth=18", CROSS) + IMAGENET, "no length"),
        (mmcls.CIFAR_CONFIG.replace("lr=0.1,", ""), "has no type or no lr"),
        (mmcls.CIFAR_CONFIG.replace("policy='step'", "policy='stepp'"), "stepp"),
    ):
        (configs / "a.py").write_text(text)
        with pytest.raises(ConfigError, match=said):
            converter.config(configs / "a.py")
    with pytest.raises(ConfigError, match="cannot be read"):
        converter.config(Path("nowhere.py"))
