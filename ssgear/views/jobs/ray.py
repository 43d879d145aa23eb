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
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ssgear import distributed
from ssgear.errors import ConfigError, GenerationError, MissingDependencyError, first_line
from ssgear.storage.store_writer import remove_stale
from ssgear.storage.view_store import STORE
from ssgear.views.jobs.plan import Job, facts_of
from ssgear.views.jobs.pool import Crew, Member, problem_of
from ssgear.views.jobs.worker import (
    BatchReport,
    State,
    make_shard,
    open_generator,
    open_state,
)

if TYPE_CHECKING:
    import torch

_OBJECTS = 80 * 2**20
"""Memory of a local Ray for what is sent: Ray wants 75 MiB, reports are small."""
_TRIES = 3
"""Starts of a local Ray: it gives up after half a minute, which a busy machine may well take."""
_REACH_S = 10.0
"""Time until an address counts as unreachable."""
_QUIET_S = 60.0
"""Time until a person is told that no worker has been started."""
_HEARD = "commands"
"""Concurrency group of what an actor does while it makes a shard."""


class Actor:
    """A worker, within its own process."""

    def __init__(self, name: str, config: Any, device: str, directory: str) -> None:
        """Remember what to build; relative paths mean what they mean to the command."""
        self.name, self.config, self.device, self.directory = name, config, device, directory
        self._is_over = threading.Event()
        self._state: State | None = None
        self._generator: Any = None

    def begin(self) -> Iterator[object]:
        """Build the generator and say what it is."""
        yield from self._told(self._built)

    def make(self, job: Job, shard: int) -> Iterator[object]:
        """Make a shard and tell of its batches, then of itself."""
        yield from self._told(lambda tell: self._made(job, shard, tell))

    def end(self) -> None:
        """Leave the shard after the batch that is being made."""
        self._is_over.set()

    def _told(self, work: Any) -> Iterator[object]:
        """Do something in a thread and yield what it tells and returns, until that is the end."""
        messages: SimpleQueue[object] = SimpleQueue()

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

    def _built(self, tell: Any) -> object:
        with suppress(OSError):
            os.chdir(self.directory)
        place = self._place()
        self._generator = open_generator(self.name, self.config, place)
        return facts_of(self._generator)

    def _made(self, job: Job, shard: int, tell: Any) -> object:
        def watch(report: BatchReport) -> None:
            tell(report)
            if self._is_over.is_set():
                raise _Over

        self._place()
        if self._state is None:
            _check_shared(job.root)
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


class _Remote(Member):
    """An actor, as the command sees it."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self.ray, self.handle = ray, handle
        self.why = "it is gone"
        self._job: Any = None
        self.stream = self._streaming(handle.begin).remote()

    def give(self, job: Job, shard: int) -> None:
        if self._job is None:
            self._job = self.ray.put(job)
        self.stream = self._streaming(self.handle.make).remote(self._job, shard)

    def hear(self) -> object:
        try:
            return self.ray.get(next(self.stream))
        except (StopIteration, self.ray.exceptions.RayError) as error:
            self.why = str(error).strip().rpartition("\n")[2]  # below Ray's own words
            return None

    def end(self) -> None:
        self.handle.end.options(concurrency_group=_HEARD).remote()

    def rest(self) -> None:
        """Wait until it has left its shard."""
        with suppress(self.ray.exceptions.RayError):
            for message in self.stream:
                self.ray.get(message)

    def bury(self) -> str:
        self.ray.kill(self.handle)
        return self.why

    def _streaming(self, method: Any) -> Any:
        return method.options(num_returns="streaming")


class Cluster(Crew[_Remote]):
    """Workers of a cluster, or of a Ray that is started on this machine."""

    def __init__(
        self, name: str, config: Any, device: str, workers: int | None, address: str | None
    ) -> None:
        """Remember what to build and where.

        Raises:
            MissingDependencyError: there is no Ray.
            ConfigError: the cluster cannot be reached, or has not so many processors.
        """
        self.ray = _import()
        self.name, self.config = name, config
        _connect(self.ray, address, workers)
        try:
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.device, self.needs, count = plan(nodes, device, workers)
        except BaseException:
            self.ray.shutdown()
            raise
        super().__init__(count)
        self._remote = self.ray.remote(concurrency_groups={_HEARD: 1})(Actor)
        self._began = time.monotonic()

    def hire(self, number: int) -> _Remote:
        """Start a worker, which builds its generator and says what it is."""
        options = {"max_restarts": 0, "scheduling_strategy": "SPREAD", **self.needs}
        actor = self._remote.options(**options)
        return _Remote(self.ray, actor.remote(self.name, self.config, self.device, str(Path.cwd())))

    def heard(self, timeout_s: float) -> list[int]:
        """Wait until some have something to say, or are gone, and return which."""
        # the stream of one that has nothing to do has ended
        at_work = {
            i: each
            for i, each in self.members.items()
            if each.shard is not None or not each.is_ready
        }
        by_stream = {each.stream: number for number, each in at_work.items()}
        if not by_stream:
            return []
        ready, _ = self.ray.wait(
            list(by_stream), num_returns=1, timeout=timeout_s, fetch_local=False
        )
        if not ready and self._facts is None and time.monotonic() - self._began > _QUIET_S:
            self._began = float("inf")
            print("ssgear: Ray has not started a worker yet; is the cluster busy?", file=sys.stderr)
        return [by_stream[each] for each in ready]

    def close(self) -> None:
        """Let the workers end after the block that they are at; a signal ends them at once."""
        try:
            for worker in self.members.values():
                worker.end()
            for worker in self.members.values():
                worker.rest()
        finally:
            for worker in self.members.values():
                worker.bury()
            self.members.clear()
            self.ray.shutdown()
            if self.job is not None:
                remove_stale(self.job.root)


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


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # as workers of the local executor have it
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingDependencyError(
            '--executor: ray is not installed; pip install "ssgear[ray]"'
        ) from None
    return ray


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    """Start a Ray on this machine, or connect to a cluster."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what it raises says enough
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        cores = max(distributed.usable_cores(), workers or 1)
        quiet |= {"num_cpus": cores, "include_dashboard": False}
        quiet |= {"object_store_memory": _OBJECTS, "_node_ip_address": "127.0.0.1"}
    else:
        _check_address(address)
    for left in reversed(range(_TRIES if address is None else 1)):
        try:
            with _own_signals():
                ray.init(address=address or "local", **quiet)
            return
        except Exception as error:  # Ray raises anything, plain Exception among it
            ray.shutdown()
            if left:
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
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--ray-address: {address} cannot be reached ({first_line(error)}); does the head node "
            "run?"
        ) from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep Ray from hearing the signals that the command hears."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
