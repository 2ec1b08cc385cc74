"""Every leaf of every recipe, spoiled in every way: always a ConfigError with the path and a hint, nothing else."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Any, Literal, get_args

import pytest

from tests.configs import sample
from visloom import slots
from visloom.config import apply, change, dump, load, recipes, to_yaml
from visloom.errors import ConfigError
from visloom.place import join
from visloom.refs import RECIPES
from visloom.run import Run
from visloom.validate import validate


def every_run() -> list[Any]:
    """Return all recipes, by the reference that names each, and the sample of these tests."""
    refs = ["tests.configs:sample"]
    for name in recipes():
        module = importlib.import_module(f"{RECIPES}.{name}")
        for key, value in vars(module).items():
            if inspect.isfunction(value) and value.__annotations__.get("return") in ("Run", Run):
                own = value.__module__ == module.__name__ and not key.startswith("_")
                needs = any(p.default is p.empty for p in inspect.signature(value).parameters.values())
                refs += [f"{name}:{key}"] if own and not needs else []
    return refs


RUNS = every_run()
HELP = ("expected", "did you mean", "write", "has ", "must ", "is missing", "there is no", " is ")


def dotted(path: tuple[str, ...]) -> str:
    text = ""
    for name in path:
        text = join(text, name)
    return text


def typos(path: tuple[str, ...], run: Run) -> Iterator[tuple[str, Any]]:
    """Each leaf with a letter of its last name dropped, doubled, and two exchanged, where that is no other name."""
    head, name = path[:-1], path[-1]
    owner: Any = run
    for part in head:
        owner = (
            owner[part]
            if isinstance(owner, Mapping)
            else owner[int(part)]
            if part.isdigit()
            else getattr(owner, part)
        )
    if name.isdigit() or not hasattr(owner, "__dataclass_fields__"):
        return
    for wrong in (name[:-1], name + name[-1], name[1::-1] + name[2:], name + "_x", name.upper()):
        if wrong and wrong not in slots.hints(type(owner)) and wrong != "kind":
            yield dotted((*head, wrong)), getattr(owner, name)


def wrong_values(hint: Any) -> Iterator[Any]:
    """Values that a slot cannot take, as Python, as a file and as the command line would give them."""
    kinds = slots.members(hint)
    if any(map(slots.is_any, kinds)):
        return
    yield object()
    if not any(map(slots.is_mapping, kinds)):
        yield {"no_such_field": 1, "at_all": 2}
    if str not in kinds:
        yield "nonsense value"
        yield ["nonsense", {"a": 1}]
    if bool not in kinds and any(k in (int, float) for k in kinds):
        yield True
        yield float("nan")
    if float not in kinds:
        yield 1.5
    if type(None) not in kinds:
        yield None
    for kind in kinds:
        if slots.origin(kind) is Literal and str not in kinds:
            for option in get_args(kind):
                yield f"{option}x"
                yield str(option).upper() + "_"
        if getattr(kind, "unit", ""):
            yield from (
                f"{kind.unit[:-1]}:5",
                f"{kind.unit}:-1",
                f"{kind.unit}:0",
                f"{kind.unit}:x",
                f"{kind.unit}",
                5,
            )
            yield from (
                "seconds:5",
                f"{kind.unit}5",
                f"{kind.unit}:",
                ":5",
                f"{kind.unit}:nan",
                f"{kind.unit}:inf",
            )


def assert_helpful(error: ConfigError, path: str) -> None:
    said = str(error)
    assert error.exit_code == 3
    assert path in said, said
    assert any(word in said for word in HELP), said


@pytest.mark.parametrize("ref", RUNS)
def test_every_mistyped_setting_is_answered(ref):
    run, count = load(ref), 0
    for path, _, _ in slots.walk(run):
        for wrong, value in typos(path, run):
            with pytest.raises(ConfigError) as caught:
                change(run, {wrong: value})
            assert_helpful(caught.value, wrong)
            count += 1
    assert count > 200


@pytest.mark.parametrize("ref", RUNS)
def test_every_wrong_value_is_answered(ref):
    run, count = load(ref), 0
    for path, _, hint in slots.walk(run):
        for value in wrong_values(hint):
            if value is None and path[-1].isdigit():
                continue  # removes the item
            with pytest.raises(ConfigError) as caught:
                change(run, {dotted(path): value})
            assert_helpful(caught.value, dotted(path))
            count += 1
    assert count > 300


@pytest.mark.parametrize("ref", RUNS)
def test_every_wrong_word_on_the_command_line_is_answered(ref):
    run, count = load(ref), 0
    for path, _, hint in slots.walk(run):
        for value in wrong_values(hint):
            if isinstance(value, str) or (
                isinstance(value, float | int)
                and not isinstance(value, bool)
                and str not in slots.members(hint)
            ):
                with pytest.raises(ConfigError) as caught:
                    apply(run, [f"{dotted(path)}={value}"])
                assert_helpful(caught.value, dotted(path))
                assert str(caught.value).startswith("command line: ")
                count += 1
    assert count > 100


@pytest.mark.parametrize("field", slots.settable(Run), ids=lambda field: field.name)
def test_a_setting_that_a_file_leaves_out_is_taken_from_its_default_or_asked_for(field, tmp_path):
    data = {key: value for key, value in dump(sample()).items() if key != field.name}
    (tmp_path / "run.json").write_text(json.dumps(data))
    if slots.default(field) is MISSING:
        with pytest.raises(ConfigError, match=rf"run\.json: {field.name}: is missing: Run needs"):
            load(tmp_path / "run.json", trust=True)
    else:
        assert getattr(load(tmp_path / "run.json", trust=True), field.name) == slots.default(field)


@pytest.mark.parametrize("ref", RUNS)
def test_every_option_of_the_optimizer_is_checked(ref):
    run = load(ref)
    for option in run.optim.options:
        with pytest.raises(ConfigError, match="no such option"):
            validate(change(run, {"optim.options": {f"{option}x": run.optim.options[option]}}))
    if run.evals:
        name = next(iter(run.evals))
        for other in run.evals:
            run = change(run, {f"evals.{other}.monitor": None, f"evals.{other}.patience": 0})
        if run.task.classes:
            with pytest.raises(ConfigError, match="reports no 'nonsense'"):
                validate(change(run, {f"evals.{name}.monitor": "max nonsense"}))


@pytest.mark.parametrize("ref", RUNS)
def test_every_recipe_is_valid_and_survives_files(ref, tmp_path):
    run = load(ref)
    validate(run)
    (tmp_path / "run.json").write_text(json.dumps(dump(run)))
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    trust = ref.startswith("tests.")
    assert load(tmp_path / "run.json", trust=trust) == run
    assert load(tmp_path / "run.yaml", trust=trust) == run
    assert dump(load(tmp_path / "run.json", trust=trust)) == dump(run)


def test_the_sample_is_among_the_runs():
    assert load(RUNS[0]) == sample()
