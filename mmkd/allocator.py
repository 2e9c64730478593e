"""The C library's allocator, told to keep what was freed."""

import ctypes

MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""Of glibc's mallopt."""


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system, where the C library is glibc.

    Each activation of a network on the CPU is some megabytes, which glibc otherwise asks of the system anew and gives
    back at once: the system then clears every page of it, each time. A process keeps what it needed at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
