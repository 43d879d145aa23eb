"""`ssgear compare`: page and tables say what runs hold, and which differences are real."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ssgear import compare
from ssgear.evaluation.results import Measure, write_figures
from ssgear.evaluation.similarity.retrieval import retrieve
from ssgear.evaluation.statistics import mcnemar, paired
from ssgear.report.comparison.table import holm, latex
from tests.report.test_report import CONFIG, SUMMARY, Page, lines, make_run

NUM_TEST = 1003


def answers(accuracy: float, seed: int = 0) -> torch.Tensor:
    """Right and wrong by image; the images that are hard are the same for every seed."""
    hard = torch.rand(NUM_TEST, generator=torch.Generator().manual_seed(9))
    noise = torch.rand(NUM_TEST, generator=torch.Generator().manual_seed(seed))
    return (0.8 * hard + 0.2 * noise < accuracy).to(torch.uint8)


def some_run(
    path: Path, accuracy: float, *, seed: int = 0, images: str = "abc", lr: float = 0.1,
    evaluation: str | None = None,
) -> Path:  # fmt: skip
    """Write a finished run with figures and values by image."""
    config: dict[str, Any] = CONFIG | {"seed": seed, "optim": {"lr": lr, "epochs": 8}}
    metrics = [
        line | ({"seconds": line["step"] * 0.5} if line["kind"] == "train" else {})
        for line in lines()
    ]
    make_run(path, config=config, metrics=metrics)
    right = answers(accuracy, seed)
    mean = float(right.double().mean())
    precisions = torch.rand(NUM_TEST, generator=torch.Generator().manual_seed(5)) * accuracy
    measures = {
        "linear_probe": Measure(value=mean, interval=(mean - 0.03, mean + 0.03), num_train=4000,
                                num_test=NUM_TEST, per_image=right),
        "map": Measure(value=float(precisions.double().mean()), per_image=precisions.double()),
        "effective_rank": Measure(value=11.5),
    }  # fmt: skip
    write_figures(path / "summary.json", measures, {"num_train": 4000}, test_images=images)
    if evaluation is not None:
        write_figures(
            path / "evaluation-stl.json",
            {"knn": Measure(value=mean, per_image=right)},
            {},
            test_images=evaluation,
        )
    return path


def run(*words: object) -> Page:
    folder = Path(str(words[words.index("--output") + 1]))
    assert compare.main([str(word) for word in words]) == 0
    return Page((folder / "comparison.html").read_text(encoding="utf-8"))


def test_figures_equal_those_computed_directly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = some_run(tmp_path / "one", 0.5, seed=1)
    second = some_run(tmp_path / "two", 0.6, seed=2, lr=0.2)
    page = run(first, second, "--output", tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "comparison.html")
    expected = mcnemar(answers(0.6, 2), answers(0.5, 1))
    with (tmp_path / "out" / "figures.csv").open() as file:
        table = {(row["figure"], row["run"]): row for row in csv.DictReader(file)}
    row = table["linear_probe", "two"]
    assert float(row["value"]) == float(answers(0.6, 2).double().mean())
    assert float(row["difference"]) == pytest.approx(expected.difference)
    assert float(row["p_value"]) == pytest.approx(expected.p_value)
    assert (float(row["difference_low"]), float(row["difference_high"])) == expected.interval
    assert row["num_train"] == "4000" and row["test"] == "McNemar"
    assert table["linear_probe", "one"]["difference"] == ""
    assert table["map", "two"]["test"] == "bootstrap"
    assert table["effective_rank", "two"]["difference"] == ""
    points = f"{100 * expected.difference:+.2f} points"
    for words in (points, "real", "4,000 train, 1,003 test", "optim.lr 0.1 0.2", "seed 1 2",
                  "Not tested, as values by image of the same test images are missing: "
                  "effective_rank", "Loss over images seen", "Loss over wall time",
                  "kNN accuracy over wall time"):  # fmt: skip
        assert words in page.words, words
    assert "Maps" not in page.words
    assert not any(v.startswith(("http", "//")) for a in ("src", "href") for v in page.values(a))


def test_the_difference_of_maps_is_that_of_their_classes(tmp_path: Path) -> None:
    """Retrieval is a mean over classes; the rare ones count as much as the frequent."""
    rng = np.random.default_rng(3)
    labels = torch.from_numpy(rng.choice(7, 203, p=[0.4, 0.3, 0.15, 0.08, 0.04, 0.02, 0.01]))
    found = {}
    for name in ("a", "b"):
        features = torch.from_numpy(rng.normal(size=(203, 5))) + labels[:, None] * 0.3
        result = retrieve(features, labels, ks=())
        found[name] = result.mean_average_precision
        measures = {"map": Measure(value=found[name], per_image=result.per_query.float())}
        make_run(tmp_path / name)
        write_figures(
            tmp_path / name / "summary.json", measures, {}, test_images="x", test_labels=labels
        )
    run(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    with (tmp_path / "out" / "figures.csv").open() as file:
        row = [*csv.DictReader(file)][1]
    assert float(row["difference"]) == pytest.approx(found["b"] - found["a"], abs=1e-6)
    assert float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])
    assert row["test"] == "bootstrap"


def test_a_chance_difference_is_not_real(tmp_path: Path) -> None:
    page = run(
        some_run(tmp_path / "a", 0.5, seed=1),
        some_run(tmp_path / "b", 0.5, seed=2),
        "--output", tmp_path / "out", "--figures", "linear_probe",
    )  # fmt: skip
    assert paired(answers(0.5, 2), answers(0.5, 1)).p_value > 0.05
    assert ", not real" in page.words and "effective_rank" not in page.words


def test_several_runs_are_corrected(tmp_path: Path) -> None:
    runs = [some_run(tmp_path / f"r{i}", 0.5 + i / 50, seed=i) for i in range(4)]
    page = run(*runs, "--output", tmp_path / "out")
    assert "corrected for 3 comparisons (Holm" in page.words
    with (tmp_path / "out" / "figures.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["figure"] == "linear_probe"][1:]
    raw = [float(row["p_value"]) for row in rows]
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(closed(raw))


def closed(p_values: list[float]) -> list[float]:
    """Correct p-values by the closed test with Bonferroni's, of which Holm's is the short form.

    A hypothesis is rejected where every set of hypotheses that it is in is rejected.
    """
    places = range(len(p_values))
    sets = [own for size in places for own in itertools.combinations(places, size + 1)]
    joint = {own: min(1.0, len(own) * min(p_values[i] for i in own)) for own in sets}
    return [max(joint[own] for own in sets if place in own) for place in places]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_holm_equals_the_closed_test(count: int) -> None:
    p_values = (np.random.default_rng(count).random(count) / 5).tolist()
    assert holm(p_values) == pytest.approx(closed(p_values))


def test_latex_escapes_names(tmp_path: Path) -> None:
    first = some_run(tmp_path / "a_b%&#", 0.5)
    second = some_run(tmp_path / "c$~^{}", 0.7, seed=3)
    run(first, second, "--output", tmp_path / "out")
    text = (tmp_path / "out" / "figures.tex").read_text()
    assert r"a\_b\%\&\#" in text and r"c\$\textasciitilde{}\textasciicircum{}\{\}" in text
    assert r"linear\_probe" in text and r"$^{*}$" in text
    body = text.splitlines()[4:-2]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in body), body
    assert not re.search(r"(?<!\\)[%#_]", text)
    assert latex("\\") == r"\textbackslash{}"


def test_maps_stand_side_by_side(tmp_path: Path) -> None:
    runs = [some_run(tmp_path / name, 0.5) for name in ("a", "b")]
    xy = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    tensors = {"xy": xy, "labels": torch.arange(40) % 3}
    safetensors.torch.save_file(
        tensors, runs[0] / "map.safetensors", {"classes": json.dumps(["cat", "dog", "<owl>"])}
    )
    safetensors.torch.save_file({"xy": xy}, runs[1] / "map.safetensors")
    page = run(*runs, "--output", tmp_path / "out")
    assert page.values("aria-label").count("Map of the features of a") == 1
    assert "Map of the features of b" in page.values("aria-label")
    assert "<owl>" in page.words
    (runs[1] / "map.safetensors").write_bytes(b"nothing")
    assert compare.main([*map(str, runs), "--output", str(tmp_path / "again")]) == 2


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [some_run(tmp_path / name / "run", 0.5) for name in ("x", "y")]
    page = run(*runs, "--output", tmp_path / "out")
    assert "x/run and y/run" in page.words


def test_other_evaluations_are_shown(tmp_path: Path) -> None:
    first = some_run(tmp_path / "a", 0.5, evaluation="stl")
    second = some_run(tmp_path / "b", 0.6, seed=2, evaluation="stl")
    third = some_run(tmp_path / "c", 0.6, seed=3)
    page = run(first, second, third, "--output", tmp_path / "out")
    assert "stl: knn" in page.words and "not measured" in page.words


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert compare.main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("ssgear: ")
    return message


def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = some_run(tmp_path / "a", 0.5)
    other = some_run(tmp_path / "b", 0.5, images="other")
    half = make_run(tmp_path / "half", summary=None)
    (tmp_path / "empty").mkdir()
    assert "at least two runs" in refusal(capsys, first)
    assert "at least two runs" in refusal(capsys, "--unpaired")
    assert "the same run twice" in refusal(capsys, first, tmp_path / "x" / ".." / "a")
    assert "not a run directory (no config.json)" in refusal(capsys, first, tmp_path / "empty")
    assert "not a run directory (no such directory)" in refusal(capsys, first, "missing")
    assert "not finished (no summary.json)" in refusal(capsys, first, half)
    message = refusal(capsys, first, other)
    assert "different test images" in message and "--unpaired" in message
    assert str(other / "summary.json") in message and str(first / "summary.json") in message
    assert "did you mean" in refusal(capsys, first, other, "--unpaired", "--figures", "linear_prob")
    third = some_run(tmp_path / "c", 0.6)
    assert "--output" in refusal(capsys, first, third, "--output", first / "config.json")
    assert not list(tmp_path.glob("compare-*"))
    page = run(first, other, "--unpaired", "--output", tmp_path / "out")
    assert "Differences were not tested" in page.words and "real" not in page.words


def test_the_output_is_named_after_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [some_run(tmp_path / f"r{i}", 0.5) for i in range(5)]
    assert compare.main([str(path) for path in runs]) == 0
    folder = tmp_path / "compare-r0-r1-r2-and-2-more"
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.html", "figures.csv", "figures.tex",
    ]  # fmt: skip


def test_runs_without_values_by_image_are_shown(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    page = run(*runs, "--output", tmp_path / "out")
    assert f"{100 * SUMMARY['linear_probe']:.2f} %" in page.words  # type: ignore[operator]
    assert "None: the runs have the same settings" in page.words


def test_help_needs_no_torch() -> None:
    program = (
        "import sys\nfrom ssgear import compare\ncompare.main(['--help'])\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "--unpaired" in done.stdout, done.stderr
