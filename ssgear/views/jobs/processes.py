"""Several workers on this machine, each a process of its own.

Processes follow the command, not signals: they end after a block when the command says so, or is
gone.
"""

from __future__ import annotations

import multiprocessing as mp
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ssgear.storage.store_writer import remove_stale
from ssgear.views.jobs.plan import Job, facts_of
from ssgear.views.jobs.pool import Crew, Member, problem_of
from ssgear.views.jobs.worker import BatchReport, make_shard, open_generator, open_state

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_DEAF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that the command hears for its workers."""


class _Process(Member):
    """A worker."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.title = f"worker process {process.pid}"
        self.remedy = f": if so, kill -9 {process.pid}, and another one begins its shard anew"
        self._has_job = False

    def give(self, job: Job, shard: int) -> None:
        with suppress(ConnectionError):
            if not self._has_job:
                self.connection.send(job)
                self._has_job = True
            self.connection.send(shard)

    def hear(self) -> object:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            return None

    def bury(self) -> str:
        self.process.join()
        self.connection.close()
        return _cause(self.process)


class Processes(Crew[_Process]):
    """Several workers, each a process of its own."""

    def __init__(self, name: str, config: Any, devices: Sequence[str], workers: int) -> None:
        """Remember what to build; worker i uses device i % len(devices)."""
        super().__init__(workers)
        self.name, self.config, self.devices = name, config, devices

    def close(self) -> None:
        """Let the workers end after the block that they are at; a signal ends them at once."""
        try:
            for worker in self.members.values():
                worker.connection.close()  # what a worker writes or reads next fails
            for worker in self.members.values():
                worker.process.join()
        finally:
            for worker in self.members.values():
                worker.process.kill()
                worker.process.join()
            self.members.clear()
            if self.job is not None:
                remove_stale(self.job.root)

    def hire(self, number: int) -> _Process:
        """Start a worker, which builds its generator and says what it is."""
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        device = self.devices[number % len(self.devices)]
        process = context.Process(target=serve, args=(theirs, self.name, self.config, device))
        with _unheard():
            process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        return _Process(process, ours)

    def heard(self, timeout_s: float) -> list[int]:
        """Wait until some have something to say, or are gone, and return which."""
        by_connection = {each.connection: number for number, each in self.members.items()}
        ready = wait(list(by_connection), timeout=timeout_s)
        return [by_connection[each] for each in ready]  # type: ignore[index]


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
            command.tell(problem_of(error))
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


def _cause(process: BaseProcess) -> str:
    """Return how a process ended."""
    code = process.exitcode or 0
    if code >= 0:
        return f"exit status {code}"
    short = ", as the system does where memory is short" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{short}"
