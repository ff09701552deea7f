"""Memory of the processor's tensors: what the allocator keeps between them, and the pages of large ones."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

OWN_PAGES: Final = 2**25
"""Bytes: glibc gives tensors of that size pages of their own, and returns them with the tensor (mallopt(3))."""


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


def room(like: Tensor, *shape: int) -> Tensor:
    """Return a tensor without values, on the device and of the type of another.

    A large one is on pages of 2 MiB where Linux has them. Each page costs a fault when it is first written: of maps of
    4,000 x 4,000 pixels, which are made anew each time, pages of 4 KiB took a third of a forecast's time.
    """
    result = like.new_empty(shape)
    if result.device.type == "cpu" and result.nbytes >= OWN_PAGES and not torch.compiler.is_compiling():
        madvise = _madvise()
        if madvise is not None:
            begin = -(-result.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
            # Where it is refused, pages are small ones.
            madvise(begin, result.data_ptr() + result.nbytes - begin, mmap.MADV_HUGEPAGE)
    return result


@functools.cache
def _madvise() -> Any:
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
