"""Where the bytes of image number i come from: files of a folder, parts of an archive, an array.

Readers can be pickled and forked. What they know of each image stands in a few flat arrays, so that
worker processes share the memory of a million of them; archives are read by position, so that
processes and threads can share a handle, and are opened anew where a reader is unpickled.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssgear.data.sources.decode import BadImageError, checked_size, open_rgb, stored_size
from ssgear.data.sources.names import Names
from ssgear.data.sources.stamps import mixed, state_of, states_of
from ssgear.errors import reason_of, refusing
from ssgear.storage.view_store import digest_of

_HEADER = 1 << 16
"""Bytes that are read first where only the size of an image is asked for."""
_HANDLES = 64
"""Archives that a process keeps open; a thousand shards in every worker would be too many."""


class Reader(ABC):
    """Images by number. Readers of image files say how many there are, and read one."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many images there are."""

    @abstractmethod
    def full_name(self, index: int) -> str:
        """Return where an image is, with whatever bytes its name has."""

    @abstractmethod
    def own_name(self, index: int) -> str:
        """Return the name of an image within its set, which stays when the set moves."""

    def encoded(self, index: int) -> bytes:
        """Return the file as it is stored."""
        return self._read(index, None)

    def image(self, index: int) -> Image.Image:
        """Return an image, upright RGB, or raise `BadImageError`."""
        return open_rgb(self.encoded(index))

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return height and width from the header, or raise `BadImageError`."""
        with suppress(BadImageError):
            return stored_size(self._read(index, _HEADER))
        # long notes, or a header at the end of the file
        return stored_size(self._read(index, None))

    def checked_size(self, index: int) -> tuple[int, int]:
        """Return the upright height and width, having read all of the file."""
        return checked_size(self.encoded(index))

    def digest(self, index: int) -> str:
        """Return what tells an image from others of its name: a digest of its file, or pixels."""
        return digest_of(self.encoded(index))

    def _read(self, index: int, limit: int | None) -> bytes:
        raise NotImplementedError


class FolderReader(Reader):
    """Files below a folder."""

    def __init__(self, root: Path, names: Names, digests: NDArray[np.uint64] | None = None) -> None:
        """Keep the names, relative to `root`, and 64 bits for each that stand for it."""
        self.root = str(root)
        self.names = names
        self.digests = names.digests() if digests is None else digests

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.names)

    def full_name(self, index: int) -> str:
        """Return the path of a file."""
        return f"{self.root}/{self.names[index]}"

    def own_name(self, index: int) -> str:
        """Return the path of a file below the folder."""
        return self.names[index]

    def stamps(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return numbers that change with name, size or time of a file; 0: do not rely on it."""
        states = states_of(os.fsencode(self.root), self.names, rows)
        stamps = mixed(self.digests[rows], states[:, 0], states[:, 1])
        return np.where(states[:, 0] < 0, np.uint64(0), stamps)

    def _read(self, index: int, limit: int | None) -> bytes:
        with refusing(OSError, _unreadable), open(self.full_name(index), "rb", buffering=0) as file:
            return file.read(-1 if limit is None else limit)


class ArchiveReader(Reader):
    """Uncompressed members of archives, by their places."""

    def __init__(
        self,
        root: Path,
        names: Names,
        spans: NDArray[np.int64],
        *,
        paths: Sequence[str] = (),
        archives: NDArray[np.int32] | None = None,
        digests: NDArray[np.uint64] | None = None,
    ) -> None:
        """Keep the members' names, and offset and length of each.

        `root` is the archive; or the folder of several, whose `paths` are given, and `archives`
        says which one has a member.
        """
        self.root = str(root)
        self.paths = tuple(paths) or (self.root,)
        self.names, self.spans, self.archives = names, spans, archives
        self.digests = names.digests() if digests is None else digests
        self._handles: list[_Handle | None] = [None] * _HANDLES

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self.names)

    def full_name(self, index: int) -> str:
        """Return the archive and the member's name."""
        return f"{self.paths[self._archive(index)]}:{self.names[index]}"

    def stamps(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return numbers that change with a member's place or its archive's size or time."""
        states = np.array([state_of(os.fsencode(path)) for path in self.paths], dtype=np.int64)
        archives = np.zeros_like(rows) if self.archives is None else self.archives[rows]
        sizes, times = states[archives].T
        spans = self.spans[rows]
        stamps = mixed(self.digests[rows], sizes, times, spans[:, 0], spans[:, 1])
        return np.where(sizes < 0, np.uint64(0), stamps)

    def own_name(self, index: int) -> str:
        """Return the member's name; of several archives, after the place of its own."""
        if self.archives is None:
            return self.names[index]
        archive = os.path.relpath(self.paths[self._archive(index)], self.root)
        return f"{archive}/{self.names[index]}"

    def _read(self, index: int, limit: int | None) -> bytes:
        offset, length = (int(value) for value in self.spans[index])
        wanted = length if limit is None else min(length, limit)
        with refusing(OSError, _unreadable):
            # a name of its own: it keeps the handle open where another thread replaces it
            handle = self._open(index)
            data = os.pread(handle.descriptor, wanted, offset)
        if len(data) != wanted:
            raise BadImageError("the archive ends before this file does")
        return data

    def _open(self, index: int) -> _Handle:
        """Return the archive's handle, open as long as the caller keeps it."""
        archive = self._archive(index)
        handle = self._handles[archive % _HANDLES]
        if handle is None or handle.archive != archive:
            # of threads that come here together, the last one's handle stays
            handle = self._handles[archive % _HANDLES] = _Handle(archive, self.paths[archive])
        return handle

    def _archive(self, index: int) -> int:
        return 0 if self.archives is None else int(self.archives[index])

    def __getstate__(self) -> dict[str, object]:
        """Leave the open handles out."""
        return {**self.__dict__, "_handles": [None] * _HANDLES}


class _Handle:
    """An open archive, closed when nobody holds it any more."""

    def __init__(self, archive: int, path: str) -> None:
        self.archive = archive
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if "descriptor" in self.__dict__:
            os.close(self.descriptor)


class ArrayReader(Reader):
    """Pixels that a published format keeps in one array."""

    def __init__(self, title: str, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels [N, 3, H, W]."""
        self.title = title
        self.pixels = pixels

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.pixels)

    def encoded(self, index: int) -> bytes:
        """Return the image as a PNG file, which loses nothing."""
        file = io.BytesIO()
        self.image(index).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def image(self, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(np.ascontiguousarray(self.pixels[index].transpose(1, 2, 0)))

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def checked_size(self, index: int) -> tuple[int, int]:
        """Return the same: nothing can be wrong with pixels in memory."""
        return self.stored_size(index)

    def digest(self, index: int) -> str:
        """Return the digest of the pixels."""
        return digest_of(self.image(index).tobytes())

    def full_name(self, index: int) -> str:
        """Return the set and the number."""
        return f"{self.title} image {index}"

    def own_name(self, index: int) -> str:
        """Return the number within the split: a published set has one order."""
        return f"{self.title}/{index}"  # stores of views hold it: not to be reworded

    def stack(self, indices: Tensor) -> Tensor:
        """Return many images at once, uint8 [n, 3, H, W]; all of them in order are not copied."""
        if torch.equal(indices, torch.arange(len(self.pixels))):
            return torch.from_numpy(self.pixels)
        return torch.from_numpy(self.pixels[indices.numpy()])


def _unreadable(error: OSError) -> BadImageError:
    return BadImageError(f"cannot be read: {reason_of(error)}")
