"""Several workers elsewhere: handing shards out, hearing of them, and losing some.

A worker that dies costs the shard that it was at, which another one begins anew; one that no worker
survives is named. One that says nothing for long is named too, and left to the user, as a batch may
take any time. What a worker is, and how it is heard, is views/jobs/processes.py or
views/jobs/ray.py.
"""

from __future__ import annotations

import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ssgear.errors import OUT_OF_SPACE, GenerationError, SsgearError, first_line
from ssgear.views.jobs.plan import Facts, Job
from ssgear.views.jobs.worker import BatchReport, ShardReport, claimed_by_others

if TYPE_CHECKING:
    from ssgear.views.jobs.progress import Watcher

ATTEMPTS = 3
"""Workers that may end at one shard."""
LISTEN_S = 0.5
"""How long a signal may go unheard while workers are silent."""
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


class Member(ABC):
    """A worker, as the command sees it."""

    shard: int | None = None
    """What it is at."""
    is_ready: bool = False
    """Whether its generator has been built."""
    done: int = 0
    """Views of the shard that it has tried."""
    heard_at: float = 0.0
    """When it last said something, or was told to begin, by the monotonic clock."""
    is_told: bool = False
    """Whether the user knows of its silence."""
    title: str = "a worker"
    """What the user knows it by."""
    remedy: str = ""
    """What the user may do if it hangs."""

    @abstractmethod
    def give(self, job: Job, shard: int) -> None:
        """Have it make a shard; that it is gone is found where it is heard."""

    @abstractmethod
    def hear(self) -> object:
        """Return its next message, which is there; None: it has ended."""

    @abstractmethod
    def bury(self) -> str:
        """Clear away what is left of it and return how it ended."""


M = TypeVar("M", bound=Member)


class Crew(ABC, Generic[M]):
    """Workers by number."""

    def __init__(self, workers: int) -> None:
        """Remember how many there are to be."""
        self.num_workers = workers
        self.members: dict[int, M] = {}
        self.job: Job | None = None
        self._deaths: Counter[int | None] = Counter()
        self._facts: Facts | None = None
        self._longest_s = 0.0

    @abstractmethod
    def hire(self, number: int) -> M:
        """Start a worker, which builds its generator and says what it is."""

    @abstractmethod
    def heard(self, timeout_s: float) -> list[int]:
        """Wait until some have something to say, or are gone, and return which."""

    def facts(self) -> Facts:
        """Let the first worker build its generator and return what it says of itself."""
        while self._facts is None:
            self._start(0)
            for number in self.heard(LISTEN_S):
                self._hear(number, None)
        return self._facts

    def run(self, job: Job, shards: Sequence[int], watcher: Watcher) -> None:
        """Hand the shards out, one at a time to each worker."""
        self.job, left = job, list(shards)
        while left:
            left = claimed_by_others(self._round(job, left, watcher))
            if left:
                watcher.wait(left)

    def _round(self, job: Job, shards: Sequence[int], watcher: Watcher) -> list[ShardReport]:
        """Have each shard dealt with once, whatever comes of it."""
        todo = deque(shards)
        reports: list[ShardReport] = []
        while len(reports) < len(shards):
            for number in range(min(self.num_workers, len(shards))):
                self._employ(number, job, todo)
            for number in self.heard(LISTEN_S):
                shard = self.members[number].shard
                report = self._hear(number, watcher)
                if report is not None:
                    reports.append(report)
                    watcher.shard(report)
                elif number not in self.members and shard is not None:
                    todo.appendleft(shard)
            self._tell_silent(watcher)
            watcher.signals.check()
        return reports

    def _employ(self, number: int, job: Job, todo: deque[int]) -> None:
        """Give a worker something to do, if it has nothing."""
        if not todo:
            return
        self._start(number)
        worker = self.members[number]
        if worker.is_ready and worker.shard is None:
            worker.shard, worker.done = todo.popleft(), 0
            worker.heard_at = time.monotonic()
            worker.give(job, worker.shard)

    def _start(self, number: int) -> None:
        if number not in self.members:
            self.members[number] = self.hire(number)
            self.members[number].heard_at = time.monotonic()

    def _hear(self, number: int, watcher: Watcher | None) -> ShardReport | None:
        """Take one message of a worker; a worker that has ended is no longer among them."""
        worker, now = self.members[number], time.monotonic()
        if worker.is_ready:  # building takes a time of its own
            self._longest_s = max(self._longest_s, now - worker.heard_at)
        worker.heard_at, worker.is_told = now, False
        message = worker.hear()
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
        for worker in self.members.values():
            silence = now - worker.heard_at
            is_busy = worker.shard is not None or not worker.is_ready
            if worker.is_told or not is_busy or silence < bound:
                continue
            worker.is_told = True
            where = f"at shard {worker.shard}, after {worker.done} of its views"
            watcher.note(
                f"{worker.title} has said nothing for {silence / 60:.0f} minutes, "
                f"{'at the start' if worker.shard is None else where}; it may be slow, or hang"
                f"{worker.remedy}"
            )

    def _lose(self, number: int, problem: Problem | None, watcher: Watcher | None) -> None:
        """Bury a worker; too many deaths at one shard, or one that is certain, are an error."""
        worker = self.members.pop(number)
        cause = worker.bury()
        if problem is not None:
            print(problem.trace, end="", file=sys.stderr)
            if problem.is_fatal:
                raise problem.error
        where = "at the start" if worker.shard is None else f"at shard {worker.shard}"
        why = cause if problem is None else first_line(problem.error)
        self._deaths[worker.shard] += 1
        if self._deaths[worker.shard] >= ATTEMPTS:
            raise GenerationError(
                f"--generator: {ATTEMPTS} workers ended {where}, the last one so: {why}; what is "
                "there stays, and the same command goes on"
            ) from (problem.error if problem else None)
        if watcher is not None:
            watcher.note(f"a worker ended {where} ({why}); another one begins it anew")


def problem_of(error: Exception) -> Problem:
    """Return what went wrong in a worker; a bug's traceback is taken where it is whole."""
    if isinstance(error, SsgearError):
        return Problem(error, is_fatal=True)
    if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
        return Problem(error, is_fatal=True)
    what = GenerationError(f"--generator: {type(error).__name__}: {first_line(error)}")
    # a GPU that is lost, or has no memory left, may serve another process
    fatal = not isinstance(error, RuntimeError)
    return Problem(what, is_fatal=fatal, trace="".join(traceback.format_exception(error)))
