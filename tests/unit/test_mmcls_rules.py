"""mmcv's paramwise options as rules: the recorded groups, and an independent walk over modules that does as mmcv's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.mmcls import DECAY, LR, ModulatedDeformConv2d, Recorded, groups
from visloom.convert.mmcls_rules import paramwise_rules
from visloom.errors import ConfigError
from visloom.optim import build_optimizer
from visloom.rules import Resolved, resolve_rules
from visloom.run import Optim, Rule


class Odd(nn.Module):
    """What Recorded lacks: deformable convolutions, other dimensions, attention, ties, a stray conv_offset."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.dcn = ModulatedDeformConv2d()
        self.conv_offset = nn.Conv2d(4, 4, 1)  # below no deformable convolution
        self.line = nn.Conv1d(4, 4, 3, groups=4)
        self.up = nn.ConvTranspose2d(4, 4, 2, groups=4)
        self.words = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.rms = nn.RMSNorm(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.words.weight


def rows_of(module: nn.Module, rules: tuple[Rule, ...]) -> dict[str, Resolved]:
    found = resolve_rules(module, Optim(lr=LR, weight_decay=DECAY), rules)
    return {row.name: row for row in found if not row.frozen}


# --- recorded groups


@pytest.mark.parametrize("case", ["none", "norm0", "bias2_0", "dw0", "all", "custom"])
@pytest.mark.parametrize("compat", [True, False])
def test_recorded_groups(shared: Path, case: str, compat: bool) -> None:
    record = json.loads((shared / "parity/mmcls_paramwise.json").read_text())
    lr, decay = record["base"]["lr"], record["base"]["weight_decay"]
    entry = record["cases"][case]
    module = Recorded()
    found = paramwise_rules(entry["paramwise_cfg"], module, decay, compat=compat)
    optim = Optim(lr=lr, weight_decay=decay, options={"momentum": record["base"]["momentum"]})
    (built,) = build_optimizer(module, optim, found.rules).parts
    ours = {name: group for group in built.param_groups for name in group["names"]}
    compared = 0
    for group in entry["groups"]:
        for name in group["params"]:
            if name in ours:
                ours_differs = not compat and name.startswith("gray")
                if not ours_differs:
                    assert ours[name]["lr"] == pytest.approx(group["lr"], rel=1e-12), name
                    assert ours[name]["weight_decay"] == pytest.approx(group["weight_decay"], rel=1e-12), name
                compared += 1
    assert compared == len(ours) == 17


def test_a_convolution_of_gray_pictures_is_no_depthwise_one() -> None:
    options = {"dwconv_decay_mult": 0.0, "bias_decay_mult": 0.5}
    right = paramwise_rules(options, Recorded(), DECAY)
    rows = rows_of(Recorded(), right.rules)
    assert (rows["gray.weight"].weight_decay, rows["gray.bias"].weight_decay) == (DECAY, DECAY / 2)
    assert (rows["dw.weight"].weight_decay, rows["dw.bias"].weight_decay) == (0.0, 0.0)
    assert right.notes == ("gray has one input channel; mmcv takes it for a depthwise convolution",)
    theirs = rows_of(Recorded(), paramwise_rules(options, Recorded(), DECAY, compat=True).rules)
    assert (theirs["gray.weight"].weight_decay, theirs["gray.bias"].weight_decay) == (0.0, 0.0)


# --- the independent walk of tests/mmcls.py


factor = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 10])
fragments = st.sampled_from(
    ["conv", "conv_offset", "bias", "bn", "sub", "sub.fc", "fc2", "gray.weight", ".weight", ".raw", "w", "dcn", "no",
     "head", "words.", "dw.bias", "i", ".sub", "offset", ".", "attention.in_proj", "line", "scale", "n.b"]
)  # fmt: skip
options_of_mmcv = st.fixed_dictionaries(
    {},
    optional={
        "bias_lr_mult": factor,
        "bias_decay_mult": factor,
        "norm_decay_mult": factor,
        "dwconv_decay_mult": factor,
        "dcn_offset_lr_mult": factor,
        "bypass_duplicate": st.booleans(),
        "custom_keys": st.dictionaries(
            fragments,
            st.fixed_dictionaries({}, optional={"lr_mult": factor, "decay_mult": factor}),
            max_size=4,
        ),
    },
)


@settings(max_examples=60)
@given(options=options_of_mmcv, make=st.sampled_from([Recorded, Odd]))
def test_compat_gives_the_groups_of_the_original(options: dict, make: type[nn.Module]) -> None:
    module = make()
    rules = paramwise_rules(options, module, DECAY, compat=True).rules
    ours = {name: (row.base_lr, row.weight_decay) for name, row in rows_of(module, rules).items()}
    assert ours == groups(module, options)


# --- the right way where the original has none


def test_kinds_that_the_original_overlooks() -> None:
    options = {"bias_lr_mult": 2.0, "bias_decay_mult": 0.0, "dwconv_decay_mult": 0.5, "norm_decay_mult": 0.0}
    options["dcn_offset_lr_mult"] = 0.1
    rows = rows_of(Odd(), paramwise_rules(options, Odd(), DECAY).rules)
    assert rows["attention.in_proj_bias"].base_lr == rows["dcn.bias"].base_lr == 2 * LR
    assert rows["attention.in_proj_bias"].weight_decay == 0.0
    assert rows["line.weight"].weight_decay == rows["line.bias"].weight_decay == DECAY / 2
    assert rows["rms.weight"].weight_decay == 0.0
    assert rows["dcn.conv_offset.weight"].base_lr == rows["dcn.conv_offset.bias"].base_lr == 0.1 * LR
    assert rows["dcn.conv_offset.bias"].weight_decay == DECAY
    theirs = groups(Odd(), options)
    assert theirs["attention.in_proj_bias"] == theirs["line.weight"] == theirs["rms.weight"] == (LR, DECAY)


def test_a_key_with_a_dot_before_it_is_found_at_the_begin_of_a_name() -> None:
    options = {"custom_keys": {".sub": {"lr_mult": 10.0}}}
    right = paramwise_rules(options, Recorded(), DECAY)
    assert rows_of(Recorded(), right.rules)["sub.fc.bias"].base_lr == pytest.approx(1.0)
    assert "mmcv does not find it" in right.notes[0]
    theirs = paramwise_rules(options, Recorded(), DECAY, compat=True)
    assert theirs == ((), ("custom key '.sub' is in no parameter's name, so it sets nothing",))


def test_a_tied_parameter_is_found_by_each_of_its_names() -> None:
    options = {"custom_keys": {"sub.fc2": {"lr_mult": 10.0}}}
    assert rows_of(Recorded(), paramwise_rules(options, Recorded(), DECAY).rules)["sub.fc.bias"].lr == 10.0
    assert paramwise_rules(options, Recorded(), DECAY, compat=True).rules == ()


def test_keys_are_compared_with_the_names_of_the_original() -> None:
    old = {
        "conv.weight": "backbone.conv1.weight",
        "conv.bias": "backbone.conv1.bias",
        "sub.fc.weight": "head.fc.weight",
    }
    options = {"custom_keys": {"backbone": {"lr_mult": 0.1}, "head": {"lr_mult": 10.0, "decay_mult": 0.0}}}
    found = paramwise_rules(options, Recorded(), DECAY, names=old)
    rows = rows_of(Recorded(), found.rules)
    assert {name: row.lr for name, row in rows.items() if row.lr != 1.0} == {
        "conv.weight": 0.1,
        "conv.bias": 0.1,
        "sub.fc.weight": 10.0,
    }
    assert found.rules[0] == Rule(name=r"^conv(\.|$)", lr=0.1, weight_decay=DECAY)  # whole modules, not lists


def test_rules_stay_readable_and_match_something() -> None:
    options = {"norm_decay_mult": 0.0, "bias_lr_mult": 2.0, "dcn_offset_lr_mult": 0.1}
    found = paramwise_rules({**options, "custom_keys": {"sub.fc": {"lr_mult": 3.0}}}, Recorded(), DECAY)
    assert found.rules == (
        Rule(name=r"sub\.fc", lr=3.0, weight_decay=DECAY),
        Rule(kind="norm", weight_decay=0.0),
        Rule(kind="bias", lr=2.0),
    )
    assert paramwise_rules(options, nn.Linear(2, 2, bias=False), DECAY).rules == ()
    assert paramwise_rules(None, Recorded(), None) == paramwise_rules({}, Recorded(), None) == ((), ())


BAD = [
    ({"norm_decay_mul": 0.0}, DECAY, "norm_decay_mul is no paramwise option of mmcv, which would ignore it"),
    ({"norm_decay_mul": 0.0}, DECAY, "did you mean norm_decay_mult"),
    ({"norm_decay_mult": 0.0}, None, "multiplies the optimizer's weight_decay"),
    ({"custom_keys": {"sub": {"decay_mult": 0.0}}}, None, "multiplies a weight_decay"),
    ({"custom_keys": {"sub": {"lr": 0.0}}}, DECAY, "is none of lr_mult and decay_mult"),
    ({"custom_keys": {"subb": {"lr_mult": 0.0}}}, DECAY, "is in no parameter's name"),
    ({"custom_keys": ["sub"]}, DECAY, "is a dict of dicts"),
    ({"bias_lr_mult": -1}, DECAY, "not negative"),
    ({"bias_lr_mult": True}, DECAY, "not negative"),
    ({"bypass_duplicate": 1}, DECAY, "true or false"),
]


@pytest.mark.parametrize(("options", "decay", "message"), BAD)
def test_wrong_options_are_refused_by_name(options: dict, decay: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.paramwise_cfg") as caught:
        paramwise_rules(options, Recorded(), decay)
    assert message in str(caught.value)


def test_the_recorded_typo_is_an_error(shared: Path) -> None:
    record = json.loads((shared / "parity/mmcls_paramwise.json").read_text())
    for compat in (False, True):
        with pytest.raises(ConfigError, match="did you mean norm_decay_mult"):
            paramwise_rules(record["cases"]["typo"]["paramwise_cfg"], Recorded(), DECAY, compat=compat)


def test_without_weight_decay_only_learning_rates_are_set() -> None:
    options = {"bias_lr_mult": 2.0, "custom_keys": {"bn": {"lr_mult": 0.5}}}
    rules = paramwise_rules(options, Recorded(), None).rules
    assert [(rule.lr, rule.weight_decay) for rule in rules] == [(0.5, None), (2.0, None)]
