"""Old configs are data: bases, deletion and names of the file, and nothing of them runs."""

from __future__ import annotations

import pytest

from visloom.convert.keys import Keys
from visloom.convert.pyconfig import parse, read
from visloom.errors import ConfigError


def write(folder, **files):
    for name, text in files.items():
        stem, _, ending = name.partition("__")
        (folder / f"{stem}.{ending or 'py'}").write_text(text)
    return folder


def test_plain_python_becomes_data():
    text = '''
"""a comment"""
a = 3
b = dict(x=a * 2, y=[1, 'two', (3.5, None)], **dict(z=True))
c = {'k': -1e-3, **b}
d = list(range(0, 3)) + [a if a > 2 else 0]
e: int = b['y'][0]
f = f'work/{a}'
a += 1
__hidden = 1
g = len(d) // 2
h = not (a == 4 and b['z'])
'''
    tree = parse(text, "it.py")
    assert tree.values == {
        "a": 4, "b": {"x": 6, "y": [1, "two", (3.5, None)], "z": True},
        "c": {"k": -0.001, "x": 6, "y": [1, "two", (3.5, None)], "z": True},
        "d": [0, 1, 2, 3], "e": 1, "f": "work/3", "g": 2, "h": False,
    }  # fmt: skip
    assert tree.places["b.y"] == "it.py:4" and tree.where("c.k.deeper") == "it.py:5"
    assert tree.variables == {"a", "b", "d"}


def test_bases_are_merged_as_mmcv_does(tmp_path):
    write(
        tmp_path,
        model="model = dict(backbone=dict(depth=18, style='x'), neck=dict(type='GAP'), head=dict(a=1, b=2))",
        data="data = dict(train=[1, 2], n=4)\nother = 5",
        child=(
            "_base_ = ['model.py', './data.py']\n"
            "model = dict(backbone=dict(depth=50), head=dict(_delete_=True, c=3), neck=None)\n"
            "data = dict(train=[3])\nnew = dict(_delete_=True, inner=1)"
        ),
    )
    tree = read(tmp_path / "child.py")
    assert tree.values == {
        "model": {"backbone": {"depth": 50, "style": "x"}, "neck": None, "head": {"c": 3}},
        "data": {"train": [3], "n": 4}, "other": 5, "new": {"inner": 1},
    }  # fmt: skip
    assert tree.where("model.backbone.depth") == "child.py:2" and tree.where("other") == "data.py:2"


def test_names_of_the_file_and_values_of_bases(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, base="lr = dict(x=0.5)")
    write(
        tmp_path / "sub",
        child=(
            "_base_ = '../base.py'\nwork = './w/{{ fileBasenameNoExtension }}{{fileExtname}}'\n"
            "name = '{{ fileBasename }}'\ndir = '{{ fileDirname }}'\nlr2 = {{ _base_.lr.x }}\nall = '{{_base_.lr}}'"
        ),
    )
    values = read(tmp_path / "sub" / "child.py").values
    assert values["work"] == "./w/child.py" and values["name"] == "child.py"
    assert values["dir"] == str(tmp_path / "sub") and values["lr2"] == 0.5 and values["all"] == {"x": 0.5}


def test_json_and_yaml(tmp_path):
    write(tmp_path, a__json='{"x": {"y": 1}}', b__yaml="_base_: a.json\nx: {z: 2}\n")
    assert read(tmp_path / "b.yaml").values == {"x": {"y": 1, "z": 2}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import os", "no assignment"),
        ("x = __import__('os').system('touch made')", "nothing is called"),
        ("x = open('made', 'w')", "nothing is called"),
        ("x = dict.fromkeys([1])", "nothing is called"),
        ("x = [i for i in (1, 2)]", "no plain data"),
        ("x = lambda: 1", "no plain data"),
        ("def f():\n    pass", "no assignment"),
        ("for i in (1,):\n    pass", "no assignment"),
        ("x = y", "not assigned before"),
        ("x = (1).real", "no plain data"),
        ("x = b'bytes'", "no plain data"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("x = {}['a']", "KeyError"),
        ("x = 9 ** 9 ** 9", "very large"),
        ("x = 'a' * 10 ** 9", "very long"),
        ("x = [0] * 10 ** 9", "very long"),
        ("x = '%999999999d' % 1", "very long"),
        ("x = list(range(10 ** 9))", "nothing is called"),
        ("x = 1\nx[0] = 2", "no assignment"),
        ("x, y = 1, 2", "no assignment"),
        ("filename = 'a'", "reserved"),
        ("x = (", "no Python"),
        ("x = '" + "a" * 200_001 + "'", "very large"),
        ("x = [[0] * 1000] * 1000", "very large"),
        ("x = " + "-" * 3000 + "1", "nested too deeply"),
        ("x = " + "-" * 400 + "'a'", "TypeError|nested too deeply"),
    ],
)
def test_what_is_no_data_is_refused_with_its_line(tmp_path, monkeypatch, line, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        parse(f"ok = 1\n{line}", "it.py")
    assert "it.py:2" in str(caught.value) or "it.py:3" in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_copies_of_copies_are_refused_before_they_fill_the_memory(tmp_path):
    text = "a = [0] * 1000\n" + "\n".join(
        f"{new} = [{', '.join([old] * 30)}]" for old, new in ("ab", "bc", "cd")
    )
    with pytest.raises(ConfigError, match=r"it\.py:\d: this makes something very large"):
        parse(text, "it.py")
    aliases = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "\n".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 10)}]"
        for old, new in ("ab", "bc", "cd", "de", "ef", "fg", "gh")
    )
    write(tmp_path, it__yaml=aliases, ring__yaml="a: &a [*a]\n")
    for name in ("it", "ring"):
        with pytest.raises(ConfigError, match=r"very large|inside itself"):
            read(tmp_path / f"{name}.yaml")


def test_bases_that_cannot_be(tmp_path):
    write(
        tmp_path, a="x = 1", b="x = 2", both="_base_ = ['a.py', 'b.py']", loop="_base_ = 'loop.py'",
        none="_base_ = 'missing.py'", number="_base_ = 3", over="_base_ = 'a.py'\nx = dict(y=1)",
        fine="_base_ = 'a.py'\nx = dict(_delete_=True, y=1)",
    )  # fmt: skip
    for name, said in (
        ("both", r"two of its bases say 'x': a\.py:1 and b\.py:1"), ("loop", "based on itself"),
        ("none", r"missing\.py \(a base of .*none\.py\) cannot be read"), ("number", "a file or a list of files"),
        ("over", r"over\.py:2: x is a dict here and int in a base; write _delete_=True"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            read(tmp_path / f"{name}.py")
    assert read(tmp_path / "fine.py").values == {"x": {"y": 1}}
    with pytest.raises(ConfigError, match="which are not here"):
        parse("_base_ = 'a.py'")


def test_every_key_is_accounted_for():
    keys = Keys(parse("a = dict(b=1, c=[dict(d=2), dict(e=[3])])\noptimizr = 5", "it.py"))
    assert keys.take("a.b", "there") == 1 and keys.get("a.c.0.d") == 2 and keys.get("a.c.7", "none") == "none"
    keys.leave("a.c", "no use")
    keys.refuse("a.c.1", "cannot")
    assert [(row.key, row.verdict, row.where) for row in keys.rows(("optimizer",))] == [
        ("a.b", "taken", "it.py:1"), ("a.c.0.d", "not needed", "it.py:1"), ("a.c.1.e", "not supported", "it.py:1"),
        ("optimizr", "not supported", "it.py:2"),
    ]  # fmt: skip
    assert "optimizer" in keys.rows(("optimizer",))[-1].note
    assert "it.py:1: a.b is odd" in str(keys.error("a.b", "is odd"))
