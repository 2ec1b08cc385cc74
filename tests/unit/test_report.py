"""The report: complete, escaped, self-contained, small, and never surprised by what a run directory holds."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_run import CLASSES, fake_run
from visloom.errors import DataError, UsageError
from visloom.report import matrix, svg, tree
from visloom.report.compare import compare
from visloom.report.page import write_report
from visloom.report.pictures import embed, inside
from visloom.report.read import open_record
from visloom.report.svg import Series, chart

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "new\nline\r\x00",
    "\x1b[2Jescape",
    "\u202egnp.live",
    "日本語のクラス名",
    "</style></svg><img src=https://example.org/x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "a" * 500,
    "]]> --> <!--",
)


class Page(HTMLParser):
    """Reads a page and keeps its elements, attributes and text."""

    VOID = {"meta", "link", "img", "br", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            name == tag and all((attrs.get(k) or "") == v for k, v in attributes.items())
            for name, attrs in self.tags
        )


def page_of(folder: Path, hostile: bool = False) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return check(path, hostile)


def check(path: Path, hostile: bool = False) -> Page:
    """What every page promises: well-formed, no script, nothing fetched, a policy that forbids both, small."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= 2_000_000
    page = Page(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids), "an id is used twice"
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            assert name != "style", "the policy allows no style attribute"
            if name in ("src", "href", "xlink:href", "srcset"):
                assert value is not None
                assert value.startswith(("data:", "#")), f"{tag} loads {value[:80]}"
    visible = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", text)
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    if not hostile:
        assert not re.search(r"//[\w.]+", visible), "an address of something outside"
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    digest = re.search(r"'sha256-([^']+)'", policy)[1]
    import base64

    assert digest == base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "cifar10-000", epochs=6, steps_per_epoch=100)


# ------------------------------------------------------------------------------------------------ a whole run


def test_a_finished_run_has_every_part(run):
    page = page_of(run)
    best = max(row["values"]["accuracy"] for row in open_record(run).rows if row["kind"] == "eval")
    assert f"On val, accuracy reached {best:.4f} (majority class: 0.1000)" in page.text.replace(" ( ", " (")
    heads = "Learning val Speed Configuration Environment Starts and resumes Checkpoints Again"
    assert heads in page.text
    assert page.count("figure", **{"class": "chart"}) == 5 + 2  # loss, 3 metrics, learning rate; 2 of speed
    assert page.count("img") == 16
    assert page.count("svg", **{"class": "matrix"}) == 1
    assert "Worst predictions" in page.text
    assert "Best predictions" in page.text
    assert "Most often confused" in page.text
    for name in CLASSES:
        assert name in page.text
    manifest = next((run / "checkpoints").glob("*/manifest.json"))
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() in page.text
    assert "visloom train cifar10 optim.lr=0.1" in page.text
    assert re.search(r"visloom resume \S*cifar10-000", page.text)
    assert re.search(r"visloom train \S*cifar10-000/run.json", page.text)


def test_train_and_validation_loss_share_one_plot(run):
    text = write_report(run).read_text()
    loss = next(
        f for f in re.findall(r'<figure class="chart">.*?</figure>', text, re.S) if "<b>loss</b>" in f
    )
    assert len(re.findall(r'<path class="line c0[ "]', loss)) == 2  # windows and epoch means of training
    assert len(re.findall(r'<path class="line c1"', loss)) == 1
    assert "train" in loss
    assert "val" in loss


def test_metrics_that_only_an_evaluation_reports_share_a_chart(run, tmp_path):
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "eval":
            row["values"] |= {"f1": 0.5, "recall": 0.25, "count": 1000.0}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(tmp_path).read_text()
    charts = re.findall(r'<figure class="chart"><figcaption><b>([^<]*)</b>', text)
    assert charts == ["loss", "accuracy", "count", "grad_norm", "val", "learning rate"]
    shared = next(
        f for f in re.findall(r'<figure class="chart">.*?</figure>', text, re.S) if "<b>val</b>" in f
    )
    assert [name for name in ("top5", "f1", "recall") if f"</i>{name} " in shared] == ["top5", "f1", "recall"]


def test_curves_of_an_evaluation_are_drawn_with_their_means(tmp_path):
    fake_run(tmp_path / "r", epochs=2, steps_per_epoch=10)
    file = tmp_path / "r/evals/val.json"
    told = json.loads(file.read_text())
    series = {f"class {i}": [1.0, 0.5, 0.0] for i in range(9)}
    told["tables"]["curves"] = {"title": "Precision", "x_name": "recall", "x": [0, 0.5, 1], "series": series}
    file.write_text(json.dumps(told))
    text = write_report(tmp_path / "r").read_text()
    (chart,) = [
        f for f in re.findall(r'<figure class="chart">.*?</figure>', text, re.S) if "<b>Precision</b>" in f
    ]
    assert re.findall(r"</i>(class \d) <b>([^<]*)</b>", chart) == [(f"class {i}", "0.5000") for i in range(8)]
    assert "the 8 most frequent of 9 classes" in chart and "recall" in chart
    for broken in (None, [], {"x": [1]}, {"x": [0], "series": {"a": ["b"], "c": [1, 2]}}):
        told["tables"]["curves"] = broken
        file.write_text(json.dumps(told))
        assert "<b>Precision</b>" not in write_report(tmp_path / "r").read_text()


def test_what_the_command_line_changed_is_marked(run):
    text = write_report(run).read_text()
    marked = re.findall(
        r'<span class="k">([^<]*)</span> <mark>([^<]*)</mark> <span class="was">([^<]*)', text
    )
    assert marked == [
        ("padding:", "4", "set on the command line"),
        ("lr:", "0.1", "set on the command line"),
    ]


def test_resumes_are_listed_and_drawn(tmp_path):
    page = page_of(fake_run(tmp_path / "r", epochs=8, steps_per_epoch=20))
    assert "visloom resume cifar10-000" in page.text
    assert page.count("path", **{"class": "mark"}) > 0


def test_the_page_is_the_same_each_time(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_a_running_run_is_reported_as_far_as_it_got(run, tmp_path):
    for name in ("run.json", "log.jsonl", "speed.jsonl"):
        data = (run / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2] if name != "run.json" else data)
    page = page_of(tmp_path)
    assert page.count("figure", **{"class": "chart"}) == 7
    assert page.count("img") == 0


def test_an_empty_directory_gives_a_short_page(tmp_path):
    page = page_of(tmp_path)
    assert "This run has logged nothing yet." in page.text
    assert page.count("svg") == 0
    with pytest.raises(DataError, match="not a run directory"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize(
    "part", ["run.json", "provenance.json", "log.jsonl", "speed.jsonl", "evals", "checkpoints"]
)
def test_a_missing_part_is_left_out(run, tmp_path, part):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    target = folder / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = page_of(folder)
    assert page.count("p", **{"class": "note warn"}) == 0
    gone = {
        "run.json": "config",
        "provenance.json": "environment",
        "log.jsonl": "curves",
        "speed.jsonl": "speed",
    }
    assert gone.get(part, part if part != "evals" else "eval-val") not in page.ids


def test_damaged_parts_are_named(run, tmp_path):
    folder = fake_run(tmp_path / "r", epochs=2, steps_per_epoch=100)
    (folder / "run.json").write_text("{")
    (folder / "evals" / "val.json").write_bytes(b"\xff\xfe")
    lines = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text("\n".join([lines[0], "garbage", *lines[1:]]) + "\n")
    page = page_of(folder)
    assert "run.json cannot be read" in page.text
    assert "val.json cannot be read" in page.text
    assert "line 2 is damaged" in page.text
    assert page.count("figure", **{"class": "chart"}) == 7


# ---------------------------------------------------------------------------------------------------- hostility


def test_hostile_names_are_escaped(tmp_path):
    folder = fake_run(tmp_path / "r<b>un'", classes=HOSTILE, epochs=2, steps_per_epoch=50)
    data = json.loads((folder / "evals" / "val.json").read_text())
    for name in HOSTILE:
        data["values"][name] = 0.5
        data["tables"][name] = {"columns": [name], "rows": [[name]]}
    data["pictures"][0] |= {"id": HOSTILE[6], "kind": HOSTILE[0]}
    data["baseline"]["name"] = HOSTILE[6]
    (folder / "evals" / "val.json").write_text(json.dumps(data))
    (folder / "evals" / "a b<i>.json").write_text(json.dumps(data))
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance[HOSTILE[6]] = list(HOSTILE)
    provenance["argv"] = ["visloom", *HOSTILE]
    (folder / "provenance.json").write_text(json.dumps(provenance))
    config = json.loads((folder / "run.json").read_text())
    config[HOSTILE[0]] = {"kind": HOSTILE[6], HOSTILE[2]: HOSTILE[4]}
    (folder / "run.json").write_text(json.dumps(config))
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for row in rows:
        row["values"] |= dict.fromkeys(HOSTILE, 1.0)
        row["lr"] = dict.fromkeys(HOSTILE, 0.1)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder, hostile=True)
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "new\\nline\\r\\x00" in page.text
    assert "\\u202egnp.live" in page.text
    assert "日本語のクラス名" in page.text
    assert "{{ 7 * 7 }}" in page.text
    raw = (folder / "report.html").read_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", raw)
    compared = check(compare([folder, folder], tmp_path / "c.html"), hostile=True)
    assert "r<b>un'" in compared.text


def test_pictures_outside_the_run_are_never_read(tmp_path):
    from PIL import Image

    folder = fake_run(tmp_path / "run", epochs=1, steps_per_epoch=50, pictures=4)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(secret)
    (folder / "link.png").symlink_to(secret)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    names = ["../secret.png", str(secret), "link.png", "broken.png", "none.png", "a\x00b", "evals"]
    data = json.loads((folder / "evals" / "val.json").read_text())
    kept = data["pictures"]
    data["pictures"] = kept + [{"file": name, "id": "x", "caption": "x", "kind": "worst"} for name in names]
    (folder / "evals" / "val.json").write_text(json.dumps(data))
    page = page_of(folder)
    assert page.count("img") == len(kept)
    assert f"{len(names)} more could not be shown" in page.text
    assert inside(folder, kept[0]["file"]) is not None


LEAVES = [
    None,
    True,
    -1,
    0,
    1e308,
    -1e308,
    5e-324,
    10**400,
    math.nan,
    math.inf,
    "",
    "x",
    "<b>",
    [],
    [[]],
    {},
    [{}],
]
LEAVES += [{"kind": 3}, {"a": None}, [1, "a"], "\ud800"]


@pytest.mark.parametrize("seed", range(30))
def test_nothing_in_a_run_directory_breaks_the_page(tmp_path, seed):
    rng = random.Random(seed)
    folder = fake_run(
        tmp_path / "r", classes=CLASSES[:4], epochs=2, steps_per_epoch=50, pictures=2, seed=seed
    )
    for name in ("run.json", "provenance.json", "evals/val.json"):
        value = json.loads((folder / name).read_text())
        for _ in range(rng.randrange(1, 6)):
            value = mutate(value, rng)
        (folder / name).write_text(json.dumps(value))
    for name in ("log.jsonl", "speed.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        rows = [mutate(row, rng) if rng.random() < 0.2 else row for row in rows]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder)
    assert "Again" in page.text
    check(compare([folder, folder], tmp_path / "c.html"))


def mutate(value, rng):
    """Return a JSON value with one place replaced by something unexpected."""
    if rng.random() < 0.1 or not isinstance(value, dict | list) or not value:
        return rng.choice(LEAVES)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        return {**value, key: mutate(value[key], rng)}
    place = rng.randrange(len(value))
    return [*value[:place], mutate(value[place], rng), *value[place + 1 :]]


# --------------------------------------------------------------------------------------------------------- size


def test_a_long_run_with_many_large_pictures_stays_small(tmp_path):
    classes = tuple(f"class {i}" for i in range(100))
    folder = fake_run(tmp_path / "r", classes=classes, epochs=50, steps_per_epoch=1000, pictures=24, side=500)
    noise = random.Random(0)
    from PIL import Image

    for file in (folder / "evals" / "val").iterdir():
        Image.frombytes("RGB", (500, 500), noise.randbytes(750_000)).save(file)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for row in rows:
        row["values"] |= {f"metric-{i}": noise.random() for i in range(12)}
        row["values"] |= {f"iou/{i}": noise.random() for i in range(30)}
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder)
    assert page.count("img") == 24
    assert page.count("image") == 1, "a hundred classes are one painted picture"


def test_pictures_shrink_together_and_the_last_ones_go(tmp_path):
    from PIL import Image

    files = []
    for i in range(6):
        files.append(tmp_path / f"{i}.png")
        Image.frombytes("RGB", (400, 300), random.Random(i).randbytes(360_000)).save(files[-1])
    roomy = embed(files, 10_000_000)
    assert {(p.width, p.height) for p in roomy} == {(370, 278)}, "the area of a square of 320"
    tight = embed(files, sum(len(p.uri) for p in roomy) // 2)
    assert len({(p.width, p.height) for p in tight}) == 1
    assert tight[0].width < 370
    assert embed(files, 0) == [None] * 6
    few = embed(files, 12_000)
    assert few[0] is not None
    assert few[-1] is None


def test_a_row_of_pictures_in_one_gets_the_room_of_three(tmp_path):
    from PIL import Image

    for name, size in (("row", (1800, 400)), ("one", (600, 400)), ("strip", (4000, 100))):
        Image.new("RGB", size, (9, 8, 7)).save(tmp_path / f"{name}.png")
    row, one, strip = embed([tmp_path / f"{name}.png" for name in ("row", "one", "strip")], 10_000_000)
    assert (row.wide, one.wide) == (True, False)
    assert row.width * row.height == pytest.approx(one.width * one.height, rel=0.02)
    assert strip.width == 960


def test_small_pictures_keep_their_pixels(tmp_path):
    from PIL import Image

    Image.new("RGB", (32, 32), (9, 8, 7)).save(tmp_path / "a.png")
    picture = embed([tmp_path / "a.png"], 10_000)[0]
    assert picture.small
    assert (picture.width, picture.height) == (32, 32)
    assert picture.uri.startswith("data:image/png")


# ------------------------------------------------------------------------------------------------------- charts


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats()), max_size=60),
    st.sampled_from(["line", "faint", "dots"]),
    st.booleans(),
    st.booleans(),
)
def test_any_curve_can_be_drawn(points, style, log, zero):
    series = [Series("a<b", sorted(points, key=lambda p: p[0]), 3, style)]
    figure = str(chart(series, title="t&t", x_name="epoch", log=log, zero=zero))
    if not any(abs(y) < 1e150 for _, y in points):
        assert figure == ""
        return
    assert "t&amp;t" in figure
    assert "nan" not in figure.split("<svg")[1].split("</svg>")[0].replace("<title>", "")
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", figure):
        assert -1 <= float(x) <= svg.WIDTH + 1
        assert -10 <= float(y) <= svg.HEIGHT + 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5000))
def test_thinning_keeps_ends_and_extremes(values):
    points = [(float(i), v) for i, v in enumerate(values)]
    kept = svg.thin(points, 100)
    assert len(kept) <= max(len(points) if len(points) <= 202 else 0, 202)
    assert kept == sorted(kept, key=lambda p: p[0])
    assert set(kept) <= set(points)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert min(v for _, v in kept) == min(values)
    assert max(v for _, v in kept) == max(values)


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_ticks_are_inside_round_and_told_apart(a, b):
    axis = svg.linear(min(a, b), max(a, b))
    assert 2 <= len(axis.ticks) <= 12 or abs(a - b) < 1e-6 * max(abs(a), abs(b))
    slack = (axis.high - axis.low) * 1e-6
    assert all(axis.low - slack <= t <= axis.high + slack for t in axis.ticks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 20, ["0", "5", "10", "15", "20"]),
        (0.2, 1.0, ["0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 100_000, ["0k", "20k", "40k", "60k", "80k", "100k"]),
        (0.97, 0.9951, ["0.97", "0.98", "0.99"]),
    ],
)
def test_tick_labels(low, high, labels):
    axis = svg.linear(low, high)
    assert [svg.tick(value, axis) for value in axis.ticks] == labels


def test_the_first_losses_do_not_flatten_the_rest():
    points = [(0.0, 900.0), *((float(i), 1.0 + 1.0 / i) for i in range(1, 60))]
    axis = svg.y_axis([v for _, v in points])
    assert axis.high < 5
    assert "2 values above the chart, up to 900.0" in str(chart([Series("l", points)], title="l", x_name="x"))


def test_learning_rates_over_decades_get_a_logarithmic_axis():
    axis = svg.y_axis([0.1, 1e-5], log=True)
    assert axis.log
    assert [svg.tick(t, axis) for t in axis.ticks] == ["1e-05", "0.0001", "0.001", "0.01", "0.1"]
    assert not svg.y_axis([0.1, 0.0], log=True).log


def test_gaps_and_non_finite_values_are_told():
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 3.0), (3.0, 2.0)]
    figure = str(chart([Series("loss", points)], title="loss", x_name="step"))
    assert len(re.findall(r"M[\d.]+ [\d.]+", re.search(r'class="line c0" d="([^"]+)"', figure)[1])) == 2
    assert "1 values are not finite" in figure


# ------------------------------------------------------------------------------------------------------- matrix


def test_confused_pairs_are_ordered_by_count():
    pairs = matrix.confused(["a", "b", "c"], [[5, 1, 0], [4, 0, 4], [0, 9, 1]])
    assert [(p.true, p.taken, p.times) for p in pairs] == [
        ("c", "b", 9),
        ("b", "a", 4),
        ("b", "c", 4),
        ("a", "b", 1),
    ]
    assert pairs[0].share == 0.9


def test_a_heat_map_shows_counts_and_shares():
    figure = str(matrix.heat_map(["cat", "dog"], [[75, 25], [0, 4]]))
    assert "cat taken for dog: 25 (25.0 %)" in figure
    assert re.search(r'class="c1"[^>]*fill-opacity="0.50"', figure)  # the square root of a quarter
    assert figure.count("<rect") == 3, "an empty cell stays empty"


def test_many_classes_become_a_picture_of_one_pixel_each():
    count = 60
    counts = [[1 if i == j else 0 for j in range(count)] for i in range(count)]
    counts[0][1] = 3
    figure = str(matrix.heat_map([str(i) for i in range(count)], counts))
    assert "<rect" not in figure
    import base64

    data = base64.b64decode(re.search(r"base64,([^\"]+)", figure)[1])
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(data)) as image:
        assert image.size == (count, count)
        assert image.getpixel((5, 5))[3] == 255
        assert image.getpixel((6, 5))[3] == 0
        assert image.getpixel((1, 0)) == (*matrix._WRONG, round(255 * 0.75**0.5))
    assert str(matrix.heat_map(["x"] * 101, [[0] * 101] * 101)) == ""


def test_png_is_what_the_standard_says():
    data = matrix.png([b"\x01\x02\x03\x04" * 2, b"\x05\x06\x07\x08" * 2], 2)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (2, 2)
    size = struct.unpack(">I", data[33:37])[0]
    assert (
        zlib.decompress(data[41 : 41 + size])
        == b"\0" + b"\x01\x02\x03\x04" * 2 + b"\0" + b"\x05\x06\x07\x08" * 2
    )


@pytest.mark.parametrize(
    ("classes", "counts"),
    [([], []), (["a"], []), (["a"], [[1, 2]]), (["a"], [[-1]]), (["a"], [[0.5]]), (["a"], [[True]])],
)
def test_what_is_no_matrix_is_refused(classes, counts):
    assert not matrix.is_matrix(classes, counts)


def test_colours_of_the_picture_are_those_of_the_style_sheet():
    style = (Path(svg.__file__).parent / "style.css").read_text()
    light = style.split("@media")[0]
    assert "--c0: #{:02x}{:02x}{:02x};".format(*matrix._RIGHT) in light
    assert "--c1: #{:02x}{:02x}{:02x};".format(*matrix._WRONG) in light


# ----------------------------------------------------------------------------------------------- configuration


def test_a_tree_reads_like_yaml():
    run = {
        "name": "x",
        "task": {"kind": "visloom.tasks.classify:Classify", "classes": ["a", "b"], "net": None},
        "transform": [{"kind": "m:Crop", "size": 3}, {"kind": "m:Flip"}],
        "empty": {},
    }
    shown = [f"{'  ' * line.depth}{line.key} {line.value}".rstrip() for line in tree.lines(run, {})]
    assert shown == [
        "name: x",
        "task: Classify",
        '  classes: ["a", "b"]',
        "  net: null",
        "transform:",
        "  - Crop",
        "    size: 3",
        "  - Flip",
        "empty: {}",
    ]


def test_changes_are_found_by_number_and_by_kind():
    run = {"transform": [{"kind": "m:Crop", "size": 3}], "lr": 0.2, "seed": 1}
    changed = tree.changes(
        ["visloom", "train", "x", "transform.Crop.size=3", "--data=d"], ["lr: 0.1 -> 0.2"], {"seed": 0}
    )
    found = {line.key: line.was for line in tree.lines(run, changed) if line.was}
    assert found == {"size:": "set on the command line", "lr:": "was 0.1", "seed:": "was 0"}
    assert [line.was for line in tree.lines(run, {"transform.0.size": "was 2"})][2] == "was 2"


def test_differences_between_trees():
    a = {"lr": 0.1, "net": {"kind": "m:A"}, "same": [1, 2]}
    b = {"lr": 0.2, "net": {"kind": "m:B", "width": 3}, "same": [1, 2]}
    assert tree.differences([a, b]) == [
        ("lr", ["0.1", "0.2"]),
        ("net.kind", ["m:A", "m:B"]),
        ("net.width", ["", "3"]),
    ]


# ------------------------------------------------------------------------------------------------------ compare


def test_several_runs_on_one_page(run, tmp_path):
    other = fake_run(tmp_path / "cifar10-001", epochs=4, steps_per_epoch=100, lr=0.4, seed=7)
    path = compare([run, other])
    assert path == run.parent / "compare-cifar10-000-cifar10-001.html"
    page = check(path)
    assert "2 runs compared" in page.text
    assert "has the highest val accuracy" in page.text
    assert "optim.lr 0.1 0.4" in page.text
    assert "length epochs:6 epochs:4" in page.text
    text = path.read_text()
    loss = next(f for f in re.findall(r'<figure class="chart">.*?</figure>', text, re.S) if "val loss" in f)
    assert 'class="line c0"' in loss
    assert 'class="line c1"' in loss


def test_comparing_needs_two_runs(run):
    with pytest.raises(UsageError, match="at least two"):
        compare([run])


# --------------------------------------------------------------------------------------------------------- read


def test_time_is_that_of_all_processes_together(tmp_path):
    rows = [
        {"kind": "start", "step": 0, "time": 100.0, "setup": 10.0},
        {"kind": "point", "step": 5, "time": 150.0, "cpu_seconds": 80.0},
        {"kind": "start", "step": 4, "time": 1000.0, "setup": 5.0, "cpu_seconds": 3.0},
        {"kind": "point", "step": 5, "time": 1010.0, "images_per_second": 3.0},
        {"kind": "end", "step": 5, "time": 1020.0, "cpu_seconds": 31.5},
    ]
    (tmp_path / "speed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = open_record(tmp_path)
    assert record.seconds == 60.0 + 25.0
    assert record.cpu_seconds == 80.0 + 31.5
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "CPU time" in page and "1m52s" in page
    assert record.pace_curve("images_per_second") == [(5.0, 3.0)]


@pytest.mark.parametrize("monitor", ["max accuracy", "max val/accuracy"])
def test_the_best_value_follows_the_monitor(tmp_path, monitor):
    run = {"evals": {"test": {"monitor": None}, "val": {"monitor": monitor}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    rows = []
    for step, value in ((1, 0.5), (2, 0.75), (3, 0.7)):
        rows.append(
            {"kind": "eval", "split": "test", "step": step, "epoch": step / 1, "values": {"accuracy": 1.0}}
        )
        rows.append(
            {"kind": "eval", "split": "val", "step": step, "epoch": step / 1, "values": {"accuracy": value}}
        )
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = open_record(tmp_path).best
    assert (best.split, best.name, best.value, best.step) == ("val", "accuracy", 0.75, 2)


def test_an_evaluation_with_nothing_to_count_is_not_drawn(run, tmp_path):
    """One that reports a value as NaN every time, beside another that has it."""
    place = tmp_path / "r"
    shutil.copytree(run, place)
    log = place / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    other = [
        {**r, "split": "other", "values": dict.fromkeys(r["values"], "NaN")}
        for r in rows
        if r["kind"] == "eval"
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *other]))
    assert "not finite" not in write_report(place).read_text()
    alone = [r for r in rows if r["kind"] != "eval"] + other
    log.write_text("".join(json.dumps(row) + "\n" for row in alone))
    page = write_report(place).read_text()
    assert "not finite" in page  # the loss
    assert "no labels in other" in page  # the accuracy, which training alone has
    told = json.loads((place / "evals" / "val.json").read_text())
    told["values"] = {**told["values"], "accuracy": None}
    (place / "evals" / "val.json").write_text(json.dumps(told))
    assert "<dt>no labels for</dt><dd>accuracy</dd>" in write_report(place).read_text()
