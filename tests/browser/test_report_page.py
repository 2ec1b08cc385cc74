"""The report in a real browser: headless Chromium draws it without a complaint, in light and dark, wide and narrow.

Skipped, by name, where no Chromium is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fake_run import CLASSES, fake_run
from visloom.report.compare import compare
from visloom.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOSTILE = (
    "<script>document.title='owned'</script>",
    "</style><style>body{display:none}",
    "\u202egnp.live",
    "a\nb",
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0"),
]


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(NAMES)})")
    return found


def ask(browser: str, page: Path, folder: Path, *flags: str) -> tuple[str, list[str]]:
    """Load a page; return what the browser prints, and what the page complained of on the console."""
    profile = folder / "profile"
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def count(dom: str, pattern: str) -> int:
    return len(re.findall(pattern, dom))


def test_the_browser_sees_every_part_and_has_no_complaint(browser, tmp_path):
    folder = fake_run(tmp_path / "cifar10-000", epochs=10, steps_per_epoch=100)
    dom, complaints = ask(browser, write_report(folder), tmp_path, "--dump-dom")
    assert complaints == []
    assert count(dom, r'<figure class="chart">') == 7
    assert count(dom, r"<img ") == 16
    assert count(dom, r'<svg class="matrix"') == 1
    assert count(dom, r'<path class="line ') >= 9
    assert all(name in dom for name in CLASSES)


def test_hostile_names_stay_text_in_the_browser(browser, tmp_path):
    folder = fake_run(tmp_path / "evil-000", classes=HOSTILE, epochs=2, steps_per_epoch=50, pictures=4)
    dom, complaints = ask(browser, write_report(folder), tmp_path, "--dump-dom")
    assert complaints == []
    assert "<title>evil-000</title>" in dom
    assert count(dom, r"<script") == 0
    assert count(dom, r"<style") == 1
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in dom


def test_a_page_that_breaks_its_policy_would_be_noticed(browser, tmp_path):
    folder = fake_run(tmp_path / "cifar10-000", epochs=1, steps_per_epoch=50, pictures=2)
    page = write_report(folder)
    page.write_text(
        page.read_text().replace("</main>", '<script>1</script><p style="color:red">x</p></main>')
    )
    _, complaints = ask(browser, page, tmp_path, "--dump-dom")
    assert len(complaints) >= 2


def test_several_runs_in_the_browser(browser, tmp_path):
    runs = [fake_run(tmp_path / f"r-{i}", epochs=3, steps_per_epoch=50, seed=i, lr=0.1 + i) for i in range(3)]
    dom, complaints = ask(browser, compare(runs), tmp_path, "--dump-dom")
    assert complaints == []
    assert count(dom, r'<figure class="chart">') == 8
    assert "optim.lr" in dom


@pytest.mark.parametrize(
    ("size", "dark"), [((1200, 2000), False), ((500, 2000), True)], ids=["wide-light", "narrow-dark"]
)
def test_pictures_of_the_page_are_drawn(browser, tmp_path, size, dark):
    from PIL import Image

    folder = fake_run(tmp_path / "cifar10-000", epochs=4, steps_per_epoch=50, pictures=4)
    shot = tmp_path / "shot.png"
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    window = f"--window-size={size[0]},{size[1]}"
    ask(browser, write_report(folder), tmp_path, f"--screenshot={shot}", window, *flags)
    with Image.open(shot) as image:
        assert image.size == size
        corner = image.convert("RGB").getpixel((2, 2))
        blue = (0x6F, 0xA8, 0xE6) if dark else (0x2F, 0x6D, 0xB5)
        seen = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert corner == ((0x14, 0x17, 0x1A) if dark else (0xFB, 0xFA, 0xF8))
    assert blue in seen, "no curve was drawn"
