"""FastCifar: shapes, a first layer that whitens, determinism, bfloat16, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.muon import Muon
from visloom.nets.fast_cifar import FastCifar

SMALL = (16, 32, 32)


def photos(count: int, side: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth, correlated, roughly standardised images: what a whitening layer is for."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, side // 4, side // 4, generator=g)
    smooth = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    common = smooth.mean(1, keepdim=True)  # channels correlate as those of photographs do
    return common * 1.5 + 0.3 * smooth + 0.1 * torch.randn(count, channels, side, side, generator=g)


def patches(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (patches, C * side * side), by plain slicing."""
    height, width = images.shape[-2] - side + 1, images.shape[-1] - side + 1
    shifted = [images[:, :, y : y + height, x : x + width] for y in range(side) for x in range(side)]
    return torch.stack(shifted, 2).permute(0, 3, 4, 1, 2).reshape(-1, images.shape[1] * side * side)


def seeded(**options: object) -> FastCifar:
    torch.manual_seed(3)
    return FastCifar(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 3, 32, 32)),
        ({"widths": SMALL, "classes": 7}, (3, 3, 32, 32)),
        ({"widths": (8, 16), "channels": 1, "patch": 3}, (2, 1, 28, 28)),
        ({"widths": SMALL}, (2, 3, 24, 40)),
    ],
)
def test_output_shape(options: dict[str, object], shape: tuple[int, ...]) -> None:
    net = seeded(**options)
    out = net(torch.randn(shape))
    assert out.shape == (shape[0], options.get("classes", 10))
    assert out.dtype == torch.float32


def test_what_is_learnt() -> None:
    net = seeded()
    learnt = {name for name, p in net.named_parameters() if p.requires_grad}
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    blocks = {
        f"blocks.{i}.{part}"
        for i in range(3)
        for part in ("conv1.weight", "conv2.weight", "norm1.bias", "norm2.bias")
    }
    assert learnt == blocks | {"first.bias", "head.weight"}
    assert frozen == {"first.weight"} | {f"blocks.{i}.norm{k}.weight" for i in range(3) for k in (1, 2)}
    filters = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    biases = 24 + 2 * 64 + 4 * 256
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == filters + biases + 256 * 10


@pytest.mark.parametrize(("patch", "channels"), [(2, 3), (3, 1)])
def test_whitening_really_whitens_patches(patch: int, channels: int) -> None:
    images = photos(64, channels=channels)
    net = FastCifar(widths=SMALL, channels=channels, patch=patch)
    before = torch.cov(patches(images, patch).T)
    assert (before - torch.diag(before.diagonal())).abs().max() > 0.5  # the test's images need whitening
    net.whiten(images, eps=0.0)
    dim = channels * patch * patch
    response = net.first(images).detach()  # (N, 2 * dim, H', W')
    flat = response.permute(0, 2, 3, 1).reshape(-1, 2 * dim).double()
    moments = flat[:, :dim].T @ flat[:, :dim] / len(flat)
    assert torch.allclose(moments, torch.eye(dim, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(
        flat[:, dim:], -flat[:, :dim], atol=1e-4
    )  # the second half is the negative of the first


def test_eps_holds_back_weak_directions() -> None:
    images = photos(16)
    images[:, 1] = images[:, 0]  # two equal channels: directions without any signal
    net = FastCifar(widths=SMALL)
    net.whiten(images)
    assert torch.isfinite(net.first.weight).all()
    assert net.first.weight.flatten(1).norm(dim=1).max() < 1.01 / 5e-4**0.5


def test_whiten_is_deterministic_and_draws_nothing() -> None:
    images = photos(40)
    one, two = FastCifar(widths=SMALL), FastCifar(widths=SMALL)
    state = torch.get_rng_state()
    one.whiten(images)
    assert torch.equal(torch.get_rng_state(), state)
    two.whiten(images.clone())
    assert torch.equal(one.first.weight, two.first.weight)
    assert torch.equal(one.first.bias, torch.zeros(24))
    # Signs are fixed: the largest entry of each of the first half's filters is positive.
    rows = one.first.weight[:12].flatten(1)
    assert (rows.gather(1, rows.abs().max(1, keepdim=True).indices) > 0).all()


def test_whiten_does_not_depend_on_the_chunks() -> None:
    images = photos(1203, side=8)
    net = FastCifar(widths=(8,))
    net.whiten(images)
    flat = patches(images, 2).double()
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    expected = (vectors / (values + 5e-4).sqrt()).T  # (12, 12)
    got = net.first.weight[:12].detach().flatten(1).double()
    cosine = functional.cosine_similarity(got, expected)
    assert torch.allclose(cosine.abs(), torch.ones(12, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(got.norm(dim=1), expected.norm(dim=1), rtol=1e-3)


def test_whiten_refuses_what_it_cannot_use() -> None:
    net = FastCifar(widths=SMALL)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\).*got \(4, 1, 32, 32\)"):
        net.whiten(torch.randn(4, 1, 32, 32))
    with pytest.raises(ValueError, match="non-finite"):
        net.whiten(torch.full((4, 3, 8, 8), float("nan")))


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"widths=\(\)"):
        FastCifar(widths=())
    with pytest.raises(ValueError, match="classes=0"):
        FastCifar(classes=0)


def test_blocks_begin_as_the_identity() -> None:
    net = seeded(widths=SMALL)
    x = torch.randn(2, 16, 7, 7)
    assert torch.allclose(net.blocks[0].conv2(x), x, atol=1e-6)  # type: ignore[union-attr, operator]
    assert torch.allclose(net.blocks[1].conv1(x)[:, :16], x, atol=1e-6)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_forward_agrees(memory_format: torch.memory_format) -> None:
    net = seeded(widths=SMALL).to(memory_format=memory_format)  # type: ignore[call-overload]
    images = photos(8).to(memory_format=memory_format)
    net.whiten(images)
    net(images)  # running statistics
    net.eval()
    with torch.no_grad():
        exact = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(images)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    images, labels = photos(64), torch.arange(64) % 4
    images = images + labels.view(-1, 1, 1, 1) * 0.5 * torch.linspace(-1, 1, 32).view(1, 1, 1, -1)
    net = FastCifar(classes=4, widths=SMALL)
    net.whiten(images)
    filters = [p for p in net.parameters() if p.ndim == 4 and p.requires_grad]
    others = [p for p in net.parameters() if p.ndim != 4 and p.requires_grad]
    optimizers = [
        Muon(filters, lr=0.1, momentum=0.6, unit_norm=True, steps=3),
        torch.optim.SGD(others, lr=1.0),
    ]
    first_filters = net.first.weight.clone()
    losses: list[float] = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(net(images), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(net.first.weight, first_filters)
