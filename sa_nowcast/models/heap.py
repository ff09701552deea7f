"""Memory that the processor's allocator keeps between tensors, and returns when asked."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim() -> None:
    """Return the free pages of glibc's heap to the system; do nothing where there is no such heap.

    glibc puts tensors below 32 MiB into a heap, and keeps what is freed between others that stay. Where networks keep
    states for the backward pass, fragmentation comes to as much as all that is needed (malloc_trim(3), mallopt(3)).
    """
    malloc_trim = _malloc_trim()
    if malloc_trim is not None:
        malloc_trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another C library, or Windows, which has no program to look in
        return None
