"""Memory that the C library keeps for later, given back to the system."""

import ctypes
from collections.abc import Callable
from functools import cache


def release_free_memory() -> None:
    """Give free blocks back to the system, where the C library can (glibc): a few hundredths of a second.

    Between the forward and the backward pass of a step on the CPU, these are the holes that the forward pass has left
    between the activations; the backward pass would begin above them.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
