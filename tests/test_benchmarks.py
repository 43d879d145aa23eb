"""The benchmark's command line refuses in one line; its figures are checked where they are made."""

from __future__ import annotations

import sys

import pytest

from benchmarks.kernels import arguments


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
