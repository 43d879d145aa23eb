"""What a second start need not find out again: arrays in the user's cache folder.

    entry = cache.load("folder", path)                       # None: nothing there, or damaged
    cache.save("folder", path, {"stamp": 1}, {"rows": rows})  # whole or not at all; never an error

Entries stand in $XDG_CACHE_HOME/ssgear (~/.cache/ssgear), readable by their owner alone, one file
for each kind and real path. They can be deleted at any time. One that is damaged, of another
version or somebody else's counts as absent; one that nobody used for a season is removed. Whoever
reads an entry has to know when it is out of date: `stamp_of` and `is_young` help.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgear.storage.atomic import Json, write_bytes
from ssgear.storage.lock import lock

YOUNG_NS = 2 * 10**9
"""What changed this short a time ago may change again without a new time: some file systems count
in seconds. It is not remembered."""

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name, of whatever types."""

_MAGIC = b"ssgear cache 1\n"
_UNWRITABLE = (OSError, RuntimeError)
"""Where nothing can be remembered; RuntimeError: a user without a home."""
_DIGEST_BYTES = 32
_UNUSED_DAYS = 90
_DAY_S = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """What was remembered."""

    info: Mapping[str, Any]
    """Plain values, as `save` got them."""
    arrays: Arrays
    """Arrays, not to be written to."""


def folder() -> Path:
    """Return the folder of the entries, whether it is there or not."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # by the standard, a relative path there is no answer
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ssgear"


def stamp_of(path: Path) -> list[int] | None:
    """Return what changes when a file does (size, time, inode); None if it is young or absent."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if not is_young(status.st_mtime_ns, time.time_ns()):
            return [status.st_size, status.st_mtime_ns, status.st_ino]
    return None


def is_young(mtime_ns: int, now_ns: int) -> bool:
    """Whether a change of that time may be followed by another that leaves the time as it is."""
    return mtime_ns > now_ns - YOUNG_NS


def load(kind: str, path: Path) -> Entry | None:
    """Return what was remembered of a path; None if that is nothing, or damaged."""
    # a damaged file may raise almost anything; it only costs the time to find out again
    with contextlib.suppress(Exception):
        file = _file(kind, path)
        if file.stat().st_uid == os.geteuid():
            entry = _unpacked(file.read_bytes(), _place(path))
            if time.time() - file.stat().st_mtime > _DAY_S:
                os.utime(file)  # it is in use
            return entry
    return None


def save(kind: str, path: Path, info: Mapping[str, Json], arrays: Arrays) -> None:
    """Remember something of a path; where that cannot be written, it is not remembered."""
    with contextlib.suppress(*_UNWRITABLE):
        _make_folder()
        write_bytes(_file(kind, path), _packed(_place(path), info, arrays), mode=0o600)
        _remove_unused()


@contextlib.contextmanager
def locked(kind: str, path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock on an entry: of several processes one finds out, the others wait and read.

    Where there are no locks, or nothing can be written, all go on at once. `waiting` is called
    before this process waits for another.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(*_UNWRITABLE):
            _make_folder()
            name = _file(kind, path).with_suffix(".lock")
            file = stack.enter_context(open(name, "ab", opener=partial(os.open, mode=0o600)))
            if lock(file) is None:
                waiting()
                lock(file, wait=True)
        yield


def _make_folder() -> None:
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)


def _place(path: Path) -> str:
    return os.path.realpath(path)


def _file(kind: str, path: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(_place(path)), digest_size=16).hexdigest()
    return folder() / f"{kind}-{name}"


def _packed(place: str, info: Mapping[str, Json], arrays: Arrays) -> bytes:
    kinds = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    header = json.dumps({"place": place, "info": dict(info), "arrays": kinds}).encode()
    parts = [len(header).to_bytes(8, "little"), header]
    parts += [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return b"".join([_MAGIC, digest.digest(), *parts])


def _unpacked(data: bytes, place: str) -> Entry:
    start = len(_MAGIC) + _DIGEST_BYTES
    body = memoryview(data)[start:]
    digest = hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
    if data[:start] != _MAGIC + digest:
        raise ValueError("damaged, or of another version")
    end = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(bytes(body[8:end]))
    if header["place"] != place:
        raise ValueError("of another path")
    arrays = {}
    for name, (kind, shape) in header["arrays"].items():
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body, dtype=kind, count=count, offset=end).reshape(shape)
        arrays[name] = array
        end += array.nbytes
    return Entry(header["info"], arrays)


def _remove_unused() -> None:
    """Remove entries, and their locks, that were not used for a season."""
    oldest = time.time() - _UNUSED_DAYS * _DAY_S
    for file in folder().iterdir():
        if file.is_file() and file.stat().st_mtime < oldest:
            file.unlink(missing_ok=True)
