"""Folder: class folders, list files and tables; bad pictures stop the run or are stood in for, by policy."""

import dataclasses
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from visloom.data import layout
from visloom.data.folder import Folder, recognise
from visloom.errors import DataError
from visloom.stream import Ordered, Shuffled, Split, rooted


def picture(path, value=0, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def animals(root, each=3):
    """root/{cat,dog,eel}/0.png ...; the value of a picture says which it is."""
    for label, name in enumerate(("cat", "dog", "eel")):
        for i in range(each):
            picture(root / name / f"{i}.png", 10 * label + i)
    return root


# ---- class folders


def test_classes_are_the_sorted_folders(tmp_path):
    source = Folder(root=str(animals(tmp_path)))
    assert source.classes() == ("cat", "dog", "eel")
    assert len(source) == 9
    assert source.labels().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    sample = source.read(4)
    assert sample.id == "dog/1.png"
    assert sample.label == 1
    assert sample.image.shape == (6, 8, 3)
    assert (sample.image == 11).all()
    assert source.sizes().tolist() == [[6, 8]] * 9
    assert source.check() == []
    assert source.read_batch(np.array([0])) is None


def test_names_with_spaces_unicode_and_case(tmp_path):
    picture(tmp_path / "white cat" / "a b.PNG", 1)
    picture(tmp_path / "Äpfel" / "ü <script>.jpeg", 2)
    picture(tmp_path / "Zoo" / "deep" / "er" / "x.JPG", 3)
    source = Folder(root=str(tmp_path))
    assert source.classes() == ("Zoo", "white cat", "Äpfel")
    assert [source.read(i).id for i in range(3)] == [
        "Zoo/deep/er/x.JPG",
        "white cat/a b.PNG",
        "Äpfel/ü <script>.jpeg",
    ]


def test_hidden_files_and_other_endings_are_no_pictures(tmp_path):
    animals(tmp_path)
    for name in (".DS_Store", "._0.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    picture(tmp_path / ".hidden" / "a.png")
    picture(tmp_path / "__MACOSX" / "a.png")
    picture(tmp_path / "cat" / ".trash" / "a.png")
    assert len(Folder(root=str(tmp_path))) == 9
    assert len(Folder(root=str(tmp_path), extensions=(".txt",), names=("cat", "dog", "eel"))) == 1


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_are_followed_once(tmp_path):
    animals(tmp_path / "data")
    elsewhere = animals(tmp_path / "elsewhere")
    try:
        (tmp_path / "data" / "fox").symlink_to(elsewhere / "cat", target_is_directory=True)
        (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data" / "cat", target_is_directory=True)
    except OSError:
        pytest.skip("links are not permitted")
    source = Folder(root=str(tmp_path / "data"))
    assert source.classes() == ("cat", "dog", "eel", "fox")
    assert len(source) == 12


def test_names_fix_the_labels_of_a_part_that_lacks_a_class(tmp_path):
    animals(tmp_path)
    for file in (tmp_path / "cat").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"class folder\(s\) without a picture: cat"):
        len(Folder(root=str(tmp_path)))
    (tmp_path / "cat").rmdir()
    assert Folder(root=str(tmp_path)).labels().tolist() == [0, 0, 0, 1, 1, 1]
    held = Folder(root=str(tmp_path), names=("cat", "dog", "eel"))
    assert held.labels().tolist() == [1, 1, 1, 2, 2, 2]
    (warning,) = held.check()
    assert "no picture of cat" in warning
    with pytest.raises(DataError, match=r"folder\(s\) that are no class: eel; the classes are cat, dog"):
        len(Folder(root=str(tmp_path), names=("cat", "dog")))


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: does not exist"):
        len(Folder(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"has no class folders; expected .*/<class>/"):
        len(Folder(root=str(tmp_path)))
    picture(tmp_path / "loose.png")
    with pytest.raises(DataError, match="1 pictures lie in it without a class"):
        len(Folder(root=str(tmp_path)))
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"no pictures in its folders \(cat\); looked for .jpg"):
        len(Folder(root=str(tmp_path)))


def test_the_skip_policy_does_not_hide_a_missing_folder(tmp_path):
    source = Folder(root=str(tmp_path / "nowhere"), unreadable="skip")
    with pytest.raises(DataError, match="nowhere: does not exist") as caught:
        source.read(0)
    assert "unreadable" not in str(caught.value)


# ---- lists and tables


def test_list_file_with_spaces_in_names(tmp_path):
    animals(tmp_path)
    picture(tmp_path / "a b" / "c d.png", 99)
    (tmp_path / "list.txt").write_text("\ufeffcat/0.png 0\na b/c d.png 2\n\ndog/1.png\t1\n", encoding="utf-8")
    source = Folder(root=str(tmp_path), files="list.txt")
    assert source.labels().tolist() == [0, 2, 1]
    assert (source.read(1).image == 99).all()
    assert source.read(1).id == "a b/c d.png"
    assert source.classes() == ()
    named = Folder(root=str(tmp_path), files="list.txt", names=("x", "y", "z"))
    assert named.classes() == ("x", "y", "z")
    assert "3 pictures, 3 classes" in (len(named), repr(named))[1]


def test_list_file_with_class_names(tmp_path):
    animals(tmp_path)
    (tmp_path / "list.txt").write_text("eel/0.png eel\ncat/0.png cat\ncat/1.png cat\n")
    source = Folder(root=str(tmp_path), files="list.txt")
    assert source.classes() == ("cat", "eel")
    assert source.labels().tolist() == [1, 0, 0]
    with pytest.raises(
        DataError, match=r"list.txt, line 1: 'eel' is no class; the classes are cat, dog, eels; did you"
    ):
        len(Folder(root=str(tmp_path), files="list.txt", names=("cat", "dog", "eels")))


@pytest.mark.parametrize("header", ["", "path,label\n", "id,Label,Image\n"])
def test_tables(tmp_path, header):
    animals(tmp_path)
    rows = "cat/0.png,0\ndog/1.png,1\n" if "Image" not in header else "7,0,cat/0.png\n8,1,dog/1.png\n"
    (tmp_path / "t.csv").write_text(header + rows)
    (tmp_path / "t.tsv").write_text((header + rows).replace(",", "\t"))
    for name in ("t.csv", "t.tsv"):
        source = Folder(root=str(tmp_path), files=name)
        assert source.labels().tolist() == [0, 1]
        assert source.read(1).id == "dog/1.png"


def test_quoted_names_in_tables(tmp_path):
    picture(tmp_path / "a, b.png", 5)
    (tmp_path / "t.csv").write_text('file,class\n"a, b.png",cat\n')
    source = Folder(root=str(tmp_path), files="t.csv")
    assert (source.read(0).image == 5).all()
    assert source.classes() == ("cat",)


BAD_LISTS = {
    "missing.txt": (None, r"missing.txt: the list of pictures cannot be read: does not exist"),
    "empty.txt": ("\n \n", "names no pictures"),
    "no_label.txt": (
        "cat/0.png 0\ncat/1.png\n",
        r"line 2: expected a path, a space and a label, found 'cat/1.png'",
    ),
    "negative.txt": (
        "cat/0.png 0\ncat/1.png -2\n",
        r"line 2: label -2 of 'cat/1.png' is out of range, expected 0 or",
    ),
    "columns.csv": ("when,where\n1,2\n", "has the columns when, where; expected one of path, "),
    "short.csv": ("path,label\ncat/0.png\n", r"row 2: expected a path and a label"),
    "latin.txt": ("ü.png 1".encode("latin1"), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_lists(tmp_path, name):
    text, said = BAD_LISTS[name]
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said):
        len(Folder(root=str(tmp_path), files=name))


def test_labels_out_of_range_come_with_a_histogram_and_a_hint(tmp_path):
    (tmp_path / "l.txt").write_text("".join(f"{i}.png {1 + i % 3}\n" for i in range(9)))
    with pytest.raises(
        DataError, match=r"label 3 of '2.png' .* expected 0 to 2 \(3 classes\).*3 \(3x\).*count from 1"
    ):
        len(Folder(root=str(tmp_path), files="l.txt", names=("a", "b", "c")))
    (tmp_path / "l.txt").write_text("0.png 0\n1.png 333\n")
    with pytest.raises(DataError, match=r"line 2: label 333 .* 333 \(1x\)$"):
        len(Folder(root=str(tmp_path), files="l.txt", names=("a", "b", "c")))


def test_a_picture_listed_twice_keeps_ids_unique(tmp_path):
    animals(tmp_path)
    (tmp_path / "l.txt").write_text("cat/0.png 0\ncat/0.png 0\ndog/0.png 1\ncat/0.png 0\n")
    source = Folder(root=str(tmp_path), files="l.txt")
    assert [source.read(i).id for i in range(4)] == ["cat/0.png", "cat/0.png#2", "dog/0.png", "cat/0.png#3"]


def test_all_missing_pictures_are_counted_and_ten_listed(tmp_path):
    animals(tmp_path)
    (tmp_path / "CAT2.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    lines = ["cat/0.png 0", "cat2.png 0", *[f"gone/{i}.png 1" for i in range(20)]]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    source = Folder(root=str(tmp_path), files="l.txt")
    with pytest.raises(DataError) as caught:
        source.check()
    text = str(caught.value)
    assert "21 of 22 pictures" in text
    assert "there is 'CAT2.png', upper and lower case differ" in text
    assert "... and 11 more" in text
    assert text.count(".png") == 11  # ten lines, one of which names a second file
    with pytest.raises(DataError, match=r"gone.0.png: does not exist.*train.source.unreadable=skip"):
        source.read(2)


# ---- unreadable pictures


@pytest.fixture
def damaged(tmp_path):
    """Nine pictures, of which dog/0, dog/1 and eel/2 cannot be read."""
    animals(tmp_path)
    (tmp_path / "dog" / "0.png").write_bytes(b"")
    (tmp_path / "dog" / "1.png").write_bytes(b"<html>not found</html>")
    data = (tmp_path / "eel" / "2.png").read_bytes()
    (tmp_path / "eel" / "2.png").write_bytes(data[:-20])
    return tmp_path


def test_stop_lists_every_bad_picture(damaged):
    source = Folder(root=str(damaged))
    told = []
    with pytest.raises(DataError) as caught:
        source.check(progress=lambda done, total: told.append((done, total)))
    text = str(caught.value)
    for word in (
        "3 of 9 pictures",
        "0.png: is empty",
        "<html>not found",
        "2.png",
        "train.source.unreadable=skip",
    ):
        assert word in text
    assert told[-1] == (9, 9)
    with pytest.raises(DataError, match=r"0.png: is empty .*train.source.unreadable=skip"):
        source.read(3)
    assert source.read(5).id == "dog/2.png"
    with pytest.raises(DataError, match="3 of 9"):
        source.sizes()


@pytest.mark.parametrize("memory", [False, True])
def test_skip_takes_the_next_readable_one_and_says_so(damaged, memory):
    source = Folder(root=str(damaged), unreadable="skip", memory=memory)
    (warning,) = source.check()
    assert warning.startswith("3 of 9 pictures are skipped: ")
    for index, stand_in, label in ((3, "dog/2.png", 1), (4, "dog/2.png", 1), (8, "cat/0.png", 0)):
        sample = source.read(index)
        lost = source.opened().ids[index]
        assert sample.id == f"{stand_in} (for {lost})"
        assert sample.label == label
        (note,) = sample.notes
        assert note.startswith(f"skipped {lost}: ")
        assert note.endswith(f"{stand_in} stands in for it")
    ids = [source.read(i).id for i in range(9)]
    assert len(set(ids)) == 9
    assert source.read(0).notes == ()
    assert source.sizes().min() == 6


def test_skip_stays_within_its_split(damaged):
    everything = Folder(root=str(damaged)).opened().ids
    stood_in = 0
    for seed in range(12):
        for keep in ("head", "tail"):
            part = Folder(root=str(damaged), unreadable="skip", split=Split(keep, 0.5, seed))
            own = {everything[i] for i in part.chosen()}
            samples = [part.read(i) for i in range(len(part))]
            assert {s.id.split(" (for ")[0] for s in samples} <= own
            stood_in += sum(bool(s.notes) for s in samples)
    assert stood_in == 12 * 3


def test_skip_stops_where_nothing_can_be_read(tmp_path):
    animals(tmp_path)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    source = Folder(root=str(tmp_path), unreadable="skip")
    with pytest.raises(DataError, match="none of the 8 pictures after it"):
        source.read(0)
    with pytest.raises(DataError, match="9 of 9"):
        source.check()
    with pytest.raises(DataError, match="9 of 9"):
        source.sizes()


def test_notes_and_samples_are_the_same_in_every_epoch_and_process(damaged):
    source = Folder(root=str(damaged), unreadable="skip")
    stream = Shuffled(source=source, batch=3, transform=(), seed=3)
    notes = [n for step in range(3) for s in stream.load(stream.tickets(step)) for n in s.notes]
    again = pickle.loads(pickle.dumps(stream))
    assert notes == [n for step in range(3) for s in again.load(again.tickets(step)) for n in s.notes]
    assert len(notes) == 3


def test_policies_reach_the_reader(tmp_path):
    animals(tmp_path)
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(tmp_path / "cat" / "deep.png")
    source = Folder(root=str(tmp_path))
    with pytest.raises(DataError, match="16 bits per channel"):
        source.check()
    scaled = dataclasses.replace(source, sixteen_bit="scale")
    assert scaled.check() == []
    assert (scaled.read(3).image == 40_000 >> 8).all()
    with pytest.raises(DataError, match="above the limit of 30"):
        dataclasses.replace(source, max_pixels=30).read(0)


# ---- in memory


def test_memory_gives_the_same_samples_and_whole_batches(tmp_path):
    animals(tmp_path)
    disk, memory = Folder(root=str(tmp_path)), Folder(root=str(tmp_path), memory=True)
    indices = np.array([7, 0, 7])
    stacked = memory.read_batch(indices)
    for at, index in enumerate(indices):
        np.testing.assert_array_equal(stacked.image[at], disk.read(index).image)
        assert stacked.ids[at] == disk.read(index).id
        assert stacked.label[at] == disk.read(index).label
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    assert (memory.read(8).image == 22).all()


def test_memory_with_several_sizes_has_no_whole_batches(tmp_path):
    animals(tmp_path)
    picture(tmp_path / "cat" / "wide.png", 1, (6, 20))
    source = Folder(root=str(tmp_path), memory=True)
    assert source.read_batch(np.array([0])) is None
    assert source.read(3).image.shape == (6, 20, 3)
    assert source.sizes()[3].tolist() == [6, 20]


def test_memory_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("visloom.data.folder.MEMORY_LIMIT", 1000)
    animals(tmp_path)
    with pytest.raises(DataError, match="set memory=false"):
        Folder(root=str(tmp_path), memory=True).opened()


# ---- as a value


def test_a_value_whether_opened_or_not(tmp_path):
    animals(tmp_path)
    opened, fresh = Folder(root=str(tmp_path)), Folder(root=str(tmp_path))
    assert repr(fresh) == f"Folder({str(tmp_path)!r})"
    opened.opened()
    opened.sizes()
    assert repr(opened) == f"Folder({str(tmp_path)!r}: 9 pictures, 3 classes)"
    assert opened == fresh
    assert hash(opened) == hash(fresh)
    assert pickle.loads(pickle.dumps(opened)) == fresh
    assert len(pickle.dumps(opened)) < 1000


WRONG = (
    ({"unreadable": "ignore"}, "unreadable"),
    ({"sixteen_bit": "yes"}, "sixteen_bit"),
    ({"max_pixels": 0}, "max_pixels"),
    ({"extensions": ("jpg",)}, "extensions"),
    ({"names": ("a", "a")}, "names"),
)


@pytest.mark.parametrize(("arguments", "start"), WRONG)
def test_wrong_arguments_name_the_argument_first(arguments, start):
    with pytest.raises(ValueError, match=f"^{start}.*got"):
        Folder(**arguments)


def test_split_limit_and_empty_split(tmp_path):
    animals(tmp_path, each=10)
    head = Folder(root=str(tmp_path), split=Split("head", 0.8), limit=7)
    assert len(head) == 7
    assert len(head.sizes()) == len(head.labels()) == 7
    stream = Ordered(source=head, batch=3)
    seen = [s.id for step in range(len(stream)) for s in stream.load(stream.tickets(step))]
    assert len(set(seen)) == 7
    with pytest.raises(DataError, match="nothing is left after split and limit"):
        Folder(root=str(tmp_path), split=Split("tail", 0.999)).check()


# ---- recognise


def test_recognise_train_and_val(tmp_path):
    animals(tmp_path / "train", each=5)
    animals(tmp_path / "valid", each=2)
    for file in (tmp_path / "valid" / "cat").iterdir():
        file.unlink()
    (tmp_path / "valid" / "cat").rmdir()
    found = layout.recognise(tmp_path)
    assert found.kind == "image folder"
    assert found.classes == ("cat", "dog", "eel")
    assert "train: 15 pictures in train, 5 to 5 per class" in found.said
    assert any(line.startswith("val: 4 pictures in valid") for line in found.said)
    val = rooted(found.parts["val"], tmp_path)
    assert set(val.labels().tolist()) == {1, 2}


def test_recognise_one_folder_of_classes(tmp_path):
    found = recognise(animals(tmp_path, each=20))
    train, val = (rooted(found.parts[part], tmp_path) for part in ("train", "val"))
    assert (len(train), len(val)) == (54, 6)
    assert not {train.read(i).id for i in range(54)} & {val.read(i).id for i in range(6)}
    assert "a tenth of the pictures is kept" in str(found)


def test_recognise_lists(tmp_path):
    animals(tmp_path / "images")
    (tmp_path / "train.txt").write_text("images/cat/0.png 0\nimages/dog/0.png 1\n")
    (tmp_path / "val.txt").write_text("images/cat/1.png 0\n")
    found = recognise(tmp_path)
    assert {part: source.files for part, source in found.parts.items()} == {
        "train": "train.txt",
        "val": "val.txt",
    }
    assert "2 classes, without names" in found.said


def test_recognise_says_no(tmp_path):
    assert layout.recognise(tmp_path) is None
    assert layout.recognise(tmp_path / "nowhere") is None
    (tmp_path / "train.txt").write_text("just some words\n")
    picture(tmp_path / "a.png")
    assert layout.recognise(tmp_path) is None
