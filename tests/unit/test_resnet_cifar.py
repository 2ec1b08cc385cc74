"""The CIFAR ResNets: names, sizes, initial weights, and the answers of the original for the same weights."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from visloom.nets.resnet_cifar import BasicBlock, Bottleneck, ResNetCifar

PARITY = Path(os.environ.get("VISLOOM_SHARED", Path(__file__).parents[2].parent / "shared")) / "parity"
PARAMETERS = {18: 11_173_962, 34: 21_282_122, 50: 23_520_842, 101: 42_512_970, 152: 58_156_618}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_counts_are_the_published_ones(depth: int) -> None:
    with torch.device("meta"):
        net = ResNetCifar(depth)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[depth]


def test_names_are_those_of_torchvision() -> None:
    from torchvision.models import resnet18, resnet50

    for depth, theirs in ((18, resnet18), (50, resnet50)):
        with torch.device("meta"):
            ours, other = ResNetCifar(depth, classes=7), theirs(num_classes=7)
        assert list(ours.state_dict()) == list(other.state_dict())
        different = [n for n, t in ours.state_dict().items() if t.shape != other.state_dict()[n].shape]
        assert different == ["conv1.weight"]  # 3x3 here, 7x7 there


def test_the_last_map_is_a_quarter_of_the_whole() -> None:
    net = ResNetCifar(18).eval()
    maps: list[tuple[int, ...]] = []
    net.avgpool.register_forward_hook(lambda module, given, out: maps.append(tuple(given[0].shape)))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert maps == [(2, 512, 4, 4)]


def test_initial_weights_are_those_of_the_original() -> None:
    torch.manual_seed(0)
    net = ResNetCifar(50, classes=10)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)
        if isinstance(module, BasicBlock | Bottleneck):
            assert not module.last_norm().weight.any()
            assert module.bn1.weight.eq(1).all()
    assert net.fc.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not net.fc.bias.any()


def test_every_block_begins_as_its_shortcut() -> None:
    block = ResNetCifar(18).layer1[0].eval()
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(block(x), x.relu())


def test_unknown_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152, got 20"):
        ResNetCifar(20)


@pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixtures are not here (VISLOOM_SHARED)")
@pytest.mark.parametrize("depth", [18, 50])
def test_answers_equal_those_of_mmclassification(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights rebuilt from their names, the input from its rule: ten logits a row, row sums and the loss."""
    monkeypatch.syspath_prepend(str(PARITY))
    sys.modules.pop("fill", None)
    import fill

    case = json.loads((PARITY / "mmcls_models.json").read_text())[f"resnet{depth}_b16x8_cifar10"]
    net = ResNetCifar(depth, classes=case["num_classes"]).eval()
    theirs = [f"head.{name}" if name.startswith("fc.") else f"backbone.{name}" for name in net.state_dict()]
    assert [[k, list(t.shape)] for k, t in zip(theirs, net.state_dict().values(), strict=True)] == case[
        "keys"
    ]
    state = {
        ours: torch.as_tensor(np.asarray(fill.mmcls_tensor(key, tuple(tensor.shape)))).to(tensor.dtype)
        for (ours, tensor), key in zip(net.state_dict().items(), theirs, strict=True)
    }
    net.load_state_dict(state)
    draws = np.random.RandomState(7).normal(0, 1, case["input_shape"]).astype(np.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(draws))
    most = case["logits_absmax"]
    assert np.abs(logits[:, :10].numpy() - np.array(case["logits_first10"])).max() < 1e-4 * most
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(case["gt"]))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
