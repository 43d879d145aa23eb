"""`python -m ssgear.generate`: a generator -> images -> a view store (storage/view_store.py).

A store that is there is finished, or enlarged by a larger --count or --views: image i is a function
of the seed and i alone, view k of a real image of the seed, the image and k, whatever makes them
and in which order. What is common to all executors is in views/jobs/plan.py and
views/jobs/worker.py. The last line on standard output is the path of the store, or of the page of
--preview; a user's mistake is one line on standard error and exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssgear import registry
from ssgear.command import command
from ssgear.config import images, runs
from ssgear.errors import (
    ConfigError,
    DataError,
    GenerationError,
    StorageError,
    refusing_full_disk,
    refusing_lack,
)
from ssgear.views.jobs.options import USAGE, Generation, parse
from ssgear.views.jobs.plan import Facts, Job, piece_of

_NAMED = 10
"""Missing shards that are named."""

if TYPE_CHECKING:
    from ssgear.storage.view_store import StoreInfo
    from ssgear.views.jobs.local import Executor
    from ssgear.views.jobs.originals import Originals


@command(interrupted="interrupted; the same command finishes what is missing")
def main(words: list[str]) -> int:
    """Run the command and return its exit status."""
    with refusing_lack(_too_large):
        print(_done(*parse(words or ["--help"])))
    return 0


def _too_large(lacking: str) -> GenerationError:
    return GenerationError(
        f"--generator: there is no {lacking} for such images or so many at a time; use "
        "smaller ones, or fewer by --batch-size"
    )


def _done(asked: Generation, own: Any, named: Sequence[str]) -> object:
    """Do what was asked for and return the last line to print."""
    if asked.verify:
        return verify(asked)
    if asked.merge:
        return merge(asked)
    if asked.preview:
        return preview(asked, named)
    if asked.estimate:
        return estimate(asked, own, named)
    return generate(asked, own, named)


def generate(asked: Generation, own: Any, named: Sequence[str] = ()) -> Path:
    """Make the images that are missing and return the store.

    `named` are the options that say which images views are to be made of.
    """
    from ssgear.storage.store_writer import create
    from ssgear.views.jobs.finish import finish
    from ssgear.views.jobs.signals import Signals

    root = _output(asked)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stack.enter_context(refusing_full_disk(_full_disk))
        executor = _executor(asked, own)
        stack.enter_context(closing(executor))
        facts = executor.facts()
        originals = _originals(asked, facts, named, getattr(own, "run", None))
        info = _info(asked, facts, originals)
        there = create(root, info).info
        if info.count < there.count:
            print(
                f"ssgear: {root} is to hold {there.count} images, not {info.count}", file=sys.stderr
            )
        job = Job(generator=asked.generator, config=own, root=root, info=there, originals=originals)
        finish(job, piece_of(asked.shard), executor, signals, facts.notes, facts.hardware)
    return root


def _executor(asked: Generation, own: Any) -> Executor:
    """Return what makes the shards."""
    if asked.executor == "ray":
        from ssgear.views.jobs.ray import Cluster

        return Cluster(asked.generator, own, asked.device, asked.workers, asked.ray_address)
    from ssgear.views.jobs.local import local

    return local(asked.generator, own, asked.device, asked.workers)


def _info(asked: Generation, facts: Facts, originals: Originals | None) -> StoreInfo:
    """Return what the store is to be."""
    from ssgear.storage.view_store import StoreInfo

    settings = {
        "generator": registry.canonical(asked.generator),
        "seed": asked.seed,
        "batch_size": asked.batch_size or facts.batch_size,
        **facts.settings,
        **({} if originals is None else originals.settings),
    }
    return StoreInfo(
        count=(asked.count or 0) if originals is None else len(originals) * (asked.views or 1),
        shard_size=asked.shard_size,
        encoding=asked.format,
        size=facts.size,
        settings=settings,
        images=None if originals is None else images.to_fields(asked.data),
    )


def estimate(asked: Generation, own: Any, named: Sequence[str] = ()) -> str:
    """Measure a few batches and return what they tell of the rest; nothing is written."""
    from ssgear.distributed import choose_device
    from ssgear.storage.store_writer import Writer, continued
    from ssgear.storage.view_store import STORE
    from ssgear.views.jobs.estimate import estimate as estimated
    from ssgear.views.jobs.estimate import lines
    from ssgear.views.jobs.local import num_gpus
    from ssgear.views.jobs.plan import facts_of
    from ssgear.views.jobs.worker import open_generator

    device = choose_device(asked.device, "--device")
    generator = open_generator(asked.generator, own, device)
    facts = facts_of(generator)
    originals = _originals(asked, facts, named, getattr(own, "run", None))
    info, root = _info(asked, facts, originals), asked.output
    if root is not None and (root / STORE).exists():
        info = continued(root, info)
    shards = piece_of(asked.shard).of_these(range(info.num_shards))
    whole = Writer(root=root, info=info).is_whole if root is not None else lambda shard: False
    job = Job(
        generator=asked.generator,
        config=own,
        root=root or Path(),
        info=info,
        originals=originals,
    )
    found = estimated(generator, job, shards, [shard for shard in shards if not whole(shard)])
    workers = asked.workers or (num_gpus() if device.type == "cuda" else 1)
    for note in (*facts.notes, *found.notes):
        print(f"ssgear: {note}", file=sys.stderr)
    return "\n".join(lines(found, workers))


def verify(asked: Generation) -> Path:
    """Read the whole store and return it; what is damaged is printed, and an error."""
    from ssgear.storage.store_check import verify as verified

    root = _output(asked)
    problems = verified(root, option="--output")
    for problem in problems:
        print(f"ssgear: {problem}", file=sys.stderr)
    if problems:
        raise DataError(
            f"--output: {len(problems)} damaged or missing, see above; remove damaged shards "
            "(NNNNNN.tar), and the command that made the store makes all of these: "
            f"{USAGE} ... --output {root}"
        )
    return root


def merge(asked: Generation) -> Path:
    """Put stores into one and return it; what none of them has is told."""
    from ssgear.data.sources.progress import progress
    from ssgear.storage.store_merge import merge as merged

    root = _output(asked)
    with refusing_full_disk(_full_disk), progress("Merging", None) as advance:
        found = merged(asked.merge, root, advance)
    shards, views = found.info.num_shards, sum(len(found.info.items_of(i)) for i in found.missing)
    lines = [f"{found.taken} of {shards} shards were taken"]
    if found.missing:
        lines.append(
            f"{views} of {found.info.count} views are missing, shards {_numbers(found.missing)}; "
            "the command that made the stores makes them by --output"
        )
    for line in lines:
        print(f"ssgear: {line}", file=sys.stderr)
    return root


def preview(asked: Generation, named: Sequence[str]) -> Path:
    """Write a contact sheet of the store and return its page.

    Sources are taken from --data.* where that is given.
    """
    from ssgear.data.sources import open_source
    from ssgear.report.store_page import write_preview

    with_source = any(flag.startswith("--data.") for flag in named)
    with refusing_full_disk(_full_disk):
        return write_preview(
            _output(asked), open_source(asked.data, "train") if with_source else None
        )


def _numbers(shards: Sequence[int]) -> str:
    """Name some shards, and how many more there are."""
    more = f" and {len(shards) - _NAMED} more" if len(shards) > _NAMED else ""
    return ", ".join(str(shard) for shard in shards[:_NAMED]) + more


def _output(asked: Generation) -> Path:
    if asked.output is None:
        raise ConfigError("--output: name the directory of the store")
    return asked.output


def _originals(
    asked: Generation, facts: Facts, named: Sequence[str], run: Path | None
) -> Originals | None:
    """Open the images to make views of; None for a generator that draws from noise."""
    from ssgear.views.jobs.originals import open_originals

    if facts.image_size is None:
        if named:
            raise ConfigError(
                f"{named[0]}: this generator draws from noise and makes no views of images; leave "
                "it away, and say by --count how many images the store is to hold"
            )
        if asked.count is None:
            raise ConfigError("--count: say how many images the store is to hold")
        return None
    if asked.count is not None:
        raise ConfigError(
            "--count: this generator makes views of images, as many as there are; say by --views "
            "how many of each"
        )
    if run is not None and not named and not runs.has_settings(run):
        raise ConfigError(
            f"--data.path: {run} does not say which images it was trained on; name those to make "
            "views of"
        )
    return open_originals(asked.data, facts.image_size)


def _full_disk(error: OSError) -> StorageError:
    return StorageError(
        f"--output: cannot be written: {error.strerror}; make room, then run the same command "
        "again: it finishes what is missing"
    )


if __name__ == "__main__":
    sys.exit(main())
