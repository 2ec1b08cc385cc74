"""Security: what a stranger's checkpoint says is never imported; what a stranger's file is called is only a name."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.lives import OFF, only
from tests.small import small_run
from tests.tiny import RECIPE
from visloom.bundle import prepare
from visloom.checkpoint import Checkpoints
from visloom.cli import main
from visloom.drive import resume, train
from visloom.errors import VisloomError
from visloom.run import Save
from visloom.units import Steps

HOSTILE = "hostile_module_of_a_checkpoint"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported, and one when it is called."""
    folder = tmp_path / "trap"
    folder.mkdir()
    (folder / f"{HOSTILE}.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'imported')!r})\n"
        f"def f(*a, **k): os.mkdir({str(tmp_path / 'called')!r})\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield tmp_path
    sys.modules.pop(HOSTILE, None)


NAMES = [f"{HOSTILE}:f", f"{HOSTILE}.f", "os:system", "builtins.exec"]


@pytest.mark.parametrize(
    "place", ["ledger", "optim", "extra", "run", "rules", "meter", "unknown", "everything"]
)
def test_callable_names_in_the_json_of_a_checkpoint_are_text(trap, place):
    """A forged checkpoint whose manifest is right: it is refused, or its names stay names."""
    directory = train(
        small_run(trap / "runs", save=Save(every=Steps(8)), evals={}), told=OFF, drive=_half
    ).directory
    store = Checkpoints(directory / "checkpoints")
    state = store.load()
    for name in NAMES:
        call = {
            "kind": name,
            "_instantiator": name,
            "_target_": name,
            "target": name,
            "class_path": name,
            "args": ["x"],
        }
        for key in state.data if place == "everything" else [place]:
            held = state.data.get(key)
            state.data[key] = (
                {**held, **call}
                if isinstance(held, dict)
                else [*held, call]
                if isinstance(held, list)
                else call
            )
    prepare(state)
    store.save(state, wait=True)
    assert store.verify(state.step) == ""
    with suppress(VisloomError, TypeError, KeyError, ValueError, AttributeError):  # refused, or not
        resume(directory, trust=True, told=OFF)
    assert not (trap / "imported").exists() and not (trap / "called").exists()
    assert HOSTILE not in sys.modules


def _half(launch) -> None:
    from visloom.drive import turns

    for step in turns(launch):
        if step.index == 8:
            break


def test_the_trap_works(trap):
    __import__(HOSTILE).f()
    assert (trap / "imported").exists() and (trap / "called").exists()


# --------------------------------------------------------------------------------------------------- hostile names


ESCAPE = "\x1b[31mred\x1b]0;title\x07"
FILES = [
    ESCAPE + ".png",
    "<script>alert(1)<script>.png",
    "--trust.png",
    "-rf.png",
    "two\nlines.png",
    "\u202egnp.exe.png",
    "x" * 200 + ".png",
    "$(touch ran).png",
]
RAW = b"not\xffutf8\xfe.png"
CLASSES = ["-dash", "<b>bold<b>", "a\x1b[1mb"]


@pytest.fixture
def world(tmp_path) -> Path:
    """Pictures under hostile names in folders (classes) of hostile names, and a recipe for them."""
    draws, number = np.random.default_rng(0), 0
    for part in ("train", "val"):
        for shade, label in enumerate(CLASSES):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for name in FILES if part == "train" else [*FILES[:4]]:
                image = draws.integers(0, 90, (16, 16, 3)).astype(np.uint8)
                image[..., shade] += 120
                Image.fromarray(image).save(folder / name)
                number += 1
    with open(os.fsencode(tmp_path / "data" / "val" / CLASSES[0]) + b"/" + RAW, "wb") as file:
        Image.fromarray(image).save(file, "PNG")
    recipe = tmp_path / "tiny.yaml"
    text = RECIPE.replace("report: false, images: 0", "report: true, images: 4").replace(
        "epochs:2", "epochs:1"
    )
    recipe.write_text(f"{text}\nhost.data: {tmp_path / 'data'}\nhost.out: {tmp_path / 'runs'}\n")
    return tmp_path


@pytest.mark.nightly
def test_hostile_names_of_files_and_classes_are_only_names(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    outside = {"data", "tiny.yaml", "runs", "out", "away"}
    assert main(["inspect-data", "tiny.yaml"]) == 0, capsys.readouterr()
    assert main(["train", "tiny.yaml"]) == 0, capsys.readouterr()
    directory = only(world / "runs")
    pictures = world / "data" / "val" / CLASSES[0]
    assert main(["predict", str(directory), "--out", "out", "--", str(pictures)]) == 0, capsys.readouterr()
    said = capsys.readouterr()
    for text in (said.out, said.err, (directory / "log.txt").read_text(encoding="utf-8")):
        assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    for line in (directory / "log.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line)
    for page in [directory / "report.html", *(world / "out").glob("*.html")]:
        html = page.read_text(encoding="utf-8")
        assert "<script>alert" not in html and "<b>bold" not in html and "\x1b" not in html
    written = {p.name for p in world.iterdir() if not p.name.startswith("inspect")}
    assert written <= outside, "something was written elsewhere"
    assert not list(world.rglob("ran"))
