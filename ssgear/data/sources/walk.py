"""The files below a folder, and whether its folders are still as they were."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssgear.data.sources.names import Names, printable
from ssgear.data.sources.progress import progress
from ssgear.errors import DataError, refusing
from ssgear.storage.cache import Entry, is_young

Folders = Mapping[str, NDArray[np.generic]]
"""The folders' names, times and numbers as arrays, for `folders_changed`."""


def walk(root: Path) -> tuple[list[str], Folders | None]:
    """List the files below a folder that are not hidden, relative and in no order.

    Links are followed, none of them twice, and after all folders that are none: whatever order a
    file system lists them in, a folder's files go by its own name, not by that of a link to it.

    Returns:
        The files, and what `folders_changed` compares; None where a change could go unseen,
        because a folder changed just now or has links to nothing, which may become something.

    Raises:
        DataError: a folder cannot be listed.
    """
    seen: dict[tuple[int, int], tuple[str, int]] = {}
    names: list[str] = []
    folders: list[str] = [""]
    links: list[str] = []
    folder, sure = "", True

    def refusal(error: OSError) -> DataError:
        where = printable(str(root / folder))
        return DataError(f"{where}: cannot be listed: {error.strerror}")

    with progress("Listing", None) as advance:
        while folders or links:
            folder = folders.pop() if folders else heapq.heappop(links)
            before = len(names)
            with refusing(OSError, refusal):
                now, here = time.time_ns(), os.stat(root / folder)
                if (here.st_dev, here.st_ino) in seen:
                    continue
                seen[here.st_dev, here.st_ino] = (folder, here.st_mtime_ns)
                sure &= _list(root, folder, names, folders, links)
            sure &= not is_young(here.st_mtime_ns, now)
            advance(len(names) - before)
    return names, _arrays(seen) if sure else None


def folders_changed(root: Path, entry: Entry) -> bool:
    """Whether a folder has another time than then, or is another one, or is gone."""
    names = Names.of_arrays("folders", entry.arrays)
    for name, (mtime_ns, inode) in zip(names, entry.arrays["states"].tolist(), strict=True):
        status = None
        with suppress(OSError):
            status = os.stat(root / name)
        if status is None or (status.st_mtime_ns, status.st_ino) != (mtime_ns, inode):
            return True
    return False


def _list(root: Path, folder: str, names: list[str], folders: list[str], links: list[str]) -> bool:
    """Add what is in one folder to the lists; return whether all of it is something.

    `links` to folders are a heap.
    """
    sure = True
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself, as useless as one to nothing
                is_folder = is_file = sure = False
            if is_folder and entry.is_symlink():
                heapq.heappush(links, f"{folder}{entry.name}/")
            elif is_folder:
                folders.append(f"{folder}{entry.name}/")
            elif is_file:
                names.append(folder + entry.name)
            elif entry.is_symlink():
                sure = False
    return sure


def _arrays(seen: Mapping[tuple[int, int], tuple[str, int]]) -> Folders:
    names = Names(name for name, _ in seen.values())
    states = [(mtime_ns, inode) for (_, inode), (_, mtime_ns) in seen.items()]
    return {"states": np.array(states, dtype=np.int64), **names.arrays("folders")}
