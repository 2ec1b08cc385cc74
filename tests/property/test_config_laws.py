"""Laws of change, diff, dump and load, and that no text whatever is answered by anything but a ConfigError."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.configs import sample
from visloom import slots
from visloom.config import apply, change, diff, dump, load, to_yaml
from visloom.errors import ConfigError
from visloom.overlay import parse
from visloom.place import join, nearest, split

RUN = sample()
LEAVES = list(slots.walk(RUN))
NODES = sorted({path[:i] for path, _, _ in LEAVES for i in range(1, len(path) + 1)})
WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(WORDS.filter(lambda word: word != "kind"), inner, max_size=3)
    ),
    max_leaves=6,
)
NUMBERS = st.floats(1e-6, 1e3)
EDITS = {
    "optim.lr": NUMBERS,
    "optim.weight_decay": NUMBERS,
    "optim.options": st.dictionaries(WORDS, PLAIN, max_size=3),
    "seed": st.integers(),
    "task.smoothing": st.floats(0, 0.99),
    "task.classes": st.lists(WORDS, min_size=2, max_size=6, unique=True).map(tuple),
    "length": st.sampled_from(["epochs:2.5", "steps:3", "examples:1000"]),
    "evals.val.monitor": st.sampled_from([None, "max accuracy", "min loss"]),
    "how.clip": st.none() | st.fixed_dictionaries({"norm": NUMBERS}),
    "how.precision": st.sampled_from(["auto", "fp32", "bf16"]),
    "how.non_finite": st.sampled_from(["stop", "rollback:2"]),
    "init": st.dictionaries(WORDS, WORDS, max_size=2),
    "schedule": st.sampled_from([{"kind": "Cosine", "floor": 0.25}, {"kind": "OneCycle"}, {"lag": 1}]),
    "rules": st.lists(
        st.fixed_dictionaries({"name": st.sampled_from(["a", "b"]), "lr": NUMBERS}), max_size=3
    ),
    "train.transform.RandomCrop.padding": st.integers(0, 9),
    "train.transform.RandomFlip.p": st.floats(0, 1),
    "host.workers": st.integers(-1, 9),
}
SOME = st.lists(st.sampled_from(sorted(EDITS)), unique=True, max_size=5).flatmap(
    lambda names: st.fixed_dictionaries({name: EDITS[name] for name in names})
)


def dotted(path):
    text = ""
    for name in path:
        text = join(text, name)
    return text


def complaint(work):
    """What a ConfigError says, or None if all went well; any other error goes through."""
    try:
        work()
    except ConfigError as error:
        return str(error)
    return None


def at(path):
    value = RUN
    for name in path:
        value = (
            value[name]
            if isinstance(value, dict)
            else value[int(name)]
            if isinstance(value, tuple)
            else getattr(value, name)
        )
    return value


@pytest.mark.parametrize("path", NODES, ids=dotted)
def test_setting_what_is_there_changes_nothing(path):
    assert change(RUN, {dotted(path): at(path)}) == RUN


@given(SOME)
def test_a_diff_is_empty_exactly_if_nothing_changed(edits):
    run = change(RUN, edits)
    assert (diff(RUN, run) == []) == (run == RUN) == (dump(run) == dump(RUN))
    assert diff(run, run) == []
    assert len(diff(RUN, run)) == len(diff(run, RUN))


@given(SOME)
def test_what_is_dumped_loads_as_the_same_run(edits):
    run = change(RUN, edits)
    with TemporaryDirectory() as folder:
        as_json, as_yaml = Path(folder, "run.json"), Path(folder, "run.yaml")
        as_json.write_text(json.dumps(dump(run)), encoding="utf-8")
        as_yaml.write_text(to_yaml(run), encoding="utf-8")
        assert load(as_json, trust=True) == run
        assert load(as_yaml, trust=True) == run
        assert json.dumps(dump(load(as_json, trust=True))) == json.dumps(dump(run))


@given(SOME, SOME)
def test_edits_of_different_places_can_be_split_up(first, second):
    assume(not set(first) & set(second))
    assert (
        change(change(RUN, first), second)
        == change(RUN, {**first, **second})
        == change(RUN, {**second, **first})
    )
    assert change(change(RUN, first), first) == change(RUN, first), "a change made twice is made once"


@given(st.sampled_from(NODES).map(dotted) | st.text(max_size=20), st.text(max_size=20))
@example("train.transform.+", "")
@example("train.transform.²", "1")
@example("train.transform.99999999999999999999", "null")
@example("rules.+Rule", "{}")
@example("optim.options", "{kind: x}")
@example("optim.options.a", "{kind: x}")
@example("task.net", "{kind: [1]}")
@example("length", "steps:1e400")
@example("seed", "9" * 5000)
@example("optim.lr", "9" * 400)
@example("evals", "{a.b: {}}")
def test_no_setting_is_answered_by_anything_but_a_config_error(path, value):
    said = complaint(lambda: dump(apply(RUN, [f"{path}={value}"])))
    assert said is None or said.startswith("command line: ")


@given(PLAIN, st.sampled_from(NODES).map(dotted))
def test_no_python_value_is_answered_by_anything_but_a_config_error(value, path):
    assert complaint(lambda: dump(change(RUN, {path: value}))) != ""


@given(st.text() | st.text("{}[]:,-'\"#&*!|>%@?\n\t ab1.\\", max_size=40))
def test_no_text_is_read_with_anything_but_a_config_error(text):
    said = complaint(lambda: parse(text, "x.yaml"))
    assert said is None or said.startswith("x.yaml")


@given(PLAIN)
def test_plain_data_goes_through_json_and_yaml(value):
    run = change(RUN, {"optim.options": {"value": value}})
    assert run.optim.options == {"value": value}
    with TemporaryDirectory() as folder:
        for name, text in (("a.json", json.dumps(dump(run), ensure_ascii=False)), ("a.yaml", to_yaml(run))):
            Path(folder, name).write_text(text, encoding="utf-8", newline="")
            found = load(Path(folder, name), trust=True).optim.options["value"]
            assert found == value
            assert repr(found) == repr(value), "of the same types"


@given(st.lists(WORDS.filter(bool), min_size=1, max_size=4))
def test_split_is_the_inverse_of_join(names):
    assume(all(name == name.strip() for name in names))
    assert split(dotted(names)) == tuple(names)


@given(st.sampled_from([path[-1] for path, _, _ in LEAVES if len(path[-1]) > 4]), st.data())
def test_one_wrong_letter_still_finds_the_name(name, data):
    place = data.draw(st.integers(0, len(name) - 1))
    wrong = name[:place] + data.draw(st.sampled_from("xq_")) + name[place + 1 :]
    assume(wrong != name)
    assert name in nearest(wrong, {path[-1] for path, _, _ in LEAVES})
