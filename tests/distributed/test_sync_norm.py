"""SyncNorm in two processes against torch's batch norm in one: outputs, gradients, running statistics, activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from tests.ranks import can_fork, spread
from visloom import dist
from visloom.errors import ConfigError
from visloom.keys import seed_torch
from visloom.syncnorm import SyncNorm, synchronised

pytestmark = can_fork
ROWS = (5, 2)  # samples of each process
CASES = {
    "images": (lambda: nn.BatchNorm2d(4), (4, 3, 3), torch.float32, 5e-6),
    "rows": (lambda: nn.BatchNorm1d(4), (4,), torch.float32, 5e-6),
    "no parameters": (lambda: nn.BatchNorm2d(4, affine=False, momentum=None), (4, 2, 2), torch.float32, 5e-6),
    "double": (lambda: nn.BatchNorm3d(4).double(), (4, 2, 1, 2), torch.float64, 1e-13),
    "far from zero": (lambda: nn.BatchNorm1d(4), (4, 6), torch.float32, 2e-3),
    "norm and activation": (lambda: BatchNormAct2d(4, act_layer=nn.SiLU), (4, 3, 3), torch.float32, 5e-6),
    "half precision": (lambda: nn.BatchNorm2d(4), (4, 3, 3), torch.bfloat16, 2e-2),
}


def computed(norm: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Two updates of the statistics, and the gradients of the second."""
    norm(x.detach() * 0.5)
    x = x.requires_grad_()
    y = norm(x)
    (y.float() * torch.linspace(-1, 1, y[0].numel()).view_as(y[0])).square().sum().backward()
    found = {"y": y.detach(), "dx": x.grad, **{f"d{n}": p.grad for n, p in norm.named_parameters()}}
    norm.eval()
    return {**found, "later": norm(x.detach()).detach(), **dict(norm.named_buffers())}


def case(name: str) -> tuple[nn.Module, Tensor]:
    make, shape, dtype, _ = CASES[name]
    seed_torch(5)
    x = torch.randn(sum(ROWS), *shape, dtype=torch.float32)
    return make(), (x * 3 + (3000 if name == "far from zero" else 1)).to(dtype)


def one_of_two() -> dict[str, Any]:
    found = {}
    rank = dist.world().rank
    for name in CASES:
        norm, x = case(name)
        (layer,) = synchronised(nn.Sequential(norm))
        assert isinstance(layer, SyncNorm) and layer.weight is norm.weight
        assert list(layer.state_dict()) == list(norm.state_dict())
        found[name] = computed(layer, x.split(ROWS)[rank].clone())
    return found


@pytest.fixture(scope="module")
def both() -> list[dict[str, Any]]:
    return spread(2, one_of_two)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_does(name, both):
    expected = computed(*case(name))
    halves, tolerance = [each[name] for each in both], CASES[name][3]
    for key, value in expected.items():
        if key in ("y", "dx", "later"):
            found = torch.cat([half[key] for half in halves])
        elif key.startswith("d"):
            found = halves[0][key] + halves[1][key]  # each has the gradient of its own samples
        else:
            assert torch.equal(halves[0][key], halves[1][key]), key
            found = halves[0][key]
        assert found.dtype == value.dtype, key
        scale = max(1.0, float(value.abs().max()))
        assert float((found - value).detach().abs().max()) <= tolerance * scale, key


class Centred(nn.BatchNorm2d):
    """A batch norm of one's own."""


def test_a_norm_of_its_own_kind_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"test_sync_norm\.Centred .*how\.sync_norm=false"):
        synchronised(nn.Sequential(nn.Conv2d(3, 4, 1), Centred(4)))


def test_on_gpus_torchs_own_layers_are_used_and_activations_stay():
    net = nn.Sequential(nn.BatchNorm2d(4), BatchNormAct2d(4, act_layer=nn.SiLU))
    made = dist.synchronise(net, torch.device("cuda"))
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in made)
    assert isinstance(made[1].act, nn.SiLU)
