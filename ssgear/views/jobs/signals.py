"""Ctrl-C, SIGTERM and SIGHUP while a store is being made.

While blocks are made (`Signals.gentle`) the first one asks to stop after the block, the second ends
at once; at any other time the first one ends.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ssgear.errors import Interrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None] | signal.Handlers


@contextlib.contextmanager
def restored(handler: Handler | None = None) -> Iterator[None]:
    """Put back the handlers of signals after the block; within it `handler` holds, if there is one.

    Another thread than the main one cannot set handlers: there nothing happens.
    """
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                stack.callback(signal.signal, number, signal.getsignal(number))
                if handler is not None:
                    signal.signal(number, handler)
        yield


class Signals:
    """Takes the signals within a `with` block, in the main thread of a process."""

    def __init__(self) -> None:
        """Take nothing yet."""
        self.asked: int | None = None
        self._is_gentle = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Signals:
        """Begin to take signals."""
        self._stack.enter_context(restored(self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals to whom they belonged."""
        self._stack.close()

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

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._is_gentle or self.asked is not None:
            raise Interrupted(number)
        self.asked = number
        print("ssgear: stops after this batch; once more: at once", file=sys.stderr)
