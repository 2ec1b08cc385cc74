"""The demo of domain adaptation: one burn-in in clear weather, then two ways on, and both numbers in fog.

The burn-in is trained once. Half of what follows goes on with clear streets, the other half also looks at foggy ones
without labels. Both make the same number of updates with the same learning rates, so the numbers can be compared; on
so small a budget either may win.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from visloom.commands import speaking
from visloom.config import change, load
from visloom.run import Run
from visloom.stream import Ordered, Pair, Shuffled

BURN_IN, MORE = 60, 24


def plans(settings: list[str], burn_in: int = BURN_IN, more: int = MORE) -> tuple[Run, Run, Run]:
    """The burn-in, and source-only and adapted runs that go on from it; all three share the streets in memory."""
    source, adapted = load("foggy:source", settings), load("foggy", settings)
    assert isinstance(adapted.train, Pair) and isinstance(source.train, Shuffled)
    adapted = replace(adapted, train=replace(adapted.train, source=source.train))
    fog = {"fog": source.evals["fog"]}
    source, adapted = replace(source, evals=fog), replace(adapted, evals=fog)
    burning = replace(source, evals={})
    lengths: dict[str, Any] = {"length": f"steps:{more}", "optim.lr": 0.5 * source.optim.lr, "seed": 1}
    return (
        change(burning, {"name": "adapt-burn-in", "length": f"steps:{burn_in}"}),
        change(source, {"name": "adapt-source", **lengths}),
        change(adapted, {"name": "adapt-fog", **lengths}),
    )


def demo(args: Namespace, settings: list[str], told: Any) -> tuple[Path, tuple[str, float]]:
    """Train all three, and end with both numbers and the paths of both reports.

    Returns the directory of the adapted run, and what the other one reached in the fog.
    """
    from visloom import drive, origin

    loop, argv = origin.recorded(drive.drive), ["visloom", *args.words]
    burn_in, source, adapted = plans(settings)
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
        for name, report in reports.items():
            screen.line([(f"{name} report  ", "dim"), (str(report.directory / "report.html"), "bold")])
    return reports["adapted"].directory, ("source only", reports["source only"].values["fog"]["ap50"])
