"""Checkpoints of mmclassification go on here: training with their moments, evaluation on the data of their config."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from tests import mmcls
from visloom.checkpoint import Checkpoints
from visloom.cli import main
from visloom.data.mnist import Mnist
from visloom.nets.lenet import LeNet5
from visloom.tasks.classify import ResNetCifar

MNIST_CONFIG = """
model = dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=10), neck=None,
             head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
pipeline = [
    dict(type='Normalize', mean=[33.46], std=[78.87], to_rgb=True),
    dict(type='ImageToTensor', keys=['img']), dict(type='ToTensor', keys=['gt_label']),
    dict(type='Collect', keys=['img', 'gt_label'])]
data = dict(
    samples_per_gpu=20, workers_per_gpu=0,
    train=dict(type='MNIST', data_prefix='data/mnist', pipeline=pipeline))
optimizer = dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', step=[3])
runner = dict(type='EpochBasedRunner', max_epochs=5)
"""


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def digits(tmp_path):
    """Twenty digits, all of which are one batch: their order changes nothing. images (20, 32, 32) uint8."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32), np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    return images, labels


class Old(nn.Module):
    """The original's module, as far as names go."""

    def __init__(self):
        super().__init__()
        self.backbone = LeNet5(num_classes=10)


def steps(model, optimizer, digits, rates):
    """Train by hand; returns the losses."""
    image = (torch.from_numpy(digits[0])[:, None].float() - 33.46) / 78.87
    label = torch.from_numpy(digits[1]).long()
    losses = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = functional.cross_entropy(model.backbone(image), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.0001)


@pytest.mark.parametrize("named", [True, False])
def test_resume_goes_on_with_the_moments_as_torch_does_by_hand(tmp_path, digits, named):
    torch.manual_seed(0)
    model = Old()
    optimizer = sgd(model)
    steps(model, optimizer, digits, [0.5, 0.5])
    meta = {
        "config": MNIST_CONFIG,
        "mmcls_version": "0.8.0",
        "epoch": 2,
        "iter": 2,
    }
    if named:
        meta["CLASSES"] = Mnist().classes()
    kept = {"meta": meta, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(kept, tmp_path / "epoch_2.pth")
    out = tmp_path / "ckpt"
    assert main(["import-checkpoint", "mmcls", str(tmp_path / "epoch_2.pth"), "--out", str(out)]) == 0
    words = ["--data", str(tmp_path / "mnist"), "--device", "cpu", "--log-level", "error"]
    assert main(["resume", str(out), *words, "length=steps:4", "log.every=steps:1"]) == 0
    told = f"classes are matched by their order: '0' of task.classes is {Mnist().classes()[0]!r}"
    assert (told in (out / "log.txt").read_text()) is not named
    # by hand: the third epoch with the old learning rate, the fourth with a tenth of it
    losses = steps(model, optimizer, digits, [0.5, 0.05])
    state = Checkpoints(out / "checkpoints").load()
    assert state.step == 4
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == [3, 4]
    assert [row["values"]["loss"] for row in trained] == pytest.approx(losses, rel=1e-5)
    for name, value in model.backbone.named_parameters():
        torch.testing.assert_close(
            state.tensors["model"][f"net.{name}"], value.detach(), rtol=1e-5, atol=1e-6
        )
        buffer = optimizer.state[value]["momentum_buffer"]
        ours = state.tensors["optim"][f"net.{name}/momentum_buffer"]
        torch.testing.assert_close(ours, buffer, rtol=1e-4, atol=1e-6)
    # without the moments it would have gone elsewhere
    fresh = Old()
    fresh.load_state_dict(torch.load(tmp_path / "epoch_2.pth", weights_only=True)["state_dict"])
    steps(fresh, sgd(fresh), digits, [0.5, 0.05])
    far = max((a - b).abs().max().item() for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    assert far > 1e-3


FOLDER_CONFIG = (
    mmcls.CIFAR_CONFIG.replace("'CIFAR10'", "'ImageNet'")
    .replace("num_classes=10", "num_classes=3")
    .replace("data_prefix='data/cifar10', pipeline=train", "data_prefix='data/set/train', pipeline=train")
    .replace("data_prefix='data/cifar10', pipeline=test", "data_prefix='data/set/val', pipeline=test")
    .replace("    dict(type='Normalize'", "    dict(type='LoadImageFromFile'),\n    dict(type='Normalize'")
)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["ant", "bee", "cat"], ["ant", "bee", "cat"]),
        (["n01440764", "n01443537", "n01484850"], ["tench", "goldfish", "great white shark"]),
        (["n01440764", "n01443537", "n01484850"], None),  # a file without names
    ],
)
def test_evaluate_on_folders_counts_what_the_network_says(tmp_path, names, classes):
    torch.manual_seed(0)
    net = ResNetCifar(18).build(3, 3).eval()
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in names:
            (tmp_path / "set" / part / name).mkdir(parents=True)
    pictures, labels = [], []
    for number in range(9):
        image = draw.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"set/val/{names[number % 3]}/{number}.png")
        Image.fromarray(image).save(tmp_path / f"set/train/{names[number % 3]}/{number}.png")
        pictures.append(image)
        labels.append(number % 3)
    mean, std = torch.tensor([125.307, 122.961, 113.8575]), torch.tensor([51.5865, 50.847, 51.255])
    x = ((torch.from_numpy(np.stack(pictures)).float() - mean) / std).permute(
        0, 3, 1, 2
    )  # (9, 3, 32, 32), RGB
    with torch.no_grad():
        # a head that tells pictures apart, so that the count is neither all nor nothing
        net.fc.weight.mul_(50)
        net.fc.bias.zero_().sub_(net(x).mean(0))
        right = int((net(x).argmax(1) == torch.tensor(labels)).sum())
        flipped = int((net(x.flip(1)).argmax(1) == torch.tensor(labels)).sum())
    assert 0 < right < 9 and right != flipped  # the order of the colours counts
    meta = {"config": FOLDER_CONFIG} | ({} if classes is None else {"CLASSES": classes})
    torch.save({"meta": meta, "state_dict": mmcls.old_names(ResNetCifar(18), net)}, tmp_path / "a.pth")
    assert main(["import-checkpoint", "mmcls", str(tmp_path / "a.pth"), "--out", str(tmp_path / "ckpt")]) == 0
    words = ["--data", str(tmp_path / "set"), "--device", "cpu", "--json", str(tmp_path / "found.json")]
    assert main(["evaluate", str(tmp_path / "ckpt"), *words]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["evaluations"]["val"]
    assert found["count"] == 9 and found["values"]["accuracy"] == pytest.approx(right / 9)
