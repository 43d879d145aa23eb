"""What a store will cost, from a few batches that are made, encoded, and thrown away.

One worker is measured, in this process, on the images that the store is to be made of; the first
batch, in which compilers and caches warm up, is not counted. Nothing is written.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from tarfile import BLOCKSIZE
from typing import TYPE_CHECKING

from ssgear.storage.store_marker import Failed
from ssgear.storage.store_writer import Encoded
from ssgear.storage.view_store import UPSCALED
from ssgear.views.jobs.plan import Job
from ssgear.views.jobs.sharing import Sharing
from ssgear.views.jobs.worker import BatchReport, entries, open_state

if TYPE_CHECKING:
    from ssgear.views.base import Generator

_WORTH_S = 20.0
"""Time that is worth measuring."""
_MOST = 8
"""Batches that are measured at most."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was measured, and what follows for what is missing."""

    tried: int
    """Views that were made."""
    failed: int
    """Views among them that could not be made."""
    seconds: float
    """Time that they took."""
    stages: Mapping[str, float]
    """Time that each stage was at work; stages may overlap."""
    missing: int
    """Views that are not there yet."""
    missing_seconds: float
    """Time of one worker for them; where a shard ends within a batch, it is made for both."""
    planned: int
    """Views of the store, or of the part of it."""
    bytes: int
    """Of the shards that are missing."""
    notes: tuple[str, ...] = ()
    """What the generator had to say."""

    @property
    def hours(self) -> float:
        """Time of one worker for what is missing."""
        return self.missing_seconds / 3600

    @property
    def speed(self) -> float:
        """Views a second of one worker."""
        if not self.missing:
            return self.tried / self.seconds
        return self.missing / self.missing_seconds


def estimate(
    generator: Generator, job: Job, shards: Sequence[int], missing: Sequence[int]
) -> Estimate:
    """Measure a generator on some of the views of `missing`, which are among `shards`."""
    began, some = time.monotonic(), missing or shards or range(job.info.num_shards)
    _measure(generator, job, some, 1)
    batches = max(1, min(_MOST, round(_WORTH_S / max(time.monotonic() - began, 1e-9))))
    blocks = [block for shard in missing for block in job.blocks(shard)]
    sources = _num_sources(job)
    later = sum(block.start >= sources for block in blocks) if generator.shares else 0
    # further views cost less than first ones, where they share what is dear to find
    is_split = 0 < later < len(blocks)
    found = _measure(generator, job, some, batches, later=later > 0 and not is_split)
    further = _measure(generator, job, some, batches, later=True) if is_split else found
    items = [job.info.items_of(shard) for shard in missing]
    count = sum(len(each) for each in items)
    first = sum(max(0, min(each.stop, sources) - each.start) for each in items)
    both = (found, further) if is_split else (found,)
    return Estimate(
        tried=sum(each.tried for each in both),
        failed=sum(each.failed for each in both),
        seconds=sum(each.seconds for each in both),
        stages=sum((each.stages for each in both), Counter()),
        missing=count,
        missing_seconds=(len(blocks) - later) * found.pace + later * further.pace,
        planned=sum(len(job.info.items_of(shard)) for shard in shards),
        bytes=round((count * found.bytes + first * found.upscaled) / found.tried),
        notes=tuple(dict.fromkeys(note for each in both for note in each.notes)),
    )


def _num_sources(job: Job) -> int:
    return 0 if job.originals is None else len(job.originals)


@dataclass(kw_only=True)
class _Measured:
    """Some batches."""

    batches: int
    tried: int = 0
    failed: int = 0
    seconds: float = 0.0
    bytes: int = 0
    upscaled: int = 0
    """Bytes of sources."""
    stages: Counter[str] = dataclasses.field(default_factory=Counter)
    notes: dict[str, None] = dataclasses.field(default_factory=dict)

    @property
    def pace(self) -> float:
        """Time of a batch."""
        return self.seconds / self.batches

    def receive(self, report: BatchReport) -> None:
        """Keep what the generator has to say."""
        self.notes.update(dict.fromkeys(report.notes))


def _measure(
    generator: Generator, job: Job, shards: Sequence[int], batches: int, *, later: bool = False
) -> _Measured:
    """Make so many batches from the middle of these shards, fewer where the store is small.

    They are of first views, where there are any, or of `later` ones.
    """
    size, sources = batches * int(job.info.settings["batch_size"]), _num_sources(job)
    info = dataclasses.replace(job.info, shard_size=size)
    # first views of sources have these beside them, others have not
    wanted = [each for each in shards if (job.info.items_of(each).start >= sources) == later]
    some = wanted or shards
    middle = job.info.items_of(some[len(some) // 2]).start // size
    trial = dataclasses.replace(job, info=info)
    last = max(0, info.count // size - 1)  # one that is full
    shard = last if later and not wanted else min(middle, last)
    found = _Measured(batches=len(trial.blocks(shard)))
    with closing(open_state(generator, trial)) as state:
        state.sharing = Sharing(generator, job, kept=2 * batches)
        for block in trial.blocks(shard) if later else ():
            state.sharing.of(block)  # what first views tell is there by then
        state.next_preview, began = float("inf"), time.monotonic()
        for entry in entries(state, shard, found.receive, found.stages):
            _count(entry, found)
    found.seconds = time.monotonic() - began
    return found


def _count(entry: Encoded | Failed, found: _Measured) -> None:
    if isinstance(entry, Failed):
        found.tried += 1
        found.failed += 1
        return
    length = sum(BLOCKSIZE - len(x) // -BLOCKSIZE * BLOCKSIZE for x in (entry.image, entry.text))
    if entry.name.endswith(f".{UPSCALED}"):
        found.upscaled += length
    else:
        found.tried += 1
        found.bytes += length


def lines(found: Estimate, workers: int) -> Iterator[str]:
    """Say it, one line for each thing."""
    failed = f", {found.failed} failed" if found.failed else ""
    yield (
        f"speed    {found.speed:.3g} images/s a worker ({found.tried} images in "
        f"{found.seconds:.3g} s{failed})"
    )
    shares = {name: seconds / found.seconds for name, seconds in found.stages.items()}
    if shares:
        busiest = sorted(shares, key=lambda name: -shares[name])
        told = ", ".join(f"{name} {100 * shares[name]:.0f} %" for name in busiest)
        yield f"stages   {told} of the time at work"
    yield f"missing  {found.missing:,} of {found.planned:,} images"
    many = f", {_hours(found.hours / workers)} with {workers}, if none slows another"
    yield f"time     {_hours(found.hours)} with one worker{many if workers > 1 else ''}"
    each = found.bytes / found.missing / 1e3 if found.missing else 0.0
    size = f"{found.bytes / 1e9:.3g} GB" if found.bytes >= 1e9 else f"{found.bytes / 1e6:.3g} MB"
    yield f"space    {size} ({each:.3g} kB an image)"


def _hours(hours: float) -> str:
    return f"{hours:.3g} hours" if hours >= 1 else f"{60 * hours:.3g} minutes"
