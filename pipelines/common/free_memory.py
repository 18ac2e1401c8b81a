"""Give memory that is free back to the system."""

from __future__ import annotations

import ctypes
import functools


def give_back_free_memory() -> None:
    """Does so where the C library is glibc, and nothing elsewhere.

    glibc keeps what is freed below the last block in use. A job that goes through thousands of
    pairs leaves small results between large passing tensors, and would seem to grow without end.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
