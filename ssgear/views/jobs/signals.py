"""Ctrl-C, SIGTERM and SIGHUP while a store is being made.

While blocks are made (`Signals.gentle`) the first one asks to stop after the block, the second ends
at once; at any other time the first one ends.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from ssgear.errors import Interrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Listens within a `with` block, in the main thread of a process."""

    def __init__(self) -> None:
        """Listen to nothing yet."""
        self.asked: int | None = None
        self._is_gentle = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def gentle(self) -> Iterator[None]:
        """Let `check` decide when the first signal ends the block."""
        self._is_gentle = True
        try:
            yield
        finally:
            self._is_gentle = False

    def check(self) -> None:
        """End here, if a signal has asked for it."""
        if self.asked is not None:
            raise Interrupted(self.asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._is_gentle or self.asked is not None:
            raise Interrupted(number)
        self.asked = number
        print("ssgear: stops after this batch; once more: at once", file=sys.stderr)
