"""Making a shard: what every executor calls, in this process or in another, here or elsewhere.

    state = open_state(open_generator(name, config, device), job)     # once in a worker
    report = make_shard(state, shard, watch)                          # for each shard

While a block is made the sources of the next are read, and the one before is encoded, in threads.
A shard is claimed for as long as it is being made. What `watch` raises after a block ends the shard
with nothing left of it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ssgear import distributed, registry
from ssgear.errors import ConfigError
from ssgear.storage.store_marker import Failed
from ssgear.storage.store_writer import Encoded, Sample, Writer, encoded
from ssgear.views.jobs.plan import Job, Task, hardware
from ssgear.views.jobs.sharing import Sharing
from ssgear.views.jobs.thumbnails import Pairs, pairs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssgear.views.base import Generator, Json, Views
    from ssgear.views.jobs.originals import Originals

PREVIEW_EVERY_S = 60.0
"""Time between two previews of a worker; the first comes with its first block."""


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """A block has been made."""

    shard: int
    """Of which shard."""
    done: int
    """Views of the shard that have been tried so far."""
    seconds: Mapping[str, float]
    """Time of each stage."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""
    preview: Pairs | None = None
    """Some of the images beside their sources, small, now and then."""


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """A shard has been dealt with."""

    shard: int
    """Which."""
    outcome: Literal["made", "there", "claimed"]
    """`there`: somebody has made it in the meantime; `claimed`: somebody is making it."""
    images: int = 0
    """Images in it, upscaled sources among them."""
    failed: int = 0
    """Views that could not be made."""
    bytes: int = 0
    """Size of its file."""
    seconds: float = 0.0
    """Time that it took."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Time of each stage of the generator."""
    hardware: str = ""
    """Where it was made."""


Watch = Callable[[BatchReport], None]
_Coming = Future[Encoded] | Failed
"""An entry that is being encoded, or what stands for one that is not there."""


@dataclass(kw_only=True)
class State:
    """A worker that is ready."""

    generator: Generator
    """The model."""
    job: Job
    """What is to be made."""
    writer: Writer
    """Of the job's store."""
    sharing: Sharing
    """Knows what first views of images have told."""
    reader: ThreadPoolExecutor
    """Reads sources ahead."""
    encoders: ThreadPoolExecutor
    """Encode images."""
    next_preview: float = 0.0
    """When the next preview is due, by the monotonic clock."""

    def close(self) -> None:
        """End the threads; what they have not begun is left."""
        for pool in (self.reader, self.encoders):
            pool.shutdown(cancel_futures=True)


def open_generator(name: str, config: Generator.Config, device: torch.device) -> Generator:
    """Build a generator by its name."""
    kind = registry.load("views", name, "--generator")
    generator: Generator = kind(config, device)
    return generator


def open_state(generator: Generator, job: Job) -> State:
    """Prepare a worker.

    Raises:
        ConfigError: the generator is not the one that the store is made with.
    """
    # what JSON makes of both: tuples are lists there
    own, stored = (
        json.loads(json.dumps(dict(settings)))
        for settings in (generator.settings, job.info.settings)
    )
    other = [key for key, value in own.items() if stored.get(key) != value]
    if other:
        raise ConfigError(
            f"--generator: a worker found another model than the command did ({', '.join(other)} "
            "differ); do all machines see the same files?"
        )
    return State(
        generator=generator,
        job=job,
        writer=Writer(root=job.root, info=job.info),
        sharing=Sharing(generator, job),
        reader=ThreadPoolExecutor(1, thread_name_prefix="ssgear-sources"),
        encoders=ThreadPoolExecutor(distributed.usable_cores(), thread_name_prefix="ssgear-encode"),
    )


def make_shard(state: State, shard: int, watch: Watch) -> ShardReport:
    """Make a shard that is missing, unless somebody else is at it."""
    began = time.monotonic()
    with state.writer.claim(shard) as claim:
        if claim is None:
            return ShardReport(shard=shard, outcome="claimed")
        if state.writer.is_whole(shard):
            return ShardReport(shard=shard, outcome="there")
        stages: Counter[str] = Counter()
        marker = state.writer.write_shard(shard, entries(state, shard, watch, stages))
    return ShardReport(
        shard=shard,
        outcome="made",
        images=len(marker.items),
        failed=len(marker.failed),
        bytes=marker.bytes,
        seconds=time.monotonic() - began,
        stages=dict(stages),
        hardware=hardware(),
    )


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Views that are made together, and what they are made of."""

    items: range
    tasks: Sequence[Task]
    images: Tensor | None = None
    about: Sequence[Mapping[str, Json]]
    unreadable: Mapping[int, str] = field(default_factory=dict)


def entries(
    state: State, shard: int, watch: Watch, stages: Counter[str]
) -> Iterator[Encoded | Failed]:
    """Make the views of a shard, a part that is written by somebody else, or by nobody.

    Those of a block come while the next one is being made.
    """
    wanted, done = state.job.info.items_of(shard), 0
    pending: list[_Coming] = []
    try:
        for block in _read_ahead(state, state.job.blocks(shard)):
            views = _views(state, block)
            _check(views, len(block.tasks), state.generator)
            rows = [row for row, item in enumerate(block.items) if item in wanted]
            before, pending = (
                pending,
                [each for row in rows for each in _made(state, block, views, row)],
            )
            done += len(rows)
            stages.update(views.seconds)
            watch(
                BatchReport(
                    shard=shard,
                    done=done,
                    seconds=dict(views.seconds),
                    notes=tuple(views.notes),
                    preview=_preview(state, block, views, rows),
                )
            )
            yield from _finished(before)
        yield from _finished(pending)
    finally:
        for each in pending:
            if isinstance(each, Future):
                each.cancel()


def _views(state: State, block: _Block) -> Views:
    """Have a block made; what was found for the first views of its images is not found again."""
    ids, seeds = [task.id for task in block.tasks], [task.seed for task in block.tasks]
    known = state.sharing.of(block.items, block.unreadable)
    if known is None or block.images is None:
        return state.generator.generate(block.images, ids, seeds)
    views = state.generator.more(block.images, known.rows, ids, seeds)
    return replace(
        views,
        seconds={**known.seconds, **views.seconds},
        notes=(*known.notes, *views.notes),
    )


def _check(views: Views, rows: int, generator: Generator) -> None:
    """Refuse what does not fit the rows that were asked for: a bug of the generator."""
    shape = (*views.images.shape, str(views.images.dtype))
    wanted = (rows, 3, generator.size, generator.size, "torch.uint8")
    lengths = [len(views.metadata), *(len(x) for x in (views.failed, views.upscaled) if x)]
    if shape != wanted or any(length != rows for length in lengths):
        name = type(generator).__name__
        raise ValueError(f"{name}: images {shape} and rows {lengths} are not {wanted} and {rows}")


def _preview(state: State, block: _Block, views: Views, rows: Sequence[int]) -> Pairs | None:
    """Return thumbnails, if it is time for some."""
    good = [row for row in rows if not (views.failed and views.failed[row])]
    if not good or time.monotonic() < state.next_preview:
        return None
    state.next_preview = time.monotonic() + PREVIEW_EVERY_S
    return pairs(block.images, views.images, good)


def _read_ahead(state: State, blocks: Sequence[range]) -> Iterator[_Block]:
    """Yield the blocks; the next one is read while one is used."""
    coming = [state.reader.submit(_read, state.job, blocks[0])]
    for block in [*blocks[1:], None]:
        if block is not None:
            coming.append(state.reader.submit(_read, state.job, block))
        yield coming.pop(0).result()


def _read(job: Job, items: range) -> _Block:
    """Read what the views of a block are made of; grey stands in for what cannot be read."""
    tasks = [job.task(item) for item in items]
    originals: Originals | None = job.originals
    if originals is None:
        return _Block(items=items, tasks=tasks, about=[{}] * len(tasks))
    images, about, unreadable = originals.read(items)
    return _Block(items=items, tasks=tasks, images=images, about=about, unreadable=unreadable)


def _made(state: State, block: _Block, views: Views, row: int) -> Iterator[_Coming]:
    """Have what came of one row encoded: its view, or why there is none, and its source."""
    task, encoding = block.tasks[row], state.job.info.encoding
    about = {"generator": state.job.info.settings["generator"], **block.about[row]}
    if row in block.unreadable:
        yield _failure(task, f"its source cannot be read: {block.unreadable[row]}")
        return
    reason = views.failed[row] if views.failed else None
    if reason is not None:
        yield _failure(task, reason)
    else:
        metadata = {"prompt": None, "seed": task.seed, **about, **views.metadata[row]}
        yield state.encoders.submit(
            _encoded, task.id, task.k, views.images[row], metadata, encoding
        )
    source = views.upscaled[row] if views.upscaled and task.k == 0 else None
    if source is not None:
        yield state.encoders.submit(_encoded, task.id, "up", source, about, encoding)


def _failure(task: Task, reason: str) -> Failed:
    return Failed(id=task.id, k=task.k, seed=task.seed, reason=reason)


def _encoded(
    id_: str, k: int | Literal["up"], image: Tensor, metadata: Mapping[str, Json], encoding: str
) -> Encoded:
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return encoded(Sample(id=id_, k=k, pixels=pixels, metadata=metadata), encoding)


def _finished(pending: Sequence[_Coming]) -> Iterator[Encoded | Failed]:
    for each in pending:
        yield each if isinstance(each, Failed) else each.result()
