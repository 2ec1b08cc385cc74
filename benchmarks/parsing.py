"""Unified perceptual parsing: a training step in the original's ways against Visloom's with its defaults.

    python benchmarks/parsing.py [--rounds 2] [--side 256] [--batch 2] [--threads 1] [--json FILE]     about 5 minutes
    python benchmarks/parsing.py --gpu [--batch 16] [--side 512]          images per second and memory of ours

Both sides have the same ResNet-50 UPerNet with the same weights, the same pictures with objects, parts and scenes (or
with materials), and the same losses, which is checked before anything is timed. The original's ways, written here from
their description: float32 in NCHW memory; all levels of the pyramid resized and joined before they are fused, every
level convolved whatever is asked for; log-probabilities of all outputs, a map for each of 77 objects with parts, whose
losses and accuracies come from a loop over all 77; accuracies brought to the host at every step; two optimizers without
foreach. Its precise RoI pooling has no CPU kernel, so both sides pool by the closed form.

Visloom's are the module and settings that a recipe has by default: the memory format that is faster there, bf16 where
the processor multiplies it, freed memory kept. Each way has a process of its own; figures are CPU-seconds of
interleaved rounds, medians; the decoder's share is that of forward and backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from turns import kept, race

from visloom.device import resolve_precision
from visloom.engine import precision
from visloom.memory import place
from visloom.nets.upernet import Decoder, _resized
from visloom.optim import build_optimizer
from visloom.run import How, Optim, Rule
from visloom.tasks.parse import Parse, ParseBatch, Uper
from visloom.tasks.parse.broden import heads

DRAWN = {"objects": 29082 / 46308, "materials": 17226 / 46308}
"""How often each source of Broden+ is drawn: the weights of the mean."""


# ------------------------------------------------------------------------------------------------ the original's ways


class OldDecoder(Decoder):
    """The same parameters; what is asked for is computed as the original does."""

    def forward(self, maps: Any, names: Any) -> dict[str, Tensor]:
        top = self._pooled(maps[-1])
        found = {}
        if "scene" in names:
            found["scene"] = self.get_submodule("scene_head")(top).flatten(1)
        levels, down = [top], top
        for number in reversed(range(len(maps) - 1)):
            side = self.fpn_in[number](maps[number])
            down = side + _resized(down, side.shape[2:])
            levels.append(self.fpn_out[number](down))
        levels.reverse()
        if "material" in names:
            found["material"] = self.get_submodule("material_head")(levels[0])
        if "object" in names or "part" in names:
            size = levels[0].shape[2:]
            fused = self.conv_fusion(torch.cat([_resized(level, size) for level in levels], 1))
            for name in ("object", "part"):
                found[name] = self.get_submodule(f"{name}_head")(fused)
        return found


def old_losses(logits: dict[str, Tensor], batch: dict[str, Tensor], blocks: Any) -> Tensor:
    """Weighted losses, and accuracies on the host, of one batch."""
    total: Any = 0.0
    for name, weight in (("object", 1.0), ("material", 1.0)):
        if name in logits:
            chances = functional.log_softmax(logits[name], 1)
            total = total + weight * functional.nll_loss(chances, batch[name], ignore_index=-1)
            chosen = chances.max(1).indices
            known = batch[name] >= 0
            (((chosen == batch[name]) & known).sum() / known.sum().clamp(min=1)).item()
    if "scene" in logits:
        chances = functional.log_softmax(logits["scene"], 1)
        total = total + 0.25 * functional.nll_loss(chances, batch["scene"], ignore_index=-1)
        ((chances.max(1).indices == batch["scene"]).float().mean()).item()
    if "part" in logits:
        pieces = [
            functional.log_softmax(logits["part"][:, start:stop], 1) for start, stop, *_ in blocks
        ]  # 77 maps
        part, right, seen = batch["part"], 0.0, 0.0
        for (start, stop, *_), chances in zip(blocks, pieces, strict=True):
            inside = (part >= start) & (part < stop)
            local = torch.where(inside, part - start, 0)
            loss = functional.nll_loss(chances, local, reduction="none") * inside
            total = total + 0.5 * loss.sum() / inside.sum().clamp(min=1)
            right += ((chances.max(1).indices == local) & inside).sum().item()
            seen += inside.sum().item()
    return total  # type: ignore[no-any-return]


def old_step(
    task: nn.Module, image: Tensor, batch: dict[str, Tensor], names: tuple[str, ...]
) -> Callable[[], Tensor]:
    """One step: two optimizers, gradients zeroed in place."""
    net: Any = task.net
    parts = [net.encoder, net.decoder]
    optimizers = [
        torch.optim.SGD(_groups(part), lr=0.02, momentum=0.9, weight_decay=1e-4, foreach=False)
        for part in parts
    ]
    blocks = task.blocks["part"]

    def step() -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
        loss = old_losses(net(image, names), batch, blocks)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    return step


def _groups(part: nn.Module) -> list[dict[str, Any]]:
    decay, rest = [], []
    for parameter in part.parameters():
        (decay if parameter.ndim > 1 else rest).append(parameter)
    return [{"params": decay}, {"params": rest, "weight_decay": 0.0}]


# ------------------------------------------------------------------------------------------------------------- ours


def our_step(task: nn.Module, batch: ParseBatch, device: torch.device) -> Callable[[], Tensor]:
    """One step as the engine takes it."""
    rules = (Rule(kind="bias", weight_decay=0.0), Rule(kind="norm", weight_decay=0.0))
    optim = Optim(name="SGD", lr=0.02, weight_decay=1e-4, options={"momentum": 0.9})
    optimizer = build_optimizer(task, optim, rules)
    autocast = precision(How(), device)[0]

    def step() -> Tensor:
        with autocast:
            loss = torch.stack(list(task(batch).terms.values())).sum()
        loss.backward()
        optimizer.step()
        for parameter in task.parameters():
            parameter.grad = None
        return loss.detach()

    return step


def our_loss(task: Any, logits: dict[str, Tensor], batch: ParseBatch) -> Tensor:
    """What one step of ours minimises."""
    logits = {name: value.float() for name, value in logits.items()}
    terms = task._losses(task._tallies(logits, batch), batch, logits).terms
    return torch.stack(list(terms.values())).sum()


def make_batch(spec: Parse, kind: str, count: int, side: int) -> ParseBatch:
    """Noise with blocks of labels: eight objects, five of them with parts, a scene; or materials."""
    draw = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=draw)
    small = side // spec.rate
    blocks = spec._parts["part"].blocks(spec._by_name["object"])  # type: ignore[arg-type]
    cells = (
        torch.randint(0, 8, (count, 4, 4), generator=draw)
        .repeat_interleave(small // 4, 1)
        .repeat_interleave(small // 4, 2)
    )
    chosen = blocks[:40:8]
    codes = torch.tensor([block.label for block in chosen] + [1, 3, 4])  # wall, floor, tree have no parts
    masks, labels, occurring = {}, {}, ()
    if kind == "objects":
        masks["object"] = codes[cells]
        part = torch.full_like(cells, -1)
        for number, block in enumerate(chosen):
            local = torch.randint(0, block.stop - block.start, cells.shape, generator=draw)
            part = torch.where(cells == number, block.start + local, part)
        masks["part"] = part
        labels["scene"] = torch.randint(0, 365, (count,), generator=draw)
        occurring = tuple(blocks.index(b) for n, b in enumerate(chosen) if (cells == n).any())
    else:
        masks["material"] = 1 + cells
    names = tuple(name for name in ("object", "part", "scene", "material") if name in {**masks, **labels})
    return ParseBatch(
        ids=tuple(map(str, range(count))), image=image, sizes=((side, side),) * count, heads=names,
        masks={name: mask.to(torch.int16) for name, mask in masks.items()}, labels=labels, blocks={"part": occurring},
    )  # fmt: skip


def both(spec: Parse, batch: ParseBatch) -> dict[str, Callable[[], Tensor]]:
    """The two steps from the same weights, in the order they take turns."""
    torch.manual_seed(0)
    ours = spec.build().train()
    old = spec.build().train()
    old.load_state_dict(ours.state_dict())
    old.net.decoder.__class__ = OldDecoder
    image = old.images(batch.image).contiguous()
    plain = {n: m.long() for n, m in batch.masks.items()} | dict(batch.labels)
    ours = place(ours, How(), torch.device("cpu"))
    with torch.no_grad():
        ours.eval(), old.eval()
        found = float(our_loss(ours, ours.net(image, batch.heads), batch))
        wanted = float(old_losses(old.net(image, batch.heads), plain, old.blocks["part"]))
    assert abs(found - wanted) < 1e-4 * wanted, (found, wanted)
    return {
        "the original's ways": old_step(old.train(), image, plain, batch.heads),
        "visloom": our_step(ours.train(), batch, torch.device("cpu")),
    }


def decoder_share(spec: Parse, batch: ParseBatch, rounds: int) -> float:
    """Share of the decoder and its losses in a forward and backward of ours: median of rounds, after one to warm up.

    The encoder's maps are cut off, so that the decoder's way back ends at them and the encoder's begins there.
    """
    torch.manual_seed(0)
    task = place(spec.build().train(), How(), torch.device("cpu"))
    image = task.images(batch.image)
    shares = []
    for _ in range(rounds + 1):
        with precision(How(), torch.device("cpu"))[0]:
            start = time.process_time()
            maps = task.net.encoder(image)
            cut = [each.detach().requires_grad_() for each in maps]
            middle = time.process_time()
            loss = our_loss(task, task.net.decoder(cut, batch.heads), batch)
        loss.backward()  # as the engine: outside of autocast
        after = time.process_time()
        reached = [(whole, each.grad) for whole, each in zip(maps, cut, strict=True) if each.grad is not None]
        torch.autograd.backward([whole for whole, _ in reached], [grad for _, grad in reached])
        shares.append((after - middle) / (time.process_time() - start))
    return statistics.median(shares[1:])


def run_cpu(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    spec = Parse(net=Uper("resnet50"), heads=heads())
    kind = str(resolve_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    print(
        f"training step, {args.batch} x {args.side} x {args.side}, {args.threads} thread(s); visloom computes in {kind}"
    )
    found: dict[str, Any] = {"precision": kind, "steps": {}}
    for source in DRAWN:
        batch = make_batch(spec, source, args.batch, args.side)
        old, new = both(spec, batch).values()
        rows = race({"the original's ways": lambda way=old: way, "visloom": kept(new)}, args.rounds)
        medians = {name: row.cpu_seconds for name, row in rows.items()}
        ratio = rows["visloom"].times
        share = decoder_share(spec, batch, args.rounds)
        found["steps"][source] = {"cpu_seconds": medians, "times": ratio, "decoder_share": share}
        for name, value in medians.items():
            print(f"  {source:10}{name:22}{value:8.2f} s  {args.batch / value:6.2f} img/s")
        print(f"  {source:10}{ratio:.2f} times; the decoder takes {100 * share:.0f} % of ours")
    means = [
        sum(share * found["steps"][source]["cpu_seconds"][name] for source, share in DRAWN.items())
        for name in ("the original's ways", "visloom")
    ]
    found["times"] = means[0] / means[1]
    print(f"drawn as Broden+ is ({100 * DRAWN['objects']:.0f} % objects): {found['times']:.2f} times")
    return found


def run_gpu(args: argparse.Namespace) -> dict[str, Any]:
    """Images per second and peak memory of ours, by source."""
    device = torch.device("cuda")
    spec = Parse(net=Uper("resnet50"), heads=heads())
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "steps": {}}
    for source in DRAWN:
        torch.manual_seed(0)
        task = place(spec.build().train(), How(), device)
        batch = make_batch(spec, source, args.batch, args.side).to(device)
        step = our_step(task, batch, device)
        torch.cuda.reset_peak_memory_stats()
        times = []
        for turn in range(args.rounds + 3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(5):
                step()
            torch.cuda.synchronize()
            if turn >= 3:
                times.append((time.perf_counter() - start) / 5)
        speed, memory = args.batch / statistics.median(times), torch.cuda.max_memory_allocated()
        found["steps"][source] = {"images_per_second": speed, "memory_bytes": memory}
        print(
            f"  {source:10}{speed:8.1f} img/s  {memory / 2**30:6.2f} GiB, {args.batch} x {args.side} x {args.side}"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="timed steps of each way")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a CUDA device, and torch sees none")
    found = run_gpu(args) if args.gpu else run_cpu(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
