"""What the commands share: signals, one-line errors, exit statuses, readers that leave.

    @command(interrupted="interrupted; the same command goes on")
    def main(words: list[str]) -> int: ...

A user's mistake is one line on standard error and exit status 2. Where the reader of standard
output leaves early, as behind `| head`, a command ends quietly.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from ssgear.errors import Interrupted, SsgearError

UNREAD = 1
"""Exit status where nobody reads standard output: what rich ends a program with, too."""


class Main(Protocol):
    """A command; without words of its own it takes those of the command line."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run it and return its exit status."""
        ...


def command(interrupted: str = "interrupted") -> Callable[[Callable[[list[str]], int]], Main]:
    """Make a `main` of a function that takes the command line's words and returns a status.

    Args:
        interrupted: What to print where Ctrl-C ends the command.
    """

    def decorate(function: Callable[[list[str]], int]) -> Main:
        @functools.wraps(function)
        def main(argv: Sequence[str] | None = None) -> int:
            with quiet_without_reader():
                try:
                    return function(list(sys.argv[1:] if argv is None else argv))
                except SsgearError as error:
                    return fail(str(error), error.exit_status)
                except KeyboardInterrupt as interrupt:
                    return fail(interrupted, exit_status_of(interrupt))

        return main

    return decorate


def fail(message: str, status: int) -> int:
    """Print why a command ends, and return its status."""
    print(f"ssgear: {message}", file=sys.stderr)
    return status


def number_of(interrupt: KeyboardInterrupt) -> int:
    """Return the signal that an interrupt came from."""
    return interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT


def exit_status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status that the shell expects of a process ended by a signal."""
    return 128 + number_of(interrupt)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted`, in the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Leave quietly where nobody reads standard output any more; other broken pipes are raised."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it can be caught, and not as Python ends
    except BrokenPipeError:
        if not _is_unread():
            raise
        # what is still buffered would fail again as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(UNREAD) from None


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError):  # none at all, or one in memory
        return False
    poll = select.poll()
    poll.register(number, 0)  # errors are always told
    return any(event & select.POLLERR for _, event in poll.poll(0))
