"""The demo of domain adaptation: one burn-in in clear weather, then two ways on, and both numbers in fog.

The burn-in is trained once. Half of what follows goes on with clear streets, the other half also looks at foggy ones
without labels. Both make the same number of updates with the same learning rates, so the numbers can be compared; on
so small a budget either may win. The adapted run's report ends with foggy streets as both see them, beside the truth.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.commands import speaking
from visloom.config import change, load
from visloom.run import Run
from visloom.schedule import Constant, Cosine, Warmup
from visloom.stream import Ordered, Pair, Shuffled
from visloom.units import Steps

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.drive import Report

BURN_IN, MORE = 140, 90  # after 45 the adapted one was no better on average (docs/results.md)
SHOWN = 8  # streets that are drawn side by side


def plans(settings: list[str], burn_in: int, more: int) -> tuple[Run, Run, Run]:
    """The burn-in, and source-only and adapted runs that go on from it; all three share the streets in memory.

    The learning rate stays up in the burn-in and falls to 0 in both ways on.
    """
    source, adapted = load("foggy:source", settings), load("foggy", settings)
    assert isinstance(adapted.train, Pair) and isinstance(source.train, Shuffled)
    adapted = replace(adapted, train=replace(adapted.train, source=source.train))
    fog = {"fog": source.evals["fog"]}
    source, adapted = replace(source, evals=fog), replace(adapted, evals=fog)
    burning = replace(source, evals={})
    hot = {
        "length": f"steps:{burn_in}",
        "schedule": Warmup(Constant(), Steps(max(1, burn_in // 8)), start=0.05),
    }
    lengths: dict[str, Any] = {"length": f"steps:{more}", "schedule": Cosine(), "seed": 1}
    return (
        change(burning, {"name": "adapt-burn-in", **hot}),
        change(source, {"name": "adapt-source", **lengths}),
        change(adapted, {"name": "adapt-fog", **lengths}),
    )


def demo(args: Namespace, settings: list[str], told: Any) -> tuple[Path, tuple[str, float]]:
    """Train all three, and end with both numbers and the paths of both reports.

    Returns the directory of the adapted run, and what the other one reached in the fog.
    """
    from visloom import drive, origin

    loop, argv = origin.recorded(drive.drive), ["visloom", *args.words]
    burn_in, source, adapted = plans(settings, BURN_IN, MORE)
    first = drive.train(burn_in, drive=loop, argv=argv, told=told)
    start = str(first.directory)
    reports = {
        "source only": drive.train(
            change(source, {"init": {"net": start}}), drive=loop, argv=argv, told=told
        ),
        "adapted": drive.train(change(adapted, {"init": {"net": start}}), drive=loop, argv=argv, told=told),
    }
    fog = source.evals["fog"].stream
    assert isinstance(fog, Ordered)
    page = beside(reports, adapted, fog)
    with speaking.opened() as screen:
        pictures = len(fog.source)
        screen.line(
            [
                (f"AP at overlap 0.5, {pictures} pictures each", "bold"),
                ("  both went on from one burn-in", ""),
            ]
        )
        for name, report in reports.items():
            values = {where: found["ap50"] for where, found in report.values.items()}
            said = ", ".join(f"{where} {100 * value:.1f} %" for where, value in values.items())
            screen.line([(f"{name:<12}", ""), (said, "decides")])
        screen.line(
            [("report of source only  ", "dim"), (str(reports["source only"].directory / page.name), "")]
        )
        screen.line([("report  ", "dim"), (str(page), "bold")])
    return reports["adapted"].directory, ("source only", reports["source only"].values["fog"]["ap50"])


def beside(reports: Mapping[str, Report], adapted: Run, fog: Ordered, count: int = SHOWN) -> Path:
    """Add both numbers to the adapted run's report, and streets at fixed places as each run sees them and as they are.

    reports: by name, "adapted" last. Returns the report's file.
    """
    import torch

    from visloom.durable import write_json
    from visloom.pictures import predict_one, read_at
    from visloom.report.page import write_report

    last = reports["adapted"]
    folder = last.directory / "evals" / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    device, spec = next(last.task.parameters()).device, adapted.task
    rows: list[dict[str, str]] = []
    for place in range(0, len(fog.source), max(1, len(fog.source) // count)):
        sample = read_at(fog, place)
        seen = [predict_one(report.task, spec, sample, device) for report in reports.values()]
        known = {"boxes": sample.boxes, "labels": sample.labels, "scores": torch.ones(len(sample.boxes))}
        file = folder / f"street-{len(rows) + 1:02d}.png"
        _row([spec.draw(sample.image, each) for each in (*seen, known)]).save(file, compress_level=1)
        rows.append(
            {
                "file": file.relative_to(last.directory).as_posix(),
                "id": sample.id,
                "caption": str(sample.id),
                "kind": f"{', '.join(reports)}, truth",
            }
        )
    values = {f"ap50 {name}": report.values["fog"]["ap50"] for name, report in reports.items()}
    epoch = last.step / adapted.train.steps_per_epoch
    told = {"step": last.step, "epoch": epoch, "values": values, "pictures": rows}
    write_json(folder.with_suffix(".json"), told)
    return write_report(last.directory)


def _row(pictures: list[Image]) -> Image:
    """Pictures of one size from left to right, with a gap."""
    from PIL import Image as Images

    width, height = pictures[0].size
    row = Images.new("RGB", (len(pictures) * (width + 8) - 8, height), (255, 255, 255))
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * (width + 8), 0))
    return row
