"""The clocks of a run: its wall time, images per second, and where the time went.

A step is cut into laps: `lap("encoder")` counts the time since the lap before to the encoder. On a
GPU the host runs ahead of the device, so that a lap is a `torch.cuda.Event` there. The times
between events are read once the trainer has waited for the device anyway (`settle`), never in a
step. Events are untested on hardware.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

Part = Literal[
    "data",
    "encoder",
    "loss",
    "encoder_and_loss",
    "generator",
    "optimizer",
    "evaluation",
    "saving",
]
"""What time is counted to.

data: until the loader has the batch. encoder: forward and backward of encoder and projector,
averaging of gradients included. loss: the loss and its gradient with respect to the embeddings.
encoder_and_loss: both, of a method that computes them in one piece. generator: the same of phases
that do not step the encoder. optimizer: clipping, step, weight averages, the method's buffers.
evaluation: callbacks.
"""
MAX_EVENTS = 4096
"""Events that wait to be read; those that are done are read when there are more."""


class Pace(NamedTuple):
    """How fast steps were taken since the reading before."""

    images_per_second: float
    data_wait: float
    """Share of the time in which the loader was waited for."""


class Meter:
    """Measures from the moment that it is made."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Start the clocks; laps are timed on `device` where that is a GPU."""
        self.seconds = 0.0
        """Wall time up to the last reading, pieces before a resume included."""
        self.parts: dict[str, float] = {}
        """Seconds by part up to now, pieces before a resume included."""
        self._on_gpu = device is not None and device.type == "cuda"
        self._events: list[tuple[Part | None, torch.cuda.Event]] = []
        self._aside: tuple[Part | None, float] | None = None
        self._last = time.perf_counter()
        self._start()
        self.start_lap()

    def _start(self) -> None:
        self._mark = time.perf_counter()
        self._images = 0
        self._waited = 0.0

    def count(self, images: int) -> None:
        """Count the images of a step."""
        self._images += images

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as time in which steps wait for a batch."""
        self.start_lap()
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start
        self.lap("data")

    @contextmanager
    def aside(self, part: Part | None = None) -> Iterator[None]:
        """Count the block to the run and to a part of it, but not to its images per second."""
        start = time.perf_counter()
        self._aside = part, start
        yield
        seconds = time.perf_counter() - start
        self._aside = None
        self.seconds += seconds
        self._mark += seconds
        if part is not None:
            self._add(part, seconds)
        self.start_lap()

    def start_lap(self) -> None:
        """Begin a lap here; what was since the one before is counted to no part."""
        self._lap(None)

    def lap(self, part: Part) -> None:
        """Count the time since the last lap, or the start of one, to a part."""
        self._lap(part)

    def _lap(self, part: Part | None) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append((part, event))
            if len(self._events) > MAX_EVENTS:
                self._read_events(wait=False)
            return
        now = time.perf_counter()
        if part is not None:
            self._add(part, now - self._last)
        self._last = now

    def _add(self, part: str, seconds: float) -> None:
        self.parts[part] = self.parts.get(part, 0.0) + seconds

    def settle(self) -> None:
        """Read the laps of the device; called where the device has been waited for."""
        if self._on_gpu:
            self._read_events(wait=True)

    def _read_events(self, *, wait: bool) -> None:
        """Count the times between events, and keep the last as the start of the next lap."""
        if wait:
            self._events[-1][1].synchronize()
        done = 0
        for (_, before), (part, event) in pairwise(self._events):
            if not wait and not event.query():  # type: ignore[no-untyped-call]
                break
            if part is not None:
                self._add(part, before.elapsed_time(event) / 1000)
            done += 1
        del self._events[:done]

    @property
    def elapsed(self) -> float:
        """Wall time up to now, pieces before a resume included."""
        return self.seconds + time.perf_counter() - self._mark

    def shares(self) -> dict[str, float]:
        """Return seconds by part up to now, and as `other` the rest of the wall time.

        Inside `aside` its time up to now is included: what writes the summary is a callback.
        """
        parts = dict(self.parts)
        if self._aside is not None:
            part, start = self._aside
            if part is not None:
                parts[part] = parts.get(part, 0.0) + time.perf_counter() - start
        return {**parts, "other": max(0.0, self.elapsed - sum(parts.values()))}

    def load(self, seconds: float, parts: dict[str, float]) -> None:
        """Go on from the times of the pieces before a resume."""
        self.seconds += seconds
        for part, spent in parts.items():
            self._add(part, spent)

    def read(self) -> Pace:
        """Return the pace since the last reading, and start anew."""
        seconds = time.perf_counter() - self._mark
        pace = Pace(self._images / seconds, self._waited / seconds)
        self.seconds += seconds
        self._start()
        return pace
