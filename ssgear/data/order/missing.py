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

import torch

from ssgear.data.order.sampler import Items
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.source import BadFile, Source
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
        names = {file.name: file.reason for file in known}
        if names:
            every = ((index, source.full_name(index)) for index in range(len(source)))
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
        return [BadFile(self.source.full_name(i), reason) for i, reason in self.reasons.items()]


class Rows(Generic[T]):
    """Reads the images of a batch row by row, and those that stand in for what is lost.

    A stored view that is lost gives way to the image that it was made of, and a lost image with all
    its views to another image. `items` say at the end what stands in each row, `found` which places
    turned out to be lost.
    """

    def __init__(
        self,
        source: Source,
        items: Items,
        read: Callable[[int], T],
        *,
        key: int,
        counts: tuple[int, int],
        lost: Collection[int],
        needs_index: bool = False,
    ) -> None:
        """Take a batch, how the image at a place is read (or `BadImageError`), and what is lost.

        `key` decides the stand-ins. `counts` are the numbers of real and of synthetic images: each
        is stood in for by one of its kind. `needs_index` reads the image of a row also where all
        its views are stored ones.
        """
        self.items = replace(
            items,
            index=items.index.clone(),
            rows=None if items.rows is None else items.rows.clone(),
            generated=None if items.generated is None else items.generated.clone(),
        )
        self.found: list[tuple[int, str]] = []
        self._asked = items
        self._source = source
        self._read = read
        self._key = key
        self._counts = counts
        self._lost = set(lost)
        self._needs_index = needs_index
        self._others: dict[int, Iterator[int]] = {}

    def read(self, row: int) -> dict[int, T]:
        """Return what is read of every image that a row shows, by its place.

        Raises:
            DataError: none of the images that may stand in can be read.
        """
        made: dict[int, T] = {}
        while missing := [place for place in self._places(row) if place not in made]:
            try:
                if missing[0] in self._lost:
                    raise BadImageError("lost")
                made[missing[0]] = self._read(missing[0])
            except BadImageError as error:
                self.lose(missing[0], str(error))
                self._replace(row, missing[0])
        return made

    def lose(self, place: int, reason: str) -> None:
        """Count an image as lost; rows that are read from now on do without it."""
        if place not in self._lost:
            self._lost.add(place)
            self.found.append((place, reason))

    def changed(self, row: int) -> bool:
        """Whether a row shows something else than was asked for."""
        now, asked = self.items, self._asked
        if now.index[row] != asked.index[row]:
            return True
        both = now.rows is not None and asked.rows is not None
        return both and not torch.equal(now.rows[:, row], asked.rows[:, row])  # type: ignore[index]

    def _places(self, row: int) -> list[int]:
        index = int(self.items.index[row])
        if self.items.rows is None:
            return [index]
        shown = self.items.rows[:, row].tolist()
        return [*dict.fromkeys(shown + [index] * self._needs_index)]

    def _replace(self, row: int, place: int) -> None:
        """Show the image of a row for one of its stored views, or another image altogether."""
        items, index = self.items, int(self.items.index[row])
        if place != index and items.rows is not None:
            views = items.rows[:, row] == place
            items.rows[views, row] = index
            if items.generated is not None:
                items.generated[views, row] = index >= self._counts[0]
            return
        other = next(self._others.setdefault(row, self._stand_ins(row, index)), None)
        if other is None:
            first = int(self._asked.index[row])
            reason = dict(self.found).get(first, "lost")
            raise DataError(
                f"{self._source.where(first)}: {reason}; nor can {TRIES} others be read that may "
                "stand in for it: is the disk still there?"
            )
        items.index[row] = other
        if items.rows is not None:
            items.rows[:, row] = other
        if items.generated is not None:
            items.generated[:, row] = other >= self._counts[0]

    def _stand_ins(self, row: int, index: int) -> Iterator[int]:
        real, synthetic = self._counts
        start, count = (0, real) if index < real else (real, synthetic)
        draws = philox.uniform(self._key, self.items.draw[row : row + 1], TRIES)[0].double()
        for place in (draws * count).long().tolist():
            if start + place not in self._lost:
                yield start + place
