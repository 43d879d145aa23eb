"""How to know that a file is the one that was looked at before: by name, size and time.

That is rsync's rule and make's. A file that changed too short a time ago has no state yet: it may
change again and keep size and time.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from ssgear.data.sources.names import Names
from ssgear.storage.cache import is_young

State = tuple[int, int]
"""Size, and time of the last change in nanoseconds."""

NONE: State = (-1, -1)
"""The state of a file that is absent or young."""

_SLOW_S = 5e-5
"""Above this time for a file a network or a cold disk answers, and many are asked for at once."""
_THREADS = 32
_PART = 32
_BLOCK = _PART * _THREADS
"""Files between two looks at the clock."""


def state_of(path: bytes) -> State:
    """Return the state of one file."""
    return _states([path])[0]


def states_of(root: bytes, names: Names, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the states [n, 2] of some files below a folder."""
    paths = (root + b"/" + name for name in names.encoded(rows))
    blocks: list[NDArray[np.int64]] = []
    slow = False
    # its threads begin with the first task that it gets
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="ssgear-stat") as pool:
        while block := list(islice(paths, _BLOCK)):
            started = time.perf_counter()
            if slow:
                parts = [block[start : start + _PART] for start in range(0, len(block), _PART)]
                found = list(chain.from_iterable(pool.map(_states, parts)))
            else:
                found = _states(block)
                slow = time.perf_counter() - started > _SLOW_S * len(block)
            blocks.append(np.array(found, dtype=np.int64))
    return np.concatenate(blocks) if blocks else np.empty((0, 2), dtype=np.int64)


def _states(paths: list[bytes]) -> list[State]:
    now = time.time_ns()
    states = []
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            states.append(NONE)
        else:
            young = is_young(status.st_mtime_ns, now)
            states.append(NONE if young else (status.st_size, status.st_mtime_ns))
    return states


def mixed(digests: NDArray[np.uint64], *values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 bits [n] of all that is given, by the finaliser of SplitMix64 after each."""
    result = digests.copy()
    for value in values:
        # wraps around, as it should
        result = (result ^ value.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        result = (result ^ (result >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        result = (result ^ (result >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        result ^= result >> np.uint64(31)
    return result
