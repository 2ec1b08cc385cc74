"""Rules: kinds, first rule wins per attribute, coverage, groups, and how they are shown and compared."""

import json
import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import DeformConv2d

from visloom.errors import ConfigError
from visloom.rules import diff_resolved, kinds, resolve_rules, resolved_to_json, table
from visloom.run import Optim, Rule


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_offset_mask = nn.Conv2d(4, 27, 3)
        self.dcn = DeformConv2d(4, 4, 3)


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.conv = nn.Conv2d(3, 4, 3)
        self.dw = nn.Conv2d(4, 4, 3, groups=4)
        self.gray = nn.Conv2d(1, 4, 3)
        self.up = nn.ConvTranspose2d(4, 4, 2, groups=4)
        self.bn = nn.BatchNorm2d(4)
        self.gn = nn.GroupNorm(2, 4)
        self.ln = nn.LayerNorm(4)
        self.inorm = nn.InstanceNorm2d(4, affine=True)
        self.fc = nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.words = nn.Embedding(5, 4)
        self.deform = Deformable()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def rows_by_name(module: nn.Module, optim: Optim, *rules: Rule):
    return {row.name: row for row in resolve_rules(module, optim, rules)}


def test_kinds() -> None:
    found = kinds(Everything())
    assert found == {
        "token": (),
        "conv.weight": ("conv",),
        "conv.bias": ("conv", "bias"),
        "dw.weight": ("dwconv", "conv"),
        "dw.bias": ("dwconv", "conv", "bias"),
        "gray.weight": ("conv",),
        "gray.bias": ("conv", "bias"),
        "up.weight": ("conv",),
        "up.bias": ("conv", "bias"),
        **{
            f"{norm}.{part}": ("norm",) for norm in ("bn", "gn", "ln", "inorm") for part in ("weight", "bias")
        },
        "fc.weight": ("linear",),
        "fc.bias": ("linear", "bias"),
        "attention.in_proj_weight": ("linear",),
        "attention.in_proj_bias": ("linear", "bias"),
        "attention.out_proj.weight": ("linear",),
        "attention.out_proj.bias": ("linear", "bias"),
        "words.weight": ("embedding",),
        "deform.conv_offset_mask.weight": ("dcn_offset", "conv"),
        "deform.conv_offset_mask.bias": ("dcn_offset", "conv"),
        "deform.dcn.weight": ("conv",),
        "deform.dcn.bias": ("conv", "bias"),
    }


def test_norms_that_a_library_writes_itself() -> None:
    timm = pytest.importorskip("timm.layers")
    module = nn.ModuleDict(
        {
            "rms": timm.RmsNorm(4),
            "ln2d": timm.LayerNorm2d(4),
            "bnact": timm.BatchNormAct2d(4),
            "evo": timm.EvoNorm2dS0(4, groups=2),
            "frn": timm.FilterResponseNormTlu2d(4),
        }
    )
    assert {name: kind for name, kind in kinds(module).items() if kind != ("norm",)} == {}


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto"])
def test_kinds_of_real_networks(name: str) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model(name)
    found = kinds(net)
    assert list(found) == [one for one, _ in net.named_parameters()]
    for module_name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            assert found[f"{module_name}.weight"] == ("linear",)
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert found[f"{module_name}.bias"] == ("norm",)
    without = [one for one, kind in found.items() if not kind]
    assert all(one.split(".")[-1] in ("cls_token", "pos_embed", "gamma") for one in without)


def test_offset_conv_beside_a_deformable_one_is_found_by_its_place() -> None:
    block = nn.Module()
    block.offset = nn.Conv2d(4, 18, 3)
    assert kinds(block)["offset.weight"] == ("conv",)  # an anchor-free head may be called so, too
    block.deform = DeformConv2d(4, 4, 3)
    assert kinds(block)["offset.weight"] == ("dcn_offset", "conv")


def test_each_attribute_comes_from_the_first_rule_that_sets_it() -> None:
    rows = rows_by_name(
        Small(),
        Optim(lr=0.1, weight_decay=0.01),
        Rule(kind="norm", weight_decay=0.0),
        Rule(name="^stem", lr=0.5),
        Rule(lr=2.0, weight_decay=0.3),
        Rule(name="head", lr=9.0, frozen=True),
    )
    norm = rows["stem.1.weight"]
    assert (norm.lr, norm.weight_decay, norm.frozen) == (0.5, 0.0, False)
    assert norm.by == {"weight_decay": 0, "lr": 1}
    assert norm.base_lr == pytest.approx(0.05)
    conv = rows["stem.0.weight"]
    assert (conv.lr, conv.weight_decay, conv.by) == (0.5, 0.3, {"lr": 1, "weight_decay": 2})
    head = rows["head.bias"]
    assert (head.lr, head.weight_decay, head.frozen, head.group) == (2.0, 0.3, True, "frozen")


PLACES = [
    (".*", "any"),
    (".*", "bias"),
    ("stem", "norm"),
    ("head", "any"),
    ("weight$", "conv"),
    ("0", "conv"),
]
SETTINGS = [
    {"lr": 0.5},
    {"lr": 0.0, "weight_decay": 0.1},
    {"weight_decay": 0.0},
    {"frozen": True},
    {"frozen": False, "lr": 2.0},
]


@given(drawn=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(SETTINGS)), max_size=5))
def test_resolution_covers_everything_once_and_obeys_order(drawn: list) -> None:
    rules = [Rule(name=name, kind=kind, **settings) for (name, kind), settings in drawn]
    assume(not any(r.frozen and (r.name, r.kind) == (".*", "any") for r in rules))
    module = Small()
    rows = resolve_rules(module, Optim(lr=0.1, weight_decay=0.01), rules)
    assert [row.name for row in rows] == [name for name, _ in module.named_parameters()]
    kind_of = kinds(module)
    for row in rows:
        mine = [r for r in rules if re.search(r.name, row.name) and r.kind in ("any", *kind_of[row.name])]
        for attribute, default in (("lr", 1.0), ("weight_decay", 0.01), ("frozen", False)):
            values = [getattr(r, attribute) for r in mine if getattr(r, attribute) is not None]
            assert getattr(row, attribute) == (values[0] if values else default)
    settings = {(row.base_lr, row.weight_decay) for row in rows if not row.frozen}
    groups = {row.group for row in rows if not row.frozen}
    assert len(settings) == len(groups)
    assert "frozen" not in groups


def test_a_rule_that_matches_no_name_is_an_error_with_nearest_names() -> None:
    with pytest.raises(ConfigError, match=r"rules.1 matches nothing.*'haed'; nearest: head") as caught:
        resolve_rules(Small(), Optim(), (Rule(name="head", lr=2.0), Rule(name="haed", lr=2.0)))
    assert caught.value.path == "rules.1.name"


def test_a_rule_that_matches_no_kind_says_which_kinds_are_there() -> None:
    with pytest.raises(
        ConfigError, match=r"rules.0 .*head.weight.*none is of kind norm.*bias, linear"
    ) as caught:
        resolve_rules(Small(), Optim(), (Rule(name="head", kind="norm", lr=2.0),))
    assert caught.value.path == "rules.0.kind"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(name="head"), "rules.0 sets none of lr, weight_decay and frozen"),
        (Rule(frozen=True), "nothing is left to train"),
    ],
)
def test_wrong_rules(rule: Rule, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_rules(Small(), Optim(), (rule,))


def test_a_module_without_parameters_is_an_error() -> None:
    with pytest.raises(ConfigError, match="the task has no parameters"):
        resolve_rules(nn.ReLU(), Optim())


def test_tied_parameters_stand_once_and_match_by_any_name() -> None:
    module = Small()
    module.again = module.head
    rows = rows_by_name(module, Optim(), Rule(name="^again", lr=3.0))
    assert "again.weight" not in rows
    assert rows["head.weight"].also == ("again.weight",)
    assert rows["head.weight"].lr == 3.0


def test_what_the_task_froze_stays_frozen() -> None:
    module = Small()
    module.head.requires_grad_(False)
    rows = rows_by_name(module, Optim(), Rule(name="head", frozen=False), Rule(name="stem.1", frozen=True))
    assert rows["head.weight"].frozen
    assert rows["stem.1.bias"].frozen
    assert not rows["stem.0.bias"].frozen


def test_a_rule_may_keep_a_later_one_from_freezing() -> None:
    rows = rows_by_name(Small(), Optim(), Rule(name="head", frozen=False), Rule(frozen=True))
    assert {name for name, row in rows.items() if not row.frozen} == {"head.weight", "head.bias"}


def test_groups_have_readable_names() -> None:
    rules = (
        Rule(kind="norm", weight_decay=0.0),
        Rule(kind="bias", weight_decay=0.0, lr=2.0),
        Rule(name=r"^stem\.", lr=0.1),
    )
    rows = rows_by_name(Small(), Optim(lr=0.1, weight_decay=0.01), *rules)
    assert {name: row.group for name, row in rows.items()} == {
        "stem.0.weight": "stem",
        "stem.0.bias": "bias",
        "stem.1.weight": "norm+stem",
        "stem.1.bias": "norm+stem",
        "head.weight": "base",
        "head.bias": "bias",
    }


def test_rules_that_make_equal_settings_share_a_group() -> None:
    rules = (Rule(kind="norm", weight_decay=0.0), Rule(kind="bias", weight_decay=0.0))
    rows = rows_by_name(Small(), Optim(weight_decay=0.01), *rules)
    assert {row.group for row in rows.values()} == {"base", "bias,norm"}
    same = rows_by_name(Small(), Optim(weight_decay=0.0), *rules)
    assert {row.group for row in same.values()} == {"base"}


def test_groups_with_one_label_and_different_settings_get_numbers() -> None:
    rows = rows_by_name(Small(), Optim(), Rule(name="(head).w", lr=0.5), Rule(name="head.w?", lr=0.7))
    assert rows["head.weight"].group == "head.w"
    assert rows["head.bias"].group == "head.w#2"


def test_table() -> None:
    rows = resolve_rules(
        Small(),
        Optim(lr=0.1, weight_decay=0.01),
        (Rule(kind="norm", frozen=True), Rule(name="head", lr=10.0)),
    )
    assert table(rows) == [
        ("group", "optimizer", "lr", "weight decay", "parameters", "numbers", "such as"),
        ("base", "SGD", "0.1", "0.01", "2", "112", "stem.0.weight, stem.0.bias"),
        ("frozen", "-", "-", "-", "2", "8", "stem.1.weight, stem.1.bias"),
        ("head", "SGD", "1", "0.01", "2", "10", "head.weight, head.bias"),
    ]


def test_diff_of_resolved_rules() -> None:
    module = Small()
    old = json.loads(json.dumps(resolved_to_json(resolve_rules(module, Optim()))))
    assert diff_resolved(old, resolved_to_json(resolve_rules(module, Optim()))) == []
    module.more = nn.Linear(1, 1)
    rules = (Rule(name="stem", lr=0.5), Rule(kind="norm", frozen=True))
    new = resolved_to_json(resolve_rules(module, Optim(name="AdamW"), rules))
    lines = diff_resolved(old, new)
    assert "lr 1.0 -> 0.5: stem.0.weight, stem.0.bias, stem.1.weight and 1 more" in lines
    assert "frozen False -> True: stem.1.weight, stem.1.bias" in lines
    assert "optimizer SGD -> AdamW: stem.0.weight, stem.0.bias, stem.1.weight and 3 more" in lines
    assert "new: more.weight, more.bias" in lines
    assert "gone: more.weight, more.bias" in diff_resolved(new, old)
    assert len(lines) == 4


def test_muon_takes_hidden_matrices_and_rest_the_others() -> None:
    optim = Optim(name="Muon", lr=0.02, weight_decay=0.5, names="^(?!fc)", rest=Optim(name="AdamW", lr=1e-3))
    rows = rows_by_name(Everything(), optim, Rule(kind="norm", lr=0.5))
    muon = {name for name, row in rows.items() if row.part == 0}
    assert muon == {
        "conv.weight",
        "gray.weight",
        "up.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "deform.conv_offset_mask.weight",
        "deform.dcn.weight",
    }
    assert rows["conv.weight"].base_lr == 0.02
    assert rows["conv.weight"].weight_decay == 0.5
    assert (rows["fc.weight"].base_lr, rows["fc.weight"].weight_decay, rows["fc.weight"].group) == (
        1e-3,
        0.0,
        "rest",
    )
    assert (rows["bn.weight"].base_lr, rows["bn.weight"].group) == (5e-4, "rest.norm")
