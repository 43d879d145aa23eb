"""Several workers elsewhere: handing shards out, taking their messages, and losing some.

A worker that dies costs the shard that it was at, which another one begins anew; one that no worker
survives is named. One that says nothing for long is named too, and left to the user, as a batch may
take any time. What a worker is, and how its messages come, is views/jobs/processes.py or
views/jobs/ray.py.
"""

from __future__ import annotations

import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ssgear.errors import OUT_OF_SPACE, GenerationError, SsgearError, first_line
from ssgear.storage.store_writer import remove_stale
from ssgear.views.jobs.plan import Facts, Job
from ssgear.views.jobs.worker import BatchReport, ShardReport

if TYPE_CHECKING:
    from ssgear.views.jobs.progress import Watcher

ATTEMPTS = 3
"""Workers that may end at one shard."""
LISTEN_S = 0.5
"""How long a signal may wait while workers are silent."""
QUIET_S = 600.0
"""Silence of a worker at work that is told."""
_QUIETER = 5
"""How many times as long as any silence that ended it must be, to be told."""


@dataclass(frozen=True)
class Problem:
    """What ended a worker; `fatal` if another one would fare no better."""

    error: Exception
    is_fatal: bool
    trace: str = ""
    """Where a bug is."""


Message = Facts | BatchReport | ShardReport | Problem
"""What a worker sends."""


class Worker(ABC):
    """A worker, as the command sees it."""

    shard: int | None = None
    """What it is at."""
    is_ready: bool = False
    """Whether its generator has been built."""
    done: int = 0
    """Views of the shard that it has tried."""
    last_message_s: float = 0.0
    """When its last message came, or it was given something to do, by the monotonic clock."""
    is_silence_told: bool = False
    """Whether the user knows of its silence."""
    title: str = "a worker"
    """What the user knows it by."""
    remedy: str = ""
    """What the user may do if it hangs."""

    @property
    def is_busy(self) -> bool:
        """Whether a message of it is to come."""
        return self.shard is not None or not self.is_ready

    @abstractmethod
    def send(self, job: Job, shard: int) -> None:
        """Have it make a shard; that it is gone shows where messages are received."""

    @abstractmethod
    def receive(self) -> Message | None:
        """Return its next message, which is there; None: it has ended."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Have it leave its shard after the block that it is at."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until it has left its shard."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""

    @abstractmethod
    def clear(self) -> str:
        """Clear away what is left of it, which has ended, and return how it did."""


W = TypeVar("W", bound=Worker)


class Pool(ABC, Generic[W]):
    """Workers by number."""

    def __init__(self, workers: int, resources: ExitStack | None = None) -> None:
        """Remember how many there are to be, and what is to be closed after them."""
        self.num_workers = workers
        self.workers: dict[int, W] = {}
        self.job: Job | None = None
        self._resources = resources or ExitStack()
        self._deaths: Counter[int | None] = Counter()
        self._facts: Facts | None = None
        self._longest_s = 0.0

    @abstractmethod
    def start(self, number: int) -> W:
        """Start a worker, which builds its generator and says what it is."""

    @abstractmethod
    def ready(self, timeout_s: float) -> list[int]:
        """Wait until some have a message, or are gone, and return which."""

    def facts(self) -> Facts:
        """Let the first worker build its generator and return what it says of itself."""
        while self._facts is None:
            self._ensure(0)
            for number in self.ready(LISTEN_S):
                self._receive(number, None)
        return self._facts

    def run(self, job: Job, shards: Sequence[int], watcher: Watcher) -> None:
        """Have each shard dealt with once, whatever comes of it; hand them out one at a time."""
        self.job, todo = job, deque(shards)
        num_missing = len(shards)
        while num_missing:
            for number in range(min(self.num_workers, len(shards))):
                self._give(number, job, todo)
            for number in self.ready(LISTEN_S):
                shard = self.workers[number].shard
                report = self._receive(number, watcher)
                if report is not None:
                    num_missing -= 1
                    watcher.shard(report)
                elif number not in self.workers and shard is not None:
                    todo.appendleft(shard)
            self._tell_silent(watcher)
            watcher.signals.check()

    def close(self) -> None:
        """Let the workers end after the block that they are at; a signal ends them at once."""
        with ExitStack() as stack:
            if self.job is not None:
                stack.callback(remove_stale, self.job.root)
            stack.callback(self._resources.close)
            stack.callback(self.workers.clear)
            for worker in self.workers.values():
                stack.callback(worker.kill)
            for worker in self.workers.values():
                worker.ask_to_stop()
            for worker in self.workers.values():
                worker.wait()

    def _give(self, number: int, job: Job, todo: deque[int]) -> None:
        """Give a worker something to do, if it has nothing."""
        if not todo:
            return
        worker = self._ensure(number)
        if not worker.is_busy:
            worker.shard, worker.done = todo.popleft(), 0
            worker.last_message_s = time.monotonic()
            worker.send(job, worker.shard)

    def _ensure(self, number: int) -> W:
        """Return a worker, which is started if there is none of this number."""
        if number not in self.workers:
            self.workers[number] = self.start(number)
            self.workers[number].last_message_s = time.monotonic()
        return self.workers[number]

    def _receive(self, number: int, watcher: Watcher | None) -> ShardReport | None:
        """Take one message of a worker; a worker that has ended is no longer among them."""
        worker, now = self.workers[number], time.monotonic()
        if worker.is_ready:  # building takes a time of its own
            self._longest_s = max(self._longest_s, now - worker.last_message_s)
        worker.last_message_s, worker.is_silence_told = now, False
        message = worker.receive()
        if isinstance(message, Facts):
            self._facts, worker.is_ready = message, True
            self._deaths[None] = 0
        elif isinstance(message, BatchReport) and watcher is not None:
            worker.done = message.done
            watcher.batch(message)
        elif isinstance(message, ShardReport):
            worker.shard = None
            self._deaths[message.shard] = 0
            return message
        else:
            self._lose(number, message if isinstance(message, Problem) else None, watcher)
        return None

    def _tell_silent(self, watcher: Watcher) -> None:
        """Name workers that have been silent for long: they may hang, or be slow."""
        now, bound = time.monotonic(), max(QUIET_S, _QUIETER * self._longest_s)
        for worker in self.workers.values():
            silence = now - worker.last_message_s
            if worker.is_silence_told or not worker.is_busy or silence < bound:
                continue
            worker.is_silence_told = True
            place = "at the start"
            if worker.shard is not None:
                place = f"at shard {worker.shard}, after {worker.done} of its views"
            watcher.note(
                f"{worker.title} has said nothing for {silence / 60:.0f} minutes, {place}; it may "
                f"be slow, or hang{worker.remedy}"
            )

    def _lose(self, number: int, problem: Problem | None, watcher: Watcher | None) -> None:
        """Drop a worker; too many deaths at one shard, or one that is certain, are an error."""
        worker = self.workers.pop(number)
        cause = worker.clear()
        if problem is not None:
            print(problem.trace, end="", file=sys.stderr)
            if problem.is_fatal:
                raise problem.error
            cause = first_line(problem.error)
        place = "at the start" if worker.shard is None else f"at shard {worker.shard}"
        self._deaths[worker.shard] += 1
        if self._deaths[worker.shard] >= ATTEMPTS:
            raise GenerationError(
                f"--generator: {ATTEMPTS} workers ended {place}, the last one so: {cause}; what is "
                "there stays, and the same command goes on"
            ) from (problem.error if problem else None)
        if watcher is not None:
            watcher.note(f"a worker ended {place} ({cause}); another one begins it anew")


def problem_of(error: Exception) -> Problem:
    """Return what went wrong in a worker; a bug's traceback is taken where it is whole."""
    is_ours = isinstance(error, SsgearError)
    if is_ours or (isinstance(error, OSError) and error.errno in OUT_OF_SPACE):
        return Problem(error, is_fatal=True)
    refusal = GenerationError(f"--generator: {type(error).__name__}: {first_line(error)}")
    # a GPU that is lost, or has no memory left, may serve another process
    fatal = not isinstance(error, RuntimeError)
    return Problem(refusal, is_fatal=fatal, trace="".join(traceback.format_exception(error)))
