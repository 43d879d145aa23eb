"""Workers on a cluster, by Ray: each an actor that makes shards on a file system that all share.

Plain actors, not Ray Data: what a worker makes goes to the shared file system by itself, so that
nothing would flow through a data set; and an actor can tell of every batch, end after one, and be
named with the shard that it died at. A worker is given its next shard once it has made one. One
that dies, or whose machine does, is started again by views/jobs/pool.py. Untested on hardware:
clusters of several machines, and GPUs.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

from ssgear import distributed
from ssgear.errors import (
    ConfigError,
    GenerationError,
    MissingDependencyError,
    first_line,
    refusing,
)
from ssgear.storage.view_store import STORE
from ssgear.views.jobs.plan import Facts, Job, facts_of
from ssgear.views.jobs.pool import Message, Pool, Worker, problem_of
from ssgear.views.jobs.signals import restored
from ssgear.views.jobs.worker import (
    BatchReport,
    ShardReport,
    State,
    make_shard,
    open_generator,
    open_state,
)

if TYPE_CHECKING:
    import torch
    from ray import ObjectRef, ObjectRefGenerator
    from ray.actor import ActorHandle

    from ssgear.views.base import Generator

_OBJECTS = 80 * 2**20
"""Memory of a local Ray for what is sent: Ray wants 75 MiB, reports are small."""
_TRIES = 3
"""Starts of a local Ray: it gives up after half a minute, which a busy machine may well take."""
_REACH_S = 10.0
"""Time until an address counts as unreachable."""
_QUIET_S = 60.0
"""Time until a person is told that no worker has been started."""
_COMMANDS = "commands"
"""Concurrency group of what an actor does while it makes a shard."""
_STREAMING = {"num_returns": "streaming"}
"""Option of a method that yields."""
Tell = Callable[[BatchReport], None]


class Actor:
    """A worker, within its own process."""

    def __init__(self, name: str, config: Generator.Config, device: str, directory: str) -> None:
        """Remember what to build; relative paths mean what they mean to the command."""
        self.name, self.config, self.device, self.directory = name, config, device, directory
        self._is_over = threading.Event()
        self._state: State | None = None
        self._generator: Generator | None = None

    def begin(self) -> Iterator[Message]:
        """Build the generator and say what it is."""
        yield from self._messages(self._built)

    def make(self, job: Job, shard: int) -> Iterator[Message]:
        """Make a shard and tell of its batches, then of itself."""
        yield from self._messages(lambda tell: self._made(job, shard, tell))

    def end(self) -> None:
        """Leave the shard after the batch that is being made."""
        self._is_over.set()

    def _messages(self, work: Callable[[Tell], Message]) -> Iterator[Message]:
        """Do something in a thread and yield what it tells and returns, until that is the end."""
        messages: SimpleQueue[Message | None] = SimpleQueue()

        def run() -> None:
            try:
                messages.put(work(messages.put))
            except _Over:
                messages.put(None)
            except Exception as error:
                messages.put(problem_of(error))

        thread = threading.Thread(target=run)
        thread.start()
        while isinstance(message := messages.get(), BatchReport):
            yield message
        thread.join()
        if message is not None:
            yield message

    def _built(self, tell: Tell) -> Facts:
        with suppress(OSError):
            os.chdir(self.directory)
        place = self._place()
        self._generator = open_generator(self.name, self.config, place)
        return facts_of(self._generator)

    def _made(self, job: Job, shard: int, tell: Tell) -> ShardReport:
        def watch(report: BatchReport) -> None:
            tell(report)
            if self._is_over.is_set():
                raise _Over

        self._place()
        if self._state is None:
            _check_shared(job.root)
            assert self._generator is not None
            self._state = open_state(self._generator, job)
        return make_shard(self._state, shard, watch)

    def _place(self) -> torch.device:
        """Return the device, which Ray has chosen, and use it in this thread."""
        import torch

        if self.device == "cuda":
            torch.cuda.set_device(0)
        return torch.device(self.device)


class _Over(Exception):
    """The command has said so."""


def _check_shared(root: Path) -> None:
    if not (root / STORE).is_file():
        raise ConfigError(
            f"--output: the machine {socket.gethostname()} does not see {root.absolute()}; name a "
            "directory of a file system that all machines share"
        )


class _Remote(Worker):
    """An actor, as the command sees it."""

    def __init__(self, ray: ModuleType, handle: ActorHandle) -> None:
        self.ray, self.handle = ray, handle
        self.cause = "it is gone"
        self._job: ObjectRef | None = None
        self.stream: ObjectRefGenerator = handle.begin.options(**_STREAMING).remote()

    def send(self, job: Job, shard: int) -> None:
        if self._job is None:
            self._job = self.ray.put(job)
        self.stream = self.handle.make.options(**_STREAMING).remote(self._job, shard)

    def receive(self) -> Message | None:
        try:
            message: Message = self.ray.get(next(self.stream))
            return message
        except (StopIteration, self.ray.exceptions.RayError) as error:
            self.cause = str(error).strip().rpartition("\n")[2]  # below Ray's own words
            return None

    def ask_to_stop(self) -> None:
        self.handle.end.options(concurrency_group=_COMMANDS).remote()

    def wait(self) -> None:
        with suppress(self.ray.exceptions.RayError):
            for message in self.stream:
                self.ray.get(message)

    def kill(self) -> None:
        self.ray.kill(self.handle)

    def clear(self) -> str:
        self.kill()
        return self.cause


class Cluster(Pool[_Remote]):
    """Workers of a cluster, or of a Ray that is started on this machine."""

    def __init__(
        self,
        name: str,
        config: Generator.Config,
        device: str,
        workers: int | None,
        address: str | None,
    ) -> None:
        """Remember what to build and where.

        Raises:
            MissingDependencyError: there is no Ray.
            ConfigError: the cluster cannot be reached, or has not so many processors.
        """
        self.ray = _import()
        self.name, self.config = name, config
        _connect(self.ray, address, workers)
        with ExitStack() as stack:
            stack.callback(self.ray.shutdown)
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.device, self.needs, count = plan(nodes, device, workers)
            super().__init__(count, stack.pop_all())
        self._remote = self.ray.remote(concurrency_groups={_COMMANDS: 1})(Actor)
        self._began = time.monotonic()

    def start(self, number: int) -> _Remote:
        """Start a worker, which builds its generator and says what it is."""
        options = {"max_restarts": 0, "scheduling_strategy": "SPREAD", **self.needs}
        actor = self._remote.options(**options)
        return _Remote(self.ray, actor.remote(self.name, self.config, self.device, str(Path.cwd())))

    def ready(self, timeout_s: float) -> list[int]:
        """Wait until some have a message, or are gone, and return which."""
        # the stream of one that has nothing to do has ended
        by_stream = {worker.stream: i for i, worker in self.workers.items() if worker.is_busy}
        if not by_stream:
            return []
        ready, _ = self.ray.wait(
            list(by_stream), num_returns=1, timeout=timeout_s, fetch_local=False
        )
        if not ready and self._facts is None and time.monotonic() - self._began > _QUIET_S:
            self._began = float("inf")
            print("ssgear: Ray has not started a worker yet; is the cluster busy?", file=sys.stderr)
        return [by_stream[stream] for stream in ready]


def plan(
    nodes: Sequence[dict[str, float]], device: str, workers: int | None
) -> tuple[str, dict[str, float], int]:
    """Return the device of the workers, what each needs of a machine, and how many there are.

    By default there is one for each GPU, or where there are none, one for each machine.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device == "cuda" and not gpus:
        raise ConfigError("--device: cuda is not possible, the cluster has no GPU; use cpu")
    if gpus and device != "cpu":
        if (workers or gpus) > gpus:
            raise ConfigError(f"--workers: {workers} is not possible; the cluster has {gpus} GPUs")
        return "cuda", {"num_cpus": 1, "num_gpus": 1}, workers or gpus
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    count = workers or len(cores)
    if count > sum(cores) or not count:
        raise ConfigError(
            f"--workers: {count} is not possible; the cluster has {sum(cores)} processors"
        )
    share = next(n for n in range(max(cores), 0, -1) if sum(each // n for each in cores) >= count)
    return "cpu", {"num_cpus": share, "num_gpus": 0}, count


def _import() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # as workers of the local executor have it
    absent = MissingDependencyError('--executor: ray is not installed; pip install "ssgear[ray]"')
    with refusing(ImportError, lambda error: absent):
        import ray
        import ray.exceptions
    package: ModuleType = ray
    return package


def _connect(ray: ModuleType, address: str | None, workers: int | None) -> None:
    """Start a Ray on this machine, or connect to a cluster."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what it raises says enough
    quiet: dict[str, object] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        cores = max(distributed.usable_cores(), workers or 1)
        quiet |= {"num_cpus": cores, "include_dashboard": False}
        quiet |= {"object_store_memory": _OBJECTS, "_node_ip_address": "127.0.0.1"}
    else:
        _check_address(address)
    for more_tries in reversed(range(_TRIES if address is None else 1)):
        try:
            with restored():  # Ray takes the signals that are the command's
                ray.init(address=address or "local", **quiet)
            return
        except Exception as error:  # Ray raises anything, plain Exception among it
            ray.shutdown()
            if more_tries:
                continue
            why = first_line(error)
    if address is None:
        raise GenerationError(f"--executor: Ray cannot be started on this machine: {why}")
    raise ConfigError(f"--ray-address: {address}: {why}")


def _check_address(address: str) -> None:
    """Refuse what nobody answers at: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()) or "/" in host:
        raise ConfigError(
            f"--ray-address: {address} is not possible; use HOST:PORT of the head node (ray start "
            "prints it), or auto on a machine of the cluster"
        )
    with refusing(
        (OSError, OverflowError),
        lambda error: ConfigError(
            f"--ray-address: {address} cannot be reached ({first_line(error)}); does the head node "
            "run?"
        ),
    ):
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
