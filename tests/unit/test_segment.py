"""The segmentation task: batches of ragged pictures, auxiliary outputs, class weights, views, and what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visloom.errors import ConfigError, ContractError, DataError
from visloom.run import Call
from visloom.sample import Sample
from visloom.tasks.segment import CrossEntropy, Segment, SegmentBatch, Sliding, colorize
from visloom.tasks.segment.metrics import PixelMetrics
from visloom.tasks.segment.nets import Compact, Custom, Normalise, Pspnet, Unet
from visloom.tasks.segment.views import MULTISCALE, parse

HALF = Normalise((127.5,) * 3, (127.5,) * 3)
NAMES = ("sky", "road", "car")


class Pair(nn.Module):
    """A network with an auxiliary output in training; its answers see a neighbourhood of 3x3."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(in_chans, num_classes, 3, padding=1)
        self.side = nn.Conv2d(in_chans, num_classes, 1)

    def forward(self, x: Tensor) -> Any:
        return (self.main(x), self.side(x)) if self.training else self.main(x)


class Wrong(nn.Module):
    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, num_classes, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Square(nn.Module):
    """The closed-form network of the recorded predictions."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        with torch.no_grad():
            for conv, pace in ((self.one, 0.7), (self.two, 1.0)):
                count = conv.weight.numel()
                conv.weight.copy_((0.5 * torch.sin(pace * torch.arange(count))).reshape(conv.weight.shape))
                conv.bias.copy_(0.1 * torch.cos(torch.arange(4.0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


def spec(net: str = "Pair", **changes: Any) -> Segment:
    fields = {"net": Custom(Call(f"tests.unit.test_segment:{net}")), "classes": NAMES, "normalise": HALF}
    return Segment(**{**fields, **changes})


def sample(name: str, height: int, width: int, seed: int = 0) -> Sample:
    draws = np.random.default_rng([seed, height, width])
    image = draws.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Sample(name, image, masks={"class": draws.integers(-1, 3, (height, width)).astype(np.int32)})


def built(task: Segment) -> Any:
    torch.manual_seed(0)
    return task.build()


@torch.no_grad()
def answered(task: Segment, *samples: Sample) -> Any:
    """Predictions of the task's first weights."""
    return built(task).eval().predict(task.collate(samples, None))


# ------------------------------------------------------------------------------------------------------- batches


def test_ragged_pictures_are_padded_with_ignore():
    batch = spec().collate([sample("a", 5, 7), sample("b", 6, 4)], None)
    assert batch.image.shape == (2, 6, 7, 3)
    assert batch.sizes == ((5, 7), (6, 4))
    assert batch.mask is not None
    assert (batch.mask[0, 5:] == -1).all()
    assert (batch.mask[1, :, 4:] == -1).all()
    assert batch.mask.dtype == torch.int16


def test_a_training_batch_has_one_size():
    with pytest.raises(DataError, match=r"'a' is 5x7 and 'b' is 6x4.*RandomCrop"):
        spec().collate([sample("a", 5, 7), sample("b", 6, 4)], key=1)


def test_an_answer_does_not_depend_on_what_else_is_in_the_batch():
    task = spec()
    samples = [sample("a", 9, 7), sample("b", 6, 8), sample("c", 9, 7, seed=1), sample("d", 3, 3)]
    together = answered(task, *samples)
    for row, one in enumerate(samples):
        alone = answered(task, one)
        assert together["mask"][row].shape == one.image.shape[:2]
        assert torch.equal(together["mask"][row], alone["mask"][0])
        assert float(together["score"][row]) == pytest.approx(float(alone["score"][0]), abs=1e-6)


def test_evaluation_losses_are_exact_at_any_division_into_batches():
    task = spec()
    module = built(task).eval()
    samples = [sample("a", 9, 7), sample("b", 6, 8), sample("c", 9, 7, seed=1)]
    with torch.no_grad():
        whole, _ = module.assess(task.collate(samples, None))
        parts = [module.assess(task.collate([one], None))[0] for one in samples]
        count = sum(part.count for part in parts)
        mean = sum(part.terms["cross_entropy"] * part.count for part in parts) / count
        forward = module(task.collate(samples, None))
    assert int(whole.count) == int(count)
    assert float(whole.terms["cross_entropy"]) == pytest.approx(float(mean), rel=1e-6)
    assert float(forward.terms["cross_entropy"]) == pytest.approx(float(mean), rel=1e-6)


def test_labels_that_are_no_classes_name_sample_values_and_remedy():
    bad = sample("street-7", 4, 4)
    bad.masks["class"][0, :3] = 255
    with pytest.raises(DataError, match=r"street-7.*0 to 2.*255 \(3 pixels\).*options"):
        spec().collate([bad], None)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": None}, "no image"),
        ({"image": np.zeros((4, 4, 1), np.uint8)}, r"\(4, 4, 1\)"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "integer type"),
        ({"image": np.zeros((4, 5, 3), np.uint8)}, "mask is 4x4 and the image 4x5"),
    ],
)
def test_bad_samples_are_named(change, match):
    with pytest.raises(DataError, match=match):
        spec().collate([sample("it", 4, 4).replace(**change)], None)


# -------------------------------------------------------------------------------------------- losses and networks


def test_auxiliary_outputs_are_trained_with_a_share_and_gone_in_evaluation():
    """Defect 36: what a network returns says what is auxiliary; nobody asks for its name."""
    task = spec(aux=0.25)
    module = built(task).train()
    batch = task.collate([sample("a", 8, 8), sample("b", 8, 8, seed=1)], 1)
    losses = module(batch)
    target = batch.mask.long()
    side = module.net.side(module.images(batch.image))
    expected = 0.25 * nn.functional.cross_entropy(side, target, ignore_index=-1)
    assert set(losses.terms) == {"cross_entropy", "aux_cross_entropy"}
    assert float(losses.terms["aux_cross_entropy"].detach()) == pytest.approx(
        float(expected.detach()), rel=1e-6
    )
    assert set(module.eval()(batch).terms) == {"cross_entropy"}


@pytest.mark.parametrize(
    "net", [Unet(width=8, depth=2), Compact(width=8, blocks=(1, 1)), Pspnet("resnet18", aux=False)]
)
def test_networks_of_all_sizes_without_and_with_auxiliary_head(net):
    task = Segment(net=net, classes=NAMES, normalise=HALF)
    module = built(task)
    for height, width in ((33, 17), (32, 48)):
        batch = task.collate([sample("a", height, width), sample("b", height, width, seed=2)], 1)
        losses = module.train()(batch)
        sum(losses.terms.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
        with torch.no_grad():
            assert module.eval().predict(batch)["mask"][0].shape == (height, width)


def test_a_network_of_the_wrong_size_is_told_what_is_expected():
    task = spec("Wrong")
    with pytest.raises(ContractError, match=r"Wrong returned \(1, 3, 3, 3\).*\(1, 3, 8, 8\)"):
        answered(task, sample("a", 8, 8))


def test_training_accuracy_of_a_sixteenth():
    task = spec()
    module = built(task).train()
    batch = task.collate([sample("a", 8, 8)], 1)
    with torch.no_grad():
        answers = module.net(module.images(batch.image))[0].max(1).indices[:, ::4, ::4]
    target = batch.mask[:, ::4, ::4]
    right = (answers == target).sum() / (target >= 0).sum()
    assert float(module(batch).logs["pixel_accuracy"]) == pytest.approx(float(right))


def test_class_weights_are_counted_once_and_travel_with_the_weights():
    task = spec(loss=CrossEntropy(weights="inverse", samples=3))
    assert task.needs_samples == 3
    module = built(task)
    samples = [sample(str(i), 6, 6, seed=i) for i in range(3)]
    task.fit(module, samples)
    counts = sum(np.bincount(s.masks["class"].ravel() + 1, minlength=4)[1:] for s in samples)
    np.testing.assert_allclose(module.class_weight, counts.sum() / (3 * counts), rtol=1e-5)
    other = built(task)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.class_weight, module.class_weight)


def test_given_class_weights_are_part_of_the_recipe():
    module = built(spec(loss=CrossEntropy(weights=(1.0, 2.0, 3.0))))
    assert module.class_weight.tolist() == [1.0, 2.0, 3.0]
    assert "class_weight" not in module.state_dict()
    with pytest.raises(ConfigError, match="2 classes, the task has 3"):
        spec(loss=CrossEntropy(weights=(1.0, 2.0)))


def test_counting_ignored_masks_says_so():
    task = spec(loss=CrossEntropy(weights="log", samples=1))
    empty = sample("a", 4, 4)
    empty.masks["class"][:] = -1
    with pytest.raises(DataError, match="ignored everywhere"):
        task.fit(built(task), [empty])


# --------------------------------------------------------------------------------------------------------- views


@pytest.fixture(params=["40x60", "50x30"])
def recorded(request, shared):
    with np.load(shared / f"parity/seg_predict_{request.param}.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("ms", {"scales": MULTISCALE}),
        ("ms_flip", {"scales": MULTISCALE, "flip": True}),
        ("slide", {"sliding": Sliding(compat=True)}),
        ("slide_flip", {"sliding": Sliding(compat=True), "flip": True}),
    ],
)
def test_views_give_the_recorded_logits(recorded, name, views):
    module = built(spec("Square", classes=("a", "b", "c", "d"), **views)).eval()
    with torch.no_grad():
        logits = module._averaged(torch.from_numpy(recorded["image"]))[0].double().numpy()
    wanted = recorded[name]
    there = np.isfinite(wanted)  # defect 31: the original leaves columns of tall pictures without an answer
    np.testing.assert_allclose(logits[there], wanted[there], atol=1e-5)


@pytest.mark.parametrize("size", [(40, 60), (50, 30), (7, 5), (85, 55), (31, 90)])
@pytest.mark.parametrize(
    "how", [Sliding(), Sliding(size=16), Sliding(size=(9, 30), overlap=0.5), Sliding(overlap=0)]
)
def test_windows_cover_every_pixel(size, how):
    """Defect 31: one stride for both axes leaves columns of tall pictures out."""
    tile = how.tile(*size)
    for length, wide in zip(size, tile, strict=True):
        seen = np.zeros(length, int)
        for place in how.places(length, wide):
            assert 0 <= place <= length - wide
            seen[place : place + wide] += 1
        assert seen.min() >= 1
    module = built(spec(sliding=how)).eval()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert torch.isfinite(module._averaged(image)).all()


def test_a_window_as_large_as_the_picture_changes_nothing():
    image = torch.randn(1, 3, 20, 30)
    with torch.no_grad():
        plain = built(spec()).eval()._averaged(image)
        slid = built(spec(sliding=Sliding(size=64))).eval()._averaged(image)
    assert torch.equal(plain, slid)


def test_mirrored_pictures_get_mirrored_answers():
    module = built(spec(flip=True)).eval()
    image = torch.randn(1, 3, 12, 10)
    with torch.no_grad():
        np.testing.assert_allclose(
            module._averaged(image.flip(3)).flip(3), module._averaged(image), rtol=1e-5, atol=1e-6
        )


def test_words_of_tta():
    assert parse("flip,0.75,1.25") == (True, (0.75, 1.25), False, False)
    assert parse("sliding") == (False, (), True, False)
    assert parse("multiscale, 2.25") == (False, (*MULTISCALE, 2.25), False, False)
    assert spec(flip=True).with_tta("none") == spec()
    assert spec(flip=True).with_tta("probabilities") == spec(flip=True, probabilities=True)
    assert spec().with_tta("flip") == spec(flip=True)
    assert spec().with_tta("sliding,flip").sliding == Sliding()
    for words in ("flipped", "0", "-1", "nan", "99"):
        with pytest.raises(ConfigError, match="flip, sliding, multiscale"):
            parse(words)


def test_long_looks_at_small_pictures_and_answers_at_their_own_size():
    task = spec(long=16)
    module = built(task).eval()
    seen = []
    module.net.register_forward_pre_hook(lambda net, given: seen.append(tuple(given[0].shape[2:])))
    with torch.no_grad():
        found = module.predict(task.collate([sample("a", 64, 32), sample("b", 10, 20)], None))
    assert seen == [(16, 8), (8, 16)]
    assert [tuple(mask.shape) for mask in found["mask"]] == [(64, 32), (10, 20)]


def test_probabilities_are_those_of_the_mask():
    task = spec(probabilities=True)
    found = answered(task, sample("a", 6, 5))
    table = found["probabilities"][0]
    np.testing.assert_allclose(table.sum(0), 1, rtol=1e-5)
    assert torch.equal(table.max(0).indices.to(torch.uint8), found["mask"][0])


# ------------------------------------------------------------------------------------- geometry, files and pictures


def test_a_prediction_returns_to_the_original_geometry():
    from visloom.data.transforms import CenterCrop, Resize

    original = sample("a", 40, 60)
    moved = CenterCrop(size=20)(Resize(short=20)(original, 0), 0).resolve()
    back = spec().restore({"mask": torch.zeros(20, 20, dtype=torch.uint8)}, moved.stored().matrix, (40, 60))
    assert back["mask"].shape == (40, 60)
    assert (back["mask"][:, 10:50] == 0).all()  # the middle square
    assert (back["mask"][:, :9] == -1).all()
    assert (back["mask"][:, 51:] == -1).all()


def test_palette_pictures_hold_class_numbers_and_leave_the_palette_alone(tmp_path):
    """Defect 40: colouring changes the palette in the original."""
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    mask = np.array([[0, 1], [2, -1]])
    colorize(mask, palette).save(tmp_path / "mask.png")
    assert palette == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    from PIL import Image

    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).tolist() == [[0, 1], [2, 255]]
        assert picture.convert("RGB").getpixel((1, 0)) == (0, 255, 0)
    with pytest.raises(ValueError, match="255 classes"):
        colorize(mask, [(0, 0, 0)] * 256)


def test_files_of_a_prediction(tmp_path):
    task = spec(probabilities=True)
    columns = answered(task, sample("a", 6, 5))
    one = {name: column[0] for name, column in columns.items()}
    places = task.write(one, tmp_path, "photo")
    assert places["mask_file"] == "masks/photo.png"
    assert places["found"].endswith("%")
    with np.load(tmp_path / places["probabilities_file"]) as file:
        assert file["probabilities"].shape == (3, 6, 5)
        assert file["classes"].tolist() == list(NAMES)


def test_drawings_show_input_target_and_prediction_over_a_legend():
    one = sample("a", 50, 70)
    prediction = {"mask": torch.from_numpy(one.masks["class"].clip(0)).to(torch.uint8)}
    panels = spec().draw(one.image, prediction, one)
    alone = spec().draw(one.image, prediction)
    assert panels.width > 3 * alone.width
    assert alone.height > alone.width * 50 // 70  # the legend
    pixels = np.asarray(alone).reshape(-1, 3)
    for colour in spec().palette:
        assert (pixels == colour).all(1).any(), "each class stands in the legend in its colour"


def test_ignored_pixels_of_an_overlay_stay_as_they_are():
    from visloom.tasks.segment.draw import overlay

    image = np.full((4, 4, 3), 90, np.uint8)
    mask = np.full((4, 4), -1)
    mask[:, 2:] = 1
    shown = np.asarray(overlay(image, mask, spec().palette))
    assert (shown[:, :2] == 90).all()
    assert (shown[:, 2:] != 90).any()


def test_training_tiles_lie_under_their_masks():
    task = spec()
    batch = task.collate([sample("a", 8, 8)], 1)
    seen = task.seen(batch)
    assert seen.shape == (1, 8, 8, 3)
    assert seen.dtype == np.uint8
    assert (seen != batch.image.numpy()).any()


# -------------------------------------------------------------------------------------------- what a report tells


def test_goodness_is_the_mean_iou_of_each_picture():
    task = spec()
    mask = torch.tensor([[[0, 0, 1, 1]], [[2, 2, -1, -1]]], dtype=torch.int16)
    batch = SegmentBatch(
        ids=("a", "b"), image=torch.zeros(2, 1, 4, 3, dtype=torch.uint8), mask=mask, sizes=((1, 4), (1, 4))
    )
    found = {"mask": [torch.tensor([[0, 1, 1, 1]]), torch.tensor([[2, 2, 0, 1]])]}
    np.testing.assert_allclose(task.goodness(found, batch), [(1 / 2 + 2 / 3) / 2, 1.0])


def test_the_floor_is_what_the_commonest_class_reaches():
    task = spec(background="sky")
    metric = PixelMetrics(NAMES)
    matrix = torch.tensor([[5, 1, 0], [1, 2, 0], [0, 1, 0]])
    metric.merge([{"matrix": matrix}])
    assert task.floor(metric.tables(), "pixel_accuracy") == ("all 'sky'", 0.6)
    assert task.floor(metric.tables(), "miou") == ("all 'sky'", pytest.approx(0.2))
    assert task.floor(metric.tables(), "foreground_accuracy") == ("all 'sky'", 0.0)
    assert task.floor({}, "miou") is None


def test_what_a_run_says_of_its_normalisation():
    assert spec().header()["normalised"].startswith("the recipe's mean 127.5, 127.5, 127.5")
    assert "the network's mean 123.7" in replace(spec(), net=Pspnet(), normalise="net").header()["normalised"]


@pytest.mark.parametrize(
    "change",
    [
        {"aux": -1.0},
        {"long": -1},
        {"scales": ()},
        {"scales": (0.0,)},
        {"classes": ("a", "a")},
        {"colours": ((0, 0, 0),)},
        {"normalise": Normalise((1.0,), (1.0,))},
    ],
)
def test_nonsense_is_refused(change):
    with pytest.raises(ValueError):
        spec(**change)


def test_a_background_that_is_no_class_is_refused():
    with pytest.raises(ConfigError, match="none of the classes"):
        spec(background="grass")


@dataclass(frozen=True)
class Fetching:
    """A net spec with weights to fetch."""

    pretrained: bool = True

    def build(self, classes: int, channels: int) -> nn.Module:
        return Pair(classes, channels)

    def normalisation(self) -> Normalise | None:
        return HALF


def test_a_saved_run_fetches_no_weights():
    task = Segment(net=Fetching(), classes=NAMES, normalise=HALF)
    assert task.bare().net == Fetching(pretrained=False)
    assert spec().bare() == spec()
