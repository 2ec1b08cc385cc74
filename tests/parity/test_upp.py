"""The original's UPerNet (`upp_resnet50` of the shared fixtures): features, heads, every loss and training metric."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(os.environ.get("VISLOOM_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
FIXTURE = SHARED / "parity" / "upp_resnet50.npz"

pytestmark = pytest.mark.skipif(not FIXTURE.is_file(), reason="the fixture upp_resnet50 is not there")


@pytest.fixture(scope="module")
def fixture():
    with np.load(FIXTURE) as held:
        return {name: held[name] for name in held.files}


@pytest.fixture(scope="module")
def task():
    sys.path.insert(0, str(SHARED / "parity"))
    try:
        import fill
    finally:
        sys.path.pop(0)
    keys = json.loads((SHARED / "parity" / "upp_resnet50.keys.json").read_text())
    made = spec().build()
    drop = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")
    tensors = {
        f"net.{part}.{name}": torch.from_numpy(fill.tensor(name, shape))
        for part in ("encoder", "decoder")
        for name, shape in keys[part].items()
        if not name.endswith(drop)
    }
    made.load_state_dict(tensors)
    return made.double().eval()  # logits reach 170: in float32 the loss of one picture is exact to 2e-5 only


def table(name):
    with tarfile.open(SHARED / "data" / "broden_meta.tar.gz") as tar:
        text = tar.extractfile(f"meta_file/joint_dataset/{name}.csv").read().decode()
    return list(csv.DictReader(io.StringIO(text)))


def spec():
    from visloom.tasks.parse import Parse, Parts, PartsOf, Pixels, Uper, Whole

    parts = tuple(
        PartsOf(row["object_name"], tuple(row["part_names"].split(";")[1:]))
        for row in table("object_part_hierarchy")
    )
    objects, materials, scenes = (tuple(r["name"] for r in table(n)) for n in ("object", "material", "scene"))
    return Parse(
        net=Uper("resnet50", pooling="precise", order="upsample"),
        heads=(
            Pixels(name="object", classes=objects, void=True),
            Parts(name="part", of="object", parts=parts),
            Whole(name="scene", classes=scenes),
            Pixels(name="material", classes=materials, at="finest", void=True),
        ),
    )


def batch_of(fixture, kind, heads, blocks):
    """The fixture's labels as a batch of ours: void is -1, parts are numbered through."""
    from visloom.tasks.parse import ParseBatch

    def label(name):
        return torch.from_numpy(fixture[f"{kind}_batch_{name}"])

    objects, local, valid = label("seg_object"), label("seg_part"), label("valid_part")
    part = torch.full_like(objects, -1)
    for number, (start, _, code, _) in enumerate(blocks):
        inside = (objects == code) & (valid[:, number] > 0)[:, None, None]
        part = torch.where(inside, start + local, part)
    material = label("seg_material")
    occurring = tuple(
        n for n, (start, stop, *_) in enumerate(blocks) if ((part >= start) & (part < stop)).any()
    )
    masks = {"object": torch.where(objects > 0, objects, -1), "part": part}
    masks["material"] = torch.where(material > 0, material, -1)
    return ParseBatch(
        ids=("0",),
        image=torch.zeros(1, 96, 128, 3, dtype=torch.uint8),
        sizes=((96, 128),),
        heads=heads,
        masks={name: mask.to(torch.int16) for name, mask in masks.items() if name in heads},
        labels={"scene": label("scene_label")} if "scene" in heads else {},
        blocks={"part": occurring} if "part" in heads else {},
    )


def close(found, wanted, tolerance):
    """Within a share of the largest wanted value."""
    wanted = torch.from_numpy(wanted)
    return float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@torch.no_grad()
def test_features_heads_losses_and_metrics(fixture, task):
    image = torch.from_numpy(fixture["image"]).double()
    maps = task.net.encoder(image)
    for level, each in enumerate(maps):
        assert close(each[:, ::16], fixture[f"feature{level}_sample"], 1e-4), f"feature {level}"
    names = ("object", "part", "scene", "material")
    logits = task.net(image, names)
    every = {name: value[..., ::4, ::4] if value.ndim == 4 else value for name, value in logits.items()}
    sizes = task.heads["part"].sizes
    chances = {name: value.log_softmax(1) for name, value in every.items() if name != "part"}
    chances["part"] = torch.cat([each.log_softmax(1) for each in every["part"].split(sizes, 1)], 1)
    for name in names:
        assert close(chances[name], fixture[f"logprob_{name}"], 1e-4), name

    batch = batch_of(fixture, "object", ("object", "part", "scene"), task.blocks["part"])
    assert len(batch.blocks["part"]) == 2  # two objects with valid parts
    losses = task._losses(task._tallies(logits, batch), batch, {})
    for name, weight in (("object", 1.0), ("part", 0.5), ("scene", 0.25)):
        found, wanted = float(losses.terms[name]) / weight, float(fixture[f"object_batch_loss_{name}"])
        assert found == pytest.approx(wanted, rel=1e-5), name
        assert float(losses.logs[f"{name}_accuracy"]) == pytest.approx(
            float(fixture[f"object_batch_metric_{name}"]), abs=1e-6
        ), name
    assert float(sum(losses.terms.values())) == pytest.approx(
        float(fixture["object_batch_loss_total"]), rel=1e-5
    )

    seen = task.net(torch.from_numpy(fixture["image_material"]).double(), ("material",))
    assert set(seen) == {"material"}
    batch = batch_of(fixture, "material", ("material",), task.blocks["part"])
    losses = task._losses(task._tallies(seen, batch), batch, {})
    assert float(losses.terms["material"]) == pytest.approx(
        float(fixture["material_batch_loss_material"]), rel=1e-5
    )
    assert float(losses.logs["material_accuracy"]) == pytest.approx(
        float(fixture["material_batch_metric_material"]), abs=1e-6
    )
