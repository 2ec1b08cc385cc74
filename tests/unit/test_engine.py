"""The engine: bit for bit the plain loop, bit for bit itself after a resume, and honest about non-finite steps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tests.small import Small, SmallModule, equal, small_engine, small_stream, tensors_of
from visloom.engine import check_losses
from visloom.errors import CheckpointError, ConfigError, ContractError
from visloom.keys import count, fold, seed_torch
from visloom.loader import Plan
from visloom.run import Clip, Ema, How, Optim
from visloom.schedule import Constant, Cosine, Linear
from visloom.task import Losses
from visloom.units import NonFinite

SGD = Optim(name="SGD", lr=0.1, options={"momentum": 0.9})
ADAMW = Optim(name="AdamW", lr=0.01, weight_decay=0.1)
RMSPROP = Optim(name="RMSprop", lr=0.001)


def run_to_end(engine):
    return [float(step.losses["ce"]) for step in engine.steps()]


@pytest.mark.parametrize("optim", [SGD, ADAMW, RMSPROP], ids=lambda o: o.name)
@pytest.mark.parametrize(
    "how",
    [
        How(precision="fp32"),
        How(precision="bf16", ema=Ema(), clip=Clip(norm=1.0), accumulate=2),
        How(precision="fp16", clip=Clip(norm=1.0)),
        How(precision="fp32", ema=Ema(decay=0.9, every=3), clip=Clip(value=0.1)),
        How(precision="fp32", non_finite=NonFinite("skip")),
        How(precision="fp32", idle="zero"),
    ],
    ids=["fp32", "bf16-ema-clip-accumulate", "fp16-scaler", "ema3-clip-value", "skip", "idle-zero"],
)
def test_a_resumed_engine_ends_with_the_same_bits(how, optim):
    whole = small_engine(how=how, optim=optim)
    losses = run_to_end(whole)
    first = small_engine(how=how, optim=optim)
    for step in first.steps():
        if step.index == 17:
            break
    state = copy.deepcopy(first.state())
    second = small_engine(how=how, optim=optim)
    second.restore(state)
    assert run_to_end(second) == losses[17:]
    assert equal(tensors_of(whole), tensors_of(second))
    assert len(set(losses)) > 20


def test_the_engine_is_the_plain_loop_bit_for_bit():
    total = 50
    engine = small_engine(
        total=total, optim=SGD, schedule=Cosine(), how=How(precision="fp32", clip=Clip(norm=0.5))
    )
    losses = run_to_end(engine)

    seed_torch(fold(0, "init"))
    spec, stream = Small(), small_stream()
    task = spec.build()
    optimizer = torch.optim.SGD(task.net.parameters(), lr=0.1, momentum=0.9, fused=True)
    plan = Plan(stream, spec, seed=fold(0, "train"))
    plain = []
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / total))
        batch = plan.make(step, 0)
        torch.manual_seed(count(fold(0, "step"), step) & (2**63 - 1))
        loss = task(batch).terms["ce"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.net.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        plain.append(loss.item())
    assert plain == losses
    for a, b in zip(task.net.state_dict().values(), engine.task.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_accumulation_is_the_mean_over_micro_batches():
    spec = Small()
    how = How(precision="fp32", accumulate=2)
    engine = small_engine(total=1, optim=Optim(name="SGD", lr=0.1), schedule=Constant(), how=how)
    seed_torch(fold(0, "init"))
    task = spec.build()
    plan = Plan(small_stream(), spec, seed=fold(0, "train"), accumulate=2)
    losses = []
    for micro in range(2):
        seed_torch(count(fold(0, "step"), micro))
        loss = task(plan.make(0, micro)).terms["ce"]
        (loss / 2).backward()
        losses.append(loss.item())
    with torch.no_grad():
        for p in task.net.parameters():
            p -= 0.1 * p.grad
    (step,) = engine.steps()
    assert float(step.losses["ce"]) == pytest.approx(sum(losses) / 2, rel=1e-6)
    for a, b in zip(task.net.parameters(), engine.task.net.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-7)


def poisoned(policy, optim=SGD, **more):
    return small_engine(
        spec=Small(poison=("n7",)),
        how=How(precision="fp32", non_finite=NonFinite(policy), **more),
        optim=optim,
    )


@pytest.mark.parametrize("optim", [SGD, ADAMW, RMSPROP], ids=lambda o: o.name)
def test_a_non_finite_step_changes_no_weight_and_names_its_samples(optim):
    engine = poisoned("skip", optim=optim)
    bad, before = [], tensors_of(engine)
    for _ in engine.steps():
        now = tensors_of(engine)
        assert all(torch.isfinite(t).all() for t in now.values())
        for entry in engine.bad_steps():
            bad.append(entry)
            weights = [n for n in now if n.startswith("model/net")]
            assert all(torch.equal(now[n], before[n]) for n in weights)  # batch-norm statistics included
        before = now
    assert bad
    assert all("n7" in entry.ids for entry in bad)
    assert len(bad) == sum("n7" in ids_of_step(s) for s in range(40))


def ids_of_step(step):
    return {f"n{t.index}" for t in small_stream().tickets(step)}


def test_without_the_watch_a_nan_does_reach_the_weights():
    # the mutant of the test above: it must be able to fail
    engine = poisoned("ignore")
    run_to_end(engine)
    assert any(torch.isnan(p).any() for p in engine.task.net.parameters())


def test_skipped_steps_are_passed_over():
    engine = small_engine(total=10)
    engine.skipped = {2, 3, 9}
    before = tensors_of(engine)
    for step in engine.steps():  # they come all the same, so that nothing that is due then is missed
        now = tensors_of(engine)
        assert equal(before, now) == (step.index - 1 in engine.skipped) == (not step.losses)
        assert step.lr
        before = now
    assert engine.step == step.index == 10


def test_learning_rate_and_momentum_are_assigned_before_the_step():
    engine = small_engine(total=4, schedule=Linear(0.0), momentum=Linear(0.5))
    seen = [(s.lr["base"], engine.optimizer.groups[0]["momentum"]) for s in engine.steps()]
    assert [lr for lr, _ in seen] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert seen[0][1] == pytest.approx(0.9)
    assert seen[-1][1] < 0.9


def test_ema_follows_its_formula_and_copies_buffers():
    engine = small_engine(total=6, how=How(precision="fp32", ema=Ema(decay=0.9, ramp=10)))
    average = engine.task.net[0].weight.detach().clone()
    for step in engine.steps():
        decay = min(0.9, (1 + step.index - 1) / (10 + step.index - 1))
        average = decay * average + (1 - decay) * engine.task.net[0].weight.detach()
    kept = engine.best_module
    assert torch.allclose(kept.net[0].weight, average, atol=1e-6)
    assert torch.equal(kept.net[1].running_mean, engine.task.net[1].running_mean)


class Teacher(SmallModule):
    def __init__(self):
        super().__init__(Small())
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)


class TeacherSpec(Small):
    def build(self):
        return Teacher()


def test_ema_into_writes_the_teacher_and_nothing_trains_it():
    how = How(precision="fp32", ema=Ema(decay=0.5, ramp=0.001, into="net -> teacher"))
    engine = small_engine(total=5, spec=TeacherSpec(), how=how)
    run_to_end(engine)
    assert engine.best_module is engine.task
    student, teacher = engine.task.net[0].weight, engine.task.teacher[0].weight
    assert not torch.equal(student, teacher)
    assert torch.allclose(student, teacher, atol=0.2)
    with pytest.raises(ConfigError, match=r"the task has: .*net.*teacher"):
        small_engine(spec=TeacherSpec(), how=How(precision="fp32", ema=Ema(into="net -> master")))


def test_frozen_norms_keep_their_statistics():
    engine = small_engine(total=5, how=How(precision="fp32", frozen_norms=r"net\.1"))
    before = engine.task.net[1].running_mean.clone()
    run_to_end(engine)
    assert torch.equal(before, engine.task.net[1].running_mean)
    with pytest.raises(ConfigError, match="matches no batch-norm layer"):
        small_engine(how=How(precision="fp32", frozen_norms="nothing"))


def test_idle_parameters_rest_or_get_zeros():
    optim = Optim(name="SGD", lr=0.1, weight_decay=0.5)
    rest = small_engine(total=3, optim=optim)
    before = rest.task.idle.weight.detach().clone()
    run_to_end(rest)
    assert torch.equal(before, rest.task.idle.weight)
    zero = small_engine(total=3, optim=optim, how=How(precision="fp32", idle="zero"))
    run_to_end(zero)
    assert (zero.task.idle.weight.abs() < before.abs()).all()  # decayed, as in systems that always step


def test_a_state_of_another_task_is_refused():
    engine = small_engine()
    state = engine.state()
    state.tensors["model"].pop("net.0.weight")
    with pytest.raises(CheckpointError, match=r"(?s)does not fit the task.*net\.0\.weight"):
        small_engine().restore(state)
    with pytest.raises(CheckpointError, match="has no average"):
        small_engine(how=How(precision="fp32", ema=Ema())).restore(engine.state())


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (torch.zeros(()), "forward returned Tensor, expected visloom.Losses"),
        (Losses({}, {}, torch.zeros(())), "no loss terms"),
        (Losses({"ce": torch.zeros(2)}, {}, torch.zeros(())), r"terms\['ce'\] is a tensor of shape \(2,\)"),
        (Losses({"ce": torch.zeros(())}, {"acc": 0.5}, torch.zeros(())), r"logs\['acc'\] is .*float"),
    ],
)
def test_a_forward_that_breaks_the_contract_is_told_what_came_back(losses, message):
    with pytest.raises(ContractError, match=message):
        check_losses("Mine", losses)


def test_gradients_are_dropped_between_steps_and_modes_are_right():
    engine = small_engine(total=2)
    for _ in engine.steps():
        assert all(p.grad is None for p in engine.task.parameters())
        assert engine.task.training
    assert isinstance(engine.task.net[3], nn.Dropout)
