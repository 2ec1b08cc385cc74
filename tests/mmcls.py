"""What tests of mmclassification share: the fixtures' weights, and checkpoints as it writes them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

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
