"""The clocks of a run: its wall time, images per second, and how long steps wait for batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Pace(NamedTuple):
    """How fast steps were taken since the reading before."""

    images_per_second: float
    data_wait: float
    """Share of the time in which the loader was waited for."""


class Meter:
    """Measures from the moment that it is made."""

    def __init__(self) -> None:
        """Start the clocks."""
        self.seconds = 0.0
        """Wall time up to the last reading, pieces before a resume included."""
        self._start()

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
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count the block to the run, but not to its images per second."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self._mark += seconds

    def read(self) -> Pace:
        """Return the pace since the last reading, and start anew."""
        seconds = time.perf_counter() - self._mark
        pace = Pace(self._images / seconds, self._waited / seconds)
        self.seconds += seconds
        self._start()
        return pace
