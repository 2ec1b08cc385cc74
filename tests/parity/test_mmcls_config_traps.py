"""What in a config of mmclassification looks right and means something else: said, refused or done as it was meant."""

from __future__ import annotations

import pytest
import torch

from tests import mmcls
from tests.parity.test_mmcls_config_values import CIFAR, FOLDERS, converted, refused
from tests.parity.test_mmcls_configs import VOC
from visloom.cli import main
from visloom.convert import mmcls as converter
from visloom.data.folder import Folder
from visloom.data.transforms import CenterCrop, Resize
from visloom.data.wrappers import Concat, Repeat
from visloom.errors import ConfigError
from visloom.tasks.classify import MultiLabel, Normalise, ResNetCifar, Timm
from visloom.units import Epochs, Monitor

SIGMOID = "type='CrossEntropyLoss', use_sigmoid=True"
AFTER_FLIP = "direction='horizontal'),\n    dict(type='Normalize', **img_norm_cfg),"
METRICS = "evaluation = dict(interval=1, metric=['mAP', 'CP', 'OP', 'CR', 'OR', 'CF1', 'OF1'])"


# --------------------------------------------------------------------------------------------------------- metrics


def test_with_a_threshold_and_a_k_the_threshold_holds(tmp_path):
    """There `k` is ignored where both are given; here it is the other way round, so it must not come along."""
    more = METRICS.replace("'OF1']", "'OF1'], metric_options=dict(thr=0.7, k=3)")
    found = converted(tmp_path, VOC.format(SIGMOID), METRICS, more)
    assert (found.run.task.threshold, found.run.task.k) == (0.7, None)
    rows = {row.key: row for row in found.rows}
    assert rows["evaluation.metric_options.k"].verdict == "not needed"


@pytest.mark.parametrize(
    "evaluation", ["", "evaluation = dict(interval=1)", "evaluation = dict(metric=None)"]
)
def test_several_labels_are_evaluated_by_map_where_nothing_is_said(tmp_path, evaluation):
    found = converted(tmp_path, VOC.format(SIGMOID), METRICS, evaluation)
    assert found.run.evals["val"].monitor == Monitor("max", "mAP")


@pytest.mark.parametrize(
    ("text", "metric", "monitor"),
    [
        (CIFAR, "'precision'", "precision"),
        (CIFAR, "['recall', 'accuracy']", "recall"),
        (CIFAR, "('f1_score',)", "f1"),
        (CIFAR, "'support'", None),
        (VOC.format(SIGMOID).replace(METRICS, ""), "['OF1', 'mAP']", "OF1"),
    ],
)
def test_the_first_metric_is_the_one_that_decides(tmp_path, text, metric, monitor):
    found = converted(tmp_path, text + f"\nevaluation = dict(interval=2, metric={metric})")
    assert found.run.evals["val"].monitor == (None if monitor is None else Monitor("max", monitor))
    assert found.run.evals["val"].every == Epochs(2) and not refused(found)


@pytest.mark.parametrize(
    ("text", "metric", "said"),
    [
        (CIFAR, "'precison'", "'precison'.*\n.*did you mean precision"),
        (CIFAR, "['accuracy', 'mAP']", "'mAP'"),
        (CIFAR, "3", "3"),
        (VOC.format(SIGMOID).replace(METRICS, ""), "'accuracy'", "'accuracy'"),
    ],
)
def test_a_metric_that_there_is_not_is_an_error_by_name(tmp_path, text, metric, said):
    with pytest.raises(ConfigError, match=rf"it\.py:\d+: evaluation\.metric .*{said}"):
        converted(tmp_path, text + f"\nevaluation = dict(interval=2, metric={metric})")


def test_a_softmax_over_several_labels_is_refused(tmp_path):
    found = converted(tmp_path, VOC.format("type='CrossEntropyLoss', loss_weight=1.0"))
    assert "use_sigmoid=True" in refused(found)["model.head.loss.type"]
    found = converted(tmp_path, VOC.format("type='CrossEntropyLoss', use_sigmoid=False"))
    assert refused(found).keys() == {"model.head.loss.type", "model.head.loss.use_sigmoid"}


def test_a_weight_of_the_only_loss_is_refused_with_its_reason(tmp_path):
    found = converted(tmp_path, CIFAR, "loss_weight=1.0", "loss_weight=0.5")
    assert "only 1" in refused(found)["model.head.loss.loss_weight"]
    found = converted(tmp_path, VOC.format(f"{SIGMOID}, loss_weight=2.0"))
    assert "only 1" in refused(found)["model.head.loss.loss_weight"]


# ------------------------------------------------------------------------------------------------------ the network


def test_mixup_in_the_model_is_refused_and_an_empty_section_is_not(tmp_path):
    mixup = "train_cfg=dict(mixup=dict(alpha=0.2, num_classes=10)), neck="
    found = converted(tmp_path, CIFAR, "neck=", mixup)
    assert "task.mixup" in refused(found)["model.train_cfg.mixup.alpha"]
    assert not refused(converted(tmp_path, CIFAR, "neck=", "train_cfg=dict(), test_cfg=None, neck="))


@pytest.mark.parametrize(
    ("backbone", "option"),
    [
        ("type='ResNet', depth=50", "avg_down=True"),
        ("type='SEResNet', depth=50", "deep_stem=True"),
        ("type='ResNeXt', depth=50", "deep_stem=True, avg_down=True"),
        ("type='ResNet_CIFAR', depth=18", "deep_stem=True"),
        ("type='ResNetV1d', depth=50", "deep_stem=False"),
    ],
)
def test_a_stem_or_shortcuts_that_the_network_does_not_have_are_an_error(tmp_path, backbone, option):
    with pytest.raises(ConfigError, match=r"it\.py:\d+: model\.backbone is not known here: .*deep_stem"):
        converted(tmp_path, FOLDERS, "type='ResNet', depth=18", f"{backbone}, {option}")
    usual = option.replace("True", "False") if "V1d" not in backbone else "deep_stem=True, avg_down=True"
    assert not refused(converted(tmp_path, FOLDERS, "type='ResNet', depth=18", f"{backbone}, {usual}"))


# ------------------------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ("dict(type='RandomCrop', size=32, padding=4)", "data.train.pipeline.1.type"),
        ("dict(type='RandomCrop', size=32, pad_if_needed=True)", "data.train.pipeline.1.type"),
        ("dict(type='RandomGrayscale')", "data.train.pipeline.1.type"),
        ("dict(type='Normalize', **img_norm_cfg)", "data.train.pipeline.1.mean"),
    ],
)
def test_what_comes_after_normalisation_and_means_something_else_there_is_refused(tmp_path, step, key):
    first = "dict(type='Normalize', **img_norm_cfg),"
    old = "dict(type='RandomCrop', size=32, padding=4),"
    begin = f"train_pipeline = [\n    {old}"
    found = converted(tmp_path, CIFAR, begin, f"train_pipeline = [\n    {first}\n    {step},",
                      AFTER_FLIP, "direction='horizontal'),")  # fmt: skip
    assert "normalis" in refused(found)[key]


def test_what_comes_after_normalisation_and_means_the_same_is_taken(tmp_path):
    begin = "train_pipeline = [\n    dict(type='RandomCrop', size=32, padding=4),"
    steps = "dict(type='Normalize', **img_norm_cfg),\n    dict(type='RandomCrop', size=24),"
    found = converted(tmp_path, CIFAR, begin, f"train_pipeline = [\n    {steps}",
                      AFTER_FLIP, "direction='horizontal'),")  # fmt: skip
    assert not refused(found) and [type(each).__name__ for each in found.run.train.transform] == [
        "RandomCrop",
        "RandomFlip",
    ]


# ------------------------------------------------------------------------------------------------------- data sets


def test_concat_dataset_by_its_name(tmp_path):
    one, two = (
        f"dict(type=dataset_type, data_prefix='data/{name}', pipeline=train_pipeline)" for name in "ab"
    )
    new = f"train=dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[{one}, {two}])),"
    old = "train=dict(type=dataset_type, data_prefix='data/imagenet/train', pipeline=train_pipeline),"
    found = converted(tmp_path, FOLDERS, old, new)
    both = Concat(parts=(Folder(root="a"), Folder(root="b")))
    assert found.run.train.source == Repeat(source=both, times=2) and not refused(found)
    assert found.run.host.data == "data"


def test_names_of_classes_are_names_and_choose_no_folders(tmp_path):
    """There the folders in their order are the classes, whatever the names; a list file has numbers."""
    names = "['tench', 'goldfish', 'shark']"
    found = converted(
        tmp_path, FOLDERS, "num_classes=1000", "num_classes=3", "topk=(1, 5)", "topk=1",
        "data_prefix='data/imagenet/train'", f"data_prefix='data/imagenet/train', classes={names}",
        "val=dict(type=dataset_type,", f"val=dict(type=dataset_type, classes={names},",
    )  # fmt: skip
    assert found.run.task.classes == ("tench", "goldfish", "shark")
    assert found.run.train.source == Folder(root="train")
    assert found.run.evals["val"].stream.source.files == "../meta/val.txt"


def test_the_classes_of_cifar_keep_their_names(tmp_path):
    """There they can be renamed; a run here refuses names that are not the data's, so they must not read as taken."""
    names = [f"kind {i}" for i in range(10)]
    found = converted(tmp_path, CIFAR.replace("type=dataset_type,", f"type=dataset_type, classes={names},"))
    assert {key.rpartition(".")[2] for key in refused(found)} == {"classes"}
    assert "CIFAR10" in refused(found)["data.train.classes"] and not found.run.task.classes


# ------------------------------------------------------------------------------------------------------ what is run


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("workflow = [('train', 1)]", "workflow = []", "workflow never trains"),
        ("workflow = [('train', 1)]", "workflow = 1", r"workflow is a list of \(mode, epochs\), got 1"),
        ("workflow = [('train', 1)]", "workflow = 'train'", r"workflow is a list of \(mode, epochs\), got 'train'"),
        ("load_from = None", "gpu_ids = []", r"gpu_ids is a list of GPUs.*\[\]"),
        ("load_from = None", "gpu_ids = 2", r"gpu_ids is a list of GPUs.*2"),
    ],
)  # fmt: skip
def test_lists_that_must_hold_something(tmp_path, capsys, old, new, said):
    with pytest.raises(ConfigError, match=rf"it\.py:\d+: {said}"):
        converted(tmp_path, CIFAR, old, new)
    words = ["import-config", "mmcls", str(tmp_path / "it.py"), "--out", str(tmp_path / "a.yaml")]
    assert main(words) == 3 and "bug" not in capsys.readouterr().err


def test_a_runner_that_is_none_is_that_of_total_epochs(tmp_path):
    new = "runner = None\ntotal_epochs = 33"
    found = converted(tmp_path, CIFAR, "runner = dict(type='EpochBasedRunner', max_epochs=200)", new)
    assert found.run.length == Epochs(33) and not refused(found)


# -------------------------------------------------------------------------- a checkpoint whose config is not whole


@pytest.fixture
def weights():
    """A small classifier of five classes under its old names."""
    return mmcls.old_names(Timm("resnet18"), Timm("resnet18").build(5, 3))


OWN = FOLDERS.replace("dataset_type = 'ImageNet'", "dataset_type = 'MyPhotos'").replace(
    "dict(type='Resize', size=(256, -1), backend='pillow'),\n    dict(type='CenterCrop', crop_size=224),",
    "dict(type='Resize', size=(160, -1)), dict(type='CenterCrop', crop_size=128),",
)


def kept(tmp_path, weights, text, **meta):
    file = tmp_path / "own.pth"
    torch.save({"meta": {"config": text, "mmcls_version": "0.8.0", **meta}, "state_dict": weights}, file)
    return converter.weights([file])


def test_a_data_set_of_ones_own_keeps_its_normalisation_and_its_pictures_size(tmp_path, weights):
    text = OWN.replace("mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True",
                       "mean=[10., 20., 30.], std=[200., 210., 220.], to_rgb=False")  # fmt: skip
    found = kept(tmp_path, weights, text)
    assert found.task.normalise == Normalise((10.0, 20.0, 30.0), (200.0, 210.0, 220.0), order="bgr")
    assert found.run.evals["val"].stream.transform == (Resize(short=160), CenterCrop(size=128))
    assert "colours: bgr, from to_rgb of the file's config" in found.notes
    rows = {row.key: row for row in found.rows}
    assert rows["meta.config"].verdict == "taken" and "normalisation" in rows["meta.config"].note


def test_a_data_set_of_ones_own_keeps_several_labels(tmp_path, weights):
    text = OWN.replace("type='LinearClsHead'", "type='MultiLabelLinearClsHead'")
    found = kept(tmp_path, weights, text, CLASSES=("a", "b", "c", "d", "e"))
    assert isinstance(found.task, MultiLabel) and found.task.classes == ("a", "b", "c", "d", "e")
    assert type(kept(tmp_path, weights, OWN).task).__name__ == "Classify"


def test_pictures_of_ones_own_that_lie_in_memory_are_turned_round(tmp_path, weights):
    text = OWN.replace("    dict(type='LoadImageFromFile'),\n", "")
    found = kept(tmp_path, weights, text)
    assert found.task.normalise.order == "bgr"


@pytest.mark.parametrize("own", [True, False])
def test_transforms_of_predictions_that_there_are_not_are_told(tmp_path, weights, own):
    text = OWN if own else OWN.replace("MyPhotos", "ImageNet").replace("num_classes=1000", "num_classes=5")
    whole = kept(tmp_path, weights, text)
    assert not any("not supported" in note for note in whole.notes)
    bicubic = text.replace("size=(160, -1)", "size=(160, -1), interpolation='bicubic'")
    (note,) = (note for note in kept(tmp_path, weights, bicubic).notes if "not supported" in note)
    assert "data.test.pipeline.1.interpolation" in note or "data.val.pipeline.1.interpolation" in note


def test_a_config_that_is_nested_too_deeply_keeps_nobody_from_the_weights(tmp_path, weights):
    found = kept(tmp_path, weights, f"x = {'-' * 3000}1")
    assert found.task.normalise.order == "rgb" and len(found.tensors) == 122


def test_photos_for_a_network_of_cifar_get_its_size_with_a_config_or_without(tmp_path):
    small = mmcls.old_names(ResNetCifar(18), ResNetCifar(18).build(10, 3))
    for meta in ({"config": CIFAR}, {}):
        torch.save({"meta": {"mmcls_version": "0.8.0", **meta}, "state_dict": small}, tmp_path / "cifar.pth")
        found = converter.weights([tmp_path / "cifar.pth"])
        assert found.run.evals["val"].stream.transform == (Resize(size=32),), meta
