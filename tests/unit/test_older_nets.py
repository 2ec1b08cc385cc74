"""FCN-8s, SegNet and ENet: any size, gradients everywhere, and weights only where they are asked for."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from visloom.errors import ConfigError
from visloom.nets import backbone, segnet
from visloom.nets.enet import ENet
from visloom.nets.segnet import SegNet
from visloom.nets.unpool import pool, unpool
from visloom.tasks.segment.nets import Enet, Fcn8s, NetSpec, Segnet, Unet

SMALL: dict[str, NetSpec] = {
    "fcn": Fcn8s("mobilenetv3_small_050", hidden=16),
    "segnet": Segnet(width=4),
    "enet": Enet(),
}


@pytest.mark.parametrize("name", SMALL)
def test_any_size_is_answered_at_its_size(name: str):
    """Defect 34: ENet stops at odd sizes and puts zeros on the first GPU; DUC-HDC answers 100 pixels for 97."""
    net = SMALL[name].build(5, 3).eval()
    with torch.no_grad():
        for size in ((33, 47), (64, 32)):
            assert net(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str):
    torch.manual_seed(0)
    net = SMALL[name].build(5, 3).train()
    for parameter in net.parameters():  # scores of FCN begin at 0, which holds gradients back
        if not parameter.any():
            nn.init.normal_(parameter, std=0.01)
    target = torch.randint(0, 5, (2, 64, 64))
    nn.functional.cross_entropy(net(torch.randn(2, 3, 64, 64)), target).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [n for n, p in net.named_parameters() if p.ndim == 4 and not p.grad.any()] == []


def test_gray_and_many_channels():
    for spec in SMALL.values():
        for channels in (1, 4):
            assert spec.build(2, channels).eval()(torch.zeros(1, channels, 32, 32)).shape == (1, 2, 32, 32)


def test_sizes_are_those_of_the_publications():
    count = sum(p.numel() for p in ENet(12).parameters())
    assert 0.33e6 < count < 0.38e6, "ENet has 0.36 million parameters (Paszke et al. 2016, table 3: 0.37)"
    with torch.device("meta"):
        assert sum(p.numel() for p in SegNet(21).encoder.parameters()) == 14_723_136  # VGG-16-BN's features
        assert sum(p.numel() for p in Fcn8s().build(21, 3).parameters()) == 134_376_575


def test_unpooling_puts_values_back_and_is_torchs():
    x = torch.randn(2, 3, 4, 6)
    pooled, places = pool(x)
    assert torch.equal(unpool(pooled, places), torch.where(unpool(pooled, places) != 0, x, 0))
    with (
        pytest.warns(UserWarning, match="deterministic")
        if torch.are_deterministic_algorithms_enabled()
        else nullcontext()
    ):
        assert torch.equal(unpool(pooled, places), nn.functional.max_unpool2d(pooled, places, [2, 2]))


def test_fcn_begins_with_a_uniform_answer():
    assert not SMALL["fcn"].build(3, 3).eval()(torch.randn(1, 3, 32, 32)).any()


def test_segnet_takes_weights_only_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch):
    """Defect 37: the original always loads VGG-16 over the network, whatever `pretrained` says."""
    asked: list[bool] = []

    def features(name: str, channels: int, *, pretrained: bool = False) -> object:
        asked.append(pretrained)
        return backbone.feature_maps(name, channels)  # random weights in place of the hub's

    monkeypatch.setattr(segnet, "feature_maps", features)
    Segnet().build(2, 3)
    assert asked == []
    net = Segnet(pretrained=True).build(2, 3)
    assert asked == [True]
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert first.weight.shape == (64, 3, 3, 3)
    with pytest.raises(ValueError, match="64 for pretrained weights"):
        Segnet(width=8, pretrained=True)


def test_a_body_without_the_strides_is_refused_in_words():
    with pytest.raises(ConfigError, match="nearest"):
        Fcn8s("vgg61_bn").build(2, 3)
    assert Unet().normalisation() is None
