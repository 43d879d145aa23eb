"""Ranks that wait for a slow one, however long, and find out about one that is gone."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from ssgear.distributed import World
from ssgear.errors import TrainingError
from tests.ranks import Ranks

TIMEOUT_S = 3.0
LONG_S = 1.5 * TIMEOUT_S


def world(size: int) -> World:
    return World(rank=dist.get_rank(), size=size, timeout_s=TIMEOUT_S)


def hurry() -> None:
    """Give collectives the same short time."""
    limit = datetime.timedelta(seconds=TIMEOUT_S)
    # set_timeout is its public name in newer versions
    change = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    change(limit, dist.group.WORLD)


def read(slow: int | None) -> float:
    """Let one rank read for long, and meet the other at a collective."""
    hurry()
    start = time.monotonic()
    with world(2).unhurried("a reading"):
        if dist.get_rank() == slow:
            time.sleep(LONG_S)
    assert world(2).max_number(dist.get_rank()) == 1
    return time.monotonic() - start


@pytest.mark.parametrize("slow", [0, 1])
def test_a_reading_may_outlast_the_timeout(slow: int, pair: Ranks) -> None:
    assert min(pair.run(read, slow)) > TIMEOUT_S


def fail() -> str:
    try:
        with world(2).unhurried("a reading"):
            if dist.get_rank() == 0:
                raise ValueError("the disk is full")
    except (ValueError, TrainingError) as error:
        return str(error)
    return "went on"


def test_a_rank_that_fails_is_told_of(pair: Ranks) -> None:
    """The next block is not held up by it."""
    first, second = pair.run(fail)
    assert first == "the disk is full"
    assert second == (
        "rank 1 of 2: another rank stopped answering: rank 0 failed in a reading; the last "
        "checkpoint is complete, continue with --resume"
    )
    assert pair.run(read, None)


def collect_only() -> str:
    """What becomes of ranks that wait at a collective."""
    hurry()
    if dist.get_rank() == 0:
        time.sleep(LONG_S)
    try:
        return f"{world(3).max_number(1)}"
    except TrainingError as error:
        return str(error)


def die(mortal: int, size: int) -> str:
    start = time.monotonic()
    try:
        with world(size).unhurried("a reading"):
            if dist.get_rank() == mortal:
                os._exit(1)
    except TrainingError as error:
        in_time = time.monotonic() - start < 3 * TIMEOUT_S
        return f"{error}" if in_time else "too late"
    return "went on"


def test_ranks_that_are_gone_are_named() -> None:
    ranks = Ranks(3)
    try:
        said = ranks.run(collect_only)  # or the readings above would have proved nothing
        assert "rank 1 of 3: another rank stopped answering" in said[1]
        first, second = survivors(ranks, (0, 1), die, 2, 3)
        for rank, text in enumerate((first, second)):
            assert text.startswith(f"rank {rank} of 3: another rank stopped answering: rank 2 ")
        assert "rank 2 gave no sign of life for 3 s in a reading" in first + second
        (alone,) = survivors(ranks, (1,), die, 0, 2)  # the store goes with it
        assert alone.startswith("rank 1 of 2: another rank stopped answering: ")
    finally:
        ranks.close()


def survivors(
    ranks: Ranks, places: tuple[int, ...], function: Callable[..., str], *args: int
) -> list[str]:
    """Call a function on all ranks that are left, one of which ends in it; return the answers."""
    alive = [rank for rank, process in enumerate(ranks.processes) if process.is_alive()]
    found = ranks.answers(
        places, function, *args, also=[rank for rank in alive if rank not in places]
    )
    assert all(worked for worked, _ in found), found
    return [answer for _, answer in found]


def test_one_process_is_not_special() -> None:
    with World().unhurried("a reading"):
        pass
    with pytest.raises(ValueError, match="as it was"), World().unhurried("a reading"):
        raise ValueError("as it was")
