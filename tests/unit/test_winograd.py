"""Winograd's convolutions: equal to PyTorch's in float64, the same bits each time, taken only where they gain."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional

from visloom.memory import place, resolve_winograd
from visloom.run import How
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.segment import Segment
from visloom.tasks.segment.nets import Unet
from visloom.winograd import WinogradConv2d, _cut, _Memory, takes, use_winograd, winograd

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(found: Tensor, exact: Tensor) -> float:
    found, exact = found.detach(), exact.detach()
    return float((found - exact).abs().max() / exact.abs().max())


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 9),
    channels=st.sampled_from([8, 16, 24]),
    outputs=st.sampled_from([8, 16, 40]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    pad=st.integers(0, 1),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_answers_and_gradients_equal_those_of_float64(
    batch: int, channels: int, outputs: int, height: int, width: int, pad: int, last: bool, seed: int
):
    if min(height, width) + 2 * pad < 3:
        return
    image = random(batch, channels, height, width, seed=seed)
    if last:
        image = image.to(memory_format=torch.channels_last)
    weight = random(outputs, channels, 3, 3, seed=seed + 1)
    image.requires_grad_()
    weight.requires_grad_()
    found = winograd(image, weight, pad)
    exact = functional.conv2d(image.double(), weight.double(), padding=pad)
    assert found.shape == exact.shape
    assert error(found, exact) < 3e-5
    grad = random(*exact.shape, seed=seed + 2)
    got = torch.autograd.grad(found, (image, weight), grad)
    want = torch.autograd.grad(exact, (image, weight), grad.double())
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert error(one, other) < 3e-5


@pytest.mark.parametrize("count", [1, 7, 40])  # 40: several parts, the last one smaller
def test_a_batch_in_parts_gives_what_its_pictures_give(count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("visloom.winograd._CHUNK", 36 * 4 * 4 * 8 * 3)  # three pictures of four tiles
    image = random(count, 8, 8, 7).requires_grad_()
    weight = random(8, 8, 3, 3, seed=1).requires_grad_()
    found, exact = winograd(image, weight, 1), functional.conv2d(image.double(), weight.double(), padding=1)
    got = torch.autograd.grad(found.square().sum(), (image, weight))
    want = torch.autograd.grad(exact.square().sum(), (image, weight))
    assert error(found, exact) < 3e-5
    assert all(error(one, other) < 3e-5 for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("side", [2, 3, 6, 13])
def test_threads_change_no_bit(side: int):
    def step(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            image = random(5, 24, side, side).requires_grad_()
            weight = random(40, 24, 3, 3, seed=1).requires_grad_()
            out = winograd(image, weight, 1)
            return [out.detach(), *torch.autograd.grad(out.square().sum(), (image, weight))]
        finally:
            torch.set_num_threads(before)

    for many in (2, 3):
        assert all(torch.equal(one, other) for one, other in zip(step(1), step(many), strict=True))


@pytest.mark.parametrize(
    ("side", "expected"), [(1, 2), (2, 2), (3, 3), (4, 4), (5, 6), (6, 6), (7, 4), (9, 3), (16, 4), (31, 4)]
)
def test_the_tile_is_the_one_that_fits(side: int, expected: int):
    assert _cut(side, side, 1).method.side == expected


def test_memory_that_other_sizes_used_in_between_changes_nothing():
    """Every size works in the same memory, which holds what another one left there."""

    def step(side: int) -> list[Tensor]:
        image = random(3, 8, side, side).requires_grad_()
        weight = random(8, 8, 3, 3, seed=1).requires_grad_()
        out = winograd(image, weight, 1)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), (image, weight))]

    first = step(13)
    step(16)
    winograd(random(2, 24, 9, 9, seed=3), random(16, 24, 3, 3), 0)
    for one, other in zip(first, step(13), strict=True):
        assert torch.equal(one, other)


def test_training_after_an_evaluation_in_inference_mode(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("visloom.winograd._memory", _Memory())  # so that the evaluation is what makes room
    weight = random(8, 8, 3, 3).requires_grad_()
    with torch.inference_mode():
        before = winograd(random(5, 8, 21, 21), weight, 1)
    after = winograd(random(5, 8, 21, 21), weight, 1)
    after.sum().backward()
    assert torch.equal(before, after)
    assert weight.grad is not None


def test_frozen_weights_and_first_layers_get_the_gradient_they_ask_for():
    image, weight = random(4, 8, 8, 8), random(8, 8, 3, 3, seed=1)
    (only,) = torch.autograd.grad(winograd(image.requires_grad_(), weight, 1).sum(), image)
    exact = functional.conv_transpose2d(torch.ones(4, 8, 8, 8).double(), weight.double(), padding=1)
    assert error(only, exact) < 3e-5
    winograd(image.detach(), weight.requires_grad_(), 1).sum().backward()
    assert weight.grad is not None


def test_only_convolutions_that_gain_are_taken_and_names_stay():
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),  # few channels
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, dilation=2),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 3, padding=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 64, (3, 1)),
        nn.ConvTranspose2d(64, 64, 3),
    )
    names = list(net.state_dict())
    assert use_winograd(net) == 3
    assert [type(layer) is WinogradConv2d for layer in net] == [i in (1, 2, 3) for i in range(11)]
    assert list(net.state_dict()) == names
    assert use_winograd(copy.deepcopy(net)) == 3  # stays what it is


def test_a_subclass_keeps_its_own_way():
    class Own(nn.Conv2d):
        pass

    assert not takes(Own(64, 64, 3))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_learns_the_same_with_and_without(inplace: bool):
    def steps(net: nn.Module) -> Tensor:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for seed in range(5):
            optimizer.zero_grad()
            out = net(random(16, 64, 15, 15, seed=seed))
            out.square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(64, 80, 3, padding=1), nn.ReLU(inplace=inplace), nn.Conv2d(80, 64, 3, padding="same", bias=False),
        nn.BatchNorm2d(64), nn.ReLU(inplace=inplace), nn.Conv2d(64, 72, 3),
    )  # fmt: skip
    quick, again = copy.deepcopy(plain), copy.deepcopy(plain)
    assert use_winograd(quick) == use_winograd(again) == 3
    first = steps(quick)
    assert error(first, steps(plain)) < 1e-4
    assert torch.equal(first, steps(again))


@pytest.mark.parametrize(
    "image",
    [
        random(15, 64, 8, 8),  # 60 tiles: the filters' transform would cost more than they save
        random(1, 64, 401, 301),  # would need more memory than it is worth
        random(64, 64, 16, 16).double(),
        random(64, 64, 16, 16).bfloat16(),
        random(0, 64, 16, 16),
        random(64, 16, 16),
    ],
)
def test_pictures_that_would_not_gain_go_the_usual_way(image: Tensor, monkeypatch: pytest.MonkeyPatch):
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).to(image.dtype)
    want = net(image)
    use_winograd(net)
    monkeypatch.setattr("visloom.winograd.winograd", lambda *given: pytest.fail("took Winograd's way"))
    assert torch.equal(net(image), want)


def test_autocast_goes_the_usual_way():
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    use_winograd(net)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(random(16, 64, 16, 16)).dtype is torch.bfloat16


def test_an_exported_network_holds_plain_convolutions():
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).eval()
    use_winograd(net)
    image = random(16, 64, 16, 16)
    program = torch.export.export(net, (image,))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
    assert error(program.module()(image), net(image)) < 3e-5


@pytest.mark.parametrize(
    ("how", "device", "capability", "wanted"),
    [
        (How(precision="fp32"), CPU, "AVX2", True),
        (How(precision="fp32"), CPU, "AVX512", False),
        (How(precision="fp32", winograd=True), CPU, "AVX512", True),
        (How(precision="fp32", winograd=False), CPU, "AVX2", False),
        (How(precision="fp32", channels_last=False), CPU, "AVX2", False),
        (How(precision="fp32", compile=True), CPU, "AVX2", False),
        (How(precision="bf16", winograd=True), CPU, "AVX2", False),
        (How(precision="fp32", winograd=True), GPU, "AVX2", False),
    ],
)
def test_auto_takes_it_where_it_was_measured_to_gain(
    how: How, device: torch.device, capability: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert resolve_winograd(how, device) is wanted


def test_winograd_without_nhwc_is_refused():
    with pytest.raises(ValueError, match="without channels_last=false"):
        How(winograd=True, channels_last=False)


def test_a_task_that_is_placed_answers_about_the_same():
    spec = Segment(
        classes=("road", "car"), net=Unet(depth=2, width=64), normalise=Normalise((127.0,) * 3, (60.0,) * 3)
    )
    tasks = [place(spec.build(), How(precision="fp32", winograd=on), CPU) for on in (False, True)]
    tasks[1].load_state_dict(tasks[0].state_dict())
    assert any(isinstance(module, WinogradConv2d) for module in tasks[1].modules())
    assert not any(isinstance(module, WinogradConv2d) for module in tasks[0].modules())
    image = random(8, 3, 32, 32)
    direct, quick = (task.net.eval()(image) for task in tasks)
    assert error(quick, direct) < 1e-4


@pytest.mark.parametrize(
    ("image", "weight"),
    [
        ((4, 32, 8, 8), (64, 64, 3, 3)),
        ((4, 64, 8, 8), (60, 64, 3, 3)),
        ((4, 12, 8, 8), (16, 12, 3, 3)),
        ((4, 16, 8, 8), (16, 16, 3, 2)),
        ((4, 16, 2, 8), (16, 16, 3, 3)),
        ((16, 8, 8), (16, 16, 3, 3)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(image: tuple[int, ...], weight: tuple[int, ...]):
    """The kernels go by addresses: they would read and write whatever lies there."""
    with pytest.raises(ValueError, match="winograd convolves"):
        winograd(random(*image), random(*weight), 0)


def test_a_picture_of_other_channels_is_pytorchs_error_and_a_pruned_filter_goes_the_usual_way():
    conv = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    use_winograd(conv)
    for channels in (32, 128):
        with pytest.raises(RuntimeError, match="channels"):
            conv(random(64, channels, 16, 16))
    conv[0].weight = nn.Parameter(conv[0].weight[:60].detach())
    conv[0].bias = nn.Parameter(conv[0].bias[:60].detach())
    image = random(64, 64, 16, 16)
    assert torch.equal(conv(image), functional.conv2d(image, conv[0].weight, conv[0].bias, padding=1))


def test_no_pictures_have_no_outputs_and_no_gradient():
    weight = random(8, 8, 3, 3).requires_grad_()
    out = winograd(random(0, 8, 9, 9), weight, 1)
    assert out.shape == (0, 8, 9, 9)
    out.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # PyTorch calls it for a tangent
def test_what_has_no_memory_or_asks_for_more_than_a_gradient_goes_the_usual_way():
    conv = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    use_winograd(conv)
    image = random(64, 64, 16, 16)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert conv(mode.from_tensor(image)).shape == image.shape
    weights = dict(conv.named_parameters())
    grads = torch.func.grad(lambda w: torch.func.functional_call(conv, w, image).square().sum())(weights)
    conv(image).square().sum().backward()
    assert error(grads["0.weight"], conv[0].weight.grad) < 1e-4
    with torch.no_grad(), forward_ad.dual_level():
        moved = conv(forward_ad.make_dual(image, image))
        tangent = forward_ad.unpack_dual(moved).tangent
    assert error(tangent, functional.conv2d(image, conv[0].weight, padding=1)) < 1e-4
