"""The demo of adaptation: one burn-in for both runs, both numbers, and streets side by side in the report."""

import json

import numpy as np
import pytest
from PIL import Image

from visloom.cli import main
from visloom.commands import adapting
from visloom.config import load
from visloom.data.town import Drive
from visloom.recipes import foggy


@pytest.fixture
def small(monkeypatch):
    """Streets and lengths that take a second."""

    def streets(weather, part, samples):
        return Drive(
            part=part, samples=4, height=64, width=96, visible=40, weather=weather, groups=foggy.VEHICLES
        )

    monkeypatch.setattr(foggy, "_streets", streets)
    monkeypatch.setattr(adapting, "BURN_IN", 2)
    monkeypatch.setattr(adapting, "MORE", 2)


def test_both_go_on_from_one_burn_in_and_are_told_and_drawn_side_by_side(small, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert main(["demo", "adapt", "--out", str(runs), "--log-level", "error"]) == 0
    said = capsys.readouterr().out
    burn_in, source, adapted = (runs / f"adapt-{name}-001" for name in ("burn-in", "source", "fog"))
    assert said.splitlines()[-1] == f"report  {adapted / 'report.html'}"
    told = [load(str(folder)) for folder in (source, adapted)]
    assert [dict(run.init) for run in told] == [{"net": str(burn_in)}] * 2
    assert told[0].length == told[1].length and told[0].optim == told[1].optim
    assert told[0].seed == told[1].seed and not load(str(burn_in)).evals
    assert told[0].train == told[1].train.source  # the same clear streets in the same order
    comparison = json.loads((adapted / "evals" / "comparison.json").read_text())
    for name, folder in (("source only", source), ("adapted", adapted)):
        value = json.loads((folder / "evals" / "fog.json").read_text())["values"]["ap50"]
        assert comparison["values"][f"ap50 {name}"] == value
        assert f"{name:<12}fog {100 * value:.1f} %" in said
    assert len(comparison["pictures"]) == 4
    for row in comparison["pictures"]:
        with Image.open(adapted / row["file"]) as picture:
            panels = np.asarray(picture.convert("RGB"))
        assert panels.shape == (320, 3 * 480 + 2 * 8, 3)
        truth = panels[:, -480:].astype(int)
        assert np.abs(truth - panels[:, :480]).max() > 60  # its boxes are not those of two updates' training
    page = (adapted / "report.html").read_text()
    assert "Source only, adapted, truth" in page and page.count("data:image/jpeg") >= 4
    assert "Source only, adapted, truth" not in (source / "report.html").read_text()
