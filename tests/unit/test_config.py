"""change, load, dump, diff: what they do. Errors are in test_config_errors.py, laws in tests/property."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.configs import Mine, Toy, sample
from visloom import kinds
from visloom.config import apply, change, diff, dump, identity, load, recipes, to_yaml
from visloom.data.transforms import CenterCrop, Invert, RandomCrop, RandomErasing, RandomFlip, Resize
from visloom.errors import ConfigError
from visloom.run import Clip, Ema, Eval, Optim, Rule
from visloom.schedule import Cosine, FlatCosine, OneCycle, Poly, Step, Warmup
from visloom.stream import Ordered
from visloom.tasks.classify import Custom, ResNetCifar, Timm
from visloom.units import Epochs, Monitor, NonFinite, Steps

CROP, FLIP = sample().train.transform


def names(run):
    return [type(item).__name__ for item in run.train.transform]


# --- one edit


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("optim.lr", 0.02, 0.02),
        ("optim.lr", 1, 1.0),
        ("optim.lr", "1e-3", 1e-3),
        ("length", "epochs:50", Epochs(50)),
        ("length", Steps(7), Steps(7)),
        ("evals.val.monitor", "min loss", Monitor("min", "loss")),
        ("how.non_finite", "rollback:3", NonFinite("rollback", 3)),
        ("save.every", None, None),
        ("how.ema", Ema(decay=0.9), Ema(decay=0.9)),
        ("how.ema.decay", 0.9, Ema(decay=0.9)),
        ("how.clip.norm", 2, Clip(norm=2.0)),
        ("how.clip", {"value": 1}, Clip(value=1.0)),
        ("task.topk", [1, 5], (1, 5)),
        ("optim.options.momentum", 0.95, {"momentum": 0.95, "nesterov": True}),
        ("optim.options.dampening", 0.1, {"momentum": 0.9, "nesterov": True, "dampening": 0.1}),
        ("optim.options", {"momentum": 0.5}, {"momentum": 0.5}),
        ("optim.options", {}, {}),
        ("init.net", "x.pth", {"net": "x.pth"}),
        ("init.net.backbone", "x.pth", {"net.backbone": "x.pth"}),
        ('init."net.backbone"', "x.pth", {"net.backbone": "x.pth"}),
        ("schedule.inner.floor", 0.1, 0.1),
        ("train.source", {"limit": 10}, Toy(limit=10)),
        ("train.source.split", "head:0.9", None),
        ("rules.0.kind", "bias", None),
    ],
)
def test_change_sets_one_value(path, value, expected):
    run = change(sample(), {path: value})
    found = run
    for name in ("optim.options" if path.startswith("optim.options") else path).replace('"', "").split("."):
        if isinstance(found, Clip | Ema) or name in ("net", "backbone"):
            continue
        found = (
            found[int(name)]
            if name.isdigit()
            else found[name]
            if isinstance(found, dict)
            else getattr(found, name)
        )
    assert str(found) == str(value) if expected is None and value is not None else found == expected
    assert diff(sample(), run), "the change is told"


def test_a_change_shares_what_it_does_not_touch():
    old = sample()
    new = change(old, {"optim.lr": 0.5})
    assert new.train is old.train
    assert new.task is old.task
    assert new.optim.options is old.optim.options
    assert change(old, {"optim.lr": 0.1}).optim is old.optim, "an edit that changes nothing makes nothing new"
    assert change(old, {}) is old


def test_edits_of_one_object_are_applied_together():
    run = apply(sample(), ["schedule.kind=Step", "schedule.every=epochs:30"])
    assert run.schedule == Step(Epochs(30))
    assert apply(sample(), ["schedule.every=epochs:30", "schedule.kind=Step"]) == run, "in any order"
    clip = change(sample(), {"how.clip.norm": 1})
    assert change(clip, {"how.clip.norm": None, "how.clip.value": 2}).how.clip == Clip(value=2.0)


def test_the_later_of_two_edits_counts():
    assert apply(sample(), ["optim.lr=1", "optim.lr=2"]).optim.lr == 2
    assert apply(sample(), ["optim.lr=1", "optim={lr: 3}"]).optim.lr == 3
    whole = change(sample(), {"optim": Optim(name="Adam"), "optim.lr": 0.5})
    assert whole.optim == Optim(name="Adam", lr=0.5), "an edit after a whole value goes into it"


# --- kinds


@pytest.mark.parametrize("text", ["OneCycle", "one_cycle", "onecycle", "visloom.schedule:OneCycle"])
def test_short_names_and_import_paths_of_kinds(text):
    assert apply(sample(), [f"schedule={text}"]).schedule == OneCycle()
    assert apply(sample(), [f"schedule.kind={text}"]).schedule == OneCycle()
    assert change(sample(), {"schedule": {"kind": text, "div": 10}}).schedule == OneCycle(div=10.0)
    assert change(sample(), {"momentum": {"kind": text}}).momentum == OneCycle()


def test_a_class_or_an_object_is_a_kind_too():
    assert change(sample(), {"schedule": OneCycle}).schedule == OneCycle()
    assert change(sample(), {"schedule.kind": OneCycle}).schedule == OneCycle()
    assert change(sample(), {"schedule": Poly(0.9)}).schedule == Poly(0.9)


def test_a_new_kind_keeps_the_fields_that_both_have():
    poly = change(sample(), {"schedule": Poly(0.9, lag=1, floor=0.01)})
    assert apply(poly, ["schedule.kind=cosine"]).schedule == Cosine(lag=1, floor=0.01)
    assert apply(poly, ["schedule.kind=cosine", "schedule.floor=0"]).schedule == Cosine(lag=1)
    assert apply(sample(), ["train.transform.RandomCrop.kind=CenterCrop"]).train.transform[0] == CenterCrop(
        size=32
    )


def test_a_whole_value_with_a_kind_keeps_nothing():
    poly = change(sample(), {"schedule": Poly(0.9, lag=1, floor=0.01)})
    assert apply(poly, ["schedule=cosine"]).schedule == Cosine()
    assert apply(poly, ["schedule={kind: cosine, lag: 2}"]).schedule == Cosine(lag=2)
    assert apply(poly, ["schedule={kind: poly, lag: 2}"]).schedule == Poly(0.9, lag=2)
    assert apply(poly, ["schedule={lag: 2}"]).schedule == Poly(0.9, lag=2, floor=0.01), (
        "an edit, without a kind"
    )
    with pytest.raises(ConfigError, match=r"RandomCrop\.size: is missing"):
        apply(sample(), ["train.transform.RandomCrop={kind: CenterCrop}"])


def test_fields_of_the_same_name_and_another_meaning_are_not_kept():
    step = change(sample(), {"schedule": Step(Epochs(2))})
    assert apply(step, ["task.net=Timm", "task.net.name=resnet18"]).task.net == Timm("resnet18")
    flat = change(sample(), {"schedule": FlatCosine(start=0.5, lag=1)})
    warm = apply(flat, ["schedule.kind=Warmup", "schedule.inner=Cosine", "schedule.length=steps:5"])
    assert warm.schedule == Warmup(Cosine(), Steps(5), lag=1)
    with pytest.raises(ConfigError, match=r"schedule\.gamma: is missing"):
        apply(step, ["schedule.kind=Exp"])


def test_kind_is_an_ordinary_field_where_a_class_has_one():
    run = apply(sample(), ["rules.1.kind=conv"])
    assert run.rules[1] == Rule(kind="conv", weight_decay=0.0)
    assert apply(sample(), ["rules.+={kind: bias, frozen: true}"]).rules[2] == Rule(kind="bias", frozen=True)


def test_renamed_kinds_still_load(monkeypatch):
    monkeypatch.setitem(kinds.RENAMED, "visloom.old:Decline", "visloom.schedule:OneCycle")
    monkeypatch.setitem(kinds.RENAMED, "Decline", "OneCycle")
    assert apply(sample(), ["schedule=visloom.old:Decline"]).schedule == OneCycle()
    assert apply(sample(), ["schedule=Decline"]).schedule == OneCycle()


def test_every_short_name_that_a_dump_uses_is_found_again():
    for paths in kinds.known().values():
        for path in paths:
            cls = kinds.imported(path, kinds.Place())
            assert kinds.find(kinds.short(cls), (), kinds.Place()) is cls


# --- lists


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (["train.transform.RandomCrop.padding=2"], (RandomCrop(size=32, padding=2), FLIP)),
        (["train.transform.random_crop.padding=2"], (RandomCrop(size=32, padding=2), FLIP)),
        (["train.transform.0.padding=2"], (RandomCrop(size=32, padding=2), FLIP)),
        (["train.transform.-2.padding=2"], (RandomCrop(size=32, padding=2), FLIP)),
        (["train.transform.RandomCrop=null"], (FLIP,)),
        (["train.transform.1=null"], (CROP,)),
        (["train.transform.0=null", "train.transform.0=null"], ()),
        (["train.transform.RandomCrop={kind: Resize, size: 32}"], (Resize(size=32), FLIP)),
        (["train.transform.RandomFlip=Invert"], (CROP, Invert())),
        (["train.transform.+=Invert"], (CROP, FLIP, Invert())),
        (["train.transform.+={kind: RandomErasing, p: 0.2}"], (CROP, FLIP, RandomErasing(p=0.2))),
        (["train.transform.+=[Invert, {kind: Resize, size: 8}]"], (CROP, FLIP, Invert(), Resize(size=8))),
        (["train.transform.+=Invert", "train.transform.Invert.p=1"], (CROP, FLIP, Invert(p=1.0))),
        (["train.transform.+0=Invert"], (Invert(), CROP, FLIP)),
        (["train.transform.+RandomFlip=Invert"], (CROP, Invert(), FLIP)),
        (["train.transform.+1=Invert"], (CROP, Invert(), FLIP)),
        (["train.transform.RandomCrop+=Invert"], (CROP, Invert(), FLIP)),
        (["train.transform.RandomFlip+=Invert"], (CROP, FLIP, Invert())),
        (["train.transform=[]"], ()),
        (["train.transform=[Invert]"], (Invert(),)),
        (["train.transform=[]", "train.transform.+=Invert"], (Invert(),)),
        (["train.transform={+0: Invert, RandomFlip: null}"], (Invert(), CROP)),
    ],
)
def test_lists_are_edited(edits, expected):
    assert apply(sample(), edits).train.transform == expected


def test_items_are_called_by_their_own_name_too():
    run = change(sample(), {"rules.+": [{"name": "head", "lr": 10}]})
    assert apply(run, ["rules.head.lr=5"]).rules[2].lr == 5
    call = 'train.transform.+={kind: V2, target: "torchvision.transforms.v2:GaussianBlur", kwargs: {kernel_size: 3}}'
    blurred = apply(sample(), [call, "train.transform.GaussianBlur.kwargs.kernel_size=5"])
    assert blurred.train.transform[2].kwargs["kernel_size"] == 5


def test_the_guide_is_true():
    guide = (Path(__file__).parents[2] / "docs" / "config.md").read_text()
    table = guide.partition("## Lists")[2].partition("In a file")[0]
    rows = [
        re.findall("`([^`]+)`", line.rpartition(" | ")[2])
        for line in table.split("\n")
        if line.endswith("` |")
    ]
    settings = [setting for row in rows for setting in row]
    assert len(settings) == 11
    for setting in settings:
        assert diff(sample(), apply(sample(), [setting])), setting


def test_items_of_plain_lists():
    run = apply(sample(), ["task.classes.1=cow", "task.classes.+=yak", "task.classes.+0=ant"])
    assert run.task.classes == ("ant", "cat", "cow", "emu", "fox", "gnu", "hen", "yak")
    assert apply(sample(), ["task.classes.2=null"]).task.classes == ("cat", "dog", "fox", "gnu", "hen")


def test_mappings_of_objects_are_merged_and_entries_removed():
    run = change(
        sample(), {"evals": {"val": {"patience": 3}, "test": Eval(stream=Ordered(source=Toy(), batch=5))}}
    )
    assert list(run.evals) == ["val", "test"]
    assert run.evals["val"].patience == 3
    assert run.evals["val"].monitor == Monitor("max", "accuracy")
    assert list(apply(run, ["evals.val=null"]).evals) == ["test"]


# --- dump, yaml, diff


def test_dump_load_dump_is_the_identity(tmp_path):
    run = sample()
    file = tmp_path / "run.json"
    file.write_text(json.dumps(dump(run)))
    again = load(file, trust=True)
    assert again == run
    assert dump(again) == dump(run)
    assert json.dumps(dump(again)) == json.dumps(dump(run)), "in the same order"
    assert load(tmp_path, trust=True) == run, "a run directory is its run.json"


def test_yaml_is_short_and_loads_as_the_same_run(tmp_path):
    run = sample()
    text = to_yaml(run)
    assert "kind: RandomCrop" in text
    assert "length: epochs:10" in text
    (tmp_path / "mine.yaml").write_text(text)
    assert load(tmp_path / "mine.yaml", trust=True) == run


@pytest.mark.parametrize(
    "word", ["1e-3", "1_000", "007", "null", "~", "None", "yes", "no", "on", "true", "12", "1.5", "", " a ", "[x]",
             "a: b", "# c", "'q'", "0x1f", "2001-01-01", "1:30", "=", "<<", "é\u2028\x7f😀", "a\nb", "-", "*a", "!t"]
)  # fmt: skip
def test_no_text_changes_on_its_way_through_a_file(tmp_path, word):
    run = change(
        sample(), {"optim.options": {"word": word, word or "empty": 1}, "task.net": Timm(word or "x")}
    )
    (tmp_path / "run.yaml").write_text(to_yaml(run), encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps(dump(run), ensure_ascii=False), encoding="utf-8")
    assert load(tmp_path / "run.yaml", trust=True) == run
    assert load(tmp_path / "run.json", trust=True) == run


def test_the_dump_names_kinds_by_import_path_only_where_there_is_a_choice():
    data = dump(sample())
    assert data["schedule"]["kind"] == "visloom.schedule:Warmup"
    assert data["task"]["kind"].endswith(":Classify")
    assert data["train"]["source"]["kind"] == "tests.configs:Toy"
    assert "kind" not in data["optim"]
    assert data["rules"][0]["kind"] == "any", "the field of a rule, not the name of a class"
    assert data["evals"]["val"]["monitor"] == "max accuracy"
    assert type(dump(change(sample(), {"optim": replace(sample().optim, lr=1)}))["optim"]["lr"]) is float


def test_identity_leaves_the_host_out():
    other = change(sample(), {"host.device": "cpu", "host.workers": 3})
    assert dump(other) != dump(sample())
    assert identity(other) == identity(sample())
    assert identity(change(sample(), {"seed": 1})) != identity(sample())


def test_what_cannot_be_written_is_refused_with_its_path():
    run = change(sample(), {"optim.options.f": len})
    with pytest.raises(
        ConfigError, match=r"optim\.options\.f: cannot be written to a file: builtin_function"
    ):
        dump(run)

    @dataclass(frozen=True)
    class Local(Cosine):
        pass

    with pytest.raises(ConfigError, match="inside a function"):
        dump(replace(sample(), schedule=Local()))


@pytest.mark.parametrize(
    ("edits", "lines"),
    [
        ([], []),
        (["optim.lr=0.02"], ["optim.lr: 0.1 -> 0.02"]),
        (["length=steps:9", "seed=3"], ["length: epochs:10 -> steps:9", "seed: 0 -> 3"]),
        (["optim.options={momentum: 0.9}"], ["optim.options.nesterov: true -> (none)"]),
        (["how.clip.norm=1"], ["how.clip: null -> Clip(norm=1.0, value=null, norm_type=2.0)"]),
        (["train.transform.RandomCrop.padding=2"], ["train.transform.RandomCrop.padding: 4 -> 2"]),
        (["train.transform.RandomFlip=null"], ["train.transform: - RandomFlip(p=0.5, direction=horizontal) (item 1)"]),
        (["train.transform.+1=Invert"], ["train.transform: + Invert(p=0.5) (item 1)"]),
        (["train.transform.+1=Invert", "train.transform.RandomFlip.p=1"],
         ["train.transform: + Invert(p=0.5) (item 1)", "train.transform.RandomFlip.p: 0.5 -> 1.0"]),
        (["momentum=constant"], ["momentum: null -> Constant()"]),
        (["task.topk=[1, 2]"], ["task.topk: [1] -> [1, 2]"]),
        (["rules.0.lr=3"], ["rules.0.lr: 2.0 -> 3.0"]),
        (["init.net=a.pth"], ["init.net: (none) -> a.pth"]),
    ],
)  # fmt: skip
def test_diff_is_one_line_per_change(edits, lines):
    assert diff(sample(), apply(sample(), edits)) == lines


def test_a_diff_tells_types_apart_inside_free_data():
    one, other = (change(sample(), {"optim.options": {"a": value}}) for value in ((1, "x"), ("1", "x")))
    assert diff(one, other) == ["optim.options.a: (1, 'x') -> ('1', 'x')"]


def test_the_first_part_of_a_diff_line_is_a_path_that_can_be_edited():
    run = apply(sample(), ["rules.0.lr=3", "train.transform.RandomCrop.padding=1", "optim.lr=1"])
    for line in diff(sample(), run):
        path, _, values = line.partition(": ")
        assert diff(sample(), apply(sample(), [f"{path}={values.split(' -> ')[1]}"])) == [line]


# --- types that users write


def test_a_class_of_ones_own():
    run = change(sample(), {"schedule": {"kind": "tests.configs:Mine", "pairs": [[1, 2]], "words": ["a"]}})
    assert run.schedule == Mine(pairs=((1, 2.0),), words=["a"])
    run = apply(
        run, ["schedule.inner.a=[1, 2]", "schedule.inner.a.0=5", "schedule.extra={a: [1, x]}"], trust=True
    )
    assert run.schedule.inner == {"a": (5, 2)}
    assert run.schedule.extra == {"a": (1, "x")}
    for text, value in (("3", 3), ("x", "x"), ("[3, 4]", (3, 4)), ("'3'", "3")):
        assert apply(run, [f"schedule.either={text}"]).schedule.either == value
    run = apply(run, ["schedule.file=a/b.txt"])
    assert run.schedule.file == Path("a/b.txt")
    assert dump(run)["schedule"]["kind"] == "tests.configs:Mine"
    assert dump(run)["schedule"]["file"] == str(Path("a/b.txt"))


def test_a_net_of_ones_own_is_called_by_text():
    run = apply(
        sample(),
        ["task.net=Custom", "task.net.call=timm:create_model", "task.net.call.kwargs.model_name=vgg11"],
    )
    assert run.task.net == Custom(kinds_call("timm:create_model", model_name="vgg11"))


def kinds_call(target, **kwargs):
    from visloom.run import Call

    return Call(target, kwargs)


def test_python_is_checked_and_converted_when_it_is_loaded():
    lax = replace(
        sample(),
        optim=Optim(lr=1, options={"betas": [0.9, 0.99]}),
        train=replace(sample().train, transform=[CROP]),
    )
    run = change(lax, {"optim": lax.optim, "train": lax.train})
    assert type(run.optim.lr) is float
    assert run.optim.options["betas"] == (0.9, 0.99)
    assert run.train.transform == (CROP,)


# --- speed


def test_reading_and_editing_imports_no_torch():
    code = """
import sys
from tests.configs import sample
from visloom.config import apply, diff, dump, load, recipes, to_yaml
run = apply(sample(), ["schedule=cosine", "train.transform.+=Invert", "task.net=ResNetCifar"])
dump(run), diff(run, sample()), to_yaml(run)
for name in recipes():
    load(name)
heavy = {"torch", "torchvision", "timm", "cv2", "PIL", "rich", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_recipes_are_listed():
    assert recipes() == sorted(recipes())
    assert all(name.isidentifier() for name in recipes())


def test_names_of_items_after_edits():
    run = apply(sample(), ["train.transform.+=Invert", "train.transform.Invert=null"])
    assert names(run) == ["RandomCrop", "RandomFlip"]
    assert run.train.transform == (CROP, RandomFlip())
    assert ResNetCifar(18) == run.task.net
