"""Stages of a generator that overlap: each takes rows in slices of its own size, in a thread.

    told = run((Stage(name="upscale", batch_size=32, work=upscale), ...), rows)

A stage's slices are cut at the same numbers of the block whatever is asked for, so that what a row
becomes does not depend on its neighbours' being wanted. Queues between stages are bounded. The last
stage runs in the caller's thread, where compiled models were made (CUDA graphs belong to a thread);
each other stage has a CUDA stream of its own and hands over what is in the computer's memory
(untested on hardware). Where no memory is left, the stage's slices are halved from then on,
which may change last bits, as any other size of them does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice, pairwise
from queue import Queue
from typing import TYPE_CHECKING, Generic, TypeVar

from ssgear.errors import GPU_MEMORY, TrainingError, lacking_memory

if TYPE_CHECKING:
    import torch

Row = TypeVar("Row")
WHOLE = sys.maxsize
"""As a stage's batch size: the block as it comes, whose size --batch-size decides."""


@dataclass(kw_only=True)
class Told:
    """What stages have to say of a block."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Time that each worked."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user."""


@dataclass(kw_only=True)
class Stage(Generic[Row]):
    """One stage: what is done with a slice of the rows, in place."""

    name: str
    """How notes and `Told.seconds` call it."""
    batch_size: int
    """Rows of a slice."""
    work: Callable[[Sequence[Row]], None]
    """Changes the rows; doing it again for the same rows must do no harm."""
    option: str = ""
    """Option that decides `batch_size`."""
    device: torch.device | None = None
    """Where it computes."""
    advice: str = "use --precision float16, smaller images, or a GPU with more"
    """What helps where not even one row fits."""
    when_halved: Callable[[], None] = lambda: None
    """Called where slices become smaller."""
    limit: int = field(init=False)
    """Rows that fit in memory, as far as is known."""

    def __post_init__(self) -> None:
        """Start with whole slices."""
        self.limit = self.batch_size

    def do(self, rows: Sequence[Row], told: Told) -> None:
        """Work on a slice, in parts where it does not fit whole.

        Raises:
            TrainingError: not even one row fits.
        """
        begun, start = time.perf_counter(), 0
        while start < len(rows):
            part = rows[start : start + self.limit]
            try:
                self.work(part)
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                lacking = lacking_memory(error)
                if lacking is None:
                    raise
                # what the failed call held is freed once its traceback is gone
            told.notes.append(self._halve(len(part), lacking))
        seconds = time.perf_counter() - begun
        told.seconds[self.name] = told.seconds.get(self.name, 0.0) + seconds

    def _halve(self, rows: int, lacking: str) -> str:
        import torch

        if rows == 1:
            is_gpu = lacking == GPU_MEMORY
            what = f"{'the GPU' if is_gpu else 'this machine'} has no memory for {self.name}"
            advice = self.advice if is_gpu else "use smaller images, or a machine with more"
            raise TrainingError(f"{self.option or self.name}: {what} of one image; {advice}")
        self.limit = rows // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.when_halved()
        return (
            f"{self.name}: no {lacking} for {rows} images at a time; it goes on with {self.limit} "
            f"(for another store: {self.option} {self.limit})"
        )


def run(stages: Sequence[Stage[Row]], rows: Sequence[Row]) -> Told:
    """Send rows through all stages, in order.

    Raises:
        BaseException: what a stage raised; the others have ended by then.
    """
    told, stop = Told(), threading.Event()
    source = iter(rows)
    with ExitStack() as stack:
        for stage, following in pairwise(stages):
            size = 2 * max(stage.batch_size, following.batch_size)
            source = stack.enter_context(_ahead(stage, _done(stage, source, told), size, stop))
        stack.callback(stop.set)
        for _ in _done(stages[-1], source, told):
            pass
    return told


def _done(stage: Stage[Row], rows: Iterator[Row], told: Told) -> Iterator[Row]:
    """Yield rows that a stage has worked on, in slices of its own."""
    import torch

    while part := list(islice(rows, stage.batch_size)):
        with torch.no_grad():  # holds in one thread only
            stage.do(part, told)
        yield from part


@dataclass(frozen=True)
class _End:
    """Comes after the last row."""

    error: BaseException | None


@contextmanager
def _ahead(
    stage: Stage[Row], rows: Iterator[Row], size: int, stop: threading.Event
) -> Iterator[Iterator[Row]]:
    """Take rows in a thread, in a queue of that size; what it raises is raised to their reader.

    At the end of the block, with `stop` set, what still comes is dropped and the thread has ended.
    """
    queue: Queue[Row | _End] = Queue(size)

    def work() -> None:
        error: BaseException | None = None
        try:
            with _stream(stage.device):
                for row in rows:
                    queue.put(row)
                    if stop.is_set():
                        break
        except BaseException as caught:  # it is raised again in the reader's thread
            error = caught
        queue.put(_End(error))

    def read() -> Iterator[Row]:
        while not isinstance(item := queue.get(), _End):
            yield item
        queue.put(item)  # for the end of the block
        if item.error is not None:
            raise item.error

    def drain() -> None:
        while not isinstance(queue.get(), _End):
            pass
        thread.join()

    thread = threading.Thread(target=work, name=stage.name, daemon=True)
    thread.start()
    with ExitStack() as stack:
        stack.callback(drain)
        yield read()


def _stream(device: torch.device | None) -> AbstractContextManager[object]:
    """Return a CUDA stream of its own, where the device is a GPU."""
    import torch

    if device is None or device.type != "cuda":
        return nullcontext()
    torch.cuda.synchronize(device)  # weights may still be on their way
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
