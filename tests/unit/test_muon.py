"""Muon: orthogonal steps whatever the gradient, one named tensor of state, decoupled decay."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from visloom.muon import Muon, orthogonalize, products


def make(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(weight: Tensor, grad: Tensor, **options: object) -> Tensor:
    """The weight after one step."""
    p = nn.Parameter(weight.clone())
    p.grad = grad.clone()
    Muon([p], **options).step()  # type: ignore[arg-type]
    return p.detach()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 40),
    columns=st.integers(2, 40),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_orthogonalize_makes_singular_values_near_one(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    # Singular values between 0.2 and 1 of the largest: there five rounds must have done their work.
    short = min(rows, columns)
    left = torch.linalg.qr(make((rows, short), seed).double())[0]
    right = torch.linalg.qr(make((columns, short), seed + 1).double())[0]
    spread = torch.linspace(0.2, 1.0, short, dtype=torch.float64)
    matrix = (left * spread) @ right.T * scale
    result = orthogonalize(matrix, steps=5, dtype=torch.float64)
    # In the basis of the matrix's own singular vectors the result is diagonal, and the diagonal is about one.
    inside = left.T @ result @ right
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-6)
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3
    assert torch.linalg.svdvals(result).max() < 1.3


def test_orthogonalize_ignores_scale_and_keeps_zero() -> None:
    matrix = make((8, 20)).double()
    assert torch.allclose(
        orthogonalize(matrix, dtype=torch.float64),
        orthogonalize(100 * matrix, dtype=torch.float64),
        atol=1e-5,
    )
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5, dtype=torch.bfloat16))


def test_bfloat16_stays_close_to_float64() -> None:
    matrix = make((32, 72))
    rough, exact = orthogonalize(matrix).double(), orthogonalize(matrix.double(), dtype=torch.float64)
    assert rough.shape == matrix.shape
    assert (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(("rows", "columns"), [(24, 216), (24, 48), (24, 47), (216, 24)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_long_matrices_come_to_what_the_rounds_of_the_source_give(
    rows: int, columns: int, dtype: torch.dtype, tolerance: float, steps: int
) -> None:
    matrix = make((rows, 3)) @ make((3, columns), 1) + 1e-3 * make(
        (rows, columns), 2
    )  # three large directions
    x = matrix.double() / (matrix.double().norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found = orthogonalize(matrix, steps, dtype).double()
    assert (found - x).abs().max() < tolerance * x.abs().max()


@pytest.mark.parametrize("steps", [5, 6, 8, 12])
def test_many_rounds_of_a_matrix_of_low_rank_stay_small(steps: int) -> None:
    matrix = make((64, 3)) @ make((3, 576), 1)  # rounding alone decides what becomes of the other directions
    assert torch.linalg.svdvals(orthogonalize(matrix, steps, torch.float32)).max() < 1.4


def test_tall_is_the_transpose_of_wide() -> None:
    matrix = make((24, 6)).double()
    assert torch.allclose(
        orthogonalize(matrix, dtype=torch.float64), orthogonalize(matrix.T, dtype=torch.float64).T, atol=1e-12
    )


def test_a_convolution_is_stepped_as_its_flattened_matrix() -> None:
    weight, grad = make((16, 8, 3, 3)), make((16, 8, 3, 3), 1)
    conv = stepped(weight, grad, lr=0.1)
    flat = stepped(weight.reshape(16, 72), grad.reshape(16, 72), lr=0.1)
    assert torch.equal(conv.reshape(16, 72), flat)
    values = torch.linalg.svdvals((weight - conv).reshape(16, 72) / 0.1)
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_memory_format_does_not_change_the_step() -> None:
    weight, grad = make((16, 8, 3, 3)), make((16, 8, 3, 3), 1)
    last = {"memory_format": torch.channels_last}
    p = nn.Parameter(weight.clone().to(**last))
    p.grad = grad.clone().to(**last)
    optimizer = Muon([p], lr=0.1)
    optimizer.step()
    assert torch.allclose(p.detach(), stepped(weight, grad, lr=0.1), atol=1e-6)
    assert p.is_contiguous(**last)
    assert optimizer.state[p]["momentum_buffer"].is_contiguous(**last)


def test_the_size_of_the_gradient_is_without_effect() -> None:
    weight, grad = make((6, 10)), make((6, 10), 1)
    assert torch.allclose(stepped(weight, grad, lr=0.1), stepped(weight, grad * 1024, lr=0.1), atol=1e-4)


def test_tall_matrices_are_stretched() -> None:
    weight, grad = torch.zeros(32, 8), make((32, 8), 1)
    moved = stepped(weight, grad, lr=0.1, precision="float32")
    expected = -0.1 * 2.0 * orthogonalize(grad, dtype=torch.float32)
    assert torch.allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_follows_its_formula(nesterov: bool) -> None:
    first, second = make((4, 9), 1), make((4, 9), 2)
    p = nn.Parameter(torch.zeros(4, 9))
    optimizer = Muon([p], lr=1.0, momentum=0.5, nesterov=nesterov, precision="float32")
    p.grad = first.clone()
    optimizer.step()
    before = p.detach().clone()
    p.grad = second.clone()
    optimizer.step()
    buffer = 0.5 * first + second
    direction = second + 0.5 * buffer if nesterov else buffer
    assert torch.allclose(before - p.detach(), orthogonalize(direction, dtype=torch.float32), atol=1e-5)
    assert torch.allclose(optimizer.state[p]["momentum_buffer"], buffer)


def test_weight_decay_is_decoupled() -> None:
    weight = make((4, 9))
    decayed = stepped(weight, torch.zeros(4, 9), lr=0.1, weight_decay=0.5)
    assert torch.allclose(decayed, weight * (1 - 0.1 * 0.5))
    grad = make((4, 9), 1)
    difference = stepped(weight, grad, lr=0.1) - stepped(weight, grad, lr=0.1, weight_decay=0.5)
    assert torch.allclose(
        difference, weight * 0.05, atol=1e-6
    )  # the direction of the step is untouched by it


def test_unit_norm_holds_the_weight_before_the_step() -> None:
    weight = make((16, 4, 3, 3)) * 7
    held = stepped(weight, torch.zeros_like(weight), lr=0.1, unit_norm=True)
    assert held.norm().item() == pytest.approx(4.0, rel=1e-5)  # sqrt(16 rows)
    assert torch.allclose(held / held.norm(), weight / weight.norm(), atol=1e-6)


def test_state_is_one_plain_tensor_and_restores_exactly() -> None:
    def run(
        steps: int, start: tuple[Tensor, dict[str, object]] | None = None, first: int = 0
    ) -> tuple[Tensor, dict[str, object]]:
        p = nn.Parameter(start[0].clone() if start else make((8, 4, 3, 3)))
        optimizer = Muon([p], lr=0.1, momentum=0.8, unit_norm=True)
        if start:
            optimizer.load_state_dict(start[1])
        for t in range(first, first + steps):
            p.grad = make((8, 4, 3, 3), 100 + t)
            optimizer.step()
        assert set(optimizer.state[p]) == {"momentum_buffer"}
        assert optimizer.state[p]["momentum_buffer"].shape == p.shape
        return p.detach(), optimizer.state_dict()

    whole, saved = run(6)
    assert json.loads(json.dumps(saved["param_groups"])) == saved["param_groups"]
    resumed, _ = run(3, start=run(3), first=3)
    assert torch.equal(whole, resumed)


def test_parameters_without_gradient_are_left_alone() -> None:
    p = nn.Parameter(make((4, 9)))
    before = p.detach().clone()
    optimizer = Muon([p], weight_decay=0.5)
    assert optimizer.step() is None
    assert torch.equal(p.detach(), before)
    assert p not in optimizer.state


def test_closure_is_called_with_gradients_on() -> None:
    p = nn.Parameter(make((4, 9)))
    optimizer = Muon([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_use_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\).*another optimizer"):
        Muon([nn.Parameter(torch.zeros(5))])
    weight = nn.Parameter(torch.zeros(2, 2))
    for key, value in {
        "lr": -1.0,
        "momentum": 1.0,
        "weight_decay": -0.1,
        "steps": 0,
        "precision": "int8",
    }.items():
        with pytest.raises(ValueError, match=f"{key} must"):
            Muon([weight], **{key: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{key} must"):
            Muon([{"params": [weight], key: value}])
    weight.grad = torch.zeros(2, 2).to_sparse()
    with pytest.raises(ValueError, match="dense"):
        Muon([weight]).step()


def test_products_are_made_in_a_type_that_the_device_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bfloat16 takes many times as long for it as for float32."""
    cpu = torch.device("cpu")
    for native in (False, True):
        monkeypatch.setattr("visloom.device._cpu_bf16", lambda native=native: native)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda native=native: native)
        assert products("auto", cpu) is (torch.bfloat16 if native else torch.float32)
    assert products("bfloat16", cpu) is torch.bfloat16
