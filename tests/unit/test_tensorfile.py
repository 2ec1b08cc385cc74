"""Tensor files: dtypes, layouts, ties, what is refused, and that other readers can open them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from visloom.errors import CheckpointError
from visloom.tensorfile import Buffers, is_dense, pack, read, write


def store(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write tensors and read them again."""
    with path.open("wb") as file:
        write(pack(tensors, "tensors/x"), file.write)
    return read(path)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Compare values by their bytes, so that NaN equals NaN and -0.0 differs from 0.0."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*raw)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_of_every_dtype_comes_back(tmp_path, dtype):
    raw = torch.randint(0, 256, (3, 5 * dtype.itemsize), dtype=torch.uint8)
    tensors = {
        "a.weight": raw.view(dtype),
        "scalar": raw.view(dtype)[1, 2].clone(),
        "empty": raw.view(dtype)[:0],
    }
    back = store(tmp_path / "x.safetensors", tensors)
    assert list(back) == list(tensors)
    assert all(same_bits(back[name], tensors[name]) for name in tensors)
    assert back["empty"].shape == (0, 5)
    assert back["scalar"].shape == ()


def test_bool_and_mixed_widths_stay_aligned(tmp_path):
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "byte": torch.arange(6, dtype=torch.uint8),
        "double": torch.tensor([1e-300], dtype=torch.float64),
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "step": torch.tensor(7),
    }
    path = tmp_path / "x.safetensors"
    back = store(path, tensors)
    assert all(same_bits(back[name], tensors[name]) for name in tensors)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    for name, tensor in tensors.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0, name


def test_the_library_reads_the_file_with_true_shapes(tmp_path):
    weight = torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last)
    store(tmp_path / "x.safetensors", {"weight": weight, "bias": torch.randn(8)})
    theirs = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert torch.equal(theirs["weight"], weight)
    assert theirs["weight"].is_contiguous()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.randn(4, 1, 3, 3).to(memory_format=torch.channels_last),  # depthwise: row-major too
        torch.randn(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d),
        torch.randn(3, 4).t(),
        torch.randn(2, 3, 4).permute(1, 2, 0),
    ],
    ids=["nhwc", "depthwise", "ndhwc", "transposed", "permuted"],
)
def test_gapless_strides_come_back(tmp_path, tensor):
    for source in (tensor, Buffers().copy({"x": pack({"t": tensor}, "")})["x"].tensors["t"]):
        back = store(tmp_path / "x.safetensors", {"t": source})["t"]
        assert back.stride() == tensor.stride()
        assert torch.equal(back, tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(6, 4)[::2],
        torch.ones(3).expand(2, 3),
        torch.randn(4, 4)[:, 1],
        torch.randn(4)[0:0:2],  # no elements, stride 2: it has no view as bytes
    ],
    ids=["rows", "expanded", "column", "empty"],
)
def test_views_with_gaps_come_back_row_major(tmp_path, tensor):
    back = store(tmp_path / "x.safetensors", {"t": tensor})["t"]
    assert torch.equal(back, tensor)
    assert back.is_contiguous()


def test_a_single_element_with_a_wide_stride_comes_back(tmp_path):
    tensor = torch.arange(4.0)[2::2]
    back = store(tmp_path / "x.safetensors", {"t": tensor})["t"]
    assert back.tolist() == [2.0]


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path):
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    net[1].weight = net[0].weight
    path = tmp_path / "x.safetensors"
    back = store(path, net.state_dict())
    assert back["0.weight"] is back["1.weight"]
    assert torch.equal(back["1.weight"], net[0].weight)
    assert path.stat().st_size < 1.2 * 64 * 64 * 4


def test_different_views_of_one_storage_stay_apart(tmp_path):
    whole = torch.arange(6.0)
    back = store(tmp_path / "x.safetensors", {"whole": whole, "part": whole[:3], "again": whole.view(2, 3)})
    assert torch.equal(back["part"], whole[:3])
    assert back["again"].shape == (2, 3)
    back["part"][0] = 9
    assert back["whole"][0] == 0


def test_empty_tensors_are_never_tied(tmp_path):
    back = store(tmp_path / "x.safetensors", {"a": torch.empty(0), "b": torch.empty(0)})
    assert back["a"] is not back["b"]


def test_conjugate_and_negative_views_hold_values(tmp_path):
    value = torch.randn(3, dtype=torch.complex64)
    back = store(tmp_path / "x.safetensors", {"conj": value.conj(), "neg": value.conj().imag})
    assert torch.equal(back["conj"], value.conj().resolve_conj())
    assert torch.equal(back["neg"], -value.imag)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.empty(2, device="meta"), "meta device"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (3.0, "float"),
        (torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged), "NestedTensor"),
    ],
    ids=["meta", "sparse", "complex128", "float", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_stored_is_named(value, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        pack({"good": torch.ones(1), "bad": value}, "tensors/model")
    assert "tensors/model/bad" in str(caught.value)


@pytest.mark.parametrize("name", ["__metadata__", "line\nbreak", "\ud800"], ids=ascii)
def test_names_the_format_cannot_hold_are_refused(name):
    with pytest.raises(CheckpointError, match="printable"):
        pack({name: torch.ones(1)}, "tensors/model")


def test_parameters_are_stored_without_gradient(tmp_path):
    back = store(tmp_path / "x.safetensors", {"p": nn.Parameter(torch.ones(2))})["p"]
    assert type(back) is Tensor
    assert not back.requires_grad


def test_loaded_tensors_do_not_need_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    back = store(path, {"t": torch.arange(1000.0)})["t"]
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(back, torch.arange(1000.0))


def test_a_foreign_file_is_read(tmp_path):
    safetensors.torch.save_file({"b": torch.ones(2), "a": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert set(read(tmp_path / "x.safetensors")) == {"a", "b"}


@pytest.mark.parametrize(
    "notes",
    [
        "not json",
        '{"order": ["t", "gone"]}',
        '{"order": ["t"], "ties": {"u": "gone"}}',
        '{"order": ["t"], "strides": {"t": [1]}}',
        '{"order": ["t"], "strides": {"t": [1000000, 1]}}',
        '{"order": ["t"], "strides": {"t": ["a", "b"]}}',
        "[]",
    ],
)
def test_inconsistent_layout_notes_are_an_error(tmp_path, notes):
    tensors = {"t": torch.ones(2, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"visloom": notes})
    with pytest.raises(ValueError, match=r"fit|Expecting"):
        read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"\x05\0\0\0\0\0\0\0{}"])
def test_garbage_is_an_error(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="not a safetensors file"):
        read(tmp_path / "x.safetensors")


def test_buffers_are_reused_and_given_back():
    buffers = Buffers()
    weight, step = torch.randn(4, 4), torch.tensor(1)
    first = buffers.copy({"m": pack({"w": weight, "s": step}, "")})["m"].tensors["w"]
    weight.add_(1)
    copied = buffers.copy({"m": pack({"w": weight}, "")})["m"].tensors
    assert copied["w"] is first
    assert torch.equal(first, weight)
    assert list(copied) == ["w"]
    other = buffers.copy({"m": pack({"w": weight.double()}, "")})["m"].tensors["w"]
    assert other is not first
    assert other.dtype is torch.float64


def test_dense_means_no_gap_and_no_overlap():
    assert is_dense((2, 3), (3, 1))
    assert is_dense((2, 3), (1, 2))
    assert is_dense((2, 1, 3), (3, 77, 1))
    assert is_dense((), ())
    assert not is_dense((2, 3), (1, 1))
    assert not is_dense((2, 3), (4, 1))
    assert not is_dense((2,), (-1,))
