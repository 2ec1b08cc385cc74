"""Recipes: each is a complete value that loads without torch, says in its first lines how it is run, and builds."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import visloom.recipes
from visloom.assemble import check_classes
from visloom.config import dump, load
from visloom.optim import build_optimizer
from visloom.run import Run
from visloom.sample import Sample
from visloom.tasks.classify import Classify

NAMES = sorted(path.stem for path in Path(visloom.recipes.__file__).parent.glob("[!_]*.py"))


def functions(name: str) -> list[Callable[[], Run]]:
    """The recipes of a file, its default first."""
    module = importlib.import_module(f"visloom.recipes.{name}")
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    return [f for f in own if not f.__name__.startswith("_") and not inspect.signature(f).parameters]


ALL = [pytest.param(f, id=f"{name}:{f.__name__}") for name in NAMES for f in functions(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_file_begins_with_the_command_that_runs_it(name: str) -> None:
    module = importlib.import_module(f"visloom.recipes.{name}")
    assert module.__doc__ is not None
    assert f"    visloom train {name}" in module.__doc__
    found = {f.__name__ for f in functions(name)}
    assert name in found  # the default
    for variant in found - {name}:
        assert f"{name}:{variant}" in module.__doc__ or (inspect.getdoc(getattr(module, variant)) or "")


def test_loading_recipes_imports_no_heavy_package() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {NAMES}: importlib.import_module('visloom.recipes.' + name)\n"
        "from visloom.recipes.town import town; town()\n"
        "sys.exit(' '.join({'torch', 'torchvision', 'timm', 'cv2', 'PIL', 'sklearn', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("recipe", ALL)
def test_every_recipe_survives_being_written_down(recipe: Callable[[], Run], tmp_path: Path) -> None:
    run = recipe()
    (tmp_path / "run.json").write_text(json.dumps(dump(run)))
    assert load(tmp_path / "run.json") == run
    for evaluation in run.evals.values():
        if evaluation.monitor is not None and run.task.classes:
            reported = {"loss", *(n for metric in run.task.metrics().values() for n in metric.names)}
            assert evaluation.monitor.name in reported


@pytest.mark.parametrize("name", ["town", "digits"])
def test_recipes_without_a_data_set_build_and_learn_from_a_batch(name: str) -> None:
    import torch

    if name == "digits":
        pytest.importorskip("sklearn")
    run = functions(name)[0]()
    assert isinstance(run.task, Classify)
    torch.manual_seed(0)
    source = run.train.leaves()[0].source
    samples = [source.read(i) for i in range(64)]
    check_classes(run.task, source)
    module = run.task.build().train()
    run.task.fit(module, samples)
    optimizers = build_optimizer(module, run.optim, run.rules)
    batch = run.task.collate(samples, None)
    first = module(batch).terms["cross_entropy"]
    for _ in range(8):
        module(batch).terms["cross_entropy"].backward()
        optimizers.step()
        optimizers.zero_grad()
    assert module(batch).terms["cross_entropy"] < 0.8 * first


def test_the_published_cifar_recipe_is_the_published_one() -> None:
    from visloom.recipes.cifar10 import cifar10, resnet152
    from visloom.schedule import Progress

    run = cifar10()
    assert (run.optim.name, run.optim.lr, run.optim.weight_decay) == ("SGD", 0.1, 1e-4)
    assert dict(run.optim.options) == {"momentum": 0.9}
    assert run.train.batch == 128
    epoch = 391
    rates = [run.schedule(0.1, Progress(e * epoch, 200 * epoch, epoch)) for e in (0, 99, 100, 149, 150, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert isinstance(run.task, Classify)
    assert run.task.normalisation().mean == (125.307, 122.961, 113.8575)
    crop, flip = run.train.leaves()[0].transform
    image = np.full((32, 32, 3), 255, np.uint8)
    moved = [flip(crop(Sample("x", image), key), key).resolve().image for key in range(60)]
    dark = {int((m == 0).all(2).sum()) for m in moved}  # what the padding of four pixels let in
    assert 0 in dark or min(dark) < 32 * 2
    assert max(dark) <= 32 * 32 - 28 * 28
    assert resnet152().task.net.depth == 152  # type: ignore[attr-defined]
