"""Freed memory is kept for the next step where steps run on a CPU.

The C library gives large blocks back to the system as soon as they are freed, and takes others for
the next step: the system clears every page of them again. A step of `quick` met 3,500 such pages,
one of a ResNet-18 with batches of 256 1.1 million; on two cores they were 12 and 36 % of its time.
The price is that memory once used stays with the process until it ends, a quarter more at the peak.
"""

from __future__ import annotations

import ctypes
import os

CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
TUNABLES = "GLIBC_TUNABLES"
"""Environment variables by which a user has decided already; the last one where it says malloc."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
NEVER = -1
LARGEST_KEPT = 1 << 30
LARGEST_KEPT_OLD = 1 << 25  # older glibc takes no more


def keep_freed_memory() -> int:
    """Tell glibc to keep freed blocks, until the process ends; return up to which size in bytes.

    That is 0 where the environment sets the allocator up (`CHOSEN_BY`, `TUNABLES`), which is left
    as it is, and where there is another C library, which cannot be told.
    """
    if any(os.environ.get(name) for name in CHOSEN_BY) or "malloc" in os.environ.get(TUNABLES, ""):
        return 0
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc, or no Linux
        return 0
    for size in (LARGEST_KEPT, LARGEST_KEPT_OLD):
        if mallopt(MMAP_THRESHOLD, size):
            return size if mallopt(TRIM_THRESHOLD, NEVER) else 0
    return 0
