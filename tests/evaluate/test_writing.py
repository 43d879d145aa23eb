"""What an evaluation prints."""

from __future__ import annotations

import pytest

from ssgear.evaluate.writing import print_figures
from ssgear.evaluation.results import Measure, Outcome


def test_the_set_of_a_transfer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    # rich takes brackets for styles
    outcome = Outcome(measures={"knn[digits]": Measure(value=0.25, interval=(0.2, 0.3))})
    print_figures("images [bold] of a set", outcome)
    printed = capsys.readouterr().out
    assert "images [bold] of a set" in printed
    assert "knn[digits]" in printed
    assert "20.00 % to 30.00 %" in printed
