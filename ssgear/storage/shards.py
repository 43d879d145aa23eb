"""Shards: plain tar files whose bytes depend on their members alone, read at any place.

Headers hold no time, owner or host, so that a shard made again is the same file. Reading lists the
members by their headers only, and refuses a file that is cut or damaged.
"""

from __future__ import annotations

import mmap
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssgear.errors import DataError, reason_of, refusing, unreadable

_BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """One file of a shard."""

    name: str
    """Its name."""
    offset: int
    """Where its bytes begin."""
    size: int
    """How many there are."""


def tar_blocks(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield a tar file of these names and contents, in this order, piece by piece.

    A member is asked for when those before it have been taken: one is in memory at a time.
    """
    length = 0
    for name, data in members:
        header = tarfile.TarInfo(name)  # time 0, owner 0, no names of either
        header.size = len(data)
        for piece in (header.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % _BLOCK)):
            length += len(piece)
            yield piece
    end = length + 2 * _BLOCK
    yield bytes(end + -end % tarfile.RECORDSIZE - length)


def spans(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where members of these sizes begin in a tar file that `tar_blocks` made."""
    taken = _BLOCK - (-sizes // _BLOCK) * _BLOCK
    starts: NDArray[np.int64] = np.cumsum(taken) - taken + _BLOCK
    return starts


def list_members(path: Path) -> list[Member]:
    """List the files of a shard.

    Raises:
        DataError: it cannot be read, is cut, or is no tar file of plain members.
    """
    damage = (ValueError, tarfile.TarError)  # an empty file cannot be mapped
    with (
        refusing(damage, lambda error: DataError(f"{path}: damaged or cut: {error}")),
        refusing(OSError, unreadable(path)),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
    ):
        return list(_members(data))


def read_span(path: Path, offset: int, size: int) -> bytes:
    """Return a part of a shard; one that ends before it raises `DataError`."""
    # opened anew each time: handles of a thousand shards in every worker are too many
    with (
        refusing(OSError, lambda error: DataError(f"cannot be read: {reason_of(error)}")),
        open(path, "rb", buffering=0) as file,
    ):
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise DataError("the shard ends before this file does")
    return data


def _members(data: mmap.mmap) -> Iterator[Member]:
    place = 0
    while (block := data[place : place + _BLOCK]) != bytes(_BLOCK):
        header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        if not header.isreg():
            raise tarfile.ReadError(f"{header.name} is no plain file")
        start = place + _BLOCK
        place = start + -(-header.size // _BLOCK) * _BLOCK
        yield Member(header.name, start, header.size)
