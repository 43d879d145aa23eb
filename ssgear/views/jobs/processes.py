"""Several workers on this machine, each a process of its own.

Processes follow the command, not signals: they end after a block when the command says so, or is
gone.
"""

from __future__ import annotations

import multiprocessing as mp
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, TypeVar

from ssgear.views.jobs.plan import Job, facts_of
from ssgear.views.jobs.pool import Message, Pool, Worker, problem_of
from ssgear.views.jobs.signals import NUMBERS, restored
from ssgear.views.jobs.worker import BatchReport, make_shard, open_generator, open_state

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from ssgear.views.base import Generator

T = TypeVar("T")


class _Process(Worker):
    """A worker."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.title = f"worker process {process.pid}"
        self.remedy = f": if so, kill -9 {process.pid}, and another one begins its shard anew"
        self._has_job = False

    def send(self, job: Job, shard: int) -> None:
        with suppress(ConnectionError):
            if not self._has_job:
                self.connection.send(job)
                self._has_job = True
            self.connection.send(shard)

    def receive(self) -> Message | None:
        with suppress(EOFError, ConnectionError):
            message: Message = self.connection.recv()
            return message
        return None

    def ask_to_stop(self) -> None:
        self.connection.close()  # what a worker writes or reads next fails

    def wait(self) -> None:
        self.process.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def clear(self) -> str:
        self.process.join()
        self.connection.close()
        return _cause(self.process)


class Processes(Pool[_Process]):
    """Several workers, each a process of its own."""

    def __init__(
        self, name: str, config: Generator.Config, devices: Sequence[str], workers: int
    ) -> None:
        """Remember what to build; worker i uses device i % len(devices)."""
        super().__init__(workers)
        self.name, self.config, self.devices = name, config, devices

    def start(self, number: int) -> _Process:
        """Start a worker, which builds its generator and says what it is."""
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        device = self.devices[number % len(self.devices)]
        process = context.Process(target=serve, args=(theirs, self.name, self.config, device))
        with restored(signal.SIG_IGN):  # it takes no signal, not even before its first line
            process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        return _Process(process, ours)

    def ready(self, timeout_s: float) -> list[int]:
        """Wait until some have a message, or are gone, and return which."""
        by_connection = {worker.connection: number for number, worker in self.workers.items()}
        connections = wait(list(by_connection), timeout=timeout_s)
        return [by_connection[connection] for connection in connections]  # type: ignore[index]


def serve(connection: Connection, name: str, config: Generator.Config, device: str) -> None:
    """Be a worker: say what the generator is, then make what one is told to."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    command = _Command(connection)
    with connection, suppress(_Ended):
        try:
            _work(command, name, config, device)
        except Exception as error:
            command.tell(problem_of(error))


def _work(command: _Command, name: str, config: Generator.Config, device: str) -> None:
    import torch

    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    generator = open_generator(name, config, place)
    command.tell(facts_of(generator))
    with closing(open_state(generator, command.ask(Job))) as state:
        while True:
            command.tell(make_shard(state, command.ask(int), command.report))


class _Ended(BaseException):
    """The command has said so, or is gone: no error, which `except Exception` would take."""


class _Command:
    """The command, as a worker sees it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ask(self, kind: type[T]) -> T:
        """Return what is to be done next."""
        with _ended_by_the_command():
            message = self.connection.recv()
        assert isinstance(message, kind)
        return message

    def tell(self, message: Message) -> None:
        with _ended_by_the_command():
            self.connection.send(message)

    def report(self, report: BatchReport) -> None:
        self.tell(report)
        if self.connection.poll():  # in the middle of a shard that is the end of the file
            raise _Ended


@contextmanager
def _ended_by_the_command() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise _Ended from None


def _cause(process: BaseProcess) -> str:
    """Return how a process ended."""
    code = process.exitcode or 0
    if code >= 0:
        return f"exit status {code}"
    short = ", as the system does where memory is short" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{short}"
