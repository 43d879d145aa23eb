"""Which files a set of shards is: a folder of tars, or a pattern with `{0000..0099}`, `{a,b}`, `*`.

A folder counts as one of shards where tars stand in it, or in folders named train, test, val,
validation or valid in it, and no images beside them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ssgear.data.sources.decode import is_image_name
from ssgear.data.sources.layout import TEST_FOLDERS
from ssgear.errors import DataError, refusing, unreadable

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000
_LOOKED_INTO = 8


def is_pattern(path: Path) -> bool:
    """Whether a path names several files by braces or wildcards."""
    return any(char in str(path) for char in "{*?[") and not path.expanduser().exists()


def holds_shards(folder: Path) -> bool:
    """Whether a folder is one of shards; it is looked at up to its first image only."""
    return _holds(folder, ("train", *TEST_FOLDERS))


def shard_paths(path: Path, option: str) -> list[Path]:
    """Return the shards of a folder, of a pattern, or the one that the path is.

    Raises:
        DataError: there is none, or one that the braces name is not there.
    """
    path = path.expanduser()
    if path.is_dir():
        with refusing(OSError, unreadable(f"{option}: {path}")):
            inner = [path / name for name in sorted(os.listdir(path)) if _is_split(name)]
        found = [tar for folder in (path, *inner) for tar in _tars(folder)]
    elif is_pattern(path):
        found = [Path(name) for word in _expanded(str(path), option) for name in _matches(word)]
    else:
        found = [path]
    missing = [name for name in found if not name.is_file()]
    if missing or not found:
        what = missing[0] if missing else path
        reason = "does not exist" if missing else "names no tar file"
        count = f" ({len(missing)} of {len(found)} shards are missing)" if len(found) > 1 else ""
        raise DataError(f"{option}: {what} {reason}{count}")
    return found


def _holds(folder: Path, deeper: tuple[str, ...]) -> bool:
    found = False
    inner: list[Path] = []
    others: list[Path] = []
    # of a folder that cannot be read, whoever lists it says so
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_image_name(entry.name):
                return False
            found |= _is_tar(entry.name)
            if entry.is_dir():
                is_split = entry.name.lower() in deeper
                (inner if is_split else others).append(folder / entry.name)
    if not (found or any(_holds(each, ()) for each in inner)):
        return False
    # tars beside the folders that they were packed from are no second set
    return not any(_has_images(each, depth=3) for each in (*others, *inner)[:_LOOKED_INTO])


def _has_images(folder: Path, depth: int) -> bool:
    """Whether the first files of a folder, or of the folders in it, are images."""
    deeper = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_image_name(entry.name):
                return True
            if entry.is_dir():
                deeper.append(folder / entry.name)
            elif not _is_tar(entry.name):
                break
    return depth > 1 and any(_has_images(each, depth - 1) for each in deeper[:_LOOKED_INTO])


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar") and not name.startswith(".")


def _is_split(name: str) -> bool:
    return name.lower() in ("train", *TEST_FOLDERS)


def _tars(folder: Path) -> list[Path]:
    names = os.listdir(folder) if folder.is_dir() else []
    return [folder / name for name in sorted(names) if _is_tar(name)]


def _matches(word: str) -> list[str]:
    """Return the files that fit wildcards; a plain name stands for itself."""
    return sorted(glob.glob(word)) if glob.has_magic(word) and not os.path.exists(word) else [word]


def _expanded(word: str, option: str) -> Iterator[str]:
    """Return the words that braces stand for, as a shell does: `{08..10}` is 08, 09, 10."""
    braces = _BRACES.search(word)
    if braces is None:
        yield word
        return
    span = _RANGE.fullmatch(braces[1])
    if span is None:
        middles = braces[1].split(",")
    else:
        first, last = int(span[1]), int(span[2])
        if not 0 <= last - first < _MOST:
            raise DataError(f"{option}: {word}: {braces[0]} runs from {first} to {last}")
        middles = [f"{number:0{len(span[1])}d}" for number in range(first, last + 1)]
    for middle in middles:
        yield from _expanded(word[: braces.start()] + middle + word[braces.end() :], option)
