"""Memory: which format "auto" means on which device, pictures that follow the weights, pages that are kept."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from visloom import memory
from visloom.config import change, dump
from visloom.memory import like_weights, memory_format, resolve_channels_last, standardised
from visloom.run import How
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.segment import Segment, SegmentBatch
from visloom.tasks.segment.nets import Unet

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("how", "device", "capability", "wanted"),
    [
        (How(precision="fp32"), CPU, "AVX2", False),
        (How(precision="fp32"), CPU, "DEFAULT", False),
        (How(precision="fp32"), CPU, "AVX512", True),
        (How(precision="bf16"), CPU, "AVX2", True),
        (How(precision="fp32"), GPU, "AVX2", True),
        (How(precision="fp32", channels_last=True), CPU, "AVX2", True),
        (How(precision="bf16", channels_last=False), GPU, "AVX512", False),
    ],
)
def test_auto_asks_the_processor_and_an_answer_in_the_recipe_stands(
    how: How, device: torch.device, capability: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert resolve_channels_last(how, device, nn.Sequential(nn.Conv2d(4, 4, 3))) is wanted


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([nn.Conv2d(4, 4, 3)], False),
        ([nn.Conv2d(4, 4, 3, groups=2)], True),
        ([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 64, 1)], True),  # of 400 weights 256 are of one pixel
        ([nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 16, 1)], False),
        ([nn.Conv2d(64, 64, 3)], True),  # Winograd's method is quick in NHWC
        ([nn.Conv2d(64, 64, 5)], False),
        ([nn.Linear(4, 4)], True),  # as good as the other
    ],
)
def test_the_kind_of_convolutions_decides_where_nothing_else_does(
    layers: list[nn.Module], wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    net = nn.Sequential(*layers)
    assert resolve_channels_last(How(precision="fp32"), CPU, net) is wanted
    assert resolve_channels_last(How(precision="fp32", channels_last=not wanted), CPU, net) is not wanted


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_pictures_follow_the_weights(order: torch.memory_format):
    image = torch.randn(2, 5, 7, 3).permute(0, 3, 1, 2)  # (2, 3, 5, 7), as stored pictures are
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)).to(memory_format=order)  # type: ignore[call-overload]
    assert memory_format(net) is order
    found = like_weights(image, net)
    assert found.is_contiguous(memory_format=order)
    assert torch.equal(found, image)


@pytest.mark.parametrize("last", [False, True])
def test_a_whole_segmentation_network_computes_in_the_format_of_its_weights(last: bool):
    spec = Segment(net=Unet(width=4, depth=1), classes=("a", "b"), normalise=Normalise((0,) * 3, (1,) * 3))
    task = memory.place(spec.build(), How(channels_last=last), CPU)
    seen: list[bool] = []
    for module in task.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, given, found: seen.append(found.is_contiguous(memory_format=torch.channels_last))
            )
    image = torch.randint(0, 256, (1, 8, 10, 3), dtype=torch.uint8)
    task(
        SegmentBatch(ids=("a",), image=image, mask=torch.zeros(1, 8, 10, dtype=torch.int16), sizes=((8, 10),))
    )
    assert seen and all(found is last for found in seen)


def test_the_setting_takes_three_words():
    from visloom.recipes.digits import digits

    assert dump(digits())["how"]["channels_last"] == "auto"
    for value in (True, False, "auto"):
        assert change(digits(), {"how.channels_last": value}).how.channels_last == value


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_a_step_that_asks_for_the_same_memory_again_gets_it_without_the_kernel():
    # In a process of its own: in one that has run other tests the heap may have no room left to grow in.
    # 10,240 pages of 4 kB each time, if they went back; a block may once be a few bytes too small for the next.
    program = """
import resource
import torch
from visloom.device import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(40 << 20, dtype=torch.uint8).fill_(1)  # above all that glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(6)) if keep_freed() else "another C library")
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    if not told.strip().isdigit():
        pytest.skip(told.strip())
    assert int(told) < 1000


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_compiled_code_brings_pictures_into_the_format_too(order: torch.memory_format):
    net = nn.Conv2d(3, 4, 3).to(memory_format=order)  # type: ignore[call-overload]

    def seen(image: torch.Tensor) -> torch.Tensor:
        return like_weights(image.permute(0, 3, 1, 2) * 2.0, net)

    found = torch.compile(seen, backend="eager", fullgraph=True)(torch.randn(2, 5, 6, 3))
    assert found.is_contiguous(memory_format=order)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1), (3, 4, 6, 4), (0, 4, 6, 3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_standardised_pictures_are_scaled_and_shifted_per_channel(shape, dtype):
    draws = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, shape, generator=draws).to(dtype)
    scale, shift = torch.rand(2, shape[3], generator=draws)
    found = standardised(image, scale, shift)
    wanted = image.double() * scale.double() + shift.double()  # (B, H, W, C)
    assert found.dtype is torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.permute(0, 2, 3, 1).double(), wanted, rtol=1e-6, atol=1e-5)
    as_maps = standardised(image.flip(2), scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1))
    torch.testing.assert_close(as_maps.flip(3), found, rtol=0, atol=0)
