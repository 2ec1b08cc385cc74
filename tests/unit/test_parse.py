"""Unified perceptual parsing: pyramid pooling, heads, losses where little is labelled, metrics, batches and answers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.parsing import HEADS, NET, SPEC, Labelled, materials, objects
from visloom.data.transforms import RandomCrop
from visloom.errors import ConfigError, DataError
from visloom.loader import Plan
from visloom.nets.upernet import pooling_matrix, precise_pool
from visloom.run import How
from visloom.sample import Sample
from visloom.stream import Shuffled
from visloom.tasks.parse import Parse, Parts, PartsOf, Pixels, Uper
from visloom.tasks.parse.losses import Slots, tally_parts, tally_pixels, tally_texture


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return SPEC.build()


# ---- pooling


@pytest.mark.parametrize(("bins", "size"), [(1, 7), (6, 10), (3, 2), (6, 5)])
def test_pooling_is_the_integral_of_a_piecewise_linear_curve(bins, size):
    fine = 20_000
    x = (np.arange(bins * fine) + 0.5) * size / (bins * fine)
    hats = np.maximum(0, 1 - np.abs(x[:, None] - np.arange(size)))
    wanted = hats.reshape(bins, fine, size).mean(1)
    assert np.abs(pooling_matrix(bins, size).numpy() - wanted).max() < 1e-6


def test_pooling_of_a_constant_map_is_not_an_average():
    ones = torch.ones(1, 1, 7, 10)
    assert precise_pool(ones, 1).item() == pytest.approx(6.5 * 9.5 / 70)  # 0.882
    six = precise_pool(ones, 6)[0, 0]
    assert float(six[-1, -1]) == pytest.approx(0.40, abs=1e-6)  # the curve falls to 0 behind the last pixel
    assert float(six[2, 2]) == pytest.approx(1.0, abs=1e-6)


# ---- losses


def test_nothing_labelled_is_a_zero_of_the_graph():
    logits = torch.randn(2, 4, 5, 5, requires_grad=True)
    void = torch.full((2, 5, 5), -1)
    part = torch.randn(2, 5, 5, 5, requires_grad=True)
    blocks = HEADS[1].blocks(HEADS[0])
    slots = Slots(HEADS[:2])
    tallies = {"object": tally_pixels(logits, void), "part": tally_parts(part, void, blocks, ())}
    losses = slots.losses(tallies, logits.new_zeros(1))
    assert [v.item() for v in losses.values()] == [0.0, 0.0]
    sum(losses.values()).backward()
    assert not logits.grad.any() and not part.grad.any()
    whole = torch.randn(2, 3, requires_grad=True)
    total = Slots(HEADS[2:3]).losses(
        {"scene": tally_pixels(whole, torch.tensor([-1, -1]))}, whole.new_zeros(1)
    )
    total["scene"].backward()
    assert total["scene"].item() == 0.0 and not whole.grad.any()


def test_part_loss_is_a_sum_over_objects_of_means_over_their_pixels():
    torch.manual_seed(1)
    logits = torch.randn(2, 5, 6, 6)
    target = torch.randint(-1, 5, (2, 6, 6))
    blocks = HEADS[1].blocks(HEADS[0])
    found = Slots(HEADS).losses({"part": tally_parts(logits, target, blocks, (0, 1))}, logits.new_zeros(1))
    wanted = 0.0
    for start, stop in ((0, 3), (3, 5)):
        chances = logits[:, start:stop].log_softmax(1)
        terms = [
            -float(chances[b, target[b, y, x] - start, y, x])
            for b in range(2) for y in range(6) for x in range(6) if start <= target[b, y, x] < stop
        ]  # fmt: skip
        wanted += sum(terms) / max(1, len(terms))
    assert float(found["part"]) == pytest.approx(0.5 * wanted, rel=1e-5)


def test_texture_is_learnt_at_every_pixel_and_told_by_most_of_them():
    logits = torch.zeros(2, 2, 3, 3)
    logits[0, 1] = 1.0  # all pixels of the first say class 1
    found = tally_texture(logits, torch.tensor([1, -1]))
    assert float(found.sums) == pytest.approx(math.log(1 + math.exp(-1)))
    assert (int(found.right), int(found.seen), float(found.counts)) == (1, 1, 1.0)


# ---- idle heads


def test_heads_without_labels_get_no_gradient_and_keep_their_statistics(task):
    batch = SPEC.collate([materials(0), materials(1)], key=3)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.train().zero_grad()
    losses = task(batch)
    assert set(losses.terms) == {"material"} and batch.heads == ("material",)
    sum(losses.terms.values()).backward()
    idle = ("object_head", "part_head", "scene_head", "texture_head", "conv_fusion")
    for name, p in task.named_parameters():
        assert (p.grad is None) == any(word in name for word in (*idle, "fpn_out.1", "fpn_out.2")), name
    same = [n for n, v in task.state_dict().items() if any(word in n for word in idle)]
    assert same and all(torch.equal(before[name], task.state_dict()[name]) for name in same)


def test_a_batch_of_ignored_pixels_alone_is_no_nan(task):
    batch = SPEC.collate([materials(0, void=True), materials(1, void=True)], key=3)
    losses = task.train()(batch)
    assert losses.terms["material"].item() == 0.0 and batch.heads == ("material",)
    losses.terms["material"].backward()
    assert task.net.decoder.material_head[1].weight.grad is not None
    scene = SPEC.collate([objects(0, scene=-1), objects(1, scene=-1)], key=3)
    found = task.train()(scene)
    assert found.terms["scene"].item() == 0.0 and all(bool(torch.isfinite(v)) for v in found.terms.values())


def test_textures_leave_the_encoder_alone_gradients_and_statistics(task):
    """Their pictures look unlike all others: in its batch norms they would spoil the evaluation of the other heads."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    samples = [
        Sample(f"t{i}", image, extra={"tasks": ("texture",), "labels": {"texture": i}}) for i in (0, 1)
    ]
    batch = SPEC.collate(samples, key=0)
    task.train().zero_grad()
    task.net.encoder.bn1.eval()  # fixed before: it stays so
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task(batch).terms["texture"].backward()
    with_gradient = {name.split(".")[2] for name, p in task.named_parameters() if p.grad is not None}
    assert with_gradient == {"texture_head"}
    changed = {
        name.split(".")[2] for name, v in task.state_dict().items() if not torch.equal(v, before[name])
    }
    assert changed == {"texture_head"}  # its own statistics
    modes = {name: module.training for name, module in task.net.encoder.named_modules()}
    assert not modes.pop("bn1") and all(modes.values())
    both = [dataclasses.replace(s, extra={"tasks": ("texture", "scene"), "labels": {"texture": 0, "scene": 1}})
            for s in samples]  # fmt: skip
    task(SPEC.collate(both, key=0))
    assert not torch.equal(task.net.encoder.bn2.running_mean, before["net.encoder.bn2.running_mean"])


def test_deep_supervision_adds_a_loss_of_the_third_map():
    task = dataclasses.replace(SPEC, net=dataclasses.replace(NET, deep="object")).build()
    batch = SPEC.collate([objects(0), objects(1)], key=0)
    assert "deep" in task.train()(batch).terms
    assert "deep" not in task.eval()(SPEC.collate([objects(0)], None)).terms
    with pytest.raises(ConfigError, match="no head of pixels"):
        dataclasses.replace(SPEC, net=dataclasses.replace(NET, deep="part")).build()


# ---- batches


def test_training_batches_have_one_side_padding_and_labels_at_a_quarter():
    spec = dataclasses.replace(SPEC, sides=(64, 96), longest=150)
    samples = [objects(0, (40, 72)), objects(1, (48, 64))]
    shapes = set()
    for key in range(20):
        batch = spec.collate(samples, key)
        side = min(batch.sizes[0])
        assert (
            batch.sizes
            == tuple(
                (int(h * s), int(w * s))
                for h, w in ((40, 72), (48, 64))
                for s in [min(min(batch.sizes[1]) / 48, 150 / max(h, w))]
            )
            or side <= 96
        )
        height, width = batch.image.shape[1:3]
        assert height % 32 == width % 32 == 0
        assert all(mask.shape == (2, height // 4, width // 4) for mask in batch.masks.values())
        shapes.add(batch.sizes)
    assert {min(sizes[1]) for sizes in shapes} == {64, 96}
    # the same key gives the same batch; padding is ignored
    again = spec.collate(samples, 7), spec.collate(samples, 7)
    assert torch.equal(again[0].image, again[1].image) and again[0].sizes == again[1].sizes
    (high, wide), mask = again[0].sizes[0], again[0].masks["object"][0]
    assert (mask[-(-high // 4) :] == -1).all() and (mask[:, -(-wide // 4) :] == -1).all()


def test_padding_is_the_mean_colour(task):
    seen = []
    handle = task.net.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    try:
        task.train()(SPEC.collate([objects(0, (40, 72)), objects(1, (48, 64))], key=0))
    finally:
        handle.remove()
    image = seen[0]
    assert image.shape == (2, 3, 64, 96)
    assert not image[0, :, 40:].any() and not image[0, :, :, 72:].any() and image[0, :, :40, :72].any()


def test_labels_at_a_quarter_are_those_of_the_places(task):
    batch = SPEC.collate([objects(0)], key=1)
    stored = objects(0).masks["object"]
    assert np.array_equal(batch.masks["object"][0, :10, :18], stored[2::4, 2::4])


def test_an_object_that_loses_its_parts_when_shrunk_is_left_out():
    sample = objects(0)
    part = np.full_like(sample.masks["part"], -1)
    part[sample.masks["object"] == 1] = 0
    part[21, 0] = 1  # a wheel of one pixel, which the grid of quarters does not see
    sample = sample.replace(masks={**sample.masks, "part": part})
    assert SPEC.collate([sample], key=0).blocks == {"part": ()}
    assert not (SPEC.collate([sample], key=0).masks["part"] >= 0).any()
    assert SPEC.collate([sample], None).blocks == {"part": (0,)}  # evaluation looks at full size


def test_wrong_labels_and_tasks_without_a_head_are_told():
    with pytest.raises(DataError, match="'m0' is labelled for 'material', and the task has no such head"):
        dataclasses.replace(SPEC, heads=HEADS[:3]).collate([materials(0)], key=0)
    zero = objects(0)
    zero = zero.replace(masks={**zero.masks, "object": np.zeros((40, 72), np.int32)})
    with pytest.raises(DataError, match="run from 1 to 3"):
        SPEC.collate([zero], key=0)
    with pytest.raises(DataError, match="'scene' is class 9"):
        SPEC.collate([objects(0, scene=9)], key=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Parse(heads=(HEADS[1],)), "no head of pixels"),
        (lambda: Parse(heads=(HEADS[0], HEADS[0])), "different names"),
        (
            lambda: Parse(
                heads=(HEADS[0], Parts(name="part", of="object", parts=(PartsOf("dog", ("leg",)),)))
            ),
            "dog",
        ),
        (lambda: Pixels(name="x", classes=("a", "a", "b")), "once"),
        (lambda: Uper("resnet18"), "timm:"),
        (lambda: Uper(pretrained=True), "init.net.encoder"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# ---- answers and metrics


def test_answers_have_the_size_of_the_picture_and_parts_lie_in_their_objects(task):
    spec = dataclasses.replace(SPEC, short=64)
    torch.manual_seed(0)
    task = spec.build().eval()
    batch = spec.collate([objects(0, (40, 72)), objects(1, (50, 61))], None)
    with torch.no_grad():
        found = task.predict(batch)
    assert [tuple(m.shape) for m in found["object"]] == [(40, 72), (50, 61)]
    assert int(found["object"][0].min()) >= 1  # class 0 is no answer
    for row in (0, 1):
        owner, part = found["object"][row], found["part"][row]
        assert torch.equal(part >= 0, (owner == 1) | (owner == 2))
        assert bool((part[owner == 1] < 3).all()) and bool((part[owner == 2] >= 3).all())
    assert found["scene"].shape == (2,) and float(found["scene_score"].max()) <= 1.0
    with torch.no_grad():
        viewed = spec.with_tta("flip,0.75,1.25").build().eval()
        viewed.load_state_dict(task.state_dict())
        more = viewed.predict(batch)
    assert [tuple(m.shape) for m in more["part"]] == [(40, 72), (50, 61)]


def test_evaluation_does_not_depend_on_what_else_is_in_the_batch(task):
    samples = [objects(0, (40, 72)), objects(1, (50, 61))]
    with torch.no_grad():
        both = task.eval().predict(SPEC.collate(samples, None))
        alone = task.eval().predict(SPEC.collate(samples[:1], None))
    assert torch.equal(both["object"][0], alone["object"][0])


def test_metrics_equal_a_count_by_hand():
    rng = np.random.default_rng(5)
    samples = [objects(i) for i in range(3)]
    batch = SPEC.collate(samples, None)
    found_objects = [rng.integers(1, 4, (40, 72)) for _ in samples]
    found_parts = []
    for mask in found_objects:
        part = np.where(
            mask == 1, rng.integers(0, 3, mask.shape), np.where(mask == 2, rng.integers(3, 5, mask.shape), -1)
        )
        found_parts.append(part)
    predictions = {
        "object": [torch.from_numpy(m).to(torch.int16) for m in found_objects],
        "part": [torch.from_numpy(m).to(torch.int16) for m in found_parts],
        "scene": torch.tensor([1, 1, 0]),
    }
    values = {}
    for metric in SPEC.metrics().values():
        metric.update(predictions, batch)
        metric.merge([metric.state()])
        values |= metric.compute()
    truth = np.stack([s.masks["object"] for s in samples])
    seen, known = np.stack(found_objects), truth >= 0
    iou = [
        ((seen == c) & (truth == c)).sum() / (((seen == c) | (truth == c)) & known).sum() for c in (1, 2, 3)
    ]
    assert values["object_miou"] == pytest.approx(np.mean(iou))
    assert values["object_accuracy"] == pytest.approx((seen == truth)[known].mean())
    truth, seen = np.stack([s.masks["part"] for s in samples]), np.stack(found_parts)
    per_object = []
    for labels in ((1, 2), (4,)):
        per_object.append(
            [((seen == c) & (truth == c)).sum() / max(1, ((seen == c) | (truth == c)).sum()) for c in labels]
        )
    assert values["part_miou"] == pytest.approx(
        np.mean([per_object[0][0], per_object[1][0]])
    )  # no window is there
    assert values["part_miou_all"] == pytest.approx(np.mean([np.mean(v) for v in per_object]))
    assert values["scene_accuracy"] == pytest.approx(2 / 3)
    assert math.isnan(values["material_miou"]) and math.isnan(values["texture_accuracy"])


def test_parts_of_an_object_that_is_not_labelled_in_a_picture_do_not_count():
    sample = objects(0)
    part = sample.masks["part"].copy()
    part[part >= 3] = -1
    batch = SPEC.collate([sample.replace(masks={**sample.masks, "part": part})], None)
    answers = torch.full(
        (40, 72), 4, dtype=torch.int16
    )  # a head everywhere, where no person's parts are labelled
    metric = SPEC.metrics()["part"]
    metric.update({"part": [answers]}, batch)
    assert int(metric.state()["answers"].sum()) == 0 and int(metric.state()["true"][:3].sum()) > 0


def test_a_page_is_drawn(task):
    sample = objects(0)
    with torch.no_grad():
        columns = task.eval().predict(SPEC.collate([sample], None))
    prediction = {name: value[0] for name, value in columns.items() if name != "ids"}
    page = SPEC.draw(sample.image, prediction)
    assert page.width > 400 and page.height > 300
    assert SPEC.draw(sample.image, prediction, sample).width > 400
    good = SPEC.goodness(columns, SPEC.collate([sample], None))
    assert good.shape == (1,) and 0 <= float(good) <= 1


def test_files_of_a_prediction(task, tmp_path):
    with torch.no_grad():
        columns = task.eval().predict(SPEC.collate([objects(0)], None))
    cells = SPEC.write({name: value[0] for name, value in columns.items() if name != "ids"}, tmp_path, "a")
    assert cells["scene_class"] in HEADS[2].classes and (tmp_path / cells["part_file"]).is_file()
    assert (
        "car" in cells["object_found"] or "person" in cells["object_found"] or "sky" in cells["object_found"]
    )


def test_timm_encoders_work():
    spec = dataclasses.replace(
        SPEC, net=Uper("timm:resnet10t", width=8, pooled=4, pooling="adaptive", order="convolve")
    )
    losses = spec.build().train()(spec.collate([objects(0), objects(1)], key=0))
    assert set(losses.terms) == {"object", "part", "scene"}


# ---- the fused map


@pytest.mark.parametrize(
    "sizes", [((3, 5), (6, 10)), ((2, 3), (16, 24)), ((4, 4), (7, 9)), ((5, 5), (5, 5)), ((1, 1), (8, 8))]
)
def test_a_convolution_of_a_resized_map_is_made_without_the_resized_map(sizes):
    from visloom.nets.upernet import convolve_resized

    torch.manual_seed(0)
    x = torch.randn(2, 4, *sizes[0], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    wanted = torch.nn.functional.conv2d(
        torch.nn.functional.interpolate(x, sizes[1], mode="bilinear"), weight, padding=1
    )
    found = convolve_resized(x, weight, sizes[1])
    assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-9)
    both = [torch.autograd.grad((y * torch.cos(y)).sum(), (x, weight)) for y in (found, wanted)]
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(*both, strict=True))


def test_the_fused_map_is_that_of_all_levels_joined(task):
    from visloom.nets.upernet import _resized

    torch.manual_seed(0)
    decoder = task.net.decoder.eval()
    for sides in ((16, 8, 4, 2), (13, 7, 4, 2), (8, 8, 4, 4)):
        levels = [torch.randn(2, 8, side, side + 3) for side in sides]
        joined = torch.cat([_resized(level, levels[0].shape[2:]) for level in levels], 1)
        with torch.no_grad():
            assert torch.allclose(decoder._fused(levels), decoder.conv_fusion(joined), atol=1e-5)


# ---- as trained, evaluated and exported


def test_views_are_averaged_as_probabilities_at_the_size_of_the_picture(task):
    """Against the formula: each size resized, asked, brought to the picture's size, made probabilities, averaged."""
    from torch.nn import functional

    spec = dataclasses.replace(SPEC, short=64, scales=(0.75, 1.0, 1.5), longest=200)
    made = spec.build().eval()
    made.load_state_dict(task.state_dict())
    batch = spec.collate([objects(0, (50, 72))], None)
    image = made.images(batch.image)
    names, sizes = ("object", "part", "scene"), made.heads["part"].sizes
    sums = dict.fromkeys(names, 0.0)
    with torch.no_grad():
        for size in ((64, 96), (64, 96), (96, 160)):  # 48 and 64, rounded up to 32; 96 x 138
            small = functional.interpolate(image, size, mode="bilinear")
            logits = made.net(small, names)
            full = {
                n: functional.interpolate(v, (50, 72), mode="bilinear") if v.ndim == 4 else v
                for n, v in logits.items()
            }
            sums["object"] = sums["object"] + full["object"].softmax(1)
            sums["scene"] = sums["scene"] + full["scene"].softmax(1)
            sums["part"] = sums["part"] + torch.cat([p.softmax(1) for p in full["part"].split(sizes, 1)], 1)
        found = made.predict(batch)
    wanted = sums["object"][0, 1:].max(0).indices + 1
    assert torch.equal(found["object"][0].long(), wanted)
    assert int(found["scene"][0]) == int(sums["scene"].max(1).indices)
    assert float(found["scene_score"][0]) == pytest.approx(float(sums["scene"].max() / 3), rel=1e-4)
    for start, stop, label, _ in made.blocks["part"]:
        inside = wanted == label
        best = sums["part"][0, start:stop].max(0).indices + start
        assert torch.equal(found["part"][0][inside].long(), best[inside])


def test_pictures_are_shrunk_with_or_without_smoothing(task):
    from torch.nn import functional

    spec = dataclasses.replace(SPEC, short=32)
    image = task.images(spec.collate([objects(0, (96, 128))], None).image)
    for smooth in (True, False):
        made = dataclasses.replace(spec, antialias=smooth).build()
        found = made._working(image, ("object",))
        wanted = functional.interpolate(image, (32, 64), mode="bilinear", antialias=smooth)
        assert torch.equal(found, wanted)


def steps(spec, how, rules=(), optim=None, count=3):
    """The engine after some steps on materials alone, and the state before."""
    from tests.protocol.shapes import CPU
    from visloom.engine import Engine
    from visloom.loader import Loader, Plan
    from visloom.optim import build_optimizer
    from visloom.run import Host, Optim
    from visloom.schedule import Constant
    from visloom.stream import Shuffled

    torch.manual_seed(0)
    task = spec.build()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    optim = optim or Optim(name="SGD", lr=0.01, weight_decay=0.01, options={"momentum": 0.9})
    stream = Shuffled(source=Labelled(what="materials", samples=4), batch=2)
    feed = Loader(Plan(stream, spec, seed=1), Host(workers=0), CPU, count)
    engine = Engine(task, feed, build_optimizer(task, optim, rules), Constant(), total=count, how=how, seed=0)
    for _ in engine.steps():
        pass
    return engine, before


IDLE = ("object_head", "part_head", "scene_head", "conv_fusion")


@pytest.mark.parametrize("idle", ["rest", "zero"])
def test_steps_without_its_labels_leave_a_head_alone_or_let_it_drift_as_the_original(idle):
    engine, before = steps(SPEC, How(precision="fp32", idle=idle), count=4)
    after = engine.task.state_dict()
    for name, value in before.items():
        if "num_batches" in name or not any(word in name for word in IDLE):
            continue
        if idle == "rest" or "running" in name:
            assert torch.equal(after[name], value), name
            continue
        velocity, wanted = torch.zeros_like(value), value.clone()
        for _ in range(4):  # SGD with a gradient of zero: weight decay through momentum
            velocity = 0.9 * velocity + 0.01 * wanted
            wanted = wanted - 0.01 * velocity
        assert torch.allclose(after[name], wanted, rtol=1e-5, atol=1e-7), name
    assert not torch.equal(
        after["net.decoder.material_head.1.weight"], before["net.decoder.material_head.1.weight"]
    )


def test_fixed_batch_norm_keeps_its_statistics_and_trains_its_weights():
    engine, before = steps(SPEC, How(precision="fp32", frozen_norms=".*"))
    after = engine.task.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before if "running" in n or "num_batches" in n)
    assert not torch.equal(after["net.encoder.bn1.weight"], before["net.encoder.bn1.weight"])


def test_encoder_and_decoder_start_from_files_of_their_own_and_have_rates_of_their_own(tmp_path):
    """As the recipe sets them: two rule groups, and `init.net.encoder` with `init.net.decoder`."""
    from visloom.init import initialise
    from visloom.optim import build_optimizer
    from visloom.recipes.broden import RULES
    from visloom.run import Optim

    files = {}
    for number, part in enumerate(("encoder", "decoder")):
        torch.manual_seed(10 + number)
        state = SPEC.build().state_dict()
        held = {n.removeprefix(f"net.{part}."): t for n, t in state.items() if n.startswith(f"net.{part}.")}
        torch.save(held, tmp_path / f"{part}_epoch_3.pth")
        files[part] = held
    task = SPEC.build()
    initialise(task, {f"net.{part}": str(tmp_path / f"{part}_epoch_3.pth") for part in files})
    for part, held in files.items():
        found = task.net.get_submodule(part).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in held.items())
    rules = (dataclasses.replace(RULES[0], lr=0.1), *RULES[1:])
    groups = build_optimizer(task, Optim(name="SGD", lr=0.02, weight_decay=1e-4), rules).groups
    rates = {id(p): (group["base_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, p in task.named_parameters():
        lr, decay = rates[id(p)]
        assert lr == pytest.approx(0.002 if ".encoder." in name else 0.02), name
        assert (decay == 0.0) == (p.ndim == 1), name


def test_the_light_variant_has_a_narrow_pyramid_and_wide_pooling():
    from visloom.recipes.broden import light

    with torch.device("meta"):
        decoder = light().task.build().net.decoder
    assert decoder.ppm_conv[0][0].out_channels == 512 and decoder.ppm_last_conv[0].out_channels == 256
    assert decoder.conv_fusion[0].weight.shape == (256, 1024, 3, 3)


def test_a_batch_whose_every_label_is_void_moves_nothing_but_statistics():
    """Objects, parts and scene, all void: a step of zero gradients."""
    sample = objects(0, scene=-1)
    void = sample.replace(masks={name: np.full_like(mask, -1) for name, mask in sample.masks.items()})
    torch.manual_seed(0)
    task = SPEC.build().train()
    losses = task(SPEC.collate([void, void], key=1))
    assert set(losses.terms) == {"object", "part", "scene"}
    assert [v.item() for v in losses.terms.values()] == [0.0, 0.0, 0.0]
    assert all(bool(torch.isfinite(v)) for v in losses.logs.values())
    sum(losses.terms.values()).backward()
    found = [p.grad for name, p in task.named_parameters() if p.grad is not None]
    assert len(found) > 150 and not any(g.any() for g in found)


def test_bf16_comes_near_to_float32(task):
    batch = SPEC.collate([objects(0), objects(1)], key=4)
    both = []
    for enabled in (False, True):
        torch.manual_seed(0)
        made = SPEC.build().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = made(batch)
        total = sum(losses.terms.values())
        total.backward()
        assert total.dtype == torch.float32
        assert all(bool(torch.isfinite(p.grad).all()) for p in made.parameters() if p.grad is not None)
        both.append({name: value.item() for name, value in losses.terms.items()})
    assert both[1] == pytest.approx(both[0], rel=0.15) and both[0] != both[1]


@pytest.mark.nightly
def test_compiled_graphs_hold_the_network_and_do_not_grow_with_labels():
    """Which objects occur differs in every batch: only sizes and heads may ask for another graph."""
    from torch._dynamo.testing import CompileCounter

    torch.manual_seed(0)
    plain, task = SPEC.build().train(), SPEC.build().train()
    task.load_state_dict(plain.state_dict())
    counter = CompileCounter()
    compiled = torch.compile(task, backend=counter, dynamic=False)
    frames = []
    for key, samples in enumerate(
        [[objects(0), objects(1)], [objects(2), objects(3, scene=-1)], [objects(0, scene=0)] * 2]
    ):
        sample = samples[1]
        cut = {n: np.where(np.arange(72) < 20 * key + 20, m, -1) for n, m in sample.masks.items()}
        batch = SPEC.collate([samples[0], sample.replace(masks=cut)], key=2)
        found, wanted = compiled(batch), plain(batch)
        for name, value in wanted.terms.items():
            assert found.terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
        frames.append(counter.frame_count)
    assert frames[0] >= 1 and len(set(frames)) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_exported_networks_answer_with_every_head(tmp_path, to):
    from visloom.errors import ConfigError
    from visloom.exporting import export_network
    from visloom.run import Run
    from visloom.saved import Saved, open_saved
    from visloom.stream import Shuffled

    if to == "onnx":
        pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    task = SPEC.build().eval()
    run = Run(name="x", task=SPEC, train=Shuffled(source=Labelled(), batch=2))
    saved = Saved(run, SPEC, task, torch.device("cpu"), tmp_path, 3, "last", False)
    place = tmp_path / ("parse.onnx" if to == "onnx" else "parse.pt2")
    rows = dict(export_network(saved, place, to, size=64))
    assert "compared" in rows  # it would have been refused where an answer differs
    if to == "torch-export":
        program = torch.export.load(str(place)).module()
        image = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            wanted = task.net(image, tuple(task.heads))
            found = program(image)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted.values(), strict=True))
        return
    from visloom.exporting import OnnxNet

    assert OnnxNet(place).outputs == tuple(head.name for head in HEADS)
    with pytest.raises(ConfigError, match="predict with the run itself"):
        open_saved(place)


# ---- batches of several processes


def rooms(stream, world, steps=(0,)):
    """(height, width) of the padded pictures on each process."""
    spec = dataclasses.replace(SPEC, sides=())
    plans = [Plan(stream, spec, seed=5, rank=rank, world=world) for rank in range(world)]
    return [[tuple(plan.make(step, 0).image.shape[1:3]) for step in steps] for plan in plans]


def test_pictures_that_transforms_have_cut_are_padded_as_in_one_process():
    stream = Shuffled(source=Labelled(mixed=True), batch=4, transform=(RandomCrop(size=32),))
    assert rooms(stream, 2) == [*rooms(stream, 1)] * 2 == [[(32, 32)]] * 2


def test_a_source_says_its_sizes_once(monkeypatch):
    asked, sizes_all = [], Labelled.sizes_all
    monkeypatch.setattr(Labelled, "sizes_all", lambda source: asked.append(source) or sizes_all(source))
    stream = Shuffled(source=Labelled(mixed=True), batch=4)
    assert len(set(map(str, rooms(stream, 2, steps=(0, 1, 2))))) == 1
    assert len(asked) == 2  # once a process
