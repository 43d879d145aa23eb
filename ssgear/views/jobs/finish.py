"""From a job to a finished store, or part of one: what is missing is made, what failed is told."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssgear.errors import DataError
from ssgear.storage.store_marker import read_marker
from ssgear.storage.store_writer import Writer
from ssgear.views.jobs.plan import Job, Piece
from ssgear.views.jobs.progress import Watcher

if TYPE_CHECKING:
    from ssgear.views.jobs.local import Executor
    from ssgear.views.jobs.signals import Signals

_SHOWN = 10
"""Unreadable files and reasons of failures that are named."""


def finish(
    job: Job,
    piece: Piece,
    executor: Executor,
    signals: Signals,
    notes: Sequence[str] = (),
    hardware: str = "",
) -> None:
    """Have the shards of a part made that are missing, on such hardware.

    Raises:
        DataError: not one view of it could be made.
        Interrupted: a signal asked for an end; the same job goes on.
    """
    from ssgear.data.sources.progress import progress

    writer = Writer(root=job.root, info=job.info)
    shards = piece.of_these(range(job.info.num_shards))
    missing = piece.of_these(writer.missing())
    total = _planned(job, missing)
    if not shards:
        notes = (*notes, _nothing(job, piece))
    for line in (*_unreadable(job), *_there(_planned(job, shards), total), *notes):
        print(f"ssgear: {line}", file=sys.stderr)
    with signals.gentle(), progress("Generating" if total else "", total) as advance:
        if missing:
            watcher = Watcher(job.root, signals, advance)
            watcher.compare(hardware)
            while missing:
                executor.run(job, missing, watcher)
                missing = watcher.claimed()
    _tell_failed(job, shards)


def _planned(job: Job, shards: Sequence[int]) -> int:
    return sum(len(job.info.items_of(shard)) for shard in shards)


def _nothing(job: Job, piece: Piece) -> str:
    """Say why a part of a store holds nothing."""
    info = job.info
    return (
        f"--shard {piece.number}/{piece.of} has nothing to make: the store has {info.num_shards} "
        f"shards, of --shard-size {info.shard_size}; a smaller one makes more of its {info.count} "
        "images"
    )


def _there(planned: int, missing: int) -> list[str]:
    """Say how many images are there."""
    if missing == planned or not planned:
        return []
    return [f"{f'{planned - missing} of' if missing else 'all'} {planned} images are there"]


def _unreadable(job: Job) -> list[str]:
    """Name the sources that get no views."""
    bad = () if job.originals is None else job.originals.source.bad
    lines = [f"{file.where} cannot be read and gets no views: {file.reason}" for file in bad]
    more = [f"and so it is with {len(bad) - _SHOWN} more files"] if len(bad) > _SHOWN else []
    return lines[:_SHOWN] + more


def _tell_failed(job: Job, shards: Sequence[int]) -> None:
    """Say how many views of these shards could not be made."""
    reasons: Counter[str] = Counter()
    tasks = 0
    for shard in shards:  # one marker in memory at a time: each names all images of its shard
        marker = read_marker(job.root, shard)
        if marker is not None:
            reasons.update(failed.reason for failed in marker.failed)
            tasks += marker.tasks
    if not reasons:
        return
    common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(_SHOWN))
    told = f"{reasons.total()} of {tasks} views failed and are not stored: {common}"
    if reasons.total() == tasks:
        raise DataError(f"--generator: {told}")
    print(f"ssgear: {told}", file=sys.stderr)
