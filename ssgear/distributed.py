"""Ranks: who am I, how many are we, gathers and barriers.

One process is a world of one and not special. `initialise` joins the ranks that torchrun or the
DeepSpeed launcher started (environment variables RANK, WORLD_SIZE, LOCAL_RANK). Barriers are timed:
a rank that is gone becomes an error that names it, not a hang.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssgear.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
    """How long a barrier waits for the others."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def barrier(self, what: str) -> None:
        """Wait for every rank.

        A rank that does not come within the timeout is named in the error.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        try:
            # monitored_barrier needs gloo, which `initialise` puts on the CPU beside NCCL
            dist.monitored_barrier(
                timeout=datetime.timedelta(seconds=self.timeout_s), wait_all_ranks=True
            )
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise TrainingError(
                f"rank {self.rank}: waited {self.timeout_s:.0f} s at {what!r}: {first}"
            ) from error

    def max_number(self, number: int) -> int:
        """Return the largest of a small number over ranks.

        One all-reduce, which also finds ranks that are gone.
        """
        if self.size == 1:
            return number
        import torch
        import torch.distributed as dist

        value = torch.tensor(number)
        try:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise self.lost(error) from error
        return int(value.item())

    def max_flag(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return bool(self.max_number(int(flag)))

    def lost(self, error: RuntimeError) -> TrainingError:
        """Say which ranks no longer answer, as far as it can be found out."""
        import torch.distributed as dist

        reason = str(error)
        try:
            dist.monitored_barrier(timeout=datetime.timedelta(seconds=5), wait_all_ranks=True)
        except RuntimeError as named:
            reason = str(named)
        first = reason.splitlines()[0] if reason else "no reason given"
        return TrainingError(
            f"rank {self.rank} of {self.size}: another rank stopped answering: {first}; the last "
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

    def gather(self, value: Any) -> list[Any]:
        """Return a small picklable value of every rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose partner is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)


def world_from_environment() -> World:
    """Read what the launcher says; a process that no launcher started is a world of one."""
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return World(
            rank=int(os.environ.get("RANK", "0")),
            size=size,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(size))),
        )
    except ValueError as error:
        raise ConfigError(
            f"the launcher's variables RANK, WORLD_SIZE, LOCAL_RANK must be numbers: {error}"
        ) from None


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
