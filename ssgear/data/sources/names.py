"""Many file names in one block of bytes.

A million Python strings take 100 MB, and every worker process that looks at them makes a copy of
its own, because looking changes their reference counts. One block is shared by all.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ssgear.storage.cache import Arrays

_BLOCK = 1 << 16
"""Names whose places become Python numbers at a time."""


class Names:
    """Strings by number; what looks one up by its text wants them sorted."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Copy the names."""
        encoded = [os.fsencode(name) for name in names]
        self.text = b"".join(encoded)
        self.bounds: NDArray[np.int64] = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(name) for name in encoded], out=self.bounds[1:])

    @classmethod
    def of_arrays(cls, kind: str, arrays: Arrays) -> Names:
        """Return names again of what `arrays` returned."""
        names = cls()
        names.text, names.bounds = arrays[kind].tobytes(), np.array(arrays[f"{kind}_bounds"])
        return names

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """Return the names of several, one after the other."""
        names = cls()
        names.text = b"".join(part.text for part in parts)
        lengths = [np.diff(part.bounds) for part in parts]
        names.bounds = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        return names

    def arrays(self, kind: str) -> Arrays:
        """Return the names as two arrays, called by what they name."""
        return {kind: np.frombuffer(self.text, np.uint8), f"{kind}_bounds": self.bounds}

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> str:
        """Return one name; -1 is the last."""
        index = int(index) % len(self)
        return os.fsdecode(self.text[int(self.bounds[index]) : int(self.bounds[index + 1])])

    def __iter__(self) -> Iterator[str]:
        """Return all names, one after the other."""
        return map(os.fsdecode, self.encoded(np.arange(len(self))))

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """Return the bytes of some names, one after the other."""
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            starts, ends = self.bounds[some].tolist(), self.bounds[some + 1].tolist()
            for low, high in zip(starts, ends, strict=True):
                yield self.text[low:high]

    def find(self, name: str) -> int | None:
        """Return the number of a name among sorted ones."""
        place = bisect_left(self, name)
        return place if place < len(self) and self[place] == name else None

    def below(self, folder: str) -> NDArray[np.int64]:
        """Return the numbers of sorted names that begin with a folder, which ends in `/`."""
        # "0" comes after "/"
        low, high = bisect_left(self, folder), bisect_left(self, f"{folder[:-1]}0")
        return np.arange(low, high)

    def digests(self, skip: int = 0) -> NDArray[np.uint64]:
        """Return 64 bits of BLAKE2b of every name without its first `skip` bytes."""
        rows = np.arange(len(self))
        found = (hashlib.blake2b(name[skip:], digest_size=8) for name in self.encoded(rows))
        return np.frombuffer(b"".join(each.digest() for each in found), ">u8").astype(np.uint64)


def shared_folders(first: str, last: str, keep: Collection[str] = ()) -> str:
    """Return the folders that all sorted names from the first to the last begin with.

    It stops before one to keep.
    """
    shared = ""
    for one, other in zip(first.split("/")[:-1], last.split("/")[:-1], strict=False):
        if one != other or one in keep:
            break
        shared += f"{one}/"
    return shared


def printable(name: str) -> str:
    """Write a file name so that it fits a line of UTF-8, whatever bytes it has."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
