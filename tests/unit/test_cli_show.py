"""show and recipes: the tree, what is marked, layers with known costs, the catalog."""

from __future__ import annotations

import json

import pytest

from visloom import show
from visloom.catalog import catalog
from visloom.cli import main
from visloom.config import change, dump, load
from visloom.errors import UsageError
from visloom.refs import recipes


def leaves(value):
    """Every leaf of a dump as the path of its names."""
    if isinstance(value, dict):
        inner = {k: v for k, v in value.items() if k != "kind"}
        return sum(map(leaves, inner.values())) if inner or "kind" in value else 1
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return sum(map(leaves, value))
    return 1


@pytest.mark.parametrize("ref", ["town", "cifar10", "imagenet:modern", "digits:mixed"])
def test_the_tree_shows_every_setting(ref):
    run = load(ref)
    shown = [row for row in show.rows(run) if row.value or not row.name.startswith("-")]
    names = {row.name for row in shown}
    for top in dump(run):
        assert top in names
    text = "\n".join(f"{row.name}: {row.value}" for row in shown)
    assert json.dumps(run.seed) in text and str(run.length) in text
    assert len(shown) >= leaves(dump(run))


def test_changed_values_are_marked_and_defaults_are_not():
    run = change(load("cifar10"), {"how.accumulate": 2, "host.workers": 0})
    rows = {row.name: row for row in show.rows(run)}
    assert rows["accumulate"].changed and rows["accumulate"].default == "1"
    assert rows["workers"].changed and rows["workers"].default == "-1"
    assert not rows["clip"].changed and not rows["timeout"].changed


def test_hostile_names_are_escaped():
    rows = list(show.rows(change(load("town"), {"task.classes": ["a\x1b[2J", "b"]})))
    shown = next(row for row in rows if row.name == "classes")
    assert "\x1b" not in shown.value and "\\x1b" in shown.value


# ---------------------------------------------------------------------------------------------------- network


def test_layers_have_the_parameters_and_operations_of_the_textbook():
    network = show.layers(load("cifar10"))
    first = network.layers[0]
    assert (first.name, first.kind, first.shape) == ("net.conv1", "Conv2d", (1, 64, 32, 32))
    assert first.own == 3 * 64 * 9
    assert first.flops == 2 * 32 * 32 * 64 * 27
    head = next(layer for layer in network.layers if layer.kind == "Linear")
    assert (head.own, head.flops) == (512 * 10 + 10, 2 * 512 * 10)
    assert network.parameters == sum(layer.own for layer in network.layers) == 11_173_962
    assert network.flops == sum(layer.flops for layer in network.layers)
    assert network.size == (1, 32, 32, 3)


def test_operations_of_several_views_are_said_to_be_those_of_all():
    one = show.layers(change(load("town"), {"task.tta": "none"}))
    two = show.layers(change(load("town"), {"task.tta": "mirror"}))
    assert two.flops == 2 * one.flops > 0
    assert not any("passes" in note for note in one.notes)
    assert any("takes 2 passes of the network" in note for note in two.notes)


def test_missing_data_are_stood_in_for_and_said(tmp_path):
    run = change(load("cifar10"), {"host.data": str(tmp_path)})
    notes = show.layers(run).notes
    assert any(str(tmp_path) in note for note in notes) and any("10 of them are assumed" in n for n in notes)
    assert show.layers(load("town")).notes == []


def test_pretrained_weights_are_not_fetched_to_show_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = change(load("folder"), {"task.net.pretrained": True, "task.net.name": "resnet10t"})
    assert show.layers(run).parameters > 4_000_000


# ------------------------------------------------------------------------------------------------- the verbs


def test_show_write_makes_a_recipe_that_is_the_same_run(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    assert main(["show", "cifar10", "optim.lr=0.05", "--write", str(file)]) == 0
    assert load(file) == change(load("cifar10"), {"optim.lr": 0.05})
    assert f"visloom train {file}" in capsys.readouterr().out
    assert main(["show", "cifar10", "--write", str(file)]) == UsageError.exit_code
    assert "exists already" in capsys.readouterr().err


def test_show_diff_lists_only_what_differs(capsys):
    assert main(["show", "cifar10", "--diff", "cifar10:resnet50"]) == 0
    assert capsys.readouterr().out == "task.net.depth: 18 -> 50\n"
    assert main(["show", "cifar10", "--diff", "cifar10"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_show_fits_80_columns(capsys):
    assert main(["show", "town", "--model"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and any("parameters" in line for line in lines)


def test_the_catalog_names_recipes_that_load():
    entries = catalog()
    assert {entry.ref.partition(":")[0] for entry in entries} == set(recipes())
    for entry in entries:
        assert entry.about, entry.ref
        load(entry.ref)
