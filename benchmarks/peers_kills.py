"""Peers: the kills of benchmarks/kills.py tried on Lightning and mmengine, each resumed by its own documented means.

    python -m venv peers && peers/bin/pip install torch scikit-learn lightning mmengine
    peers/bin/python benchmarks/peers_kills.py lightning mmengine mmengine-unsafe --table peers.md

A small network on scikit-learn's digits (dropout, random shifts of the pictures), 144 steps, a checkpoint every 5,
seeds set as each library's manual says. One run is left alone; the others are killed once each by SIGKILL, half of them
at the end of a random step, half while a checkpoint file is being written, and go on by `ckpt_path="last"` (Lightning)
or `resume=True` (mmengine). `mmengine-unsafe` also sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, without which torch 2.6 and
later refuse what mmengine 0.10 saves. A kill is survived if the run ends with the same sha256 of the weights. Visloom
is not imported here; it needs only what is in the environment of the peers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STEPS, EVERY, BATCH = 144, 5, 60
AT_STEP, IN_WRITE = "the end of a step", "the write of a checkpoint"


class Digits(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """8x8 digits, shifted by at most one pixel under torch's generator, as augmentations do."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images[:1440], dtype=torch.float32).view(-1, 1, 8, 8) / 16  # (N, 1, 8, 8)
        self.labels = torch.tensor(labels[:1440])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        down, right = (int(n) for n in torch.randint(-1, 2, (2,)))
        return self.images[index].roll((down, right), (1, 2)), int(self.labels[index])


def net() -> nn.Sequential:
    """About 10 MB, so that a write takes a while."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(2048, 1200), nn.ReLU(), nn.Linear(1200, 10),
    )  # fmt: skip


def told(out: Path, step: int) -> None:
    """Leave the number of updates of this life where the parent reads it."""
    with (out / "steps.txt").open("a") as file:
        file.write(f"{step}\n")


def digest(module: nn.Module) -> str:
    """sha256 of a state dict."""
    whole = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


# ---------------------------------------------------------------------------------------------------------- peers


def lightning(out: Path) -> nn.Module:
    """One life under Lightning."""
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_batch_end(self, *_: Any) -> None:
            told(out, self.global_step)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    L.seed_everything(0, workers=True, verbose=False)
    saves = ModelCheckpoint(
        out / "checkpoints",
        every_n_train_steps=EVERY,
        save_top_k=2,
        monitor="step",
        mode="max",
        save_last=True,
    )
    loader = torch.utils.data.DataLoader(Digits(), BATCH, shuffle=True)
    trainer = L.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, callbacks=[saves], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=out,
    )  # fmt: skip
    model = Model()
    there = any((out / "checkpoints").glob("*.ckpt"))
    trainer.fit(model, loader, ckpt_path="last" if there else None)
    return model


def mmengine(out: Path) -> nn.Module:
    """One life under mmengine."""
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, inputs: Tensor, labels: Tensor, mode: str = "loss") -> dict[str, Tensor]:
            return {"loss": nn.functional.cross_entropy(self.net(inputs), labels)}

    class Tell(Hook):  # type: ignore[misc]
        priority = "VERY_LOW"

        def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
            told(out, runner.iter + 1)

    data = Digits()
    runner = Runner(
        model=Model(),
        work_dir=str(out / "checkpoints"),
        train_dataloader=torch.utils.data.DataLoader(data, BATCH, shuffle=True),
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        train_cfg={"by_epoch": True, "max_epochs": STEPS * BATCH // len(data)},
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": EVERY,
                "by_epoch": False,
                "max_keep_ckpts": 2,
            }
        },
        custom_hooks=[Tell()],
        resume=True,
        randomness={"seed": 0, "deterministic": True},
        log_level="ERROR",
        experiment_name=f"x{os.getpid()}",
    )
    runner.train()
    return runner.model  # type: ignore[no-any-return]


def mmengine_unsafe(out: Path) -> nn.Module:
    """The same, with whole pickles loaded."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    return mmengine(out)


PEERS: dict[str, Callable[[Path], nn.Module]] = {
    "lightning": lightning,
    "mmengine": mmengine,
    "mmengine-unsafe": mmengine_unsafe,
}


# ---------------------------------------------------------------------------------------------------------- lives


def start(peer: str, out: Path) -> int:
    """Fork a life; it leaves `end.txt` when it is done, and what it said in `said.txt`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        said = os.open(out / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        (out / "end.txt").write_text(digest(PEERS[peer](out)))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int | None:
    """The exit code of a life, or None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def steps(out: Path) -> list[int]:
    """Updates that all lives have made, in order."""
    file = out / "steps.txt"
    return [int(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def sizes(out: Path) -> dict[str, tuple[int, int]]:
    """The checkpoint files that can be seen, with temporary ones in /tmp, where one peer writes them first."""
    files = [
        *out.glob("checkpoints/**/*.ckpt*"),
        *out.glob("checkpoints/**/*.pth*"),
        *Path(tempfile.gettempdir()).glob("tmp*"),
    ]
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()}


@dataclass(frozen=True)
class Result:
    """How a run with one kill went on: "identical", "different", or the last line of its failure."""

    moment: str
    step: int
    end: str
    updates: int


def killed_once(peer: str, out: Path, moment: str, at: int, alone: str) -> Result:
    """Kill a run in or after update `at`, resume it as its manual says, and compare."""
    pid = start(peer, out)
    while ended_or_reached(pid, out, at) is False:
        time.sleep(0.002)
    before, limit = sizes(out), time.monotonic() + 20
    while moment == IN_WRITE and sizes(out) == before and time.monotonic() < limit:
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    step = steps(out)[-1]
    pid = start(peer, out)
    while (code := ended(pid)) is None:
        time.sleep(0.01)
    if code == 0:
        end = "identical" if (out / "end.txt").read_text() == alone else "different"
    else:
        end = (
            "cannot resume: "
            + ((out / "said.txt").read_text().strip().splitlines() or [f"exit code {code}"])[-1][:100]
        )
    return Result(moment, step, end, len(steps(out)))


def ended_or_reached(pid: int, out: Path, at: int) -> bool:
    """Whether update `at` is done; raises if the life failed before."""
    if max(steps(out), default=0) >= at:
        return True
    code = ended(pid)
    if code is not None:
        raise SystemExit(
            f"a life ended with {code} before it was killed:\n{(out / 'said.txt').read_text()[-2000:]}"
        )
    return False


def tried(peer: str, kills: int, seed: int) -> tuple[bool, list[Result], float]:
    """Return whether two runs left alone are equal, the kills, and the seconds."""
    draws, began = random.Random(seed), time.monotonic()
    ends, results = [], []
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        for name in ("alone", "again"):
            out = Path(folder, name)
            out.mkdir()
            pid = start(peer, out)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                raise SystemExit(f"{peer} does not train here:\n{(out / 'said.txt').read_text()[-2000:]}")
            ends.append((out / "end.txt").read_text())
        for number in range(kills):
            out = Path(folder, f"killed{number}")
            out.mkdir()
            moment = (AT_STEP, IN_WRITE)[number % 2]
            results.append(killed_once(peer, out, moment, draws.randint(8, STEPS - 20), ends[0]))
            print(f"  {peer}: {results[-1]}", flush=True)
    return ends[0] == ends[1], results, time.monotonic() - began


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", choices=[*PEERS, []], help="which ones; all unless given")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", help="file for the table")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    lines = [
        f"torch {torch.__version__}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores; {STEPS} steps, "
        f"a checkpoint every {EVERY}.",
        "",
        "| peer | left alone twice | killed in | injected | identical | different | cannot resume | updates made |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for peer in options.peers or PEERS:
        library = peer.partition("-")[0]
        importlib.import_module(library)
        same, results, _ = tried(peer, options.kills, options.seed)
        for moment in (AT_STEP, IN_WRITE):
            these = [r for r in results if r.moment == moment]
            count = {
                end: sum(r.end.startswith(end) for r in these) for end in ("identical", "different", "cannot")
            }
            made = ", ".join(str(r.updates) for r in these)
            lines.append(
                f"| {peer} {importlib.metadata.version(library)} | {'equal' if same else 'not equal'} | {moment} | "
                f"{len(these)} | {count['identical']} | {count['different']} | {count['cannot']} | {made} |"
            )
    print("\n".join(lines))
    if options.table:
        Path(options.table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
