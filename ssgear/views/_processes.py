"""Several workers on this machine, each a process of its own.

A worker that dies costs the shard that it was at, which another one begins anew; one that no worker
survives is named. Processes follow the command, not signals: they end after a block when the
command says so, or is gone.
"""

from __future__ import annotations

import multiprocessing as mp
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ssgear.errors import OUT_OF_SPACE, GenerationError, SsgearError, first_line
from ssgear.storage.store_writer import remove_stale
from ssgear.views._plan import Facts, Job, facts_of
from ssgear.views._worker import (
    BatchReport,
    ShardReport,
    claimed_by_others,
    make_shard,
    open_generator,
    open_state,
)

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from ssgear.views._progress import Watcher

ATTEMPTS = 3
"""Workers that may end at one shard."""
_LISTEN_S = 0.5
"""How long a signal may go unheard while workers are silent."""
_DEAF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that the command hears for its workers."""


@dataclass
class _Worker:
    """A process and what it is doing."""

    process: BaseProcess
    connection: Connection
    shard: int | None = None
    is_ready: bool = False
    has_job: bool = False


@dataclass(frozen=True)
class _Problem:
    """What ended a worker; `fatal` if another one would fare no better."""

    error: Exception
    is_fatal: bool


class Processes:
    """Several workers, each a process of its own."""

    def __init__(self, name: str, config: Any, devices: Sequence[str], workers: int) -> None:
        """Remember what to build; worker i uses device i % len(devices)."""
        self.name, self.config, self.devices = name, config, devices
        self.num_workers = workers
        self._workers: dict[int, _Worker] = {}
        self._deaths: Counter[int | None] = Counter()
        self._facts: Facts | None = None
        self._job: Job | None = None

    def facts(self) -> Facts:
        """Let the first worker build its generator and return what it says of itself."""
        while self._facts is None:
            self._start(0)
            self._hear(0, None)
        return self._facts

    def run(self, job: Job, shards: Sequence[int], watcher: Watcher) -> None:
        """Hand the shards out, one at a time to each worker."""
        self._job, left = job, list(shards)
        while left:
            left = claimed_by_others(self._round(left, watcher))
            if left:
                watcher.wait(left)

    def close(self) -> None:
        """Let the workers end after the block that they are at; a signal ends them at once."""
        try:
            for worker in self._workers.values():
                worker.connection.close()  # what a worker writes or reads next fails
            for worker in self._workers.values():
                worker.process.join()
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.join()
            self._workers.clear()
            if self._job is not None:
                remove_stale(self._job.root)

    def _round(self, shards: Sequence[int], watcher: Watcher) -> list[ShardReport]:
        """Have each shard dealt with once, whatever comes of it."""
        todo = deque(shards)
        reports: list[ShardReport] = []
        while len(reports) < len(shards):
            for number in range(min(self.num_workers, len(shards))):
                self._employ(number, todo)
            by_connection = {each.connection: number for number, each in self._workers.items()}
            for ready in wait(list(by_connection), timeout=_LISTEN_S):
                number = by_connection[ready]  # type: ignore[index]
                shard = self._workers[number].shard
                report = self._hear(number, watcher)
                if report is not None:
                    reports.append(report)
                    watcher.shard(report)
                elif number not in self._workers and shard is not None:
                    todo.appendleft(shard)
            watcher.signals.check()
        return reports

    def _employ(self, number: int, todo: deque[int]) -> None:
        """Give a worker something to do, if it has nothing."""
        if not todo:
            return
        self._start(number)
        worker = self._workers[number]
        if worker.is_ready and worker.shard is None:
            worker.shard = todo.popleft()
            if not worker.has_job:
                _tell(worker, self._job)
                worker.has_job = True
            _tell(worker, worker.shard)

    def _start(self, number: int) -> None:
        if number in self._workers:
            return
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        device = self.devices[number % len(self.devices)]
        process = context.Process(target=serve, args=(theirs, self.name, self.config, device))
        with _unheard():
            process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self._workers[number] = _Worker(process, ours)

    def _hear(self, number: int, watcher: Watcher | None) -> ShardReport | None:
        """Take one message of a worker; a worker that has ended is no longer among them."""
        worker = self._workers[number]
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionError):
            message = None
        if isinstance(message, Facts):
            self._facts, worker.is_ready = message, True
            self._deaths[None] = 0
        elif isinstance(message, BatchReport) and watcher is not None:
            watcher.batch(message)
        elif isinstance(message, ShardReport):
            worker.shard = None
            self._deaths[message.shard] = 0
            return message
        else:
            self._lose(number, message, watcher)
        return None

    def _lose(self, number: int, problem: _Problem | None, watcher: Watcher | None) -> None:
        """Bury a worker; too many deaths at one shard, or one that is certain, are an error."""
        worker = self._workers.pop(number)
        worker.process.join()
        worker.connection.close()
        if problem is not None and problem.is_fatal:
            raise problem.error
        where = "at the start" if worker.shard is None else f"at shard {worker.shard}"
        why = _cause(worker.process) if problem is None else first_line(problem.error)
        self._deaths[worker.shard] += 1
        if self._deaths[worker.shard] >= ATTEMPTS:
            raise GenerationError(
                f"--generator: {ATTEMPTS} workers ended {where}, the last one so: {why}; what is "
                "there stays, and the same command goes on"
            ) from (problem.error if problem else None)
        if watcher is not None:
            watcher.note(f"a worker ended {where} ({why}); another one begins it anew")


def serve(connection: Connection, name: str, config: Any, device: str) -> None:
    """Be a worker: say what the generator is, then make what one is told to."""
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)
    command = _Command(connection)
    try:
        _work(command, name, config, device)
    except _Ended:
        return
    except Exception as error:
        with suppress(_Ended):
            command.tell(_problem(error))
    finally:
        connection.close()


def _work(command: _Command, name: str, config: Any, device: str) -> None:
    import torch

    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    generator = open_generator(name, config, place)
    command.tell(facts_of(generator))
    state = open_state(generator, command.ask())
    try:
        while True:
            command.tell(make_shard(state, command.ask(), command.report))
    finally:
        state.close()


class _Ended(Exception):
    """The command has said so, or is gone."""


class _Command:
    """The command, as a worker sees it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ask(self) -> Any:
        """Return what is to be done next."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise _Ended from None

    def tell(self, what: object) -> None:
        try:
            self.connection.send(what)
        except ConnectionError:
            raise _Ended from None

    def report(self, report: BatchReport) -> None:
        self.tell(report)
        if self.connection.poll():  # in the middle of a shard that is the end of the file
            raise _Ended


def _problem(error: Exception) -> _Problem:
    """Return what went wrong; a bug's traceback is shown here, where it is whole."""
    if isinstance(error, SsgearError):
        return _Problem(error, is_fatal=True)
    if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
        return _Problem(error, is_fatal=True)
    traceback.print_exc(file=sys.stderr)
    what = GenerationError(f"--generator: {type(error).__name__}: {first_line(error)}")
    # a GPU that is lost, or has no memory left, may serve another process
    return _Problem(what, is_fatal=not isinstance(error, RuntimeError))


@contextmanager
def _unheard() -> Iterator[None]:
    """Let processes that are started within hear no signals, not even before their first line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _DEAF}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(worker: _Worker, what: object) -> None:
    """Send something to a worker; that it is gone is found where it is heard."""
    with suppress(ConnectionError):
        worker.connection.send(what)


def _cause(process: BaseProcess) -> str:
    """Return how a process ended."""
    code = process.exitcode or 0
    if code >= 0:
        return f"exit status {code}"
    short = ", as the system does where memory is short" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{short}"
