"""The gain over a baseline is that of the paired test, where the summary has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssgear.report.contents import Contents
from ssgear.report.reading import read_run
from ssgear.report.verdict import Finding, judge
from tests.report.test_report import CARD, SUMMARY, make_run, read


def summary(trained: float, p_value: object, interval: object) -> dict[str, Any]:
    """Return a summary whose probe is tested against both baselines."""
    figures: dict[str, Any] = SUMMARY | {"linear_probe": trained}
    tested = {
        name: {
            "difference": trained - SUMMARY["baselines"][name]["linear_probe"],  # type: ignore[index]
            "interval": interval,
            "p_value": p_value,
            "test": "McNemar",
        }
        for name in ("untrained", "pixels")
    }
    details = {"linear_probe": {"num_test": 987}}
    return figures | {"gains": {"linear_probe": tested}, "details": details}


def gain(run: Path, figures: dict[str, Any]) -> Finding:
    findings = judge(read_run(make_run(run, summary=figures)), CARD).findings
    return next(f for f in findings if f.text.startswith("Linear probe"))


@pytest.mark.parametrize(
    ("trained", "p_value", "interval", "level", "points"),
    [
        # as if independent, the noise of this difference is 2.1 points
        (0.355, 0.0004, [0.007, 0.023], "good", "1.5 points over raw pixels, the better baseline"),
        (0.400, 0.0730, [-0.005, 0.125], "warn", "6.0 points over raw pixels"),
        (0.325, 0.0301, [-0.029, -0.001], "bad", "1.5 points below raw pixels"),
        (0.300, 0.0512, [-0.081, 0.001], "warn", "4.0 points below raw pixels"),
    ],
)
def test_the_paired_test_decides(
    tmp_path: Path, trained: float, p_value: float, interval: list[float], level: str, points: str
) -> None:
    finding = gain(tmp_path / "run", summary(trained, p_value, interval))
    assert finding.level == level and "paired test on 987 images" in finding.text, finding
    assert points in finding.text, finding
    ends = " to ".join(f"{100 * end:+.1f}".replace("-", "−") for end in interval)
    p_text = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    assert f"(95 % interval {ends}, {p_text})" in finding.text
    words = read(tmp_path / "run", Contents()).words
    sign = "+" if trained > 0.34 else ""
    side = "over" if trained > 0.34 else "below"
    assert (
        f"{sign}{abs(100 * (trained - 0.34)):.1f} points {side} raw pixels {ends}, {p_text}"
        in words
    )
    assert "by a paired test on these images" in words


@pytest.mark.parametrize(
    ("p_value", "interval"), [(None, [0.1, 0.2]), ("?", [0.1, 0.2]), (0.1, None), (0.1, [0.1])]
)
def test_a_test_that_is_incomplete_is_none(
    tmp_path: Path, p_value: object, interval: object
) -> None:
    finding = gain(tmp_path / "run", summary(0.51, p_value, interval))
    assert "the standard error of that difference on 987 test images is about 2.2" in finding.text
    words = read(tmp_path / "run", Contents()).words
    assert "+17.0 points over raw pixels" in words and "paired test" not in words
