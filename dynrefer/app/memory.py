"""Giving back to the system what a burst of requests needed."""

import ctypes


def release_memory() -> None:
    """Has the C library give back the pages it keeps free; nothing where it is not glibc."""
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # musl, macOS, Windows
        return
    trim(0)
