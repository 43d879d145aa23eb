"""One writer of a run's directory at a time, one of each shard of a store.

The lock is the system's own (flock) on a file in the directory: it goes with the process that holds
it, however that ends, so that nothing stale is ever left. Workers that it forks, and that may live
on for some seconds, have no part in a run's. File systems without locks go without.
"""

from __future__ import annotations

import fcntl
import functools
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ssgear.errors import CheckpointError

NAME = ".lock"
_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()


@functools.cache
def _close_in_forks() -> None:
    """See to it that children close the files: a lock ends with the last process that has one."""

    def close() -> None:
        for file in _held:
            file.close()

    os.register_at_fork(after_in_child=close)


@dataclass(frozen=True)
class Claim:
    """Something that this process may write."""

    exclusive: bool
    """Whether nobody else can have it: False where the file system has no locks."""


def hold(directory: Path) -> IO[str]:
    """Make the directory and lock it; the lock lasts until the file returned is closed.

    Raises:
        CheckpointError: another process writes there, or the directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"--output: {directory} cannot be written ({error.strerror}); name another directory"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = file.read().strip()
        file.close()
        raise CheckpointError(
            f"--output: another run writes into {directory} (process {who}); wait for it, or name "
            "another directory"
        ) from None
    except OSError:
        return file  # no locks on this file system
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held.add(file)
    _close_in_forks()
    return file


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[Claim | None]:
    """Hold the lock on a file for as long as the block lasts; the file goes with it.

    Where another process holds it, None is yielded, or with `wait` that process is waited for.
    """
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        file = path.open("ab")
        try:
            claim = _lock(file, how)
            if claim is None or _stands_at(file, path):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has taken the file away
    try:
        yield claim
    finally:
        if claim is not None:
            path.unlink(missing_ok=True)  # before the lock: who comes next makes a file of its own
        file.close()


def _lock(file: IO[bytes], how: int) -> Claim | None:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return None
    except OSError:
        return Claim(exclusive=False)  # no locks on this file system
    return Claim(exclusive=True)


def _stands_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
