"""Images that were found good before, by name, size and time: `scan` need not read them again.

Only good images are remembered, with their heights and widths: one that could not be read is read
at every start, so that its reason is today's and a file that was mended counts. An entry serves as
long as size and time of the file (of the archive, for a member) are what they were *before* it was
read, and the same version of Pillow decodes. Of several processes that ask for the same images one
reads them, the others wait for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from ssgear import distributed
from ssgear.data.sources.names import printable
from ssgear.data.sources.readers import ArchiveReader, FolderReader
from ssgear.storage import cache

WORTH = 500
"""Images from which on it is remembered what was found; fewer are read in no time."""

_KIND = "checked"
_UNUSED_DAYS = 60
_DAY_S = 24 * 3600


class Checked:
    """What is known of some images of a reader."""

    def __init__(self, reader: FolderReader | ArchiveReader, rows: NDArray[np.int64]) -> None:
        """Look them up."""
        self.place = Path(reader.root)
        self.stamps = reader.stamps(rows)
        self.sizes: NDArray[np.int64] = np.zeros((len(rows), 2), dtype=np.int64)
        self.look_up()

    @property
    def missing(self) -> NDArray[np.int64]:
        """Places among the rows that have to be read."""
        return np.flatnonzero(self.sizes[:, 0] == 0)

    def look_up(self) -> None:
        """Fill in the sizes that are remembered."""
        stamps, sizes, _ = _load(self.place)
        if len(stamps):
            found = np.minimum(np.searchsorted(stamps, self.stamps), len(stamps) - 1)
            # 0 is the stamp of a file that cannot be relied on
            known = (stamps[found] == self.stamps) & (self.stamps != 0)
            self.sizes[known] = sizes[found[known]]

    def save(self) -> None:
        """Remember every image that has a size now."""
        today = int(time.time() // _DAY_S)
        known = (self.sizes[:, 0] > 0) & (self.stamps != 0)
        stamps, sizes, days = _load(self.place)
        old = ~np.isin(stamps, self.stamps[known]) & (days > today - _UNUSED_DAYS)
        stamps = np.concatenate([stamps[old], self.stamps[known]])
        sizes = np.concatenate([sizes[old], self.sizes[known].astype(np.int32)])
        days = np.concatenate([days[old], np.full(int(known.sum()), today, dtype=np.int32)])
        stamps, first = np.unique(stamps, return_index=True)
        arrays: cache.Arrays = {
            "stamps": stamps,
            "sizes": sizes[first],
            "days": days[first],
        }
        cache.save(_KIND, self.place, {"pillow": PIL.__version__}, arrays)


@contextmanager
def checked(reader: object, rows: NDArray[np.int64], *, remember: bool) -> Iterator[Checked | None]:
    """Yield what is known of some images, and remember what is known of them afterwards.

    None where nothing is remembered: few images, or ones that are in no file of their own.
    """
    if not remember or len(rows) < WORTH or not isinstance(reader, FolderReader | ArchiveReader):
        yield None
        return
    known = Checked(reader, rows)
    if len(known.missing) < WORTH:
        yield known
        return
    with cache.locked(_KIND, known.place, lambda: _tell(known.place)):
        # somebody else may have read them while this process waited
        known.look_up()
        before = len(known.missing)
        try:
            yield known
        finally:
            # also what was read before Ctrl-C
            if len(known.missing) < before:
                known.save()


def _tell(place: Path) -> None:
    if distributed.world_from_environment().is_main:
        where = printable(str(place))
        print(f"ssgear: waiting for another process that checks {where}", file=sys.stderr)


def known_sizes(reader: object, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return heights and widths [n, 2] of some images as far as they are remembered, else 0."""
    if isinstance(reader, FolderReader | ArchiveReader):
        return Checked(reader, rows).sizes
    return np.zeros((len(rows), 2), dtype=np.int64)


def _load(place: Path) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """Return stamps (ascending), heights and widths, and the days they were last of use."""
    entry = cache.load(_KIND, place)
    if entry is None or entry.info["pillow"] != PIL.__version__:
        return np.empty(0, np.uint64), np.empty((0, 2), np.int32), np.empty(0, np.int32)
    return entry.arrays["stamps"], entry.arrays["sizes"], entry.arrays["days"]
