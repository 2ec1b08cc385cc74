"""Property: whatever tree of tensors and JSON a checkpoint accepts comes back: bits, layout and ties."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visloom.checkpoint import Checkpoints, State, estimate_bytes

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
    torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any dtype, rank 0-5, random bits, axes in any memory order, sometimes a view with gaps."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    top = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, top, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    tensor = raw.view(dtype).reshape(shape)
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor[::2]
    return tensor


names = st.text(st.characters(exclude_categories=("C", "Z")), max_size=12).filter(
    lambda n: n != "__metadata__"
)
groups = st.dictionaries(names, tensors(), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def states(draw: st.DrawFn) -> State:
    """A state; some of its names share a tensor."""
    groups_ = draw(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), groups, max_size=3))
    for group in groups_.values():
        if group and draw(st.booleans()):
            group["tied"] = group[draw(st.sampled_from(sorted(group)))]
    data = draw(st.dictionaries(st.text(), values, max_size=4))
    return State(draw(st.integers(0, 10**18 - 1)), groups_, data)


def bits(tensor: Tensor) -> tuple[Any, ...]:
    """Everything about a tensor that must come back."""
    raw = (
        tensor.clone(memory_format=torch.contiguous_format)
        .as_strided((tensor.numel(),), (1,))
        .view(torch.uint8)
    )
    return tensor.dtype, tuple(tensor.shape), raw.numpy().tobytes()


def gapless(tensor: Tensor) -> bool:
    """Whether a tensor with elements fills its memory: its strides must come back then."""
    step = 1
    for hop, size in sorted(pair for pair in zip(tensor.stride(), tensor.shape) if pair[1] != 1):
        if hop != step:
            return False
        step *= size
    return tensor.numel() > 0


def exact(value: Any) -> str:
    """JSON text in which -0.0, NaN, 1 and 1.0 and True all differ."""
    return json.dumps(value)


@settings(max_examples=60)
@given(state=states(), background=st.booleans())
def test_states_come_back(state: State, background: bool):
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(Path(folder), keep=1, background=background)
        size = estimate_bytes(state)
        store.save(state)
        store.join()
        back = store.load()
        assert back is not None
        written = sum(p.stat().st_size for p in (Path(folder) / f"step-{state.step:08d}").iterdir())
        assert written <= size
    assert back.step == state.step
    assert exact(back.data) == exact(state.data)
    assert list(back.tensors) == list(state.tensors)
    for stem, group in state.tensors.items():
        assert list(back.tensors[stem]) == list(group)
        for name, tensor in group.items():
            loaded = back.tensors[stem][name]
            assert bits(loaded) == bits(tensor)
            if gapless(tensor):
                assert loaded.stride() == tensor.stride()
            else:
                assert loaded.is_contiguous()
        if group.get("tied") is not None and group["tied"].numel():
            mates = [name for name in group if group[name] is group["tied"]]
            assert len({id(back.tensors[stem][name]) for name in mates}) == 1
