"""The fusion task: association against a loop, mirroring, decoding what targets say, training, evaluation."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fusion import NARROW, heads_of
from visloom.data.nuscenes.names import ATTRIBUTES
from visloom.data.scene3d import FlipScene, Frame, GuessedDepth, Within
from visloom.data.space import project
from visloom.errors import ConfigError, DataError
from visloom.nets.dla import DlaTrunk, TimmTrunk
from visloom.sample import Sample
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.batch import Targets
from visloom.tasks.fusion3d.decode import decode
from visloom.tasks.fusion3d.frustum import associate

SPEC = Fusion3d(net=NARROW, hidden=8)


def scene(seed: int = 0, boxes: int = 3, size: tuple[int, int] = (128, 224)) -> Sample:
    """A scene sample whose boxes lie before the camera, each with radar returns on it."""
    draws = np.random.default_rng(seed)
    height, width = size
    lens = np.array([[180.0, 0, width / 2 + 3, 0], [0, 180, height / 2 + 2, 0], [0, 0, 1, 0]])
    center = np.stack(
        [draws.uniform(-6, 6, boxes), draws.uniform(0.2, 1, boxes), draws.uniform(12, 40, boxes)], 1
    )
    dims = draws.uniform(1.2, 4, (boxes, 3))
    yaw = draws.uniform(-3, 3, boxes)
    pixel = project(lens, center)[:, :2]
    half = 0.5 * 180 * dims[:, [1, 0]] / center[:, 2:]
    radar = np.concatenate([center, draws.uniform(-5, 5, (boxes, 2)), np.zeros((boxes, 2))], 1).astype(
        np.float32
    )
    extra = {
        "radar": radar, "lens": lens, "picture": size, "pose": np.eye(4), "token": f"t{seed}", "camera": "CAM_FRONT",
        "mirrored": False, "truth": None, "box_center": center, "box_dims": dims, "box_yaw": yaw, "box_alpha": yaw,
        "box_velocity": draws.uniform(-5, 5, (boxes, 3)), "box_attribute": np.full(boxes, 6),
    }  # fmt: skip
    framed = np.concatenate([pixel - half, pixel + half], 1).astype(np.float32)
    image = draws.integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Sample(
        id=f"s{seed}", image=image, boxes=framed, labels=draws.integers(0, 5, boxes), calib=lens, extra=extra
    ).clip_boxes()


def slow(raster, box, depth, reach, middle=0.3):
    """The association as a loop over boxes, far boxes first."""
    out = torch.zeros_like(raster)
    for b in range(len(box)):
        for k in depth[b].argsort(descending=True, stable=True).tolist():
            x0, y0, x1, y1 = box[b, k].tolist()
            left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
            part = raster[b, :, top : max(0, math.ceil(y1) + 1), left : max(0, math.ceil(x1) + 1)]
            low = max(0.0, float(depth[b, k] - reach[b, k]))
            fits = (part[0] > low) & (part[0] < float(depth[b, k] + reach[b, k])) & (part[0] != 0)
            if not fits.any():
                continue
            values = part.flatten(1)[:, torch.where(fits, part[0], math.inf).flatten().argmin()]
            cx, cy, hw, hh = (x0 + x1) / 2, (y0 + y1) / 2, middle * (x1 - x0) / 2, middle * (y1 - y0) / 2
            rows = slice(max(0, math.floor(cy - hh)), max(0, math.floor(cy + hh) + 1))
            columns = slice(max(0, math.floor(cx - hw)), max(0, math.floor(cx + hw) + 1))
            out[b, :, rows, columns] = (values / torch.tensor([60.0, 1, 1]))[:, None, None]
    return out


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_association_is_the_loop_over_boxes(seed, count):
    draws = torch.Generator().manual_seed(seed)
    raster = torch.zeros(2, 3, 12, 20)
    hits = torch.rand(2, 12, 20, generator=draws) < 0.1
    raster[:, 0][hits] = (torch.randint(1, 40, (int(hits.sum()),), generator=draws)).float()
    raster[:, 1:] = torch.randn(2, 2, 12, 20, generator=draws) * hits[:, None]
    corner = torch.rand(2, count, 2, generator=draws) * torch.tensor([26.0, 18]) - 4
    box = torch.cat([corner, corner + torch.rand(2, count, 2, generator=draws) * 12], -1)
    depth = torch.rand(2, count, generator=draws) * 40
    reach = torch.rand(2, count, generator=draws) * 8
    found = associate(raster, box, depth, reach, torch.ones(2, count, dtype=torch.bool), scale=(60, 1, 1))
    assert torch.equal(found, slow(raster, box, depth, reach))
    none = associate(raster, box, depth, reach, torch.zeros(2, count, dtype=torch.bool), scale=(60, 1, 1))
    assert not none.any()


def test_decoding_says_what_was_annotated():
    sample = Frame(size=(128, 224), shift=0.05)(scene(1), 3)
    batch = SPEC.collate([sample.resolve()], None)
    found = decode(
        heads_of(batch.targets, SPEC),
        batch.calib,
        torch.tensor(SPEC.allowed()),
        stride=4,
        count=5,
        compat=SPEC.compat,
    )
    true = sample.resolve().extra
    count = int((found.score > 0).sum())
    assert count == len(true["box_center"]) > 0
    away = np.linalg.norm(found.center[0, :count, None].numpy() - true["box_center"], axis=-1)
    best = away.argmin(1)
    assert sorted(best) == list(range(count)) and away.min(1).max() < 1e-3
    assert np.allclose(found.velocity[0, :count], true["box_velocity"][best], atol=1e-5)
    turn = found.yaw[0, :count].numpy() - true["box_yaw"][best]
    assert np.allclose((turn + np.pi) % (2 * np.pi), np.pi, atol=1e-4)


def test_a_mirrored_scene_is_the_mirror_image_of_everything():
    sample, flip = scene(2), FlipScene(p=1.0)
    other = flip(sample, 0).resolve()
    assert np.array_equal(other.image, sample.image[:, ::-1])
    assert np.allclose(other.boxes[:, [0, 2]], 224 - sample.boxes[:, [2, 0]])
    a, b = project(sample.calib, sample.extra["box_center"]), project(other.calib, other.extra["box_center"])
    assert np.allclose(b[:, 0], 224 - a[:, 0]) and np.allclose(b[:, 1:], a[:, 1:])
    assert np.allclose(other.extra["box_velocity"], sample.extra["box_velocity"] * (-1, 1, 1))
    assert np.allclose(other.extra["radar"][:, 3], -sample.extra["radar"][:, 3])
    back = flip(other, 0).resolve()
    assert np.array_equal(back.image, sample.image) and np.allclose(back.calib, sample.calib)
    assert np.allclose(np.cos(back.extra["box_yaw"] - sample.extra["box_yaw"]), 1)
    first, second = SPEC.collate([sample], 1), SPEC.collate([other], 1)
    assert torch.allclose(first.targets.depth, second.targets.depth)
    assert (first.radar[0, 0] > 0).sum() == pytest.approx(int((second.radar[0, 0] > 0).sum()), rel=0.2)


def test_it_learns_and_answers_and_flips():
    torch.manual_seed(0)
    task = SPEC.build()
    batch = SPEC.collate([scene(i) for i in range(4)], 5)
    optimizer = torch.optim.Adam(task.parameters(), 1e-3)
    sums = []
    for _ in range(20):
        losses = task(batch)
        total = sum(losses.terms.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        sums.append(total.item())
    assert np.isfinite(sums).all() and min(sums[-3:]) < 0.9 * sums[0]
    assert set(losses.terms) >= {
        "heat",
        "depth",
        "depth/secondary",
        "rotation/secondary",
        "velocity",
        "attribute",
    }
    task.eval()
    with torch.no_grad():
        _, found = task.assess(batch)
        assert found["center"].shape == (4, 100, 3) and found["box"].shape == (4, 100, 4)
        again = task.predict(batch)
        assert all(torch.equal(found[n], again[n]) for n in ("score", "center", "velocity"))
        task.spec = dataclasses.replace(SPEC, flip_test=True)
        both = task.predict(batch)
    assert not torch.equal(both["score"], found["score"]) and both["center"].isfinite().all()
    row = {name: values[0] for name, values in found.items() if name not in ("ids", "tokens", "cameras")}
    drawn = SPEC.draw(scene(0).image, {**row, "score": row["score"] + 1}, scene(0))
    assert drawn.size[0] > 600 and len(drawn.getcolors(10**6)) > 50


def test_heads_in_annotated_cells_are_the_maps_read_there():
    """Training computes heads in the annotated cells alone: losses and gradients are those of whole maps."""
    torch.manual_seed(2)
    task, twin = SPEC.build(), SPEC.build()
    twin.load_state_dict(task.state_dict())
    batch = SPEC.collate([scene(i, boxes=6) for i in range(3)], 1)
    edge = batch.targets.index[0]  # a corner and a side of the map: what lies outside is zero
    edge[:2] = torch.tensor([0, 55 * 32 - 1])
    cells = task(batch).terms
    features = twin.features(batch)
    maps = twin._losses(twin.first(features), twin.second(features, batch.found), batch).terms
    assert list(cells) == list(maps)
    for name, value in maps.items():
        assert cells[name].item() == pytest.approx(value.item(), rel=1e-5), name
    sum(cells.values()).backward()
    sum(maps.values()).backward()
    for (name, one), other in zip(task.named_parameters(), twin.parameters(), strict=True):
        if other.grad is not None:
            most = float(other.grad.abs().max())
            assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * max(most, 1.0)), name


def test_slack_widens_the_window_with_distance():
    """A box whose guessed depth is 10 % off finds its radar only with slack, in training and evaluation alike."""
    sample = scene(6, boxes=1)
    depth = sample.extra["box_center"][0, 2]
    sample.extra["radar"][:, 2] = 1.1 * depth
    sample.extra["radar"][:, :2] = 1.1 * sample.extra["box_center"][:, :2]  # the same ray
    sample.extra["box_dims"][:] = 0.5
    wide = dataclasses.replace(SPEC, slack=0.15)
    found = [spec.collate([sample], 1).found[0, 0].max().item() for spec in (SPEC, wide)]
    assert found == [0, pytest.approx(1.1 * depth / 60, rel=1e-5)]
    for spec, expected in zip((SPEC, wide), found, strict=True):
        task, batch = spec.build(), spec.collate([sample], 1)
        heads = heads_of(batch.targets, spec)
        heads["heat"] = torch.logit(heads["heat"], 1e-6)
        heads["depth"] = -heads["depth"].clamp_min(1e-3).log()
        assert task.associated(heads, batch)[0, 0].max().item() == pytest.approx(expected, rel=1e-3)


def test_radar_is_sought_where_the_camera_might_guess_the_box():
    """A guess moves where a box looks for radar, keyed; not what the network learns of the box."""
    sample = scene(6, boxes=3)
    guess = GuessedDepth(deviation=0.3)
    moved = guess(sample, 11)
    assert np.array_equal(moved.extra["box_sought"], guess(sample, 11).extra["box_sought"])
    assert not np.allclose(moved.extra["box_sought"], guess(sample, 12).extra["box_sought"])
    plain, other = (SPEC.collate([each], 1) for each in (sample, moved))
    for name in Targets._fields:
        same = torch.equal(getattr(plain.targets, name), getattr(other.targets, name))
        assert same == (name != "sought"), name
    assert torch.equal(plain.targets.sought, plain.targets.depth[..., 0]) and plain.found.any()
    far = sample.replace(extra={**sample.extra, "box_sought": sample.extra["box_center"][:, 2] + 1000})
    assert not SPEC.collate([far], 1).found.any()
    logs = [
        np.log(guess(sample, k).extra["box_sought"] / sample.extra["box_center"][:, 2]) for k in range(400)
    ]
    assert np.std(logs) == pytest.approx(0.3, rel=0.1)
    with pytest.raises(ValueError, match="not negative"):
        GuessedDepth(deviation=-1)


def test_cells_around_the_middle_learn_the_same_box():
    """Own cells come first and are as without `spread`; neighbours inside the box point to the same places."""
    sample, wide = scene(8, boxes=5), dataclasses.replace(SPEC, spread=1)
    plain, more = (spec.collate([sample], 1).targets for spec in (SPEC, wide))
    count, cells = int(plain.valid.sum()), int(more.valid.sum())
    assert count == 5 < cells <= 9 * count
    for name in plain._fields:
        if name != "heat":
            assert torch.equal(getattr(more, name)[:, :count], getattr(plain, name)[:, :count]), name
    assert torch.equal(plain.heat, more.heat)
    at = torch.stack([more.index[0] % 56, more.index[0] // 56], 1)[:cells]
    for name in ("center", "offset"):
        place = at + getattr(more, name)[0, :cells]
        assert torch.cdist(place, place[:count]).min(1).values.max() < 1e-4, name
    away = (at[:, None] - at[None, :count]).abs().max(2).values
    assert (away[count:].min(1).values == 1).all()  # beside a box's own cell, and nobody's own
    torch.manual_seed(3)
    task = SPEC.build()
    heat = [task(spec.collate([sample], 1)).terms["heat"].item() for spec in (SPEC, wide)]
    assert heat[0] == heat[1]  # a neighbour is no peak
    few = dataclasses.replace(wide, slots=7).collate([sample], 1).targets
    assert int(few.valid.sum()) == 7


def test_wider_gaussians_overlap_less():
    sample = scene(9)
    sums = [
        float(dataclasses.replace(SPEC, overlap=overlap).collate([sample], 1).targets.heat.sum())
        for overlap in (0.7, 0.3)
    ]
    assert sums[1] > sums[0]
    with pytest.raises(ValueError, match="overlap lies"):
        Fusion3d(overlap=1.0)


def test_flip_test_of_a_symmetric_network_changes_nothing_of_a_symmetric_picture():
    """What the mirrored picture says comes back to the same cells: depth and score agree on both sides."""
    torch.manual_seed(1)
    task = dataclasses.replace(SPEC, radar=False).build().eval()
    batch = dataclasses.replace(SPEC, radar=False).collate([scene(4)], None)
    with torch.no_grad():
        heads = task._final(task.first(task.features(batch)))
        turned = dataclasses.replace(batch, image=batch.image.flip(2))
        mirrored = task._mirrored(turned)
    assert torch.allclose(mirrored["heat"].flip(3), heads["heat"], atol=1e-5)


def test_no_boxes_no_radar_and_no_annotation_at_all():
    empty = scene(0, boxes=0)
    batch = SPEC.collate([empty, empty], 1)
    losses = SPEC.build()(batch)
    assert float(losses.count) == 0 and all(torch.isfinite(v) for v in losses.terms.values())
    sum(losses.terms.values()).backward()
    assert not batch.found.any()
    bare = scene(3).replace(boxes=None, labels=None)
    assert int(SPEC.collate([bare], None).targets.valid.sum()) == 0


def test_far_boxes_can_be_left_out():
    sample = scene(7, boxes=6)
    far = np.sort(sample.extra["box_center"][:, 2])[2] + 1e-6
    near = Within(depth=float(far))(sample, 0)
    assert len(near.boxes) == len(near.labels) == len(near.extra["box_yaw"]) == 3
    assert near.extra["box_center"][:, 2].max() < far and len(near.extra["radar"]) == 6
    assert int(SPEC.collate([near], 1).targets.valid.sum()) == 3
    assert Within(depth=1000.0)(sample, 0) is sample
    with pytest.raises(ValueError, match="positive"):
        Within(depth=0.0)


def test_unknown_velocities_are_left_out():
    sample = scene(5)
    sample.extra["box_velocity"][0] = np.nan
    batch = SPEC.collate([sample], 1)
    assert batch.targets.velocity_known[0, :3].sum() == int(batch.targets.valid.sum()) - 1
    assert all(torch.isfinite(v) for v in SPEC.build()(batch).terms.values())


def test_bad_input_is_named():
    with pytest.raises(DataError, match=r"'s1'.*Frame"):
        SPEC.collate([scene(0), scene(1, size=(160, 224))], 1)
    with pytest.raises(DataError, match="no scene sample"):
        SPEC.collate([Sample(id="x", image=np.zeros((32, 32, 3), np.uint8))], 1)
    sample = scene(0)
    sample.extra |= {"attributes": ATTRIBUTES, "truth": object()}
    with pytest.raises(DataError, match=r"the data have the attributes \['cycle.with_rider'"):
        dataclasses.replace(SPEC, attributes=("vehicle.moving",)).collate([sample], 1)
    with pytest.raises(ValueError, match="multiples of 32"):
        Frame(size=(100, 200))
    with pytest.raises(ValueError, match="weights for nothing"):
        Fusion3d(weights={"nothing": 1.0})
    with pytest.raises(ConfigError, match="none or flip"):
        SPEC.with_tta("rotate")
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_trunks_of_other_kinds():
    image = torch.zeros(1, 3, 64, 96)
    assert TimmTrunk("resnet18", width=8)(image).shape == (1, 8, 16, 24)
    assert DlaTrunk((4, 4, 8, 8, 12, 16), kind="conv1")(image).shape == (1, 8, 16, 24)
    early = DlaTrunk((4, 4, 8, 8, 12, 16), kind="conv1", stem=2)
    assert early(image).shape == (1, 8, 16, 24) and early.base(image)[0].shape[2:] == (32, 48)
    with pytest.raises(ConfigError, match="1 or 2, got 4"):
        DlaTrunk(stem=4)
    assert len(DlaTrunk().state_dict()) == 446 - 2 * 2 * 7 - 4 * 2 * 4
    with pytest.raises(ConfigError, match="multiples of 32"):
        DlaTrunk((4, 4, 8, 8, 12, 16))(torch.zeros(1, 3, 60, 96))
    with pytest.raises(ConfigError, match="cannot build"):
        TimmTrunk("resnot18")
