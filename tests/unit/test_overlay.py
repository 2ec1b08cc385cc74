"""Settings files: what they may say, that reading runs nothing, and that complaints name file and line."""

from __future__ import annotations

import json
import time

import pytest

from tests.configs import sample
from visloom.config import change, dump, load
from visloom.errors import ConfigError
from visloom.overlay import Fields, Scalar, parse, read, settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a base, base.json, and the working directory in it."""
    (tmp_path / "base.json").write_text(json.dumps(dump(sample())))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(folder, text, name="mine.yaml"):
    (folder / name).write_text(text)
    return load(name, trust=True)


def complaint(folder, text, name="mine.yaml"):
    with pytest.raises(ConfigError) as caught:
        opened(folder, text, name)
    return str(caught.value)


# --- what a file may say


def test_nested_and_dotted_settings_are_the_same(folder):
    expected = change(sample(), {"optim.lr": 0.02, "optim.options.momentum": 0.5, "how.precision": "fp32"})
    for text in (
        "extends: base.json\noptim: {lr: 0.02, options.momentum: 0.5}\nhow: {precision: fp32}",
        "extends: base.json\noptim.lr: 2e-2\noptim.options.momentum: 0.5\nhow.precision: fp32",
        "optim:\n  lr: 0.02\n  options.momentum: 0.5\nhow.precision: fp32\nextends: ./base.json\n",
        '{"extends": "base.json", "optim": {"lr": 0.02, "options.momentum": 5e-1}, "how.precision": "fp32"}',
    ):
        assert opened(folder, text) == expected


def test_one_item_of_a_list_is_edited(folder):
    text = """
extends: base.json
train.transform:
  RandomCrop.padding: 2
  RandomFlip+: {kind: Invert, p: 0.1}   # after RandomFlip
  +0: [Grayscale, Equalize]             # in front
rules:
  1: null
  +: [{name: head, lr: 10}]
"""
    run = opened(folder, text)
    assert [type(item).__name__ for item in run.train.transform] == [
        "Grayscale", "Equalize", "RandomCrop", "RandomFlip", "Invert"
    ]  # fmt: skip
    assert run.train.transform[2].padding == 2
    assert [rule.name for rule in run.rules] == ["bias$", "head"]


def test_a_file_extends_a_file_and_settings_of_each_go_on_top(folder):
    (folder / "sub").mkdir()
    (folder / "one.yaml").write_text(
        "extends: base.json\noptim.lr: 1\nseed: 1\nschedule: {kind: Step, every: epochs:3}"
    )
    (folder / "sub" / "two.yaml").write_text("extends: ../one.yaml\noptim.lr: 2\nschedule: Cosine\n")
    run = load("sub/two.yaml", ["optim.lr=3", "length=epochs:3"], trust=True)
    assert (run.optim.lr, run.seed, str(run.length)) == (3, 1, "epochs:3")
    assert type(run.schedule).__name__ == "Cosine"
    assert load("sub/two.yaml", trust=True).optim.lr == 2


def test_a_file_may_extend_a_run_directory(folder):
    (folder / "runs" / "a-001").mkdir(parents=True)
    (folder / "base.json").rename(folder / "runs" / "a-001" / "run.json")
    assert opened(folder, "extends: runs/a-001\nseed: 5").seed == 5


def test_words_mean_what_their_slot_says(folder):
    text = """
extends: base.json
name: 007
task.classes: [no, yes, on, off, null_, 1.10]
optim: {lr: 1e-3, options: {a: no, b: 1e-3, c: 0x1f, d: 12:30, e: 1_000, f: '12', g: "null", h: ~, i: TRUE}}
how.compile: yes
evals.val.every:
"""
    run = opened(folder, text)
    assert run.name == "007"
    assert run.task.classes == ("no", "yes", "on", "off", "null_", "1.10")
    assert run.optim.lr == 1e-3
    assert run.optim.options == {
        "a": "no", "b": 1e-3, "c": "0x1f", "d": "12:30", "e": 1000, "f": "12", "g": "null", "h": None, "i": True
    }  # fmt: skip
    assert run.how.compile is True
    assert run.evals["val"].every is None


def test_anchors_repeat_a_value(folder):
    run = opened(folder, "extends: base.json\ntask.colours: [&c [1, 2, 3], *c, *c, *c, *c, *c]")
    assert run.task.colours == ((1, 2, 3),) * 6


def test_json_with_tabs_and_escapes(folder):
    text = '{\n\t"extends": "base.json",\n\t"task.classes": ["\\u00e9\\ud83d\\ude00", "é😀\\/", "a\\tb"]\n}'
    assert opened(folder, text, "mine.json").task.classes == ("é😀", "é😀/", "a\tb")


# --- complaints


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: base.json\n\noptim:\n  lr: 0.1\n  lrr: 0.2\n",
            "mine.yaml:5: optim.lrr: Optim has no setting 'lrr'\n  did you mean optim.lr?",
        ),
        ("extends: base.json\noptim.lr: fast", "mine.yaml:2: optim.lr: expected a number, got 'fast'"),
        (
            "extends: base.json\ntrain:\n  transform:\n    - {kind: "
            "RandomFlip}\n    - kind: RandomCrop\n      size: [32, x]\n",
            "mine.yaml:6: train.transform.1.size.1: expected a whole number, got 'x'",
        ),
        (
            "extends: base.json\nevals: {val: {every: epoch:2}}",
            "mine.yaml:2: evals.val.every: expected steps:<number>, epochs:<number>, examples:<number> or null, "
            "got 'epoch:2'\n  did you mean epochs:2?",
        ),
        ("extends: base.json\nseed: 1\nseed: 2", "mine.yaml:3: 'seed' is given twice, first at mine.yaml:2"),
        ("optim: {lr: 1}\n", "mine.yaml: name: is missing: Run needs text\n  Run also needs task and train"),
        ("extends: bass.json",
            "mine.yaml:1: extends: there is no file bass.json\n  the "
            "path starts from the folder of mine.yaml"),
        ("extends: [a]",
            "mine.yaml:1: extends: expected the name of a recipe or "
            "a file\n  for example `extends: cifar10`"),
        ("extends: mine.yaml",
            "mine.yaml:1: extends: mine.yaml extends itself in "
            "a circle\n  mine.yaml -> mine.yaml"),
        ("", "mine.yaml: a settings file holds `name: value` lines, found an empty file"),
        ("- a\n- b", "mine.yaml: a settings file holds `name: value` lines, found a list"),
        ("just words", "mine.yaml: a settings file holds `name: value` lines, found one value"),
        ("a: 1\n---\nb: 1", "mine.yaml:2: a settings file holds one document, found a second after ---"),
        ("a: 1\nb: [1, 2\nc: 3",
            "mine.yaml:3: this is not valid YAML: expected ',' or ']', "
            "but got ':'; while parsing a flow sequence"),
        ("a:\n\t- 1",
            "mine.yaml:2: this is not valid YAML: found character '\\t' that "
            "cannot start any token; while scanning for the next token"),
        ("a: !!python/object/apply:os.system [echo]",
            "mine.yaml:1: the tag !!python/object/apply:os.system "
            "is not allowed: settings are plain values"),
        ("a: 1\n!!python/name:os.system : 1",
            "mine.yaml:2: the tag !!python/name:os.system is "
            "not allowed: settings are plain values"),
        ("a: !mine 1", "mine.yaml:1: the tag !mine is not allowed: settings are plain values"),
        ("a: &x [*x]", "mine.yaml:1: *x stands for nothing that is complete here"),
        ("? [a, b]\n: 1", "mine.yaml:1: a key must be one word"),
        ("extends: base.json\n<<: {seed: 1}",
            "mine.yaml:2: <<: Run has no setting '<<'\n  "
            "Run has name, task, train, evals, "
         "length, optim, rules, schedule, momentum, init, init_coverage, how, host, save, log and seed"),
        ("extends: base.json\na..b: 1",
            "mine.yaml:2: 'a..b' is no dotted path: a name is empty\n  a "
            "name with a dot goes in quotes: init.\"net.head\""),
    ],
)  # fmt: skip
def test_complaints_name_file_and_line(folder, text, message):
    assert complaint(folder, text) == message


def test_a_longer_circle_is_shown(folder):
    (folder / "a.yaml").write_text("extends: b.yaml")
    (folder / "b.yaml").write_text("extends: c.yaml")
    assert complaint(folder, "extends: a.yaml", "c.yaml").endswith("c.yaml -> a.yaml -> b.yaml -> c.yaml")


def test_json_complaints_have_lines_too(folder):
    text = '{\n "extends": "base.json",\n "seed": 1.5\n}'
    assert complaint(folder, text, "mine.json") == "mine.json:3: seed: expected a whole number, got 1.5"
    assert "mine.json:1: this is not valid YAML" in complaint(folder, '{"a": [1, 2', "mine.json")


def test_files_that_cannot_be_read(folder):
    assert complaint(folder, "a: 1", "mine.txt.yaml").startswith("mine.txt.yaml:1: a: Run has no setting 'a'")
    (folder / "raw.yaml").write_bytes(b"a: \xff\xfe")
    (folder / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"raw\.yaml: cannot read this file: it is not UTF-8 text"):
        load("raw.yaml")
    with pytest.raises(ConfigError, match=r"there is no file nothing\.yaml"):
        load("nothing.yaml")
    with pytest.raises(ConfigError, match=r"folder\.yaml is no run directory: it has no run\.json"):
        load("folder.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_fine(folder):
    (folder / "mine.yaml").write_bytes(b"\xef\xbb\xbfextends: base.json\r\nseed: 3\r\n")
    assert load("mine.yaml", trust=True).seed == 3


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{n}: &{n} [{', '.join(['*' + p] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "{b: " * 500 + "1" + "}" * 500,
    ],
    ids=["laughs", "brackets", "braces"],
)
def test_malicious_sizes_are_refused_quickly(folder, text):
    start = time.process_time()
    assert "too many values, or too deep, for settings" in complaint(folder, text)
    assert time.process_time() - start < 20, "not exponential"


# --- the pieces


def test_settings_split_at_the_first_equals_sign():
    assert settings(["a.b=c=d", " x = 1"]) == [("a.b", "c=d"), ("x", " 1")]
    assert all(isinstance(value, Scalar) and value.where == "command line" for _, value in settings(["a=1"]))


def test_lines_are_kept(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 1\nb:\n  c: [1,\n  2]\n")
    fields = read(tmp_path / "x.yaml")
    assert isinstance(fields, Fields)
    assert fields["a"].where.endswith("x.yaml:1")
    assert fields["b"].places["c"].endswith("x.yaml:3")
    assert fields["b"]["c"][1].where.endswith("x.yaml:4")


def test_quotes_make_text():
    assert parse("[1, '1', \"1\", no, 'no']", "x") == ["1", "1", "1", "no", "no"]
    assert [isinstance(item, Scalar) for item in parse("[1, '1', \"1\"]", "x")] == [True, False, False]
