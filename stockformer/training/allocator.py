"""How the C library hands memory back, which costs a training step on the CPU about 8 %."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of mapping it anew; else do nothing.

    Every step frees and asks again for the same large blocks; by default each is a mapping of its
    own whose pages the kernel must clear again. It must be called before large tensors are made.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never; its largest number would trim from 2 GiB on
