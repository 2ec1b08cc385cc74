"""The CIFAR-10 recipe in a plain PyTorch loop, with no engine: what `visloom train cifar10` does, spelled out.

    python examples/plain_loop.py --data DIR [--recipe cifar10] [--steps 50]

It reads the same recipe, so it sees the same samples under the same keys, and ends with bit-identical weights: a test
holds that. What it lacks is everything else: resume, evaluation, checkpoints, logging, several processes.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from hashlib import sha256

import torch

from visloom import load
from visloom.assemble import Plans, assemble
from visloom.device import resolve_precision
from visloom.keys import count, fold
from visloom.loader import Plan
from visloom.memory import place
from visloom.module import TaskModule
from visloom.run import Run
from visloom.schedule import Progress

SEED_BITS = 2**63 - 1


def train(run: Run, steps: int) -> TaskModule:
    """Train the first `steps` updates of a run of one SGD group, and return the task."""
    parts = assemble(run)  # finds device and data, seeds the stream
    run, stream = parts.run, parts.train
    total, epoch = Plans.of(run, stream).total, stream.steps_per_epoch

    torch.manual_seed(fold(run.seed, "init") & SEED_BITS)
    task = place(run.task.build(), run.how, parts.device)
    optimizer = torch.optim.SGD(
        task.parameters(), run.optim.lr, weight_decay=run.optim.weight_decay, fused=True, **run.optim.options
    )
    dtype = resolve_precision(run.how.precision, parts.device)
    autocast = nullcontext() if dtype is torch.float32 else torch.autocast(parts.device.type, dtype)
    plan = Plan(stream, run.task, seed=fold(run.seed, "train"))

    task.train()
    for step in range(min(steps, total)):
        for group in optimizer.param_groups:
            group["lr"] = run.schedule(run.optim.lr, Progress(step, total, epoch))
        batch = plan.make(step, 0)  # read, transform and collate stream.tickets(step)
        torch.manual_seed(count(fold(run.seed, "step"), step) & SEED_BITS)  # dropout
        with autocast:
            losses = task(batch)
            loss = sum(losses.terms.values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    return task  # type: ignore[no-any-return]


def digest(task: torch.nn.Module) -> str:
    """sha256 of all weights, in the order of their names."""
    made = sha256()
    for name, value in sorted(task.state_dict().items()):
        made.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return made.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--data", default="data")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    run = load(options.recipe, {"host.data": options.data, "host.device": "cpu"})
    print(digest(train(run, options.steps)))


if __name__ == "__main__":
    main()
