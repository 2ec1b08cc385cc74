"""Which pictures `predict` takes, and how its table is written; the whole path is in tests/e2e."""

from __future__ import annotations

import csv
import os
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visloom.errors import DataError
from visloom.prediction import _cell, _channels, _file_cell, find_images


@pytest.fixture
def album(tmp_path):
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "deep/c.jpeg",
        "deep/.cache/d.jpg",
        "x[1].jpg",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(files, root):
    return [file.relative_to(root).as_posix() for file in files]


def test_a_folder_gives_its_pictures_in_order_of_names(album):
    assert names(find_images([album]), album) == ["a.PNG", "b.jpg", "x[1].jpg"]


def test_recursive_looks_deeper_but_not_into_hidden_folders(album):
    assert names(find_images([album], recursive=True), album) == ["a.PNG", "b.jpg", "x[1].jpg", "deep/c.jpeg"]


@pytest.mark.parametrize("endings", [["jpg"], [".JPG"], [" .jpg "]])
def test_endings_choose(album, endings):
    assert names(find_images([album], extensions=endings), album) == ["b.jpg", "x[1].jpg"]


def test_a_named_file_counts_whatever_it_is_called(album):
    assert names(find_images([album / "notes.txt"]), album) == ["notes.txt"]


def test_globs_and_names_that_look_like_globs(album):
    assert names(find_images([f"{album}/*.jpg"]), album) == ["b.jpg", "x[1].jpg"]
    assert names(find_images([f"{album}/**/*.jp*g"]), album) == ["b.jpg", "deep/c.jpeg", "x[1].jpg"]
    assert names(find_images([album / "x[1].jpg"]), album) == ["x[1].jpg"]


def test_each_picture_counts_once(album):
    assert names(find_images([album / "b.jpg", album, f"{album}/b*"]), album) == [
        "b.jpg",
        "a.PNG",
        "x[1].jpg",
    ]


def test_results_of_an_earlier_prediction_are_not_predicted(album):
    (album / "out" / "pictures").mkdir(parents=True)
    (album / "out" / "pictures" / "1.png").write_bytes(b"")
    assert "out/pictures/1.png" in names(find_images([album], recursive=True), album)
    assert "out/pictures/1.png" not in names(
        find_images([album], recursive=True, within=album / "out"), album
    )


@pytest.mark.parametrize(
    ("place", "said"),
    [("gone.jpg", "no such file"), ("*.bmp", "nothing matches"), ("empty", "no pictures found")],
)
def test_nothing_is_a_data_error_that_names_it(album, place, said):
    with pytest.raises(DataError, match=said) as caught:
        find_images([album / place])
    assert str(album) in str(caught.value)


# ------------------------------------------------------------------------------------------------- the table


@given(st.text(max_size=20))
def test_no_cell_is_a_formula(text):
    cell = _cell(text)
    assert cell.endswith(text)
    risky = cell[:1] in ("=", "+", "-", "@", "\t", "\r")
    assert not risky or cell.strip("+-.0123456789") == ""


@given(st.text(alphabet=string.printable.replace("/", ""), min_size=1, max_size=12))
def test_a_file_name_in_the_table_is_still_the_same_path(name):
    assert os.path.normpath(_file_cell(name)) == os.path.normpath(name)


def test_gray_tasks_get_one_channel():
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 255
    gray = _channels(image, 1)
    assert gray.shape == (4, 5, 1) and int(gray[0, 0, 0]) == 76  # ITU-R 601 luma of red
    assert _channels(image, 3) is image


def test_rows_survive_csv(tmp_path):
    hostile = 'a,"b"\n=1+1.jpg'
    with (tmp_path / "t.csv").open("w", newline="") as out:
        csv.writer(out).writerow([_file_cell(hostile)])
    with (tmp_path / "t.csv").open(newline="") as back:
        assert next(csv.reader(back)) == [hostile]
