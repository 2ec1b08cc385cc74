"""Where a run came from: its recipe's own loop and classes, the copy, and that nothing runs unasked."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from visloom import origin
from visloom.errors import ConfigError, ContractError, DataError
from visloom.rundir import RunDir


@pytest.fixture
def module(tmp_path):
    """Writes a Python file under a name of its own; it is forgotten after the test."""
    made = []

    def write(text, name="own", folder=tmp_path):
        stem = f"{name}_{abs(hash(str(tmp_path))) % 10**8}"
        made.append(stem)
        file = folder / f"{stem}.py"
        folder.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    path = list(sys.path)
    yield write
    sys.path[:] = path
    for stem in made:
        sys.modules.pop(stem, None)


@pytest.fixture
def directory(tmp_path):
    made = RunDir(tmp_path / "runs" / "own-001")
    made.path.mkdir(parents=True)
    return made


def launch(directory, first=True):
    return SimpleNamespace(directory=directory, world=SimpleNamespace(first=first))


LOOP = "def drive(launch):\n    launch.marks.append(__file__)\n"


# ---------------------------------------------------------------------------------------------- finding a loop


def test_a_python_recipe_with_a_drive_is_found(module):
    file = module(LOOP)
    for ref in (str(file), f"{file}:big"):
        assert origin.loop_of(ref).__module__ == file.stem
        assert origin.files_of(ref) == [file]


def test_a_settings_file_uses_the_loop_of_what_it_extends(module, tmp_path):
    file = module(LOOP)
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"extends: {file.name}:big\n")
    second.write_text("extends: first.yaml\n")
    assert origin.files_of(str(second)) == [second, first, file]
    assert origin.loop_of(str(second)).__module__ == file.stem


@pytest.mark.parametrize("ref", ["cifar10", "cifar10:resnet50", "visloom.recipes.town:large"])
def test_recipes_of_visloom_have_the_canonical_loop_and_no_files(ref):
    from visloom.config import load

    load(ref)
    assert origin.loop_of(ref) is None and origin.files_of(ref) == []


def test_a_recipe_without_a_drive_has_none(module):
    assert origin.loop_of(str(module("def default():\n    return 1\n"))) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drive = 3\n", "drive is int, expected a function"),
        ("def drive():\n    pass\n", "called with one argument"),
        ("def drive(launch, more):\n    pass\n", "called with one argument"),
    ],
)
def test_a_drive_that_cannot_be_called_is_a_contract_error(module, text, said):
    file = module(text)
    with pytest.raises(ContractError, match=said) as caught:
        origin.loop_of(str(file))
    assert str(file) in str(caught.value)


# ------------------------------------------------------------------------------------------- in the directory


def test_the_recipe_is_copied_before_the_loop_runs(module, directory):
    file = module(LOOP)
    seen = []
    loop = origin.recorded(
        lambda launch: seen.append(sorted(p.name for p in directory.recipe.iterdir())), [file], True
    )
    loop(launch(directory))
    assert seen == [[file.name, "origin.json"]] or seen == [sorted([file.name, "origin.json"])]
    assert (directory.recipe / file.name).read_text() == LOOP
    found = origin.recall(directory)
    assert found.file == file and found.loop and found.copy == directory.recipe / file.name


def test_modules_beside_the_recipe_are_copied_with_it(module, directory, tmp_path):
    beside = module("WIDTH = 3\n", name="beside")
    package = tmp_path / f"parts_{beside.stem}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("DEPTH = 4\n")
    (tmp_path / "not_imported.py").write_text("")
    text = f"from {beside.stem} import WIDTH\nfrom {package.name}.deep import DEPTH\n{LOOP}"
    file = module(text)
    loop = origin.loop_of(str(file))
    try:
        origin.recorded(lambda launch: None, origin.files_of(str(file)), True)(launch(directory))
    finally:
        for name in [n for n in sys.modules if n.startswith(package.name)]:
            del sys.modules[name]
    assert loop is not None
    copies = {p.relative_to(directory.recipe).as_posix() for p in directory.recipe.rglob("*.py")}
    assert copies == {file.name, beside.name, f"{package.name}/__init__.py", f"{package.name}/deep.py"}


def test_only_the_first_process_copies(module, directory):
    origin.recorded(lambda launch: None, [module(LOOP)], True)(launch(directory, first=False))
    assert not directory.recipe.exists()


def test_a_run_without_a_file_of_its_own_recalls_nothing(directory, tmp_path):
    assert origin.recall(directory) is None
    yaml = tmp_path / "a.yaml"
    yaml.write_text("extends: town\n")
    origin.recorded(lambda launch: None, [yaml])(launch(directory))
    assert origin.recall(directory) is None
    assert (directory.recipe / "a.yaml").exists()


def test_why_a_loop_ended_is_in_the_log(directory, caplog):
    def data(launch):
        raise DataError("sample \x1b 7 is bad")

    def bug(launch):
        raise KeyError("x")

    for loop, error in ((data, DataError), (bug, KeyError)):
        with pytest.raises(error):
            origin.recorded(loop)(launch(directory))
    first, second = caplog.records
    assert first.getMessage() == "sample \\x1b 7 is bad" and first.exc_info is None
    assert second.exc_info is not None and second.told


# ---------------------------------------------------------------------------------------------- going on with it


@pytest.fixture
def driven(module, directory):
    """A run directory that was trained by a loop of its own."""
    file = module("raise RuntimeError('this code must not run')\n")
    directory.recipe.mkdir()
    (directory.recipe / file.name).write_text(file.read_text())
    note = {"files": [str(file)], "code": {"file": str(file), "sha256": origin._sha256(file), "drive": True}}
    (directory.recipe / "origin.json").write_text(json.dumps(note))
    return file


def again(directory, **more):
    more = {"trust": False, "file": None, "say": lambda text: None, **more}
    return origin.loop_again(directory, **more)


def test_opening_a_run_never_runs_its_code(driven, directory):
    with pytest.raises(ConfigError) as caught:
        again(directory)
    said = str(caught.value)
    assert str(driven) in said and "--trust" in said and "--drive FILE" in said
    assert driven.stem not in sys.modules


def test_trust_uses_the_file_while_it_is_unchanged(module, directory):
    file = module(LOOP)
    origin.recorded(lambda launch: None, [file], True)(launch(directory))
    assert again(directory, trust=True).__globals__["__file__"] == str(file)


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_trust_uses_the_copy_once_the_file_has_changed(module, directory, change):
    file = module(LOOP)
    origin.recorded(lambda launch: None, [file], True)(launch(directory))
    file.write_text("x = 1\n") if change == "edit" else file.unlink()
    told = []
    loop = again(directory, trust=True, say=told.append)
    assert loop.__globals__["__file__"] == str(directory.recipe / file.name)
    assert len(told) == 1 and str(file) in told[0]


def test_another_file_may_be_named(driven, directory, module):
    file = module(LOOP, name="other")
    assert again(directory, file=str(file)).__module__ == file.stem
    with pytest.raises(ConfigError, match="no such file"):
        again(directory, file=str(file.parent / "gone.py"))


def test_code_that_is_gone_is_said(driven, directory):
    driven.unlink()
    (directory.recipe / driven.name).unlink()
    with pytest.raises(ConfigError, match="no copy"):
        again(directory, trust=True)


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"code": 3}', '{"code": {"file": 3, "sha256": "", "drive": true}}']
)
def test_a_damaged_note_is_a_config_error(directory, note):
    directory.recipe.mkdir()
    (directory.recipe / "origin.json").write_text(note)
    with pytest.raises(ConfigError, match="damaged"):
        origin.recall(directory)


def test_a_branch_takes_the_code_along(module, directory):
    file = module(LOOP)
    origin.recorded(lambda launch: None, [file], True)(launch(directory))
    assert origin.code_files(directory, None, trust=True, new=True) == [file]
    assert origin.code_files(directory, None, trust=True, new=False) == []
    assert origin.code_files(directory, None, trust=False, new=True) == []
    assert origin.code_files(directory, str(file), trust=True, new=False) == [file]
