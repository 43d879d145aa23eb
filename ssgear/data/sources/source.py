"""A set of images: how many, their labels, and image number i.

`Source` is what loaders, evaluation and methods see of a data set; `data/sources/open.py` opens
one. Files that cannot be read are found by `decode_all` or `scan` (data/sources/loading.py), which
return the source of the others with the bad ones named in `bad`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssgear.data.sources.checked import known_sizes
from ssgear.data.sources.decode import BadImageError, to_tensor
from ssgear.data.sources.names import printable
from ssgear.data.sources.readers import Reader
from ssgear.errors import DataError, refusing

_FEW = 1000
"""Headers that are read in less time than it takes to look up what is remembered."""

Triple = tuple[float, float, float]
Split = Literal["train", "test", "probe"]
"""Which images of a set; `probe` are labelled training images, for a linear probe."""


@dataclass(frozen=True)
class BadFile:
    """A file that was skipped, or that a run lost while training."""

    name: str
    """Where it is, with whatever bytes its name has: checkpoints find it again by this."""
    reason: str
    """Why it cannot be read."""

    @property
    def where(self) -> str:
        """Its name for messages, in one line."""
        return printable(self.name)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What an entry of `data/sources/open.py` reads: images and what is known of them."""

    reader: Reader
    """Image number i."""
    rows: Tensor | None = None
    """[N] int64: which of the reader's images these are; None: all."""
    keys: tuple[str, ...] | None = None
    """Name of each class as files have it, in the order of the labels."""
    classes: tuple[str, ...] | None = None
    """Name of each class as people have it, by default the keys; a source makes it printable."""
    labels: Tensor | None = None
    """[N] int64."""
    side: int | None = None
    """Side of every image where the format fixes it."""
    notes: tuple[str, ...] = ()
    """What a user should know about the reading."""
    ignored: int = 0
    """Other files beside the images."""


class Source:
    """Images by number, with labels where there are any. Can be pickled and forked."""

    def __init__(
        self, name: str, images: Images, *, mean: Triple, std: Triple, remember: bool = False
    ) -> None:
        """Take what an entry of `data/sources/open.py` has read.

        `remember` lets it rely on sizes that were found before (data/sources/checked.py).
        """
        self.name = name
        self.remember = remember
        self.reader = images.reader
        named = images.classes or images.keys
        self.classes = None if named is None else tuple(map(printable, named))
        self.labels = images.labels
        self.mean, self.std = mean, std
        self.notes, self.ignored = images.notes, images.ignored
        self.bad: tuple[BadFile, ...] = ()
        self.sizes: Tensor | None = None
        self.index = torch.arange(len(images.reader)) if images.rows is None else images.rows
        self._side = images.side
        self._side_is_known = images.side is not None

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.index)

    @property
    def native_size(self) -> int | None:
        """Side of the images if all are square with this side, else None.

        Headers are read when it is first asked for, up to the first image that differs; of many
        images, only of those whose size is not remembered.
        """
        if not self._side_is_known:
            self._side, self._side_is_known = self._common_side(), True
        return self._side

    def decode(self, index: int) -> Tensor:
        """Return image `index` as uint8 [3, H, W], upright RGB."""
        with self._naming(index):
            return to_tensor(self.image(index))

    def image(self, index: int) -> Image.Image:
        """Return image `index`; `BadImageError` gives the reason without the file's name."""
        return self.reader.image(self._row(index))

    def encoded(self, index: int) -> bytes:
        """Return the file of image `index` as it is stored."""
        with self._naming(index):
            return self.stored(index)

    def stored(self, index: int) -> bytes:
        """Return the same; `BadImageError` gives the reason without the file's name."""
        return self.reader.encoded(self._row(index))

    def checked_size(self, index: int) -> tuple[int, int]:
        """Return the upright height and width of image `index`, having read all of its file."""
        return self.reader.checked_size(self._row(index))

    def where(self, index: int) -> str:
        """Return the name of image `index` for messages, in one line."""
        return printable(self.full_name(index))

    def full_name(self, index: int) -> str:
        """Return where image `index` is, with whatever bytes its name has."""
        return self.reader.full_name(self._row(index))

    def own_name(self, index: int) -> str:
        """Return the name of image `index` within its set: views are stored under it."""
        return self.reader.own_name(self._row(index))

    def digest(self, index: int) -> str:
        """Return what tells image `index` from others of its name: a digest of its file, or pixels.

        Raises:
            BadImageError: it cannot be read.
        """
        return self.reader.digest(self._row(index))

    def named(self, error: BadImageError, index: int) -> DataError:
        """Return the error with the file's name."""
        return DataError(f"{self.where(index)}: {error}")

    def subset(self, indices: Tensor) -> Source:
        """Return the source of some of the images, in the order given."""
        part = Source.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.index = self.index[indices]
        part.labels = None if self.labels is None else self.labels[indices]
        part.sizes = None if self.sizes is None else self.sizes[indices]
        # images of different sizes may have a subset of one size
        part._side_is_known = self._side_is_known and self._side is not None
        return part

    def without(self, bad: Iterable[tuple[int, str]]) -> Source:
        """Return the source without the images that cannot be read, given with their reasons."""
        bad = sorted(bad)
        good = torch.ones(len(self), dtype=torch.bool)
        good[[index for index, _ in bad]] = False
        part = self.subset(good.nonzero()[:, 0])
        part.bad = (*self.bad, *(BadFile(self.full_name(index), reason) for index, reason in bad))
        return part

    def _naming(self, index: int) -> AbstractContextManager[None]:
        return refusing(BadImageError, lambda error: self.named(error, index))

    def _row(self, index: int) -> int:
        return int(self.index[index])

    def _common_side(self) -> int | None:
        side = None
        for height, width in self._sizes():
            if height != width or side not in (None, height):
                return None
            side = height
        return side

    def _sizes(self) -> Iterator[tuple[int, int]]:
        """Yield every size that an image has, some of them often."""
        rows = self.index.numpy()
        yield from self._headers(rows[:_FEW])
        rows = rows[_FEW:]
        if self.remember and len(rows):
            known = known_sizes(self.reader, rows)
            found = known[:, 0] > 0
            yield from map(tuple, np.unique(known[found], axis=0).tolist())
            rows = rows[~found]
        yield from self._headers(rows)

    def _headers(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        for row in rows:
            with suppress(BadImageError):
                yield self.reader.stored_size(int(row))
