"""The benchmark of measures of features, at small sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import evaluation, evaluation_large
from ssgear.evaluation.features.rows import FeatureFile


def test_measures_agree_with_their_peers_and_are_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    sizes = ["--train", "301", "--test", "67", "--width", "12", "--rounds", "1"]
    assert evaluation.BENCHMARK.main([*sizes, "--device", "cpu", "--json", str(file)]) == 0
    rows = json.loads(file.read_text("utf-8"))["rows"]
    assert [row["what"] for row in rows] == ["kNN", "linear probe", "mAP", "CKA"]
    assert all(row["ours_s"] > 0 and row["peer_s"] > 0 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Measures of features") and len(lines) == 3 + len(rows)


def test_a_wrong_result_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "cka", lambda a, b: 0.5)
    words = ["--train", "31", "--test", "9", "--width", "5", "--rounds", "1", "--measures", "cka"]
    assert evaluation.BENCHMARK.main([*words, "--device", "cpu"]) == 1
    assert "CKA: 0.50000000, published formula: " in capsys.readouterr().err


@pytest.mark.parametrize("task", evaluation_large.TASKS)
def test_a_task_of_a_large_file_tells_its_peak(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("a.npy", "b.npy")):
        evaluation_large.write_sparse(tmp_path / name, 20_001, 16, seed=number)
    path = tmp_path / "a.npy"
    assert path.stat().st_blocks * 512 < 0.8 * path.stat().st_size
    rows = FeatureFile(path)[:]
    assert 0.3 < float((rows == 0).all(1).float().mean()) < 0.7
    evaluation_large.main(task, str(tmp_path), 0)
    figures = json.loads(capsys.readouterr().out)
    assert figures["seconds"] > 0 and figures["peak_gb"] > 0.1
