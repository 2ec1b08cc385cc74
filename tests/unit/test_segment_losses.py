"""Losses of segmentation against the template's recorded answers, against plain formulas, and at their edges."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visloom.errors import ConfigError
from visloom.tasks.segment import CrossEntropy, CrossEntropyDice, Dice, Focal, Lovasz, Mix, Ohem, Segment
from visloom.tasks.segment.losses import balanced, weighting
from visloom.tasks.segment.nets import IMAGENET, Unet

SHAPES = {"c5": (2, 5, 6, 7), "c59": (1, 59, 8, 8)}
ALL = [CrossEntropy(), Ohem(), Dice(), Dice(over="classes"), CrossEntropyDice(), Focal(), Focal(gamma=0.5),
       Lovasz(), Lovasz(classes="all"), Lovasz(per_image=True),
       Mix(parts=(CrossEntropy(), Lovasz()), shares=(1.0, 0.5)), Dice(smooth=0.0)]  # fmt: skip


def lcg(count: int, seed: int, modulus: int) -> np.ndarray:
    """The generator that the recorded cases were made with."""
    state, found = seed, []
    for _ in range(count):
        state = (1103515245 * state + 12345) & 0x7FFFFFFF
        found.append((state >> 8) % modulus)
    return np.array(found)


def case(name: str) -> tuple[Tensor, Tensor]:
    """Logits (B, K, H, W) that want gradients and target (B, H, W), -1 for ignore."""
    shape = SHAPES[name.split("_")[0]]
    pixels = shape[0] * shape[2] * shape[3]
    logits = torch.tensor((lcg(int(np.prod(shape)), 3, 2001) - 1000) / 250.0, dtype=torch.float32).reshape(
        shape
    )
    target = lcg(pixels, 11, shape[1])
    if "ign" in name:
        target[lcg(pixels, 17, 6) == 0] = -1
    return logits.requires_grad_(), torch.tensor(target).reshape(shape[0], *shape[2:])


def total(loss: Any, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    terms = loss.build()(logits, target, weight)
    return torch.stack(list(terms.values())).sum()


def number(loss: Any, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> float:
    return float(total(loss, logits, target, weight).detach())


RECORDED = {
    "CrossEntropyLoss2d": CrossEntropy(),
    "DiceLoss": Dice(compat=True),
    "FocalLoss": Focal(compat=True),
    "CE_DiceLoss": CrossEntropyDice(),
    "LovaszSoftmax": Lovasz(),
}


def test_recorded_values_and_gradients(shared):
    cases = json.loads((shared / "parity/seg_losses.json").read_text())["cases"]
    met = 0
    for row in cases:
        logits, target = case(row["case"])
        before = target.clone()
        loss = total(RECORDED[row["loss"]], logits, target)
        loss.backward()
        assert logits.grad is not None
        assert torch.equal(target, before), "the target is never changed (defect 21)"
        assert math.isfinite(float(loss.detach()))
        if row.get("value") is None:  # the original stops with an error there: defects 21 and 22
            assert "error" in row
            continue
        assert float(loss.detach()) == pytest.approx(row["value"], rel=1e-5), row["case"]
        assert float(logits.grad.abs().sum()) == pytest.approx(row["grad_sum_abs"], rel=1e-4), row["case"]
        head = logits.grad.flatten()[:8].numpy()
        np.testing.assert_allclose(head, row["grad_head"], rtol=2e-3, atol=1e-7)
        met += 1
    assert met == len(cases) - 4


def test_without_ignored_pixels_the_right_forms_equal_the_templates():
    logits, target = case("c5")
    for right, theirs in ((Dice(), Dice(compat=True)), (Focal(), Focal(compat=True))):
        assert number(right, logits, target) == pytest.approx(number(theirs, logits, target), rel=1e-6)


def test_ignored_pixels_leave_every_loss_as_if_they_were_not_there():
    """Defects 21 to 23: Dice counts them as a class in the original, Focal divides by them."""
    logits, target = case("c5_ign255")
    flat = logits.detach().movedim(1, -1).reshape(-1, 5)
    keep = target.flatten() >= 0
    part, known = flat[keep].T.reshape(1, 5, 1, -1), target.flatten()[keep].reshape(1, 1, -1)
    for loss in (
        CrossEntropy(),
        Dice(),
        Dice(over="classes"),
        Focal(),
        Lovasz(),
        Lovasz(classes="all"),
        Ohem(),
    ):
        assert number(loss, logits, target) == pytest.approx(number(loss, part, known), rel=1e-5), loss


def test_half_ignored_focal_is_the_mean_over_the_other_half():
    logits, target = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [-1, -1]]])
    expected = 0.25 * math.log(2)
    assert number(Focal(), logits, target) == pytest.approx(expected)
    assert number(Focal(compat=True), logits, target) == pytest.approx(expected / 2)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_nothing_labelled_is_a_connected_zero(loss):
    logits = torch.randn(2, 4, 5, 3, requires_grad=True)
    target = torch.full((2, 5, 3), -1)
    value = total(loss, logits, target)
    assert value.ndim == 0
    assert float(value.detach()) == 0.0
    value.backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0.0


@pytest.mark.parametrize("loss", ALL, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 80.0])
def test_values_and_gradients_stay_finite(loss, scale):
    torch.manual_seed(0)
    logits = (torch.randn(2, 4, 5, 3) * scale).requires_grad_()
    target = torch.randint(-1, 4, (2, 5, 3))
    value = total(loss, logits, target)
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert bool(torch.isfinite(logits.grad).all())


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_cross_entropy_is_torchs(seed, classes):
    torch.manual_seed(seed)
    logits, target = torch.randn(2, classes, 3, 4), torch.randint(-1, classes, (2, 3, 4))
    weight = torch.rand(classes) * 0.01 + 1e-3  # sums far below 1
    if not (target >= 0).any():
        return
    for given_weight in (None, weight):
        ours = total(CrossEntropy(smoothing=0.1), logits, target, given_weight)
        theirs = torch.nn.functional.cross_entropy(
            logits, target, given_weight, ignore_index=-1, label_smoothing=0.1
        )
        assert float(ours.detach()) == pytest.approx(float(theirs), rel=1e-5)


def naive_lovasz(p: np.ndarray, t: np.ndarray) -> float:
    """The extension by its definition: sum of sorted errors times the growth of the Jaccard loss of the set so far."""
    losses = []
    for c in range(p.shape[1]):
        truth = t == c
        if not truth.any():
            continue
        error = np.where(truth, 1 - p[:, c], p[:, c])
        order, last, value = np.argsort(-error, kind="stable"), 0.0, 0.0
        wrong: set[int] = set()
        for i in order:
            wrong.add(int(i))
            missed = sum(truth[j] for j in wrong)
            extra = len(wrong) - missed
            now = 1 - (truth.sum() - missed) / (truth.sum() + extra)
            value, last = value + error[i] * (now - last), now
        losses.append(value)
    return float(np.mean(losses))


@given(st.integers(0, 10_000))
def test_lovasz_is_its_definition(seed):
    torch.manual_seed(seed)
    logits, target = torch.randn(1, 3, 3, 4, dtype=torch.float64), torch.randint(0, 3, (1, 3, 4))
    p = logits.softmax(1)[0].flatten(1).T.numpy()
    assert number(Lovasz(), logits, target) == pytest.approx(
        naive_lovasz(p, target.flatten().numpy()), rel=1e-9
    )


def test_lovasz_of_sure_answers_is_one_minus_iou():
    predicted, target = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]])
    logits = torch.nn.functional.one_hot(predicted, 2).movedim(-1, 1).float() * 200
    assert number(Lovasz(), logits, target) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_lovasz_options_do_what_they_say():
    """Defect 24: the original takes classes and per_image and uses neither."""
    logits, target = case("c5")
    target = target.clamp_max(2)  # classes 3 and 4 are absent
    present, every = (number(Lovasz(classes=c), logits, target) for c in ("present", "all"))
    assert present != pytest.approx(every)
    each = [number(Lovasz(), logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    assert number(Lovasz(per_image=True), logits, target) == pytest.approx(np.mean(each), rel=1e-5)


def test_dice_over_classes_by_hand():
    logits, target = case("c5_ign255")
    p, known = logits.detach().softmax(1), target >= 0
    each = []
    for c in range(5):
        truth = (target == c) & known
        if truth.any():
            overlap, predicted = float((p[:, c] * truth).sum()), float((p[:, c] * known).sum())
            each.append(1 - (2 * overlap + 1) / (predicted + float(truth.sum()) + 1))
    assert number(Dice(over="classes"), logits, target) == pytest.approx(np.mean(each), rel=1e-5)


def test_focal_alpha_weighs_after_the_factor():
    logits, target = case("c5")
    alpha = (0.5, 1.0, 2.0, 0.0, 3.0)
    p = logits.detach().softmax(1).gather(1, target[:, None])[:, 0]
    expected = (torch.tensor(alpha)[target] * (1 - p) ** 2 * -p.log()).mean()
    assert number(Focal(alpha=alpha), logits, target) == pytest.approx(float(expected), rel=1e-5)


def test_ohem_takes_the_hard_ones_and_at_least_a_share():
    logits, target = case("c5_ign255")
    entropy = torch.nn.functional.cross_entropy(logits.detach(), target, ignore_index=-1, reduction="none")
    entropy = entropy[target >= 0].sort(descending=True).values
    hard = entropy[entropy >= -math.log(0.3)]
    assert number(Ohem(threshold=0.3), logits, target) == pytest.approx(float(hard.mean()), rel=1e-5)
    share = entropy[: math.ceil(0.5 * len(entropy))]
    kept = total(Ohem(threshold=1e-6, keep=0.5), logits, target)
    assert float(kept.detach()) == pytest.approx(float(share.mean()), rel=1e-5)


@pytest.mark.parametrize("rule", ["inverse", "median", "sqrt", "log"])
def test_class_weights_from_counts(rule):
    counts = (700, 200, 100, 0)
    weights = balanced(counts, rule)
    share = np.array(counts) / 1000
    assert sum(w * p for w, p in zip(weights, share, strict=True)) == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2] == weights[3]
    formula = {"inverse": lambda p: 1 / (4 * p), "median": lambda p: 0.2 / p, "sqrt": lambda p: (0.2 / p) ** 0.5,
               "log": lambda p: 1 / math.log(1.02 + p)}[rule]  # fmt: skip
    assert weights[1] / weights[0] == pytest.approx(formula(0.2) / formula(0.7))
    assert max(balanced(counts, rule, cap=1.5)) <= 1.5


def test_inverse_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    counts = (30, 50, 20)
    labels = np.repeat(np.arange(3), counts)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced(counts, "inverse"), theirs)


def test_weights_are_found_inside_a_mix():
    inner = CrossEntropy(weights=(1.0, 2.0))
    assert weighting(Mix(parts=(Lovasz(), inner))) is inner
    assert weighting(CrossEntropyDice(entropy=inner)) is inner
    assert weighting(Mix(parts=(Lovasz(), CrossEntropy()))) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropy(weights="rare"),
        lambda: CrossEntropy(weights=(-1.0, 1.0)),
        lambda: CrossEntropy(counts=(1, 2)),
        lambda: CrossEntropy(smoothing=1.0),
        lambda: Ohem(keep=0),
        lambda: Dice(over="everything"),
        lambda: Focal(gamma=-1),
        lambda: Lovasz(stride=0),
        lambda: Mix(parts=()),
        lambda: Mix(parts=(Dice(),), shares=(1.0, 2.0)),
        lambda: balanced((0, 0), "log"),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("other", [CrossEntropy(), CrossEntropy(weights=(2.0, 1.0, 1.0)), CrossEntropyDice()])
def test_parts_that_weight_classes_differently_are_refused(other):
    mixed = Mix(parts=(CrossEntropy(weights=(1.0, 2.0, 3.0)), other))
    with pytest.raises(ConfigError, match="in one way") as caught:
        Segment(net=Unet(), normalise=IMAGENET, classes=("a", "b", "c"), loss=mixed)
    assert caught.value.path == "task.loss"


@pytest.mark.parametrize("alpha", [(0.25,), (1.0, 2.0, 3.0, 4.0)])
@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: Mix(parts=(Dice(), loss))])
def test_alpha_for_other_classes_is_refused_before_the_first_step(alpha, wrap):
    with pytest.raises(ConfigError, match=f"alpha for {len(alpha)} classes, the task has 3") as caught:
        Segment(net=Unet(), normalise=IMAGENET, classes=("a", "b", "c"), loss=wrap(Focal(alpha=alpha)))
    assert caught.value.path == "task.loss"
