"""What a reference names: recipes, import paths, files, run directories."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

from tests import configs
from tests.configs import sample
from visloom import refs
from visloom.config import dump, load
from visloom.errors import ConfigError
from visloom.run import Run

RECIPE = """
from visloom.run import Run
from visloom.config import change
from tests.configs import sample
def {stem}() -> Run:
    return sample()
def big() -> Run:
    return change({stem}(), {{"train.batch": 256, "optim.lr": 1}})
def sized(n) -> Run:
    return sample()
def nothing():
    return 5
def wrong() -> Run:
    return change(sample(), {{"optim.lrr": 1}})
def crash() -> Run:
    return sample().nonsense
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a recipe of a fresh name; returns the name."""
    stem = f"recipe_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{stem}.py").write_text(RECIPE.format(stem=stem))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield stem
    sys.modules.pop(stem, None)


@pytest.fixture
def shipped(monkeypatch):
    """A recipe that visloom seems to ship, `toys`."""
    module = types.ModuleType("visloom.recipes.toys")
    exec(RECIPE.format(stem="toys"), vars(module))
    monkeypatch.setitem(sys.modules, "visloom.recipes.toys", module)
    monkeypatch.setattr(refs, "recipes", lambda: ["cifar10", "toys"])
    return module


def fails(ref, edits=(), **more):
    with pytest.raises(ConfigError) as caught:
        load(ref, edits, **more)
    return str(caught.value)


def test_a_recipe_by_name(shipped, tmp_path, monkeypatch):
    assert load("toys") == sample()
    assert load("toys:big").train.batch == 256
    assert load("toys:big", ["seed=1"]).seed == 1
    assert load("toys", {"seed": 1}).seed == 1
    assert load("visloom.recipes.toys:big").train.batch == 256
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toys").mkdir()
    assert load("toys") == sample(), "a folder of the same name is not meant"
    (tmp_path / "mine.yaml").write_text("extends: toys:big\nseed: 3")
    run = load("mine.yaml")
    assert (run.seed, run.train.batch) == (3, 256)
    (tmp_path / "mine.yaml").write_text("extends: visloom.recipes.toys:big")
    assert load("mine.yaml").train.batch == 256


def test_default_is_the_second_name_that_is_looked_for(shipped):
    shipped.default = shipped.big
    del shipped.toys
    assert refs._function(shipped, "", refs.Place()) is shipped.big


def test_unknown_recipes_and_functions(shipped):
    assert fails("cifar") == (
        "there is no recipe 'cifar'\n  did you mean cifar10?\n  recipes: cifar10 and toys; or name a .py or "
        ".yaml file, or a run directory"
    )
    assert fails("toys:bigg") == (
        "toys:bigg: toys has no function 'bigg'\n  did you mean big?\n"
        "  its recipes are toys, big, sized, wrong and crash"
    )
    assert fails("toys:sized") == "toys:sized: a recipe takes no arguments, but sized needs n"
    assert fails("toys:nothing") == "toys:nothing: nothing() returned int, expected a Run"


def test_an_import_path(monkeypatch):
    assert load("tests.configs:sample") == sample()
    assert (
        load("tests.configs:sample", ["train.source={kind: 'tests.configs:Toy', size: 5}"]).train.source.size
        == 5
    )
    assert fails("tests.config:sample").startswith("there is no module 'tests.config'")
    assert "no function 'sampel'\n  did you mean sample?" in fails("tests.configs:sampel")
    assert "returned" in fails("tests.conftest:nothing") or "no function" in fails("tests.conftest:nothing")


def test_a_file(mine, tmp_path):
    assert load(f"{mine}.py") == sample()
    assert load(f"./{mine}.py:big").train.batch == 256
    assert load(tmp_path / f"{mine}.py") == sample()
    assert sys.modules[mine].__name__ == mine, "by its stem, so that workers can import it again"
    assert str(tmp_path) in sys.path


def test_what_a_file_does_wrong_is_told_with_its_line(mine, tmp_path):
    file = f"{mine}.py"
    assert (
        fails(f"{file}:wrong")
        == f"{tmp_path / file}:14: optim.lrr: Optim has no setting 'lrr'\n  did you mean optim.lr?"
    )
    assert (
        fails(f"{file}:crash")
        == f"{tmp_path / file}:16: AttributeError: 'Run' object has no attribute 'nonsense'"
    )
    (tmp_path / "syntax_error_recipe.py").write_text("def x(:\n")
    assert (
        fails("syntax_error_recipe.py") == f"{tmp_path}/syntax_error_recipe.py:1: SyntaxError: invalid syntax"
    )
    (tmp_path / "import_error_recipe.py").write_text("\nimport nothing_of_this_name\n")
    assert fails("import_error_recipe.py") == (
        f"{tmp_path}/import_error_recipe.py:2: ModuleNotFoundError: No module named 'nothing_of_this_name'"
    )
    assert fails("missing_recipe.py").startswith("there is no file missing_recipe.py")
    assert f"did you mean {file}?" in fails(f"{mine}s.py")


def test_files_whose_name_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("")
    (tmp_path / "my-recipe.py").write_text("")
    assert fails("json.py").startswith("json.py: the name 'json' belongs to the module ")
    assert fails("my-recipe.py") == (
        "my-recipe.py: 'my-recipe' is no module name\n  rename the file: letters, digits and underscores only"
    )


def test_types_in_python_recipes_are_checked(mine, tmp_path):
    with (tmp_path / f"{mine}.py").open("a") as file:
        file.write(
            "from dataclasses import replace\nfrom visloom.run import Eval, Log\n"
            "def listed() -> Run:\n    return replace(sample(), rules=[], seed=3, init={})\n"
            "def worded() -> Run:\n    return replace(sample(), seed='three')\n"
        )
    assert load(f"{mine}.py:listed").rules == ()
    assert fails(f"{mine}.py:worded") == f"{mine}.py: seed: expected a whole number, got 'three'"


def test_run_directories(tmp_path):
    (tmp_path / "a-001").mkdir()
    (tmp_path / "a-001" / "run.json").write_text(json.dumps(dump(sample())))
    assert load(tmp_path / "a-001", trust=True) == sample()
    assert load(tmp_path / "a-001" / "run.json", ["seed=3"], trust=True).seed == 3
    assert "is no run directory" in fails(tmp_path)
    assert "there is no file" in fails(tmp_path / "b-001")


def test_a_trusted_run_directory_finds_its_own_copy_of_the_recipe(mine, tmp_path, monkeypatch):
    source = (
        "from dataclasses import dataclass\nfrom visloom.schedule import Cosine\n"
        "@dataclass(frozen=True)\nclass Own(Cosine):\n    more: int = 3\n"
    )
    (tmp_path / "run" / "recipe").mkdir(parents=True)
    (tmp_path / "run" / "recipe" / f"own_{mine}.py").write_text(source)
    data = dump(sample())
    data["schedule"] = {"kind": f"own_{mine}:Own", "more": 5}
    (tmp_path / "run" / "run.json").write_text(json.dumps(data))
    assert "may not be imported" in fails(tmp_path / "run")
    assert load(tmp_path / "run", trust=True).schedule.more == 5


def test_edits_must_be_a_list_or_a_mapping():
    with pytest.raises(ConfigError, match="edits are a list of texts or a mapping, got the text 'seed=1'"):
        load("tests.configs:sample", "seed=1")


def test_loading_a_recipe_file_imports_no_torch(mine):
    code = (
        f"import sys\nfrom visloom.config import load\nload('{mine}.py:big', ['schedule=cosine'])\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    path = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=path)


def test_the_sample_is_a_run():
    assert isinstance(configs.sample(), Run)
