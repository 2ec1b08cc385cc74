"""V2: torchvision's transforms as data, under our keys, on everything a sample holds."""

import pickle
import random

import numpy as np
import pytest
import torch

from visloom.data.v2 import V2
from visloom.errors import ConfigError, DataError
from visloom.keys import fold
from visloom.run import Call
from visloom.sample import Sample
from visloom.warp import shift


def v2(name, **kwargs):
    return V2(f"torchvision.transforms.v2:{name}", kwargs)


def sample():
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 40), np.int32)
    mask[10:20, 5:25] = 3
    return Sample(
        "s",
        rng.integers(0, 256, (30, 40, 3), dtype=np.uint8),
        1,
        masks={"m": mask, "n": mask - 1},
        boxes=np.array([[5, 10, 25, 20], [0, 0, 4, 4]], np.float32),
        labels=np.array([8, 9]),
        keypoints=np.array([[[6.0, 11.0, 2.0]], [[1.0, 1.0, 1.0]]], np.float32),
        extra={"box_area": np.array([200, 16])},
    )


RANDOM = (
    v2("ColorJitter", brightness=0.5, hue=0.2),
    v2("RandomAffine", degrees=30, translate=[0.2, 0.2]),
    v2("RandomPerspective", p=1.0),
    v2("ElasticTransform"),
    v2("RandomResizedCrop", size=[16, 20]),
    v2("RandomPhotometricDistort"),
    v2("RandomZoomOut", p=1.0),
    v2("GaussianBlur", kernel_size=3),
    v2("RandAugment"),  # from here on torchvision knows pictures only
    v2("TrivialAugmentWide"),
    v2("AugMix"),
    v2("RandomErasing", p=1.0),
)


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: t.target.rpartition(":")[2])
def test_a_pure_function_of_the_key(transform):
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)
    if transform in RANDOM[-4:]:
        held = Sample("s", sample().image)
    else:
        held = sample().replace(keypoints=None)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    first = transform(held, fold(1))
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    random.seed(2)
    torch.manual_seed(2)
    again = pickle.loads(pickle.dumps(transform))(held, fold(1))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.problems() == []
    assert any((transform(held, fold(k)).image.tobytes() != first.image.tobytes()) for k in range(2, 6))


def test_image_masks_boxes_and_keypoints_move_together():
    moved = v2("RandomHorizontalFlip", p=1.0)(sample(), 1)
    np.testing.assert_array_equal(moved.image, sample().image[:, ::-1])
    np.testing.assert_array_equal(moved.masks["m"], sample().masks["m"][:, ::-1])
    np.testing.assert_array_equal(moved.masks["n"], sample().masks["n"][:, ::-1])
    assert moved.boxes.tolist() == [[15, 10, 35, 20], [36, 0, 40, 4]]
    assert moved.boxes.dtype == np.float32
    assert moved.keypoints[0, 0, 2] == 2
    assert abs(moved.keypoints[0, 0, 0] - 34) <= 1  # torchvision mirrors keypoints by pixel numbers
    assert moved.image.flags.c_contiguous


@pytest.mark.parametrize("fill", [None, 114, [1, 2, 3]])
def test_masks_get_ignore_where_geometry_brings_in_new_pixels(fill):
    given = {} if fill is None else {"fill": fill}
    moved = v2("Pad", padding=4, **given)(sample(), 1)
    assert (moved.masks["m"][:4] == -1).all()
    assert (moved.masks["n"][:, -4:] == -1).all()
    np.testing.assert_array_equal(moved.masks["m"][4:-4, 4:-4], sample().masks["m"])
    np.testing.assert_array_equal(moved.masks["n"][4:-4, 4:-4], sample().masks["n"])
    assert moved.image[0, 0].tolist() == {None: [0] * 3, 114: [114] * 3}.get(
        fill if not isinstance(fill, list) else 0, fill
    )


def test_boxes_that_leave_the_picture_go_with_what_belongs_to_them():
    moved = v2("CenterCrop", size=[16, 30])(sample(), 1)
    assert moved.boxes.tolist() == [[0, 3, 20, 13]]
    assert moved.labels.tolist() == [8]
    assert moved.extra["box_area"].tolist() == [200]
    assert moved.keypoints.shape == (1, 1, 3)
    sanitized = v2("SanitizeBoundingBoxes", min_size=8)(sample().replace(keypoints=None), 1)
    assert sanitized.labels.tolist() == [8]
    assert sanitized.boxes.tolist() == [[5, 10, 25, 20]]
    assert sanitized.extra["box_area"].tolist() == [200]


def test_pending_geometry_is_applied_first():
    moved = v2("Grayscale", num_output_channels=3)(sample().warp(shift(-5, -10), (10, 20)), 1)
    assert moved.pending is None
    assert moved.size == (10, 20)
    assert (moved.masks["m"] == 3).all()


def test_transforms_inside_transforms():
    both = v2("Compose", transforms=[v2("RandomHorizontalFlip", p=1.0), v2("RandomVerticalFlip", p=1.0)])
    np.testing.assert_array_equal(both(sample(), 1).image, sample().image[::-1, ::-1])
    never = v2("RandomApply", transforms=[v2("RandomInvert", p=1.0)], p=0.0)
    np.testing.assert_array_equal(never(sample(), 1).image, sample().image)


def test_it_is_a_call_so_settings_check_its_keywords():
    from visloom.calls import check_call
    from visloom.place import Place

    assert isinstance(v2("Pad", padding=1), Call)
    check_call(v2("GaussianBlur", kernel_size=3), Place("train.transform.0"))
    with pytest.raises(ConfigError, match="kernel_siz"):
        check_call(v2("GaussianBlur", kernel_siz=3), Place("train.transform.0"))


@pytest.mark.parametrize(
    "target",
    ["os:system", "torch:load", "torchvision.transforms.v2:functional", "torchvision.transforms.v2", "v2:Pad",
     "torchvision.transforms.v2:Pad.__init__", "torchvision.transforms.v2:Pad\n", 3],
)  # fmt: skip
def test_only_torchvisions_classes_can_be_named(target):
    with pytest.raises(ValueError, match=r"^target is torchvision.transforms.v2:NAME, got"):
        V2(target)


def test_a_transform_that_works_in_place_leaves_the_data_set_alone():
    gray = np.full((8, 8, 1), 5, np.uint8)
    erased = v2("RandomErasing", p=1.0, value=200.0, inplace=True)(Sample("g", gray), 1)
    assert (erased.image == 200).any()
    assert (gray == 5).all()


def test_errors():
    with pytest.raises(ConfigError, match="no transform 'Paddle'"):
        v2("Paddle")(sample(), 1)
    with pytest.raises(ConfigError, match=r"Pad refuses .*paddin"):
        v2("Pad", paddin=3)(sample(), 1)
    with pytest.raises(DataError, match=r"made float32 out of uint8"):
        V2("torchvision.transforms.v2:ToDtype", {"dtype": torch.float32, "scale": True})(sample(), 1)
    with pytest.raises(DataError, match="cannot move a calibration"):
        v2("Pad", padding=1)(Sample("c", sample().image, calib=np.eye(3, 4)), 1)


def test_what_it_made_is_neither_pickled_nor_compared():
    used, fresh = v2("Pad", padding=2), v2("Pad", padding=2)
    used(sample(), 1)
    assert used == fresh
    assert "_made" not in pickle.loads(pickle.dumps(used)).__dict__
    assert repr(used) == repr(fresh)
