"""Where the bytes of image number i come from: files of a folder, parts of an archive, an array.

Readers can be pickled and forked. Names are kept in one block of bytes, so that worker processes
share the memory of a million of them; an archive is read by position, so that processes and threads
can share its handle, and is opened anew where a reader is unpickled.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssgear.data.decode import BadImageError, open_rgb, stored_size

_HEADER = 1 << 16
"""Bytes that are read first where only the size of an image is asked for."""


class Reader(Protocol):
    """Images by number."""

    def __len__(self) -> int:
        """Return how many images there are."""
        ...

    def encoded(self, index: int) -> bytes:
        """Return the file as it is stored."""
        ...

    def image(self, index: int) -> Image.Image:
        """Return an image, upright RGB, or raise `BadImageError`."""
        ...

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return height and width from the header, or raise `BadImageError`."""
        ...

    def where(self, index: int) -> str:
        """Return the name of an image for messages."""
        ...

    def own_name(self, index: int) -> str:
        """Return the name of an image within its set, which stays when the set moves."""
        ...


class Names:
    """Many strings in one block of bytes."""

    def __init__(self, names: Iterable[str]) -> None:
        """Copy the names."""
        encoded = [os.fsencode(name) for name in names]
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return one name."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._text[start : int(self._ends[index])].tobytes())


class EncodedReader:
    """What readers of image files share; they say how many there are, and read one."""

    def encoded(self, index: int) -> bytes:
        """Return the file as it is stored."""
        return self._read(index, None)

    def image(self, index: int) -> Image.Image:
        """Return an image, upright RGB, or raise `BadImageError`."""
        return open_rgb(self._read(index, None))

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return height and width from the header, or raise `BadImageError`."""
        try:
            return stored_size(self._read(index, _HEADER))
        except BadImageError:
            # long notes, or a header at the end of the file
            return stored_size(self._read(index, None))

    def _read(self, index: int, limit: int | None) -> bytes:
        raise NotImplementedError


class FolderReader(EncodedReader):
    """Files below a folder."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        """Keep the names, relative to `root`."""
        self.root = str(root)
        self.names = Names(names)

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.names)

    def where(self, index: int) -> str:
        """Return the path of a file."""
        return printable(f"{self.root}/{self.names[index]}")

    def own_name(self, index: int) -> str:
        """Return the path of a file below the folder."""
        return self.names[index]

    def _read(self, index: int, limit: int | None) -> bytes:
        try:
            with open(f"{self.root}/{self.names[index]}", "rb", buffering=0) as file:
                return file.read(-1 if limit is None else limit)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error


class ArchiveReader(EncodedReader):
    """Uncompressed members of an archive, by their place in it."""

    def __init__(self, path: Path, names: Iterable[str], spans: Iterable[tuple[int, int]]) -> None:
        """Keep the members' names, and offset and length of each."""
        self.path = str(path)
        self.names = Names(names)
        self.spans: NDArray[np.int64] = np.array(list(spans), dtype=np.int64).reshape(-1, 2)
        self._file: io.FileIO | None = None

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self.names)

    def where(self, index: int) -> str:
        """Return the archive and the member's name."""
        return printable(f"{self.path}:{self.names[index]}")

    def own_name(self, index: int) -> str:
        """Return the member's name."""
        return self.names[index]

    def _read(self, index: int, limit: int | None) -> bytes:
        offset, length = (int(value) for value in self.spans[index])
        wanted = length if limit is None else min(length, limit)
        try:
            # a local name: another thread may open it at the same time and replace ours
            file = self._file = self._file or io.FileIO(self.path)
            data = os.pread(file.fileno(), wanted, offset)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error
        if len(data) != wanted:
            raise BadImageError("the archive ends before this file does")
        return data

    def __del__(self) -> None:
        """Close the handle."""
        if self._file is not None:
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open handle out."""
        return {**self.__dict__, "_file": None}


class ArrayReader:
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

    def where(self, index: int) -> str:
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


def printable(name: str) -> str:
    """Write a file name so that it fits a line of UTF-8, whatever bytes it has."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
