"""A progress bar for what takes long before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ssgear import distributed


@contextmanager
def progress(label: str, count: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, on the first rank, where a label is given.

    `count` is None where nobody knows how many there will be.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    shown = bool(label) and console.is_terminal and distributed.world_from_environment().is_main
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(label, total=count)
        yield lambda done: bar.advance(task, done)
