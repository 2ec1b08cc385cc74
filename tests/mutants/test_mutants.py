"""Each mutant of the table is seen: in a copy of the tree with that one change, its test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900  # seconds after which a test is given up: no verdict, as a busy machine does that too


def test_the_table_fits_the_code():
    """Every change can be made, exactly once, and every test is there."""
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, (
            f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} of {mutant.old!r}"
        )
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(
                encoding="utf-8"
            ), test
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("mutants")
    for name in ("visloom", "tests", "examples"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def outcome(tree: Path, tests: tuple[str, ...], patience: float = PATIENCE) -> int:
    """Run tests in a tree; pytest's exit code, or -9 if they had to be given up."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not nightly",
        *tests,
    ]
    with subprocess.Popen(
        words,
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return -9


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_is_seen(tree: Path, mutant: Mutant):
    file = tree / mutant.file
    text = file.read_text(encoding="utf-8")
    seen, patience = {1}, float(PATIENCE)
    if mutant.hangs:  # compared with how long the same test takes here and now
        began = time.monotonic()
        assert outcome(tree, mutant.tests) == 0
        seen, patience = {1, -9}, max(60.0, 5 * (time.monotonic() - began))
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        found = outcome(tree, mutant.tests, patience)
        assert found in seen, "1 is a test that failed; 0 none; -9 no end in time; others that none ran"
    finally:
        file.write_text(text, encoding="utf-8")


@pytest.mark.nightly
def test_the_unbroken_copy_passes(tree: Path):
    assert outcome(tree, ("tests/faults/test_power_loss.py", "tests/unit/test_images.py")) == 0
