"""Images that could be read before the first epoch and cannot any more, on engines that read files.

One of them does not end a run: it is named and counted, and in each row that it should fill stands
another image, drawn by Philox from (seed, stream, epoch, the row's own draw), whichever engine,
worker or rank meets it. What is lost stays lost: checkpoints keep the list, so that a resumed run
numbers its images as before and sees the same rows. More than `--data.max-bad-share` are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from ssgear.data.decode import BadImageError
from ssgear.data.sampler import Items
from ssgear.data.source import BadFile, Source
from ssgear.errors import DataError
from ssgear.kernels import philox

TRIES = 16
"""Images that may stand in for one; where none of them can be read, the disk is gone."""

Found = Sequence[tuple[int, str]]
"""Numbers of images that cannot be read any more, and why."""
T = TypeVar("T")


class LostImages:
    """The lost images of a source, by number, with the reasons."""

    def __init__(
        self, source: Source, max_share: float = 1.0, known: Iterable[BadFile] = ()
    ) -> None:
        """Begin with those that a checkpoint knows of, by name."""
        self.source = source
        self.max_share = max_share
        self.reasons: dict[int, str] = {}
        self._untold: list[tuple[int, str]] = []
        names = {file.where: file.reason for file in known}
        if names:
            every = ((index, source.where(index)) for index in range(len(source)))
            self.reasons = {index: names[name] for index, name in every if name in names}

    def add(self, found: Found, *, told: bool = False) -> None:
        """Remember images; `told` ones are not to be returned by `untold`.

        Raises:
            DataError: they are more than the share of all images that may be bad.
        """
        new = {index: reason for index, reason in found if index not in self.reasons}
        self.reasons |= new
        if not told:
            self._untold += new.items()
        bad, total = len(self.source.bad), len(self.source) + len(self.source.bad)
        share = (bad + len(self.reasons)) / total
        if new and share > self.max_share:
            first = next(iter(new))
            raise DataError(
                f"{len(self.reasons)} images can no longer be read and {bad} never could, "
                f"{100 * share:.3g} % of {total}; --data.max-bad-share allows "
                f"{100 * self.max_share:g} %; the last: {self.source.where(first)}: {new[first]}"
            )

    def untold(self) -> Found:
        """Return what was found since this was last asked."""
        told, self._untold = self._untold, []
        return told

    def files(self) -> list[BadFile]:
        """Return all of them by name."""
        return [BadFile(self.source.where(i), reason) for i, reason in self.reasons.items()]


class Rows(Generic[T]):
    """Reads the images of a batch row by row, and those that stand in for what is lost.

    `items` say at the end what stands in each row, `found` which images turned out to be lost.
    """

    def __init__(
        self,
        source: Source,
        items: Items,
        read: Callable[[int], T],
        *,
        key: int,
        num_real: int,
        lost: Collection[int],
    ) -> None:
        """Take a batch, how an image is read (or `BadImageError`), and what is lost already.

        `key` decides the stand-ins; a real image is stood in for by one of the first `num_real`.
        """
        self.items = replace(items, index=items.index.clone())
        self.found: list[tuple[int, str]] = []
        self._source = source
        self._read = read
        self._key = key
        self._num_real = num_real
        self._lost = set(lost)

    def read(self, row: int) -> T:
        """Return what is read of a row's image, or of the first that can stand in for it.

        Raises:
            DataError: none of the images that may stand in can be read.
        """
        index = int(self.items.index[row])
        for candidate in self._candidates(row, index):
            try:
                made = self._read(candidate)
            except BadImageError as error:
                self.lose(candidate, str(error))
                continue
            self.items.index[row] = candidate
            return made
        reason = self.found[-1][1] if self.found else "lost"
        raise DataError(
            f"{self._source.where(index)}: {reason}; nor can {TRIES} others be read that may stand "
            "in for it: is the disk still there?"
        )

    def lose(self, index: int, reason: str) -> None:
        """Count an image as lost; rows that are read from now on do without it."""
        if index not in self._lost:
            self._lost.add(index)
            self.found.append((index, reason))

    def _candidates(self, row: int, index: int) -> Iterator[int]:
        if index not in self._lost:
            yield index
        start, stop = 0, self._num_real
        if index >= self._num_real:
            start, stop = self._num_real, len(self._source)
        draws = philox.uniform(self._key, self.items.draw[row : row + 1], TRIES)[0].double()
        for place in (draws * (stop - start)).long().tolist():
            if start + place not in self._lost:
                yield start + place
