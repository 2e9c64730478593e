"""The C library's allocator, told to keep what was freed."""

import ctypes

MMAP_MAX, TOP_PAD, TRIM_THRESHOLD = -4, -2, -1
"""Of glibc's mallopt."""
HEAP = 64 * 2**20
"""Bytes of a heap, of which a thread that is not the main one has several."""


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system, where the C library is glibc.

    Each activation of a network on the CPU is some megabytes, which glibc otherwise asks of the system anew and gives
    back at once: the system then clears every page of it, each time. A process keeps what it needed at its peak.

    Ray's workers train, and its actors are called, in a thread that is not the main one. Such a thread's memory comes
    in heaps, and an empty one goes back to the system whatever the threshold is, unless less than the padding is free
    in the one before it. What is larger than a heap still goes back there, each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TOP_PAD, HEAP)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
