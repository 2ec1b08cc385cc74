"""Networks of segmentation-models-pytorch at any picture size."""

from __future__ import annotations

import pytest
import torch

from visloom.errors import ConfigError
from visloom.nets.smp import AnySize, create, expected
from visloom.tasks.segment.nets import Smp

ARCHS = (
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet",
    "segformer",
)  # fmt: skip


def answers(net, height: int, width: int) -> torch.Tensor:
    with torch.no_grad():
        found = net.eval()(torch.randn(1, 3, height, width))
    assert found.shape == (1, 4, height, width)
    return found


@pytest.mark.parametrize("arch", ["fpn", "unet", "pan"])
def test_odd_sizes(arch):
    """Defect 34: networks that stop, or answer at another size, where a side is no multiple of their stride."""
    net = create(arch, "tu-mobilenetv3_small_050", 4)
    for size in ((97, 61), (33, 130)):
        answers(net, *size)


@pytest.mark.nightly
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_every_architecture_at_odd_sizes_with_gradients(arch, encoder):
    net = create(arch, encoder, 4)
    answers(net, 97, 61)
    net.train()(torch.randn(2, 3, 64, 96)).mean().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if "decoder" in name)


@pytest.mark.nightly
@pytest.mark.parametrize("encoder", ["tu-vit_tiny_patch16_224", "tu-beit_base_patch16_224"])
def test_transformers_resize_position_or_picture(encoder):
    answers(create("dpt", encoder, 4), 97, 61)


def test_padding_is_cut_off_and_sizes_that_fit_are_left_alone():
    seen = []

    class Same(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return x

    image = torch.randn(1, 3, 30, 33)
    assert torch.equal(AnySize(Same(), stride=16)(image), image)
    assert torch.equal(AnySize(Same(), stride=16, least=64)(image), image)
    assert AnySize(Same(), stride=16, fixed=(24, 24))(image).shape == image.shape
    assert torch.equal(AnySize(Same(), stride=3)(image), image)
    assert seen == [(32, 48), (64, 64), (24, 24), (30, 33)]


def test_normalisation_is_that_of_the_encoders_weights():
    mean, std = expected("resnet34")
    assert mean == pytest.approx((123.675, 116.28, 103.53))
    assert std == pytest.approx((58.395, 57.12, 57.375))
    half = expected("tu-vit_tiny_patch16_224")
    assert half[0] == pytest.approx((127.5,) * 3)
    assert Smp("fpn", "resnet34").normalisation().mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("arch", "encoder", "options", "match"),
    [
        ("unett", "resnet18", {}, r"no architecture 'unett'; nearest: unet"),
        ("unet", "resnet81", {}, r"no encoder 'resnet81'; nearest: resnet18.*tu-"),
        ("unet", "tu-resnet81", {}, r"no model named 'resnet81'"),
        ("unet", "resnet18", {"classes": 3}, "set by task.classes"),
        ("unet", "resnet18", {"width": 3}, "cannot be built"),
        ("linknet", "mit_b0", {}, "cannot be built"),
    ],
)
def test_what_cannot_be_is_said(arch, encoder, options, match):
    with pytest.raises(ConfigError, match=match):
        create(arch, encoder, 4, options=options)
