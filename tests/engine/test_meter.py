"""The clocks of a run, against a clock that is moved by hand."""

from __future__ import annotations

import time

import pytest

from ssgear.engine.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_pace_and_seconds(clock: Clock) -> None:
    meter = Meter()
    meter.seconds = 1000.0  # of the pieces before a resume
    for _ in range(3):
        with meter.waiting():
            clock.now += 1.0
        clock.now += 3.0
        meter.count(32)
    with meter.aside():
        clock.now += 7.0
    assert meter.read() == (96 / 12, 3 / 12)
    assert meter.seconds == 1000 + 12 + 7
    clock.now += 2.0
    meter.count(10)
    assert meter.read() == (5.0, 0.0)  # of what came after the last reading
    assert meter.seconds == 1021
