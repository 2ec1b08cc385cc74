"""Masks: folders of pictures and masks; names, values and colours from tables; and every kind of bad mask."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from tests.segroots import SIZE, blocks, gray, mat, painted, paletted, photo
from visloom.data.legend import Legend, check_palette, counted, regroup, voc_palette
from visloom.data.mask_source import Runs
from visloom.data.maskfile import mask_header, mat_header, read_mask, read_mat
from visloom.data.masks import Masks
from visloom.data.names_file import read_names
from visloom.errors import ConfigError, DataError

RED, GREEN, BLACK = (200, 0, 0), (0, 150, 0), (0, 0, 0)


def pair(root, name="a", labels=(0, 1, 2), write=gray, **more):
    photo(root / "images" / f"{name}.jpg")
    return write(root / "masks" / f"{name}.png", blocks(list(labels)), **more)


def three(root, **changes):
    return Masks(root=str(root), names=("sky", "road", "car"), **changes)


def refusal(source):
    with pytest.raises(DataError) as caught:
        source.check()
    return str(caught.value)


# ---- what is read


def test_gray_and_palette_pngs_are_numbers_not_colours(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b", write=paletted, colours=[(9, 9, 9), (8, 8, 8), (7, 7, 7)])
    source = three(tmp_path)
    assert source.check() == []
    for i in (0, 1):
        sample = source.read(i)
        np.testing.assert_array_equal(sample.masks["class"], blocks([0, 1, 2]))
        assert sample.masks["class"].dtype == np.int32
    assert source.labels() is None
    assert source.sizes().tolist() == [list(SIZE)] * 2
    assert source.palette() == ()


def test_255_is_ignore_unless_the_recipe_says_otherwise(tmp_path):
    pair(tmp_path, labels=(0, 255, 2))
    assert np.unique(three(tmp_path).read(0).masks["class"]).tolist() == [-1, 0, 2]
    assert "255 is no label" in refusal(three(tmp_path, ignore=()))


def test_labels_that_count_from_one(tmp_path):
    pair(tmp_path, labels=(0, 1, 3))
    assert np.unique(three(tmp_path, first=1).read(0).masks["class"]).tolist() == [-1, 0, 2]


def test_rgb_masks_go_through_the_colour_table(tmp_path):
    pair(tmp_path, labels=(0, 1, 2), write=painted, colours=[RED, GREEN, BLACK])
    (tmp_path / "classes.csv").write_text("name,r,g,b\nsky,200,0,0\nroad,0,150,0\nignore,0,0,0\n")
    source = Masks(root=str(tmp_path))
    assert source.check() == []
    assert source.classes() == ("sky", "road")
    assert source.palette() == (RED, GREEN)
    want = blocks([0, 1, 2]).astype(np.int32)
    np.testing.assert_array_equal(source.read(0).masks["class"], np.where(want == 2, -1, want))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_bit_depths_are_not_scaled(tmp_path, bits):
    import zlib

    mask = blocks(list(range(2**bits)))
    packed = b""
    for row in mask:
        word = int("".join(f"{v:0{bits}b}" for v in row).ljust(-(-len(row) * bits // 8) * 8, "0"), 2)
        packed += b"\0" + word.to_bytes(-(-len(row) * bits // 8), "big")

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = mask.shape[1].to_bytes(4, "big") + mask.shape[0].to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(packed))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "m.png").write_bytes(data)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


def test_sixteen_bit_masks_keep_large_numbers(tmp_path):
    stored = blocks([0, 1, 2]).astype(np.uint16) * 20000
    Image.fromarray(stored).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), stored)
    legend = Legend(("a", "b", "c"), values={0: 0, 20000: 1, 40000: 2})
    assert np.unique(legend.table()(stored, "m")).tolist() == [0, 1, 2]


def test_suffix_subfolders_and_lists(tmp_path):
    for name in ("x/a", "x/b", "c.d"):
        photo(tmp_path / "img" / f"{name}.JPG")
        gray(tmp_path / "gt" / f"{name}_mask.png", blocks([0, 1]))
    source = three(tmp_path, images="img", masks="gt", suffix="_mask")
    assert [i.id for i in source.items()[0]] == ["c.d", "x/a", "x/b"]
    (tmp_path / "some.txt").write_text("x/b.JPG\n")
    assert [
        i.id for i in three(tmp_path, images="img", masks="gt", suffix="_mask", files="some.txt").items()[0]
    ] == ["x/b"]


# ---- bad input


def test_a_picture_without_mask_is_named_or_skipped(tmp_path):
    pair(tmp_path)
    photo(tmp_path / "images" / "lonely.jpg")
    assert "1 of 2 pictures have no mask: lonely.jpg" in refusal(three(tmp_path))
    kept = three(tmp_path, unlabelled="skip")
    assert [note for note in kept.check() if "1 pictures without a mask" in note]
    assert len(kept) == 1


def test_two_masks_of_one_picture_are_named(tmp_path):
    pair(tmp_path)
    gray(tmp_path / "masks" / "a.bmp", blocks([2]))
    said = refusal(three(tmp_path))
    assert "a.bmp" in said
    assert "a.png" in said
    assert "both masks of a.jpg" in said


def test_missing_folders_are_named_with_those_that_are_there(tmp_path):
    photo(tmp_path / "pictures" / "a.jpg")
    assert "no folder images, masks; it has pictures" in refusal(three(tmp_path))
    photo(tmp_path / "images" / "a.jpg")
    photo(tmp_path / "masks" / "b.png")
    assert "no mask belongs to a picture" in refusal(three(tmp_path))


def test_a_mask_of_another_size_is_found_before_the_first_step(tmp_path):
    pair(tmp_path)
    gray(tmp_path / "masks" / "a.png", blocks([0, 1, 2], (SIZE[1], SIZE[0])))
    said = refusal(three(tmp_path))
    assert "the mask is 20x14 pixels (width x height) and its picture" in said
    assert "14x20" in said
    assert "turned by 90 degrees" in said
    with pytest.raises(DataError, match="the mask is 20x14"):
        three(tmp_path).read(0)


@pytest.mark.parametrize(
    ("labels", "hint", "ignore"),
    [
        ((1, 2, 3), "seem to count from 1", ()),
        ((1, 2, 3), "first=1", (255,)),
        ((1, 3, 255), "seem to count from 1", (255,)),
        ((0, 1, 7), "7 is no label", ()),
        ((0, 1, 7), "name 7 as an ignore value", (255,)),
        ((0, 2, 3), "more classes than the 3 that have names", (255,)),
        ((0, 255), "black-and-white mask", ()),
    ],
)
def test_a_label_out_of_range_tells_file_value_histogram_and_hint(tmp_path, labels, hint, ignore):
    file = pair(tmp_path, labels=labels)
    said = refusal(three(tmp_path, ignore=ignore))
    assert str(file) in said
    assert hint in said
    assert f"expected 0 to 2 (3 classes){', or 255 for ignore' if ignore else ''}" in said
    for value, count in zip(*np.unique(blocks(list(labels)), return_counts=True), strict=True):
        assert f"{value} ({count}x)" in said


def test_an_unlabelled_value_is_told_to_be_an_ignore_value(tmp_path):
    pair(tmp_path, labels=(0, 1, 255))
    assert "nobody labelled these pixels: name it as an ignore value" in refusal(
        three(tmp_path, ignore=(254,))
    )


def test_an_rgb_mask_without_colours_is_refused(tmp_path):
    pair(tmp_path, write=painted, colours=[RED, GREEN, BLACK])
    assert "the mask is RGB, expected one number per pixel; give a table" in refusal(three(tmp_path))
    pair(tmp_path, write=painted, colours=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    assert "its three channels are equal" in refusal(three(tmp_path))


def test_a_colour_that_no_class_has_is_named(tmp_path):
    pair(tmp_path, write=painted, colours=[RED, GREEN, (1, 2, 3)])
    (tmp_path / "classes.json").write_text(json.dumps({"sky": list(RED), "road": "#009600"}))
    assert "RGB (1, 2, 3) is no label" in refusal(Masks(root=str(tmp_path)))
    pair(tmp_path, labels=(0, 1), write=painted, colours=[RED[::-1], RED])
    assert "Red and blue seem to be swapped" in refusal(Masks(root=str(tmp_path)))
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "masks" / "a.png")
    assert "smoothed edges" in refusal(Masks(root=str(tmp_path)))


def test_black_and_white_masks_of_which_white_is_ignored_are_warned_about(tmp_path):
    pair(tmp_path, labels=(0, 255))
    source = Masks(root=str(tmp_path), names=("ground", "crack"))
    (said,) = source.check()
    assert "hold only ground and pixels to ignore" in said
    (tmp_path / "t.csv").write_text("name,value\nground,0\ncrack,255\n")
    right = Masks(root=str(tmp_path), table="t.csv")
    assert right.check() == []
    assert np.unique(right.read(0).masks["class"]).tolist() == [0, 1]


def test_jpeg_masks_are_refused(tmp_path):
    pair(tmp_path)
    Image.fromarray(blocks([0, 1, 2])).save(tmp_path / "masks" / "a.png", format="JPEG")
    assert "is a JPEG, whose compression changes labels" in refusal(three(tmp_path))


def test_a_damaged_mask_is_named(tmp_path):
    file = pair(tmp_path)
    file.write_bytes(file.read_bytes()[:-30])
    assert f"{file}: cannot be decoded" in refusal(three(tmp_path))


def test_classes_without_names_are_asked_for(tmp_path):
    pair(tmp_path)
    assert "the classes have no names. Write classes.csv" in refusal(Masks(root=str(tmp_path)))


# ---- .mat


def test_mat_files_hold_numbers_or_are_refused(tmp_path):
    good = mat(tmp_path / "a.mat", groundtruth=blocks([0, 1]), other=np.zeros(3))
    np.testing.assert_array_equal(read_mat(good, "groundtruth"), blocks([0, 1]))
    assert mat_header(good, "groundtruth")[:2] == SIZE
    floats = mat(tmp_path / "f.mat", groundtruth=blocks([0, 1]).astype(float))
    assert read_mat(floats, "groundtruth").dtype == np.int64
    for read in (read_mat, mat_header):
        with pytest.raises(
            DataError, match=r"a\.mat: has no variable 'S', it holds groundtruth \(uint8\), other"
        ):
            read(good, "S")
    with pytest.raises(DataError, match="has fractions"):
        read_mat(mat(tmp_path / "h.mat", groundtruth=np.full((2, 2), 0.5)), "groundtruth")


class Bomb:
    """What a pickle would run when it is opened."""

    def __reduce__(self):
        return (pytest.fail, ("an object of a data file was executed",))


@pytest.mark.parametrize("read", [read_mat, mat_header])
def test_object_arrays_in_mat_files_are_refused_and_never_run(tmp_path, read):
    cell = np.empty((2, 2), object)
    cell[:] = [["a", 1], [2.0, "b"]]
    savemat(tmp_path / "cell.mat", {"groundtruth": cell})
    with pytest.raises(
        DataError, match=r"'groundtruth' is a MATLAB cell, expected a matrix of whole numbers"
    ):
        read(tmp_path / "cell.mat", "groundtruth")
    savemat(tmp_path / "struct.mat", {"groundtruth": {"x": np.zeros(3)}})
    with pytest.raises(DataError, match="is a MATLAB struct"):
        read(tmp_path / "struct.mat", "groundtruth")
    with (tmp_path / "pickle.mat").open("wb") as file:
        np.save(file, np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(DataError, match="is no MATLAB file, or damaged"):
        read(tmp_path / "pickle.mat", "groundtruth")


def test_other_bad_mat_files(tmp_path):
    (tmp_path / "hdf.mat").write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" * 20
    )
    with pytest.raises(DataError, match=r"MATLAB 7\.3"):
        read_mat(tmp_path / "hdf.mat", "groundtruth")
    good = mat(tmp_path / "a.mat", groundtruth=np.random.default_rng(0).integers(0, 9, (60, 60)))
    (tmp_path / "cut.mat").write_bytes(good.read_bytes()[:400])
    with pytest.raises(DataError, match=r"cut\.mat"):
        read_mat(tmp_path / "cut.mat", "groundtruth")
    with pytest.raises(DataError, match="expected a matrix"):
        read_mat(mat(tmp_path / "d.mat", groundtruth=np.zeros((2, 2, 2), np.uint8)), "groundtruth")
    with pytest.raises(DataError, match="does not exist"):
        read_mat(tmp_path / "no.mat", "groundtruth")


# ---- names and colours


def test_tables_of_many_forms(tmp_path):
    forms = {
        "a.csv": "name,r,g,b\nsky,200,0,0\nroad,0,150,0\n",
        "b.csv": "value;class;color\n0;sky;#c80000\n1;road;#009600\n",
        "c.tsv": "name\tcolour\nsky\t200 0 0\nroad\t0,150,0\n",
        "d.json": '{"classes": ["sky", "road"], "palette": [200, 0, 0, 0, 150, 0]}',
        "e.json": '{"classes": ["sky", "road"], "palette": [[200, 0, 0], [0, 150, 0]]}',
        "f.json": '[{"name": "sky", "color": "#c80000"}, {"name": "road", "color": [0, 150, 0], "value": null}]',
        "g.json": json.dumps({"labels": ["sky", "road"], "palette": [*RED, *GREEN] + [0] * 762}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        legend = read_names(tmp_path / name, ignore=(255,))
        assert legend.names == ("sky", "road"), name
        assert legend.colours == (RED, GREEN), name
        assert legend.values == {255: -1, 0: 0, 1: 1}, name
    (tmp_path / "plain.csv").write_text("sky\nroad\n")
    assert read_names(tmp_path / "plain.csv").names == ("sky", "road")
    (tmp_path / "bw.csv").write_text("name,value\nground,0\ncrack,255\n")
    assert read_names(tmp_path / "bw.csv", ignore=(255,)).values == {255: 1, 0: 0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "name,r,g,b\nsky,200,0,0\nroad,0,300,0\n", r"a\.csv, line 3: expected a colour"),
        (
            "a.csv",
            "name,color\nsky,#c80000\nsky,#000000\n",
            r"line 3: name 'sky' stands here and in .*line 2",
        ),
        ("a.csv", "name,color\nsky,#c80000\nroad,#c80000\n", r"line 3: colour \(200, 0, 0\) stands"),
        ("a.csv", "name,r,g,b\nsky,200,0\n", "has 3 columns, expected 4"),
        ("a.csv", "x,y\n1,2\n", "expected column names"),
        ("a.json", '{"classes": ["a", "b"], "palette": [[1, 2, 3]]}', "has 1 colours for 2 classes"),
        ("a.json", '{"classes": ["a", "b"], "palette": [1, 2, 3, 4]}', "4 numbers for 2 classes, expected 6"),
        (
            "a.json",
            '[{"name": "a", "color": "#000000"}, {"name": "b"}]',
            "1 colours for 2 classes; without one are b",
        ),
        ("a.json", "[1, 2]", "expected a name"),
        ("a.json", "nonsense", "is no JSON"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_names(tmp_path / name)


def test_a_palette_of_wrong_length_is_refused():
    with pytest.raises(DataError, match=r"palette: has 1 colours for 2 classes \(a, b\)"):
        Legend(("a", "b"), (RED,))
    with pytest.raises(DataError, match="the colour of 'b'"):
        check_palette([RED, (0, 0, 256)], ["a", "b"], "here")


def test_the_voc_palette_is_the_published_one():
    assert voc_palette(5) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert voc_palette(21)[20] == (0, 64, 128)
    assert len(set(voc_palette(256))) == 256


# ---- remap


@given(st.data())
def test_a_remap_is_a_function_of_classes(data):
    names = tuple("abcdefgh"[: data.draw(st.integers(2, 8))])
    groups = st.sampled_from(["x", "y", "a", "ignore"])
    table = data.draw(st.dictionaries(st.sampled_from([*names, "*"]), groups))
    legend = counted(names, voc_palette(len(names)), ignore=(255,))
    wanted = [table.get(name, table.get("*", name)) for name in names]
    if all(name == "ignore" for name in wanted):
        with pytest.raises(ConfigError, match="ignores every class"):
            regroup(legend, table)
        return
    merged = regroup(legend, table)
    assert merged.names == tuple(dict.fromkeys(name for name in wanted if name != "ignore"))
    for value, name in enumerate(wanted):
        assert merged.values[value] == (-1 if name == "ignore" else merged.names.index(name))
    assert merged.values[255] == -1
    assert len(merged.colours) == len(merged.names)
    shuffled = dict(sorted(table.items(), reverse=True))
    assert regroup(legend, shuffled) == merged


def test_a_remap_that_names_a_class_twice_or_none_is_an_error():
    legend = counted(("sky", "road"))
    with pytest.raises(ConfigError, match="twice, by name and by number"):
        regroup(legend, {"sky": "a", "0": "b"})
    with pytest.raises(ConfigError, match=r"'rod', which is no class\n.*road"):
        regroup(legend, {"rod": "a"})
    with pytest.raises(ConfigError, match="'5', which is no class"):
        regroup(legend, {"5": "a"})


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_packing_a_mask_gives_it_back(height, width, seed):
    mask = np.random.default_rng(seed).integers(-1, 3, (height, width)).astype(np.int32)
    again = Runs.pack(mask).unpack()
    np.testing.assert_array_equal(again, mask)
    assert again.dtype == np.int32


def test_headers_tell_size_and_kind(tmp_path):
    assert mask_header(gray(tmp_path / "a.png", blocks([0]))) == (*SIZE, False)
    assert mask_header(painted(tmp_path / "b.png", blocks([0]), [RED])) == (*SIZE, True)


@pytest.mark.parametrize(("value", "told"), [(-1, "from -1 to 0"), (70_000, "from 0 to 70000")])
def test_values_that_no_mask_has_are_told_and_are_no_damage(tmp_path, value, told):
    labels = np.zeros((4, 5), np.int32)
    labels[1, 2] = value
    Image.fromarray(labels).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=f"a.tif: holds values {told}, where masks have 0 to 65535") as caught:
        read_mask(tmp_path / "a.tif")
    assert "damaged" not in str(caught.value)
