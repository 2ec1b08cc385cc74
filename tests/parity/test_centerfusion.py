"""CenterFusion's own numbers: functions, items, network and losses, the chain from annotated heads to NDS."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from tests.fusion import ORIGINAL, fixture, heads_of, in_order, tiny_root
from visloom.convert import centerfusion
from visloom.data.nuscenes.names import CLASSES
from visloom.data.nuscenes.source import NuScenes
from visloom.data.scene3d import FlipScene, Frame
from visloom.data.space import project
from visloom.tasks.fusion3d import Fusion3d, Targets
from visloom.tasks.fusion3d.batch import FusionBatch
from visloom.tasks.fusion3d.collate import collate
from visloom.tasks.fusion3d.compat import Compat
from visloom.tasks.fusion3d.decode import decode, observation_angle, peaks
from visloom.tasks.fusion3d.frustum import associate, half_extent
from visloom.tasks.fusion3d.losses import losses
from visloom.tasks.fusion3d.nds import evaluate
from visloom.tasks.fusion3d.pillars import pillars
from visloom.tasks.fusion3d.targets import draw_gaussian, gaussian_radius
from visloom.tasks.fusion3d.world import COLUMNS, join_cameras, read_submission, to_world

TARGETS = {
    "heat": "hm", "index": "ind", "label": "cat", "offset": "reg", "size": "wh", "depth": "dep", "dims": "dim",
    "center": "amodel_offset", "bin": "rotbin", "residue": "rotres", "attribute": "nuscenes_att",
    "attribute_known": "nuscenes_att_mask", "velocity": "velocity",
}  # fmt: skip
HEADS = {
    "heat": "hm", "offset": "reg", "size": "wh", "depth": "dep", "rotation": "rot", "dims": "dim",
    "center": "amodel_offset", "depth/secondary": "dep_sec", "rotation/secondary": "rot_sec",
    "attribute": "nuscenes_att", "velocity": "velocity",
}  # fmt: skip


@pytest.mark.parametrize("case", ["pillar_plain", "pillar_shift_flip"])
def test_radar_pillars(shared, case):
    arrays, meta = fixture(shared, "functions")
    points = arrays[f"{case}/radar_pc"][[0, 1, 2, 8, 9]].T.copy()
    calib = arrays[f"{case}/calib"]
    grid = np.vstack([arrays[f"{case}/trans_output"], [0, 0, 1]])
    pixels = project(calib, points[:, :3])[:, :2]
    if meta[f"{case}/flipped"]:
        pixels[:, 0] = 1599 - pixels[:, 0]
        points[:, [0, 3]] *= -1
    keep = (pixels > 1).all(1) & (pixels < (1599, 899)).all(1)
    at = pixels[keep] @ grid[:2, :2].T + grid[:2, 2]
    found = pillars(points[keep], grid @ calib, (112, 200), thin=True, at=at)
    assert np.array_equal(found, arrays[f"{case}/pc_dep"])
    thick = pillars(points[keep], grid @ calib, (112, 200), at=at)
    assert (thick[0] > 0).sum() > (found[0] > 0).sum()


def test_frustum_association_of_twelve_boxes_one_by_one_and_together(shared):
    arrays, meta = fixture(shared, "functions")
    raster, lens = torch.tensor(arrays["frustum/pc_dep"]), arrays["frustum/calib"]
    cases = [f"frustum/cases/{i}" for i in range(12)]
    box = torch.tensor(np.stack([arrays[f"{c}/bbox"] for c in cases]))
    depth = torch.tensor([meta[f"{c}/depth"] for c in cases])
    alpha = torch.tensor([meta[f"{c}/alpha"] for c in cases])
    dims = torch.tensor([meta[f"{c}/dim"] for c in cases])
    middle = (box[:, 0] + box[:, 2]) / 2
    yaw = alpha + torch.atan2(middle - lens[0, 2], torch.tensor(lens[0, 0]))
    reach = 1.5 * half_extent(dims, yaw)
    assert torch.allclose(reach, torch.tensor([meta[f"{c}/thresh"] for c in cases]), atol=1e-5)
    assert sum(int((arrays[f"{c}/hm"] > 0).any()) for c in cases) == 2  # the others hit no radar

    def run(rows: slice) -> torch.Tensor:
        parts = [x[rows][None] for x in (box, depth, reach)]
        valid = torch.ones_like(parts[1], dtype=torch.bool)
        return associate(raster[None], *parts, valid, scale=(60, 1, 1), unclipped=True, order=True)[0]

    together = torch.zeros_like(raster)
    for i, case in enumerate(cases):
        alone = run(slice(i, i + 1))
        assert torch.equal(alone, torch.tensor(arrays[f"{case}/hm"]))
        together = torch.where((alone[0] > 0)[None], alone, together)
    assert torch.equal(run(slice(None)), together)


def test_a_box_that_leaves_the_picture_loses_its_radar_only_in_the_original(shared):
    arrays, _ = fixture(shared, "functions")
    raster = torch.tensor(arrays["frustum/pc_dep"])[None]
    assert not arrays["frustum_neg_x"].any()
    column = int(raster[0, 0].nonzero()[:, 1].min())
    row = int(raster[0, 0, :, column].nonzero()[0])
    box = torch.tensor([[[-3.0, row - 2, column + 2, row + 2]]])
    depth = raster[:, 0, row, column].view(1, 1)
    given = (box, depth, torch.tensor([[2.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert not associate(raster, *given, scale=(60, 1, 1), unclipped=True).any()
    assert associate(raster, *given, scale=(60, 1, 1)).any()


def test_gaussians_angles_and_peaks(shared):
    arrays, meta = fixture(shared, "functions")
    for name, value in meta.items():
        if name.startswith("gaussian_radius/"):
            height, width = map(int, name.rpartition("/")[2].split("x"))
            assert gaussian_radius(height, width) == pytest.approx(value, rel=1e-12)
    drawn = arrays["umich_r3"]
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    mine = np.zeros_like(drawn)
    draw_gaussian(mine, int(x), int(y), 3)
    assert np.array_equal(mine, drawn)
    assert np.allclose(observation_angle(torch.tensor(arrays["get_alpha/0"])), arrays["get_alpha/1"])
    heat = torch.tensor(arrays["topk/0"])
    best = peaks(heat, 20, crowded=True)
    assert torch.equal(best.score, torch.tensor(arrays["topk/1/0"]))
    assert torch.equal(best.index, torch.tensor(arrays["topk/1/1"]))
    assert torch.equal(best.label, torch.tensor(arrays["topk/1/2"]).long())


def _targets(take) -> Targets:
    """Targets from the original's batch."""
    made = {name: take(there) for name, there in TARGETS.items()}
    known = take("velocity_mask")[..., 0] > 0
    return Targets(
        **made,
        valid=take("mask") > 0,
        velocity_known=known,
        box=take("wh"),
        reach=take("mask"),
        sought=take("mask"),
    )


def test_every_loss_and_its_gradient(shared):
    arrays, meta = fixture(shared, "functions")
    heads = {n: torch.tensor(arrays[f"loss/heads/{o}"]).requires_grad_() for n, o in HEADS.items()}
    primary = {n: h for n, h in heads.items() if "/" not in n and n not in ("attribute", "velocity")}
    secondary = {n.partition("/")[0]: h for n, h in heads.items() if n not in primary}
    targets = _targets(lambda name: torch.tensor(arrays[f"loss/batch/{name}"]))
    found = losses(primary, secondary, targets, ORIGINAL.weights, lambda count: count + 1e-4)
    for name, there in HEADS.items():
        factor = 0.1 if name == "size" else 1.0
        assert found[name].item() == pytest.approx(factor * meta[f"loss/stats/{there}"], rel=1e-5)
    total = sum(found.values())
    assert total.item() == pytest.approx(meta["loss/total"], rel=1e-5)
    total.backward()
    for name, there in HEADS.items():
        assert heads[name].grad.abs().sum().item() == pytest.approx(meta[f"loss/grad_sum/{there}"], rel=1e-5)


def _weights(shared) -> dict[str, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("fill", shared / "parity" / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    keys = json.loads((shared / "parity" / "centerfusion_dla34.keys.json").read_text())
    assert len(keys) == 446
    return {name: torch.tensor(value) for name, value in fill.checkpoint(keys).items()}


def test_the_network_with_imported_weights_says_and_costs_the_same(shared):
    arrays, meta = fixture(shared, "dla34")
    module = ORIGINAL.build().eval()
    old = _weights(shared)
    module.load_state_dict(centerfusion.renamed(old))
    back = centerfusion.original(ORIGINAL, module.state_dict())
    assert back.keys() == old.keys() and all(torch.equal(back[name], old[name]) for name in old)
    for i in range(2):

        def take(name: str, i: int = i) -> torch.Tensor:
            return torch.tensor(arrays[f"batch/{name}"][i : i + 1])

        batch = FusionBatch(
            ids=("a",), image=take("image"), radar=take("pc_dep"), found=take("pc_hm"), calib=take("calib"),
            lens=take("calib"), pose=torch.eye(4)[None], place=torch.eye(3)[None], targets=_targets(take),
        )  # fmt: skip
        with torch.no_grad():
            features = module.trunk(take("image").flip(1))
            primary = module.first(features)
            secondary = module.second(features, module.associated(primary, batch))
        for name, there in HEADS.items():
            mine = secondary[name.partition("/")[0]] if name not in primary else primary[name]
            theirs = torch.tensor(arrays[f"heads/{there}"][i])
            assert (mine[0] - theirs).abs().max() < 1e-4 * theirs.abs().max()
    both = _targets(lambda name: torch.tensor(arrays[f"batch/{name}"]))
    heads = {n: torch.tensor(arrays[f"heads/{o}"]) for n, o in HEADS.items()}
    first = {n: h for n, h in heads.items() if "/" not in n and n not in ("attribute", "velocity")}
    second = {n.partition("/")[0]: h for n, h in heads.items() if n not in first}
    joint = losses(first, second, both, {}, lambda count: count + 1e-4)
    for name, there in HEADS.items():
        assert joint[name].item() == pytest.approx(meta[f"losses/{there}"], rel=2e-5)


ITEMS = {"a": ("mini_train", 0), "b": ("mini_train", 3), "a_flip": ("mini_train", 0), "val0": ("mini_val", 0)}


@pytest.mark.parametrize("name", ITEMS)
def test_items_of_a_real_root(shared, tmp_path, name):
    arrays, _ = fixture(shared, "items")
    split, number = ITEMS[name]
    source = NuScenes(root=str(tiny_root(shared, tmp_path)), scenes=split, sweeps=3)
    sample = in_order(source)[number]
    draws = np.random.RandomState(5)
    moved = (
        [np.clip(0.1 * draws.randn(), -0.2, 0.2) for _ in range(2)] if split == "mini_train" else [0.0, 0.0]
    )
    if name == "a_flip":
        sample = FlipScene(original=True).mirrored(sample)
    batch = collate(ORIGINAL, [Frame(original=True).placed(sample, moved)], truth=False)
    valid = arrays[f"{name}/mask"] > 0
    assert int(batch.targets.valid.sum()) == valid.sum()
    for mine, there in TARGETS.items():
        found, wanted = getattr(batch.targets, mine)[0].numpy(), arrays[f"{name}/{there}"]
        if mine != "heat":
            found, wanted = found[: valid.sum()], wanted[valid]
        assert np.allclose(found, wanted, atol=2e-5), mine
    assert np.array_equal(batch.radar[0].numpy(), arrays[f"{name}/pc_dep"])
    assert np.array_equal(batch.found[0].numpy(), arrays[f"{name}/pc_hm"])
    scale = ORIGINAL.normalisation()
    image = (batch.image[0].numpy() - np.array(scale.mean)) / np.array(scale.std)
    assert np.allclose(image[::8, ::8, ::-1].transpose(2, 0, 1), arrays[f"{name}/image_every_8th"], atol=1e-5)


def _chain(samples: list, compat: Compat):
    """Annotated heads through decoding, export and score."""
    spec = Fusion3d(compat=compat)
    found: dict[str, list] = {}
    truths = {}
    for sample in samples:
        batch = collate(spec, [Frame(original=compat.pixels)(sample, 0)], truth=True)
        groups = torch.tensor(spec.allowed())
        boxes = decode(heads_of(batch.targets, spec), batch.calib, groups, stride=4, count=100, compat=compat)
        row = {name: value[0].numpy() for name, value in boxes._asdict().items() if name in COLUMNS}
        world = to_world(row, batch.pose[0].numpy(), lifted=compat.lifted, tipped=compat.tipped)
        found.setdefault(batch.tokens[0], []).append(world)
        truths.setdefault(batch.tokens[0], batch.truth[0])
    joined = {t: join_cameras(parts, most=500, merge=not compat.duplicates) for t, parts in found.items()}
    return evaluate(joined, list(truths.values()), CLASSES)


def test_annotated_heads_reach_the_originals_ceiling_and_more_without_its_defects(shared, tmp_path):
    _, meta = fixture(shared, "gtheads")
    source = NuScenes(root=str(tiny_root(shared, tmp_path)), scenes="mini_val", sweeps=3)
    samples = in_order(source)
    old = _chain(samples, Compat.original())
    assert old.mean_ap == pytest.approx(meta["metrics/mean_ap"], abs=2e-3)
    assert old.nds == pytest.approx(meta["metrics/nd_score"], abs=2e-3)
    for name in ("trans_err", "orient_err", "vel_err", "attr_err"):
        assert old.errors[name] == pytest.approx(meta[f"metrics/tp_errors/{name}"], abs=5e-3)
    new = _chain(samples, Compat())
    assert new.nds > old.nds + 0.05 and new.mean_ap > old.mean_ap


def test_nds_of_the_originals_submission(shared, tmp_path):
    """The devkit's recorded answer about 18 pictures, to the last digits."""
    arrays, meta = fixture(shared, "gtheads")
    results: dict[str, dict[int, dict]] = {}
    for name, value in meta.items():
        if name.startswith("results/results/"):
            token, number, *rest = name.removeprefix("results/results/").split("/")
            if rest:
                results.setdefault(token, {}).setdefault(int(number), {})[rest[0]] = value
    file = tmp_path / "results.json"
    file.write_text(
        json.dumps({"results": {t: [rows[i] for i in sorted(rows)] for t, rows in results.items()}})
    )
    source = NuScenes(root=str(tiny_root(shared, tmp_path)), scenes="mini_val")
    truths = {s.extra["token"]: s.extra["truth"] for s in in_order(source)}
    boxes = read_submission(file, list(truths), CLASSES, ORIGINAL.attributes)
    ordered = [truths[token] for token in results]
    scores = evaluate(boxes, ordered, CLASSES)
    assert scores.mean_ap == pytest.approx(meta["metrics/mean_ap"], abs=1e-6)
    assert scores.nds == pytest.approx(meta["metrics/nd_score"], abs=1e-6)
    for name, value in scores.errors.items():
        assert value == pytest.approx(meta[f"metrics/tp_errors/{name}"], abs=1e-6)
    for name, value in scores.class_aps.items():
        assert value == pytest.approx(float(arrays[f"metrics/mean_dist_aps/{name}"]), abs=1e-6)
