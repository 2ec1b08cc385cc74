"""Photometric transforms and RandAugment do what Pillow, torchvision and timm do, under our keys."""

import numpy as np
import pytest
from PIL import Image

from visloom.data import randaug
from visloom.data.photometric import (
    AutoContrast,
    ColorJitter,
    Equalize,
    GaussianBlur,
    Grayscale,
    Invert,
    Posterize,
    RandomErasing,
    Sharpness,
    Solarize,
    enhance,
    turn_hue,
)
from visloom.data.randaug import OPERATIONS, RandAugment
from visloom.data.transforms import RandomCrop
from visloom.errors import DataError
from visloom.keys import fold, uniforms
from visloom.sample import Sample


def picture(height=24, width=30, channels=3):
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, channels))
    planes = [y * 6, x * 5, (x + y) * 3][:channels]
    return (np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8)


def certain(cls, **arguments):
    """The transform's result with probability one."""
    return cls(p=1, **arguments)(Sample("a", picture()), fold(1)).image


# ---- against Pillow and torchvision


def test_simple_operations_are_pillows():
    from PIL import ImageOps

    pil = Image.fromarray(picture())
    np.testing.assert_array_equal(certain(AutoContrast), np.asarray(ImageOps.autocontrast(pil)))
    np.testing.assert_array_equal(certain(Equalize), np.asarray(ImageOps.equalize(pil)))
    np.testing.assert_array_equal(certain(Invert), 255 - picture())
    np.testing.assert_array_equal(certain(Posterize, bits=3), picture() & 0b11100000)
    solarized = np.where(picture() < 100, picture(), 255 - picture())
    np.testing.assert_array_equal(certain(Solarize, threshold=100), solarized)
    gray = np.asarray(pil.convert("L"))
    np.testing.assert_array_equal(certain(Grayscale), np.repeat(gray[..., None], 3, -1))


def test_colour_changes_are_torchvisions_on_pillow_pictures():
    from torchvision.transforms import functional

    pil = Image.fromarray(picture())
    for factor in (0.0, 0.4, 1.0, 1.7):
        for what, theirs in (
            ("Brightness", functional.adjust_brightness),
            ("Contrast", functional.adjust_contrast),
            ("Color", functional.adjust_saturation),
            ("Sharpness", functional.adjust_sharpness),
        ):
            np.testing.assert_array_equal(
                np.asarray(enhance(pil, what, factor)), np.asarray(theirs(pil, factor))
            )
    for turn in (-0.5, -0.2, 0.0, 0.1, 0.5):
        np.testing.assert_array_equal(
            np.asarray(turn_hue(pil, turn)), np.asarray(functional.adjust_hue(pil, turn))
        )


def test_color_jitter_draws_factors_from_their_ranges_in_every_order():
    sample = Sample("a", np.full((2, 2, 3), 100, np.uint8))
    jitter = ColorJitter(brightness=0.3)
    values = [int(jitter(sample, fold(i)).image[0, 0, 0]) for i in range(400)]
    assert 70 <= min(values) < 75
    assert 125 < max(values) <= 130
    assert abs(np.mean(values) - 100) < 3
    assert (ColorJitter(brightness=(2, 2))(sample, 1).image == 200).all()
    orders = {tuple(np.argsort(uniforms(fold(i), 9)[4:8])) for i in range(500)}
    assert len(orders) == 24
    first_contrast = ColorJitter(brightness=(1.5, 1.5), contrast=(0.5, 0.5))
    results = {first_contrast(Sample("a", picture()), fold(i)).image.tobytes() for i in range(40)}
    assert len(results) == 2  # brightness first, or contrast first


def test_color_jitter_that_changes_nothing():
    result = ColorJitter()(Sample("a", picture()), 5).image
    np.testing.assert_array_equal(result, picture())
    assert ColorJitter(brightness=1, p=0)(Sample("a", picture()), 5).image is not None


def test_probability():
    for cls in (
        Grayscale,
        AutoContrast,
        Equalize,
        Invert,
        Posterize,
        Solarize,
        Sharpness,
        GaussianBlur,
        RandomErasing,
    ):
        assert all((cls(p=0)(Sample("a", picture()), fold(i)).image == picture()).all() for i in range(5))
        changed = [(cls(p=0.5)(Sample("a", picture()), fold(i)).image != picture()).any() for i in range(60)]
        assert 15 < sum(changed) < 45


def test_gray_pictures_and_pending_geometry():
    gray = Sample("a", picture(channels=1))
    cropped = RandomCrop(size=8)(gray, 3)
    for transform in (ColorJitter(brightness=0.4, saturation=0.3, hue=0.2), Invert(p=1)):
        result = transform(cropped, 4)
        assert result.pending is None
        assert result.image.shape == (8, 8, 1)
    assert Grayscale(p=1)(gray, 1).image.shape == (24, 30, 1)
    assert RandAugment(n=6, p=1)(gray, 1).resolve().image.shape == (24, 30, 1)
    assert GaussianBlur(p=1)(gray, 1).image.shape == (24, 30, 1)


def test_pictures_that_are_not_eight_bit_are_refused_by_name():
    deep = Sample("deep", np.zeros((4, 4, 3), np.uint16))
    wide = Sample("wide", np.zeros((4, 4, 5), np.uint8))
    for transform in (
        ColorJitter(brightness=1),
        Grayscale(p=1),
        Invert(p=1),
        RandAugment(p=1, ops=("Color",)),
    ):
        with pytest.raises(DataError, match="'deep' has uint16"):
            transform(deep, 1)
        with pytest.raises(DataError, match="'wide' has uint8 with 5 channels"):
            transform(wide, 1)
    with pytest.raises(DataError, match="no image"):
        Invert(p=1)(Sample("none", masks={"m": np.zeros((2, 2), np.int32)}), 1)
    assert GaussianBlur(p=1)(deep, 1).image.dtype == np.uint16


def test_blur_blurs_more_with_sigma():
    def roughness(sigma):
        image = GaussianBlur(sigma=sigma, p=1)(Sample("a", picture()), 2).image.astype(int)
        return np.abs(np.diff(image, axis=0)).mean()

    assert roughness(0.3) > roughness(1.0) > roughness(3.0)
    flat = Sample("a", np.full((9, 9, 3), 77, np.uint8))
    assert (GaussianBlur(p=1)(flat, 2).image == 77).all()


def test_erasing_covers_the_share_it_says_and_only_a_rectangle():
    erase = RandomErasing(p=1, area=(0.1, 0.3), ratio=(0.5, 2.0), fill=(7, 8, 9))
    blank = np.full((60, 60, 3), 200, np.uint8)
    for i in range(100):
        result = erase(Sample("a", blank), fold(i)).image
        covered = (result == [7, 8, 9]).all(-1)
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        assert covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.09 < covered.mean() < 0.32
        assert 0.45 < len(rows) / len(columns) < 2.2
        assert (result[~covered] == 200).all()
    assert (blank == 200).all()
    noise = RandomErasing(p=1, fill="noise")(Sample("a", blank), fold(1)).image
    assert len(np.unique(noise)) > 20
    assert (RandomErasing(p=1, fill="mean")(Sample("a", blank), fold(1)).image == 200).all()


# ---- RandAugment against timm

TIMM = {
    "Posterize": "PosterizeIncreasing",
    "Solarize": "SolarizeIncreasing",
    "Color": "ColorIncreasing",
    "Contrast": "ContrastIncreasing",
    "Brightness": "BrightnessIncreasing",
    "Sharpness": "SharpnessIncreasing",
    "TranslateX": "TranslateXRel",
    "TranslateY": "TranslateYRel",
}


def timm_result(name, magnitude, negative, image):
    """What timm does, its coin for the direction held."""
    import random
    from unittest.mock import patch

    from timm.data.auto_augment import AugmentOp

    op = AugmentOp(
        TIMM.get(name, name), prob=1.0, magnitude=magnitude, hparams={"interpolation": Image.BILINEAR}
    )
    with patch.object(random, "random", return_value=1.0 if negative else 0.0):
        return np.asarray(op(Image.fromarray(image)))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 3, 7.3, 9.9])
def test_operations_are_timms(name, magnitude):
    for negative in (False, True):
        theirs = timm_result(name, magnitude, negative, picture())
        mine = randaug.apply(Sample("a", picture()), name, magnitude / 10, negative).resolve().image
        if name not in randaug.GEOMETRIC:
            np.testing.assert_array_equal(mine, theirs)
            continue
        smooth = (np.indices((60, 80)).sum(0)[..., None] + np.zeros(3)).astype(np.uint8) + np.uint8(20)
        theirs = timm_result(name, magnitude, negative, smooth).astype(int)
        moved = (
            randaug.apply(Sample("a", smooth), name, magnitude / 10, negative, fill=0)
            .resolve()
            .image.astype(int)
        )
        inside = (np.abs(theirs - 128) > 0).all(-1) & (moved > 0).all(-1)
        assert inside.mean() > 0.3
        difference = np.abs(theirs - moved)[inside]
        assert np.quantile(difference, 0.97) <= 2  # their edge pixels mix with gray


def test_full_strength_posterize_keeps_no_bit():
    """timm's way to it raises in Pillow 13, which refuses zero bits."""
    assert (randaug.apply(Sample("a", picture()), "Posterize", 1.0, False).image == 0).all()


def test_all_fifteen_operations_are_drawn():
    assert set(OPERATIONS) == set(randaug.COLOURS) | set(randaug.GEOMETRIC)
    assert len(OPERATIONS) == 15
    seen = {OPERATIONS[int(uniforms(fold(i), 5)[1] * 15)] for i in range(300)}
    assert seen == set(OPERATIONS)


def test_strength_is_normal_around_the_magnitude():
    """A single Brightness operation shows the strength it was given."""
    flat = Sample("a", np.full((2, 2, 3), 100, np.uint8))
    augment = RandAugment(n=1, magnitude=5, std=1.0, p=1, ops=("Brightness",))
    factors = np.array([int(augment(flat, fold(i)).image[0, 0, 0]) for i in range(1500)]) / 100
    strength = np.abs(factors - 1) / 0.9 * 10
    assert abs(strength.mean() - 5) < 0.1
    assert abs(strength.std() - 1) < 0.1
    assert 0.45 < (factors > 1).mean() < 0.55
    fixed = RandAugment(n=1, magnitude=5, std=0, p=1, ops=("Brightness",))
    assert {int(fixed(flat, fold(i)).image[0, 0, 0]) for i in range(50)} == {55, 145}


def test_geometric_operations_join_pending_geometry_and_move_masks():
    mask = np.ones((24, 30), np.int32)
    sample = Sample("a", picture(), masks={"m": mask}, boxes=np.array([[5, 5, 20, 20]], np.float32))
    result = RandAugment(n=2, p=1, ops=("Rotate", "ShearX"), fill=9)(sample, fold(3))
    assert result.pending is not None
    done = result.resolve()
    assert (done.masks["m"] == -1).any()
    assert (done.image[done.masks["m"] == -1] == 9).all()


def test_randaugment_is_a_function_of_its_key():
    sample = Sample("a", picture())
    augment = RandAugment(n=3)
    results = [augment(sample, fold(i)).resolve().image.tobytes() for i in (1, 2, 1, 2)]
    assert results[0] == results[2]
    assert results[1] == results[3]
    assert results[0] != results[1]
    assert RandAugment(n=0)(sample, 1) is sample


WRONG = (
    (ColorJitter, {"brightness": -1}, "brightness"),
    (ColorJitter, {"contrast": (1.2, 0.8)}, "contrast"),
    (ColorJitter, {"saturation": (-1, 1)}, "saturation"),
    (ColorJitter, {"hue": 0.7}, "hue"),
    (ColorJitter, {"p": 2}, "p "),
    (Grayscale, {"p": -1}, "p "),
    (Sharpness, {"factor": (-1, 2)}, "factor"),
    (Solarize, {"threshold": 300}, "threshold"),
    (Posterize, {"bits": 0}, "bits"),
    (GaussianBlur, {"sigma": 0}, "sigma"),
    (GaussianBlur, {"sigma": (2, 1)}, "sigma"),
    (RandAugment, {"n": -1}, "n "),
    (RandAugment, {"n": 1.5}, "n "),
    (RandAugment, {"magnitude": 30}, "magnitude"),
    (RandAugment, {"std": -1}, "std"),
    (RandAugment, {"p": 3}, "p "),
    (RandAugment, {"ops": ("Rotate", "Rotat")}, "ops"),
    (RandAugment, {"ops": ()}, "ops"),
)


@pytest.mark.parametrize(("cls", "arguments", "start"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)))
def test_wrong_arguments_name_the_argument_first(cls, arguments, start):
    with pytest.raises(ValueError, match=f"^{start}.*got"):
        cls(**arguments)
