"""A progress bar for what takes long before a run begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ssgear import distributed


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, note: str = "") -> None:
        """Say that so many more are done."""
        ...


@contextmanager
def progress(label: str, count: int | None) -> Iterator[Advance]:
    """Show a bar on a terminal, on the first rank, where a label is given.

    `count` is None where nobody knows how many there will be. What is yielded is called with how
    many more are done, and with what is to be said beside the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    shown = bool(label) and console.is_terminal and distributed.world_from_environment().is_main
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeLeft(),
        TextColumn("{task.fields[note]}"),
    )

    def move(done: int, note: str = "") -> None:
        bar.update(task, advance=done, note=note)

    # a step may take minutes: the time left is told from many of them
    with Progress(
        *columns, console=console, transient=True, disable=not shown, speed_estimate_period=600
    ) as bar:
        task = bar.add_task(label, total=count, note="")
        yield move
