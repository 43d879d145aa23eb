"""The report: complete for a whole run, whole for a part of one, safe for any text, and alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from ssgear.errors import ArgumentError, CheckpointError
from ssgear.methods.base import Card, Figure
from ssgear.report import charts, plots
from ssgear.report.contents import Contents, Map, Neighbours, Pixels, Views
from ssgear.report.pictures import MAX_ROWS
from ssgear.report.plots import project_2d
from ssgear.report.reading import read_run
from ssgear.report.report import write_report
from ssgear.report.verdict import judge, standard_error

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "circle"}
EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'&lt;"
CLASSES = ("cat", "dog", "owl")
CONFIG = {
    "method_name": "simclr",
    "method": {"temperature": 0.2, "projector_dims": [64, 16]},
    "seed": 3,
    "data": {"source": "auto", "path": None},
    "model": {"name": "resnet_tiny"},
    "optim": {"epochs": 8, "batch_size": 32, "max_steps": None},
    "eval": {"final": True},
}
CARD = Card(title="SimCLR")
SUMMARY = {
    "linear_probe": 0.51,
    "linear_probe_top5": 0.93,
    "knn": 0.48,
    "baselines": {
        "untrained": {"linear_probe": 0.33, "knn": 0.31},
        "pixels": {"linear_probe": 0.34, "knn": 0.29},
    },
    "versions": {"torch": "2.15.0"},
    "device": "two cores",
    "wall_time_s": 161.4,
    "num_train": 4000,
    "num_test": 1000,
    "classes": list(CLASSES),
    "source": "mini",
    "bad_files": [{"path": "a/b.jpg", "reason": "truncated"}, ["c.jpg", "no image"], "d.jpg"],
}


class Page(HTMLParser):
    """A page as a tree walk: every tag closed in order, its attributes and text kept."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def lines(
    *, epochs: int = 8, labelled: bool = True, collapsed: bool = False
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in range(1, 10 * epochs + 1):
        train = {"kind": "train", "step": step, "epoch": step / 10, "images_seen": 32 * step}
        found.append(
            train | {"loss": 5 - step / 50, "lr": 0.1 / step, "images_per_second": 900.0 + step}
        )
        if step % 10 == 0:
            health = {"alignment": 1 / step, "uniformity": -2.0, "effective_rank": 3 + step / 10}
            reading = {"kind": "eval", "step": step, "epoch": step // 10, "collapsed": collapsed}
            found.append(reading | health | ({"knn": 0.3 + step / 1000} if labelled else {}))
    return [*found, {"kind": "note", "step": 1, "message": "ranks keep their own statistics"}]


def make_run(
    path: Path,
    *,
    config: dict[str, Any] | None = CONFIG,
    metrics: list[dict[str, Any]] | None = None,
    summary: dict[str, Any] | None = SUMMARY,
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    written = lines() if metrics is None else metrics
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "encoder.safetensors").write_bytes(b"")
    return path


def make_contents(*, labelled: bool = True, names: tuple[str, ...] = CLASSES) -> Contents:
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> Pixels:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    near = [[names[(i + j) % 3] for j in range(5)] for i in range(3)]
    return Contents(
        card=CARD,
        views=Views(rows=pixels(4, 3, 32, 32, 3)),
        neighbours=Neighbours(
            queries=pixels(3, 32, 32, 3),
            neighbours=pixels(3, 5, 32, 32, 3),
            query_labels=list(names) if labelled else None,
            neighbour_labels=near if labelled else None,
            similarities=[[0.9 - 0.1 * j for j in range(5)] for _ in range(3)],
        ),
        map=Map(
            xy=rng.normal(size=(60, 2)),
            labels=np.arange(60) % 3 if labelled else None,
            classes=names if labelled else None,
            thumbnails=pixels(60, 32, 32, 3),
        ),
    )


def read(run: Path, contents: Contents) -> Page:
    path = write_report(run, contents)
    assert path == run / "report.html"
    assert [entry.name for entry in run.iterdir() if "partial" in entry.name] == []
    return Page(path.read_text(encoding="utf-8"))


def test_whole_run(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run-1"), make_contents())
    ids = page.values("id")
    wanted = "figures curves health views neighbours map use configuration versions bad-files notes"
    assert [name for name in ids if name in wanted.split()] == wanted.split()
    for words in (
        "SimCLR trained a resnet_tiny on 4,000 images of mini , without their labels, for 8 epochs",
        "2 min 41 s",
        "Seed 3",
        "51.0 %",
        "+18.0 points over untrained encoder",
        "+17.0 points over raw pixels",
        "± 1.6 standard error",
        "33.3 %",  # chance, three classes
        "No collapse",
        "The loss fell",
        "Training helped",
        "its 2 views",
        "6 of the 15 shown (40.0 %)",
        "cat 20",
        'load_encoder("run-1")',
        "python -m ssgear.evaluate run-1",
        "--resume run-1",
        "--method.projector-dims 64 16",
        "--data.path not set",
        "torch 2.15.0",
        "3 files were skipped",
        "a/b.jpg truncated",
        "c.jpg no image",
        "ranks keep their own statistics",
    ):
        assert words in page.words, words
    assert sum(value == "chart large" for value in page.values("class")) == 2
    assert sum(value == "chart " for value in page.values("class")) == 5
    assert sum(value == "right" for value in page.values("class")) == 6
    assert sum(value == "wrong" for value in page.values("class")) == 9
    assert sum(value.startswith("symbol bad") for value in page.values("class")) == 9


def test_the_page_is_alone_and_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    contents = replace(
        make_contents(),
        views=Views(rows=rng.integers(0, 256, (40, 11, 224, 224, 3), dtype=np.uint8)),
        map=Map(
            xy=rng.normal(size=(4000, 2)),
            labels=rng.integers(0, 200, 4000),
            classes=tuple(f"class number {i}" for i in range(200)),
            thumbnails=np.repeat(
                rng.integers(0, 256, (4000, 8, 8, 3), dtype=np.uint8), 8, 1
            ).repeat(8, 2),
        ),
    )
    metrics = [line | {"step": 80 * i + line["step"]} for i in range(60) for line in lines()]
    run = make_run(tmp_path / "run", metrics=metrics)
    page = read(run, contents)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert len(html) < 3_000_000, len(html)
    assert html.count("<img") < 40 * 11
    outside = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "background")
    for tag, name, value in page.attributes:
        if name in outside:
            assert value.startswith(("data:", "#")), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"data:[^\"]*", "", html))
    policy = next(value for value in page.values("content") if "default-src" in value)
    script = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1 and f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("missing", ["views", "neighbours", "map", "all"])
def test_missing_contents(tmp_path: Path, missing: str) -> None:
    contents = Contents() if missing == "all" else replace(make_contents(), **{missing: None})
    page = read(make_run(tmp_path / "run"), contents)
    for section in ("views", "neighbours", "map"):
        assert (section in page.values("id")) == (missing not in (section, "all"))
        assert (f"#{section}" in page.values("href")) == (missing not in (section, "all"))


def test_empty_contents_are_missing_contents(tmp_path: Path) -> None:
    contents = Contents(
        views=Views(rows=np.zeros((0, 3, 8, 8, 3), np.uint8)),
        neighbours=Neighbours(
            queries=np.zeros((0, 8, 8, 3), np.uint8),
            neighbours=np.zeros((0, 5, 8, 8, 3), np.uint8),
            similarities=[],
        ),
        map=Map(xy=np.full((2, 2), np.nan)),
    )
    page = read(make_run(tmp_path / "run"), contents)
    assert not {"views", "neighbours", "map"} & set(page.values("id"))


def test_missing_files(tmp_path: Path) -> None:
    page = read(tmp_path, Contents())
    assert "No figure was measured" in page.words
    assert "Too few figures for a verdict" in page.words
    assert "not a number" not in page.words and "None" not in page.words


@pytest.mark.parametrize("count", [5, 6])
def test_top5_is_told_where_it_can_be_wrong(count: int, tmp_path: Path) -> None:
    summary = SUMMARY | {"classes": [f"class {each}" for each in range(count)]}
    page = read(make_run(tmp_path / "run", summary=summary), Contents())
    assert ("Top-5: 93.0 %" in page.words) == (count > 5)


def test_map_of_two_numbers_is_no_projection(tmp_path: Path) -> None:
    contents = make_contents()
    assert "(t-SNE). Distances between" in read(make_run(tmp_path / "run"), contents).words
    assert contents.map is not None
    plane = replace(contents, map=replace(contents.map, projected=False))
    words = read(make_run(tmp_path / "other"), plane).words
    assert "60 test images, where the encoder puts them: its features are two numbers." in words
    assert "t-SNE" not in words and "placed so that" not in words


def test_unlabelled_run(tmp_path: Path) -> None:
    accuracies = ("linear_probe", "linear_probe_top5", "knn", "baselines", "classes")
    summary = {key: value for key, value in SUMMARY.items() if key not in accuracies}
    run = make_run(tmp_path / "run", metrics=lines(labelled=False), summary=summary)
    page = read(run, make_contents(labelled=False))
    assert "these figures need none" in page.words
    assert "Effective rank 11" in page.words
    assert "kNN" not in page.words and "chance" not in page.words
    assert "without their labels" not in page.words
    assert not {"right", "wrong", "legend"} & set(page.values("class"))
    assert "points" not in page.words


def test_interrupted_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", metrics=lines(epochs=5), summary=None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 51, "lo')
    (run / "checkpoints").mkdir()
    page = read(run, Contents())
    assert "was training a resnet_tiny on the embedded images when the run stopped" in page.words
    assert "after 5 of 8 epochs" in page.words
    assert "The run is not finished" in page.words
    assert "as last read during training" in page.words
    assert "--resume run" in page.words and "load_encoder" not in page.words
    (run / "checkpoints").rmdir()
    assert "--resume" not in read(run, Contents()).words


def test_a_run_without_final_evaluation_is_finished(tmp_path: Path) -> None:
    config = CONFIG | {"eval": {"final": False}}
    run = make_run(tmp_path / "run", config=config, summary=None)
    assert read_run(run).finished
    config = config | {"optim": {"epochs": 80, "max_steps": 80}}
    assert read_run(make_run(tmp_path / "steps", config=config, summary=None)).finished
    config = config | {"optim": {"epochs": 80, "max_steps": 81}}
    assert not read_run(make_run(tmp_path / "less", config=config, summary=None)).finished


def test_text_of_the_user_is_text(tmp_path: Path) -> None:
    names = (EVIL, EVIL + "2", "owl")
    evil: dict[str, Any] = {
        "config": CONFIG | {"method_name": EVIL, EVIL: EVIL, "data": {EVIL: [EVIL], "path": EVIL}},
        "metrics": [line | {EVIL: 1.0} for line in lines()]
        + [{"kind": "note", "step": 1, "message": EVIL}],
        "summary": SUMMARY
        | {"classes": list(names), "source": EVIL, "device": EVIL, "versions": {EVIL: EVIL}}
        | {"bad_files": [{"path": EVIL, "reason": EVIL}]},
    }
    run = make_run(tmp_path / "a '<b>&\" $(id)", **evil)
    page = read(run, make_contents(names=names))
    assert page.words.count("alert(1)") > 10
    assert {tag for tag, _, value in page.attributes if "alert" in value} <= {
        "div", "img", "svg", "span", "g"
    }  # fmt: skip
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.count("<script>") == 1 and html.count("<script") == 1
    assert "<img src=x" not in html and '<b>&"' not in html
    assert "{{ 7 * 7 }}" in page.words
    assert "--resume 'a '\"'\"'<b>&\" $(id)'" in page.words  # one word for a shell
    assert 'load_encoder("a \'<b>&\\" $(id)")' in page.words


def test_numbers_that_are_none(tmp_path: Path) -> None:
    metrics = lines()
    for line, value in zip(
        metrics[40:46], (math.nan, None, math.inf, -math.inf, "?", True), strict=True
    ):
        if line["kind"] == "train":
            line["loss"] = value
    summary = SUMMARY | {"knn": None, "wall_time_s": math.nan, "num_test": None}
    run = make_run(tmp_path / "run", metrics=metrics, summary=summary)
    page = read(run, make_contents())
    assert "The loss was not a finite number" in page.words
    assert "missing" in page.values("class")
    for points in page.values("data-points"):
        json.loads(points, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert not re.search(r"\b(nan|inf)\b", " ".join(page.values("d")), re.I)
    page = read(
        make_run(tmp_path / "all", metrics=[line | {"loss": None} for line in lines()]), Contents()
    )
    assert "Loss" not in page.words.split("Curves")[2]


def test_collapse_is_told_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", metrics=lines(collapsed=True))
    verdict = judge(read_run(run), CARD)
    assert (verdict.level, verdict.headline) == ("bad", "The features have collapsed")
    assert "The features have collapsed" in read(run, Contents()).words.split("Curves")[0]
    passed = lines()
    next(line for line in passed if line.get("epoch") == 3 and "collapsed" in line)["collapsed"] = (
        True
    )
    findings = judge(read_run(make_run(run, metrics=passed)), CARD).findings
    assert findings[0].level == "warn" and "epoch 3" in findings[0].text


@pytest.mark.parametrize(
    ("trained", "count", "level"),
    [(0.40, 1000, "good"), (0.36, 1000, "warn"), (0.20, 1000, "bad"), (0.20, None, "warn")],
)
def test_gain_is_held_against_noise(
    tmp_path: Path, trained: float, count: int | None, level: str
) -> None:
    run = make_run(tmp_path / "run", summary=SUMMARY | {"linear_probe": trained, "num_test": count})
    gain = next(f for f in judge(read_run(run), CARD).findings if "better baseline" in f.text)
    assert gain.level == level, gain
    assert f"{abs(100 * (trained - 0.34)):.1f} points" in gain.text


def test_a_method_is_judged_by_its_own_figure(tmp_path: Path) -> None:
    baselines = {"untrained": {"linear_probe": 0.95, "shift_knn": 0.4}, "pixels": {}}
    own = {"judged_by": "shift_knn", "shift_knn": 0.99, "baselines": baselines, "num_test": 1000}
    title = "Shift of a moved image, by its nearest neighbours"
    card = Card(figures={"shift_knn": Figure(title=title)})
    findings = judge(read_run(make_run(tmp_path / "run", summary=SUMMARY | own)), card).findings
    gain = next(found for found in findings if found.title == "Training helped")
    expected = f"{title}: 59.0 points over the untrained"
    assert gain.text.startswith(expected) and "better baseline" not in gain.text
    assert not any("kNN" in found.title for found in findings)


def test_standard_error_is_that_of_a_binomial() -> None:
    draws = np.random.default_rng(0).binomial(400, 0.3, size=200_000) / 400
    assert standard_error(0.3, 400) == pytest.approx(draws.std(), rel=0.01)
    assert math.isnan(standard_error(0.3, math.nan))


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_files_that_are_not_json_objects(tmp_path: Path, name: str, text: str) -> None:
    (make_run(tmp_path / "run") / name).write_text(text)
    with pytest.raises(CheckpointError, match=name):
        write_report(tmp_path / "run", Contents())


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run"):
        write_report(tmp_path / "nothing", Contents())


def test_views_and_sizes(tmp_path: Path) -> None:
    views = Views(rows=np.zeros((MAX_ROWS + 3, 10, 96, 80, 3), np.uint8))
    page = read(make_run(tmp_path / "run"), replace(make_contents(), views=views))
    assert sum(value.startswith("original") for value in page.values("alt")) == MAX_ROWS
    assert "its 9 views" in page.words and "(8 are shown)" in page.words
    assert "views many" in page.values("class")
    shapes = {(w, h) for w, h in zip(page.values("width"), page.values("height"), strict=True)}
    assert shapes == {("80", "96"), ("32", "32")}


def test_smaller_views_are_drawn_smaller(tmp_path: Path) -> None:
    contents = make_contents()
    assert "drawn smaller" not in read(make_run(tmp_path / "plain"), contents).words
    sides = (32, 32, 14)
    views = Views(
        rows=[[np.zeros((side, side, 3), np.uint8) for side in sides]] * 2,
        stored=np.array([[False, True], [False, False]]),
    )
    page = read(make_run(tmp_path / "run"), replace(contents, views=views))
    assert "drawn smaller" in page.words and "its 2 views" in page.words
    shapes = zip(page.values("width"), page.values("height"), strict=True)
    assert sum(shape == ("14", "14") for shape in shapes) == 2
    assert page.values("style").count("width: 44%") == 2


def test_stored_views_are_marked(tmp_path: Path) -> None:
    contents = make_contents()
    page = read(make_run(tmp_path / "plain"), contents)
    assert "dashed frame" not in page.words and "small stored" not in page.values("class")
    stored = np.array([[False, True], [True, True], [False, False], [False, True]])
    assert contents.views is not None
    mixed = replace(contents, views=replace(contents.views, stored=stored))
    page = read(make_run(tmp_path / "mixed"), mixed)
    assert "With a dashed frame, views of a stored generated image" in page.words
    texts = page.values("alt")
    assert page.values("class").count("small stored") == 4
    marked = [text for text in texts if text.endswith("of a stored generated image")]
    assert marked == [f"view {n}, of a stored generated image" for n in (2, 1, 2, 2)]
    assert texts.count("view 1") == 3 and texts.count("view 2") == 1


def test_ticks_hold_the_data() -> None:
    rng = np.random.default_rng(0)
    for low, width in zip(
        rng.normal(size=300) * 10 ** rng.uniform(-6, 6, 300),
        10 ** rng.uniform(-6, 6, 300),
        strict=True,
    ):
        ticks = charts.nice_ticks(low, low + width)
        assert ticks[0] <= low + 1e-6 * width and ticks[-1] >= low + width * (1 - 1e-6)
        assert 2 <= len(ticks) <= 7
    assert charts.nice_ticks(0, 7, 5, whole=True) == [0, 2, 4, 6, 8]
    assert len(charts.nice_ticks(3.0, 3.0)) > 1 and len(charts.nice_ticks(0.0, 0.0)) > 1


def test_long_curves_are_thinned_with_their_extremes() -> None:
    x = np.arange(5000.0)
    y = np.sin(x / 300)
    y[1234] = 9.0
    chart = charts.line_chart("c", x.tolist(), y.tolist())
    assert chart is not None and len(chart.points) == charts.MAX_BUCKETS
    heights = [float(number) for number in re.findall(r"[ML][\d.]+ (-?[\d.]+)", chart.band)]
    assert min(heights) == pytest.approx(1000 * (10 - 9) / 15, abs=0.1)  # the outlier; axis -5..10
    assert charts.line_chart("c", [1.0], [math.nan]) is None
    assert charts.line_chart("c", [0.0], [3.0]) is not None


def test_names_of_references_do_not_meet() -> None:
    references = [("a", 30.2, "x"), ("b", 29.1, "x"), ("c", 10.0, "x"), ("d", math.nan, "x")]
    chart = charts.line_chart("k", [0, 1], [20, 50], from_zero=True, references=references)
    assert chart is not None
    edges = sorted(line.label_at for line in chart.references)
    assert len(edges) == 3 and min(b - a for a, b in pairwise(edges)) >= 7.5 - 0.6


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (4.5608, "4.561"), (1000, "1000"), (9999.6, "10000"), (12345, "12.35k"),
     (999_999, "1000k"), (2.5e6, "2.500e6"), (1e-4, "0.0001"), (2e-5, "2e-05"),
     (math.nan, "not a number"), (-math.inf, "-infinite")],
)  # fmt: skip
def test_number_text(value: float, text: str) -> None:
    assert charts.number_text(value) == text
    assert charts.number_text(1000, 3) == "1000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (161.4, "2 min 41 s"),
        (11_100, "3 h 5 min"),
        (math.nan, ""),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert charts.duration(seconds) == text


def test_scatter_keeps_shape_and_counts() -> None:
    xy = np.array([[0.0, 0.0], [2.0, 8.0], [1.0, 4.0], [np.nan, 1.0]])
    plot = plots.scatter(xy, [0, 0, 11, 1], ("a", "b"))
    assert plot is not None and plot.dropped == 1 and plot.height == plots.MIN_HEIGHT
    assert [(g.name, g.count, g.square) for g in plot.groups] == [
        ("a", 2, False),
        ("class 11", 1, True),
    ]
    (x0, y0, *_), (x1, y1, *_), (_, _, image, group) = plot.points
    assert abs(x1 - x0) == pytest.approx(4 * abs(y1 - y0), abs=2)  # turned on its side
    assert (image, group) == (2, 1)
    assert all(0 <= x <= 1000 and 0 <= y <= plot.height for x, y, *_ in plot.points)


def clusters(count: int, *, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return rng.normal(size=(4, 17))[labels] + 0.3 * rng.normal(size=(count, 17)), labels


def divergence(joint: np.ndarray[Any, Any], xy: np.ndarray[Any, Any]) -> float:
    near = 1 / (1 + ((xy[:, None] - xy[None]) ** 2).sum(axis=2))
    np.fill_diagonal(near, 0)
    share = near / near.sum()
    kept = joint > 0
    return float((joint[kept] * np.log(joint[kept] / share[kept])).sum())


def test_projection_is_as_good_as_that_of_scikit_learn() -> None:
    features, labels = clusters(201)
    xy = project_2d(features)
    assert xy.shape == (201, 2) and xy.dtype == np.float32
    near = NearestNeighbors(n_neighbors=2).fit(xy).kneighbors(xy)[1][:, 1]
    assert (labels[near] == labels).mean() > 0.98
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    joint = plots.affinities(rows)
    assert joint.sum() == pytest.approx(1) and np.allclose(joint, joint.T)
    peer = TSNE(perplexity=30, method="exact", random_state=0, max_iter=1000).fit(rows)
    ours = divergence(joint, xy.astype(np.float64))
    theirs = divergence(joint, peer.embedding_.astype(np.float64))
    assert peer.kl_divergence_ == pytest.approx(theirs, rel=0.02)  # the same affinities
    assert ours < 1.05 * theirs, (ours, theirs)


def test_projection_repeats_itself() -> None:
    features = clusters(57)[0].astype(np.float32)
    threads = torch.get_num_threads()
    first = project_2d(features)
    assert torch.get_num_threads() == threads
    assert np.array_equal(first, project_2d(features))
    assert np.array_equal(first, project_2d(torch.from_numpy(features).requires_grad_()))
    torch.set_num_threads(2)
    try:
        assert np.array_equal(first, project_2d(features))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (2, 1), (9, 3), (10, 1), (23, 2)])
def test_projection_of_few_points(shape: tuple[int, int]) -> None:
    xy = project_2d(np.random.default_rng(0).normal(size=shape))
    assert xy.shape == (shape[0], 2) and np.isfinite(xy).all()


def test_projection_of_collapsed_and_broken_features() -> None:
    assert np.array_equal(project_2d(np.ones((40, 8))), np.zeros((40, 2)))
    few = np.repeat(np.random.default_rng(0).normal(size=(3, 8)), 20, axis=0)
    assert np.isfinite(project_2d(few)).all()
    features = clusters(30)[0]
    features[[3, 7], 2] = np.nan, np.inf
    xy = project_2d(features)
    assert np.flatnonzero(~np.isfinite(xy).all(axis=1)).tolist() == [3, 7]
    with pytest.raises(ArgumentError, match=r"at most 1500"):
        project_2d(np.zeros((1501, 2)))
    with pytest.raises(ArgumentError, match=r"\[n, F\]"):
        project_2d(np.zeros(7))


@pytest.mark.parametrize(
    ("found", "level", "title"),
    [
        ({"critic": "blind"}, "warn", "The critic has failed"),
        ({"critic": "won", "collapsed": False}, "warn", "The critic has failed"),
        ({"critic": "exploded", "collapsed": True}, "bad", "The generator has collapsed"),
        ({"critic": "fine", "collapsed": False}, None, None),
        ("not an object", None, None),
    ],
)
def test_the_verdict_on_a_game(
    found: object, level: str | None, title: str | None, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", summary=SUMMARY | {"generator": found})
    findings = {each.title: each for each in judge(read_run(run), CARD).findings}
    games = [name for name in findings if "critic" in name or "generator" in name]
    assert games == ([] if title is None else [title])
    if title is not None:
        assert findings[title].level == level
