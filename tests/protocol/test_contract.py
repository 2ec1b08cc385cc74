"""A task that breaks its contract is told which method, what came back and what was expected, before the first step.

Each way to break it is one row of `WAYS`; the run is a real one, and its loop must never be entered.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import visloom
from tests.small import Small, SmallModule, small_run
from tests.worlds import Numbers
from visloom.drive import Telling, train
from visloom.errors import CheckpointError, ConfigError, ContractError, DataError
from visloom.metrics import TopK
from visloom.module import TaskModule
from visloom.run import Eval, Log
from visloom.sample import Sample
from visloom.stream import Ordered
from visloom.task import Batch, Losses
from visloom.units import Steps


class Way(NamedTuple):
    """One way to break the contract: a method, what it does instead, and the error with what it says."""

    method: str
    does: Callable[..., Any]
    error: type[Exception]
    says: str


def fails(*anything: Any) -> Any:
    raise RuntimeError("a mistake of one's own")


def one() -> torch.Tensor:
    return torch.tensor(1.0)


class Unnamed(TopK):
    def compute(self) -> dict[str, float]:
        return {"other": 1.0}


class Forgetful(TopK):
    def merge(self, states: Any) -> None:
        self._state = {}


class Failing(TopK):
    update = fails


def shorter(spec: Small, samples: Any, key: Any) -> Batch:
    batch = Small.collate(spec, samples, key)
    return dataclasses.replace(batch, ids=batch.ids[:-1])


def with_columns(**columns: Any) -> Callable[..., Any]:
    return lambda task, batch: {**SmallModule.predict(task, batch), **columns}


def loss_of(task: SmallModule, batch: Any) -> torch.Tensor:
    return task.net(batch.x).square().mean()


LATE = "forward: no gradient"
BATCH, LOSSES = "expected a subclass of visloom.task.Batch", "expected visloom.Losses"
WAYS = {
    "build: another module": Way(
        "build",
        lambda s: nn.Linear(2, 2),
        ConfigError,
        r"\.build returned Linear, expected a visloom.TaskModule",
    ),
    "build: nothing": Way("build", lambda s: None, ConfigError, r"\.build returned NoneType, expected"),
    "build: fails": Way("build", fails, RuntimeError, "a mistake of one's own"),
    "collate: a dict": Way(
        "collate", lambda s, samples, key: {}, ContractError, rf"\.collate returned dict, {BATCH}"
    ),
    "collate: fewer ids": Way(
        "collate", shorter, ContractError, r"\.collate: the batch has 1 ids for 2 samples"
    ),
    "collate: fails": Way(
        "collate", fails, DataError, r"\.collate failed on samples 'n\d+', .*RuntimeError: a mistake"
    ),
    "metrics: a list": Way("metrics", lambda s: [], ConfigError, r"\.metrics\(\) failed.*a dict of metrics"),
    "metrics: no metric": Way("metrics", lambda s: {"top": 3}, ConfigError, r"\.metrics\(\) failed.*'names'"),
    "metric: other names": Way(
        "metrics",
        lambda s: {"top": Unnamed((1,), classes=3)},
        ContractError,
        r"Unnamed\.compute returned other, expected a number for each of its names: accuracy",
    ),
    "metric: merge forgets": Way(
        "metrics",
        lambda s: {"top": Forgetful((1,), classes=3)},
        ContractError,
        r"Forgetful\.merge: with the own state alone the values become .*nan.*, expected",
    ),
    "metric: update fails": Way(
        "metrics",
        lambda s: {"top": Failing((1,), classes=3)},
        RuntimeError,
        r"before the first step, when Failing\.update \(metric 'top'\) was tried on a few samples of evals.val",
    ),
    "draw: an array": Way(
        "draw", lambda s, image, *rest: image, ContractError, r"\.draw returned ndarray, expected a PIL image"
    ),
    "draw: fails": Way("draw", fails, RuntimeError, r"before the first step, when Broken\.draw was tried"),
    "goodness: a table": Way(
        "goodness",
        lambda s, *rest: torch.zeros(3, 3),
        ContractError,
        r"\.goodness returned \(3, 3\), expected a tensor",
    ),
    "forward: a tensor": Way("forward", loss_of, ContractError, rf"\.forward returned Tensor, {LOSSES}"),
    "forward: a dict": Way(
        "forward", lambda t, b: {"ce": loss_of(t, b)}, ContractError, r"\.forward returned dict"
    ),
    "forward: not 0-dim": Way(
        "forward",
        lambda t, b: Losses({"ce": t.net(b.x)}, {}, one()),
        ContractError,
        r"\.forward: terms\['ce'\] is a tensor of shape \(2, 3\), expected a 0-dim tensor",
    ),
    "forward: a list of terms": Way(
        "forward",
        lambda t, b: Losses([loss_of(t, b)], {}, one()),
        ContractError,
        r"\.forward: terms is list, expected a dict",
    ),
    "forward: a plain count": Way(
        "forward",
        lambda t, b: Losses({"ce": loss_of(t, b)}, {}, 8),
        ContractError,
        r"\.forward: count is .*int",
    ),
    LATE: Way(
        "forward",
        lambda t, b: Losses({"ce": loss_of(t, b).detach()}, {}, one()),
        ContractError,
        r"\.forward: no term has a gradient \(ce\), expected losses that are computed from the parameters",
    ),
    "forward: losses in training only": Way(
        "forward",
        lambda t, b: Losses({"ce": loss_of(t, b)} if t.training else {}, {}, one()),
        ContractError,
        r"\.forward returned no loss terms",
    ),
    "forward: not defined": Way(
        "forward", TaskModule.forward, TypeError, r"must define forward\(batch\) -> Losses"
    ),
    "predict: a tensor": Way(
        "predict",
        lambda t, b: t.net(b.x),
        ContractError,
        r"\.predict returned Tensor, expected a dict of columns",
    ),
    "predict: too few": Way(
        "predict",
        with_columns(label=torch.zeros(1)),
        ContractError,
        r"column 'label' has 1 entries for 2 samples",
    ),
    "predict: one number": Way(
        "predict",
        with_columns(label=3),
        ContractError,
        r"column 'label' is int, expected one entry per sample",
    ),
    "predict: other ids": Way(
        "predict",
        with_columns(ids=("x", "y")),
        ContractError,
        r"column 'ids' is 'x', 'y', expected the batch's.*'n0'",
    ),
    "predict: not defined": Way(
        "predict", TaskModule.predict, TypeError, r"must define predict\(batch\) -> dict of columns"
    ),
    "assess: losses only": Way(
        "assess",
        lambda t, b: t(b),
        ValueError,
        r"before the first step, when BrokenModule\.assess .* was tried",
    ),
    "extra state: an object": Way(
        "get_extra_state", lambda t: {"seen": {1, 2}}, CheckpointError, r"set is not a JSON type"
    ),
}


@dataclass(frozen=True)
class Broken(Small):
    """Small, but for what a row of `WAYS` does instead."""

    way: str = ""

    def build(self) -> TaskModule:
        return self._ask("build", lambda: BrokenModule(self))

    def collate(self, samples: Any, key: Any) -> Any:
        return self._ask("collate", lambda *given: super(Broken, self).collate(*given), samples, key)

    def metrics(self) -> Any:
        return self._ask("metrics", super().metrics)

    def draw(self, *given: Any) -> Any:
        return self._ask("draw", super().draw, *given)

    def goodness(self, *given: Any) -> Any:
        return self._ask("goodness", super().goodness, *given)

    def _ask(self, method: str, proper: Callable[..., Any], *given: Any) -> Any:
        way = WAYS.get(self.way)
        return way.does(self, *given) if way is not None and way.method == method else proper(*given)


class BrokenModule(SmallModule):
    def __init__(self, spec: Broken) -> None:
        super().__init__(spec)
        way = WAYS.get(spec.way)
        if way is not None and hasattr(TaskModule, way.method):
            own = {way.method: way.does}
            if way.method == "get_extra_state":
                own["set_extra_state"] = lambda task, state: None
            self.__class__ = type("BrokenModule", (SmallModule,), own)


def run_of(out: Path, **changes: Any) -> Any:
    quiet = Log(every=Steps(4), tensorboard=False, report=False, images=4)
    return small_run(out, **{"log": quiet, "length": Steps(2), **changes})


def begin(run: Any) -> None:
    """Start a run whose loop must not be entered."""
    train(run, told=Telling(screen="off"), drive=lambda launch: pytest.fail("the first step was reached"))


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way != LATE], ids=lambda way: way.replace(": ", "-").replace(" ", "_")
)
def test_a_broken_contract_is_told_before_the_first_step(way, tmp_path):
    with pytest.raises(WAYS[way].error, match=f"(?s){WAYS[way].says}"):
        begin(run_of(tmp_path, task=Broken(way=way)))


def test_the_same_run_unbroken_trains(tmp_path):
    report = train(run_of(tmp_path, task=Broken()), told=Telling(screen="off"))
    assert report.step == 2


def test_a_loss_without_a_gradient_is_told_at_the_first_step(tmp_path):
    """The trial looks without gradients, so this is seen one forward later."""
    with pytest.raises(ContractError, match=WAYS[LATE].says):
        train(run_of(tmp_path, task=Broken(way=LATE)), told=Telling(screen="off"))


@pytest.mark.parametrize("hidden", [False, True], ids=["a function inside", "a class inside a function"])
def test_a_spec_that_is_no_value_is_refused(hidden, tmp_path):
    class Hidden(Small):
        pass

    spec = Hidden() if hidden else Small(extras={"f": lambda: 0})
    with pytest.raises(ConfigError, match=r"task.*cannot be written to a file"):
        begin(run_of(tmp_path, task=spec))


@dataclass(frozen=True, kw_only=True)
class Twins(Numbers):
    def fetch(self, index: int) -> Sample:
        return super().fetch(index).replace(id="twin")


def test_ids_that_are_not_unique_are_told_at_the_first_evaluation(tmp_path):
    twins = {"val": Eval(stream=Ordered(source=Twins(), batch=8))}
    with pytest.raises(DataError, match="two samples of the evaluation share the id 'twin'"):
        train(run_of(tmp_path, evals=twins), told=Telling(screen="off"))


# ------------------------------------------------------------------------------------- the engine knows no task

PROTOCOL = {
    "batch": {"ids", "source", "notes", "progress", "to", "pin_memory", "_map"},
    "losses": {"terms", "logs", "count"},
    "found": {"terms", "logs", "count"},
    "batch in loader": {"kind", "message"},  # of a failure, which travels in a batch's place
    "spec": {"build", "collate", "metrics", "draw", "classes", "palette", "goodness"},
}


@pytest.mark.parametrize("name", ["engine", "loader", "evaluation", "dist"])
def test_the_machinery_touches_nothing_but_the_protocol(name):
    """No field of a task's own batch, no class of task: what these files read of batches and specs is the protocol."""
    tree = ast.parse((Path(visloom.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    seen = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PROTOCOL:
            whose = node.value.id
            allowed = PROTOCOL[whose] | PROTOCOL.get(f"{whose} in {name}", set())
            assert node.attr in allowed, f"{name}.py:{node.lineno} reads {whose}.{node.attr}"
            seen += 1
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.module.startswith(
                ("visloom.tasks", "visloom.nets", "visloom.data", "visloom.recipes")
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked, kind = (ast.unparse(part) for part in node.args)
            own = kind.startswith("_")  # what the file itself sends in a batch's place
            assert own or asked not in ("task", "self.task", "spec", "batch"), (
                f"{name}.py:{node.lineno} asks for {kind}"
            )
    assert seen or name == "dist"
