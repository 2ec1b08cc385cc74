"""Schedules and groups of mmclassification from the command line: a written config becomes a recipe, which is read."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests import mmcls
from tests.mmcls import Recorded, groups
from visloom.cli import main
from visloom.config import load
from visloom.optim import build_optimizer
from visloom.schedule import Progress
from visloom.tasks.classify import ResNetCifar

EPOCHS, PER_EPOCH = 10, 6
PLAIN = (
    "optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)",
    "lr_config = dict(policy='step', step=[100, 150])",
    "runner = dict(type='EpochBasedRunner', max_epochs=200)",
)
EVERY = [17, pytest.param(1, marks=pytest.mark.nightly)]  # a curve of so many, and all of them


def imported(
    tmp_path, *, lr=None, momentum=None, optimizer="", paramwise=None, runner="", backbone="", compat=False
):
    """Write a config, import it from the command line, read the recipe."""
    text = mmcls.CIFAR_CONFIG
    group = optimizer or "type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01"
    texts = (
        f"optimizer = dict({group}, paramwise_cfg={paramwise!r})",
        f"lr_config = {lr or {'policy': 'fixed'}!r}\nmomentum_config = {momentum!r}",
        "runner = dict({})".format(runner or f"type='EpochBasedRunner', max_epochs={EPOCHS}"),
    )
    for old, new in zip(PLAIN, texts, strict=True):
        assert old in text
        text = text.replace(old, new)
    text = text.replace("type='ResNet_CIFAR', depth=18", backbone or "type='ResNet_CIFAR', depth=18")
    file, out = tmp_path / "old.py", tmp_path / "new.yaml"
    file.write_text(text)
    out.unlink(missing_ok=True)
    words = ["import-config", "mmcls", str(file), "--out", str(out)]
    assert main([*words, *(["--option", "compat=true"] if compat else [])]) == 0
    return load(out)


def curve(schedule, base):
    total = EPOCHS * PER_EPOCH
    return [schedule(base, Progress(step, total, PER_EPOCH)) for step in range(total)]


def near(values):
    return pytest.approx(values, rel=1e-12, abs=1e-15)


# ------------------------------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("every", EVERY)
def test_recorded_learning_rates(shared, tmp_path, every):
    record = json.loads((shared / "parity/mmcls_lr.json").read_text())
    for case in list(record["curves"].values())[::every]:
        run = imported(tmp_path, lr=case["cfg"])
        assert str(run.length) == "epochs:10" and run.optim.lr == 0.1
        assert curve(run.schedule, run.optim.lr) == near(case["lr"]), case["cfg"]
    for case in record["iter_runner"].values():
        run = imported(tmp_path, lr=case["cfg"], runner="type='IterBasedRunner', max_iters=60")
        assert str(run.length) == "steps:60"
        assert curve(run.schedule, run.optim.lr) == near(case["lr"]), case["cfg"]


def test_recorded_momenta(shared, tmp_path, capsys):
    for case in json.loads((shared / "parity/mmcls_lr.json").read_text())["momentum"].values():
        run = imported(tmp_path, momentum=case["cfg"], compat=True)
        assert curve(run.momentum, run.optim.options["momentum"]) == near(case["momentum"]), case["cfg"]
        capsys.readouterr()
        right = imported(tmp_path, momentum=case["cfg"])
        warm = "warmup" in case["cfg"]
        assert ("note: the warmup of the momentum multiplies" in capsys.readouterr().out) == warm
        assert (max(curve(right.momentum, 0.9)) <= 0.9) and (right.momentum == run.momentum) != warm


@pytest.mark.parametrize(
    ("optimizer", "option"),
    [("type='SGD', lr=0.1, momentum=0.9", "momentum"), ("type='AdamW', lr=0.1, betas=(0.9, 0.99)", "betas")],
)
def test_one_cycle_as_torch_does_it(tmp_path, capsys, optimizer, option):
    run = imported(
        tmp_path, optimizer=optimizer,
        lr={"policy": "OneCycle", "max_lr": 0.5, "pct_start": 0.4, "div_factor": 10.0},
        momentum={"policy": "OneCycle", "base_momentum": 0.8, "max_momentum": 0.97, "pct_start": 0.4},
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "OneCycle's max_lr is the peak" in said and f"optim.options.{option}" in said
    given = run.optim.options[option]
    assert run.optim.lr == 0.5 and (tuple(given) == (0.8, 0.99) if option == "betas" else given == 0.8)
    (theirs,) = [torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)]
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 0.5, total_steps=EPOCHS * PER_EPOCH, pct_start=0.4, div_factor=10.0, base_momentum=0.8,
        max_momentum=0.97,
    )  # fmt: skip
    rates, momenta = [], []
    for _ in range(EPOCHS * PER_EPOCH):
        rates.append(theirs.param_groups[0]["lr"])
        momenta.append(theirs.param_groups[0]["momentum"])
        theirs.step()
        if len(rates) < EPOCHS * PER_EPOCH:
            cycle.step()
    assert curve(run.schedule, run.optim.lr) == near(rates)
    assert curve(run.momentum, 0.8) == near(momenta)


# --------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("case", ["none", "norm0", "bias2_0", "dw0", "all"])
def test_recorded_groups(shared, tmp_path, case):
    """The rules of a MobileNetV2, which has norms, biases and depthwise convolutions, on the recorded module."""
    record = json.loads((shared / "parity/mmcls_paramwise.json").read_text())["cases"][case]
    run = imported(
        tmp_path, paramwise=record["paramwise_cfg"], backbone="type='MobileNetV2', widen_factor=1.0"
    )
    (built,) = build_optimizer(Recorded(), run.optim, run.rules).parts
    ours = {
        name: (group["lr"], group["weight_decay"]) for group in built.param_groups for name in group["names"]
    }
    theirs = {
        name: (group["lr"], group["weight_decay"]) for group in record["groups"] for name in group["params"]
    }
    assert len(ours) == 17
    for name, values in ours.items():
        if not name.startswith("gray"):  # one input channel, which is not depthwise here
            assert values == near(theirs[name]), name


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"custom_keys": {"layer": {"lr_mult": 0.1, "decay_mult": 0.9}, "head.fc.bias": {"lr_mult": 3.0},
                         "bn": {"decay_mult": 0.0}}, "norm_decay_mult": 0.5, "bypass_duplicate": True},
        {"bias_lr_mult": 2.0, "bias_decay_mult": 0.5, "norm_decay_mult": 0.0, "dwconv_decay_mult": 0.1},
    ],
)  # fmt: skip
def test_groups_of_a_network_by_its_old_names(tmp_path, options, compat):
    run = imported(tmp_path, paramwise=options, compat=compat)
    task, old = nn.Module(), nn.Module()
    with torch.device("meta"):
        task.net, old.backbone = ResNetCifar(18).build(10, 3), ResNetCifar(18).build(10, 3)
    old.head = nn.Module()
    old.head.fc = old.backbone.fc
    del old.backbone.fc
    (built,) = build_optimizer(task, run.optim, run.rules).parts
    ours = {
        name.replace("net.fc", "head.fc").replace("net.", "backbone."): (group["lr"], group["weight_decay"])
        for group in built.param_groups
        for name in group["names"]
    }
    theirs = groups(old, options)
    assert ours.keys() == theirs.keys()
    assert all(values == near(theirs[name]) for name, values in ours.items())


def test_options_that_a_config_does_not_take_are_refused(tmp_path, capsys):
    (tmp_path / "a.py").write_text(mmcls.CIFAR_CONFIG)
    words = ["import-config", "mmcls", str(tmp_path / "a.py"), "--out", str(tmp_path / "a.yaml")]
    assert main([*words, "--option", "compatible=true"]) == 3
    assert "no option 'compatible'; it has compat" in capsys.readouterr().err
    assert main([*words, "--option", "compat=maybe"]) == 3
    assert "compat is true or false" in capsys.readouterr().err and not (tmp_path / "a.yaml").exists()
