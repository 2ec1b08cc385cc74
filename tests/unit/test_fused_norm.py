"""Fused pooling, norm and GELU: equal to float64, the same bits each time, and PyTorch's modules where it must be."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from visloom.nets import fused_norm
from visloom.nets.fast_cifar import FastBlock, FastCifar
from visloom.nets.fused_norm import gelu, norm_gelu

LAST = torch.channels_last
ACT, POOL = nn.GELU(), nn.MaxPool2d(2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(memory_format=LAST)


def make_norm(channels: int, seed: int = 0) -> nn.BatchNorm2d:
    """As after some training: nothing is zero or one."""
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (norm.weight, norm.running_var):
        tensor.data.uniform_(0.5, 2.0, generator=generator)
    for tensor in (norm.bias, norm.running_mean):
        tensor.data.normal_(generator=generator)
    return norm


def error(found: Tensor, exact: Tensor) -> float:
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).abs().max() / exact.abs().max())


@contextmanager
def usual_way_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, compiled code must not run."""
    with monkeypatch.context() as patch:
        patch.setattr(fused_norm, "kernels", lambda: pytest.fail("took the fused way"))
        yield


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 19),
    channels=st.sampled_from([8, 16, 24, 40]),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    pools=st.booleans(),
    mean=st.sampled_from([0.0, -3.0, 1000.0]),
    seed=st.integers(0, 1000),
)
def test_answers_gradients_and_statistics_equal_those_of_float64(
    batch: int, channels: int, height: int, width: int, pools: bool, mean: float, seed: int
):
    image = (random(batch, channels, height, width, seed=seed) + mean).requires_grad_()
    norm, pool = make_norm(channels, seed), POOL if pools else None
    exact_norm, exact_image = copy.deepcopy(norm).double(), image.detach().double().requires_grad_()
    if pools and batch * (height // 2) * (width // 2) < 2:
        return
    found = norm_gelu(image, norm, ACT, pool)
    value = pool(exact_image) if pool else exact_image
    exact = ACT(exact_norm(value))
    slopes = exact_norm.weight.detach() / (value.detach().var((0, 2, 3), correction=0) + norm.eps).sqrt()
    assert "NormGelu" in type(found.grad_fn).__name__
    assert found.shape == exact.shape and found.is_contiguous(memory_format=LAST)
    assert error(found, exact) < 1e-6
    grad = random(*exact.shape, seed=seed + 1)
    got = torch.autograd.grad(found, (image, norm.weight, norm.bias), grad)
    want = torch.autograd.grad(exact, (exact_image, exact_norm.weight, exact_norm.bias), grad.double())
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape and one.dtype is torch.float32
        # the image's are the difference of terms of this size, that cancel if there are few values
        terms = float(slopes.max() * grad.abs().max()) if one is got[0] else 0.0
        assert (one - other).abs().max() < 2e-6 * max(float(other.abs().max()), terms)
    assert error(norm.running_mean, exact_norm.running_mean) < 2e-7
    assert error(norm.running_var, exact_norm.running_var) < 2e-7
    assert norm.num_batches_tracked == exact_norm.num_batches_tracked == 1


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 9),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    pools=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_evaluation_takes_the_running_statistics(batch: int, height: int, width: int, pools: bool, seed: int):
    image, pool = random(batch, 24, height, width, seed=seed), POOL if pools else None
    norm = make_norm(24, seed).eval()
    before = copy.deepcopy(norm.state_dict())
    with torch.no_grad():
        found = norm_gelu(image, norm, ACT, pool)
        exact = ACT(copy.deepcopy(norm).double()(pool(image.double()) if pool else image.double()))
    assert error(found, exact) < 1e-6
    assert all(torch.equal(norm.state_dict()[name], tensor) for name, tensor in before.items())


def test_gelu_and_its_derivative_equal_those_of_float64_over_the_whole_range():
    image = torch.linspace(-15, 15, 80_000).view(1, 8, 100, 100).to(memory_format=LAST).requires_grad_()
    exact_image = image.detach().double().requires_grad_()
    found, exact = gelu(image, ACT), functional.gelu(exact_image)
    (got,) = torch.autograd.grad(found.sum(), image)
    (want,) = torch.autograd.grad(exact.sum(), exact_image)
    assert (found - exact).abs().max() < 1e-6  # of 15
    assert (found - exact)[exact_image.abs() < 3].abs().max() < 3e-7
    assert (got - want).abs().max() < 5e-7
    with torch.no_grad():
        assert torch.equal(gelu(image, ACT), found)
    nothing = torch.tensor([0.0, -0.0, torch.inf, torch.nan] * 2).view(1, 8, 1, 1)
    assert torch.equal(gelu(nothing, ACT).nan_to_num(7.0, 8.0), ACT(nothing).nan_to_num(7.0, 8.0))


def pooled(image: Tensor) -> tuple[Tensor, Tensor]:
    """The pooled values and the gradient's way back, alone: by a norm that changes nothing but the scale."""
    norm = nn.BatchNorm2d(8)
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    norm_gelu(image, norm, ACT, POOL).sum().backward()
    done = fused_norm._trained(image.detach(), nn.BatchNorm2d(8), pools=True, keep=False)
    assert image.grad is not None
    return done.value, image.grad


def test_of_equal_values_the_first_is_the_maximum():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 3, (5, 8, 9, 7), generator=generator).float().to(memory_format=LAST)
    value, grad = pooled(image)
    want, places = functional.max_pool2d(image, 2, return_indices=True)
    assert torch.equal(value, want)
    chosen = torch.zeros(5, 8, 63, dtype=torch.bool).scatter_(2, places.flatten(2), True).view_as(image)
    assert torch.equal(grad != 0, chosen)  # among them the last row and column, which nobody pools


def test_nan_stays_nan():
    image = random(4, 8, 6, 6)
    image[1, 2, 3, 3] = image[1, 3, 0, 0] = image[1, 3, 1, 1] = torch.nan
    done = fused_norm._trained(image, nn.BatchNorm2d(8), pools=True, keep=False)
    want, places = functional.max_pool2d(image, 2, return_indices=True)
    assert torch.equal(done.value.nan_to_num(99.0), want.nan_to_num(99.0))
    assert done.which is not None
    rows, columns = places // 6, places % 6
    assert torch.equal(done.which.long(), rows % 2 * 2 + columns % 2)  # of two NaN PyTorch takes the last
    norm, usual = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    found, exact = norm_gelu(image, norm, ACT, POOL), ACT(usual(POOL(image)))
    assert torch.equal(found.isnan(), exact.isnan())
    assert torch.equal(norm.running_mean.isnan(), usual.running_mean.isnan())
    with torch.no_grad():
        found = norm_gelu(image, nn.BatchNorm2d(8).eval(), ACT, POOL)
    assert torch.equal(found.isnan(), want.isnan())


def test_values_that_are_all_the_same_have_no_deviation():
    image = torch.full((4, 8, 5, 5), 1234.567).to(memory_format=LAST).requires_grad_()
    norm, usual = make_norm(8), make_norm(8)
    found = norm_gelu(image, norm, ACT)
    assert torch.allclose(found, ACT(usual.bias)[None, :, None, None].expand_as(found), atol=1e-3)
    assert torch.allclose(norm.running_var, 0.7 * usual.running_var)
    (grad,) = torch.autograd.grad(found.square().sum(), image)
    assert grad.isfinite().all()


def steps(net: nn.Module, inference: bool = False) -> Tensor:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for seed in range(4):
        if inference:
            with torch.inference_mode():
                net.eval()(random(5, 3, 17, 17, seed=seed + 50))
            net.train()
        optimizer.zero_grad()
        functional.cross_entropy(net(random(21, 3, 17, 17, seed=seed)), torch.arange(21) % 10).backward()
        optimizer.step()
    return torch.cat([tensor.detach().double().flatten() for tensor in net.state_dict().values()])


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return FastCifar(widths=(16, 24, 32)).to(memory_format=LAST)  # type: ignore[call-overload, no-any-return]


def test_a_network_learns_what_it_learns_with_the_modules(monkeypatch: pytest.MonkeyPatch):
    fused = steps(make_net())
    with monkeypatch.context() as patch:
        patch.setattr(fused_norm, "_fits", lambda *given: False)
        usual = steps(make_net())
    assert not torch.equal(fused, usual)  # else nothing was compared
    assert error(fused, usual) < 1e-4


def test_the_same_bits_again_and_with_other_threads():
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            image = random(37, 16, 7, 6).requires_grad_()
            norm = make_norm(16)
            outs = [norm_gelu(image, norm, ACT, POOL), norm_gelu(image, norm, ACT), gelu(image, ACT)]
            grads = [
                torch.autograd.grad(out.square().sum(), (image, *norm.parameters()), allow_unused=True)
                for out in outs
            ]
            tensors = [*outs, *(grad for of_one in grads for grad in of_one if grad is not None)]
            found.append([*tensors, norm.running_mean, norm.running_var])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_training_goes_on_after_evaluations_in_inference_mode():
    assert torch.equal(steps(make_net()), steps(make_net(), inference=True))


def test_copies_learn_the_same_and_names_stay():
    net = make_net()
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    names = list(net.state_dict())
    assert names[:6] == [
        "first.weight", "first.bias", "blocks.0.conv1.weight",
        "blocks.0.norm1.weight", "blocks.0.norm1.bias", "blocks.0.norm1.running_mean",
    ]  # fmt: skip
    assert len(names) == 2 + 3 * 2 * 6 + 1
    first = steps(net)
    assert all(torch.equal(steps(other), first) for other in copies)
    assert list(net.state_dict()) == names


def test_gradients_are_only_made_for_those_that_ask():
    image, norm = random(4, 8, 6, 6), make_norm(8)
    norm.weight.requires_grad_(False)
    norm_gelu(image, norm, ACT, POOL).sum().backward()
    assert norm.weight.grad is None and norm.bias.grad is not None
    with torch.no_grad():
        assert not norm_gelu(image, norm, ACT, POOL).requires_grad
    assert norm.num_batches_tracked == 2  # no gradient is no evaluation
    norm.bias.requires_grad_(False)
    assert not norm_gelu(image, norm, ACT).requires_grad


def test_a_gradient_twice_is_the_same_and_one_of_a_gradient_is_refused():
    image, norm = random(4, 8, 6, 6).requires_grad_(), make_norm(8)
    out = norm_gelu(image, norm, ACT, POOL)
    first, second = (torch.autograd.grad(out.sum(), image, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (grad,) = torch.autograd.grad(out.square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_running_statistics_that_changed_meanwhile_are_noticed():
    """As with PyTorch's own: the gradient of an evaluation needs those that it was made with."""
    image, norm = random(4, 8, 6, 6).requires_grad_(), make_norm(8)
    out = norm_gelu(image, norm.eval(), ACT)  # with a gradient: PyTorch's
    norm_gelu(image.detach(), norm.train(), ACT)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


class Own(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("image", "norm", "act", "pool"),
    [
        (random(4, 8, 6, 6).contiguous(), make_norm(8), ACT, POOL),
        (random(4, 8, 6, 6).double(), make_norm(8).double(), ACT, POOL),
        (random(4, 8, 6, 6).bfloat16(), make_norm(8), ACT, POOL),
        (random(4, 8, 6, 6), make_norm(8).bfloat16().float().requires_grad_(False).eval(), nn.ReLU(), POOL),
        (random(4, 12, 6, 6), make_norm(12), ACT, POOL),
        (random(0, 8, 6, 6), make_norm(8).eval().requires_grad_(False), ACT, None),
        (random(4, 8, 6, 6), make_norm(8).eval(), ACT, POOL),  # a gradient by way of running statistics
        (random(4, 8, 6, 6), Own(8), ACT, POOL),
        (random(4, 8, 6, 6), nn.SyncBatchNorm(8).eval(), ACT, POOL),
        (random(4, 8, 6, 6), nn.BatchNorm2d(8, affine=False), ACT, POOL),
        (random(4, 8, 6, 6), nn.BatchNorm2d(8, momentum=None), ACT, POOL),
        (random(4, 8, 6, 6), nn.BatchNorm2d(8, track_running_stats=False), ACT, POOL),
        (random(4, 8, 6, 6), make_norm(8), nn.GELU("tanh"), POOL),
        (random(4, 8, 6, 6), make_norm(8), ACT, nn.MaxPool2d(3)),
        (random(4, 8, 6, 6), make_norm(8), ACT, nn.MaxPool2d(2, stride=1)),
        (random(4, 8, 6, 6), make_norm(8), ACT, nn.MaxPool2d(2, padding=1)),
        (random(4, 8, 7, 7), make_norm(8), ACT, nn.MaxPool2d(2, ceil_mode=True)),
        (random(4, 8, 6, 6), make_norm(8), ACT, nn.AvgPool2d(2)),
    ],
)
def test_what_is_of_another_kind_goes_the_usual_way(
    image: Tensor, norm: nn.Module, act: nn.Module, pool: nn.Module | None, monkeypatch: pytest.MonkeyPatch
):
    usual = copy.deepcopy(norm)
    with usual_way_only(monkeypatch):
        found = norm_gelu(image, norm, act, pool)
    exact = act(usual(pool(image) if pool else image))
    assert torch.equal(found, exact) and found.dtype is exact.dtype
    for name, tensor in usual.state_dict().items():
        assert torch.equal(norm.state_dict()[name], tensor)


def test_one_value_is_refused_as_ever():
    with pytest.raises(ValueError, match="more than 1 value"):
        norm_gelu(random(1, 8, 3, 2), make_norm(8), ACT, POOL)


@pytest.mark.parametrize("part", ["norm1", "act", "pool"])
def test_hooks_are_called(part: str):
    block = FastBlock(8, 8, 0.3).to(memory_format=LAST)  # type: ignore[call-overload]
    seen: list[Tensor] = []
    handle = getattr(block, part).register_forward_hook(lambda module, given, out: seen.append(out))
    block(random(4, 8, 6, 6))
    assert seen
    handle.remove()
    many = len(seen)
    block(random(4, 8, 6, 6))
    assert len(seen) == many


def test_autocast_export_and_tracing_go_the_usual_way(monkeypatch: pytest.MonkeyPatch):
    net, image = make_net().eval(), random(4, 3, 17, 17)
    want = net(image)
    with usual_way_only(monkeypatch):
        with torch.autocast("cpu", torch.bfloat16):
            assert net(image).dtype is torch.bfloat16
        program = torch.export.export(net, (image,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, but not gone
            traced = torch.jit.trace(net, (image,), check_trace=False)
        assert error(program.module()(image), want) < 1e-5
        assert error(traced(image), want) < 1e-5
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"aten.max_pool2d.default", "aten.gelu.default"} <= targets


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_of_other_channels_is_pytorchs_error(training: bool):
    """The kernels go by addresses: they would write past the running statistics."""
    image = torch.randn(4, 64, 6, 6).to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="running_mean"):
        norm_gelu(image, nn.BatchNorm2d(16).train(training), nn.GELU())


@pytest.mark.parametrize("pools", [True, False])
def test_saved_tensors_may_come_back_in_another_order_of_memory(pools: bool):
    def gradient() -> torch.Tensor:
        torch.manual_seed(0)
        image = torch.randn(4, 16, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
        out = norm_gelu(image, nn.BatchNorm2d(16), nn.GELU(), nn.MaxPool2d(2) if pools else None)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        assert image.grad is not None
        return image.grad

    usual = gradient()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.contiguous(), lambda tensor: tensor):
        assert torch.equal(gradient(), usual)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # PyTorch calls it for a tangent
def test_transforms_of_functions_and_forward_derivatives_go_through_the_modules():
    image = torch.randn(4, 16, 6, 6).to(memory_format=torch.channels_last)
    norm, act = nn.BatchNorm2d(16).eval(), nn.GELU()
    given = torch.func.grad(lambda x: norm_gelu(x, norm, act).square().sum())(image)
    want = torch.func.grad(lambda x: act(norm(x)).square().sum())(image)
    assert torch.allclose(given, want, atol=1e-5)
    with torch.no_grad(), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(norm_gelu(forward_ad.make_dual(image, image), norm, act)).tangent
    assert tangent is not None
