"""One writer of a run's directory at a time, one of each shard of a store.

The lock is the system's own (flock) on a file in the directory: it goes with the process that holds
it, however that ends, so that nothing stale is ever left. Workers that it forks, and that may live
on for some seconds, have no part in a run's. File systems without locks go without.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ssgear.errors import CheckpointError, refusing, undoing

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
    with refusing(OSError, lambda error: CheckpointError(unwritable(directory, error))):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / NAME).open("a+", encoding="utf-8")
    claim = lock(file)
    if claim is None:
        file.seek(0)
        who = file.read().strip()
        file.close()
        raise CheckpointError(
            f"--output: another run writes into {directory} (process {who}); wait for it, or name "
            "another directory"
        )
    if claim.exclusive:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _held.add(file)
        _close_in_forks()
    return file


def unwritable(directory: Path, error: OSError) -> str:
    """Say that an output cannot be written, and why."""
    return f"--output: {directory} cannot be written ({error.strerror}); name another directory"


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[Claim | None]:
    """Hold the lock on a file for as long as the block lasts; the file goes with it.

    Where another process holds it, None is yielded, or with `wait` that process is waited for.
    """
    while True:
        file = path.open("ab")
        with undoing(file.close):
            claim = lock(file, wait=wait)
            if claim is None or _stands_at(file, path):
                break
        file.close()  # its holder has taken the file away
    with file, contextlib.ExitStack() as stack:
        if claim is not None:
            # before the lock: who comes next makes a file of its own
            stack.callback(path.unlink, missing_ok=True)
        yield claim


def lock(file: IO[bytes] | IO[str], *, wait: bool = False) -> Claim | None:
    """Lock an open file until it is closed; None where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return Claim(exclusive=False)  # no locks on this file system
    return Claim(exclusive=True)


def _stands_at(file: IO[bytes], path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
