"""Classification: what a spec refuses, how batches are made and mixed, the loss, the module and the pictures."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from visloom.assemble import check_classes, completed
from visloom.config import change, load
from visloom.errors import ConfigError, ContractError, DataError
from visloom.keys import fold
from visloom.palette import palette
from visloom.run import Call
from visloom.sample import Sample, Stacked
from visloom.stream import Shuffled
from visloom.task import Losses, Progress, TaskSpec
from visloom.tasks.classify import Classify, Custom, FastCifar, NetSpec, Normalise, ResNetCifar, Timm
from visloom.tasks.classify.batch import draw_mix, mix_images, mix_labels
from visloom.tasks.classify.losses import cross_entropy, dense, hits

NAMES = ("cat", "dog", "eel")


class Tiny(nn.Module):
    """Mean colour, then one linear layer."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(in_chans, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image.mean((2, 3)))


class Spatial(nn.Module):
    """Answers that depend on where things are, so that flips and shifts show."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([image[:, 0, i, i + 1] for i in range(self.num_classes)], dim=1)


def forgets_a_class(num_classes: int, in_chans: int) -> nn.Module:
    return Tiny(num_classes - 1, in_chans)


def no_module(num_classes: int, in_chans: int) -> str:
    return "net"


def tiny(target: str = "Tiny", **more: Any) -> Classify:
    net = Custom(Call(f"{__name__}:{target}"), normalise=Normalise((100.0,) * 3, (50.0,) * 3))
    return Classify(**{"net": net, "classes": NAMES, **more})


def pictures(count: int = 4, size: int = 8, channels: int = 3, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    shape = (size, size, channels)
    return [Sample(f"s{i}", rng.integers(0, 256, shape, dtype=np.uint8), i % 3) for i in range(count)]


# ---- the spec


def test_the_spec_is_a_picklable_value_without_torch() -> None:
    spec = Classify(net=ResNetCifar(18), classes=NAMES, mixup=0.2)
    assert isinstance(spec, TaskSpec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    for net in (Timm("resnet18"), ResNetCifar(), FastCifar(), Custom(Call("torch.nn:Identity"))):
        assert isinstance(net, NetSpec)
    code = "import sys, visloom.tasks.classify; sys.exit(bool({'torch', 'timm', 'cv2', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"smoothing": 1.0}, "smoothing must be"),
        ({"mixup": -0.1}, "must not be negative"),
        ({"tta": "flip"}, "tta must be none, mirror or mirror_shift"),
        ({"classes": ("cat", "cat")}, "two or more different"),
        ({"classes": ("cat",)}, "two or more different"),
        ({"colours": ((0, 0, 0),)}, "1 colours for 3 classes"),
        ({"channels": 1, "normalise": Normalise((1.0,) * 3, (1.0,) * 3)}, "3 numbers and the images 1"),
    ],
)
def test_impossible_settings_are_refused_when_the_value_is_made(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(**more)


def test_top_k_without_meaning_is_refused_as_soon_as_the_classes_are_known() -> None:
    with pytest.raises(ConfigError, match="top-5 of 3 classes"):
        tiny(topk=(1, 5))
    open_classes = tiny(classes=(), topk=(1, 5))
    with pytest.raises(ConfigError, match="top-5 of 4 classes"):
        dataclasses.replace(open_classes, classes=("a", "b", "c", "d"))


@dataclasses.dataclass(frozen=True)
class Named:
    """A source that knows its class names, if any."""

    names: tuple[str, ...]

    def classes(self) -> tuple[str, ...]:
        return self.names


def test_classes_of_head_and_data_must_agree() -> None:
    spec = tiny()
    check_classes(spec, Named(NAMES))
    check_classes(spec, Named(()))
    with pytest.raises(ConfigError, match=r"3 classes \(cat, dog, eel\) but .* has 2 \(cat, dog\)") as caught:
        check_classes(spec, Named(("cat", "dog")))
    assert caught.value.path == "task.classes"
    with pytest.raises(ConfigError, match="name class 1 differently: 'dog' and 'eel'"):
        check_classes(spec, Named(("cat", "eel", "dog")))
    with pytest.raises(ConfigError, match="no classes yet"):
        tiny(classes=()).build()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("0", "1", "2"), ("cat", "dog", "eel")),  # a file without names: numbers
        (
            ("tench", "goldfish", "great white shark"),
            ("n01440764", "n01443537", "n01484850"),
        ),  # ImageNet's folders
        (("0", "1", "2"), ("n01440764", "n01443537", "n01484850")),
        (("n01440764", "n01443537", "n01484850"), ("0", "1", "2")),
    ],
)
def test_names_that_only_say_a_place_are_matched_by_their_order(
    ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    note = check_classes(tiny(classes=ours), Named(theirs))
    assert f"{ours[0]!r} of task.classes is {theirs[0]!r}" in note
    assert f"{ours[2]!r} is {theirs[2]!r}" in note
    with pytest.raises(ConfigError, match=r"3 classes .* has 2"):
        check_classes(tiny(classes=ours), Named(theirs[:2]))


@pytest.mark.parametrize("names", [("1", "2", "3"), ("0", "10", "2"), ("n02", "n01440764", "n01443537")])
def test_names_that_say_more_or_stand_in_another_order_are_not(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="name class 0 differently"):
        check_classes(tiny(classes=("cat", "dog", "eel")), Named(names))
    with pytest.raises(ConfigError, match="name class"):
        check_classes(tiny(), Named(("n01443537", "n01440764", "n01484850")))


def test_balanced_weights_are_counted_in_the_training_data() -> None:
    @dataclasses.dataclass(frozen=True)
    class Labelled:
        own: tuple[int, ...]

        def __len__(self) -> int:
            return len(self.own)

        def read(self, index: int) -> Sample:
            raise AssertionError("labels are counted without reading a picture")

        def labels(self) -> np.ndarray:
            return np.array(self.own)

    run = change(load("digits"), {"task.class_weights": "balanced", "task.classes": list(NAMES)})
    train = Shuffled(source=Labelled((0, 0, 0, 1, 0, 2, 1, 0)), batch=4)
    assert completed(run, train).task.class_weights == pytest.approx((8 / 15, 8 / 6, 8 / 3))
    spec = tiny(class_weights="balanced")
    assert spec.build().class_weights is None  # nothing is known yet
    found = spec.complete([Labelled((0, 0, 0, 1)), Labelled((0, 2, 1, 0))])
    assert found.class_weights == pytest.approx((8 / 15, 8 / 6, 8 / 3))
    assert found.complete([Labelled((2, 2))]) is found  # a run that goes on keeps what it counted
    assert found.build().class_weights.tolist() == pytest.approx(list(found.class_weights))


def test_the_palette_is_stable_and_has_different_colours() -> None:
    assert palette(40)[:10] == palette(10)
    assert len(set(palette(200))) == 200
    assert tiny().palette == palette(3)
    assert tiny(colours=((1, 2, 3),) * 3).palette == ((1, 2, 3),) * 3


def test_normalisation_follows_the_network_or_the_setting() -> None:
    assert Classify(net=Timm("resnet18")).normalisation().mean == pytest.approx((123.675, 116.28, 103.53))
    assert ResNetCifar().normalisation() == Normalise((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255))
    gray = Classify(net=ResNetCifar(), channels=1).normalisation()
    assert gray.mean == pytest.approx(((125.307 + 122.961 + 113.8575) / 3,))
    with pytest.raises(ConfigError, match=r"set task\.normalise"):
        Classify(net=Custom(Call("torch.nn:Identity"))).normalisation()
    with pytest.raises(ValueError, match="std must be positive"):
        Normalise((0.0,), (0.0,))


# ---- collate


def test_a_batch_holds_images_as_stored_with_labels_and_ids() -> None:
    samples = pictures()
    samples[2].label = None
    batch = tiny().collate(samples, None)
    assert (batch.image.dtype, tuple(batch.image.shape)) == (torch.uint8, (4, 8, 8, 3))
    assert np.array_equal(batch.image[1].numpy(), samples[1].image)
    assert batch.ids == ("s0", "s1", "s2", "s3")
    assert batch.label.tolist() == [0, 1, -1, 0]
    assert batch.mix is None
    assert len(batch) == 4


def test_samples_in_memory_make_the_same_batch_as_single_ones() -> None:
    samples = [s.replace(source=1) for s in pictures()]
    stacked = Stacked(
        tuple(s.id for s in samples),
        np.stack([s.image for s in samples if s.image is not None]),
        np.array([s.label for s in samples]),
        source=1,
    )
    one, many = tiny().collate(stacked, 5), tiny().collate(samples, 5)
    for name in ("image", "label", "source"):
        assert torch.equal(getattr(one, name), getattr(many, name))
    assert one.ids == many.ids


def test_read_only_pictures_are_copied_not_shared() -> None:
    samples = pictures()
    stacked = Stacked(
        ("a", "b", "c", "d"), np.stack([s.image for s in samples if s.image is not None]), np.arange(4) % 3
    )
    stacked.image.flags.writeable = False
    batch = tiny().collate(stacked, None)
    batch.image[:] = 0
    assert stacked.image.any()


def test_soft_labels_join_hard_ones() -> None:
    samples = pictures(3)
    samples[0].label = np.array([0.5, 0.5, 0.0])
    samples[2].label = None
    batch = tiny().collate(samples, None)
    assert batch.label.tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    samples[1].label = np.array([1.0, 0.0])
    with pytest.raises(DataError, match="needs 3 numbers"):
        tiny().collate(samples, None)


def test_wide_integers_are_kept_exactly() -> None:
    deep = [Sample(f"d{i}", np.full((4, 4, 3), 60_000 + i, np.uint16), 0) for i in range(2)]
    assert tiny().collate(deep, None).image[1, 0, 0].tolist() == [60_001] * 3


def test_what_does_not_fit_is_named() -> None:
    odd = pictures(3)
    odd[1] = Sample("odd one", np.zeros((8, 9, 3), np.uint8), 0)
    with pytest.raises(DataError, match="'s0' is 8x8x3 uint8 and 'odd one' is 8x9x3 uint8: add a resize"):
        tiny().collate(odd, None)
    bad = pictures(3)
    bad[2].label = 3
    with pytest.raises(DataError, match=r"'s2' has the label .*3.*from 0 to 2 \(cat, dog, eel\)"):
        tiny().collate(bad, None)
    bad[2].label = np.array([0.5, np.nan, 0.5])
    with pytest.raises(DataError, match=r"'s2' has the label .*finite"):
        tiny().collate(bad, None)
    with pytest.raises(DataError, match="'s0' has no image"):
        tiny().collate([Sample("s0", None, 0)], None)
    with pytest.raises(DataError, match=r"expected \(H, W, 3\)"):
        tiny().collate(pictures(2, channels=1), None)
    with pytest.raises(DataError, match="integer type, got float32"):
        tiny().collate([Sample("f", np.zeros((4, 4, 3), np.float32), 0)], None)


# ---- mixing


@settings(max_examples=60, deadline=None)
@given(key=st.integers(0, 2**63), height=st.integers(1, 40), width=st.integers(1, 40), both=st.booleans())
def test_the_label_share_is_what_is_left_of_the_picture(
    key: int, height: int, width: int, both: bool
) -> None:
    mix = draw_mix(key, height, width, 0.3 if both else 0.0, 1.0)
    assert mix is not None
    image = torch.zeros(2, height, width, 1)
    image[1] = 1.0
    left = mix_images(image, mix)[1].mean().item()
    assert left == pytest.approx(mix.share.item(), abs=1e-5)
    assert 0.0 <= mix.share.item() <= 1.0
    labels = mix_labels(torch.eye(2), mix)
    assert labels.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert labels[1, 1].item() == pytest.approx(mix.share.item(), abs=1e-6)


def test_mixing_is_a_function_of_the_key_and_off_without_one() -> None:
    spec = tiny(mixup=0.4, cutmix=1.0)
    first, again = spec.collate(pictures(), fold(1, 7)), spec.collate(pictures(2, seed=3), fold(1, 7))
    assert first.mix is not None
    assert again.mix is not None
    for a, b in zip(first.mix, again.mix, strict=True):  # the same for every slice of a global batch
        assert torch.equal(a, b)
    assert spec.collate(pictures(), None).mix is None
    assert tiny().collate(pictures(), fold(1, 7)).mix is None
    kinds = {bool(draw_mix(fold(0, i), 16, 16, 0.4, 1.0).box.any()) for i in range(40)}  # type: ignore[union-attr]
    assert kinds == {True, False}
    shares = [draw_mix(fold(0, i), 16, 16, 0.4, 0.0).share.item() for i in range(400)]  # type: ignore[union-attr]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)  # of Beta(0.4, 0.4)


def test_mixing_acts_in_training_only() -> None:
    module = tiny(mixup=1.0).build()
    batch = tiny(mixup=1.0).collate(pictures(), fold(0, 3))
    plain = tiny().collate(pictures(), None)
    assert batch.mix is not None
    own = batch.mix.share
    module.train()
    mixed = module(batch).terms["cross_entropy"]
    module.eval()
    assert torch.equal(module(batch).terms["cross_entropy"], module(plain).terms["cross_entropy"])
    images = batch.image.float()
    pixels = own * images + (1 - own) * images.roll(1, 0)
    logits = module.net(((pixels - 100) / 50).permute(0, 3, 1, 2))
    soft = functional.one_hot(batch.label, 3).float()
    expected = functional.cross_entropy(logits, own * soft + (1 - own) * soft.roll(1, 0))
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-5)


# ---- the loss


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 12),
    classes=st.integers(2, 9),
    smoothing=st.sampled_from([0.0, 0.1, 0.3]),
    soft=st.booleans(),
)
def test_cross_entropy_is_torchs(seed: int, batch: int, classes: int, smoothing: float, soft: bool) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=draws, requires_grad=True)
    target = torch.randint(0, classes, (batch,), generator=draws)
    if soft:
        target = torch.rand(batch, classes, generator=draws).softmax(1)
    elif batch > 1:
        target[0] = -1
    total, count = cross_entropy(logits, target, smoothing)
    expected = functional.cross_entropy(logits, target, label_smoothing=smoothing, ignore_index=-1)
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    (ours,) = torch.autograd.grad(total / count, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, logits)
    assert torch.allclose(ours, theirs, atol=1e-6)
    if not soft:
        assert cross_entropy(logits, dense(target, classes), smoothing)[0].item() == pytest.approx(
            total.item(), rel=1e-5
        )


@pytest.mark.parametrize("target", [torch.tensor([-1, -1]), torch.zeros(2, 3)])
def test_nothing_labelled_is_a_connected_zero(target: torch.Tensor) -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    total, count = cross_entropy(logits, target, 0.1)
    assert (total.item(), count.item()) == (0.0, 0.0)
    total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits = torch.tensor([[8.0, -8.0]], dtype=torch.bfloat16)
    total, _ = cross_entropy(logits, torch.tensor([0]))
    assert total.dtype == torch.float32
    assert 0 < total.item() < 1e-6


def test_hits_count_right_answers() -> None:
    assert hits(torch.tensor([0, 1, 2]), torch.tensor([0, 2, -1])).item() == 1.0
    assert hits(torch.tensor([0, 1]), torch.tensor([[0.7, 0.3], [0.4, 0.6]])).item() == pytest.approx(1.3)


# ---- the module


def test_forward_gives_named_losses_in_both_modes() -> None:
    module = tiny(smoothing=0.1).build()
    samples = pictures()
    samples[3].label = None
    batch = tiny().collate(samples, None)
    for mode in (True, False):
        losses = module.train(mode)(batch)
        assert isinstance(losses, Losses)
        assert losses.count.item() == 3
        logits = module.net(module.images(batch))
        expected = functional.cross_entropy(logits, batch.label, label_smoothing=0.1, ignore_index=-1)
        assert losses.terms["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-6)
        right = (logits.argmax(1) == batch.label).sum().item() / 3
        assert losses.logs["accuracy"].item() == pytest.approx(right)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_images_are_normalised_on_the_device_in_the_memory_format_of_the_weights(
    order: torch.memory_format,
) -> None:
    module = tiny().build()
    names = set(module.state_dict())
    module.net = nn.Conv2d(3, 4, 3).to(memory_format=order)
    batch = tiny().collate(pictures(), None)
    images = module.images(batch)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=order)
    expected = (batch.image.double().permute(0, 3, 1, 2) - 100) / 50
    assert torch.allclose(images.double(), expected, atol=1e-5)
    assert names == {"net.head.weight", "net.head.bias"}


def test_predictions_and_assessment_agree() -> None:
    module = tiny(tta="mirror").build().eval()
    batch = tiny().collate(pictures(), None)
    losses, found = module.assess(batch)
    alone = module.predict(batch)
    assert found["ids"] == batch.ids
    for name in ("label", "score", "probabilities"):
        assert torch.equal(found[name], alone[name])
        assert len(found[name]) == 4
    assert torch.equal(losses.terms["cross_entropy"], module(batch).terms["cross_entropy"])
    assert found["probabilities"].sum(1).tolist() == pytest.approx([1.0] * 4)
    assert torch.equal(found["score"], found["probabilities"].amax(1))


def test_metrics_take_the_modules_answers() -> None:
    spec = tiny(topk=(1, 2))
    module = spec.build().eval()
    batch = spec.collate(pictures(9), None)
    values: dict[str, float] = {}
    for metric in spec.metrics().values():
        metric.update(module.predict(batch), batch)
        values |= metric.compute()
    assert set(values) == {"accuracy", "top2", "precision", "recall", "f1"}
    right = (module.predict(batch)["label"] == batch.label).float().mean().item()
    assert values["accuracy"] == pytest.approx(right)


def test_goodness_is_the_true_classes_probability() -> None:
    spec = tiny()
    samples = pictures()
    samples[0].label = None
    batch = spec.collate(samples, None)
    found = {"probabilities": torch.tensor([[0.2, 0.3, 0.5]] * 4), "score": torch.full((4,), 0.5)}
    assert spec.goodness(found, batch).tolist() == pytest.approx([0.5, 0.3, 0.5, 0.2])


def test_views_are_averaged_as_documented() -> None:
    spec = tiny("Spatial", tta="mirror_shift")
    module = spec.build().eval()
    image = torch.randn(2, 3, 6, 6)
    net = module.net
    mirror = (net(image) + net(image.flip(3))) / 2
    padded = functional.pad(image, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[:, :, :6, :6], padded[:, :, 2:, 2:]]
    expected = mirror / 2 + sum(net(v) + net(v.flip(3)) for v in shifted) / 8
    assert torch.allclose(module._views(image, net(image)), expected, atol=1e-6)
    module.tta = "mirror"
    assert torch.allclose(module._views(image, net(image)), mirror)
    module.tta = "none"
    assert torch.equal(module._views(image, net(image)), net(image))


def test_a_network_of_the_wrong_shape_is_told_before_the_loss() -> None:
    module = tiny("forgets_a_class").build()
    with pytest.raises(ContractError, match=r"returned \(4, 2\), expected logits of shape \(4, 3\)"):
        module(tiny().collate(pictures(), None))
    with pytest.raises(ContractError, match="returned str"):
        tiny("no_module").build()
    wrong = Custom(Call(f"{__name__}:Tiny"), classes_as="n_classes")
    with pytest.raises(ConfigError, match=r"n_classes.*rename the counts"):
        wrong.build(3, 3)


def test_images_too_small_for_a_network_are_a_config_error() -> None:
    spec = Classify(net=FastCifar(widths=(4, 4, 4), patch=2), classes=NAMES)
    with pytest.raises(ConfigError, match="FastCifar cannot take 4 images of 4x4 pixels") as caught:
        spec.build()(spec.collate(pictures(size=4), None))
    assert caught.value.path == "task.net"


def test_memory_errors_are_not_dressed_up() -> None:
    module = tiny().build()

    def full(image: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    module.net.forward = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        module(tiny().collate(pictures(), None))


def test_the_first_layer_of_fast_cifar_is_set_from_samples() -> None:
    spec = Classify(net=FastCifar(widths=(8, 8), samples=24), classes=NAMES)
    assert (spec.needs_samples, tiny().needs_samples) == (24, 0)
    module = spec.build()
    samples = pictures(24)
    spec.fit(module, samples)
    images = module.images(spec.collate(samples, None))
    out = functional.conv2d(images, module.net.first.weight)  # (N, 24, 7, 7): 12 directions, then negated
    flat = out[:, :12].transpose(0, 1).flatten(1).double()
    assert torch.allclose(flat @ flat.T / flat.shape[1], torch.eye(12).double(), atol=0.02)
    with pytest.raises(TypeError, match="needs no samples"):
        tiny().net.fit(module.net, images)


def test_a_task_for_trained_weights_asks_for_no_others() -> None:
    spec = Classify(net=Timm("resnet18", pretrained=True, options={"drop_rate": 0.1}), classes=NAMES)
    assert spec.bare().net == Timm("resnet18", options={"drop_rate": 0.1})
    assert tiny().bare() == tiny()
    assert tiny().with_tta("flip").tta == "mirror"
    with pytest.raises(ConfigError, match="got 'rotate'"):
        tiny().with_tta("rotate")


def test_the_pictures_of_a_training_batch_are_shown_as_mixed() -> None:
    spec = tiny(mixup=1.0)
    batch = spec.collate(pictures(), fold(0, 3))
    assert batch.mix is not None
    expected = mix_images(batch.image, batch.mix)
    assert np.abs(spec.seen(batch).astype(float) - expected.numpy()).max() <= 0.51
    assert np.array_equal(
        tiny().seen(tiny().collate(pictures(), None)), tiny().collate(pictures(), None).image.numpy()
    )


# ---- pictures


@pytest.mark.parametrize("size", [8, 32, 300, 1000])
@pytest.mark.parametrize(
    ("label", "colour"), [(1, (34, 150, 84)), (0, (206, 52, 52)), (None, (96, 108, 120))]
)
def test_drawings_are_readable_and_say_whether_it_is_right(
    size: int, label: int | None, colour: tuple[int, int, int]
) -> None:
    image = np.full((size, size, 3), 128, np.uint8)
    found = {"ids": "x", "label": torch.tensor(1), "score": torch.tensor(0.93)}
    drawn = tiny().draw(image, found, None if label is None else Sample("x", image, label))
    assert drawn.mode == "RGB"
    assert 192 <= drawn.width <= 512
    pixels = np.asarray(drawn)
    assert (pixels == colour).all(2).any(1).sum() >= 5  # the bar
    assert drawn.height > drawn.width + 20  # a caption below


def test_gray_pictures_and_long_names_are_drawn() -> None:
    spec = tiny(classes=("a name that is far too long for a picture of this width, really", "dog", "eel"))
    drawn = spec.draw(
        np.zeros((8, 8, 1), np.uint8), {"label": 0, "score": 0.5}, Sample("x", None, np.array([0, 0, 1.0]))
    )
    assert drawn.width == 192


def test_the_module_compiles_to_one_graph_and_answers_the_same() -> None:
    spec = tiny(mixup=0.4, cutmix=1.0, smoothing=0.1)
    module = spec.build().train()
    batch = spec.collate(pictures(), fold(0, 3))
    expected = module(batch)
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=False)
    found = compiled(batch)
    assert found.terms["cross_entropy"].item() == pytest.approx(
        expected.terms["cross_entropy"].item(), rel=1e-6
    )
    assert found.logs["accuracy"].item() == pytest.approx(expected.logs["accuracy"].item())


# ---- growing images


def test_images_grow_with_the_run_in_training_only() -> None:
    spec = tiny(grow=((0.35, 4), (0.7, 6)))
    module = spec.build()
    seen: list[tuple[int, ...]] = []
    module.net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    batch = spec.collate(pictures(size=8), None)
    module.train()
    for done in (0.0, 0.34, 0.35, 0.69, 0.7, 1.0):
        batch.progress = Progress(torch.zeros(()), torch.ones(()), done)
        module(batch)
    assert seen == [(4, 4), (4, 4), (6, 6), (6, 6), (8, 8), (8, 8)]
    module.eval()
    batch.progress = Progress(torch.zeros(()), torch.ones(()), 0.0)
    module(batch)
    assert seen[-1] == (8, 8)
    for wrong in (((0.7, 4), (0.3, 6)), ((0.0, 4),), ((0.5, 0),)):
        with pytest.raises(ValueError, match="rising shares"):
            tiny(grow=wrong)


def test_a_network_that_sees_bgr_gets_turned_pictures() -> None:
    batch = tiny().collate(pictures(), None)
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 3.0)
    rgb = tiny(normalise=Normalise(mean[::-1], std[::-1])).build().images(batch)
    bgr = tiny(normalise=Normalise(mean, std, order="bgr")).build().images(batch)
    assert torch.equal(bgr, rgb.flip(1)) and not torch.equal(bgr, rgb)
    with pytest.raises(ValueError, match="order is rgb or bgr"):
        Normalise(mean, std, order="gbr")  # type: ignore[arg-type]
