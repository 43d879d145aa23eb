"""Standard output whose reader leaves early, as behind `| head`: a command ends without a word.

Every `main` of a command is decorated with `ending_with_the_reader()`.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

STATUS = 1
"""Exit status then: what rich ends a program with, too."""


@contextlib.contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """Leave quietly where nobody reads standard output any more; other broken pipes are raised."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it can be caught, and not as Python ends
    except BrokenPipeError:
        if not _abandoned():
            raise
        # what is still buffered would fail again as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(STATUS) from None


def _abandoned() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError):  # none at all, or one in memory
        return False
    poll = select.poll()
    poll.register(number, 0)  # errors are always told
    return any(event & select.POLLERR for _, event in poll.poll(0))
