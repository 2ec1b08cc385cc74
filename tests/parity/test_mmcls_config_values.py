"""Values of mmclassification's configs that mean something or cannot be: taken, refused, or an error by name."""

from __future__ import annotations

import pytest
import torch

from tests import mmcls
from tests.parity.test_mmcls_configs import CROSS, IMAGENET, MODEL, RUNTIME, SCHEDULES
from visloom.cli import main
from visloom.convert import mmcls as converter
from visloom.errors import ConfigError
from visloom.schedule import Constant

CIFAR = mmcls.CIFAR_CONFIG
FOLDERS = MODEL.format("type='ResNet', depth=18", CROSS) + IMAGENET + SCHEDULES["bs256"] + RUNTIME


def converted(tmp_path, text, *changes, **options):
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "it.py").write_text(text)
    return converter.config(tmp_path / "it.py", **options)


def refused(found):
    return {row.key: row.note for row in found.rows if row.verdict == "not supported"}


# ------------------------------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize(
    ("head", "evaluation", "topk"),
    [
        ("topk=1", "", (1,)),
        ("topk=(1, 3)", "", (1, 3)),
        ("topk=(1, 5)", "metric_options=dict(topk=(1, 2, 3))", (1, 2, 3)),
        ("topk=1", "metric_options=dict(topk=4)", (4,)),
    ],
)
def test_topk_is_that_of_the_evaluation_else_of_the_head(tmp_path, head, evaluation, topk):
    more = f"\nevaluation = dict(interval=1, metric='accuracy', {evaluation})"
    found = converted(tmp_path, FOLDERS + more, "topk=(1, 5)", head)
    assert found.run.task.topk == topk and not refused(found)


def test_a_top_k_that_says_nothing_is_left_out_aloud(tmp_path):
    found = converted(tmp_path, CIFAR, "num_classes=10", "num_classes=10, topk=(1, 10)")
    assert found.run.task.topk == (1,) and "top-10 of 10 classes" in " ".join(found.notes)


def test_options_of_several_labels(tmp_path):
    from tests.parity.test_mmcls_configs import VOC

    text = VOC.format("type='CrossEntropyLoss', use_sigmoid=True")
    found = converted(tmp_path, text, "'OF1'])", "'OF1'], metric_options=dict(thr=0.3))")
    assert not refused(found) and found.run.task.threshold == 0.3 and found.run.task.k is None
    found = converted(tmp_path, text, "'OF1'])", "'OF1'], metric_options=dict(k=3))")
    assert not refused(found) and found.run.task.k == 3


def test_options_of_metrics_that_there_are_not_are_listed(tmp_path):
    more = "\nevaluation = dict(metric='f1_score', metric_options=dict(thrs=(0., .3), average_mode='none'))"
    found = converted(tmp_path, FOLDERS + more)
    assert refused(found).keys() == {"evaluation.metric_options.thrs"}
    rows = {row.key: row.note for row in found.rows}
    assert "report" in rows["evaluation.metric_options.average_mode"]


def test_norms_of_a_backbone(tmp_path):
    def norm(text):
        return converted(tmp_path, CIFAR, "style='pytorch'", f"style='pytorch', norm_cfg=dict({text})")

    usual = norm("type='BN', requires_grad=True")
    assert not refused(usual) and not usual.run.how.sync_norm and usual.run.rules == ()
    synchronised = norm("type='SyncBN'")
    assert not refused(synchronised) and synchronised.run.how.sync_norm
    for text, key in (
        ("type='GN', num_groups=32", "norm_cfg.type"),
        ("type='BN', momentum=0.01", "norm_cfg.momentum"),
        ("type='BN', eps=0.001", "norm_cfg.eps"),
    ):
        assert f"model.backbone.{key}" in refused(norm(text)), text
    still = norm("type='BN', requires_grad=False")
    assert not refused(still)
    with torch.device("meta"):
        holder = torch.nn.Module()
        holder.net = still.run.task.net.build(10, 3)
    from visloom.rules import resolve_rules

    frozen = {row.name for row in resolve_rules(holder, still.run.optim, still.run.rules) if row.frozen}
    assert frozen == {n for n, p in holder.named_parameters() if p.ndim == 1 and n != "net.fc.bias"}


def test_sections_that_say_nothing_are_not_needed(tmp_path):
    found = converted(
        tmp_path, CIFAR + "\nevaluation = None\nmomentum_config = None\n",
        "optimizer_config = dict(grad_clip=None)", "optimizer_config = None",
        "checkpoint_config = dict(interval=1)", "checkpoint_config = None",
        "log_config = dict(interval=100, hooks=[dict(type='TextLoggerHook')])", "log_config = None",
        "lr_config = dict(policy='step', step=[100, 150])", "lr_config = None",
    )  # fmt: skip
    assert not refused(found) and found.run.schedule == Constant()


# --------------------------------------------------------------------------------------------------- what is not


def test_what_is_refused_is_refused_with_all_that_stands_below(tmp_path):
    other = "test_pipeline = [\n    dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1], to_rgb=False)"
    found = converted(tmp_path, CIFAR, "test_pipeline = [\n    dict(type='Normalize', **img_norm_cfg)", other)
    assert "differently" in refused(found)["data.val.pipeline.0.mean"]
    found = converted(tmp_path, CIFAR, CROSS, "type='FocalLoss', gamma=1.0")
    assert "FocalLoss for one label" in refused(found)["model.head.loss.type"]
    found = converted(tmp_path, CIFAR, "type='LinearClsHead'", "type='StackedLinearClsHead'")
    assert "StackedLinearClsHead" in refused(found)["model.head.type"]
    words = ["import-config", "mmcls", str(tmp_path / "it.py"), "--out", str(tmp_path / "a.yaml")]
    assert main(words) == 3 and not (tmp_path / "a.yaml").exists()


def test_gray_pictures_out_of_files_are_refused(tmp_path):
    found = converted(
        tmp_path, FOLDERS, "depth=18", "depth=18, in_channels=1",
        "type='LoadImageFromFile'", "type='LoadImageFromFile', color_type='grayscale'",
    )  # fmt: skip
    assert {"model.backbone.in_channels", "data.train.pipeline.0.color_type"} <= refused(found).keys()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("grad_clip=None", "grad_clip=dict(norm_type=2)", r"it\.py:\d+: optimizer_config\.grad_clip.*max_norm"),
        ("grad_clip=None", "grad_clip=dict(max_norm=-1)", r"it\.py:\d+: optimizer_config\.grad_clip"),
        ("interval=1)", "interval=1)\nevaluation = dict(interval=0)", r"it\.py:\d+: evaluation\.interval.*0"),
        ("interval=1)", "interval='a')", r"it\.py:\d+: checkpoint_config\.interval"),
        ("interval=100", "interval=0", r"it\.py:\d+: log_config\.interval.*0"),
        ("max_epochs=200", "max_epochs=0", r"it\.py:\d+: runner\.max_epochs.*0"),
        ("max_epochs=200", "max_epochs='200'", r"it\.py:\d+: runner\.max_epochs.*'200'"),
        ("workers_per_gpu=2", "workers_per_gpu=-3", r"it\.py:\d+: data\.workers_per_gpu.*-3"),
        ("lr=0.1,", "lr='0.1',", r"it\.py:\d+: optimizer.*'0\.1'"),
        ("direction='horizontal'", "direction='diagonal'", r"it\.py:\d+: data\.train\.pipeline\.1.*'diagonal'"),
        ("flip_prob=0.5", "flip_prob=1.5", r"it\.py:\d+: data\.train\.pipeline\.1.*1\.5"),
        ("std=[51.5865, ", "std=[0, ", r"it\.py:\d+: data\.train\.pipeline\.2.*std must be positive"),
        ("mean=[125.307, ", "mean=[", r"it\.py:\d+: data\.train\.pipeline\.2.*one number per channel"),
        ("load_from", "custom_hooks = [dict(type='EMAHook', momentum=2)]\nload_from", r"it\.py:\d+: custom_hooks\.0"),
        ("step=[100, 150]", "step=[150, 100]", r"it\.py:\d+: lr_config.*the marks must rise"),
        ("policy='step'", "policy='stepp'", r"it\.py:\d+: lr_config\.policy"),
        ("weight_decay=0.0001", "paramwise_cfg=dict(norm_decay_mul=0)", r"it\.py:\d+: optimizer\.paramwise_cfg"),
        ("num_classes=10", "num_classes=10, topk=(1, 0)", r"it\.py:\d+: model\.head\.topk.*\(1, 0\)"),
        ("train=dict(type=dataset_type,", "train=dict(type=dataset_type, classes=['a', 'b'],",
         r"it\.py:\d+: data\.train\.classes names 2 classes, the head has 10"),
        ("train=dict(type=dataset_type, data_prefix='data/cifar10', pipeline=train_pipeline)",
         "train=dict(type='RepeatDataset', times=0, dataset=dict(type=dataset_type, data_prefix='a', pipeline=[]))",
         r"it\.py:\d+: data\.train.*times"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_errors_with_file_line_and_key(tmp_path, capsys, old, new, said):
    with pytest.raises(ConfigError, match=said):
        converted(tmp_path, CIFAR, old, new)
    words = ["import-config", "mmcls", str(tmp_path / "it.py"), "--out", str(tmp_path / "a.yaml")]
    assert main(words) == 3 and "bug" not in capsys.readouterr().err
    # such a config inside a checkpoint keeps nobody from its weights
    meta = {"config": (tmp_path / "it.py").read_text()}
    keys = converter.Keys(converter.pyconfig.parse(meta["config"]))
    assert converter.checkpoints.run_of(keys, "it") is None
