"""Ranks: who am I, how many are we, gathers, and waiting for one another.

One process is a world of one and not special. `initialise` joins the ranks that torchrun or the
DeepSpeed launcher started (environment variables RANK, WORLD_SIZE, LOCAL_RANK). Waits are timed: a
rank that is gone becomes an error that names it, not a hang. Where one rank may take longer than
any collective would wait (`World.unhurried`), signs of life pass through the store of the group.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ssgear.errors import ConfigError, TrainingError, refusing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the others of the run."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """How many processes train together."""
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1
    """How many of the processes run on this machine."""
    timeout_s: float = 600.0
    """How long a rank waits for a sign of life of another."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @contextlib.contextmanager
    def unhurried(self, what: str) -> Iterator[None]:
        """Wait, after the block, until every rank is through it, for as long as that takes.

        All ranks enter it. A rank that lives may stay in the block for hours; one that is gone, or
        has left the block by an error, is named in an error within the timeout.
        """
        if self.size == 1:
            yield
            return
        with refusing(RuntimeError, self.lost):  # the rank that held the store is gone already
            meeting = _Meeting(self, what)
        try:
            yield
            meeting.wait()
        except BaseException:
            meeting.tell(self.rank)
            raise
        finally:
            meeting.end()

    def max_number(self, number: int) -> int:
        """Return the largest of a small number over ranks.

        One all-reduce, which also finds ranks that are gone.
        """
        if self.size == 1:
            return number
        import torch
        import torch.distributed as dist

        value = torch.tensor(number)
        with refusing(RuntimeError, self.lost):
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value.item())

    def max_flag(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return bool(self.max_number(int(flag)))

    def lost(self, error: RuntimeError) -> TrainingError:
        """Say which ranks no longer answer, as far as it can be found out."""
        import torch.distributed as dist

        reason = str(error)
        try:
            # monitored_barrier needs gloo, which `initialise` puts on the CPU beside NCCL
            dist.monitored_barrier(timeout=datetime.timedelta(seconds=5), wait_all_ranks=True)
        except RuntimeError as named:
            reason = str(named)
        return self.gone(reason.splitlines()[0] if reason else "no reason given")

    def gone(self, reason: str) -> TrainingError:
        """Return the error of a run that has lost a rank."""
        return TrainingError(
            f"rank {self.rank} of {self.size}: another rank stopped answering: {reason}; the last "
            "checkpoint is complete, continue with --resume"
        )

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over ranks."""
        if self.size == 1:
            return values
        import torch.distributed as dist

        values = values.detach().clone()
        dist.all_reduce(values)
        return values / self.size

    def gather(self, value: T) -> list[T]:
        """Return a small picklable value of every rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values = [value] * self.size
        dist.all_gather_object(values, value)
        return values


class _Meeting:
    """One block of `World.unhurried`: signs of life of every rank, and who is through.

    The store of the group counts signs of life by rank, how many ranks are through the block of a
    number, and how many have seen that all were.
    """

    def __init__(self, world: World, what: str) -> None:
        """Begin to give signs of life, several within the timeout."""
        from torch.distributed import distributed_c10d

        self.world, self.what, self.over = world, what, threading.Event()
        self.pulse_s = min(world.timeout_s / 8, 30.0)
        # the store that the ranks met by, which has no public name; by a connection of its own, so
        # that nobody who waits for something in there holds these signs up
        self.store = distributed_c10d._get_default_store().clone()
        self.number = self._add(f"entered {world.rank}", 1)
        self.thread = threading.Thread(target=self._live, name="ssgear-alive", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Wait until all ranks are through."""
        # where the store is gone, the rank that held it is gone, too
        with refusing(RuntimeError, self.world.lost):
            self._come_by("through")
            self._wait_for("through")
            self._come_by("left")
            if self.world.is_main:  # its process may hold the store
                self._wait_for("left")

    def tell(self, rank: int) -> None:
        """Tell the others that a rank will not come; the first who is named stays named."""
        with contextlib.suppress(RuntimeError):
            self.store.compare_set(self._failed, "", str(rank))

    def end(self) -> None:
        """Give no more signs of life."""
        self.over.set()
        self.thread.join()

    def _come_by(self, name: str) -> None:
        self._add(f"{name} {self.number}", 1)

    def _wait_for(self, name: str) -> None:
        """Wait until all ranks have come by, as long as all of them live."""
        pause, looked = 0.002, -math.inf
        seen: dict[int, tuple[int, float]] = {}
        while self._add(f"{name} {self.number}", 0) < self.world.size:
            if self.store.check([self._failed]):
                rank = self.store.get(self._failed).decode()
                raise self.world.gone(f"rank {rank} failed in {self.what}")
            if time.monotonic() - looked > self.pulse_s:
                looked = time.monotonic()
                self._look(seen, looked)
            time.sleep(pause)
            pause = min(2 * pause, 0.5, self.pulse_s)

    def _look(self, seen: dict[int, tuple[int, float]], now: float) -> None:
        """Find a rank whose signs of life, as they were last seen, are too old."""
        for rank in range(self.world.size):
            count = self._add(f"alive {rank}", 0)
            if rank not in seen or seen[rank][0] != count:
                seen[rank] = count, now
            elif now - seen[rank][1] > self.world.timeout_s:
                self.tell(rank)
                silent = f"rank {rank} gave no sign of life for {self.world.timeout_s:.0f} s"
                raise self.world.gone(f"{silent} in {self.what}")

    def _live(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: `wait` finds out
            while not self.over.wait(self.pulse_s):
                self._add(f"alive {self.world.rank}", 1)

    @property
    def _failed(self) -> str:
        return f"ssgear/failed {self.number}"

    def _add(self, name: str, amount: int) -> int:
        return int(self.store.add(f"ssgear/{name}", amount))


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose partner is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)


def world_from_environment() -> World:
    """Read what the launcher says; a process that no launcher started is a world of one."""
    wrong = "the launcher's variables RANK, WORLD_SIZE, LOCAL_RANK must be numbers"
    with refusing(ValueError, lambda error: ConfigError(f"{wrong}: {error}")):
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return World(
            rank=int(os.environ.get("RANK", "0")),
            size=size,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(size))),
        )


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def initialise(device: torch.device, timeout_s: float) -> World:
    """Join the other ranks: NCCL for GPU tensors, gloo for those on the CPU."""
    import dataclasses

    import torch.distributed as dist

    world = dataclasses.replace(world_from_environment(), timeout_s=timeout_s)
    if world.size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    return world


def shut_down() -> None:
    """Leave the group of ranks, if this process is in one."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def choose_device(wanted: str, option: str) -> torch.device:
    """Return this rank's device for cpu, cuda or auto; `option` asked for it."""
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError(f"{option}: cuda was asked for, and PyTorch finds no GPU here; use cpu")
    if wanted == "cpu" or not has_gpu:
        return torch.device("cpu")
    local = world_from_environment().local_rank
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
