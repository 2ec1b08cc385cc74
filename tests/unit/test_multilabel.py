"""Multi-label classification: losses against their formulas, metrics against others, and a task that learns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from visloom.contract import check_losses, check_predictions
from visloom.errors import ConfigError, DataError
from visloom.run import Call
from visloom.sample import Sample, Stacked
from visloom.tasks.classify import Asymmetric, BinaryCrossEntropy, Custom, Focal, MultiLabel, Normalise
from visloom.tasks.classify.multilabel_metrics import MeanAveragePrecision, MultiLabelRates, average_precision

CLASSES = ("cat", "dog", "bird")


class Means(nn.Module):
    """Logits from the mean of each channel."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_chans, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(image.mean((2, 3)))


def task(**more) -> MultiLabel:
    net = Custom(Call(f"{__name__}:Means"), normalise=Normalise((100.0,) * 3, (50.0,) * 3))
    return MultiLabel(net=net, classes=CLASSES, **more)


def samples(labels: list) -> list[Sample]:
    draws = np.random.default_rng(1)
    return [
        Sample(f"s{i}", draws.integers(0, 256, (4, 4, 3), np.uint8), label) for i, label in enumerate(labels)
    ]


# --- losses, written again in float64


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bce(x, t):
    p = sigmoid(x)
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def focal(x, t, gamma, alpha):
    p = sigmoid(x)
    there, absent = -alpha * (1 - p) ** gamma * np.log(p), -(1 - alpha) * p**gamma * np.log(1 - p)
    return np.where(t == 1, there, absent)


def asymmetric(x, t, gamma_pos, gamma_neg, clip):
    p = sigmoid(x)
    moved = np.maximum(p - clip, 0)  # p_m of the paper
    there, absent = -((1 - p) ** gamma_pos) * np.log(p), -(moved**gamma_neg) * np.log(1 - moved)
    return np.where(t == 1, there, absent)


LOSSES = [
    (BinaryCrossEntropy(), bce),
    (Focal(), lambda x, t: focal(x, t, 2.0, 0.25)),
    (Focal(gamma=1.5, alpha=0.6), lambda x, t: focal(x, t, 1.5, 0.6)),
    (Asymmetric(), lambda x, t: asymmetric(x, t, 0.0, 4.0, 0.05)),
    (Asymmetric(gamma_pos=1.0, gamma_neg=2.0, clip=0.0), lambda x, t: asymmetric(x, t, 1.0, 2.0, 0.0)),
]


@pytest.mark.parametrize(("loss", "formula"), LOSSES)
def test_losses_are_their_formulas(loss, formula) -> None:
    draws = np.random.default_rng(0)
    logits, target = draws.normal(0, 3, (50, 4)), draws.integers(0, 2, (50, 4)).astype(float)
    ours = loss(torch.tensor(logits), torch.tensor(target, dtype=torch.float32))
    np.testing.assert_allclose(ours.numpy(), formula(logits, target), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Focal(), Asymmetric()])
def test_losses_stay_finite_where_they_are_certain(loss) -> None:
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    value = loss(logits, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


# --- the task


def test_the_loss_of_a_picture_is_the_sum_over_its_classes() -> None:
    """As in mmclassification, whose average is taken over the pictures alone; difficult counts as there."""
    spec = task()
    module = spec.build().train()
    batch = spec.collate(samples([[1, 0, -1], [0, 0, 1]]), None)
    found = module(batch)
    logits = module.net(module.images(batch)).detach().numpy().astype(float)
    target = np.array([[1, 0, 1], [0, 0, 1]])
    assert list(found.terms) == ["binary_cross_entropy"]
    assert float(found.terms["binary_cross_entropy"].detach()) == pytest.approx(
        bce(logits, target).sum() / 2, rel=1e-5
    )
    assert float(found.count) == 2
    check_losses("it", found)


@pytest.mark.parametrize(("difficult", "row"), [("positive", 1), ("negative", 0), ("ignore", None)])
def test_difficult_objects(difficult: str, row: int | None) -> None:
    spec = task(difficult=difficult)
    module = spec.build()
    batch = spec.collate(samples([[1, 0, -1]]), None)
    logits = module.net(module.images(batch)).detach().numpy().astype(float)
    target = [1, 0] if row is None else [1, 0, row]
    expected = bce(logits[:, : len(target)], np.array([target])).sum()
    assert float(module(batch).terms["binary_cross_entropy"].detach()) == pytest.approx(expected, rel=1e-5)


def test_a_picture_without_a_label_has_no_part() -> None:
    spec = task()
    module = spec.build().eval()
    some = samples([[1, 0, 0], None, 2])
    losses, predictions = module.assess(spec.collate(some, None))
    alone, _ = module.assess(spec.collate([some[0], some[2]], None))
    assert float(losses.count) == 2
    assert float(losses.terms["binary_cross_entropy"].detach()) == pytest.approx(
        float(alone.terms["binary_cross_entropy"].detach())
    )
    check_predictions("it", predictions, 3)
    nothing = module(spec.collate([some[1]], None))
    assert float(nothing.terms["binary_cross_entropy"].detach()) == 0.0
    nothing.terms["binary_cross_entropy"].backward()
    good = spec.goodness(predictions, spec.collate(some, None))
    assert good.shape == (3,)
    assert good[1].item() == predictions["score"][1].item()


def test_labels_from_memory_and_one_by_one_are_equal() -> None:
    spec, some = task(), samples([[1, 0, -1], [0, 0.5, 0]])
    stacked = Stacked(
        ("s0", "s1"), np.stack([s.image for s in some]), np.array([s.label for s in some], np.float32)
    )
    one, other = spec.collate(some, None), spec.collate(stacked, None)
    assert one.label.dtype == torch.float32
    torch.testing.assert_close(one.label, other.label)


@pytest.mark.parametrize("label", [[1, 0], [1, 0, 2], [1, 0, float("nan")], [1, -0.5, 0], 3])
def test_wrong_labels_name_their_sample(label) -> None:
    with pytest.raises(DataError, match="sample 's1'"):
        task().collate(samples([[1, 0, 0], label]), None)


def test_mixing_mixes_the_rows() -> None:
    spec = task(mixup=1.0)
    module = spec.build().train()
    batch = spec.collate(samples([[1, 0, 0], [0, 1, 0]]), 7)
    assert batch.mix is not None
    image = module.images(batch, mixed=True)
    share = float(batch.mix.share)
    target = np.array([[share, 1 - share, 0], [1 - share, share, 0]])
    logits = module.net(image).detach().numpy().astype(float)
    assert float(module(batch).terms["binary_cross_entropy"].detach()) == pytest.approx(
        bce(logits, target).sum() / 2, rel=1e-4
    )


def test_it_learns() -> None:
    torch.manual_seed(0)
    spec = task(loss=Asymmetric())
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (60, 3))
    some = [
        Sample(
            f"s{i}",
            np.broadcast_to((label * 160 + 40).astype(np.uint8), (4, 4, 3)).copy(),
            label.astype(np.float32),
        )
        for i, label in enumerate(labels)
    ]
    batch, module = spec.collate(some, None), spec.build().train()
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        sum(module(batch).terms.values()).backward()
        optimizer.step()
    metrics = spec.metrics()
    _, predictions = module.eval().assess(batch)
    for metric in metrics.values():
        metric.update(predictions, batch)
    values = {k: v for metric in metrics.values() for k, v in metric.compute().items()}
    assert list(values) == ["mAP", "CP", "CR", "CF1", "OP", "OR", "OF1"]
    assert all(v > 0.99 for v in values.values()), values


@pytest.mark.parametrize("truth", [None, np.array([1, 1, -1], np.float32), 0])
def test_drawing(truth) -> None:
    spec = task()
    prediction = {"label": 0, "score": 0.9, "probabilities": np.array([0.9, 0.2, 0.8])}
    sample = None if truth is None else Sample("x", None, truth)
    picture = spec.draw(np.zeros((20, 30, 3), np.uint8), prediction, sample)
    bar = picture.getpixel(
        (3, picture.size[1] - 1 - (21 * (2 if truth is None or np.ndim(truth) == 0 else 3) + 6) - 3)
    )
    colours = {None: (96, 108, 120)}
    assert bar == colours.get(None if truth is None else "known", (206, 52, 52))


def test_settings_are_checked() -> None:
    for wrong in ({"smoothing": 0.1}, {"threshold": 0.0}, {"k": 0}, {"difficult": "maybe"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            task(**wrong)
    with pytest.raises(ConfigError, match="the 4 most probable of 3"):
        task(k=4).metrics()
    for loss in (lambda: Focal(gamma=-1.0), lambda: Asymmetric(clip=1.0)):
        with pytest.raises(ValueError, match="0 or more"):
            loss()


# --- metrics


def theirs_ap(score: np.ndarray, target: np.ndarray) -> float:
    """mmclassification's formula: precision at each positive, difficult ones not counted, over the positives."""
    order = np.argsort(-score)
    hit, seen, total = 0, 0, 0.0
    for t in target[order]:
        seen += t != -1
        if t == 1:
            hit += 1
            total += hit / seen
    return total / hit if hit else 0.0


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
def test_average_precision_is_the_originals_without_equal_scores(seed: int, n: int) -> None:
    draws = np.random.default_rng(seed)
    score, target = draws.permutation(n) / n, draws.choice([-1, 0, 1], n)
    assert average_precision(score, target) == pytest.approx(theirs_ap(score, target), rel=1e-12)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), levels=st.integers(1, 6))
def test_average_precision_is_scikit_learns_with_equal_scores(seed: int, n: int, levels: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    draws = np.random.default_rng(seed)
    score, target = draws.integers(0, levels, n) / levels, draws.integers(0, 2, n)
    if target.any():
        assert average_precision(score, target) == pytest.approx(
            sk.average_precision_score(target, score), rel=1e-12
        )
    order = draws.permutation(n)  # the order of the samples has no part in it
    assert average_precision(score[order], target[order]) == average_precision(score, target)


def theirs_rates(pred: np.ndarray, target: np.ndarray, thr: float | None, k: int | None) -> list[float]:
    """CP, CR, CF1, OP, OR, OF1 as the original defines them, in fractions, by plain loops."""
    n, classes = pred.shape
    target = np.where(target == -1, 0, target)
    yes = np.zeros((n, classes), bool)
    for i in range(n):
        if thr is not None:
            yes[i] = pred[i] >= thr
        else:
            yes[i, sorted(range(classes), key=lambda c: (-pred[i, c], c))[:k]] = True
    tp, fp, fn = (
        np.array([sum(bool(yes[i, c]) is a and target[i, c] == b for i in range(n)) for c in range(classes)])
        for a, b in ((True, 1), (True, 0), (False, 1))
    )
    eps = np.finfo(np.float32).eps
    cp = (tp / np.maximum(tp + fp, eps)).mean()
    cr = (tp / np.maximum(tp + fn, eps)).mean()
    op, recall = tp.sum() / max(tp.sum() + fp.sum(), eps), tp.sum() / max(tp.sum() + fn.sum(), eps)
    harmonic = [2 * p * r / max(p + r, eps / 100) for p, r in ((cp, cr), (op, recall))]
    return [cp, cr, harmonic[0], op, recall, harmonic[1]]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), k=st.sampled_from([None, 1, 2, 3]))
def test_rates_are_the_originals(seed: int, n: int, k: int | None) -> None:
    draws = np.random.default_rng(seed)
    score, target = draws.integers(0, 8, (n, 3)) / np.float32(8), draws.choice([-1, 0, 1], (n, 3))
    metric = MultiLabelRates(CLASSES, threshold=0.5, k=k)
    for part in np.array_split(np.arange(n), 3):  # in batches
        if len(part):
            metric.update({"probabilities": torch.tensor(score[part])}, batch_of(target[part]))
    expected = theirs_rates(score, target, None if k else 0.5, k)
    assert list(metric.compute().values()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def batch_of(target: np.ndarray):
    return SimpleNamespace(label=torch.tensor(target, dtype=torch.float32))


@pytest.mark.parametrize("make", [MeanAveragePrecision, MultiLabelRates])
def test_states_merge_to_the_same_bits(make) -> None:
    draws = np.random.default_rng(3)
    score, target = torch.tensor(draws.random((30, 3), np.float32)), draws.choice([-2, -1, 0, 1], (30, 3))
    whole = make(CLASSES)
    whole.update({"probabilities": score}, batch_of(target))
    parts = []
    for rows in (slice(0, 7), slice(7, 30)):
        part = make(CLASSES)
        part.update({"probabilities": score[rows]}, batch_of(target[rows]))
        parts.append(part.state())
    merged = make(CLASSES)
    merged.merge([parts[1], make(CLASSES).state(), parts[0]])  # one process had no sample
    assert merged.compute() == whole.compute()
    assert merged.tables() == whole.tables()


def test_mean_average_precision_over_classes() -> None:
    score = np.array([[0.9, 0.1, 0.5], [0.8, 0.9, 0.4], [0.7, 0.8, 0.3]], np.float32)
    target = np.array([[0, 0, 0], [1, 1, 0], [1, -1, 0]])
    metric = MeanAveragePrecision(CLASSES)
    assert np.isnan(metric.compute()["mAP"])
    metric.update({"probabilities": torch.tensor(score)}, batch_of(target))
    # (1/2 + 2/3) / 2, then 1 with the difficult one left out, then 0 for a class that is never there
    assert metric.compute()["mAP"] == pytest.approx(((0.5 + 2 / 3) / 2 + 1.0 + 0.0) / 3)
    assert [row[1:] for row in metric.tables()["average_precision"]["rows"]][2] == [0.0, 0]


def test_a_run_with_several_labels(tmp_path: Path) -> None:
    """The whole way: data, training, evaluation, report, by the public function."""
    import visloom
    from visloom.data.arrays import Arrays
    from visloom.run import Eval, Host, How, Log, Optim, Run
    from visloom.stream import Ordered, Shuffled
    from visloom.units import Monitor, Steps

    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (48, 3)).astype(np.float32)
    images = np.broadcast_to((labels * 160 + 40).astype(np.uint8)[:, None, None], (48, 4, 4, 3))
    source = Arrays.write(tmp_path / "data", images, labels, CLASSES)
    run = Run(
        name="several",
        task=task(),
        train=Shuffled(source=source, batch=16),
        evals={"val": Eval(stream=Ordered(source=source, batch=20), monitor=Monitor("max", "mAP"))},
        length=Steps(40),
        optim=Optim(name="Adam", lr=0.1),
        how=How(precision="fp32"),
        host=Host(device="cpu", workers=0, out=str(tmp_path / "runs")),
        log=Log(every=Steps(20), tensorboard=False, images=4),
    )
    report = visloom.train(run)
    assert report.values["val"]["mAP"] > 0.99


# --- weights by class


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_are_those_of_torch(smoothing: float) -> None:
    from visloom.tasks.classify.losses import cross_entropy

    draws = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(12, 3, generator=draws), torch.tensor([0.5, 2.0, 1.5])
    target = torch.tensor([0, 1, 2, -1] * 3)
    total, count = cross_entropy(logits, target, smoothing, weights)
    theirs = nn.functional.cross_entropy(logits, target, weights, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(total / count, theirs)
    one, number = cross_entropy(logits, target, smoothing, torch.ones(3))
    plain, same = cross_entropy(logits, target, smoothing)
    torch.testing.assert_close((one, number), (plain, same))


def test_class_weights_of_a_task() -> None:
    from visloom.tasks.classify import Classify

    spec = Classify(net=task().net, classes=CLASSES, class_weights=(0.5, 2.0, 1.5))
    module = spec.build().train()
    batch = spec.collate(samples([0, 1, 1, None]), None)
    losses = module(batch)
    logits = module.net(module.images(batch))
    theirs = nn.functional.cross_entropy(logits, batch.label, torch.tensor([0.5, 2.0, 1.5]), ignore_index=-1)
    torch.testing.assert_close(losses.terms["cross_entropy"], theirs)
    right = (logits.argmax(1) == batch.label).sum().item() / 3
    assert losses.logs["accuracy"].item() == pytest.approx(right)
    assert not any("class_weights" in name for name in module.state_dict())
    light = Classify(net=task().net, classes=CLASSES, class_weights=(0.005, 0.02, 0.015)).build().train()
    light.load_state_dict(module.state_dict())  # only the ratios matter, small as they may be
    torch.testing.assert_close(light(batch).terms["cross_entropy"], theirs)
    several = task(class_weights=(0.0, 1.0, 2.0))
    module, batch = several.build(), several.collate(samples([[1, 0, 1]]), None)
    found = module(batch).terms["binary_cross_entropy"].detach().item()
    logits = module.net(module.images(batch)).detach().numpy().astype(float)
    assert found == pytest.approx((bce(logits, np.array([[1, 0, 1]])) * [0, 1, 2]).sum(), rel=1e-5)
    for wrong in ((1.0, 2.0), (1.0, -1.0, 1.0)):
        with pytest.raises(ValueError, match="class_weights"):
            task(class_weights=wrong)
