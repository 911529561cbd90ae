"""Room on the disk for lines of the audit stream that are still to come.

A line of what was done can no longer be refused, so its room is reserved before: that a disk is full is found by a
reservation (fallocate(2)), and not by a line. One thread adds lines, another one writes them and reserves.
"""

from __future__ import annotations

import ctypes
import errno
import os

STEP = 2**20
"""Bytes that are reserved at least, while there is room: some thousand lines."""
SPARE = 2**18
"""Bytes that requests leave for the lines of what others have begun."""
_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE: what is reserved lies beyond the end of the file, where lines are appended."""
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}


class Room:
    """Bytes for which lines have room, and how many of them are used.

    Where the file system cannot reserve, and on standard output, the same number of bytes may wait in memory.
    """

    def __init__(self) -> None:
        self._used = 0
        self._taken = 0
        self._end = 0
        self._given = 0

    @property
    def is_short(self) -> bool:
        """Whether no further request may rely on it; for the thread that adds lines."""
        return self._given - self._used < SPARE

    def use(self, size: int) -> None:
        """Note that a line of *size* bytes waits; for the thread that adds lines."""
        self._used += size

    def take(self, size: int) -> None:
        """Note that *size* bytes of lines wait no longer, but are being written; for the thread that writes."""
        self._taken += size

    def begin(self, size: int) -> None:
        """Note that another file is written, of *size* bytes; for the thread that writes."""
        self._end = size

    def extend(self, descriptor: int | None, size: int) -> None:
        """Reserve room behind the *size* bytes of a file, unless there is enough; for the thread that writes.

        Args:
            descriptor: the file; None where nothing can be reserved.
            size: its bytes, when all that was taken is written.

        Raises:
            OSError: the disk is full. What was reserved before remains.
        """
        try:
            if self._end - size < STEP:
                if descriptor is not None:
                    reserve(descriptor, size, 2 * STEP)
                self._end = size + 2 * STEP
        finally:
            self._given = self._taken + max(0, self._end - size)


def reserve(descriptor: int, offset: int, length: int) -> None:
    """Reserve blocks for *length* bytes of a file from *offset*; its size stays, and so does what it holds.

    A file system without reservations is left as it is.

    Raises:
        OSError: there is no room, or the file cannot be written.
    """
    library = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)  # musl has no other
    if fallocate is None:  # macOS
        return
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    while fallocate(descriptor, _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def release(descriptor: int, size: int) -> None:
    """Give back what is reserved behind the *size* bytes of a file, unless somebody else changes it."""
    if os.fstat(descriptor).st_size == size:
        os.ftruncate(descriptor, size)
