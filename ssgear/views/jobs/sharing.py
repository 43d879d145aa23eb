"""What all views of an image share, such as a caption: found once, for its first view.

View k of an image is made long after its first, maybe by another process. What its generator
`shares` is read from the json of the first one; where that is not in the store (another part of it,
or a view that failed), it is found again in the very block of the first one, so that both ways give
the same. A block that holds first views too is made whole: the plan alone decides which those are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ssgear.errors import DataError
from ssgear.storage import shards
from ssgear.storage.store_marker import read_marker
from ssgear.storage.view_store import is_whole, shard_of, shard_path
from ssgear.views.base import Json, Shared, Study
from ssgear.views.jobs.plan import Job

if TYPE_CHECKING:
    from ssgear.views.base import Generator

_KEPT = 2
"""Blocks and shards that are remembered: further views are not cut where first ones were."""
_Spans = dict[str, tuple[int, int]]
"""`ID.K` of first views, and where the json of each stands."""
T = TypeVar("T")


class Sharing:
    """Finds what is known of images from their first views, in one worker."""

    def __init__(self, generator: Generator, job: Job, *, kept: int = _KEPT) -> None:
        """Know nothing yet; `kept` blocks are remembered."""
        self.generator, self.job, self._kept = generator, job, kept
        self._blocks: OrderedDict[int, Study] = OrderedDict()
        self._shards: OrderedDict[int, _Spans] = OrderedDict()

    def of(self, items: range, unreadable: Container[int] = ()) -> Study | None:
        """Return what the images of a block share; None where the block is to be made whole.

        Rows that are `unreadable` are not looked for.
        """
        originals = self.job.originals
        if not self.generator.shares or originals is None or items.start < len(originals):
            return None
        known: list[Shared] = []
        seconds: dict[str, float] = {}
        notes: list[str] = []
        for row, item in enumerate(items):
            image = item % len(originals)
            found = Shared(metadata={}) if row in unreadable else self._stored(image)
            if found is None:
                study, is_new = self._studied(image)
                found = study.rows[image % self._size]
                if is_new:
                    notes += study.notes
                    for name, time_s in study.seconds.items():
                        seconds[name] = seconds.get(name, 0.0) + time_s
            known.append(found)
        return Study(rows=known, seconds=seconds, notes=notes)

    @property
    def _size(self) -> int:
        return int(self.job.info.settings["batch_size"])

    def _stored(self, image: int) -> Shared | None:
        """Return what the json of an image's first view says; None where it is not there."""
        shard, id_ = image // self.job.info.shard_size, self.job.task(image).id
        span = self._listed(shard).get(f"{id_}.0")
        if span is None:
            return None
        with suppress(DataError, OSError, ValueError, KeyError, TypeError):
            fields = json.loads(shards.read_span(shard_path(self.job.root, shard), *span))
            if (fields["id"], fields["k"]) == (id_, 0):
                return Shared(metadata=_some(fields, self.generator.shares))
        return None

    def _listed(self, shard: int) -> _Spans:
        """Return where first views stand in a shard; nowhere, if it is not whole."""
        if shard not in self._shards:
            with suppress(DataError):
                marker = read_marker(self.job.root, shard)
                if marker is not None and is_whole(self.job.root, marker):
                    listed = shard_of(self.job.root, marker)
                    spans = zip(listed.names, listed.spans[:, 2:].tolist(), strict=True)
                    firsts = {name: (at, size) for name, (at, size) in spans if name.endswith(".0")}
                    _remember(self._shards, shard, firsts, self._kept)
        return self._shards.get(shard, {})

    def _studied(self, image: int) -> tuple[Study, bool]:
        """Return what is found in the block of an image's first view, and whether it is new."""
        assert self.job.originals is not None
        number = image // self._size
        is_new = number not in self._blocks
        if is_new:
            images, _, _ = self.job.originals.read(
                range(number * self._size, (number + 1) * self._size)
            )
            _remember(self._blocks, number, self.generator.study(images), self._kept)
        return self._blocks[number], is_new


def _some(fields: Mapping[str, Json], keys: Sequence[str]) -> dict[str, Json]:
    """Return some fields, of which the first must be there."""
    return {key: fields[key] for key in keys if key in fields or key == keys[0]}


def _remember(known: OrderedDict[int, T], key: int, value: T, most: int) -> None:
    known[key] = value
    while len(known) > most:
        known.popitem(last=False)
