"""One writer of a run's directory at a time.

The lock is the system's own (flock) on a file in the directory: it goes with the process that holds
it, however that ends, so that nothing stale is ever left. File systems without locks go without.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ssgear.errors import CheckpointError

NAME = ".lock"


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
    return file
