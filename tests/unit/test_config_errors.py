"""What a wrong setting is answered with: committed messages, word for word.

golden/config_errors.txt holds what `load` says, golden/config_validate.txt what `validate` says: after `>` the
settings, separated by ` ; `, then the message. After `>>` the settings may import anything. `[...]` stands for what
other versions of a library word differently.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.configs import sample
from visloom.config import apply, change
from visloom.errors import ConfigError
from visloom.run import Optim
from visloom.units import Minutes
from visloom.validate import validate

GOLDEN = Path(__file__).parent / "golden"


def blocks(name):
    for block in (GOLDEN / name).read_text().split("\n\n"):
        if block.strip() and not block.startswith("#"):
            settings, _, message = block.strip("\n").partition("\n")
            yield pytest.param(settings, message, id=settings[:60])


def edited(settings):
    return apply(sample(), settings.lstrip("> ").split(" ; "), trust=settings.startswith(">>"))


@pytest.mark.parametrize(("settings", "message"), blocks("config_errors.txt"))
def test_a_wrong_setting(settings, message):
    with pytest.raises(ConfigError) as caught:
        edited(settings)
    assert_says(caught.value, message)


def assert_says(error, message):
    said = re.escape(message).replace(re.escape("[...]"), ".*")
    assert re.fullmatch(said, str(error)), str(error)
    assert error.exit_code == 3
    assert error.path in message


@pytest.mark.parametrize(("settings", "message"), blocks("config_validate.txt"))
def test_a_wrong_run(settings, message):
    run = edited(settings)
    if message == "right":
        validate(run)
        return
    with pytest.raises(ConfigError) as caught:
        validate(run)
    assert_says(caught.value, message)


def test_python_edits_name_no_place_but_the_path():
    with pytest.raises(ConfigError) as caught:
        change(sample(), {"optim": {"lr": 1, "momentum": 0.9}})
    assert str(caught.value).startswith("optim.momentum: Optim has no setting 'momentum'")
    assert caught.value.path == "optim.momentum"


def test_objects_of_the_wrong_class_are_refused():
    with pytest.raises(ConfigError, match=r"^schedule: expected a kind of Schedule, got Optim\("):
        change(sample(), {"schedule": Optim()})
    with pytest.raises(ConfigError, match=r"^length: expected steps:<number>.*got Minutes\(3\)"):
        change(sample(), {"length": Minutes(3)})
    with pytest.raises(
        ConfigError, match=r"^task: Optim is no TaskSpec: it lacks classes, palette, build, collate"
    ):
        change(sample(), {"task": Optim()})
    with pytest.raises(ConfigError, match=r"^train\.source: dict_keys is no Readable: it lacks read"):
        change(sample(), {"train.source": {}.keys()})


def test_types_are_checked_in_runs_that_python_made_without_asking():
    run = sample()
    object.__setattr__(run.optim, "lr", "0.1")
    object.__setattr__(run, "seed", 1.5)
    with pytest.raises(ConfigError, match=r"^seed: expected a whole number, got 1\.5"):
        validate(run)


def test_a_task_that_breaks_its_contract_is_named():
    class Broken(type(sample().task)):
        def metrics(self):
            return {"a": 1}

    run = sample()
    broken = Broken(**{name: getattr(run.task, name) for name in run.task.__dataclass_fields__})
    with pytest.raises(ConfigError, match=r"^task: Broken\.metrics\(\) failed: AttributeError"):
        validate(change(run, {"task": broken}))


def test_a_task_without_classes_is_checked_when_it_has_them():
    run = apply(sample(), ["task.classes=[]", "evals.val.monitor=max nonsense"])
    validate(run)
    with pytest.raises(ConfigError, match="reports no 'nonsense'"):
        validate(apply(run, ["task.classes=[a, b]"]))


def test_a_slot_offers_what_its_protocol_means():
    """Other tasks' nets have the same methods, other classes can be called too: they are no advice."""
    from visloom.kinds import choices
    from visloom.stream import Transform
    from visloom.tasks.classify.nets import NetSpec as Classifier
    from visloom.tasks.segment.nets import NetSpec as Segmenter

    assert set(choices((Classifier,))) == {"Timm", "ResNetCifar", "FastCifar", "Custom"}
    assert {"Unet", "Smp"} < set(choices((Segmenter,))) and "Timm" not in choices((Segmenter,))
    offered = choices((Transform,))
    assert {"RandomCrop", "RandomRotation", "Strong"} < set(offered)
    assert not any("Entropy" in name for name in offered)
