"""The clocks of a run, against a clock that is moved by hand."""

from __future__ import annotations

import time

import pytest
import torch

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


def test_shares_of_the_time(clock: Clock) -> None:
    meter = Meter()
    for _ in range(2):
        clock.now += 0.5  # between steps
        with meter.waiting():
            clock.now += 1.0
        clock.now += 3.0
        meter.lap("encoder")
        clock.now += 0.25
        meter.lap("loss")
    with meter.aside():
        clock.now += 4.0
    with meter.aside("evaluation"):
        clock.now += 7.0
    assert meter.shares() == {
        "data": 2.0, "encoder": 6.0, "loss": 0.5, "evaluation": 7.0, "other": 1.0 + 4.0,
    }  # fmt: skip
    assert sum(meter.shares().values()) == meter.elapsed == 20.5
    clock.now += 2.0
    assert meter.shares()["other"] == 7.0


def test_shares_inside_a_callback_count_it_up_to_now(clock: Clock) -> None:
    meter = Meter()
    with meter.aside("evaluation"):
        clock.now += 5.0
        assert meter.shares() == {"evaluation": 5.0, "other": 0.0}
        clock.now += 1.0
    assert meter.shares() == {"evaluation": 6.0, "other": 0.0}


def test_times_go_on_after_a_resume(clock: Clock) -> None:
    meter = Meter()
    clock.now += 2.0  # start
    meter.load(100.0, {"encoder": 60.0})
    meter.start_lap()
    clock.now += 3.0
    meter.lap("encoder")
    assert meter.shares() == {"encoder": 63.0, "other": 42.0}
    meter.read()
    assert meter.seconds == 105.0 == meter.elapsed


class Event:
    """Stands in for a CUDA event: the device runs `behind` seconds behind the host."""

    behind = 10.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return time.perf_counter() >= self.at + self.behind

    def synchronize(self) -> None:
        assert self.query(), "a wait in a step"

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)


def test_laps_of_a_device_are_read_later(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr("ssgear.engine.meter.MAX_EVENTS", 7)
    meter = Meter(torch.device("cuda"))
    for _ in range(3):
        clock.now += 2.0
        meter.lap("encoder")
        clock.now += 1.0
        meter.lap("loss")
    assert meter.parts == {}
    for _ in range(3):
        clock.now += 4.0
        meter.lap("optimizer")  # more events than are kept: those that are done are read
    assert meter.parts == {"encoder": 6.0, "loss": 3.0}
    clock.now += 10.0
    meter.settle()
    assert meter.parts == {"encoder": 6.0, "loss": 3.0, "optimizer": 12.0}
