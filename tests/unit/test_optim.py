"""Optimizers: every one by name, groups, exact state by name, skipping on the device, clear refusals."""

import copy
import json
import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from visloom.errors import CheckpointError, ConfigError, ContractError
from visloom.optim import Optimizers, _placed, build_optimizer, set_lr, set_momentum
from visloom.optim_names import _known
from visloom.run import Optim, Rule
from visloom.schedule import Constant, Cosine, Linear, Progress

AT = Progress(3, 10, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def steps(model: Net, optimizer: Optimizers, which: range) -> None:
    for i in which:
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(i))
        (model(x) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def optim(name: str, **options: object) -> Optim:
    rest = Optim(name="AdamW", lr=0.01) if name == "Muon" else None
    decay = 0.0 if name == "Rprop" else 0.01
    return Optim(name=name, lr=0.01, weight_decay=decay, options=options, rest=rest)


CASES: dict[str, Optim] = {name: optim(name) for name in _known()}
CASES |= {
    "SGD momentum": optim("SGD", momentum=0.9, nesterov=True),
    "SGD dampening": optim("SGD", momentum=0.9, dampening=0.5),
    "RMSprop momentum": optim("RMSprop", momentum=0.9, centered=True),
    "AdamW amsgrad": optim("AdamW", amsgrad=True, betas=[0.8, 0.99]),
    "AdamW for-loop": optim("AdamW", foreach=False),
    "timm Lamb": optim("timm.optim:Lamb"),
    "timm Lion": optim("timm.optim:Lion"),
    "timm Adan": optim("timm.optim:Adan"),
    "torch's by path": optim("torch.optim:RAdam"),
}
CASES |= {f"{name} unfused": optim(name, fused=False) for name in ("SGD", "Adam", "AdamW", "Adagrad")}
CASES["SGD momentum unfused"] = optim("SGD", momentum=0.9, fused=False)


@pytest.mark.parametrize("case", CASES)
def test_restored_after_two_steps_the_third_is_bit_identical(case: str) -> None:
    """Also with a parameter that has no gradient, and with state that went through JSON."""
    settings = CASES[case]
    model = net()
    optimizer = build_optimizer(model, settings)
    start = weights(model)
    steps(model, optimizer, range(2))
    tensors, plain = optimizer.state_by_name(model)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    plain = json.loads(json.dumps(plain))
    middle = weights(model)
    steps(model, optimizer, range(2, 3))
    assert not torch.equal(model.conv.weight, start["conv.weight"])
    assert torch.equal(model.idle.weight, start["idle.weight"]), "a parameter without gradients rests"

    other = net(seed=1)
    fresh = build_optimizer(other, settings)
    other.load_state_dict(middle)
    fresh.load_state_by_name(other, tensors, plain)
    again, _ = fresh.state_by_name(other)
    assert all(again[name].dtype == tensors[name].dtype for name in tensors)
    assert same(again, tensors)
    steps(other, fresh, range(2, 3))
    assert same(weights(other), weights(model))
    forgetful = net(seed=1)
    forgetful.load_state_dict(middle)
    steps(forgetful, build_optimizer(forgetful, settings), range(2, 3))
    if case not in ("SGD", "SGD unfused"):  # plain SGD has nothing to forget
        assert not same(weights(forgetful), weights(model)), "the state matters, so the test can fail"


@pytest.mark.parametrize("case", ["AdamW", "SGD momentum", "Muon"])
def test_restoring_keeps_the_memory_layout_of_the_parameter(case: str) -> None:
    model = net().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, CASES[case])
    steps(model, optimizer, range(2))
    tensors, plain = optimizer.state_by_name(model)
    rows = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # as a file may give them
    other = net().to(memory_format=torch.channels_last)
    other.load_state_dict(weights(model))
    fresh = build_optimizer(other, CASES[case])
    fresh.load_state_by_name(other, rows, plain)
    for tensor in (t for name, t in fresh.state_by_name(other)[0].items() if name.startswith("conv.weight/")):
        assert tensor.ndim == 0 or tensor.is_contiguous(memory_format=torch.channels_last)
    steps(model, optimizer, range(2, 4))
    steps(other, fresh, range(2, 4))
    assert same(weights(other), weights(model))


def test_like_a_plain_torch_optimizer() -> None:
    """Fused, with zero momentum buffers made ahead, and in groups: still the bits of torch's own loop."""
    ours, theirs = net(), net()
    rules = (Rule(kind="norm", weight_decay=0.0),)
    optimizer = build_optimizer(ours, Optim(lr=0.1, weight_decay=0.01, options={"momentum": 0.9}), rules)
    norms = [theirs.norm.weight, theirs.norm.bias]
    others = [p for p in theirs.parameters() if all(p is not q for q in norms)]
    plain = torch.optim.SGD(
        [{"params": others}, {"params": norms, "weight_decay": 0.0}], 0.1, 0.9, weight_decay=0.01
    )
    for i in range(4):
        steps(ours, optimizer, range(i, i + 1))
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(i))
        (theirs(x) ** 2).sum().backward()
        plain.step()
        plain.zero_grad()
    for name, tensor in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], tensor, rtol=1e-6, atol=1e-7)


# --- groups


def test_groups_carry_what_the_engine_and_the_log_need() -> None:
    model = net()
    rules = (Rule(kind="norm", weight_decay=0.0), Rule(name="^head", lr=10.0), Rule(name="idle", frozen=True))
    optimizer = build_optimizer(model, Optim(lr=0.1, weight_decay=0.01, options={"momentum": 0.9}), rules)
    shown = [
        (g["name"], g["names"], g["base_lr"], g["lr"], g["weight_decay"], g["base_momentum"])
        for g in optimizer.groups
    ]
    assert shown == [
        ("base", ["conv.weight", "conv.bias"], 0.1, 0.1, 0.01, 0.9),
        ("norm", ["norm.weight", "norm.bias"], 0.1, 0.1, 0.0, 0.9),
        ("head", ["head.weight", "head.bias"], 1.0, 1.0, 0.01, 0.9),
    ]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "idle.weight",
        "idle.bias",
    ]


def test_frozen_parameters_never_move() -> None:
    model = net()
    before = weights(model)
    optimizer = build_optimizer(model, optim("AdamW"), (Rule(name="conv", frozen=True),))
    steps(model, optimizer, range(3))
    assert torch.equal(model.conv.weight, before["conv.weight"])
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_muon_and_rest_are_two_parts() -> None:
    model = net()
    optimizer = build_optimizer(model, optim("Muon"))
    assert [type(part).__name__ for part in optimizer.parts] == ["Muon", "AdamW"]
    assert [group["name"] for group in optimizer.groups] == ["base", "rest"]
    assert optimizer.groups[0]["names"] == ["conv.weight", "idle.weight", "head.weight"]
    assert not optimizer.supports_found_inf


def test_set_lr_and_momentum() -> None:
    model = net()
    rules = (Rule(name="head", lr=10.0),)
    optimizer = build_optimizer(model, Optim(lr=0.1, options={"momentum": 0.9}), rules)
    assert set_lr(optimizer.groups, Linear(0), AT) == {
        "base": pytest.approx(0.07),
        "head": pytest.approx(0.7),
    }
    assert [group["lr"] for group in optimizer.parts[0].param_groups] == pytest.approx([0.07, 0.7])
    set_lr(optimizer.groups, Linear(0), AT)  # from the base value, not from the last one
    assert optimizer.groups[0]["lr"] == pytest.approx(0.07)
    for _ in range(2):
        set_momentum(optimizer.groups, Cosine(0.5), AT)
        assert [group["momentum"] for group in optimizer.groups] == [Cosine(0.5)(0.9, AT)] * 2


def test_momentum_is_the_first_beta_of_adam() -> None:
    optimizer = build_optimizer(net(), optim("AdamW", betas=[0.8, 0.95]))
    set_momentum(optimizer.groups, Linear(0), AT)
    assert optimizer.groups[0]["betas"] == (pytest.approx(0.56), 0.95)
    steps(net(), optimizer, range(1))  # torch takes the pair


def test_an_optimizer_without_momentum_cannot_schedule_it() -> None:
    optimizer = build_optimizer(net(), optim("Adagrad"))
    with pytest.raises(ConfigError, match="neither momentum nor betas"):
        set_momentum(optimizer.groups, Constant(), AT)


def test_a_plain_optimizer_of_ones_own() -> None:
    model = net()
    optimizer = Optimizers([torch.optim.SGD(model.parameters(), lr=0.3)])
    assert set_lr(optimizer.groups, Linear(0), AT) == {"base": pytest.approx(0.21)}
    tensors, plain = optimizer.state_by_name(model)
    optimizer.load_state_by_name(model, tensors, plain)


# --- fused kernels


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_is_the_default(name: str) -> None:
    optimizer = build_optimizer(net(), optim(name))
    assert optimizer.groups[0]["fused"] is True
    assert optimizer.supports_found_inf
    assert not build_optimizer(net(), optim(name, fused=False)).supports_found_inf
    assert not build_optimizer(net(), optim(name, foreach=True)).groups[0]["fused"]


def test_no_fused_kernel_no_error() -> None:
    model = nn.Module()
    model.spectrum = nn.Parameter(torch.ones(3, dtype=torch.complex64))  # has no fused kernel
    optimizer = build_optimizer(model, optim("AdamW"))
    assert not optimizer.groups[0]["fused"]
    assert not optimizer.supports_found_inf


FUSED = ["SGD", "SGD momentum", "Adam", "AdamW", "AdamW amsgrad", "Adagrad"]


@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize("bad", [0, 2])
def test_found_inf_skips_an_update_on_the_device(case: str, bad: int) -> None:
    """A step with bad gradients and found_inf = 1 leaves no trace: weights and moments as if it had not been."""
    supports = build_optimizer(net(), CASES[case]).supports_found_inf
    if case == "Adagrad" and not supports:
        pytest.skip(
            "Adagrad's fused kernel of this torch does not skip, and says so: the engine asks the host"
        )
    assert supports
    skipped, never = net(), net()
    a, b = build_optimizer(skipped, CASES[case]), build_optimizer(never, CASES[case])
    for i in range(4):
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(i))
        a.parts[0].found_inf = torch.tensor(float(i == bad))
        (skipped(x) ** 2).sum().backward()
        if i == bad:
            buffers = {name: buffer.clone() for name, buffer in skipped.named_buffers()}
            skipped.head.weight.grad[0, 0] = float("nan")
            skipped.conv.weight.grad.fill_(float("inf"))
            before = weights(skipped)
        a.step()
        a.zero_grad()
        if i == bad:
            assert same(weights(skipped), before)
            for name, buffer in never.named_buffers():
                buffer.copy_(buffers[name])
            continue
        (never(x) ** 2).sum().backward()
        b.step()
        b.zero_grad()
    assert same(weights(skipped), weights(never))
    assert same(a.state_by_name(skipped)[0], b.state_by_name(never)[0])


def test_without_prepare_a_skipped_first_step_would_leave_garbage_or_raise() -> None:
    """Why `prepare` exists; should torch mend this, it can go."""
    first, late = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))
    plain = torch.optim.SGD([first, late], lr=0.1, momentum=0.9, fused=True)
    first.grad = torch.ones(4)
    plain.step()
    late.grad = torch.ones(3)
    with pytest.raises(TypeError):
        plain.step()
    optimizer = Optimizers([plain])
    optimizer.step()
    assert torch.equal(late.detach(), torch.ones(3) - 0.1)


def test_dampening_gives_up_fused_kernels() -> None:
    """The first step leaves dampening out, which a zero buffer cannot express."""
    optimizer = build_optimizer(net(), CASES["SGD dampening"])
    assert not optimizer.groups[0]["fused"]
    forced = build_optimizer(net(), optim("SGD", momentum=0.9, dampening=0.5, fused=True))
    assert not forced.supports_found_inf


# --- refusals


def refused(settings: Optim, rules: tuple[Rule, ...] = ()) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_optimizer(net(), settings, rules)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "message", "path"),
    [
        (Optim(name="LBFGS"), "LBFGS evaluates the loss several times per step", "optim.name"),
        (Optim(name="torch.optim:LBFGS"), "LBFGS evaluates", "optim.name"),
        (Optim(name="SparseAdam"), "SparseAdam takes sparse gradients only", "optim.name"),
        (Optim(name="AdamWW"), "no optimizer 'AdamWW'; nearest: AdamW", "optim.name"),
        (Optim(name="Optimizer"), "no optimizer 'Optimizer'", "optim.name"),
        (Optim(name="nowhere:Fast"), "'nowhere:Fast' cannot be imported", "optim.name"),
        (Optim(name="torch.optim:Fast"), "'torch.optim:Fast' cannot be imported", "optim.name"),
        (Optim(name="math:pi"), "is a float, not a callable", "optim.name"),
        (Optim(name="builtins:sorted"), "cannot be built|has no such option", ""),
        (
            Optim(options={"momentun": 0.9}),
            "optim.options.momentun: SGD has no such option; nearest: momentum",
            "optim.options.momentun",
        ),
        (
            Optim(options={"lr": 0.9}),
            "optim.options.lr: set optim.lr instead",
            "optim.options.lr",
        ),
        (Optim(options={"nesterov": True}), "SGD cannot be built.*Nesterov momentum requires", "optim"),
        (
            Optim(name="Muon"),
            r"5 parameters are vectors \(conv.bias is the first\)",
            "optim.rest",
        ),
        (Optim(name="Muon", names="nothing", rest=Optim()), "Muon gets no parameter", "optim.names"),
        (Optim(name="Muon", names="conv"), "optim.rest, which is not set", "optim.names"),
        (Optim(name="SGD", rest=Optim()), "belongs to an optimizer of matrices", "optim.rest"),
        (Optim(name="Muon", rest=Optim(name="Muon", rest=Optim())), "no rest of its own", "optim.rest.rest"),
        (Optim(name="Muon", rest=Optim(name="Adm")), "no optimizer 'Adm'", "optim.rest.name"),
        (Optim(name="Rprop", weight_decay=0.1), "Rprop has no weight decay", "optim"),
    ],
)
def test_refusals_name_the_place_and_what_to_do(settings: Optim, message: str, path: str) -> None:
    error = refused(settings)
    assert re.search(message, str(error)), str(error)
    if path:
        assert error.path == path


def test_a_failed_build_freezes_nothing() -> None:
    model = net()
    with pytest.raises(ConfigError):
        build_optimizer(model, Optim(name="AdamWW"), (Rule(name="conv", frozen=True),))
    assert all(p.requires_grad for p in model.parameters())


def loses_parameters(groups: list[dict], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups[:1], lr=lr)


def no_optimizer(groups: list[dict], lr: float, weight_decay: float) -> str:
    return "sgd"


def test_a_users_callable_must_return_an_optimizer_of_everything() -> None:
    rules = (Rule(kind="norm", lr=0.5),)
    assert "must keep the groups" in str(refused(Optim(name=f"{__name__}:loses_parameters"), rules))
    assert "returned a str" in str(refused(Optim(name=f"{__name__}:no_optimizer")))


# --- state


class Nested(torch.optim.SGD):
    """Keeps what a checkpoint cannot hold."""

    key = "history"

    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p][self.key] = [torch.zeros(1)]


class Slashed(Nested):
    key = "a/b"


class Shared(torch.optim.SGD):
    """Keeps state under a key that is no parameter."""

    def step(self, closure: object = None) -> None:
        self.state["all"] = {"count": 1}


class Counting(torch.optim.Optimizer):
    """Counts its steps in the group, as several libraries do, and keeps plain numbers per parameter."""

    def __init__(self, params: object, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "count": 0, "mean": None})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            group["mean"] = torch.tensor(group["count"] / 2)
            for p in self._with_gradient(group):
                state = self.state[p]
                state["seen"] = state.get("seen", 0) + 1
                state["label"], state["last"], state["on"] = "x", None, True
                p.sub_(p.grad, alpha=group["lr"] / (group["count"] + state["seen"]) * float(group["mean"]))

    def _with_gradient(self, group: dict) -> Iterator[torch.Tensor]:
        return (p for p in group["params"] if p.grad is not None)


def test_plain_values_and_group_state_survive() -> None:
    settings = Optim(name=f"{__name__}:Counting", lr=0.1)
    model = net()
    optimizer = build_optimizer(model, settings)
    steps(model, optimizer, range(2))
    tensors, plain = optimizer.state_by_name(model)
    assert plain["values"]["@base/count"] == 2
    assert plain["values"]["conv.weight/seen"] == 2
    assert float(tensors["@base/mean"]) == 1.0
    plain = json.loads(json.dumps(plain))
    other = copy.deepcopy(model)
    fresh = build_optimizer(other, settings)
    fresh.load_state_by_name(other, tensors, plain)
    steps(model, optimizer, range(2, 4))
    steps(other, fresh, range(2, 4))
    assert same(weights(model), weights(other))
    assert fresh.parts[0].state[other.conv.weight] == {"seen": 4, "label": "x", "last": None, "on": True}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nested", "Nested keeps a list under 'history' for conv.weight"),
        ("Slashed", "expected a string without '/'"),
        ("Shared", "keeps state for something that is no parameter"),
    ],
)
def test_state_that_a_checkpoint_cannot_hold_is_refused(name: str, message: str) -> None:
    model = net()
    optimizer = build_optimizer(model, Optim(name=f"{__name__}:{name}"))
    optimizer.step()
    with pytest.raises(ContractError, match=message):
        optimizer.state_by_name(model)


def saved(settings: Optim) -> tuple[dict[str, torch.Tensor], dict]:
    model = net()
    optimizer = build_optimizer(model, settings)
    steps(model, optimizer, range(2))
    return optimizer.state_by_name(model)


def test_options_and_learning_rates_come_from_the_run_not_from_the_checkpoint() -> None:
    tensors, plain = saved(optim("AdamW"))
    assert plain["values"] == {}
    model = net()
    changed = Optim(name="AdamW", lr=0.5, weight_decay=0.7, options={"betas": [0.5, 0.6]})
    optimizer = build_optimizer(model, changed)
    optimizer.load_state_by_name(model, tensors, plain)
    group = optimizer.groups[0]
    assert (group["lr"], group["base_lr"], group["weight_decay"], group["betas"]) == (
        0.5,
        0.5,
        0.7,
        (0.5, 0.6),
    )


def test_missing_and_unexpected_names_are_listed_and_nothing_is_changed() -> None:
    tensors, plain = saved(optim("AdamW"))
    model = net()
    optimizer = build_optimizer(model, optim("AdamW"))
    steps(model, optimizer, range(1))
    before = {name: tensor.clone() for name, tensor in optimizer.state_by_name(model)[0].items()}

    wrong = {**tensors, "conv.weight/more": torch.zeros(1)}
    del wrong["head.bias/exp_avg"]
    with pytest.raises(CheckpointError) as caught:
        optimizer.load_state_by_name(model, wrong, plain)
    assert "only in the checkpoint: head.bias/exp_avg" in str(caught.value)
    assert "only here: conv.weight/more" in str(caught.value)
    lost = {**plain, "values": {"@other/count": 3}}
    with pytest.raises(CheckpointError, match="finds no owner: @other"):
        optimizer.load_state_by_name(model, tensors, lost)
    assert same(optimizer.state_by_name(model)[0], before)


def test_another_optimizer_or_other_parameters_are_refused() -> None:
    tensors, plain = saved(optim("AdamW"))
    model = net()
    with pytest.raises(CheckpointError, match="written with AdamW, this run uses SGD"):
        build_optimizer(model, optim("SGD")).load_state_by_name(model, tensors, plain)
    frozen = build_optimizer(model, optim("AdamW"), (Rule(name="conv", frozen=True),))
    with pytest.raises(CheckpointError, match=r"only in the checkpoint: conv\.bias"):
        frozen.load_state_by_name(model, tensors, plain)


def test_regrouped_parameters_keep_their_moments() -> None:
    """State goes by name: which group a parameter is in does not matter."""
    tensors, plain = saved(optim("AdamW"))
    model = net()
    optimizer = build_optimizer(model, optim("AdamW"), (Rule(kind="norm", weight_decay=0.0),))
    optimizer.load_state_by_name(model, tensors, plain)
    assert same(optimizer.state_by_name(model)[0], tensors)
    assert len(optimizer.groups) == 2


def test_tied_parameters_have_one_state() -> None:
    model = net()
    model.again = model.head
    optimizer = build_optimizer(model, optim("AdamW"))
    steps(model, optimizer, range(1))
    tensors, plain = optimizer.state_by_name(model)
    assert not any(name.startswith("again") for name in tensors)
    optimizer.load_state_by_name(model, tensors, plain)


def test_counters_stay_on_the_host_unless_the_kernel_reads_them_on_the_device() -> None:
    p = nn.Parameter(torch.zeros(2, 3, device="meta"))  # stands for any device that is not the host
    step, moment = torch.tensor(3.0), torch.zeros(2, 3, dtype=torch.float64)
    assert _placed(step, p, "step", {"fused": None}, False).device.type == "cpu"
    assert _placed(step, p, "step", {"fused": True}, False).device.type == "meta"
    assert _placed(step, p, "step", {"capturable": True}, False).device.type == "meta"
    assert _placed(step, p, "mu_product", {}, True).device.type == "cpu"
    assert _placed(step, p, "eta", {}, False).device.type == "meta"
    placed = _placed(moment, p, "exp_avg", {}, False)
    assert (placed.device.type, placed.dtype, placed.requires_grad) == ("meta", torch.float64, False)
    assert _placed(step, p, "step", {}, False).data_ptr() != step.data_ptr()


def test_gradient_scaler_drives_the_parts() -> None:
    """torch.amp's scaler skips the first, overflowing step: what fused SGD needs `prepare` for."""
    model = net()
    optimizer = build_optimizer(model, optim("SGD", momentum=0.9))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    before = weights(model)
    for scale in (float("inf"), 1.0):
        loss = (model(torch.ones(2, 3, 6, 6)) ** 2).sum()
        scaler.scale(loss * scale).backward()
        for part in optimizer.parts:
            scaler.step(part)
        scaler.update()
        optimizer.zero_grad()
        if scale != 1.0:
            assert torch.equal(model.head.weight, before["head.weight"])
    assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())
    assert not torch.equal(model.head.weight, before["head.weight"])
