"""Classification against mmpretrain: a checkpoint trained there answers the same here, and who trains faster.

    python benchmarks/classification.py --peer PEER/bin/python --data DIR               both parts
    python benchmarks/classification.py --peer PEER/bin/python --data DIR --only speed --batch 128 --steps 60

PEER is an environment with mmpretrain, mmengine and mmcv-lite; DIR holds cifar-10-batches-py. The network is the
ResNet_CIFAR-18 of the recipe `cifar10`, in all programs, on one device.

Part "same": one epoch over the first pictures is trained *there*, by its Runner; its checkpoint is imported here, and
each test picture must get the same answer. Part "speed": training pictures per second of mmpretrain's Runner, of the
recipe's defaults here, and of a raw PyTorch loop on tensors that are ready, interleaved, medians, one run; each in a
process of its own, the first updates (`--warm`, in which memory still grows) aside. The exit code is 1 if an answer
differs.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

MEAN, STD = [125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255]


def main() -> int:
    options = _options()
    if options.role:
        return {"train": peer_train, "speed": peer_speed, "visloom": ours, "raw": raw}[options.role](options)
    good = True
    with tempfile.TemporaryDirectory(prefix="visloom-classification-") as folder:
        if options.only != "speed":
            good = same(options, Path(folder))
        if options.only != "same":
            speed(options, Path(folder))
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", required=True, help="python of an environment with mmpretrain")
    parser.add_argument("--data", required=True, help="folder with cifar-10-batches-py")
    parser.add_argument("--only", choices=("same", "speed"))
    parser.add_argument("--train", type=int, default=256, help="pictures of the epoch that is trained there")
    parser.add_argument("--test", type=int, default=500, help="test pictures whose answers are compared")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6, help="timed updates per repeat")
    parser.add_argument("--warm", type=int, default=4, help="updates before the timed ones")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _ask(python: str, options: argparse.Namespace, role: str, folder: Path) -> dict[str, Any]:
    """Run this file by a python, ours or the peer's, and return what it wrote."""
    words = [python, "-W", "ignore", __file__, "--peer", options.peer, "--data", options.data, "--role", role]
    for name in ("train", "test", "batch", "steps", "warm"):
        words += [f"--{name}", str(getattr(options, name))]
    environment = dict(os.environ)
    if python == options.peer:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run([*words, "--folder", str(folder)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{role} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads((folder / f"{role}.json").read_text())
    return found


def _tell(options: argparse.Namespace, **found: Any) -> int:
    Path(options.folder, f"{options.role}.json").write_text(json.dumps(found))
    return 0


def _rate(options: argparse.Namespace, times: list[float]) -> float:
    """Pictures per second, from the clock after each update."""
    return float(options.batch * options.steps / (times[-1] - times[options.warm - 1]))


# -------------------------------------------------------------------------------------------------- there


def _runner(options: argparse.Namespace, epochs: int, pictures: int) -> Any:
    """mmpretrain's Runner with the published CIFAR config, over the first pictures."""
    warnings.simplefilter("ignore")
    from mmengine.config import Config
    from mmengine.runner import Runner
    from mmpretrain.datasets import CIFAR10
    from mmpretrain.registry import DATASETS
    from mmpretrain.utils import register_all_modules

    register_all_modules()

    @DATASETS.register_module(name="CIFAR10", force=True)
    class AnyCIFAR10(CIFAR10):  # type: ignore[misc]
        """Takes files of any checksum, with names as text or bytes."""

        def load_data_list(self) -> list[dict[str, Any]]:
            names = ["test_batch"] if self.test_mode else [f"data_batch_{n}" for n in range(1, 6)]
            found = []
            for name in names:
                entry = pickle.loads(
                    Path(options.data, "cifar-10-batches-py", name).read_bytes(), encoding="latin1"
                )
                entry = {k.decode() if isinstance(k, bytes) else k: v for k, v in entry.items()}
                images = entry["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                found += [
                    {"img": i, "gt_label": int(n)} for i, n in zip(images, entry["labels"], strict=True)
                ]
            return found

    def data(split: str, count: int, pipeline: list[dict[str, Any]], shuffle: bool) -> dict[str, Any]:
        return {
            "batch_size": options.batch, "num_workers": 2, "persistent_workers": True,
            "dataset": {"type": "CIFAR10", "data_prefix": options.data, "split": split, "test_mode": split == "test",
                        "pipeline": pipeline, "indices": count},
            "sampler": {"type": "DefaultSampler", "shuffle": shuffle}, "collate_fn": {"type": "default_collate"},
        }  # fmt: skip

    augment = [
        {"type": "RandomCrop", "crop_size": 32, "padding": 4},
        {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"},
    ]
    head = {
        "type": "LinearClsHead",
        "num_classes": 10,
        "in_channels": 512,
        "loss": {"type": "CrossEntropyLoss"},
    }
    backbone = {"type": "ResNet_CIFAR", "depth": 18, "num_stages": 4, "out_indices": (3,), "style": "pytorch"}
    config = {
        "default_scope": "mmpretrain", "work_dir": options.folder, "log_level": "ERROR", "randomness": {"seed": 0},
        "model": {"type": "ImageClassifier", "backbone": backbone, "head": head,
                  "neck": {"type": "GlobalAveragePooling"}},
        "data_preprocessor": {"num_classes": 10, "mean": MEAN, "std": STD, "to_rgb": False},
        "dataset_type": "CIFAR10",
        "train_dataloader": data("train", pictures, [*augment, {"type": "PackInputs"}], True),
        "test_dataloader": data("test", options.test, [{"type": "PackInputs"}], False),
        "train_cfg": {"by_epoch": True, "max_epochs": epochs}, "test_cfg": {},
        "test_evaluator": {"type": "Accuracy", "topk": (1,)},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
    }  # fmt: skip
    return Runner.from_cfg(Config(config))


def peer_train(options: argparse.Namespace) -> int:
    """Train one epoch, save, and write down the answer to each test picture."""
    import torch

    runner = _runner(options, 1, options.train)
    runner.train()
    accuracy = runner.test()["accuracy/top1"]
    answers: list[int] = []
    runner.model.eval()
    with torch.no_grad():
        for batch in runner.test_dataloader:
            answers += [int(sample.pred_label) for sample in runner.model.test_step(batch)]
    return _tell(options, accuracy=accuracy, answers=answers, checkpoint=f"{options.folder}/epoch_1.pth")


def peer_speed(options: argparse.Namespace) -> int:
    """Time the Runner's training, its first updates aside."""
    from mmengine.hooks import Hook

    times: list[float] = []

    class Clock(Hook):  # type: ignore[misc]
        """Notes when each update is done."""

        def after_train_iter(self, runner: Any, *args: Any, **more: Any) -> None:
            _wait()
            times.append(time.perf_counter())

    runner = _runner(options, 1, options.batch * (options.steps + options.warm))
    runner.register_hook(Clock(), "LOWEST")
    runner.train()
    return _tell(options, rate=_rate(options, times))


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --------------------------------------------------------------------------------------------------- here


def same(options: argparse.Namespace, folder: Path) -> bool:
    """Compare answers, picture by picture."""
    from visloom import change, load
    from visloom.convert import common, mmcls
    from visloom.saved import evaluate, open_saved
    from visloom.tasks.classify import Classify

    told = _ask(options.peer, options, "train", folder)
    into = change(load("cifar10"), {"host.data": options.data, "evals.test.stream.source.limit": options.test,
                                    "how.precision": "fp32"})  # fmt: skip
    converted = common.convert(mmcls, [Path(told["checkpoint"])], into=into)
    common.require_whole(converted, "import-checkpoint")
    common.keep(converted, folder / "imported")
    found = evaluate(folder / "imported", "test")["evaluations"]["test"]["values"]["accuracy"]
    saved = open_saved(folder / "imported")
    assert isinstance(saved.spec, Classify)
    answers: list[int] = []
    source = (
        change(saved.run, {"evals.test.stream.source.root": options.data})
        .evals["test"]
        .stream.leaves()[0]
        .source
    )
    for start in range(0, options.test, 50):
        samples = [source.read(i) for i in range(start, min(start + 50, options.test))]
        answers += saved.task.predict(saved.spec.collate(samples, None).to(saved.device))["label"].tolist()
    differ = sum(a != b for a, b in zip(answers, told["answers"], strict=True))
    for note in converted.notes:
        print(f"import: {note}")
    print(f"trained there: {told['accuracy']:.2f} % of {options.test} pictures")
    print(f"imported here: {100 * found:.2f} %; {differ} answers differ")
    return differ == 0 and abs(100 * found - told["accuracy"]) < 1e-6


def speed(options: argparse.Namespace, folder: Path) -> None:
    """Time all three in turns and print medians."""
    ways = (
        ("mmpretrain", options.peer, "speed"),
        ("visloom", sys.executable, "visloom"),
        ("raw loop", sys.executable, "raw"),
    )
    rates: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    for repeat in range(options.repeats):
        place = folder / f"speed{repeat}"
        place.mkdir()
        for name, python, role in ways:
            rates[name].append(_ask(python, options, role, place)["rate"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        spread = f"{min(rates[name]):.1f} to {max(rates[name]):.1f}"
        print(
            f"{name:<11} {value:9.1f} pictures/s  ({spread}; {value / medians['mmpretrain']:.2f} times mmpretrain)"
        )


def ours(options: argparse.Namespace) -> int:
    """The recipe's defaults, its first updates aside."""
    from visloom import change, load
    from visloom.drive import Telling, train, turns
    from visloom.launch import Launch

    times: list[float] = []

    def loop(launch: Launch) -> None:
        for _ in turns(launch):
            _wait()
            times.append(time.perf_counter())

    run = change(load("cifar10"), {
        "host.data": options.data, "host.out": options.folder, "train.batch": options.batch, "host.workers": 2,
        "length": f"steps:{options.steps + options.warm}", "evals.test": None, "save.every": None, "log.report": False,
    })  # fmt: skip
    train(run, drive=loop, told=Telling(level="error", screen="off"))
    return _tell(options, rate=_rate(options, times))


def raw(options: argparse.Namespace) -> int:
    """The network, the loss and the optimizer alone, in float32 on one batch that is there."""
    import torch
    from torch.nn import functional

    from visloom.nets.resnet_cifar import ResNetCifar

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = ResNetCifar(18).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    image, label = (
        torch.randn(options.batch, 3, 32, 32, device=device),
        torch.randint(10, (options.batch,), device=device),
    )
    times: list[float] = []
    for _ in range(options.steps + options.warm):
        functional.cross_entropy(net(image), label).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait()
        times.append(time.perf_counter())
    return _tell(options, rate=_rate(options, times))


if __name__ == "__main__":
    sys.exit(main())
