"""Domain adaptation: labels of the target reach nothing, any batch works, discriminators and teacher do their part."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.detectors import CLEAR, FOG, NET, SOURCE, TARGET
from tests.protocol import shapes
from tests.small import equal, tensors_of
from visloom.data.target import Strong, Target
from visloom.data.transforms import RandomFlip
from visloom.errors import ConfigError, DataError
from visloom.keys import uniforms
from visloom.loader import Plan
from visloom.nets.detection.domain import consistency, keyed_dropout
from visloom.run import Ema, How, Optim
from visloom.stream import Ordered, Pair
from visloom.task import Progress
from visloom.tasks.adapt import DAFRCNN_2018, SADA, Adapt, Align, Teacher
from visloom.tasks.detect import FCOS, Detect, FasterRCNN, ResNetBody

C4 = FasterRCNN(
    body=ResNetBody(stem=8, out=32, group_width=8, frozen=0, norm="batch"),
    neck="c4",
    anchors=(16, 32, 64),
    roi_batch=16,
    before=(200, 100),
    after=(40, 30),
    all=(40, 30),
)
LEFT, RIGHT = (dataclasses.replace(half, tail="drop") for half in (SOURCE, TARGET))
TRAIN = Pair(source=LEFT, target=RIGHT)
SEEN = Ordered(source=FOG, batch=4)
SPEC = Adapt(net=NET, classes=CLEAR.classes(), divisible=16)
TAUGHT = dataclasses.replace(SPEC, align=None, teacher=Teacher(threshold=0.2, burn_in=0.4))
BOTH = dataclasses.replace(SPEC, teacher=Teacher(threshold=0.2, burn_in=0.4))
EMA = How(precision="fp32", ema=Ema(decay=0.9, into="net -> teacher"))
SPECS = {
    "dafrcnn-2018": (SPEC, None),
    "sada": (dataclasses.replace(SPEC, align=SADA), None),
    "c4": (dataclasses.replace(SPEC, net=C4), None),
    "teacher": (TAUGHT, EMA),
    "both": (BOTH, EMA),
    "norms": (dataclasses.replace(SPEC, align=None, norms="target"), None),
    "all apart": (dataclasses.replace(BOTH, norms="target"), EMA),
}


def make(spec=SPEC, stream=TRAIN, total=10, how=None):
    return shapes.engine_of(spec, stream, total, how=how, optim=Optim(name="AdamW", lr=3e-3))


@dataclasses.dataclass(frozen=True)
class Nonsense:
    """Other labels, as many as chance says, in the middle of the files: what the target's annotations might hold."""

    def __call__(self, sample, key):
        draws = uniforms(key, 21).astype(np.float32)
        count = int(draws[20] * 6)
        corner, side = draws[:10].reshape(5, 2)[:count] * 30, 2 + draws[10:20].reshape(5, 2)[:count] * 16
        return sample.replace(
            boxes=np.concatenate([corner, corner + side], 1), labels=np.arange(count, dtype=np.int64) % 2
        )


@pytest.mark.parametrize("name", ["dafrcnn-2018", "teacher"])
def test_labels_of_the_target_change_no_bit_and_labels_of_the_source_do(name):
    spec, how = SPECS[name]

    def trained(source, target):
        engine = make(spec, Pair(source=source, target=target), total=4, how=how)
        shapes.train(engine)
        return tensors_of(engine)

    def nonsense(part, at):
        transform = list(part.transform)
        transform.insert(at, Nonsense())
        return dataclasses.replace(part, transform=tuple(transform))

    bare = dataclasses.replace(RIGHT, transform=(RIGHT.transform[0], *RIGHT.transform[1:]))
    plain = trained(LEFT, bare)
    # the position of a transform decides its key: nonsense takes the place of a transform that does nothing
    idle = dataclasses.replace(RIGHT, transform=(Idle(), *RIGHT.transform))
    fooled = dataclasses.replace(RIGHT, transform=(Nonsense(), *RIGHT.transform))
    assert equal(trained(LEFT, idle), trained(LEFT, fooled))
    late = dataclasses.replace(RIGHT, transform=(*RIGHT.transform, Nonsense()))
    assert equal(plain, trained(LEFT, late))  # even labels that appear behind Target are dropped
    assert not equal(plain, trained(nonsense(LEFT, 2), bare))  # the check can fail


@dataclasses.dataclass(frozen=True)
class Idle:
    def __call__(self, sample, key):
        return sample


@pytest.mark.parametrize("name", SPECS)
def test_each_preset_trains_and_resumes_bit_for_bit(name, tmp_path):
    spec, how = SPECS[name]
    engine, losses = shapes.resumes(lambda: make(spec, total=10, how=how), 5, tmp_path)
    assert np.isfinite([value for step in losses for value in step.values()]).all()
    terms = set(losses[-1])
    assert {"objectness", "rpn_box", "classes", "boxes"} <= terms
    if spec.align is not None:
        assert {"domain_image", "domain_instance", "consistency"} <= terms
    if spec.teacher is not None:
        assert {"target_objectness", "target_classes"} <= terms and "target_boxes" not in terms
        assert not any(name.startswith("target_") for name in losses[0])  # burn-in
    names = engine.state().tensors["model"]
    assert ("teacher" in {n.split(".")[0] for n in names}) == (spec.teacher is not None)


def test_it_is_evaluated_as_a_plain_detector():
    """Discriminators are skipped: their weights change no prediction and no loss, and predict is that of Detect."""
    task = make().task.eval()
    batch = Plan(SEEN, SPEC, seed=None).make(0, 0)
    with torch.no_grad():
        losses, found = task.assess(batch)
        for p in task.domain.parameters():
            p.fill_(torch.nan)
        again, same = task.assess(batch)
        forward = task(batch)
    assert losses.terms.keys() == {"objectness", "rpn_box", "classes", "boxes"} == forward.terms.keys()
    for name, value in losses.terms.items():
        assert torch.equal(value, again.terms[name]) and torch.equal(value, forward.terms[name])
    plain = Detect(net=NET, classes=SPEC.classes, divisible=16).build()
    plain.load_state_dict({k: v for k, v in task.state_dict().items() if k.startswith("net.")})
    with torch.no_grad():
        theirs = plain.eval().predict(batch)
    for one, two, three in zip(found["boxes"], same["boxes"], theirs["boxes"], strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


def at(batch, share):
    batch.progress = Progress(torch.tensor(share), torch.tensor(1.0), share)
    return batch


def gradients(align, share, term):
    """Gradients of one term: of the body, and of the discriminators."""
    task = make(dataclasses.replace(SPEC, align=align)).task
    losses = task(at(Plan(TRAIN, SPEC, seed=5).make(0, 0), share))
    losses.terms[term].backward()
    body = torch.cat([p.grad.flatten() for p in task.net.backbone.parameters() if p.grad is not None])
    heads = torch.cat([p.grad.flatten() for p in task.domain.parameters() if p.grad is not None])
    return body, heads, losses


@pytest.mark.parametrize(("term", "field"), [("domain_image", "image"), ("domain_instance", "instance")])
def test_the_reversed_gradient_has_the_weight_asked_for_and_the_heads_have_theirs_whole(term, field):
    plain = Align(image=1.0, instance=1.0, dropout=0.0)
    small = dataclasses.replace(plain, **{field: 0.25})
    warm = dataclasses.replace(small, ramp="warm")
    body, heads, _ = gradients(plain, 0.5, term)
    for align, weight in ((small, 0.25), (warm, 0.25 * (2 / (1 + np.exp(-5)) - 1))):
        scaled, same, losses = gradients(align, 0.5, term)
        assert torch.allclose(same, heads)
        assert torch.allclose(scaled, weight * body, rtol=1e-3, atol=1e-5 * float(body.abs().max()))
        assert body.abs().max() > 0
    assert losses.logs["reversal"].item() == pytest.approx(
        0.25 * (2 / (1 + np.exp(-5)) - 1) if field == "image" else 0.98661, rel=1e-4
    )


def test_with_weight_0_the_discriminators_learn_and_the_detector_never_hears_of_them():
    """Bit for bit the detector's gradient without discriminators, on the same batch: what a control needs."""
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)

    def found(weight):
        align = Align(image=weight, instance=weight, dropout=0.0)
        task = make(dataclasses.replace(SPEC, align=align)).task
        terms = task(batch).terms
        detection = [value for name, value in terms.items() if not name.startswith(("domain", "consist"))]
        parameters = list(task.net.parameters())
        alone = torch.autograd.grad(sum(detection), parameters, retain_graph=True, allow_unused=True)
        whole = torch.autograd.grad(sum(terms.values()), parameters, retain_graph=True, allow_unused=True)
        heads = torch.autograd.grad(sum(terms.values()), list(task.domain.parameters()))
        pairs = [(a, b) for a, b in zip(alone, whole, strict=True) if a is not None]
        return all(torch.equal(a, b) for a, b in pairs), heads

    same, heads = found(0.0)
    assert same and all(h.abs().max() > 0 for h in heads)
    assert not found(0.1)[0]


def test_reversal_reverses():
    """A step against the gradient that the body gets from the image discriminator makes its loss larger."""
    task = make(dataclasses.replace(SPEC, align=Align(image=1.0, instance_loss=0.0))).task
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)
    for p in task.domain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    before = task(batch).terms["domain_image"]
    before.backward()
    with torch.no_grad():
        for p in task.net.backbone.parameters():
            if p.grad is not None:
                p -= 0.05 * p.grad / (1e-8 + p.grad.norm())
    assert task(batch).terms["domain_image"] > before


def test_consistency_is_the_originals_for_one_and_one_and_counts_any_batch():
    image, instance = torch.tensor([[0.7, 0.2]]), torch.tensor([0.6, 0.9, 0.1])
    picture = torch.tensor([0, 0, 1])
    total, count = consistency(image, instance, picture)
    assert (total / count).item() == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    two = consistency(image.repeat(2, 1), instance, picture)
    assert (two[0] / two[1]).item() == pytest.approx((0.1 + 0.2 + 0.1) / 3)  # levels are averaged
    many = consistency(
        torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([2, 0, 1])
    )
    assert many[0].item() == pytest.approx(0.3 + 0.1 + 0.8)


@pytest.mark.parametrize(("source", "target"), [(1, 1), (1, 3), (3, 1)])
def test_any_division_of_the_batch(source, target):
    stream = Pair(
        source=dataclasses.replace(LEFT, batch=source), target=dataclasses.replace(RIGHT, batch=target)
    )
    losses = make(stream=stream).task(at(Plan(stream, SPEC, seed=5).make(0, 0), 0.5))
    sum(losses.terms.values()).backward()
    assert all(torch.isfinite(value) for value in losses.terms.values())
    assert losses.count == source


def test_the_order_of_domains_in_the_batch_changes_no_loss():
    """The original went by the source standing first."""
    task = make(dataclasses.replace(SPEC, align=dataclasses.replace(DAFRCNN_2018, dropout=0.0))).task
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)
    rows = [3, 0, 2, 1]
    turned = some(batch, rows)
    plain, other = task.eval()(batch), task(turned)
    for name, value in plain.terms.items():
        assert other.terms[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_empty_source_pictures_stay_source():
    """The original inferred the domain from boxes: a picture without any became one of the target."""
    task = make().task.eval()
    batch = at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)
    empty = dataclasses.replace(
        batch, boxes=[torch.zeros(0, 4)] * 4, labels=[torch.zeros(0, dtype=torch.int64)] * 4
    )
    with_boxes, without = task(batch), task(empty)
    assert torch.equal(with_boxes.terms["domain_image"], without.terms["domain_image"])
    assert without.logs["regions/source"] == 16 and without.count == 2
    sum(without.terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


def test_logs_say_how_well_domains_are_told_apart():
    task = make().task
    with torch.no_grad():
        for p in task.domain.parameters():
            p.zero_()
        task.domain.image[0].conv2.bias.fill_(1.0)  # always says source
        task.domain.instance[0].fc3.bias.fill_(-1.0)  # always says target
        logs = task(at(Plan(TRAIN, SPEC, seed=5).make(0, 0), 0.5)).logs
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(
        {
            "reversal": 0.1,
            "regions/source": 16.0,
            "regions/target": 16.0,
            "accuracy/image_source": 1.0,
            "accuracy/image_target": 0.0,
            "accuracy/instance_source": 0.0,
            "accuracy/instance_target": 1.0,
        }
    )


def test_dropout_of_a_picture_does_not_depend_on_its_batch():
    x = torch.ones(5, 8)
    both = keyed_dropout(x, (1, 2), torch.tensor([0, 0, 1, 1, 1]), "instance1")
    alone = keyed_dropout(x[2:], (2,), torch.tensor([0, 0, 0]), "instance1")
    assert torch.equal(both[2:], alone)
    assert set(both.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(alone, keyed_dropout(x[2:], (2,), torch.tensor([0, 0, 0]), "instance2"))


# ---- batch norm


def norms_of(task):
    return {n: t.clone() for n, t in task.state_dict().items() if n.startswith("net.") and "running_" in n}


def some(batch, rows):
    """Some pictures of a batch."""
    return dataclasses.replace(
        batch,
        ids=tuple(batch.ids[r] for r in rows),
        source=batch.source[rows],
        image=batch.image[rows],
        weak=None,
        **{name: [getattr(batch, name)[r] for r in rows] for name in ("boxes", "labels")},
        **{
            name: tuple(getattr(batch, name)[r] for r in rows)
            for name in ("sizes", "annotated", "target", "origins", "keys")
        },
    )


def test_norms_of_the_target_alone_learn_what_the_source_teaches_and_answer_by_the_target():
    """AdaBN: losses and gradients bit for bit those of the source alone, statistics bit for bit the target's."""
    spec, _ = SPECS["norms"]
    task, plain = (
        make(spec).task.train(),
        make(Detect(net=NET, classes=SPEC.classes, divisible=16)).task.train(),
    )
    plain.load_state_dict(task.state_dict())
    start = norms_of(task)
    batch = at(Plan(TRAIN, spec, seed=5).make(0, 0), 0.5)
    losses = [task(batch), plain(some(batch, [row for row, target in enumerate(batch.target) if not target]))]
    assert equal(losses[0].terms, losses[1].terms)
    for each in losses:
        sum(each.terms.values()).backward()
    gradients_of = [
        {n: p.grad for n, p in each.named_parameters() if p.grad is not None} for each in (task, plain)
    ]
    assert gradients_of[0] and equal(*gradients_of)
    found = norms_of(task)
    task.load_state_dict({**task.state_dict(), **start})
    task.net.features(task.images(batch.image, batch.sizes)[list(batch.target)])
    assert equal(found, norms_of(task)) and not equal(found, start)


@pytest.mark.parametrize("name", ["dafrcnn-2018", "both"])
def test_each_domain_is_normalised_as_it_would_be_alone(name):
    spec = dataclasses.replace(SPECS[name][0], norms="target")
    task = make(spec, how=SPECS[name][1]).task.train()
    batch = at(Plan(TRAIN, spec, seed=5).make(0, 0), 0.5)
    image = task.images(batch.image, batch.sizes)
    seen = task._features(image, batch)
    for domain in (False, True):
        rows = [row for row, target in enumerate(batch.target) if target == domain]
        for maps, wanted in zip(seen, task.net.features(image[rows]), strict=True):
            assert torch.equal(maps[rows], wanted)
    task.spec = dataclasses.replace(spec, norms="joint")
    assert not torch.equal(task._features(image, batch)[0], seen[0])


# ---- teacher


def test_the_teacher_answers_gets_no_gradient_and_looks_at_weak_pictures():
    engine = make(TAUGHT, total=8, how=EMA)
    task, looked = engine.task, []
    features = task.teacher.features

    def watched(image):
        looked.append(image)
        return features(image)

    task.teacher.features = watched
    for step in engine.steps():
        assert not any(p.requires_grad or p.grad is not None for p in task.teacher.parameters())
        assert not any(m.training for m in task.teacher.modules())
        assert bool(looked) == (step.index > 4)  # burn-in is 0.4 of 8 steps
    assert task.judge is task.teacher
    batch = Plan(TRAIN, TAUGHT, seed=5).make(0, 0)
    assert not torch.equal(batch.weak, batch.image)
    wanted = task.images(batch.weak[2:], batch.sizes[2:])
    looked.clear()
    task.train()(at(batch, 0.9))
    assert torch.equal(looked[0], wanted)
    assert not any(
        torch.equal(a, b)
        for a, b in zip(task.teacher.parameters(), task.net.parameters(), strict=True)
        if a.requires_grad
    )


def test_pseudo_boxes_are_what_the_teacher_is_sure_of(monkeypatch):
    from visloom.nets.detection.roi import Found

    task = make(TAUGHT, how=EMA).task
    found = Found(
        torch.tensor([[4.0, 4, 30, 30], [0, 0, 9, 9], [5, 5, 5, 9]]),
        torch.tensor([0.9, 0.1, 0.9]),
        torch.tensor([2, 1, 1]),
    )
    monkeypatch.setattr(task.teacher, "detect", lambda *_: [found, found])
    batch = at(Plan(TRAIN, TAUGHT, seed=5).make(0, 0), 0.9)
    (truth, _) = task._pseudo(batch, [2, 3])
    assert truth.boxes.tolist() == [[4, 4, 30, 30]] and truth.labels.tolist() == [2]
    assert truth.unsure.tolist() == [[0, 0, 9, 9]]
    losses = task(batch)
    assert losses.logs["pseudo"] == 1
    assert losses.terms["target_classes"] > 0


def test_what_the_teacher_doubts_is_no_background():
    """A teacher that is sure of nothing must not teach that there is nothing: so self-training collapsed."""
    from visloom.nets.detection.rpn import Truth

    net = make().task.net
    none, label = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    place = torch.tensor([[8.0, 8, 40, 40]])
    anchors = torch.tensor([[8.0, 8, 40, 40], [10, 10, 42, 42], [44, 0, 60, 16]])
    assert net.rpn.targets(anchors, Truth(none, label), (48, 64))[0].tolist() == [0, 0, 0]
    doubted = Truth(none, label, unsure=place)
    assert net.rpn.targets(anchors, doubted, (48, 64))[0].tolist() == [-1, -1, 0]
    sure = Truth(anchors[:1], label.new_ones(1), unsure=place)
    assert net.rpn.targets(anchors, sure, (48, 64))[0].tolist() == [1, 1, 0]  # what is sure stays an object
    assert net.roi.choose([anchors], [doubted], [1]).labels[0].tolist() == [0]
    assert sorted(net.roi.choose([anchors], [sure], [1]).labels[0].tolist()) == [0, 1, 1, 1]
    task, batch = make(TAUGHT, how=EMA).task, at(Plan(TRAIN, TAUGHT, seed=5).make(0, 0), 0.9)
    corners = [
        (x, y, side) for side in (8.0, 16, 32, 48, 64) for x in range(-32, 64, 2) for y in range(-32, 48, 2)
    ]
    cover = torch.tensor([[x, y, x + side, y + side] for x, y, side in corners])
    everything = Truth(none, label, unsure=cover)
    task._pseudo = lambda batch, rows: [everything for _ in rows]
    losses = task(batch)
    assert losses.terms["target_objectness"] < 0.05 * losses.terms["objectness"]
    assert all(torch.isfinite(value) for value in losses.terms.values())


# ---- refusals


def test_streams_that_cannot_adapt_are_refused_in_words():
    for stream in (LEFT, dataclasses.replace(RIGHT)):
        with pytest.raises(DataError, match="needs both: train is a Pair"):
            Plan(stream, SPEC, seed=0).make(0, 0)
    plain = Pair(
        source=dataclasses.replace(LEFT, transform=()),
        target=dataclasses.replace(RIGHT, transform=(Target(),)),
    )
    with pytest.raises(DataError, match="no weak view for the teacher"):
        Plan(plain, TAUGHT, seed=0).make(0, 0)
    assert Plan(plain, SPEC, seed=0).make(0, 0).target == (False, False, True, True)
    with pytest.raises(ValueError, match="put RandomFlip before Strong"):
        Strong((RandomFlip(),))
    with pytest.raises(ValueError, match="needs the regions of a two-stage detector"):
        Adapt(net=FCOS(), classes=("a",))
    with pytest.raises(ValueError, match="needs align or teacher"):
        Adapt(net=NET, classes=("a",), align=None)
    with pytest.raises(ValueError, match="reversed already"):
        Align(image=-0.1)
    with pytest.raises(ValueError, match="two numbers from 1"):
        Align(hidden=(64, 0))
    with pytest.raises(ValueError, match="needs an image or an instance discriminator"):
        Align(image_loss=0.0, instance_loss=0.0)


def test_target_takes_everything_but_the_pixels():
    sample = FOG.read(0)
    bare = Target()(sample, 0)
    assert bare.boxes is None and bare.labels is None and not bare.masks and bare.calib is None
    assert bare.extra == {"target": True}
    assert bare.image is sample.image


def test_it_travels_and_reads_the_same_in_two_processes():
    for spec, _ in SPECS.values():
        shapes.travels(spec)
    shapes.shards(BOTH, TRAIN)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_norms_of_the_target_need_norms_that_learn_statistics(norm):
    net = dataclasses.replace(NET, body=ResNetBody(norm=norm))
    with pytest.raises(ConfigError, match="has none that learns statistics") as caught:
        dataclasses.replace(SPEC, net=net, align=None, norms="target").build()
    assert caught.value.path == "task.norms"
