"""Laws of the segmentation transforms: picture and mask move together, a key decides, nothing is labelled outside."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from visloom.data.maskcrop import RandomMaskCrop, _Look
from visloom.data.transforms import (
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Pad,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomScale,
    Resize,
)
from visloom.errors import DataError
from visloom.keys import fold
from visloom.sample import Sample
from visloom.stream import Shuffled, subkey
from visloom.warp import shift

sides = st.integers(8, 60)
keys = st.integers(0, 2**63)
exact = st.one_of(
    st.builds(Pad, size=st.integers(1, 50)),
    st.builds(Pad, multiple=st.integers(1, 32)),
    st.builds(RandomCrop, size=st.integers(4, 40)),
    st.builds(
        RandomMaskCrop,
        size=st.integers(4, 40),
        most=st.floats(0.1, 1.0),
        background=st.sampled_from([None, 0]),
    ),
    st.builds(CenterCrop, size=st.integers(4, 40)),
    st.builds(RandomFlip),
)
bending = st.one_of(
    exact,
    st.builds(RandomScale, scale=st.just((0.5, 2.0)), long=st.sampled_from([None, 20, 50])),
    st.builds(RandomRotation, degrees=st.floats(0, 10)),
    st.builds(Resize, short=st.integers(8, 40)),
)
chains = st.lists(bending, min_size=1, max_size=5)


def coded(height, width):
    """A picture whose colours say which row and column each pixel is, and a mask that says the same."""
    row, column = np.mgrid[:height, :width]
    image = np.stack([row, column, np.full_like(row, 200)], axis=-1).astype(np.uint8)
    return Sample("a", image, masks={"row": row.astype(np.int32), "class": column.astype(np.int32)})


def through_pending(chain, sample, key):
    for position, transform in enumerate(chain):
        sample = transform(sample, subkey(key, position))
    return sample


def through(chain, sample, key):
    return through_pending(chain, sample, key).resolve()


@given(st.lists(exact, min_size=1, max_size=5), sides, sides, keys)
def test_crops_pads_and_flips_move_picture_and_mask_bit_by_bit(chain, height, width, key):
    result = through(chain, coded(height, width), key)
    known = result.masks["row"] >= 0
    np.testing.assert_array_equal(
        known, result.image[..., 2] == 200
    )  # ignored exactly where there is no picture
    np.testing.assert_array_equal(result.image[..., 0][known], result.masks["row"][known])
    np.testing.assert_array_equal(result.image[..., 1][known], result.masks["class"][known])
    assert (result.masks["class"][~known] == -1).all()


@given(chains, sides, sides, keys)
def test_one_warp_moves_picture_and_mask_together(chain, height, width, key):
    sample = coded(height, width)
    for position, transform in enumerate(chain):
        sample = transform(sample, subkey(key, position))
    shrink = 1.0
    if sample.pending is not None:
        matrix = sample.pending.matrix
        shrink = 1 / min(np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1]))
    result = sample.resolve()
    assert result.image.shape[:2] == result.masks["row"].shape == result.masks["class"].shape
    known = (result.masks["row"] >= 0) & (result.image[..., 2] >= 199)  # no fill of an earlier step mixed in
    for channel, name in ((0, "row"), (1, "class")):
        apart = np.abs(result.image[..., channel].astype(int) - result.masks[name])[known]
        assert not len(apart) or apart.max() <= 1.5 * max(1.0, shrink) + 1


@given(chains, sides, sides, keys)
def test_the_same_key_gives_the_same_result(chain, height, width, key):
    first, again = (through(chain, coded(height, width), key) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.masks["class"], again.masks["class"])


@given(chains, sides, sides, keys)
def test_labels_outside_are_ignored_and_none_is_made_up(chain, height, width, key):
    sample = coded(height, width)
    sample = sample.replace(masks={"class": np.full((height, width), 7, np.int32)})
    result = through(chain, sample, key)
    assert set(np.unique(result.masks["class"])) <= {-1, 7}


@given(keys)
def test_colours_change_the_picture_alone(key):
    before = coded(20, 16)
    chain = (GaussianBlur(p=1.0), ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1))
    after = through(chain, before, key)
    np.testing.assert_array_equal(after.masks["class"], before.masks["class"])
    assert not np.array_equal(after.image, before.image)


@given(sides, sides, st.integers(4, 40), keys)
def test_with_nothing_to_refuse_it_is_a_random_crop(height, width, size, key):
    one, other = RandomMaskCrop(size=size, most=1.0), RandomCrop(size=size)
    np.testing.assert_array_equal(
        one(coded(height, width), key).resolve().image, other(coded(height, width), key).resolve().image
    )


# ---- the crop that looks at the mask


def framed(height=64, width=64, spot=8):
    """Background 0, and a spot of class 1 in the lower right corner."""
    mask = np.zeros((height, width), np.int32)
    mask[-spot:, -spot:] = 1
    return Sample("a", np.zeros((height, width, 3), np.uint8), masks={"class": mask})


def test_windows_of_one_class_are_drawn_again():
    plain = [RandomCrop(size=16)(framed(spot=20), fold(i)).resolve().masks["class"] for i in range(200)]
    chosen = [
        RandomMaskCrop(size=16, tries=20)(framed(spot=20), fold(i)).resolve().masks["class"]
        for i in range(200)
    ]
    mixed = [sum((mask == 1).any() and (mask == 0).any() for mask in masks) for masks in (plain, chosen)]
    assert mixed[1] > 3 * mixed[0]
    most = [
        max((mask == 0).mean(), (mask == 1).mean())
        for mask in chosen
        if (mask == 1).any() and (mask == 0).any()
    ]
    assert np.mean(np.array(most) <= 0.75 + 1e-9) > 0.9


def test_windows_without_anything_but_background_are_drawn_again():
    crop = RandomMaskCrop(size=16, most=1.0, background=0, tries=50)
    found = [(crop(framed(spot=20), fold(i)).resolve().masks["class"] == 1).any() for i in range(100)]
    assert np.mean(found) > 0.95


def test_the_window_is_judged_as_it_will_look_after_scaling_and_rotation():
    crop = RandomMaskCrop(size=24, tries=30)
    good = 0
    for i in range(100):
        sample = RandomRotation(degrees=10)(
            RandomScale(scale=(0.5, 2.0))(framed(spot=24), fold(i, 0)), fold(i, 1)
        )
        mask = crop(sample, fold(i, 2)).resolve().masks["class"]
        known = mask[mask >= 0]
        good += len(known) > 0 and np.bincount(known).max() <= 0.8 * len(known)
    assert good > 70


@given(sides, sides, st.integers(4, 31), keys)
def test_the_labels_that_a_window_is_judged_by_are_those_that_it_gets(height, width, size, key):
    sample = through_pending((RandomScale(), RandomRotation()), coded(height, width), key)
    top, left = fold(key, 1) % 40 - 20, fold(key, 2) % 40 - 20
    judged = _Look(sample, "class", (size, size))(top, left)
    got = sample.warp(shift(-left, -top), (size, size)).resolve().masks["class"]
    inside = np.zeros(got.shape, bool)  # what lies outside the rotated canvas may come back in the warp
    inside[max(0, -top) : max(0, sample.size[0] - top), max(0, -left) : max(0, sample.size[1] - left)] = True
    assert np.mean(np.abs(judged - got)[inside] > 1) < 0.03 if inside.any() else (judged == -1).all()


def test_ignored_pixels_are_no_class():
    sample = framed()
    sample = sample.replace(masks={"class": np.full((64, 64), -1, np.int32)})
    assert (RandomMaskCrop(size=16)(sample, 3).resolve().masks["class"] == -1).all()


def test_a_sample_without_the_mask_is_named():
    with pytest.raises(DataError, match="RandomMaskCrop looks at mask 'class', sample 'a' has none"):
        RandomMaskCrop(size=8)(Sample("a", np.zeros((9, 9, 3), np.uint8)), 0)


@given(st.floats(-1, 2))
def test_arguments_are_checked(most):
    assume(not 0 < most <= 1)
    with pytest.raises(ValueError, match="most lies above 0"):
        RandomMaskCrop(size=8, most=most)


def test_a_chain_costs_one_warp(monkeypatch):
    from visloom import sample as samples

    calls = []
    real = samples.warp_image
    monkeypatch.setattr(samples, "warp_image", lambda *a: calls.append(1) or real(*a))

    class One:
        def __len__(self):
            return 4

        def read(self, index):
            return coded(50, 40)

    chain = (RandomScale(long=40), RandomRotation(), Pad(size=32), RandomMaskCrop(size=32), RandomFlip())
    stream = Shuffled(source=One(), batch=4, transform=chain)
    assert {s.image.shape for s in stream.load(stream.tickets(0))} == {(32, 32, 3)}
    assert len(calls) == 4
