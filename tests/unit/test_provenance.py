"""Provenance: what is recorded, what is not, and which differences cost the promise of identical bits."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from visloom import provenance
from visloom.provenance import collect, drift, git_state
from visloom.run import How

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def run() -> Any:
    return SimpleNamespace(name="town", seed=3, how=How())


def git(folder: Path, *words: str) -> str:
    """Run git as somebody."""
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder inside a git checkout with one commit."""
    git(tmp_path, "init")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    return tmp_path / "recipes"


def collected(run: Any, **more: Any) -> dict[str, Any]:
    """What collect gives, through JSON."""
    return json.loads(json.dumps(collect(run, ["visloom", "train"], **more), allow_nan=False))


def test_what_is_recorded(run):
    resolved = {
        "device": "cpu",
        "precision": "fp32",
        "threads": 2,
        "start": "fork",
        "workers": 4,
        "world_size": 1,
    }
    found = collected(run, resolved=resolved, data={"train": "abc"})
    assert found["argv"] == ["visloom", "train"]
    assert (found["run"], found["seed"], found["data"]) == ("town", 3, {"train": "abc"})
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"].startswith("3.")
    assert set(found["versions"]) >= {"torchvision", "numpy", "timm", "visloom"}
    assert resolved.items() <= found["execution"].items()
    assert found["execution"]["deterministic"] is True
    assert found["execution"]["device_name"] is None
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    assert found["time"].endswith("+00:00")


def test_no_user_name(run, monkeypatch):
    home = os.path.expanduser("~/somewhere/recipe.py")
    found = collect(run, ["visloom", "train", home, f"--data={home}"])
    assert found["argv"][2:] == ["~/somewhere/recipe.py", "--data=~/somewhere/recipe.py"]
    monkeypatch.setenv("HOME", "/")
    assert collect(run, ["/data"])["argv"] == ["/data"]


@needs_git
def test_git_commit_and_changes(checkout):
    clean = git_state(checkout, time.monotonic() + 5)
    assert clean == {"commit": git(checkout, "rev-parse", "HEAD"), "changes": None}
    (checkout / "mine.py").write_text("x = 2\n")
    dirty = git_state(checkout, time.monotonic() + 5)
    assert dirty["commit"] == clean["commit"]
    assert len(dirty["changes"]) == 64
    (checkout / "mine.py").write_text("x = 3\n")
    assert git_state(checkout, time.monotonic() + 5)["changes"] != dirty["changes"]


@needs_git
def test_no_checkout_no_commit_no_git(tmp_path, checkout, monkeypatch):
    empty = tmp_path / "fresh"
    empty.mkdir()
    git(empty, "init")
    assert git_state(empty, time.monotonic() + 5) is None
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path.parent, time.monotonic() + 5) is None
    assert git_state(tmp_path / "not there", time.monotonic() + 5) is None
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout, time.monotonic() + 5) is None


def test_a_slow_git_is_given_up(tmp_path, monkeypatch, run):
    tool = tmp_path / "git"
    tool.write_text('#!/bin/sh\ncase "$*" in *rev-parse*) echo abc;; *) exec /bin/sleep 20;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert git_state(tmp_path, time.monotonic() + 0.3) == {"commit": "abc", "changes": "not determined"}
    tool.write_text("#!/bin/sh\nexec /bin/sleep 20\n")
    assert git_state(tmp_path, time.monotonic() + 0.1) is None
    assert provenance.GIT_SECONDS < 1


@needs_git
def test_a_checkout_runs_no_code(checkout, tmp_path):
    marker = tmp_path / "ran"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    script.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "diff.evil.command", "diff.evil.textconv"):
        git(checkout, "config", key, str(script))
    (checkout.parent / ".gitattributes").write_text("*.py diff=evil\n")
    (checkout / "mine.py").write_text("x = 2\n")
    assert git_state(checkout, time.monotonic() + 5)["changes"]
    assert not marker.exists()


@needs_git
def test_the_recipe_is_found_in_its_checkout(run, checkout):
    found = collected(run, folder=checkout)
    assert found["code"]["recipe"]["commit"] == git(checkout, "rev-parse", "HEAD")


# -- drift ---------------------------------------------------------------------------------------------------


def edited(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one leaf changed; None as value deletes it."""
    new = copy.deepcopy(base)
    *outer, last = path.split(".")
    place = new
    for key in outer:
        place = place[key]
    place[last] = value
    return new


@pytest.fixture
def base(run) -> dict[str, Any]:
    found = collected(
        run, resolved={"device": "cpu", "precision": "bf16", "workers": 2}, data={"train": "aa"}
    )
    found["code"]["recipe"] = {"commit": "c" * 40, "changes": None}
    return found


def test_nothing_changed(base):
    assert drift(base, copy.deepcopy(base)) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("versions.torch", "9.9", "torch: "),
        ("versions.numpy", "9.9", "numpy: "),
        ("versions.timm", None, "timm: "),
        ("versions.visloom", "9", "visloom: "),
        ("execution.device", "cuda:0", "device: cpu -> cuda"),
        ("execution.threads", 99, " -> 99"),
        ("execution.precision", "fp32", "precision: bf16 -> fp32"),
        ("execution.world_size", 2, "world size: 1 -> 2"),
        ("execution.compile", True, "compile: False -> True"),
        ("execution.deterministic", False, "deterministic: True -> False"),
        ("execution.accumulate", 4, "accumulate: 1 -> 4"),
        ("machine.cpu", "Another", "cpu: "),
        ("machine.instructions", "AVX9", "instructions: "),
        ("data.train", "bb", "data of train: aa -> bb"),
        ("data.extra", "cc", "data of extra: absent -> cc"),
        ("seed", 4, "seed: 3 -> 4"),
        ("code.recipe.commit", "d" * 40, "code of the recipe: cccccccccccc -> dddddddddddd"),
        ("code.recipe.changes", "e" * 64, "cccccccccccc -> cccccccccccc with changes eeeeeeeeeeee"),
        ("code.recipe", None, "code of the recipe: cccccccccccc -> no checkout"),
    ],
)
def test_what_costs_the_promise(base, path, value, says):
    (sentence,) = drift(base, edited(base, path, value))
    assert says in sentence


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("time", "later"),
        ("host", "elsewhere"),
        ("argv", ["visloom", "resume"]),
        ("execution.workers", 9),
        ("execution.start", "spawn"),
        ("machine.cores", 99),
        ("machine.platform", "another kernel"),
        ("versions.python", "3.99"),
    ],
)
def test_what_is_harmless(base, path, value):
    assert drift(base, edited(base, path, value)) == []


def test_gpus_of_one_model_are_equal_and_the_cpu_beside_them_does_not_matter(base):
    old = edited(edited(base, "execution.device", "cuda:0"), "execution.device_name", "H1")
    same = edited(edited(old, "execution.device", "cuda:3"), "machine.cpu", "Another")
    assert drift(old, same) == []
    assert drift(old, edited(same, "execution.device_name", "B2")) == ["device name: H1 -> B2"]


def test_an_older_record_is_unknown_not_equal(base):
    old = copy.deepcopy(base)
    del old["execution"]["world_size"]
    assert drift(old, base) == ["world size: not recorded -> 1"]
    assert drift({}, base)
