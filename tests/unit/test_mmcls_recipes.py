"""Recipes of mmclassification's configs: their numbers, told again as its configs write them."""

from __future__ import annotations

import importlib

import pytest
import torch

from visloom.convert.mmcls_schedules import lr_schedule
from visloom.recipes import imagenet, voc_labels
from visloom.rules import resolve_rules
from visloom.run import Run
from visloom.schedule import Progress
from visloom.tasks.classify import Classify
from visloom.units import Epochs
from visloom.validate import validate

STEP = {"policy": "step", "step": [30, 60, 90]}
WARM = {"warmup": "linear", "warmup_iters": 2500, "warmup_ratio": 0.25}
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
BIG = {"lr": 0.8, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
BS256 = (256, 100, SGD, STEP)
SHUFFLE = (
    1024, 300, {"lr": 0.5, "momentum": 0.9, "weight_decay": 4e-5},
    {"policy": "poly", "min_lr": 0, "by_epoch": False, "warmup": "constant", "warmup_iters": 5000},
)  # fmt: skip
E140 = (256, 140, SGD, {"policy": "step", "step": [40, 80, 120]})
CONFIGS = {
    **dict.fromkeys(
        ["imagenet", "resnet18", "resnet34", "resnet101", "resnet152", "resnetv1d50", "resnetv1d101", "resnetv1d152",
         "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext152_32x4d", "seresnet101",
         "seresnext50_32x4d", "seresnext101_32x4d", "label_smooth"],
        BS256,
    ),
    "seresnet50": E140,
    "e140": E140,
    "coslr": (256, 100, SGD, {"policy": "CosineAnnealing", "min_lr": 0}),
    "bs2048": (2048, 100, BIG, {**STEP, **WARM}),
    "bs2048_label_smooth": (2048, 100, BIG, {**STEP, **WARM}),
    "bs2048_coslr": (2048, 100, BIG, {"policy": "CosineAnnealing", "min_lr": 0, **WARM}),
    "mobilenet_v2": (
        256, 300, {"lr": 0.045, "momentum": 0.9, "weight_decay": 4e-5}, {"policy": "step", "gamma": 0.98, "step": 1},
    ),
    "shufflenet_v1": SHUFFLE,
    "shufflenet_v2": SHUFFLE,
    **{f"vgg{n}{bn}": (256, 100, {**SGD, "lr": 0.01}, STEP) for n in (11, 13, 16, 19) for bn in ("", "_bn")},
}  # fmt: skip
PUBLISHED = {  # parameters in millions
    "resnet18": 11.69, "resnet34": 21.8, "imagenet": 25.56, "resnet101": 44.55, "resnet152": 60.19,
    "resnetv1d50": 25.58, "resnetv1d101": 44.57, "resnetv1d152": 60.21,
    "resnext50_32x4d": 25.03, "resnext101_32x4d": 44.18, "resnext101_32x8d": 88.79, "resnext152_32x4d": 59.95,
    "seresnet50": 28.09, "seresnet101": 49.33, "mobilenet_v2": 3.5, "shufflenet_v1": 1.87, "shufflenet_v2": 2.28,
    "vgg11": 132.86, "vgg13": 133.05, "vgg16": 138.36, "vgg19": 143.67,
    "vgg11_bn": 132.87, "vgg13_bn": 133.05, "vgg16_bn": 138.37, "vgg19_bn": 143.68,
}  # fmt: skip


def recipe(name: str) -> Run:
    return getattr(imagenet, name)()


@pytest.mark.parametrize("name", CONFIGS)
def test_hyperparameters_and_schedule(name: str) -> None:
    batch, epochs, optimizer, lr_config = CONFIGS[name]
    run = recipe(name)
    assert run.train.batch == batch
    assert run.length == Epochs(epochs)
    settings = {"lr": run.optim.lr, "weight_decay": run.optim.weight_decay, **run.optim.options}
    assert (run.optim.name, settings) == ("SGD", optimizer)
    theirs, per_epoch = lr_schedule(lr_config).schedule, 1_281_167 // batch
    for step in (
        0,
        1,
        2499,
        2500,
        4999,
        5000,
        30 * per_epoch - 1,
        30 * per_epoch,
        70 * per_epoch,
        99 * per_epoch,
    ):
        at = Progress(step, epochs * per_epoch, per_epoch)
        assert run.schedule(run.optim.lr, at) == pytest.approx(theirs(run.optim.lr, at), rel=1e-12)
    smooth = 0.1 if "label_smooth" in name else 0.0
    assert isinstance(run.task, Classify)
    assert run.task.smoothing == smooth
    assert run.task.normalisation().mean == pytest.approx((123.675, 116.28, 103.53))
    assert run.task.normalisation().std == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_as_many_parameters_as_published(name: str) -> None:
    run = recipe(name)
    assert isinstance(run.task, Classify)
    with torch.device("meta"):
        net = run.task.net.build(1000, 3)
    count = sum(p.numel() for p in net.parameters()) / 1e6
    assert count == pytest.approx(PUBLISHED[name], abs=0.0101)
    if run.rules:  # ShuffleNets: norms and nothing else are without decay
        rows = resolve_rules(net, run.optim, run.rules)
        assert {row.weight_decay for row in rows if "norm" in row.kinds} == {0.0}
        assert {row.weight_decay for row in rows if "norm" not in row.kinds} == {4e-5}


def test_every_config_of_the_table_has_a_recipe() -> None:
    assert PUBLISHED.keys() <= CONFIGS.keys()
    own = {f.__name__ for f in vars(imagenet).values() if getattr(f, "__module__", "") == imagenet.__name__}
    assert {n for n in own if not n.startswith("_")} == CONFIGS.keys() | {"modern", "vit"}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "voc_labels"])
def test_small_recipes_are_valid(name: str) -> None:
    module = importlib.import_module(f"visloom.recipes.{name}")
    validate(getattr(module, name)())


@pytest.mark.parametrize(
    "name", ["imagenet", "bs2048_coslr", "mobilenet_v2", "shufflenet_v1", "vgg11_bn", "resnext152_32x4d"]
)
def test_families_are_valid(name: str) -> None:
    validate(recipe(name))


def test_the_head_of_voc_learns_ten_times_faster() -> None:
    run = voc_labels.voc_labels()
    with torch.device("meta"):
        module = torch.nn.Module()
        module.net = run.task.net.build(20, 3)  # type: ignore[attr-defined]
    rows = resolve_rules(module, run.optim, run.rules)
    assert {row.lr for row in rows if row.name.startswith("net.classifier.")} == {10.0}
    assert {row.lr for row in rows if row.name.startswith("net.features.")} == {1.0}
