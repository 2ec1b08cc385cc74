"""Geometric transforms: pure functions of a key, whole arrays equal to samples one by one, arguments checked."""

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visloom.data.transforms import (
    AlternatingFlip,
    CenterCrop,
    Pad,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomScale,
    RandomTranslate,
    Resize,
)
from visloom.keys import fold
from visloom.sample import Sample
from visloom.stream import Shuffled, subkey, subkeys

MODES = ("constant", "reflect")


def images(count=6, height=12, width=14, channels=3, dtype=np.uint8):
    high = np.iinfo(dtype).max
    return np.random.default_rng(3).integers(
        0, high, (count, height, width, channels), dtype=dtype, endpoint=True
    )


def keys(count, seed=0):
    return np.array([fold(seed, i) for i in range(count)], np.uint64)


# ---- whole arrays

fills = st.one_of(st.integers(0, 255), st.just("mean"), st.just((1, 2, 3)))
pairs = st.tuples(st.integers(1, 24), st.integers(1, 24))
batched = st.one_of(
    st.builds(
        RandomCrop,
        size=st.one_of(st.integers(1, 24), pairs),
        padding=st.integers(0, 6),
        fill=fills,
        pad_mode=st.sampled_from(MODES),
    ),
    st.builds(CenterCrop, size=pairs, fill=fills),
    st.builds(RandomTranslate, pixels=st.integers(0, 8), mode=st.sampled_from(MODES), fill=fills),
    st.builds(RandomFlip, p=st.floats(0, 1), direction=st.sampled_from(["horizontal", "vertical"])),
    st.builds(AlternatingFlip, direction=st.sampled_from(["horizontal", "vertical"])),
    st.builds(Pad, padding=st.tuples(*[st.integers(0, 5)] * 4), mode=st.sampled_from(MODES), fill=fills),
    st.builds(Pad, size=pairs, fill=fills),
    st.builds(Pad, multiple=st.integers(1, 9), fill=fills),
    st.builds(RandomErasing, p=st.floats(0, 1), fill=st.one_of(fills, st.just("noise"))),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(batched, min_size=1, max_size=3), st.integers(1, 15), st.integers(1, 15), st.integers(0, 2**32)
)
def test_a_batch_equals_its_samples_one_by_one(chain, height, width, seed):
    pictures = images(5, height, width)
    before = pictures.copy()
    key = keys(5, seed)
    whole = pictures
    for position, transform in enumerate(chain):
        whole = transform.batch(whole, subkeys(key, position))
    for i in range(5):
        sample = Sample(str(i), pictures[i])
        for position, transform in enumerate(chain):
            sample = transform(sample, subkey(int(key[i]), position))
        np.testing.assert_array_equal(whole[i], sample.resolve().image)
    np.testing.assert_array_equal(pictures, before)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_batch_of_other_types_and_channels(dtype, channels):
    pictures = images(4, 9, 10, channels, dtype)
    chain = [RandomCrop(size=8, padding=3, fill=300), AlternatingFlip(), RandomErasing(p=1, fill="noise")]
    for transform in chain:
        whole = transform.batch(pictures, keys(4))
        assert whole.dtype == dtype
        for i in range(4):
            one = transform(Sample("a", pictures[i]), int(keys(4)[i])).resolve().image
            np.testing.assert_array_equal(whole[i], one)


# ---- one by one


def test_every_corner_of_a_random_crop_is_reached_and_evenly():
    crop = RandomCrop(size=4, padding=1)
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    corners: dict[int, int] = {}
    for i in range(4000):
        value = int(crop(Sample("a", image), fold(i)).resolve().image[1, 1, 0])
        corners[value] = corners.get(value, 0) + 1
    assert len(corners) == 25
    assert min(corners.values()) > 100  # 160 expected


def test_a_picture_smaller_than_the_crop_lies_inside_it():
    image = np.full((4, 5, 1), 9, np.uint8)
    seen = set()
    for i in range(300):
        result = RandomCrop(size=8)(
            Sample("a", image, masks={"m": np.zeros((4, 5), np.int32)}), fold(i)
        ).resolve()
        rows, columns = np.nonzero(result.image[..., 0])
        assert (result.image == 9).sum() == 20
        assert ((result.masks["m"] == -1) == (result.image[..., 0] == 0)).all()
        seen.add((rows.min(), columns.min()))
    assert len(seen) == 20


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**62))
def test_resized_crop_windows_lie_inside_and_within_the_ranges(height, width, key):
    crop = RandomResizedCrop(size=8, scale=(0.2, 0.9), ratio=(0.5, 2.0))
    top, left, h, w = crop.window(height, width, key)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0
    if min(height, width) >= 50 and 0.6 < width / height < 1.6:
        assert 0.18 < h * w / (height * width) < 0.92
        assert 0.48 < w / h < 2.1


def test_resized_crop_falls_back_to_the_middle():
    top, left, h, w = RandomResizedCrop(size=8, scale=(1, 1)).window(10, 100, fold(1))
    assert (top, h, w) == (0, 10, 13)
    assert left == 43


def test_resized_crop_covers_the_area_range_uniformly():
    crop = RandomResizedCrop(size=8, scale=(0.1, 0.5), ratio=(1, 1))
    shares = [np.prod(crop.window(200, 200, fold(i))[2:]) / 40000 for i in range(800)]
    assert abs(np.mean(shares) - 0.3) < 0.02
    assert abs(np.quantile(shares, 0.25) - 0.2) < 0.03


def test_resize_targets_are_torchvisions():
    from torchvision.transforms.functional import _compute_resized_output_size

    for height, width in ((33, 57), (57, 33), (40, 40), (7, 300)):
        expected = _compute_resized_output_size((height, width), [24])
        assert Resize(short=24).target(height, width) == tuple(expected)
    assert Resize(long=100).target(50, 200) == (25, 100)
    assert Resize(size=(3, 4)).target(50, 200) == (3, 4)
    assert Resize(size=5).target(50, 200) == (5, 5)
    assert Resize(long=10).target(1, 500) == (1, 10)


def test_center_crop_is_torchvisions():
    import torch
    from torchvision.transforms.v2 import functional

    for height, width in ((13, 18), (12, 17), (8, 30), (30, 9)):
        picture = images(1, height, width)[0]
        planes = torch.from_numpy(picture.transpose(2, 0, 1).copy())
        theirs = functional.center_crop(planes, [10, 11]).numpy().transpose(1, 2, 0)
        mine = CenterCrop(size=(10, 11))(Sample("a", picture), 0).resolve().image
        if height >= 10 and width >= 11:  # it pads smaller pictures to other sides
            np.testing.assert_array_equal(mine, theirs)
        assert mine.shape == theirs.shape


def test_random_flip_flips_as_often_as_it_says():
    picture = images(1)[0]
    flipped = [RandomFlip(p=0.3)(Sample("a", picture), fold(i)).pending is not None for i in range(2000)]
    assert 0.26 < np.mean(flipped) < 0.34
    assert RandomFlip(p=1)(Sample("a", picture), 3).resolve().image[0, 0].tolist() == picture[0, -1].tolist()


class Ten:
    """Ten small pictures in memory."""

    def __len__(self):
        return 10

    def read(self, index):
        return Sample(str(index), np.array([[[0], [255]]], np.uint8))


def test_alternating_flip_alternates_over_the_epochs_of_a_stream():
    stream = Shuffled(source=Ten(), batch=5, transform=(RandomTranslate(pixels=0), AlternatingFlip()), seed=7)
    turns = []
    for epoch in range(4):
        state = {}
        for step in (2 * epoch, 2 * epoch + 1):
            for sample in stream.load(stream.tickets(step)):
                state[sample.id] = int(sample.image[0, 0, 0])
        assert len(state) == 10
        turns.append([state[str(i)] for i in range(10)])
    assert turns[0] == turns[2]
    assert turns[1] == turns[3]
    assert all(a != b for a, b in zip(turns[0], turns[1], strict=True))
    assert 1 <= sum(v > 0 for v in turns[0]) <= 9  # not all start alike


def test_a_transform_of_ones_own_sees_geometry_applied():
    seen = []

    def own(sample, key):
        seen.append(sample.image.shape)
        return sample

    chain = (RandomCrop(size=(5, 7), padding=8), RandomFlip(), own, RandomTranslate())
    stream = Shuffled(source=Ten(), batch=2, transform=chain)
    loaded = stream.load(stream.tickets(0))
    assert seen == [(5, 7, 1)] * 2
    assert [s.image.shape for s in loaded] == [(5, 7, 1)] * 2


def test_random_scale():
    sizes = {RandomScale(scale=(0.5, 2))(Sample("a", images(1, 40, 60)[0]), fold(i)).size for i in range(300)}
    heights = [h for h, _ in sizes]
    assert 20 <= min(heights) < 24
    assert 76 < max(heights) <= 80
    assert all(abs(w - 1.5 * h) < 1.5 for h, w in sizes)
    assert RandomScale(scale=(1, 1), long=30)(Sample("a", images(1, 40, 60)[0]), 5).size == (20, 30)


def test_random_rotation_turns_the_picture_around_its_middle():
    picture = images(1, 21, 31)[0]
    for i in range(20):
        turned = RandomRotation(degrees=40)(Sample("a", picture), fold(i)).resolve().image
        assert turned.shape == picture.shape
        assert turned[10, 15].tolist() == picture[10, 15].tolist()
    fixed = RandomRotation(degrees=(90, 90))(Sample("a", images(1, 21, 21)[0]), 1).resolve().image
    np.testing.assert_array_equal(fixed, np.rot90(images(1, 21, 21)[0]))


def test_translate_reflects():
    picture = np.arange(5, dtype=np.uint8).reshape(1, 5, 1)
    seen = {
        tuple(RandomTranslate(pixels=1)(Sample("a", picture), fold(i)).resolve().image.ravel())
        for i in range(99)
    }
    assert seen == {(0, 1, 2, 3, 4), (1, 0, 1, 2, 3), (1, 2, 3, 4, 3)}


def test_pad_sides():
    picture = np.full((2, 3, 1), 5, np.uint8)
    result = Pad(padding=(1, 2, 3, 4), fill=9)(Sample("a", picture), 0).resolve().image[..., 0]
    assert result.shape == (8, 7)
    assert (result[2:4, 1:4] == 5).all()
    assert (result == 5).sum() == 6
    assert Pad(size=(4, 2))(Sample("a", picture), 0).size == (4, 3)
    assert Pad(multiple=4)(Sample("a", picture), 0).size == (4, 4)


ALL = (
    Resize(short=9),
    CenterCrop(size=7),
    RandomCrop(size=8, padding=2),
    RandomResizedCrop(size=8),
    RandomFlip(),
    AlternatingFlip(),
    RandomScale(),
    RandomRotation(),
    RandomTranslate(),
    Pad(multiple=8),
    RandomErasing(p=1, fill="noise"),
)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_same_key_same_bits_another_process_included(transform):
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform
    assert hash(again) == hash(transform)
    sample = Sample("a", images(1)[0], masks={"m": np.zeros((12, 14), np.int32)})
    np.random.seed(0)
    one = transform(sample, fold(5)).resolve()
    np.random.seed(1)
    two = again(sample, fold(5)).resolve()
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.masks["m"], two.masks["m"])
    assert one.problems() == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        transform.size = 3


def test_draws_do_not_depend_on_the_process():
    code = (
        "import numpy as np; from visloom.sample import Sample; from visloom.keys import fold;"
        "from visloom.data.transforms import RandomResizedCrop;"
        "print(RandomResizedCrop(size=8).window(100, 80, fold(11)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(RandomResizedCrop(size=8).window(100, 80, fold(11)))


WRONG = (
    (Resize, {}, "exactly one"),
    (Resize, {"size": 3, "long": 4}, "exactly one"),
    (Resize, {"short": -3}, "short"),
    (Resize, {"size": 3.5}, "size"),
    (CenterCrop, {"size": (1, 2, 3)}, "size"),
    (RandomCrop, {"size": 0}, "size"),
    (RandomCrop, {"size": True}, "size"),
    (RandomCrop, {"size": 3, "padding": -1}, "padding"),
    (RandomCrop, {"size": 3, "pad_mode": "edge"}, "pad_mode"),
    (RandomResizedCrop, {"size": 3, "scale": (0.5, 0.2)}, "scale"),
    (RandomResizedCrop, {"size": 3, "ratio": (0, 1)}, "ratio"),
    (RandomFlip, {"p": 1.5}, "p "),
    (RandomFlip, {"direction": "diagonal"}, "direction"),
    (AlternatingFlip, {"direction": "up"}, "direction"),
    (RandomScale, {"scale": (2, 1)}, "scale"),
    (RandomScale, {"long": 0}, "long"),
    (RandomRotation, {"degrees": -4}, "degrees"),
    (RandomTranslate, {"pixels": -1}, "pixels"),
    (RandomTranslate, {"mode": "wrap"}, "mode"),
    (Pad, {}, "exactly one"),
    (Pad, {"padding": -1}, "padding"),
    (Pad, {"multiple": 0}, "multiple"),
    (RandomErasing, {"p": "often"}, "p "),
    (RandomErasing, {"area": (0, 1)}, "area"),
    (RandomErasing, {"ratio": (3, 1)}, "ratio"),
    (RandomErasing, {"fill": "black"}, "fill"),
)


@pytest.mark.parametrize(("cls", "arguments", "start"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)))
def test_wrong_arguments_name_the_argument_first(cls, arguments, start):
    with pytest.raises(ValueError, match=f"^{start}.*got"):
        cls(**arguments)


def test_spec_modules_import_no_heavy_library():
    code = (
        "import sys, visloom.data.transforms, visloom.data.cifar, visloom.data.folder, visloom.data.digits,"
        " visloom.data.arrays, visloom.data.layout;"
        "print([m for m in ('torch', 'torchvision', 'timm', 'cv2', 'PIL', 'sklearn', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
