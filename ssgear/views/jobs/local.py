"""Executors of this machine: this process, or several, one a GPU (views/jobs/processes.py).

An executor builds the generator and says its `facts`, of which the job is made; then `run` makes
shards and tells a watcher (views/jobs/progress.py) of every block and shard; `close` ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ssgear import distributed
from ssgear.views.jobs.plan import Facts, Job, facts_of
from ssgear.views.jobs.processes import Processes
from ssgear.views.jobs.worker import make_shard, open_generator, open_state

if TYPE_CHECKING:
    import torch

    from ssgear.views.base import Generator
    from ssgear.views.jobs.progress import Watcher


class Executor(Protocol):
    """Makes shards somewhere."""

    def facts(self) -> Facts:
        """Build the generator and return what it says of itself."""

    def run(self, job: Job, shards: Sequence[int], watcher: Watcher) -> None:
        """Have each shard dealt with; the watcher is told of blocks and shards, and may end it."""

    def close(self) -> None:
        """End what has been started."""


def local(name: str, config: Generator.Config, device: str, workers: int | None) -> Executor:
    """Return the executor for so many workers; by default one for each GPU, or one."""
    chosen = distributed.choose_device(device, "--device")
    count = num_gpus() if chosen.type == "cuda" else 1
    if (workers or count) == 1:
        return InProcess(name, config, chosen)
    devices = [f"cuda:{i}" for i in range(count)] if chosen.type == "cuda" else ["cpu"]
    return Processes(name, config, devices, workers or count)


def num_gpus() -> int:
    """Return how many GPUs there are."""
    import torch

    return torch.cuda.device_count()


class InProcess:
    """One worker, this process."""

    def __init__(self, name: str, config: Generator.Config, device: torch.device) -> None:
        """Remember what to build."""
        self.name, self.config, self.device = name, config, device

    def facts(self) -> Facts:
        """Build the generator and return what it says of itself."""
        return facts_of(self.generator)

    def run(self, job: Job, shards: Sequence[int], watcher: Watcher) -> None:
        """Make the shards one after the other."""
        with closing(open_state(self.generator, job)) as state:
            for shard in shards:
                watcher.shard(make_shard(state, shard, watcher.batch))

    def close(self) -> None:
        """Nothing has been started."""

    @cached_property
    def generator(self) -> Generator:
        """The generator, built when it is first needed."""
        return open_generator(self.name, self.config, self.device)
