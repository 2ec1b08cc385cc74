"""timm models by name: normalisation, weights from a file, errors in words, and six models through a step each.

Sixty models drawn at random are run by `benchmarks/timm_sixty.py`; its table is docs/timm_sixty.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from visloom.errors import ConfigError
from visloom.nets.backbone import create, expected
from visloom.sample import Sample
from visloom.tasks.classify import Classify, Timm

SMALL = (
    ("test_resnet", 64, {}),
    ("test_vit", 64, {"img_size": 64}),
    ("test_convnext", 64, {}),
    ("test_efficientnet", 64, {"drop_rate": 0.1, "drop_path_rate": 0.1}),
    ("lcnet_035", 32, {}),
    ("test_nfnet", 64, {}),
)


def batch_for(spec: Classify, side: int, count: int = 2):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    return spec.collate([Sample(f"s{i}", image, i % 3) for i, image in enumerate(images)], None)


@pytest.mark.parametrize(("name", "side", "options"), SMALL)
def test_a_model_by_name_takes_a_training_step(name: str, side: int, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    spec = Classify(net=Timm(name, options=options), classes=("a", "b", "c"))
    module = spec.build().train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    batch = batch_for(spec, side)
    before = [p.detach().clone() for p in module.parameters()]
    losses = module(batch)
    losses.terms["cross_entropy"].backward()
    optimizer.step()
    assert torch.isfinite(losses.terms["cross_entropy"])
    moved = sum(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert moved > len(before) / 4  # residual gains of zero keep some branches still in the first step
    assert module.eval().predict(batch)["probabilities"].shape == (2, 3)


def test_each_model_brings_its_own_normalisation() -> None:
    vit = expected("vit_tiny_patch16_224")
    assert vit.mean == pytest.approx((127.5,) * 3)
    assert (vit.size, vit.fixed, vit.interpolation) == ((224, 224), True, "bicubic")
    assert (
        expected("resnet18.tv_in1k").interpolation == "bilinear"
    )  # of these weights, not of the default ones
    assert expected("resnet18").interpolation == "bicubic"
    assert Classify(net=Timm("vit_tiny_patch16_224")).normalisation().std == pytest.approx((127.5,) * 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet1", r"no model named 'resnet1'; nearest: resnet18"),
        ("zzzzzz", r"no model named 'zzzzzz'\. "),
        ("resnet18.a9_in1k", r"no weights tagged 'a9_in1k'; it has a3_in1k, a2_in1k"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        create(name, 3)
    assert caught.value.path == "task.net.name"


def test_arguments_that_a_model_does_not_take_are_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot build test_resnet with dropp=1: .*dropp"):
        create("test_resnet", 3, options={"dropp": 1})
    with pytest.raises(ConfigError, match=r"num_classes is set by task\.classes"):
        create("test_resnet", 3, options={"num_classes": 4})
    with pytest.raises(ConfigError, match="not both"):
        create("test_resnet", 3, pretrained=True, weights="x.pth")


def test_a_picture_of_another_size_is_refused_in_words() -> None:
    spec = Classify(net=Timm("vit_tiny_patch16_224"), classes=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"images of 64x64 pixels.*img_size") as caught:
        spec.build()(batch_for(spec, 64))
    assert caught.value.path == "task.net"


def test_without_a_network_pretrained_weights_are_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import timm

    def offline(*args: object, **more: object) -> None:
        raise FileNotFoundError("cannot find the requested files; check your connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"check your connection.*set task\.net\.weights") as caught:
        create("test_resnet", 3, pretrained=True)
    assert caught.value.path == "task.net.pretrained"


def same(a: torch.nn.Module, b: torch.nn.Module, name: str) -> bool:
    return torch.equal(a.state_dict()[name], b.state_dict()[name])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_come_from_a_local_file(tmp_path: Path, ending: str) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    source = create("test_resnet", 5)
    file = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save(source.state_dict(), file)
    else:
        save_file(source.state_dict(), file)
    first = next(iter(source.state_dict()))
    equal = create("test_resnet", 5, weights=str(file))
    assert all(same(source, equal, name) for name in source.state_dict())
    other = create("test_resnet", 3, weights=str(file))  # another head, everything else loaded
    assert same(source, other, first)
    assert other.get_classifier().weight.shape[0] == 3
    gray = create("test_resnet", 5, 1, weights=str(file))
    assert gray.state_dict()[first].shape[1] == 1


def test_weights_without_a_head_load_under_a_new_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = create("test_resnet", 5)
    body = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
    torch.save(body, tmp_path / "body.pth")
    assert same(source, create("test_resnet", 3, weights=str(tmp_path / "body.pth")), next(iter(body)))


def test_files_of_another_network_are_refused_not_half_loaded(tmp_path: Path) -> None:
    torch.save(create("test_convnext", 3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"other\.pth does not fit timm's test_resnet: .*[Mm]issing"):
        create("test_resnet", 3, weights=str(tmp_path / "other.pth"))
    with pytest.raises(ConfigError, match="there is no weights file"):
        create("test_resnet", 3, weights=str(tmp_path / "none.pth"))
    (tmp_path / "torn.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"cannot read the weights file .*torn\.pth"):
        create("test_resnet", 3, weights=str(tmp_path / "torn.pth"))


class Harmful:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_a_weights_file_never_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(ConfigError, match="cannot read the weights file"):
        create("test_resnet", 3, weights=str(tmp_path / "bad.pth"))
