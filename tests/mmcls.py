"""What tests of mmclassification share: the fixtures' weights and module, checkpoints and groups as it makes them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from visloom.convert.mmcls import zoo

CIFAR_CONFIG = '''
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512,
              loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
dataset_type = 'CIFAR10'
img_norm_cfg = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)
train_pipeline = [
    dict(type='RandomCrop', size=32, padding=4),
    dict(type='RandomFlip', flip_prob=0.5, direction='horizontal'),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='ImageToTensor', keys=['img']), dict(type='ToTensor', keys=['gt_label']),
    dict(type='Collect', keys=['img', 'gt_label'])
]
test_pipeline = [
    dict(type='Normalize', **img_norm_cfg),
    dict(type='ImageToTensor', keys=['img']),
    dict(type='Collect', keys=['img'])
]
data = dict(
    samples_per_gpu=16, workers_per_gpu=2,
    train=dict(type=dataset_type, data_prefix='data/cifar10', pipeline=train_pipeline),
    val=dict(type=dataset_type, data_prefix='data/cifar10', pipeline=test_pipeline, test_mode=True),
    test=dict(type=dataset_type, data_prefix='data/cifar10', pipeline=test_pipeline, test_mode=True))
optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', step=[100, 150])
runner = dict(type='EpochBasedRunner', max_epochs=200)
checkpoint_config = dict(interval=1)
log_config = dict(interval=100, hooks=[dict(type='TextLoggerHook')])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
'''  # fmt: skip


def models(shared: Path) -> dict[str, dict]:
    """The 12 recorded models."""
    return json.loads((shared / "parity" / "mmcls_models.json").read_text())


def tensor(key: str, shape: list[int]) -> torch.Tensor:
    """The recorded models' weights: a function of key and shape."""
    rng = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        values = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
        values = rng.uniform(0.5, 1.0, shape) if key.endswith("weight") else rng.normal(0, 0.05, shape)
    else:
        values = rng.normal(0, (2.0 / int(np.prod(shape[1:]))) ** 0.5 * 0.7, shape)
    return torch.from_numpy(values.astype(np.float32))


def state_dict(model: dict) -> dict[str, torch.Tensor]:
    """A recorded model's checkpoint."""
    return {key: tensor(key, shape) for key, shape in model["keys"]}


def pictures(model: dict) -> torch.Tensor:
    """A recorded model's input: (B, C, H, W)."""
    values = np.random.RandomState(7).normal(0, 1, model["input_shape"])
    return torch.from_numpy(values.astype(np.float32))


def old_names(spec: object, net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A network's tensors as mmclassification calls them."""
    return {zoo.old_name(spec, name): tensor for name, tensor in net.state_dict().items()}


# --- paramwise options: the recorded module, and groups as mmcv's constructor makes them, one per parameter

LR, DECAY = 0.1, 0.01


class Recorded(nn.Module):
    """The module of the recorded groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.dw = nn.Conv2d(8, 8, 3, groups=8)
        self.bn = nn.BatchNorm2d(8)
        self.gn = nn.GroupNorm(2, 8)
        self.ln = nn.LayerNorm(8)
        self.inorm = nn.InstanceNorm2d(8, affine=True)
        self.gray = nn.Conv2d(1, 4, 3)
        self.sub = nn.Module()
        self.sub.fc = nn.Linear(8, 4)
        self.sub.fc2 = self.sub.fc
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.raw = nn.Parameter(torch.zeros(3))


class ModulatedDeformConv2d(nn.Module):
    """Stands for mmcv's deformable convolution, which holds the one that predicts its offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))
        self.bias = nn.Parameter(torch.zeros(4))
        self.conv_offset = nn.Conv2d(4, 27, 3)


def groups(module: nn.Module, options: dict, prefix: str = "", below_dcn: bool = False, seen=None) -> dict:
    """Learning rate and decay by first name, walking down as the original does."""
    seen = {} if seen is None else seen
    found = {}
    is_norm = isinstance(
        module,
        nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm | nn.GroupNorm | nn.LayerNorm,
    )
    keys = sorted(options.get("custom_keys", {}))
    keys.sort(key=lambda key: -len(key))
    for local, parameter in module.named_parameters(recurse=False):
        name = f"{prefix}.{local}"
        if id(parameter) in seen or not parameter.requires_grad:
            continue
        seen[id(parameter)] = name
        lr = decay = 1.0
        key = next((key for key in keys if key in name), None)
        if key is not None:
            entry = options["custom_keys"][key]
            lr, decay = entry.get("lr_mult", 1.0), entry.get("decay_mult", 1.0)
        else:
            if local == "bias" and not is_norm and not below_dcn:
                lr = options.get("bias_lr_mult", 1.0)
            if "conv_offset" in prefix and below_dcn and isinstance(module, nn.Conv2d):
                lr = options.get("dcn_offset_lr_mult", 1.0)
            if is_norm:
                decay = options.get("norm_decay_mult", 1.0)
            elif isinstance(module, nn.Conv2d) and module.in_channels == module.groups:
                decay = options.get("dwconv_decay_mult", 1.0)
            elif local == "bias" and not below_dcn:
                decay = options.get("bias_decay_mult", 1.0)
        found[name.lstrip(".")] = (LR * lr, DECAY * decay)
    inside = isinstance(module, ModulatedDeformConv2d)
    for child_name, child in module.named_children():
        deeper = f"{prefix}.{child_name}" if prefix else child_name
        found.update(groups(child, options, deeper, inside, seen))
    return found
