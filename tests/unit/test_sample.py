"""Sample: geometry composes into one matrix and is applied once, to everything a sample holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visloom import warp
from visloom.sample import Sample, Stacked
from visloom.warp import map_points, mirror, rotation, scale, shift


def picture(height=24, width=32, channels=3, dtype=np.uint8, seed=0):
    high = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(
        0, high, (height, width, channels), dtype=dtype, endpoint=True
    )


def full(height=24, width=32):
    """A sample that holds everything."""
    rng = np.random.default_rng(1)
    return Sample(
        "full",
        picture(height, width),
        3,
        masks={"parts": rng.integers(-1, 9, (height, width)).astype(np.int32)},
        boxes=np.array([[2, 3, 12, 15], [20, 1, 31, 23]], np.float32),
        labels=np.array([4, 5]),
        keypoints=np.array([[[3.0, 4.0, 2.0], [0, 0, 0]], [[21.0, 2.0, 1.0], [30.0, 22.0, 2.0]]], np.float32),
        calib=np.array([[20.0, 0, 16, 1], [0, 20, 12, 2], [0, 0, 1, 0.1]]),
        extra={"box_area": np.array([120.0, 242.0]), "weather": "rain"},
    )


# ---- exact steps

windows = st.tuples(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 40), st.integers(1, 40))
steps = st.one_of(
    st.tuples(st.just("flip"), st.booleans(), st.booleans()),
    st.tuples(st.just("window"), windows, st.sampled_from(["constant", "reflect"]), st.integers(0, 255)),
)


def window(array, top, left, height, width, border, fill):
    """Plain numpy: cut a window that may reach outside."""
    old_height, old_width = array.shape[:2]
    pads = [
        (max(0, -top), max(0, top + height - old_height)),
        (max(0, -left), max(0, left + width - old_width)),
        *[(0, 0)] * (array.ndim - 2),
    ]
    if border == "reflect":
        wide = array
        for axis in (0, 1):
            pad = [(0, 0)] * array.ndim
            pad[axis] = pads[axis]
            wide = np.pad(wide, pad, mode="reflect")
    else:
        wide = np.pad(array, pads, constant_values=fill)
    top, left = top + pads[0][0], left + pads[1][0]
    return wide[top : top + height, left : left + width]


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 9))
def test_crops_pads_and_flips_equal_numpy_one_after_the_other(chain, height, width):
    image = picture(height, width)
    mask = np.arange(height * width, dtype=np.int32).reshape(height, width)
    sample = Sample("a", image, masks={"m": mask})
    for step in chain:
        if step[0] == "flip":
            _, left_right, up_down = step
            h, w = sample.size
            sample = sample.warp(mirror(w if left_right else None, h if up_down else None), (h, w))
            image = image[:: -1 if up_down else 1, :: -1 if left_right else 1]
            mask = mask[:: -1 if up_down else 1, :: -1 if left_right else 1]
        else:
            _, (top, left, h, w), border, fill = step
            sample = sample.warp(shift(-left, -top), (h, w), border=border, fill=fill)
            image = window(image, top, left, h, w, border, fill)
            mask = window(mask, top, left, h, w, border, -1)
    result = sample.resolve()
    np.testing.assert_array_equal(result.image, image)
    np.testing.assert_array_equal(result.masks["m"], mask)
    assert result.masks["m"].dtype == np.int32
    assert result.image.flags.c_contiguous


def test_a_crop_does_not_write_into_or_alias_wrongly_the_set_in_memory():
    block = np.stack([picture(seed=i) for i in range(3)])
    before = block.copy()
    Sample("a", block[1]).warp(rotation(20, (16, 12)), (24, 32), fill=9).resolve()
    Sample("a", block[1]).warp(shift(-3, -3), (40, 40), fill=9).resolve()
    Sample("a", block[1]).warp(mirror(32), (24, 32)).resolve()
    np.testing.assert_array_equal(block, before)


def test_pad_behind_a_crop_shows_fill_and_not_what_the_crop_cut_off():
    image = np.full((8, 8, 1), 200, np.uint8)
    result = Sample("a", image).warp(shift(-2, -2), (4, 4)).warp(shift(2, 2), (8, 8), fill=7).resolve()
    assert (result.image[:2] == 7).all()
    assert (result.image[2:6, 2:6] == 200).all()


# ---- interpolating steps


def ramp(height, width):
    """A picture whose value is a linear function of continuous position, which bilinear sampling reproduces."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return (2 * x + 3 * y)[..., None].astype(np.float32)


@pytest.mark.parametrize(
    "matrix",
    [scale(1.7, 1.3), rotation(17, (20, 15)), shift(2.25, -1.5), rotation(-40, (20, 15)) @ scale(0.8, 1.1)],
)
def test_bilinear_warp_samples_at_pixel_centres(matrix):
    source = ramp(30, 40)
    size = (33, 44)
    result = Sample("a", source).warp(matrix, size).resolve().image
    y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    old = map_points(np.linalg.inv(matrix), np.stack([x, y], -1))
    inside = ((old > 1) & (old < [39, 29])).all(-1)
    expected = 2 * old[..., 0] + 3 * old[..., 1]
    assert inside.sum() > 100
    np.testing.assert_allclose(result[inside, 0], expected[inside], atol=5 / 32)  # cv2 rounds places to 1/32


def test_chain_of_interpolating_steps_is_one_interpolation():
    image = picture(60, 80)
    one = scale(1.5, 1.5)
    two = rotation(10, (60, 45))
    three = shift(-20, -10)
    chained = (
        Sample("a", image).warp(one, (90, 120)).warp(two, (90, 120)).warp(three, (50, 60)).resolve().image
    )
    single = Sample("a", image).warp(three @ two @ one, (50, 60)).resolve().image
    np.testing.assert_array_equal(chained, single)


def test_upscaling_agrees_with_torchvision():
    import torch
    from torchvision.transforms.v2 import functional

    image = picture(20, 30)
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    theirs = functional.resize(planes, [50, 60], antialias=False).numpy().transpose(1, 2, 0)
    mine = Sample("a", image).warp(scale(2, 2.5), (50, 60)).resolve().image
    inner = (slice(2, -2), slice(2, -2))  # at the edge theirs repeats pixels, here fill mixes in
    difference = np.abs(mine[inner].astype(int) - theirs[inner].astype(int))
    assert difference.max() <= 5
    assert difference.mean() < 1


def test_resizing_up_does_not_darken_the_edge():
    image = np.full((10, 10, 3), 200, np.uint8)
    result = Sample("a", image).warp(scale(3, 3), (30, 30)).resolve().image
    assert result.min() == 200


def test_strong_shrinking_averages_instead_of_skipping_pixels():
    image = np.indices((256, 256)).sum(0) % 2 * 255
    image = image.astype(np.uint8)[..., None]
    result = Sample("a", image).warp(scale(1 / 8, 1 / 8), (32, 32)).resolve().image
    assert abs(result.astype(int) - 127.5).max() < 2
    moved = Sample("a", image).warp(scale(1 / 8, 1 / 8) @ shift(-64, -32), (16, 16)).resolve().image
    assert abs(moved.astype(int) - 127.5).max() < 2


def test_shrinking_agrees_with_area_averages():
    image = picture(120, 160)
    result = Sample("a", image).warp(scale(0.25, 0.25), (30, 40)).resolve().image.astype(float)
    means = image.reshape(30, 4, 40, 4, 3).mean((1, 3))
    assert np.abs(result - means).max() <= 1


def test_a_window_of_a_large_picture_lies_where_the_whole_has_it():
    y, x = np.mgrid[0:400, 0:500]
    image = (127 + 120 * np.sin(x / 12) * np.sin(y / 9))[..., None].astype(np.uint8)
    whole = Sample("a", image).warp(scale(0.3, 0.4), (160, 150)).resolve().image.astype(float)
    part = Sample("a", image).warp(scale(0.3, 0.4) @ shift(-100, -80), (60, 50)).resolve().image.astype(float)
    assert np.abs(part - whole[32:92, 30:80]).max() <= 2
    assert np.abs(part - whole[33:93, 30:80]).max() > 20  # the bound above tells a shift by one pixel


def test_an_upright_frame_and_a_turned_one_are_filled_to_the_pixel():
    image = np.full((10, 10, 3), 200, np.uint8)
    mask = np.zeros((10, 10), np.int32)
    for matrix in (
        shift(5, 7) @ scale(2, 2),
        shift(16, 4) @ rotation(30),
        shift(30, 2) @ mirror(0) @ scale(2, 1),
    ):
        moved = Sample("a", image, masks={"m": mask}).warp(matrix, (36, 36), fill=(1, 2, 3)).resolve()
        outside = moved.masks["m"] == -1
        assert 0.2 < outside.mean() < 0.99
        assert (moved.image[outside] == [1, 2, 3]).all()
        assert (moved.image[~outside] == 200).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_any_integer_type_and_any_number_of_channels(dtype, channels):
    image = np.tile(np.arange(1, channels + 1, dtype=dtype) * 10, (20, 30, 1))
    fill = tuple(range(100, 100 + channels))
    result = Sample("a", image).warp(rotation(45, (15, 10)), (20, 30), fill=fill).resolve().image
    assert result.dtype == dtype
    assert result.shape == (20, 30, channels)
    assert result[10, 15].tolist() == image[0, 0].tolist()
    assert result[0, 0].tolist() == list(fill)
    small = Sample("a", image).warp(scale(0.2, 0.2), (4, 6)).resolve().image
    assert (small == image[0, 0]).all()


def test_fill_mean_is_the_mean_of_each_channel():
    image = picture()
    result = Sample("a", image).warp(shift(10, 10), (50, 60), fill="mean").resolve().image
    assert result[0, 0].tolist() == np.rint(image.mean((0, 1))).tolist()
    with pytest.raises(ValueError, match="2 values for a picture of 3"):
        Sample("a", image).warp(shift(1, 1), (9, 9), fill=(1, 2)).resolve()
    with pytest.raises(ValueError, match="'mean'"):
        Sample("a", image).warp(shift(1, 1), (9, 9), fill="median").resolve()


def test_perspective():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0.002, 0.001, 1]])
    sample = full().warp(matrix, (24, 32)).resolve()
    expected = map_points(matrix, np.array([[2.0, 3], [12, 3], [2, 15], [12, 15]]))
    np.testing.assert_allclose(sample.boxes[0], [*expected.min(0), *expected.max(0)], rtol=1e-5)
    centre = map_points(np.linalg.inv(matrix), np.array([10.5, 8.5])) - 0.5
    low = full().image[int(centre[1]) : int(centre[1]) + 2, int(centre[0]) : int(centre[0]) + 2]
    assert (low.min((0, 1)) <= sample.image[8, 10]).all()
    assert (sample.image[8, 10] <= low.max((0, 1))).all()


# ---- what moves with the picture


def test_rotation_is_counter_clockwise():
    image = np.zeros((21, 21, 1), np.uint8)
    image[10, 18] = 255  # to the right of the middle
    turned = Sample("a", image).warp(rotation(90, (10.5, 10.5)), (21, 21)).resolve().image
    assert np.unravel_index(turned[..., 0].argmax(), (21, 21)) == (2, 10)  # above it


@settings(max_examples=60, deadline=None)
@given(st.floats(-30, 30), st.floats(0.6, 1.8), st.integers(-8, 8), st.booleans())
def test_boxes_follow_the_mask_they_were_drawn_around(angle, factor, offset, flipped):
    height, width = 60, 80
    mask = np.zeros((height, width), np.int32)
    mask[20:35, 30:55] = 1
    matrix = shift(offset, 0) @ scale(factor, factor) @ rotation(angle, (40, 30))
    if flipped:
        matrix = mirror(width=120) @ matrix
    sample = Sample(
        "a", masks={"m": mask}, boxes=np.array([[30, 20, 55, 35]], np.float32), labels=np.array([1])
    )
    moved = sample.warp(matrix, (100, 120)).resolve()
    rows, columns = np.nonzero(moved.masks["m"] == 1)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(moved.boxes[0], seen, atol=1.6)


def test_calibration_projects_to_where_the_keypoint_went():
    sample = full()
    point = np.array([0.3, -0.2, 5.0, 1.0])
    projected = sample.calib @ point
    sample.keypoints = np.array([[[*(projected[:2] / projected[2]), 2.0]]], np.float32)
    moved = sample.warp(scale(2, 1.5) @ rotation(12, (16, 12)), (48, 70)).resolve()
    again = moved.calib @ point
    np.testing.assert_allclose(moved.keypoints[0, 0, :2], again[:2] / again[2], rtol=1e-5)


def test_flip_mirrors_boxes_exactly():
    moved = full().warp(mirror(width=32), (24, 32)).resolve()
    assert moved.boxes.tolist() == [[20, 3, 30, 15], [1, 1, 12, 23]]
    assert moved.boxes.dtype == np.float32


def test_boxes_outside_go_with_all_that_belongs_to_them():
    moved = full().warp(shift(0, 0), (16, 15)).resolve()
    assert moved.boxes.tolist() == [[2, 3, 12, 15]]
    assert moved.labels.tolist() == [4]
    assert moved.keypoints.shape == (1, 2, 3)
    assert moved.extra["box_area"].tolist() == [120.0]
    assert moved.extra["weather"] == "rain"
    clipped = full().warp(shift(0, 0), (24, 25)).resolve()
    assert clipped.boxes[1].tolist() == [20, 1, 25, 23]


def test_slivers_are_dropped():
    sample = Sample("a", picture(), boxes=np.array([[0, 0, 10, 10]], np.float32), labels=np.array([1]))
    assert len(sample.warp(shift(-9.5, 0), (24, 32)).resolve().boxes) == 0
    assert len(sample.warp(shift(-8.5, 0), (24, 32)).resolve().boxes) == 1


def test_keypoints_outside_lose_their_visibility():
    moved = full().warp(shift(0, 0), (24, 25)).resolve()
    assert moved.keypoints[1, 0].tolist() == [21, 2, 1]
    assert moved.keypoints[1, 1].tolist() == [0, 0, 0]
    assert moved.keypoints[0, 1].tolist() == [0, 0, 0]  # was not there before


def test_masks_warp_to_nearest_and_ignore_outside():
    mask = np.full((20, 20), 7, np.int32)
    moved = Sample("a", masks={"m": mask}).warp(rotation(45, (10, 10)), (20, 20)).resolve().masks["m"]
    assert set(np.unique(moved)) == {-1, 7}
    big = (
        Sample("a", masks={"m": np.full((20, 20), 100_000, np.int32)})
        .warp(scale(2.5, 2.5), (50, 50))
        .resolve()
    )
    assert (big.masks["m"] == 100_000).all()


def test_size_and_errors():
    sample = full()
    assert sample.size == (24, 32)
    assert sample.warp(scale(2, 2), (48, 64)).size == (48, 64)
    assert Sample("m", masks={"m": np.zeros((3, 4), np.int32)}).size == (3, 4)
    assert sample.resolve() is sample
    with pytest.raises(ValueError, match="no size"):
        Sample("none").size
    with pytest.raises(ValueError, match="3x3"):
        sample.warp(np.eye(2), (4, 4))
    with pytest.raises(ValueError, match="positive size"):
        sample.warp(np.eye(3), (0, 4))


def test_problems_names_each_broken_field():
    assert full().problems() == []
    broken = Sample(
        "b",
        np.zeros((4, 5, 3), np.float32),
        masks={"m": np.zeros((4, 5), np.uint8), "n": np.zeros((9, 9), np.int32)},
        boxes=np.zeros((2, 4), np.float32),
        labels=np.zeros(3, np.int64),
        keypoints=np.zeros((2, 2)),
        calib=np.zeros((3, 3)),
    )
    text = "\n".join(broken.problems())
    for word in ("float32", "masks['m']", "masks['n']", "one per box", "keypoints", "calib"):
        assert word in text


def test_repr_gives_shapes_and_not_pixels():
    text = repr(full().warp(scale(2, 2), (48, 64)))
    assert "image=uint8[24, 32, 3]" in text
    assert "pending -> 48x64" in text
    assert len(text) < 400


def test_identical_key_free_warps_are_bit_identical():
    one = full().warp(rotation(33, (16, 12)), (24, 32)).resolve()
    two = full().warp(rotation(33, (16, 12)), (24, 32)).resolve()
    np.testing.assert_array_equal(one.image, two.image)


def test_reflected_folds_any_index():
    index = np.arange(-20, 30)
    expected = np.pad(np.arange(5), 25, mode="reflect")[25 - 20 : 25 + 30]
    np.testing.assert_array_equal(warp.reflected(index, 5), expected)
    assert (warp.reflected(index, 1) == 0).all()


# ---- stacked


def test_stacked_is_a_sequence_of_samples():
    images = np.stack([picture(seed=i) for i in range(4)])
    stacked = Stacked(("a", "b", "c", "d"), images, np.array([3, 1, 2, 0]), source=2, notes=("told",))
    assert len(stacked) == 4
    assert [s.id for s in stacked] == ["a", "b", "c", "d"]
    assert isinstance(stacked[1].label, int)
    assert stacked[1].label == 1
    assert stacked[1].source == 2
    np.testing.assert_array_equal(stacked[-1].image, images[3])
    assert [note for s in stacked for note in s.notes] == ["told"]
    assert stacked[1:3].ids == ("b", "c")
    soft = Stacked(("a",), images[:1], np.array([[0.5, 0.5]], np.float32))
    assert soft[0].label.tolist() == [0.5, 0.5]
    with pytest.raises(IndexError):
        stacked[4]


def test_origin_leads_back_to_the_stored_picture():
    sample = full(24, 32)
    assert np.array_equal(sample.stored().matrix, np.eye(3)) and sample.stored().size == (24, 32)
    first = sample.warp(scale(2, 3), (72, 64)).resolve()
    second = first.warp(mirror(width=64), (72, 64)).warp(shift(-4, -2), (50, 40)).resolve()
    assert second.stored().size == (24, 32)
    point = np.array([5.0, 7.0])
    assert np.allclose(map_points(second.stored().matrix, point), [64 - 2 * 5 - 4, 3 * 7 - 2])
    assert "from 24x32" in repr(second)
    bare = Sample("no picture", keypoints=np.zeros((1, 1, 3), np.float32))
    assert bare.warp(scale(2, 2), (4, 4)).resolve().origin is None


# ---- the arithmetic of matrices, in plain numbers where they are affine

numbers = st.floats(-40, 40)


@given(
    numbers, numbers, st.floats(-180, 180), st.floats(0.1, 3), st.floats(0.1, 3), st.booleans(), st.booleans()
)
def test_inverse_and_bounds_are_numpys(x, y, degrees, across, down, mirrored, bent):
    matrix = (
        warp.shift(x, y)
        @ warp.rotation(degrees, (7.0, 5.0))
        @ warp.scale(-across if mirrored else across, down)
    )
    if bent:
        matrix[2, :2] = 1e-4, 2e-4
    np.testing.assert_allclose(warp.inverse(matrix), np.linalg.inv(matrix), rtol=1e-7, atol=1e-7)
    corners = np.array([[0, 0], [20, 0], [0, 9], [20, 9]], np.float64)
    moved = warp.map_points(matrix, corners)
    np.testing.assert_allclose(warp.bounds(matrix, (9, 20)), [*moved.min(0), *moved.max(0)], atol=1e-9)


def test_a_matrix_that_flattens_has_no_inverse():
    with pytest.raises(np.linalg.LinAlgError):
        warp.inverse(warp.scale(0.0, 1.0))


@settings(max_examples=60, deadline=None)
@given(numbers, numbers, st.floats(-180, 180), st.floats(0.3, 3), st.integers(0, 3))
def test_what_lies_outside_is_what_the_matrix_says_pixel_by_pixel(x, y, degrees, factor, turn):
    """Both ways of finding the padding, the window and the runs of each row, against each pixel's own centre."""
    image = np.full((11, 14, 3), 200, np.uint8)
    matrix = warp.shift(x / 4, y / 4) @ warp.rotation(degrees, (7.0, 5.0)) @ warp.scale(factor, factor)
    size = (13 + turn, 17)
    found = warp.warp_image(image, matrix, size, "constant", (1, 2, 3))
    mask = warp.warp_mask(np.zeros((11, 14), np.int32), matrix, size)
    rows, columns = np.indices(size)
    back = warp.map_points(np.linalg.inv(matrix), np.stack([columns + 0.5, rows + 0.5], -1))
    room = np.minimum(
        np.minimum(back[..., 0], 14 - back[..., 0]), np.minimum(back[..., 1], 11 - back[..., 1])
    )
    sure = np.abs(room) > 1e-3  # a centre on the edge may be rounded either way
    outside = (found == (1, 2, 3)).all(-1)
    np.testing.assert_array_equal(outside[sure], room[sure] < 0)
    assert (found[~outside] == 200).all()
    far = np.abs(room) > 0.04  # nearest neighbour rounds by 1/32 of a pixel
    np.testing.assert_array_equal((mask == -1)[far], room[far] < 0)


@pytest.mark.parametrize("labels", [59, 127, 128, 30_000, 70_000])
def test_masks_keep_every_label_and_take_the_nearest_pixel(labels):
    """Whatever type carries the labels: those of few bytes are also rounded more exactly."""
    draws = np.random.default_rng(labels)
    mask = draws.integers(-1, labels + 1, (90, 120)).astype(np.int32)
    mask[0, :2] = -1, labels
    matrix = warp.rotation(7.0, (60.0, 45.0)) @ warp.scale(1.4, 1.4)
    found = warp.warp_mask(mask, matrix, (100, 110))
    y, x = np.mgrid[:100, :110] + 0.5
    old = warp.map_points(warp.inverse(matrix), np.stack([x, y], -1))  # (100, 110, 2)
    column, row = np.floor(old[..., 0]).astype(int), np.floor(old[..., 1]).astype(int)
    inside = (row >= 0) & (row < 90) & (column >= 0) & (column < 120)
    wanted = np.full((100, 110), -1)
    wanted[inside] = mask[row[inside], column[inside]]
    assert found.dtype == np.int32
    assert (found != wanted).mean() < (3e-4 if labels <= 30_000 else 3e-3)
    assert set(np.unique(found)) <= {-1, *mask.ravel().tolist()}


def test_three_channels_are_warped_as_four_are():
    draws = np.random.default_rng(0)
    image = draws.integers(0, 256, (60, 80, 3), np.uint8)
    matrix = warp.rotation(-9.0, (40.0, 30.0)) @ warp.scale(0.8, 0.8)
    four = np.concatenate([image, image[..., :1]], axis=2)
    for border in ("constant", "reflect"):
        three = warp.warp_image(image, matrix, (50, 70), border, 5)
        np.testing.assert_array_equal(three, warp.warp_image(four, matrix, (50, 70), border, 5)[..., :3])
        one = np.concatenate(
            [warp.warp_image(image[..., i : i + 1], matrix, (50, 70), border, 5) for i in range(3)], 2
        )
        assert np.abs(three.astype(int) - one).max() <= 1
