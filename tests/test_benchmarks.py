"""The benchmark's command line refuses in one line; its figures are checked where they are made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods
from benchmarks.kernels import arguments
from ssgear.errors import ConfigError
from tests.data.view_stores import folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows 512 7", "argument --rows: '7': use an even number"),
        ("--rows 0", "argument --rows: '0'"),
        ("--widths 0", "argument --widths: '0': use a number of at least 1"),
        ("--threads -1", "argument --threads: '-1'"),
        ("--threads 0", "argument --threads: '0'"),
        ("--threads two", "argument --threads: 'two'"),
        ("--kernels knn", "argument --kernels: invalid choice: 'knn'"),
    ],
)
def test_bad_options_are_named_in_one_line(
    words: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["kernels", *words.split()])
    with pytest.raises(SystemExit) as left:
        arguments()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f"benchmark: {message}") and said.count("\n") == 1


def row(method: str, seed: int, probe: float, **fields: Any) -> methods.Row:
    given: dict[str, Any] = {
        "method": method, "seed": seed, "images": 640, "epochs": 2, "images_per_second": 1000.0,
        "figures": {"linear_probe": probe, "knn": 0.3}, "untrained": {"linear_probe": 0.27},
        "peak_mb": 500.0, "minutes": 2.0, "step_ms": 100.0, "encoder_ms": 60.0, "views_ms": 30.0,
    }  # fmt: skip
    return methods.Row(**{**given, **fields})


def test_the_table_of_methods_has_means_and_deviations_over_seeds() -> None:
    rows = [row("a", 0, 0.40), row("a", 1, 0.44), row("b", 0, 0.5, figures={"purity": 0.9})]
    first, second = methods.table(rows).splitlines()[2:]
    # deviation of 40 and 44: sqrt((2^2 + 2^2) / 1)
    assert first == (
        "| a | 42.0 +- 2.8 | 27.0 +- 0.0 | 30.0 +- 0.0 | - | 1,000 | 500 | 2.0 | 10 % |"
    )
    assert second == "| b | - | 27.0 | - | - | 1,000 | 500 | 2.0 | 10 % |"


def test_methods_that_are_trained_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[str, int]] = []

    def train(job: methods.Job) -> methods.Row:
        if (job.method, job.seed) == ("swav", 1):
            raise ConfigError("no")
        trained.append((job.method, job.seed))
        return row(job.method, job.seed, 0.4)

    monkeypatch.setattr(methods, "in_a_process", train)
    file = tmp_path / "found.json"
    words = ["--images", "640", "--json", str(file), "--methods", "simclr", "swav", "--seeds"]
    assert methods.main([*words, "0"]) == 0
    assert methods.main([*words, "0", "1"]) == 1
    assert trained == [("simclr", 0), ("swav", 0), ("simclr", 1)]
    out, err = capsys.readouterr()
    assert err == "benchmark: swav, seed 1: no\n"
    assert out.splitlines()[-2].startswith("| simclr | 40.0 +- 0.0 |")
    assert methods.main(["--images", "64", "--json", str(file)]) == 2
    assert "name another file" in capsys.readouterr().err


def test_a_method_is_trained_for_the_images_asked_for_and_taken_apart(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 40)
    options = ("--data.path", str(images), "--optim.batch-size", "16", "--method.projector-dims")
    job = methods.Job(
        method="supcon", seed=3, preset="quick", images=100, options=(*options, "16", "8")
    )
    found = methods.train(job)
    assert (found.epochs, found.images) == (3, 96)  # two batches of 16 an epoch
    assert {"linear_probe", "knn"} <= found.figures.keys() & found.untrained.keys()
    assert found.peak_mb > 100 and found.images_per_second > 0
    assert found.encoder_ms > 0 and 0 < found.views_ms < found.step_ms
