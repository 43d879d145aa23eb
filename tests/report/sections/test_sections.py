"""Sections of the evaluation: the page says what was handed over, whatever its size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from ssgear.report.contents import (
    Confusion,
    Contents,
    Invariance,
    LabelCurve,
    LabelPoint,
    Pictures,
    Pixels,
    Retrieval,
    Similarity,
)
from ssgear.report.report import write_report
from ssgear.report.sections.heat_map import MAX_CELLS, MAX_PAIRS, confusions, similarities
from ssgear.report.sections.time import time_parts
from ssgear.report.series import Series, series_chart
from tests.report.test_report import CLASSES, EVIL, SUMMARY, Page, make_contents, make_run

RNG = np.random.default_rng(3)


def pixels(*shape: int, side: int = 9) -> Pixels:
    return RNG.integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)


def read(folder: Path, contents: Contents, **summary: object) -> Page:
    run = make_run(folder, summary={**SUMMARY, **summary})
    return Page(write_report(run, contents).read_text(encoding="utf-8"))


def some_retrieval(names: tuple[str, ...] = CLASSES, side: int = 9) -> Retrieval:
    labels = [names[row % len(names)] for row in range(6)]
    return Retrieval(
        queries=pixels(6, side=side),
        neighbours=pixels(6, 4, side=side),
        similarities=[[0.9, 0.8, 0.7, 0.6]] * 6,
        query_labels=labels,
        neighbour_labels=[[label, names[0], label, names[1]] for label in labels],
        kinds=["best", "best", "typical", "typical", "worst", "worst"],
        average_precisions=[0.91, 0.905, 0.31, 0.3, 0.02, 0.01],
        mean_average_precision=0.2345,
        interval=(0.2301, 0.2398),
        precision_at={1: 0.41, 5: 0.352},
        recall_at={1: 0.0041, 5: 0.0173},
        hit_at={1: 0.41, 5: 0.713},
        num_queries=1003,
    )


def test_confusions_equal_scikit_learn() -> None:
    true, predicted = RNG.integers(0, 7, 501), RNG.integers(0, 7, 501)
    names = tuple("abcdefg")
    part = confusions([Confusion(matrix=confusion_matrix(true, predicted), classes=names)])[0]
    shares = confusion_matrix(true, predicted, normalize="true")
    for row, column in np.ndindex(7, 7):
        cell = part.map.cells[row][column]
        assert cell.text == f"{100 * shares[row, column]:.0f}"
        assert cell.is_diagonal == (row == column)
    assert part.accuracy == f"{100 * (true == predicted).mean():.1f} %"
    assert part.num_images == 501
    worst = np.where(np.eye(7) > 0, 0, shares)
    row, column = np.unravel_index(worst.argmax(), worst.shape)
    assert (part.pairs[0].true, part.pairs[0].predicted) == (names[row], names[column])
    assert part.pairs[0].count == ((true == row) & (predicted == column)).sum()


@pytest.mark.parametrize("count", [MAX_CELLS, MAX_CELLS + 1, 200, 1000])
def test_a_matrix_of_many_classes_is_a_picture_and_a_table(count: int) -> None:
    matrix = np.eye(count, dtype=np.int64) * 5
    matrix[3, 1] = 20
    matrix[2] = 0  # a class without a test image is not missed
    names = [f"class {number}" for number in range(count)]
    part = confusions([Confusion(matrix=matrix, classes=names)])[0]
    assert (part.map.picture is None) == (count <= MAX_CELLS)
    assert len(part.pairs) == 1 and part.pairs[0].share == "80.0 %"
    assert len(part.pairs) <= MAX_PAIRS
    if count > MAX_CELLS:
        assert part.missed[0] == ("class 3", "20.0 %", 25)
        assert part.map.picture is not None and part.map.picture.width <= 512


def test_confusions_of_no_image_are_left_out() -> None:
    assert confusions([Confusion(matrix=np.zeros((3, 3), np.int64), classes=CLASSES)]) == []


def test_the_page_has_every_section_and_its_numbers(tmp_path: Path) -> None:
    points = [LabelPoint(share=0.01, num_labels=40, accuracy=0.213, interval=(0.2, 0.226)),
              LabelPoint(share=1.0, num_labels=4000, accuracy=0.512)]  # fmt: skip
    base = make_contents()
    assert base.neighbours is not None
    contents = replace(
        base,
        neighbours=replace(base.neighbours, overall=0.3307, num_queries=1003),
        confusions=[Confusion(matrix=np.array([[8, 2, 0], [1, 9, 0], [0, 0, 5]]), classes=CLASSES)],
        retrieval=some_retrieval(),
        label_curves=[LabelCurve(points=points, baselines={"untrained": points[:1]})],
        similarities=[Similarity(matrix=np.array([[1.0, 0.25]]), rows=["stem"],
                                 columns=["stem", "head"], title="this run and another")],
        invariance=Invariance(curves={"blur": [(0.0, 1.0), (1.0, 0.62)]}),
        pictures=[Pictures(title="Attention", rows=pixels(2, 3), columns=["image", "a", "b"])],
    )  # fmt: skip
    details = {"linear_probe": {"interval": [0.479, 0.541], "num_train": 50_000, "num_test": 1003,
                                "values": [0.5, 0.52], "deviation": 0.01}}  # fmt: skip
    page = read(tmp_path / "run", contents, details=details, time_s={"data": 30.0, "encoder": 90.0})
    ids = page.values("id")
    for name in ("retrieval", "confusion", "labels", "invariance", "similarity", "time"):
        assert name in ids, name
    for words in (
        "33.1 % of the 5 nearest training images have the class of their query, over all 1,003",
        "23.4 % mean average precision (95 % interval 23.0 to 24.0 %), over all 1,003 queries",
        "5 35.2 % 1.7 % 71.3 %",
        "best and worst: the queries of highest and lowest average precision",
        "AP 91.0 %",
        "88.0 % of 25 test images are right",
        "40 1 % 21.3 % 20.0 to 22.6 % 21.3 %",
        "stem 1.00 0.25",
        "blur 0.62",
        "Attention",
        "95 % interval 47.9 to 54.1 %",
        "learned from 50,000 training images, tested on 1,003",
        "mean of 2 seeds, standard deviation 1.0",
        "Data 30 s 25.0 %",
        "Encoder 1 min 30 s 75.0 %",
    ):
        assert words in page.words, words


def test_without_them_the_page_has_none_of_these_sections(tmp_path: Path) -> None:
    page = read(tmp_path / "run", Contents())
    sections = {"retrieval", "confusion", "labels", "invariance", "similarity", "time"}
    assert not sections & set(page.values("id"))
    assert "± 1.6 standard error" in page.words


def test_any_text_is_escaped(tmp_path: Path) -> None:
    contents = Contents(
        confusions=[Confusion(matrix=np.eye(3, dtype=np.int64), classes=[EVIL] * 3, title=EVIL)],
        retrieval=replace(some_retrieval((EVIL, "b")), rule=EVIL),
        label_curves=[
            LabelCurve(points=[LabelPoint(share=1.0, num_labels=3, accuracy=0.1)], title=EVIL)
        ],
        similarities=[Similarity(matrix=np.eye(1), rows=[EVIL], columns=[EVIL], title=EVIL)],
        invariance=Invariance(curves={EVIL: [(0.0, 1.0)]}, measure=EVIL),
        pictures=[Pictures(title=EVIL, text=EVIL, rows=pixels(1, 1), columns=[EVIL])],
    )
    page = read(tmp_path / "run", contents, time_s={EVIL: 3.0})
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert EVIL in " ".join(page.text)


def test_the_largest_page_stays_below_five_megabytes(tmp_path: Path) -> None:
    names = tuple(f"class number {number}" for number in range(200))
    contents = replace(
        make_contents(),
        retrieval=some_retrieval(names, side=224),
        confusions=[Confusion(matrix=RNG.integers(0, 9, (200, 200)), classes=names)] * 2,
        pictures=[Pictures(title="Attention", rows=pixels(20, 9, side=224))] * 9,
    )
    path = write_report(make_run(tmp_path / "run"), contents)
    assert path.stat().st_size < 5_000_000


def test_similarity_and_distance_are_strong_where_layers_are_close() -> None:
    matrix = np.array([[1.0, 0.2, np.nan]])
    parts = similarities([
        Similarity(matrix=matrix, rows=["a"], columns=["a", "b", "c"], title="cka"),
        Similarity(matrix=1 - matrix, rows=["a"], columns=["a", "b", "c"], title="opd",
                   measure="OPD", is_distance=True),
    ])  # fmt: skip
    levels = [[cell.level for cell in part.map.cells[0]] for part in parts]
    assert levels[0] == [100, 20, 0]
    assert levels[1][0] == 100 and levels[1][1] == 0
    assert parts[0].map.cells[0][2].text == "-"


def test_times_that_are_no_numbers_are_left_out() -> None:
    parts = time_parts({"encoder": 3.0, "data": 1.0, "loss": 0, "saving": None, "mine": 4.0})
    assert [(part.key, part.time, part.share) for part in parts] == [
        ("data", "1.0 s", 12.5), ("encoder", "3.0 s", 37.5), ("mine", "4.0 s", 50.0),
    ]  # fmt: skip
    assert time_parts(None) == [] and time_parts({}) == []


def test_series_on_a_logarithmic_axis() -> None:
    chart = series_chart(
        "t", [Series(name="a", x=[0, 10, 100, 1000], y=[5, 1, 2, 3], low=[0, 0, 1, 2],
                     high=[9, 2, 3, 4])], x_name="n", log_x=True,
    )  # fmt: skip
    assert chart is not None
    across = [point[0] for point in chart.points]
    assert len(across) == 3  # there is no place for x = 0
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert chart.curves[0].bars.count("M") == 3
    assert [tick.label for tick in chart.x_ticks] == ["10", "100", "1000"]
    assert chart.points[1][2] == "a, n 100: 2 (1 to 3)"


def test_series_without_a_finite_point() -> None:
    assert series_chart("t", [Series(name="a", x=[1.0], y=[float("nan")])], x_name="n") is None
    assert series_chart("t", [], x_name="n") is None


def test_a_long_series_is_shortened() -> None:
    x = list(range(5000))
    chart = series_chart("t", [Series(name="a", x=x, y=x)], x_name="n")
    assert chart is not None and len(chart.points) == 240
    assert chart.curves[0].dots.count("M") == 1
